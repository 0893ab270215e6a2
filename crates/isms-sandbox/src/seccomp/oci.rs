//! A filter as the JSON profile that container runtimes read (the OCI runtime specification's `seccomp`, through
//! libseccomp), for the backend in which the runtime loads the filter.
//!
//! It allows what the compiled program allows and nothing else. Of the refusals one differs: a call whose arguments do not
//! fit its conditions fails as an unknown one does, with ENOSYS, since libseccomp knows no "otherwise". ENOSYS is said by an
//! action that means "ask the tracer": there is none, nobody inside may become one, and the kernel then answers ENOSYS.
//! Calls of other architectures kill, by libseccomp's own default.

use std::fmt::Write;

use super::{Arch, Filter, Test, Verdict, table};

const ALLOW: &str = "SCMP_ACT_ALLOW";
const EPERM: &str = "SCMP_ACT_ERRNO";
const ENOSYS: &str = "SCMP_ACT_TRACE";

/// The profile of `filter`, whose unlisted calls fail with EPERM and whose unknown ones fail with ENOSYS.
pub(crate) fn profile(filter: &Filter) -> String {
    let rules: Vec<String> = table::names(filter.arch)
        .flat_map(|(name, number)| rules(name, filter.calls.get(&number).unwrap_or(&filter.default)))
        .collect();
    let arch = match filter.arch {
        Arch::X86_64 => "SCMP_ARCH_X86_64",
        Arch::Aarch64 => "SCMP_ARCH_AARCH64",
    };
    format!(
        "{{\"defaultAction\":\"{ENOSYS}\",\"architectures\":[\"{arch}\"],\"syscalls\":[\n{}\n]}}\n",
        rules.join(",\n")
    )
}

/// The rules of one call; libseccomp takes several as alternatives.
fn rules(name: &str, verdict: &Verdict) -> Vec<String> {
    match verdict {
        Verdict::Allow => vec![rule(name, ALLOW, "")],
        // The default of the profile; libseccomp refuses a rule that repeats it.
        Verdict::Errno(errno) if i32::from(*errno) == libc::ENOSYS => Vec::new(),
        Verdict::Errno(_) | Verdict::Kill => vec![rule(name, EPERM, "")],
        Verdict::AllowIf { alternatives, .. } => alternatives
            .iter()
            .flat_map(|tests| combinations(tests))
            .map(|conditions| rule(name, ALLOW, &conditions))
            .collect(),
    }
}

/// Every way to meet all of `tests`, each as a list of conditions: a condition there knows one value only.
fn combinations(tests: &[Test]) -> Vec<String> {
    tests.iter().fold(vec![String::new()], |ways, test| {
        let conditions = conditions(test);
        let join = |way: &String, condition: &String| match way.as_str() {
            "" => condition.clone(),
            way => format!("{way},{condition}"),
        };
        ways.iter()
            .flat_map(|way| conditions.iter().map(move |condition| join(way, condition)))
            .collect()
    })
}

fn conditions(test: &Test) -> Vec<String> {
    // The kernel takes these arguments as 32 bits, so the upper half does not count.
    let masked = |arg: u8, mask: u32, value: u32| {
        format!("{{\"index\":{arg},\"value\":{mask},\"valueTwo\":{value},\"op\":\"SCMP_CMP_MASKED_EQ\"}}")
    };
    match test {
        Test::OneOf { arg, values } => values
            .iter()
            .map(|value| masked(*arg, u32::MAX, *value))
            .collect(),
        Test::Without { arg, mask } => vec![masked(*arg, *mask, 0)],
        Test::Null { arg } => vec![format!("{{\"index\":{arg},\"value\":0,\"op\":\"SCMP_CMP_EQ\"}}")],
    }
}

fn rule(name: &str, action: &str, conditions: &str) -> String {
    let mut rule = String::new();
    // Writing to a String cannot fail.
    let _ = write!(
        rule,
        "{{\"names\":[\"{name}\"],\"action\":\"{action}\",\"args\":[{conditions}]}}"
    );
    rule
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seccomp::worker;

    fn lines(name: &str) -> Vec<String> {
        let profile = profile(&worker(Arch::X86_64).unwrap());
        let wanted = format!("{{\"names\":[\"{name}\"]");
        let lines = profile.lines().filter(|line| line.starts_with(&wanted));
        lines.map(|line| line.trim_end_matches(',').to_owned()).collect()
    }

    #[test]
    fn the_worker_s_policy_fits_the_profile_s_defaults() {
        for arch in [Arch::X86_64, Arch::Aarch64] {
            let filter = worker(arch).unwrap();
            assert_eq!(filter.default, Verdict::Errno(libc::EPERM as u16));
            assert_eq!(filter.unknown, Verdict::Errno(libc::ENOSYS as u16));
        }
    }

    #[test]
    fn every_call_is_in_the_profile_unless_it_does_not_exist_inside() {
        for arch in [Arch::X86_64, Arch::Aarch64] {
            let profile = profile(&worker(arch).unwrap());
            for (name, _) in table::names(arch) {
                let listed = profile.contains(&format!("[\"{name}\"]"));
                assert_eq!(listed, name != "clone3", "{name}");
            }
        }
    }

    #[test]
    fn verdicts_become_rules() {
        let plain = |name, action| format!("{{\"names\":[\"{name}\"],\"action\":\"{action}\",\"args\":[]}}");
        assert_eq!(lines("read"), [plain("read", ALLOW)]);
        assert_eq!(lines("socket"), [plain("socket", EPERM)]);
        assert_eq!(lines("mount"), [plain("mount", EPERM)]);
        assert_eq!(
            lines("prlimit64"),
            [
                "{\"names\":[\"prlimit64\"],\"action\":\"SCMP_ACT_ALLOW\",\"args\":[{\"index\":2,\"value\":0,\"op\":\
              \"SCMP_CMP_EQ\"}]}"
            ]
        );
    }

    #[test]
    fn conditions_on_several_arguments_become_all_their_combinations() {
        let rule = |option| {
            format!(
                "{{\"names\":[\"setsockopt\"],\"action\":\"SCMP_ACT_ALLOW\",\"args\":[\
                 {{\"index\":1,\"value\":4294967295,\"valueTwo\":1,\"op\":\"SCMP_CMP_MASKED_EQ\"}},\
                 {{\"index\":2,\"value\":4294967295,\"valueTwo\":{option},\"op\":\"SCMP_CMP_MASKED_EQ\"}}]}}"
            )
        };
        assert_eq!(lines("setsockopt"), [rule(20), rule(21)]);
        let without = conditions(&Test::Without { arg: 0, mask: 6 });
        assert_eq!(
            without,
            ["{\"index\":0,\"value\":6,\"valueTwo\":0,\"op\":\"SCMP_CMP_MASKED_EQ\"}"]
        );
    }
}
