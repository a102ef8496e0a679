//! Transactions: a dict whose changes become visible all at once, or not at all.

use std::fmt;

use crate::access::{Access, InAtomic};
use crate::codec::{decode_entry, decode_in_place, decode_key, decoded, name, with_key, with_value};
use crate::error::{Error, Result};
use crate::key::{Key, ToKey};
use crate::value::{FromValue, Map, ToValue, Value};

/// The state inside of [`State::atomic`](crate::State::atomic): a dict that sees its own changes.
///
/// No other writer of the namespace runs meanwhile, and readers see the state as it was before.
///
/// ```
/// use zproc::State;
///
/// let state = State::anonymous()?;
/// state.extend([("flour", 3), ("cookies", 0)])?;
/// let baked = state.atomic(|dict| {
///     let flour = dict.take::<i64>("flour")?.unwrap_or(0);
///     dict.modify("cookies", |cookies: i64| cookies + 10 * flour)
/// })?;
/// assert_eq!(baked, 30);
/// # Ok::<(), zproc::Error>(())
/// ```
pub struct Transaction<'s> {
    inner: shm_state::Transaction<'s>,
}

impl Transaction<'_> {
    /// Runs `f` in a transaction, and commits what it did if it succeeds.
    pub(crate) fn run<R>(access: &Access, f: impl FnOnce(&mut Transaction<'_>) -> Result<R>) -> Result<R> {
        let mut transaction = Transaction { inner: access.begin()? };
        let result = {
            let _inside = InAtomic::enter();
            f(&mut transaction)?
        };
        transaction.inner.rearm();
        access.commit(transaction.inner)?;
        Ok(result)
    }

    /// The value of a key; `None` if the key is absent.
    ///
    /// ```
    /// let state = zproc::State::anonymous()?;
    /// state.atomic(|dict| {
    ///     dict.insert("cookies", 5)?;
    ///     assert_eq!(dict.get::<i64>("cookies")?, Some(5));
    ///     Ok(())
    /// })?;
    /// # Ok::<(), zproc::Error>(())
    /// ```
    pub fn get<T: FromValue>(&self, key: impl ToKey) -> Result<Option<T>> {
        with_key(key, |key| self.get_stored(key))
    }

    /// Puts `value` under `key`. A new key goes to the end, an old one stays where it is.
    ///
    /// ```
    /// let state = zproc::State::anonymous()?;
    /// state.atomic(|dict| {
    ///     dict.insert("cookies", 5)?;
    ///     dict.insert(("user", 7), "ann")?;
    ///     Ok(())
    /// })?;
    /// # Ok::<(), zproc::Error>(())
    /// ```
    pub fn insert(&mut self, key: impl ToKey, value: impl ToValue) -> Result<()> {
        with_key(key, |key| {
            with_value(value, |tag, bytes| {
                self.inner.put(key, tag, bytes)?;
                Ok(())
            })
        })
    }

    /// Takes out a key. Returns its value, `None` if the key was absent.
    ///
    /// ```
    /// let state = zproc::State::anonymous()?;
    /// state.atomic(|dict| {
    ///     dict.insert("cookies", 5)?;
    ///     assert_eq!(dict.remove("cookies")?, Some(5.into()));
    ///     Ok(())
    /// })?;
    /// # Ok::<(), zproc::Error>(())
    /// ```
    pub fn remove(&mut self, key: impl ToKey) -> Result<Option<Value>> {
        self.take(key)
    }

    /// Takes out a key. Returns its value as a `T`, `None` if the key was absent.
    ///
    /// # Errors
    /// [`Error::WrongType`] if the value cannot be read as a `T`; then it stays.
    ///
    /// ```
    /// let state = zproc::State::anonymous()?;
    /// state.atomic(|dict| {
    ///     dict.insert("cookies", 5)?;
    ///     assert!(dict.take::<String>("cookies").is_err());
    ///     assert_eq!(dict.take::<i64>("cookies")?, Some(5));
    ///     Ok(())
    /// })?;
    /// # Ok::<(), zproc::Error>(())
    /// ```
    pub fn take<T: FromValue>(&mut self, key: impl ToKey) -> Result<Option<T>> {
        with_key(key, |key| take(&mut self.inner, key))
    }

    /// Puts `f` of the value under `key` in its place. Returns the new value.
    ///
    /// # Errors
    /// [`Error::MissingKey`] if the key is absent; see [`Transaction::modify_or`].
    ///
    /// ```
    /// let state = zproc::State::anonymous()?;
    /// let error = state.atomic(|dict| dict.modify("cookies", |n: i64| n + 1)).unwrap_err();
    /// assert_eq!(error.to_string(), r#"there is no key "cookies" to modify: insert it first, or use modify_or"#);
    /// # Ok::<(), zproc::Error>(())
    /// ```
    pub fn modify<T: FromValue + ToValue>(&mut self, key: impl ToKey, f: impl FnOnce(T) -> T) -> Result<T> {
        with_key(key, |key| match self.get_stored(key)? {
            Some(old) => self.put(key, f(old)),
            None => Err(Error::MissingKey { key: name(key) }),
        })
    }

    /// Puts `f` of the value under `key`, or of `default` if the key is absent, in its place. Returns the new value.
    ///
    /// ```
    /// let state = zproc::State::anonymous()?;
    /// assert_eq!(state.atomic(|dict| dict.modify_or("cookies", 0, |n| n + 1))?, 1);
    /// # Ok::<(), zproc::Error>(())
    /// ```
    pub fn modify_or<T: FromValue + ToValue>(
        &mut self,
        key: impl ToKey,
        default: T,
        f: impl FnOnce(T) -> T,
    ) -> Result<T> {
        with_key(key, |key| {
            let old = self.get_stored(key)?;
            self.put(key, f(old.unwrap_or(default)))
        })
    }

    #[inline]
    fn get_stored<T: FromValue>(&self, key: &shm_state::KeyRef<'_>) -> Result<Option<T>> {
        decoded(self.inner.get_with(key, decode_in_place(key))?)
    }

    fn put<T: ToValue>(&mut self, key: &shm_state::KeyRef<'_>, value: T) -> Result<T> {
        with_value(&value, |tag, bytes| Ok(self.inner.put(key, tag, bytes)?))?;
        Ok(value)
    }

    /// The value of a key; if the key is absent, `default`, which is then put there.
    ///
    /// ```
    /// let state = zproc::State::anonymous()?;
    /// state.atomic(|dict| {
    ///     assert_eq!(dict.get_or_insert("cookies", 5)?, 5);
    ///     assert_eq!(dict.get_or_insert("cookies", 6)?, 5);
    ///     Ok(())
    /// })?;
    /// # Ok::<(), zproc::Error>(())
    /// ```
    pub fn get_or_insert<T: FromValue + ToValue>(&mut self, key: impl ToKey, default: T) -> Result<T> {
        with_key(key, |key| match self.get_stored(key)? {
            Some(value) => Ok(value),
            None => self.put(key, default),
        })
    }

    /// Takes out the key that was inserted last. Returns it with its value, `None` if there are no keys.
    ///
    /// ```
    /// let state = zproc::State::anonymous()?;
    /// state.atomic(|dict| {
    ///     dict.extend([("a", 1), ("b", 2)])?;
    ///     assert_eq!(dict.pop_item()?, Some(("b".into(), 2.into())));
    ///     Ok(())
    /// })?;
    /// # Ok::<(), zproc::Error>(())
    /// ```
    pub fn pop_item(&mut self) -> Result<Option<(Key, Value)>> {
        pop_item(&mut self.inner)
    }

    /// Puts all of `entries` there, each as [`Transaction::insert`] does.
    ///
    /// ```
    /// let state = zproc::State::anonymous()?;
    /// state.atomic(|dict| {
    ///     dict.extend([("a", 1), ("b", 2)])?;
    ///     assert_eq!(dict.len(), 2);
    ///     Ok(())
    /// })?;
    /// # Ok::<(), zproc::Error>(())
    /// ```
    pub fn extend<K: ToKey, V: ToValue>(&mut self, entries: impl IntoIterator<Item = (K, V)>) -> Result<()> {
        entries.into_iter().try_for_each(|(key, value)| self.insert(key, value))
    }

    /// Takes out all keys.
    ///
    /// ```
    /// let state = zproc::State::anonymous()?;
    /// state.atomic(|dict| {
    ///     dict.extend([("a", 1), ("b", 2)])?;
    ///     dict.clear()?;
    ///     assert!(dict.is_empty());
    ///     Ok(())
    /// })?;
    /// # Ok::<(), zproc::Error>(())
    /// ```
    pub fn clear(&mut self) -> Result<()> {
        Ok(self.inner.clear()?)
    }

    /// Takes out all keys and puts `entries` there, in their order.
    ///
    /// ```
    /// let state = zproc::State::anonymous()?;
    /// state.atomic(|dict| {
    ///     dict.extend([("a", 1), ("b", 2)])?;
    ///     dict.replace_all([("c", 3)])?;
    ///     assert_eq!(dict.to_map()?.to_string(), r#"{"c": 3}"#);
    ///     Ok(())
    /// })?;
    /// # Ok::<(), zproc::Error>(())
    /// ```
    pub fn replace_all<K: ToKey, V: ToValue>(&mut self, entries: impl IntoIterator<Item = (K, V)>) -> Result<()> {
        self.clear()?;
        self.extend(entries)
    }

    /// Whether a key is present.
    ///
    /// ```
    /// let state = zproc::State::anonymous()?;
    /// state.atomic(|dict| {
    ///     dict.insert("cookies", 5)?;
    ///     assert!(dict.contains_key("cookies")?);
    ///     Ok(())
    /// })?;
    /// # Ok::<(), zproc::Error>(())
    /// ```
    pub fn contains_key(&self, key: impl ToKey) -> Result<bool> {
        with_key(key, |key| Ok(self.inner.contains(key)?))
    }

    /// How many keys are present.
    ///
    /// ```
    /// let state = zproc::State::anonymous()?;
    /// state.atomic(|dict| {
    ///     dict.extend([("a", 1), ("b", 2)])?;
    ///     assert_eq!(dict.len(), 2);
    ///     Ok(())
    /// })?;
    /// # Ok::<(), zproc::Error>(())
    /// ```
    pub fn len(&self) -> usize {
        self.inner.len()
    }

    /// Whether no key is present.
    ///
    /// ```
    /// let state = zproc::State::anonymous()?;
    /// state.atomic(|dict| {
    ///     assert!(dict.is_empty());
    ///     Ok(())
    /// })?;
    /// # Ok::<(), zproc::Error>(())
    /// ```
    pub fn is_empty(&self) -> bool {
        self.inner.is_empty()
    }

    /// A copy of the keys and values in the order of insertion.
    ///
    /// ```
    /// let state = zproc::State::anonymous()?;
    /// state.atomic(|dict| {
    ///     dict.extend([("a", 1), ("b", 2)])?;
    ///     assert_eq!(dict.iter()?.next(), Some(("a".into(), 1.into())));
    ///     Ok(())
    /// })?;
    /// # Ok::<(), zproc::Error>(())
    /// ```
    pub fn iter(&self) -> Result<impl DoubleEndedIterator<Item = (Key, Value)> + ExactSizeIterator + use<>> {
        let entries: Result<Vec<_>> = self.inner.entries()?.into_iter().map(decode_entry).collect();
        Ok(entries?.into_iter())
    }

    /// A copy of the keys in the order of insertion.
    ///
    /// ```
    /// let state = zproc::State::anonymous()?;
    /// state.atomic(|dict| {
    ///     dict.extend([("a", 1), ("b", 2)])?;
    ///     assert!(dict.keys()?.eq(["a".into(), "b".into()]));
    ///     Ok(())
    /// })?;
    /// # Ok::<(), zproc::Error>(())
    /// ```
    pub fn keys(&self) -> Result<impl DoubleEndedIterator<Item = Key> + ExactSizeIterator + use<>> {
        let entries = self.inner.entries()?.into_iter();
        let keys: Result<Vec<_>> = entries.map(|(key, _)| decode_key(&key.as_ref())).collect();
        Ok(keys?.into_iter())
    }

    /// A copy of the values in the order of their keys' insertion.
    ///
    /// ```
    /// let state = zproc::State::anonymous()?;
    /// state.atomic(|dict| {
    ///     dict.extend([("a", 1), ("b", 2)])?;
    ///     assert!(dict.values()?.eq([1.into(), 2.into()]));
    ///     Ok(())
    /// })?;
    /// # Ok::<(), zproc::Error>(())
    /// ```
    pub fn values(&self) -> Result<impl DoubleEndedIterator<Item = Value> + ExactSizeIterator + use<>> {
        Ok(self.iter()?.map(|(_, value)| value))
    }

    /// A copy of the state as this transaction sees it.
    ///
    /// ```
    /// let state = zproc::State::anonymous()?;
    /// state.atomic(|dict| {
    ///     dict.extend([("a", 1), ("b", 2)])?;
    ///     assert_eq!(dict.to_map()?.to_string(), r#"{"a": 1, "b": 2}"#);
    ///     Ok(())
    /// })?;
    /// # Ok::<(), zproc::Error>(())
    /// ```
    pub fn to_map(&self) -> Result<Map> {
        Ok(self.iter()?.collect())
    }
}

/// Takes out a key, after its value was read.
pub(crate) fn take<T: FromValue>(
    transaction: &mut shm_state::Transaction<'_>,
    key: &shm_state::KeyRef<'_>,
) -> Result<Option<T>> {
    let value = decoded(transaction.get_with(key, decode_in_place(key))?)?;
    if value.is_some() {
        transaction.remove(key)?;
    }
    Ok(value)
}

/// Takes out the key that was inserted last.
pub(crate) fn pop_item(transaction: &mut shm_state::Transaction<'_>) -> Result<Option<(Key, Value)>> {
    transaction.pop_last()?.map(decode_entry).transpose()
}

/// Gives the number of keys.
impl fmt::Debug for Transaction<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transaction")
            .field("len", &self.len())
            .finish_non_exhaustive()
    }
}
