//! Conditions that hold already: told in nanoseconds, without a copy of key or value.
//!
//! The newest state is pinned, the key is found, and its value is compared where it lies; if all of that is at hand, the
//! pin becomes the snapshot that is returned. Whatever takes more than that (a long key, a large value, a map in another
//! order, a condition that does not hold, an error) goes the general way, which starts from the beginning.

use shm_state::{KeyRef, Small};

use super::Watcher;
use crate::key::ToKey;
use crate::snapshot::Snapshot;
use crate::value::{ToValue, tag};

/// The current state, if the value of `key` is there, at hand, and `holds`.
#[inline(always)]
pub(crate) fn holds_now<'s>(
    watcher: &'s Watcher,
    key: &impl ToKey,
    holds: impl FnOnce(Small) -> bool,
) -> Option<Snapshot<'s>> {
    let namespace = watcher.access.usable()?;
    let pinned = namespace.pin().ok()?;
    let found = key.with_key(|tag, bytes| pinned.peek(&KeyRef::new(tag, bytes)));
    match found {
        Ok(Some(Some(small))) if holds(small) => Some(Snapshot::new(namespace, pinned)),
        _ => None,
    }
}

/// Whether a value has the same type and bytes as `value`: no others are equal, but some lists and maps.
#[inline(always)]
pub(super) fn equals(value: &impl ToValue) -> impl FnOnce(Small) -> bool {
    move |small| {
        let same = value.with_encoded(|value| small.is(value.tag(), value.bytes()));
        same.unwrap_or(false)
    }
}

pub(super) fn is_none(small: Small) -> bool {
    small.tag() == tag::NONE
}

pub(super) fn is_not_none(small: Small) -> bool {
    small.tag() != tag::NONE
}

pub(super) fn is_there(_: Small) -> bool {
    true
}
