//! What the kernel says of an executor that a runtime has started: each worker is looked at before its Doer hears of it.
//!
//! The runtime makes the walls, so its word for them is not enough. Everything here is read from outside, from files of
//! `/proc` in which the process has no say.

use std::{fs, path::Path};

use crate::native::Group;

/// Lines of `status` that must read so for a confined process: no capabilities at all, nothing to gain by exec, filtered.
const STATUS: [(&str, &str); 7] = [
    ("CapInh", "0000000000000000"),
    ("CapPrm", "0000000000000000"),
    ("CapEff", "0000000000000000"),
    ("CapBnd", "0000000000000000"),
    ("CapAmb", "0000000000000000"),
    ("NoNewPrivs", "1"),
    ("Seccomp", "2"),
];
/// Namespaces that it may not share with the spawner.
const NAMESPACES: [&str; 6] = ["mnt", "pid", "net", "ipc", "uts", "cgroup"];

/// Checks the processes of the worker's group that have its uid `id`: there must be one, confined in every way.
pub(crate) fn verify(group: &Group, id: u32) -> Result<(), String> {
    let mut found = 0;
    for pid in group
        .processes()
        .map_err(|error| format!("cannot list the worker's cgroup: {error}"))?
    {
        let process = Path::new("/proc").join(pid.to_string());
        // One that has just gone is none.
        let Ok(status) = fs::read_to_string(process.join("status")) else {
            continue;
        };
        let ids = format!("{id}\t{id}\t{id}\t{id}");
        let uids = value(&status, "Uid");
        if uids == Some("0\t0\t0\t0") {
            // The init and the runtime.
            continue;
        }
        found += 1;
        if uids != Some(&ids) || value(&status, "Gid") != Some(&ids) {
            return Err(format!("its ids are {} and not {id}", uids.unwrap_or("unknown")));
        }
        check_status(&status)?;
        check_namespaces(&process)?;
    }
    match found {
        1 => Ok(()),
        0 => Err("no process of its uid runs".to_owned()),
        more => Err(format!("{more} processes run where one was started")),
    }
}

fn check_status(status: &str) -> Result<(), String> {
    if value(status, "Groups").is_some_and(|groups| !groups.is_empty()) {
        return Err("it has supplementary groups".to_owned());
    }
    match STATUS
        .iter()
        .find(|(name, wanted)| value(status, name) != Some(wanted))
    {
        None => Ok(()),
        Some((name, wanted)) => Err(format!(
            "{name} is {} and not {wanted}",
            value(status, name).unwrap_or("unknown")
        )),
    }
}

fn check_namespaces(process: &Path) -> Result<(), String> {
    let of = |process: &Path, name: &str| fs::read_link(process.join("ns").join(name)).ok();
    for name in NAMESPACES {
        let (ours, its) = (of(Path::new("/proc/self"), name), of(process, name));
        // What cannot be read proves nothing.
        if ours.is_none() || its.is_none() || ours == its {
            return Err(format!("it has no {name} namespace of its own"));
        }
    }
    Ok(())
}

/// The value of a line of `status`.
fn value<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    status
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
        .map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFINED: &str = "Name:\tdoee-executor\nUid:\t7\t7\t7\t7\nGid:\t7\t7\t7\t7\nGroups:\t \n\
        CapInh:\t0000000000000000\nCapPrm:\t0000000000000000\nCapEff:\t0000000000000000\n\
        CapBnd:\t0000000000000000\nCapAmb:\t0000000000000000\nNoNewPrivs:\t1\nSeccomp:\t2\nSeccomp_filters:\t1\n";

    #[test]
    fn a_confined_process_passes_and_each_thing_it_may_not_have_is_named() {
        assert_eq!(check_status(CONFINED), Ok(()));
        let cases = [
            ("Groups:\t ", "Groups:\t20 ", "it has supplementary groups"),
            (
                "CapBnd:\t0000000000000000",
                "CapBnd:\t0000000000000001",
                "CapBnd is 0000000000000001 and not 0000000000000000",
            ),
            ("NoNewPrivs:\t1", "NoNewPrivs:\t0", "NoNewPrivs is 0 and not 1"),
            ("Seccomp:\t2", "Seccomp:\t0", "Seccomp is 0 and not 2"),
            ("Seccomp:\t2\n", "", "Seccomp is unknown and not 2"),
        ];
        for (from, to, said) in cases {
            assert_eq!(check_status(&CONFINED.replace(from, to)), Err(said.to_owned()));
        }
    }

    #[test]
    fn this_process_has_no_namespaces_of_its_own() {
        let error = check_namespaces(Path::new("/proc/self")).unwrap_err();
        assert_eq!(error, "it has no mnt namespace of its own");
    }
}
