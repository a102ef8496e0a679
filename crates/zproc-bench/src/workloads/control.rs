//! A control loop: a plant that ticks at a fixed rate, and a controller in another process that has to answer before the
//! next tick.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::field::{Events, Field};
use super::jobs::{self, READY, spawn};
use super::notifying::await_received;
use super::{Bench, Column, Group, Unit};
use crate::board::{Board, SAMPLES};
use crate::clock::{now_ns, sleep_until};
use crate::peer::Peer;
use crate::quantiles::Quantiles;
use crate::rivals::{COUNTER, Client, Contents, MESSAGE, Operation, Rival};
use crate::{cpu, for_each_rival, futex};

/// A rate.
#[derive(Clone, Copy)]
struct Rate {
    name: &'static str,
    period: Duration,
    ticks: u64,
}

const RATES: [Rate; 2] = [
    Rate {
        name: "1 kHz",
        period: Duration::from_millis(1),
        ticks: 400,
    },
    Rate {
        name: "10 kHz",
        period: Duration::from_micros(100),
        ticks: 2000,
    },
];

/// How late a controller has its tick, and how many answers come too late.
pub fn control(bench: &Bench) -> Group {
    let real_time = cpu::real_time(true);
    cpu::real_time(false);
    let priority = if real_time {
        "at SCHED_FIFO"
    } else {
        "without a real-time priority"
    };
    Group {
        id: "control loop",
        title: "Control loop",
        text: format!(
            "A plant tells a tick at a fixed rate, a controller asleep in another process answers, both {priority} \
             (servers and threads of libraries are not). The figures are how long after a tick was told its controller had it; rounds are the 99th percentiles of their \
             ticks, and the notes say how many answers were not there at the next tick."
        ),
        unit: Unit::Time,
        columns: RATES.iter().map(|rate| run(bench, *rate)).collect(),
    }
}

/// Answers that came too late, of how many.
type Missed = Rc<Cell<(u64, u64)>>;

fn run(bench: &Bench, rate: Rate) -> Column {
    fn add<R: Rival + 'static>(field: &mut Field, bench: &Bench, rate: Rate, missed: &mut Vec<(&'static str, Missed)>) {
        let counter = Missed::default();
        missed.push((R::NAME, counter.clone()));
        let needs = [Operation::WatchAsleep, Operation::OtherProcess];
        field.add::<R, _>(&needs, &Contents::numbers(100), |rival, events| {
            let address = rival.address();
            let client = std::cell::RefCell::new(R::Client::open(&address));
            let mut peer = spawn::<R>(bench.other_cpu, &address);
            let events = events.clone();
            move |_| {
                let tell = |_: &Board, tick| client.borrow_mut().tell(MESSAGE, tick);
                let is_answered = |_: &Board, tick| client.borrow_mut().get(COUNTER) == Some(tick);
                peer.during(jobs::CONTROL, rate.ticks, |board| {
                    plant(board, rate, &events, &counter, tell, is_answered)
                })
                .0
            }
        });
    }
    let (mut field, mut missed) = (Field::new(), Vec::new());
    for_each_rival!(add(&mut field, bench, rate, &mut missed));
    add_futex(&mut field, bench, rate, &mut missed);
    let mut column = field.run_between(rate.name, 1.0 / rate.period.as_secs_f64(), bench.time(12_000), bench);
    for line in column.lines.iter_mut().filter(|line| line.rounds.is_ok()) {
        let (late, of) = missed
            .iter()
            .find(|(name, _)| *name == line.name)
            .map_or((0, 0), |(_, missed)| missed.get());
        let all = Quantiles::of(line.events_ns.clone());
        let [p50, p99, p999] = [0.5, 0.99, 0.999].map(|share| all.time(share));
        line.note = format!(
            "{late} of {of} answers too late; p50 {p50}, p99 {p99}, p99.9 {p999}, max {}",
            all.time(1.0)
        );
    }
    column
}

fn add_futex(field: &mut Field, bench: &Bench, rate: Rate, missed: &mut Vec<(&'static str, Missed)>) {
    let counter = Missed::default();
    missed.push(("bare futex", counter.clone()));
    field.add_other("bare futex", |events| {
        let mut peer = Peer::spawn(bench.other_cpu, &["control".into()]);
        let events = events.clone();
        move |_| {
            let told = Cell::new(0);
            let tell = |board: &Board, tick| {
                board.sent_ns.store(tick, Ordering::Relaxed);
                board.futex.fetch_add(1, Ordering::Release);
                futex::wake(&board.futex);
                told.set(told.get() + 1);
            };
            let is_answered = |board: &Board, _| board.received.load(Ordering::Acquire) == told.get();
            let argument = rate.ticks | (rate.period.as_micros() as u64) << 32;
            peer.during(jobs::CONTROL_BY_FUTEX, argument, |board| {
                plant(board, rate, &events, &counter, tell, is_answered)
            })
            .0
        }
    });
}

/// Ticks. The 99th percentile of how long after a tick was told the controller had it.
fn plant(
    board: &Board,
    rate: Rate,
    events: &Events,
    missed: &Missed,
    tell: impl Fn(&Board, u64),
    is_answered: impl Fn(&Board, u64) -> bool,
) -> f64 {
    await_received(board, READY);
    cpu::real_time(true);
    let period_ns = rate.period.as_nanos() as u64;
    let mut due_ns = now_ns() + 20 * period_ns;
    let (mut told_ns, mut late) = (0, 0);
    for number in 0..=rate.ticks {
        sleep_until(due_ns);
        due_ns += period_ns;
        late += u64::from(number > 0 && !is_answered(board, told_ns));
        if number < rate.ticks {
            told_ns = now_ns();
            tell(board, told_ns);
        }
    }
    cpu::real_time(false);
    await_received(board, rate.ticks);
    let (before, of) = missed.get();
    missed.set((before + late, of + rate.ticks));
    let samples = board.samples.iter().take((rate.ticks as usize).min(SAMPLES));
    let samples: Vec<u64> = samples.map(|sample| sample.load(Ordering::Relaxed)).collect();
    events.borrow_mut().extend(&samples);
    Quantiles::of(samples).at(0.99) as f64
}
