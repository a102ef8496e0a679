//! Where `sys` asks whether a model runs: `None` (or `false`) sends it to the system.

use super::machine::{Machine, machine};
use crate::sync::Wait;
use crate::sys::time::Deadline;
use std::rc::Rc;

/// The machine, seen from one of its living threads.
fn living() -> Option<Rc<Machine>> {
    machine().filter(|_| !std::thread::panicking())
}

pub fn now() -> Option<u64> {
    machine().map(|machine| machine.kernel.now())
}

pub fn wait(words: &[(usize, u32, u32)], deadline: Deadline) -> Option<Wait> {
    living().map(|machine| machine.kernel.wait(&machine, words, deadline.ns()))
}

pub fn wake(address: usize, count: u32, bits: u32) -> Option<u32> {
    if std::thread::panicking() {
        return Some(0);
    }
    machine().map(|machine| machine.kernel.wake(&machine, address, count, bits))
}

pub fn tid() -> Option<u32> {
    machine().map(|machine| machine.kernel.tid(machine.current()))
}

pub fn is_gone(tid: u32) -> Option<bool> {
    living().map(|machine| machine.kernel.is_gone(&machine, tid))
}

/// Names a word to the kernel. A dead thread cannot change what it named last.
pub fn arm(word: usize) -> bool {
    let Some(machine) = machine() else { return false };
    if !std::thread::panicking() {
        machine.kernel.arm(&machine, word);
    }
    true
}

pub fn thread_index() -> Option<usize> {
    machine().map(|machine| machine.current())
}
