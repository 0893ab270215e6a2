//! Whatever dies, calls in flight get an error, and the platform serves again within two seconds.

use std::{
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use crate::{
    harness::{Http, Platform, descendants, eventually},
    project::Project,
};

/// The longest that the platform may not serve after one of its processes was killed.
const OUTAGE_MAX: Duration = Duration::from_secs(2);
/// The longest that one call may take meanwhile: an error is an answer, silence is not.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// What a client under load has seen.
#[derive(Default)]
struct Seen {
    served: u32,
    errors: u32,
    /// When the platform answered well, in order.
    good: Vec<Instant>,
    slowest: Duration,
    strange: Vec<String>,
}

/// Calls without pause until told to stop.
fn load(platform: &Platform, path: &str, stop: &AtomicBool, seen: &Mutex<Seen>) {
    let mut connection = None;
    while !stop.load(Ordering::Relaxed) {
        let started = Instant::now();
        let mut http = match connection.take() {
            Some(http) => http,
            None => match Http::try_connect(platform.http) {
                Ok(http) => http,
                Err(_) => continue,
            },
        };
        let answer = http.try_send("GET", path, &[], b"");
        let mut seen = seen.lock().unwrap();
        seen.slowest = seen.slowest.max(started.elapsed());
        match answer {
            Ok(answer) if answer.status == 200 => {
                seen.served += 1;
                seen.good.push(Instant::now());
                connection = Some(http);
            }
            // What a caller may be told while a part is missing (RFC 9110: bad gateway, unavailable, time-out).
            Ok(answer) if [502, 503, 504].contains(&answer.status) => {
                seen.errors += 1;
                connection = Some(http);
            }
            Ok(answer) => seen.strange.push(format!("{}: {}", answer.status, answer.text())),
            Err(_) => seen.errors += 1,
        }
    }
}

/// Kills a process under load and checks what the clients saw.
fn kill_under_load(role: &str) {
    let Some(platform) = Platform::start() else { return };
    platform.deploy(Project::c("load", "return say(call, \"ok\");").path());
    assert_eq!(platform.get("/load/").status, 200);
    let (stop, seen) = (AtomicBool::new(false), Mutex::new(Seen::default()));
    let killed = std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| load(&platform, "/load/", &stop, &seen));
        }
        eventually("load", || (seen.lock().unwrap().served > 100).then_some(()));
        let victim = platform.process(role).unwrap();
        let killed = Instant::now();
        victim.kill();
        eventually("the victim's end", || (!victim.is_alive()).then_some(()));
        eventually("the successor", || platform.process(role));
        eventually("service again", || {
            let seen = seen.lock().unwrap();
            let again = seen
                .good
                .iter()
                .filter(|at| **at > killed + Duration::from_millis(500))
                .count();
            (again > 100).then_some(())
        });
        stop.store(true, Ordering::Relaxed);
        killed
    });
    let seen = seen.into_inner().unwrap();
    assert_eq!(seen.strange, Vec::<String>::new(), "after killing {role}");
    assert!(
        seen.slowest <= ANSWER_MAX,
        "an answer took {:?} after killing {role}",
        seen.slowest
    );
    let gap = seen
        .good
        .windows(2)
        .filter(|pair| pair[1] > killed)
        .map(|pair| pair[1] - pair[0])
        .max()
        .unwrap();
    assert!(
        gap <= OUTAGE_MAX,
        "no call was served for {gap:?} after killing {role}"
    );
    eprintln!(
        "{role}: {} served, {} errors, longest gap {gap:?}",
        seen.served, seen.errors
    );
}

#[test]
fn the_kernel_is_killed_under_load() {
    kill_under_load("kernel");
}

#[test]
fn the_doer_is_killed_under_load() {
    kill_under_load("doer");
}

#[test]
fn commserver_is_killed_under_load() {
    kill_under_load("commserver");
}

#[test]
fn resadmin_is_killed_under_load() {
    kill_under_load("resadmin");
}

#[test]
fn dbriver_is_killed_under_load() {
    kill_under_load("dbriver");
}

#[test]
fn gate_is_killed_under_load() {
    kill_under_load("gate");
}

#[test]
fn the_spawner_is_killed_under_load() {
    kill_under_load("spawner");
}

#[test]
fn a_worker_is_killed_under_load_and_only_its_call_fails() {
    let Some(platform) = Platform::start() else { return };
    platform.deploy(Project::c("load", "return say(call, \"ok\");").path());
    assert_eq!(platform.get("/load/").status, 200);
    let victim = platform.worker_of("load");
    victim.kill();
    eventually("the victim's end", || (!victim.is_alive()).then_some(()));
    eventually("service again", || {
        (platform.get("/load/").status == 200).then_some(())
    });
}

#[test]
fn when_the_supervisor_is_killed_nothing_is_left_two_seconds_later() {
    let Some(mut platform) = Platform::start() else {
        return;
    };
    platform.deploy(Project::c("load", "return say(call, \"ok\");").path());
    assert_eq!(platform.get("/load/").status, 200);
    let processes = descendants(platform.pid());
    assert!(processes.len() > 8, "{processes:?}");
    platform.kill_supervisor();
    let until = Instant::now() + Duration::from_secs(2);
    let left = || -> Vec<String> {
        let alive = processes
            .iter()
            .filter(|process| process.is_alive())
            .map(|process| format!("{process:?}"));
        alive.chain(leftovers(&platform)).collect()
    };
    while !left().is_empty() && Instant::now() < until {
        std::thread::park_timeout(Duration::from_millis(10));
    }
    assert_eq!(left(), Vec::<String>::new());
}

/// Mounts, cgroups and sockets that name the platform's data directory or belong to it.
fn leftovers(platform: &Platform) -> Vec<String> {
    let data = platform.data.path();
    let name = data.file_name().unwrap().to_str().unwrap();
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let mounts = mounts
        .lines()
        .filter(|line| line.contains(name))
        .map(str::to_owned);
    let socket = data.join("run/kernel.sock");
    let sockets = socket.exists().then(|| socket.display().to_string());
    mounts.chain(sockets).chain(cgroups()).collect()
}

/// Cgroups of any platform: each test has its own process, and those that run beside keep theirs; so only
/// empty ones count.
fn cgroups() -> Vec<String> {
    let Ok(controllers) = std::fs::read_dir("/sys/fs/cgroup") else {
        return Vec::new();
    };
    let folders = controllers
        .filter_map(Result::ok)
        .filter_map(|entry| std::fs::read_dir(entry.path()).ok());
    let ours = folders.flatten().filter_map(Result::ok).filter(|entry| {
        entry.file_name().to_string_lossy().starts_with("isms-")
            && std::fs::read_to_string(entry.path().join("cgroup.procs"))
                .is_ok_and(|processes| processes.is_empty())
            && std::fs::read_dir(entry.path())
                .is_ok_and(|children| !children.filter_map(Result::ok).any(|child| child.path().is_dir()))
    });
    ours.map(|entry| entry.path().display().to_string()).collect()
}

#[test]
fn after_everything_was_killed_the_next_start_sweeps_and_serves() {
    let Some(mut platform) = Platform::start() else {
        return;
    };
    platform.deploy(Project::c("load", "return say(call, \"ok\");").path());
    assert_eq!(platform.get("/load/").status, 200);
    let processes = descendants(platform.pid());
    if let Some(spawner) = platform.process("spawner") {
        spawner.kill();
    }
    platform.kill_supervisor();
    eventually("the end of every process", || {
        processes.iter().all(|process| !process.is_alive()).then_some(())
    });
    let platform = platform.restart_after_kill();
    assert_eq!(platform.get("/load/").text(), "ok");
}
