//! A control loop: a plant that ticks a thousand times a second, and controllers that must answer before the next tick.
//!
//! The loop over the state and one over a bare futex run at once, on the same ticks, with a controller each on the other
//! CPU. What keeps a processor from both of them (the host of a virtual machine, interrupts) makes both miss; what counts
//! is what ours misses alone.

use std::sync::atomic::Ordering;
use std::time::Duration;

use zproc_bench::board::Board;
use zproc_bench::clock::{now_ns, sleep_until};
use zproc_bench::peer::Peer;
use zproc_bench::table::{Goal, Limit, Measured, Unit};
use zproc_bench::{cpu, futex};

use crate::jobs::{self, ANSWER, TICK};
use crate::subject::Subject;
use crate::{Bench, Row};

const PERIOD: Duration = Duration::from_millis(1);
const TICKS: usize = 10_000;

/// The rows.
pub const ROWS: &[Row] = &[Row::between(
    Goal {
        work: "1 kHz loop, deadlines missed alone",
        limit: Limit::FigureAtMost(0.0),
        reference: "a bare futex",
        unit: Unit::Count,
    },
    control,
)];

/// What came of the ticks.
#[derive(Default)]
struct Missed {
    ours: u32,
    bare: u32,
    both: u32,
}

fn control(bench: &Bench) -> Measured {
    let subject = Subject::new(1000);
    for key in [TICK, ANSWER] {
        subject.state.insert(key, 0).expect("there is room");
    }
    let mut peers = [(); 2].map(|()| Peer::spawn(bench.other_cpu(), &[subject.address()]));
    let ticks = bench.rounds(TICKS) as u64;
    let real_time = cpu::real_time(true);
    let [ours, bare] = &mut peers;
    let (missed, _) = ours.during(jobs::CONTROL, ticks, |_| {
        bare.during(jobs::CONTROL_BY_FUTEX, ticks, |board| plant(&subject, board, ticks))
            .0
    });
    cpu::real_time(false);
    let Missed { ours, bare, both } = missed;
    let scheduling = if real_time {
        "SCHED_FIFO"
    } else {
        "no real-time priority"
    };
    let note = format!("of {ticks} ours missed {ours}, a bare futex {bare}, both {both}; {scheduling}");
    Measured::against_count(f64::from(ours - both), f64::from(bare - both)).with_note(note)
}

/// Ticks, and looks at each whether the one before was answered.
fn plant(subject: &Subject, board: &Board, ticks: u64) -> Missed {
    let tick = subject.state.handle::<u64>(TICK).expect("the state is open");
    let answer = subject.state.handle::<u64>(ANSWER).expect("the state is open");
    let mut missed = Missed::default();
    // The last tick came when its answer was due already: nobody could be in time, though one may be quicker.
    let mut hopeless = false;
    let mut due_ns = now_ns() + 20 * PERIOD.as_nanos() as u64;
    for number in 1..=ticks + 1 {
        sleep_until(due_ns);
        due_ns += PERIOD.as_nanos() as u64;
        if number > 1 {
            let ours = hopeless || answer.get().expect("is readable") != Some(number - 1);
            let bare = hopeless || board.received.load(Ordering::Acquire) != number - 1;
            missed.ours += u32::from(ours);
            missed.bare += u32::from(bare);
            missed.both += u32::from(ours && bare);
        }
        if number > ticks {
            break;
        }
        hopeless = now_ns() >= due_ns;
        // By turns, so that none is always the first to wake its controller.
        let tell_ours = || tick.set(number).expect("there is room");
        let tell_bare = || {
            board.futex.store(number as u32, Ordering::Release);
            futex::wake(&board.futex);
        };
        if number.is_multiple_of(2) {
            tell_ours();
            tell_bare();
        } else {
            tell_bare();
            tell_ours();
        }
    }
    missed
}
