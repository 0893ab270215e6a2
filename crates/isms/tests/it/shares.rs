//! What projects get where they share the platform: set by an administrator, kept, enforced.

use serde_json::{Value, json};

use crate::{harness::Platform, project::Project};

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
    assert!(text.contains("`weight` is 0; it is 1 to 10000"), "{text}");
    let shown = platform.isms(&["project", "heavy"]);
    let text = String::from_utf8(shown.stdout).unwrap();
    assert!(text.lines().any(|line| line == "weight   300"), "{text}");

    let platform = platform.restart();
    assert_eq!(settings(&platform, &["heavy"])["weight"], json!(300));
    assert_eq!(platform.get("/heavy/").text(), "ok");
}
