//! What reading, waiting and writing cost beyond processor time: memory that is asked for, system calls, and locks.
//!
//! The reading path has none of them: calls of the allocator are counted in this process, system calls in another one by
//! a tracer, and it does all the same while a writer is stopped inside of the lock. Each operation has been used before,
//! so that what it keeps (a place to pin, the buffers of a writer) is there; each is repeated, over more updates than the
//! history keeps. Values are of at most 16 bytes and keys no tuples: larger values are copied when they are read.

#[path = "reading_path/allocator.rs"]
mod allocator;
#[path = "reading_path/calls.rs"]
mod calls;

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use allocator::calls_of;
use calls::{Calls, part};
use nix::sys::signal::{Signal, kill, raise};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use zproc::{Builder, Error, Handle, State, WaitStrategy};

#[global_allocator]
static ALLOCATOR: allocator::Counting = allocator::Counting;

/// How often each operation is done while it is watched. More than the history is long.
const TIMES: u64 = 300;

/// An operation, its name, and what it is done with.
type Operation = (&'static str, fn(&Used<'_>, u64));

/// A state, and handles to it.
struct Used<'s> {
    state: &'s State,
    speed: Handle<'s, f64>,
    count: Handle<'s, u64>,
}

impl<'s> Used<'s> {
    fn of(state: &'s State) -> Self {
        Self {
            state,
            speed: state.handle("speed").unwrap(),
            count: state.handle("count").unwrap(),
        }
    }
}

const READING: &[Operation] = &[
    ("get", |used, _| assert_eq!(used.state.get("speed").unwrap(), Some(1.5))),
    ("get of a number by a number", |used, _| {
        assert_eq!(used.state.get(7).unwrap(), Some(8u64))
    }),
    ("get of what is absent", |used, _| {
        assert_eq!(used.state.get::<i64>("absent").unwrap(), None)
    }),
    ("Handle::get", |used, _| {
        assert_eq!(used.speed.get().unwrap(), Some(1.5))
    }),
    ("contains_key", |used, _| {
        assert!(used.state.contains_key("speed").unwrap())
    }),
    ("len", |used, _| assert_eq!(used.state.len().unwrap(), 4)),
    ("snapshot, read and dropped", |used, _| {
        let snapshot = used.state.snapshot().unwrap();
        assert_eq!(snapshot.get("speed").unwrap(), Some(1.5));
        assert!(snapshot.contains_key(7).unwrap() && !snapshot.contains_key("absent").unwrap());
    }),
    ("get_when, which holds", |used, _| {
        drop(used.state.get_when(|now| now.contains_key("speed")).unwrap());
    }),
    ("get_when_equal, which holds", |used, _| {
        assert_eq!(
            used.state.get_when_equal("speed", 1.5).unwrap().get(7).unwrap(),
            Some(8u64)
        );
    }),
    ("get_when_not_equal, which holds", |used, _| {
        drop(used.state.get_when_not_equal("speed", 2.5).unwrap());
    }),
    ("get_when_available, which holds", |used, _| {
        drop(used.state.get_when_available("name").unwrap())
    }),
    ("get_when_not_none, which holds", |used, _| {
        drop(used.state.get_when_not_none("name").unwrap())
    }),
];

const WRITING: &[Operation] = &[
    ("Handle::set", |used, n| used.count.set(n).unwrap()),
    ("insert over a key", |used, n| used.state.insert("count", n).unwrap()),
    ("atomic over three keys", |used, n| {
        let change = used.state.atomic(|dict| {
            dict.insert("count", n)?;
            dict.insert(7, 8)?;
            dict.modify("speed", |speed: f64| speed)
        });
        change.unwrap();
    }),
];

fn new_state() -> State {
    let state = Builder::anonymous()
        .capacity(4 << 20)
        .history(64, 1 << 20)
        .create()
        .unwrap();
    state.insert("speed", 1.5).unwrap();
    state.insert(7, 8).unwrap();
    state.insert("name", "sixteen bytes..").unwrap();
    state.insert("count", 0).unwrap();
    state
}

fn descriptor(state: &State) -> OwnedFd {
    state.fd().unwrap().try_clone_to_owned().unwrap()
}

/// Does each operation so often that whatever it keeps is there.
fn warm_up(used: &Used<'_>, operations: &[Operation]) {
    for (_, operation) in operations {
        (0..TIMES).for_each(|n| operation(used, n));
    }
}

#[test]
fn neither_reading_nor_writing_over_a_key_asks_for_memory() {
    let state = new_state();
    let used = Used::of(&state);
    assert_eq!(calls_of(|| drop(vec![1])), 2, "they are counted");
    for operations in [READING, WRITING] {
        warm_up(&used, operations);
        for (name, operation) in operations {
            let calls = calls_of(|| (0..TIMES).for_each(|n| operation(&used, n)));
            assert_eq!(calls, 0, "{name}: {calls} calls of the allocator in {TIMES} times");
        }
    }
}

/// What is counted above is not nothing for other operations.
#[test]
fn what_asks_for_memory_is_known() {
    let state = new_state();
    state.insert("large", [0u8; 100].as_slice()).unwrap();
    let large = || assert_eq!(state.get::<Vec<u8>>("large").unwrap().unwrap().len(), 100);
    large();
    assert!(calls_of(large) >= 2, "a large value is copied");
    assert!(
        calls_of(|| state.insert("new", 1).unwrap()) < 20,
        "a new key may take more room"
    );
}

/// Two who answer each other, each with a namespace that only it writes: neither finds the other inside of the lock.
///
/// This one waits until the other has written its number. Live, since a number that is there already consumes nothing:
/// after a whole history of those, a buffered wait would have fallen out of it.
struct Answering<'s> {
    ticks: &'s State,
    answers: State,
    next: u64,
}

impl<'s> Answering<'s> {
    fn new(ticks: &'s State) -> Self {
        let answers = ticks.fork().namespace("answers").open().unwrap();
        Self {
            ticks,
            answers,
            next: 0,
        }
    }

    fn wait_and_answer(&mut self, times: u64) {
        for _ in 0..times {
            drop(self.ticks.watch().live().get_when_equal("tick", self.next).unwrap());
            self.answers.insert("answer", self.next).unwrap();
            self.next += 1;
        }
    }
}

/// The other side, until it is told to stop.
fn keep_answering(ticks: &State, stop: &AtomicBool) {
    let answers = ticks.fork().namespace("answers").open().unwrap();
    let mut n = 0u64;
    while !stop.load(Ordering::Relaxed) {
        ticks.insert("tick", n).unwrap();
        while answers.get("answer").unwrap() != Some(n) && !stop.load(Ordering::Relaxed) {
            std::hint::spin_loop();
        }
        n += 1;
    }
}

/// One of them, `f`, with another that answers in a thread of this process.
fn beside_one_who_answers(state: &State, f: impl FnOnce()) {
    let answering = state.clone();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let other = scope.spawn(|| keep_answering(&answering, &stop));
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(f));
        stop.store(true, Ordering::Relaxed);
        other.join().unwrap();
        result.unwrap();
    });
}

#[test]
fn a_wait_that_is_satisfied_asks_for_no_memory() {
    for strategy in [WaitStrategy::Spin, WaitStrategy::default(), WaitStrategy::Block] {
        let state = new_state().fork().wait_strategy(strategy).open().unwrap();
        beside_one_who_answers(&state, || {
            let mut answering = Answering::new(&state);
            answering.wait_and_answer(TIMES);
            let calls = calls_of(|| answering.wait_and_answer(TIMES));
            assert_eq!(
                calls, 0,
                "{strategy:?}: {calls} calls of the allocator in {TIMES} waits"
            );
        });
    }
}

/// Whether a look at the clock is a system call here.
fn look_at_the_clock() {
    std::hint::black_box(std::time::Instant::now());
}

/// Does all operations in a process that is traced, and returns the calls of each. `None` if that is not allowed.
fn trace(fd: &OwnedFd, operations: &[Operation]) -> Option<Vec<Calls>> {
    calls::count(|| {
        let state = State::from_fd(fd.try_clone().unwrap()).unwrap();
        let used = Used::of(&state);
        warm_up(&used, operations);
        part(look_at_the_clock);
        for (_, operation) in operations {
            part(|| (0..TIMES).for_each(|n| operation(&used, n)));
        }
    })
}

/// Fails if there are calls, but for looks at the clock where that is one.
#[track_caller]
fn assert_none(name: &str, calls: &Calls, clock: &Calls) {
    let found: Vec<_> = calls.iter().filter(|(number, _)| !clock.contains_key(number)).collect();
    assert!(
        found.is_empty(),
        "{name}: system calls, by number, in {TIMES} times: {found:?}"
    );
}

fn not_traced() {
    eprintln!("NOT TESTED: system calls: this process may not trace its children, or runs under a sanitizer");
}

#[test]
fn neither_reading_nor_writing_over_a_key_makes_system_calls() {
    let fd = descriptor(&new_state());
    for operations in [READING, WRITING] {
        let Some(parts) = trace(&fd, operations) else {
            return not_traced();
        };
        assert_eq!(parts.len(), operations.len() + 1);
        for ((name, _), calls) in operations.iter().zip(&parts[1..]) {
            assert_none(name, calls, &parts[0]);
        }
    }
}

#[test]
fn system_calls_are_counted() {
    let Some(parts) = calls::count(|| {
        part(|| (0..3).for_each(|_| drop(nix::unistd::pipe().unwrap())));
        part(|| ());
    }) else {
        return not_traced();
    };
    let found: Vec<_> = parts
        .iter()
        .map(|calls| (calls.get(&libc::SYS_close), calls.len()))
        .collect();
    assert!(matches!(found[..], [(Some(6), 2..), (None, 0)]), "{parts:?}");
}

/// The calls of a look at the clock, and of waiting and answering in a process of its own.
fn calls_of_waiting(strategy: WaitStrategy) -> Option<(Calls, Calls)> {
    let state = new_state();
    let fd = descriptor(&state);
    let mut parts = None;
    beside_one_who_answers(&state, || {
        parts = calls::count(|| {
            let state = Builder::anonymous().wait_strategy(strategy).from_fd(fd).unwrap();
            let mut answering = Answering::new(&state);
            answering.wait_and_answer(TIMES);
            part(look_at_the_clock);
            part(|| answering.wait_and_answer(TIMES));
        });
    });
    let mut parts = parts?.into_iter();
    Some((parts.next().unwrap(), parts.next().unwrap()))
}

/// A spinning one does not either, but for a writer that is taken off its processor in the middle of a commit: it may
/// have died, which is found out with the lock. On a busy machine that happens now and then, so one run of some must be
/// without.
#[test]
fn a_spinning_wait_makes_no_system_call_and_a_sleeping_one_only_sleeps() {
    const RUNS: usize = 20;
    for strategy in [WaitStrategy::Spin, WaitStrategy::Block] {
        for run in 1.. {
            let Some((clock, mut calls)) = calls_of_waiting(strategy) else {
                return not_traced();
            };
            if strategy == WaitStrategy::Block || run < RUNS {
                let slept = calls.remove(&libc::SYS_futex).unwrap_or(0);
                eprintln!("  {strategy:?}: {TIMES} waits: {slept} calls of futex");
                if strategy == WaitStrategy::Spin && slept > 0 {
                    continue;
                }
            }
            assert_none("waiting", &calls, &clock);
            break;
        }
    }
}

/// A writer that finds somebody asleep on its key wakes it by one call, and nobody asleep costs nothing.
#[test]
fn a_write_makes_a_system_call_only_if_somebody_sleeps_on_its_key() {
    let state = new_state();
    let fd = descriptor(&state);
    let sleepy = state.fork().wait_strategy(WaitStrategy::Block).open().unwrap();
    let mut parts = None;
    std::thread::scope(|scope| {
        // It sleeps for longer than the history lasts.
        let sleeper = scope.spawn(|| while sleepy.get_when_equal("sleeper's", 1).is_err() {});
        // The kernel says when it sleeps in the call.
        while state.stats().unwrap().namespaces[0].wakes == 0 {
            state.insert("sleeper's", 0).unwrap();
        }
        parts = calls::count(|| {
            let state = State::from_fd(fd).unwrap();
            let used = Used::of(&state);
            warm_up(&used, WRITING);
            part(look_at_the_clock);
            part(|| warm_up(&used, WRITING));
            part(|| state.insert("sleeper's", 1).unwrap());
        });
        state.insert("sleeper's", 1).unwrap();
        sleeper.join().unwrap();
    });
    let Some(parts) = parts else { return not_traced() };
    assert_none("writing beside somebody asleep on another key", &parts[1], &parts[0]);
    let mut calls = parts[2].clone();
    assert!(calls.remove(&libc::SYS_futex).unwrap_or(0) <= 1, "{:?}", parts[2]);
    assert_none("writing the key of somebody asleep", &calls, &parts[0]);
}

/// A writer that holds the lock and does not run. Killed and collected when this is dropped.
struct Stopped(Pid);

impl Stopped {
    fn inside(fd: &OwnedFd) -> Self {
        let pid = Pid::from_raw(calls::fork(|| {
            let state = State::from_fd(fd.try_clone().unwrap()).unwrap();
            let _ = state.atomic(|dict| {
                dict.insert("speed", 99.0)?;
                raise(Signal::SIGSTOP).map_err(Error::other)
            });
        }));
        let stopped = Self(pid);
        let status = waitpid(pid, Some(WaitPidFlag::WUNTRACED)).unwrap();
        assert_eq!(status, WaitStatus::Stopped(pid, Signal::SIGSTOP));
        stopped
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        let _ = kill(self.0, Signal::SIGKILL);
        let _ = waitpid(self.0, None);
    }
}

#[test]
fn reading_goes_on_without_a_system_call_while_a_stopped_writer_has_the_lock() {
    let state = new_state();
    let fd = descriptor(&state);
    let stopped = Stopped::inside(&fd);
    let impatient = state.fork().lock_timeout(Duration::from_millis(1)).open().unwrap();
    let nobody_gets_in = || {
        let pid = stopped.0.as_raw().cast_unsigned();
        let result = impatient.insert("count", 1);
        assert!(
            matches!(result, Err(Error::LockTimeout { pid: named, .. }) if named == pid),
            "{result:?}"
        );
    };
    nobody_gets_in();
    // In a process that opens the state only now.
    if let Some(parts) = trace(&fd, READING) {
        for ((name, _), calls) in READING.iter().zip(&parts[1..]) {
            assert_none(name, calls, &parts[0]);
        }
    } else {
        not_traced();
    }
    // And here.
    let used = Used::of(&state);
    warm_up(&used, READING);
    assert_eq!(calls_of(|| warm_up(&used, READING)), 0);
    nobody_gets_in();
    drop(stopped);
    // The lock is a dead one's now, and nothing of what it had begun is left.
    state.insert("count", 2).unwrap();
    assert_eq!(state.get("speed").unwrap(), Some(1.5));
}
