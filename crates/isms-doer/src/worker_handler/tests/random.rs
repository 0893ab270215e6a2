//! Random histories: what must hold whatever workers, callers and clocks do.

use std::collections::HashSet;

use isms_sandbox::spawner::ImageHash;
use proptest::prelude::*;

use super::*;

fn event() -> impl Strategy<Value = (u8, u64, u64)> {
    (0..15u8, 1..12u64, 0..700u64)
}

proptest! {
    /// Whatever workers, callers and clocks do, a task ends at most once, and when all workers are gone
    /// those that have not ended wait. A worker that is gone is given nothing, and none is given a Doee of another
    /// environment. A trial is answered once at most.
    #[test]
    fn no_task_is_lost_or_ended_twice(in_image: bool, events in prop::collection::vec(event(), 0..300)) {
        let image = Environment { image: Some(ImageHash([7; 32])), ..Environment::WORKER };
        let environment = if in_image { image } else { Environment::WORKER };
        let mut trials = HashSet::new();
        let mut scene = Scene::new(1);
        let (mut task_next, mut ended, mut open) = (1, HashSet::new(), HashSet::new());
        let mut dead = HashSet::new();
        for (what, number, delay) in events {
            scene.after(Duration::from_millis(delay));
            let worker = WorkerId(number);
            let held = scene.handler.workers.get(&worker).map(|record| record.calls_held.clone()).unwrap_or_default();
            let first = held.front().copied();
            let how = || "died".to_owned();
            let event = match what {
                0 => Event::Demand { version: VERSION, queued: number as u32 - 1 },
                1 => loaded(DoeeLimits { environment, ..LIMITS }),
                2 | 3 => {
                    open.insert(task_next);
                    task_next += 1;
                    accepted(task_next - 1)
                }
                4 => Event::Empty { worker },
                5 => Event::Initialized { worker },
                6 => Event::Recalled { worker, tasks: held.iter().skip(1).copied().collect() },
                7 => match first {
                    Some(task) => Event::Answered { worker, task, run_time: Duration::ZERO },
                    None => Event::Tick,
                },
                8 => Event::Exited { worker, how: how(), begun: first.into_iter().collect() },
                9 => Event::Cancelled { task: TaskId(number) },
                10 => Event::StartFailed { worker, error: cancelled_error() },
                11 => Event::Misbehaved { worker, what: how() },
                12 if scene.handler.knows(worker) => {
                    dead.insert(worker);
                    Event::Gone { worker }
                }
                13 => Event::Try {
                    trial: TrialId(delay),
                    environment: if number % 2 == 0 { image } else { Environment::WORKER },
                },
                _ => Event::Tick,
            };
            if let Event::Try { trial: TrialId(trial), .. } = &event {
                trials.insert(*trial);
            }
            if let (7, Some(TaskId(task))) = (what, first) {
                prop_assert!(ended.insert(task));
                open.remove(&task);
            }
            for action in scene.on(event) {
                if let Action::Run { worker, .. } | Action::Assign { worker, .. } = &action {
                    prop_assert!(!dead.contains(worker), "{worker} is gone and was given something");
                    let given = scene.handler.workers.get(worker).map(|record| record.environment);
                    prop_assert_eq!(given, Some(environment));
                }
                if let Action::Tried { trial: TrialId(trial), .. } = &action {
                    prop_assert!(trials.contains(trial), "trial {trial} was answered and not asked");
                }
                if let Action::Fail { task: TaskId(task), .. } = action {
                    prop_assert!(ended.insert(task), "task {task} ended twice");
                    open.remove(&task);
                }
            }
        }
        for worker in 1..scene.handler.worker_next {
            for action in scene.on(Event::Exited { worker: WorkerId(worker), how: "died".into(), begun: Vec::new() }) {
                if let Action::Fail { task: TaskId(task), .. } = action {
                    open.remove(&task);
                }
            }
        }
        let waiting: HashSet<u64> =
            scene.handler.admin.remove_waiting(VERSION).into_iter().map(|task| task.0).collect();
        prop_assert_eq!(open, waiting);
    }
}
