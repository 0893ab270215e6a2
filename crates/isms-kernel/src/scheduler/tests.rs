//! What fairness comes to: who gets how much of a queue that all want more of than there is.

use isms_protocol::{
    Class, DoeeVersion, ProjectId, Service,
    kernel::{ProjectSettings, Slots},
};

use super::{Arrival, Full, Occupied, QueueIndex, QueueName, Scheduler};
use crate::{clock::Moment, config::Config, process_controller::ProcessKey};

/// A queue that projects share, with room for one call at a time.
struct Scene {
    scheduler: Scheduler,
    queue: QueueIndex,
    now: Moment,
    calls: u64,
}

fn project(number: u8) -> ProjectId {
    ProjectId::from_bytes([number; 16])
}

impl Scene {
    fn new(config: &Config) -> Scene {
        let mut scheduler = Scheduler::new(config);
        let name = QueueName {
            service: Service::Dbriver,
            doee: DoeeVersion::NONE,
        };
        let queue = scheduler.open(name).unwrap();
        scheduler.set_capacity(queue, Slots::all(1));
        Scene {
            scheduler,
            queue,
            now: Moment(0),
            calls: 0,
        }
    }

    /// A call of a project comes; whose calls had to make room for it.
    fn wait(&mut self, number: u8, class: Class) -> Result<Vec<u8>, Full> {
        self.arrive(number, class, false)
    }

    fn arrive(&mut self, number: u8, class: Class, acknowledged: bool) -> Result<Vec<u8>, Full> {
        // The project's number is in the key, so that it can be told whose turn it was.
        self.calls += 1;
        let call = Arrival {
            process: ProcessKey::from_call(self.calls << 8 | u64::from(number)),
            class,
            project: project(number),
            deadline: None,
            now: self.now,
            bytes: 1,
            acknowledged,
            awaited: false,
        };
        let mut evicted = Vec::new();
        self.scheduler.wait(self.queue, &call, &mut evicted)?;
        Ok(evicted.into_iter().map(of_project).collect())
    }

    fn weigh(&mut self, number: u8, weight: u32) {
        let settings = ProjectSettings {
            weight,
            ..ProjectSettings::default()
        };
        self.scheduler
            .set_project(project(number), settings, self.now)
            .unwrap();
    }

    /// The next call begins.
    fn take(&mut self) -> (u8, Occupied) {
        let (process, occupied) = self.scheduler.take(self.queue, self.now).unwrap();
        (of_project(process), occupied)
    }

    /// The next call runs for so long, and its project asks for another one. Whose it was.
    fn run(&mut self, us: impl Fn(u8) -> u64) -> u8 {
        let (number, occupied) = self.take();
        self.now = self.now.after_us(us(number));
        self.scheduler.release(self.queue, occupied, self.now);
        self.wait(number, Class::Normal).unwrap();
        number
    }
}

fn of_project(process: ProcessKey) -> u8 {
    process.call() as u8
}

/// How long each project ran while a thousand calls did, of `projects` that have always `backlog` calls waiting.
fn share_out(scene: &mut Scene, projects: u8, backlog: usize, us: impl Fn(u8) -> u64) -> Vec<f64> {
    for number in 0..projects {
        for _ in 0..backlog {
            scene.wait(number, Class::Normal).unwrap();
        }
    }
    let mut ran = vec![0.0; projects.into()];
    for _ in 0..1000 * usize::from(projects) {
        let number = scene.run(&us);
        ran[usize::from(number)] += us(number) as f64;
    }
    ran
}

/// 1 when all are equal, 1/n when one has everything.
fn jain(shares: &[f64]) -> f64 {
    let sum: f64 = shares.iter().sum();
    let squares: f64 = shares.iter().map(|share| share * share).sum();
    sum * sum / (shares.len() as f64 * squares)
}

#[test]
fn projects_run_for_equally_long_however_long_their_calls_are_and_however_many_wait() {
    let mut scene = Scene::new(&Config::default());
    let ran = share_out(&mut scene, 64, 2, |number| 50 + 40 * u64::from(number));
    assert!(jain(&ran) > 0.99, "{ran:?}");
}

#[test]
fn projects_run_in_proportion_to_their_weights() {
    let mut scene = Scene::new(&Config::default());
    scene.weigh(1, 300);
    let ran = share_out(&mut scene, 2, 4, |number| [700, 200][usize::from(number)]);
    let ratio = ran[1] / ran[0];
    assert!((2.95..3.05).contains(&ratio), "{ratio}");
    scene.weigh(1, 100);
    let ran = share_out(&mut scene, 2, 0, |_| 100);
    assert!(jain(&ran) > 0.99, "{ran:?}");
}

#[test]
fn a_project_that_was_away_has_saved_nothing_and_one_that_left_in_debt_has_not_lost_it() {
    let mut scene = Scene::new(&Config::default());
    share_out(&mut scene, 2, 2, |_| 1000);
    // The third comes late: it has its turn among the others, not all turns until it has had as much.
    for _ in 0..4 {
        scene.wait(2, Class::Normal).unwrap();
    }
    let order: Vec<u8> = (0..6).map(|_| scene.run(|_| 1000)).collect();
    assert_eq!(
        order.iter().filter(|number| **number == 2).count(),
        2,
        "{order:?}"
    );

    // One call of the fourth takes as long as fifty of the others, who have their turns first when it comes back.
    let mut scene = Scene::new(&Config::default());
    share_out(&mut scene, 2, 2, |_| 1000);
    scene.wait(3, Class::Normal).unwrap();
    while scene.run(|number| if number == 3 { 50_000 } else { 1000 }) != 3 {}
    let turns = (0..).take_while(|_| scene.run(|_| 1000) != 3).count();
    assert!((90..=110).contains(&turns), "{turns}");
}

#[test]
fn a_call_of_a_higher_class_goes_first_whatever_its_project_has_had() {
    let mut scene = Scene::new(&Config::default());
    share_out(&mut scene, 2, 2, |_| 1000);
    for _ in 0..3 {
        scene.wait(0, Class::High).unwrap();
    }
    let order: Vec<u8> = (0..3).map(|_| scene.run(|_| 1000)).collect();
    assert_eq!(order, [0, 0, 0]);
}

#[test]
fn a_full_queue_makes_room_at_the_expense_of_who_has_most_in_it() {
    let config = Config {
        queue_len_max: 6,
        ..Config::default()
    };
    let mut scene = Scene::new(&config);
    for _ in 0..6 {
        scene.wait(0, Class::Normal).unwrap();
    }
    assert_eq!(
        scene.wait(0, Class::Normal),
        Err(Full),
        "a flood makes room for nobody's flood"
    );
    for _ in 0..3 {
        assert_eq!(scene.wait(1, Class::Normal), Ok(vec![0]));
    }
    assert_eq!(scene.wait(1, Class::Normal), Err(Full), "both have half of it");
    assert_eq!(scene.wait(2, Class::Normal), Ok(vec![1]));
    assert_eq!(scene.wait(2, Class::Batch), Err(Full));
    assert_eq!(scene.wait(0, Class::High), Ok(vec![0]));
}

#[test]
fn what_was_acknowledged_makes_room_for_nobody_and_leaves_half_of_it_to_others() {
    let config = Config {
        queue_len_max: 6,
        queue_total_max: 12,
        ..Config::default()
    };
    let mut scene = Scene::new(&config);
    for _ in 0..3 {
        assert_eq!(scene.arrive(0, Class::Batch, true), Ok(vec![]));
    }
    assert_eq!(
        scene.arrive(1, Class::Realtime, true),
        Err(Full),
        "half of the queue is promised"
    );
    for _ in 0..3 {
        assert_eq!(scene.wait(1, Class::Normal), Ok(vec![]));
    }
    assert_eq!(
        scene.wait(2, Class::High),
        Ok(vec![1]),
        "batch was promised to run"
    );
    assert_eq!(scene.wait(0, Class::Realtime), Ok(vec![1]));
    assert_eq!(scene.wait(0, Class::Realtime), Ok(vec![1]));
    assert_eq!(scene.wait(0, Class::Realtime), Ok(vec![2]));
    assert_eq!(scene.wait(1, Class::High), Err(Full));
    // What runs has left its place, and what is promised next may take it.
    for number in [0, 0, 0] {
        let (next, occupied) = scene.take();
        assert_eq!(next, number);
        scene.scheduler.release(scene.queue, occupied, scene.now);
    }
    assert_eq!(scene.arrive(1, Class::Batch, true), Err(Full));
    let (_, occupied) = scene.take();
    scene.scheduler.release(scene.queue, occupied, scene.now);
    assert_eq!(scene.arrive(1, Class::Batch, true), Ok(vec![]));
}

#[test]
fn acknowledged_calls_take_at_most_half_of_the_bytes_and_those_of_a_project_a_quarter() {
    let config = Config {
        queue_bytes_max: 10,
        ..Config::default()
    };
    let mut scene = Scene::new(&config);
    for _ in 0..3 {
        assert_eq!(scene.arrive(0, Class::Normal, true), Ok(vec![]));
    }
    assert_eq!(scene.arrive(0, Class::Realtime, true), Err(Full), "its quarter");
    for _ in 0..2 {
        assert_eq!(scene.arrive(1, Class::Normal, true), Ok(vec![]));
    }
    assert_eq!(
        scene.arrive(1, Class::Realtime, true),
        Err(Full),
        "the half of all"
    );
    assert_eq!(scene.wait(0, Class::Normal), Ok(vec![]));
}
