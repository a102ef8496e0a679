//! A writer that is killed: who can still write afterwards, and how soon.

use std::time::Duration;

use super::field::Control;
use super::jobs::{READ_ONCE, WRITE, WRITE_ONCE, spawn};
use super::{Bench, Column, Group, Line, Unit};
use crate::clock::now_ns;
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
    let (mut lines, mut control) = (Vec::new(), Control::new(bench));
    for_each_rival!(measure(&mut lines, &mut control, bench));
    Group {
        id: "killed writer",
        title: "A killed writer",
        text: format!(
            "A process that writes without a pause (atomic increments, where there are any) gets SIGKILL at a random \
             instant. The figure is how long it took after its death until another process that had the dict open had \
             written: it slept on the CPU that the dead one leaves, and is woken by a futex for it. Who has not written \
             within {} s is stuck, and a rival that gets stuck at all has no figure.",
            PATIENCE.as_secs()
        ),
        unit: Unit::Time,
        columns: vec![Column {
            name: "next write".into(),
            x: 0.0,
            lines,
            one_way_ns: control.spread(),
            discarded: 0,
            by_turns: false,
        }],
    }
}

fn measure<R: Rival>(lines: &mut Vec<Line>, control: &mut Control, bench: &Bench) {
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
        control.take();
        match kill_one(&rival, bench, Duration::from_micros(500 + random.number() % 3000)) {
            Some(ns) => line.events_ns.push(ns),
            None => stuck += 1,
        }
    }
    if let Some(reason) = absent {
        line.rounds = Err(reason);
    }
    if line.rounds.is_ok() {
        line.note = format!("{} of {kills} times the other could go on", kills - stuck);
        if !line.events_ns.is_empty() {
            let worst = Quantiles::of(line.events_ns.clone()).at(1.0);
            line.note += &format!(", at worst after {}", Time(worst as f64));
        }
        line.rounds = if stuck == 0 {
            Ok(line.events_ns.iter().map(|ns| *ns as f64).collect())
        } else {
            // A median of the times that went well would hide those that did not.
            Err("others got stuck".into())
        };
    }
    lines.push(line);
}

/// Nanoseconds from the death of a writer until another one had written, if it had.
fn kill_one<R: Rival>(rival: &R, bench: &Bench, after: Duration) -> Option<u64> {
    let address = rival.address();
    let mut survivor = spawn::<R>(bench.other_cpu, &address);
    let opened = survivor.begin(READ_ONCE, 0);
    assert!(survivor.is_done(opened, PATIENCE), "{} cannot be opened", R::NAME);
    let mut writer = spawn::<R>(bench.other_cpu, &address);
    writer.begin(WRITE, 0);
    // It opens the dict, too, before it writes.
    std::thread::sleep(Duration::from_millis(20) + after);
    writer.kill();
    let dead_ns = now_ns();
    let job = survivor.begin(WRITE_ONCE, 0);
    survivor.is_done(job, PATIENCE).then(|| survivor.end(job) - dead_ns)
}
