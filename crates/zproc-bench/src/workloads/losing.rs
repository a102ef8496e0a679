//! A watcher that is slower than the writer: what it loses, and whether it learns of that.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::jobs::{READY, SLOW, spawn};
use super::notifying::await_received;
use super::{Bench, Column, Group, Line, Unit};
use crate::for_each_rival;
use crate::rivals::{Client, Contents, MESSAGE, Operation, Rival};

const WRITES: u64 = 20_000;
const WORK: Duration = Duration::from_micros(200);

/// Writes as fast as it goes, while a watcher takes its time over each.
pub fn slow_watcher(bench: &Bench) -> Group {
    let mut lines = Vec::new();
    for_each_rival!(measure(&mut lines, bench));
    Group {
        id: "slow watcher",
        title: "A slow watcher",
        text: format!(
            "{WRITES} writes without a pause, and a watcher that works {} µs on each. The figure is what a write took, \
             in one pass.",
            WORK.as_micros()
        ),
        unit: Unit::Time,
        columns: vec![Column {
            name: "a write".into(),
            x: 0.0,
            lines,
            one_way_ns: None,
            discarded: 0,
        }],
    }
}

fn measure<R: Rival>(lines: &mut Vec<Line>, bench: &Bench) {
    let absent = R::cannot(&[Operation::WatchAsleep, Operation::OtherProcess]).map(str::to_owned);
    let rival = match absent.map_or_else(|| R::create(&Contents::numbers(10)), Err) {
        Ok(rival) => rival,
        Err(reason) => {
            return lines.push(Line {
                name: R::NAME,
                rounds: Err(reason),
                events_ns: Vec::new(),
                note: String::new(),
            });
        }
    };
    let address = rival.address();
    let mut client = R::Client::open(&address);
    let mut peer = spawn::<R>(bench.other_cpu, &address);
    let job = peer.begin(SLOW, WORK.as_nanos() as u64);
    await_received(peer.board(), READY);
    let start = Instant::now();
    (1..=WRITES).for_each(|value| client.tell(MESSAGE, value));
    let each = start.elapsed().as_nanos() as f64 / WRITES as f64;
    let received = peer.end(job);
    let told = peer.board().samples[0].load(Ordering::Relaxed);
    let lost = WRITES - received;
    let note = match lost {
        0 => "lost none: they queue up in the server's memory".to_owned(),
        _ if told == lost => format!("lost {lost}; the watcher was told of exactly so many"),
        _ => format!("lost {lost}; the watcher was told of {told}"),
    };
    lines.push(Line {
        name: R::NAME,
        rounds: Ok(vec![each]),
        events_ns: Vec::new(),
        note,
    });
}
