//! The dict as a transaction sees it: the committed state with its own changes on top.

use super::{FEW, Pending, Transaction};
use crate::error::Result;
use crate::key::{Key, KeyRef, Payload};
use crate::layout::{Entry, Version};
use crate::read::{Budget, Torn};
use crate::sync::{Ordering, Word};

impl<'n> Transaction<'n> {
    /// The version of a key as the transaction sees it.
    fn current(&self, key: &KeyRef<'_>) -> Result<Option<&'n Version>> {
        if let Some(at) = self.find_pending(key)? {
            let pending = self.scratch.pending[at];
            return if pending.live {
                self.version(pending.new).map(Some)
            } else {
                Ok(None)
            };
        }
        let view = self.before();
        match view.find(key).map_err(self.damage())? {
            Some(entry) => view.live_version(entry).map_err(self.damage()),
            None => Ok(None),
        }
    }

    fn copy_out(&self, version: &Version) -> Result<Payload> {
        self.before()
            .payload(version, usize::MAX)
            .map_err(|stop| stop.into_error(self.space))
    }

    /// The value of a key.
    ///
    /// ```
    /// # use shm_state::{Arena, ArenaOptions, Deadline, KeyRef};
    /// # let arena = Arena::anonymous(&ArenaOptions::default())?;
    /// # let namespace = arena.namespace("default")?;
    /// let mut transaction = namespace.begin(Deadline::never())?;
    /// let door = KeyRef::new(1, b"door");
    /// transaction.put(&door, 1, b"open")?;
    /// assert_eq!(transaction.get(&door)?.expect("it was just put").bytes(), b"open");
    /// assert_eq!(namespace.get(&door)?, None); // others see it after the commit
    /// # Ok::<(), shm_state::Error>(())
    /// ```
    pub fn get(&self, key: &KeyRef<'_>) -> Result<Option<Payload>> {
        self.current(key)?.map(|v| self.copy_out(v)).transpose()
    }

    /// As [`Transaction::get`], but hands tag and bytes to `f` instead of copying them into a [`Payload`]. Nothing is
    /// allocated, but a buffer that the thread keeps for values above 528 bytes, up to 1 MiB.
    ///
    /// ```
    /// # use shm_state::{Arena, ArenaOptions, Deadline, KeyRef};
    /// # let arena = Arena::anonymous(&ArenaOptions::default())?;
    /// # let namespace = arena.namespace("default")?;
    /// let mut transaction = namespace.begin(Deadline::never())?;
    /// let door = KeyRef::new(1, b"door");
    /// transaction.put(&door, 1, b"open")?;
    /// assert_eq!(transaction.get_with(&door, |tag, bytes| (tag, bytes.len()))?, Some((1, 4)));
    /// # Ok::<(), shm_state::Error>(())
    /// ```
    pub fn get_with<R>(&self, key: &KeyRef<'_>, f: impl FnOnce(u16, &[u8]) -> R) -> Result<Option<R>> {
        let Some(version) = self.current(key)? else {
            return Ok(None);
        };
        self.before().copy_for(version, f).map(Some)
    }

    /// Whether a key is present.
    ///
    /// ```
    /// # use shm_state::{Arena, ArenaOptions, Deadline, KeyRef};
    /// # let arena = Arena::anonymous(&ArenaOptions::default())?;
    /// # let namespace = arena.namespace("default")?;
    /// let mut transaction = namespace.begin(Deadline::never())?;
    /// transaction.put(&KeyRef::new(1, b"door"), 1, b"open")?;
    /// assert!(transaction.contains(&KeyRef::new(1, b"door"))?);
    /// # Ok::<(), shm_state::Error>(())
    /// ```
    pub fn contains(&self, key: &KeyRef<'_>) -> Result<bool> {
        Ok(self.current(key)?.is_some())
    }

    pub(super) fn pending_of_entry(&self, entry: u32, hash: u64) -> Option<&Pending> {
        let pending = &self.scratch.pending;
        if pending.len() <= FEW {
            return pending.iter().find(|p| p.entry == entry);
        }
        let place = self
            .scratch
            .places
            .find(hash, |at| pending[*at as usize].entry == entry)?;
        Some(&pending[*place as usize])
    }

    /// Visits the committed keys that keep their place, from `from` on, in insertion order or against it.
    fn kept(&self) -> Result<impl DoubleEndedIterator<Item = Result<(usize, u32, &'n Version)>> + '_> {
        let view = self.before();
        let (slots, end) = view.dense().map_err(self.damage())?;
        // Behind what was popped nothing is alive.
        let end = self.scratch.live_end.map_or(end, |live_end| live_end.min(end));
        Ok(slots[..end].iter().enumerate().filter_map(move |(at, slot)| {
            let (entry, version) = match view.at_slot(slot) {
                Ok(found) => found?,
                Err(torn) => return Some(Err(torn.damage(self.space))),
            };
            let hash = match self.space.mapping.at::<Entry>(entry) {
                Some(head) => head.hash.load(Ordering::Relaxed),
                None => return Some(Err(Torn(entry).damage(self.space))),
            };
            match self.pending_of_entry(entry, hash) {
                None => Some(Ok((at, entry, version))),
                Some(p) if p.live && p.order == 0 => Some(self.version(p.new).map(|v| (at, entry, v))),
                Some(_) => None,
            }
        }))
    }

    fn own(&self) -> Vec<Pending> {
        let mut own: Vec<Pending> = self
            .scratch
            .pending
            .iter()
            .filter(|p| p.live && p.order != 0)
            .copied()
            .collect();
        own.sort_by_key(|p| p.order);
        own
    }

    /// All keys and values in insertion order, own changes included.
    ///
    /// ```
    /// # use shm_state::{Arena, ArenaOptions, Deadline, KeyRef};
    /// # let arena = Arena::anonymous(&ArenaOptions::default())?;
    /// # let namespace = arena.namespace("default")?;
    /// let mut transaction = namespace.begin(Deadline::never())?;
    /// transaction.put(&KeyRef::new(1, b"door"), 1, b"open")?;
    /// transaction.put(&KeyRef::new(1, b"lamp"), 1, b"on")?;
    /// let names: Vec<_> = transaction.entries()?.into_iter().map(|(key, _)| key.bytes().to_vec()).collect();
    /// assert_eq!(names, [b"door", b"lamp"]);
    /// # Ok::<(), shm_state::Error>(())
    /// ```
    pub fn entries(&self) -> Result<Vec<(Key, Payload)>> {
        let (mut all, mut budget) = (Vec::new(), Budget::of(self.space));
        let mut add = |entry: u32, version: &Version| -> Result<()> {
            let (key, payload) = (self.key(entry)?, self.copy_out(version)?);
            budget.spend(self.space, key.bytes().len(), payload.bytes().len())?;
            all.push((key, payload));
            Ok(())
        };
        for item in self.kept()? {
            let (_, entry, version) = item?;
            add(entry, version)?;
        }
        for pending in self.own() {
            add(pending.entry, self.version(pending.new)?)?;
        }
        Ok(all)
    }

    fn key(&self, entry: u32) -> Result<Key> {
        let (tag, bytes) = self.before().key_of(entry).map_err(self.damage())?;
        Ok(KeyRef::new(tag, &bytes).to_owned())
    }

    /// Removes the key that was inserted last and returns it with its value.
    ///
    /// ```
    /// # use shm_state::{Arena, ArenaOptions, Deadline, KeyRef};
    /// # let arena = Arena::anonymous(&ArenaOptions::default())?;
    /// # let namespace = arena.namespace("default")?;
    /// let mut transaction = namespace.begin(Deadline::never())?;
    /// transaction.put(&KeyRef::new(1, b"door"), 1, b"open")?;
    /// transaction.put(&KeyRef::new(1, b"lamp"), 1, b"on")?;
    /// assert_eq!(transaction.pop_last()?.expect("there are two").0.bytes(), b"lamp");
    /// # Ok::<(), shm_state::Error>(())
    /// ```
    pub fn pop_last(&mut self) -> Result<Option<(Key, Payload)>> {
        self.check()?;
        let own = self
            .scratch
            .pending
            .iter()
            .filter(|p| self.scratch.inserted > 0 && p.live && p.order != 0);
        if let Some(last) = own.max_by_key(|p| p.order).copied() {
            let popped = (self.key(last.entry)?, self.copy_out(self.version(last.new)?)?);
            self.remove(&popped.0.as_ref())?;
            return Ok(Some(popped));
        }
        let last = self.kept()?.next_back().transpose()?;
        let Some((at, entry, version)) = last else {
            return Ok(None);
        };
        let popped = (self.key(entry)?, self.copy_out(version)?);
        self.remove(&popped.0.as_ref())?;
        self.scratch.live_end = Some(at);
        Ok(Some(popped))
    }
}
