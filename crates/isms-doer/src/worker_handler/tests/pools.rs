//! Workers of several environments: never mixed, kept ready while they are used, tried once when asked.

use isms_sandbox::spawner::ImageHash;

use super::{
    super::pools::{IMAGE_START_TIMEOUT, SPAWN_RETRY, START_TIMEOUT},
    *,
};

const IMAGE: Environment = Environment {
    image: Some(ImageHash([7; 32])),
    ..Environment::WORKER
};

fn spawn_in(worker: u64, environment: Environment) -> Action {
    Action::Spawn {
        worker: WorkerId(worker),
        environment,
    }
}

fn empty(worker: u64) -> Event {
    Event::Empty {
        worker: WorkerId(worker),
    }
}

fn assign(worker: u64, version: DoeeVersion) -> Action {
    Action::Assign {
        worker: WorkerId(worker),
        version,
    }
}

fn drain(worker: u64) -> Action {
    Action::Drain {
        worker: WorkerId(worker),
    }
}

fn demand(version: DoeeVersion, queued: u32) -> Event {
    Event::Demand { version, queued }
}

fn trial(trial: u64, environment: Environment) -> Event {
    Event::Try {
        trial: TrialId(trial),
        environment,
    }
}

fn tried(trial: u64, outcome: Result<(), WireError>) -> Action {
    Action::Tried {
        trial: TrialId(trial),
        outcome,
    }
}

fn in_image() -> Event {
    loaded(DoeeLimits {
        environment: IMAGE,
        ..LIMITS
    })
}

fn start_failed(worker: u64, error: &WireError) -> Event {
    Event::StartFailed {
        worker: WorkerId(worker),
        error: error.clone(),
    }
}

/// Worker 1, of the common environment, is empty; worker 2 serves `VERSION` in the image and is idle.
fn mixed() -> Scene {
    let mut scene = Scene::new(1);
    scene.on(Event::Tick);
    scene.on(empty(1));
    scene.on(demand(VERSION, 1));
    scene.on(in_image());
    scene.on(empty(2));
    scene.on(Event::Initialized { worker: WorkerId(2) });
    scene.on(demand(VERSION, 0));
    scene
}

#[test]
fn a_pooled_sandbox_is_assigned_at_once_and_the_pool_is_refilled_at_the_next_tick() {
    let mut scene = Scene::new(1);
    scene.expect(Event::Tick, &[spawn(1)]);
    scene.expect(Event::Empty { worker: WorkerId(1) }, &[]);
    scene.on(Event::Demand {
        version: VERSION,
        queued: 1,
    });
    scene.expect(
        loaded(LIMITS),
        &[
            Action::Assign {
                worker: WorkerId(1),
                version: VERSION,
            },
            publish(1),
        ],
    );
    scene.expect(Event::Tick, &[spawn(2)]);
}

#[test]
fn a_pool_is_filled_one_sandbox_after_the_other() {
    let mut scene = Scene::new(3);
    scene.expect(Event::Tick, &[spawn(1)]);
    scene.expect(Event::Tick, &[]);
    assert!(scene.handler.is_pool_short());
    scene.expect(empty(1), &[spawn(2)]);
    scene.expect(empty(2), &[spawn(3)]);
    scene.expect(empty(3), &[]);
    assert!(!scene.handler.is_pool_short());
}

#[test]
fn a_spawner_that_fails_is_not_asked_again_at_once() {
    let mut scene = Scene::new(1);
    scene.on(Event::Tick);
    scene.expect(
        Event::StartFailed {
            worker: WorkerId(1),
            error: WireError::new(ErrorCode::Unavailable, "no memory"),
        },
        &[],
    );
    scene.expect(Event::Tick, &[]);
    scene.after(SPAWN_RETRY).expect(Event::Tick, &[spawn(2)]);
}

#[test]
fn an_empty_worker_is_never_given_a_doee_of_another_environment() {
    let mut scene = Scene::new(1);
    scene.expect(Event::Tick, &[spawn(1)]);
    scene.on(empty(1));
    scene.on(demand(VERSION, 1));
    scene.expect(in_image(), &[spawn_in(2, IMAGE), publish(1)]);
    scene.expect(empty(2), &[assign(2, VERSION)]);
    scene.on(demand(OTHER, 1));
    let common = Event::Loaded {
        version: OTHER,
        outcome: Ok(LIMITS),
    };
    assert!(scene.on(common).contains(&assign(1, OTHER)));
}

#[test]
fn an_environment_that_is_called_has_one_worker_ready_until_it_is_called_no_more() {
    let mut scene = mixed();
    scene.expect(Event::Tick, &[]);
    scene.on(accepted(1));
    scene.expect(Event::Tick, &[spawn_in(3, IMAGE)]);
    scene.on(empty(3));
    scene.on(Event::Answered {
        worker: WorkerId(2),
        task: TaskId(1),
        run_time: Duration::ZERO,
    });
    scene.after(Duration::from_secs(59)).expect(Event::Tick, &[]);
    let actions = scene.after(Duration::from_secs(1)).on(Event::Tick);
    assert_eq!(
        actions,
        [drain(2), publish(0), drain(3)],
        "both have idled long enough"
    );
}

#[test]
fn a_platform_without_a_pool_keeps_no_worker_ready_for_any_environment() {
    let mut scene = Scene::new(0);
    scene.on(demand(VERSION, 1));
    scene.on(in_image());
    scene.on(accepted(1));
    scene.expect(Event::Tick, &[]);
}

#[test]
fn no_more_environments_than_allowed_have_workers_ready() {
    let mut pools = Pools::default();
    let now = Instant::now();
    for number in 0..40 {
        let environment = Environment {
            image: Some(ImageHash([number; 32])),
            ..Environment::WORKER
        };
        pools.note_use(environment, now + Duration::from_secs(number.into()));
        pools.note_use(Environment::WORKER, now);
    }
    let used = pools.used();
    assert_eq!(used.len(), 16);
    assert!(
        used.iter()
            .all(|environment| environment.image >= Some(ImageHash([24; 32])))
    );
}

#[test]
fn what_cannot_start_in_one_environment_holds_up_no_other() {
    let mut scene = mixed();
    scene.on(accepted(1));
    scene.expect(Event::Tick, &[spawn_in(3, IMAGE)]);
    let error = WireError::new(ErrorCode::Unavailable, "the image is gone");
    scene.expect(start_failed(3, &error), &[]);
    scene.expect(Event::Tick, &[]);
    scene.on(demand(OTHER, 1));
    let common = Event::Loaded {
        version: OTHER,
        outcome: Ok(LIMITS),
    };
    assert!(scene.on(common).contains(&assign(1, OTHER)));
    scene.on(demand(OTHER, 0));
    scene.expect(Event::Tick, &[spawn(4)]);
    scene.on(Event::Answered {
        worker: WorkerId(2),
        task: TaskId(1),
        run_time: Duration::ZERO,
    });
    scene.after(SPAWN_RETRY).expect(Event::Tick, &[]);
    scene.on(accepted(2));
    scene.expect(Event::Tick, &[spawn_in(5, IMAGE)]);
}

#[test]
fn empty_workers_of_an_image_that_die_or_lie_are_not_replaced_at_once() {
    let lie = Event::Misbehaved {
        worker: WorkerId(3),
        what: "it lied".to_owned(),
    };
    let death = Event::Exited {
        worker: WorkerId(3),
        how: "died".to_owned(),
        begun: Vec::new(),
    };
    for end in [lie, death] {
        let mut scene = mixed();
        scene.on(accepted(1));
        scene.on(Event::Tick);
        scene.on(empty(3));
        scene.on(end);
        scene.expect(Event::Tick, &[]);
        assert!(!scene.handler.is_pool_short(), "the clock need not hurry");
    }
}

#[test]
fn an_image_may_take_longer_to_start_than_the_common_root() {
    let mut scene = Scene::new(1);
    scene.on(Event::Tick);
    scene.on(trial(1, IMAGE));
    let late = kill(1, "the worker did not start in time");
    scene.after(START_TIMEOUT).expect(Event::Tick, &[late]);
    let error = WireError::new(ErrorCode::TimedOut, "the worker did not start in time");
    let actions = scene.after(IMAGE_START_TIMEOUT).on(Event::Tick);
    assert!(actions.contains(&tried(1, Err(error))), "{actions:?}");
    assert!(
        actions.contains(&kill(2, "the worker did not start in time")),
        "{actions:?}"
    );
}

#[test]
fn a_trial_starts_a_worker_and_leaves_it_ready() {
    let mut scene = Scene::new(1);
    scene.expect(trial(1, IMAGE), &[spawn_in(1, IMAGE)]);
    scene.expect(trial(2, IMAGE), &[]);
    scene.expect(empty(1), &[tried(1, Ok(())), tried(2, Ok(())), spawn(2)]);
    scene.expect(trial(3, IMAGE), &[tried(3, Ok(()))]);
    scene.on(demand(VERSION, 1));
    scene.expect(in_image(), &[assign(1, VERSION), publish(1)]);
    scene.expect(trial(4, IMAGE), &[tried(4, Ok(()))]);
}

#[test]
fn a_trial_that_fails_tells_why() {
    let refused = WireError::new(ErrorCode::Unavailable, "the image has no C library");
    let mut scene = Scene::new(0);
    scene.on(trial(1, IMAGE));
    scene.expect(start_failed(1, &refused), &[tried(1, Err(refused.clone()))]);

    scene.on(trial(2, IMAGE));
    let crashed = WireError::new(
        ErrorCode::Crashed,
        "the worker exited with status 127 while it started",
    );
    let exited = Event::Exited {
        worker: WorkerId(2),
        how: "exited with status 127".to_owned(),
        begun: Vec::new(),
    };
    scene.expect(exited, &[tried(2, Err(crashed))]);

    scene.on(trial(3, IMAGE));
    let lied = Event::Misbehaved {
        worker: WorkerId(3),
        what: "it lied".to_owned(),
    };
    let cut = WireError::new(ErrorCode::Crashed, "the worker was cut off: it lied");
    let expected = [tried(3, Err(cut)), kill(3, "the worker was cut off: it lied")];
    scene.expect(lied, &expected);
}

#[test]
fn a_starting_worker_that_is_given_a_doee_still_answers_its_trial() {
    let mut scene = Scene::new(0);
    scene.on(trial(1, IMAGE));
    scene.on(demand(VERSION, 1));
    // It has started as what nobody waits for.
    let hurry = Action::Hurry { worker: WorkerId(1) };
    scene.expect(in_image(), &[hurry, publish(1)]);
    scene.expect(empty(1), &[assign(1, VERSION), tried(1, Ok(()))]);
}

#[test]
fn where_there_is_no_room_an_empty_worker_of_another_environment_goes_first() {
    let mut scene = Scene::new(8);
    scene.on(Event::Tick);
    for worker in 1..=8 {
        scene.on(empty(worker));
    }
    scene.on(demand(VERSION, 1));
    scene.expect(in_image(), &[drain(1)]);
    scene.on(Event::Exited {
        worker: WorkerId(1),
        how: "exited with status 0".to_owned(),
        begun: Vec::new(),
    });
    scene.expect(Event::Tick, &[spawn_in(9, IMAGE), publish(1)]);
}

#[test]
fn a_trial_waits_for_room_as_long_as_somebody_waits_for_it() {
    let mut scene = Scene::new(8);
    scene.on(Event::Tick);
    for worker in 1..=8 {
        scene.on(empty(worker));
    }
    let gone = |worker: u64| Event::Exited {
        worker: WorkerId(worker),
        how: "exited with status 0".to_owned(),
        begun: Vec::new(),
    };
    scene.expect(trial(1, IMAGE), &[drain(1)]);
    scene.on(gone(1));
    scene.expect(Event::Tick, &[spawn_in(9, IMAGE)]);
    let other = Environment {
        image: Some(ImageHash([8; 32])),
        ..Environment::WORKER
    };
    scene.expect(trial(2, other), &[drain(2)]);
    scene.on(Event::TrialDropped { trial: TrialId(2) });
    scene.on(gone(2));
    scene.expect(Event::Tick, &[spawn(10)]);
}

#[test]
fn a_call_finds_its_worker_cold_pooled_or_warm() {
    let start = |scene: &Scene, task| scene.handler.start_of(WorkerId(1), TaskId(task));
    // Started since a call waits in the Kernel, which comes when the worker is ready.
    let mut scene = Scene::serving(0);
    scene.on(accepted(1));
    assert_eq!(start(&scene, 1), Start::Cold);
    scene.on(answered(1));
    scene.on(accepted(2));
    assert_eq!(start(&scene, 2), Start::Warm, "it has run another one");

    // Taken from the pool, for a call that comes while the Doee is loaded.
    let mut scene = Scene::new(1);
    scene.on(Event::Tick);
    scene.on(Event::Empty { worker: WorkerId(1) });
    scene.on(Event::Demand {
        version: VERSION,
        queued: 1,
    });
    scene.on(loaded(LIMITS));
    scene.on(accepted(1));
    scene.on(Event::Demand {
        version: VERSION,
        queued: 0,
    });
    scene.on(Event::Initialized { worker: WorkerId(1) });
    assert_eq!(start(&scene, 1), Start::Pooled);

    // Kept, whether it is called or not.
    let mut scene = Scene::new(0);
    scene.on(Event::Keep { version: VERSION });
    let kept = DoeeLimits {
        workers_min: 1,
        ..LIMITS
    };
    scene.on(loaded(kept));
    scene.on(Event::Empty { worker: WorkerId(1) });
    scene.on(Event::Initialized { worker: WorkerId(1) });
    scene.on(accepted(1));
    assert_eq!(start(&scene, 1), Start::Warm);
}
