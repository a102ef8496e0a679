//! Handles: one key, found once.

use std::cell::Cell;
use std::fmt;
use std::marker::PhantomData;

use shm_state::{FixedSize, Namespace, Place, ShortRoom};

use crate::access::Access;
use crate::codec::{boxed_wrong_type, decoded, name, with_value};
use crate::error::{Error, Result};
use crate::key::Key;
use crate::value::{Encoded, FromValue, ToValue};

/// One key of a state, to be read and written again and again without a lookup.
///
/// It stays with the key when that is removed and inserted anew. Made by [`State::handle`](crate::State::handle).
///
/// A handle belongs to one thread at a time, since it remembers where it found the key without synchronisation, which
/// would cost more than the lookup that it saves; other threads make their own from the same state.
///
/// ```
/// use zproc::State;
///
/// let state = State::anonymous()?;
/// let cookies = state.handle::<i64>("cookies")?;
/// assert_eq!(cookies.get()?, None);
/// cookies.set(5)?;
/// state.remove("cookies")?;
/// assert_eq!(cookies.get()?, None);
/// state.insert("cookies", 6)?;
/// assert_eq!(cookies.get()?, Some(6));
/// # Ok::<(), zproc::Error>(())
/// ```
pub struct Handle<'s, T> {
    access: &'s Access,
    key: shm_state::Key,
    place: Cell<Option<Place<'s>>>,
    type_: PhantomData<fn(T) -> T>,
}

impl<'s, T> Handle<'s, T> {
    pub(crate) fn new(access: &'s Access, key: shm_state::Key) -> Self {
        Self {
            access,
            key,
            place: Cell::new(None),
            type_: PhantomData,
        }
    }

    /// The key.
    ///
    /// ```
    /// let state = zproc::State::anonymous()?;
    /// assert_eq!(state.handle::<i64>("cookies")?.key(), "cookies".into());
    /// # Ok::<(), zproc::Error>(())
    /// ```
    pub fn key(&self) -> Key {
        name(&self.key.as_ref())
    }

    /// The value of the key; `None` if the key is absent.
    ///
    /// # Errors
    /// [`Error::WrongType`](crate::Error::WrongType) if the value cannot be read as a `T`.
    ///
    /// ```
    /// let state = zproc::State::anonymous()?;
    /// let cookies = state.handle::<i64>("cookies")?;
    /// assert_eq!(cookies.get()?, None);
    /// state.insert("cookies", 5)?;
    /// assert_eq!(cookies.get()?, Some(5));
    /// # Ok::<(), zproc::Error>(())
    /// ```
    #[inline(always)]
    pub fn get(&self) -> Result<Option<T>>
    where
        T: FromValue,
    {
        let Some(namespace) = self.access.usable() else {
            return self.get_over_socket();
        };
        if let Some(size) = const { T::FIXED_SIZE } {
            return self.get_fixed(namespace, size);
        }
        if let Some(place) = self.place.get()
            && let Some(found) = place.peek(|tag, bytes| self.read(tag, bytes))
        {
            return decoded(found);
        }
        self.find(namespace)
    }

    #[inline(always)]
    fn get_fixed(&self, namespace: &'s Namespace, size: FixedSize) -> Result<Option<T>>
    where
        T: FromValue,
    {
        let mut room = ShortRoom::new();
        let Some(place) = self.place.get() else {
            return self.find(namespace);
        };
        match place.peek_exactly(size, &mut room) {
            Ok(Some((tag, bytes))) if let Some(value) = T::from_fixed(Encoded::new(tag, bytes)) => Ok(Some(value)),
            Ok(None) => Ok(None),
            _ => self.find(namespace),
        }
    }

    #[inline(always)]
    fn read(&self, tag: u16, bytes: &[u8]) -> Result<T, Box<Error>>
    where
        T: FromValue,
    {
        T::decode(tag, bytes).map_err(|source| boxed_wrong_type(&self.key, source))
    }

    #[cold]
    #[inline(never)]
    fn get_over_socket(&self) -> Result<Option<T>>
    where
        T: FromValue,
    {
        let remote = self.access.remote()?;
        decoded(remote.get(&self.key.as_ref(), |tag, bytes| self.read(tag, bytes))?)
    }

    /// Reads a long value where the key is; or looks the key up, and remembers where it is.
    #[cold]
    #[inline(never)]
    fn find(&self, namespace: &'s Namespace) -> Result<Option<T>>
    where
        T: FromValue,
    {
        let key = self.key.as_ref();
        if let Some(place) = self.place.get() {
            if let Some(found) = place.peek_short(|tag, bytes| self.read(tag, bytes)) {
                return decoded(found);
            }
            if let Some(found) = namespace.get_at(&place, |tag, bytes| self.read(tag, bytes))? {
                return decoded(found);
            }
        }
        self.place.set(namespace.place(&key)?);
        // Not from the place, which may have gone stale again.
        decoded(namespace.get_with(&key, |tag, bytes| self.read(tag, bytes))?)
    }

    /// Puts `value` under the key.
    ///
    /// ```
    /// let state = zproc::State::anonymous()?;
    /// let cookies = state.handle::<i64>("cookies")?;
    /// cookies.set(5)?;
    /// assert_eq!(state.get::<i64>("cookies")?, Some(5));
    /// # Ok::<(), zproc::Error>(())
    /// ```
    pub fn set(&self, value: T) -> Result<()>
    where
        T: ToValue,
    {
        let key = self.key.as_ref();
        let place = self.place.get();
        with_value(value, |tag, bytes| {
            self.access.put(&key, place.map(|place| place.entry_ref()), tag, bytes)
        })?;
        if !place.is_some_and(|place| place.is_current())
            && let Some(namespace) = self.access.usable()
        {
            self.place.set(namespace.place(&key)?);
        }
        Ok(())
    }
}

impl<T> fmt::Debug for Handle<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle")
            .field("key", &self.key())
            .finish_non_exhaustive()
    }
}
