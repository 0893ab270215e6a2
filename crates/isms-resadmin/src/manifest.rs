//! `project.toml`: what a project consists of. docs/manifest.md describes every key.
//!
//! Invariants: what [`parse`] returns is complete and consistent (every name that is referred to
//! exists, every number lies within its limits); an error names line, key, what is wrong and what is
//! allowed. Keys that a later release will serve are told apart from unknown ones.

mod environment;
mod reader;
mod route;
mod schedule;

use isms_protocol::{
    Class, HostPort, HostPortError,
    commserver::Auth,
    doer::{Language, Parameter},
    kernel::{CallRate, Durability, Retry},
    limits::{
        ATTEMPTS_MAX, BACKOFF_MS_MAX, HTTP_BODY_LEN_DEFAULT, RATE_MAX, RETRY_WITHIN_S_MAX, WORKERS_DEFAULT,
    },
};

pub(crate) use environment::Environment;
pub(crate) use reader::is_name;
use reader::{Manifest as Text, Section};
pub(crate) use route::Route;
pub(crate) use schedule::ScheduleTrigger;

use crate::schedule::SCHEDULES_MAX;

/// Bytes of a manifest.
pub(crate) const MANIFEST_LEN_MAX: usize = 64 * 1024;
/// Doees of a project.
const DOEES_MAX: usize = isms_protocol::limits::DOEES_MAX;
/// Triggers of a project.
const TRIGGERS_MAX: usize = 256;
/// Databases of a project.
const DATABASES_MAX: usize = 32;
/// Parameters of a Doee.
const PARAMS_MAX: usize = 64;
/// Bytes of all parameters of a Doee: they must fit the worker's assignment.
const PARAMS_LEN_MAX: usize = 16 * 1024;
/// Servers outside that a Doee may reach.
const HTTP_MAX: usize = 32;
const MIB: u64 = 1024 * 1024;

/// A whole project.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Manifest {
    pub(crate) name: String,
    pub(crate) doees: Vec<Doee>,
    pub(crate) triggers: Vec<HttpTrigger>,
    pub(crate) schedules: Vec<ScheduleTrigger>,
    pub(crate) databases: Vec<Database>,
    /// Builders of the project use the host's network.
    pub(crate) build_network: bool,
}

/// A `[doee.NAME]`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Doee {
    pub(crate) name: String,
    pub(crate) code: Code,
    pub(crate) class: Class,
    pub(crate) memory_mb: u32,
    pub(crate) timeout_ms: u32,
    pub(crate) deadline_ms: u32,
    pub(crate) workers_min: u32,
    pub(crate) workers_max: u32,
    /// Calls at the same time; 0 for as many as its workers run.
    pub(crate) concurrency: u32,
    /// Workers kept for calls of class realtime, of high and above, of normal and above.
    pub(crate) reserved: [u32; 3],
    /// Calls that are accepted in a second, if that has a limit.
    pub(crate) rate: Option<CallRate>,
    /// What becomes of asynchronous calls, if not the usual.
    pub(crate) durability: Option<Durability>,
    /// Databases that it may use.
    pub(crate) sql: Vec<String>,
    /// Servers outside that it may send HTTP requests to.
    pub(crate) http: Vec<String>,
    /// Doees of the project that it may call.
    pub(crate) calls: Vec<String>,
    pub(crate) params: Vec<(String, Parameter)>,
    pub(crate) environment: Environment,
}

/// Where a Doee's binary comes from; paths are relative to the project's folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Code {
    Source { language: Language, folder: String },
    Binary { path: String },
}

/// A `[[trigger]]` with `http`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HttpTrigger {
    pub(crate) route: Route,
    pub(crate) auth: Auth,
    pub(crate) doee: String,
    /// Its own, or the Doee's.
    pub(crate) class: Class,
    pub(crate) deadline_ms: u32,
    pub(crate) body_len_max: u64,
}

/// A `[database.NAME]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Database {
    pub(crate) name: String,
    /// Folder of the migrations, relative to the project's.
    pub(crate) migrations: Option<String>,
    pub(crate) disk_mb: u32,
}

/// What is wrong with a manifest.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("project.toml:{line}: {key}: {message}")]
pub(crate) struct ManifestError {
    pub(crate) line: usize,
    pub(crate) key: String,
    pub(crate) message: String,
}

/// Reads and checks a manifest.
pub(crate) fn parse(text: &str) -> Result<Manifest, ManifestError> {
    let text = Text::new(text)?;
    let root = text.root();
    root.check_keys(&["project", "build", "doee", "trigger", "database"], &[])?;
    let project = root.required("project")?.section()?;
    project.check_keys(&["name"], &[])?;
    let name = project.required("name")?.name()?;
    let databases = named(&root, "database", DATABASES_MAX)?;
    let databases = databases.iter().map(database).collect::<Result<Vec<_>, _>>()?;
    let sections = named(&root, "doee", DOEES_MAX)?;
    let doees = sections
        .iter()
        .map(|section| doee(section, &sections, &databases))
        .collect::<Result<Vec<_>, _>>()?;
    if doees.is_empty() {
        return Err(root.error("doee", "is missing; a project has at least one [doee.NAME]"));
    }
    let (triggers, schedules) = triggers(&root, &doees)?;
    let build_network = build_network(&root)?;
    Ok(Manifest {
        name,
        doees,
        triggers,
        schedules,
        databases,
        build_network,
    })
}

fn build_network(root: &Section<'_>) -> Result<bool, ManifestError> {
    let Some(item) = root.optional("build") else {
        return Ok(false);
    };
    let build = item.section()?;
    build.check_keys(&["network"], &[])?;
    build.optional("network").map_or(Ok(false), |item| item.boolean())
}

/// The sections `[kind.NAME]`, in the order of the file.
fn named<'a>(
    root: &Section<'a>,
    kind: &'static str,
    count_max: usize,
) -> Result<Vec<Section<'a>>, ManifestError> {
    let Some(item) = root.optional(kind) else {
        return Ok(Vec::new());
    };
    let sections: Vec<Section<'a>> = item
        .section()?
        .items()
        .into_iter()
        .map(|item| {
            item.check_name()?;
            item.section()
        })
        .collect::<Result<_, _>>()?;
    match sections.get(count_max) {
        Some(extra) => Err(extra.error_here(&format!("is one too many; {count_max} are allowed"))),
        None => Ok(sections),
    }
}

fn database(section: &Section<'_>) -> Result<Database, ManifestError> {
    section.check_keys(&["kind", "engine", "migrations", "disk_mb"], &["retention"])?;
    section
        .required("kind")?
        .one_of(&[("sql", ())], &["document", "kv"])?;
    if let Some(engine) = section.optional("engine") {
        engine.one_of(&[("sqlite", ())], &["postgres", "mariadb", "redis"])?;
    }
    let migrations = section
        .optional("migrations")
        .map(|item| item.path())
        .transpose()?;
    let disk_mb = section.integer("disk_mb", 1, 1024 * 1024, 512)?;
    Ok(Database {
        name: section.name().to_owned(),
        migrations,
        disk_mb: disk_mb as u32,
    })
}

fn doee(section: &Section<'_>, doees: &[Section<'_>], databases: &[Database]) -> Result<Doee, ManifestError> {
    section.check_keys(
        &[
            "language",
            "source",
            "binary",
            "memory_mb",
            "timeout_ms",
            "deadline_ms",
            "workers",
            "concurrency",
            "reserve",
            "rate",
            "durable",
            "retry",
            "class",
            "isolation",
            "image",
            "allow",
            "params",
        ],
        &[],
    )?;
    let code = code(section)?;
    let (workers_min, workers_max) = workers(section)?;
    let concurrency = concurrency(section, workers_min)?;
    let reserved = reserved(section, workers_max, concurrency)?;
    let class = class(section, Class::Normal)?;
    let allow = section.optional("allow").map(|item| item.section()).transpose()?;
    if let Some(allow) = &allow {
        allow.check_keys(
            &["sql", "http", "call", "device_nodes", "directories"],
            &["publish", "secrets"],
        )?;
    }
    Ok(Doee {
        name: section.name().to_owned(),
        code,
        class,
        memory_mb: section.integer("memory_mb", 8, 4096, 64)? as u32,
        timeout_ms: section.integer("timeout_ms", 1, 3_600_000, 5_000)? as u32,
        deadline_ms: section.integer("deadline_ms", 1, 3_600_000, 30_000)? as u32,
        workers_min,
        workers_max,
        concurrency,
        reserved,
        rate: rate(section)?,
        durability: durability(section)?,
        sql: sql(allow.as_ref(), databases)?,
        http: http(allow.as_ref())?,
        calls: calls(allow.as_ref(), doees)?,
        params: params(section)?,
        environment: environment::environment(section, allow.as_ref())?,
    })
}

fn class(section: &Section<'_>, default: Class) -> Result<Class, ManifestError> {
    section
        .optional("class")
        .map_or(Ok(default), |item| item.one_of(&CLASSES, &[]))
}

const CLASSES: [(&str, Class); 4] = [
    ("realtime", Class::Realtime),
    ("high", Class::High),
    ("normal", Class::Normal),
    ("batch", Class::Batch),
];

const LANGUAGES: [(&str, Language); 2] = [("c", Language::C), ("cpp", Language::Cpp)];

fn code(section: &Section<'_>) -> Result<Code, ManifestError> {
    let language = match section.optional("language") {
        Some(item) => Some(item.one_of(&LANGUAGES, &["rust", "python"])?),
        None => None,
    };
    match (section.optional("binary"), section.optional("source")) {
        (Some(binary), Some(_)) => Err(binary.error("excludes source; give one of the two")),
        (Some(binary), None) => Ok(Code::Binary { path: binary.path()? }),
        (None, source) => {
            let language =
                language.ok_or_else(|| section.error("language", "is missing; allowed: \"c\", \"cpp\""))?;
            let missing =
                || section.error("source", "is missing; name the folder of the source, or a binary");
            Ok(Code::Source {
                language,
                folder: source.ok_or_else(missing)?.path()?,
            })
        }
    }
}

fn workers(section: &Section<'_>) -> Result<(u32, u32), ManifestError> {
    let Some(item) = section.optional("workers") else {
        return Ok((0, 8));
    };
    let workers = item.section()?;
    workers.check_keys(&["min", "max"], &[])?;
    let limit = WORKERS_DEFAULT as i64;
    let max = workers.integer("max", 1, limit, 8)? as u32;
    let min = workers.integer("min", 0, limit, 0)? as u32;
    if min > max {
        return Err(workers.error("min", &format!("is {min}, more than max, which is {max}")));
    }
    Ok((min, max))
}

fn concurrency(section: &Section<'_>, workers_min: u32) -> Result<u32, ManifestError> {
    let Some(item) = section.optional("concurrency") else {
        return Ok(0);
    };
    let concurrency = item.integer(1, WORKERS_DEFAULT as i64)? as u32;
    if concurrency < workers_min {
        let message = format!("is {concurrency}, less than workers.min, which is {workers_min}");
        return Err(item.error(&message));
    }
    Ok(concurrency)
}

fn reserved(section: &Section<'_>, workers_max: u32, concurrency: u32) -> Result<[u32; 3], ManifestError> {
    let Some(item) = section.optional("reserve") else {
        return Ok([0; 3]);
    };
    let reserve = item.section()?;
    let keys = ["realtime", "high", "normal"];
    reserve.check_keys(&keys, &[])?;
    let mut reserved = [0; 3];
    for (count, key) in reserved.iter_mut().zip(keys) {
        *count = reserve.integer(key, 0, WORKERS_DEFAULT as i64, 0)? as u32;
    }
    let sum: u32 = reserved.iter().sum();
    let (bound, most) = match concurrency {
        1.. if concurrency < workers_max => ("concurrency", concurrency),
        _ => ("workers.max", workers_max),
    };
    if sum >= most {
        let message = format!("keeps {sum} workers, which must be less than {bound}, which is {most}");
        return Err(item.error(&message));
    }
    Ok(reserved)
}

fn rate(section: &Section<'_>) -> Result<Option<CallRate>, ManifestError> {
    let Some(item) = section.optional("rate") else {
        return Ok(None);
    };
    let rate = item.section()?;
    rate.check_keys(&["per_s", "burst"], &[])?;
    let max = i64::from(RATE_MAX);
    let per_s = rate.required("per_s")?.integer(1, max)?;
    let burst = rate.integer("burst", 1, max, per_s)?;
    Ok(Some(CallRate {
        per_s: per_s as u32,
        burst: burst as u32,
    }))
}

fn durability(section: &Section<'_>) -> Result<Option<Durability>, ManifestError> {
    let durable = section
        .optional("durable")
        .map(|item| item.boolean())
        .transpose()?;
    let Some(item) = section.optional("retry") else {
        return Ok((durable == Some(false)).then_some(Durability::Volatile));
    };
    if durable == Some(false) {
        return Err(item.error("excludes `durable = false`; only durable calls are tried again"));
    }
    let retry = item.section()?;
    retry.check_keys(&["attempts", "backoff_ms", "backoff_max_ms", "within_s"], &[])?;
    let usual = Retry::default();
    let number = |key, min, max: u32, usual: u32| {
        let number = retry.integer(key, min, max.into(), usual.into());
        number.map(|number| number as u32)
    };
    let backoff_ms = number("backoff_ms", 0, BACKOFF_MS_MAX, usual.backoff_ms)?;
    let longest = usual.backoff_max_ms.max(backoff_ms);
    let retry = Retry {
        attempts: number("attempts", 1, ATTEMPTS_MAX, usual.attempts)?,
        backoff_ms,
        backoff_max_ms: number("backoff_max_ms", backoff_ms.into(), BACKOFF_MS_MAX, longest)?,
        within_s: number("within_s", 1, RETRY_WITHIN_S_MAX, usual.within_s)?,
    };
    Ok(Some(Durability::Durable(retry)))
}

fn sql(allow: Option<&Section<'_>>, databases: &[Database]) -> Result<Vec<String>, ManifestError> {
    let Some(sql) = allow.and_then(|allow| allow.optional("sql")) else {
        return Ok(Vec::new());
    };
    let mut names = Vec::new();
    for item in sql.array()? {
        let name = item.text()?;
        if !databases.iter().any(|database| database.name == name) {
            let known = databases.iter().map(|database| database.name.as_str());
            return Err(item.unknown_name(name, "database", known));
        }
        if !names.iter().any(|known| known == name) {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}

fn calls(allow: Option<&Section<'_>>, doees: &[Section<'_>]) -> Result<Vec<String>, ManifestError> {
    let Some(call) = allow.and_then(|allow| allow.optional("call")) else {
        return Ok(Vec::new());
    };
    let mut names = Vec::new();
    for item in call.array()? {
        let name = item.text()?;
        if !doees.iter().any(|doee| doee.name() == name) {
            return Err(item.unknown_name(name, "doee", doees.iter().map(Section::name)));
        }
        if !names.iter().any(|known| known == name) {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}

/// Whole servers by their exact name: a wildcard would grant hosts that its owner makes later.
fn http(allow: Option<&Section<'_>>) -> Result<Vec<String>, ManifestError> {
    let Some(http) = allow.and_then(|allow| allow.optional("http")) else {
        return Ok(Vec::new());
    };
    let mut servers = Vec::new();
    for item in http.array()? {
        let text = item.text()?;
        let server: HostPort = text.parse().map_err(|error: HostPortError| {
            item.error(&format!(
                "{text:?}: {error}; write HOST:PORT, like \"api.example.com:443\""
            ))
        })?;
        let server = server.to_string();
        if servers.len() == HTTP_MAX {
            return Err(item.error(&format!("is one too many; {HTTP_MAX} are allowed")));
        }
        if !servers.contains(&server) {
            servers.push(server);
        }
    }
    Ok(servers)
}

fn params(section: &Section<'_>) -> Result<Vec<(String, Parameter)>, ManifestError> {
    let Some(item) = section.optional("params") else {
        return Ok(Vec::new());
    };
    let mut params = Vec::new();
    let mut len = 0;
    for param in item.section()?.items() {
        let value = param.parameter()?;
        len += param.key_len()
            + if let Parameter::Text(text) = &value {
                text.len()
            } else {
                16
            };
        if params.len() == PARAMS_MAX || len > PARAMS_LEN_MAX {
            let message =
                format!("is too much; a Doee has {PARAMS_MAX} parameters of {PARAMS_LEN_MAX} bytes in all");
            return Err(param.error(&message));
        }
        params.push((param.key().to_owned(), value));
    }
    Ok(params)
}

fn triggers(
    root: &Section<'_>,
    doees: &[Doee],
) -> Result<(Vec<HttpTrigger>, Vec<ScheduleTrigger>), ManifestError> {
    let mut triggers: Vec<HttpTrigger> = Vec::new();
    let mut schedules: Vec<ScheduleTrigger> = Vec::new();
    let Some(item) = root.optional("trigger") else {
        return Ok((triggers, schedules));
    };
    for item in item.array()? {
        let section = item.section()?;
        if let Some(found) = schedule::schedule(&section, doees)? {
            if schedules.len() == SCHEDULES_MAX {
                let message = format!("is one schedule too many; {SCHEDULES_MAX} are allowed");
                return Err(section.error_here(&message));
            }
            let is_same =
                |other: &&ScheduleTrigger| (&other.times, &other.doee) == (&found.times, &found.doee);
            if schedules.iter().find(is_same).is_some() {
                return Err(section.error_here("is the same schedule as an earlier trigger"));
            }
            schedules.push(found);
            continue;
        }
        if triggers.len() == TRIGGERS_MAX {
            return Err(section.error_here(&format!("is one too many; {TRIGGERS_MAX} are allowed")));
        }
        let trigger = trigger(&section, doees)?;
        if let Some(other) = triggers
            .iter()
            .find(|other| other.route.collides_with(&trigger.route))
        {
            let message = format!(
                "matches the same requests as the earlier trigger {:?}",
                other.route.to_string()
            );
            return Err(section.error("http", &message));
        }
        triggers.push(trigger);
    }
    Ok((triggers, schedules))
}

fn trigger(section: &Section<'_>, doees: &[Doee]) -> Result<HttpTrigger, ManifestError> {
    section.check_keys(
        &["http", "auth", "doee", "class", "deadline_ms", "body_mb"],
        &["mqtt"],
    )?;
    let http = section.required("http")?;
    let route = Route::parse(http.text()?).map_err(|error| http.error(&error.to_string()))?;
    let auth = section.optional("auth").ok_or_else(|| {
        section.error(
            "auth",
            "is missing; say who may call: \"none\" (everybody) or \"token\"",
        )
    })?;
    let auth = auth.one_of(
        &[("none", Auth::None), ("token", Auth::Token)],
        &["device", "user"],
    )?;
    let doee = named_doee(section, doees)?;
    let deadline_ms = section.integer("deadline_ms", 1, doee.deadline_ms.into(), doee.deadline_ms.into())?;
    let body_mb = section.integer("body_mb", 1, 16 * 1024, (HTTP_BODY_LEN_DEFAULT / MIB) as i64)?;
    Ok(HttpTrigger {
        route,
        auth,
        doee: doee.name.clone(),
        class: class(section, doee.class)?,
        deadline_ms: deadline_ms as u32,
        body_len_max: body_mb as u64 * MIB,
    })
}

/// The Doee that a trigger names.
fn named_doee<'d>(section: &Section<'_>, doees: &'d [Doee]) -> Result<&'d Doee, ManifestError> {
    let item = section.required("doee")?;
    let name = item.text()?;
    let found = doees.iter().find(|doee| doee.name == name);
    found.ok_or_else(|| item.unknown_name(name, "doee", doees.iter().map(|doee| doee.name.as_str())))
}

#[cfg(test)]
mod tests;
