//! Blocks: where a transaction gets them, and what its commit gives back.
//!
//! **Words.** A namespace's heap is a list of chunk runs, tiled without gaps by blocks. Each free or retired block is
//! in exactly one *free list*, by size class: four classes a doubling, the class of a block being the largest that is
//! not larger than it. A list is a FIFO in the order of retirement: blocks are taken from the front once they were
//! retired at or below `recyclable`. The current run ends in unused space, from `bump` to its end.
//!
//! **Nothing is stored by taking.** [`Heap`] is private to a transaction: it walks the lists by reading, and counts
//! `bump` up for itself. What the lists are afterwards is assigned by the commit record ([`Heap::finish`]), so an
//! unfinished commit is undone by forgetting it. Until then a taken block still belongs to its list: its contents may
//! be overwritten, its `link` and `retired` not. Space beyond `bump`, chunks that are claimed but in no run, and
//! everything inside a free block but its head mean nothing yet and may be written at will.
//!
//! **Giving back.** Blocks that the commit supersedes are chained through their `link`, which nobody reads while they
//! are alive, and appended to their list: `tail.link` is stored directly, since nothing counts beyond the tail. A
//! block that was taken and not used goes to the *front*, through the record alone: it may still be in its list.

use crate::arena::Mapping;
use crate::chunks::{self, Run};
use crate::error::{Error, Result};
use crate::fault::{Fault, planted};
use crate::layout::{BlockHead, CHUNK_GRANULES, CLASSES, Control, GRANULE, high, low, pack};
use crate::space::Space;
use crate::sync::{Ordering, Word};

/// Granules of the blocks of a class.
pub const fn class_size(class: usize) -> u32 {
    if class < 7 {
        return class as u32 + 1;
    }
    let (doubling, quarter) = ((class - 7) / 4 + 3, (class - 7) % 4);
    (4 + quarter as u32) << (doubling - 2)
}

/// The class whose list a block of `granules` belongs to. Lengths that no block has, which damage may bring, get one too.
#[inline(always)]
pub const fn class_of(granules: u32) -> usize {
    if granules < 8 {
        return granules.saturating_sub(1) as usize;
    }
    let doubling = granules.ilog2() as usize;
    let quarter = (granules >> (doubling - 2)) & 3;
    let class = 7 + (doubling - 3) * 4 + quarter as usize;
    if class < CLASSES { class } else { CLASSES - 1 }
}

/// One free list as the transaction sees it.
#[derive(Clone, Copy, Debug)]
struct List {
    class: usize,
    /// Something was taken or is to be appended; only then the list costs an assignment.
    changed: bool,
    /// First block that was not taken, 0 if none.
    head: u32,
    /// Last block, 0 if `head` is.
    tail: u32,
    /// The tail is a block that this transaction put there, so it is linked through the record.
    tail_is_new: bool,
    /// First and last of the blocks to append.
    first: u32,
    last: u32,
    last_is_new: bool,
}

/// A taken block that is not used: granule and length.
#[derive(Clone, Copy, Debug)]
struct Spare {
    granule: u32,
    granules: u32,
}

/// A block that cannot be had without reclaiming.
#[derive(Clone, Copy, Debug)]
pub struct NoRoom {
    /// Its length.
    pub granules: u64,
}

/// Assignments of the commit record: (byte offset, value).
pub type Assignments = Vec<(u64, u64)>;

/// What a transaction has taken from the heap, and what it will give back.
#[derive(Default)]
pub struct Heap {
    recyclable: u64,
    bump: u32,
    end: u32,
    run: u32,
    moved: bool,
    reserve: u64,
    reserve_taken: bool,
    lists: Vec<List>,
    spares: Vec<Spare>,
    /// Chunks claimed by this transaction, freed if it aborts.
    claims: Vec<Run>,
    /// Head words of runs that are new or have grown.
    heads: Assignments,
    /// Links and lengths of blocks that must not be stored before the commit is decided.
    links: Assignments,
    /// Granules retired by this transaction.
    pub retired: u64,
}

impl Heap {
    /// Starts a transaction.
    #[inline]
    pub fn begin(&mut self, control: &Control) {
        self.recyclable = control.writer.recyclable.load(Ordering::Relaxed);
        let bump = control.writer.bump.load(Ordering::Relaxed);
        (self.bump, self.end) = (low(bump), high(bump));
        self.run = control.writer.run.load(Ordering::Relaxed) as u32;
        self.reserve = control.writer.reserve.load(Ordering::Relaxed);
        (self.moved, self.reserve_taken, self.retired) = (false, false, 0);
        self.lists.clear();
        self.spares.clear();
        self.claims.clear();
        self.heads.clear();
        self.links.clear();
    }

    /// Takes note that more blocks may be used again.
    pub fn set_recyclable(&mut self, recyclable: u64) {
        self.recyclable = recyclable;
    }

    /// Blocks retired at or below this commit are taken.
    pub fn recyclable(&self) -> u64 {
        self.recyclable
    }

    #[inline(always)]
    fn list(&mut self, control: &Control, class: usize) -> &mut List {
        let found = self.lists.iter().position(|l| l.class == class);
        let at = found.unwrap_or_else(|| {
            let word = control.classes[class].load(Ordering::Relaxed);
            let (head, tail) = (low(word), high(word));
            self.lists.push(List {
                class,
                changed: false,
                head,
                tail,
                tail_is_new: false,
                first: 0,
                last: 0,
                last_is_new: false,
            });
            self.lists.len() - 1
        });
        &mut self.lists[at]
    }

    /// Takes the front of a list if it may be used again and is large enough.
    #[inline(always)]
    fn pop(&mut self, space: &Space, class: usize, granules: u32) -> Result<Option<Spare>> {
        let recyclable = self.recyclable;
        let list = self.list(space.control(), class);
        let at = list.head;
        if at == 0 {
            return Ok(None);
        }
        let block = block(&space.mapping, at)?;
        let link = block.link.load(Ordering::Relaxed);
        if block.retired.load(Ordering::Relaxed) > recyclable || high(link) < granules {
            return Ok(None);
        }
        list.changed = true;
        if at == list.tail {
            (list.head, list.tail) = (0, 0);
        } else if low(link) == 0 {
            return Err(Error::corrupt(format!(
                "free list {class} ends at granule {at} before its tail {}",
                list.tail
            )));
        } else {
            list.head = low(link);
        }
        Ok(Some(Spare {
            granule: at,
            granules: high(link),
        }))
    }

    /// Takes a block of at least `granules`. `Ok(None)` when there is no room without reclaiming.
    #[inline]
    pub fn take(&mut self, space: &Space, granules: u64) -> Result<Option<u32>> {
        let Ok(wanted) = u32::try_from(granules) else {
            return Ok(None);
        };
        // Small blocks are rounded up to a class, so that any of its list fits; large ones are taken exactly.
        let (class, size) = match class_of(wanted) {
            class if class_size(class) == wanted || wanted >= CHUNK_GRANULES => (class, wanted),
            class => (class + 1, class_size(class + 1)),
        };
        if !self.spares.is_empty()
            && let Some(at) = self
                .spares
                .iter()
                .position(|s| s.granules >= size && s.granules - size <= size / 4)
        {
            return Ok(Some(self.spares.swap_remove(at).granule));
        }
        if let Some(found) = self.pop(space, class, size)? {
            return Ok(Some(self.split(space, found, size)?));
        }
        if self.end.saturating_sub(self.bump) >= size {
            return Ok(Some(self.take_unused(space, size)?));
        }
        self.take_larger(space, class, size)
    }

    /// Takes the first `size` granules of the unused space, which has as many.
    #[inline]
    fn take_unused(&mut self, space: &Space, size: u32) -> Result<u32> {
        let granule = self.bump;
        if granule / CHUNK_GRANULES < self.run {
            // Only damage; what lies there is another namespace's, or the chunk map.
            return Err(Error::corrupt(format!(
                "its unused space begins at granule {granule} and its run at chunk {}",
                self.run
            )));
        }
        self.bump += size;
        self.moved = true;
        if planted(Fault::BumpDirectly) {
            let bump = &space.control().writer.bump;
            bump.store(pack(self.bump, self.end), Ordering::Release);
        }
        let block = block(&space.mapping, granule)?;
        // Beyond the shared `bump`: means nothing until the commit.
        block.link.store(pack(0, size), Ordering::Relaxed);
        block.retired.store(0, Ordering::Relaxed);
        Ok(granule)
    }

    /// Splits a larger free block, or extends the heap.
    #[cold]
    fn take_larger(&mut self, space: &Space, class: usize, size: u32) -> Result<Option<u32>> {
        if let Some(at) = self.spares.iter().position(|s| s.granules >= size) {
            let spare = self.spares.swap_remove(at);
            return Ok(Some(self.split(space, spare, size)?));
        }
        for class in class + 1..CLASSES {
            if let Some(found) = self.pop(space, class, size)? {
                return Ok(Some(self.split(space, found, size)?));
            }
        }
        match self.extend(space, size) {
            Ok(()) => self.take(space, u64::from(size)),
            Err(Error::Full { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Keeps `size` granules of a taken block; the rest becomes a spare if it is worth it.
    #[inline]
    fn split(&mut self, space: &Space, found: Spare, size: u32) -> Result<u32> {
        let rest = found.granules - size;
        if rest > 0 && (found.granules >= CHUNK_GRANULES || rest >= size / 4) {
            self.split_off(space, found, size)?;
        }
        Ok(found.granule)
    }

    #[cold]
    fn split_off(&mut self, space: &Space, found: Spare, size: u32) -> Result<()> {
        let rest = Spare {
            granule: found.granule.wrapping_add(size),
            granules: found.granules - size,
        };
        let shortened = block(&space.mapping, found.granule)?;
        if planted(Fault::SplitDirectly) {
            shortened.link.store(pack(0, size), Ordering::Release);
        }
        // The inside of a free block: means nothing until the commit shortens the block.
        let head = block(&space.mapping, rest.granule)?;
        head.link.store(pack(0, rest.granules), Ordering::Relaxed);
        head.retired.store(0, Ordering::Relaxed);
        self.links
            .push((space.mapping.offset_of(&shortened.link), pack(0, size)));
        self.spares.push(rest);
        Ok(())
    }

    /// Extends the current run, or starts another one, by at least `size` granules.
    fn extend(&mut self, space: &Space, size: u32) -> Result<()> {
        if self.bump > self.end {
            // Only damage; and no number of chunks behind the run would ever suffice.
            return Err(Error::corrupt(format!(
                "its unused space begins at granule {} and ends at {}",
                self.bump, self.end
            )));
        }
        let need = size.div_ceil(CHUNK_GRANULES);
        let want = (space.mapping.committed() / CHUNK_GRANULES / 16).clamp(1, 64);
        let behind = self.end / CHUNK_GRANULES;
        let run = chunks::claim(&space.mapping, space.index, need, need.max(want), behind)?;
        self.claims.push(run);
        self.moved = true;
        let claimed_end = (run.first + run.chunks) * CHUNK_GRANULES;
        if run.first == behind {
            self.end = claimed_end;
        } else {
            if self.bump < self.end {
                // The rest of the run that is left becomes a free block.
                let rest = Spare {
                    granule: self.bump,
                    granules: self.end - self.bump,
                };
                let head = block(&space.mapping, rest.granule)?;
                head.link.store(pack(0, rest.granules), Ordering::Relaxed);
                head.retired.store(0, Ordering::Relaxed);
                self.spares.push(rest);
            }
            (self.run, self.bump, self.end) = (run.first, run.first * CHUNK_GRANULES, claimed_end);
        }
        let chunks = (self.end / CHUNK_GRANULES).saturating_sub(self.run);
        let map = space.mapping.chunk_map()?;
        let head = map
            .get(self.run as usize)
            .ok_or_else(|| Error::corrupt(format!("its run starts at chunk {}", self.run)))?;
        let head = space.mapping.offset_of(head);
        self.heads.push((head, chunks::head_word(space.index, chunks)));
        Ok(())
    }

    /// Takes one of the blocks that are kept back for removals.
    #[cold]
    pub fn take_reserve(&mut self, space: &Space) -> Result<Option<u32>> {
        let (granule, left) = (low(self.reserve), high(self.reserve));
        if left == 0 {
            return Ok(None);
        }
        let next = low(block(&space.mapping, granule)?.link.load(Ordering::Relaxed));
        (self.reserve, self.reserve_taken) = (pack(next, left - 1), true);
        Ok(Some(granule))
    }

    /// Puts a block back into the reserve if it is not full. Best effort.
    #[inline]
    pub fn refill_reserve(&mut self, space: &Space) -> Result<()> {
        if high(self.reserve) >= crate::layout::RESERVE || self.reserve_taken {
            return Ok(());
        }
        let found = match self.pop(space, 0, 1)? {
            Some(found) => found.granule,
            None if self.bump < self.end => self.take_unused(space, 1)?,
            None => return Ok(()),
        };
        let link = space.mapping.offset_of(&block(&space.mapping, found)?.link);
        self.links.push((link, pack(low(self.reserve), 1)));
        self.reserve = pack(found, high(self.reserve) + 1);
        self.reserve_taken = true;
        Ok(())
    }

    /// Gives a taken block back unused.
    pub fn put_back(&mut self, space: &Space, granule: u32) -> Result<()> {
        let granules = self.granules_of(space, granule)?;
        self.spares.push(Spare { granule, granules });
        Ok(())
    }

    /// Length of a taken block: what the record will say, or else what its head says.
    pub fn granules_of(&self, space: &Space, granule: u32) -> Result<u32> {
        let link = &block(&space.mapping, granule)?.link;
        let offset = space.mapping.offset_of(link);
        let pending = self.links.iter().rev().find(|(at, _)| *at == offset);
        Ok(high(
            pending.map_or_else(|| link.load(Ordering::Relaxed), |(_, value)| *value),
        ))
    }

    /// Retires a live block that commit `seq` supersedes.
    #[inline]
    pub fn retire(&mut self, space: &Space, granule: u32, seq: u64) -> Result<()> {
        let block = block(&space.mapping, granule)?;
        let granules = high(block.link.load(Ordering::Relaxed));
        if granules == 0 {
            return Err(Error::corrupt(format!("the block at granule {granule} has no length")));
        }
        // The block is alive: its `retired` and the link in its head mean nothing until the commit.
        block.retired.store(seq, Ordering::Relaxed);
        self.append(space, granule, granules, false)
    }

    /// Retires a block that this transaction took: alive for readers of its own commit only.
    pub fn retire_new(&mut self, space: &Space, granule: u32, seq: u64) -> Result<()> {
        let granules = self.granules_of(space, granule)?;
        // It may still be in a free list: everything through the record.
        let retired = &block(&space.mapping, granule)?.retired;
        self.links.push((space.mapping.offset_of(retired), seq));
        self.append(space, granule, granules, true)
    }

    #[inline]
    fn append(&mut self, space: &Space, granule: u32, granules: u32, is_new: bool) -> Result<()> {
        self.retired += u64::from(granules);
        let list = self.list(space.control(), class_of(granules));
        list.changed = true;
        let (last, last_is_new) = (list.last, list.last_is_new);
        if list.first == 0 {
            list.first = granule;
        }
        (list.last, list.last_is_new) = (granule, is_new);
        if last != 0 {
            self.link(space, last, granule, last_is_new)?;
        }
        Ok(())
    }

    /// Makes `next` follow `granule`: directly when the link means nothing yet, else through the record.
    #[inline]
    fn link(&mut self, space: &Space, granule: u32, next: u32, through_record: bool) -> Result<()> {
        let link = &block(&space.mapping, granule)?.link;
        if through_record && !planted(Fault::LinkDirectly) {
            let granules = self.granules_of(space, granule)?;
            self.links.push((space.mapping.offset_of(link), pack(next, granules)));
        } else {
            link.store(pack(next, high(link.load(Ordering::Relaxed))), Ordering::Relaxed);
        }
        Ok(())
    }

    /// At most how many assignments [`Heap::finish`] will add.
    pub fn assignments(&self) -> usize {
        let lists = self.lists.iter().filter(|list| list.changed).count();
        self.links.len() + self.heads.len() + 2 * self.spares.len() + 2 * lists + 3
    }

    /// Adds what the lists, the runs and `bump` become to the record. The last call of a commit.
    #[inline]
    pub fn finish(&mut self, space: &Space, record: &mut Assignments) -> Result<()> {
        let (control, mapping) = (space.control(), &*space.mapping);
        for i in 0..self.spares.len() {
            let Spare { granule, granules } = self.spares[i];
            let link = &block(mapping, granule)?.link;
            let list = self.list(control, class_of(granules));
            list.changed = true;
            let next = std::mem::replace(&mut list.head, granule);
            if planted(Fault::LinkDirectly) {
                link.store(pack(next, granules), Ordering::Release);
            }
            if list.tail == 0 {
                (list.tail, list.tail_is_new) = (granule, true);
            }
            self.links.push((mapping.offset_of(link), pack(next, granules)));
        }
        for i in 0..self.lists.len() {
            let List {
                class,
                changed,
                head,
                tail,
                tail_is_new,
                first,
                last,
                ..
            } = self.lists[i];
            if !changed {
                continue;
            }
            let word = match (head, first) {
                (_, 0) => pack(head, tail),
                (0, _) => pack(first, last),
                _ => {
                    self.link(space, tail, first, tail_is_new)?;
                    pack(head, last)
                }
            };
            record.push((mapping.offset_of(&control.classes[class]), word));
        }
        record.append(&mut self.links);
        record.append(&mut self.heads);
        if self.reserve_taken {
            record.push((mapping.offset_of(&control.writer.reserve), self.reserve));
        }
        if self.moved {
            record.push((mapping.offset_of(&control.writer.run), u64::from(self.run)));
            record.push((mapping.offset_of(&control.writer.bump), pack(self.bump, self.end)));
        }
        Ok(())
    }

    /// Frees the chunks that an aborted transaction claimed.
    pub fn abort(&mut self, space: &Space) {
        if let Ok(map) = space.mapping.chunk_map() {
            for run in self.claims.drain(..) {
                chunks::release(map, space.index, run);
            }
        }
    }

    /// The first block of list `class` that this transaction did not take, 0 if none. Does not touch the list: each
    /// touched list costs an assignment.
    pub fn rest_of_list(&self, control: &Control, class: usize) -> u32 {
        let touched = self.lists.iter().find(|list| list.class == class);
        touched.map_or_else(|| low(control.classes[class].load(Ordering::Relaxed)), |list| list.head)
    }

    /// Forgets what it read of the lists: they were rebuilt, with the taken blocks still at their front.
    pub fn reset_list(&mut self, class: usize, head: u32, tail: u32) {
        if let Some(list) = self.lists.iter_mut().find(|l| l.class == class) {
            (list.head, list.tail) = (head, tail);
        }
    }

    /// Bytes that are free in this transaction's view, for the message of an error.
    pub fn slack(&self) -> u64 {
        u64::from(self.end.saturating_sub(self.bump)) * GRANULE as u64
    }
}

/// The head of a block, or an error that names the offset.
#[inline(always)]
pub fn block(mapping: &Mapping, granule: u32) -> Result<&BlockHead> {
    match mapping.at(granule) {
        Some(block) => Ok(block),
        None => Err(out_of_bounds(granule)),
    }
}

#[cold]
fn out_of_bounds(granule: u32) -> Error {
    Error::corrupt(format!("a block at granule {granule} lies outside of the arena"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_are_ordered_and_cover_every_length() {
        for class in 0..CLASSES - 1 {
            assert_eq!(class_of(class_size(class)), class);
            assert_eq!(class_of(class_size(class + 1) - 1), class);
            assert!(class_size(class) < class_size(class + 1));
        }
        assert!(class_of(1 << 31) < CLASSES);
        for granules in 1..100_000u32 {
            let class = class_of(granules);
            assert!(class_size(class) <= granules && granules < class_size(class + 1));
        }
    }
}
