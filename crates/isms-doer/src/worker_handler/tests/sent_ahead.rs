//! Calls that a worker is sent ahead of their turn.

use super::{super::prefetch::STALLED_AFTER, *};

impl Scene {
    /// As [`Scene::running`], where calls are known to be short.
    fn quick() -> Scene {
        let mut scene = Scene::serving(0);
        for task in 100..108 {
            scene.on(accepted(task));
            scene.on(answered(task));
        }
        scene.on(accepted(1));
        scene
    }

    /// As [`Scene::quick`], where task 1 has turned out long and task 2 was taken back.
    fn stalled() -> Scene {
        let mut scene = Scene::quick();
        scene.on(accepted(2));
        scene.after(STALLED_AFTER).on(Event::Tick);
        scene.on(recalled(&[2]));
        scene
    }
}

fn recall(tasks: &[u64]) -> Action {
    Action::Recall {
        worker: WorkerId(1),
        tasks: tasks.iter().copied().map(TaskId).collect(),
    }
}

/// Worker 1 has given these back.
fn recalled(tasks: &[u64]) -> Event {
    Event::Recalled {
        worker: WorkerId(1),
        tasks: tasks.iter().copied().map(TaskId).collect(),
    }
}

#[test]
fn short_calls_are_sent_ahead_as_far_as_the_published_room_goes() {
    let mut scene = Scene::serving(0);
    for task in 100..107 {
        scene.expect(accepted(task), &[run(1, task)]);
        scene.expect(answered(task), &[]);
    }
    scene.expect(accepted(107), &[run(1, 107)]);
    scene.expect(answered(107), &[publish(16)]);
    for task in 1..=16 {
        scene.expect(accepted(task), &[run(1, task)]);
    }
    scene.expect(accepted(17), &[]);
    scene.expect(answered(1), &[run(1, 17)]);
}

#[test]
fn a_request_with_a_stream_waits_for_an_idle_worker() {
    let mut scene = Scene::quick();
    let streaming = Event::Accepted {
        task: TaskId(2),
        version: VERSION,
        class: Class::Normal,
        streams: true,
    };
    scene.expect(streaming, &[]);
    scene.expect(answered(1), &[run(1, 2)]);
}

#[test]
fn calls_that_wait_here_behind_a_long_one_get_another_worker_though_none_waits_in_the_kernel() {
    let mut scene = Scene::quick();
    scene.on(Event::Accepted {
        task: TaskId(2),
        version: VERSION,
        class: Class::Normal,
        streams: true,
    });
    scene.expect(answered(1), &[run(1, 2)]);
    scene.after(STALLED_AFTER).expect(accepted(3), &[]);
    scene.after(SCALE_UP_AFTER);
    assert_eq!(scene.on(Event::Tick)[0], spawn(2));
}

#[test]
fn calls_behind_one_that_turns_out_long_are_taken_back_and_run_elsewhere() {
    let mut scene = Scene::quick();
    scene.on(accepted(2));
    scene.on(accepted(3));
    scene.after(Duration::from_millis(1)).expect(Event::Tick, &[]);
    scene
        .after(Duration::from_millis(1))
        .expect(Event::Tick, &[recall(&[2, 3]), publish(1)]);
    scene.expect(
        recalled(&[2, 3]),
        &[
            Action::Requeue { task: TaskId(3) },
            Action::Requeue { task: TaskId(2) },
            spawn(2),
            publish(2),
        ],
    );
    scene.expect(answered(1), &[run(1, 2)]);
}

#[test]
fn a_crash_fails_what_had_begun_and_the_rest_runs_elsewhere() {
    let mut scene = Scene::quick();
    scene.on(accepted(2));
    scene.on(accepted(3));
    let crashed = "the worker died of signal 11 while it ran the call";
    scene.expect(
        exited("died of signal 11", &[1]),
        &[
            Action::Requeue { task: TaskId(3) },
            Action::Requeue { task: TaskId(2) },
            fail(1, ErrorCode::Crashed, crashed),
            spawn(2),
            publish(1),
        ],
    );
    scene.on(Event::Empty { worker: WorkerId(2) });
    let actions = scene.on(Event::Initialized { worker: WorkerId(2) });
    assert_eq!(actions, [run(2, 2), run(2, 3), publish(16)]);
}

#[test]
fn a_call_under_which_workers_die_before_it_begins_fails_in_the_end() {
    let mut scene = Scene::serving(0);
    scene.on(accepted(1));
    for worker in 1..3 {
        let died = Event::Exited {
            worker: WorkerId(worker),
            how: "died".into(),
            begun: Vec::new(),
        };
        assert_eq!(scene.on(died)[0], Action::Requeue { task: TaskId(1) });
        let worker = WorkerId(worker + 1);
        scene.on(Event::Empty { worker });
        scene.on(Event::Initialized { worker });
    }
    let died = Event::Exited {
        worker: WorkerId(3),
        how: "died".into(),
        begun: Vec::new(),
    };
    let why =
        "the worker died before it began the call, as others did before it, so the call is not tried again";
    assert_eq!(scene.on(died)[0], fail(1, ErrorCode::Crashed, why));
}

#[test]
fn a_streaming_call_under_which_a_worker_dies_before_it_begins_fails_and_says_why() {
    let mut scene = Scene::serving(0);
    scene.on(Event::Accepted {
        task: TaskId(1),
        version: VERSION,
        class: Class::Normal,
        streams: true,
    });
    let why = "the worker was killed before it began the call, whose stream cannot be sent again";
    assert_eq!(
        scene.on(exited("was killed", &[]))[0],
        fail(1, ErrorCode::Crashed, why)
    );
}

#[test]
fn a_cancelled_call_that_was_sent_ahead_is_taken_back() {
    let mut scene = Scene::quick();
    scene.on(accepted(2));
    scene.expect(Event::Cancelled { task: TaskId(2) }, &[recall(&[2])]);
    let cancelled = fail(2, ErrorCode::Cancelled, "the call was cancelled by its caller");
    scene.expect(recalled(&[2]), &[cancelled]);
}

#[test]
fn a_cancelled_call_that_cannot_be_taken_back_is_asked_when_its_turn_comes() {
    let mut scene = Scene::quick();
    scene.on(accepted(2));
    scene.on(Event::Cancelled { task: TaskId(2) });
    scene.expect(answered(1), &[Action::AskCancel { task: TaskId(2) }]);
}

#[test]
fn what_a_dead_worker_had_not_begun_goes_to_one_that_is_idle() {
    let mut scene = Scene::stalled();
    scene.on(Event::Empty { worker: WorkerId(2) });
    assert!(
        scene
            .on(Event::Initialized { worker: WorkerId(2) })
            .contains(&run(2, 2))
    );
    scene.on(answered(1));
    // Worker 1 has task 3 and dies before it begins; by then worker 2 is idle.
    scene.expect(accepted(3), &[run(1, 3)]);
    scene.on(Event::Answered {
        worker: WorkerId(2),
        task: TaskId(2),
        run_time: Duration::ZERO,
    });
    let actions = scene.on(exited("was killed", &[]));
    assert_eq!(actions[..2], [Action::Requeue { task: TaskId(3) }, run(2, 3)]);
}

#[test]
fn an_answer_to_a_call_that_was_taken_back_ends_it() {
    let mut scene = Scene::stalled();
    scene.expect(answered(2), &[]);
    scene.expect(answered(1), &[]);
}
