//! Watchers of keys that sleep while so many commits to other keys are made that the log loses some.
//!
//! Such a watcher cannot look at the records of those commits. But the newest version of a key says which commit made
//! it, and what came before it is linked: if the version that a key had at `floor`, up to where the log is lost, was
//! there at the cursor already, no commit in between has touched the key. An entry leaves the index only when that is
//! made anew, and the block of an index says when that was: so a key that the index does not know has not come and gone
//! either, if the index is older than the cursor.
//!
//! What cannot be told this way is reported as lost.
//!
//! **Ordering.** `floor` is loaded with Acquire: the writer that stored it had seen all commits up to it, so their
//! versions are found. What is read counts if `floor` is the same afterwards, as for every optimistic reader.

use crate::key::Key;
use crate::layout::Table;
use crate::namespace::Namespace;
use crate::read::{ATTEMPTS, Torn, View};
use crate::space::Space;
use crate::sync::{Ordering, Word};

impl Namespace {
    /// The floor, if it can be told that no commit after `cursor` up to it has set or removed any of `keys`.
    #[cold]
    pub(crate) fn untouched_until(&self, keys: &[Key], cursor: u64) -> Option<u64> {
        let space = self.space();
        for _ in 0..ATTEMPTS {
            // Acquire: see the module header.
            let floor = space.control().reader.floor.load(Ordering::Acquire);
            let view = View::new(space, floor);
            let untouched = keys
                .iter()
                .all(|key| is_untouched(space, &view, key, cursor).unwrap_or(false));
            if view.is_valid() {
                return untouched.then_some(floor);
            }
        }
        None
    }
}

/// Whether no commit after `cursor` up to that of the view has touched the key.
fn is_untouched(space: &Space, view: &View<'_>, key: &Key, cursor: u64) -> Result<bool, Torn> {
    if let Some(entry) = view.find(&key.as_ref())?
        && let Some(version) = view.version(entry)?
    {
        return Ok(version.head.birth.load(Ordering::Relaxed) <= cursor);
    }
    // Not in the index, or only since: then it must not have been dropped from it.
    Ok(index_is_of(space)? <= cursor)
}

/// The commit that made the index; 0 if there is none.
fn index_is_of(space: &Space) -> Result<u64, Torn> {
    // Acquire pairs with the Release of the commit that made it.
    let granule = (space.control().reader.root.load(Ordering::Acquire) >> 8) as u32;
    if granule == 0 {
        return Ok(0);
    }
    let table: &Table = space.mapping.at(granule).ok_or(Torn(granule))?;
    Ok(table.head.birth.load(Ordering::Relaxed))
}
