//! The machine that the models run on: which words it models, who runs, who is dead.
//!
//! A search starts with no word modelled. Every access of a model thread to a word is noted; when two threads turn out to
//! touch the same word and one of them stores into it, the word joins the modelled ones and the search starts over. So
//! no shared word can be forgotten, and words that one thread has for itself cost nothing. A modelled word is an atomic
//! of loom; its memory keeps the value that was stored last, which nobody reads while the model runs.
//!
//! The threads of a model are coroutines of one system thread, and control changes only inside loom's operations. All
//! of those go through [`Machine::switching`], which is how the machine knows who runs.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeSet, HashMap};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use loom::sync::atomic as weak;

use super::kernel::Kernel;
use super::memory::{Change, RawWord, tag, untag};
use super::setup::{Fault, Kind, Search, Setup};

/// Threads that one scenario may have, the dead and the main thread included.
pub const THREADS: usize = 8;
/// Stack of a model thread, which runs the engine.
const STACK: usize = 512 << 10;

#[derive(Clone, Copy, Default)]
struct Touched {
    /// Threads, as bits.
    by: u32,
    stored: bool,
}

/// Carried by the unwinding of a thread that was killed.
struct Killed;
/// Carried by the unwinding of threads that would sleep for ever.
pub struct Abandoned;
/// Carried by the panic that makes a search start over with more words.
pub struct Grown;

pub struct Machine {
    search: Arc<Search>,
    setup: Setup,
    current: Cell<usize>,
    threads: Cell<usize>,
    handles: RefCell<Vec<loom::thread::JoinHandle<()>>>,
    modelled: HashMap<usize, Rc<weak::AtomicU64>>,
    /// Words that are not modelled: who touched them.
    plain: RefCell<HashMap<usize, Touched>>,
    widths: RefCell<HashMap<usize, bool>>,
    grown: RefCell<BTreeSet<usize>>,
    /// What the words held before this execution.
    before: RefCell<HashMap<usize, (RawWord, u64)>>,
    passed: [Cell<usize>; THREADS],
    /// The thread has made a SeqCst store, and no fence since.
    stored_in_order: [Cell<bool>; THREADS],
    held_back: RefCell<Option<(RawWord, u64, Ordering)>>,
    failure: RefCell<Option<String>>,
    trace: RefCell<Vec<String>>,
    pub kernel: Kernel,
}

thread_local! {
    static MACHINE: RefCell<Option<Rc<Machine>>> = const { RefCell::new(None) };
}

/// The machine that runs on this system thread.
pub fn machine() -> Option<Rc<Machine>> {
    MACHINE.try_with(|machine| machine.borrow().clone()).ok().flatten()
}

/// Ends the running thread if it is to die here.
pub fn kill_point() {
    if !std::thread::panicking()
        && let Some(machine) = machine()
    {
        machine.kill_point();
    }
}

/// Notes a failure of the running execution, whose counter-example ends the search.
pub fn claim(holds: bool, what: impl FnOnce() -> String) {
    if !holds && let Some(machine) = machine() {
        machine.fail(what());
    }
}

/// Starts a thread of the model.
pub fn spawn(f: impl FnOnce() + Send + 'static) {
    let machine = machine().expect("inside of a search");
    let thread = machine.new_thread();
    machine.kernel.started();
    let of_thread = Rc::clone(&machine);
    let run = move || {
        of_thread.current.set(thread);
        match catch_unwind(AssertUnwindSafe(f)) {
            Ok(()) => {}
            Err(payload) if payload.is::<Killed>() => of_thread.exit(thread),
            Err(payload) if payload.is::<Abandoned>() => {}
            Err(payload) => {
                let what = message(&*payload);
                if what.starts_with("Model exceeded") || what.starts_with("deadlock") {
                    resume_unwind(payload);
                }
                of_thread.fail(what);
            }
        }
        of_thread.kernel.ended(&of_thread);
    };
    let run = Sendable(run);
    let handle = loom::thread::Builder::new()
        .stack_size(STACK)
        .spawn(move || run.run())
        .expect("loom's threads always start");
    machine.handles.borrow_mut().push(handle);
}

/// All model threads run on one system thread; loom only asks for `Send` out of habit.
struct Sendable<F>(F);
// SAFETY: see the type; the coroutine that gets it runs on the system thread that made it.
unsafe impl<F> Send for Sendable<F> {}
impl<F: FnOnce()> Sendable<F> {
    fn run(self) {
        (self.0)();
    }
}

/// Runs what may be killed; `false` if it was, and the kernel has done its part. What follows is no longer the dead thread:
/// it starts whoever finds the traces.
pub fn survives(f: impl FnOnce()) -> bool {
    let Err(payload) = catch_unwind(AssertUnwindSafe(f)) else {
        return true;
    };
    if !payload.is::<Killed>() {
        resume_unwind(payload);
    }
    let machine = machine().expect("inside of a search");
    machine.exit(machine.current.get());
    machine.current.set(machine.new_thread());
    false
}

/// Waits for all threads of the model.
pub fn join() {
    let machine = machine().expect("inside of a search");
    loop {
        let Some(handle) = machine.handles.borrow_mut().pop() else {
            return;
        };
        machine.switching(|| handle.join().expect("the panics of model threads are caught"));
    }
}

/// What a panic said.
pub fn message(payload: &(dyn Any + Send)) -> String {
    payload
        .downcast_ref::<String>()
        .cloned()
        .or_else(|| payload.downcast_ref::<&str>().map(ToString::to_string))
        .unwrap_or_else(|| "a panic without a message".into())
}

impl Machine {
    /// Begins an execution: what is in memory now is where it starts.
    pub fn begin(search: &Arc<Search>, setup: &Setup) -> Rc<Self> {
        let words = search.words.lock().expect("not poisoned").clone();
        let modelled = words.iter().map(|tagged| {
            let cell = untag(*tagged);
            (cell.address, Rc::new(weak::AtomicU64::new(cell.get())))
        });
        let machine = Rc::new(Self {
            modelled: modelled.collect(),
            search: Arc::clone(search),
            setup: setup.clone(),
            current: Cell::new(0),
            threads: Cell::new(1),
            handles: RefCell::default(),
            plain: RefCell::default(),
            widths: RefCell::default(),
            grown: RefCell::default(),
            before: RefCell::default(),
            passed: [const { Cell::new(0) }; THREADS],
            stored_in_order: [const { Cell::new(false) }; THREADS],
            held_back: RefCell::default(),
            failure: RefCell::default(),
            trace: RefCell::default(),
            kernel: Kernel::new(),
        });
        MACHINE.set(Some(Rc::clone(&machine)));
        machine
    }

    /// Ends an execution: memory is again as it was; panics with what was found.
    pub fn end(self: Rc<Self>) {
        MACHINE.set(None);
        self.search.executions.fetch_add(1, Ordering::Relaxed);
        for (cell, value) in self.before.take().into_values() {
            cell.set(value);
        }
        let grown = self.grown.take();
        if !grown.is_empty() {
            self.search.words.lock().expect("not poisoned").extend(grown);
            resume_unwind(Box::new(Grown));
        }
        if let Some(failure) = self.failure.take() {
            for line in self.trace.take() {
                println!("{line}");
            }
            resume_unwind(Box::new(failure));
        }
    }

    /// Whether the word at an address that was accessed before has 64 bits.
    pub fn is_wide(&self, address: usize) -> bool {
        self.widths.borrow().get(&address).copied().unwrap_or(false)
    }

    pub fn fail(&self, what: String) {
        self.failure.borrow_mut().get_or_insert(what);
    }

    /// Notes a step, to be printed if this execution turns out to be a counter-example.
    pub fn note(&self, step: impl FnOnce() -> String) {
        if self.search.traces {
            self.trace
                .borrow_mut()
                .push(format!("thread {}: {}", self.current.get(), step()));
        }
    }

    fn new_thread(&self) -> usize {
        let thread = self.threads.get();
        assert!(thread < THREADS, "too many threads");
        self.threads.set(thread + 1);
        thread
    }

    /// The number of the running thread.
    pub fn current(&self) -> usize {
        self.current.get()
    }

    /// Runs an operation of loom, during which other threads may run.
    pub fn switching<R>(&self, operation: impl FnOnce() -> R) -> R {
        let me = self.current.get();
        let result = operation();
        self.current.set(me);
        result
    }

    pub fn kill_point(&self) {
        let me = self.current.get();
        let passed = self.passed[me].get();
        self.passed[me].set(passed + 1);
        if let Some(kill) = self.setup.kill
            && (kill.thread, kill.at) == (me, passed)
        {
            self.search.kills.fetch_add(1, Ordering::Relaxed);
            resume_unwind(Box::new(Killed));
        }
    }

    /// What the kernel does when a thread is dead.
    fn exit(&self, thread: usize) {
        let marked = self.setup.kill.is_none_or(|kill| kill.marked);
        self.kernel.exit(self, thread, marked);
    }

    pub fn is_hasty(&self, sleep: usize) -> bool {
        self.setup.hasty.contains(&(self.current.get(), sleep))
    }

    /// Whether a fault changes what happens here.
    fn is_faulty(&self, what: impl Fn(&Fault) -> bool) -> bool {
        let faulty = self.setup.faults.iter().any(what);
        if faulty {
            self.search.faulty.fetch_add(1, Ordering::Relaxed);
        }
        faulty
    }

    pub fn wakes(&self) -> bool {
        !self.is_faulty(|fault| matches!(fault, Fault::NoWake))
    }

    /// The model of a word, if it has one; notes who touches it if not.
    pub fn word(&self, cell: RawWord, kind: Kind) -> Option<Rc<weak::AtomicU64>> {
        let modelled = self.modelled.get(&cell.address);
        let me = self.current.get();
        self.widths.borrow_mut().insert(cell.address, cell.wide);
        if modelled.is_none() && me != 0 {
            let mut plain = self.plain.borrow_mut();
            let touched = plain.entry(cell.address).or_default();
            touched.by |= 1 << me;
            touched.stored |= kind != Kind::Load;
            if touched.stored && touched.by.count_ones() > 1 {
                self.grown.borrow_mut().insert(tag(cell));
            }
        }
        modelled.cloned()
    }

    /// Remembers what a word held before this execution.
    pub fn changes(&self, cell: RawWord) {
        self.before
            .borrow_mut()
            .entry(cell.address)
            .or_insert_with(|| (cell, cell.get()));
    }

    fn weakened(&self, cell: RawWord, kind: Kind, order: Ordering) -> Ordering {
        let relaxed = |fault: &Fault| matches!(fault, Fault::Relaxed(k, o, word) if (*k, *o, *word) == (kind, order, cell.address));
        if self.is_faulty(relaxed) {
            Ordering::Relaxed
        } else {
            order
        }
    }

    pub fn load(&self, cell: RawWord, word: &weak::AtomicU64, order: Ordering) -> u64 {
        let mut order = self.weakened(cell, Kind::Load, order);
        if order == Ordering::SeqCst {
            // Loom knows no SeqCst accesses. That one comes after an earlier SeqCst store of the same thread is what a
            // fence between the two says.
            if self.stored_in_order[self.current.get()].replace(false) {
                self.switching(|| weak::fence(Ordering::SeqCst));
            }
            order = Ordering::Acquire;
        }
        let value = self.switching(|| word.load(order));
        self.note(|| format!("{cell} is {value:#x} ({order:?})"));
        value
    }

    pub fn store(&self, cell: RawWord, word: &weak::AtomicU64, value: u64, order: Ordering) {
        let address = cell.address;
        if self.is_faulty(|fault| matches!(fault, Fault::NoStore(word, only) if *word == address && only.is_none_or(|only| only == value))) {
            return;
        }
        if self.is_faulty(|fault| matches!(fault, Fault::Swapped(first, _) if *first == address)) {
            *self.held_back.borrow_mut() = Some((cell, value, order));
            return;
        }
        self.store_now(cell, word, value, order);
        if self
            .setup
            .faults
            .iter()
            .any(|fault| matches!(fault, Fault::Swapped(_, second) if *second == address))
        {
            let held = self.held_back.borrow_mut().take();
            if let Some((first, value, order)) = held
                && let Some(word) = self.modelled.get(&first.address)
            {
                // Before each store one can die.
                self.kill_point();
                self.store_now(first, word, value, order);
            }
        }
    }

    fn store_now(&self, cell: RawWord, word: &weak::AtomicU64, value: u64, order: Ordering) {
        let order = self.weakened(cell, Kind::Store, order);
        let order = self.in_order(order, Ordering::Release);
        self.switching(|| word.store(value, order));
        self.note(|| format!("{cell} = {value:#x} ({order:?})"));
        self.changes(cell);
        cell.set(value);
    }

    /// A SeqCst store, as loom knows it.
    fn in_order(&self, order: Ordering, weaker: Ordering) -> Ordering {
        if order == Ordering::SeqCst {
            self.stored_in_order[self.current.get()].set(true);
            return weaker;
        }
        order
    }

    /// A read-modify-write, of which one always sees the newest value.
    pub fn exchange(
        &self,
        cell: RawWord,
        word: &weak::AtomicU64,
        change: Change,
        order: Ordering,
        failure: Ordering,
    ) -> Result<u64, u64> {
        if matches!(change, Change::Add(_))
            && self.is_faulty(|fault| matches!(fault, Fault::NoStore(word, None) if *word == cell.address))
        {
            return Ok(0);
        }
        let order = self.weakened(cell, Kind::Exchange, order);
        let order = self.in_order(order, Ordering::AcqRel);
        let result = self.switching(|| match change {
            Change::From(old, new) => word.compare_exchange(old, new, order, failure),
            Change::Add(value) => Ok(word.fetch_add(value, order)),
            Change::Or(value) => Ok(word.fetch_or(value, order)),
            Change::And(value) => Ok(word.fetch_and(value, order)),
        });
        let new = result.ok().map(|old| match change {
            Change::From(_, new) => new,
            Change::Add(value) => old.wrapping_add(value),
            Change::Or(value) => old | value,
            Change::And(value) => old & value,
        });
        if let Some(new) = new {
            self.changes(cell);
            cell.set(new);
        }
        self.note(|| format!("{cell} was {result:x?}, {new:x?} now ({order:?})"));
        result
    }

    pub fn fence(&self, order: Ordering) {
        let me = self.current.get();
        if !self.is_faulty(|fault| matches!(fault, Fault::NoFence(o, thread) if (*o, *thread) == (order, me))) {
            self.switching(|| weak::fence(order));
            self.note(|| format!("fence ({order:?})"));
        }
    }
}
