//! What can be wrong with a value.

use std::fmt;

use thiserror::Error;

use super::{Int, MAX_NESTING, kind_name};

/// A value that has no form as bytes.
///
/// ```
/// use zproc::{EncodeError, Key, MAX_NESTING, ToKey};
///
/// let key = (0..=MAX_NESTING).fold(Key::from("a"), |key, _| Key::from((key,)));
/// assert_eq!(key.with_key(|_, _| ()), Err(EncodeError::TooDeep));
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum EncodeError {
    /// Lists, maps or tuples of keys lie deeper in one another than [`MAX_NESTING`].
    #[error("the value nests lists or maps more than {MAX_NESTING} deep: store the inner ones under keys of their own")]
    TooDeep,
    /// A list, a map, or a string inside one, takes more bytes than its length can say.
    #[error(
        "a list, map or nested string of {len} bytes is longer than {}: store its parts under keys of their own",
        u32::MAX
    )]
    TooLong {
        /// Its length in bytes.
        len: usize,
    },
    /// The type of the value would not be written: what its serde or rkyv implementation says, or that it has keys that
    /// cannot be keys here.
    #[error("{message}")]
    Other {
        /// What it said.
        message: Box<str>,
    },
}

impl EncodeError {
    #[cold]
    pub(crate) fn other(message: impl fmt::Display) -> Self {
        let message = message.to_string().into();
        Self::Other { message }
    }
}

/// A value that is not what its reader asked for.
///
/// ```
/// use zproc::{DecodeError, Value};
///
/// let error = Value::from(300).to::<u8>().unwrap_err();
/// assert!(matches!(error, DecodeError::OutOfRange { expected: "u8", .. }));
/// assert_eq!(error.to_string(), "expected u8, found int 300, which does not fit");
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The value is of another kind.
    #[error("expected {expected}, found {found}")]
    WrongType {
        /// The type that was asked for.
        expected: &'static str,
        /// The kind of the value, and its beginning.
        found: Box<str>,
    },
    /// The value is an integer that the type cannot hold.
    #[error("expected {expected}, found int {value}, which does not fit")]
    OutOfRange {
        /// The type that was asked for.
        expected: &'static str,
        /// The number.
        value: Box<Int>,
    },
    /// The value has another number of items or bytes than the array or tuple asked for.
    #[error("expected {expected} {unit}, found {found}")]
    WrongLength {
        /// How many were asked for.
        expected: usize,
        /// How many there are.
        found: usize,
        /// What is counted: items or bytes.
        unit: &'static str,
    },
    /// The tag is of no kind known here.
    #[error("expected {expected}, found a value with the unknown tag {tag}: read it as the type it was written as")]
    UnknownTag {
        /// The type that was asked for.
        expected: &'static str,
        /// The tag.
        tag: u16,
    },
    /// The bytes are not those of a value of the kind that the tag says.
    #[error("damaged {kind}, {reason}: write the value again")]
    Malformed {
        /// The kind.
        kind: &'static str,
        /// What is wrong with the bytes.
        reason: &'static str,
    },
    /// The value is of a type of the same name, but of another version, or of another size in memory.
    #[error(
        "expected {name}, found another version or layout of {name} (fingerprints {expected:#018x} and {found:#018x}): \
             build the programs from one source, or write the value again"
    )]
    WrongVersion {
        /// The name of both types.
        name: &'static str,
        /// The fingerprint of the type that was asked for.
        expected: u64,
        /// That of the value.
        found: u64,
    },
    /// The bytes of an rkyv archive are not those of a value of its type.
    #[error(
        "damaged {name} (rkyv), {reason}: write the value again, and count the version of the type up if it was changed"
    )]
    DamagedArchive {
        /// The type.
        name: &'static str,
        /// What is wrong with the bytes.
        reason: Box<str>,
    },
    /// The type would not be read: what its serde implementation says.
    #[error("{message}")]
    Other {
        /// What it said.
        message: Box<str>,
    },
    /// Lists, maps or tuples of keys lie deeper in one another than [`MAX_NESTING`].
    #[error("the value nests lists or maps more than {MAX_NESTING} deep")]
    TooDeep,
    /// The value could not be brought into the form that it was to be read from.
    #[error(transparent)]
    Encode(#[from] EncodeError),
}

impl DecodeError {
    #[cold]
    pub(crate) fn out_of_range(expected: &'static str, value: Int) -> Self {
        Self::OutOfRange {
            expected,
            value: Box::new(value),
        }
    }

    #[cold]
    pub(crate) fn other(message: impl fmt::Display) -> Self {
        let message = message.to_string().into();
        Self::Other { message }
    }

    #[cold]
    pub(crate) fn malformed(tag: u16, reason: &'static str) -> Self {
        Self::Malformed {
            kind: kind_name(tag),
            reason,
        }
    }
}
