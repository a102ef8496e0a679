//! A table in shared memory: a mutex of the C library, and slots that are probed one after the other.
//!
//! The mutex is an ordinary one. A robust one would be told of a dead owner, and would then have to know what lies half
//! written, which is more than one writes by hand.

use std::cell::UnsafeCell;
use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicU64, Ordering};

use libc::{pthread_mutex_t, pthread_mutexattr_t};

/// Bytes of a key, padded.
pub type Key = [u8; 24];

/// An entry; free while its key is zero.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Slot {
    pub key: Key,
    pub value: u64,
}

/// What lies at the beginning of the segment; the slots and the bytes follow.
#[repr(C, align(128))]
struct Head {
    mutex: UnsafeCell<pthread_mutex_t>,
    changes: AtomicU64,
    slots: usize,
    bytes: usize,
}

/// How long the segment must be.
pub fn bytes_needed(entries: usize, bytes: usize) -> usize {
    size_of::<Head>() + slots_for(entries) * size_of::<Slot>() + bytes
}

fn slots_for(entries: usize) -> usize {
    (entries * 2).next_power_of_two()
}

/// The table, mapped.
pub struct Table(*const Head);

/// What can be done with the lock held.
pub struct Locked<'t>(&'t Table);

impl Table {
    /// Makes a table.
    ///
    /// # Safety
    ///
    /// The memory is page-aligned, zeroed, as long as [`bytes_needed`] says, lives as long as the result, and nobody else
    /// uses it yet.
    pub unsafe fn create(memory: *mut u8, entries: usize, bytes: usize) -> Self {
        let head = memory.cast::<Head>();
        let mut attributes = MaybeUninit::<pthread_mutexattr_t>::uninit();
        let attributes = attributes.as_mut_ptr();
        // SAFETY: there is room for the attributes behind the pointer.
        check(unsafe { libc::pthread_mutexattr_init(attributes) });
        // SAFETY: they were initialised above.
        check(unsafe { libc::pthread_mutexattr_setpshared(attributes, libc::PTHREAD_PROCESS_SHARED) });
        // SAFETY: the memory has room for a head, whose fields may all be zero.
        let mutex = unsafe { &*head }.mutex.get();
        // SAFETY: nobody uses the mutex yet, as the caller promises.
        check(unsafe { libc::pthread_mutex_init(mutex, attributes) });
        // SAFETY: nobody else uses the head yet.
        unsafe { (*head).slots = slots_for(entries) };
        // SAFETY: as above.
        unsafe { (*head).bytes = bytes };
        Self(head)
    }

    /// One that somebody made.
    ///
    /// # Safety
    ///
    /// The memory holds what [`Table::create`] made, and lives as long as the result.
    pub unsafe fn open(memory: *mut u8) -> Self {
        Self(memory.cast())
    }

    #[inline]
    fn head(&self) -> &Head {
        // SAFETY: a head lies there for as long as `self` lives, as the maker of `self` promised. Its plain words do not
        // change once others know of it.
        unsafe { &*self.0 }
    }

    /// How many changes there were.
    #[inline]
    pub fn changes(&self) -> &AtomicU64 {
        &self.head().changes
    }

    /// Runs `f` with the lock held.
    #[inline]
    pub fn locked<R>(&self, f: impl FnOnce(&mut Locked<'_>) -> R) -> R {
        let mutex = self.head().mutex.get();
        // SAFETY: the mutex was initialised before anybody got the address.
        check(unsafe { libc::pthread_mutex_lock(mutex) });
        let result = f(&mut Locked(self));
        // SAFETY: this thread has just locked it.
        check(unsafe { libc::pthread_mutex_unlock(mutex) });
        result
    }

    /// Where the key is, going by the keys that `at` shows.
    #[inline]
    pub fn place_of(&self, key: &str, at: impl Fn(usize) -> Key) -> Option<usize> {
        let (key, mask) = (padded(key), self.head().slots - 1);
        let mut index = hash(&key) as usize & mask;
        loop {
            match at(index) {
                found if found == key => return Some(index),
                free if free == Key::default() => return None,
                _ => index = (index + 1) & mask,
            }
        }
    }
}

impl Locked<'_> {
    /// All slots.
    #[inline]
    pub fn slots(&mut self) -> &mut [Slot] {
        let head = self.0.0;
        // SAFETY: the slots follow the head, inside the same mapping.
        let first = unsafe { head.add(1) }.cast::<Slot>().cast_mut();
        // SAFETY: there are so many, any bits are a slot, and only this thread has the lock, and `self` is borrowed.
        unsafe { std::slice::from_raw_parts_mut(first, self.0.head().slots) }
    }

    /// The bytes behind them.
    pub fn blob(&mut self) -> &mut [u8] {
        let end = self.slots().as_mut_ptr_range().end.cast::<u8>();
        // SAFETY: so many bytes follow the slots; only this thread has the lock, and `self` is borrowed.
        unsafe { std::slice::from_raw_parts_mut(end, self.0.head().bytes) }
    }

    /// The slot with this index.
    #[inline]
    pub fn at(&mut self, index: usize) -> &mut Slot {
        &mut self.slots()[index]
    }

    /// The index of the key's slot.
    #[inline]
    pub fn index(&mut self, key: &str) -> Option<usize> {
        let table = self.0;
        let slots = self.slots();
        table.place_of(key, |index| slots[index].key)
    }

    /// The key's slot.
    #[inline]
    pub fn find(&mut self, key: &str) -> Option<&mut Slot> {
        self.index(key).map(|index| self.at(index))
    }

    /// Adds a key that is not there.
    pub fn add(&mut self, key: &str, value: u64) {
        let key = padded(key);
        let slots = self.slots();
        let mut index = hash(&key) as usize & (slots.len() - 1);
        while slots[index].key != Key::default() {
            index = (index + 1) & (slots.len() - 1);
        }
        slots[index] = Slot { key, value };
    }

    /// Tells those who look.
    #[inline]
    pub fn changed(&mut self) {
        // Release: pairs with the Acquire of a watcher. Only who holds the lock writes it.
        let changes = self.0.changes();
        changes.store(changes.load(Ordering::Relaxed) + 1, Ordering::Release);
    }
}

#[inline]
fn padded(key: &str) -> Key {
    let mut padded = Key::default();
    padded[..key.len()].copy_from_slice(key.as_bytes());
    padded
}

/// A word at a time: multiply and rotate.
#[inline]
fn hash(key: &Key) -> u64 {
    let words = key
        .chunks_exact(8)
        .map(|word| u64::from_ne_bytes(word.try_into().expect("eight bytes")));
    let hash = words.fold(0u64, |hash, word| {
        (hash.rotate_left(5) ^ word).wrapping_mul(0x517C_C1B7_2722_0A95)
    });
    hash ^ (hash >> 32)
}

#[inline]
fn check(error: i32) {
    assert_eq!(error, 0, "pthread mutex: {}", std::io::Error::from_raw_os_error(error));
}
