//! The watchers of a state by their short names; [`Watch`] has them with settings.

use super::State;
use crate::error::Result;
use crate::key::ToKey;
use crate::snapshot::Snapshot;
use crate::value::ToValue;
#[cfg(feature = "tokio")]
use crate::watch::UpdateStream;
use crate::watch::{Update, Updates, Verdict, Watch, at_once};

impl State {
    /// A watcher with settings: `state.watch().live().timeout(d).duplicates()`, and then any `get_when_*`.
    ///
    /// ```
    /// use std::time::Duration;
    /// use zproc::{Error, State};
    ///
    /// let state = State::anonymous()?;
    /// let result = state.watch().timeout(Duration::from_millis(10)).get_when_available("cookies");
    /// assert!(matches!(result, Err(Error::Timeout)));
    /// # Ok::<(), Error>(())
    /// ```
    #[inline]
    pub fn watch(&self) -> Watch<'_> {
        Watch::new(&self.watcher)
    }

    /// Waits for the next update that changes one of `keys` (any key, if there are none), and returns the state right
    /// after it.
    ///
    /// A change is that a key appears, that its value becomes a different one, or that it goes. Updates are buffered:
    /// the watcher goes through all those since the last one that this state has consumed, so it misses none, however
    /// late it comes, as long as they are in the history.
    ///
    /// # Errors
    /// [`Error::Lagged`](crate::Error::Lagged) if updates since then have fallen out of the history;
    /// [`Error::Closed`](crate::Error::Closed) when the state is closed meanwhile.
    ///
    /// ```
    /// let state = zproc::State::anonymous()?;
    /// let other = state.clone();
    /// for n in [1, 2] {
    ///     other.insert("cookies", n)?;
    ///     other.insert("flour", 3)?;
    /// }
    /// assert_eq!(state.get_when_change(["cookies"])?.get::<i64>("cookies")?, Some(1));
    /// assert_eq!(state.get_when_change(["cookies"])?.get::<i64>("cookies")?, Some(2));
    /// # Ok::<(), zproc::Error>(())
    /// ```
    pub fn get_when_change<K: ToKey>(&self, keys: impl IntoIterator<Item = K>) -> Result<Snapshot<'_>> {
        self.watch().get_when_change(keys)
    }

    /// As [`State::get_when_change`], for a change of any key.
    ///
    /// ```
    /// let state = zproc::State::anonymous()?;
    /// let other = state.clone();
    /// other.insert("cookies", 5)?;
    /// assert_eq!(state.get_when_any_change()?.seq(), 1);
    /// # Ok::<(), zproc::Error>(())
    /// ```
    pub fn get_when_any_change(&self) -> Result<Snapshot<'_>> {
        self.watch().get_when_any_change()
    }

    /// As [`State::get_when_change`], for a change of a key that is not one of `keys`.
    ///
    /// ```
    /// let state = zproc::State::anonymous()?;
    /// let other = state.clone();
    /// other.insert("noise", 1)?;
    /// other.insert("cookies", 5)?;
    /// assert!(state.get_when_change_except(["noise"])?.contains_key("cookies")?);
    /// # Ok::<(), zproc::Error>(())
    /// ```
    pub fn get_when_change_except<K: ToKey>(&self, keys: impl IntoIterator<Item = K>) -> Result<Snapshot<'_>> {
        self.watch().get_when_change_except(keys)
    }

    /// Returns the current state if `test` holds for it; else waits for an update after which it holds, and returns the
    /// state right after that.
    ///
    /// The updates since the last one that this state has consumed count too, so a state that came and went is found.
    /// What is said at [`State::get_when_change`] about errors holds here.
    ///
    /// ```
    /// let state = zproc::State::anonymous()?;
    /// let other = state.clone();
    /// for n in 1..=5 {
    ///     other.insert("cookies", n)?;
    /// }
    /// let three = state.get_when(|dict| Ok(dict.get::<i64>("cookies")? == Some(3)))?;
    /// assert_eq!(three.seq(), 3);
    /// # Ok::<(), zproc::Error>(())
    /// ```
    pub fn get_when<V: Verdict>(&self, test: impl FnMut(&Snapshot<'_>) -> V) -> Result<Snapshot<'_>> {
        self.watch().get_when(test)
    }

    /// As [`State::get_when`], until `key` is there and its value equals `value`.
    ///
    /// ```
    /// let state = zproc::State::anonymous()?;
    /// state.insert("cookies", 5)?;
    /// assert!(state.get_when_equal("cookies", 5)?.contains_key("cookies")?);
    /// # Ok::<(), zproc::Error>(())
    /// ```
    #[inline]
    pub fn get_when_equal(&self, key: impl ToKey, value: impl ToValue) -> Result<Snapshot<'_>> {
        match at_once::holds_now(&self.watcher, &key, at_once::equals(&value)) {
            Some(now) => Ok(now),
            None => self.watch().until_equal(key, value).map_err(|error| *error),
        }
    }

    /// As [`State::get_when`], until `key` is there and its value differs from `value`.
    ///
    /// ```
    /// let state = zproc::State::anonymous()?;
    /// let other = state.clone();
    /// other.insert("door", "shut")?;
    /// other.insert("door", "open")?;
    /// assert_eq!(state.get_when_not_equal("door", "open")?.seq(), 1);
    /// # Ok::<(), zproc::Error>(())
    /// ```
    pub fn get_when_not_equal(&self, key: impl ToKey, value: impl ToValue) -> Result<Snapshot<'_>> {
        self.watch().get_when_not_equal(key, value)
    }

    /// As [`State::get_when`], until `key` is there and its value is none.
    ///
    /// ```
    /// let state = zproc::State::anonymous()?;
    /// state.insert("oven", None::<i64>)?;
    /// assert!(state.get_when_none("oven")?.contains_key("oven")?);
    /// # Ok::<(), zproc::Error>(())
    /// ```
    #[inline]
    pub fn get_when_none(&self, key: impl ToKey) -> Result<Snapshot<'_>> {
        self.watch().get_when_none(key)
    }

    /// As [`State::get_when`], until `key` is there and its value is not none.
    ///
    /// ```
    /// let state = zproc::State::anonymous()?;
    /// state.insert("oven", Some(180))?;
    /// assert_eq!(state.get_when_not_none("oven")?.get("oven")?, Some(180));
    /// # Ok::<(), zproc::Error>(())
    /// ```
    #[inline]
    pub fn get_when_not_none(&self, key: impl ToKey) -> Result<Snapshot<'_>> {
        self.watch().get_when_not_none(key)
    }

    /// As [`State::get_when`], until `key` is there.
    ///
    /// ```
    /// let state = zproc::State::anonymous()?;
    /// let other = state.clone();
    /// other.insert("cookies", 5)?;
    /// other.remove("cookies")?;
    /// assert_eq!(state.get_when_available("cookies")?.get("cookies")?, Some(5));
    /// # Ok::<(), zproc::Error>(())
    /// ```
    #[inline]
    pub fn get_when_available(&self, key: impl ToKey) -> Result<Snapshot<'_>> {
        self.watch().get_when_available(key)
    }

    /// Waits for the next update, as [`State::get_when_any_change`] does, and returns all that is known about it.
    ///
    /// ```
    /// let state = zproc::State::anonymous()?;
    /// let other = state.clone();
    /// other.insert("cookies", 5)?;
    /// let update = state.get_raw_update()?;
    /// assert_eq!(update.changed, ["cookies".into()]);
    /// assert!(update.before.is_empty()? && update.after.contains_key("cookies")?);
    /// # Ok::<(), zproc::Error>(())
    /// ```
    pub fn get_raw_update(&self) -> Result<Update<'_>> {
        self.watch().get_raw_update()
    }

    /// The updates one after another, each as [`State::get_raw_update`] returns it, waiting for the next when there is
    /// none yet.
    ///
    /// ```
    /// let state = zproc::State::anonymous()?;
    /// let other = state.clone();
    /// other.insert("cookies", 5)?;
    /// other.remove("cookies")?;
    /// let mut present = Vec::new();
    /// for update in state.updates()?.take(2) {
    ///     present.push(update?.after.contains_key("cookies")?);
    /// }
    /// assert_eq!(present, [true, false]);
    /// # Ok::<(), zproc::Error>(())
    /// ```
    pub fn updates(&self) -> Result<Updates<'_>> {
        self.watch().updates()
    }

    /// The updates after the update `seq`, as [`State::updates`] yields them. The cursor stays where it is.
    ///
    /// ```
    /// let state = zproc::State::anonymous()?;
    /// let other = state.clone();
    /// other.insert("cookies", 5)?;
    /// other.insert("cookies", 4)?;
    /// let second = state.updates_since(1).next().expect("endless")?;
    /// assert_eq!((second.seq, state.cursor()), (2, 0));
    /// # Ok::<(), zproc::Error>(())
    /// ```
    pub fn updates_since(&self, seq: u64) -> Updates<'_> {
        self.watch().updates_since(seq)
    }

    /// The updates one after another as an async stream, for tasks: see [`UpdateStream`], and [`Watch::stream`] for one
    /// with settings. With the feature `tokio`.
    ///
    /// ```
    /// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
    /// let state = zproc::State::anonymous()?;
    /// state.clone().insert("cookies", 5)?;
    /// let mut updates = state.updates_stream()?;
    /// let update = updates.next().await.expect("endless")?;
    /// assert_eq!(update.after.get("cookies")?, Some(5));
    /// # Ok::<(), zproc::Error>(())
    /// # })?;
    /// # Ok::<(), zproc::Error>(())
    /// ```
    #[cfg(feature = "tokio")]
    pub fn updates_stream(&self) -> Result<UpdateStream<'_>> {
        self.watch().stream()
    }

    /// Forgets all updates until now: the next watcher starts with the one after.
    ///
    /// ```
    /// use std::time::Duration;
    /// use zproc::{Error, State};
    ///
    /// let state = State::anonymous()?;
    /// state.clone().insert("cookies", 5)?;
    /// state.go_live()?;
    /// let result = state.watch().timeout(Duration::ZERO).get_when_any_change();
    /// assert!(matches!(result, Err(Error::Timeout)));
    /// # Ok::<(), Error>(())
    /// ```
    pub fn go_live(&self) -> Result<()> {
        self.watcher.go_live()
    }
}
