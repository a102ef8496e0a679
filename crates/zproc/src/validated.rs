//! Which values this thread has checked, so that a view of them need not check again; and the one unsafe step of this
//! crate, which relies on it.
//!
//! A value is known by its version, which names it among all that this process ever sees ([`VersionId`]), and by the type
//! that it was checked for and its length. All of these are compared, and not a hash of them. Versions never change, so what
//! was found out once stays true for as long as they can be seen; see "Trust and damage" in the design document for what
//! can still go wrong.
//!
//! Each thread checks for itself: looking a version up takes neither a lock nor memory that others write to.

#![deny(unsafe_code)]

use std::any::TypeId;
use std::cell::RefCell;
use std::collections::HashSet;
use std::hash::{BuildHasherDefault, Hasher};

use rkyv::Archived;
use shm_state::{InPlace, VersionId};

use crate::value::archived::{check, damaged};
use crate::value::{DecodeError, Encoded, RkyvType, TypeStamp, of_type};

/// How many versions a thread remembers. When there are more it forgets them all: most are superseded by then, and the
/// others are checked once more.
const MOST: usize = 4096;

/// A version that was found to hold a valid value of a type.
#[derive(PartialEq, Eq, Hash)]
struct Valid {
    version: VersionId,
    type_: TypeId,
    len: usize,
}

thread_local! {
    static KNOWN: RefCell<HashSet<Valid, BuildHasherDefault<Mix>>> =
        const { RefCell::new(HashSet::with_hasher(BuildHasherDefault::new())) };
}

impl Valid {
    #[inline(always)]
    fn is_known(&self) -> bool {
        // While the thread ends nothing is known.
        KNOWN.try_with(|known| known.borrow().contains(self)).unwrap_or(false)
    }

    #[cold]
    fn remember(self) {
        let _ = KNOWN.try_with(|known| {
            let mut known = known.borrow_mut();
            if known.len() >= MOST {
                known.clear();
            }
            known.insert(self);
        });
    }
}

/// The archive of a `T` that is stored there, checked when this thread first sees it.
#[inline(always)]
pub(crate) fn archive<T: RkyvType>(place: InPlace<'_>, stamp: TypeStamp) -> Result<&Archived<T>, DecodeError> {
    let bytes = of_type(Encoded::new(place.tag(), place.bytes()), stamp)?;
    let valid = Valid {
        version: place.version(),
        type_: TypeId::of::<Archived<T>>(),
        len: bytes.len(),
    };
    if valid.is_known() {
        // SAFETY: exactly these bytes were checked to be an `Archived<T>`, by `check` below, which is what this function
        // asks for: `InPlace` is only made by the engine, so `place` is the version that it says, the archive begins at the
        // same place in it, and has the length that it had. Since then nobody has written to it: the snapshot that `place`
        // borrows pins it, and whoever writes to a version that is pinned is no process of this library.
        #[allow(unsafe_code, reason = "the checked way would check again")]
        return Ok(unsafe { rkyv::access_unchecked::<Archived<T>>(bytes) });
    }
    first_look::<T>(bytes, valid, stamp)
}

#[cold]
#[inline(never)]
fn first_look<T: RkyvType>(bytes: &[u8], valid: Valid, stamp: TypeStamp) -> Result<&Archived<T>, DecodeError> {
    let archive = check::<T>(bytes).map_err(|trouble| damaged(trouble, stamp))?;
    valid.remember();
    Ok(archive)
}

/// The text that is stored there. `None` if it is none.
#[inline(always)]
pub(crate) fn text(place: InPlace<'_>) -> Option<&str> {
    let bytes = place.bytes();
    let valid = Valid {
        version: place.version(),
        type_: TypeId::of::<str>(),
        len: bytes.len(),
    };
    if valid.is_known() {
        // SAFETY: as in `archive`: exactly these bytes were checked to be UTF-8.
        #[allow(unsafe_code, reason = "the checked way would check again")]
        return Some(unsafe { str::from_utf8_unchecked(bytes) });
    }
    let text = str::from_utf8(bytes).ok()?;
    valid.remember();
    Some(text)
}

/// A quick hash for numbers that differ in a few bits. It only says where to look.
#[derive(Default)]
struct Mix(u64);

impl Mix {
    #[inline(always)]
    fn add(&mut self, number: u64) {
        self.0 = (self.0.rotate_left(5) ^ number).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }
}

impl Hasher for Mix {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.add(u64::from(*byte)));
    }

    #[inline(always)]
    fn write_u32(&mut self, number: u32) {
        self.add(u64::from(number));
    }

    #[inline(always)]
    fn write_u64(&mut self, number: u64) {
        self.add(number);
    }

    #[inline(always)]
    fn write_usize(&mut self, number: usize) {
        self.add(number as u64);
    }

    #[inline(always)]
    fn finish(&self) -> u64 {
        // Tables look at the low bits as well.
        self.0 ^ self.0 >> 32
    }
}
