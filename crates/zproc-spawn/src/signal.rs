//! Signals as events that waits are told of.
//!
//! **Words.** One counter for each signal, and [`news`], a word that moves when one of the counters has. The handler
//! counts, moves the word and wakes its sleepers, writes to an eventfd for those who poll, and runs the handler that was
//! there before. All of that may be done on whichever thread a signal interrupts.
//!
//! **Who waits** notes the word, then compares the counters with those that its thread has seen ([`pending`]), and then
//! sleeps on the word as it was noted. A signal before the comparison is found by it; one after it has moved the word, and
//! the kernel looks at the word once more before it lets the thread sleep. So there is no instant in which a signal is
//! missed, whichever thread the handler runs on.
//!
//! **Who sees a signal**: each thread, once. A thread begins to watch with its first look; signals before that are not its
//! business. Signals of one kind that come between two looks of a thread are one to it, as they are to the kernel.
//!
//! **Chaining.** Each [`install`] keeps what it finds installed, and the handler runs that. Somebody may have put a handler
//! of their own over this one, which runs this one in turn; then a second install puts it on top once more, and it is run
//! twice for a signal, the second time from its own chain. So it notes how deep a thread is in it: only the outermost
//! counts, and each runs what the install before found. What is kept is never freed, since a handler may run it at any time,
//! but is used again when the same is found again.
//!
//! **Polling.** Nobody reads the eventfd: each wait watches it by an epoll of its own, edge-triggered ([`Bell`]), so that
//! no wait takes another's news.

use std::cell::{Cell, RefCell};
use std::ffi::{c_int, c_void};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicPtr, AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::signal::SigSet;
use shm_state::{CancelWord, Watched};

use crate::check;

/// Numbers of signals are below this.
const MOST: usize = 65;

static ACTIVE: AtomicBool = AtomicBool::new(false);
static NEWS: CancelWord = CancelWord::new();
static COUNTS: [AtomicU32; MOST] = [const { AtomicU32::new(0) }; MOST];
/// The eventfd, for the handler; −1 before there is one.
static RING: AtomicI32 = AtomicI32::new(-1);
static EVENT: OnceLock<EventFd> = OnceLock::new();
/// What was there before the last [`install`]; set before the handler is installed.
static PREVIOUS: [AtomicPtr<Previous>; MOST] = [const { AtomicPtr::new(null_mut()) }; MOST];
/// Held while handlers are changed.
static INSTALLED: Mutex<Installed> = Mutex::new(Installed {
    ours: [false; MOST],
    kept: Vec::new(),
});

struct Installed {
    /// Which signals are ours now.
    ours: [bool; MOST],
    /// All that was ever kept.
    kept: Vec<&'static Previous>,
}

/// What was there before an install. Not written to once it is published.
struct Previous {
    action: libc::sigaction,
    /// What was there before the install before that.
    older: Option<&'static Previous>,
}

thread_local! {
    /// How often this thread is in the handler of a signal. Without initialiser and destructor, so that a handler may use it.
    static DEPTHS: [Cell<u8>; MOST] = const { [const { Cell::new(0) }; MOST] };
    /// What this thread has seen of the counters.
    static SEEN: RefCell<Option<[u32; MOST]>> = const { RefCell::new(None) };
}

/// Whether any signal is an event now. While none is, waits need not look.
#[inline]
pub fn is_active() -> bool {
    // Relaxed: a wait that runs while the first is made an event may be on either side of it.
    ACTIVE.load(Ordering::Relaxed)
}

/// The word that moves with each signal, as it is now.
pub fn news() -> Watched<'static> {
    NEWS.watch()
}

/// A signal that this thread has not been told of yet; it is now.
pub fn pending() -> Option<i32> {
    SEEN.with_borrow_mut(|seen| {
        // Acquire pairs with the handler's Release.
        let now = |signal: usize| COUNTS[signal].load(Ordering::Acquire);
        let Some(seen) = seen else {
            *seen = Some(std::array::from_fn(now));
            return None;
        };
        let signal = (1..MOST).find(|signal| now(*signal) != seen[*signal])?;
        seen[signal] = now(signal);
        i32::try_from(signal).ok()
    })
}

/// Whether [`pending`] would return one. It is the thread's first look, if there was none.
pub fn is_pending() -> bool {
    SEEN.with_borrow_mut(|seen| {
        // Acquire: as in `pending`.
        let now = |signal: usize| COUNTS[signal].load(Ordering::Acquire);
        let seen = seen.get_or_insert_with(|| std::array::from_fn(now));
        (1..MOST).any(|signal| now(signal) != seen[signal])
    })
}

/// Has this thread forget the signals that it was not told of and for which `forgets` holds; whether others are left. It is
/// the thread's first look, if there was none.
pub fn forget(mut forgets: impl FnMut(i32) -> bool) -> bool {
    let mut is_left = false;
    for (signal, count) in COUNTS.iter().enumerate().skip(1) {
        // Acquire: as in `pending`. Nothing is borrowed while `forgets` runs, which may wait for something itself.
        let now = count.load(Ordering::Acquire);
        let seen = SEEN.with_borrow_mut(|seen| seen.get_or_insert_with(counts)[signal]);
        if now == seen {
            continue;
        }
        if i32::try_from(signal).is_ok_and(&mut forgets) {
            SEEN.with_borrow_mut(|seen| seen.get_or_insert_with(counts)[signal] = now);
        } else {
            is_left = true;
        }
    }
    is_left
}

fn counts() -> [u32; MOST] {
    // Acquire: as in `pending`.
    std::array::from_fn(|signal| COUNTS[signal].load(Ordering::Acquire))
}

/// A set of signals, of any numbers that the system knows; others are left out.
pub fn set(signals: impl IntoIterator<Item = i32>) -> SigSet {
    let mut set: libc::sigset_t = *SigSet::empty().as_ref();
    for signal in signals {
        // SAFETY: changes a set of this function's own, which is initialised; a number that is no signal is an error.
        unsafe { libc::sigaddset(&raw mut set, signal) };
    }
    // SAFETY: it was made by the functions of the system for that.
    unsafe { SigSet::from_sigset_t_unchecked(set) }
}

/// Makes a signal an event. What was there before is run, too.
///
/// # Errors
/// EINVAL for a number that is no signal, or that cannot be handled.
pub fn install(signal: i32) -> io::Result<()> {
    let number = index(signal)?;
    if [libc::SIGKILL, libc::SIGSTOP].contains(&signal) {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    let mut installed = INSTALLED.lock().unwrap_or_else(PoisonError::into_inner);
    let event = match EVENT.get() {
        Some(event) => event,
        None => {
            let event = EventFd::from_value_and_flags(0, EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
            EVENT.get_or_init(|| event)
        }
    };
    RING.store(event.as_fd().as_raw_fd(), Ordering::Relaxed);
    shm_state::interrupt_lock_waits(is_pending);
    // This thread watches from now on, if it did not before: a signal that it was not told of yet stays one.
    let _ = is_pending();
    ACTIVE.store(true, Ordering::Relaxed);
    let before = action(signal, None)?;
    if !is_ours(&before) {
        installed.keep(number, before);
        let mut ours = none();
        ours.sa_sigaction = handle as *const () as usize;
        ours.sa_flags = libc::SA_SIGINFO | libc::SA_RESTART | libc::SA_ONSTACK;
        action(signal, Some(&ours))?;
    }
    installed.ours[number] = true;
    Ok(())
}

/// Gives a signal back to what was there before [`install`]. If somebody has put a handler over this one meanwhile, that stays.
///
/// # Errors
/// EINVAL for a number that is no signal.
pub fn restore(signal: i32) -> io::Result<()> {
    let number = index(signal)?;
    let mut installed = INSTALLED.lock().unwrap_or_else(PoisonError::into_inner);
    let is_installed = std::mem::replace(&mut installed.ours[number], false);
    let previous = previous(number, 0);
    if let Some(previous) = previous.filter(|_| is_installed)
        && is_ours(&action(signal, None)?)
    {
        action(signal, Some(&previous.action))?;
        // What is there now may run this handler, which then runs what was there before that.
        if let Some(older) = previous.older {
            publish(number, older);
        }
    }
    // Others that are events stay so. What came until now is still told: that needs `is_active`, which costs little.
    Ok(())
}

/// What is done at a signal now; something else from now on, if that is given.
fn action(signal: i32, new: Option<&libc::sigaction>) -> io::Result<libc::sigaction> {
    let mut before = none();
    let new = new.map_or(std::ptr::null(), std::ptr::from_ref);
    // SAFETY: reads what is null or a reference's and writes what is this function's own. What it is given is `handle`, which
    // has the signature that SA_SIGINFO asks for, does only what may be done in a handler, and is a function of this
    // program; or it is what the system said was there before.
    check(unsafe { libc::sigaction(signal, new, &raw mut before) })?;
    Ok(before)
}

fn none() -> libc::sigaction {
    // SAFETY: plain data, for which zeros are valid.
    unsafe { std::mem::zeroed::<libc::sigaction>() }
}

fn is_ours(action: &libc::sigaction) -> bool {
    action.sa_sigaction == handle as *const () as usize
}

impl Installed {
    /// Keeps what was there before, for the handler.
    fn keep(&mut self, number: usize, action: libc::sigaction) {
        let older = previous(number, 0);
        if older.is_some_and(|kept| kept.action.sa_sigaction == action.sa_sigaction) {
            // As when a signal is installed and restored again and again.
            return;
        }
        let is_it = |kept: &&&'static Previous| {
            let same_older = kept.older.map(std::ptr::from_ref) == older.map(std::ptr::from_ref);
            same_older && is_same(&kept.action, &action)
        };
        // As when there are others who install and restore in between.
        let kept = self.kept.iter().find(is_it).copied().unwrap_or_else(|| {
            let new: &'static Previous = Box::leak(Box::new(Previous { action, older }));
            self.kept.push(new);
            new
        });
        publish(number, kept);
    }
}

fn is_same(one: &libc::sigaction, other: &libc::sigaction) -> bool {
    // SAFETY: the system filled both.
    let mask = |action: &libc::sigaction| unsafe { SigSet::from_sigset_t_unchecked(action.sa_mask) };
    one.sa_sigaction == other.sa_sigaction && one.sa_flags == other.sa_flags && mask(one) == mask(other)
}

/// Has the handler run this one from now on.
fn publish(number: usize, previous: &'static Previous) {
    // Release: with what it points to.
    PREVIOUS[number].store(std::ptr::from_ref(previous).cast_mut(), Ordering::Release);
}

/// What was kept by the last [`install`], or so many before it.
fn previous(number: usize, depth: u8) -> Option<&'static Previous> {
    // Acquire pairs with the Release of `publish`.
    let kept = PREVIOUS.get(number)?.load(Ordering::Acquire);
    // SAFETY: null, or from a reference that stays, to what is not written to since it was published.
    let mut kept = unsafe { kept.as_ref() }?;
    for _ in 0..depth {
        kept = kept.older?;
    }
    Some(kept)
}

fn index(signal: i32) -> io::Result<usize> {
    match usize::try_from(signal) {
        Ok(number) if (1..MOST).contains(&number) => Ok(number),
        _ => Err(io::Error::from_raw_os_error(libc::EINVAL)),
    }
}

extern "C" fn handle(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    let errno = nix::errno::Errno::last_raw();
    let number = usize::try_from(signal).unwrap_or(0);
    let depth = DEPTHS.with(|depths| depths.get(number).map_or(0, Cell::get));
    if depth == 0 {
        tell(number);
    }
    if let Some(before) = previous(number, depth) {
        let set = |depth| DEPTHS.with(|depths| depths.get(number).iter().for_each(|cell| cell.set(depth)));
        set(depth.saturating_add(1));
        chain(&before.action, signal, info, context);
        set(depth);
    }
    nix::errno::Errno::set_raw(errno);
}

/// Counts a signal and wakes who waits.
fn tell(number: usize) {
    if let Some(count) = COUNTS.get(number) {
        // Release pairs with the Acquire of `pending`: what came before the signal is seen by who is told of it.
        count.fetch_add(1, Ordering::Release);
    }
    NEWS.interrupt();
    let ring = RING.load(Ordering::Relaxed);
    let one = 1u64.to_ne_bytes();
    // SAFETY: writes eight bytes of this function's own to an eventfd that is never closed; a full counter is an error,
    // which means that it is readable.
    unsafe { libc::write(ring, one.as_ptr().cast(), one.len()) };
}

/// Runs the handler that was there before, if it was one.
fn chain(before: &libc::sigaction, signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    let handler = before.sa_sigaction;
    if handler == libc::SIG_DFL || handler == libc::SIG_IGN {
        return;
    }
    let handler = std::ptr::with_exposed_provenance::<()>(handler);
    if before.sa_flags & libc::SA_SIGINFO != 0 {
        type Full = extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void);
        // SAFETY: the system said that this is a handler of that kind, neither of the two values that are none.
        let handler = unsafe { std::mem::transmute::<*const (), Full>(handler) };
        handler(signal, info, context);
    } else {
        // SAFETY: as above.
        let handler = unsafe { std::mem::transmute::<*const (), extern "C" fn(c_int)>(handler) };
        handler(signal);
    }
}

/// News of signals for one wait that polls.
pub struct Bell {
    epoll: Epoll,
}

impl Bell {
    /// One for a wait that begins now; `None` while no signal is an event.
    ///
    /// # Errors
    /// Those of the system.
    pub fn new() -> io::Result<Option<Self>> {
        match EVENT.get().filter(|_| is_active()) {
            Some(event) => Self::of(event.as_fd()).map(Some),
            None => Ok(None),
        }
    }

    /// One that is told of each write to an eventfd, which nobody reads.
    ///
    /// # Errors
    /// Those of the system.
    pub fn of(event: BorrowedFd<'_>) -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        epoll.add(event, EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLET, 0))?;
        let bell = Self { epoll };
        // What came before is found by the look that follows.
        bell.silence();
        Ok(bell)
    }

    /// Makes it unreadable until the next news. Call it before looking.
    pub fn silence(&self) {
        let _ = self.epoll.wait(&mut [EpollEvent::empty()], EpollTimeout::ZERO);
    }
}

impl AsFd for Bell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.0.as_fd()
    }
}

/// An eventfd to tell others by, who watch it by a [`Bell`] or a descriptor of their own.
///
/// # Errors
/// Those of the system.
pub fn event_fd() -> io::Result<OwnedFd> {
    let fd = EventFd::from_value_and_flags(0, EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
    Ok(fd.into())
}

/// Writes to an eventfd.
pub fn ring(event: BorrowedFd<'_>) {
    let _ = nix::unistd::write(event, &1u64.to_ne_bytes());
}
