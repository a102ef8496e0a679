//! The bytes of an arena, seen past the engine: what changed since the last look, and what the machine would hold if
//! every process but the onlooker died now.
//!
//! A copy for recovery is the committed memory with two differences, which are those between a stopped process and a
//! dead one:
//!
//! - *Lock words.* When a thread ends, the kernel looks at the one word that `list_op_pending` of its robust list
//!   names, and if that has its TID, marks it. The same is done to the copy, and only then: if the lock names the
//!   stopped process while the kernel would not know, that is counted as bad.
//! - *Participants.* Whoever had the arena open is dead, and other processes have their pids. In the copy their
//!   identities are those of nobody.

use std::fs::File;
use std::os::fd::AsFd;

use memmap2::MmapRaw;
use shm_state::Arena;

use super::tracee::Tracee;

// Byte offsets, see `docs/design.md`.
const COMMITTED: usize = 128;
const NAMESPACES: usize = 144;
const DIRECTORY_LOCK: usize = 192;
const PARTICIPANTS: std::ops::Range<usize> = 4096..260 * 1024;
const DIRECTORY: usize = 260 * 1024;
const READER: usize = 384;
const LOCK: usize = 512;
const WRITER: usize = 640;

const TID: u64 = 0x3fff_ffff;
const OWNER_DIED: u64 = 1 << 30;
const WAITERS: u64 = 1 << 31;
const CONTROL_MAGIC: u64 = u64::from_le_bytes(*b"nspace\0\x01");
const MAINTENANCE: u64 = 1 << 63;

/// An arena's memory.
pub struct Image {
    file: File,
    map: MmapRaw,
    seen: Vec<u8>,
    /// Where the stopped process has it mapped.
    bases: Vec<u64>,
}

impl Image {
    /// Maps the arena once more, for reading.
    pub fn of(arena: &Arena) -> Self {
        Self::of_file(File::from(arena.fd().unwrap().as_fd().try_clone_to_owned().unwrap()))
    }

    /// Maps the file of an arena.
    pub fn of_file(file: File) -> Self {
        let map = memmap2::MmapOptions::new().map_raw_read_only(&file).unwrap();
        Self {
            file,
            map,
            seen: Vec::new(),
            bases: Vec::new(),
        }
    }

    /// A word.
    #[inline]
    pub fn word(&self, at: usize) -> u64 {
        assert!(at.is_multiple_of(8) && at + 8 <= self.map.len());
        // SAFETY: aligned and inside of the mapping, which is backed up to `committed`, where all callers stay; any
        // bits are a valid integer, and volatile because others may write it.
        unsafe { self.map.as_ptr().wrapping_add(at).cast::<u64>().read_volatile() }
    }

    fn committed(&self) -> usize {
        (self.word(COMMITTED) as usize * 64).min(self.map.len())
    }

    /// Whether anything differs from what was seen last.
    #[inline]
    pub fn changed(&self) -> bool {
        let len = self.committed();
        // SAFETY: both ranges have `len` bytes; others may write the shared one meanwhile, which makes the answer that
        // of some moment.
        len != self.seen.len() || unsafe { libc::memcmp(self.map.as_ptr().cast(), self.seen.as_ptr().cast(), len) } != 0
    }

    /// Takes note of all bytes.
    pub fn see(&mut self) {
        let len = self.committed();
        self.seen.resize(len, 0);
        // SAFETY: as in `changed`; the vector is no part of the mapping.
        unsafe { std::ptr::copy_nonoverlapping(self.map.as_ptr(), self.seen.as_mut_ptr(), len) };
    }

    /// Control block of the namespace number `index`.
    fn control(&self, index: usize) -> usize {
        self.word(DIRECTORY + index * 8) as usize * 64
    }

    /// The newest visible commit of the first namespace.
    pub fn seq(&self) -> u64 {
        self.word(self.control(0) + READER)
    }

    /// The newest commit of the first namespace that is decided.
    pub fn decided(&self) -> u64 {
        self.word(self.control(0) + WRITER) & !MAINTENANCE
    }

    /// Whether a commit is decided and not yet visible.
    pub fn is_unfinished(&self) -> bool {
        self.word(self.control(0) + WRITER) != self.seq()
    }

    /// The lock word of the first namespace: TID of its owner, and whether it has waiters.
    pub fn lock(&self) -> (u32, bool) {
        let word = self.word(self.control(0) + LOCK);
        ((word & TID) as u32, word & WAITERS != 0)
    }

    /// Whether a namespace counts that is not complete: its entry of the directory leads to no control block.
    pub fn counts_half_a_namespace(&self) -> bool {
        let count = self.word(NAMESPACES) as usize;
        (0..count).any(|index| self.control(index) == 0 || self.word(self.control(index)) != CONTROL_MAGIC)
    }

    fn locks(&self) -> impl Iterator<Item = usize> + '_ {
        let count = self.word(NAMESPACES) as usize;
        std::iter::once(DIRECTORY_LOCK).chain((0..count).map(|index| self.control(index) + LOCK))
    }

    /// Whether some lock names the stopped process while the kernel would not mark it.
    #[inline]
    pub fn has_hidden_owner(&mut self, tracee: &Tracee) -> bool {
        let owned: Option<usize> = self.locks().find(|at| self.word(*at) & TID == u64::from(tracee.pid()));
        owned.is_some_and(|at| !self.kernel_marks(tracee, at))
    }

    fn kernel_marks(&mut self, tracee: &Tracee, at: usize) -> bool {
        let pending = tracee.pending();
        let names = |bases: &[u64]| bases.iter().any(|base| base + at as u64 == pending);
        if !names(&self.bases) {
            self.bases = tracee.mappings_of(&self.file);
        }
        names(&self.bases)
    }

    /// The memory as it would be if everybody died now; see the module header.
    pub fn after_deaths(&mut self, tracee: &Tracee) -> Vec<u8> {
        self.see();
        let mut bytes = self.seen.clone();
        let locks: Vec<usize> = self.locks().collect();
        for at in locks {
            let word = self.word(at);
            let owner = word & TID;
            if owner != 0 && (owner != u64::from(tracee.pid()) || self.kernel_marks(tracee, at)) {
                let marked = word & !TID | OWNER_DIED;
                bytes[at..at + 8].copy_from_slice(&marked.to_le_bytes());
            }
        }
        for slot in bytes[PARTICIPANTS].chunks_exact_mut(64) {
            // A pid, and the identity behind it, the highest bit of whose last byte no kernel sets.
            if slot[..8] != [0; 8] {
                slot[15] ^= 0x80;
            }
        }
        bytes
    }
}
