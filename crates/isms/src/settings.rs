//! What the user wrote (a file, flags) and what the program uses: two types, one conversion.

use std::{
    net::SocketAddr,
    path::{Component, Path, PathBuf},
};

use anyhow::{Context, Result, bail, ensure};
use isms_commserver::{AddressRule, EgressConfig};
use isms_kernel::{JOURNAL_MB_DEFAULT, JOURNAL_MB_MAX, JOURNAL_MB_MIN};
use isms_protocol::limits::{self, OPENINGS_MAX};
use isms_sandbox::probe;
use serde::Deserialize;

mod traces;

pub(crate) use traces::Traces;
use traces::TracesSection;

/// What `images.size_mb_max` may be at most: what a stream carries.
const IMAGE_MB_MAX: u32 = 16 * 1024;

/// `isms.toml`. Every key is optional; an unknown one is an error.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct SettingsFile {
    data: Option<PathBuf>,
    http: Option<SocketAddr>,
    gate: Option<SocketAddr>,
    gate_hosts: Vec<String>,
    uids: UidsSection,
    workers: WorkersSection,
    egress: EgressSection,
    build: BuildSection,
    images: ImagesSection,
    results: ResultsSection,
    journal: JournalSection,
    traces: TracesSection,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct EgressSection {
    allow: Vec<AddressRule>,
    ca_file: Option<PathBuf>,
}

/// Bytes of `egress.ca_file`: it travels to CommServer, which may not read the administrator's files.
const CA_FILE_LEN_MAX: usize = 32 * 1024;
/// Rules of `egress.allow`.
const EGRESS_RULES_MAX: usize = 256;

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct UidsSection {
    base: u32,
}

impl Default for UidsSection {
    fn default() -> UidsSection {
        // Above the ranges that Debian gives to people, daemons and containers by default.
        UidsSection { base: 1_912_000_000 }
    }
}

#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct WorkersSection {
    max: usize,
    pool: usize,
    idle_s: u32,
    memory_mb_max: u32,
    device_nodes: Vec<PathBuf>,
    directories: Vec<PathBuf>,
    required_layers: Vec<String>,
    sent_ahead: bool,
}

impl Default for WorkersSection {
    fn default() -> WorkersSection {
        WorkersSection {
            max: isms_protocol::limits::WORKERS_DEFAULT,
            pool: 2,
            idle_s: 60,
            memory_mb_max: 1024,
            device_nodes: Vec::new(),
            directories: Vec::new(),
            required_layers: Vec::new(),
            sent_ahead: true,
        }
    }
}

impl WorkersSection {
    fn check(&self) -> Result<()> {
        let workers_max = isms_protocol::limits::WORKERS_MAX;
        ensure!(
            (1..=workers_max).contains(&self.max),
            "workers.max is {}, allowed are 1 to {workers_max}",
            self.max
        );
        ensure!(
            self.pool <= self.max,
            "workers.pool is {}, more than workers.max",
            self.pool
        );
        ensure!(
            (1..=1024 * 1024).contains(&self.memory_mb_max),
            "workers.memory_mb_max is {}, allowed are 1 to 1048576",
            self.memory_mb_max
        );
        check_openings("workers.device_nodes", &self.device_nodes, Path::new("/dev"))?;
        check_openings("workers.directories", &self.directories, Path::new("/"))?;
        check_layers(&self.required_layers)
    }
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct BuildSection {
    network: bool,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct ImagesSection {
    size_mb_max: u32,
    disk_mb_max: u32,
}

impl Default for ImagesSection {
    fn default() -> ImagesSection {
        ImagesSection {
            size_mb_max: 2048,
            disk_mb_max: 16 * 1024,
        }
    }
}

/// What is kept of asynchronous calls.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct ResultsSection {
    pub(crate) keep_s: u32,
    /// Of durable calls that were given up.
    pub(crate) dead_keep_s: u32,
    pub(crate) count_max: u32,
    pub(crate) memory_mb_max: u32,
}

impl Default for ResultsSection {
    fn default() -> ResultsSection {
        ResultsSection {
            keep_s: limits::RESULT_KEEP_S_DEFAULT,
            dead_keep_s: limits::DEAD_KEEP_S_DEFAULT,
            count_max: limits::RESULTS_MAX as u32,
            memory_mb_max: (limits::RESULTS_BYTES_MAX >> 20) as u32,
        }
    }
}

impl ResultsSection {
    fn check(&self) -> Result<()> {
        let most = ResultsSection::default();
        for (key, value, max) in [
            ("keep_s", self.keep_s, limits::RESULT_KEEP_S_MAX),
            ("dead_keep_s", self.dead_keep_s, limits::DEAD_KEEP_S_MAX),
            ("count_max", self.count_max, most.count_max),
            ("memory_mb_max", self.memory_mb_max, most.memory_mb_max),
        ] {
            ensure!(
                (1..=max).contains(&value),
                "results.{key} is {value}, allowed are 1 to {max}"
            );
        }
        Ok(())
    }
}

/// What durable calls may take of the disk.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct JournalSection {
    pub(crate) mb_max: u32,
}

impl Default for JournalSection {
    fn default() -> JournalSection {
        JournalSection {
            mb_max: JOURNAL_MB_DEFAULT,
        }
    }
}

impl JournalSection {
    fn check(&self) -> Result<()> {
        ensure!(
            (JOURNAL_MB_MIN..=JOURNAL_MB_MAX).contains(&self.mb_max),
            "journal.mb_max is {}, allowed are {JOURNAL_MB_MIN} to {JOURNAL_MB_MAX}",
            self.mb_max
        );
        Ok(())
    }
}

/// Flags of `isms up`; each wins over the file.
#[derive(Clone, Debug, Default)]
pub(crate) struct Overrides {
    pub(crate) data: Option<PathBuf>,
    pub(crate) http: Option<SocketAddr>,
    pub(crate) gate: Option<SocketAddr>,
}

/// What the supervisor works with.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) data: PathBuf,
    pub(crate) http: SocketAddr,
    pub(crate) gate: SocketAddr,
    /// Host names, beside those of loopback, under which Control Gate may be addressed.
    pub(crate) gate_hosts: Vec<String>,
    /// First uid of the platform: roles take the next few, workers the range from `+1000`.
    pub(crate) uid_base: u32,
    pub(crate) workers_max: usize,
    pub(crate) pool_size: usize,
    pub(crate) idle_s: u32,
    pub(crate) memory_mb_max: u32,
    /// What Doees may reach outside beyond public addresses.
    pub(crate) egress: EgressConfig,
    /// Device nodes that workers may be given, and directories that they may read. Roles and spawner name each by
    /// its place in the list.
    pub(crate) device_nodes: Vec<PathBuf>,
    pub(crate) directories: Vec<PathBuf>,
    /// Layers of isolation without which no worker starts, beside those that are always required.
    pub(crate) required_layers: Vec<String>,
    /// Workers are sent short calls before they have answered those before.
    pub(crate) sent_ahead: bool,
    /// Builders may use the host's network.
    pub(crate) build_network: bool,
    /// Of one image, and of all.
    pub(crate) image_mb_max: u32,
    pub(crate) images_mb_max: u32,
    pub(crate) results: ResultsSection,
    pub(crate) journal: JournalSection,
    pub(crate) traces: Traces,
}

impl Settings {
    /// Reads the file, if one is named, and lets the flags win.
    pub(crate) fn load(file: Option<&Path>, overrides: Overrides) -> Result<Settings> {
        let file = match file {
            Some(path) => {
                let text = std::fs::read_to_string(path)
                    .with_context(|| format!("cannot read {}", path.display()))?;
                toml::from_str(&text).with_context(|| format!("cannot use {}", path.display()))?
            }
            None => SettingsFile::default(),
        };
        Settings::merge(file, overrides)
    }

    fn merge(file: SettingsFile, overrides: Overrides) -> Result<Settings> {
        let SettingsFile {
            data,
            http,
            gate,
            gate_hosts,
            uids,
            workers,
            egress,
            build,
            images,
            results,
            journal,
            traces,
        } = file;
        let data = match overrides.data.or(data) {
            Some(data) => data,
            None => default_data_dir()?,
        };
        workers.check()?;
        ensure!(
            (1..=IMAGE_MB_MAX).contains(&images.size_mb_max),
            "images.size_mb_max is {}, allowed are 1 to {IMAGE_MB_MAX}",
            images.size_mb_max
        );
        ensure!(
            images.size_mb_max <= images.disk_mb_max,
            "images.disk_mb_max is {}, less than images.size_mb_max",
            images.disk_mb_max
        );
        ensure!(
            (1000..=4_000_000_000).contains(&uids.base),
            "uids.base is {}, allowed are 1000 to 4000000000",
            uids.base
        );
        results.check()?;
        journal.check()?;
        Ok(Settings {
            data: std::path::absolute(&data).with_context(|| format!("cannot use {}", data.display()))?,
            http: overrides
                .http
                .or(http)
                .unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 8080))),
            gate: overrides
                .gate
                .or(gate)
                .unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 7070))),
            gate_hosts,
            uid_base: uids.base,
            workers_max: workers.max,
            pool_size: workers.pool,
            idle_s: workers.idle_s,
            memory_mb_max: workers.memory_mb_max,
            egress: egress.load()?,
            device_nodes: workers.device_nodes,
            directories: workers.directories,
            required_layers: workers.required_layers,
            sent_ahead: workers.sent_ahead,
            build_network: build.network,
            image_mb_max: images.size_mb_max,
            images_mb_max: images.disk_mb_max,
            results,
            journal,
            traces: traces.load()?,
        })
    }
}

impl EgressSection {
    /// Reads the file of certificates and checks what it holds.
    fn load(self) -> Result<EgressConfig> {
        ensure!(
            self.allow.len() <= EGRESS_RULES_MAX,
            "egress.allow has {} rules, allowed are {EGRESS_RULES_MAX}",
            self.allow.len()
        );
        let mut config = EgressConfig {
            allow: self.allow,
            ..EgressConfig::default()
        };
        if let Some(path) = self.ca_file {
            let cannot = || format!("cannot use egress.ca_file {}", path.display());
            config.ca_pem = std::fs::read_to_string(&path).with_context(cannot)?;
            let len = config.ca_pem.len();
            ensure!(
                len <= CA_FILE_LEN_MAX,
                "{} is {len} bytes long, egress.ca_file may have {CA_FILE_LEN_MAX}",
                path.display()
            );
            ensure!(len > 0, "{} is empty", path.display());
            config.check().with_context(cannot)?;
        }
        Ok(config)
    }
}

/// Checks that each of these is a layer of isolation that can be required.
fn check_layers(names: &[String]) -> Result<()> {
    let known = |name: &str| probe::REQUIRED.contains(&name) || probe::OPTIONAL.contains(&name);
    match names.iter().find(|name| !known(name)) {
        None => Ok(()),
        Some(unknown) => bail!(
            "workers.required_layers: {unknown:?} is no layer; beside those that are always required there are {}",
            probe::OPTIONAL.join(", ")
        ),
    }
}

/// Checks a list of what workers may be given. Whether each exists is looked at when one is given: a device may be
/// plugged in later.
fn check_openings(key: &str, paths: &[PathBuf], below: &Path) -> Result<()> {
    ensure!(
        paths.len() <= OPENINGS_MAX,
        "{key} has {} entries, allowed are {OPENINGS_MAX}",
        paths.len()
    );
    for (index, path) in paths.iter().enumerate() {
        // Compared letter by letter from here on, so there is one way to write each.
        let plain: PathBuf = path.components().collect();
        ensure!(
            path.starts_with(below)
                && path != below
                && plain.as_os_str() == path.as_os_str()
                && !path.components().any(|part| part == Component::ParentDir),
            "{key}: {} is not allowed; write an absolute path below {}, without . and .. and a slash at its end",
            path.display(),
            below.display()
        );
        ensure!(
            !paths[..index].contains(path),
            "{key}: {} is there twice",
            path.display()
        );
    }
    Ok(())
}

/// `/var/lib/isms` for root, else `$XDG_DATA_HOME/isms`, else `~/.local/share/isms`.
pub(crate) fn default_data_dir() -> Result<PathBuf> {
    if rustix::process::geteuid().is_root() {
        return Ok(PathBuf::from("/var/lib/isms"));
    }
    let absolute = |name: &str| {
        std::env::var_os(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    absolute("XDG_DATA_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".local/share")))
        .map(|base| base.join("isms"))
        .context("neither XDG_DATA_HOME nor HOME is set: say where data goes with --data DIR")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn merge(text: &str, overrides: Overrides) -> Result<Settings, String> {
        let file = toml::from_str(text).map_err(|error| error.to_string())?;
        Settings::merge(file, overrides).map_err(|error| error.to_string())
    }

    #[test]
    fn a_flag_wins_over_the_file_and_the_file_over_the_default() {
        let overrides = Overrides {
            http: Some("127.0.0.1:1".parse().unwrap()),
            ..Overrides::default()
        };
        let settings = merge(
            "data = '/x'\nhttp = '127.0.0.1:2'\ngate = '127.0.0.1:3'",
            overrides,
        )
        .unwrap();
        assert_eq!(settings.http.port(), 1);
        assert_eq!(settings.gate.port(), 3);
        assert_eq!(settings.data, Path::new("/x"));
        assert_eq!(settings.pool_size, 2);
    }

    #[test]
    fn an_unknown_key_is_refused_with_its_line() {
        let error = merge("data = '/x'\nhtpp = '127.0.0.1:2'", Overrides::default()).unwrap_err();
        assert!(error.contains("line 2") && error.contains("htpp"), "{error}");
    }

    #[test]
    fn what_doees_may_reach_is_checked_before_anything_starts() {
        let rules = "data = '/x'\negress = { allow = ['127.0.0.1:9000', '10.0.0.0/8:*'] }";
        let settings = merge(rules, Overrides::default()).unwrap();
        assert_eq!(settings.egress.allow.len(), 2);
        let error = merge(
            "data = '/x'\n[egress]\nallow = ['10.0.0.1/8:*']",
            Overrides::default(),
        )
        .unwrap_err();
        assert!(
            error.contains("line 3") && error.contains("no address rule"),
            "{error}"
        );
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("ca.pem");
        let load = |text: &str| {
            std::fs::write(&file, text).unwrap();
            let settings = format!(
                "data = '/x'\n[egress]\nca_file = {:?}",
                file.display().to_string()
            );
            merge(&settings, Overrides::default()).unwrap_err()
        };
        for text in ["", "hello", &"x".repeat(CA_FILE_LEN_MAX + 1)] {
            let error = load(text);
            assert!(error.contains("ca.pem"), "{error}");
        }
        let missing = "data = '/x'\negress = { ca_file = '/no/such/file' }";
        let error = merge(missing, Overrides::default()).unwrap_err();
        assert_eq!(error, "cannot use egress.ca_file /no/such/file");
    }

    #[test]
    fn openings_are_written_in_one_way_and_once() {
        let lists = "data = '/x'\n[workers]\ndevice_nodes = ['/dev/ttyUSB0']\ndirectories = ['/srv/maps', '/opt']\n\
            [build]\nnetwork = true\n[images]\nsize_mb_max = 10\ndisk_mb_max = 20";
        let settings = merge(lists, Overrides::default()).unwrap();
        assert_eq!(settings.device_nodes, [Path::new("/dev/ttyUSB0")]);
        assert_eq!(settings.directories, [Path::new("/srv/maps"), Path::new("/opt")]);
        assert!(settings.build_network);
        assert_eq!((settings.image_mb_max, settings.images_mb_max), (10, 20));
        let refused = |key: &str, path: &str| {
            let text = format!("data = '/x'\nworkers = {{ {key} = ['{path}'] }}");
            let error = merge(&text, Overrides::default()).unwrap_err();
            assert!(error.contains(key) && error.contains(path), "{error}");
        };
        for path in [
            "/etc/passwd",
            "dev/null",
            "/dev",
            "/dev/../etc",
            "/dev//null",
            "/dev/./null",
            "/dev/null/",
        ] {
            refused("device_nodes", path);
        }
        for path in ["/", "maps", "/srv/..", "/srv/"] {
            refused("directories", path);
        }
        let twice = merge(
            "data = '/x'\nworkers = { directories = ['/a', '/a'] }",
            Overrides::default(),
        );
        assert_eq!(twice.unwrap_err(), "workers.directories: /a is there twice");
        let many: Vec<String> = (0..65).map(|number| format!("'/d{number}'")).collect();
        let text = format!("data = '/x'\nworkers = {{ directories = [{}] }}", many.join(","));
        let error = merge(&text, Overrides::default()).unwrap_err();
        assert_eq!(error, "workers.directories has 65 entries, allowed are 64");
    }

    #[test]
    fn only_layers_that_there_are_can_be_required() {
        let text = |layer: &str| format!("data = '/x'\nworkers = {{ required_layers = ['{layer}'] }}");
        let settings = merge(&text("cgroup memory"), Overrides::default()).unwrap();
        assert_eq!(settings.required_layers, ["cgroup memory"]);
        let error = merge(&text("moat"), Overrides::default()).unwrap_err();
        assert!(
            error.contains("\"moat\" is no layer") && error.contains("cgroup memory"),
            "{error}"
        );
    }

    #[test]
    fn images_have_limits_that_fit_each_other() {
        let refused = |images: &str| {
            merge(
                &format!("data = '/x'\nimages = {{ {images} }}"),
                Overrides::default(),
            )
            .unwrap_err()
        };
        assert_eq!(
            refused("size_mb_max = 0"),
            "images.size_mb_max is 0, allowed are 1 to 16384"
        );
        assert_eq!(
            refused("size_mb_max = 20, disk_mb_max = 10"),
            "images.disk_mb_max is 10, less than images.size_mb_max"
        );
    }

    #[test]
    fn numbers_out_of_range_say_what_is_allowed() {
        let error = merge("data = '/x'\nworkers = { max = 0 }", Overrides::default()).unwrap_err();
        assert_eq!(error, "workers.max is 0, allowed are 1 to 2048");
        for (key, max) in [
            ("keep_s", 86_400),
            ("dead_keep_s", 14 * 86_400),
            ("count_max", 250_000),
            ("memory_mb_max", 256),
        ] {
            for value in [0, max + 1] {
                let text = format!("data = '/x'\nresults = {{ {key} = {value} }}");
                let error = merge(&text, Overrides::default()).unwrap_err();
                let expected = format!("results.{key} is {value}, allowed are 1 to {max}");
                assert_eq!(error, expected);
            }
        }
        for value in [63, 16_385] {
            let text = format!("data = '/x'\njournal = {{ mb_max = {value} }}");
            let error = merge(&text, Overrides::default()).unwrap_err();
            assert_eq!(
                error,
                format!("journal.mb_max is {value}, allowed are 64 to 16384")
            );
        }
    }
}
