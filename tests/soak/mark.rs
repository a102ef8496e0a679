//! The kernel's mark on the lock of a dead thread, and how a program loses it without meaning to.
//!
//! The kernel is told of the lock by one field of the thread's robust list, which the C library uses for its own
//! mutexes: who takes and releases a robust mutex inside of a transaction, leaves the field empty.

use std::mem::MaybeUninit;

/// Takes and releases a robust mutex of the C library.
pub fn lose() {
    let mut attributes = MaybeUninit::<libc::pthread_mutexattr_t>::uninit();
    let attributes = attributes.as_mut_ptr();
    // SAFETY: there is room for the attributes behind the pointer.
    check(unsafe { libc::pthread_mutexattr_init(attributes) });
    // SAFETY: they were initialised above.
    check(unsafe { libc::pthread_mutexattr_setrobust(attributes, libc::PTHREAD_MUTEX_ROBUST) });
    let mut mutex = MaybeUninit::<libc::pthread_mutex_t>::uninit();
    let mutex = mutex.as_mut_ptr();
    // SAFETY: there is room for the mutex behind the pointer, and the attributes were initialised.
    check(unsafe { libc::pthread_mutex_init(mutex, attributes) });
    // SAFETY: initialised above, and it stays where it is until it is destroyed.
    check(unsafe { libc::pthread_mutex_lock(mutex) });
    // SAFETY: this thread holds it.
    check(unsafe { libc::pthread_mutex_unlock(mutex) });
    // SAFETY: nobody holds it, and nobody else knows it.
    check(unsafe { libc::pthread_mutex_destroy(mutex) });
    // SAFETY: not used any more.
    check(unsafe { libc::pthread_mutexattr_destroy(attributes) });
}

/// Whether the kernel would mark a lock if this thread died now.
pub fn is_there() -> bool {
    let mut head: *const [usize; 3] = std::ptr::null();
    let mut length = 0_usize;
    // SAFETY: the kernel writes a pointer and a length to where these two are; 0 means this thread.
    let result = unsafe { libc::syscall(libc::SYS_get_robust_list, 0, &raw mut head, &raw mut length) };
    assert_eq!((result, length), (0, size_of::<[usize; 3]>()));
    // SAFETY: the C library registered this thread's `struct robust_list_head`, three words, which live as long as the
    // thread; `list_op_pending` is the last. Volatile, since the engine writes it behind the compiler's back.
    unsafe { head.cast::<usize>().wrapping_add(2).read_volatile() != 0 }
}

fn check(error: i32) {
    assert_eq!(error, 0, "pthread mutex: {}", std::io::Error::from_raw_os_error(error));
}
