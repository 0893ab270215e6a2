//! What projects get where they share the platform: set by an administrator, kept, enforced.

use serde_json::{Value, json};

use crate::{
    harness::{Platform, eventually, signal},
    project::Project,
};

/// What `isms project` prints as JSON.
fn settings(platform: &Platform, arguments: &[&str]) -> Value {
    let output = platform.isms(&[&["project", "--json"], arguments].concat());
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn a_projects_weight_is_set_shown_and_kept() {
    let Some(platform) = Platform::start() else { return };
    platform.deploy(Project::c("heavy", "return say(call, \"ok\");").path());
    assert_eq!(settings(&platform, &["heavy"])["weight"], json!(100));
    assert_eq!(
        settings(&platform, &["heavy", "--weight", "300"])["weight"],
        json!(300)
    );
    let refused = platform.isms(&["project", "heavy", "--weight", "0"]);
    assert!(!refused.status.success());
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(text.contains("0 is not in 1..=10000"), "{text}");
    let shown = platform.isms(&["project", "heavy"]);
    let text = String::from_utf8(shown.stdout).unwrap();
    assert!(
        text.lines()
            .any(|line| line.split_whitespace().eq(["weight", "300"])),
        "{text}"
    );

    let platform = platform.restart();
    assert_eq!(settings(&platform, &["heavy"])["weight"], json!(300));
    assert_eq!(platform.get("/heavy/").text(), "ok");
}

#[test]
fn calls_beyond_a_projects_rate_are_429_and_those_of_others_pass() {
    let Some(platform) = Platform::start() else { return };
    for name in ["slow", "quick"] {
        platform.deploy(Project::c(name, "return say(call, \"ok\");").path());
    }
    assert_eq!(
        settings(&platform, &["slow", "--rate-max", "1"])["rate_max"],
        json!(1)
    );
    // One a second passes, and they come much faster.
    let answers = (0..1000).map(|_| platform.get("/slow/"));
    let refused = answers.into_iter().find(|answer| answer.status != 200).unwrap();
    assert_eq!(refused.status, 429, "{}", refused.text());
    assert_eq!(refused.header("retry-after"), Some("1"));
    let problem = refused.json();
    assert_eq!(problem["type"], "https://isms.invalid/errors/RateLimited");
    for _ in 0..20 {
        assert_eq!(platform.get("/quick/").status, 200);
    }
    settings(&platform, &["slow", "--rate-max", "0"]);
    for _ in 0..20 {
        assert_eq!(platform.get("/slow/").status, 200);
    }
}

#[test]
fn a_kernel_that_comes_anew_learns_the_limits() {
    let Some(platform) = Platform::start() else { return };
    platform.deploy(Project::c("slow", "return say(call, \"ok\");").path());
    settings(&platform, &["slow", "--rate-max", "1"]);
    a_new_kernel_refuses(&platform, "/slow/");
}

/// Kills the Kernel, and waits for an answer of the next one that is beyond a rate.
pub(crate) fn a_new_kernel_refuses(platform: &Platform, path: &str) {
    let before = platform.process("kernel").unwrap();
    signal(before.pid, rustix::process::Signal::KILL);
    eventually("a refusal by the new Kernel", || {
        let is_new = platform
            .process("kernel")
            .is_some_and(|kernel| kernel.pid != before.pid);
        (is_new && platform.get(path).status == 429).then_some(())
    });
}
