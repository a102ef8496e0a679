//! Values that are more than a number: read by `get`, and looked at where they lie.

use std::hint::black_box;

use zproc::rkyv::{Archive, Deserialize, Serialize};
use zproc::{Snapshot, State, archived};
use zproc_bench::clock::ns_each;
use zproc_bench::keys::{Draws, distinct};
use zproc_bench::rounds::compare;
use zproc_bench::table::{Goal, Limit, Measured, Unit};

use crate::subject::Subject;
use crate::{Bench, Row};

const KEYS: usize = 1000;

const fn goal(work: &'static str) -> Goal {
    Goal {
        work,
        limit: Limit::AtMost(2.0),
        reference: "get of 8 bytes",
        unit: Unit::Time,
    }
}

/// The rows.
pub const ROWS: &[Row] = &[
    Row::alone(goal("get of a 64-byte struct, 1,000 keys"), get_struct),
    Row::alone(goal("view of 64 KiB, 1,000 keys"), view_scan),
];

/// 64 bytes.
#[derive(Archive, Serialize, Deserialize)]
#[rkyv(crate = zproc::rkyv)]
struct Pose {
    position: [f64; 3],
    rotation: [f64; 4],
    frame: u32,
    valid: bool,
}
archived!(Pose);

/// 64 KiB, in a vector behind a pointer.
#[derive(Archive, Serialize, Deserialize)]
#[rkyv(crate = zproc::rkyv)]
struct Scan {
    angle: f32,
    distances: Vec<f32>,
}
archived!(Scan);

/// A state with these values, and one of the same keys with numbers.
fn subjects<V: zproc::ToValue>(value: impl Fn(u32) -> V) -> (State, Draws, Subject) {
    let state = State::anonymous().expect("there is room for a state");
    let keys = distinct(KEYS);
    for (key, number) in keys.iter().zip(0..) {
        state.insert(key, value(number)).expect("there is room");
    }
    (state, Draws::from(keys, 1 << 13), Subject::new(KEYS))
}

fn get_struct(bench: &Bench) -> Measured {
    let (state, draws, reference) = subjects(|number| Pose {
        position: [1.0, 2.0, f64::from(number)],
        rotation: [0.0, 0.0, 0.0, 1.0],
        frame: number,
        valid: true,
    });
    compare(
        bench.rounds(2000),
        |round| get_each(&state, draws.pass(round)),
        |round| reference.get(Draws::opposite(round)),
    )
    .into()
}

#[inline(never)]
fn get_each(state: &State, keys: &[&str]) -> f64 {
    let mut sum = 0.0;
    let ns = ns_each(keys.len(), || {
        for key in keys {
            let pose = state.get::<Pose>(*key).expect("is readable").expect("is present");
            // All of it is used.
            sum += pose.position.iter().chain(&pose.rotation).sum::<f64>() + f64::from(pose.frame);
            sum += f64::from(u8::from(pose.valid));
        }
    });
    black_box(sum);
    ns
}

fn view_scan(bench: &Bench) -> Measured {
    let (state, draws, reference) = subjects(|number| Scan {
        angle: number as f32,
        distances: vec![number as f32; 16 * 1024],
    });
    let snapshot = state.snapshot().expect("a seat is free");
    compare(
        bench.rounds(2000),
        |round| view_each(&snapshot, draws.pass(round)),
        |round| reference.get(Draws::opposite(round)),
    )
    .into()
}

#[inline(never)]
fn view_each(snapshot: &Snapshot<'_>, keys: &[&str]) -> f64 {
    ns_each(keys.len(), || {
        for key in keys {
            // What is done with it then is work on 64 KiB of memory, and not the view's.
            black_box(snapshot.view::<Scan>(*key).expect("is readable").expect("is present"));
        }
    })
}
