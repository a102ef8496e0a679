//! The word that the kernel marks when a thread dies: `list_op_pending` of its robust list.
//!
//! A thread registers a list of robust futexes with the kernel; the C library does it for every thread. When the
//! thread ends, by whatever cause, the kernel walks the list, and then the one futex that `list_op_pending`
//! names: if the low 30 bits of that word are the thread's TID, they are replaced by OWNER_DIED, and a sleeper is
//! woken. We leave the list to the C library and use the pending field only: one store before taking a lock.
//!
//! The field holds an address of the C library's mutex layout, at a fixed distance from the futex word
//! (`futex_offset`); that distance is read from the kernel, not assumed.

use std::ffi::c_void;
use std::io;
use std::mem::MaybeUninit;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering, compiler_fence};

use super::check;

/// Mask of the thread id in a robust futex word.
pub const TID_MASK: u32 = libc::FUTEX_TID_MASK;
/// The kernel's mark: the owner died.
pub const OWNER_DIED: u32 = libc::FUTEX_OWNER_DIED;
/// Somebody sleeps on the word.
pub const WAITERS: u32 = libc::FUTEX_WAITERS;

/// `struct robust_list_head` of linux/futex.h.
#[repr(C)]
struct Head {
    list: usize,
    futex_offset: isize,
    list_op_pending: usize,
}

/// The pending field of one thread. Only that thread may use it, and a copy ends with it.
#[derive(Clone, Copy)]
pub struct Robust {
    pending: NonNull<usize>,
    offset: isize,
}

impl Robust {
    /// The calling thread's field, or `None` if its C library registers no robust list.
    pub fn of_this_thread() -> io::Result<Option<Self>> {
        let registered = Self::registered()?;
        if registered.is_some() {
            return Ok(registered);
        }
        // musl registers the list when a thread takes its first robust mutex.
        take_a_robust_mutex()?;
        Self::registered()
    }

    fn registered() -> io::Result<Option<Self>> {
        let mut head = ptr::null_mut::<Head>();
        let mut length = 0usize;
        // SAFETY: the kernel stores a pointer and a length into the two variables; 0 means the caller.
        check(unsafe { libc::syscall(libc::SYS_get_robust_list, 0, &raw mut head, &raw mut length) })?;
        let Some(head) = NonNull::new(head).filter(|_| length == size_of::<Head>()) else {
            return Ok(None);
        };
        // SAFETY: the C library registered this head for the calling thread and keeps it as long as the thread;
        // it never changes the offset once the list is registered.
        let offset = unsafe { (*head.as_ptr()).futex_offset };
        if offset == 0 {
            return Ok(None);
        }
        // SAFETY: a field of the same head.
        let pending = unsafe { &raw mut (*head.as_ptr()).list_op_pending };
        Ok(NonNull::new(pending).map(|pending| Self { pending, offset }))
    }

    /// From here on the kernel marks `word` if it holds this thread's TID when the thread ends.
    #[inline(always)]
    pub fn arm(self, word: *const AtomicU32) {
        #[cfg(all(loom, test))]
        if crate::models::system::arm(word.addr()) {
            return;
        }
        let entry = word.addr().wrapping_add_signed(self.offset.wrapping_neg());
        // SAFETY: the field belongs to the calling thread (see the type) and is a plain word; volatile, because
        // the kernel reads it behind the compiler's back.
        unsafe { self.pending.as_ptr().write_volatile(entry) };
        // The kernel reads the field in program order of this thread: only the compiler could reorder. Pairs with
        // no other thread.
        compiler_fence(Ordering::SeqCst);
    }

    /// As [`Robust::clear`], and returns what was there.
    pub fn take(self) -> Pending {
        // SAFETY: as in `arm`.
        let pending = unsafe { self.pending.as_ptr().read_volatile() };
        self.clear();
        Pending(pending)
    }

    /// Puts back what [`Robust::take`] took.
    pub fn restore(self, pending: Pending) {
        // SAFETY: as in `arm`.
        unsafe { self.pending.as_ptr().write_volatile(pending.0) };
        compiler_fence(Ordering::SeqCst);
    }

    /// The kernel marks nothing when this thread ends.
    #[inline(always)]
    pub fn clear(self) {
        #[cfg(all(loom, test))]
        if crate::models::system::arm(0) {
            return;
        }
        compiler_fence(Ordering::SeqCst);
        // SAFETY: as in `arm`.
        unsafe { self.pending.as_ptr().write_volatile(0) };
    }
}

/// What the field held, for [`Robust::restore`].
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Pending(usize);

impl Pending {
    /// Nothing is armed.
    pub const NONE: Self = Self(0);
}

/// Locks and unlocks a robust mutex of the C library once.
fn take_a_robust_mutex() -> io::Result<()> {
    let mut attributes = MaybeUninit::<libc::pthread_mutexattr_t>::uninit();
    let mut mutex = MaybeUninit::<libc::pthread_mutex_t>::uninit();
    // SAFETY: initialises the attributes, which live to the end of this function.
    ok(unsafe { libc::pthread_mutexattr_init(attributes.as_mut_ptr()) })?;
    // SAFETY: the attributes are initialised.
    ok(unsafe { libc::pthread_mutexattr_setrobust(attributes.as_mut_ptr(), libc::PTHREAD_MUTEX_ROBUST) })?;
    // SAFETY: initialises the mutex from initialised attributes.
    ok(unsafe { libc::pthread_mutex_init(mutex.as_mut_ptr(), attributes.as_ptr()) })?;
    // SAFETY: the mutex is initialised and nobody else knows it.
    ok(unsafe { libc::pthread_mutex_lock(mutex.as_mut_ptr()) })?;
    // SAFETY: locked by this thread just now.
    ok(unsafe { libc::pthread_mutex_unlock(mutex.as_mut_ptr()) })?;
    // SAFETY: unlocked, and never used again.
    ok(unsafe { libc::pthread_mutex_destroy(mutex.as_mut_ptr()) })
}

/// Turns what the pthread functions return into a result.
fn ok(error: i32) -> io::Result<()> {
    if error == 0 {
        Ok(())
    } else {
        Err(io::Error::from_raw_os_error(error))
    }
}

/// Runs `work` on a word in a thread of its own, and waits for the thread's end.
///
/// Not a thread of the standard library, whose start allocates a signal stack and ends the *process* where that fails.
fn run_in_thread(work: extern "C" fn(*mut c_void) -> *mut c_void, word: &AtomicU32) -> io::Result<()> {
    const STACK: usize = 256 * 1024;
    let mut attributes = MaybeUninit::<libc::pthread_attr_t>::uninit();
    // SAFETY: initialises the attributes, which live to the end of this function.
    ok(unsafe { libc::pthread_attr_init(attributes.as_mut_ptr()) })?;
    // SAFETY: the attributes are initialised. A size that the C library finds too small leaves its default.
    let _ = unsafe { libc::pthread_attr_setstacksize(attributes.as_mut_ptr(), STACK) };
    let mut thread = MaybeUninit::<libc::pthread_t>::uninit();
    let argument = ptr::from_ref(word).cast_mut().cast();
    let mut start = |attributes| {
        // SAFETY: `work` gets the address of a word that outlives the thread, which is joined below.
        ok(unsafe { libc::pthread_create(thread.as_mut_ptr(), attributes, work, argument) })
    };
    // The C library takes a program's static thread locals out of the stack, which may then be too small. Its default
    // makes room for them.
    let started = start(attributes.as_ptr()).or_else(|error| match error.raw_os_error() {
        Some(libc::EINVAL) => start(ptr::null()),
        _ => Err(error),
    });
    // SAFETY: initialised above, and not used again.
    unsafe { libc::pthread_attr_destroy(attributes.as_mut_ptr()) };
    started?;
    // SAFETY: filled by the call, which succeeded.
    let thread = unsafe { thread.assume_init() };
    // SAFETY: a thread that was started joinable and is joined here only; so this cannot fail.
    ok(unsafe { libc::pthread_join(thread, ptr::null_mut()) })
}

/// Writes the thread's name into the word, as an owner would, and returns, which ends the thread.
extern "C" fn die_owning(word: *mut c_void) -> *mut c_void {
    // SAFETY: `run_in_thread` passes the address of a word that outlives this thread.
    let word = unsafe { &*word.cast::<AtomicU32>() };
    if let Ok(Some(robust)) = Robust::of_this_thread() {
        robust.arm(word);
        word.store(super::process::thread_id(), Ordering::Relaxed);
    }
    ptr::null_mut()
}

/// Whether the kernel does its part, tried once per program with a thread that ends while it owns a scratch word.
///
/// Emulated kernels (user-mode emulators, some sandboxes) accept the list and then never look at it.
pub fn kernel_marks_dead_threads() -> io::Result<bool> {
    const UNKNOWN: u8 = 0;
    const YES: u8 = 1;
    const NO: u8 = 2;
    static ANSWER: AtomicU8 = AtomicU8::new(UNKNOWN);
    let known = ANSWER.load(Ordering::Relaxed);
    if known != UNKNOWN {
        return Ok(known == YES);
    }
    let word = AtomicU32::new(0);
    run_in_thread(die_owning, &word)?;
    // The kernel marks before it announces the end of the thread to the joiner.
    let marked = word.load(Ordering::Acquire) == OWNER_DIED;
    ANSWER.store(if marked { YES } else { NO }, Ordering::Relaxed);
    Ok(marked)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_kernel_marks_dead_threads() {
        assert!(kernel_marks_dead_threads().unwrap());
        assert!(kernel_marks_dead_threads().unwrap());
    }

    #[test]
    fn a_robust_mutex_can_be_taken_to_register_the_list() {
        take_a_robust_mutex().unwrap();
        assert!(Robust::of_this_thread().unwrap().is_some());
    }
}
