//! The operations of a state one by one, by number of keys and by size of value, each beside a std `HashMap`.
//!
//! ```text
//! cargo bench -p zproc-bench --bench state -- [FILTER]
//! ```
//!
//! To see what a change does: criterion compares with its last run. The goals of the project, which compare the two
//! sides within one run, are in `goals`.

use std::collections::HashMap;
use std::hint::black_box;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use zproc::State;
use zproc_bench::cpu;
use zproc_bench::keys::{Draws, distinct};

type Group<'c> = BenchmarkGroup<'c, WallTime>;

/// Numbers of keys.
const KEYS: [usize; 3] = [10, 1000, 100_000];
/// Bytes of values: the largest that lie in a version, and what follows.
const SIZES: [usize; 6] = [8, 64, 512, 4 << 10, 16 << 10, 64 << 10];

/// A state, a map with the same contents, and the keys in the order of their use.
struct Subject {
    state: State,
    map: HashMap<String, u64>,
    draws: Draws,
}

impl Subject {
    fn new(count: usize) -> Self {
        let keys = distinct(count);
        let state = State::anonymous().expect("there is room for a state");
        let entries = || keys.iter().zip(0u64..);
        state.extend(entries()).expect("there is room");
        Self {
            state,
            map: entries().map(|(key, value)| (key.clone(), value)).collect(),
            draws: Draws::from(keys, 1 << 13),
        }
    }

    /// Measures `f` of one key after another.
    fn bench<R>(&self, group: &mut Group<'_>, id: BenchmarkId, mut f: impl FnMut(&'static str) -> R) {
        let mut keys = (0..).flat_map(|pass| self.draws.pass(pass));
        group.bench_function(id, |bencher| {
            bencher.iter(|| f(keys.next().expect("there is always one more pass")))
        });
    }
}

fn get(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("get");
    for count in KEYS {
        let subject = Subject::new(count);
        subject.bench(&mut group, BenchmarkId::new("State", count), |key| {
            subject.state.get::<u64>(key).unwrap()
        });
        subject.bench(&mut group, BenchmarkId::new("HashMap", count), |key| {
            subject.map.get(key).copied()
        });
    }
}

fn handle(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("handle");
    let subject = Subject::new(1000);
    let handle = subject
        .state
        .handle::<u64>(subject.draws.pass(0)[0])
        .expect("the key has a form");
    group.bench_function("get", |bencher| bencher.iter(|| handle.get().unwrap()));
    group.bench_function("set", |bencher| bencher.iter(|| handle.set(black_box(7)).unwrap()));
}

fn insert(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("insert");
    for count in KEYS {
        let mut subject = Subject::new(count);
        let state = subject.state.clone();
        subject.bench(&mut group, BenchmarkId::new("State", count), |key| {
            state.insert(key, black_box(7u64)).unwrap()
        });
        let mut map = std::mem::take(&mut subject.map);
        subject.bench(&mut group, BenchmarkId::new("HashMap", count), |key| {
            map.insert(key.to_owned(), black_box(7))
        });
    }
}

fn atomic(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("atomic");
    let subject = Subject::new(1000);
    for count in [1, 16, 64] {
        let mut chunks = (0..).flat_map(|pass| subject.draws.pass(pass).chunks_exact(count));
        group.throughput(Throughput::Elements(count as u64));
        group.bench_function(BenchmarkId::new("insert", count), |bencher| {
            bencher.iter(|| {
                let keys = chunks.next().expect("there is always one more pass");
                subject
                    .state
                    .atomic(|dict| keys.iter().try_for_each(|key| dict.insert(*key, 7u64)))
                    .unwrap();
            });
        });
    }
}

fn snapshot(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("snapshot");
    for count in KEYS {
        let subject = Subject::new(count);
        group.bench_function(BenchmarkId::new("take and drop", count), |bencher| {
            bencher.iter(|| subject.state.snapshot().unwrap().seq());
        });
    }
    let subject = Subject::new(1000);
    let snapshot = subject.state.snapshot().expect("a seat is free");
    subject.bench(&mut group, BenchmarkId::new("get", 1000), |key| {
        snapshot.get::<u64>(key).unwrap()
    });
}

fn value_size(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("value size");
    for size in SIZES {
        let (state, mut map) = (State::anonymous().expect("there is room for a state"), HashMap::new());
        let value = vec![7u8; size];
        state.insert("key of twenty bytes!", &value[..]).expect("there is room");
        map.insert("key of twenty bytes!".to_owned(), value.clone());
        group.throughput(Throughput::Bytes(size as u64));
        group.bench_function(BenchmarkId::new("State get", size), |bencher| {
            bencher.iter(|| state.get::<Vec<u8>>(black_box("key of twenty bytes!")).unwrap());
        });
        group.bench_function(BenchmarkId::new("HashMap get and clone", size), |bencher| {
            bencher.iter(|| map.get(black_box("key of twenty bytes!")).cloned());
        });
        group.bench_function(BenchmarkId::new("State insert", size), |bencher| {
            bencher.iter(|| state.insert(black_box("key of twenty bytes!"), &value[..]).unwrap());
        });
        group.bench_function(BenchmarkId::new("HashMap clone and insert", size), |bencher| {
            bencher.iter(|| map.insert(black_box("key of twenty bytes!").to_owned(), value.clone()));
        });
    }
}

/// Keeps the process on one CPU.
fn pinned() -> Criterion {
    cpu::pin(&[*cpu::allowed().last().expect("a process runs somewhere")]);
    Criterion::default()
}

criterion_group!(name = benches; config = pinned(); targets = get, handle, insert, atomic, snapshot, value_size);
criterion_main!(benches);
