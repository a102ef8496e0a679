//! The workspace root. It owns the top-level `tests/` and `examples/`; the library is the crate `zproc`.
//!
//! The programs in the README are compiled and run as documentation tests of this crate.

#[doc = include_str!("../README.md")]
#[cfg(doctest)]
pub struct Readme;
