//! Snapshots: the state as it was after one update.

use std::fmt;
use std::sync::Arc;

use shm_state::{KeyRef, Namespace, Payload, Pinned};

use crate::codec::{boxed_wrong_type_of, decode_entry, decode_in_place, decoded, with_key};
use crate::error::{Error, Result};
use crate::key::{Key, ToKey};
use crate::over_socket::RemoteSnapshot;
use crate::store::Store;
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
    inner: Inner<'s>,
}

/// Where the snapshot is. The pointer leaves the other variant as small as it is alone; that of an [`Arc`], because what
/// it takes to let go is one call then, and dropping a snapshot is short enough to be inlined.
enum Inner<'s> {
    Mapped {
        pinned: Pinned<'s>,
        namespace: &'s Namespace,
    },
    Remote(Arc<RemoteSnapshot<'s>>),
}

impl<'s> Snapshot<'s> {
    #[inline(always)]
    pub(crate) fn new(namespace: &'s Namespace, pinned: Pinned<'s>) -> Self {
        Self {
            inner: Inner::Mapped { pinned, namespace },
        }
    }

    fn over_socket(snapshot: RemoteSnapshot<'s>) -> Self {
        Self {
            inner: Inner::Remote(Arc::new(snapshot)),
        }
    }

    /// The newest one.
    pub(crate) fn newest_in(store: Store<'s>) -> Result<Self> {
        match store {
            Store::Mapped(namespace) => Self::newest(namespace),
            Store::Remote(remote) => remote.snapshot().map(Self::over_socket),
        }
    }

    /// That of the update `seq`; `None` if it fell out of the history.
    pub(crate) fn at_in(store: Store<'s>, seq: u64) -> Result<Option<Self>> {
        match store {
            Store::Mapped(namespace) => Self::at(namespace, seq),
            Store::Remote(remote) => Ok(remote.snapshot_at(seq)?.map(Self::over_socket)),
        }
    }

    /// The newest one.
    #[inline(always)]
    pub(crate) fn newest(namespace: &'s Namespace) -> Result<Self> {
        Ok(Self::new(namespace, namespace.pin()?))
    }

    /// That of the update `seq`; `None` if it fell out of the history.
    fn at(namespace: &'s Namespace, seq: u64) -> Result<Option<Self>> {
        Ok(namespace.pin_at(seq)?.map(|pinned| Self::new(namespace, pinned)))
    }

    /// Where it is, unless this process was forked since, whose parent may have let go what was pinned.
    #[inline(always)]
    fn checked(&self) -> Result<&Inner<'s>> {
        if let Inner::Mapped { namespace, .. } = &self.inner {
            namespace.check_fork()?;
        }
        Ok(&self.inner)
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
        match &self.inner {
            Inner::Mapped { pinned, .. } => pinned.seq(),
            Inner::Remote(snapshot) => snapshot.seq(),
        }
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
        with_key(key, |key| match self.checked()? {
            Inner::Mapped { pinned, .. } => decoded(pinned.get_with(key, decode_in_place(key))?),
            Inner::Remote(snapshot) => get_over_socket(snapshot, key),
        })
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
    /// Over a socket ([`State::transport`](crate::State::transport)) a value is fetched when it is looked at for the first
    /// time, and kept for as long as the snapshot: what is shown is this process's own, and is checked by each call.
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
            let Inner::Mapped { pinned, .. } = &self.inner else {
                return self.view_over_socket(key);
            };
            match pinned.in_place_at_hand(&key) {
                Ok(Some(place)) if let Some(target) = T::known(place) => Ok(Some(View::new(target))),
                Ok(None) => Ok(None),
                _ => Self::view_slowly(pinned, key),
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
    fn view_slowly<'p, T: Viewable + ?Sized>(
        pinned: &'p Pinned<'s>,
        key: KeyRef<'_>,
    ) -> Result<Option<View<'p, T>>, Box<Error>> {
        // The engine refuses a forked process itself.
        match pinned.in_place(&key).map_err(|error| Box::new(error.into()))? {
            Some(place) => match T::show(place) {
                Ok(target) => Ok(Some(View::new(target))),
                Err(source) => Err(boxed_wrong_type_of(key, source)),
            },
            None => Ok(None),
        }
    }

    /// Looks at a value that the server has.
    #[cold]
    #[inline(never)]
    fn view_over_socket<T: Viewable + ?Sized>(&self, key: KeyRef<'_>) -> Result<Option<View<'_, T>>, Box<Error>> {
        let Inner::Remote(snapshot) = &self.inner else {
            return Ok(None);
        };
        match snapshot.show(&key).map_err(Box::new)? {
            Some(value) => match T::check(value) {
                Ok(target) => Ok(Some(View::new(target))),
                Err(source) => Err(boxed_wrong_type_of(key, source)),
            },
            None => Ok(None),
        }
    }

    /// The value of a key as it is stored.
    #[inline]
    pub(crate) fn payload(&self, key: &KeyRef<'_>) -> Result<Option<Payload>> {
        match self.checked()? {
            Inner::Mapped { pinned, .. } => Ok(pinned.get(key)?),
            Inner::Remote(snapshot) => snapshot.get(key, Payload::copy_of),
        }
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
        with_key(key, |key| match self.checked()? {
            Inner::Mapped { pinned, .. } => Ok(pinned.contains(key)?),
            Inner::Remote(snapshot) => Ok(snapshot.get(key, |_, _| ())?.is_some()),
        })
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
        match self.checked()? {
            Inner::Mapped { pinned, .. } => Ok(pinned.len()?),
            Inner::Remote(snapshot) => snapshot.len(),
        }
    }

    /// Whether no key is present.
    ///
    /// ```
    /// let state = zproc::State::anonymous()?;
    /// assert!(state.snapshot()?.is_empty()?);
    /// # Ok::<(), zproc::Error>(())
    /// ```
    pub fn is_empty(&self) -> Result<bool> {
        match self.checked()? {
            Inner::Mapped { pinned, .. } => Ok(pinned.is_empty()?),
            Inner::Remote(snapshot) => Ok(snapshot.len()? == 0),
        }
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
        match &self.inner {
            Inner::Mapped { namespace, .. } => namespace.name(),
            Inner::Remote(snapshot) => snapshot.namespace(),
        }
    }

    /// What is stored, in the order of insertion. If that cannot be told, the only item says why. Over a socket all of it is
    /// fetched first.
    pub(crate) fn stored(&self) -> impl DoubleEndedIterator<Item = Result<(shm_state::Key, Payload)>> + '_ {
        let (mut mapped, mut fetched, mut failed) = (None, Vec::new(), None);
        let looked = self.checked().and_then(|inner| {
            match inner {
                Inner::Mapped { pinned, .. } => mapped = Some(pinned.iter()?),
                Inner::Remote(snapshot) => fetched = snapshot.entries()?,
            }
            Ok(())
        });
        if let Err(error) = looked {
            failed = Some(Err(error));
        }
        failed
            .into_iter()
            .chain(mapped.into_iter().flatten().map(|entry| Ok(entry?)))
            .chain(fetched.into_iter().map(Ok))
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

#[cold]
#[inline(never)]
fn get_over_socket<T: FromValue>(snapshot: &RemoteSnapshot<'_>, key: &KeyRef<'_>) -> Result<Option<T>> {
    decoded(snapshot.get(key, decode_in_place(key))?)
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
