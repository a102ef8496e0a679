//! A writer that is killed: who can still write afterwards, and how soon.

use std::time::{Duration, Instant};

use super::jobs::{READ_ONCE, WRITE, WRITE_ONCE, spawn};
use super::{Bench, Column, Group, Line, Unit};
use crate::for_each_rival;
use crate::keys::Random;
use crate::quantiles::Quantiles;
use crate::rivals::{Contents, Operation, Rival};
use crate::table::Time;

const KILLS: usize = 60;
/// Who cannot write by then never will: nobody's bound is as long.
const PATIENCE: Duration = Duration::from_secs(3);
/// After so many kills that nobody survived the point is made.
const ENOUGH: usize = 8;

/// Kills writers at random instants.
pub fn killed_writer(bench: &Bench) -> Group {
    let mut lines = Vec::new();
    for_each_rival!(measure(&mut lines, bench));
    Group {
        id: "killed writer",
        title: "A killed writer",
        text: format!(
            "A process that writes without a pause (atomic increments, where there are any) gets SIGKILL at a random \
             instant. The figure is how long it took after its death until a process that had the dict open had \
             written, on the CPU of the process that asks it to: milliseconds are turns of the scheduler. Who has not \
             within {} s counts as stuck, and has no figure.",
            PATIENCE.as_secs()
        ),
        unit: Unit::Time,
        columns: vec![Column {
            name: "next write".into(),
            x: 0.0,
            lines,
            one_way_ns: None,
            discarded: 0,
        }],
    }
}

fn measure<R: Rival>(lines: &mut Vec<Line>, bench: &Bench) {
    let absent = R::cannot(&[Operation::OtherProcess]).map(str::to_owned);
    let mut line = Line {
        name: R::NAME,
        rounds: Ok(Vec::new()),
        events_ns: Vec::new(),
        note: String::new(),
    };
    let (mut kills, mut stuck, mut random) = (0, 0, Random::default());
    while kills < KILLS && stuck < ENOUGH && absent.is_none() {
        let rival = match R::create(&Contents::numbers(10)) {
            Ok(rival) => rival,
            Err(reason) => {
                line.rounds = Err(reason);
                break;
            }
        };
        kills += 1;
        match kill_one(&rival, bench, Duration::from_micros(500 + random.number() % 3000)) {
            Some(ns) => line.events_ns.push(ns),
            None => stuck += 1,
        }
    }
    if let Some(reason) = absent {
        line.rounds = Err(reason);
    }
    if line.rounds.is_ok() {
        let worked = kills - stuck;
        line.note = format!("{worked} of {kills} times the others could go on");
        line.rounds = if line.events_ns.is_empty() {
            Err("nobody could write any more".into())
        } else {
            let times = Quantiles::of(line.events_ns.clone());
            line.note += &format!(", at worst after {}", Time(times.at(1.0) as f64));
            Ok(line.events_ns.iter().map(|ns| *ns as f64).collect())
        };
    }
    lines.push(line);
}

/// Nanoseconds from the death of a writer until another one had written, if it had.
fn kill_one<R: Rival>(rival: &R, bench: &Bench, after: Duration) -> Option<u64> {
    let address = rival.address();
    let mut survivor = spawn::<R>(bench.own_cpu, &address);
    let opened = survivor.begin(READ_ONCE, 0);
    assert!(survivor.is_done(opened, PATIENCE), "{} cannot be opened", R::NAME);
    let mut writer = spawn::<R>(bench.other_cpu, &address);
    writer.begin(WRITE, 0);
    // It opens the dict, too, before it writes.
    std::thread::sleep(Duration::from_millis(20) + after);
    writer.kill();
    let start = Instant::now();
    let job = survivor.begin(WRITE_ONCE, 0);
    survivor
        .is_done(job, PATIENCE)
        .then(|| start.elapsed().as_nanos() as u64)
}
