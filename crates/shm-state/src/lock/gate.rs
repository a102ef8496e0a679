//! Stands between a thread that ends and the unmapping of locks that it still holds (by guards that were forgotten).
//!
//! Each attachment has a gate, and closes it before its locks are unmapped. A thread may look at a gate long after the
//! attachment has gone, so gates are never freed. They are used again, and a *turn* tells one use from the next.
//!
//! **The word**: turn (32), closed (1), threads inside (31).

use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

const TURN: u32 = 32;
const CLOSED: u64 = 1 << 31;

struct Word(AtomicU64);

/// One use of a gate.
#[derive(Clone, Copy)]
pub(crate) struct Gate {
    word: &'static Word,
    turn: u32,
}

/// Gates that were closed.
static CLOSED_GATES: Mutex<Vec<&'static Word>> = Mutex::new(Vec::new());

impl Gate {
    /// An open gate.
    pub(crate) fn open() -> Self {
        // Not waited for: a fork may have copied the list while another thread had it locked.
        let closed = CLOSED_GATES.try_lock().and_then(|mut gates| gates.pop());
        let word = closed.unwrap_or_else(|| Box::leak(Box::new(Word(AtomicU64::new(0)))));
        let turn = word.turn().wrapping_add(1);
        // Nobody is inside, and nobody goes in: those who remember the gate remember another turn.
        word.0.store(u64::from(turn) << TURN, Ordering::Relaxed);
        Self { word, turn }
    }

    /// From here on nobody goes in; returns when the last one is out. Locks may be unmapped afterwards. Once for each
    /// [`Gate::open`].
    pub(crate) fn close(self) {
        // AcqRel pairs with `pass`, in both directions: accesses inside come before the unmapping.
        self.word.0.fetch_or(CLOSED, Ordering::AcqRel);
        while self.word.0.load(Ordering::Acquire) & (CLOSED - 1) != 0 {
            std::thread::yield_now();
        }
        if let Some(mut gates) = CLOSED_GATES.try_lock() {
            gates.push(self.word);
        }
    }

    pub(super) fn is_closed(self) -> bool {
        !self.is_open_in(self.word.0.load(Ordering::Acquire))
    }

    fn is_open_in(self, word: u64) -> bool {
        word & CLOSED == 0 && (word >> TURN) as u32 == self.turn
    }

    /// Runs `inside` while the attachment's locks are certainly mapped, or not at all.
    pub(super) fn pass(self, inside: impl FnOnce()) {
        let enter = |word| self.is_open_in(word).then_some(word + 1);
        // Acquire pairs with the AcqRel of `close` before another turn.
        if (self.word.0)
            .fetch_update(Ordering::Acquire, Ordering::Relaxed, enter)
            .is_ok()
        {
            inside();
            // Release pairs with the Acquire in `close`.
            self.word.0.fetch_sub(1, Ordering::Release);
        }
    }
}

impl Word {
    fn turn(&self) -> u32 {
        (self.0.load(Ordering::Relaxed) >> TURN) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_closed_gate_lets_nobody_in_and_an_open_one_does() {
        let gate = Gate::open();
        let mut passed = 0;
        gate.pass(|| passed += 1);
        assert!(!gate.is_closed());
        gate.close();
        gate.pass(|| passed += 1);
        assert!(gate.is_closed());
        assert_eq!(passed, 1);
    }

    /// Whoever remembers a gate of an attachment that has gone must not get in when another attachment uses it.
    #[test]
    fn a_gate_that_is_used_again_is_closed_to_those_of_the_turn_before() {
        let gates: Vec<Gate> = (0..64).map(|_| Gate::open()).collect();
        gates.iter().for_each(|gate| gate.close());
        // Tests run in parallel, so others may have taken some.
        let again: Vec<Gate> = (0..64).map(|_| Gate::open()).collect();
        for old in &gates {
            assert!(old.is_closed());
            old.pass(|| panic!("a gate of another turn"));
        }
        again.iter().for_each(|gate| gate.pass(|| ()));
        again.into_iter().for_each(Gate::close);
    }
}
