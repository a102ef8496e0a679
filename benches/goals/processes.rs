//! Processes: starting one, and running many items by workers.

use std::process::Command;
use std::time::Instant;

use rayon::ThreadPoolBuilder;
use rayon::iter::{IntoParallelIterator, ParallelIterator};
use zproc::Context;
use zproc_bench::clock::now_ns;
use zproc_bench::cpu;
use zproc_bench::peer::Peer;
use zproc_bench::rounds::{Spread, compare, take_turns};
use zproc_bench::table::{Goal, Limit, Measured, Time, Unit};

use crate::jobs::{self, work};
use crate::notifying::controlled;
use crate::subject::Subject;
use crate::{Bench, Row};

/// The rows.
pub const ROWS: &[Row] = &[
    Row::alone(
        Goal {
            work: "start() → first line of the target",
            limit: Limit::AtMost(1.3),
            reference: "Command of the same binary",
            unit: Unit::Time,
        },
        start,
    ),
    Row::alone(
        Goal {
            work: "Context::new()",
            limit: Limit::FigureAtMost(3e6),
            reference: "Python zproc's 6.1 ms",
            unit: Unit::Time,
        },
        new_context,
    ),
    Row::between(
        Goal {
            work: "process_map, trivial items, 2 workers, warm",
            limit: Limit::FigureAtMost(60.0),
            reference: "a plain loop",
            unit: Unit::Time,
        },
        trivial_items,
    ),
    Row::between(
        Goal {
            work: "process_map, 20 µs items, 2 workers",
            limit: Limit::AtLeast(0.9),
            reference: "two bare processes",
            unit: Unit::Rate,
        },
        items_of_20_us,
    ),
];

/// The first argument of the reference for [`start`].
pub const STAMP: &str = "stamp";

/// What the reference does: tells the time of its first line.
pub fn stamp() {
    println!("{}", now_ns());
}

fn start(bench: &Bench) -> Measured {
    let ctx = context();
    on_all_cpus(bench, || {
        let ours = |_| {
            let before = now_ns();
            let process = ctx.process(now_ns).start().expect("a process can be started");
            (process.wait().expect("it tells the time") - before) as f64
        };
        let reference = |_| {
            let before = now_ns();
            let output = Command::new("/proc/self/exe")
                .arg(STAMP)
                .output()
                .expect("a process can be started");
            let told = String::from_utf8(output.stdout).expect("a number");
            (told.trim().parse::<u64>().expect("a number") - before) as f64
        };
        compare(bench.rounds(200), ours, reference).into()
    })
}

fn new_context(bench: &Bench) -> Measured {
    let rounds = bench.rounds(100);
    let start = Instant::now();
    (0..rounds).for_each(|_| drop(context()));
    Measured::figure(start.elapsed().as_nanos() as f64 / rounds as f64).with_note("with its end".into())
}

fn context() -> Context {
    Context::new().expect("init was called")
}

fn successor(n: u64) -> u64 {
    std::hint::black_box(n) + 1
}

fn trivial_items(bench: &Bench) -> Measured {
    const ITEMS: u64 = 1_000_000;
    let ctx = context();
    let sum_of = |results: &mut dyn Iterator<Item = u64>| {
        let start = Instant::now();
        let sum: u64 = results.sum();
        assert_eq!(sum, ITEMS * (ITEMS + 1) / 2);
        start.elapsed().as_nanos() as f64 / ITEMS as f64
    };
    on_all_cpus(bench, || {
        let ours = |_| {
            let start = Instant::now();
            let mut results = ctx
                .process_map(successor, 0..ITEMS)
                .count(2)
                .start()
                .expect("workers can be started");
            let ns = sum_of(&mut results.by_ref().map(|result| result.expect("it cannot fail")));
            ns.max(start.elapsed().as_nanos() as f64 / ITEMS as f64)
        };
        let threads = ThreadPoolBuilder::new().num_threads(2).build();
        let threads = threads.expect("threads can be started");
        let mut by_rayon = Vec::new();
        // Besides the loop: what threads take that share their memory, and hand results over in order, too.
        let plain = |_| {
            let start = Instant::now();
            let results: Vec<u64> = threads.install(|| (0..ITEMS).into_par_iter().map(successor).collect());
            let summed = sum_of(&mut results.into_iter());
            by_rayon.push(summed.max(start.elapsed().as_nanos() as f64 / ITEMS as f64));
            sum_of(&mut (0..ITEMS).map(successor))
        };
        let compared = compare(bench.rounds(40), ours, plain);
        let (plain, rayon) = (Time(compared.reference), Time(Spread::of(by_rayon).median));
        Measured::from(compared).with_note(format!(
            "plain loop {plain}; rayon, 2 threads, collected in order {rayon}; Python zproc 410 ns"
        ))
    })
}

fn items_of_20_us(bench: &Bench) -> Measured {
    const ITEMS: u64 = 5_000;
    let ctx = context();
    let subject = Subject::new(10);
    let mut peer = Peer::spawn(bench.other_cpu(), &[subject.address()]);
    let rounds = peer.rounds(bench.rounds(20), |peer, number, _| {
        let ours = || {
            cpu::pin(&[bench.own_cpu(), bench.other_cpu()]);
            let start = Instant::now();
            let results = ctx
                .process_map(work, 0..ITEMS)
                .count(2)
                .start()
                .expect("workers can be started");
            assert_eq!(results.count() as u64, ITEMS);
            let rate = ITEMS as f64 / start.elapsed().as_secs_f64();
            cpu::pin(&[bench.own_cpu()]);
            rate
        };
        let bare = || {
            let start = Instant::now();
            peer.during(jobs::WORK, ITEMS / 2, |_| (0..ITEMS / 2).map(work).sum::<u64>());
            ITEMS as f64 / start.elapsed().as_secs_f64()
        };
        take_turns(number, ours, bare)
    });
    controlled(&rounds, "")
}

/// Runs `f` with this process, and those that it starts, on both CPUs.
fn on_all_cpus<R>(bench: &Bench, f: impl FnOnce() -> R) -> R {
    let both: Vec<usize> = [Some(bench.own_cpu()), bench.cpus.1].into_iter().flatten().collect();
    cpu::pin(&both);
    let result = f();
    cpu::pin(&[bench.own_cpu()]);
    result
}
