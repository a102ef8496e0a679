//! A pinned snapshot: everything in it stays readable for as long as it lives.

use crate::error::{Error, Result};
use crate::key::{Key, KeyRef, Payload};
use crate::layout::Seat;
use crate::log;
use crate::pin;
use crate::read::{Budget, Torn, View};
use crate::space::Space;

/// A state of a namespace as it was after one commit.
///
/// Reading from it never fails because of writers. It keeps the versions that it may show from being recycled, so
/// drop it when it is no longer needed.
pub struct Pinned<'n> {
    space: &'n Space,
    seat: &'n Seat,
    seq: u64,
    /// Not 0: the seat is not the one of the [`crate::Namespace`] itself, and goes back to the idle ones. A whole word,
    /// since a byte with padding behind it is moved by a load that stalls on the stores before.
    borrowed: u64,
}

impl<'n> Pinned<'n> {
    #[inline(always)]
    pub(crate) fn new(space: &'n Space, seat: &'n Seat, seq: u64, borrowed: bool) -> Self {
        Self {
            space,
            seat,
            seq,
            borrowed: u64::from(borrowed),
        }
    }

    /// The commit after which the state was like this.
    pub fn seq(&self) -> u64 {
        self.seq
    }

    fn view(&self) -> View<'n> {
        View::new(self.space, self.seq)
    }

    fn damage(&self) -> impl Fn(Torn) -> Error + use<'n> {
        let space = self.space;
        move |torn| torn.damage(space)
    }

    fn payload(&self, version: &crate::layout::Version) -> Result<Payload> {
        self.view()
            .payload(version, usize::MAX)
            .map_err(|stop| stop.into_error(self.space))
    }

    /// The value of a key.
    pub fn get(&self, key: &KeyRef<'_>) -> Result<Option<Payload>> {
        let view = self.view();
        let Some(entry) = view.find(key).map_err(self.damage())? else {
            return Ok(None);
        };
        view.live_version(entry)
            .map_err(self.damage())?
            .map(|v| self.payload(v))
            .transpose()
    }

    /// Whether a key is present.
    pub fn contains(&self, key: &KeyRef<'_>) -> Result<bool> {
        let view = self.view();
        let Some(entry) = view.find(key).map_err(self.damage())? else {
            return Ok(false);
        };
        Ok(view.live_version(entry).map_err(self.damage())?.is_some())
    }

    /// How many keys are present.
    ///
    /// Costs one look at the log while the commit is in it, and a walk over all keys for an older snapshot.
    pub fn len(&self) -> Result<usize> {
        if let Some(live) = log::live(self.space, self.seq) {
            return Ok(live as usize);
        }
        let mut count = 0;
        let view = self.view();
        for slot in view.dense().map_err(self.damage())?.0 {
            count += usize::from(view.at_slot(slot).map_err(self.damage())?.is_some());
        }
        Ok(count)
    }

    /// Whether no key is present.
    pub fn is_empty(&self) -> Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Keys and values in the order of insertion.
    pub fn iter(&self) -> Result<impl DoubleEndedIterator<Item = Result<(Key, Payload)>> + '_> {
        let view = self.view();
        let (slots, _) = view.dense().map_err(self.damage())?;
        let mut budget = Budget::of(self.space);
        Ok(slots.iter().filter_map(move |slot| {
            let found = match view.at_slot(slot) {
                Ok(found) => found?,
                Err(torn) => return Some(Err(torn.damage(self.space))),
            };
            let (entry, version) = found;
            let key = view.key_of(entry).map_err(self.damage());
            Some(key.and_then(|(tag, bytes)| {
                let payload = self.payload(version)?;
                budget.spend(self.space, bytes.len(), payload.bytes().len())?;
                Ok((KeyRef::new(tag, &bytes).to_owned(), payload))
            }))
        }))
    }
}

impl Drop for Pinned<'_> {
    #[inline]
    fn drop(&mut self) {
        if self.space.check_fork().is_err() {
            return; // a forked child: the pin is its parent's
        }
        pin::unpin(&self.seat.pin);
        if self.borrowed != 0 {
            self.space.return_seat(self.seat);
        }
    }
}
