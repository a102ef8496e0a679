//! Memory.

use super::jobs::{WEIGH, spawn};
use super::{Bench, Column, Group, Line, Unit};
use crate::for_each_rival;
use crate::rivals::{Contents, Rival};

const KEYS: usize = 10_000;

/// Bytes that a key takes, with all there is to it.
pub fn memory(bench: &Bench) -> Group {
    let mut lines = Vec::new();
    for_each_rival!(measure(&mut lines, bench));
    Group {
        id: "memory",
        title: "Memory",
        text: format!(
            "What {KEYS} keys of 20 bytes with integers of 8 bytes take, for each key: the memory of the process that \
             made the dict and of what serves it (proportional set size), less what it is with 10 keys."
        ),
        unit: Unit::Bytes,
        columns: vec![Column {
            name: "a key".into(),
            x: KEYS as f64,
            lines,
            one_way_ns: None,
            discarded: 0,
            by_turns: false,
        }],
    }
}

fn measure<R: Rival>(lines: &mut Vec<Line>, bench: &Bench) {
    // A process of its own for each, which has not used any memory before.
    let weigh = |keys: usize| {
        let mut peer = spawn::<R>(bench.other_cpu, "");
        let job = peer.begin(WEIGH, keys as u64);
        peer.end(job) as f64
    };
    let missing = R::create(&Contents::numbers(10)).err();
    let rounds = match missing {
        Some(reason) => Err(reason),
        None => {
            let round = |_| (weigh(KEYS) - weigh(10)) / KEYS as f64;
            Ok((0..if bench.quick { 1 } else { 3 }).map(round).collect())
        }
    };
    lines.push(Line {
        name: R::NAME,
        rounds,
        events_ns: Vec::new(),
        note: String::new(),
    });
}

/// Bytes of this process, and of what serves a dict, when it has made one with so many keys.
pub fn weigh<R: Rival>(keys: usize) -> u64 {
    // The keys' texts are there in either case.
    let contents = Contents::numbers(keys);
    Contents::numbers(KEYS).entries();
    let rival = R::create(&contents).expect("could be made before");
    let own = std::process::id();
    rival.servers().into_iter().chain([own]).map(bytes_of).sum()
}

fn bytes_of(pid: u32) -> u64 {
    let path = format!("/proc/{pid}/smaps_rollup");
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    let line = text
        .lines()
        .find(|line| line.starts_with("Pss:"))
        .expect("the kernel tells it");
    let kib = line
        .split_whitespace()
        .nth(1)
        .and_then(|number| number.parse::<u64>().ok());
    kib.expect("is a number") * 1024
}
