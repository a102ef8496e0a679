//! What the tests of limits share: the words of an arena by their offsets, and processes with little of something.

#![allow(dead_code, reason = "each test binary uses a part of it")]
#![allow(unreachable_pub, reason = "a module of several test binaries")]

pub mod sandbox;
pub mod words;
