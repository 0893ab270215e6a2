//! The decisions about workers: exact actions for small histories, and random ones.

use isms_protocol::{ErrorCode, limits::CANCEL_GRACE};

use super::{calls::cancelled_error, *};

mod pools;
mod random;
mod reserved;
mod sent_ahead;

const VERSION: DoeeVersion = DoeeVersion::from_bytes([1; 16]);
const OTHER: DoeeVersion = DoeeVersion::from_bytes([2; 16]);
const LIMITS: DoeeLimits = DoeeLimits {
    timeout: Duration::from_millis(500),
    workers_min: 0,
    workers_max: 4,
    concurrency: 0,
    reserved: Reserved([0; 3]),
    environment: Environment::WORKER,
};

/// A handler with a clock that only `after` moves.
struct Scene {
    handler: WorkerHandler,
    now: Instant,
}

impl Scene {
    fn new(pool_size: usize) -> Scene {
        let config = HandlerConfig {
            pool_size,
            workers_max: 8,
            idle_ttl: Duration::from_secs(60),
            worker_calls_max: WORKER_CALLS_MAX,
        };
        Scene {
            handler: WorkerHandler::new(config),
            now: Instant::now(),
        }
    }

    fn after(&mut self, duration: Duration) -> &mut Scene {
        self.now += duration;
        self
    }

    fn on(&mut self, event: Event) -> Vec<Action> {
        let mut actions = Vec::new();
        self.handler.handle(self.now, event, &mut actions);
        actions
    }

    fn expect(&mut self, event: Event, expected: &[Action]) {
        let text = format!("{event:?}");
        assert_eq!(self.on(event), expected, "after {text}");
    }

    /// Worker 1 serves `VERSION` and is idle.
    fn serving(pool_size: usize) -> Scene {
        let mut scene = Scene::new(pool_size);
        scene.on(Event::Demand {
            version: VERSION,
            queued: 1,
        });
        scene.on(loaded(LIMITS));
        scene.on(Event::Empty { worker: WorkerId(1) });
        scene.on(Event::Initialized { worker: WorkerId(1) });
        scene.on(Event::Demand {
            version: VERSION,
            queued: 0,
        });
        scene
    }

    /// Worker 1 has task 1.
    fn running() -> Scene {
        let mut scene = Scene::serving(0);
        scene.on(accepted(1));
        scene
    }
}

fn loaded(limits: DoeeLimits) -> Event {
    Event::Loaded {
        version: VERSION,
        outcome: Ok(limits),
    }
}

fn accepted(task: u64) -> Event {
    Event::Accepted {
        task: TaskId(task),
        version: VERSION,
        class: Class::Normal,
        streams: false,
    }
}

fn answered(task: u64) -> Event {
    Event::Answered {
        worker: WorkerId(1),
        task: TaskId(task),
        run_time: Duration::ZERO,
    }
}

/// Worker 1 is gone.
fn exited(how: &str, begun: &[u64]) -> Event {
    Event::Exited {
        worker: WorkerId(1),
        how: how.to_owned(),
        begun: begun.iter().copied().map(TaskId).collect(),
    }
}

fn gone(worker: u64) -> Event {
    Event::Gone {
        worker: WorkerId(worker),
    }
}

fn run(worker: u64, task: u64) -> Action {
    Action::Run {
        worker: WorkerId(worker),
        task: TaskId(task),
    }
}

fn fail(task: u64, code: ErrorCode, message: &str) -> Action {
    Action::Fail {
        task: TaskId(task),
        error: WireError::new(code, message),
    }
}

fn kill(worker: u64, why: &str) -> Action {
    Action::Kill {
        worker: WorkerId(worker),
        why: why.to_owned(),
    }
}

fn spawn(worker: u64) -> Action {
    Action::Spawn {
        worker: WorkerId(worker),
        environment: Environment::WORKER,
    }
}

fn publish(capacity: u32) -> Action {
    Action::Publish {
        version: VERSION,
        slots: Slots::all(capacity),
    }
}

#[test]
fn the_first_demand_loads_the_doee_and_a_starting_worker_counts_as_one_slot() {
    let mut scene = Scene::new(0);
    scene.expect(
        Event::Demand {
            version: VERSION,
            queued: 3,
        },
        &[Action::Load { version: VERSION }],
    );
    scene.expect(loaded(LIMITS), &[spawn(1), publish(1)]);
    scene.expect(accepted(1), &[]);
    scene.expect(
        Event::Empty { worker: WorkerId(1) },
        &[Action::Assign {
            worker: WorkerId(1),
            version: VERSION,
        }],
    );
    scene.expect(
        Event::Initialized { worker: WorkerId(1) },
        &[Action::Run {
            worker: WorkerId(1),
            task: TaskId(1),
        }],
    );
}

#[test]
fn an_answered_worker_takes_the_task_that_waits_longest() {
    let mut scene = Scene::running();
    scene.expect(accepted(2), &[]);
    scene.expect(accepted(3), &[]);
    scene.expect(
        answered(1),
        &[Action::Run {
            worker: WorkerId(1),
            task: TaskId(2),
        }],
    );
}

#[test]
fn demand_that_lasts_doubles_the_workers_up_to_the_maximum() {
    let mut scene = Scene::running();
    scene.expect(
        Event::Demand {
            version: VERSION,
            queued: 9,
        },
        &[],
    );
    scene
        .after(SCALE_UP_AFTER)
        .expect(Event::Tick, &[spawn(2), publish(2)]);
    scene.expect(Event::Tick, &[spawn(3), spawn(4), publish(4)]);
    scene.expect(Event::Tick, &[]);
}

#[test]
fn a_doee_with_a_concurrency_gets_neither_more_calls_nor_more_workers() {
    let mut scene = Scene::new(0);
    let queued = 9;
    scene.on(Event::Demand {
        version: VERSION,
        queued,
    });
    let mut actions = scene.on(loaded(DoeeLimits {
        concurrency: 2,
        ..LIMITS
    }));
    for worker in 1..=2 {
        actions.extend(scene.on(Event::Empty {
            worker: WorkerId(worker),
        }));
        actions.extend(scene.on(Event::Initialized {
            worker: WorkerId(worker),
        }));
        actions.extend(scene.after(SCALE_UP_AFTER).on(Event::Tick));
        actions.extend(scene.on(Event::Tick));
    }
    let spawned = actions
        .iter()
        .filter(|action| matches!(action, Action::Spawn { .. }));
    assert!(spawned.count() <= 2, "{actions:?}");
    let published = actions.iter().filter_map(|action| match action {
        Action::Publish { slots, .. } => Some(slots.capacity),
        _ => None,
    });
    assert_eq!(published.max(), Some(2), "{actions:?}");
}

#[test]
fn a_call_over_its_time_limit_fails_and_its_worker_is_killed_and_replaced_on_demand() {
    let mut scene = Scene::running();
    scene.after(Duration::from_millis(499)).expect(Event::Tick, &[]);
    scene.after(Duration::from_millis(1)).expect(
        Event::Tick,
        &[
            fail(
                1,
                ErrorCode::TimedOut,
                "the function ran longer than its timeout_ms = 500",
            ),
            kill(1, "its call ran longer than its time limit"),
            publish(0),
        ],
    );
    scene.expect(
        Event::Demand {
            version: VERSION,
            queued: 1,
        },
        &[spawn(2), publish(1)],
    );
    scene.expect(exited("was killed", &[1]), &[]);
}

#[test]
fn a_crash_fails_the_call_and_nothing_else() {
    let mut scene = Scene::running();
    scene.expect(
        exited("died of signal 11 (SIGSEGV)", &[1]),
        &[
            fail(
                1,
                ErrorCode::Crashed,
                "the worker died of signal 11 (SIGSEGV) while it ran the call",
            ),
            publish(0),
        ],
    );
    scene.expect(
        Event::Demand {
            version: VERSION,
            queued: 1,
        },
        &[spawn(2), publish(1)],
    );
}

#[test]
fn a_worker_that_is_gone_is_given_no_more_calls_while_its_last_words_are_read() {
    let mut scene = Scene::running();
    scene.expect(gone(1), &[publish(0)]);
    // A call that comes now waits for another worker, and what the dead one has answered frees nothing.
    scene.expect(accepted(2), &[spawn(2), publish(1)]);
    scene.expect(answered(1), &[]);
    scene.on(Event::Empty { worker: WorkerId(2) });
    scene.expect(Event::Initialized { worker: WorkerId(2) }, &[run(2, 2)]);
    scene.after(LIMITS.timeout / 2).expect(Event::Tick, &[]);
    scene.expect(exited("was killed", &[]), &[]);
}

#[test]
fn an_idle_or_empty_worker_that_is_gone_is_not_taken() {
    let mut scene = Scene::serving(0);
    scene.expect(gone(1), &[publish(0)]);
    scene.expect(accepted(1), &[spawn(2), publish(1)]);

    let mut scene = Scene::new(1);
    scene.on(Event::Tick);
    scene.on(Event::Empty { worker: WorkerId(1) });
    scene.expect(gone(1), &[]);
    scene.on(accepted(1));
    scene.expect(loaded(LIMITS), &[spawn(2), publish(1)]);
}

#[test]
fn a_worker_that_is_gone_before_it_was_initialized_is_not_replaced_before_it_is_known_why() {
    let mut scene = Scene::new(0);
    scene.on(accepted(1));
    scene.on(loaded(LIMITS));
    scene.on(Event::Empty { worker: WorkerId(1) });
    scene.expect(gone(1), &[]);
    scene.after(BUSY_TICK).expect(Event::Tick, &[]);
    let why = "the worker was killed while it loaded and initialized its Doee";
    scene.expect(
        exited("was killed", &[]),
        &[fail(1, ErrorCode::Crashed, why), publish(FAILED_CAPACITY)],
    );
}

#[test]
fn a_doee_that_cannot_start_tells_each_caller_why_until_it_is_tried_again() {
    let mut scene = Scene::new(0);
    scene.on(Event::Demand {
        version: VERSION,
        queued: 2,
    });
    scene.on(loaded(LIMITS));
    scene.on(accepted(1));
    scene.on(Event::Empty { worker: WorkerId(1) });
    let error = WireError::new(ErrorCode::DoeeFailed, "initialize failed: no such window");
    scene.expect(
        Event::StartFailed {
            worker: WorkerId(1),
            error: error.clone(),
        },
        &[
            kill(1, "its Doee failed to start"),
            Action::Fail {
                task: TaskId(1),
                error: error.clone(),
            },
            publish(FAILED_CAPACITY),
        ],
    );
    scene.expect(
        accepted(2),
        &[Action::Fail {
            task: TaskId(2),
            error,
        }],
    );
    scene.on(Event::Demand {
        version: VERSION,
        queued: 1,
    });
    scene
        .after(BACKOFF.0)
        .expect(Event::Tick, &[spawn(2), publish(1)]);
}

#[test]
fn a_version_that_cannot_be_loaded_answers_with_the_reason() {
    let mut scene = Scene::new(0);
    scene.on(Event::Demand {
        version: VERSION,
        queued: 1,
    });
    let error = WireError::new(ErrorCode::NotFound, "no such version");
    scene.expect(
        Event::Loaded {
            version: VERSION,
            outcome: Err(error.clone()),
        },
        &[publish(FAILED_CAPACITY)],
    );
    scene.expect(
        accepted(1),
        &[Action::Fail {
            task: TaskId(1),
            error,
        }],
    );
}

#[test]
fn a_cancelled_call_is_asked_first_and_killed_after_the_grace() {
    let mut scene = Scene::running();
    scene.expect(accepted(2), &[]);
    scene.expect(
        Event::Cancelled { task: TaskId(2) },
        &[fail(
            2,
            ErrorCode::Cancelled,
            "the call was cancelled by its caller",
        )],
    );
    scene.expect(
        Event::Cancelled { task: TaskId(1) },
        &[Action::AskCancel { task: TaskId(1) }],
    );
    scene.expect(Event::Cancelled { task: TaskId(1) }, &[]);
    scene.after(Duration::from_millis(400)).expect(Event::Tick, &[]);
    scene.after(CANCEL_GRACE).expect(
        Event::Tick,
        &[
            fail(1, ErrorCode::Cancelled, "the call was cancelled by its caller"),
            kill(1, "it did not give up its cancelled call"),
            publish(0),
        ],
    );
}

#[test]
fn a_retired_version_drains_its_idle_workers_at_once_and_busy_ones_after_their_call() {
    let mut scene = Scene::running();
    scene.expect(Event::Retire { version: VERSION }, &[]);
    scene.expect(answered(1), &[Action::Drain { worker: WorkerId(1) }, publish(0)]);
    scene.expect(exited("exited", &[1]), &[]);
}

#[test]
fn a_worker_above_the_minimum_goes_when_it_has_idled_too_long() {
    let mut scene = Scene::serving(0);
    scene.after(Duration::from_secs(59)).expect(Event::Tick, &[]);
    scene
        .after(Duration::from_secs(1))
        .expect(Event::Tick, &[Action::Drain { worker: WorkerId(1) }, publish(0)]);
    scene
        .after(DRAIN_GRACE)
        .expect(Event::Tick, &[kill(1, "it did not end when asked")]);
}

/// Keeps two workers.
const KEPT: DoeeLimits = DoeeLimits {
    workers_min: 2,
    ..LIMITS
};

#[test]
fn workers_that_are_kept_start_uncalled_and_one_that_dies_has_a_successor() {
    let mut scene = Scene::new(0);
    scene.expect(
        Event::Keep { version: VERSION },
        &[Action::Load { version: VERSION }],
    );
    scene.expect(loaded(KEPT), &[spawn(1), spawn(2), publish(2)]);
    for worker in [1, 2] {
        scene.on(Event::Empty {
            worker: WorkerId(worker),
        });
        scene.on(Event::Initialized {
            worker: WorkerId(worker),
        });
    }
    // However long they idle.
    scene.after(Duration::from_secs(3600)).expect(Event::Tick, &[]);
    scene.expect(gone(1), &[publish(1)]);
    scene.expect(exited("was killed", &[]), &[spawn(3), publish(2)]);
    // Told again, as after each deployment.
    scene.expect(Event::Keep { version: VERSION }, &[]);
}

#[test]
fn a_doee_that_is_kept_and_cannot_start_is_tried_again_after_each_pause() {
    let mut scene = Scene::new(0);
    scene.on(Event::Keep { version: VERSION });
    scene.on(loaded(DoeeLimits {
        workers_min: 1,
        ..KEPT
    }));
    scene.on(Event::Empty { worker: WorkerId(1) });
    scene.expect(exited("crashed", &[]), &[publish(FAILED_CAPACITY)]);
    scene
        .after(BACKOFF.0)
        .expect(Event::Tick, &[spawn(2), publish(1)]);
}

#[test]
fn workers_that_are_kept_take_nobodys_place_and_a_retired_version_keeps_none() {
    let mut scene = Scene::serving(0);
    scene.handler.config.workers_max = 2;
    scene.on(Event::Keep { version: OTHER });
    let loaded_other = Event::Loaded {
        version: OTHER,
        outcome: Ok(KEPT),
    };
    scene.expect(loaded_other, &[]);
    scene.expect(Event::Tick, &[]);
    scene.on(Event::Retire { version: VERSION });
    scene.on(exited("exited", &[]));
    let other = Action::Publish {
        version: OTHER,
        slots: Slots::all(2),
    };
    scene.expect(Event::Tick, &[spawn(2), spawn(3), other]);
    scene.on(Event::Retire { version: OTHER });
    for worker in [2, 3] {
        scene.on(Event::Empty {
            worker: WorkerId(worker),
        });
        scene.on(Event::Initialized {
            worker: WorkerId(worker),
        });
        scene.on(Event::Exited {
            worker: WorkerId(worker),
            how: "exited".into(),
            begun: Vec::new(),
        });
    }
    scene.expect(Event::Tick, &[]);
    assert!(scene.handler.is_unknown(OTHER));
}

#[test]
fn a_full_house_gives_up_the_worker_of_another_version_that_idled_longest() {
    let mut scene = Scene::serving(0);
    scene.handler.config.workers_max = 1;
    scene.on(Event::Demand {
        version: OTHER,
        queued: 1,
    });
    scene.expect(
        Event::Loaded {
            version: OTHER,
            outcome: Ok(LIMITS),
        },
        &[Action::Drain { worker: WorkerId(1) }, publish(0)],
    );
    scene.on(exited("exited", &[1]));
    scene.expect(
        Event::Tick,
        &[
            spawn(2),
            Action::Publish {
                version: OTHER,
                slots: Slots::all(1),
            },
        ],
    );
}

#[test]
fn a_worker_that_lies_is_cut_off_and_its_call_fails() {
    let mut scene = Scene::running();
    let cut_off = "the worker was cut off: it reported an initialize that nobody asked for";
    scene.expect(
        Event::Initialized { worker: WorkerId(1) },
        &[fail(1, ErrorCode::Crashed, cut_off), kill(1, cut_off), publish(0)],
    );
}

#[test]
fn a_doee_that_lies_while_it_loads_fails_its_callers_and_is_not_started_again_at_once() {
    let mut scene = Scene::new(0);
    scene.on(Event::Demand {
        version: VERSION,
        queued: 1,
    });
    scene.on(loaded(LIMITS));
    scene.on(accepted(1));
    scene.on(Event::Empty { worker: WorkerId(1) });
    let misbehaved = || Event::Misbehaved {
        worker: WorkerId(1),
        what: "it lied".into(),
    };
    scene.expect(
        misbehaved(),
        &[
            kill(1, "the worker was cut off: it lied"),
            fail(1, ErrorCode::Crashed, "the worker was cut off: it lied"),
            publish(FAILED_CAPACITY),
        ],
    );
    scene.expect(misbehaved(), &[]);
    scene.expect(exited("was killed", &[]), &[]);
    scene
        .after(BACKOFF.0)
        .expect(Event::Tick, &[spawn(2), publish(1)]);
}

#[test]
fn when_the_kernel_is_lost_begun_calls_end_and_waiting_ones_vanish() {
    let mut scene = Scene::running();
    scene.on(accepted(2));
    scene.expect(Event::Abandoned { task: TaskId(1) }, &[]);
    scene.expect(Event::Abandoned { task: TaskId(2) }, &[]);
    scene.expect(answered(1), &[]);
    let mut actions = Vec::new();
    scene.handler.republish(&mut actions);
    assert_eq!(actions, [publish(1)]);
}

#[test]
fn a_demand_of_the_next_kernel_is_not_forgotten_when_it_hears_of_capacities_later() {
    let mut scene = Scene::running();
    scene.on(Event::Demand {
        version: VERSION,
        queued: 3,
    });
    scene.handler.forget_demand();
    assert_eq!(scene.handler.tick_interval(), BUSY_TICK);
    scene.on(Event::Demand {
        version: VERSION,
        queued: 1,
    });
    scene.handler.republish(&mut Vec::new());
    assert_eq!(scene.handler.tick_interval(), SCALE_UP_AFTER);
}
