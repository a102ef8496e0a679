//! Getting memory back: the history, pins of dead processes, fragments.
//!
//! All of it runs under the writer lock, and each step leaves a valid namespace behind if its process dies.
//!
//! **History.** The floor rises in batches: when the log ring is full it is raised to `count` commits ago, when more
//! than `bytes` were superseded to half of that, and when space runs out to the newest commit.
//!
//! **Dead pins** are dropped when space runs out, after proof that their process is dead. A live one's never is.
//!
//! **Fragments.** [`rebuild_free_lists`] derives the free lists anew from two facts that hold at every instant (see
//! `walk`): the tiles, and what is alive. On the way it merges free neighbours; a merge is one store of one length.
//! The flag `rebuilding` says that the lists cannot be trusted; whoever takes the lock and finds it set starts over.
//! Blocks that the running transaction has taken keep their place at the front of their lists, so that they are free
//! again if it dies.

use std::cmp::Reverse;
use std::collections::HashMap;

use crate::error::{Error, Result};
use crate::fault::{Fault, planted};
use crate::heap::{Heap, NoRoom, block, class_of};
use crate::layout::{CLASSES, GRANULE, high, low, pack};
use crate::log;
use crate::news::Event;
use crate::owners::Owners;
use crate::pin;
use crate::space::Space;
use crate::sync::{Ordering, Word, Word64};
use crate::walk::{self, Marks, Tile};

/// Lag of the recyclable commit, in log rings, from which dead pins are looked for without a shortage.
const REAP_RINGS: u64 = 64;

/// How long the history may become before the floor has to be raised; known to one writer, who looks at a cold log slot for
/// it when the floor has moved.
#[derive(Clone, Copy, Default)]
pub struct Limits {
    /// The floor that they hold for.
    floor: u64,
    /// The first commit that is one too many.
    seq: u64,
    /// Granules that had been retired by then, a number that may wrap; and how many more may have been.
    retired: u64,
    most: u64,
}

impl Limits {
    #[inline(always)]
    fn are_passed(&self, seq: u64, retired: u64) -> bool {
        if seq >= self.seq {
            return true;
        }
        retired.wrapping_sub(self.retired) > self.most
    }
}

/// Raises the floor if the history is longer than it should be, with `retired` granules up to commit `seq`.
#[inline]
pub fn trim_history(space: &Space, seq: u64, retired: u64, limits: &mut Limits) {
    let floor = space.control().reader.floor.load(Ordering::Relaxed);
    if floor == limits.floor && !limits.are_passed(seq, retired) {
        return;
    }
    trim_if_too_long(space, seq, floor, retired, limits);
}

#[cold]
fn trim_if_too_long(space: &Space, seq: u64, floor: u64, retired: u64, limits: &mut Limits) {
    *limits = Limits {
        floor,
        // The slot of `seq + 1` is that of `seq + 1 − ring`; the one of the floor is kept for its totals.
        seq: floor.saturating_add(space.log_len() - 1),
        retired: log::totals(space, floor).1,
        most: space.history.bytes / GRANULE as u64,
    };
    if limits.are_passed(seq, retired) {
        trim(space, seq, floor, retired);
    }
}

fn trim(space: &Space, seq: u64, floor: u64, retired: u64) {
    let mut to = floor.max(seq.saturating_sub(u64::from(space.history.count)));
    let keep = space.history.bytes / 2;
    while to < seq
        && retired
            .wrapping_sub(log::totals(space, to).1)
            .wrapping_mul(GRANULE as u64)
            > keep
    {
        to += 1;
    }
    let recyclable = raise(space, to);
    if to.saturating_sub(recyclable) > REAP_RINGS * space.log_len() && reap(space) > 0 {
        raise(space, to);
    }
}

fn raise(space: &Space, to: u64) -> u64 {
    let control = space.control();
    let pins = space
        .seats()
        .map(|seat| &seat.pin)
        .filter(|_| !planted(Fault::IgnorePins));
    let recyclable = if planted(Fault::FloorAfterRecycle) {
        pin::oldest(to, pins)
    } else {
        pin::raise(&control.reader.floor, to, pins)
    };
    // Never back: a pin below what was recyclable is below an earlier floor, so whoever wrote it has not looked at the
    // floor yet, and will give that commit up (or died before it could look). The other bound is for damage.
    let recyclable = recyclable
        .max(control.writer.recyclable.load(Ordering::Relaxed))
        .min(to);
    control.writer.recyclable.store(recyclable, Ordering::Relaxed);
    recyclable
}

/// Lets be used again what is pinned no more, without giving up history. Only under the writer lock.
pub fn raise_again(space: &Space) {
    raise(space, space.control().reader.floor.load(Ordering::Relaxed));
}

/// Gives up all history that nobody living pins. Returns the new recyclable commit.
pub fn drop_history(space: &Space, seq: u64) -> Result<u64> {
    reap(space);
    let from = space.control().reader.floor.load(Ordering::Relaxed);
    let recyclable = raise(space, seq);
    if from < seq {
        let namespace = space.name.clone();
        space.mapping.news().note(Event::Trimmed {
            namespace,
            from,
            to: seq,
        });
    }
    Ok(recyclable)
}

/// Clears the seats of dead processes. Only under the writer lock.
pub fn reap(space: &Space) -> usize {
    let (mut reaped, mut pins) = (0, 0);
    let mine = space.attachment.owner_word();
    // Each owner is asked for once, with several system calls, and may have a thousand seats. The dead stay dead.
    let mut asked = HashMap::from([(0, false), (mine, false)]);
    for seat in space.seats() {
        let owner = seat.owner.load(Ordering::Acquire);
        let is_dead = *asked
            .entry(owner)
            .or_insert_with(|| space.attachment.is_dead_owner(owner));
        // The seat is taken over first: its owner may have left properly since, and another process have come.
        // AcqRel: what the owner stored comes before, what we store after.
        if is_dead
            && seat
                .owner
                .compare_exchange(owner, mine, Ordering::AcqRel, Ordering::Relaxed)
                .is_ok()
        {
            pins += usize::from(seat.pin.load(Ordering::Relaxed) != pin::NONE);
            seat.pin.store(pin::NONE, Ordering::Relaxed);
            seat.cursor.store(0, Ordering::Relaxed);
            // Release: the cleared words come before the seat is free.
            seat.owner.store(0, Ordering::Release);
            reaped += 1;
        }
    }
    if reaped > 0 {
        space.mapping.news().note(Event::Reaped {
            namespace: space.name.clone(),
            seats: reaped,
            pins,
        });
    }
    reaped
}

/// The error of a namespace that has no room.
#[cold]
pub fn full(space: &Space, wanted: NoRoom, slack: u64) -> Error {
    let free = walk::tiles(space).and_then(|tiles| {
        let live = walk::mark_live(space)?;
        // What snapshots hold is not free: the error names them instead.
        let recyclable = space.control().writer.recyclable.load(Ordering::Relaxed);
        let free = tiles
            .iter()
            .filter(|t| !live.has(t.granule) && t.retired <= recyclable)
            .map(|t| u64::from(t.granules))
            .sum::<u64>();
        Ok(free * GRANULE as u64)
    });
    Error::Full {
        requested: wanted.granules * GRANULE as u64,
        free: free.unwrap_or(0) + slack,
        committed: u64::from(space.mapping.committed()) * GRANULE as u64,
        capacity: space.mapping.capacity(),
        pins: Owners::of(&space.attachment).pins(space),
    }
}

/// Makes the free lists anew and merges free neighbours. `heap` is the transaction under way, if there is one.
pub fn rebuild_free_lists(space: &Space, heap: Option<&mut Heap>) -> Result<()> {
    let control = space.control();
    let mut taken: Vec<Vec<u32>> = vec![Vec::new(); CLASSES];
    let mut kept = Marks::none(space);
    let mut heap = heap;
    if let Some(heap) = heap.as_deref_mut() {
        let limit = space.mapping.committed() as usize;
        for (class, taken) in taken.iter_mut().enumerate() {
            let word = control.classes[class].load(Ordering::Relaxed);
            let rest = heap.rest_of_list(control, class);
            *taken = walk::chain(space, low(word), high(word), limit)?;
            taken.truncate(taken.iter().position(|b| *b == rest).unwrap_or(taken.len()));
            for granule in &*taken {
                kept.add(*granule)?;
            }
        }
    }
    let live = walk::mark_live(space)?;
    for granule in walk::reserve(space)? {
        kept.add(granule)?;
    }
    let tiles = walk::tiles(space)?;
    // Release, and the fence: the lists are declared untrustworthy before the first of them changes.
    if !planted(Fault::NoRebuildFlag) {
        control.writer.rebuilding.store(1, Ordering::Release);
    }
    Word64::fence(Ordering::SeqCst);
    let recyclable = control.writer.recyclable.load(Ordering::Relaxed);
    let is_free = |tile: &Tile| !live.has(tile.granule) && !kept.has(tile.granule);
    let free = merge(space, tiles, recyclable, is_free)?;
    let mut lists: Vec<Vec<Tile>> = vec![Vec::new(); CLASSES];
    for tile in free {
        lists[class_of(tile.granules)].push(tile);
    }
    for (class, (list, taken)) in lists.iter_mut().zip(&taken).enumerate() {
        // Of those that may be used, the largest first: only the front of a list is looked at.
        list.sort_by_key(|tile| (tile.retired.max(recyclable), Reverse(tile.granules)));
        relink(space, class, taken, list)?;
        if let Some(heap) = heap.as_deref_mut() {
            let (head, tail) = (
                list.first().map_or(0, |t| t.granule),
                list.last().map_or(0, |t| t.granule),
            );
            heap.reset_list(class, head, tail);
        }
    }
    // Release: the lists are complete before they are trusted again.
    control.writer.rebuilding.store(0, Ordering::Release);
    Ok(())
}

/// Merges free neighbours that may be used again.
fn merge(space: &Space, tiles: Vec<Tile>, recyclable: u64, is_free: impl Fn(&Tile) -> bool) -> Result<Vec<Tile>> {
    let mut free: Vec<Tile> = Vec::new();
    for tile in tiles.into_iter().filter(is_free) {
        match free.last_mut() {
            Some(last)
                if last.run == tile.run
                    && last.granule + last.granules == tile.granule
                    && last.retired <= recyclable
                    && tile.retired <= recyclable =>
            {
                last.granules += tile.granules;
                last.retired = last.retired.max(tile.retired);
            }
            _ => free.push(tile),
        }
    }
    for tile in &free {
        let head = block(&space.mapping, tile.granule)?;
        if high(head.link.load(Ordering::Relaxed)) != tile.granules {
            head.retired.store(tile.retired, Ordering::Relaxed);
            // Release: one store makes one tile of several; a walker sees the tiles before or after.
            head.link.store(pack(0, tile.granules), Ordering::Release);
        }
    }
    Ok(free)
}

/// Links the blocks of a list: those that the transaction has taken, then the free ones.
fn relink(space: &Space, class: usize, taken: &[u32], free: &[Tile]) -> Result<()> {
    let blocks: Vec<u32> = taken.iter().copied().chain(free.iter().map(|t| t.granule)).collect();
    for (i, granule) in blocks.iter().enumerate() {
        let link = &block(&space.mapping, *granule)?.link;
        let next = blocks.get(i + 1).copied().unwrap_or(0);
        link.store(pack(next, high(link.load(Ordering::Relaxed))), Ordering::Relaxed);
    }
    let word = pack(
        blocks.first().copied().unwrap_or(0),
        blocks.last().copied().unwrap_or(0),
    );
    space.control().classes[class].store(word, Ordering::Relaxed);
    Ok(())
}
