//! The same work on zproc, on the improved design over ZeroMQ, and on LMDB, to look at in criterion's report.
//!
//! ```text
//! cargo bench -p zproc-bench --features rivals --bench rivals -- [FILTER]
//! ```
//!
//! The report is in target/criterion/report/index.html. For comparisons that take turns, see docs/benchmarks.md.

use std::hint::black_box;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, BenchmarkId, Criterion, criterion_group, criterion_main};
use zproc_bench::cpu;
use zproc_bench::keys::{Draws, distinct};
use zproc_bench::peer::use_program;
use zproc_bench::rivals::{COUNTER, Client, Contents, Lmdb, Rival, ZmqImproved, Zproc};

type Group<'c> = BenchmarkGroup<'c, WallTime>;

/// Numbers of keys.
const KEYS: [usize; 3] = [10, 1000, 100_000];

/// Measures `work` of one key after another.
fn bench<R: Rival>(group: &mut Group<'_>, count: usize, mut work: impl FnMut(&mut R::Client, &'static str)) {
    let rival = match R::create(&Contents::numbers(count)) {
        Ok(rival) => rival,
        Err(reason) => return eprintln!("{}: {reason}", R::NAME),
    };
    let mut client = R::Client::open(&rival.address());
    let draws = Draws::from(distinct(count), 1 << 13);
    let mut keys = (0..).flat_map(|pass| draws.pass(pass));
    group.bench_function(BenchmarkId::new(R::NAME, count), |bencher| {
        bencher.iter(|| work(&mut client, keys.next().expect("there is always one more pass")));
    });
}

fn get(criterion: &mut Criterion) {
    fn of<R: Rival>(group: &mut Group<'_>, count: usize) {
        bench::<R>(group, count, |client, key| _ = black_box(client.get(key)));
    }
    let mut group = criterion.benchmark_group("rivals: get");
    for count in KEYS {
        of::<Zproc>(&mut group, count);
        of::<ZmqImproved>(&mut group, count);
        of::<Lmdb>(&mut group, count);
    }
}

fn set(criterion: &mut Criterion) {
    fn of<R: Rival>(group: &mut Group<'_>, count: usize) {
        let mut value = 0;
        bench::<R>(group, count, |client, key| {
            value += 1;
            client.set(key, value);
        });
    }
    let mut group = criterion.benchmark_group("rivals: set");
    for count in KEYS {
        of::<Zproc>(&mut group, count);
        of::<ZmqImproved>(&mut group, count);
        of::<Lmdb>(&mut group, count);
    }
}

fn snapshot(criterion: &mut Criterion) {
    fn of<R: Rival>(group: &mut Group<'_>) {
        bench::<R>(group, 1000, |client, key| _ = black_box(client.snapshot(key)));
    }
    let mut group = criterion.benchmark_group("rivals: snapshot");
    of::<Zproc>(&mut group);
    of::<ZmqImproved>(&mut group);
    of::<Lmdb>(&mut group);
}

fn increment(criterion: &mut Criterion) {
    fn of<R: Rival>(group: &mut Group<'_>) {
        bench::<R>(group, 1000, |client, _| client.increment(COUNTER));
    }
    let mut group = criterion.benchmark_group("rivals: increment");
    of::<Zproc>(&mut group);
    of::<ZmqImproved>(&mut group);
    of::<Lmdb>(&mut group);
}

/// Keeps the process, and the servers that it starts, on one CPU.
fn pinned() -> Criterion {
    use_program(env!("CARGO_BIN_EXE_zproc-bench"));
    cpu::pin(&[*cpu::allowed().last().expect("a process runs somewhere")]);
    Criterion::default()
}

criterion_group!(name = benches; config = pinned(); targets = get, set, snapshot, increment);
criterion_main!(benches);
