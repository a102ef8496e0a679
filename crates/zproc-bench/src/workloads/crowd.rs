//! Many who watch the same key.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::field::Field;
use super::jobs::{CROWD, spawn};
use super::{Bench, Group, Unit};
use crate::clock::{now_ns, stay_busy};
use crate::for_each_rival;
use crate::rivals::{Client, Contents, MESSAGE, Operation, Rival};

/// A crowd has so long to gather.
const GATHERING: Duration = Duration::from_secs(45);
/// Nobody wakes that late.
const PATIENCE: Duration = Duration::from_secs(20);

/// From before a write until the last watcher has the value.
pub fn watchers(bench: &Bench) -> Group {
    let column = |count: usize| {
        let mut field = Field::new();
        for_each_rival!(add(&mut field, bench, count));
        let name = if count == 1 {
            "1 watcher".into()
        } else {
            format!("{count} watchers")
        };
        field.run_between(name, count as f64, bench.time(4000), bench)
    };
    Group {
        id: "watchers",
        title: "Waking many",
        text: "From before a write until the last of so many watchers of that key has the value. The watchers are threads of \
               one process on the other CPU, asleep for a millisecond or more before each write."
            .into(),
        unit: Unit::Time,
        columns: [1, 10, 100, 1000].map(column).into(),
    }
}

fn add<R: Rival + 'static>(field: &mut Field, bench: &Bench, count: usize) {
    let contents = Contents {
        watchers: count,
        ..Contents::numbers(10)
    };
    let needs = [Operation::WatchAsleep, Operation::OtherProcess];
    field.try_add::<R, _>(&needs, &contents, |rival, _| {
        let address = rival.address();
        let mut client = R::Client::open(&address);
        let mut peer = spawn::<R>(bench.other_cpu, &address);
        let job = peer.begin(CROWD, count as u64);
        if !peer.is_done(job, GATHERING) {
            return Err(format!(
                "{count} watchers take longer than {} s to open",
                GATHERING.as_secs()
            ));
        }
        let mut expected = 0;
        Ok(move |_| {
            // They fall asleep; the more there are, the longer that takes.
            stay_busy(Duration::from_micros(1000 + 20 * count as u64));
            expected += count as u64;
            let start = Instant::now();
            client.tell(MESSAGE, now_ns());
            while peer.board().received.load(Ordering::Acquire) < expected {
                assert!(start.elapsed() < PATIENCE, "{}: a watcher was not told", R::NAME);
                // A server, or a thread of a library, may still have to tell most of them, on this CPU.
                std::thread::yield_now();
            }
            start.elapsed().as_nanos() as f64
        })
    });
}
