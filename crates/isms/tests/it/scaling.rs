//! Workers come and go with demand, and the pool makes a first call cheap.

use serde_json::Value;

use crate::{
    harness::{Platform, eventually},
    project::Project,
};

fn workers(platform: &Platform, project: &str) -> Vec<Value> {
    let listed: Value = serde_json::from_slice(&platform.isms(&["ps", "--json"]).stdout).unwrap();
    let workers = listed["workers"].as_array().unwrap();
    workers
        .iter()
        .filter(|worker| worker["project_name"] == project)
        .cloned()
        .collect()
}

#[test]
fn demand_that_lasts_starts_workers_up_to_the_maximum_and_idle_ones_go() {
    let Some(platform) = Platform::start_with(&["workers = { idle_s = 1 }"]) else {
        return;
    };
    let project = Project::c_with(
        "busy",
        "workers = { min = 1, max = 3 }",
        "usleep(30000); return say(call, \"ok\");",
    );
    platform.deploy(project.path());
    let most = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| {
                    for _ in 0..20 {
                        assert_eq!(platform.get("/busy/").status, 200);
                    }
                })
            })
            .collect();
        let mut most = 0;
        while clients.iter().any(|client| !client.is_finished()) {
            most = most.max(workers(&platform, "busy").len());
        }
        most
    });
    assert_eq!(most, 3);
    eventually("the idle workers' end", || {
        (workers(&platform, "busy").len() == 1).then_some(())
    });
}

#[test]
fn the_pool_is_filled_before_the_first_call_and_refilled_after_it() {
    let Some(platform) = Platform::start_with(&["workers = { pool = 2 }"]) else {
        return;
    };
    let empty = || {
        workers(&platform, "")
            .iter()
            .filter(|worker| worker["state"] == "empty")
            .count()
    };
    eventually("a full pool", || (empty() == 2).then_some(()));
    platform.deploy(Project::c("first", "return say(call, \"ok\");").path());
    let pooled: Vec<u64> = workers(&platform, "")
        .iter()
        .map(|worker| worker["worker"].as_u64().unwrap())
        .collect();
    assert_eq!(platform.get("/first/").text(), "ok");
    let serving = workers(&platform, "first");
    assert_eq!(serving.len(), 1);
    assert!(
        pooled.contains(&serving[0]["worker"].as_u64().unwrap()),
        "the call took a pooled sandbox"
    );
    eventually("a full pool again", || (empty() == 2).then_some(()));
}
