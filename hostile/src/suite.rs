//! Runs the probes one after another and judges each.

use std::{
    collections::BTreeMap,
    os::unix::fs::MetadataExt,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use ureq::Agent;

use crate::{Backend, Binaries, Outcome, Probe, Target, project::Projects, world::World};

/// Longer than any probe's deadline, start and queueing included.
const CALL_TIMEOUT: Duration = Duration::from_secs(40);

/// For a machine that is too slow at the moment to start a worker within the platform's limits.
const START_MAX: Duration = Duration::from_secs(15);
/// What the platform asks for before the next try.
const START_INTERVAL: Duration = Duration::from_secs(1);

/// What to run where.
pub struct Suite<'a> {
    /// The platform.
    pub target: &'a Target,
    /// The compiled probes.
    pub binaries: &'a Binaries,
    /// The walls.
    pub backend: &'a Backend,
    /// The probes, in order.
    pub probes: &'a [Probe],
    /// The machine is there to be harmed: probes that would end it, if they got through, really try.
    pub throwaway: bool,
}

/// Runs a suite; `before` and `after` hear of each probe. `after` gets its number, from 0.
pub fn run(
    suite: &Suite<'_>,
    mut before: impl FnMut(usize, &Probe),
    mut after: impl FnMut(usize, &Outcome),
) -> Result<Vec<Outcome>> {
    let mut world = World::plant(suite.target, suite.throwaway)?;
    let projects = Projects {
        target: suite.target,
        binaries: suite.binaries,
        backend: suite.backend,
        scratch: &world.scratch(),
    };
    projects.deploy_neighbour(world.secret())?;
    world.meet_neighbour(suite.target)?;
    let paths = projects.deploy_probes(suite.probes, &world.targets(suite.target))?;
    world.settle();
    let harm = world.check();
    ensure!(
        harm.is_empty(),
        "not well before the first probe: {}",
        harm.join("; ")
    );
    let owner = std::fs::metadata(format!("/proc/{}", suite.target.supervisor));
    let shared_uid = owner.is_ok_and(|owner| owner.uid() != 0);
    let mut outcomes = Vec::new();
    for (number, (probe, path)) in suite.probes.iter().zip(paths).enumerate() {
        before(number, probe);
        let mut probe = suite.backend.expected(probe);
        if shared_uid {
            probe.expect.extend(probe.shared_uid.clone());
        }
        let answer = call_until_it_runs(&suite.target.http, &path);
        let harm = world.check();
        let mut outcome = judge(&probe, &answer, &[world.secret(), &suite.target.token], harm);
        if !outcome.harm.is_empty() {
            outcome.spoilt = !world.mend();
        }
        after(number, &outcome);
        outcomes.push(outcome);
    }
    Ok(outcomes)
}

/// What a call came to.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Answer {
    /// Steps with their outcomes.
    Steps(Vec<(String, String)>),
    /// A problem document's detail.
    Problem(String),
    /// None at all.
    Nothing(String),
}

impl Answer {
    /// Whether the probe was called at all; that its worker did not start says nothing about it.
    fn ran(&self) -> bool {
        let Self::Problem(detail) = self else { return true };
        !(detail.starts_with("503: ") || detail.contains("handshake did not end"))
    }
}

fn call_until_it_runs(http: &str, path: &str) -> Answer {
    let until = Instant::now() + START_MAX;
    loop {
        let answer = call(http, path);
        if answer.ran() || Instant::now() >= until {
            return answer;
        }
        std::thread::sleep(START_INTERVAL);
    }
}

fn call(http: &str, path: &str) -> Answer {
    let agent: Agent = Agent::config_builder()
        .timeout_global(Some(CALL_TIMEOUT))
        .http_status_as_error(false)
        .build()
        .into();
    let received = (|| -> Result<(u16, String)> {
        let mut response = agent.get(format!("http://{http}{path}")).call()?;
        let status = response.status().as_u16();
        Ok((status, response.body_mut().read_to_string()?))
    })();
    match received {
        Ok((200, text)) => Answer::Steps(
            text.lines()
                .map(|line| line.rsplit_once('\t').unwrap_or((line, "no outcome")))
                .map(|(step, outcome)| (step.to_owned(), outcome.to_owned()))
                .collect(),
        ),
        Ok((status, text)) => {
            let problem: Value = serde_json::from_str(&text).unwrap_or_default();
            let detail = problem["detail"].as_str().unwrap_or(&text);
            Answer::Problem(format!("{status}: {detail}"))
        }
        Err(error) => Answer::Nothing(error.to_string()),
    }
}

/// Secrets that an answer holds are harm, and are not told.
fn judge(probe: &Probe, answer: &Answer, secrets: &[&str], mut harm: Vec<String>) -> Outcome {
    let expected = |outcome: &String| probe.expect.contains(outcome);
    let (as_expected, got_through, seen) = match answer {
        Answer::Steps(steps) => {
            let leaks = |(step, _): &(String, String)| secrets.iter().any(|secret| step.contains(secret));
            if steps.iter().any(leaks) {
                harm.push("the answer holds a secret".to_owned());
            }
            let all = !steps.is_empty() && steps.iter().all(|(_, outcome)| expected(outcome));
            let through = steps
                .iter()
                .any(|(_, outcome)| outcome == "ok" && !expected(outcome))
                || probe.expect.is_empty();
            let told = |step: &str| {
                secrets
                    .iter()
                    .fold(step.to_owned(), |text, secret| text.replace(secret, "(secret)"))
            };
            let told: Vec<_> = steps
                .iter()
                .map(|(step, outcome)| (told(step), outcome.clone()))
                .collect();
            (all, through, summary(&told, &expected))
        }
        Answer::Problem(detail) => {
            let listed = probe.ends.iter().any(|end| detail.contains(end));
            (listed, false, shorten(detail))
        }
        Answer::Nothing(error) => (false, true, format!("no answer: {}", shorten(error))),
    };
    Outcome {
        probe: probe.name.clone(),
        attacks: probe.attacks.clone(),
        contained: as_expected && harm.is_empty(),
        succeeded: got_through || !harm.is_empty(),
        seen: secrets
            .iter()
            .fold(seen, |seen, secret| seen.replace(secret, "(secret)")),
        harm,
        ran: answer.ran(),
        spoilt: false,
    }
}

/// How many steps came to what; steps that were not refused as expected by their text.
fn summary(steps: &[(String, String)], expected: &dyn Fn(&String) -> bool) -> String {
    let mut counts = BTreeMap::new();
    let mut told = Vec::new();
    for (step, outcome) in steps {
        if expected(outcome) {
            *counts.entry(outcome).or_insert(0) += 1;
        } else {
            told.push(format!("{}: {outcome}", shorten(step)));
        }
    }
    let counted = counts.into_iter().map(|(outcome, count)| match count {
        1 => outcome.clone(),
        count => format!("{count} × {outcome}"),
    });
    told.into_iter().chain(counted).collect::<Vec<_>>().join(", ")
}

fn shorten(text: &str) -> String {
    const LEN_MAX: usize = 120;
    let line: String = text
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    match line.char_indices().nth(LEN_MAX) {
        Some((at, _)) => format!("{} …", &line[..at]),
        None => line,
    }
}

/// The neighbour's process, from `isms ps`.
pub(crate) fn neighbour(target: &Target) -> Result<u32> {
    let output = target
        .command(&["ps", "--json"])
        .output()
        .context("cannot start isms ps")?;
    let listed: Value = serde_json::from_slice(&output.stdout).context("isms ps prints no JSON")?;
    let workers = listed["workers"].as_array().cloned().unwrap_or_default();
    let found = workers
        .iter()
        .find(|worker| worker["project_name"] == "neighbour");
    let pid = found.and_then(|worker| worker["pid"].as_u64());
    Ok(pid.context("the neighbour has no worker")? as u32)
}

/// Asks the neighbour; it must be as it was.
pub(crate) fn ask_neighbour(target: &Target) -> Result<(), String> {
    match call(&target.http, "/neighbour/neighbour") {
        Answer::Steps(steps) if steps.first().is_some_and(|(step, _)| step == "fine") => Ok(()),
        other => Err(format!("the neighbour answers {other:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn probe(expect: &[&str], ends: &[&str]) -> Probe {
        Probe {
            name: "p".to_owned(),
            attacks: "something".to_owned(),
            expect: expect.iter().map(|text| (*text).to_owned()).collect(),
            shared_uid: Vec::new(),
            refused_by: None,
            ends: ends.iter().map(|text| (*text).to_owned()).collect(),
            binary: "probes".to_owned(),
            arch: None,
            manifest: toml::Table::new(),
        }
    }

    fn steps(outcomes: &[&str]) -> Answer {
        Answer::Steps(
            outcomes
                .iter()
                .map(|outcome| ("step".to_owned(), (*outcome).to_owned()))
                .collect(),
        )
    }

    fn verdict(probe: &Probe, answer: &Answer, harm: &[&str]) -> (bool, bool) {
        let harm = harm.iter().map(|text| (*text).to_owned()).collect();
        let outcome = judge(probe, answer, &["s3cret", "t0ken"], harm);
        (outcome.contained, outcome.succeeded)
    }

    #[test]
    fn contained_is_only_what_was_refused_as_expected_and_did_no_harm() {
        let refused = probe(&["EPERM"], &[]);
        assert_eq!(verdict(&refused, &steps(&["EPERM", "EPERM"]), &[]), (true, false));
        assert_eq!(verdict(&refused, &steps(&["EPERM", "ok"]), &[]), (false, true));
        assert_eq!(
            verdict(&refused, &steps(&["EPERM", "EROFS"]), &[]),
            (false, false)
        );
        assert_eq!(verdict(&refused, &steps(&[]), &[]), (false, false));
        assert_eq!(
            verdict(&refused, &steps(&["EPERM"]), &["a file is gone"]),
            (false, true)
        );
        let crash = Answer::Problem("502: the worker died of signal 11".to_owned());
        assert_eq!(verdict(&refused, &crash, &[]), (false, false));
    }

    #[test]
    fn an_end_counts_only_where_it_is_expected() {
        let killed = probe(&[], &["memory limit"]);
        let problem = |text: &str| Answer::Problem(text.to_owned());
        assert_eq!(
            verdict(&killed, &problem("502: … memory limit"), &[]),
            (true, false)
        );
        assert_eq!(verdict(&killed, &problem("503: no room"), &[]), (false, false));
        assert_eq!(verdict(&killed, &steps(&["cut"]), &[]), (false, true));
        assert_eq!(
            verdict(&killed, &Answer::Nothing("refused".to_owned()), &[]),
            (false, true)
        );
    }

    #[test]
    fn a_worker_that_did_not_start_says_nothing_about_its_probe() {
        let ran = |detail: &str| Answer::Problem(detail.to_owned()).ran();
        assert!(!ran("503: the sandbox could not be started a moment ago"));
        assert!(!ran(
            "502: the worker was cut off: handshake did not end within 1000 ms"
        ));
        assert!(ran("502: the worker died of signal 11 (SIGSEGV)"));
        assert!(Answer::Steps(Vec::new()).ran());
    }

    #[test]
    fn an_answer_that_holds_a_secret_is_harm_and_the_secret_is_not_told() {
        let leak = Answer::Steps(vec![("root:s3cret".to_owned(), "EPERM".to_owned())]);
        assert_eq!(verdict(&probe(&["EPERM"], &[]), &leak, &[]), (false, true));
        let leak = Answer::Steps(vec![("isms_t0ken".to_owned(), "ok".to_owned())]);
        let outcome = judge(&probe(&["EPERM"], &[]), &leak, &["s3cret", "t0ken"], Vec::new());
        assert_eq!(outcome.seen, "isms_(secret): ok");
    }
}
