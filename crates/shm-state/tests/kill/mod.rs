//! The parts of the sweep.

pub mod fault;
pub mod point;
pub mod random;
pub mod scenario;
pub mod sleeper;
pub mod sweep;
