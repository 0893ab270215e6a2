//! How durable calls come to the Doer, and how it tells each Kernel which of them it still has.
//!
//! Invariant: a Kernel hears of the calls before it hears of any capacity, each on the connection by which it
//! registered the Doer.

use std::{rc::Rc, time::Duration};

use isms_ipc::{Registration, Responder, StreamReceiver};
use isms_protocol::{ErrorCode, Header, WireError, limits::RESUMED_MAX};
use tokio::time::timeout;

use crate::{
    connection::WorkerConnection,
    durable::{Admission, Durable, Outcome},
    service::Doer,
};

/// How long a Kernel may take to say which of the calls in a list it wants.
const RESUME_TIMEOUT: Duration = Duration::from_secs(30);

/// Tells a Kernel that has registered the Doer which calls it still has, then all capacities.
pub(crate) async fn introduce(doer: Rc<Doer>, registration: Registration) {
    let mut rest = doer.state.borrow().durables.lost();
    loop {
        let (part, more) = next_part(&mut rest, RESUMED_MAX, |call| call.is_lost());
        let headers: Vec<Header> = part.iter().map(|call| *call.header()).collect();
        let asked = timeout(RESUME_TIMEOUT, registration.resume(&headers, more)).await;
        let late = || WireError::new(ErrorCode::Unavailable, "the kernel did not answer in time");
        let answers = asked.unwrap_or_else(|_| Err(late()));
        if registration.is_lost() {
            return;
        }
        match answers {
            Ok(answers) => resumed(&doer, &part, answers),
            Err(error) => {
                tracing::error!(%error, calls = part.len() + rest.len(), "the kernel did not say which calls it wants, they are stopped");
                let durables = &mut doer.state.borrow_mut().durables;
                part.iter().chain(&rest).for_each(|call| _ = durables.cut(call));
                break;
            }
        }
        if !more {
            break;
        }
    }
    doer.announce(registration);
}

fn resumed(doer: &Doer, calls: &[Rc<Durable>], answers: Vec<Option<Responder>>) {
    let durables = &mut doer.state.borrow_mut().durables;
    for (call, answer) in calls.iter().zip(answers) {
        let wanted = answer.is_some();
        match answer {
            Some(responder) => durables.attach(call, responder),
            None => _ = durables.cut(call),
        }
        let Header { process, attempt, .. } = *call.header();
        tracing::debug!(%process, attempt, wanted, "told the kernel of a durable call");
    }
    if !calls.is_empty() {
        tracing::info!(calls = calls.len(), "told the kernel of durable calls");
    }
}

/// Takes the next list, of those that are still to be told, and says whether another one follows.
fn next_part<T>(rest: &mut Vec<T>, len_max: usize, is_told: impl Fn(&T) -> bool) -> (Vec<T>, bool) {
    rest.retain(is_told);
    let after = rest.split_off(rest.len().min(len_max));
    let part = std::mem::replace(rest, after);
    (part, !rest.is_empty())
}

impl Doer {
    /// Admits a durable call once no other attempt of its process is here. `None` when it is not to run: it was
    /// refused, or nobody wants it any more.
    pub(crate) async fn admit_durable(
        &self,
        mut responder: Responder,
        stream: Option<&StreamReceiver>,
    ) -> Option<Rc<Durable>> {
        // One that never began is not told to the next Kernel, so it must not run.
        while !responder.is_lost() {
            let admission = self.state.borrow_mut().durables.admit(responder, stream);
            let earlier = match admission {
                Admission::Admitted(durable) => return Some(durable),
                Admission::Fenced(refused) => {
                    let message = "this attempt of the process, or a later one, is here already";
                    refused.error(WireError::new(ErrorCode::Fenced, message));
                    return None;
                }
                Admission::After(earlier, waiting) => {
                    responder = waiting;
                    earlier
                }
            };
            tokio::select! {
                () = earlier.ended() => {}
                () = responder.cancelled() => {
                    let message = "the call was cancelled by its caller";
                    responder.error(WireError::new(ErrorCode::Cancelled, message));
                    return None;
                }
            }
        }
        None
    }

    /// Tells what a durable call ended with, or keeps it.
    pub(crate) fn end_durable(&self, call: &Durable, outcome: Outcome) {
        self.state.borrow().durables.end(call, outcome);
    }

    /// Nobody is told anything of the call any more.
    pub(crate) fn cut_durable(&self, call: Option<&Rc<Durable>>) {
        if let Some(call) = call {
            self.state.borrow_mut().durables.cut(call);
        }
    }

    /// The call runs no more.
    pub(crate) fn release_durable(&self, call: &Rc<Durable>) {
        self.state.borrow_mut().durables.release(call);
    }

    /// Waits until a worker's process is gone.
    pub(crate) async fn worker_gone(&self, connection: &WorkerConnection) {
        let is_here = || self.state.borrow().workers.contains_key(&connection.worker);
        while is_here() {
            connection.gone().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_that_is_too_long_comes_in_parts_of_which_the_last_says_so() {
        let parts = |len: u32| {
            let mut rest: Vec<u32> = (0..len).collect();
            let mut parts = Vec::new();
            loop {
                let (part, more) = next_part(&mut rest, 2, |_| true);
                parts.push(part);
                if !more {
                    return parts;
                }
            }
        };
        assert_eq!(parts(0), [vec![]]);
        assert_eq!(parts(2), [vec![0, 1]]);
        assert_eq!(parts(5), [vec![0, 1], vec![2, 3], vec![4]]);
    }

    #[test]
    fn what_was_given_up_meanwhile_is_not_told() {
        let mut rest = vec![1, 2, 3, 4];
        assert_eq!(next_part(&mut rest, 2, |_| true), (vec![1, 2], true));
        assert_eq!(next_part(&mut rest, 2, |call| *call != 4), (vec![3], false));
        assert_eq!(next_part(&mut vec![1], 2, |_| false), (vec![], false));
    }
}
