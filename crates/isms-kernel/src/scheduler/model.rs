//! The scheduler against a naive model: one list that is searched from end to end.

use isms_protocol::{Class, DoeeVersion, Service};
use proptest::prelude::*;

use super::{AGED_ONE_IN, Arrival, Full, QueueIndex, QueueName, Scheduler, Ticket};
use crate::{clock::Moment, config::Config, process_controller::ProcessKey};

const QUEUES: usize = 3;
const AGING_US: u64 = 1_000;

#[derive(Clone, Debug)]
enum Move {
    Wait {
        queue: usize,
        class: Class,
        deadline_us: Option<u64>,
        bytes: usize,
    },
    Take {
        queue: usize,
    },
    Remove {
        nth: usize,
    },
    Release {
        queue: usize,
    },
    Capacity {
        queue: usize,
        capacity: u32,
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
}

#[derive(Default)]
struct Model {
    waiting: Vec<Entry>,
    capacity: [u32; QUEUES],
    running: [u32; QUEUES],
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

impl Model {
    fn of(&self, queue: usize) -> impl Iterator<Item = &Entry> {
        self.waiting.iter().filter(move |entry| entry.queue == queue)
    }

    fn last(&self, queue: usize) -> Option<&Entry> {
        self.of(queue).max_by_key(|entry| entry.ticket)
    }

    fn evict(&mut self, victim: Option<Entry>, below: Class) -> Result<ProcessKey, Full> {
        let victim = victim.filter(|victim| victim.ticket.class > below).ok_or(Full)?;
        self.waiting.retain(|entry| entry.ticket != victim.ticket);
        Ok(victim.process)
    }

    fn wait(&mut self, queue: usize, call: Arrival, evicted: &mut Vec<ProcessKey>) -> Result<Ticket, Full> {
        let config = config();
        if self.of(queue).count() >= config.queue_len_max {
            let victim = self.last(queue).cloned();
            evicted.push(self.evict(victim, call.class)?);
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
            virtual_deadline,
            sequence: self.sequence,
        };
        self.waiting.push(Entry {
            queue,
            ticket,
            process: call.process,
            since: call.now,
            bytes: call.bytes,
        });
        Ok(ticket)
    }

    fn take(&mut self, queue: usize, now: Moment) -> Option<ProcessKey> {
        if self.running[queue] >= self.capacity[queue] {
            return None;
        }
        let first = self.of(queue).min_by_key(|entry| entry.ticket)?.clone();
        let oldest = self.of(queue).min_by_key(|entry| entry.ticket.sequence)?.clone();
        let aged = self.until_aged[queue] == 0 && now.us_since(oldest.since) >= AGING_US;
        let next = if aged { oldest } else { first.clone() };
        self.until_aged[queue] = match next.ticket == first.ticket {
            true => self.until_aged[queue].saturating_sub(1),
            false => AGED_ONE_IN - 1,
        };
        self.running[queue] += 1;
        self.waiting.retain(|entry| entry.ticket != next.ticket);
        Some(next.process)
    }
}

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let queue = 0..QUEUES;
    let class = prop::sample::select(&Class::ALL[..]);
    let deadline = prop::option::of(1..5_000u64);
    let one = prop_oneof![
        6 => (queue.clone(), class, deadline, 1..200usize)
            .prop_map(|(queue, class, deadline_us, bytes)| Move::Wait { queue, class, deadline_us, bytes }),
        4 => queue.clone().prop_map(|queue| Move::Take { queue }),
        1 => any::<usize>().prop_map(|nth| Move::Remove { nth }),
        2 => queue.clone().prop_map(|queue| Move::Release { queue }),
        1 => (queue, 0..4u32).prop_map(|(queue, capacity)| Move::Capacity { queue, capacity }),
        2 => (0..900u64).prop_map(|us| Move::Pass { us }),
    ];
    prop::collection::vec(one, 1..200)
}

fn check(moves: Vec<Move>) -> Result<(), TestCaseError> {
    let mut scheduler = Scheduler::new(&config());
    let mut model = Model::default();
    let name = |number: u8| QueueName {
        service: Service::Doer,
        doee: DoeeVersion::from_bytes([number; 16]),
    };
    let queues: Vec<QueueIndex> = (1..=QUEUES as u8)
        .map(|number| scheduler.open(name(number)).unwrap())
        .collect();
    let mut now = Moment(0);
    for (number, one) in moves.into_iter().enumerate() {
        match one {
            Move::Wait {
                queue,
                class,
                deadline_us,
                bytes,
            } => {
                let deadline = deadline_us.map(|us| now.after_us(us));
                let process = ProcessKey::from_call(number as u64);
                let call = Arrival {
                    process,
                    class,
                    deadline,
                    now,
                    bytes,
                };
                let (mut evicted, mut evicted_in_model) = (Vec::new(), Vec::new());
                let real = scheduler.wait(queues[queue], call, &mut evicted);
                prop_assert_eq!(real, model.wait(queue, call, &mut evicted_in_model));
                prop_assert_eq!(evicted, evicted_in_model);
            }
            Move::Take { queue } => {
                prop_assert_eq!(scheduler.take(queues[queue], now), model.take(queue, now));
            }
            Move::Remove { nth } if !model.waiting.is_empty() => {
                let entry = model.waiting.remove(nth % model.waiting.len());
                prop_assert_eq!(
                    scheduler.remove(queues[entry.queue], &entry.ticket),
                    Some(entry.process)
                );
                prop_assert_eq!(scheduler.remove(queues[entry.queue], &entry.ticket), None);
            }
            Move::Release { queue } if model.running[queue] > 0 => {
                model.running[queue] -= 1;
                scheduler.release(queues[queue]);
            }
            Move::Capacity { queue, capacity } => {
                model.capacity[queue] = capacity;
                scheduler.set_capacity(queues[queue], capacity);
            }
            Move::Pass { us } => now = now.after_us(us),
            Move::Remove { .. } | Move::Release { .. } => {}
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
