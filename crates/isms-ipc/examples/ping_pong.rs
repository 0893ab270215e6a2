//! Measures a message's way there and back between two threads, each with its own runtime: raw bytes
//! over a Unix stream as the floor, and messages over connections. Prints medians of interleaved rounds.

use std::{os::unix::net::UnixStream as StdStream, thread, time::Instant};

use isms_ipc::{Connection, Receiver, Sender, Side, blocking};
use isms_protocol::{Header, Kind, Message, Service};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    runtime::{Builder, Runtime},
};

const TRIPS: usize = 20_000;
const ROUNDS: usize = 5;
const DEPTH: usize = 64;
const PAYLOAD_LEN: usize = 128;

fn main() {
    let (mut raw, mut connection, mut executor, mut rate) = (vec![], vec![], vec![], vec![]);
    for _ in 0..ROUNDS {
        raw.push(raw_trip_us());
        connection.push(connection_trip_us(1, echo_on_tokio));
        executor.push(connection_trip_us(1, echo_blocking));
        rate.push(1e6 / connection_trip_us(DEPTH, echo_on_tokio));
    }
    println!("raw tokio stream        p50 {:8.1} us", median(raw));
    println!("connection, tokio       p50 {:8.1} us", median(connection));
    println!("connection, blocking    p50 {:8.1} us", median(executor));
    println!("connection, {DEPTH} in flight   {:8.0} messages/s", median(rate));
}

fn runtime() -> Runtime {
    Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime starts")
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn tokio_stream(stream: StdStream) -> UnixStream {
    stream.set_nonblocking(true).expect("a socket can be nonblocking");
    UnixStream::from_std(stream).expect("the runtime takes a socket")
}

fn raw_trip_us() -> f64 {
    let (ours, theirs) = StdStream::pair().expect("a socket pair");
    let echo = thread::spawn(move || {
        runtime().block_on(async {
            let (mut stream, mut buffer) = (tokio_stream(theirs), [0; 4096]);
            while let Ok(len @ 1..) = stream.read(&mut buffer).await {
                stream
                    .write_all(&buffer[..len])
                    .await
                    .expect("the other thread reads");
            }
        });
    });
    let trips = runtime().block_on(async {
        let (mut stream, mut buffer, mut trips) = (tokio_stream(ours), [0; 4096], Vec::new());
        for _ in 0..TRIPS {
            let start = Instant::now();
            stream
                .write_all(&[7; PAYLOAD_LEN])
                .await
                .expect("the other thread reads");
            stream
                .read_exact(&mut buffer[..PAYLOAD_LEN])
                .await
                .expect("the other thread answers");
            trips.push(start.elapsed().as_secs_f64() * 1e6);
        }
        trips
    });
    echo.join().expect("the other thread ends");
    median(trips)
}

/// Microseconds of a trip: the median with one in flight, else the time divided by the messages.
fn connection_trip_us(depth: usize, echo: fn(StdStream)) -> f64 {
    let (ours, theirs) = StdStream::pair().expect("a socket pair");
    let echo = thread::spawn(move || echo(theirs));
    let us = runtime().block_on(async {
        let (sender, mut receiver) = Connection::establish(tokio_stream(ours), Side::Bind)
            .await
            .expect("a handshake");
        let us = ping(&sender, &mut receiver, depth).await;
        receiver.shut_down().await;
        us
    });
    echo.join().expect("the other thread ends");
    us
}

async fn ping(sender: &Sender, receiver: &mut Receiver, depth: usize) -> f64 {
    let header = Header::new(Kind::Request, Service::Kernel, Service::Worker);
    let message = Message::bare(header).with_raw(vec![7; PAYLOAD_LEN]);
    let (mut trips, begin) = (Vec::new(), Instant::now());
    let rounds = if depth == 1 { TRIPS } else { TRIPS * 10 };
    for _ in 1..depth {
        sender.send(&message).expect("the other thread reads");
    }
    for _ in 0..rounds {
        let start = Instant::now();
        sender.send(&message).expect("the other thread reads");
        receiver
            .next()
            .await
            .expect("the protocol holds")
            .expect("the other thread answers");
        trips.push(start.elapsed().as_secs_f64() * 1e6);
    }
    match depth {
        1 => median(trips),
        _ => begin.elapsed().as_secs_f64() * 1e6 / rounds as f64,
    }
}

fn echo_on_tokio(stream: StdStream) {
    runtime().block_on(async {
        let stream = tokio_stream(stream);
        let (sender, mut receiver) = Connection::establish(stream, Side::Connect)
            .await
            .expect("a handshake");
        while let Ok(Some(message)) = receiver.next().await {
            sender.send(&message).expect("the other thread reads");
        }
    });
}

fn echo_blocking(stream: StdStream) {
    let mut connection = blocking::Connection::establish(stream, Side::Connect).expect("a handshake");
    while let Ok(Some(message)) = connection.receive(None) {
        if connection.send(&message).is_err() {
            return;
        }
    }
}
