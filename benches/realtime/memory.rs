//! What memory costs when it is touched for the first time, and when it is added.

use std::time::Instant;

use zproc::{Builder, State};
use zproc_bench::cpu;
use zproc_bench::quantiles::Quantiles;

use crate::{Cpus, head, row};

/// Keys that another process has written: each with an entry and a value of a cache line.
const KEYS: usize = 50_000;
/// Large values that a state grows by.
const VALUES: usize = 600;
const VALUE: usize = 100_000;

/// Prints the tables.
pub fn print(_: Cpus) {
    first_touch();
    println!();
    growth();
}

/// A copy of this process that has never touched the state reads all of it twice.
fn first_touch() {
    head(&[
        "50,000 keys that another process wrote",
        "`get`, the first time",
        "page faults",
        "the second time",
    ]);
    let names: Vec<String> = (0..KEYS)
        .map(|number| format!("key with 20 bytes {number:06}"))
        .collect();
    let state = State::anonymous().expect("there is room for a state");
    state
        .extend(names.iter().map(|name| (name, 1u64)))
        .expect("there is room");
    for (name, prefault) in [("not prepared", None), ("`prefault(0)`", Some(0))] {
        let fd = state.fd().expect("a state has a descriptor");
        let fd = fd.try_clone_to_owned().expect("a descriptor is left");
        cpu::in_child(|| {
            let builder = Builder::anonymous();
            let builder = match prefault {
                Some(bytes) => builder.prefault(bytes),
                None => builder,
            };
            let state = builder.from_fd(fd).expect("the parent keeps the state open");
            let read = || {
                let (start, faults) = (Instant::now(), cpu::faults());
                let sum: u64 = names
                    .iter()
                    .map(|name| state.get::<u64>(name).expect("is readable").expect("is present"))
                    .sum();
                assert_eq!(sum, KEYS as u64);
                (start.elapsed().as_nanos() as f64 / KEYS as f64, cpu::faults() - faults)
            };
            let ((first, faults), (second, _)) = (read(), read());
            row(&[
                name.into(),
                format!("{first:.0} ns"),
                faults.to_string(),
                format!("{second:.0} ns"),
            ]);
        });
    }
}

/// How long the inserts take that make a state grow.
fn growth() {
    head(&["600 values of 100,000 bytes", "`insert`: p50", "p99", "max"]);
    let capacity = (2 * VALUES * VALUE) as u64;
    for (name, prefault) in [
        ("not prepared", None),
        ("`prefault(0)`: what is added is made resident", Some(0)),
        ("`prefault(capacity)`: nothing is added", Some(capacity)),
    ] {
        let builder = Builder::anonymous().capacity(capacity);
        let builder = match prefault {
            Some(bytes) => builder.prefault(bytes),
            None => builder,
        };
        let state = builder.create().expect("there is room for a state");
        let value = vec![1u8; VALUE];
        let mut times = Vec::new();
        for number in 0..VALUES as u64 {
            let start = Instant::now();
            state.insert(number, value.as_slice()).expect("there is room");
            times.push(start.elapsed().as_nanos() as u64);
        }
        let times = Quantiles::of(times);
        row(&[name.into(), times.time(0.5), times.time(0.99), times.time(1.0)]);
    }
}
