//! Telling one who waits.

use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::field::{Events, Field};
use super::jobs::{self, READY, spawn};
use super::{Bench, Column, Group, Unit};
use crate::board::Board;
use crate::clock::{now_ns, stay_busy};
use crate::peer::Peer;
use crate::rivals::place::Place;
use crate::rivals::{Client, Contents, MESSAGE, Operation, Rival, Waiting};
use crate::rounds::Spread;
use crate::{for_each_rival, futex};

/// How the watcher waits, for how long, and how many messages make a pass.
#[derive(Clone, Copy)]
struct Way {
    waiting: Waiting,
    pause: Duration,
    messages: u64,
}

/// From before a write until the watcher in another process has the value.
pub fn notify(bench: &Bench) -> Group {
    let column = |(name, waiting, pause_us, messages): (&str, _, _, _)| {
        let pause = Duration::from_micros(pause_us);
        let way = Way {
            waiting,
            pause,
            messages,
        };
        run(bench, name, way)
    };
    let asleep = ("asleep for 1 ms", Waiting::Asleep, 1000, 30);
    let ways = [
        ("spinning", Waiting::Spinning, 3, 300),
        ("asleep for 50 µs", Waiting::Asleep, 50, 200),
        asleep,
    ];
    let columns = if bench.quick {
        vec![ways[0], asleep]
    } else {
        ways.to_vec()
    };
    Group {
        id: "notify",
        title: "From a write until a watcher has the value",
        text: "One process writes, one in another process on the other CPU waits for that key; 1,000 keys. Rounds are the \
               medians of their messages. Bare futex and Unix socket are what the system itself takes to wake somebody; \
               the bare word is memory that both look at. The servers of ZeroMQ and Redis, and the threads of libzmq, share \
               the two CPUs with a writer and a watcher, who give way to them when they wait."
            .into(),
        unit: Unit::Time,
        columns: columns.into_iter().map(column).collect(),
    }
}

fn run(bench: &Bench, name: &str, way: Way) -> Column {
    fn add<R: Rival + 'static>(field: &mut Field, bench: &Bench, way: Way) {
        let (operation, job) = match way.waiting {
            Waiting::Spinning => (Operation::WatchSpinning, jobs::RECEIVE_SPINNING),
            Waiting::Asleep => (Operation::WatchAsleep, jobs::RECEIVE_ASLEEP),
        };
        field.add::<R, _>(
            &[operation, Operation::OtherProcess],
            &Contents::numbers(1000),
            |rival, events| {
                let address = rival.address();
                let mut client = R::Client::open(&address);
                exchanging(
                    spawn::<R>(bench.other_cpu, &address),
                    job,
                    way,
                    events.clone(),
                    move |_| {
                        client.tell(MESSAGE, now_ns());
                    },
                )
            },
        );
    }
    let mut field = Field::new();
    for_each_rival!(add(&mut field, bench, way));
    match way.waiting {
        Waiting::Spinning => add_word(&mut field, bench, way),
        Waiting::Asleep => {
            add_futex(&mut field, bench, way);
            add_socket(&mut field, bench, way);
        }
    }
    field.run_between(name, way.pause.as_micros() as f64, bench.time(8000), bench)
}

fn add_word(field: &mut Field, bench: &Bench, way: Way) {
    field.add_other("bare word", |events| {
        let peer = Peer::spawn(bench.other_cpu, &["control".into()]);
        let send = |board: &Board| board.sent_ns.store(now_ns(), Ordering::Release);
        exchanging(peer, jobs::RECEIVE_BY_WORD, way, events.clone(), send)
    });
}

fn add_futex(field: &mut Field, bench: &Bench, way: Way) {
    field.add_other("bare futex", |events| {
        let peer = Peer::spawn(bench.other_cpu, &["control".into()]);
        let send = |board: &Board| {
            board.sent_ns.store(now_ns(), Ordering::Relaxed);
            board.futex.fetch_add(1, Ordering::Release);
            futex::wake(&board.futex);
        };
        exchanging(peer, jobs::RECEIVE_BY_FUTEX, way, events.clone(), send)
    });
}

fn add_socket(field: &mut Field, bench: &Bench, way: Way) {
    field.add_other("Unix socket", |events| {
        let place = Place::create();
        let path = place.path().join("socket");
        let listener = UnixListener::bind(&path).expect("the directory is new");
        let mut peer = Peer::spawn(bench.other_cpu, &["control".into(), path.display().to_string()]);
        let events = events.clone();
        // Each job of the peer connects anew.
        move |_| {
            let _keeps_the_socket = &place;
            let job = peer.begin(jobs::RECEIVE_BY_SOCKET, way.messages);
            let (mut stream, _) = listener.accept().expect("the peer connects");
            stream.read_exact(&mut [0]).expect("the peer writes");
            let median = send_all(peer.board(), way, &events, |_| {
                stream.write_all(&now_ns().to_le_bytes()).expect("the peer reads");
            });
            peer.end(job);
            median
        }
    });
}

/// Passes in which the peer receives what `send` sends.
fn exchanging(
    mut peer: Peer,
    job: u32,
    way: Way,
    events: Events,
    mut send: impl FnMut(&Board) + 'static,
) -> impl FnMut(usize) -> f64 {
    move |_| {
        peer.during(job, way.messages, |board| send_all(board, way, &events, &mut send))
            .0
    }
}

/// Sends each message a pause after the last was received. The median of the times that they took.
fn send_all(board: &Board, way: Way, events: &Events, mut send: impl FnMut(&Board)) -> f64 {
    for number in 0..way.messages {
        await_received(board, if number == 0 { READY } else { number });
        stay_busy(way.pause);
        send(board);
    }
    await_received(board, way.messages);
    let samples = board.samples.iter().take(way.messages as usize);
    let samples: Vec<u64> = samples.map(|sample| sample.load(Ordering::Relaxed)).collect();
    events.borrow_mut().extend(&samples);
    Spread::of(samples.into_iter().map(|ns| ns as f64).collect()).median
}

/// Waits until a receiver has so many messages, and lets those run meanwhile who share this CPU: the threads of libzmq
/// and the servers of others, which have work left when a write returns.
pub fn await_received(board: &Board, number: u64) {
    let start = Instant::now();
    while board.received.load(Ordering::Acquire) != number {
        std::thread::yield_now();
        assert!(start.elapsed() < Duration::from_secs(20), "a message was lost");
    }
}
