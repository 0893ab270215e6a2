//! Durable calls on a whole platform: what was acknowledged with 202 has its effect once, whatever dies meanwhile.

use std::{
    collections::HashMap,
    fs,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::{
    harness::{Http, Platform, Process, ROLES, descendants, eventually, post_each},
    project::{Project, c_doee_with},
};

const ASYNC: (&str, &str) = ("prefer", "respond-async");
const CLIENTS: usize = 4;
/// How long processes are killed.
const KILLING: Duration = Duration::from_secs(60);
/// Longest time in which what was acknowledged has ended once nothing is killed any more.
const SETTLING: Duration = Duration::from_secs(120);
/// Pause between two kills: no role dies five times in a row, at which the supervisor would wait for a person.
const PAUSE_MS: std::ops::Range<u64> = 300..900;

/// Notes each call's query in two transactions, one after the other, so that an attempt can end between them.
fn noting() -> Project {
    let manifest = "[project]\nname = \"noting\"\n\n[doee.main]\nlanguage = \"c\"\nsource = \"doees/main\"\n\
        workers = { max = 3 }\nallow = { sql = [\"store\"] }\n\
        retry = { attempts = 100, backoff_ms = 50, backoff_max_ms = 1000 }\n\n\
        [[trigger]]\nhttp = \"POST /\"\nauth = \"none\"\ndoee = \"main\"\n\n\
        [[trigger]]\nhttp = \"GET /\"\nauth = \"none\"\ndoee = \"main\"\n\n\
        [database.store]\nkind = \"sql\"\nengine = \"sqlite\"\nmigrations = \"migrations\"\n";
    let execute = "const isms_request *request; isms_handle handle;\n\
        if (isms_request_get(call, &request)) return ISMS_FAILED;\n\
        const char *lists[] = { \"begun\", \"done\" };\n\
        const char *all[] = { \"select group_concat(id, ' ') from begun\", \"select group_concat(id, ' ') from done\" };\n\
        for (int list = 0; list < 2; list++) {\n\
          if (!query_is(call, lists[list])) continue;\n\
          return say_value(call, \"store\", all[list]);\n\
        }\n\
        isms_value id = { ISMS_TEXT, 0, { .text = request->query } };\n\
        isms_statement begin = { text(\"insert into begun values (?)\"), &id, 1, 1 };\n\
        if (isms_sql(call, text(\"store\"), &begin, 1, &handle)) return ISMS_FAILED;\n\
        isms_statement end = { text(\"insert into done values (?)\"), &id, 1, 1 };\n\
        if (isms_sql(call, text(\"store\"), &end, 1, &handle)) return ISMS_FAILED;\n\
        return say(call, \"noted\");";
    let tables = "create table begun (id text not null);\ncreate table done (id text not null);\n";
    Project::new(manifest)
        .file(
            "doees/main/main.c",
            c_doee_with("", "return ISMS_OK;", execute, ""),
        )
        .file("migrations/0001_tables.sql", tables)
}

/// Calls until it is stopped, and keeps the ids of the calls that were acknowledged, with their URLs.
fn call(platform: &Platform, client: usize, stop: &AtomicBool, acknowledged: &Mutex<Vec<(String, String)>>) {
    post_each(platform, client, "/noting/", &[ASYNC], stop, |id, answer| {
        if answer.status == 202 {
            let url = answer.header("location").unwrap().to_owned();
            acknowledged.lock().unwrap().push((id, url));
        }
    });
}

/// How often each id is in a table.
fn rows(platform: &Platform, table: &str) -> HashMap<String, u32> {
    let listed = eventually("a list", || {
        let answer = platform.get(&format!("/noting/?{table}"));
        (answer.status == 200).then(|| answer.text())
    });
    let mut rows = HashMap::new();
    for id in listed.split(' ') {
        *rows.entry(id.to_owned()).or_default() += 1;
    }
    rows
}

/// One of the processes whose death must not matter, as a number decides.
fn victim(platform: &Platform, number: u64) -> Option<Process> {
    match ROLES.get(number as usize % (ROLES.len() + 1)) {
        Some(role) => platform.process(role),
        None => {
            let executes = |process: &Process| {
                let program = process.command.first();
                program.is_some_and(|program| program.ends_with("doee-executor"))
            };
            descendants(platform.pid()).into_iter().rev().find(executes)
        }
    }
}

/// Kills what numbers from a seed decide, until the time is over; says how many it has killed.
fn kill_for(platform: &Platform, time: Duration, seed: u64) -> u32 {
    let (until, mut random, mut killed) = (Instant::now() + time, seed | 1, 0);
    let mut next = || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random >> 8
    };
    while Instant::now() < until {
        let number = next();
        if let Some(process) = victim(platform, number) {
            process.kill();
            killed += 1;
            eventually("the victim's end", || (!process.is_alive()).then_some(()));
        }
        // The pause is part of the load, not a wait for anything.
        let pause = PAUSE_MS.start + next() % (PAUSE_MS.end - PAUSE_MS.start);
        std::thread::park_timeout(Duration::from_millis(pause));
    }
    killed
}

#[test]
fn every_role_is_killed_for_a_minute_and_nothing_acknowledged_is_lost_or_done_twice() {
    let Some(platform) = Platform::start() else { return };
    platform.deploy(noting().path());
    let (stop, acknowledged) = (AtomicBool::new(false), Mutex::new(Vec::new()));
    let killed = std::thread::scope(|scope| {
        for client in 0..CLIENTS {
            let (platform, stop, acknowledged) = (&platform, &stop, &acknowledged);
            scope.spawn(move || call(platform, client, stop, acknowledged));
        }
        // A failure must stop the clients before it ends the test.
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            kill_for(&platform, KILLING, 0x5eed)
        }));
        stop.store(true, Relaxed);
        outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    });
    let acknowledged = acknowledged.into_inner().unwrap();
    let deadline = Instant::now() + SETTLING;
    let lost = loop {
        let done = rows(&platform, "done");
        let lost: Vec<_> = acknowledged
            .iter()
            .filter(|(id, _)| !done.contains_key(id))
            .collect();
        if lost.is_empty() || Instant::now() > deadline {
            break lost;
        }
        std::thread::park_timeout(Duration::from_millis(200));
    };
    let twice: Vec<_> = ["begun", "done"]
        .into_iter()
        .flat_map(|table| rows(&platform, table))
        .filter(|(_, count)| *count > 1)
        .collect();
    println!(
        "{}",
        json!({ "acked": acknowledged.len(), "lost": lost.len(), "duplicated_sql_effects": twice.len(), "killed": killed })
    );
    let states: Vec<Value> = lost
        .iter()
        .take(5)
        .map(|(_, url)| platform.get(url).json())
        .collect();
    assert!(
        lost.is_empty(),
        "these were acknowledged and are lost: {lost:?}, {states:?}"
    );
    assert!(twice.is_empty(), "these had an effect more than once: {twice:?}");
    assert!(
        acknowledged.len() > 100,
        "too little was called: {}",
        acknowledged.len()
    );
}

/// Has a call accepted and waits for its end; its URL.
fn noted(platform: &Platform, id: &str) -> String {
    let answer = Http::connect(platform.http).send("POST", &format!("/noting/?{id}"), &[ASYNC], b"");
    assert_eq!(answer.status, 202, "{}", answer.text());
    let url = answer.header("location").unwrap().to_owned();
    let state = platform.get(&format!("{url}?wait=60")).json();
    assert_eq!(state["state"], "done", "{state}");
    url
}

#[test]
fn a_platform_that_was_killed_whole_still_has_its_results() {
    let Some(mut platform) = Platform::start() else {
        return;
    };
    platform.deploy(noting().path());
    let url = noted(&platform, "one");
    platform.kill_supervisor();
    let platform = platform.restart_after_kill();
    let result = eventually("the result", || {
        let answer = platform.get(&format!("{url}/result"));
        (answer.status == 200).then_some(answer)
    });
    assert_eq!(result.text(), "noted");
}

#[test]
fn a_damaged_journal_is_named_with_file_and_place_and_nothing_starts() {
    let Some(mut platform) = Platform::start() else {
        return;
    };
    platform.deploy(noting().path());
    (0..3).for_each(|number| drop(noted(&platform, &number.to_string())));
    platform.stop();
    let segment = platform.data.path().join("kernel/journal/segment-00000001");
    let mut bytes = fs::read(&segment).unwrap();
    // In the first record: what stands behind it shows that it was whole once.
    bytes[4096 + 100] ^= 1;
    fs::write(&segment, bytes).unwrap();
    let data = platform.data.path().to_str().unwrap();
    let any = "127.0.0.1:0";
    let refused = platform
        .command(&["up", "--http", any, "--gate", any, "--data", data])
        .output()
        .unwrap();
    let error = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success(), "{error}");
    for expected in [
        "segment-00000001",
        "damaged at offset",
        "restore the directory from a copy",
    ] {
        assert!(error.contains(expected), "no {expected} in {error}");
    }
}
