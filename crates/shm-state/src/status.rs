//! Who is there, who holds the locks, who pins what, who lags, what the dead left: seen without taking any lock.
//!
//! So it can be asked while a writer is stopped inside, which is when one wants to know. The price: every word is read for
//! itself, so figures of one status may be of moments that lie microseconds apart, and what takes a walk through the heap
//! (how much of it is alive) is left to [`Arena::stats`](crate::Arena::stats).

use std::collections::HashMap;
use std::sync::Arc;

use crate::arena::Mapping;
use crate::error::{PinInfo, Result};
use crate::layout::{CHUNK, Control, GRANULE};
use crate::lock::WriterLock;
use crate::owners::{Owners, WatcherInfo};
use crate::participant::{Name, User};
use crate::space::{History, Membership, Space};
use crate::sync::{Ordering, Word};
use crate::sys::file;
use crate::sys::process::Life;
use crate::{chunks, directory, log, record};

/// A process that has the arena open, or died while it had.
///
/// ```
/// # use shm_state::{Arena, ArenaOptions, Life};
/// # let arena = Arena::anonymous(&ArenaOptions::default())?;
/// # let namespace = arena.namespace("default")?;
/// let pinned = namespace.pin()?;
/// let this = &arena.status()?.participants[0];
/// assert_eq!((this.pid, this.life), (std::process::id(), Life::Running));
/// assert_eq!((this.pins, this.watchers), (1, 0));
/// # Ok::<(), shm_state::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Participant {
    /// Its process id.
    pub pid: u32,
    /// What it is called, see [`set_process_name`](crate::set_process_name).
    pub name: Option<Arc<str>>,
    /// How it is.
    pub life: Life,
    /// Snapshots that it holds, in all namespaces.
    pub pins: usize,
    /// Watchers that it has, in all namespaces.
    pub watchers: usize,
}

/// Who has a writer lock.
///
/// ```
/// # use shm_state::{Arena, ArenaOptions, Deadline, Life};
/// # let arena = Arena::anonymous(&ArenaOptions::default())?;
/// # let namespace = arena.namespace("default")?;
/// let transaction = namespace.begin(Deadline::never())?;
/// let status = arena.status()?;
/// let holder = status.namespaces[0].lock.holder.as_ref().expect("this thread");
/// assert_eq!((holder.pid, holder.life), (std::process::id(), Life::Running));
/// assert_eq!(namespace.lock_holder(), Some((holder.pid, holder.tid)));
/// # Ok::<(), shm_state::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct LockHolder {
    /// The process; 0 if it cannot be told any more.
    pub pid: u32,
    /// The thread of it.
    pub tid: u32,
    /// What the process is called.
    pub name: Option<Arc<str>>,
    /// How the thread is.
    pub life: Life,
}

/// A writer lock.
///
/// ```
/// # use shm_state::{Arena, ArenaOptions, Deadline, Error};
/// # let arena = Arena::anonymous(&ArenaOptions::default())?;
/// # let namespace = arena.namespace("default")?;
/// let is_held = || Ok::<_, shm_state::Error>(arena.status()?.namespaces[0].lock.holder.is_some());
/// let transaction = namespace.begin(Deadline::never())?;
/// assert!(is_held()?);
/// drop(transaction);
/// assert!(!is_held()?);
/// # Ok::<(), shm_state::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct LockStatus {
    /// Who has it; `None` if it is free. One that is dead is found out by the next who waits.
    pub holder: Option<LockHolder>,
    /// The last holder died inside. The next one finishes what it left.
    pub abandoned: bool,
    /// Somebody may be asleep until it is free.
    pub has_waiters: bool,
    /// How often it was taken over from a dead holder.
    pub takeovers: u64,
}

/// A namespace.
///
/// ```
/// # use shm_state::{Arena, ArenaOptions, Deadline, KeyRef};
/// # let arena = Arena::anonymous(&ArenaOptions::default())?;
/// # let namespace = arena.namespace("default")?;
/// let door = KeyRef::new(1, b"door");
/// namespace.put(&door, None, 1, b"open", Deadline::never())?;
/// let pinned = namespace.pin()?;
/// namespace.put(&door, None, 1, b"shut", Deadline::never())?;
/// let status = &arena.status()?.namespaces[0];
/// assert_eq!((status.name.as_str(), status.commits, status.keys), ("default", 2, Some(1)));
/// assert_eq!(status.history, namespace.seq() - namespace.floor());
/// assert_eq!(status.pins.len(), 1);
/// # Ok::<(), shm_state::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct NamespaceStatus {
    /// Its name.
    pub name: String,
    /// Commits so far.
    pub commits: u64,
    /// Keys alive; `None` if a writer was faster.
    pub keys: Option<u32>,
    /// Its writer lock.
    pub lock: LockStatus,
    /// A commit is decided and not visible yet: a writer is at it, or died; then the next one, or a watcher, finishes it.
    pub unfinished: bool,
    /// Commits whose snapshots can still be taken.
    pub history: u64,
    /// Bytes of values that were superseded in that time.
    pub history_bytes: u64,
    /// Bytes of the arena that belong to it, used or not.
    pub bytes: u64,
    /// Snapshots that are held, oldest first.
    pub pins: Vec<PinInfo>,
    /// Watchers, the slowest first.
    pub watchers: Vec<WatcherInfo>,
}

/// The file under an arena.
///
/// ```
/// # use shm_state::{Arena, ArenaOptions};
/// # let arena = Arena::anonymous(&ArenaOptions::default())?;
/// # let namespace = arena.namespace("default")?;
/// let backing = arena.status()?.backing;
/// assert!(backing.file.expect("it has one").starts_with("/memfd:"));
/// # Ok::<(), shm_state::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Backing {
    /// What it is called: its path, or `/memfd:zproc (deleted)`. `None` in memory that the caller brought.
    pub file: Option<String>,
    /// Bytes of its file system; 0 if that has no limit of its own, as that of anonymous arenas.
    pub size: u64,
    /// Bytes that the file system has left.
    pub free: u64,
}

/// What dead processes left that is not given back yet. Memory, snapshots and slots of the dead are given back when they
/// are needed, or by [`Arena::reap`](crate::Arena::reap).
///
/// ```
/// # use shm_state::{Arena, ArenaOptions};
/// # let arena = Arena::anonymous(&ArenaOptions::default())?;
/// # let namespace = arena.namespace("default")?;
/// let left = arena.status()?.leftovers;
/// assert_eq!((left.processes, left.locks, left.commits), (0, 0, 0)); // nobody has died
/// # Ok::<(), shm_state::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Leftovers {
    /// Slots of processes that died.
    pub processes: usize,
    /// Places for snapshots and watchers.
    pub seats: usize,
    /// Snapshots, which hold memory back.
    pub pins: usize,
    /// Locks whose holder died.
    pub locks: usize,
    /// Commits that were decided, by writers who died before they were visible.
    pub commits: usize,
}

/// What [`Arena::reap`](crate::Arena::reap) gave back.
///
/// ```
/// # use shm_state::{Arena, ArenaOptions};
/// # let arena = Arena::anonymous(&ArenaOptions::default())?;
/// # let namespace = arena.namespace("default")?;
/// let reaped = arena.reap()?;
/// assert_eq!((reaped.processes, reaped.seats, reaped.locks), (0, 0, 0)); // nobody has died
/// # Ok::<(), shm_state::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Reaped {
    /// Slots of dead processes.
    pub processes: usize,
    /// Places that they had for snapshots and watchers.
    pub seats: usize,
    /// Writer locks that they held, or that were marked so.
    pub locks: usize,
}

/// An arena.
///
/// ```
/// # use shm_state::{Arena, ArenaOptions};
/// # let arena = Arena::anonymous(&ArenaOptions::default())?;
/// # let namespace = arena.namespace("default")?;
/// let status = arena.status()?;
/// assert!(status.table_bytes + status.free_bytes <= status.committed && status.committed <= status.capacity);
/// assert_eq!((status.participants.len(), status.namespaces.len()), (1, 1));
/// # Ok::<(), shm_state::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Status {
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
    /// The lock that is held while a namespace is added.
    pub directory_lock: LockStatus,
    /// Who has it open, and who died while it had.
    pub participants: Vec<Participant>,
    /// What the dead left.
    pub leftovers: Leftovers,
    /// Its namespaces.
    pub namespaces: Vec<NamespaceStatus>,
}

/// What can be told of an arena without a lock.
pub(crate) fn status(mapping: &Arc<Mapping>, member: &Arc<Membership>, history: History) -> Result<Status> {
    let mut owners = Owners::of(member);
    let mut left = Leftovers::default();
    // Snapshots and watchers, by what stands in the seats of a participant.
    let mut used: HashMap<u64, (usize, usize)> = HashMap::new();
    let owned = chunks::owned(mapping)?;
    let mut namespaces = Vec::new();
    for control in directory::controls(mapping) {
        let space = space(mapping, member, control, history)?;
        owners.for_each_seat(&space, |owner, dead, pins, watches| {
            let sum = used.entry(owner).or_default();
            *sum = (sum.0 + usize::from(pins), sum.1 + usize::from(watches));
            left.seats += usize::from(dead);
            left.pins += usize::from(dead && pins);
        });
        let chunks = owned.get(&space.index).copied().unwrap_or(0);
        namespaces.push(namespace(&space, chunks, &mut owners, &mut left));
    }
    let directory_lock = lock(member, &mapping.superblock()?.directory_lock, &mut left);
    let attachment = member.attachment();
    let participant = |user: User| {
        let (pins, watchers) = used.get(&user.seat_word()).copied().unwrap_or_default();
        Participant {
            pid: user.pid,
            name: text(user.name),
            life: attachment.life(user.slot),
            pins,
            watchers,
        }
    };
    let participants: Vec<Participant> = attachment.users().map(participant).collect();
    left.processes = participants.iter().filter(|p| p.life == Life::Dead).count();
    let (free, _) = chunks::census(mapping)?;
    Ok(Status {
        capacity: mapping.capacity(),
        committed: u64::from(mapping.committed()) * GRANULE as u64,
        table_bytes: u64::from(mapping.sections().first_chunk) * CHUNK as u64,
        free_bytes: u64::from(free) * CHUNK as u64,
        backing: backing(mapping),
        directory_lock,
        participants,
        leftovers: left,
        namespaces,
    })
}

/// One of our own, since those in the register are only had by a mutex that somebody may hold who waits.
fn space(mapping: &Arc<Mapping>, member: &Arc<Membership>, control: &Control, history: History) -> Result<Space> {
    let granule = (mapping.offset_of(control) / GRANULE as u64) as u32;
    let name = directory::name_of(control)?;
    Space::new(Arc::clone(mapping), Arc::clone(member), name, granule, history)
}

fn namespace(space: &Space, chunks: u32, owners: &mut Owners<'_>, left: &mut Leftovers) -> NamespaceStatus {
    let control = space.control();
    let lock = lock(&space.attachment, &control.lock, left);
    let seq = space.seq();
    let floor = control.reader.floor.load(Ordering::Relaxed).min(seq);
    let superseded = log::totals(space, seq).1.wrapping_sub(log::totals(space, floor).1);
    let unfinished = record::is_unfinished(space);
    let is_at_it = lock.holder.as_ref().is_some_and(|holder| holder.life != Life::Dead);
    left.commits += usize::from(unfinished && !is_at_it && record::is_unfinished(space));
    NamespaceStatus {
        name: space.name.clone(),
        commits: seq,
        keys: log::live(space, seq),
        lock,
        unfinished,
        history: seq - floor,
        // Of two moments: a writer may be between them.
        history_bytes: superseded.min(u64::from(space.mapping.committed())) * GRANULE as u64,
        bytes: u64::from(chunks) * CHUNK as u64,
        pins: owners.pins(space),
        watchers: owners.watchers(space),
    }
}

/// A lock, and who has it.
fn lock(member: &Membership, lock: &WriterLock, left: &mut Leftovers) -> LockStatus {
    let (owner, abandoned, has_waiters) = member.attachment().look_at(lock);
    let holder = owner.map(|(slot, tid)| holder(member, slot, tid, abandoned));
    // The slot of one that died may be another's by now, who has nothing to do with it.
    let holder = holder.filter(|holder| !abandoned || holder.life == Life::Dead);
    left.locks += usize::from(abandoned || holder.as_ref().is_some_and(|holder| holder.life == Life::Dead));
    LockStatus {
        holder,
        abandoned,
        has_waiters,
        takeovers: lock.takeovers(),
    }
}

fn holder(member: &Membership, slot: u32, tid: u32, died: bool) -> LockHolder {
    let attachment = member.attachment();
    let known = attachment.known(slot);
    LockHolder {
        pid: known.map_or(0, |known| known.pid),
        tid,
        name: known.and_then(|known| text(known.name)),
        life: match died {
            true => attachment.life(slot),
            false => attachment.life_of_thread(slot, tid),
        },
    }
}

fn text(name: Name) -> Option<Arc<str>> {
    name.text().map(Arc::from)
}

fn backing(mapping: &Mapping) -> Backing {
    let Some(fd) = mapping.file() else {
        return Backing::default();
    };
    let (_, size, free) = file::file_system(fd).unwrap_or_default();
    Backing {
        file: file::name(fd),
        size,
        free,
    }
}
