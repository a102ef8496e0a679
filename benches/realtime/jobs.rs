//! What the second process does.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use zproc::{Builder, Error, State, WaitStrategy};
use zproc_bench::board::{Board, SAMPLES, descriptor_of};
use zproc_bench::clock::now_ns;
use zproc_bench::cpu::{self, Scheduling};
use zproc_bench::peer::Service;

/// The key that is waited for.
pub const MESSAGE: &str = "message with 20 byte";
/// The key that nobody writes.
pub const SILENCE: &str = "silence with 20 byte";

/// Receives messages, the argument telling how many and by which strategy (see [`receive_argument`]).
pub const RECEIVE: u32 = 1;
/// Waits for the key that nobody writes, until told to stop; the argument tells how (see [`wait_argument`]).
pub const WAIT: u32 = 2;

/// Ways to wait, by number.
pub const STRATEGIES: [(&str, WaitStrategy); 3] = [
    ("`Spin`", WaitStrategy::Spin),
    (
        "`Adaptive(20 µs)`, the default",
        WaitStrategy::Adaptive(Duration::from_micros(20)),
    ),
    ("`Block`", WaitStrategy::Block),
];
/// Ways to be scheduled, by number.
pub const SCHEDULINGS: [(&str, Scheduling); 4] = [
    ("ordinary", Scheduling::Other),
    ("`nice 19`", Scheduling::Nice),
    ("`SCHED_IDLE`", Scheduling::Idle),
    ("`SCHED_FIFO`", Scheduling::Fifo),
];

/// The argument of [`RECEIVE`].
pub fn receive_argument(strategy: usize, count: u64) -> u64 {
    count << 8 | strategy as u64
}

/// The argument of [`WAIT`].
pub fn wait_argument(strategy: usize, scheduling: usize) -> u64 {
    (scheduling << 8 | strategy) as u64
}

/// Serves with the state that the arguments name.
pub fn serve(service: &Service) -> ! {
    let fd = service.arguments.first().and_then(|number| number.parse().ok());
    let state = State::from_fd(descriptor_of(service.parent, fd.expect("the state's descriptor")));
    let state = state.expect("the parent keeps the state open");
    service.serve(|board, job, argument| {
        let (_, strategy) = STRATEGIES[argument as usize & 0xff];
        let state = waiting_by(&state, strategy);
        match job {
            RECEIVE => receive(board, &state, argument >> 8),
            WAIT => wait(board, &state, SCHEDULINGS[argument as usize >> 8].1),
            _ => unreachable!("job {job}"),
        }
    })
}

fn waiting_by(state: &State, strategy: WaitStrategy) -> State {
    let state = state.fork().wait_strategy(strategy).open();
    state.expect("it is open already")
}

/// Hands back how long each message took, and as its result the processor time of this thread in millionths of the whole.
fn receive(board: &Board, state: &State, count: u64) -> u64 {
    let (start, used) = (Instant::now(), cpu::used());
    for number in 1..=count {
        let snapshot = state.get_when_change([MESSAGE]).expect("the parent writes");
        let sent_ns: u64 = snapshot.get(MESSAGE).expect("a time").expect("was just written");
        board.samples[number as usize % SAMPLES].store(now_ns() - sent_ns, Ordering::Relaxed);
        board.received.store(number, Ordering::Release);
    }
    ((cpu::used() - used).as_secs_f64() / start.elapsed().as_secs_f64() * 1e6) as u64
}

fn wait(board: &Board, state: &State, scheduling: Scheduling) -> u64 {
    // Where it is not allowed the parent has said so.
    let _ = cpu::schedule(scheduling);
    let slice = state.watch().timeout(Duration::from_millis(20));
    while board.stop.load(Ordering::Relaxed) == 0 {
        match slice.get_when_available(SILENCE) {
            Err(Error::Timeout | Error::Lagged { .. }) => {}
            other => panic!("{other:?}"),
        }
    }
    let _ = cpu::schedule(Scheduling::Other);
    0
}

/// A state with 1,000 keys, and how another process finds it.
pub fn watched_state() -> (State, String) {
    let state = Builder::anonymous()
        .prefault(16 << 20)
        .create()
        .expect("there is room for a state");
    for number in 0..1000 {
        state
            .insert(format!("key with 20 bytes {number:02}"), number)
            .expect("there is room");
    }
    state.insert(MESSAGE, 0).expect("there is room");
    let address = zproc_bench::board::number_of(&state.fd().expect("a state has a descriptor"));
    (state, address.to_string())
}
