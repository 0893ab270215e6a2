//! What a client was told is true of the database, whatever dies meanwhile: an acknowledged call has had its effect,
//! and no call has it twice.

use std::{
    collections::HashMap,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use crate::{
    harness::{Platform, Process, descendants, eventually, post_each},
    project::{Project, c_doee_with},
};

const CLIENTS: usize = 6;

/// A project that notes each call's query as a row, and lists all rows when the query is `list`.
fn noting() -> Project {
    let manifest = "[project]\nname = \"effects\"\n\n[doee.main]\nlanguage = \"c\"\nsource = \"doees/main\"\n\
        workers = { max = 3 }\nallow = { sql = [\"store\"] }\n\n\
        [[trigger]]\nhttp = \"POST /\"\nauth = \"none\"\ndoee = \"main\"\n\n\
        [[trigger]]\nhttp = \"GET /\"\nauth = \"none\"\ndoee = \"main\"\n\n\
        [database.store]\nkind = \"sql\"\nengine = \"sqlite\"\nmigrations = \"migrations\"\n";
    let execute = "const isms_request *request; isms_handle handle;\n\
        if (isms_request_get(call, &request)) return ISMS_FAILED;\n\
        if (query_is(call, \"list\"))\n\
          return say_value(call, \"store\", \"select group_concat(id, ' ') from done\");\n\
        isms_value id = { ISMS_TEXT, 0, { .text = request->query } };\n\
        isms_statement note = { text(\"insert into done values (?)\"), &id, 1, 1 };\n\
        if (isms_sql(call, text(\"store\"), &note, 1, &handle)) return ISMS_FAILED;\n\
        return say(call, \"noted\");";
    Project::new(manifest)
        .file(
            "doees/main/main.c",
            c_doee_with("", "return ISMS_OK;", execute, ""),
        )
        .file(
            "migrations/0001_done.sql",
            "create table done (id text not null);\n",
        )
}

/// Posts until it is stopped, and keeps the ids of the calls that were acknowledged.
fn post(platform: &Platform, client: usize, stop: &AtomicBool, acknowledged: &Mutex<Vec<String>>) {
    post_each(platform, client, "/effects/", &[], stop, |id, answer| {
        if answer.status == 200 {
            acknowledged.lock().unwrap().push(id);
        }
    });
}

/// Kills processes one after the other while clients post, and compares what they were told with the rows.
fn kill_while_posting(victims: &[&dyn Fn(&Platform) -> Process]) {
    let Some(platform) = Platform::start() else { return };
    platform.deploy(noting().path());
    let (stop, acknowledged) = (AtomicBool::new(false), Mutex::new(Vec::new()));
    let await_more = || {
        let until = acknowledged.lock().unwrap().len() + 200;
        eventually("acknowledged calls", || {
            (acknowledged.lock().unwrap().len() >= until).then_some(())
        });
    };
    std::thread::scope(|scope| {
        for client in 0..CLIENTS {
            let (platform, stop, acknowledged) = (&platform, &stop, &acknowledged);
            scope.spawn(move || post(platform, client, stop, acknowledged));
        }
        // A failure must stop the clients before it ends the test.
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for victim in victims {
                await_more();
                let victim = victim(&platform);
                victim.kill();
                eventually("the victim's end", || (!victim.is_alive()).then_some(()));
            }
            await_more();
        }));
        stop.store(true, Relaxed);
        if let Err(panic) = outcome {
            std::panic::resume_unwind(panic);
        }
    });
    let listed = platform.get("/effects/?list");
    assert_eq!(listed.status, 200, "{}", listed.text());
    let listed = listed.text();
    let mut rows: HashMap<&str, u32> = HashMap::new();
    for id in listed.split(' ') {
        *rows.entry(id).or_default() += 1;
    }
    let twice: Vec<_> = rows.iter().filter(|(_, count)| **count > 1).collect();
    assert!(
        twice.is_empty(),
        "these had their effect more than once: {twice:?}"
    );
    let acknowledged = acknowledged.into_inner().unwrap();
    let lost: Vec<_> = acknowledged
        .iter()
        .filter(|id| !rows.contains_key(id.as_str()))
        .collect();
    assert!(lost.is_empty(), "these were acknowledged and are lost: {lost:?}");
    eprintln!("{} acknowledged, {} rows", acknowledged.len(), rows.len());
}

fn role(name: &'static str) -> impl Fn(&Platform) -> Process {
    move |platform| eventually(name, || platform.process(name))
}

#[test]
fn killed_roles_lose_no_acknowledged_effect_and_repeat_none() {
    let (doer, kernel, dbriver) = (role("doer"), role("kernel"), role("dbriver"));
    kill_while_posting(&[&doer, &dbriver, &kernel, &dbriver, &kernel, &doer]);
}

#[test]
fn killed_workers_lose_no_acknowledged_effect_and_repeat_none() {
    let worker = |platform: &Platform| {
        eventually("a worker", || {
            let serving = ["idle", "busy"].map(serde_json::Value::from);
            let workers = platform.workers("effects").into_iter();
            let worker = workers.rev().find(|worker| serving.contains(&worker["state"]))?;
            let mut processes = descendants(platform.pid()).into_iter();
            processes.find(|process| worker["pid"] == process.pid)
        })
    };
    kill_while_posting(&[&worker, &worker, &worker, &worker, &worker, &worker]);
}
