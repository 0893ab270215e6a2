//! Each kind of bad manifest with its message.

use super::*;

/// Replaces a piece of the good manifest and expects the error.
fn bad(piece: &str, replacement: &str, error: &str) {
    assert!(GOOD.contains(piece), "{piece}");
    let text = GOOD.replacen(piece, replacement, 1);
    assert_eq!(parse(&text).expect_err(replacement).to_string(), error);
}

#[test]
fn unknown_keys_are_errors_with_line_and_key() {
    bad(
        "memory_mb = 64",
        "memory = 64",
        "project.toml:7: doee.anomaly.memory: is not a known key; allowed: language, source, binary, memory_mb, \
         timeout_ms, deadline_ms, workers, concurrency, reserve, rate, durable, retry, class, isolation, image, allow, params",
    );
    bad(
        "[project]\n",
        "[project]\nowner = 1\n",
        "project.toml:2: project.owner: is not a known key; allowed: name",
    );
    bad(
        "max = 8",
        "most = 8",
        "project.toml:10: doee.anomaly.workers.most: is not a known key; allowed: min, max",
    );
    bad(
        "publish = []",
        "write = []",
        "project.toml:12: doee.anomaly.allow.write: is not a known key; allowed: sql, http, call, device_nodes, directories",
    );
    bad(
        "auth = \"none\"",
        "login = \"none\"",
        "project.toml:27: trigger[2].login: is not a known key; allowed: http, auth, doee, class, deadline_ms, body_mb",
    );
    bad(
        "disk_mb = 512",
        "disk = 512",
        "project.toml:36: database.readings.disk: is not a known key; allowed: kind, engine, migrations, disk_mb",
    );
    bad(
        "[database.readings]",
        "[db.readings]",
        "project.toml:32: db: is not a known key; allowed: project, build, doee, trigger, database",
    );
}

#[test]
fn servers_outside_are_named_exactly_and_once() {
    let listed = "http = [\"api.example.com:443\", \"[2001:DB8::1]:80\", \"api.example.com:443\"]";
    let manifest = parse(&GOOD.replacen("http = []", listed, 1)).expect("is a manifest");
    assert_eq!(
        manifest.doees[0].http,
        ["api.example.com:443", "[2001:db8::1]:80"]
    );
    assert!(manifest.doees[1].http.is_empty());

    const HINT: &str = "write HOST:PORT, like \"api.example.com:443\"";
    const NAME: &str = "its host is neither an address nor a name of letters, digits, - and . in lower case";
    for (server, why) in [
        ("api.example.com", "its port is missing or not 1 to 65535"),
        ("https://api.example.com:443", NAME),
        ("*.example.com:443", NAME),
        ("API.example.com:443", NAME),
        ("127.1:80", NAME),
    ] {
        let error = format!("project.toml:12: doee.anomaly.allow.http[2]: {server:?}: {why}; {HINT}");
        bad("http = []", &format!("http = [\"a.b:1\", {server:?}]"), &error);
    }
    bad(
        "http = []",
        "http = \"a.b:1\"",
        "project.toml:12: doee.anomaly.allow.http: is text, expected a list",
    );
    let many: Vec<String> = (1..=33).map(|port| format!("a.b:{port}")).collect();
    bad(
        "http = []",
        &format!("http = {many:?}"),
        "project.toml:12: doee.anomaly.allow.http[33]: is one too many; 32 are allowed",
    );
}

#[test]
fn only_doees_of_the_project_are_called() {
    bad(
        "secrets = []",
        "call = [\"history\", \"anomaly\", \"other\"]",
        "project.toml:12: doee.anomaly.allow.call[3]: no [doee.other] exists; there are: anomaly, history",
    );
    bad(
        "secrets = []",
        "call = \"history\"",
        "project.toml:12: doee.anomaly.allow.call: is text, expected a list",
    );
}

#[test]
fn what_a_later_release_serves_is_told_apart_from_the_unknown() {
    bad(
        "publish = []",
        "publish = [\"a\"]",
        "project.toml:12: doee.anomaly.allow.publish: is not supported yet; leave it out",
    );
    bad(
        "secrets = []",
        "secrets = [\"a\"]",
        "project.toml:12: doee.anomaly.allow.secrets: is not supported yet; leave it out",
    );
    bad(
        "http = \"POST /readings\"",
        "mqtt = \"a/+\"",
        "project.toml:26: trigger[2].mqtt: is not supported yet; leave it out",
    );
    bad(
        "disk_mb = 512",
        "retention = {}",
        "project.toml:36: database.readings.retention: is not supported yet; leave it out",
    );
    bad(
        "language  = \"c\"",
        "language = \"python\"",
        "project.toml:16: doee.history.language: \"python\" is not supported yet; allowed: \"c\", \"cpp\"",
    );
    bad(
        "engine = \"sqlite\"",
        "engine = \"postgres\"",
        "project.toml:34: database.readings.engine: \"postgres\" is not supported yet; allowed: \"sqlite\"",
    );
    bad(
        "auth = \"token\"",
        "auth = \"device\"",
        "project.toml:22: trigger[1].auth: \"device\" is not supported yet; allowed: \"none\", \"token\"",
    );
    bad(
        "kind = \"sql\"",
        "kind = \"kv\"",
        "project.toml:33: database.readings.kind: \"kv\" is not supported yet; allowed: \"sql\"",
    );
}

#[test]
fn missing_keys_are_named() {
    bad(
        "name = \"machine-monitor\"",
        "",
        "project.toml:1: project.name: is missing",
    );
    bad(
        "auth = \"none\"\n",
        "",
        "project.toml:25: trigger[2].auth: is missing; say who may call: \"none\" (everybody) or \"token\"",
    );
    bad(
        "http = \"POST /readings\"\n",
        "",
        "project.toml:25: trigger[2].http: is missing",
    );
    bad(
        "kind = \"sql\"\n",
        "",
        "project.toml:32: database.readings.kind: is missing",
    );
    bad(
        "source    = \"doees/history\"\n",
        "",
        "project.toml:15: doee.history.source: is missing; name the folder of the source, or a binary",
    );
    bad(
        "language  = \"c\"\n",
        "",
        "project.toml:15: doee.history.language: is missing; allowed: \"c\", \"cpp\"",
    );
    assert_eq!(
        parse("").expect_err("empty").to_string(),
        "project.toml:1: project: is missing"
    );
    let only = "[project]\nname = \"a\"\n";
    let message = "project.toml:1: doee: is missing; a project has at least one [doee.NAME]";
    assert_eq!(parse(only).expect_err("no doee").to_string(), message);
}

#[test]
fn wrong_types_and_numbers_out_of_range_are_named() {
    bad(
        "memory_mb = 64",
        "memory_mb = \"64\"",
        "project.toml:7: doee.anomaly.memory_mb: is text, expected a whole number",
    );
    bad(
        "memory_mb = 64",
        "memory_mb = 7",
        "project.toml:7: doee.anomaly.memory_mb: is 7; allowed: 8 to 4096",
    );
    for beyond in ["-64", "0", "4097"] {
        bad(
            "memory_mb = 64",
            &format!("memory_mb = {beyond}"),
            &format!("project.toml:7: doee.anomaly.memory_mb: is {beyond}; allowed: 8 to 4096"),
        );
    }
    bad(
        "timeout_ms = 500",
        "timeout_ms = 0",
        "project.toml:8: doee.anomaly.timeout_ms: is 0; allowed: 1 to 3600000",
    );
    bad(
        "timeout_ms = 500",
        "timeout_ms = 99999999999999999999",
        "project.toml:8: doee.anomaly.timeout_ms: is beyond 64 bits; allowed: 1 to 3600000",
    );
    bad(
        "max = 8",
        "max = 257",
        "project.toml:10: doee.anomaly.workers.max: is 257; allowed: 1 to 256",
    );
    bad(
        "min = 0",
        "min = 9",
        "project.toml:10: doee.anomaly.workers.min: is 9, more than max, which is 8",
    );
    bad(
        "class     = \"high\"",
        "class = \"urgent\"",
        "project.toml:11: doee.anomaly.class: \"urgent\" is not known; allowed: \"realtime\", \"high\", \"normal\", \"batch\"",
    );
    bad(
        "workers   = { min = 0, max = 8 }",
        "workers = 8",
        "project.toml:10: doee.anomaly.workers: is a whole number, expected a table",
    );
    bad(
        "sql = [\"readings\"], publish",
        "sql = \"readings\", publish",
        "project.toml:12: doee.anomaly.allow.sql: is text, expected a list",
    );
    bad(
        "window = 288",
        "window = [288]",
        "project.toml:13: doee.anomaly.params.window: is a list, expected a number, text, true or false",
    );
    bad(
        "body_mb = 1",
        "body_mb = 16385",
        "project.toml:30: trigger[2].body_mb: is 16385; allowed: 1 to 16384",
    );
    bad(
        "deadline_ms = 1000",
        "deadline_ms = 2001",
        "project.toml:29: trigger[2].deadline_ms: is 2001; allowed: 1 to 2000",
    );
    bad(
        "disk_mb = 512",
        "disk_mb = 0",
        "project.toml:36: database.readings.disk_mb: is 0; allowed: 1 to 1048576",
    );
    bad(
        "name = \"machine-monitor\"",
        "name = 7",
        "project.toml:2: project.name: is a whole number, expected text",
    );
}

#[test]
fn names_paths_and_references_are_checked() {
    const RULE: &str = "allowed: a lower-case letter, then lower-case letters, digits and -, at most 63";
    bad(
        "\"machine-monitor\"",
        "\"Machine\"",
        &format!("project.toml:2: project.name: \"Machine\" is not a name; {RULE}"),
    );
    bad(
        "[doee.history]",
        "[doee.1st]",
        &format!("project.toml:15: doee.1st: \"1st\" is not a name; {RULE}"),
    );
    bad(
        "[database.readings]",
        "[database.a_b]",
        &format!("project.toml:32: database.a_b: \"a_b\" is not a name; {RULE}"),
    );
    const PATH: &str = "is not a path; write it relative to the project's folder, like \"doees/x\"";
    for path in ["../x", "/etc", "a//b", "", "a/./b"] {
        let error = format!("project.toml:17: doee.history.source: {path:?} {PATH}");
        bad("\"doees/history\"", &format!("{path:?}"), &error);
    }
    bad(
        "doee = \"history\"",
        "doee = \"hist\"",
        "project.toml:23: trigger[1].doee: no [doee.hist] exists; there are: anomaly, history",
    );
    bad(
        "sql = [\"readings\"], publish",
        "sql = [\"reading\"], publish",
        "project.toml:12: doee.anomaly.allow.sql[1]: no [database.reading] exists; there are: readings",
    );
    bad(
        "source    = \"doees/history\"",
        "source = \"a\"\nbinary = \"b.so\"",
        "project.toml:18: doee.history.binary: excludes source; give one of the two",
    );
}

#[test]
fn routes_are_checked() {
    let route = |replacement: &str, message: &str| {
        let error = format!("project.toml:26: trigger[2].http: {message}");
        bad("\"POST /readings\"", &format!("{replacement:?}"), &error);
    };
    route(
        "POST/readings",
        "is not METHOD /path, like \"GET /machines/{id}\"",
    );
    route(
        "POST readings",
        "is not METHOD /path, like \"GET /machines/{id}\"",
    );
    route(
        "post /a",
        "has the method \"post\"; allowed: GET, POST, PUT, PATCH, DELETE, HEAD, OPTIONS",
    );
    for segment in ["", "{", "{id", "{1}", "a b", "..", "*", "a{id}"] {
        let message = format!(
            "has the segment {segment:?}; a segment is literal (letters, digits, - . _ ~) or {{name}}"
        );
        route(&format!("POST /a/{segment}"), &message);
    }
    route("POST /{a}/{a}", "has the parameter {a} twice");
    for path in ["/.processes", "/.processes/{id}"] {
        route(
            &format!("POST {path}"),
            "begins with /.processes, where the platform answers about asynchronous calls; take another path",
        );
    }
    for path in ["/.processes2", "/a/.processes", "/{id}/result"] {
        assert!(Route::parse(&format!("GET {path}")).is_ok(), "{path}");
    }
    route(
        &format!("POST /{}", "a".repeat(128)),
        "has a path longer than 128 bytes or 16 segments",
    );
    route(
        "GET /machines/{machine}/readings",
        "matches the same requests as the earlier trigger \"GET /machines/{id}/readings\"",
    );
    assert_eq!(
        Route::parse("GET /").map(|route| route.to_string()),
        Ok("GET /".into())
    );
}

#[test]
fn broken_toml_names_the_line() {
    let error = parse("[project]\nname = \"a\nb = 1\n").expect_err("is not TOML");
    assert_eq!((error.line, error.key.as_str()), (2, "syntax"));
    let error = parse("[project]\nname = \"a\"\nname = \"b\"\n").expect_err("has a key twice");
    assert_eq!((error.line, error.key.as_str()), (3, "syntax"));
    assert!(parse(&"#".repeat(MANIFEST_LEN_MAX + 1)).is_err());
}

#[test]
fn schedules_that_mean_nothing_are_errors_with_line_and_key() {
    let bad_times = |times: &str, error: &str| {
        let text = format!("{GOOD}\n[[trigger]]\n{times}\ndoee = \"history\"\n");
        assert_eq!(parse(&text).expect_err(times).to_string(), error);
    };
    bad_times(
        "cron = \"0 0 31 2 *\"",
        "project.toml:39: trigger[3].cron: never fires: no month that it names has such a day",
    );
    bad_times(
        "cron = \"0 0 * * *\"\ntime_zone = \"Mars\"",
        "project.toml:40: trigger[3].time_zone: is no time zone that this release knows; write an IANA name, like \
         \"Europe/Berlin\"",
    );
    for every in ["0s", "401d", "1.5h", "10", "s", "-1s", "99999999999d", "1 s"] {
        bad_times(
            &format!("every = \"{every}\""),
            "project.toml:39: trigger[3].every: is no time from 1 s to 400 d; write a whole number and s, m, h or d, \
             like \"30s\"",
        );
    }
    bad_times(
        "every = \"1h\"\nauth = \"none\"",
        "project.toml:40: trigger[3].auth: is not a known key; allowed: every, doee, class",
    );
}
