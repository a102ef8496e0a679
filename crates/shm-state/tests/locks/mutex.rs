//! Mutexes of the C library, which use the same field of a thread as the writer lock does.

use std::cell::UnsafeCell;
use std::mem::MaybeUninit;

/// A robust mutex, perhaps one that inherits priorities too.
pub struct Mutex(Box<UnsafeCell<libc::pthread_mutex_t>>);

// SAFETY: it is a mutex: all accesses go through the C library's functions.
unsafe impl Sync for Mutex {}
// SAFETY: as above; it stays where it was allocated.
unsafe impl Send for Mutex {}

fn ok(error: i32) {
    assert_eq!(error, 0, "{}", std::io::Error::from_raw_os_error(error));
}

impl Mutex {
    /// A robust one.
    pub fn robust() -> Self {
        Self::new(libc::PTHREAD_MUTEX_ROBUST, libc::PTHREAD_PRIO_NONE)
    }

    /// One that inherits priorities, and is robust or not.
    pub fn inheriting(robust: bool) -> Self {
        let robust = if robust {
            libc::PTHREAD_MUTEX_ROBUST
        } else {
            libc::PTHREAD_MUTEX_STALLED
        };
        Self::new(robust, libc::PTHREAD_PRIO_INHERIT)
    }

    fn new(robust: i32, protocol: i32) -> Self {
        let mut attributes = MaybeUninit::<libc::pthread_mutexattr_t>::uninit();
        let mutex = Box::new(UnsafeCell::new(libc::PTHREAD_MUTEX_INITIALIZER));
        // SAFETY: initialises the attributes, which live to the end of this function.
        ok(unsafe { libc::pthread_mutexattr_init(attributes.as_mut_ptr()) });
        // SAFETY: the attributes are initialised.
        ok(unsafe { libc::pthread_mutexattr_setrobust(attributes.as_mut_ptr(), robust) });
        // SAFETY: as above.
        ok(unsafe { libc::pthread_mutexattr_setprotocol(attributes.as_mut_ptr(), protocol) });
        // SAFETY: nobody else knows the mutex yet.
        ok(unsafe { libc::pthread_mutex_init(mutex.get(), attributes.as_ptr()) });
        Self(mutex)
    }

    /// Locks it. The last owner must not have died.
    pub fn lock(&self) {
        // SAFETY: initialised by `new`.
        ok(unsafe { libc::pthread_mutex_lock(self.0.get()) });
    }

    /// Unlocks it, on the thread that locked it.
    pub fn unlock(&self) {
        // SAFETY: initialised by `new`.
        ok(unsafe { libc::pthread_mutex_unlock(self.0.get()) });
    }

    /// Locks a copy, whose memory is the caller's and may vanish.
    ///
    /// The mutex must be new, for a copy of one that was used means nothing.
    pub fn lock_a_copy_at(self, place: *mut libc::pthread_mutex_t) {
        // SAFETY: the C library keeps no address of a mutex that nobody has locked; the caller's memory is large enough.
        unsafe { place.write(self.0.into_inner()) };
        // SAFETY: initialised just now.
        ok(unsafe { libc::pthread_mutex_lock(place) });
    }

    /// Whether its last owner died; then it is locked and made whole again.
    pub fn lock_after_death(&self) -> bool {
        // SAFETY: initialised by `new`.
        match unsafe { libc::pthread_mutex_lock(self.0.get()) } {
            libc::EOWNERDEAD => {
                // SAFETY: the caller owns it in the inconsistent state.
                ok(unsafe { libc::pthread_mutex_consistent(self.0.get()) });
                true
            }
            error => {
                ok(error);
                false
            }
        }
    }
}

/// Has the kernel forget which lock this thread holds, by the one means that programs have: a robust mutex.
pub fn lose_mark() {
    let mutex = Mutex::robust();
    mutex.lock();
    mutex.unlock();
}
