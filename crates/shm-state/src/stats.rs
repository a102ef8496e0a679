//! Figures about an arena.

use crate::error::{PinInfo, Result};
use crate::layout::{Control, LogSlot};
use crate::owners::{Owners, WatcherInfo};
use crate::space::Space;
use crate::status::{Backing, Leftovers, LockStatus, Participant};
use crate::sync::{Ordering, Word};
use crate::verify::{self, Report};

/// Figures about one namespace. Bytes are those of whole blocks.
///
/// ```
/// # use shm_state::{Arena, ArenaOptions, Deadline, KeyRef};
/// # let arena = Arena::anonymous(&ArenaOptions::default())?;
/// # let namespace = arena.namespace("default")?;
/// namespace.put(&KeyRef::new(1, b"door"), None, 1, b"open", Deadline::never())?;
/// let stats = &arena.stats()?.namespaces[0];
/// assert_eq!((stats.name.as_str(), stats.keys, stats.commits), ("default", 1, 1));
/// assert_eq!((stats.recoveries, stats.takeovers), (0, 0)); // nobody died
/// # Ok::<(), shm_state::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamespaceStats {
    /// Its name.
    pub name: String,
    /// Commits so far.
    pub commits: u64,
    /// Commits that were finished, and locks that were taken over, after a writer's death.
    pub recoveries: u64,
    /// Times that the writer lock was taken over from a dead owner.
    pub takeovers: u64,
    /// Commits that woke somebody.
    pub wakes: u64,
    /// Times that a sleeper woke up.
    pub wakeups: u64,
    /// Commits whose snapshots can still be taken.
    pub history: u64,
    /// Keys alive.
    pub keys: u64,
    /// Bytes of keys, newest values and index.
    pub live_bytes: u64,
    /// Bytes that old snapshots and watchers may still need.
    pub retired_bytes: u64,
    /// Bytes that are free for new values.
    pub free_bytes: u64,
    /// Bytes of control block and log.
    pub control_bytes: u64,
    /// Snapshots that are held, oldest first.
    pub pins: Vec<PinInfo>,
    /// Watchers, the slowest first.
    pub watchers: Vec<WatcherInfo>,
    /// Its writer lock, as it was before it was taken to count all this.
    pub lock: LockStatus,
}

/// Figures about an arena.
///
/// ```
/// # use shm_state::{Arena, ArenaOptions};
/// # let arena = Arena::anonymous(&ArenaOptions::default())?;
/// # let namespace = arena.namespace("default")?;
/// let stats = arena.stats()?;
/// assert_eq!((stats.capacity, stats.namespaces.len()), (1 << 30, 1));
/// assert!(stats.committed < 1 << 20); // what it takes is little at first
/// # Ok::<(), shm_state::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stats {
    /// Bytes that it may grow to.
    pub capacity: u64,
    /// Bytes that are backed by memory.
    pub committed: u64,
    /// Bytes of its tables.
    pub table_bytes: u64,
    /// Bytes that are backed and belong to no namespace.
    pub free_bytes: u64,
    /// The file under it.
    pub backing: Backing,
    /// Who has it open, and who died while it had.
    pub participants: Vec<Participant>,
    /// What the dead left, before the locks were taken to count all this.
    pub leftovers: Leftovers,
    /// Its namespaces.
    pub namespaces: Vec<NamespaceStats>,
    /// What was found damaged on the way, as by [`Arena::verify`](crate::Arena::verify). Then the figures may be wrong.
    pub problems: Vec<String>,
}

/// Gathers the figures of one namespace, and what is wrong with it. Only under its writer lock.
pub(crate) fn namespace(space: &Space, lock: LockStatus, problems: &mut Vec<String>) -> Result<NamespaceStats> {
    let mut report = Report::default();
    verify::check(space, &mut report);
    problems.append(&mut report.problems);
    let control = space.control();
    let seq = space.seq();
    let mut owners = Owners::of(&space.attachment);
    Ok(NamespaceStats {
        name: space.name.clone(),
        commits: seq,
        recoveries: control.writer.recoveries.load(Ordering::Relaxed),
        takeovers: control.lock.takeovers(),
        wakes: control.writer.wakes.load(Ordering::Relaxed),
        wakeups: control.writer.wakeups.load(Ordering::Relaxed),
        history: seq - control.reader.floor.load(Ordering::Relaxed).min(seq),
        keys: report.keys,
        live_bytes: report.live_bytes,
        retired_bytes: report.retired_bytes,
        free_bytes: report.free_bytes,
        control_bytes: size_of::<Control>() as u64 + space.log_len() * size_of::<LogSlot>() as u64,
        pins: owners.pins(space),
        watchers: owners.watchers(space),
        lock,
    })
}
