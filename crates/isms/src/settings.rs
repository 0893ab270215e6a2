//! What the user wrote (a file, flags) and what the program uses: two types, one conversion.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use isms_commserver::{AddressRule, EgressConfig};
use serde::Deserialize;

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

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct WorkersSection {
    max: usize,
    pool: usize,
    idle_s: u32,
    memory_mb_max: u32,
}

impl Default for WorkersSection {
    fn default() -> WorkersSection {
        WorkersSection {
            max: isms_protocol::limits::WORKERS_MAX,
            pool: 2,
            idle_s: 60,
            memory_mb_max: 1024,
        }
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
        } = file;
        let data = match overrides.data.or(data) {
            Some(data) => data,
            None => default_data_dir()?,
        };
        let workers_max = isms_protocol::limits::WORKERS_MAX;
        ensure!(
            (1..=workers_max).contains(&workers.max),
            "workers.max is {}, allowed are 1 to {workers_max}",
            workers.max
        );
        ensure!(
            workers.pool <= workers.max,
            "workers.pool is {}, more than workers.max",
            workers.pool
        );
        ensure!(
            (1..=1024 * 1024).contains(&workers.memory_mb_max),
            "workers.memory_mb_max is {}, allowed are 1 to 1048576",
            workers.memory_mb_max
        );
        ensure!(
            (1000..=4_000_000_000).contains(&uids.base),
            "uids.base is {}, allowed are 1000 to 4000000000",
            uids.base
        );
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
    fn numbers_out_of_range_say_what_is_allowed() {
        let error = merge("data = '/x'\nworkers = { max = 0 }", Overrides::default()).unwrap_err();
        assert_eq!(error, "workers.max is 0, allowed are 1 to 256");
    }
}
