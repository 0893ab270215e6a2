//! `[traces]`: which calls are traced, how much is kept of them, and where they are passed on to.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use isms_gate::OtlpConfig;
use isms_protocol::limits;
use serde::Deserialize;

/// What `traces.memory_mb_max` may be at most.
const MEMORY_MB_MAX: u32 = 1024;
/// Bytes of each file, since what is in it travels to Control Gate, which may not read the administrator's files.
const FILE_LEN_MAX: u64 = 16 * 1024;

/// The section as it is written.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct TracesSection {
    per_s: u32,
    slow_ms: u32,
    memory_mb_max: u32,
    otlp: Option<String>,
    /// It may hold secrets.
    otlp_headers_file: Option<PathBuf>,
    otlp_ca_file: Option<PathBuf>,
}

/// The same with what is in the files.
#[derive(Clone, Debug)]
pub(crate) struct Traces {
    pub(crate) per_s: u32,
    pub(crate) slow_ms: u32,
    pub(crate) memory_mb_max: u32,
    pub(crate) otlp: Option<OtlpConfig>,
}

impl Default for TracesSection {
    fn default() -> TracesSection {
        TracesSection {
            per_s: limits::TRACES_PER_S_DEFAULT,
            slow_ms: limits::SLOW_MS_DEFAULT,
            memory_mb_max: 16,
            otlp: None,
            otlp_headers_file: None,
            otlp_ca_file: None,
        }
    }
}

impl TracesSection {
    /// Checks the section and reads its files.
    pub(super) fn load(self) -> Result<Traces> {
        for (key, value, min, max) in [
            ("per_s", self.per_s, 0, limits::TRACES_PER_S_MAX),
            ("slow_ms", self.slow_ms, 1, limits::SLOW_MS_MAX),
            ("memory_mb_max", self.memory_mb_max, 1, MEMORY_MB_MAX),
        ] {
            ensure!(
                (min..=max).contains(&value),
                "traces.{key} is {value}, allowed are {min} to {max}"
            );
        }
        ensure!(
            self.otlp.is_some() || self.otlp_headers_file.is_none() && self.otlp_ca_file.is_none(),
            "traces.otlp is missing, to which the files of [traces] belong"
        );
        let otlp = match self.otlp {
            None => None,
            Some(url) => {
                let config = OtlpConfig {
                    url,
                    headers: read("traces.otlp_headers_file", self.otlp_headers_file.as_deref())?,
                    ca_pem: read("traces.otlp_ca_file", self.otlp_ca_file.as_deref())?,
                };
                config
                    .check()
                    .context("cannot use the collector of traces.otlp")?;
                Some(config)
            }
        };
        Ok(Traces {
            per_s: self.per_s,
            slow_ms: self.slow_ms,
            memory_mb_max: self.memory_mb_max,
            otlp,
        })
    }
}

/// What is in a file, if one is named.
fn read(key: &str, path: Option<&Path>) -> Result<String> {
    let Some(path) = path else {
        return Ok(String::new());
    };
    let cannot = || format!("cannot use {key} {}", path.display());
    let len = std::fs::metadata(path).with_context(cannot)?.len();
    ensure!(
        (1..=FILE_LEN_MAX).contains(&len),
        "{} is {len} bytes long, {key} may have 1 to {FILE_LEN_MAX}",
        path.display()
    );
    std::fs::read_to_string(path).with_context(cannot)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> Result<Traces, String> {
        let section: TracesSection = toml::from_str(text).map_err(|error| error.to_string())?;
        section.load().map_err(|error| format!("{error:#}"))
    }

    #[test]
    fn numbers_out_of_range_say_what_is_allowed() {
        for (key, min, max) in [
            ("per_s", 0, 10_000),
            ("slow_ms", 1, 3_600_000),
            ("memory_mb_max", 1, 1024),
        ] {
            let error = load(&format!("{key} = {}", max + 1)).unwrap_err();
            let expected = format!("traces.{key} is {}, allowed are {min} to {max}", max + 1);
            assert_eq!(error, expected);
        }
        assert_eq!(load("per_s = 0").unwrap().per_s, 0);
        let defaults = load("").unwrap();
        assert_eq!(
            (defaults.per_s, defaults.slow_ms, defaults.memory_mb_max),
            (200, 1_000, 16)
        );
        assert_eq!(defaults.otlp, None);
    }

    #[test]
    fn a_collector_is_checked_and_its_secrets_come_from_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("headers");
        std::fs::write(&file, "authorization: Bearer hidden\n").unwrap();
        let text = format!(
            "otlp = 'http://127.0.0.1:4318'\notlp_headers_file = {:?}",
            file.display().to_string()
        );
        let traces = load(&text).unwrap();
        assert_eq!(
            traces.otlp.as_ref().unwrap().headers,
            "authorization: Bearer hidden\n"
        );
        assert!(!format!("{traces:?}").contains("hidden"));
        std::fs::write(&file, "hidden").unwrap();
        let error = load(&text).unwrap_err();
        assert!(error.contains("line 1") && !error.contains("hidden"), "{error}");
        for content in [String::new(), "x".repeat(FILE_LEN_MAX as usize + 1)] {
            std::fs::write(&file, content).unwrap();
            assert!(load(&text).unwrap_err().contains("bytes long"));
        }
        let error = load("otlp = 'collector:4318'").unwrap_err();
        assert!(
            error.contains("traces.otlp") && error.contains("http://HOST"),
            "{error}"
        );
        let alone = load("otlp_ca_file = '/no/such/file'").unwrap_err();
        assert_eq!(
            alone,
            "traces.otlp is missing, to which the files of [traces] belong"
        );
        let missing = load("otlp = 'https://a'\notlp_ca_file = '/no/such/file'").unwrap_err();
        assert!(
            missing.starts_with("cannot use traces.otlp_ca_file /no/such/file"),
            "{missing}"
        );
    }
}
