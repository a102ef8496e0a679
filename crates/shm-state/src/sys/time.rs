//! Clocks, and deadlines on the clock that futexes use.

use std::time::Duration;

use nix::time::ClockId;

const NS_PER_SECOND: u64 = 1_000_000_000;

/// An instant of CLOCK_MONOTONIC after which one stops waiting, or never.
///
/// ```
/// use std::time::Duration;
/// use shm_state::Deadline;
///
/// let deadline = Deadline::after(Duration::from_secs(5));
/// assert!(deadline < Deadline::never() && !deadline.passed());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline(u64);

impl Deadline {
    /// Wait for as long as it takes.
    ///
    /// ```
    /// assert!(!shm_state::Deadline::never().passed());
    /// ```
    pub const fn never() -> Self {
        Self(u64::MAX)
    }

    /// A deadline that passed long ago: try once, do not sleep.
    ///
    /// ```
    /// assert!(shm_state::Deadline::at_once().passed());
    /// ```
    pub const fn at_once() -> Self {
        Self(0)
    }

    /// `duration` from now; a duration that the clock cannot reach means never.
    ///
    /// ```
    /// use std::time::Duration;
    /// use shm_state::Deadline;
    ///
    /// assert!(!Deadline::after(Duration::from_secs(60)).passed());
    /// assert_eq!(Deadline::after(Duration::MAX), Deadline::never());
    /// ```
    pub fn after(duration: Duration) -> Self {
        let ns = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        Self(monotonic_ns().saturating_add(ns))
    }

    /// The earlier of the two.
    ///
    /// ```
    /// use shm_state::Deadline;
    ///
    /// assert_eq!(Deadline::never().min(Deadline::at_once()), Deadline::at_once());
    /// ```
    pub fn min(self, other: Self) -> Self {
        Self(self.0.min(other.0))
    }

    /// This deadline, or `slice` from now if that comes first.
    ///
    /// ```
    /// use std::time::Duration;
    /// use shm_state::Deadline;
    ///
    /// let slice = Deadline::never().sooner_of(Duration::from_secs(1));
    /// assert!(slice < Deadline::never());
    /// ```
    pub fn sooner_of(self, slice: Duration) -> Self {
        self.min(Self::after(slice))
    }

    /// Whether the instant has come. Does not read the clock when that is known without it.
    ///
    /// ```
    /// use std::time::Duration;
    /// use shm_state::Deadline;
    ///
    /// let deadline = Deadline::after(Duration::from_millis(1));
    /// std::thread::sleep(Duration::from_millis(2));
    /// assert!(deadline.passed());
    /// ```
    pub fn passed(self) -> bool {
        match self.0 {
            0 => true,
            u64::MAX => false,
            at => monotonic_ns() >= at,
        }
    }

    /// The instant, in nanoseconds of the clock.
    #[cfg(all(loom, test))]
    pub fn ns(self) -> u64 {
        self.0
    }

    /// The time left, zero when it has passed; `None` means never.
    ///
    /// ```
    /// use std::time::Duration;
    /// use shm_state::Deadline;
    ///
    /// assert_eq!(Deadline::never().remaining(), None);
    /// assert_eq!(Deadline::at_once().remaining(), Some(Duration::ZERO));
    /// assert!(Deadline::after(Duration::from_secs(60)).remaining() > Some(Duration::from_secs(1)));
    /// ```
    pub fn remaining(self) -> Option<Duration> {
        (self.0 != u64::MAX).then(|| Duration::from_nanos(self.0.saturating_sub(monotonic_ns())))
    }

    /// The instant as the kernel wants it; `None` means never.
    pub(super) fn timespec(self) -> Option<libc::timespec> {
        (self.0 != u64::MAX).then(|| libc::timespec {
            tv_sec: (self.0 / NS_PER_SECOND).cast_signed(),
            tv_nsec: (self.0 % NS_PER_SECOND).cast_signed(),
        })
    }
}

/// Nanoseconds of CLOCK_MONOTONIC: the same clock in all processes of the machine.
pub fn monotonic_ns() -> u64 {
    read(ClockId::CLOCK_MONOTONIC)
}

/// Nanoseconds since 1970 at the resolution of the scheduler's tick: the cheapest wall clock there is.
#[inline]
pub fn realtime_coarse_ns() -> u64 {
    read(ClockId::CLOCK_REALTIME_COARSE)
}

/// Nanoseconds since 1970, as exactly as the machine can tell.
#[cold]
pub fn realtime_ns() -> u64 {
    read(ClockId::CLOCK_REALTIME)
}

#[inline]
fn read(clock: ClockId) -> u64 {
    #[cfg(all(loom, test))]
    if let Some(now) = crate::models::system::now() {
        return now;
    }
    let mut at = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // These clocks exist on every Linux, so the call cannot fail; 0 would only make deadlines later.
    // SAFETY: `at` is a timespec that the call may write.
    unsafe { libc::clock_gettime(clock.as_raw(), &raw mut at) };
    at.tv_sec.cast_unsigned() * NS_PER_SECOND + at.tv_nsec.cast_unsigned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deadlines_saturate_and_order() {
        assert!(!Deadline::never().passed());
        assert!(Deadline::at_once().passed());
        assert!(Deadline::after(Duration::ZERO).passed());
        assert_eq!(Deadline::after(Duration::MAX), Deadline::never());
        assert_eq!(Deadline::never().remaining(), None);
        assert_eq!(Deadline::at_once().remaining(), Some(Duration::ZERO));
        let soon = Deadline::after(Duration::from_secs(5));
        assert!(soon.sooner_of(Duration::from_secs(1)) < soon);
        assert_eq!(soon.sooner_of(Duration::from_secs(60)), soon);
        assert!(soon.remaining().is_some_and(|left| left > Duration::from_secs(4)));
        assert!(realtime_coarse_ns() > 1_600_000_000 * NS_PER_SECOND);
    }
}
