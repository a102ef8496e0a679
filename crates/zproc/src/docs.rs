//! Pages of documentation: nothing here but text.

#[doc = include_str!("docs/watching.md")]
pub mod watching {}
