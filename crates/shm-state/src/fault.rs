//! Mistakes that a test can plant into the shipped code, to learn whether the tests would notice them.
//!
//! A proof that never fails proves nothing. With the feature `planted-faults` (test builds only) [`plant`] makes this
//! process, and those it forks, commit one mistake of order or omission: the code paths are the shipped ones, with one
//! store too early, too late or missing. Without the feature [`planted`] is a constant `false`, and the hooks vanish.
//!
//! A hook stands where the rule stands that it breaks, and is one `if`.

/// One mistake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
#[cfg_attr(not(feature = "planted-faults"), expect(dead_code))]
pub enum Fault {
    /// The marker is stored before the record is complete.
    MarkerFirst = 1,
    /// `seq` is stored before the record is applied.
    SeqFirst,
    /// The log slot of a commit is filled after the marker.
    LogSlotLate,
    /// An entry names its new version before that version is written.
    HeadBeforeVersion,
    /// Blocks that were taken and dropped in one transaction are linked directly, not through the record.
    LinkDirectly,
    /// A free block is shortened directly when it is split, not through the record.
    SplitDirectly,
    /// `bump` is moved when space is taken, not through the record.
    BumpDirectly,
    /// Recovery publishes a decided commit without applying its record.
    NoRedo,
    /// Recovery leaves the chunks that the dead writer had claimed.
    NoSweep,
    /// The free lists are made anew without saying so.
    NoRebuildFlag,
    /// The index is made anew, without some entries, under the same generation.
    NoGeneration,
    /// Blocks are overwritten before the floor is raised that allows it.
    FloorAfterRecycle,
    /// Raising the floor does not look at the pins.
    IgnorePins,
    /// A commit wakes nobody.
    NoWake,
    /// A commit wakes the sleepers before it is visible.
    WakeBeforePublish,
    /// A namespace is counted before it is complete.
    CountFirst,
    /// An unlock wakes no waiter.
    UnlockQuietly,
    /// Who gets the lock after a sleep forgets that others may still sleep.
    ForgetWaiters,
}

/// Whether the process commits that mistake.
#[cfg(not(feature = "planted-faults"))]
#[inline(always)]
pub(crate) const fn planted(_: Fault) -> bool {
    false
}

/// The mistakes that are made right before the marker of commit `seq` is stored.
#[cfg(not(feature = "planted-faults"))]
#[inline(always)]
pub(crate) const fn before_marker(_: &crate::space::Space, _: u64) {}

#[cfg(feature = "planted-faults")]
pub use planting::plant;
#[cfg(feature = "planted-faults")]
pub(crate) use planting::{before_marker, planted};

#[cfg(feature = "planted-faults")]
mod planting {
    use std::sync::atomic::AtomicU32;

    use super::Fault;
    use crate::space::Space;
    use crate::sync::{Ordering, Word};

    static PLANTED: AtomicU32 = AtomicU32::new(0);

    /// Plants one mistake instead of the one before, or none.
    pub fn plant(fault: Option<Fault>) {
        PLANTED.store(fault.map_or(0, |fault| fault as u32), Ordering::Relaxed);
    }

    pub(crate) fn planted(fault: Fault) -> bool {
        PLANTED.load(Ordering::Relaxed) == fault as u32
    }

    #[cold]
    pub(crate) fn before_marker(space: &Space, seq: u64) {
        let (reader, writer) = (&space.control().reader, &space.control().writer);
        if planted(Fault::LogSlotLate) {
            let slot = space.log_slot(seq);
            let [a, b, c] = &slot.inline;
            let words = [
                &slot.writer,
                &slot.counts,
                &slot.time,
                &slot.retired_total,
                a,
                b,
                c,
                &slot.seq,
            ];
            let values = words.map(|word| word.load(Ordering::Relaxed));
            words.iter().for_each(|word| word.store(0, Ordering::Relaxed));
            writer.marker.store(seq, Ordering::Release);
            for (word, value) in words.iter().zip(values) {
                word.store(value, Ordering::Release);
            }
        }
        if planted(Fault::WakeBeforePublish) {
            space.wake_all();
        }
        if planted(Fault::FloorAfterRecycle) {
            let recyclable = writer.recyclable.load(Ordering::Relaxed);
            let floor = reader.floor.load(Ordering::Relaxed).max(recyclable);
            reader.floor.store(floor, Ordering::Release);
        }
    }
}

#[cfg(feature = "planted-faults")]
impl Fault {
    /// All of them.
    pub const ALL: [Self; 18] = [
        Self::MarkerFirst,
        Self::SeqFirst,
        Self::LogSlotLate,
        Self::HeadBeforeVersion,
        Self::LinkDirectly,
        Self::SplitDirectly,
        Self::BumpDirectly,
        Self::NoRedo,
        Self::NoSweep,
        Self::NoRebuildFlag,
        Self::NoGeneration,
        Self::FloorAfterRecycle,
        Self::IgnorePins,
        Self::NoWake,
        Self::WakeBeforePublish,
        Self::CountFirst,
        Self::UnlockQuietly,
        Self::ForgetWaiters,
    ];
}
