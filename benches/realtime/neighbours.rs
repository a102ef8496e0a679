//! What a spinner does to those who share a processor, a cache or a state with it.

use std::time::{Duration, Instant};

use zproc::State;
use zproc_bench::clock::{now_ns, sleep_until};
use zproc_bench::cpu::{self, Scheduling};
use zproc_bench::peer::Peer;
use zproc_bench::quantiles::Quantiles;

use crate::jobs::{self, SCHEDULINGS, STRATEGIES, watched_state};
use crate::{Cpus, head, row};

/// How long each neighbour works.
const TIME: Duration = Duration::from_secs(1);
const SPIN: usize = 0;
const BLOCK: usize = 2;

/// Prints the tables.
pub fn print(cpus: Cpus) {
    let (state, address) = watched_state();
    let mut peer = Peer::spawn(cpus.other, &[address]);
    same_cpu(cpus, &mut peer);
    println!();
    writers(&state, &mut peer);
}

/// A neighbour that works without a pause, and one that wakes up a thousand times a second.
fn same_cpu(cpus: Cpus, peer: &mut Peer) {
    head(&[
        "a spinning watcher",
        "busy neighbour: share of its speed alone",
        "1 kHz timer of a neighbour: p50 late",
        "p99",
        "max",
    ]);
    let show = |name: String, speed: f64, timer: &Quantiles| {
        let [p50, p99, max] = [0.5, 0.99, 1.0].map(|share| timer.time(share));
        row(&[name, format!("{:.0} %", speed * 100.0), p50, p99, max]);
    };
    let alone = work();
    show("none".into(), work() / alone, &tick());
    let other = |peer: &mut Peer, f: &mut dyn FnMut()| {
        peer.during(jobs::WAIT, jobs::wait_argument(SPIN, 0), |_| f());
    };
    let mut measured = (0.0, None);
    other(peer, &mut || measured = (work() / alone, Some(tick())));
    show(
        "on another CPU".into(),
        measured.0,
        measured.1.as_ref().expect("was measured"),
    );
    for (number, (name, scheduling)) in SCHEDULINGS.into_iter().enumerate() {
        if cpu::schedule(scheduling).is_err() {
            row(&[
                format!("on its CPU, {name}"),
                "not allowed".into(),
                "".into(),
                "".into(),
                "".into(),
            ]);
            continue;
        }
        cpu::schedule(Scheduling::Other).expect("it was so before");
        let (speed, timer) = beside(cpus, peer, jobs::wait_argument(SPIN, number), || {
            (work() / alone, tick())
        });
        show(format!("on its CPU, {name}"), speed, &timer);
    }
    let (speed, timer) = beside(cpus, peer, jobs::wait_argument(BLOCK, 0), || (work() / alone, tick()));
    show("on its CPU, but asleep (`Block`)".into(), speed, &timer);
}

/// Does `f` on the CPU of the peer, while that waits.
fn beside<T>(cpus: Cpus, peer: &mut Peer, argument: u64, f: impl FnOnce() -> T) -> T {
    let (result, _) = peer.during(jobs::WAIT, argument, |_| {
        cpu::pin(&[cpus.other]);
        let result = f();
        cpu::pin(&[cpus.own]);
        result
    });
    result
}

/// Rounds of arithmetic a second.
fn work() -> f64 {
    let (start, mut rounds, mut sum) = (Instant::now(), 0u64, 1u64);
    while start.elapsed() < TIME {
        for number in 0..10_000u64 {
            sum = std::hint::black_box(sum.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(number));
        }
        rounds += 1;
    }
    std::hint::black_box(sum);
    rounds as f64 / start.elapsed().as_secs_f64()
}

/// How late a timer is that is due each millisecond.
fn tick() -> Quantiles {
    let mut late = Vec::new();
    let mut due_ns = now_ns();
    for _ in 0..TIME.as_millis() {
        due_ns += 1_000_000;
        sleep_until(due_ns);
        late.push(now_ns() - due_ns);
    }
    Quantiles::of(late)
}

/// What a write costs while somebody waits for another key of the same state.
fn writers(state: &State, peer: &mut Peer) {
    head(&["a watcher of another key", "`insert` over a key: p50", "p99"]);
    let measure = || {
        let mut times = Vec::new();
        for number in 0..500_000u64 {
            let start = Instant::now();
            state.insert("key with 20 bytes 07", number).expect("there is room");
            times.push(start.elapsed().as_nanos() as u64);
        }
        Quantiles::of(times)
    };
    let show = |name: &str, times: &Quantiles| row(&[name.into(), times.time(0.5), times.time(0.99)]);
    measure();
    show("none", &measure());
    for number in [BLOCK, SPIN] {
        let (times, _) = peer.during(jobs::WAIT, jobs::wait_argument(number, 0), |_| {
            std::thread::sleep(Duration::from_millis(50));
            measure()
        });
        show(&format!("on another CPU, {}", STRATEGIES[number].0), &times);
    }
}
