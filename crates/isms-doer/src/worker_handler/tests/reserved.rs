//! Workers that are kept for urgent calls.

use super::{super::Reserved, *};

fn of_class(task: u64, class: Class) -> Event {
    Event::Accepted {
        task: TaskId(task),
        version: VERSION,
        class,
        streams: false,
    }
}

fn slots(capacity: u32, lower: [u32; 3]) -> Action {
    let slots = Slots { capacity, lower };
    Action::Publish {
        version: VERSION,
        slots,
    }
}

/// Workers 1 and 2 serve a Doee that keeps one of at most two for calls of class high, and are idle.
fn scene() -> Scene {
    let mut scene = Scene::new(0);
    scene.on(Event::Demand {
        version: VERSION,
        queued: 9,
    });
    let reserved = Reserved([0, 1, 0]);
    let limits = DoeeLimits {
        workers_max: 2,
        reserved,
        ..LIMITS
    };
    scene.expect(loaded(limits), &[spawn(1), slots(1, [1, 1, 1])]);
    scene.on(Event::Empty { worker: WorkerId(1) });
    scene.on(Event::Initialized { worker: WorkerId(1) });
    scene.after(SCALE_UP_AFTER);
    scene.expect(Event::Tick, &[spawn(2), slots(2, [2, 1, 1])]);
    scene.on(Event::Empty { worker: WorkerId(2) });
    scene.on(Event::Initialized { worker: WorkerId(2) });
    scene
}

#[test]
fn a_lower_call_waits_though_a_worker_is_idle_that_is_kept_for_higher_ones() {
    let mut scene = scene();
    scene.expect(of_class(1, Class::Batch), &[run(2, 1)]);
    // The Kernel sends no such call as long as it has heard what is published; it may not have.
    scene.expect(of_class(2, Class::Normal), &[]);
    scene.expect(of_class(3, Class::High), &[run(1, 3)]);
    scene.expect(of_class(4, Class::Realtime), &[]);
    scene.expect(answered(3), &[run(1, 4)]);
    scene.expect(answered(4), &[]);
    let free = Event::Answered {
        worker: WorkerId(2),
        task: TaskId(1),
        run_time: Duration::ZERO,
    };
    scene.expect(free, &[run(2, 2)]);
}

#[test]
fn calls_sent_ahead_share_a_worker_with_their_like() {
    let mut scene = scene();
    for task in 100..108 {
        scene.on(of_class(task, Class::High));
        let worker = scene.handler.doees[&VERSION].busy[0];
        let run_time = Duration::ZERO;
        scene.on(Event::Answered {
            worker,
            task: TaskId(task),
            run_time,
        });
    }
    let published = scene.handler.doees[&VERSION].published;
    assert_eq!((published.capacity, published.lower), (32, [32, 16, 16]));
    let mut given = Vec::new();
    for task in 1..=32 {
        let class = if task % 2 == 0 { Class::High } else { Class::Batch };
        given.extend(scene.on(of_class(task, class)));
    }
    let workers_of = |parity: u64| {
        let of = |action: &Action| match action {
            Action::Run { worker, task } if task.0 % 2 == parity => Some(worker.0),
            _ => None,
        };
        given.iter().filter_map(of).collect::<Vec<_>>()
    };
    let (batch, high) = (workers_of(1), workers_of(0));
    assert_eq!((batch.len(), high.len()), (16, 16));
    assert!(batch.iter().all(|worker| *worker == batch[0]));
    assert!(high.iter().all(|worker| *worker != batch[0]), "{high:?}");
}
