//! Doees and their databases.

use crate::{harness::Platform, project::Project};

/// A project with a database `store` of one table, and a C function that runs what `execute` says.
pub(crate) fn with_database(name: &str, database_keys: &str, execute: &str) -> Project {
    let manifest = format!(
        "[project]\nname = \"{name}\"\n\n[doee.main]\nlanguage = \"c\"\nsource = \"doees/main\"\ntimeout_ms = 5000\n\
         allow = {{ sql = [\"store\"] }}\n\n\
         [[trigger]]\nhttp = \"GET /\"\nauth = \"none\"\ndoee = \"main\"\n\n\
         [database.store]\nkind = \"sql\"\nengine = \"sqlite\"\nmigrations = \"migrations\"\n{database_keys}\n"
    );
    let sql = "static isms_result run(isms_call *call, const char *database, const char *sql, isms_rows *rows) {\n\
        isms_statement statement = { text(sql), NULL, 0, ISMS_ROWS_ANY };\n\
        isms_handle handle;\n\
        isms_result result = isms_sql(call, text(database), &statement, 1, &handle);\n\
        return result == ISMS_OK ? isms_sql_rows(call, handle, 0, rows) : result;\n\
        }\n\
        static isms_result tell(isms_call *call, isms_result result) {\n\
        char t[600]; isms_text e = isms_error(call);\n\
        snprintf(t, sizeof t, \"%d %.*s\", result, result ? (int)e.len : 0, e.data ? e.data : \"\");\n\
        return say(call, t);\n\
        }\n";
    let source = crate::project::c_doee_with(sql, "return ISMS_OK;", execute, "");
    Project::new(&manifest).file("doees/main/main.c", source).file(
        "migrations/0001_items.sql",
        "create table items (id integer primary key, name text not null);\n",
    )
}

#[test]
fn rows_survive_a_restart_of_everything() {
    let Some(platform) = Platform::start() else { return };
    let execute = "isms_rows rows; char t[32];\n\
        if (run(call, \"store\", \"insert into items (name) values ('x')\", &rows)) return ISMS_FAILED;\n\
        if (run(call, \"store\", \"select count(*) from items\", &rows)) return ISMS_FAILED;\n\
        snprintf(t, sizeof t, \"%ld\", (long)rows.values[0].as.integer); return say(call, t);";
    platform.deploy(with_database("rows", "", execute).path());
    assert_eq!(platform.get("/rows/").text(), "1");
    assert_eq!(platform.get("/rows/").text(), "2");
    let platform = platform.restart();
    assert_eq!(platform.get("/rows/").text(), "3");
}

#[test]
fn a_database_that_is_not_granted_is_forbidden_even_if_it_exists() {
    let Some(platform) = Platform::start() else { return };
    let execute = "isms_rows rows; return tell(call, run(call, \"store\", \"select 1\", &rows));";
    platform.deploy(with_database("owner", "", execute).path());
    assert!(
        platform.get("/owner/").text().starts_with("0 "),
        "{}",
        platform.get("/owner/").text()
    );
    // The same question from a project that has no such database, and from one without the grant.
    let stranger = "isms_rows rows; isms_statement s = { text(\"select 1\"), NULL, 0, ISMS_ROWS_ANY }; isms_handle h;\n\
        (void)rows; char t[8]; snprintf(t, sizeof t, \"%d\", isms_sql(call, text(\"store\"), &s, 1, &h)); return say(call, t);";
    platform.deploy(Project::c("stranger", stranger).path());
    let answer = platform.get("/stranger/").text();
    assert!(
        answer == "4" || answer == "10",
        "expected ISMS_FORBIDDEN or ISMS_NOT_FOUND, got {answer}"
    );
}

#[test]
fn a_statement_that_never_ends_is_interrupted_and_others_go_on() {
    let Some(platform) = Platform::start() else { return };
    let execute = "isms_rows rows; const char *sql = query_is(call, \"long\") ?\n\
        \"with recursive n(i) as (select 1 union all select i + 1 from n) select count(*) from n\" : \"select 1\";\n\
        return tell(call, run(call, \"store\", sql, &rows));";
    platform.deploy(with_database("endless", "", execute).path());
    platform.deploy(with_database("quick", "", execute).path());
    let answer = std::thread::scope(|scope| {
        let long = scope.spawn(|| platform.get("/endless/?long"));
        for _ in 0..20 {
            assert!(platform.get("/quick/").text().starts_with("0 "));
        }
        long.join().unwrap()
    });
    assert!(
        answer.status == 504 || !answer.text().starts_with("0 "),
        "{}",
        answer.text()
    );
    assert!(platform.get("/endless/").text().starts_with("0 "));
}

#[test]
fn a_full_database_refuses_and_keeps_what_it_has() {
    let Some(platform) = Platform::start() else { return };
    let execute = "isms_rows rows; const char *sql = query_is(call, \"count\") ? \"select count(*) from items\" :\n\
        \"insert into items (name) values (hex(randomblob(200000)))\"; isms_result r = run(call, \"store\", sql, &rows);\n\
        return tell(call, r);";
    platform.deploy(with_database("full", "disk_mb = 1", execute).path());
    let answers: Vec<String> = (0..6).map(|_| platform.get("/full/").text()).collect();
    assert!(answers[0].starts_with("0 "), "{answers:?}");
    assert!(answers[5].starts_with("6 "), "{answers:?}");
    assert!(platform.get("/full/?count").text().starts_with("0 "));
}

#[test]
fn a_migration_that_fails_leaves_the_old_version_serving() {
    let Some(platform) = Platform::start() else { return };
    let execute =
        "isms_rows rows; return tell(call, run(call, \"store\", \"select count(*) from items\", &rows));";
    platform.deploy(with_database("grows", "", execute).path());
    let broken = with_database("grows", "", execute)
        .file("migrations/0002_broken.sql", "create table items (id integer);\n");
    let output = platform.isms(&["deploy", broken.path().to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(3));
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(
        error.contains("0002_broken.sql") && error.contains("already exists"),
        "{error}"
    );
    assert!(platform.get("/grows/").text().starts_with("0 "));
    let good =
        with_database("grows", "", execute).file("migrations/0002_more.sql", "create table more (id);\n");
    platform.deploy(good.path());
    assert!(platform.get("/grows/").text().starts_with("0 "));
}

#[test]
fn host_calls_outside_of_execute_are_refused() {
    let Some(platform) = Platform::start() else { return };
    let initialize = "isms_statement s = { text(\"select 1\"), NULL, 0, ISMS_ROWS_ANY }; isms_handle h;\n\
        return isms_sql_start(call, text(\"store\"), &s, 1, &h) == ISMS_INVALID ? ISMS_OK : ISMS_FAILED;";
    let source = crate::project::c_doee_with("", initialize, "return say(call, \"ok\");", "");
    let project = Project::c("early", "return ISMS_OK;").file("doees/main/main.c", source);
    platform.deploy(project.path());
    assert_eq!(platform.get("/early/").text(), "ok");
}
