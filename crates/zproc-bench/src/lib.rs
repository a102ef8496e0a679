//! What the benchmarks in the top-level `benches/` share.
//!
//! Small numbers are only worth something beside a reference that was measured in the same minute on the same cores, so
//! everything here serves that: [`cpu`] pins, [`keys`] makes both sides walk the same keys in the same order, [`rounds`]
//! takes turns between the sides and compares round by round, [`table`] prints what came out. For figures between
//! processes, [`peer`] runs a second process that does as it is told through a [`board`] of shared memory, [`ping`]
//! watches how far apart the two cores are just then, and [`clock`], [`futex`] and [`robust`] are the references.
//! [`heap`] counts the bytes that a std collection takes, [`counted`] compares counts of instructions, and [`quantiles`]
//! are those of many times.
//!
//! With the feature `rivals` there is more: `rivals` is zproc and what could be taken instead of it behind one trait,
//! `workloads` is what they are measured at, and `report` writes docs/benchmarks.md.

pub mod board;
pub mod clock;
pub mod counted;
pub mod cpu;
pub mod futex;
pub mod heap;
pub mod keys;
pub mod peer;
pub mod ping;
pub mod quantiles;
#[cfg(feature = "rivals")]
pub mod report;
#[cfg(feature = "rivals")]
pub mod rivals;
pub mod robust;
pub mod rounds;
pub mod table;
#[cfg(feature = "rivals")]
pub mod workloads;
