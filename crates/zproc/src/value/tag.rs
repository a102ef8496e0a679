//! The tags that say what kind of value, or key, a run of bytes is.
//!
//! A value's tag is two bytes wide where the store keeps it and one byte wide inside a list or a map, so the kinds of
//! this layer stay below 256. A key has the tag of the value that it would be.
//!
//! | tags | meaning |
//! |---|---|
//! | 0 | never a value: zeroed memory does not pass for one |
//! | 1–11 | the kinds below |
//! | 12–255 | reserved for further kinds |
//! | 256 and up | not self-describing: the business of whoever wrote them |
//!
//! ```
//! use zproc::{kind_name, tag};
//!
//! assert_eq!(kind_name(tag::STR), "str");
//! assert_eq!(kind_name(tag::INT128), "int");
//! assert_eq!(u16::from(tag::key::INT), tag::INT);
//! ```

/// `None`: no bytes.
pub const NONE: u16 = 1;
/// A bool: one byte, 0 or 1.
pub const BOOL: u16 = 2;
/// An integer in the range of `i64`: eight bytes, little-endian, two's complement.
pub const INT: u16 = 3;
/// An integer outside `i64` and inside `i128`: sixteen bytes, little-endian, two's complement.
pub const INT128: u16 = 4;
/// An integer above `i128::MAX`, up to `u128::MAX`: sixteen bytes, little-endian, unsigned.
pub const UINT128: u16 = 5;
/// A floating-point number: the eight bytes of an IEEE 754 binary64, little-endian.
pub const FLOAT: u16 = 6;
/// Text: UTF-8, no terminator.
pub const STR: u16 = 7;
/// A byte string: the bytes themselves.
pub const BYTES: u16 = 8;
/// A list: its items, one after another.
pub const LIST: u16 = 9;
/// A map: key, value, key, value, in insertion order.
pub const MAP: u16 = 10;
/// A value of an rkyv type: its archive, with the name of the type and its fingerprint.
pub const ARCHIVED: u16 = 11;

/// The tags of keys: those of the values that they would be.
pub mod key {
    /// An integer in the range of `i64`.
    pub const INT: u8 = super::INT as u8;
    /// An integer outside `i64` and inside `i128`.
    pub const INT128: u8 = super::INT128 as u8;
    /// An integer above `i128::MAX`.
    pub const UINT128: u8 = super::UINT128 as u8;
    /// Text.
    pub const STR: u8 = super::STR as u8;
    /// A byte string.
    pub const BYTES: u8 = super::BYTES as u8;
    /// A tuple of keys: the list that it would be as a value.
    pub const TUPLE: u8 = super::LIST as u8;
}

/// The name of the kind of value that `tag` stands for, as messages give it.
///
/// All three tags of integers are `"int"`; a tag of no known kind is `"unknown"`.
///
/// ```
/// assert_eq!(zproc::kind_name(zproc::tag::MAP), "map");
/// assert_eq!(zproc::kind_name(999), "unknown");
/// ```
pub const fn kind_name(tag: u16) -> &'static str {
    match tag {
        NONE => "none",
        BOOL => "bool",
        INT | INT128 | UINT128 => "int",
        FLOAT => "float",
        STR => "str",
        BYTES => "bytes",
        LIST => "list",
        MAP => "map",
        ARCHIVED => "rkyv",
        _ => "unknown",
    }
}

/// The number of bytes that every value of this kind has, for the kinds for which it is fixed.
///
/// Inside a list or a map the others have their length before them.
pub(crate) const fn payload_len(tag: u16) -> Option<usize> {
    match tag {
        NONE => Some(0),
        BOOL => Some(1),
        INT | FLOAT => Some(8),
        INT128 | UINT128 => Some(16),
        _ => None,
    }
}
