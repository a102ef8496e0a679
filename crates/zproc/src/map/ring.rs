//! The slots by which items go to workers and results come back.
//!
//! One memory for all workers of a context. A slot holds a chunk: so many items, encoded one behind the other, and room for
//! a table and the bytes of their results. Who may touch it says its state, one word:
//!
//! ```text
//! FREE ── parent ──▶ READY ── a worker, by compare-and-swap ──▶ CLAIMED by worker N ── it ──▶ DONE ── parent ──▶ FREE
//!                      ▲                                             │ N is dead
//!                      └──────────────────── parent ◀────────────────┘
//! ```
//!
//! **A worker** takes the ready slot with the lowest order. Before it runs an item it notes that it has `started` it, and
//! behind it writes the result, its place in the table, and then that it is `finished`. One that is to end takes no other
//! slot, not even one that was made ready before it was told: a task that asks for fewer workers is run by no more. The
//! parent tells it before it makes a slot of that task ready; so it looks once more behind the compare-and-swap, and gives the
//! slot back. Whatever woke it is passed on to another.
//!
//! **A worker that dies** leaves a slot that is claimed by it. The parent, once it knows that the process is gone, finds
//! in the slot how far it came: what is finished counts, the item that was started is marked as lost (it is not run
//! again: it may have had its effect, or be what killed the worker), and the rest is ready again. There is no counter of
//! tickets that could be lost with a worker.
//!
//! **Large things**, which do not fit into a slot, lie in a file beside the memory, at offsets that are never used twice.
//! What has been read is punched out of it, and so is what nobody will read: results of a slot that is withdrawn, and one that
//! a worker was writing when it died. It notes where that is before it writes.
//!
//! **Ordering.** What is in a slot is written before the state that hands it over (Release), and read after that was seen
//! (Acquire). Workers sleep on `posted`, which they read before they look for a slot; the parent posts and then wakes.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU32, Ordering, compiler_fence};
use std::time::Duration;

use nix::fcntl::{FallocateFlags, fallocate};
use zproc_spawn::shared::{self, Shared};

/// Chunks that can be on their way at once: enough for all workers, and for results that wait behind a slow item. What is not
/// used takes no memory.
pub(super) const SLOTS: usize = 768;
/// Bytes of items, and of results with their table, in a slot.
pub(super) const INPUT: usize = 64 << 10;
const OUTPUT: usize = 256 << 10;
/// Items in a chunk, at most: each has room in the table, and for the place of a large result.
pub(super) const MOST_ITEMS: u32 = 8192;
const _: () = assert!(MOST_ITEMS as usize * (4 + LARGE) <= OUTPUT);
/// Workers at once.
pub(super) const MOST_WORKERS: usize = 256;
/// Places for them: there are more, for those that are at their last chunk.
pub(super) const PLACES: usize = 2 * MOST_WORKERS;

// The header.
const POSTED: usize = 0;
const LARGE_END: usize = 8;
/// How many slots were ever used: who looks for a chunk looks at no others.
const USED: usize = 16;
const RETIRED: usize = 64; // one word for each worker's place
// State and order of each slot, side by side for who looks for a chunk.
const STATES: usize = 4096;
const STATE: usize = 16;
const ORDER: usize = 8;
const HEADER: usize = 16384;
const _: () = assert!(RETIRED + 4 * PLACES <= STATES && STATES + STATE * SLOTS <= HEADER);

// A slot.
const COUNT: usize = 4;
const FIRST: usize = 8;
const STARTED: usize = 12;
const FINISHED: usize = 16;
const INPUT_LENGTH: usize = 20;
const TASK: usize = 24;
const TOOK: usize = 40;
const INPUT_AT: usize = 48;
const ORDERS_AT: usize = 56;
const ORDERS_LENGTH: usize = 64;
// Where the worker puts a large result, noted before it does: offset, length, and for which item, plus one.
const LARGE_AT: usize = 72;
const LARGE_LENGTH: usize = 80;
const LARGE_OF: usize = 88;
const SLOT_HEADER: usize = 128;
const SLOT: usize = SLOT_HEADER + INPUT + OUTPUT;
pub(super) const LENGTH: usize = HEADER + SLOTS * SLOT;

pub(super) const FREE: u32 = 0;
const READY: u32 = 1;
pub(super) const DONE: u32 = 2;
const CLAIMED: u32 = 3;

/// What became of an item: the low bits of its entry in the table, below the length of its bytes.
const STATUS_BITS: u32 = 2;
/// Bytes of a result, at most: an entry has room for so large a number.
pub(super) const MOST_RESULT: usize = (u32::MAX >> STATUS_BITS) as usize;
/// Its value.
pub(super) const VALUE: u32 = 0;
/// An error or a panic.
pub(super) const FAILED: u32 = 1;
/// It was lost with its worker: exit code and pid.
pub(super) const LOST: u32 = 2;
/// The place of its bytes in the large file, and its status.
const ELSEWHERE: u32 = 3;
/// Bytes of such a place: offset, and length with status.
const LARGE: usize = 16;

/// The memory and the file of a pool of workers.
pub(super) struct Ring {
    pub(super) memory: Shared,
    pub(super) large: File,
}

/// Where the orders of a task lie: what to run with which arguments.
#[derive(Clone, Copy, Debug)]
pub(super) struct Orders {
    pub(super) task: u32,
    pub(super) at: u64,
    pub(super) length: u64,
}

/// What a worker left that is gone.
pub(super) struct Left {
    /// The task that it was at.
    pub(super) task: u32,
    /// Whether it had finished, or begun, an item of it.
    pub(super) achieved: bool,
}

/// The results of a chunk.
pub(super) struct Results {
    table: Vec<u32>,
    bytes: Vec<u8>,
    next: usize,
    at: usize,
}

impl Results {
    /// Status and bytes of the next item.
    #[inline]
    pub(super) fn next(&mut self) -> Option<(u32, &[u8])> {
        let entry = *self.table.get(self.next)?;
        let length = (entry >> STATUS_BITS) as usize;
        let bytes = self.bytes.get(self.at..self.at + length)?;
        self.next += 1;
        self.at += length;
        Some((entry & ((1 << STATUS_BITS) - 1), bytes))
    }
}

impl Ring {
    fn slot(&self, slot: usize, field: usize) -> &AtomicU32 {
        self.memory.word(HEADER + slot * SLOT + field)
    }

    fn state(&self, slot: usize) -> &AtomicU32 {
        self.memory.word(STATES + slot * STATE)
    }

    /// Chunks are taken in this order.
    fn order(&self, slot: usize) -> &std::sync::atomic::AtomicU64 {
        self.memory.long(STATES + slot * STATE + ORDER)
    }

    fn long(&self, slot: usize, field: usize) -> &std::sync::atomic::AtomicU64 {
        self.memory.long(HEADER + slot * SLOT + field)
    }

    fn input(slot: usize) -> usize {
        HEADER + slot * SLOT + SLOT_HEADER
    }

    fn table(slot: usize) -> usize {
        Self::input(slot) + INPUT
    }

    /// Where the bytes of results lie.
    fn output(slot: usize, count: u32) -> usize {
        Self::table(slot) + 4 * count as usize
    }

    fn get(&self, slot: usize, field: usize) -> u32 {
        self.slot(slot, field).load(Ordering::Relaxed)
    }

    fn set(&self, slot: usize, field: usize, value: u32) {
        self.slot(slot, field).store(value, Ordering::Relaxed);
    }

    // What both do.

    /// Puts bytes into the large file; returns where.
    pub(super) fn put_large(&self, bytes: &[u8]) -> io::Result<u64> {
        let at = self.reserve_large(bytes.len());
        self.large.write_all_at(bytes, at)?;
        Ok(at)
    }

    /// A place in the large file for so many bytes.
    fn reserve_large(&self, length: usize) -> u64 {
        // Whole pages, so that they can be punched out. Relaxed: only the sum counts.
        let length = (length as u64).next_multiple_of(4096);
        self.memory.long(LARGE_END).fetch_add(length, Ordering::Relaxed)
    }

    /// Bytes of the large file. What a broken process tells of is not there.
    pub(super) fn get_large(&self, at: u64, length: u64) -> io::Result<Vec<u8>> {
        if at.saturating_add(length) > self.large.metadata()?.len() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut bytes = vec![0; length as usize];
        self.large.read_exact_at(&mut bytes, at)?;
        Ok(bytes)
    }

    /// Gives back the memory of bytes in the large file.
    pub(super) fn punch_large(&self, at: u64, length: u64) {
        let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        let (at, length) = (at.cast_signed(), length.next_multiple_of(4096).max(1).cast_signed());
        // If it fails, the memory is given back with the file.
        let _ = fallocate(&self.large, flags, at, length);
    }

    // The parent.

    /// Hands a chunk to the workers, in a slot that is free.
    pub(super) fn post(&self, slot: usize, orders: Orders, order: u64, count: u32, input: &[u8]) -> io::Result<()> {
        if input.len() <= INPUT {
            self.memory.write(Self::input(slot), input);
        } else {
            self.long(slot, INPUT_AT)
                .store(self.put_large(input)?, Ordering::Relaxed);
        }
        for (field, value) in [
            (COUNT, count),
            (FIRST, 0),
            (STARTED, 0),
            (FINISHED, 0),
            (LARGE_OF, 0),
            (INPUT_LENGTH, u32::try_from(input.len()).map_err(io::Error::other)?),
            (TASK, orders.task),
        ] {
            self.set(slot, field, value);
        }
        self.order(slot).store(order, Ordering::Relaxed);
        self.memory.word(USED).fetch_max(slot as u32 + 1, Ordering::Relaxed);
        self.long(slot, ORDERS_AT).store(orders.at, Ordering::Relaxed);
        self.long(slot, ORDERS_LENGTH).store(orders.length, Ordering::Relaxed);
        self.make_ready(slot);
        Ok(())
    }

    fn make_ready(&self, slot: usize) {
        // Release: with all that is in the slot.
        self.state(slot).store(READY, Ordering::Release);
        self.wake(1);
    }

    /// Wakes workers that sleep.
    fn wake(&self, count: u32) {
        let posted = self.memory.word(POSTED);
        // Release: whoever sees it sees the slot.
        posted.fetch_add(1, Ordering::Release);
        shared::wake(posted, count);
    }

    pub(super) fn is_done(&self, slot: usize) -> bool {
        // Acquire: with the results.
        self.state(slot).load(Ordering::Acquire) == DONE
    }

    /// How many items the slot has, and in how many nanoseconds they were run.
    pub(super) fn effort(&self, slot: usize) -> (u32, u64) {
        (self.get(slot, COUNT), self.long(slot, TOOK).load(Ordering::Relaxed))
    }

    /// Takes the results of a slot that is done, and frees it, also if they cannot be read.
    pub(super) fn collect(&self, slot: usize) -> io::Result<Results> {
        let results = self.results(slot, self.get(slot, COUNT));
        self.free_input(slot);
        self.state(slot).store(FREE, Ordering::Relaxed);
        if results
            .table
            .iter()
            .any(|entry| entry & ((1 << STATUS_BITS) - 1) == ELSEWHERE)
        {
            let fetched = self.fetch_large(results);
            // Whatever of it could be read: the task ends by this.
            return fetched.inspect_err(|_| self.free_large_results(slot));
        }
        Ok(results)
    }

    /// The results of the first items of a slot, as they lie there.
    fn results(&self, slot: usize, items: u32) -> Results {
        let count = self.get(slot, COUNT).min(MOST_ITEMS);
        let table: Vec<u32> = (0..count.min(items))
            .map(|item| self.entry(slot, item).load(Ordering::Relaxed))
            .collect();
        let length: usize = table.iter().map(|entry| (entry >> STATUS_BITS) as usize).sum();
        let mut bytes = Vec::new();
        let room = OUTPUT - 4 * count as usize;
        self.memory
            .read(Self::output(slot, count), length.min(room), &mut bytes);
        Results {
            table,
            bytes,
            next: 0,
            at: 0,
        }
    }

    /// Gives back what the results of a slot that nobody wants have in the large file.
    fn free_large_results(&self, slot: usize) {
        let mut results = self.results(slot, self.get(slot, FINISHED));
        while let Some((status, bytes)) = results.next() {
            if status == ELSEWHERE
                && let Some((at, _, length)) = place_of(bytes)
            {
                self.punch_large(at, length);
            }
        }
    }

    fn free_input(&self, slot: usize) {
        let length = self.get(slot, INPUT_LENGTH);
        if length as usize > INPUT {
            self.punch_large(self.long(slot, INPUT_AT).load(Ordering::Relaxed), length.into());
        }
    }

    fn fetch_large(&self, mut results: Results) -> io::Result<Results> {
        let (mut table, mut all) = (Vec::new(), Vec::new());
        while let Some((status, bytes)) = results.next() {
            let (status, bytes) = match (status, place_of(bytes)) {
                (ELSEWHERE, Some((at, status, length))) => {
                    if length > MOST_RESULT as u64 {
                        return Err(io::Error::other(format!(
                            "a worker tells of a result of {length} bytes"
                        )));
                    }
                    let bytes = self.get_large(at, length)?;
                    self.punch_large(at, length);
                    (status, std::borrow::Cow::Owned(bytes))
                }
                _ => (status, bytes.into()),
            };
            table.push(entry(status, bytes.len()));
            all.extend_from_slice(&bytes);
        }
        Ok(Results {
            table,
            bytes: all,
            next: 0,
            at: 0,
        })
    }

    /// Deals with the slots of a worker that is gone, and tells of them: see the header.
    pub(super) fn bury(&self, worker: u32, last_words: &[u8; LARGE]) -> Vec<Left> {
        let mut left = Vec::new();
        for slot in 0..SLOTS {
            // Acquire: with what it wrote before it took the slot; what it wrote since is there, because it is gone.
            if self.state(slot).load(Ordering::Acquire) != CLAIMED | worker << 2 {
                continue;
            }
            let (count, started) = (self.get(slot, COUNT).min(MOST_ITEMS), self.get(slot, STARTED));
            let mut first = self.slot(slot, FINISHED).load(Ordering::Acquire).min(count);
            if self.get(slot, LARGE_OF) > first {
                let at = self.long(slot, LARGE_AT).load(Ordering::Relaxed);
                let length = self.long(slot, LARGE_LENGTH).load(Ordering::Relaxed);
                self.punch_large(at, length.min(MOST_RESULT as u64));
                self.set(slot, LARGE_OF, 0);
            }
            if started > first && first < count {
                let at = self.output_end(slot, first, count);
                self.memory.write(at, last_words);
                self.entry(slot, first).store(entry(LOST, LARGE), Ordering::Relaxed);
                first += 1;
            }
            left.push(Left {
                task: self.get(slot, TASK),
                achieved: first > self.get(slot, FIRST),
            });
            self.set(slot, FIRST, first);
            self.set(slot, STARTED, first);
            self.set(slot, FINISHED, first);
            if first < count {
                self.make_ready(slot);
            } else {
                self.state(slot).store(DONE, Ordering::Relaxed);
            }
        }
        left
    }

    /// Frees a slot whose results nobody wants, unless a worker is at it.
    pub(super) fn withdraw(&self, slot: usize) -> bool {
        let state = self.state(slot);
        for from in [READY, DONE] {
            // Acquire: what the worker did in it comes before it is used again.
            if state
                .compare_exchange(from, FREE, Ordering::Acquire, Ordering::Relaxed)
                .is_ok()
            {
                self.free_input(slot);
                // Also of one that is ready: a worker that died has left what it had finished.
                self.free_large_results(slot);
                return true;
            }
        }
        false
    }

    /// Asks a worker to end when it has nothing to do.
    pub(super) fn retire(&self, place: usize, retired: bool) {
        self.memory
            .word(RETIRED + 4 * place)
            .store(retired.into(), Ordering::Relaxed);
        self.wake(u32::MAX);
    }

    // A worker.

    /// Takes the next chunk; sleeps until there is one. `None` once the worker is to end.
    pub(super) fn claim(&self, worker: u32, place: usize) -> Option<usize> {
        // Relaxed: what is posted behind it says so, see below.
        let is_retired = || self.memory.word(RETIRED + 4 * place).load(Ordering::Relaxed) != 0;
        loop {
            // Acquire: before the look for slots; what is posted behind it moves the word.
            let seen = self.memory.word(POSTED).load(Ordering::Acquire);
            if is_retired() {
                // What woke this worker may have been meant for another.
                self.wake(1);
                return None;
            }
            let order = |slot: &usize| self.order(*slot).load(Ordering::Relaxed);
            let used = (self.memory.word(USED).load(Ordering::Relaxed) as usize).min(SLOTS);
            let ready = (0..used).filter(|slot| self.state(*slot).load(Ordering::Relaxed) == READY);
            if let Some(slot) = ready.min_by_key(order) {
                let state = self.state(slot);
                // Acquire: with all that is in the slot, and with what the parent had told before it made the slot ready.
                let claimed = CLAIMED | worker << 2;
                if state
                    .compare_exchange(READY, claimed, Ordering::Acquire, Ordering::Relaxed)
                    .is_ok()
                {
                    if is_retired() {
                        self.make_ready(slot);
                        return None;
                    }
                    return Some(slot);
                }
                continue;
            }
            shared::sleep(self.memory.word(POSTED), seen, Duration::from_secs(1));
        }
    }

    /// What is in a slot: the orders of its task, how many items it has and which is the first to be run, and the items.
    pub(super) fn take(&self, slot: usize) -> io::Result<(Orders, u32, u32, Vec<u8>)> {
        let orders = Orders {
            task: self.get(slot, TASK),
            at: self.long(slot, ORDERS_AT).load(Ordering::Relaxed),
            length: self.long(slot, ORDERS_LENGTH).load(Ordering::Relaxed),
        };
        let length = self.get(slot, INPUT_LENGTH) as usize;
        let input = if length <= INPUT {
            let mut input = Vec::new();
            self.memory.read(Self::input(slot), length, &mut input);
            input
        } else {
            self.get_large(self.long(slot, INPUT_AT).load(Ordering::Relaxed), length as u64)?
        };
        Ok((
            orders,
            self.get(slot, COUNT).min(MOST_ITEMS),
            self.get(slot, FIRST),
            input,
        ))
    }

    /// Where the result of item `item` begins: behind those before it.
    pub(super) fn output_end(&self, slot: usize, item: u32, count: u32) -> usize {
        let lengths = (0..item).map(|item| (self.entry(slot, item).load(Ordering::Relaxed) >> STATUS_BITS) as usize);
        let most = Self::table(slot) + OUTPUT - LARGE;
        (Self::output(slot, count) + lengths.sum::<usize>()).min(most)
    }

    fn entry(&self, slot: usize, item: u32) -> &AtomicU32 {
        self.memory.word(Self::table(slot) + 4 * item as usize)
    }

    /// Notes that an item is about to be run.
    #[inline]
    pub(super) fn begin(&self, slot: usize, item: u32) {
        self.set(slot, STARTED, item + 1);
        // Before anything that the item does, for the parent that finds the slot of a dead worker.
        compiler_fence(Ordering::SeqCst);
    }

    /// Writes the result of item `item` of `count` at `at`: the first `length` of `bytes`. Returns where the next one goes.
    #[inline]
    pub(super) fn finish(
        &self,
        slot: usize,
        (item, count): (u32, u32),
        at: usize,
        status: u32,
        bytes: &[u8],
        length: usize,
    ) -> io::Result<usize> {
        // Those to come need room for a place each.
        let reserved = LARGE * (count - item - 1) as usize;
        let end = Self::table(slot) + OUTPUT;
        let next = match bytes.first_chunk::<LARGE>() {
            // A short one is written with what is behind it, which the next one overwrites: that needs no call.
            Some(short) if length <= LARGE && at + LARGE + reserved <= end => {
                self.memory.write(at, short);
                at + length
            }
            _ if at + length + reserved <= end => {
                self.memory.write(at, &bytes[..length]);
                at + length
            }
            _ => return self.finish_elsewhere(slot, item, at, status, &bytes[..length]),
        };
        self.entry(slot, item).store(entry(status, length), Ordering::Relaxed);
        // Release: with the result, for the parent that finds the slot of a dead worker.
        self.slot(slot, FINISHED).store(item + 1, Ordering::Release);
        Ok(next)
    }

    /// As [`Ring::finish`], for a result for which there is no room in the slot.
    #[cold]
    fn finish_elsewhere(&self, slot: usize, item: u32, at: usize, status: u32, bytes: &[u8]) -> io::Result<usize> {
        let reserved = self.write_elsewhere(slot, item, bytes)?;
        let mut place = [0; LARGE];
        place[..8].copy_from_slice(&reserved.to_le_bytes());
        place[8..].copy_from_slice(&((bytes.len() as u64) << STATUS_BITS | u64::from(status)).to_le_bytes());
        self.memory.write(at, &place);
        self.entry(slot, item).store(entry(ELSEWHERE, LARGE), Ordering::Relaxed);
        // Release: as in `finish`.
        self.slot(slot, FINISHED).store(item + 1, Ordering::Release);
        Ok(at + LARGE)
    }

    /// Writes a large result, and before it where that is.
    fn write_elsewhere(&self, slot: usize, item: u32, bytes: &[u8]) -> io::Result<u64> {
        let reserved = self.reserve_large(bytes.len());
        self.long(slot, LARGE_AT).store(reserved, Ordering::Relaxed);
        self.long(slot, LARGE_LENGTH)
            .store(bytes.len() as u64, Ordering::Relaxed);
        // Release, as below: for the parent that finds the slot of a dead worker.
        self.slot(slot, LARGE_OF).store(item + 1, Ordering::Release);
        self.large.write_all_at(bytes, reserved)?;
        Ok(reserved)
    }

    /// Hands a slot back.
    pub(super) fn hand_back(&self, slot: usize, took: Duration) {
        let took = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.long(slot, TOOK).store(took, Ordering::Relaxed);
        // Release: with the results.
        self.state(slot).store(DONE, Ordering::Release);
    }
}

/// Offset, status and length of what lies in the large file.
fn place_of(bytes: &[u8]) -> Option<(u64, u32, u64)> {
    match bytes.as_chunks::<8>().0 {
        [at, entry] => {
            let (at, entry) = (u64::from_le_bytes(*at), u64::from_le_bytes(*entry));
            Some((at, (entry & ((1 << STATUS_BITS) - 1)) as u32, entry >> STATUS_BITS))
        }
        _ => None,
    }
}

fn entry(status: u32, length: usize) -> u32 {
    (length as u32) << STATUS_BITS | status
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use nix::sys::memfd::{MFdFlags, memfd_create};

    use super::*;

    const ORDERS: Orders = Orders {
        task: 5,
        at: 0,
        length: 0,
    };
    const MIB: u64 = 1 << 20;

    fn ring() -> Ring {
        Ring {
            memory: Shared::create("zproc-ring-test", LENGTH).unwrap(),
            large: File::from(memfd_create("zproc-ring-test", MFdFlags::MFD_CLOEXEC).unwrap()),
        }
    }

    /// Bytes of the large file that are in memory.
    fn bytes(ring: &Ring) -> u64 {
        ring.large.metadata().unwrap().blocks() * 512
    }

    /// A ring in whose first slot worker 7 is at `count` items, of which it has finished two with large results.
    fn with_two_of(count: u32) -> Ring {
        let ring = ring();
        ring.post(0, ORDERS, 0, count, b"").unwrap();
        assert_eq!(ring.claim(7, 0), Some(0));
        let large = vec![1; MIB as usize];
        for item in 0..2 {
            ring.begin(0, item);
            let at = ring.output_end(0, item, count);
            ring.finish(0, (item, count), at, VALUE, &large, large.len()).unwrap();
        }
        assert_eq!(bytes(&ring), 2 * MIB);
        ring
    }

    #[test]
    fn what_a_dead_worker_was_writing_is_given_back_and_what_it_finished_when_nobody_wants_it() {
        let ring = with_two_of(4);
        ring.begin(0, 2);
        ring.write_elsewhere(0, 2, &vec![2; MIB as usize]).unwrap();
        assert_eq!(bytes(&ring), 3 * MIB);
        let left = ring.bury(7, &[0; LARGE]);
        assert!(matches!(
            &left[..],
            [Left {
                task: 5,
                achieved: true
            }]
        ));
        assert_eq!(bytes(&ring), 2 * MIB);
        assert!(ring.withdraw(0));
        assert_eq!(bytes(&ring), 0);
    }

    #[test]
    fn what_is_done_is_given_back_when_nobody_wants_it() {
        let ring = with_two_of(2);
        ring.hand_back(0, Duration::ZERO);
        assert!(ring.withdraw(0) && bytes(&ring) == 0);
        // What lies in the slot from before is not the next one's.
        ring.post(0, ORDERS, 1, 2, b"").unwrap();
        ring.put_large(&[3; 4096]).unwrap();
        assert!(ring.withdraw(0) && bytes(&ring) == 4096);
    }

    #[test]
    fn a_slot_that_cannot_be_read_is_free_all_the_same() {
        let ring = with_two_of(2);
        let beyond = (100 * MIB).to_le_bytes();
        ring.memory.write(Ring::output(0, 2), &beyond);
        ring.hand_back(0, Duration::ZERO);
        assert!(ring.collect(0).is_err() && !ring.is_done(0) && !ring.withdraw(0));
        assert_eq!(bytes(&ring), MIB, "where the first lies is not known");
    }

    #[test]
    fn a_worker_that_is_to_end_takes_nothing_and_leaves_it_to_others() {
        let ring = ring();
        ring.retire(3, true);
        ring.post(0, ORDERS, 0, 1, b"").unwrap();
        assert_eq!((ring.claim(7, 3), ring.claim(8, 4)), (None, Some(0)));
        ring.retire(3, false);
        ring.post(1, ORDERS, 1, 1, b"").unwrap();
        assert_eq!(ring.claim(9, 3), Some(1));
    }
}
