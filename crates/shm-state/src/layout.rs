//! The one definition of every structure in an arena.
//!
//! An arena is addressed in *granules* of 64 bytes, one cache line each; a granule number fits 32 bits and 0 means
//! "none". Blocks are whole granules, so no block shares a line with another.
//!
//! ```text
//! 0            superblock (immutable head, growth and directory words, directory lock)
//! 4 KiB        participants: 4,096 × 64 bytes
//! 260 KiB      directory of namespaces: 4,096 × 8 bytes
//! 292 KiB      chunk map: one 64-bit word for each 64 KiB of capacity
//! next 64 KiB  chunks; a namespace owns runs of them: control block, log ring, then its heap
//! ```
//!
//! Everything that is shared is a [`Word32`] or a [`Word64`]: any bit pattern is a valid value, so a reference to a
//! structure is sound wherever committed memory lies, whatever another process wrote there. What the bits *mean* is
//! checked by whoever reads them. The layout hash covers sizes and offsets, so that builds that disagree refuse
//! each other's arenas.

use std::mem::{align_of, offset_of, size_of};

use crate::lock::WriterLock;
use crate::participant::ParticipantSlot;
use crate::sync::{Word32, Word64};

/// Bytes in a granule, the unit of every offset.
pub const GRANULE: usize = 64;
/// Bytes in a chunk, the unit in which memory is committed and handed to namespaces.
pub const CHUNK: usize = 64 * 1024;
/// Granules in a chunk.
pub const CHUNK_GRANULES: u32 = (CHUNK / GRANULE) as u32;
/// Largest capacity: granule numbers use 31 bits, so that one bit remains for a flag beside them.
pub const MAX_CAPACITY: u64 = 1 << 37;
/// Smallest capacity: the tables and one namespace with a small log.
pub const MIN_CAPACITY: u64 = 640 * 1024;
/// Processes that may be attached at one time.
pub const PARTICIPANTS: usize = 4096;
/// Namespaces that an arena can hold.
pub const NAMESPACES: usize = 4096;
/// Longest name of a namespace in bytes.
pub const NAME_MAX: usize = 255;
/// Longest key in bytes: its length has 24 bits in the entry.
pub const KEY_MAX: usize = (1 << 24) - 1;
/// Size classes of free blocks: four a doubling, see the module `heap`.
pub const CLASSES: usize = 120;
/// Assignments that fit into the record of the control block; larger records get a block of their own.
pub const RECORD_INLINE: usize = 120;
/// Events of a namespace, each of them with [`SLEEPER_WORDS`] words of sleeper bits: places for 122,880 groups of keys.
pub const EVENTS: usize = 256;
/// Words of sleeper bits of an event: what a cache line has room for.
pub const SLEEPER_WORDS: usize = 15;
/// How many places each key has among the events; see the module `event`.
pub const PLACES: usize = 3;
/// Seats in the control block and in each further block of seats.
pub const SEATS: usize = 64;
/// Single-granule blocks kept back so that a removal succeeds in a full arena.
pub const RESERVE: u32 = 32;

/// "zproc" and the format's generation, as text at the head of the file.
pub const MAGIC: u64 = u64::from_le_bytes(*b"zprocshm");
/// Changes with every change of meaning that the layout hash does not see.
pub const FORMAT_VERSION: u64 = 3;

/// A type made of shared words only.
///
/// # Safety
/// Every byte belongs to a `Word32` or a `Word64` (or to unused padding that nobody reads), so that any bit pattern
/// is valid and concurrent access by other processes is no data race.
pub unsafe trait Shared {}

/// The first page of an arena.
#[repr(C)]
pub struct Superblock {
    /// [`MAGIC`].
    pub magic: Word64,
    /// [`FORMAT_VERSION`].
    pub version: Word64,
    /// [`layout_hash`].
    pub layout: Word64,
    /// Bytes that the arena may grow to; the size of its file.
    pub capacity: Word64,
    /// Inode of the PID namespace in which its thread ids mean something.
    pub pid_namespace: Word64,
    /// The boot during which it was made, as two words.
    pub boot_id: [Word64; 2],
    /// Commits of history that a namespace keeps at least.
    pub history_count: Word64,
    /// Bytes of history that a namespace keeps at most.
    pub history_bytes: Word64,
    /// The encoding of the values, as the layer above names it.
    pub value_format: Word64,
    /// XXH3 of the ten words before.
    pub checksum: Word64,
    pad: [Word64; 5],
    /// Granules from 0 that are backed by memory; only grows, and only after the memory was had.
    pub committed: Word64,
    /// The next identity of a writer.
    pub next_identity: Word64,
    /// Namespaces in the directory.
    pub namespaces: Word64,
    /// The slot at which the next participant looks first.
    pub next_slot: Word64,
    pad2: [Word64; 4],
    /// Held while a namespace is added.
    pub directory_lock: WriterLock,
}

/// The words of a superblock that never change and are covered by its checksum.
pub const SUPERBLOCK_HEAD_WORDS: usize = 10;

/// Written by each commit, read by each reader.
#[repr(C, align(128))]
pub struct ReaderLine {
    /// The newest visible commit.
    pub seq: Word64,
    /// Snapshots below this one may miss blocks: the check of every optimistic reader.
    pub floor: Word64,
    /// Changes when entries were dropped from the index.
    pub generation: Word64,
    /// The index: granule of its block above 8 bits of log2 of its slots.
    pub root: Word64,
    /// Granule of the array of entries in insertion order.
    pub dense: Word64,
    /// Entry and version of the newest commit's first change: nothing but a hint at what a watcher will read next.
    pub hint: Word64,
}

/// Written by the owner of the lock.
#[repr(C, align(128))]
pub struct WriterLine {
    /// `seq` while idle; `seq + 1` from the instant a commit is decided until it is visible.
    pub marker: Word64,
    /// Blocks that were retired at or below may be used again.
    pub recyclable: Word64,
    /// First free granule of the current run, and in the high half its end.
    pub bump: Word64,
    /// First chunk of the current run.
    pub run: Word64,
    /// Number of assignments in the record, and in the high half the granule of their block or 0.
    pub record: Word64,
    /// First of the blocks kept back for removals, and in the high half their number.
    pub reserve: Word64,
    /// 1 while the free lists are being rebuilt and cannot be trusted.
    pub rebuilding: Word64,
    /// Commits finished, or locks taken over, on behalf of a dead writer.
    pub recoveries: Word64,
    /// Times a commit woke somebody.
    pub wakes: Word64,
    /// Times a sleeper woke up.
    pub wakeups: Word64,
    /// First further block of seats.
    pub seats_next: Word64,
    pad: [Word64; 5],
}

/// A futex and the set of those who sleep on it.
#[repr(C, align(64))]
pub struct Event {
    /// Grows with every wake-up; what sleepers compare.
    pub futex: Word32,
    /// One bit a group of keys: somebody may be asleep.
    pub sleepers: [Word32; SLEEPER_WORDS],
}

/// Where one pin or one watcher sits.
#[repr(C, align(64))]
pub struct Seat {
    /// Participant slot and generation of the owner; 0 = free.
    pub owner: Word64,
    /// The pinned commit + 1; 0 = nothing pinned.
    pub pin: Word64,
    /// The last commit that the watcher consumed, + 1; 0 = not a watcher.
    pub cursor: Word64,
    pad: [Word64; 5],
}

/// A further block of seats.
#[repr(C)]
pub struct SeatBlock {
    /// See [`BlockHead`].
    pub head: BlockHead,
    /// The block after this one.
    pub next: Word64,
    pad: [Word64; 4],
    /// The seats.
    pub seats: [Seat; SEATS],
}

/// One commit in the log ring.
#[repr(C, align(64))]
pub struct LogSlot {
    /// The commit; 0 while the slot is being written.
    pub seq: Word64,
    /// Identity of the writer, and in the high half its process id.
    pub writer: Word64,
    /// Number of changes, bit 31: identical; high half: live keys after the commit.
    pub counts: Word64,
    /// Nanoseconds since the Unix epoch, by the clock of the writer's choice.
    pub time: Word64,
    /// Granules retired by all commits up to this one.
    pub retired_total: Word64,
    /// Two changes of three halves each; or the granule of a block with more.
    pub inline: [Word64; 3],
}

/// At the head of each block of the heap.
#[repr(C)]
pub struct BlockHead {
    /// Next block of its free list; high half: length in granules.
    pub link: Word64,
    /// The commit that created it.
    pub birth: Word64,
    /// The commit that superseded it. Means something only while the block is in a free list.
    pub retired: Word64,
}

/// A key and the newest version of its value.
#[repr(C, align(64))]
pub struct Entry {
    /// See [`BlockHead`].
    pub head: BlockHead,
    /// Granule of the newest version; high half: key tag (8 bits) and key length (24 bits), which never change.
    pub newest: Word64,
    /// Hash of the key.
    pub hash: Word64,
    /// The first 24 bytes of the key; more follow.
    pub key: [Word64; 3],
}

/// One value of one key, or a tombstone.
#[repr(C, align(64))]
pub struct Version {
    /// See [`BlockHead`]; `birth` is the commit that made the value.
    pub head: BlockHead,
    /// Granule of the version before; high half: type tag (16 bits) and [`TOMBSTONE`].
    pub older: Word64,
    /// The commit that inserted the key: where it stands in the order of insertion.
    pub inserted: Word64,
    /// Bytes of the payload.
    pub len: Word64,
    /// The first 16 bytes of the payload; more follow.
    pub payload: [Word64; 2],
}

/// Flag in the high half of [`Version::older`]: the key is absent.
pub const TOMBSTONE: u32 = 1 << 16;
/// Bytes before the payload of a version.
pub const PAYLOAD_AT: usize = offset_of!(Version, payload);
/// Bytes before the key of an entry.
pub const KEY_AT: usize = offset_of!(Entry, key);

/// Head of the block that holds the index; its slots follow.
#[repr(C, align(64))]
pub struct Table {
    /// See [`BlockHead`].
    pub head: BlockHead,
    /// Slots in use.
    pub used: Word64,
    pad: [Word64; 4],
}

/// Head of the array of entries in insertion order; its slots follow.
#[repr(C, align(64))]
pub struct Dense {
    /// See [`BlockHead`].
    pub head: BlockHead,
    /// Slots that fit.
    pub capacity: Word64,
    /// Slots in use.
    pub len: Word64,
    /// No slot from here on is alive in the newest state.
    pub live_end: Word64,
    pad: [Word64; 2],
}

/// One key in insertion order.
#[repr(C)]
pub struct DenseSlot {
    /// Granule of the entry.
    pub entry: Word64,
    /// The commit that inserted it; a slot counts only for versions of the same insertion.
    pub inserted: Word64,
}

/// Head of a block of log changes or of record assignments; 64-bit words follow.
#[repr(C, align(64))]
pub struct ListBlock {
    /// See [`BlockHead`].
    pub head: BlockHead,
    pad: [Word64; 5],
}

/// The control block of a namespace.
#[repr(C, align(128))]
pub struct Control {
    /// [`CONTROL_MAGIC`].
    pub magic: Word64,
    /// Its place in the directory.
    pub index: Word64,
    /// Bytes of its name.
    pub name_len: Word64,
    /// log2 of the slots of the log ring, which follows the control block.
    pub log_bits: Word64,
    pad: [Word64; 12],
    /// Its name.
    pub name: [Word64; 32],
    /// What readers read.
    pub reader: ReaderLine,
    /// The writer lock.
    pub lock: WriterLock,
    pad2: [Word64; 8],
    /// What the lock protects.
    pub writer: WriterLine,
    /// Head and (high half) tail of each free list.
    pub classes: [Word64; CLASSES],
    /// (offset in bytes, value) pairs: what the marked commit assigns.
    pub record: [Word64; 2 * RECORD_INLINE],
    /// Sleepers by key.
    pub events: [Event; EVENTS],
    /// Sleepers on any change: all bits of the first word.
    pub any: Event,
    /// Pins and watchers.
    pub seats: [Seat; SEATS],
}

/// At the head of each control block.
pub const CONTROL_MAGIC: u64 = u64::from_le_bytes(*b"nspace\0\x01");

macro_rules! shared {
    ($($t:ty),*) => {$(
        // SAFETY: the type is repr(C) and all its fields are `Word32`, `Word64` or types of this list.
        unsafe impl Shared for $t {}
    )*};
}
shared!(
    Word32,
    Word64,
    ParticipantSlot,
    Superblock,
    Control,
    Seat,
    SeatBlock,
    LogSlot,
    BlockHead,
    Entry,
    Version,
    Table,
    Dense,
    DenseSlot,
    ListBlock
);

const _: () = {
    assert!(size_of::<Superblock>() <= 4096);
    assert!(size_of::<ParticipantSlot>() == GRANULE);
    assert!(offset_of!(Superblock, next_slot) == 152 && offset_of!(Superblock, directory_lock) == 192);
    assert!(size_of::<Seat>() == GRANULE);
    assert!(size_of::<LogSlot>() == GRANULE);
    assert!(size_of::<Entry>() == GRANULE);
    assert!(size_of::<Version>() == GRANULE);
    assert!(size_of::<Table>() == GRANULE);
    assert!(size_of::<Dense>() == GRANULE);
    assert!(size_of::<ListBlock>() == GRANULE);
    assert!(size_of::<DenseSlot>() == 16);
    assert!(size_of::<WriterLine>() == 128);
    // A layer above relies on it: what it puts behind 16 bytes of its own is aligned to a granule.
    assert!(PAYLOAD_AT == 48 && (PAYLOAD_AT + 16).is_multiple_of(GRANULE));
    assert!(offset_of!(Superblock, checksum) == SUPERBLOCK_HEAD_WORDS * 8 && offset_of!(Superblock, committed) == 128);
    assert!(KEY_AT == 40);
    assert!(size_of::<Control>().is_multiple_of(GRANULE));
    assert!(align_of::<Control>() == 128);
    assert!(offset_of!(SeatBlock, seats).is_multiple_of(GRANULE));
    assert!(offset_of!(Control, reader).is_multiple_of(128));
    assert!(offset_of!(Control, events).is_multiple_of(GRANULE));
};

/// Where each part of an arena of a given capacity lies, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sections {
    /// [`PARTICIPANTS`] slots.
    pub participants: usize,
    /// [`NAMESPACES`] words.
    pub directory: usize,
    /// One word a chunk.
    pub chunk_map: usize,
    /// Chunks that the capacity holds, those of these tables included.
    pub chunks: u32,
    /// The first chunk that a namespace may own.
    pub first_chunk: u32,
}

impl Sections {
    /// The sections of an arena of `capacity` bytes.
    pub const fn of(capacity: u64) -> Self {
        let participants = 4096;
        let directory = participants + PARTICIPANTS * size_of::<ParticipantSlot>();
        let chunk_map = directory + NAMESPACES * 8;
        let chunks = (capacity / CHUNK as u64) as u32;
        let end = chunk_map + chunks as usize * 8;
        Self {
            participants,
            directory,
            chunk_map,
            chunks,
            first_chunk: end.div_ceil(CHUNK) as u32,
        }
    }
}

/// Fingerprint of sizes, offsets and encodings: builds with another one cannot share an arena.
pub fn layout_hash() -> u64 {
    let facts: [usize; 27] = [
        GRANULE,
        CHUNK,
        PARTICIPANTS,
        NAMESPACES,
        CLASSES,
        RECORD_INLINE,
        EVENTS,
        SLEEPER_WORDS,
        PLACES,
        SEATS,
        size_of::<Superblock>(),
        offset_of!(Superblock, committed),
        offset_of!(Superblock, next_slot),
        offset_of!(Superblock, directory_lock),
        size_of::<WriterLock>(),
        size_of::<ParticipantSlot>(),
        size_of::<Control>(),
        offset_of!(ReaderLine, hint),
        offset_of!(Control, lock),
        offset_of!(Control, writer),
        offset_of!(Control, classes),
        offset_of!(Control, record),
        offset_of!(Control, events),
        offset_of!(Control, seats),
        size_of::<SeatBlock>(),
        PAYLOAD_AT,
        KEY_AT,
    ];
    let bytes: Vec<u8> = facts.iter().flat_map(|f| (*f as u64).to_le_bytes()).collect();
    // The hash of a fixed text stands for the hash function itself.
    xxhash_rust::xxh3::xxh3_64_with_seed(&bytes, xxhash_rust::xxh3::xxh3_64(b"zproc: XXH3-64, linear probing"))
}

/// Packs two 32-bit halves into a word.
#[inline(always)]
pub const fn pack(low: u32, high: u32) -> u64 {
    low as u64 | (high as u64) << 32
}

/// The low half of a word.
#[inline(always)]
pub const fn low(word: u64) -> u32 {
    word as u32
}

/// The high half of a word.
#[inline(always)]
pub const fn high(word: u64) -> u32 {
    (word >> 32) as u32
}
