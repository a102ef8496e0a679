//! Which values this thread has checked, so that a view of them need not check again; and the one unsafe step of this
//! crate, which relies on it.
//!
//! A value is known by its version, which names it among all that this process ever sees ([`VersionId`]), and by the type
//! that it was checked for. Both are compared, and not a hash of them. Versions never change, so what
//! was found out once stays true for as long as they can be seen; see "Trust and damage" in the design document for what
//! can still go wrong.
//!
//! Each thread checks for itself: looking a version up takes neither a lock nor memory that others write to.

#![deny(unsafe_code)]

use std::any::TypeId;
use std::cell::{Cell, OnceCell, RefCell};
use std::collections::BTreeMap;

use rkyv::Archived;
use rkyv::rancor::Failure;
use shm_state::{InPlace, VersionId};

use crate::value::archived::{check, damaged};
use crate::value::{DecodeError, Encoded, RkyvType, TypeStamp, bytes_of_type, of_type, tag};

/// Sets of the table that is looked at first: 64 KiB.
const SETS: usize = 1 << SET_BITS;
const SET_BITS: u32 = 10;
/// Slots of a set, which is one cache line.
const WAYS: usize = 4;

/// How many blocks a thread remembers. When there are more it forgets them all, and what is still there is checked once
/// more.
const MOST: usize = 4096;

/// A type in a namespace, by a number that the thread gives it, from 1 on.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Kind {
    space: u64,
    type_: TypeId,
    number: u32,
}

/// What was found in a few blocks.
#[derive(Default)]
#[repr(align(64))]
struct Set([Slot; WAYS]);

/// What was found in a block: a valid value of a kind. A new version takes the place of the one that was there before.
#[derive(Default)]
struct Slot {
    /// The number of the kind above the granule; 0: nothing.
    what: Cell<u64>,
    /// The commit that made the version.
    birth: Cell<u64>,
}

/// What a thread has found valid.
struct Known {
    /// The kind that was asked for last, mostly the one that is asked for next.
    last: Cell<Kind>,
    /// What was looked at lately, each in the set that its block has here, which is known before its version has come from
    /// memory.
    recent: OnceCell<Box<[Set; SETS]>>,
    /// All of it.
    all: RefCell<All>,
}

struct All {
    kinds: Vec<Kind>,
    /// Births, by what stands in [`Slot::what`].
    births: BTreeMap<u64, u64>,
}

const NO_KIND: Kind = Kind {
    space: 0,
    type_: TypeId::of::<()>(),
    number: 0,
};

thread_local! {
    static KNOWN: Known = const {
        Known {
            last: Cell::new(NO_KIND),
            recent: OnceCell::new(),
            all: RefCell::new(All { kinds: Vec::new(), births: BTreeMap::new() }),
        }
    };
}

/// The set of a block.
#[inline(always)]
fn set_of(granule: u32) -> usize {
    (u64::from(granule).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> (u64::BITS - SET_BITS)) as usize
}

/// Whether this thread has found a version to be a valid `T` before, and lately.
#[inline(always)]
fn is_known<T: ?Sized + 'static>(version: VersionId) -> bool {
    let is_recent = |known: &Known| {
        let last = known.last.get();
        let Some(recent) = known.recent.get() else { return false };
        let Set(slots) = &recent[set_of(version.granule())];
        let what = u64::from(last.number) << 32 | u64::from(version.granule());
        // Without branches: which slot it is cannot be predicted.
        let is_there = |slot: &Slot| (slot.what.get() ^ what) | (slot.birth.get() ^ version.birth()) == 0;
        last.space == version.space()
            && last.type_ == TypeId::of::<T>()
            && slots.iter().fold(false, |found, slot| found | is_there(slot))
    };
    // While the thread ends nothing is known.
    KNOWN.try_with(is_recent).unwrap_or(false)
}

impl Known {
    /// The number of a kind.
    fn number(&self, all: &mut All, version: VersionId, type_: TypeId) -> u32 {
        let space = version.space();
        let known = all.kinds.iter().find(|kind| kind.space == space && kind.type_ == type_);
        let kind = known.copied().unwrap_or_else(|| {
            if all.kinds.len() >= MOST {
                self.forget(all);
            }
            let number = all.kinds.len() as u32 + 1;
            all.kinds.push(Kind { space, type_, number });
            Kind { space, type_, number }
        });
        self.last.set(kind);
        kind.number
    }

    fn forget(&self, all: &mut All) {
        *all = All {
            kinds: Vec::new(),
            births: BTreeMap::new(),
        };
        self.last.set(NO_KIND);
        let sets = self.recent.get().into_iter().flat_map(|sets| sets.iter());
        sets.flat_map(|Set(slots)| slots).for_each(|slot| slot.what.set(0));
    }

    fn set_recent(&self, what: u64, version: VersionId) {
        let recent = self.recent.get_or_init(|| {
            let sets: Box<[Set]> = (0..SETS).map(|_| Set::default()).collect();
            sets.try_into().unwrap_or_else(|_| unreachable!("there are as many"))
        });
        let Set(slots) = &recent[set_of(version.granule())];
        // Where the block is already; else where nothing is; else what is oldest makes room.
        let age = |slot: &&Slot| match slot.what.get() {
            same if same == what => 0,
            0 => 1,
            _ => slot.birth.get().max(2),
        };
        if let Some(slot) = slots.iter().min_by_key(age) {
            slot.birth.set(version.birth());
            slot.what.set(what);
        }
    }
}

/// As [`is_known`], however long ago.
fn was_known<T: ?Sized + 'static>(version: VersionId) -> bool {
    let was_known = |known: &Known| {
        let all = &mut *known.all.borrow_mut();
        let number = known.number(all, version, TypeId::of::<T>());
        let what = u64::from(number) << 32 | u64::from(version.granule());
        let found = all.births.get(&what) == Some(&version.birth());
        if found {
            known.set_recent(what, version);
        }
        found
    };
    KNOWN.try_with(was_known).unwrap_or(false)
}

/// Takes note that a version was found to be a valid `T`.
fn remember<T: ?Sized + 'static>(version: VersionId) {
    let _ = KNOWN.try_with(|known| {
        let all = &mut *known.all.borrow_mut();
        if all.births.len() >= MOST {
            known.forget(all);
        }
        let number = known.number(all, version, TypeId::of::<T>());
        let what = u64::from(number) << 32 | u64::from(version.granule());
        all.births.insert(what, version.birth());
        known.set_recent(what, version);
    });
}

/// The archive of a `T` that is stored there, if this thread has checked it lately; else [`archive`] says what is there.
#[inline(always)]
pub(crate) fn known_archive<T: RkyvType>(place: InPlace<'_>, stamp: TypeStamp) -> Option<&Archived<T>> {
    let bytes = bytes_of_type(Encoded::new(place.tag(), place.bytes()), stamp)?;
    if bytes.len() < size_of::<Archived<T>>() || !is_known::<Archived<T>>(place.version()) {
        return None;
    }
    // SAFETY: exactly these bytes were checked to be an `Archived<T>`, by `check`, which is what this function asks for.
    // `InPlace` is only made by the engine, so `place` is the version that it says, and what is told apart by the type's
    // head in it lies where it lay. Since then nobody has written to it: the snapshot that `place` borrows pins it, and
    // whoever writes to a version that is pinned is no process of this library.
    #[allow(unsafe_code, reason = "the checked way would check again")]
    Some(unsafe { rkyv::access_unchecked::<Archived<T>>(bytes) })
}

/// The archive of a `T` that is stored there, after a check.
pub(crate) fn archive<T: RkyvType>(place: InPlace<'_>, stamp: TypeStamp) -> Result<&Archived<T>, DecodeError> {
    if was_known::<Archived<T>>(place.version())
        && let Some(archive) = known_archive::<T>(place, stamp)
    {
        return Ok(archive);
    }
    let archive = check_archive::<T>(Encoded::new(place.tag(), place.bytes()), stamp)?;
    remember::<Archived<T>>(place.version());
    Ok(archive)
}

/// The archive of a `T` in a value of which nothing is known, after a check.
pub(crate) fn check_archive<T: RkyvType>(value: Encoded<'_>, stamp: TypeStamp) -> Result<&Archived<T>, DecodeError> {
    let bytes = of_type(value, stamp)?;
    check::<T, Failure>(bytes).map_err(|Failure| damaged::<T>(bytes, stamp))
}

/// The text that is stored there, if this thread has checked it lately; else [`text`] says what is there.
#[inline(always)]
pub(crate) fn known_text(place: InPlace<'_>) -> Option<&str> {
    if place.tag() != tag::STR || !is_known::<str>(place.version()) {
        return None;
    }
    // SAFETY: as in `known_archive`: exactly these bytes were checked to be UTF-8.
    #[allow(unsafe_code, reason = "the checked way would check again")]
    Some(unsafe { str::from_utf8_unchecked(place.bytes()) })
}

/// The text that is stored there, after a check. `None` if it is none.
pub(crate) fn text(place: InPlace<'_>) -> Option<&str> {
    if was_known::<str>(place.version())
        && let Some(text) = known_text(place)
    {
        return Some(text);
    }
    let text = str::from_utf8(place.bytes()).ok()?;
    remember::<str>(place.version());
    Some(text)
}
