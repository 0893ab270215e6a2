//! Workers come and go with demand, and the pool makes a first call cheap.

use crate::{
    harness::{Http, Platform, await_calls, eventually, under_load},
    measures::top,
    project::{Project, c_doee, manifest},
};

/// Answers when it has read the whole body.
const READ_ALL: &str = "char piece[4096]; size_t len = 1; \
    while (len) { isms_result r = isms_body_read(call, piece, sizeof piece, &len); if (r != ISMS_OK) return r; } \
    return say(call, \"ok\");";

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
            most = most.max(platform.workers("busy").len());
        }
        most
    });
    assert_eq!(most, 3);
    eventually("the idle workers' end", || {
        (platform.workers("busy").len() == 1).then_some(())
    });
}

#[test]
fn workers_that_are_kept_run_uncalled_and_come_back_after_a_crash_and_with_a_new_doer() {
    let Some(platform) = Platform::start() else { return };
    let project = |min: u32| {
        Project::c_with(
            "keeps",
            &format!("workers = {{ min = {min}, max = 3 }}"),
            "abort();",
        )
    };
    platform.deploy(project(2).path());
    let idle = || -> Vec<u64> {
        let workers = platform.workers("keeps");
        let idle = workers.iter().filter(|worker| worker["state"] == "idle");
        idle.map(|worker| worker["pid"].as_u64().unwrap()).collect()
    };
    let two_beside = |gone: &[u64]| {
        eventually("two idle workers", || {
            let now = idle();
            let are_new = now.iter().all(|pid| !gone.contains(pid));
            (now.len() == 2 && are_new).then_some(now)
        })
    };
    let first = two_beside(&[]);
    assert_eq!(platform.get("/keeps/").status, 502);
    eventually("another worker for the one that crashed", || {
        let now = idle();
        (now.len() == 2 && now != first).then_some(())
    });
    let of_this_doer = idle();
    platform.process("doer").unwrap().kill();
    two_beside(&of_this_doer);
    platform.deploy(project(0).path());
    eventually("the end of workers that are not kept any more", || {
        platform.workers("keeps").is_empty().then_some(())
    });
}

#[test]
fn the_pool_is_filled_before_the_first_call_and_refilled_after_it() {
    let Some(platform) = Platform::start_with(&["workers = { pool = 2 }"]) else {
        return;
    };
    let empty = || {
        platform
            .workers("")
            .iter()
            .filter(|worker| worker["state"] == "empty")
            .count()
    };
    eventually("a full pool", || (empty() == 2).then_some(()));
    platform.deploy(Project::c("first", "return say(call, \"ok\");").path());
    let pooled: Vec<u64> = platform
        .workers("")
        .iter()
        .map(|worker| worker["worker"].as_u64().unwrap())
        .collect();
    assert_eq!(platform.get("/first/").text(), "ok");
    // On a slow machine the call may have waited so long that a second worker was started for it.
    let serving = platform.workers("first");
    let answered = serving.iter().find(|worker| worker["calls"] == 1).unwrap();
    assert!(
        pooled.contains(&answered["worker"].as_u64().unwrap()),
        "the call took a pooled sandbox"
    );
    eventually("a full pool again", || (empty() == 2).then_some(()));
}

#[test]
fn a_long_call_does_not_hold_up_the_short_ones_that_were_sent_behind_it() {
    let Some(platform) = Platform::start() else { return };
    platform.deploy(Project::c_with("mixed", "workers = { min = 1, max = 2 }", READ_ALL).path());
    under_load(&platform, "/mixed/", |calls| {
        for _ in 0..5 {
            await_calls(calls, 100);
            let mut long = Http::connect(platform.http);
            let head = format!(
                "POST /mixed/ HTTP/1.1\r\nhost: localhost\r\ncontent-length: {}\r\n\r\n",
                1 << 20
            );
            long.write(head.as_bytes()).unwrap();
            // Its worker waits for the body meanwhile.
            await_calls(calls, 100);
            long.write(&vec![b'x'; 1 << 20]).unwrap();
            assert_eq!(long.receive(false).unwrap().status, 200);
        }
    });
}

#[test]
fn a_crash_among_many_calls_of_one_doee_is_the_crash_of_one_call() {
    let Some(platform) = Platform::start() else { return };
    let execute = "if (query_is(call, \"crash\")) abort(); return say(call, \"ok\");";
    platform.deploy(Project::c_with("brittle", "workers = { min = 1, max = 2 }", execute).path());
    under_load(&platform, "/brittle/", |calls| {
        for _ in 0..5 {
            await_calls(calls, 100);
            let answer = platform.get("/brittle/?crash");
            assert_eq!(answer.status, 502, "{}", answer.text());
        }
        await_calls(calls, 100);
    });
}

#[test]
fn batch_calls_leave_the_workers_alone_that_are_kept_for_urgent_ones() {
    let Some(platform) = Platform::start() else { return };
    let keys = "class = \"batch\"\nworkers = { min = 2, max = 2 }\nreserve = { high = 1 }";
    let manifest = manifest("kept", keys).replace("\"GET /\"", "\"GET /\"\nclass = \"high\"");
    let project = Project::new(&manifest).file("doees/main/main.c", c_doee(READ_ALL));
    platform.deploy(project.path());
    // Each of them would keep its worker until its body comes.
    let head = "POST /kept/ HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1000000\r\n\r\n";
    let batch: Vec<_> = (0..3)
        .map(|_| {
            let mut one = Http::connect(platform.http);
            one.write(head.as_bytes()).unwrap();
            one
        })
        .collect();
    let row = || {
        let listed = top(&platform);
        listed["calls"].as_array().unwrap().first().cloned()
    };
    eventually("a batch call that runs and two that wait", || {
        let row = row()?;
        (row["running"] == 1 && row["queued"] == 2).then_some(())
    });
    for _ in 0..20 {
        assert_eq!(platform.get("/kept/").status, 200);
    }
    eventually("one worker that is free again", || {
        let workers = platform.workers("kept");
        let count = |state: &str| workers.iter().filter(|worker| worker["state"] == state).count();
        ((count("idle"), count("busy")) == (1, 1)).then_some(())
    });
    drop(batch);
}
