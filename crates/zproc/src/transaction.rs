//! Transactions: a dict whose changes become visible all at once, or not at all.

use std::fmt;
use std::time::Duration;

use shm_state::{Deadline, Payload};

use crate::access::{Access, InAtomic};
use crate::codec::{decode_entry, decode_in_place, decode_key, decoded, name, with_key, with_value};
use crate::error::{Error, Result};
use crate::key::{Key, ToKey};
use crate::over_socket::{Overlay, Remote};
use crate::value::{FromValue, Map, ToValue, Value};
use crate::wire::proof;

/// The state inside of [`State::atomic`](crate::State::atomic): a dict that sees its own changes.
///
/// Readers see the state as it was before. Where the state is mapped, no other writer of the namespace runs meanwhile; over a
/// socket others may, and if they change what was read here, the transaction is run again.
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
    inner: Inner<'s>,
}

/// Where the changes are until they are committed.
enum Inner<'s> {
    /// In shared memory, with the writer lock.
    Mapped(shm_state::Transaction<'s>),
    /// Here; see `over_socket`.
    Remote(Box<Overlay<'s>>),
}

/// So often a transaction over a socket is run.
const ATTEMPTS: u32 = 1000;
/// How long it rests between two attempts, at most: a random time, that doubles.
const LONGEST_REST: Duration = Duration::from_millis(5);

impl Transaction<'_> {
    /// Runs `f` in a transaction, and commits what it did if it succeeds.
    pub(crate) fn run<R>(access: &Access, mut f: impl FnMut(&mut Transaction<'_>) -> Result<R>) -> Result<R> {
        match access.if_remote() {
            None => Self::run_mapped(access, f),
            Some(remote) => Self::run_over_socket(access, remote, &mut f),
        }
    }

    /// As [`Transaction::run`], for an `f` that reads nothing, and so meets no conflict.
    pub(crate) fn run_once<R>(access: &Access, f: impl FnOnce(&mut Transaction<'_>) -> Result<R>) -> Result<R> {
        match access.if_remote() {
            None => Self::run_mapped(access, f),
            Some(remote) => {
                let mut once = Some(f);
                Self::run_over_socket(access, remote, &mut |transaction| match once.take() {
                    Some(f) => f(transaction),
                    None => Err(Error::Conflict { attempts: 1 }),
                })
            }
        }
    }

    /// As [`Transaction::run`], for a function with an argument.
    pub(crate) fn run_with<A: Clone, R>(
        access: &Access,
        argument: A,
        f: &impl Fn(&mut Transaction<'_>, A) -> Result<R>,
    ) -> Result<R> {
        match access.if_remote() {
            None => Self::run_mapped(access, |transaction| f(transaction, argument)),
            Some(remote) => Self::run_over_socket(access, remote, &mut |transaction| f(transaction, argument.clone())),
        }
    }

    fn run_mapped<R>(access: &Access, f: impl FnOnce(&mut Transaction<'_>) -> Result<R>) -> Result<R> {
        let mut transaction = Transaction {
            inner: Inner::Mapped(access.begin()?),
        };
        let result = {
            let _inside = InAtomic::enter();
            f(&mut transaction)?
        };
        if let Inner::Mapped(inner) = transaction.inner {
            inner.rearm();
            access.commit(inner)?;
        }
        Ok(result)
    }

    #[cold]
    fn run_over_socket<R>(
        access: &Access,
        remote: &Remote,
        f: &mut dyn FnMut(&mut Transaction<'_>) -> Result<R>,
    ) -> Result<R> {
        access.check_writable()?;
        let deadline = access.patience.lock_timeout.map_or(Deadline::never(), Deadline::after);
        let mut rest = Duration::from_micros(50);
        for attempt in 1..=ATTEMPTS {
            let mut transaction = Transaction {
                inner: Inner::Remote(Box::new(Overlay::new(remote))),
            };
            let result = {
                let _inside = InAtomic::enter();
                let _own = remote.only_for_transaction();
                f(&mut transaction)?
            };
            if let Inner::Remote(overlay) = transaction.inner
                && access.commit_over_socket(*overlay)?
            {
                return Ok(result);
            }
            if deadline.passed() {
                return Err(Error::Conflict { attempts: attempt });
            }
            if attempt > 1 {
                let random: [u8; 1] = proof::random().unwrap_or_default();
                std::thread::sleep(rest.mul_f64(f64::from(random[0]) / 256.0));
                rest = (2 * rest).min(LONGEST_REST);
            }
        }
        Err(Error::Conflict { attempts: ATTEMPTS })
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
            with_value(value, |tag, bytes| self.inner.put(key, tag, bytes))
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
        with_key(key, |key| self.take_stored(key))
    }

    pub(crate) fn take_stored<T: FromValue>(&mut self, key: &shm_state::KeyRef<'_>) -> Result<Option<T>> {
        match &mut self.inner {
            Inner::Mapped(inner) => take(inner, key),
            Inner::Remote(overlay) => {
                let value = decoded(overlay.get_with(key, decode_in_place(key))?)?;
                if value.is_some() {
                    overlay.remove(key);
                }
                Ok(value)
            }
        }
    }

    /// Puts a value under a key, both as they are stored. Returns whether the key was there.
    pub(crate) fn put_stored(&mut self, key: &shm_state::KeyRef<'_>, tag: u16, bytes: &[u8]) -> Result<bool> {
        match &mut self.inner {
            Inner::Mapped(inner) => Ok(inner.put(key, tag, bytes)?),
            Inner::Remote(overlay) => {
                let was_there = overlay.contains(key)?;
                overlay.put(key, tag, bytes);
                Ok(was_there)
            }
        }
    }

    /// The value of a key; `None` if the key is absent, where `default` is then put.
    pub(crate) fn get_or_put<T: FromValue + ToValue>(
        &mut self,
        key: &shm_state::KeyRef<'_>,
        default: &T,
    ) -> Result<Option<T>> {
        match self.get_stored(key)? {
            Some(value) => Ok(Some(value)),
            None => {
                with_value(default, |tag, bytes| self.inner.put(key, tag, bytes))?;
                Ok(None)
            }
        }
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
        match &self.inner {
            Inner::Mapped(inner) => decoded(inner.get_with(key, decode_in_place(key))?),
            Inner::Remote(overlay) => decoded(overlay.get_with(key, decode_in_place(key))?),
        }
    }

    fn put<T: ToValue>(&mut self, key: &shm_state::KeyRef<'_>, value: T) -> Result<T> {
        with_value(&value, |tag, bytes| self.inner.put(key, tag, bytes))?;
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
        match &mut self.inner {
            Inner::Mapped(inner) => pop_item(inner),
            Inner::Remote(overlay) => overlay.pop_last()?.map(decode_entry).transpose(),
        }
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
        match &mut self.inner {
            Inner::Mapped(inner) => Ok(inner.clear()?),
            Inner::Remote(overlay) => {
                overlay.clear();
                Ok(())
            }
        }
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
        with_key(key, |key| match &self.inner {
            Inner::Mapped(inner) => Ok(inner.contains(key)?),
            Inner::Remote(overlay) => overlay.contains(key),
        })
    }

    /// How many keys are present. If that cannot be told, over a socket that fails, the transaction fails at its end.
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
        match &self.inner {
            Inner::Mapped(inner) => inner.len(),
            Inner::Remote(overlay) => overlay.len(),
        }
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
        self.len() == 0
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

impl Inner<'_> {
    #[inline]
    fn put(&mut self, key: &shm_state::KeyRef<'_>, tag: u16, bytes: &[u8]) -> Result<()> {
        match self {
            Self::Mapped(inner) => {
                inner.put(key, tag, bytes)?;
            }
            Self::Remote(overlay) => overlay.put(key, tag, bytes),
        }
        Ok(())
    }

    fn entries(&self) -> Result<Vec<(shm_state::Key, Payload)>> {
        match self {
            Self::Mapped(inner) => Ok(inner.entries()?),
            Self::Remote(overlay) => overlay.entries(),
        }
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
