//! What a user could take instead of zproc, all behind one trait, so that a workload is the same code for each.
//!
//! A [`Rival`] makes a dict and whatever serves it; a [`Client`] is how one process uses the dict, found by an address; a
//! [`Watcher`] is told of changes. What a rival cannot do is in [`Rival::CANNOT`], with the reason, and is shown as a
//! dash; nobody calls it. Everything is generic, not `dyn`: a call through a table costs as much as some of what is
//! measured.
//!
//! Rivals panic where something fails that should not: a figure of a run in which it did would be worth nothing.

mod contents;
mod iceoryx;
mod in_process;
mod lmdb;
pub mod place;
mod redis_server;
mod segment;
mod served_state;
mod shared_state;
mod table_of_slots;
pub mod zmq_design;

use std::time::Duration;

pub use contents::{COUNTER, Contents, MESSAGE, VALUE};
pub use iceoryx::Iceoryx;
pub use in_process::{LockedMap, ShardedMap};
pub use lmdb::Lmdb;
pub use redis_server::Redis;
pub use segment::Segment;
pub use served_state::Served;
pub use shared_state::Zproc;
pub use zmq_design::{ZmqFaithful, ZmqImproved};

/// What a workload asks of a rival.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// [`Client::get`]
    Get,
    /// [`Client::get_held`]
    GetHeld,
    /// [`Client::set`]
    Set,
    /// [`Client::set_held`]
    SetHeld,
    /// [`Client::get_bytes`] and [`Client::set_bytes`]
    Bytes,
    /// [`Client::snapshot`]
    Snapshot,
    /// [`Client::increment`]
    Increment,
    /// A [`Watcher`] that spins.
    WatchSpinning,
    /// A [`Watcher`] that sleeps.
    WatchAsleep,
    /// A hundred thousand keys, within reasonable time.
    ManyKeys,
    /// Another process than the one that made it.
    OtherProcess,
}

/// How a watcher waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waiting {
    /// It looks again and again.
    Spinning,
    /// The kernel wakes it.
    Asleep,
}

/// What a watcher was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum News {
    /// The key has this value now.
    Value(u64),
    /// So many changes will never be told.
    Missed(u64),
    /// Nothing happened for as long as it was to wait.
    Nothing,
}

/// One way to share a dict.
pub trait Rival: Sized {
    /// What it is called in tables.
    const NAME: &'static str;
    /// What it cannot do, and why.
    const CANNOT: &'static [(Operation, &'static str)];
    /// How a process uses it.
    type Client: Client;
    /// How a process is told of changes.
    type Watcher: Watcher;

    /// Makes a dict with these contents, and starts what serves it; dropping it ends all of that. An error says why
    /// this machine does not have the rival.
    fn create(contents: &Contents) -> Result<Self, String>;

    /// By what this process and others find it.
    fn address(&self) -> String;

    /// The processes that serve it.
    fn servers(&self) -> Vec<u32> {
        Vec::new()
    }

    /// Why it cannot do one of these, if it cannot.
    fn cannot(operations: &[Operation]) -> Option<&'static str> {
        let has = |(operation, _): &&(Operation, _)| operations.contains(operation);
        Self::CANNOT.iter().find(has).map(|(_, reason)| *reason)
    }
}

/// A process's way to the dict.
pub trait Client: Sized {
    /// Finds it.
    fn open(address: &str) -> Self;

    /// The number under a key.
    fn get(&mut self, key: &str) -> Option<u64>;

    /// Puts a number under a key that is there, and returns when every later `get` sees it.
    fn set(&mut self, key: &str, value: u64);

    /// Reads so many times without looking the key up again. The sum of what was read.
    fn get_held(&mut self, key: &str, times: usize) -> u64;

    /// Writes so many times, from 1 on, without looking the key up again.
    fn set_held(&mut self, key: &str, times: usize);

    /// Replaces what is in `into` by the bytes under a key.
    fn get_bytes(&mut self, key: &str, into: &mut Vec<u8>);

    /// Puts bytes under a key that is there; as many as it holds.
    fn set_bytes(&mut self, key: &str, value: &[u8]);

    /// Gets hold of the whole dict as it is at one instant, reads one key of it, and lets it go.
    fn snapshot(&mut self, key: &str) -> Option<u64>;

    /// Adds one to a number, so that no other process's addition is lost.
    fn increment(&mut self, key: &str);

    /// Puts a number under a key, so that those who watch it are told.
    fn tell(&mut self, key: &str, value: u64) {
        self.set(key, value);
    }
}

/// A process's way to learn of changes of one key.
pub trait Watcher: Sized {
    /// Begins to watch; every change that is made after the return counts.
    fn open(address: &str, key: &str, waiting: Waiting) -> Self;

    /// The next change that others made.
    fn next(&mut self, patience: Duration) -> News;
}

/// Calls `$function::<R>($arguments)` for each rival, ours first, then from the most to the least like it.
#[macro_export]
macro_rules! for_each_rival {
    ($function:ident($($argument:expr),*)) => {{
        $function::<$crate::rivals::Zproc>($($argument),*);
        $function::<$crate::rivals::ZmqFaithful>($($argument),*);
        $function::<$crate::rivals::ZmqImproved>($($argument),*);
        $function::<$crate::rivals::Lmdb>($($argument),*);
        $function::<$crate::rivals::Iceoryx>($($argument),*);
        $function::<$crate::rivals::Redis>($($argument),*);
        $function::<$crate::rivals::Segment>($($argument),*);
        $function::<$crate::rivals::LockedMap>($($argument),*);
        $function::<$crate::rivals::ShardedMap>($($argument),*);
    }};
}

/// For rivals without a watcher.
#[derive(Debug)]
pub enum NoWatcher {}

impl Watcher for NoWatcher {
    fn open(address: &str, _: &str, _: Waiting) -> Self {
        unreachable!("{address} has no watchers")
    }

    fn next(&mut self, _: Duration) -> News {
        match *self {}
    }
}
