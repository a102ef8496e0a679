//! A watcher that is slower than the writer: what it loses, and whether it learns of that.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::field::Control;
use super::jobs::{READY, SLOW, spawn};
use super::notifying::await_received;
use super::{Bench, Column, Group, Line, Unit};
use crate::for_each_rival;
use crate::rivals::{Client, Contents, MESSAGE, Operation, Rival};

const WRITES: u64 = 20_000;
const WORK: Duration = Duration::from_micros(200);
const PASSES: usize = 3;

/// Writes as fast as it goes, while a watcher takes its time over each.
pub fn slow_watcher(bench: &Bench) -> Group {
    let (mut lines, mut control) = (Vec::new(), Control::new(bench));
    for_each_rival!(measure(&mut lines, &mut control, bench));
    Group {
        id: "slow watcher",
        title: "A slow watcher",
        text: format!(
            "{WRITES} writes without a pause, and a watcher that works {} µs on each. The figure is what a write took, \
             in {PASSES} passes.",
            WORK.as_micros()
        ),
        unit: Unit::Time,
        columns: vec![Column {
            name: "a write".into(),
            x: 0.0,
            lines,
            one_way_ns: control.spread(),
            discarded: 0,
            by_turns: false,
        }],
    }
}

fn measure<R: Rival>(lines: &mut Vec<Line>, control: &mut Control, bench: &Bench) {
    let absent = R::cannot(&[Operation::WatchAsleep, Operation::OtherProcess]).map(str::to_owned);
    let mut controlled = || {
        control.take();
        let pass = pass::<R>(bench);
        control.take();
        pass
    };
    let passes = absent.map_or_else(|| (0..PASSES).map(|_| controlled()).collect(), Err);
    let note = passes.as_deref().map_or_else(|_| String::new(), told);
    lines.push(Line {
        name: R::NAME,
        rounds: passes.map(|passes: Vec<Pass>| passes.iter().map(|pass| pass.write_ns).collect()),
        events_ns: Vec::new(),
        note,
    });
}

/// What came of a pass.
struct Pass {
    /// What a write took.
    write_ns: f64,
    /// Updates that did not come.
    lost: u64,
    /// How many the watcher was told it lost.
    told: u64,
}

fn pass<R: Rival>(bench: &Bench) -> Result<Pass, String> {
    let rival = R::create(&Contents::numbers(10))?;
    let address = rival.address();
    let mut client = R::Client::open(&address);
    let mut peer = spawn::<R>(bench.other_cpu, &address);
    let job = peer.begin(SLOW, WORK.as_nanos() as u64);
    await_received(peer.board(), READY);
    let start = Instant::now();
    (1..=WRITES).for_each(|value| client.tell(MESSAGE, value));
    let write_ns = start.elapsed().as_nanos() as f64 / WRITES as f64;
    let lost = WRITES - peer.end(job);
    let told = peer.board().samples[0].load(Ordering::Relaxed);
    Ok(Pass { write_ns, lost, told })
}

/// What was lost in each pass, and who said so.
fn told(passes: &[Pass]) -> String {
    let each = |number: fn(&Pass) -> u64| {
        let numbers: Vec<String> = passes.iter().map(|pass| number(pass).to_string()).collect();
        numbers.join(", ")
    };
    let lost = each(|pass| pass.lost);
    if passes.iter().all(|pass| pass.lost == 0) {
        "lost none: they queue up".into()
    } else if passes.iter().all(|pass| pass.lost == pass.told) {
        format!("lost {lost}; the watcher was told of exactly so many")
    } else {
        format!("lost {lost}; the watcher was told of {}", each(|pass| pass.told))
    }
}
