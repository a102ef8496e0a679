//! Going through a snapshot in parts, between which nothing is kept but a place.
//!
//! A slot of the array alone is no such place: the array may be another one later, without the keys that were removed. In
//! any array, though, slots stand in the order in which their keys were inserted, and commit and entry name one among them.
//! So the slot is where to look first; if the key is not there, the commit leads near it.

use super::Pinned;
use crate::error::Result;
use crate::key::{Key, Payload};
use crate::layout::DenseSlot;
use crate::read::Budget;
use crate::sync::{Ordering, Word};

/// Where a key stands in the order of insertion, for the snapshot that has told it: see [`Pinned::iter_behind`].
///
/// ```
/// # use shm_state::{Arena, ArenaOptions, Deadline, KeyRef, Position};
/// # let arena = Arena::anonymous(&ArenaOptions::default())?;
/// # let namespace = arena.namespace("default")?;
/// namespace.put(&KeyRef::new(1, b"door"), None, 1, b"open", Deadline::never())?;
/// let pinned = namespace.pin()?;
/// let (position, ..) = pinned.iter_behind(None)?.expect("a beginning").next().expect("a key")?;
/// assert_eq!(Position::from(<[u64; 3]>::from(position)), position);
/// # Ok::<(), shm_state::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// The slot behind that of the key, when it was told.
    slot: u64,
    /// The commit that inserted the key.
    inserted: u64,
    /// The granule of its entry.
    entry: u64,
}

/// As numbers that mean nothing to others.
impl From<Position> for [u64; 3] {
    fn from(position: Position) -> Self {
        [position.slot, position.inserted, position.entry]
    }
}

/// From any numbers: those that nobody has told lead nowhere.
impl From<[u64; 3]> for Position {
    fn from([slot, inserted, entry]: [u64; 3]) -> Self {
        Self { slot, inserted, entry }
    }
}

impl Position {
    fn of(slot: &DenseSlot, index: usize) -> Self {
        Self {
            slot: index as u64 + 1,
            inserted: slot.inserted.load(Ordering::Relaxed),
            entry: slot.entry.load(Ordering::Relaxed),
        }
    }

    /// The slot behind it, if it is among these.
    fn find(self, slots: &[DenseSlot]) -> Option<usize> {
        let is_it = |index: usize| {
            let slot = slots.get(index)?;
            let found = Self::of(slot, index);
            ((found.inserted, found.entry) == (self.inserted, self.entry)).then_some(index + 1)
        };
        let told = usize::try_from(self.slot).ok().and_then(|slot| slot.checked_sub(1));
        told.and_then(is_it).or_else(|| {
            let inserted = |slot: &DenseSlot| slot.inserted.load(Ordering::Relaxed);
            let first = slots.partition_point(|slot| inserted(slot) < self.inserted);
            let same = slots[first..].iter().take_while(|slot| inserted(slot) == self.inserted);
            (first..first + same.count()).find_map(is_it)
        })
    }
}

impl Pinned<'_> {
    /// As [`Pinned::iter`], from behind a position on that this snapshot has told; also tells that of each key. `None` if
    /// the snapshot has no such key.
    ///
    /// ```
    /// # use shm_state::{Arena, ArenaOptions, Deadline, KeyRef};
    /// # let arena = Arena::anonymous(&ArenaOptions::default())?;
    /// # let namespace = arena.namespace("default")?;
    /// for name in ["door", "lamp", "bell"] {
    ///     namespace.put(&KeyRef::new(1, name.as_bytes()), None, 1, b"on", Deadline::never())?;
    /// }
    /// let pinned = namespace.pin()?;
    /// let (first, ..) = pinned.iter_behind(None)?.expect("a beginning").next().expect("a key")?;
    /// let rest: Result<Vec<_>, _> = pinned.iter_behind(Some(first))?.expect("it is known").collect();
    /// let names: Vec<_> = rest?.into_iter().map(|(_, key, _)| key.bytes().to_vec()).collect();
    /// assert_eq!(names, [b"lamp", b"bell"]);
    /// # Ok::<(), shm_state::Error>(())
    /// ```
    pub fn iter_behind(
        &self,
        position: Option<Position>,
    ) -> Result<Option<impl Iterator<Item = Result<(Position, Key, Payload)>> + '_>> {
        let view = self.view();
        let (slots, _) = view.dense().map_err(self.damage())?;
        let first = match position.map(|position| position.find(slots)) {
            None => 0,
            Some(Some(behind)) => behind,
            Some(None) => return Ok(None),
        };
        let mut budget = Budget::of(self.space);
        Ok(Some(slots[first..].iter().enumerate().filter_map(
            move |(index, slot)| {
                let entry = self.entry_at(&view, slot, &mut budget)?;
                Some(entry.map(|(key, value)| (Position::of(slot, first + index), key, value)))
            },
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Arena, ArenaOptions, Deadline, KeyRef};

    /// Most are inserted by one commit, which names all of them alike; in between, the array is made anew several times.
    #[test]
    fn a_place_is_found_again_whatever_writers_do() {
        const KEYS: u32 = 3000;
        let arena = Arena::anonymous(&ArenaOptions::default()).unwrap();
        let namespace = arena.namespace("default").unwrap();
        let key = |n: u32| n.to_le_bytes();
        let put = |n: u32, value: &[u8]| {
            let key = key(n);
            namespace
                .put(&KeyRef::new(1, &key), None, 1, value, Deadline::never())
                .unwrap();
        };
        let remove_all = || {
            let mut transaction = namespace.begin(Deadline::never()).unwrap();
            transaction.clear().unwrap();
            transaction.commit().unwrap();
        };
        put(0, b"first");
        let mut transaction = namespace.begin(Deadline::never()).unwrap();
        for n in 1..KEYS {
            transaction.put(&KeyRef::new(1, &key(n)), 1, b"value").unwrap();
        }
        transaction.commit().unwrap();
        let pinned = namespace.pin().unwrap();
        let (mut seen, mut place) = (Vec::new(), None);
        let mut dense = std::collections::HashSet::new();
        loop {
            let page: Vec<_> = pinned.iter_behind(place).unwrap().unwrap().take(700).collect();
            let Some(Ok((last, ..))) = page.last() else { break };
            place = Some(Position::from(<[u64; 3]>::from(*last)));
            seen.extend(page.into_iter().map(|entry| entry.unwrap().1.bytes().to_vec()));
            (0..KEYS / 2).for_each(|n| put(n, b"another"));
            remove_all();
            (0..2 * KEYS).rev().for_each(|n| put(n, b"in another order"));
            dense.insert(pinned.space.control().reader.dense.load(Ordering::Relaxed));
        }
        assert!(seen.into_iter().eq((0..KEYS).map(|n| key(n).to_vec())));
        assert!(dense.len() > 1, "the array was made anew");
        for nowhere in [[0, 0, 0], [7, 2, 0], [u64::MAX; 3], [1, 1, 1]] {
            assert!(pinned.iter_behind(Some(nowhere.into())).unwrap().is_none());
        }
    }
}
