//! What can go wrong, one variant a cause, each message with its numbers and the way out.

use std::io;
use std::sync::Arc;

use crate::sys::limit::{self, Limit};

/// The result of the engine's calls.
///
/// ```
/// fn count(arena: &shm_state::Arena) -> shm_state::Result<usize> {
///     Ok(arena.namespaces()?.len())
/// }
/// assert_eq!(count(&shm_state::Arena::anonymous(&Default::default())?)?, 0);
/// # Ok::<(), shm_state::Error>(())
/// ```
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a call of the engine failed.
///
/// ```
/// use shm_state::{Arena, ArenaOptions, Deadline, Error, KeyRef};
///
/// let arena = Arena::anonymous(&ArenaOptions { capacity: 1 << 20, ..Default::default() })?;
/// let namespace = arena.namespace("default")?;
/// let error = namespace.put(&KeyRef::new(1, b"large"), None, 1, &[0; 2 << 20], Deadline::never()).unwrap_err();
/// assert!(matches!(error, Error::Full { capacity, .. } if capacity == 1 << 20));
/// assert!(error.to_string().ends_with("remove keys, drop snapshots, or create it with a larger capacity"));
/// # Ok::<(), shm_state::Error>(())
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is no arena of that name.
    #[error("no arena named {name:?}: create it first, or open it with open_or_create")]
    NotFound {
        /// The name that was asked for.
        name: String,
    },
    /// There is an arena of that name already.
    #[error("an arena named {name:?} exists already: open it, or remove it first")]
    AlreadyExists {
        /// The name that was asked for.
        name: String,
    },
    /// The file is not an arena, or not one that this process may use.
    #[error("{name:?} cannot be used as an arena: {reason}")]
    Incompatible {
        /// The arena.
        name: String,
        /// What is wrong with it and what to do.
        reason: String,
    },
    /// The arena holds bytes that no correct process writes.
    #[error("the arena is corrupt: {what}; remove it and create it anew")]
    Corrupt {
        /// What was found, and where.
        what: String,
    },
    /// The arena has no room left.
    #[error("the arena is full: {requested} bytes asked for, {free} bytes free but in no block that large, {committed} \
             of {capacity} bytes in use{}; remove keys, drop snapshots, or create it with a larger capacity",
            pinned_by(.pins))]
    Full {
        /// Bytes of the block that could not be had.
        requested: u64,
        /// Bytes in free blocks of this namespace.
        free: u64,
        /// Bytes of the arena that are backed by memory.
        committed: u64,
        /// Bytes that the arena may grow to.
        capacity: u64,
        /// Snapshots that keep old versions alive.
        pins: Vec<PinInfo>,
    },
    /// The file system under the arena has no room left.
    #[error(
        "the file system of the arena is full: {requested} more bytes could not be had ({committed} of {capacity} \
             bytes in use{}); make room there, or enlarge it (mount -o remount,size=…, or docker run --shm-size=…)",
        size_of_file_system(*.size)
    )]
    FileSystemFull {
        /// Bytes that were asked of the file system.
        requested: u64,
        /// Bytes of the arena that are backed by memory.
        committed: u64,
        /// Bytes that the arena may grow to.
        capacity: u64,
        /// Bytes of the whole file system, 0 when it has no limit of its own.
        size: u64,
    },
    /// The writer lock was not had in time.
    #[error(
        "the writer lock was not free in time: {} holds it; wait longer, or, if it is stopped, continue it or end it: its \
             lock is then taken over",
        holder(*.pid, *.tid)
    )]
    LockTimeout {
        /// The process that holds the lock, 0 when unknown.
        pid: u32,
        /// The thread that holds the lock.
        tid: u32,
    },
    /// This thread holds the writer lock already.
    #[error("this thread is inside a transaction of this namespace already: finish that one first")]
    Deadlock,
    /// The process was forked after the arena was opened.
    #[error("the arena was opened before this process was forked: open it again in the child")]
    Forked,
    /// No more processes can attach.
    #[error("{0} processes are attached to the arena, which is the limit: close one of them")]
    TooManyProcesses(usize),
    /// No more snapshots and watchers fit.
    #[error("the namespace has {0} snapshots and watchers, which is the limit: drop some")]
    TooManySnapshots(usize),
    /// No more namespaces can be created.
    #[error("the arena has {0} namespaces, which is the limit: use another arena")]
    TooManyNamespaces(usize),
    /// This thread is inside as many transactions as it can be.
    #[error("this thread is inside {0} transactions, which is the limit: finish one of them first")]
    TooManyTransactions(usize),
    /// A transaction inserted as many keys as it can, those that it removed again counted.
    #[error("the transaction inserted {0} keys, which is the limit: do it in several")]
    TooManyInsertions(u32),
    /// The arena was opened for reading only.
    #[error("the arena was opened for reading only: open it for writing, too")]
    ReadOnly,
    /// This process has no memory for a copy of a value.
    #[error("this process has no memory for a value of {bytes} bytes{way_out}")]
    OutOfMemory {
        /// Bytes of the value.
        bytes: usize,
        /// The limit behind it, and what to do; may be empty.
        way_out: String,
    },
    /// A name is empty, too long, or has characters that cannot be part of it.
    #[error("{name:?} cannot be a name: {reason}")]
    InvalidName {
        /// The name.
        name: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A key is too long.
    #[error("a key of {len} bytes is longer than the limit of {max}: use a shorter one, such as a hash of it")]
    KeyTooLong {
        /// Bytes of the key.
        len: usize,
        /// The limit.
        max: usize,
    },
    /// An option has a value that cannot be used.
    #[error("{option} = {value} cannot be used: {reason}")]
    InvalidOption {
        /// The option.
        option: &'static str,
        /// Its value.
        value: u64,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The snapshot that was asked for is gone from the history.
    #[error(
        "commit {seq} is gone from the history, whose oldest is {oldest}: create the arena with a longer history, \
             or read faster"
    )]
    HistoryGone {
        /// The commit that was asked for.
        seq: u64,
        /// The oldest that can be read.
        oldest: u64,
    },
    /// A transaction was used after one of its calls had failed in a way that it cannot go on from.
    #[error("the transaction failed before: drop it, which leaves the state as it was, and begin another one")]
    Poisoned,
    /// The kernel or the C library lacks something that the lock needs.
    #[error("this system cannot run the writer lock: {0}")]
    Unsupported(String),
    /// A system call failed.
    #[error("{call} failed: {source}{way_out}")]
    Os {
        /// What was called, on what.
        call: String,
        /// The system's error.
        source: io::Error,
        /// The limit behind it, and what to do; may be empty.
        way_out: String,
    },
}

/// A snapshot that keeps old versions alive.
///
/// ```
/// # use shm_state::{Arena, ArenaOptions, Deadline, KeyRef};
/// # let arena = Arena::anonymous(&ArenaOptions::default())?;
/// # let namespace = arena.namespace("default")?;
/// let pinned = namespace.pin()?;
/// namespace.put(&KeyRef::new(1, b"door"), None, 1, b"open", Deadline::never())?;
/// let stats = arena.stats()?;
/// let holds = &stats.namespaces[0].pins[0];
/// assert_eq!((holds.pid, holds.seq, holds.lag), (std::process::id(), 0, 1));
/// # drop(pinned);
/// # Ok::<(), shm_state::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PinInfo {
    /// The process that holds it.
    pub pid: u32,
    /// What that is called, see [`set_process_name`](crate::set_process_name).
    pub name: Option<Arc<str>>,
    /// It is certainly dead: the snapshot goes when memory is short, or by [`Arena::reap`](crate::Arena::reap).
    pub dead: bool,
    /// The commit that it pins.
    pub seq: u64,
    /// How many commits have been made since.
    pub lag: u64,
}

impl PinInfo {
    /// What another process was told, for those who pass it on.
    ///
    /// ```
    /// let told = shm_state::PinInfo::new(7, None, false, 5, 2);
    /// assert_eq!((told.pid, told.seq, told.lag), (7, 5, 2));
    /// ```
    pub fn new(pid: u32, name: Option<Arc<str>>, dead: bool, seq: u64, lag: u64) -> Self {
        Self {
            pid,
            name,
            dead,
            seq,
            lag,
        }
    }
}

impl Error {
    /// For `map_err` on a system call.
    pub(crate) fn os(call: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let call = call.into();
        move |source| Self::Os {
            way_out: limit::way_out(&source),
            call,
            source,
        }
    }

    /// For `map_err` on locking an arena's memory, whose whole capacity counts.
    pub(crate) fn memory_lock(capacity: u64) -> impl FnOnce(io::Error) -> Self {
        move |source| {
            let limit = Limit::LockedMemory.describe();
            let other = ", give the process CAP_IPC_LOCK, or create the arena with a smaller capacity";
            Self::Os {
                way_out: if limit.is_empty() { limit } else { limit + other },
                call: format!("locking the {capacity} bytes of the arena's capacity in memory"),
                source,
            }
        }
    }

    /// For `map_err` on mapping an arena.
    pub(crate) fn mapping(capacity: u64) -> impl FnOnce(io::Error) -> Self {
        let call = format!("mapping {capacity} bytes of address space for the arena");
        move |source| {
            // EAGAIN: only where the process locks all that it maps, so that the mapping counts against that limit.
            if source.kind() != io::ErrorKind::WouldBlock {
                return Self::os(call)(source);
            }
            let limit = Limit::LockedMemory.describe();
            Self::Os {
                way_out: format!("; this process locks all that it maps (mlockall){limit}"),
                call,
                source,
            }
        }
    }

    /// A copy of a value that did not fit into the memory of this process.
    #[cold]
    pub(crate) fn out_of_memory(bytes: usize) -> Self {
        let way_out = limit::way_out(&io::ErrorKind::OutOfMemory.into());
        Self::OutOfMemory { bytes, way_out }
    }

    /// Damage at a place.
    #[cold]
    pub(crate) fn corrupt(what: impl Into<String>) -> Self {
        Self::Corrupt { what: what.into() }
    }
}

/// Who holds a lock; a pid of 0 is unknown.
fn holder(pid: u32, tid: u32) -> String {
    match pid {
        0 => format!("thread {tid} of a process that is not known"),
        pid => format!("process {pid} (thread {tid})"),
    }
}

fn size_of_file_system(bytes: u64) -> String {
    match bytes {
        0 => String::new(),
        bytes => format!(", {bytes} bytes in the whole file system"),
    }
}

fn pinned_by(pins: &[PinInfo]) -> String {
    if pins.is_empty() {
        return String::new();
    }
    let list: Vec<String> = pins
        .iter()
        .take(4)
        .map(|p| {
            let name = p.name.as_deref().map_or_else(String::new, |name| format!(" ({name})"));
            format!("process {}{name} pins commit {}, {} commits old", p.pid, p.seq, p.lag)
        })
        .collect();
    let more = pins.len().saturating_sub(4);
    let more = if more > 0 {
        format!(", and {more} more")
    } else {
        String::new()
    };
    format!(" ({}{more})", list.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_owner_of_a_lock_is_named_as_far_as_it_is_known() {
        let text = |pid| Error::LockTimeout { pid, tid: 7 }.to_string();
        assert!(text(5).contains("process 5 (thread 7) holds it"), "{}", text(5));
        assert!(
            text(0).contains("thread 7 of a process that is not known holds it"),
            "{}",
            text(0)
        );
    }
}
