//! Schedules: each planned time has its effect at most once, and they go on, whatever dies.

use std::collections::HashMap;

use crate::{
    harness::{Platform, eventually},
    project::{Project, c_doee_with},
};

/// A project whose Doee notes the planned time of each run as a row, and lists all rows when it is asked.
fn noting() -> Project {
    let manifest = "[project]\nname = \"planned\"\n\n[doee.main]\nlanguage = \"c\"\nsource = \"doees/main\"\n\
        workers = { max = 2 }\nallow = { sql = [\"store\"] }\n\n\
        [[trigger]]\nevery = \"1s\"\ndoee = \"main\"\n\n\
        [[trigger]]\nhttp = \"GET /\"\nauth = \"none\"\ndoee = \"main\"\n\n\
        [database.store]\nkind = \"sql\"\nengine = \"sqlite\"\nmigrations = \"migrations\"\n";
    let execute = "const isms_request *request; isms_handle handle;\n\
        if (isms_request_get(call, &request)) return ISMS_FAILED;\n\
        if (request->trigger == ISMS_TRIGGER_HTTP)\n\
          return say_value(call, \"store\", \"select coalesce(group_concat(planned, ' '), '') from runs\");\n\
        if (request->trigger != ISMS_TRIGGER_SCHEDULE) return ISMS_FAILED;\n\
        isms_value planned = { ISMS_TEXT, 0, { .text = request->headers[0].value } };\n\
        isms_statement note = { text(\"insert into runs values (?)\"), &planned, 1, 1 };\n\
        if (isms_sql(call, text(\"store\"), &note, 1, &handle)) return ISMS_FAILED;\n\
        return say(call, \"noted\");";
    Project::new(manifest)
        .file(
            "doees/main/main.c",
            c_doee_with("", "return ISMS_OK;", execute, ""),
        )
        .file(
            "migrations/0001_runs.sql",
            "create table runs (planned text not null);\n",
        )
}

fn planned(platform: &Platform) -> Vec<String> {
    let listed = eventually("an answer", || {
        let listed = platform.get("/planned/");
        (listed.status == 200).then(|| listed.text())
    });
    listed.split_whitespace().map(str::to_owned).collect()
}

#[test]
fn killed_roles_stop_no_schedule_and_no_planned_time_runs_twice() {
    let Some(platform) = Platform::start() else { return };
    platform.deploy(noting().path());
    let await_more = || {
        let until = planned(&platform).len() + 2;
        eventually("more runs", || (planned(&platform).len() >= until).then_some(()));
    };
    await_more();
    for role in ["resadmin", "kernel", "resadmin", "kernel"] {
        let victim = eventually(role, || platform.process(role));
        victim.kill();
        eventually("the victim's end", || (!victim.is_alive()).then_some(()));
        await_more();
    }
    let mut rows: HashMap<String, u32> = HashMap::new();
    for time in planned(&platform) {
        *rows.entry(time).or_default() += 1;
    }
    let twice: Vec<_> = rows.iter().filter(|(_, count)| **count > 1).collect();
    assert!(twice.is_empty(), "these ran more than once: {twice:?}");
}
