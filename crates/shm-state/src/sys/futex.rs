//! Futex system calls on words that several processes share. Never the PRIVATE kind: it would key the sleepers
//! by this process's address, and nobody else's wake would reach them.

use std::ptr;
use std::sync::atomic::AtomicU32;
use std::time::Duration;

use super::time::Deadline;
use crate::sync::Wait;

/// The most words that the kernel watches at once. With more, a sleep lasts 10 ms at most.
///
/// ```
/// use shm_state::{Events, KeyRef, MOST_WORDS, On};
///
/// let hashes: Vec<u64> = (0..1000u32).map(|n| KeyRef::new(1, &n.to_le_bytes()).hash()).collect();
/// let mut events = Events::new();
/// events.add(On::Keys(&hashes));
/// assert!(events.len() > MOST_WORDS);
/// events.widen();
/// assert!(events.len() <= MOST_WORDS);
/// ```
pub const MOST_WORDS: usize = libc::FUTEX_WAITV_MAX as usize;

/// How often words are looked at that the kernel cannot watch for us.
const POLL: Duration = Duration::from_millis(10);

/// Sleeps while the word equals `expected`, until a [`wake`] that shares a bit with `bits`, or the deadline.
///
/// A word at an unmapped address reports [`Wait::Changed`].
pub fn wait(address: *const AtomicU32, expected: u32, bits: u32, deadline: Deadline) -> Wait {
    #[cfg(all(loom, test))]
    if let Some(ended) = crate::models::system::wait(&[(address.addr(), expected, bits)], deadline) {
        return ended;
    }
    let timeout = deadline.timespec();
    let timeout_pointer = timeout.as_ref().map_or(ptr::null(), ptr::from_ref);
    // SAFETY: the kernel reads the word with its own checked access and reads the timeout, which outlives the
    // call; it writes neither. A wrong address is an error, not undefined behaviour.
    let result = unsafe {
        libc::syscall(
            libc::SYS_futex,
            address,
            libc::FUTEX_WAIT_BITSET,
            expected,
            timeout_pointer,
            ptr::null::<u32>(),
            bits,
        )
    };
    outcome(result)
}

/// Wakes at most `count` sleepers whose bits share one with `bits`; returns how many.
pub fn wake(address: *const AtomicU32, count: u32, bits: u32) -> u32 {
    #[cfg(all(loom, test))]
    if let Some(woken) = crate::models::system::wake(address.addr(), count, bits) {
        return woken;
    }
    let count = i32::try_from(count).unwrap_or(i32::MAX);
    // SAFETY: waking only uses the address as a key; a wrong one is an error, not undefined behaviour.
    let woken = unsafe {
        libc::syscall(
            libc::SYS_futex,
            address,
            libc::FUTEX_WAKE_BITSET,
            count,
            ptr::null::<libc::timespec>(),
            ptr::null::<u32>(),
            bits,
        )
    };
    u32::try_from(woken).unwrap_or(0)
}

/// Sleeps while every word holds what is expected of it, until one of them is woken, or the deadline.
///
/// Beyond [`MOST_WORDS`] words, or on a kernel without `futex_waitv` (before Linux 5.16), the sleep is cut to
/// 10 ms and then reported as [`Wait::Woken`]: the caller looks at its words again.
pub fn wait_any(words: &[Waiter], deadline: Deadline) -> Wait {
    if let [word] = words {
        return wait(word.address(), word.value as u32, crate::sync::ANY, deadline);
    }
    #[cfg(all(loom, test))]
    {
        let list: Vec<_> = words
            .iter()
            .map(|word| (word.address as usize, word.value as u32, u32::MAX))
            .collect();
        if let Some(ended) = crate::models::system::wait(&list, deadline) {
            return ended;
        }
    }
    let known = words.len().min(MOST_WORDS);
    let until = if words.len() > known {
        deadline.sooner_of(POLL)
    } else {
        deadline
    };
    match wait_listed(&words[..known], until) {
        Ok(Wait::TimedOut) if !deadline.passed() => Wait::Woken,
        Ok(wait) => wait,
        Err(NotThere) => match words.first() {
            Some(word) => match wait(
                word.address(),
                word.value as u32,
                crate::sync::ANY,
                deadline.sooner_of(POLL),
            ) {
                Wait::TimedOut if !deadline.passed() => Wait::Woken,
                wait => wait,
            },
            None => Wait::Woken,
        },
    }
}

/// A word to sleep on and what it must hold for that: `struct futex_waitv` of linux/futex.h. It is a number to the
/// kernel, which looks there by an access of its own, so it may outlive the word.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waiter {
    value: u64,
    address: u64,
    flags: u32,
    reserved: u32,
}

impl Waiter {
    /// Sleeps on `word` while it holds `expected`.
    pub fn new(word: *const AtomicU32, expected: u32) -> Self {
        Self {
            value: u64::from(expected),
            address: word.addr() as u64,
            flags: FUTEX2_SIZE_U32,
            reserved: 0,
        }
    }

    fn address(&self) -> *const AtomicU32 {
        ptr::without_provenance(self.address as usize)
    }
}

/// A 32-bit word; without FUTEX2_PRIVATE it is shared.
const FUTEX2_SIZE_U32: u32 = 2;

/// The kernel has no `futex_waitv`.
struct NotThere;

fn wait_listed(list: &[Waiter], deadline: Deadline) -> Result<Wait, NotThere> {
    let timeout = deadline.timespec();
    let timeout_pointer = timeout.as_ref().map_or(ptr::null(), ptr::from_ref);
    // SAFETY: the kernel reads `list.len()` entries of the layout that it documents, and the timeout; both
    // outlive the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_futex_waitv,
            list.as_ptr(),
            list.len(),
            0u32,
            timeout_pointer,
            libc::CLOCK_MONOTONIC,
        )
    };
    // EPERM: how container runtimes refuse calls that they do not know.
    if result == -1
        && matches!(
            nix::errno::Errno::last(),
            nix::errno::Errno::ENOSYS | nix::errno::Errno::EPERM
        )
    {
        return Err(NotThere);
    }
    Ok(outcome(result))
}

fn outcome(result: libc::c_long) -> Wait {
    use nix::errno::Errno;
    if result >= 0 {
        return Wait::Woken;
    }
    match Errno::last() {
        Errno::ETIMEDOUT => Wait::TimedOut,
        Errno::EINTR => Wait::Woken,
        // EAGAIN; anything else (EFAULT, EINVAL) is a fault of the address: look at the word again.
        _ => Wait::Changed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::Ordering::Relaxed;

    fn in_ms(ms: u64) -> Deadline {
        Deadline::after(Duration::from_millis(ms))
    }

    #[test]
    fn a_sleep_ends_by_change_time_or_wake() {
        let word = AtomicU32::new(7);
        assert_eq!(wait(&word, 8, 1, Deadline::never()), Wait::Changed);
        assert_eq!(wait(&word, 7, 1, in_ms(2)), Wait::TimedOut);
        assert_eq!(wake(&word, 1, 1), 0);
        std::thread::scope(|scope| {
            let sleeper = scope.spawn(|| wait(&word, 7, 0b10, in_ms(5_000)));
            while wake(&word, 1, 0b10) == 0 {
                assert_eq!(wake(&word, 1, 0b01), 0, "the bits select");
                std::thread::yield_now();
            }
            assert_eq!(sleeper.join().ok(), Some(Wait::Woken));
        });
    }

    #[test]
    fn any_of_several_words_ends_the_sleep() {
        let words: Vec<AtomicU32> = (0..200).map(AtomicU32::new).collect();
        let list = list_of(&words);
        assert_eq!(wait_any(&list[..3], in_ms(2)), Wait::TimedOut);
        assert_eq!(wait_any(&list, in_ms(2)), Wait::TimedOut);
        assert_eq!(wait_any(&list, in_ms(60)), Wait::Woken, "too many words: polled");
        words[2].store(0, Relaxed);
        assert_eq!(wait_any(&list[..3], in_ms(2)), Wait::Changed);
        words[2].store(2, Relaxed);
        std::thread::scope(|scope| {
            let woken = scope.spawn(|| {
                while wake(&words[1], 1, u32::MAX) == 0 {
                    std::thread::yield_now();
                }
            });
            assert_eq!(wait_any(&list_of(&words[..3]), in_ms(5_000)), Wait::Woken);
            woken.join().ok();
        });
    }

    fn list_of(words: &[AtomicU32]) -> Vec<Waiter> {
        words.iter().map(|w| Waiter::new(w, w.load(Relaxed))).collect()
    }
}
