//! Several processes that write at once.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::field::Field;
use super::jobs::{INCREMENT, spawn};
use super::{Bench, Group, Unit};
use crate::for_each_rival;
use crate::peer::Peer;
use crate::rivals::{COUNTER, Client, Contents, Operation, Rival};

const PASS: Duration = Duration::from_millis(30);

/// Adding one to the same number.
pub fn increments(bench: &Bench) -> Group {
    let processes: &[usize] = if bench.quick { &[2] } else { &[1, 2, 4] };
    let column = |&count: &usize| {
        let mut field = Field::new();
        for_each_rival!(add(&mut field, bench, count));
        let name = if count == 1 {
            "1 process".into()
        } else {
            format!("{count} processes")
        };
        field.run_between(name, count as f64, bench.time(4000), bench)
    };
    Group {
        id: "increments",
        title: "Increments",
        text: "Processes that add one to the same number without a pause, of 1,000 keys; all additions together. More than \
               two processes share the two CPUs."
            .into(),
        unit: Unit::Rate,
        columns: processes.iter().map(column).collect(),
    }
}

fn add<R: Rival + 'static>(field: &mut Field, bench: &Bench, processes: usize) {
    let others = (processes > 1).then_some(Operation::OtherProcess);
    let needs: Vec<Operation> = [Operation::Increment].into_iter().chain(others).collect();
    field.add::<R, _>(&needs, &Contents::numbers(1000), |rival, _| {
        let address = rival.address();
        let mut client = R::Client::open(&address);
        let mut peers: Vec<Peer> = bench.cpus(processes - 1).map(|cpu| spawn::<R>(cpu, &address)).collect();
        move |_| {
            let mut count = || client.get(COUNTER).expect("is present");
            let at_first = count();
            let jobs: Vec<u32> = peers.iter_mut().map(|peer| peer.begin(INCREMENT, 0)).collect();
            // From when all have begun until the first is told to stop.
            let (start, before) = (Instant::now(), count());
            let mut own = 0;
            while start.elapsed() < PASS {
                client.increment(COUNTER);
                own += 1;
            }
            let (added, seconds) = (
                client.get(COUNTER).expect("is present") - before,
                start.elapsed().as_secs_f64(),
            );
            for peer in &peers {
                peer.board().stop.store(1, Ordering::Release);
            }
            let others: u64 = peers.iter_mut().zip(jobs).map(|(peer, job)| peer.end(job)).sum();
            let in_all = client.get(COUNTER).expect("is present") - at_first;
            assert_eq!(in_all, own + others, "increments of {} were lost", R::NAME);
            added as f64 / seconds
        }
    });
}
