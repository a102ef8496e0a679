//! A state as a dict. Each call that writes is atomic, and one update.

use super::State;
use crate::codec::{
    boxed_wrong_type_of, decode, decode_in_place, decoded, get_fixed, get_longer, own_key, with_key, with_value,
};
use crate::error::Result;
use crate::handle::Handle;
use crate::key::{Key, ToKey};
use crate::snapshot::Snapshot;
use crate::store::Store;
use crate::transaction::{Transaction, pop_item, take};
use crate::value::{FromValue, Map, ToValue, Value};

impl State {
    /// The value of a key; `None` if the key is absent.
    ///
    /// # Errors
    /// [`Error::WrongType`](crate::Error::WrongType) if the value cannot be read as a `T`.
    ///
    /// ```
    /// use zproc::{State, Value};
    ///
    /// let state = State::anonymous()?;
    /// state.insert("cookies", 5)?;
    /// state.insert("oven", Value::None)?;
    /// assert_eq!(state.get::<u8>("cookies")?, Some(5));
    /// assert_eq!(state.get::<Option<u8>>("oven")?, Some(None));
    /// assert_eq!(state.get::<u8>("flour")?, None);
    /// # Ok::<(), zproc::Error>(())
    /// ```
    #[inline]
    pub fn get<T: FromValue>(&self, key: impl ToKey) -> Result<Option<T>> {
        let Some(namespace) = self.watcher.access.usable() else {
            return self.get_over_socket(key);
        };
        if let Some(size) = const { T::FIXED_SIZE } {
            return key.with_key(|tag, bytes| get_fixed(namespace, &shm_state::KeyRef::new(tag, bytes), size))?;
        }
        // Errors travel in boxes until the end: a large result would be copied at each step.
        let found = key.with_key(|tag, bytes| {
            let key = shm_state::KeyRef::new(tag, bytes);
            match namespace.peek(&key) {
                Some(Some(small)) => match small.with(T::decode) {
                    Ok(value) => Ok(Some(value)),
                    Err(source) => Err(boxed_wrong_type_of(key, source)),
                },
                Some(None) => Ok(None),
                None => get_longer(namespace, key),
            }
        });
        match found {
            Ok(Ok(found)) => Ok(found),
            Ok(Err(error)) => Err(*error),
            Err(error) => Err(error.into()),
        }
    }

    #[cold]
    #[inline(never)]
    fn get_over_socket<T: FromValue>(&self, key: impl ToKey) -> Result<Option<T>> {
        let remote = self.watcher.access.remote()?;
        with_key(key, |key| decoded(remote.get(key, decode_in_place(key))?))
    }

    /// Puts `value` under `key`. A new key goes to the end, an old one stays where it is.
    ///
    /// ```
    /// use zproc::{Map, State};
    ///
    /// let state = State::anonymous()?;
    /// state.insert("cookies", 5)?;
    /// state.insert(("user", 7), "ann")?;
    /// state.insert(3, vec![0.5, 1.5])?;
    /// state.insert("cookies", Map::from([("baked", 12), ("eaten", 7)]))?;
    /// assert_eq!(state.to_map()?.to_string(), r#"{"cookies": {"baked": 12, "eaten": 7}, ("user", 7): "ann", 3: [0.5, 1.5]}"#);
    /// # Ok::<(), zproc::Error>(())
    /// ```
    #[inline]
    pub fn insert(&self, key: impl ToKey, value: impl ToValue) -> Result<()> {
        with_key(key, |key| {
            with_value(value, |tag, bytes| self.watcher.access.put(key, None, tag, bytes))
        })
    }

    /// Takes out a key. Returns its value, `None` if the key was absent.
    ///
    /// ```
    /// let state = zproc::State::anonymous()?;
    /// state.insert("cookies", 5)?;
    /// assert_eq!(state.remove("cookies")?, Some(5.into()));
    /// assert_eq!(state.remove("cookies")?, None);
    /// # Ok::<(), zproc::Error>(())
    /// ```
    pub fn remove(&self, key: impl ToKey) -> Result<Option<Value>> {
        self.take(key)
    }

    /// Takes out a key. Returns its value as a `T`, `None` if the key was absent.
    ///
    /// # Errors
    /// [`Error::WrongType`](crate::Error::WrongType) if the value cannot be read as a `T`; then it stays.
    ///
    /// ```
    /// let state = zproc::State::anonymous()?;
    /// state.insert("cookies", 5)?;
    /// assert!(state.take::<String>("cookies").is_err());
    /// assert_eq!(state.take::<i64>("cookies")?, Some(5));
    /// # Ok::<(), zproc::Error>(())
    /// ```
    pub fn take<T: FromValue>(&self, key: impl ToKey) -> Result<Option<T>> {
        if self.watcher.access.if_remote().is_some() {
            return with_key(key, |key| self.atomic(|dict| dict.take_stored(key)));
        }
        with_key(key, |key| {
            self.watcher.access.write(|transaction| take(transaction, key))
        })
    }

    /// Takes out the key that was inserted last. Returns it with its value, `None` if there are no keys.
    ///
    /// ```
    /// let state = zproc::State::anonymous()?;
    /// state.extend([("a", 1), ("b", 2)])?;
    /// assert_eq!(state.pop_item()?, Some(("b".into(), 2.into())));
    /// assert_eq!(state.pop_item()?, Some(("a".into(), 1.into())));
    /// assert_eq!(state.pop_item()?, None);
    /// # Ok::<(), zproc::Error>(())
    /// ```
    pub fn pop_item(&self) -> Result<Option<(Key, Value)>> {
        if self.watcher.access.if_remote().is_some() {
            return self.atomic(|dict| dict.pop_item());
        }
        self.watcher.access.write(pop_item)
    }

    /// The value of a key; if the key is absent, `default`, which is then put there.
    ///
    /// ```
    /// let state = zproc::State::anonymous()?;
    /// assert_eq!(state.get_or_insert("cookies", 5)?, 5);
    /// assert_eq!(state.get_or_insert("cookies", 6)?, 5);
    /// # Ok::<(), zproc::Error>(())
    /// ```
    pub fn get_or_insert<T: FromValue + ToValue>(&self, key: impl ToKey, default: T) -> Result<T> {
        if self.watcher.access.if_remote().is_some() {
            let found = with_key(key, |key| self.atomic(|dict| dict.get_or_put(key, &default)))?;
            return Ok(found.unwrap_or(default));
        }
        with_key(key, |key| {
            with_value(&default, |tag, bytes| {
                self.watcher.access.write(|transaction| match transaction.get(key)? {
                    Some(value) => decode(key, &value).map(Some),
                    None => {
                        transaction.put(key, tag, bytes)?;
                        Ok(None)
                    }
                })
            })
        })
        .map(|found| found.unwrap_or(default))
    }

    /// Puts all of `entries` there, each as [`State::insert`] does, in one update.
    ///
    /// ```
    /// use zproc::{Map, State, Value};
    ///
    /// let state = State::anonymous()?;
    /// state.extend([("flour", 3), ("cookies", 0)])?;
    /// state.extend(Map::from([("oven", Value::from("hot")), ("cookies", Value::from(5))]))?;
    /// assert_eq!(state.to_map()?.to_string(), r#"{"flour": 3, "cookies": 5, "oven": "hot"}"#);
    /// # Ok::<(), zproc::Error>(())
    /// ```
    pub fn extend<K: ToKey, V: ToValue>(&self, entries: impl IntoIterator<Item = (K, V)>) -> Result<()> {
        Transaction::run_once(&self.watcher.access, |dict| dict.extend(entries))
    }

    /// Takes out all keys, in one update.
    ///
    /// ```
    /// let state = zproc::State::anonymous()?;
    /// state.extend([("flour", 3), ("cookies", 0)])?;
    /// state.clear()?;
    /// assert!(state.is_empty()?);
    /// # Ok::<(), zproc::Error>(())
    /// ```
    pub fn clear(&self) -> Result<()> {
        if self.watcher.access.if_remote().is_some() {
            return self.atomic(|dict| dict.clear());
        }
        self.watcher.access.write(|transaction| Ok(transaction.clear()?))
    }

    /// Takes out all keys and puts `entries` there, in their order, in one update.
    ///
    /// ```
    /// use zproc::{Map, State};
    ///
    /// let state = State::anonymous()?;
    /// state.extend([("flour", 3), ("cookies", 0)])?;
    /// state.replace_all([("cookies", 5), ("milk", 1)])?;
    /// assert_eq!(state.snapshot()?, Map::from([("cookies", 5), ("milk", 1)]));
    /// # Ok::<(), zproc::Error>(())
    /// ```
    pub fn replace_all<K: ToKey, V: ToValue>(&self, entries: impl IntoIterator<Item = (K, V)>) -> Result<()> {
        Transaction::run_once(&self.watcher.access, |dict| dict.replace_all(entries))
    }

    /// Whether a key is present.
    ///
    /// ```
    /// let state = zproc::State::anonymous()?;
    /// state.insert("cookies", 5)?;
    /// assert!(state.contains_key("cookies")?);
    /// # Ok::<(), zproc::Error>(())
    /// ```
    pub fn contains_key(&self, key: impl ToKey) -> Result<bool> {
        match self.watcher.access.store()? {
            Store::Mapped(namespace) => with_key(key, |key| Ok(namespace.contains(key)?)),
            Store::Remote(remote) => with_key(key, |key| Ok(remote.get(key, |_, _| ())?.is_some())),
        }
    }

    /// How many keys are present.
    ///
    /// ```
    /// let state = zproc::State::anonymous()?;
    /// state.extend([("a", 1), ("b", 2)])?;
    /// assert_eq!(state.len()?, 2);
    /// # Ok::<(), zproc::Error>(())
    /// ```
    pub fn len(&self) -> Result<usize> {
        match self.watcher.access.store()? {
            Store::Mapped(namespace) => Ok(namespace.len()?),
            Store::Remote(remote) => remote.len(),
        }
    }

    /// Whether no key is present.
    ///
    /// ```
    /// let state = zproc::State::anonymous()?;
    /// assert!(state.is_empty()?);
    /// # Ok::<(), zproc::Error>(())
    /// ```
    pub fn is_empty(&self) -> Result<bool> {
        match self.watcher.access.store()? {
            Store::Mapped(namespace) => Ok(namespace.is_empty()?),
            Store::Remote(remote) => Ok(remote.len()? == 0),
        }
    }

    /// The state as it is now, to be read at leisure. Costs nanoseconds, because nothing is copied.
    ///
    /// ```
    /// let state = zproc::State::anonymous()?;
    /// state.insert("cookies", 5)?;
    /// let before = state.snapshot()?;
    /// state.insert("cookies", 4)?;
    /// assert_eq!(before.get::<i64>("cookies")?, Some(5));
    /// # Ok::<(), zproc::Error>(())
    /// ```
    #[inline(always)]
    pub fn snapshot(&self) -> Result<Snapshot<'_>> {
        self.watcher.access.snapshot()
    }

    /// A copy of the state as it is now, which keeps nothing from being recycled.
    ///
    /// ```
    /// let state = zproc::State::anonymous()?;
    /// state.extend([("b", 1), ("a", 2)])?;
    /// assert_eq!(state.to_map()?.to_string(), r#"{"b": 1, "a": 2}"#);
    /// # Ok::<(), zproc::Error>(())
    /// ```
    pub fn to_map(&self) -> Result<Map> {
        self.snapshot()?.to_map()
    }

    /// A copy of the keys and values in the order of insertion. [`Snapshot::iter`] reads them one by one.
    ///
    /// ```
    /// let state = zproc::State::anonymous()?;
    /// state.extend([("b", 1), ("a", 2)])?;
    /// let texts: Vec<_> = state.iter()?.map(|(key, value)| format!("{key} is {value}")).collect();
    /// assert_eq!(texts, [r#""b" is 1"#, r#""a" is 2"#]);
    /// # Ok::<(), zproc::Error>(())
    /// ```
    pub fn iter(&self) -> Result<impl DoubleEndedIterator<Item = (Key, Value)> + ExactSizeIterator + use<>> {
        let entries: Result<Vec<_>> = self.snapshot()?.iter().collect();
        Ok(entries?.into_iter())
    }

    /// A copy of the keys in the order of insertion.
    ///
    /// ```
    /// let state = zproc::State::anonymous()?;
    /// state.extend([("b", 1), ("a", 2)])?;
    /// assert!(state.keys()?.eq(["b".into(), "a".into()]));
    /// # Ok::<(), zproc::Error>(())
    /// ```
    pub fn keys(&self) -> Result<impl DoubleEndedIterator<Item = Key> + ExactSizeIterator + use<>> {
        let keys: Result<Vec<_>> = self.snapshot()?.keys().collect();
        Ok(keys?.into_iter())
    }

    /// A copy of the values in the order of their keys' insertion.
    ///
    /// ```
    /// let state = zproc::State::anonymous()?;
    /// state.extend([("b", 1), ("a", 2)])?;
    /// assert!(state.values()?.eq([1.into(), 2.into()]));
    /// # Ok::<(), zproc::Error>(())
    /// ```
    pub fn values(&self) -> Result<impl DoubleEndedIterator<Item = Value> + ExactSizeIterator + use<>> {
        let values: Result<Vec<_>> = self.snapshot()?.values().collect();
        Ok(values?.into_iter())
    }

    /// One key, to be read and written again and again without a lookup.
    ///
    /// ```
    /// let state = zproc::State::anonymous()?;
    /// let cookies = state.handle::<i64>("cookies")?;
    /// cookies.set(5)?;
    /// assert_eq!(cookies.get()?, Some(5));
    /// # Ok::<(), zproc::Error>(())
    /// ```
    pub fn handle<T>(&self, key: impl ToKey) -> Result<Handle<'_, T>> {
        Ok(Handle::new(&self.watcher.access, own_key(key)?))
    }

    /// Runs `f` while no other writer of the namespace runs (over a socket see below). What it does becomes visible all at
    /// once, as one update, when it returns `Ok`; if it returns `Err`, or panics, nothing has happened.
    ///
    /// Readers are not held up, and see the state as it was before. Inside, changes are made through the
    /// [`Transaction`]; a write through a [`State`] fails with [`Error::NestedAtomic`](crate::Error::NestedAtomic).
    ///
    /// ```
    /// use zproc::{Error, State};
    ///
    /// let state = State::anonymous()?;
    /// state.extend([("ann", 10), ("bob", 0)])?;
    /// let pay = |amount| {
    ///     state.atomic(|dict| {
    ///         if dict.modify("ann", |n: i64| n - amount)? < 0 {
    ///             return Err(Error::other("ann has not as much"));
    ///         }
    ///         dict.modify("bob", |n: i64| n + amount)
    ///     })
    /// };
    /// assert_eq!(pay(7)?, 7);
    /// assert!(pay(7).is_err());
    /// assert_eq!(state.get::<i64>("ann")?, Some(3));
    /// # Ok::<(), Error>(())
    /// ```
    ///
    /// **Over a socket** ([`State::transport`]) nobody is kept from writing while `f` runs. What it reads is of one snapshot,
    /// and what it changed is committed if nothing that it has read has changed since; else `f` is run again, on the state as
    /// it is then. So it may run several times before it counts, and should do nothing but with the transaction; it is
    /// `FnMut` for that reason. After a thousand times it is [`Error::Conflict`](crate::Error::Conflict). Reads that go past
    /// the transaction, through a `State` of the same namespace over a socket, would not be noticed to have changed: they
    /// fail with [`Error::NestedAtomic`](crate::Error::NestedAtomic).
    pub fn atomic<R>(&self, f: impl FnMut(&mut Transaction<'_>) -> Result<R>) -> Result<R> {
        Transaction::run(&self.watcher.access, f)
    }
}

/// Makes an atomic operation of a function: it can be called with a state, and its argument. The argument is cloned only
/// for a state that is used over a socket, where the function may run several times; see [`State::atomic`].
///
/// ```
/// use zproc::{Result, State, Transaction};
///
/// fn bake(dict: &mut Transaction<'_>, count: i64) -> Result<i64> {
///     dict.modify_or("cookies", 0, |n| n + count)
/// }
///
/// let bake = zproc::atomic(bake);
/// let state = State::anonymous()?;
/// bake(&state, 5)?;
/// assert_eq!(bake(&state, 2)?, 7);
/// # Ok::<(), zproc::Error>(())
/// ```
pub fn atomic<A: Clone, R>(f: impl Fn(&mut Transaction<'_>, A) -> Result<R>) -> impl Fn(&State, A) -> Result<R> {
    move |state, argument| Transaction::run_with(&state.watcher.access, argument, &f)
}
