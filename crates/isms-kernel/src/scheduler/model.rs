//! The scheduler against a naive model: one list that is searched from end to end.

use std::collections::BTreeMap;

use isms_protocol::{
    Class, DoeeVersion, ProjectId, Service,
    kernel::{ProjectSettings, Slots},
    limits,
};
use proptest::prelude::*;

use super::{AGED_ONE_IN, Arrival, Full, Occupied, QueueIndex, QueueName, Scheduler, Ticket};
use crate::{clock::Moment, config::Config, process_controller::ProcessKey};

const QUEUES: usize = 3;
/// The queue that projects share; each of the others is of a Doee version.
const SHARED: usize = 0;
const PROJECTS: u8 = 3;
/// Whose the Doee versions are.
const OWNER: ProjectId = ProjectId::from_bytes([1; 16]);
const AGING_US: u64 = 1_000;

#[derive(Clone, Debug)]
enum Move {
    Wait {
        queue: usize,
        class: Class,
        project: u8,
        deadline_us: Option<u64>,
        bytes: usize,
        acknowledged: bool,
        awaited: bool,
    },
    Take {
        queue: usize,
    },
    Remove {
        nth: usize,
    },
    Release {
        queue: usize,
        nth: usize,
    },
    Capacity {
        queue: usize,
        slots: Slots,
    },
    Weight {
        project: u8,
        weight: u32,
    },
    Limit {
        concurrency_max: u32,
    },
    Pass {
        us: u64,
    },
}

#[derive(Clone, Debug)]
struct Entry {
    queue: usize,
    ticket: Ticket,
    process: ProcessKey,
    since: Moment,
    bytes: usize,
    acknowledged: bool,
}

/// What a project has had in a class of the shared queue.
#[derive(Clone, Copy, Debug)]
struct Had {
    virtual_time: u64,
    expected_us: u64,
}

/// A call that runs.
#[derive(Clone, Copy, Debug)]
struct Run {
    class: Class,
    project: ProjectId,
    since: Moment,
    weight: u32,
    expected_us: u64,
    /// The limit that counts it.
    limit: Option<u64>,
}

#[derive(Default)]
struct Model {
    waiting: Vec<Entry>,
    had: BTreeMap<(Class, ProjectId), Had>,
    floor: BTreeMap<Class, u64>,
    weights: BTreeMap<ProjectId, u32>,
    /// What may run of the owner's Doees at the same time, and the number of that limit.
    limit: Option<(u32, u64)>,
    limits_set: u64,
    slots: [Slots; QUEUES],
    running: [Vec<Run>; QUEUES],
    until_aged: [u32; QUEUES],
    sequence: u64,
}

fn config() -> Config {
    Config {
        queue_len_max: 6,
        queue_total_max: 12,
        queue_bytes_max: 600,
        aging_max_ms: 1,
        ..Config::default()
    }
}

fn due(entry: &Entry) -> (Moment, u64) {
    (entry.ticket.virtual_deadline, entry.ticket.sequence)
}

fn virtual_us(us: u64, weight: u32) -> u64 {
    us * 10_000 / u64::from(weight)
}

impl Model {
    fn of(&self, queue: usize) -> impl Iterator<Item = &Entry> {
        self.waiting.iter().filter(move |entry| entry.queue == queue)
    }

    fn in_lane(&self, queue: usize, class: Class, project: ProjectId) -> usize {
        let lane = |entry: &&Entry| (entry.ticket.class, entry.ticket.project) == (class, project);
        self.of(queue).filter(lane).count()
    }

    fn refusable(&self, queue: usize) -> impl Iterator<Item = &Entry> {
        self.of(queue).filter(|entry| !entry.acknowledged)
    }

    /// Of the lowest class, of the project with the most calls there, due last.
    fn last(&self, queue: usize) -> Option<&Entry> {
        self.refusable(queue).max_by_key(|entry| {
            let Ticket { class, project, .. } = entry.ticket;
            (class, self.in_lane(queue, class, project), project, due(entry))
        })
    }

    fn last_of_greedier(&self, queue: usize, class: Class, project: ProjectId) -> Option<&Entry> {
        let own = self.in_lane(queue, class, project);
        let of_class = self.refusable(queue).filter(|entry| entry.ticket.class == class);
        let lane = |entry: &Entry| self.in_lane(queue, class, entry.ticket.project);
        of_class
            .max_by_key(|entry| (lane(entry), entry.ticket.project, due(entry)))
            .filter(|entry| lane(entry) > own + 1)
    }

    fn virtual_time(&self, entry: &Entry) -> u64 {
        let Ticket { class, project, .. } = entry.ticket;
        self.had.get(&(class, project)).map_or(0, |had| had.virtual_time)
    }

    /// By class, by what the project has had, by deadline.
    fn order(&self, entry: &Entry) -> impl Ord + use<> {
        let Ticket { class, project, .. } = entry.ticket;
        (class, self.virtual_time(entry), project, due(entry))
    }

    fn take_out(&mut self, ticket: &Ticket) {
        let gone = self.waiting.iter().position(|entry| entry.ticket == *ticket);
        let entry = self.waiting.remove(gone.expect("it waits"));
        if entry.queue == SHARED && self.in_lane(SHARED, ticket.class, ticket.project) == 0 {
            self.forget(ticket.class, ticket.project);
        }
    }

    /// A project without calls that owes nothing is as one that was never there; nobody owes when nobody has calls.
    fn forget(&mut self, class: Class, project: ProjectId) {
        let floor = self.floor.get(&class).copied().unwrap_or(0);
        let runs = |run: &Run| run.class == class;
        let has_calls = self.in_lane(SHARED, class, project) > 0
            || self.running[SHARED]
                .iter()
                .any(|run| runs(run) && run.project == project);
        if !has_calls
            && self
                .had
                .get(&(class, project))
                .is_some_and(|had| had.virtual_time <= floor)
        {
            self.had.remove(&(class, project));
        }
        let waits = self.of(SHARED).any(|entry| entry.ticket.class == class);
        if !waits && !self.running[SHARED].iter().any(runs) {
            self.had.retain(|(other, _), _| *other != class);
            self.floor.remove(&class);
        }
    }

    fn begin(&mut self, queue: usize, ticket: &Ticket, now: Moment) {
        let Ticket { class, project, .. } = *ticket;
        let weight = self
            .weights
            .get(&project)
            .copied()
            .unwrap_or(limits::WEIGHT_DEFAULT);
        let mut expected_us = 0;
        if queue == SHARED {
            let of_class = self.of(SHARED).filter(|entry| entry.ticket.class == class);
            let least = of_class.map(|entry| self.virtual_time(entry)).min();
            let floor = self.floor.entry(class).or_default();
            *floor = least.unwrap_or(0).max(*floor);
            let had = self.had.get_mut(&(class, project)).expect("it waited");
            expected_us = had.expected_us;
            had.virtual_time += virtual_us(expected_us, weight);
        }
        self.running[queue].push(Run {
            class,
            project,
            since: now,
            weight,
            expected_us,
            limit: self
                .limit
                .filter(|_| queue != SHARED && !ticket.awaited)
                .map(|(_, number)| number),
        });
    }

    /// Whether the project has as many calls of its Doees as may run under its limit.
    fn is_held_up(&self, queue: usize) -> bool {
        let Some((max, number)) = self.limit.filter(|_| queue != SHARED) else {
            return false;
        };
        let running = self.running.iter().flatten();
        let counted = running.filter(|run| run.limit == Some(number)).count();
        counted >= max as usize
    }

    /// Whether it is the limit alone that holds up what waits in a queue.
    fn waits_for_limit(&self, queue: usize) -> bool {
        let first = self.of(queue).min_by_key(|entry| self.order(entry));
        // What passes the limit waits for room.
        let none_passes = !self.of(queue).any(|entry| entry.ticket.awaited);
        self.is_held_up(queue)
            && none_passes
            && first.is_some_and(|first| self.has_room(queue, first.ticket.class))
    }

    /// Whether a call could be taken out of a queue.
    fn has_next(&self, queue: usize) -> bool {
        let first = self.of(queue).min_by_key(|entry| self.order(entry));
        let passes = || {
            let mut awaited = self.of(queue).filter(|entry| entry.ticket.awaited);
            awaited.any(|entry| self.has_room(queue, entry.ticket.class))
        };
        first.is_some_and(|first| self.has_room(queue, first.ticket.class))
            && (!self.is_held_up(queue) || passes())
    }

    /// Whether a call of a class may begin, but for the limit of its project.
    fn has_room(&self, queue: usize, class: Class) -> bool {
        let Slots { capacity, lower } = self.slots[queue];
        let from = |lowest: Class| {
            let running = self.running[queue].iter().filter(|run| run.class >= lowest);
            running.count()
        };
        let lower = [Class::High, Class::Normal, Class::Batch].into_iter().zip(lower);
        let mut bounds = lower.filter(|(bounded, _)| *bounded <= class);
        self.running[queue].len() < capacity as usize
            && bounds.all(|(bounded, most)| from(bounded) < most as usize)
    }

    fn set_limit(&mut self, concurrency_max: u32) {
        self.limit = match (concurrency_max, self.limit) {
            (0, _) => None,
            (max, Some((_, number))) => Some((max, number)),
            (max, None) => {
                self.limits_set += 1;
                Some((max, self.limits_set))
            }
        };
    }

    fn release(&mut self, queue: usize, nth: usize, now: Moment) {
        let Run {
            class,
            project,
            since,
            weight,
            expected_us,
            limit: _,
        } = self.running[queue].remove(nth);
        if queue == SHARED {
            let ran_us = now.us_since(since);
            let had = self.had.get_mut(&(class, project)).expect("it ran");
            had.virtual_time =
                (had.virtual_time + virtual_us(ran_us, weight)) - virtual_us(expected_us, weight);
            had.expected_us = (had.expected_us * 7 + ran_us) / 8;
            self.forget(class, project);
        }
    }

    fn evict(&mut self, victim: Option<Entry>, below: Class) -> Result<ProcessKey, Full> {
        let victim = victim.filter(|victim| victim.ticket.class > below).ok_or(Full)?;
        self.take_out(&victim.ticket);
        Ok(victim.process)
    }

    fn wait(&mut self, queue: usize, call: Arrival, evicted: &mut Vec<ProcessKey>) -> Result<Ticket, Full> {
        let config = config();
        let promised: Vec<&Entry> = self.waiting.iter().filter(|entry| entry.acknowledged).collect();
        let promised_bytes: usize = promised.iter().map(|entry| entry.bytes).sum();
        let of_project: Vec<_> = promised
            .iter()
            .filter(|entry| entry.ticket.project == call.project)
            .collect();
        let project_bytes: usize = of_project.iter().map(|entry| entry.bytes).sum();
        let in_queue = promised.iter().filter(|entry| entry.queue == queue).count();
        if call.acknowledged
            && (in_queue >= config.queue_len_max / 2
                || promised.len() >= config.queue_total_max / 2
                || promised_bytes + call.bytes > config.queue_bytes_max / 2
                || of_project.len() >= config.queue_total_max.div_ceil(4)
                || project_bytes + call.bytes > config.queue_bytes_max.div_ceil(4))
        {
            return Err(Full);
        }
        if self.of(queue).count() >= config.queue_len_max {
            let lower = self.last(queue).filter(|last| last.ticket.class > call.class);
            let greedier = || self.last_of_greedier(queue, call.class, call.project);
            let victim = lower.or_else(greedier).cloned().ok_or(Full)?;
            self.take_out(&victim.ticket);
            evicted.push(victim.process);
        }
        let bytes = |model: &Model| model.waiting.iter().map(|entry| entry.bytes).sum::<usize>();
        while self.waiting.len() >= config.queue_total_max
            || bytes(self) + call.bytes > config.queue_bytes_max
        {
            let lasts = (0..QUEUES).filter_map(|queue| self.last(queue));
            let victim = lasts
                .max_by_key(|entry| (entry.ticket.class, entry.ticket.sequence))
                .cloned();
            evicted.push(self.evict(victim, call.class)?);
        }
        self.sequence += 1;
        let virtual_deadline = call.deadline.unwrap_or(call.now.after_us(AGING_US));
        let ticket = Ticket {
            class: call.class,
            project: call.project,
            virtual_deadline,
            sequence: self.sequence,
            awaited: call.awaited,
        };
        if queue == SHARED && self.in_lane(SHARED, call.class, call.project) == 0 {
            let floor = self.floor.get(&call.class).copied().unwrap_or(0);
            let newcomer = Had {
                virtual_time: 0,
                expected_us: 1_000,
            };
            let had = self.had.entry((call.class, call.project)).or_insert(newcomer);
            had.virtual_time = had.virtual_time.max(floor);
        }
        self.waiting.push(Entry {
            queue,
            ticket,
            process: call.process,
            since: call.now,
            bytes: call.bytes,
            acknowledged: call.acknowledged,
        });
        Ok(ticket)
    }

    fn take(&mut self, queue: usize, now: Moment) -> Option<ProcessKey> {
        if !self.has_next(queue) {
            return None;
        }
        let first = self.of(queue).min_by_key(|entry| self.order(entry))?.clone();
        let oldest = self.of(queue).min_by_key(|entry| entry.ticket.sequence)?.clone();
        let aged = self.until_aged[queue] == 0
            && now.us_since(oldest.since) >= AGING_US
            && self.has_room(queue, oldest.ticket.class);
        let mut next = if aged { oldest } else { first.clone() };
        if self.is_held_up(queue) && !next.ticket.awaited {
            let awaited = self.of(queue).filter(|entry| entry.ticket.awaited);
            let best = awaited.min_by_key(|entry| entry.ticket.order());
            next = best
                .filter(|best| self.has_room(queue, best.ticket.class))?
                .clone();
        } else {
            self.until_aged[queue] = match next.ticket == first.ticket {
                true => self.until_aged[queue].saturating_sub(1),
                false => AGED_ONE_IN - 1,
            };
        }
        self.begin(queue, &next.ticket, now);
        self.take_out(&next.ticket);
        Some(next.process)
    }
}

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let queue = 0..QUEUES;
    let class = prop::sample::select(&Class::ALL[..]);
    let deadline = prop::option::of(1..5_000u64);
    let one = prop_oneof![
        6 => (queue.clone(), class, 0..PROJECTS, deadline, 1..200usize, 0..3u8)
            .prop_map(|(queue, class, project, deadline_us, bytes, kind)| {
                // What is awaited is a call of a Doee, and was not acknowledged.
                let (acknowledged, awaited) = (kind == 1, kind == 2 && queue != SHARED);
                Move::Wait { queue, class, project, deadline_us, bytes, acknowledged, awaited }
            }),
        4 => queue.clone().prop_map(|queue| Move::Take { queue }),
        1 => any::<usize>().prop_map(|nth| Move::Remove { nth }),
        2 => (queue.clone(), any::<usize>()).prop_map(|(queue, nth)| Move::Release { queue, nth }),
        1 => (queue, 0..4u32, prop::array::uniform3(0..4u32)).prop_map(|(queue, capacity, lower)| {
            Move::Capacity { queue, slots: Slots { capacity, lower } }
        }),
        1 => (0..PROJECTS, 1..1000u32).prop_map(|(project, weight)| Move::Weight { project, weight }),
        1 => (0..4u32).prop_map(|concurrency_max| Move::Limit { concurrency_max }),
        2 => (0..900u64).prop_map(|us| Move::Pass { us }),
    ];
    prop::collection::vec(one, 1..200)
}

/// Tells the scheduler all that a project gets.
fn set(scheduler: &mut Scheduler, model: &Model, project: ProjectId, now: Moment) {
    let weight = model.weights.get(&project).copied();
    let limit = model.limit.filter(|_| project == OWNER);
    let settings = ProjectSettings {
        weight: weight.unwrap_or(limits::WEIGHT_DEFAULT),
        concurrency_max: limit.map_or(0, |(max, _)| max),
        ..ProjectSettings::default()
    };
    scheduler.set_project(project, settings, now).unwrap();
}

fn check(moves: Vec<Move>) -> Result<(), TestCaseError> {
    let mut scheduler = Scheduler::new(&config());
    let mut model = Model::default();
    // The first has no Doee version.
    let name = |number: u8| QueueName {
        service: Service::Doer,
        doee: DoeeVersion::from_bytes([number; 16]),
    };
    let queues: Vec<QueueIndex> = (0..QUEUES as u8)
        .map(|number| scheduler.open(name(number)).unwrap())
        .collect();
    let mut occupied: [Vec<Occupied>; QUEUES] = Default::default();
    let mut now = Moment(0);
    // Queues out of which nothing could be taken because of the limit, and that were not named since.
    let mut held_up = [false; QUEUES];
    for (number, one) in moves.into_iter().enumerate() {
        match one {
            Move::Wait {
                queue,
                class,
                project,
                deadline_us,
                bytes,
                acknowledged,
                awaited,
            } => {
                let project = match queue {
                    SHARED => ProjectId::from_bytes([project; 16]),
                    _ => OWNER,
                };
                let deadline = deadline_us.map(|us| now.after_us(us));
                let process = ProcessKey::from_call(number as u64);
                let call = Arrival {
                    process,
                    class,
                    project,
                    deadline,
                    now,
                    bytes,
                    acknowledged,
                    awaited,
                };
                // Its queue is looked at when it comes.
                held_up[queue] &= !awaited;
                let (mut evicted, mut evicted_in_model) = (Vec::new(), Vec::new());
                let real = scheduler.wait(queues[queue], &call, &mut evicted);
                prop_assert_eq!(real, model.wait(queue, call, &mut evicted_in_model));
                prop_assert_eq!(evicted, evicted_in_model);
            }
            Move::Take { queue } => {
                let taken = scheduler.take(queues[queue], now);
                held_up[queue] = taken.is_none() && model.waits_for_limit(queue);
                prop_assert_eq!(taken.map(|(process, _)| process), model.take(queue, now));
                occupied[queue].extend(taken.map(|(_, occupied)| occupied));
            }
            Move::Remove { nth } if !model.waiting.is_empty() => {
                let entry = model.waiting[nth % model.waiting.len()].clone();
                model.take_out(&entry.ticket);
                prop_assert_eq!(
                    scheduler.remove(queues[entry.queue], &entry.ticket),
                    Some(entry.process)
                );
                prop_assert_eq!(scheduler.remove(queues[entry.queue], &entry.ticket), None);
            }
            Move::Release { queue, nth } if !occupied[queue].is_empty() => {
                let nth = nth % occupied[queue].len();
                model.release(queue, nth, now);
                scheduler.release(queues[queue], occupied[queue].remove(nth), now);
            }
            Move::Capacity { queue, slots } => {
                model.slots[queue] = slots;
                scheduler.set_capacity(queues[queue], slots);
            }
            Move::Weight { project, weight } => {
                let project = ProjectId::from_bytes([project; 16]);
                model.weights.insert(project, weight);
                set(&mut scheduler, &model, project, now);
            }
            Move::Limit { concurrency_max } => {
                model.set_limit(concurrency_max);
                set(&mut scheduler, &model, OWNER, now);
            }
            Move::Pass { us } => now = now.after_us(us),
            Move::Remove { .. } | Move::Release { .. } => {}
        }
        let mut freed = Vec::new();
        scheduler.drain_freed(&mut freed);
        for queue in 0..QUEUES {
            held_up[queue] &= !freed.contains(&queues[queue]);
            let starves = held_up[queue] && model.has_next(queue);
            prop_assert!(!starves, "queue {queue} waits for a place that is free");
        }
        prop_assert_eq!(scheduler.waiting(), model.waiting.len());
        let bytes = model.waiting.iter().map(|entry| entry.bytes).sum::<usize>();
        prop_assert_eq!(scheduler.waiting_bytes(), bytes);
        prop_assert!(bytes <= config().queue_bytes_max);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_trees_do_what_a_searched_list_does(moves in moves()) {
        check(moves)?;
    }
}
