//! How long it takes to begin.

use std::time::Instant;

use super::field::Field;
use super::jobs::{OPEN, spawn};
use super::{Bench, Group, Unit};
use crate::for_each_rival;
use crate::rivals::{COUNTER, Client, Contents, Operation, Rival};

/// Making a dict, and finding one.
pub fn start_up(bench: &Bench) -> Group {
    let mut making = Field::new();
    for_each_rival!(add_making(&mut making));
    let mut finding = Field::new();
    for_each_rival!(add_finding(&mut finding, bench));
    Group {
        id: "start-up",
        title: "Start-up",
        text:
            "Making a dict with 10 keys and whatever serves it, until the first read has come back; and finding it in \
               another process, until the first read has come back. zproc's has no name, and is found by a descriptor of its \
               maker."
                .into(),
        unit: Unit::Time,
        columns: vec![
            making.run("making", 0.0, bench.time(2000)),
            finding.run_between("finding", 1.0, bench.time(1000), bench),
        ],
    }
}

fn add_making<R: Rival + 'static>(field: &mut Field) {
    // One is made beforehand, to see whether this machine has the rival.
    field.add::<R, _>(&[], &Contents::numbers(10), |_, _| {
        |_| {
            let start = Instant::now();
            let rival = R::create(&Contents::numbers(10)).expect("could be made before");
            R::Client::open(&rival.address()).get(COUNTER).expect("is present");
            start.elapsed().as_nanos() as f64
        }
    });
}

fn add_finding<R: Rival + 'static>(field: &mut Field, bench: &Bench) {
    field.add::<R, _>(&[Operation::OtherProcess], &Contents::numbers(10), |rival, _| {
        let address = rival.address();
        let mut peer = spawn::<R>(bench.other_cpu, &address);
        move |_| {
            let job = peer.begin(OPEN, 0);
            peer.end(job) as f64
        }
    });
}
