//! Manifests that are read, and what their keys come to; bad ones are in `bad.rs`.

mod bad;

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
        concurrency: 0,
        reserved: [0; 3],
        rate: None,
        durability: None,
        sql: vec!["readings".into()],
        http: vec![],
        calls: vec![],
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

#[test]
fn a_doees_concurrency_is_read_and_is_not_less_than_the_workers_that_are_kept() {
    let concurrency = |keys: &str| {
        let text = format!("[project]\nname = \"p\"\n[doee.a]\nbinary = \"a.so\"\n{keys}\n");
        let manifest = parse(&text).map_err(|error| error.to_string());
        manifest.map(|mut manifest| manifest.doees.remove(0).concurrency)
    };
    assert_eq!(concurrency(""), Ok(0));
    assert_eq!(concurrency("concurrency = 3\nworkers = { min = 3 }"), Ok(3));
    assert_eq!(
        concurrency("concurrency = 2\nworkers = { min = 3 }"),
        Err("project.toml:5: doee.a.concurrency: is 2, less than workers.min, which is 3".into())
    );
    assert_eq!(
        concurrency("concurrency = 0"),
        Err("project.toml:5: doee.a.concurrency: is 0; allowed: 1 to 256".into())
    );
}

#[test]
fn workers_are_reserved_for_urgent_calls_but_never_all_of_them() {
    let reserved = |keys: &str| {
        let text = format!("[project]\nname = \"p\"\n[doee.a]\nbinary = \"a.so\"\n{keys}\n");
        let manifest = parse(&text).map_err(|error| error.to_string());
        manifest.map(|mut manifest| manifest.doees.remove(0).reserved)
    };
    let refused = |line: u32, message: &str| Err(format!("project.toml:{line}: doee.a.reserve{message}"));
    assert_eq!(reserved(""), Ok([0; 3]));
    assert_eq!(reserved("reserve = { normal = 3, realtime = 4 }"), Ok([4, 0, 3]));
    assert_eq!(
        reserved("workers = { max = 2 }\nreserve = { high = 2 }"),
        refused(
            6,
            ": keeps 2 workers, which must be less than workers.max, which is 2"
        )
    );
    assert_eq!(
        reserved("concurrency = 1\nreserve = { high = 1 }"),
        refused(
            6,
            ": keeps 1 workers, which must be less than concurrency, which is 1"
        )
    );
    assert_eq!(
        reserved("reserve = { high = -1 }"),
        refused(5, ".high: is -1; allowed: 0 to 256")
    );
    assert!(reserved("reserve = { batch = 1 }").is_err());
}

#[test]
fn calls_of_a_doee_are_durable_and_tried_as_usual_unless_it_says_otherwise() {
    let durability = |keys: &str| {
        let text = format!("[project]\nname = \"p\"\n[doee.a]\nbinary = \"a.so\"\n{keys}\n");
        let manifest = parse(&text).map_err(|error| error.to_string());
        manifest.map(|mut manifest| manifest.doees.remove(0).durability)
    };
    assert_eq!(durability(""), Ok(None));
    assert_eq!(durability("durable = true"), Ok(None));
    assert_eq!(durability("durable = false"), Ok(Some(Durability::Volatile)));
    let retry = Retry {
        attempts: 2,
        backoff_ms: 400_000,
        backoff_max_ms: 400_000,
        ..Retry::default()
    };
    assert_eq!(
        durability("retry = { attempts = 2, backoff_ms = 400000 }"),
        Ok(Some(Durability::Durable(retry)))
    );
    for (keys, error) in [
        (
            "durable = false\nretry = { attempts = 2 }",
            "project.toml:6: doee.a.retry: excludes `durable = false`; only durable calls are tried again",
        ),
        (
            "retry = { attempts = 0 }",
            "project.toml:5: doee.a.retry.attempts: is 0; allowed: 1 to 100",
        ),
        (
            "retry = { backoff_ms = 10, backoff_max_ms = 9 }",
            "project.toml:5: doee.a.retry.backoff_max_ms: is 9; allowed: 10 to 3600000",
        ),
        (
            "retry = { within_s = 604801 }",
            "project.toml:5: doee.a.retry.within_s: is 604801; allowed: 1 to 604800",
        ),
    ] {
        assert_eq!(durability(keys), Err(error.to_owned()));
    }
}

#[test]
fn a_doees_rate_has_a_burst_of_a_second_unless_it_says_another() {
    let rate = |keys: &str| {
        let text = format!("[project]\nname = \"p\"\n[doee.a]\nbinary = \"a.so\"\n{keys}\n");
        let manifest = parse(&text).map_err(|error| error.to_string());
        manifest.map(|mut manifest| manifest.doees.remove(0).rate)
    };
    let expected = |per_s, burst| Ok(Some(CallRate { per_s, burst }));
    assert_eq!(rate(""), Ok(None));
    assert_eq!(rate("rate = { per_s = 50 }"), expected(50, 50));
    assert_eq!(rate("rate = { per_s = 1, burst = 9 }"), expected(1, 9));
    for (keys, error) in [
        (
            "rate = { burst = 9 }",
            "project.toml:5: doee.a.rate.per_s: is missing",
        ),
        (
            "rate = { per_s = 0 }",
            "project.toml:5: doee.a.rate.per_s: is 0; allowed: 1 to 1000000",
        ),
        (
            "rate = { per_s = 1, burst = 0 }",
            "project.toml:5: doee.a.rate.burst: is 0; allowed: 1 to 1000000",
        ),
        (
            "rate = 5",
            "project.toml:5: doee.a.rate: is a whole number, expected a table",
        ),
    ] {
        assert_eq!(rate(keys), Err(error.to_owned()));
    }
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

#[test]
fn schedules_are_read_with_their_defaults() {
    let text = format!(
        "{GOOD}\n[[trigger]]\ncron = \"*/5  8-18 * * MON-FRI\"\ntime_zone = \"europe/berlin\"\ndoee = \"history\"\n\
         class = \"batch\"\n[[trigger]]\nevery = \"2h\"\ndoee = \"anomaly\"\n"
    );
    let schedules = parse(&text).expect("is a manifest").schedules;
    let read: Vec<_> = schedules
        .iter()
        .map(|schedule| (schedule.times.to_string(), schedule.doee.as_str(), schedule.class))
        .collect();
    assert_eq!(
        read,
        [
            (
                "*/5 8-18 * * MON-FRI Europe/Berlin".to_owned(),
                "history",
                Class::Batch
            ),
            ("every 7200s".to_owned(), "anomaly", Class::High),
        ]
    );
    let twice = format!("{text}[[trigger]]\nevery = \"120m\"\ndoee = \"anomaly\"\n");
    let error = parse(&twice).expect_err("is there twice").message;
    assert_eq!(error, "is the same schedule as an earlier trigger");
}
