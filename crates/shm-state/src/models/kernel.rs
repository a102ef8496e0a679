//! What the protocols need of the kernel: sleeping on words, the time, thread ids, and what it does for the dead.
//!
//! **Sleeping** is what futex.c does: under the lock of the bucket the words are compared, with full barriers around, and
//! the thread is queued; a wake-up takes sleepers out of the queue in order. Signals do not end sleeps.
//!
//! **Time** stands still while anybody can run. When all threads sleep it jumps to the next deadline; when there is none,
//! a wake-up was lost, and the search has its counter-example. The jumps are counted: a scenario in which nobody should
//! have to wait for the end of a slice says so. A *hasty* sleep ends at once by its deadline, while the others run.
//!
//! **Death** is told to the lock word that the thread armed, as `handle_futex_death` does, and then the thread is gone.
//! Or the mark is lost, and it is only gone.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeSet, HashMap};
use std::panic::resume_unwind;
use std::rc::Rc;
use std::sync::atomic::Ordering;

use super::machine::{Abandoned, Machine, THREADS, kill_point};
use crate::sync::{ANY, Wait, Word, Word32, Word64};
use crate::sys::robust::{OWNER_DIED, TID_MASK, WAITERS};

/// Where time begins.
const START: u64 = 1_000_000_000;
/// More jumps of time than this are no progress.
const MOST_JUMPS: usize = 60;
const FIRST_TID: u32 = 1000;

struct Sleeper {
    thread: usize,
    words: Vec<(usize, u32)>,
    until: u64,
    handle: loom::thread::Thread,
    outcome: Rc<Cell<Option<Outcome>>>,
}

#[derive(Clone, Copy)]
enum Outcome {
    Wait(Wait),
    Abandoned,
}

pub struct Kernel {
    now: Cell<u64>,
    bucket: loom::sync::Mutex<()>,
    sleepers: RefCell<Vec<Sleeper>>,
    running: Cell<usize>,
    jumps: Cell<usize>,
    longest: Cell<u64>,
    sleeps: RefCell<HashMap<usize, usize>>,
    pending: [Cell<usize>; THREADS],
    /// Who is gone, as bits. Looked at through the bucket.
    gone: RefCell<BTreeSet<u32>>,
}

impl Kernel {
    pub fn new() -> Self {
        Self {
            now: Cell::new(START),
            bucket: loom::sync::Mutex::new(()),
            sleepers: RefCell::default(),
            running: Cell::new(0),
            jumps: Cell::new(0),
            longest: Cell::new(0),
            sleeps: RefCell::default(),
            pending: [const { Cell::new(0) }; THREADS],
            gone: RefCell::default(),
        }
    }

    /// Nanoseconds of every clock.
    pub fn now(&self) -> u64 {
        self.now.get()
    }

    /// How often all threads slept and time had to pass.
    pub fn jumps(&self) -> usize {
        self.jumps.get()
    }

    /// The longest time for which all threads slept, in nanoseconds.
    pub fn longest(&self) -> u64 {
        self.longest.get()
    }

    pub fn tid(&self, thread: usize) -> u32 {
        FIRST_TID + thread as u32
    }

    /// Another thread can run.
    pub fn started(&self) {
        self.running.set(self.running.get() + 1);
    }

    /// The running thread ends.
    pub fn ended(&self, machine: &Machine) {
        let bucket = machine.switching(|| self.bucket.lock().expect("never poisoned"));
        self.stops_running(machine);
        drop(bucket);
    }

    /// Which word the kernel looks at when the running thread dies; 0 for none.
    pub fn arm(&self, machine: &Machine, word: usize) {
        self.pending[machine.current()].set(word);
    }

    /// Whether a thread is gone for good.
    pub fn is_gone(&self, machine: &Machine, tid: u32) -> bool {
        let bucket = machine.switching(|| self.bucket.lock().expect("never poisoned"));
        let gone = self.gone.borrow().contains(&tid);
        drop(bucket);
        gone
    }

    /// Sleeps while every word (address, expected, bits) holds what it should.
    pub fn wait(&self, machine: &Machine, words: &[(usize, u32, u32)], until: u64) -> Wait {
        // Killed before it sleeps, or while it does: it is in no queue.
        kill_point();
        let wait = self.sleep(machine, words, until);
        // Killed after it was woken: the wake-up is lost with it.
        kill_point();
        wait
    }

    fn sleep(&self, machine: &Machine, words: &[(usize, u32, u32)], until: u64) -> Wait {
        let me = machine.current();
        let number = {
            let mut sleeps = self.sleeps.borrow_mut();
            let count = sleeps.entry(me).or_default();
            *count += 1;
            *count - 1
        };
        Word64::fence(Ordering::SeqCst);
        let bucket = machine.switching(|| self.bucket.lock().expect("never poisoned"));
        for (address, expected, _) in words {
            if low_half(*address) != *expected {
                return Wait::Changed;
            }
        }
        if until <= self.now.get() {
            return Wait::TimedOut;
        }
        if until != u64::MAX && machine.is_hasty(number) {
            self.now.set(until);
            return Wait::TimedOut;
        }
        machine.note(|| format!("sleeps until {until} on {words:x?}"));
        let outcome = Rc::new(Cell::new(None));
        self.sleepers.borrow_mut().push(Sleeper {
            thread: me,
            words: words.iter().map(|(address, _, bits)| (*address, *bits)).collect(),
            until,
            handle: loom::thread::current(),
            outcome: Rc::clone(&outcome),
        });
        self.stops_running(machine);
        drop(bucket);
        while outcome.get().is_none() {
            machine.switching(loom::thread::park);
        }
        match outcome.get() {
            Some(Outcome::Wait(wait)) => wait,
            _ => resume_unwind(Box::new(Abandoned)),
        }
    }

    /// One thread less can run. If that was the last, time passes.
    fn stops_running(&self, machine: &Machine) {
        self.running.set(self.running.get() - 1);
        if self.running.get() != 0 || self.sleepers.borrow().is_empty() {
            return;
        }
        let next = self.sleepers.borrow().iter().map(|s| s.until).min().unwrap_or(u64::MAX);
        self.jumps.set(self.jumps.get() + 1);
        if next == u64::MAX || self.jumps.get() > MOST_JUMPS {
            machine.fail("a wake-up was lost: all threads sleep for ever".into());
            self.end_sleeps(|_| true, usize::MAX, Outcome::Abandoned);
            return;
        }
        self.longest.set(self.longest.get().max(next - self.now.get()));
        self.now.set(next);
        machine.note(|| format!("time jumps to {next}"));
        self.end_sleeps(|s| s.until <= next, usize::MAX, Outcome::Wait(Wait::TimedOut));
    }

    fn end_sleeps(&self, which: impl Fn(&Sleeper) -> bool, most: usize, outcome: Outcome) -> usize {
        let mut ended = Vec::new();
        self.sleepers.borrow_mut().retain(|sleeper| {
            let ends = ended.len() < most && which(sleeper);
            if ends {
                sleeper.outcome.set(Some(outcome));
                ended.push((sleeper.thread, sleeper.handle.clone()));
            }
            !ends
        });
        for (_, handle) in &ended {
            self.running.set(self.running.get() + 1);
            handle.unpark();
        }
        ended.len()
    }

    pub fn wake(&self, machine: &Machine, address: usize, count: u32, bits: u32) -> u32 {
        kill_point();
        if !machine.wakes() {
            return 0;
        }
        self.wake_up(machine, address, count, bits)
    }

    fn wake_up(&self, machine: &Machine, address: usize, count: u32, bits: u32) -> u32 {
        Word64::fence(Ordering::SeqCst);
        let bucket = machine.switching(|| self.bucket.lock().expect("never poisoned"));
        let is_meant = |s: &Sleeper| s.words.iter().any(|(at, theirs)| *at == address && theirs & bits != 0);
        machine.note(|| format!("wakes {count} with bits {bits:#x}"));
        let woken = self.end_sleeps(is_meant, count as usize, Outcome::Wait(Wait::Woken));
        drop(bucket);
        woken as u32
    }

    /// A thread is dead. It does not run on in the model: whoever calls this does what the kernel does.
    pub fn exit(&self, machine: &Machine, thread: usize, marked: bool) {
        let address = self.pending[thread].replace(0);
        if marked && address != 0 {
            self.handle_futex_death(machine, address, self.tid(thread));
        }
        let bucket = machine.switching(|| self.bucket.lock().expect("never poisoned"));
        self.gone.borrow_mut().insert(self.tid(thread));
        drop(bucket);
    }

    fn handle_futex_death(&self, machine: &Machine, address: usize, tid: u32) {
        // SAFETY: the address of a lock word in the fixture of the search, which outlives it. The kernel changes the low
        // half only; that the model exchanges the whole word, the high half unchanged, is the same to everybody.
        let word = unsafe { &*(address as *const Word64) };
        let mut seen = word.load(Ordering::Acquire);
        loop {
            let low = seen as u32;
            if low & TID_MASK == 0 {
                // Since Linux 6.2 also if the last owner died; before, only for a free word.
                self.wake_up(machine, address, 1, ANY);
                return;
            }
            if low & TID_MASK != tid {
                return;
            }
            let marked = seen & !u64::from(TID_MASK) | u64::from(OWNER_DIED);
            match word.compare_exchange(seen, marked, Ordering::SeqCst, Ordering::Acquire) {
                Ok(_) => break,
                Err(other) => seen = other,
            }
        }
        if seen as u32 & WAITERS != 0 {
            self.wake_up(machine, address, 1, ANY);
        }
    }
}

/// What the kernel compares: the 32 bits at an address, which may be half of a modelled word.
fn low_half(address: usize) -> u32 {
    let machine = super::machine::machine().expect("inside of a search");
    if machine.is_wide(address) {
        // SAFETY: a word of the fixture, which outlives the search.
        unsafe { &*(address as *const Word64) }.load(Ordering::Acquire) as u32
    } else {
        // SAFETY: as above.
        unsafe { &*(address as *const Word32) }.load(Ordering::Acquire)
    }
}
