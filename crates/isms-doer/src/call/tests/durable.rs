//! Durable calls over Kernels that come and go. The test is each of them.

mod kernel;

use isms_protocol::{
    dbriver,
    kernel::{Resume, ResumedCall},
};

use self::kernel::{Durably, Lone, P1, P2, attempt};
use super::*;
use crate::durable::{Admission, Durables};

fn transaction(worker: &LyingWorker, call: &Header) -> PendingAnswer {
    let mut header = Header::new(Kind::Request, Service::Worker, Service::Dbriver);
    header.operation = dbriver::Operation::Transaction as u16;
    (header.parent, header.attempt) = (call.process, call.attempt);
    worker.link.start(Message::bare(header))
}

async fn unavailable(answer: PendingAnswer) {
    assert_eq!(soon(answer).await.unwrap_err().code, ErrorCode::Unavailable);
}

#[test]
fn a_new_doer_has_nothing_and_says_so_before_it_tells_what_it_takes() {
    on_a_local_runtime(async {
        let mut scene = Durably::new().await;
        let mut kernel = scene.kernel().await;
        kernel.resume(&[], &[]).await;
        kernel.invoke(1, attempt(P1, 1));
        let mut worker = scene.start_worker().await;
        assert_eq!(kernel.next().await.header.kind, Kind::Slots);
        worker.begin_next().await.reply(&reply(), Bytes::new());
        kernel.answer_of(1).await;

        kernel.die(&scene).await;
        let mut kernel = scene.kernel().await;
        let question = kernel.question().await;
        // A capacity that changes now is told later.
        scene.doer.dispatch(Event::Retire { version: VERSION });
        scene.settle().await;
        assert!(kernel.has_heard_nothing());
        kernel.answer(&question, &[]);
        let slots = kernel.next().await;
        assert_eq!(slots.header.kind, Kind::Slots);
        assert_eq!(slots.decode_body::<Slots>().unwrap().capacity, 0);
    });
}

#[test]
fn a_call_that_waits_goes_on_under_the_id_of_the_next_kernel() {
    on_a_local_runtime(async {
        let mut scene = Durably::new().await;
        let kernel = scene.fresh_kernel().await;
        kernel.invoke(1, attempt(P1, 3));
        let sandbox = scene.spawn().await;
        kernel.die(&scene).await;
        let mut kernel = scene.kernel().await;
        kernel.resume(&[attempt(P1, 3)], &[900]).await;
        let mut worker = scene.start_in(sandbox).await;
        let call = worker.begin_next().await;
        assert_eq!((call.header().process, call.header().attempt), (P1, 3));
        assert!((1..=60_000_000).contains(&call.header().remaining_us));
        call.reply(&reply(), Bytes::from_static(b"done"));
        let answer = kernel.answer_of(900).await;
        assert_eq!((answer.header.kind, &answer.raw[..]), (Kind::Reply, &b"done"[..]));
        assert_eq!((answer.header.process, answer.header.attempt), (P1, 3));
        scene.expect_nothing_left().await;
    });
}

#[test]
fn a_call_that_runs_goes_on_and_is_cancelled_under_its_new_id() {
    on_a_local_runtime(async {
        let mut scene = Durably::new().await;
        let (mut worker, call, kernel) = scene.running(attempt(P1, 1)).await;
        kernel.die(&scene).await;
        let mut kernel = scene.kernel().await;
        // The cancel stands right behind the answer.
        let question = kernel.question().await;
        assert_eq!(question.calls, [attempt(P1, 1)]);
        kernel.answer(&question, &[901]);
        assert!(!call.is_cancelled());
        kernel.cancel(901);
        soon(call.cancelled()).await;
        call.error(cancelled());
        let answer = kernel.answer_of(901).await;
        assert_eq!(
            answer.decode_body::<WireError>().unwrap().code,
            ErrorCode::Cancelled
        );

        // The worker is free for another call.
        kernel.invoke(902, attempt(P2, 1));
        worker.begin_next().await.reply(&reply(), Bytes::new());
        kernel.answer_of(902).await;
        scene.expect_nothing_left().await;
    });
}

#[test]
fn what_ends_without_a_kernel_is_kept_until_one_was_told() {
    on_a_local_runtime(async {
        let mut scene = Durably::new().await;
        let (_worker, call, kernel) = scene.running(attempt(P1, 1)).await;
        kernel.die(&scene).await;
        call.reply(&reply(), Bytes::from_static(b"kept"));
        scene.no_call_runs().await;

        // One that dies before it has answered changes nothing.
        let mut kernel = scene.kernel().await;
        assert_eq!(kernel.question().await.calls, [attempt(P1, 1)]);
        kernel.die(&scene).await;
        let mut kernel = scene.kernel().await;
        kernel.resume(&[attempt(P1, 1)], &[31]).await;
        let answer = kernel.answer_of(31).await;
        assert_eq!((answer.header.kind, &answer.raw[..]), (Kind::Reply, &b"kept"[..]));
        assert_eq!(answer.decode_body::<InvocationReply>().unwrap(), reply());

        scene.expect_nothing_left().await;
        kernel.die(&scene).await;
        scene.kernel().await.resume(&[], &[]).await;
    });
}

#[test]
fn an_error_is_kept_as_a_reply_is_and_dropped_when_it_is_not_wanted() {
    on_a_local_runtime(async {
        for wanted in [true, false] {
            let mut scene = Durably::new().await;
            let (worker, _call, kernel) = scene.running(attempt(P1, 1)).await;
            kernel.die(&scene).await;
            scene.kill(worker);
            scene.no_call_runs().await;
            let mut kernel = scene.kernel().await;
            kernel
                .resume(&[attempt(P1, 1)], &[if wanted { 5 } else { 0 }])
                .await;
            let next = kernel.next().await;
            if wanted {
                assert_eq!(next.header.call, 5);
                assert_eq!(next.decode_body::<WireError>().unwrap().code, ErrorCode::Crashed);
            } else {
                assert_eq!(next.header.kind, Kind::Slots);
            }
            scene.expect_nothing_left().await;
        }
    });
}

#[test]
fn no_more_outcomes_are_kept_than_there_is_room_for() {
    on_a_local_runtime(async {
        let mut scene = Durably::new().await;
        scene.doer.state.borrow_mut().durables = Durables::new(1);
        let kernel = scene.fresh_kernel().await;
        kernel.invoke(1, attempt(P1, 1));
        let mut worker = scene.start_worker().await;
        let first = worker.begin_next().await;
        kernel.invoke(2, attempt(P2, 1));
        scene.until(|doer| doer.state.borrow().calls.len() == 2).await;
        kernel.die(&scene).await;
        first.reply(&reply(), Bytes::new());
        worker.begin_next().await.reply(&reply(), Bytes::new());
        scene.no_call_runs().await;
        scene.kernel().await.resume(&[attempt(P1, 1)], &[3]).await;
    });
}

#[test]
fn host_calls_fail_without_a_kernel_and_wait_for_one_that_does_not_know_their_call_yet() {
    on_a_local_runtime(async {
        let mut scene = Durably::new().await;
        let (worker, call, mut kernel) = scene.running(attempt(P1, 4)).await;
        let in_flight = transaction(&worker, call.header());
        assert_eq!(kernel.next_request().await.header.target, Service::Dbriver);
        kernel.die(&scene).await;
        unavailable(in_flight).await;
        unavailable(transaction(&worker, call.header())).await;

        let mut kernel = scene.kernel().await;
        let question = kernel.question().await;
        let early = transaction(&worker, call.header());
        let ping = transaction(&worker, call.header());
        scene.settle().await;
        assert!(kernel.has_heard_nothing());
        kernel.answer(&question, &[77]);
        for answer in [early, ping] {
            let asked = kernel.next_request().await;
            assert_eq!(asked.header.target, Service::Dbriver);
            assert_eq!((asked.header.parent, asked.header.attempt), (P1, 4));
            kernel.send(&Message::bare(asked.header.answer(Kind::Reply)));
            soon(answer).await.unwrap();
        }
    });
}

#[test]
fn a_host_call_that_waits_fails_when_its_call_is_not_wanted_or_the_kernel_is_lost_again() {
    on_a_local_runtime(async {
        let mut scene = Durably::new().await;
        let (worker, call, kernel) = scene.running(attempt(P1, 4)).await;
        kernel.die(&scene).await;
        let mut kernel = scene.kernel().await;
        kernel.question().await;
        let waiting = transaction(&worker, call.header());
        scene.settle().await;
        kernel.die(&scene).await;
        unavailable(waiting).await;

        let mut kernel = scene.kernel().await;
        let question = kernel.question().await;
        let waiting = transaction(&worker, call.header());
        scene.settle().await;
        kernel.answer(&question, &[0]);
        unavailable(waiting).await;
        soon(call.cancelled()).await;
        unavailable(transaction(&worker, call.header())).await;
    });
}

#[test]
fn a_call_that_was_answered_is_not_told_of() {
    on_a_local_runtime(async {
        let mut scene = Durably::new().await;
        let (_worker, call, mut kernel) = scene.running(attempt(P1, 1)).await;
        call.reply(&reply(), Bytes::new());
        kernel.answer_of(1).await;
        kernel.die(&scene).await;
        scene.kernel().await.resume(&[], &[]).await;
    });
}

#[test]
fn a_call_that_is_not_durable_is_not_told_of_and_its_answer_reaches_nobody() {
    on_a_local_runtime(async {
        let mut scene = Durably::new().await;
        let kernel = scene.fresh_kernel().await;
        kernel.invoke_once(1, attempt(P1, 1));
        let mut worker = scene.start_worker().await;
        let call = worker.begin_next().await;
        kernel.die(&scene).await;
        let mut kernel = scene.kernel().await;
        kernel.resume(&[], &[]).await;
        assert_eq!(kernel.next().await.header.kind, Kind::Slots);
        assert!(!call.is_cancelled(), "what has begun ends in peace");
        call.reply(&reply(), Bytes::new());
        kernel.invoke(2, attempt(P2, 1));
        worker.begin_next().await.reply(&reply(), Bytes::new());
        assert_eq!(kernel.next().await.header.call, 2);
    });
}

#[test]
fn a_call_whose_reply_streams_is_stopped_and_its_next_attempt_waits_for_that() {
    on_a_local_runtime(async {
        // A Kernel that was restarted may not know how many attempts there were.
        for next in [2, 6, 7] {
            let mut scene = Durably::new().await;
            let (mut worker, call, mut kernel) = scene.running(attempt(P1, 6)).await;
            let asked = *call.header();
            let stream = call.reply_stream(&reply());
            assert_eq!(
                kernel.answer_of(1).await.header.flags,
                isms_protocol::Flags::STREAM
            );
            kernel.die(&scene).await;
            soon(stream.refused()).await;
            let mut kernel = scene.kernel().await;
            kernel.resume(&[], &[]).await;
            kernel.invoke(8, attempt(P1, next));
            unavailable(transaction(&worker, &asked)).await;
            scene.settle().await;
            assert_eq!(scene.doer.state.borrow().calls.len(), 1);
            drop(stream);
            let call = worker.begin_next().await;
            assert_eq!((call.header().process, call.header().attempt), (P1, next));
            call.reply(&reply(), Bytes::new());
            kernel.answer_of(8).await;
            scene.expect_nothing_left().await;
        }
    });
}

#[test]
fn a_reply_that_would_stream_to_nobody_is_dropped_with_its_call() {
    on_a_local_runtime(async {
        let mut scene = Durably::new().await;
        let (_worker, call, kernel) = scene.running(attempt(P1, 1)).await;
        kernel.die(&scene).await;
        let stream = call.reply_stream(&reply());
        soon(stream.refused()).await;
        // Its worker has not stopped yet.
        let mut kernel = scene.kernel().await;
        kernel.resume(&[], &[]).await;
        assert!(!scene.doer.state.borrow().durables.is_empty());
        drop(stream);
        scene.expect_nothing_left().await;
    });
}

#[test]
fn a_reply_that_streams_waits_for_a_kernel_that_has_not_said_how_it_knows_the_call() {
    on_a_local_runtime(async {
        let mut scene = Durably::new().await;
        let (_worker, call, kernel) = scene.running(attempt(P1, 1)).await;
        kernel.die(&scene).await;
        let mut kernel = scene.kernel().await;
        let question = kernel.question().await;
        let mut stream = call.reply_stream(&reply());
        scene.settle().await;
        assert!(kernel.has_heard_nothing());
        kernel.answer(&question, &[6]);
        assert_eq!(
            kernel.answer_of(6).await.header.flags,
            isms_protocol::Flags::STREAM
        );
        kernel.grant(6, 100);
        soon(stream.send(Bytes::from_static(b"chunk"))).await.unwrap();
        stream.finish();
        assert_eq!(kernel.next_of(6).await.raw, b"chunk"[..]);
        assert_eq!(kernel.next_of(6).await.header.kind, Kind::StreamEnd);
        scene.expect_nothing_left().await;
    });
}

#[test]
fn a_call_goes_on_when_its_request_has_come_whole_and_is_stopped_when_it_has_not() {
    on_a_local_runtime(async {
        for whole in [true, false] {
            let mut scene = Durably::new().await;
            let mut kernel = scene.fresh_kernel().await;
            kernel.invoke_streaming(1, attempt(P1, 1));
            let mut worker = scene.start_worker().await;
            let mut request = worker.next_request().await;
            assert!(worker.page.begin(request.responder.header().call));
            let mut body = request.stream.take().unwrap();
            if whole {
                let sending = async {
                    assert_eq!(kernel.next_of(1).await.header.kind, Kind::Credit);
                    kernel.chunk(1, b"all of it");
                    kernel.end(1);
                };
                let (chunk, ()) = tokio::join!(body.next(), sending);
                assert_eq!(chunk.unwrap().unwrap(), b"all of it"[..]);
                assert!(soon(body.next()).await.is_none());
            }
            kernel.die(&scene).await;
            let call = request.responder;
            let mut kernel = scene.kernel().await;
            if whole {
                kernel.resume(&[attempt(P1, 1)], &[4]).await;
                call.reply(&reply(), Bytes::new());
                kernel.answer_of(4).await;
            } else {
                kernel.resume(&[], &[]).await;
                soon(call.cancelled()).await;
                call.error(cancelled());
            }
            scene.expect_nothing_left().await;
        }
    });
}

#[test]
fn a_call_that_is_not_wanted_is_stopped_and_its_answer_dropped() {
    on_a_local_runtime(async {
        let mut scene = Durably::new().await;
        let (mut worker, call, kernel) = scene.running(attempt(P1, 1)).await;
        kernel.die(&scene).await;
        let mut kernel = scene.kernel().await;
        kernel.resume(&[attempt(P1, 1)], &[0]).await;
        soon(call.cancelled()).await;
        call.reply(&reply(), Bytes::from_static(b"too late"));
        scene.expect_nothing_left().await;
        kernel.invoke(2, attempt(P2, 1));
        let call = worker.begin_next().await;
        assert_eq!(call.header().process, P2);
        call.reply(&reply(), Bytes::new());
        let kinds = [kernel.next().await, kernel.next().await].map(|message| message.header);
        assert_eq!((kinds[0].kind, kinds[1].call), (Kind::Slots, 2));
    });
}

#[test]
fn a_worker_that_does_not_stop_is_killed_and_the_next_attempt_waits_until_it_is_gone() {
    on_a_local_runtime(async {
        let mut scene = Durably::new().await;
        let (worker, call, kernel) = scene.running(attempt(P1, 1)).await;
        kernel.die(&scene).await;
        let mut kernel = scene.kernel().await;
        kernel.resume(&[attempt(P1, 1)], &[0]).await;
        soon(call.cancelled()).await;
        kernel.invoke(2, attempt(P1, 2));
        let killed = async {
            let mut ticks = tokio::time::interval(Duration::from_millis(20));
            loop {
                ticks.tick().await;
                scene.doer.dispatch(Event::Tick);
            }
        };
        tokio::select! {
            request = scene.next_request() => assert!(matches!(request, Request::Kill { .. })),
            () = killed => {}
        }
        scene.settle().await;
        assert!(scene.doer.state.borrow().calls.is_empty(), "it is not dead yet");
        scene.kill(worker);
        let mut worker = scene.start_worker().await;
        let call = worker.begin_next().await;
        assert_eq!((call.header().process, call.header().attempt), (P1, 2));
    });
}

#[test]
fn a_call_that_was_cancelled_is_not_told_of_while_it_stops() {
    on_a_local_runtime(async {
        let mut scene = Durably::new().await;
        let (_worker, call, kernel) = scene.running(attempt(P1, 1)).await;
        kernel.cancel(1);
        soon(call.cancelled()).await;
        kernel.die(&scene).await;
        let mut kernel = scene.kernel().await;
        kernel.resume(&[], &[]).await;
        call.error(cancelled());
        scene.expect_nothing_left().await;
    });
}

#[test]
fn a_call_whose_kernel_was_lost_before_it_was_looked_at_never_begins() {
    on_a_local_runtime(async {
        let scene = Durably::new().await;
        let lost = Lone::asked().await.lost().await;
        let admitted = scene.doer.admit_durable(lost, None).await;
        assert!(admitted.is_none() && scene.doer.state.borrow().durables.is_empty());
    });
}

#[test]
fn a_call_that_wakes_late_does_not_take_a_lost_connection_for_a_cancel() {
    on_a_local_runtime(async {
        let (first, next) = (Lone::asked().await, Lone::asked().await);
        let mut durables = Durables::new(1);
        let Admission::Admitted(call) = durables.admit(first.responder, None) else {
            panic!("it is the first");
        };
        let mut gave_up = std::pin::pin!(call.gave_up());
        tokio::select! {
            biased;
            () = &mut gave_up => panic!("nobody has cancelled it"),
            () = first.kernel.close() => {}
        }
        while !call.is_lost() {
            tokio::task::yield_now().await;
        }
        durables.attach(&call, next.responder);
        // Both have happened when it is looked at again.
        tokio::select! {
            biased;
            () = &mut gave_up => panic!("nobody has cancelled it"),
            () = std::future::ready(()) => {}
        }
        drop(next.pending);
        soon(gave_up).await;
    });
}

#[test]
fn a_kernel_that_dispatches_a_process_twice_runs_it_once() {
    on_a_local_runtime(async {
        let mut scene = Durably::new().await;
        let (mut worker, call, mut kernel) = scene.running(attempt(P1, 2)).await;
        for (id, earlier) in [(10, 2), (11, 1)] {
            kernel.invoke(id, attempt(P1, earlier));
            kernel.fenced(id).await;
        }
        assert!(!call.is_cancelled());
        kernel.invoke(12, attempt(P1, 3));
        soon(call.cancelled()).await;
        kernel.fenced(1).await;
        scene.settle().await;
        assert_eq!(scene.doer.state.borrow().calls.len(), 1);
        call.reply(&reply(), Bytes::from_static(b"of the old attempt"));
        let call = worker.begin_next().await;
        assert_eq!(call.header().attempt, 3);
        call.reply(&reply(), Bytes::from_static(b"of the new attempt"));
        let answer = kernel.next_of_calls().await;
        assert_eq!(
            (answer.header.call, &answer.raw[..]),
            (12, &b"of the new attempt"[..])
        );
        scene.expect_nothing_left().await;
    });
}

#[test]
fn an_attempt_whose_reply_streams_is_stopped_for_a_later_one() {
    on_a_local_runtime(async {
        let mut scene = Durably::new().await;
        let (mut worker, call, mut kernel) = scene.running(attempt(P1, 1)).await;
        let stream = call.reply_stream(&reply());
        kernel.answer_of(1).await;
        kernel.invoke(2, attempt(P1, 2));
        soon(stream.refused()).await;
        assert_eq!(kernel.next_of(1).await.header.kind, Kind::StreamEnd);
        drop(stream);
        let call = worker.begin_next().await;
        assert_eq!(call.header().attempt, 2);
        call.reply(&reply(), Bytes::new());
        kernel.answer_of(2).await;
        scene.expect_nothing_left().await;
    });
}

#[test]
fn a_call_that_its_worker_gave_back_is_forgotten_although_the_worker_lives_on() {
    on_a_local_runtime(async {
        let mut scene = Durably::new().await;
        let (_worker, _call, mut kernel) = scene.running(attempt(P1, 1)).await;
        let (connection, task) = {
            let state = scene.doer.state.borrow();
            let connection = state.workers.values().next().cloned();
            (connection.unwrap(), *state.calls.keys().next().unwrap())
        };
        // As if it had been sent ahead, which it is only if the machine is fast enough.
        connection.end_call(task);
        scene.doer.state.borrow().calls[&task].rule(Verdict::Fail(cancelled()));
        kernel.answer_of(1).await;
        scene.expect_nothing_left().await;
        assert!(!scene.doer.state.borrow().workers.is_empty());
    });
}

#[test]
fn an_attempt_that_waits_for_an_earlier_one_can_be_cancelled_and_dies_with_its_kernel() {
    on_a_local_runtime(async {
        let mut scene = Durably::new().await;
        let (_worker, call, mut kernel) = scene.running(attempt(P1, 1)).await;
        kernel.invoke(2, attempt(P1, 2));
        soon(call.cancelled()).await;
        kernel.fenced(1).await;
        kernel.cancel(2);
        let answer = kernel.answer_of(2).await;
        assert_eq!(
            answer.decode_body::<WireError>().unwrap().code,
            ErrorCode::Cancelled
        );
        kernel.invoke(3, attempt(P1, 3));
        scene.settle().await;
        kernel.die(&scene).await;
        let mut kernel = scene.kernel().await;
        kernel.resume(&[], &[]).await;
        call.error(cancelled());
        scene.expect_nothing_left().await;
        scene.settle().await;
        assert!(scene.doer.state.borrow().calls.is_empty());
    });
}

#[test]
fn calls_that_a_kernel_does_not_understand_are_stopped() {
    on_a_local_runtime(async {
        let mut scene = Durably::new().await;
        let (_worker, call, kernel) = scene.running(attempt(P1, 1)).await;
        kernel.die(&scene).await;
        let mut kernel = scene.kernel().await;
        let question = kernel.question().await;
        let error = WireError::new(ErrorCode::Invalid, "no such operation");
        kernel.send(&Message::error_answer(&question.header, &error));
        soon(call.cancelled()).await;
        assert_eq!(kernel.next().await.header.kind, Kind::Slots);
    });
}
