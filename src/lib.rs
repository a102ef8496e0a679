//! The workspace root. It owns the top-level `tests/` and `examples/`; the library is the crate `zproc`.
//!
//! The programs in the README and in the guides are compiled, and run where that leaves nothing behind, as documentation
//! tests of this crate.

#[doc = include_str!("../README.md")]
#[cfg(doctest)]
pub struct Readme;

#[doc = include_str!("../docs/guide.md")]
#[cfg(doctest)]
pub struct Guide;

#[doc = include_str!("../docs/real-time.md")]
#[cfg(doctest)]
pub struct RealTime;
