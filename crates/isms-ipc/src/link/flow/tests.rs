//! Credit of streams, in both directions.

use std::task::Waker;

use isms_protocol::limits::STREAM_WINDOW;

use super::*;

fn context() -> Context<'static> {
    Context::from_waker(Waker::noop())
}

fn chunk(len: usize) -> Bytes {
    Bytes::from(vec![1; len])
}

fn take(inflow: &Inflow) -> (usize, u32) {
    match inflow.poll_take(&mut context()) {
        Poll::Ready(Taken {
            chunk: Some(Ok(chunk)),
            grant,
        }) => (chunk.len(), grant),
        Poll::Ready(Taken { grant, .. }) => (0, grant),
        Poll::Pending => panic!("nothing has come"),
    }
}

#[test]
fn nothing_is_sent_without_credit_and_never_more_than_it() {
    let outflow = Outflow::default();
    assert!(outflow.poll_credit(&mut context()).is_pending());
    assert_eq!(outflow.take(100), Ok(0));
    outflow.grant(40_000);
    assert!(outflow.poll_credit(&mut context()).is_ready());
    assert_eq!(outflow.take(100_000), Ok(CHUNK_LEN_MAX));
    assert_eq!(outflow.take(100_000), Ok(40_000 - CHUNK_LEN_MAX));
    assert!(outflow.poll_credit(&mut context()).is_pending());
}

#[test]
fn a_grant_of_everything_does_not_overflow() {
    let outflow = Outflow::default();
    outflow.grant(u32::MAX);
    outflow.grant(u32::MAX);
    assert_eq!(outflow.take(1), Ok(1));
}

#[test]
fn a_chunk_before_the_first_grant_is_a_violation() {
    let inflow = Inflow::default();
    assert_eq!(
        inflow.accept(chunk(1)),
        Err(FlowViolation::CreditExceeded { len: 1, credit: 0 })
    );
}

#[test]
fn a_chunk_beyond_the_window_is_a_violation() {
    let inflow = Inflow::default();
    assert_eq!((inflow.start(), inflow.start()), (STREAM_WINDOW, 0));
    for _ in 0..STREAM_WINDOW as usize / CHUNK_LEN_MAX {
        assert_eq!(inflow.accept(chunk(CHUNK_LEN_MAX)), Ok(0));
    }
    assert_eq!(
        inflow.accept(chunk(1)),
        Err(FlowViolation::CreditExceeded { len: 1, credit: 0 })
    );
}

#[test]
fn an_overlong_chunk_is_a_violation() {
    let inflow = Inflow::default();
    inflow.start();
    let len = CHUNK_LEN_MAX + 1;
    assert_eq!(
        inflow.accept(chunk(len)),
        Err(FlowViolation::ChunkTooLong { len })
    );
}

#[test]
fn what_is_consumed_is_granted_again_a_quarter_window_at_a_time() {
    let inflow = Inflow::default();
    inflow.start();
    inflow.accept(chunk(CHUNK_LEN_MAX)).unwrap();
    inflow.accept(chunk(CHUNK_LEN_MAX)).unwrap();
    assert_eq!(take(&inflow), (CHUNK_LEN_MAX, 0));
    assert_eq!(take(&inflow), (CHUNK_LEN_MAX, 2 * CHUNK_LEN_MAX as u32));
}

#[test]
fn a_stream_of_single_bytes_takes_no_more_than_its_window() {
    let inflow = Inflow::default();
    inflow.start();
    for _ in 0..CHUNK_LEN_MAX {
        inflow.accept(chunk(1)).unwrap();
        inflow.accept(chunk(0)).unwrap();
    }
    assert_eq!(lock(&inflow.state).chunks.len(), 1);
    assert_eq!(take(&inflow), (CHUNK_LEN_MAX, 0));
}

#[test]
fn what_came_before_an_end_is_handed_out_before_it_and_an_error_once() {
    let inflow = Inflow::default();
    inflow.start();
    inflow.accept(chunk(3)).unwrap();
    let error = WireError::new(ErrorCode::Cancelled, "over");
    inflow.end(Err(error.clone()));
    inflow.end(Ok(()));
    assert_eq!(take(&inflow), (3, 0));
    let Poll::Ready(taken) = inflow.poll_take(&mut context()) else {
        panic!("the end has come")
    };
    assert_eq!(taken.chunk, Some(Err(error)));
    let Poll::Ready(taken) = inflow.poll_take(&mut context()) else {
        panic!("the end has come")
    };
    assert_eq!(taken.chunk, None);
}

#[test]
fn a_stream_that_nobody_reads_flows_on_into_nothing() {
    let inflow = Inflow::default();
    assert_eq!(inflow.discard(), STREAM_WINDOW);
    assert_eq!(inflow.accept(chunk(CHUNK_LEN_MAX)), Ok(0));
    assert_eq!(inflow.accept(chunk(CHUNK_LEN_MAX)), Ok(2 * CHUNK_LEN_MAX as u32));
    assert_eq!(lock(&inflow.state).chunks.len(), 0);
}

/// Streams whose credit nobody uses.
fn idle(budget: &Arc<Budget>) -> Vec<Inflow> {
    let streams: Vec<_> = (0..1000).map(|_| Inflow::new(Arc::clone(budget))).collect();
    for stream in &streams {
        assert!(stream.start() > 0);
    }
    streams
}

#[test]
fn a_stream_beside_a_thousand_that_sit_on_their_credit_flows_on() {
    let budget = Arc::<Budget>::default();
    let _idle = idle(&budget);
    let inflow = Inflow::new(Arc::clone(&budget));
    let mut credit = inflow.start();
    assert!(credit < STREAM_WINDOW);
    for _ in 0..100 {
        assert!(credit > 0, "it starves");
        assert_eq!(inflow.accept(chunk(credit as usize)), Ok(0));
        let (len, grant) = take(&inflow);
        assert_eq!(len, credit as usize);
        credit = grant;
    }
}

#[test]
fn what_a_stream_has_used_is_left_to_others() {
    let budget = Arc::<Budget>::default();
    let inflow = Inflow::new(Arc::clone(&budget));
    inflow.start();
    for _ in 0..1000 {
        inflow.accept(chunk(CHUNK_LEN_MAX)).unwrap();
        take(&inflow);
    }
    assert_eq!(Inflow::new(budget).start(), STREAM_WINDOW);
}

#[test]
fn streams_that_have_ended_or_are_dropped_leave_their_credit_to_others() {
    let budget = Arc::<Budget>::default();
    let ended = idle(&budget);
    assert!(Inflow::new(Arc::clone(&budget)).start() < STREAM_WINDOW);
    for inflow in &ended {
        inflow.end(Ok(()));
        inflow.end(Ok(()));
    }
    assert_eq!(Inflow::new(Arc::clone(&budget)).start(), STREAM_WINDOW);
    drop(ended);
    drop(idle(&budget));
    assert_eq!(Inflow::new(budget).start(), STREAM_WINDOW);
}
