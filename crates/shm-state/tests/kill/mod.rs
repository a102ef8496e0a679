//! The parts of the sweep.

pub mod fault;
pub mod point;
pub mod scenario;
pub mod sweep;
