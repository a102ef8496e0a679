//! What a server does for those who come to its socket.
//!
//! Both sides of all of it, and of the reference, run on the CPU of this process: both pay for the same changes of threads,
//! and none for the way between two CPUs. The server is a process of its own.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use zproc::{Server, State};
use zproc_bench::rounds::{Spread, compare};
use zproc_bench::table::{Goal, Limit, Measured, Unit};

use crate::{Bench, Row};

/// Calls of one round.
const CALLS: usize = 200;
/// Bytes of a ping's payload.
const PAYLOAD: usize = 56;

/// The rows.
pub const ROWS: &[Row] = &[
    Row::alone(
        Goal {
            work: "ping",
            limit: Limit::AtMost(1.2),
            reference: "bare Unix-socket round trip",
            unit: Unit::Time,
        },
        ping,
    ),
    Row::alone(
        Goal {
            work: "get over a socket",
            limit: Limit::AtMost(1.5),
            reference: "bare Unix-socket round trip",
            unit: Unit::Time,
        },
        remote_get,
    ),
    Row::alone(
        Goal {
            work: "ping beside 200 idle clients, p99",
            limit: Limit::AtMost(1.5),
            reference: "the same, alone",
            unit: Unit::Time,
        },
        beside_idle,
    ),
    Row::alone(
        Goal {
            work: "hand-over, connect to first get",
            limit: Limit::FigureAtMost(1e6),
            reference: "",
            unit: Unit::Time,
        },
        hand_over,
    ),
];

fn server() -> Server {
    let server = zproc::start_server().secret_key("bench").start();
    server.expect("a server can be started")
}

fn median(samples: impl Iterator<Item = Duration>) -> f64 {
    Spread::of(samples.map(|time| time.as_nanos() as f64).collect()).median
}

/// A thread that sends back what it gets, and the other end.
fn echo(size: usize) -> UnixStream {
    let (own, mut other) = UnixStream::pair().expect("descriptors are left");
    std::thread::spawn(move || {
        let mut buffer = vec![0; size];
        while other.read_exact(&mut buffer).is_ok() && other.write_all(&buffer).is_ok() {}
    });
    own
}

fn round_trip(stream: &mut UnixStream, buffer: &mut [u8]) -> Duration {
    let begin = Instant::now();
    stream.write_all(buffer).expect("the echo lives");
    stream.read_exact(buffer).expect("the echo answers");
    begin.elapsed()
}

fn ping(bench: &Bench) -> Measured {
    let server = server();
    let ping = zproc::ping(server.address()).secret_key("bench");
    let one = || {
        let pong = ping.send().expect("the server lives");
        pong.expect("it is the same payload").round_trip
    };
    let mut stream = echo(PAYLOAD);
    let mut buffer = [7; PAYLOAD];
    let comparison = compare(
        bench.rounds(40),
        |_| median((0..CALLS).map(|_| one())),
        |_| median((0..CALLS).map(|_| round_trip(&mut stream, &mut buffer))),
    );
    Measured::from(comparison).with_note("over one connection".into())
}

/// Bytes of a value that is read.
const VALUE: usize = 8;

fn remote_get(bench: &Bench) -> Measured {
    let server = server();
    let state = State::builder(&format!("{}?transport=socket", server.address())).secret_key("bench");
    let state = state.open().expect("the server lives");
    state.insert("key with 20 bytes...", 5).expect("there is room");
    let one = || {
        let begin = Instant::now();
        assert_eq!(state.get("key with 20 bytes...").expect("is readable"), Some(5));
        begin.elapsed()
    };
    let mut stream = echo(VALUE);
    let mut buffer = [7; VALUE];
    Measured::from(compare(
        bench.rounds(40),
        |_| median((0..CALLS).map(|_| one())),
        |_| median((0..CALLS).map(|_| round_trip(&mut stream, &mut buffer))),
    ))
}

/// The time that one call in a hundred takes at least.
fn p99(mut samples: Vec<Duration>) -> f64 {
    samples.sort();
    samples[samples.len() * 99 / 100].as_nanos() as f64
}

fn beside_idle(bench: &Bench) -> Measured {
    let [alone, crowded] = [server(), server()];
    let _idle: Vec<State> = (0..200)
        .map(|_| {
            let address = format!("{}?transport=socket", crowded.address());
            let state = State::builder(&address).secret_key("bench").open();
            state.expect("the server lives")
        })
        .collect();
    let pings = |server: &Server| {
        let ping = zproc::ping(server.address()).secret_key("bench");
        let one = |_| ping.send().expect("it lives").expect("the same").round_trip;
        p99((0..5 * CALLS).map(one).collect())
    };
    Measured::from(compare(bench.rounds(20), |_| pings(&crowded), |_| pings(&alone)))
}

fn hand_over(bench: &Bench) -> Measured {
    let server = server();
    let state = State::builder(server.address()).secret_key("bench");
    let first = state.clone().open().expect("the server lives");
    first.insert("cookies", 5).expect("there is room");
    drop(first); // or the others would find the memory mapped
    let one = || {
        let begin = Instant::now();
        let state = state.clone().open().expect("the server lives");
        assert_eq!(state.get("cookies").expect("is readable"), Some(5));
        begin.elapsed()
    };
    Measured::figure(median((0..bench.rounds(1000)).map(|_| one())))
}
