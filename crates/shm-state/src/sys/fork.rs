//! Notices that this process is a forked child of the one that set things up.
//!
//! One private page holds an *epoch* ≠ 0. The kernel gives a child that does not share its parent's memory an
//! empty page instead (`MADV_WIPEONFORK`), also after a raw `clone` that runs no atfork handler; the handler
//! covers kernels without that advice. Whatever was set up under an epoch (ids, attachments, thread states)
//! keeps a copy of it and is valid only while [`epoch`] returns the same. [`renew`] writes a new one, which
//! differs from those of all ancestors, because the counter it comes from is inherited.

use std::ptr::NonNull;
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};
use std::{io, num::NonZeroUsize};

use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap_anonymous};

/// Where the epoch is before there is a page: 0, "not set up".
static NO_PAGE: AtomicU64 = AtomicU64::new(0);
/// The page; its address is the same in a child, its content is not.
static PAGE: AtomicPtr<AtomicU64> = AtomicPtr::new((&raw const NO_PAGE).cast_mut());
/// The last epoch given out in this process or its ancestors.
static LAST: AtomicU64 = AtomicU64::new(0);

/// The epoch of this process: 0 before the first [`renew`] and in a forked child until its own.
#[inline(always)]
pub fn epoch() -> u64 {
    // Relaxed on x86 and Acquire where it matters are the same cost: pairs with the publication in `page`.
    let page = PAGE.load(Ordering::Acquire);
    // SAFETY: `PAGE` points to the static or to the page, and neither is ever freed.
    let page = unsafe { &*page };
    page.load(Ordering::Relaxed)
}

/// The word that [`epoch`] reads; one that holds 0 if there is none, which only is so before the first [`renew`].
pub fn word() -> &'static AtomicU64 {
    static NONE: AtomicU64 = AtomicU64::new(0);
    page().unwrap_or(&NONE)
}

/// The epoch of this process, set up first if there is none.
pub fn renew() -> io::Result<u64> {
    let page = page()?;
    let old = page.load(Ordering::Relaxed);
    if old != 0 {
        return Ok(old);
    }
    let new = LAST.fetch_add(1, Ordering::Relaxed) + 1;
    // Two threads may come here together: one of the two epochs is used.
    Ok(page
        .compare_exchange(0, new, Ordering::Relaxed, Ordering::Relaxed)
        .map_or_else(|other| other, |_| new))
}

/// A function that the C library calls around a fork.
pub type Handler = unsafe extern "C" fn();

/// Has `before` and `after` run in the thread that forks through the C library, and `in_child` in the child, whose only
/// thread is a copy of it.
pub fn around(before: Option<Handler>, after: Option<Handler>, in_child: Handler) -> io::Result<()> {
    // SAFETY: the handlers are functions of this program, which is not unloaded while its code runs.
    let error = unsafe { libc::pthread_atfork(before, after, Some(in_child)) };
    if error == 0 {
        Ok(())
    } else {
        Err(io::Error::from_raw_os_error(error))
    }
}

/// A value that each process makes for itself: a forked child makes a new one, since the one that it inherits may be
/// locked by a thread that it does not have. What was made is never dropped.
///
/// ```
/// use std::sync::Mutex;
/// use shm_state::PerProcess;
///
/// static NUMBERS: PerProcess<Mutex<Vec<u32>>> = PerProcess::new();
///
/// NUMBERS.get()?.lock().unwrap().push(5);
/// assert_eq!(*NUMBERS.get()?.lock().unwrap(), [5]);
/// # Ok::<(), std::io::Error>(())
/// ```
pub struct PerProcess<T: 'static>(AtomicPtr<Made<T>>);

struct Made<T> {
    epoch: u64,
    value: T,
}

impl<T> PerProcess<T> {
    /// With no value yet.
    ///
    /// ```
    /// use shm_state::PerProcess;
    /// use std::sync::atomic::AtomicU32;
    ///
    /// static COUNT: PerProcess<AtomicU32> = PerProcess::new();
    /// assert_eq!(COUNT.get()?.load(std::sync::atomic::Ordering::Relaxed), 0);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub const fn new() -> Self {
        Self(AtomicPtr::new(std::ptr::null_mut()))
    }
}

impl<T> Default for PerProcess<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: Default + Send + Sync> PerProcess<T> {
    /// The value of this process, made if there is none.
    ///
    /// # Errors
    /// Those of mapping a page, the first time.
    ///
    /// ```
    /// use shm_state::PerProcess;
    /// use std::sync::atomic::AtomicU32;
    ///
    /// static COUNT: PerProcess<AtomicU32> = PerProcess::new();
    /// assert!(std::ptr::eq(COUNT.get()?, COUNT.get()?));
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn get(&self) -> io::Result<&'static T> {
        let epoch = renew()?;
        loop {
            // Acquire pairs with the Release of whoever made it.
            let now = self.0.load(Ordering::Acquire);
            // SAFETY: null, or a leaked box that nobody ever frees.
            if let Some(made) = unsafe { now.as_ref() }
                && made.epoch == epoch
            {
                return Ok(&made.value);
            }
            let value = T::default();
            let new = Box::into_raw(Box::new(Made { epoch, value }));
            if self
                .0
                .compare_exchange(now, new, Ordering::AcqRel, Ordering::Relaxed)
                .is_err()
            {
                // SAFETY: another thread was faster; ours was never shared.
                drop(unsafe { Box::from_raw(new) });
            }
        }
    }

    /// Whether this is the value of this process, and not the one that it inherited when it was forked.
    ///
    /// ```
    /// use shm_state::PerProcess;
    /// use std::sync::atomic::AtomicU32;
    ///
    /// static COUNT: PerProcess<AtomicU32> = PerProcess::new();
    /// assert!(COUNT.is_current(COUNT.get()?)); // this process was not forked since
    /// assert!(!COUNT.is_current(&AtomicU32::new(0)));
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn is_current(&self, value: &T) -> bool {
        // SAFETY: as in `get`.
        let made = unsafe { self.0.load(Ordering::Acquire).as_ref() };
        made.is_some_and(|made| made.epoch == epoch() && std::ptr::eq(&raw const made.value, value))
    }
}

fn page() -> io::Result<&'static AtomicU64> {
    let current = PAGE.load(Ordering::Acquire);
    if std::ptr::eq(current, &raw const NO_PAGE) {
        return publish_page();
    }
    // SAFETY: not the static, so it is the page, which is never freed.
    Ok(unsafe { &*current })
}

#[cold]
fn publish_page() -> io::Result<&'static AtomicU64> {
    let length = NonZeroUsize::MIN;
    let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    // SAFETY: a new mapping at an address of the kernel's choice touches no existing memory.
    let new = unsafe { mmap_anonymous(None, length, access, MapFlags::MAP_PRIVATE) }?;
    // SAFETY: the advice covers the new page only. It is missing before Linux 4.14: then the handler does it.
    let _ = unsafe { madvise(new, length.get(), MmapAdvise::MADV_WIPEONFORK) };
    let new: NonNull<AtomicU64> = new.cast();
    let published = PAGE.compare_exchange(
        (&raw const NO_PAGE).cast_mut(),
        new.as_ptr(),
        // Release: who loads the pointer finds a mapped page. Acquire: the other thread's page.
        Ordering::AcqRel,
        Ordering::Acquire,
    );
    // A page that lost the race stays mapped and unused: once, 4 KiB.
    let page = published.map_or_else(|other| other, |_| new.as_ptr());
    around(None, None, wipe)?;
    // SAFETY: a mapped page that is never freed, zeroed by the kernel, aligned far beyond 8.
    Ok(unsafe { &*page })
}

extern "C" fn wipe() {
    // SAFETY: as in `epoch`.
    let page = unsafe { &*PAGE.load(Ordering::Acquire) };
    page.store(0, Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Forks with `fork`; the child leaves with status 0 if `test` holds in it.
    fn holds_in_child(fork: impl FnOnce() -> i32, test: impl FnOnce() -> bool) -> bool {
        let pid = fork();
        if pid == 0 {
            let status = i32::from(!test());
            // SAFETY: leaves the child without running anything of the test binary.
            unsafe { libc::_exit(status) };
        }
        let mut status = -1;
        // SAFETY: waits for the child that was just made; `status` outlives the call.
        assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, 0) }, pid);
        status == 0
    }

    #[test]
    fn each_process_makes_its_own_value() {
        static VALUE: PerProcess<AtomicU64> = PerProcess::new();
        let value = VALUE.get().unwrap();
        value.store(7, Ordering::Relaxed);
        let in_child = || {
            let inherited = !VALUE.is_current(value);
            let own = VALUE.get().unwrap();
            inherited && own.load(Ordering::Relaxed) == 0 && VALUE.is_current(own) && !VALUE.is_current(value)
        };
        // SAFETY: the child allocates, which the C library allows after a fork, reads and writes atomics, and exits.
        assert!(holds_in_child(|| unsafe { libc::fork() }, in_child));
        assert!(VALUE.is_current(value) && std::ptr::eq(VALUE.get().unwrap(), value));
    }

    fn child_is_noticed_and_renewed() -> bool {
        let parent = LAST.load(Ordering::Relaxed);
        epoch() == 0 && renew().is_ok_and(|new| new > parent && epoch() == new)
    }

    #[test]
    fn a_child_has_no_epoch_until_it_renews() {
        let before = renew().unwrap();
        assert!(before != 0 && epoch() == before && renew().unwrap() == before);
        // SAFETY: the child only reads and writes atomics, makes plain system calls and exits.
        assert!(holds_in_child(|| unsafe { libc::fork() }, child_is_noticed_and_renewed));
        let raw = || {
            // SAFETY: as above; a raw clone like fork, which runs no handler.
            let pid = unsafe { libc::syscall(libc::SYS_clone, libc::SIGCHLD, 0, 0, 0, 0) };
            i32::try_from(pid).unwrap_or(-1)
        };
        assert!(holds_in_child(raw, child_is_noticed_and_renewed));
        assert_eq!(epoch(), before);
    }
}
