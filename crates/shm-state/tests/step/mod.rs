//! The parts of the run over every instruction.

pub mod case;
pub mod company;
pub mod creation;
pub mod image;
pub mod observer;
pub mod planted;
pub mod run;
pub mod tracee;
