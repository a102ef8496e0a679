//! What one search looks at: who dies where, whose sleeps are short, and what is broken on purpose.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What an access does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Load,
    Store,
    Exchange,
}

/// A weakness planted into the code under test, which a model must find.
#[derive(Clone, Debug)]
pub enum Fault {
    /// Accesses of this kind and ordering to the word are relaxed.
    Relaxed(Kind, Ordering, usize),
    /// Fences of this kind are left out where this thread (counted from 1 in the order of spawning) makes them.
    NoFence(Ordering, usize),
    /// Stores into the word, and additions to it, are left out; or those of one value.
    NoStore(usize, Option<u64>),
    /// A store into the first word comes only after the next store into the second.
    Swapped(usize, usize),
    /// Nobody is woken.
    NoWake,
}

/// Where a thread dies, and whether the kernel marks the lock that it holds.
#[derive(Clone, Copy, Debug)]
pub struct Kill {
    /// Which thread, counted from 1.
    pub thread: usize,
    /// Before which of its kill points.
    pub at: usize,
    /// The kernel does its part.
    pub marked: bool,
}

/// What one search looks at.
#[derive(Clone, Debug, Default)]
pub struct Setup {
    pub faults: Vec<Fault>,
    pub kill: Option<Kill>,
    /// Sleeps (thread, number of its sleep) whose time is over at once.
    pub hasty: Vec<(usize, usize)>,
}

/// What outlives one execution of a search.
#[derive(Default)]
pub struct Search {
    /// Addresses of the modelled words.
    pub words: Mutex<BTreeSet<usize>>,
    pub executions: AtomicUsize,
    /// Executions in which somebody was killed.
    pub kills: AtomicUsize,
    /// Accesses that the fault changed.
    pub faulty: AtomicUsize,
    /// Whether to print the counter-example.
    pub traces: bool,
}
