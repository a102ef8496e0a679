//! What the second process does.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use zproc::{Builder, Error, State, WaitStrategy};
use zproc_bench::board::{Board, descriptor_of};
use zproc_bench::clock::{now_ns, stay_busy};
use zproc_bench::keys::{Draws, distinct};
use zproc_bench::peer::Service;
use zproc_bench::{cpu, futex};

use crate::subject::Subject;

/// The key that messages go under.
pub const MESSAGE: &str = "message with 20 byte";
/// The key that is counted under.
pub const COUNT: &str = "counter with 20 byte";
/// The key of the newest tick of a control loop.
pub const TICK: &str = "tick";
/// The key of the newest that was answered.
pub const ANSWER: &str = "answer";
/// How many sleep on keys of their own.
pub const WATCHERS: usize = 1000;

/// Overwrites keys until told to stop; says how many.
pub const WRITE: u32 = 1;
/// Increments by `atomic` until told to stop; says how often.
pub const INCREMENT: u32 = 2;
/// The same under the mutex of the C library.
pub const INCREMENT_ROBUST: u32 = 3;
/// Receives so many messages from the state, spinning; hands back how long each took.
pub const RECEIVE_SPINNING: u32 = 4;
/// The same, asleep.
pub const RECEIVE_ASLEEP: u32 = 5;
/// Receives so many messages by a bare futex.
pub const RECEIVE_BY_FUTEX: u32 = 6;
/// Has [`WATCHERS`] threads fall asleep, from then on.
pub const SLEEP: u32 = 7;

/// Answers so many ticks, at a real-time priority if that is allowed.
pub const CONTROL: u32 = 8;
/// The same by a bare futex.
pub const CONTROL_BY_FUTEX: u32 = 9;

/// Does so many items of [`work`].
pub const WORK: u32 = 10;

/// An item that takes 20 µs.
pub fn work(n: u64) -> u64 {
    stay_busy(Duration::from_micros(20));
    n
}

/// Serves with the state that the arguments name.
pub fn serve(service: &Service) -> ! {
    let fd = service
        .arguments
        .first()
        .and_then(|number| number.parse().ok())
        .expect("the state's descriptor");
    let state = Builder::anonymous()
        .wait_strategy(WaitStrategy::Spin)
        .from_fd(descriptor_of(service.parent, fd));
    let state = state.expect("the parent keeps the state open");
    let sleepy = state
        .fork()
        .wait_strategy(WaitStrategy::Block)
        .open()
        .expect("it is open already");
    let subject = Subject::with(State::anonymous().expect("there is room for a state"), 1000);
    service.serve(|board, job, argument| match job {
        WRITE => write(board, &state, &subject.draws),
        INCREMENT => until_stopped(board, || increment(&state)),
        INCREMENT_ROBUST => until_stopped(board, || board.counter.increment()),
        RECEIVE_SPINNING => receive(board, argument, || message_in(&state)),
        RECEIVE_ASLEEP => receive(board, argument, || message_in(&sleepy)),
        RECEIVE_BY_FUTEX => receive_by_futex(board, argument),
        SLEEP => fall_asleep(&sleepy),
        CONTROL => in_real_time(|| control(&sleepy, argument)),
        CONTROL_BY_FUTEX => in_real_time(|| control_by_futex(board, argument)),
        WORK => (0..argument).map(work).sum(),
        _ => unreachable!("job {job}"),
    })
}

/// Adds one to the counter.
#[inline]
pub fn increment(state: &State) {
    state
        .atomic(|dict| dict.modify(COUNT, |count: u64| count + 1))
        .expect("the counter is there");
}

fn until_stopped(board: &Board, mut f: impl FnMut()) -> u64 {
    let mut count = 0;
    while board.stop.load(Ordering::Relaxed) == 0 {
        f();
        count += 1;
    }
    count
}

fn write(board: &Board, state: &State, draws: &Draws) -> u64 {
    let mut keys = (0..).flat_map(|pass| draws.pass(pass)).zip(0u64..);
    until_stopped(board, || {
        let (key, value) = keys.next().expect("it goes round and round");
        state.insert(*key, value).expect("there is room");
    })
}

fn message_in(state: &State) -> u64 {
    let snapshot = state.get_when_change([MESSAGE]).expect("the parent writes");
    snapshot.get(MESSAGE).expect("a time").expect("was just written")
}

fn receive(board: &Board, count: u64, mut next: impl FnMut() -> u64) -> u64 {
    for (sample, received) in board.samples.iter().zip(1..=count) {
        let sent_ns = next();
        sample.store(now_ns() - sent_ns, Ordering::Relaxed);
        board.received.store(received, Ordering::Release);
    }
    0
}

fn receive_by_futex(board: &Board, count: u64) -> u64 {
    let mut seen = board.futex.load(Ordering::Acquire);
    // The parent writes the first message when this says that the word has been read.
    board.received.store(u64::MAX, Ordering::Release);
    receive(board, count, || {
        while board.futex.load(Ordering::Acquire) == seen {
            futex::wait(&board.futex, seen, Duration::from_secs(1));
        }
        seen += 1;
        board.sent_ns.load(Ordering::Relaxed)
    })
}

fn fall_asleep(state: &State) -> u64 {
    static WATCHING: AtomicU32 = AtomicU32::new(0);
    for key in watched_keys() {
        let state = state.clone();
        std::thread::spawn(move || {
            WATCHING.fetch_add(1, Ordering::Relaxed);
            // Returns when the process ends, and not before, since nobody writes this key.
            drop(state.get_when_change([key]));
        });
    }
    while WATCHING.load(Ordering::Relaxed) < WATCHERS as u32 {
        std::thread::sleep(Duration::from_millis(1));
    }
    std::thread::sleep(Duration::from_millis(500));
    0
}

/// The keys that [`SLEEP`] is about: those behind the first 1,000.
pub fn watched_keys() -> impl Iterator<Item = &'static String> {
    distinct(1000 + WATCHERS)[1000..].iter()
}

fn in_real_time(f: impl FnOnce()) -> u64 {
    cpu::real_time(true);
    f();
    cpu::real_time(false);
    0
}

fn control(state: &State, ticks: u64) {
    let mut tick = 1;
    while tick <= ticks {
        match state.get_when_equal(TICK, tick) {
            Ok(_) => {}
            // Commits from before the loop, or a very long stop.
            Err(Error::Lagged { .. }) => {
                tick = state.get(TICK).expect("is readable").unwrap_or(0).max(1);
                continue;
            }
            Err(error) => panic!("{error}"),
        }
        state.insert(ANSWER, tick).expect("there is room");
        tick += 1;
    }
}

fn control_by_futex(board: &Board, ticks: u64) {
    let mut seen = 0;
    while u64::from(seen) < ticks {
        let tick = board.futex.load(Ordering::Acquire);
        if tick == seen {
            futex::wait(&board.futex, seen, Duration::from_secs(1));
            continue;
        }
        board.received.store(tick.into(), Ordering::Release);
        seen = tick;
    }
}
