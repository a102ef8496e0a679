//! Between the types of this crate and the bytes of the engine.

use shm_state::{FixedSize, KeyRef, Namespace, Payload, ShortRoom};

use crate::error::{Error, Result};
use crate::key::{Key, ToKey};
use crate::value::{DecodeError, EncodeError, Encoded, FromValue, ToValue, Value};

/// Calls `f` with the key as the engine takes it.
#[inline(always)]
pub(crate) fn with_key<R>(key: impl ToKey, f: impl FnOnce(&KeyRef<'_>) -> Result<R>) -> Result<R> {
    unboxed(key.with_key(|tag, bytes| f(&KeyRef::new(tag, bytes)).map_err(boxed)))
}

/// The key, hashed and owned.
pub(crate) fn own_key(key: impl ToKey) -> Result<shm_state::Key> {
    with_key(key, |key| Ok(key.to_owned()))
}

/// Calls `f` with the tag and the bytes of the value.
#[inline(always)]
pub(crate) fn with_value<R>(value: impl ToValue, f: impl FnOnce(u16, &[u8]) -> Result<R>) -> Result<R> {
    unboxed(value.with_encoded(|encoded| f(encoded.tag(), encoded.bytes()).map_err(boxed)))
}

/// The outcome of a closure inside of another result, which is copied on its way up unless it is small.
#[inline(always)]
fn unboxed<R>(outcome: Result<Result<R, Box<Error>>, EncodeError>) -> Result<R> {
    match outcome {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(*error),
        Err(error) => Err(error.into()),
    }
}

#[cold]
#[inline(never)]
fn boxed(error: Error) -> Box<Error> {
    Box::new(error)
}

/// Reads the value of a key.
#[inline(always)]
pub(crate) fn decode<T: FromValue>(key: &KeyRef<'_>, payload: &Payload) -> Result<T> {
    T::decode(payload.tag(), payload.bytes()).map_err(|source| wrong_type(key, source))
}

/// Reads the value of a key where it lies. The error is boxed because results of this kind are passed up through the
/// engine's fastest path, which is twice as fast if they are small.
#[inline(always)]
pub(crate) fn decode_in_place<T: FromValue>(key: &KeyRef<'_>) -> impl FnOnce(u16, &[u8]) -> Result<T, Box<Error>> {
    move |tag, bytes| T::decode(tag, bytes).map_err(|source| Box::new(wrong_type(key, source)))
}

/// The outcome of [`decode_in_place`], if the key was present.
#[inline(always)]
pub(crate) fn decoded<T>(found: Option<Result<T, Box<Error>>>) -> Result<Option<T>> {
    match found {
        Some(Ok(value)) => Ok(Some(value)),
        Some(Err(error)) => Err(*error),
        None => Ok(None),
    }
}

/// The error of a handle; see [`decode_in_place`].
#[cold]
#[inline(never)]
pub(crate) fn boxed_wrong_type(key: &shm_state::Key, source: DecodeError) -> Box<Error> {
    Box::new(wrong_type(&key.as_ref(), source))
}

#[cold]
fn wrong_type(key: &KeyRef<'_>, source: DecodeError) -> Error {
    Error::WrongType { key: name(key), source }
}

/// The key as a message names it, even if it is damaged.
#[cold]
pub(crate) fn name(key: &KeyRef<'_>) -> Key {
    Key::decode(key.tag(), key.bytes()).unwrap_or_else(|_| Key::Bytes(key.bytes().to_vec()))
}

/// A key as it is stored.
pub(crate) fn decode_key(key: &KeyRef<'_>) -> Result<Key> {
    Key::decode(key.tag(), key.bytes()).map_err(|source| wrong_type(key, source))
}

/// An entry as it is stored.
pub(crate) fn decode_entry((key, payload): (shm_state::Key, Payload)) -> Result<(Key, Value)> {
    let key = key.as_ref();
    Ok((decode_key(&key)?, decode(&key, &payload)?))
}

/// As [`wrong_type`], in a box: a result that is small is not copied on its way up.
#[cold]
#[inline(never)]
pub(crate) fn boxed_wrong_type_of(key: KeyRef<'_>, source: DecodeError) -> Box<Error> {
    Box::new(wrong_type(&key, source))
}

/// Reads a value that is not small.
#[inline(never)]
pub(crate) fn get_longer<T: FromValue>(namespace: &Namespace, key: KeyRef<'_>) -> Result<Option<T>, Box<Error>> {
    match namespace.peek_short(&key, |tag, bytes| T::decode(tag, bytes)) {
        Some(Some(Ok(value))) => Ok(Some(value)),
        Some(Some(Err(source))) => Err(boxed_wrong_type_of(key, source)),
        Some(None) => Ok(None),
        None => get_slowly(namespace, key),
    }
}

/// Reads a value of a type of this length, with all that it takes in one function: its words go to where they are wanted,
/// and are not passed on in results, from which they would be loaded in other pieces than they were stored in.
#[inline(always)]
pub(crate) fn get_fixed<T: FromValue>(namespace: &Namespace, key: &KeyRef<'_>, size: FixedSize) -> Result<Option<T>> {
    let mut room = ShortRoom::new();
    match namespace.peek_exactly(key, size, &mut room) {
        Ok(Some((tag, bytes))) if let Some(value) = T::from_fixed(Encoded::new(tag, bytes)) => Ok(Some(value)),
        Ok(None) => Ok(None),
        // From the beginning, so that nothing of this has to be kept for it.
        _ => get_slowly(namespace, *key).map_err(|error| *error),
    }
}

/// Reads a value that is not at hand.
#[cold]
#[inline(never)]
fn get_slowly<T: FromValue>(namespace: &Namespace, key: KeyRef<'_>) -> Result<Option<T>, Box<Error>> {
    let get = || decoded(namespace.get_with(&key, decode_in_place(&key))?);
    get().map_err(Box::new)
}
