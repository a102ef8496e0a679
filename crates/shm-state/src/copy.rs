//! Room for values that are copied out of the arena without an allocation: on the reader's stack, or in a buffer that its
//! thread keeps.
//!
//! A copy lies as its original does: its bytes begin 48 behind a multiple of 64. So what a layer above aligned in the arena
//! is aligned in the copy too.
//!
//! The thread's buffer is taken out while it is in use. Who needs one meanwhile (a value is decoded by code that reads
//! another one) makes a new one, and the larger of the two is kept.

use std::cell::Cell;
use std::mem::MaybeUninit;

use crate::layout::{GRANULE, PAYLOAD_AT};
use crate::sync::{Ordering, Word, Word64};

/// Words of a line.
const LINE: usize = GRANULE / size_of::<u64>();
/// Words before the payload, here as there.
const LEAD: usize = PAYLOAD_AT / size_of::<u64>();
/// Longest payload that is copied to the stack.
pub const SHORT: usize = SHORT_WORDS * size_of::<u64>();
/// 576 bytes with the lead: nine lines.
const SHORT_WORDS: usize = 9 * LINE - LEAD;
/// Lines that a thread keeps when nobody uses them: 1 MiB.
const KEPT_LINES: usize = (1 << 20) / GRANULE;

/// Room on the stack, in which nothing is yet.
///
/// ```
/// # use shm_state::{Arena, ArenaOptions, Deadline, FixedSize, KeyRef, ShortRoom};
/// # let arena = Arena::anonymous(&ArenaOptions::default())?;
/// # let namespace = arena.namespace("default")?;
/// let door = KeyRef::new(1, b"door");
/// namespace.put(&door, None, 1, b"open", Deadline::never())?;
/// let mut room = ShortRoom::new();
/// let found = namespace.peek_exactly(&door, FixedSize { len: 4, head: 4 }, &mut room);
/// assert!(matches!(found, Ok(Some((1, b"open")))));
/// # Ok::<(), shm_state::Error>(())
/// ```
#[repr(C, align(64))]
pub struct ShortRoom {
    lead: [MaybeUninit<u64>; LEAD],
    words: [MaybeUninit<u64>; SHORT_WORDS],
}

impl ShortRoom {
    /// Leaves the memory as it is: clearing it would take longer than most copies.
    ///
    /// ```
    /// use shm_state::ShortRoom;
    ///
    /// let room = ShortRoom::new();
    /// assert_eq!((align_of_val(&room), size_of_val(&room)), (64, 576));
    /// ```
    #[inline(always)]
    pub const fn new() -> Self {
        Self {
            lead: [const { MaybeUninit::uninit() }; LEAD],
            words: [const { MaybeUninit::uninit() }; SHORT_WORDS],
        }
    }

    /// Copies the first `len` bytes of `words`; `None` if there are not so many, or no room for them.
    #[inline(always)]
    pub(crate) fn copy(&mut self, words: &[Word64], len: usize) -> Option<&[u8]> {
        let count = len.div_ceil(size_of::<u64>());
        let (room, words) = (self.words.get_mut(..count)?, words.get(..count)?);
        // Four at a time: most values are short, and a loop over single words costs more than the words.
        let (to, to_rest) = room.as_chunks_mut::<4>();
        let (from, from_rest) = words.as_chunks::<4>();
        for (to, from) in to.iter_mut().zip(from) {
            for (to, from) in to.iter_mut().zip(from) {
                to.write(from.load(Ordering::Relaxed));
            }
        }
        for (to, from) in to_rest.iter_mut().zip(from_rest) {
            to.write(from.load(Ordering::Relaxed));
        }
        // SAFETY: all words of `room` were written just now, and it has at least `len` bytes, which may have any value.
        Some(unsafe { std::slice::from_raw_parts(room.as_ptr().cast::<u8>(), len) })
    }

    /// As [`ShortRoom::copy`], word by word: where `len` is a constant, the words need never get to memory.
    #[inline(always)]
    pub(crate) fn copy_exactly(&mut self, words: &[Word64], len: usize) -> Option<&[u8]> {
        let count = len.div_ceil(size_of::<u64>());
        let (room, words) = (self.words.get_mut(..count)?, words.get(..count)?);
        for (to, from) in room.iter_mut().zip(words) {
            to.write(from.load(Ordering::Relaxed));
        }
        // SAFETY: as in `copy`.
        Some(unsafe { std::slice::from_raw_parts(room.as_ptr().cast::<u8>(), len) })
    }
}

impl Default for ShortRoom {
    #[inline(always)]
    fn default() -> Self {
        Self::new()
    }
}

/// A line of the thread's buffer.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([u64; LINE]);

/// Room of any length.
#[derive(Default)]
pub struct LongRoom {
    lines: Vec<Line>,
    len: usize,
}

thread_local! {
    static KEPT: Cell<Option<LongRoom>> = const { Cell::new(None) };
}

/// Lends the thread's buffer to `f`.
pub fn with_long_room<R>(f: impl FnOnce(&mut LongRoom) -> R) -> R {
    // While the thread ends there may be none.
    let mut room = KEPT.try_with(Cell::take).ok().flatten().unwrap_or_default();
    let result = f(&mut room);
    if room.lines.capacity() <= KEPT_LINES {
        let _ = KEPT.try_with(|kept| {
            let other = kept.take().unwrap_or_default();
            let larger = if other.lines.capacity() > room.lines.capacity() {
                other
            } else {
                room
            };
            kept.set(Some(larger));
        });
    }
    result
}

impl LongRoom {
    /// Copies the first `len` bytes of `words`. Fails if this process has no memory for them.
    pub fn copy(&mut self, words: &[Word64], len: usize) -> Result<(), NoMemory> {
        let missing = (LEAD + words.len()).div_ceil(LINE).saturating_sub(self.lines.len());
        self.len = 0;
        self.lines.try_reserve_exact(missing).map_err(|_| NoMemory)?;
        // What was there before is overwritten, and not cleared.
        self.lines.resize(self.lines.len() + missing, Line([0; LINE]));
        let (first, rest) = words.split_at(words.len().min(LINE - LEAD));
        let mut lines = self.lines.iter_mut();
        if let Some(line) = lines.next() {
            fill(&mut line.0[LEAD..], first);
        }
        let (whole, rest) = rest.as_chunks::<LINE>();
        // In this order: the other way round, a line would be gone when there are no more words.
        for (words, line) in whole.iter().zip(lines.by_ref()) {
            fill(&mut line.0, words);
        }
        if let Some(line) = lines.next() {
            fill(&mut line.0, rest);
        }
        self.len = len.min(size_of_val(words));
        Ok(())
    }

    /// What was copied last.
    pub fn bytes(&self) -> &[u8] {
        if self.len == 0 {
            return &[];
        }
        let start = self.lines.as_ptr().wrapping_byte_add(PAYLOAD_AT).cast::<u8>();
        // SAFETY: `copy` made room for so many bytes behind the lead, in lines that are initialised and borrowed like `self`.
        unsafe { std::slice::from_raw_parts(start, self.len) }
    }
}

/// This process has no memory for a copy.
pub struct NoMemory;

#[inline(always)]
fn fill(to: &mut [u64], from: &[Word64]) {
    for (to, from) in to.iter_mut().zip(from) {
        *to = from.load(Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(count: u64) -> Vec<Word64> {
        (0..count).map(Word64::new).collect()
    }

    fn expected(count: u64, len: usize) -> Vec<u8> {
        let mut bytes: Vec<u8> = (0..count).flat_map(u64::to_le_bytes).collect();
        bytes.truncate(len);
        bytes
    }

    #[test]
    fn copies_are_whole_and_lie_as_their_originals_do() {
        for len in (0..100).chain([SHORT - 8, SHORT - 1, SHORT, SHORT + 1, 4096, 100_000]) {
            let count = len.div_ceil(8) as u64;
            let (words, expected) = (words(count), expected(count, len));
            let mut short = ShortRoom::new();
            let copy = short.copy(&words, len);
            assert_eq!(copy, (len <= SHORT).then_some(&expected[..]), "{len}");
            assert!(copy.is_none_or(|copy| copy.as_ptr().addr() % GRANULE == PAYLOAD_AT));
            with_long_room(|long| {
                assert!(long.copy(&words, len).is_ok());
                assert_eq!(long.bytes(), expected, "{len}");
                assert!(len == 0 || long.bytes().as_ptr().addr() % GRANULE == PAYLOAD_AT);
            });
        }
    }

    #[test]
    fn a_length_beyond_the_words_is_not_believed() {
        assert_eq!(ShortRoom::new().copy(&words(2), 17), None);
        with_long_room(|long| {
            assert!(long.copy(&words(2), 17).is_ok());
            assert_eq!(long.bytes().len(), 16);
        });
    }

    #[test]
    fn a_thread_keeps_its_larger_buffer_and_lends_none_twice() {
        let address = |words: &[Word64]| {
            with_long_room(|long| {
                assert!(long.copy(words, size_of_val(words)).is_ok());
                long.bytes().as_ptr().addr()
            })
        };
        let (few, many) = (words(10), words(1000));
        let kept = address(&many);
        assert_eq!((address(&few), address(&many)), (kept, kept));
        with_long_room(|outer| {
            assert!(outer.copy(&few, 80).is_ok());
            let inner = address(&many);
            assert_ne!(inner, outer.bytes().as_ptr().addr());
            assert_eq!(outer.bytes(), expected(10, 80));
        });
    }
}
