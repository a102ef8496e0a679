//! Counting what std collections take from the heap.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

/// The system's allocator, with a count of the bytes it has handed out that runs during [`bytes_taken_by`] only. To be
/// declared as the `#[global_allocator]`.
pub struct CountingAllocator;

static COUNTING: AtomicBool = AtomicBool::new(false);
static BYTES: AtomicI64 = AtomicI64::new(0);

/// The result of `f`, and how many bytes of the heap it holds: those that can be used, which are as many as were asked
/// for or a few more; not the allocator's own. No other thread may use the heap meanwhile.
pub fn bytes_taken_by<T>(f: impl FnOnce() -> T) -> (T, i64) {
    BYTES.store(0, Ordering::Relaxed);
    COUNTING.store(true, Ordering::Relaxed);
    let result = f();
    COUNTING.store(false, Ordering::Relaxed);
    (result, BYTES.load(Ordering::Relaxed))
}

#[inline]
fn count(block: *mut u8, sign: i64) {
    if COUNTING.load(Ordering::Relaxed) && !block.is_null() {
        // SAFETY: the block is one that the system's allocator has handed out and not yet got back.
        let size = unsafe { libc::malloc_usable_size(block.cast()) };
        BYTES.fetch_add(sign * size as i64, Ordering::Relaxed);
    }
}

// SAFETY: every call is passed on to the system's allocator as it came.
unsafe impl GlobalAlloc for CountingAllocator {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller keeps the contract of this very function.
        let block = unsafe { System.alloc(layout) };
        count(block, 1);
        block
    }

    #[inline]
    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        count(block, -1);
        // SAFETY: as in `alloc`.
        unsafe { System.dealloc(block, layout) }
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as in `alloc`.
        let block = unsafe { System.alloc_zeroed(layout) };
        count(block, 1);
        block
    }

    #[inline]
    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(block, -1);
        // SAFETY: as in `alloc`.
        let moved = unsafe { System.realloc(block, layout, size) };
        count(moved, 1);
        moved
    }
}
