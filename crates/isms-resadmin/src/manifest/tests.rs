//! Manifests, good ones and each kind of bad one with its message.

use isms_protocol::doer::Backend;

use super::*;

const GOOD: &str = r#"[project]
name = "machine-monitor"

[doee.anomaly]
language  = "cpp"
source    = "doees/anomaly"
memory_mb = 64
timeout_ms = 500
deadline_ms = 2000
workers   = { min = 0, max = 8 }
class     = "high"
allow     = { sql = ["readings"], publish = [], secrets = [], http = [], device_nodes = [] }
params    = { window = 288, alpha = 0.5, name = "x", on = true }

[doee.history]
language  = "c"
source    = "doees/history"
allow     = { sql = ["readings"] }

[[trigger]]
http = "GET /machines/{id}/readings"
auth = "token"
doee = "history"

[[trigger]]
http = "POST /readings"
auth = "none"
doee = "anomaly"
deadline_ms = 1000
body_mb = 1

[database.readings]
kind = "sql"
engine = "sqlite"
migrations = "migrations"
disk_mb = 512
"#;

#[test]
fn a_whole_manifest_is_read_with_its_defaults() {
    let manifest = parse(GOOD).expect("is a manifest");
    assert_eq!(manifest.name, "machine-monitor");
    let anomaly = Doee {
        name: "anomaly".into(),
        code: Code::Source {
            language: Language::Cpp,
            folder: "doees/anomaly".into(),
        },
        class: Class::High,
        memory_mb: 64,
        timeout_ms: 500,
        deadline_ms: 2000,
        workers_min: 0,
        workers_max: 8,
        sql: vec!["readings".into()],
        http: vec![],
        params: vec![
            ("window".into(), Parameter::Integer(288)),
            ("alpha".into(), Parameter::Real(0.5)),
            ("name".into(), Parameter::Text("x".into())),
            ("on".into(), Parameter::Boolean(true)),
        ],
        environment: Environment::default(),
    };
    let history = Doee {
        name: "history".into(),
        code: Code::Source {
            language: Language::C,
            folder: "doees/history".into(),
        },
        class: Class::Normal,
        timeout_ms: 5_000,
        deadline_ms: 30_000,
        params: vec![],
        ..anomaly.clone()
    };
    assert_eq!(manifest.doees, [anomaly, history]);
    let route = |method: &str, path: &str| Route {
        method: method.into(),
        path: path.into(),
    };
    let trigger = |route, auth, doee: &str, deadline_ms, body_mb: u64| HttpTrigger {
        route,
        auth,
        doee: doee.into(),
        class: if doee == "anomaly" {
            Class::High
        } else {
            Class::Normal
        },
        deadline_ms,
        body_len_max: body_mb * MIB,
    };
    assert_eq!(
        manifest.triggers,
        [
            trigger(
                route("GET", "/machines/{id}/readings"),
                Auth::Token,
                "history",
                30_000,
                16
            ),
            trigger(route("POST", "/readings"), Auth::None, "anomaly", 1_000, 1),
        ],
    );
    let readings = Database {
        name: "readings".into(),
        migrations: Some("migrations".into()),
        disk_mb: 512,
    };
    assert_eq!(manifest.databases, [readings]);
    assert!(!manifest.build_network);
}

/// The class of the only trigger of a manifest with these keys of its Doee and of the trigger.
fn class_of_trigger(doee: &str, trigger: &str) -> Result<Class, String> {
    let text = format!(
        "[project]\nname = \"p\"\n[doee.a]\nbinary = \"a.so\"\n{doee}\n\
         [[trigger]]\nhttp = \"GET /\"\nauth = \"none\"\ndoee = \"a\"\n{trigger}\n"
    );
    let mut manifest = parse(&text).map_err(|error| error.to_string())?;
    Ok(manifest.triggers.remove(0).class)
}

#[test]
fn a_triggers_class_is_its_own_higher_or_lower_or_else_the_doees() {
    let (high, batch) = ("class = \"high\"", "class = \"batch\"");
    assert_eq!(class_of_trigger("", ""), Ok(Class::Normal));
    assert_eq!(class_of_trigger(high, ""), Ok(Class::High));
    assert_eq!(class_of_trigger(high, batch), Ok(Class::Batch));
    assert_eq!(class_of_trigger(batch, high), Ok(Class::High));
    let unknown = "project.toml:10: trigger[1].class: \"urgent\" is not known; allowed: \"realtime\", \"high\", \"normal\", \"batch\"";
    assert_eq!(class_of_trigger("", "class = \"urgent\""), Err(unknown.into()));
}

/// The environment of a Doee `a` with these keys.
fn environment(keys: &str) -> Result<Environment, String> {
    let text = format!("[project]\nname = \"p\"\n[doee.a]\nbinary = \"a.so\"\n{keys}\n");
    let mut manifest = parse(&text).map_err(|error| error.to_string())?;
    Ok(manifest.doees.remove(0).environment)
}

#[test]
fn isolation_image_and_openings_are_read() {
    let expected = Environment {
        backend: Backend::Apptainer,
        image: Some("images/x.sif".into()),
        device_nodes: vec!["/dev/ttyUSB0".into(), "/dev/ttyUSB1".into()],
        directories: vec!["/srv/maps".into()],
    };
    let keys = "isolation = \"apptainer\"\nimage = \"images/x.sif\"\n\
        allow = { device_nodes = [\"/dev/ttyUSB1\", \"/dev/ttyUSB0\", \"/dev/ttyUSB1\"], directories = [\"/srv/maps\"] }";
    assert_eq!(environment(keys), Ok(expected));
    let native = Environment {
        image: Some("root".into()),
        ..Environment::default()
    };
    assert_eq!(
        environment("image = \"root\""),
        Ok(native.clone()),
        "an image needs no Apptainer"
    );
    assert_eq!(
        environment("isolation = \"native\"\nimage = \"root\""),
        Ok(native)
    );
}

#[test]
fn wrong_isolation_image_and_openings_are_named() {
    let bad = |keys: &str, error: &str| assert_eq!(environment(keys), Err(error.to_owned()), "{keys}");
    bad(
        "isolation = \"docker\"",
        "project.toml:5: doee.a.isolation: \"docker\" is not known; allowed: \"native\", \"apptainer\"",
    );
    bad(
        "isolation = \"apptainer\"",
        "project.toml:5: doee.a.isolation: is \"apptainer\", which runs an image; name its file or folder with image",
    );
    bad(
        "image = \"/etc/x.sif\"",
        "project.toml:5: doee.a.image: \"/etc/x.sif\" is not a path; write it relative to the project's folder, \
         like \"doees/x\"",
    );
    bad(
        "image = 1",
        "project.toml:5: doee.a.image: is a whole number, expected text",
    );
    bad(
        "allow = { device_nodes = \"/dev/null\" }",
        "project.toml:5: doee.a.allow.device_nodes: is text, expected a list",
    );
    for node in [
        "/etc/passwd",
        "dev/x",
        "/dev/../etc/passwd",
        "/dev/",
        "/dev//x",
        "/dev/x\\u0000",
    ] {
        let error = environment(&format!("allow = {{ device_nodes = [\"{node}\"] }}")).expect_err(node);
        let begin = "project.toml:5: doee.a.allow.device_nodes[1]: ";
        assert!(
            error.starts_with(begin) && error.contains("absolute path below /dev/"),
            "{error}"
        );
    }
    let error = environment("allow = { directories = [\"/srv/./maps\"] }").unwrap_err();
    assert!(error.contains("allow.directories[1]"), "{error}");
    let many = vec!["\"/dev/x\""; 65].join(",");
    bad(
        &format!("allow = {{ device_nodes = [{many}] }}"),
        "project.toml:5: doee.a.allow.device_nodes: has 65 entries; allowed: at most 64",
    );
}

#[test]
fn a_build_has_the_network_only_where_the_manifest_asks() {
    let network = |build: &str| {
        let manifest = parse(&format!(
            "[project]\nname = \"p\"\n{build}\n[doee.a]\nbinary = \"a.so\"\n"
        ));
        manifest
            .map(|manifest| manifest.build_network)
            .map_err(|error| error.to_string())
    };
    assert_eq!(network("[build]"), Ok(false));
    assert_eq!(network("[build]\nnetwork = true"), Ok(true));
    assert_eq!(
        network("[build]\nnetwork = 1"),
        Err("project.toml:4: build.network: is a whole number, expected true or false".into())
    );
    assert_eq!(
        network("[build]\nflags = []"),
        Err("project.toml:4: build.flags: is not a known key; allowed: network".into())
    );
}

#[test]
fn a_prebuilt_binary_needs_no_language() {
    let manifest = parse("[project]\nname = \"a\"\n[doee.b]\nbinary = \"b.so\"\n").expect("is a manifest");
    assert_eq!(manifest.doees[0].code, Code::Binary { path: "b.so".into() });
    assert!(manifest.triggers.is_empty());
}

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
         timeout_ms, deadline_ms, workers, class, isolation, image, allow, params",
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
        "project.toml:12: doee.anomaly.allow.write: is not a known key; allowed: sql, http, device_nodes, directories",
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
