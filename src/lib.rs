//! The workspace root. It owns the top-level `tests/` and `examples/`; the library is the crate `zproc`.
//!
//! The programs in the README and in the guide are compiled and run as documentation tests of this crate.

#[doc = include_str!("../README.md")]
#[cfg(doctest)]
pub struct Readme;

#[doc = include_str!("../docs/guide.md")]
#[cfg(doctest)]
pub struct Guide;
