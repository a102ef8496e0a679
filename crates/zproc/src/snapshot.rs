//! Snapshots: the state as it was after one update.

use std::fmt;

use shm_state::{KeyRef, Namespace, Payload, Pinned};

use crate::codec::{boxed_wrong_type_of, decode_entry, decode_in_place, decoded, with_key};
use crate::error::{Error, Result};
use crate::key::{Key, ToKey};
use crate::value::{Encoded, FromValue, Map, Value};
use crate::view::{View, Viewable};

/// The state as it was after one update, to be read like a dict.
///
/// Taking one costs nanoseconds whatever the size of the state, because nothing is copied: the values that it shows are
/// kept from being recycled for as long as it lives. So drop it when it is no longer needed; [`Snapshot::to_map`] makes
/// a copy that keeps nothing.
///
/// Snapshots are equal to each other, and to a [`Map`], if they have the same keys with the same values, in whatever
/// order.
///
/// ```
/// use zproc::{Map, State};
///
/// let state = State::anonymous()?;
/// state.insert("cookies", 5)?;
/// let before = state.snapshot()?;
/// state.insert("cookies", 4)?;
/// assert_eq!(before.get::<i64>("cookies")?, Some(5));
/// assert_eq!(before, Map::from([("cookies", 5)]));
/// assert_ne!(before, state.snapshot()?);
/// # Ok::<(), zproc::Error>(())
/// ```
pub struct Snapshot<'s> {
    pinned: Pinned<'s>,
    namespace: &'s Namespace,
}

impl<'s> Snapshot<'s> {
    #[inline(always)]
    pub(crate) fn new(namespace: &'s Namespace, pinned: Pinned<'s>) -> Self {
        Self { pinned, namespace }
    }

    /// The newest one.
    #[inline(always)]
    pub(crate) fn newest(namespace: &'s Namespace) -> Result<Self> {
        Ok(Self::new(namespace, namespace.pin()?))
    }

    /// That of the update `seq`; `None` if it fell out of the history.
    pub(crate) fn at(namespace: &'s Namespace, seq: u64) -> Result<Option<Self>> {
        Ok(namespace.pin_at(seq)?.map(|pinned| Self::new(namespace, pinned)))
    }

    /// What was pinned, unless this process was forked since, whose parent may have let it go.
    #[inline(always)]
    fn pinned(&self) -> Result<&Pinned<'s>> {
        self.namespace.check_fork()?;
        Ok(&self.pinned)
    }

    /// The number of the update after which the state was like this; 0 before the first.
    ///
    /// ```
    /// let state = zproc::State::anonymous()?;
    /// state.insert("cookies", 5)?;
    /// assert_eq!(state.snapshot()?.seq(), 1);
    /// # Ok::<(), zproc::Error>(())
    /// ```
    pub fn seq(&self) -> u64 {
        self.pinned.seq()
    }

    /// The value of a key; `None` if the key is absent.
    ///
    /// # Errors
    /// [`Error::WrongType`](crate::Error::WrongType) if the value cannot be read as a `T`.
    ///
    /// ```
    /// let state = zproc::State::anonymous()?;
    /// state.insert("cookies", 5)?;
    /// let snapshot = state.snapshot()?;
    /// assert_eq!(snapshot.get::<i64>("cookies")?, Some(5));
    /// assert_eq!(snapshot.get::<i64>("flour")?, None);
    /// # Ok::<(), zproc::Error>(())
    /// ```
    #[inline]
    pub fn get<T: FromValue>(&self, key: impl ToKey) -> Result<Option<T>> {
        with_key(key, |key| decoded(self.pinned()?.get_with(key, decode_in_place(key))?))
    }

    /// The value of a key where it lies in shared memory, without a copy; `None` if the key is absent.
    ///
    /// What is shown of an rkyv type is its archived form. It is checked when this thread sees the value for the first time,
    /// and after that the call costs no more than a lookup, whatever the size. Nested pointers are followed 512 deep.
    ///
    /// A view trusts the other processes of the state to leave the bytes alone, which all that use this library do: a
    /// snapshot keeps its values from being recycled, and a value never changes. If something else writes to the memory,
    /// what a view shows may change under its reader, and be invalid, which in Rust is undefined behaviour.
    /// [`Snapshot::get`] has no such weakness, since it takes a copy first and checks that. A view must not be used in a
    /// child that was forked after it was made (the child has no part in the snapshot; the call itself says so).
    ///
    /// # Errors
    /// [`Error::WrongType`](crate::Error::WrongType) if the value is of another type, or damaged.
    ///
    /// ```
    /// use zproc::State;
    /// use zproc::rkyv::{Archive, Deserialize, Serialize};
    ///
    /// #[derive(Archive, Serialize, Deserialize)]
    /// #[rkyv(crate = zproc::rkyv)]
    /// struct Scan { angle: f32, distances: Vec<f32> }
    /// zproc::archived!(Scan as "robot.Scan");
    ///
    /// let state = State::anonymous()?;
    /// state.insert("scan", Scan { angle: 0.5, distances: vec![1.5; 10_000] })?;
    /// let snapshot = state.snapshot()?;
    /// let scan = snapshot.view::<Scan>("scan")?.expect("it was put there");
    /// assert_eq!((scan.angle.to_native(), scan.distances.len()), (0.5, 10_000));
    /// # Ok::<(), zproc::Error>(())
    /// ```
    #[inline]
    pub fn view<T: Viewable + ?Sized>(&self, key: impl ToKey) -> Result<Option<View<'_, T>>> {
        let found = key.with_key(|tag, bytes| {
            let key = KeyRef::new(tag, bytes);
            match self.pinned.in_place_at_hand(&key) {
                Ok(Some(place)) if let Some(target) = T::known(place) => Ok(Some(View::new(target))),
                Ok(None) => Ok(None),
                _ => self.view_slowly(key),
            }
        });
        match found {
            Ok(Ok(found)) => Ok(found),
            Ok(Err(error)) => Err(*error),
            Err(error) => Err(error.into()),
        }
    }

    /// Looks at a value that is not at hand, or not known to be one.
    #[cold]
    #[inline(never)]
    fn view_slowly<T: Viewable + ?Sized>(&self, key: KeyRef<'_>) -> Result<Option<View<'_, T>>, Box<Error>> {
        // The engine refuses a forked process itself.
        match self.pinned.in_place(&key).map_err(|error| Box::new(error.into()))? {
            Some(place) => match T::show(place) {
                Ok(target) => Ok(Some(View::new(target))),
                Err(source) => Err(boxed_wrong_type_of(key, source)),
            },
            None => Ok(None),
        }
    }

    /// The value of a key as it is stored.
    #[inline]
    pub(crate) fn payload(&self, key: &KeyRef<'_>) -> Result<Option<Payload>> {
        Ok(self.pinned()?.get(key)?)
    }

    /// Whether a key is present.
    ///
    /// ```
    /// let state = zproc::State::anonymous()?;
    /// state.insert("cookies", 5)?;
    /// assert!(state.snapshot()?.contains_key("cookies")?);
    /// # Ok::<(), zproc::Error>(())
    /// ```
    pub fn contains_key(&self, key: impl ToKey) -> Result<bool> {
        with_key(key, |key| Ok(self.pinned()?.contains(key)?))
    }

    /// How many keys are present.
    ///
    /// ```
    /// let state = zproc::State::anonymous()?;
    /// state.extend([("a", 1), ("b", 2)])?;
    /// assert_eq!(state.snapshot()?.len()?, 2);
    /// # Ok::<(), zproc::Error>(())
    /// ```
    pub fn len(&self) -> Result<usize> {
        Ok(self.pinned()?.len()?)
    }

    /// Whether no key is present.
    ///
    /// ```
    /// let state = zproc::State::anonymous()?;
    /// assert!(state.snapshot()?.is_empty()?);
    /// # Ok::<(), zproc::Error>(())
    /// ```
    pub fn is_empty(&self) -> Result<bool> {
        Ok(self.pinned()?.is_empty()?)
    }

    /// The keys and values in the order of insertion.
    ///
    /// ```
    /// let state = zproc::State::anonymous()?;
    /// state.extend([("b", 1), ("a", 2)])?;
    /// for entry in state.snapshot()?.iter() {
    ///     let (key, value) = entry?;
    ///     println!("{key} is {value}");
    /// }
    /// # Ok::<(), zproc::Error>(())
    /// ```
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = Result<(Key, Value)>> + '_ {
        self.stored().map(|entry| decode_entry(entry?))
    }

    /// The keys in the order of insertion.
    ///
    /// ```
    /// let state = zproc::State::anonymous()?;
    /// state.extend([("b", 1), ("a", 2)])?;
    /// let keys: zproc::Result<Vec<_>> = state.snapshot()?.keys().collect();
    /// assert_eq!(keys?, ["b".into(), "a".into()]);
    /// # Ok::<(), zproc::Error>(())
    /// ```
    pub fn keys(&self) -> impl DoubleEndedIterator<Item = Result<Key>> + '_ {
        self.stored().map(|entry| crate::codec::decode_key(&entry?.0.as_ref()))
    }

    /// The values in the order of their keys' insertion.
    ///
    /// ```
    /// let state = zproc::State::anonymous()?;
    /// state.extend([("b", 1), ("a", 2)])?;
    /// let values: zproc::Result<Vec<_>> = state.snapshot()?.values().rev().collect();
    /// assert_eq!(values?, [2.into(), 1.into()]);
    /// # Ok::<(), zproc::Error>(())
    /// ```
    pub fn values(&self) -> impl DoubleEndedIterator<Item = Result<Value>> + '_ {
        self.stored().map(|entry| {
            let (key, payload) = entry?;
            crate::codec::decode(&key.as_ref(), &payload)
        })
    }

    /// The namespace that it shows.
    pub(crate) fn namespace(&self) -> &str {
        self.namespace.name()
    }

    /// What is stored, in the order of insertion. If that cannot be told, the only item says why.
    pub(crate) fn stored(&self) -> impl DoubleEndedIterator<Item = Result<(shm_state::Key, Payload)>> + '_ {
        let (entries, failed) = match self.pinned().and_then(|pinned| Ok(pinned.iter()?)) {
            Ok(entries) => (Some(entries), None),
            Err(error) => (None, Some(Err(error))),
        };
        failed
            .into_iter()
            .chain(entries.into_iter().flatten().map(|entry| Ok(entry?)))
    }

    /// A copy that keeps nothing from being recycled.
    ///
    /// ```
    /// use zproc::{Map, State};
    ///
    /// let state = State::anonymous()?;
    /// state.insert("cookies", 5)?;
    /// let map: Map = state.snapshot()?.to_map()?;
    /// assert_eq!(map, Map::from([("cookies", 5)]));
    /// # Ok::<(), zproc::Error>(())
    /// ```
    pub fn to_map(&self) -> Result<Map> {
        self.iter().collect()
    }

    /// Whether the other has the same keys with the same values.
    fn same_as(&self, other: &Snapshot<'_>) -> Result<bool> {
        if self.len()? != other.len()? {
            return Ok(false);
        }
        for entry in self.stored() {
            let (key, mine) = entry?;
            match other.payload(&key.as_ref())? {
                Some(theirs) if same_value(&mine, &theirs) => {}
                _ => return Ok(false),
            }
        }
        Ok(true)
    }

    fn same_as_map(&self, map: &Map) -> Result<bool> {
        if self.len()? != map.len() {
            return Ok(false);
        }
        for (key, value) in map {
            let same = with_key(key, |key| match self.payload(key)? {
                Some(mine) => Ok(holds(&mine, value)?),
                None => Ok(false),
            })?;
            if !same {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

fn same_value(a: &Payload, b: &Payload) -> bool {
    Encoded::new(a.tag(), a.bytes()).same_value(Encoded::new(b.tag(), b.bytes()))
}

fn holds(payload: &Payload, value: &Value) -> Result<bool> {
    use crate::value::ToValue;
    Ok(value.with_encoded(|value| value.same_value(Encoded::new(payload.tag(), payload.bytes())))?)
}

/// What cannot be read is equal to nothing.
impl PartialEq<Snapshot<'_>> for Snapshot<'_> {
    fn eq(&self, other: &Snapshot<'_>) -> bool {
        self.same_as(other).unwrap_or(false)
    }
}

impl PartialEq<Map> for Snapshot<'_> {
    fn eq(&self, map: &Map) -> bool {
        self.same_as_map(map).unwrap_or(false)
    }
}

impl PartialEq<Snapshot<'_>> for Map {
    fn eq(&self, snapshot: &Snapshot<'_>) -> bool {
        snapshot == self
    }
}

/// Gives the number of the update; [`Snapshot::to_map`] gives the contents.
impl fmt::Debug for Snapshot<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Snapshot")
            .field("seq", &self.seq())
            .finish_non_exhaustive()
    }
}
