//! Integers: every width is one kind.

use std::cmp::Ordering;
use std::fmt;

use super::decode::Encoded;
use super::error::DecodeError;
use super::tag;

/// An integer of any of Rust's widths, from `i128::MIN` to `u128::MAX`.
///
/// Integers of every width are one kind: `1u8`, `1i64` and `1u128` are the same [`Int`], are stored as the same bytes
/// and are found under the same key. They convert to a width when they fit in it.
///
/// ```
/// use zproc::Int;
///
/// assert_eq!(Int::from(1u8), Int::from(1i128));
/// assert!(Int::from(-1) < Int::from(u128::MAX));
/// assert_eq!(u16::try_from(Int::from(500))?, 500);
/// assert_eq!(u8::try_from(Int::from(500)).unwrap_err().to_string(), "expected u8, found int 500, which does not fit");
/// # Ok::<(), zproc::DecodeError>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Int(Repr);

/// The forms in which the store has integers. Each number is in the first one that it fits.
///
/// Those of 128 bits are kept as bytes, because numbers of that width have an alignment that would make every value and
/// every key half as large again.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Repr {
    Short(i64),
    Signed([u8; 16]),
    Large([u8; 16]),
}

impl Int {
    /// Calls `f` with the tag and the bytes of this number; they live on the stack.
    #[inline]
    pub(crate) fn with_bytes<R>(self, f: impl FnOnce(u16, &[u8]) -> R) -> R {
        let (tag, bytes, len) = match self.0 {
            Repr::Short(n) => (tag::INT, i128::from(n).to_le_bytes(), 8),
            Repr::Signed(bytes) => (tag::INT128, bytes, 16),
            Repr::Large(bytes) => (tag::UINT128, bytes, 16),
        };
        f(tag, &bytes[..len])
    }

    /// Reads the number that `tag` and `bytes` say, for a reader who wanted an `expected`.
    ///
    /// The likely ones are read before it comes to this.
    #[cold]
    pub(crate) fn decode_rare(tag: u16, bytes: &[u8], expected: &'static str) -> Result<Self, DecodeError> {
        let malformed = |reason| Err(DecodeError::malformed(tag, reason));
        match (tag, bytes.try_into(), bytes.try_into()) {
            (tag::INT, Ok(bytes), _) => Ok(i64::from_le_bytes(bytes).into()),
            (tag::INT, ..) => malformed("it is not 8 bytes long"),
            (tag::INT128 | tag::UINT128, _, Ok(bytes)) => {
                let int = match tag {
                    tag::INT128 => Self::from(i128::from_le_bytes(bytes)),
                    _ => Self::from(u128::from_le_bytes(bytes)),
                };
                match int.with_bytes(|shortest, _| shortest == tag) {
                    true => Ok(int),
                    false => malformed("it is written wider than it needs"),
                }
            }
            (tag::INT128 | tag::UINT128, ..) => malformed("it is not 16 bytes long"),
            _ => Err(Encoded::new(tag, bytes).wrong_type(expected)),
        }
    }
}

macro_rules! int_to {
    ($($int:ident)*) => {$(
        impl TryFrom<Int> for $int {
            type Error = DecodeError;

            #[inline]
            fn try_from(int: Int) -> Result<Self, DecodeError> {
                match int.0 {
                    Repr::Short(n) => Self::try_from(n).ok(),
                    Repr::Signed(bytes) => Self::try_from(i128::from_le_bytes(bytes)).ok(),
                    Repr::Large(bytes) => Self::try_from(u128::from_le_bytes(bytes)).ok(),
                }
                .ok_or_else(|| DecodeError::out_of_range(stringify!($int), int))
            }
        }
    )*};
}
int_to!(i8 i16 i32 i64 i128 isize u8 u16 u32 u64 u128 usize);

macro_rules! int_from_short {
    ($($int:ident)*) => {$(
        impl From<$int> for Int {
            #[inline]
            fn from(n: $int) -> Self {
                Self(Repr::Short(n as i64))
            }
        }
    )*};
}
int_from_short!(i8 i16 i32 i64 isize u8 u16 u32);

macro_rules! int_from_long {
    ($($int:ident via $shorter:ident else $form:ident($long:ident);)*) => {$(
        impl From<$int> for Int {
            #[inline]
            fn from(n: $int) -> Self {
                match $shorter::try_from(n) {
                    Ok(n) => n.into(),
                    Err(_) => Self(Repr::$form((n as $long).to_le_bytes())),
                }
            }
        }
    )*};
}
int_from_long! {
    u64 via i64 else Signed(i128);
    usize via i64 else Signed(i128);
    i128 via i64 else Signed(i128);
    u128 via i128 else Large(u128);
}

impl Ord for Int {
    fn cmp(&self, other: &Self) -> Ordering {
        let number = |int: &Self| match int.0 {
            Repr::Short(n) => (0, i128::from(n)),
            Repr::Signed(bytes) => (0, i128::from_le_bytes(bytes)),
            // As a signed number it is 2^128 too small, like every other one of these.
            Repr::Large(bytes) => (1, i128::from_le_bytes(bytes)),
        };
        number(self).cmp(&number(other))
    }
}

impl PartialOrd for Int {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for Int {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Repr::Short(n) => n.fmt(f),
            Repr::Signed(bytes) => i128::from_le_bytes(bytes).fmt(f),
            Repr::Large(bytes) => u128::from_le_bytes(bytes).fmt(f),
        }
    }
}

impl fmt::Debug for Int {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
