//! Who has the seats of a namespace: the pids and names behind the words that stand in them.

use std::collections::HashMap;
use std::sync::Arc;

use crate::error::PinInfo;
use crate::layout::{Seat, high, low};
use crate::pin;
use crate::space::{Membership, Space};
use crate::sync::{Ordering, Word};

/// A watcher, as others see it.
///
/// ```
/// # use shm_state::{Arena, ArenaOptions, Deadline, KeyRef};
/// # let arena = Arena::anonymous(&ArenaOptions::default())?;
/// # let namespace = arena.namespace("default")?;
/// namespace.put(&KeyRef::new(1, b"door"), None, 1, b"open", Deadline::never())?;
/// namespace.publish_cursor(0);
/// let watcher = &arena.status()?.namespaces[0].watchers[0];
/// assert_eq!((watcher.pid, watcher.dead), (std::process::id(), false));
/// assert_eq!((watcher.cursor, watcher.lag), (0, 1));
/// # Ok::<(), shm_state::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct WatcherInfo {
    /// The process that watches.
    pub pid: u32,
    /// What it is called.
    pub name: Option<Arc<str>>,
    /// It is certainly dead.
    pub dead: bool,
    /// The last commit that it consumed.
    pub cursor: u64,
    /// How many commits have been made since.
    pub lag: u64,
}

/// Whom a seat belongs to.
#[derive(Clone)]
struct Owner {
    /// 0 if it died and its slot is another's.
    pid: u32,
    name: Option<Arc<str>>,
    dead: bool,
}

fn owner_of(member: &Membership, word: u64) -> Owner {
    let attachment = member.attachment();
    let Some(slot) = low(word).checked_sub(1) else {
        return Owner {
            pid: 0,
            name: None,
            dead: false,
        };
    };
    let pid = attachment.pid_of_user(slot, high(word));
    // The name after the pid: if another one has come meanwhile, it has another pid.
    let known = attachment.known(slot).filter(|known| known.pid == pid);
    Owner {
        pid,
        name: known.and_then(|known| known.name.text()).map(Arc::from),
        dead: attachment.is_dead(slot, high(word)),
    }
}

/// The owners of seats, each asked for once, which takes several system calls.
pub struct Owners<'a> {
    member: &'a Membership,
    asked: HashMap<u64, Owner>,
}

impl<'a> Owners<'a> {
    pub fn of(member: &'a Membership) -> Self {
        Self {
            member,
            asked: HashMap::new(),
        }
    }

    fn ask(&mut self, owner: u64) -> &Owner {
        self.asked.entry(owner).or_insert_with(|| owner_of(self.member, owner))
    }

    /// The snapshots that are held in a namespace, oldest first.
    pub fn pins(&mut self, space: &Space) -> Vec<PinInfo> {
        let seq = space.seq();
        let pin = |seat: &Seat| {
            let owner = seat.owner.load(Ordering::Acquire);
            let pinned = seat.pin.load(Ordering::Relaxed).checked_sub(1)?;
            let Owner { pid, name, dead, .. } = self.ask(owner).clone();
            Some(PinInfo {
                pid,
                name,
                dead,
                seq: pinned,
                lag: seq.saturating_sub(pinned),
            })
        };
        let mut pins: Vec<PinInfo> = space.seats().filter_map(pin).collect();
        pins.sort_by_key(|pin| pin.seq);
        pins
    }

    /// The watchers of a namespace, the slowest first.
    pub fn watchers(&mut self, space: &Space) -> Vec<WatcherInfo> {
        let seq = space.seq();
        let watcher = |seat: &Seat| {
            let cursor = seat.cursor.load(Ordering::Relaxed).checked_sub(1)?;
            let Owner { pid, name, dead, .. } = self.ask(seat.owner.load(Ordering::Acquire)).clone();
            Some(WatcherInfo {
                pid,
                name,
                dead,
                cursor,
                lag: seq.saturating_sub(cursor),
            })
        };
        let mut watchers: Vec<WatcherInfo> = space.seats().filter_map(watcher).collect();
        watchers.sort_by_key(|watcher| watcher.cursor);
        watchers
    }

    /// Calls `f` for each seat that is taken, with the word of its owner, whether that one is dead, whether a snapshot is
    /// held there, and whether a watcher sits there.
    pub fn for_each_seat(&mut self, space: &Space, mut f: impl FnMut(u64, bool, bool, bool)) {
        for seat in space.seats() {
            let owner = seat.owner.load(Ordering::Acquire);
            if owner != 0 {
                let pins = seat.pin.load(Ordering::Relaxed) != pin::NONE;
                let watches = seat.cursor.load(Ordering::Relaxed) != 0;
                f(owner, self.ask(owner).dead, pins, watches);
            }
        }
    }
}
