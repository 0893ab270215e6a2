//! The probes' data, from `probes/probes.toml`, which is compiled in.

use serde::Deserialize;
use toml::Table;

/// An attack and what must become of it.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Probe {
    /// Its name, and its Doee's.
    pub name: String,
    /// What it goes for.
    pub attacks: String,
    /// Outcomes of its steps that are refusals.
    #[serde(default)]
    pub expect: Vec<String>,
    /// Further outcomes that are no harm where workers share the platform's uid, which is then theirs.
    #[serde(default)]
    pub shared_uid: Vec<String>,
    /// Parts of a problem's detail with which the call may end instead of an answer.
    #[serde(default)]
    pub ends: Vec<String>,
    /// Who refuses it even where the sandbox has no layer, if it does not succeed there.
    pub refused_by: Option<String>,
    /// The shared object that holds it.
    #[serde(default = "common_binary")]
    pub binary: String,
    /// The only architecture that has what it attacks.
    pub arch: Option<String>,
    /// Further keys of its Doee's manifest.
    #[serde(flatten)]
    pub manifest: Table,
}

#[derive(Deserialize)]
struct File {
    probe: Vec<Probe>,
}

fn common_binary() -> String {
    "probes".to_owned()
}

/// All probes that this machine's architecture can run, in the order of the file.
pub fn catalogue() -> Vec<Probe> {
    let file: File = toml::from_str(include_str!("../probes/probes.toml"))
        .expect("the catalogue was compiled in, and a test reads it");
    let here = |probe: &Probe| {
        probe
            .arch
            .as_deref()
            .is_none_or(|arch| arch == std::env::consts::ARCH)
    };
    file.probe.into_iter().filter(here).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_unique_and_every_probe_says_what_may_come_of_it() {
        let probes = catalogue();
        let names: BTreeSet<_> = probes.iter().map(|probe| &probe.name).collect();
        assert_eq!(names.len(), probes.len());
        assert!(probes.len() >= 60, "{}", probes.len());
        for probe in probes {
            assert!(
                !probe.expect.is_empty() || !probe.ends.is_empty(),
                "{}",
                probe.name
            );
            assert!(
                !probe.expect.iter().any(|outcome| outcome == "ok"),
                "{}",
                probe.name
            );
        }
    }

    #[test]
    fn every_probe_of_the_common_binary_has_its_code_and_all_code_is_used() {
        let sources = [
            include_str!("../probes/files.c"),
            include_str!("../probes/processes.c"),
            include_str!("../probes/network.c"),
            include_str!("../probes/namespaces.c"),
            include_str!("../probes/kernel.c"),
            include_str!("../probes/resources.c"),
            include_str!("../probes/workers.c"),
        ];
        let entries = sources.iter().flat_map(|source| source.lines());
        let coded: BTreeSet<&str> = entries
            .filter_map(|line| line.trim().strip_prefix("{\"")?.split_once("\", ")?.0.into())
            .collect();
        let file: File = toml::from_str(include_str!("../probes/probes.toml")).unwrap();
        let listed: BTreeSet<&str> = file
            .probe
            .iter()
            .filter(|probe| probe.binary == "probes")
            .map(|probe| probe.name.as_str())
            .collect();
        assert_eq!(coded, listed);
    }
}
