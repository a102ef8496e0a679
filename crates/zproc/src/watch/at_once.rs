//! Conditions that hold already: told in nanoseconds, without a copy of key or value.
//!
//! The key is found in the newest state and its value compared where it lies; if all of that is at hand, that state is
//! pinned and returned. Whatever takes more than that (a long key, a large value, a map in another order, a condition
//! that does not hold, an error) goes the general way, which starts from the beginning.
//!
//! The snapshot is made once and where it is returned, and nothing is passed by value that the general way fills too:
//! each copy would cost as much as the lookup.

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
    let pinned = key.with_key(|tag, bytes| namespace.pin_if(&KeyRef::new(tag, bytes), holds));
    Some(Snapshot::new(namespace, pinned.ok()??))
}

/// Whether a value has the same type and bytes as `value`: no others are equal, but some lists and maps.
#[inline(always)]
pub(crate) fn equals(value: &impl ToValue) -> impl FnOnce(Small) -> bool {
    move |small| {
        let same = value.with_encoded(|value| small.is(value.tag(), value.bytes()));
        same.unwrap_or(false)
    }
}

pub(crate) fn is_none(small: Small) -> bool {
    small.tag() == tag::NONE
}

pub(crate) fn is_not_none(small: Small) -> bool {
    small.tag() != tag::NONE
}

pub(crate) fn is_there(_: Small) -> bool {
    true
}
