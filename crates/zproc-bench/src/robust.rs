//! A counter under the robust mutex of the C library: what a state's atomic increments are measured against.

use std::cell::UnsafeCell;
use std::mem::MaybeUninit;

use libc::{pthread_mutex_t, pthread_mutexattr_t};

/// A number under a mutex that processes share and whose owner may die.
#[repr(C, align(128))]
pub struct RobustCounter {
    mutex: UnsafeCell<pthread_mutex_t>,
    value: UnsafeCell<u64>,
}

// SAFETY: `value` is only touched by who holds the mutex, and the mutex is made to be shared.
unsafe impl Sync for RobustCounter {}

impl RobustCounter {
    /// Makes the mutex. Once, before anybody increments.
    pub fn initialise(&self) {
        let mut attributes = MaybeUninit::<pthread_mutexattr_t>::uninit();
        let attributes = attributes.as_mut_ptr();
        // SAFETY: there is room for the attributes behind the pointer.
        check(unsafe { libc::pthread_mutexattr_init(attributes) });
        // SAFETY: they were initialised above.
        check(unsafe { libc::pthread_mutexattr_setrobust(attributes, libc::PTHREAD_MUTEX_ROBUST) });
        // SAFETY: as above.
        check(unsafe { libc::pthread_mutexattr_setpshared(attributes, libc::PTHREAD_PROCESS_SHARED) });
        // SAFETY: as above; nobody uses the mutex yet, as the caller promises.
        check(unsafe { libc::pthread_mutex_init(self.mutex.get(), attributes) });
    }

    /// Adds one, under the mutex.
    #[inline]
    pub fn increment(&self) {
        // SAFETY: the mutex was initialised, and its memory is mapped for as long as `self`.
        check(unsafe { libc::pthread_mutex_lock(self.mutex.get()) });
        // SAFETY: we hold the mutex.
        unsafe { *self.value.get() += 1 };
        // SAFETY: as for locking it; this thread holds it.
        check(unsafe { libc::pthread_mutex_unlock(self.mutex.get()) });
    }
}

#[inline]
fn check(error: i32) {
    assert_eq!(error, 0, "pthread mutex: {}", std::io::Error::from_raw_os_error(error));
}
