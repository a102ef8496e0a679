//! Stand-ins for `std::sync::atomic` that lead modelled words to loom.
//!
//! They have the size of the atomics that they stand for, so the layout of an arena is the same. Outside of a search they
//! are those atomics. In a thread that unwinds (it was killed, or its execution failed) stores do nothing: what is
//! dropped on the way leaves no trace, as it should be with the dead.

use std::sync::atomic::Ordering;
pub use std::sync::atomic::compiler_fence;

use super::machine::machine;
use super::memory::{Change, RawWord};
use super::setup::Kind;

/// A fence of the memory model that the words live in.
pub fn fence(order: Ordering) {
    if std::thread::panicking() {
        return;
    }
    match machine() {
        Some(machine) => machine.fence(order),
        None => std::sync::atomic::fence(order),
    }
}

macro_rules! atomic {
    ($name:ident, $int:ty, $wide:literal) => {
        #[repr(transparent)]
        pub struct $name(std::sync::atomic::$name);

        impl $name {
            pub const fn new(value: $int) -> Self {
                Self(std::sync::atomic::$name::new(value))
            }

            fn raw(&self) -> RawWord {
                RawWord {
                    address: std::ptr::from_ref(self).addr(),
                    wide: $wide,
                }
            }

            pub fn load(&self, order: Ordering) -> $int {
                if let Some(machine) = machine().filter(|_| !std::thread::panicking())
                    && let Some(word) = machine.word(self.raw(), Kind::Load)
                {
                    return machine.load(self.raw(), &word, order) as $int;
                }
                self.0.load(order)
            }

            pub fn store(&self, value: $int, order: Ordering) {
                if let Some(machine) = machine() {
                    if std::thread::panicking() {
                        return;
                    }
                    if let Some(word) = machine.word(self.raw(), Kind::Store) {
                        return machine.store(self.raw(), &word, u64::from(value), order);
                    }
                    machine.changes(self.raw());
                }
                self.0.store(value, order);
            }

            /// `None`: do it in memory.
            fn exchange(&self, change: Change, order: Ordering, failure: Ordering) -> Option<Result<$int, $int>> {
                let machine = machine()?;
                if std::thread::panicking() {
                    return Some(Ok(self.0.load(Ordering::Relaxed)));
                }
                let Some(word) = machine.word(self.raw(), Kind::Exchange) else {
                    machine.changes(self.raw());
                    return None;
                };
                let result = machine.exchange(self.raw(), &word, change, order, failure);
                Some(result.map(|old| old as $int).map_err(|old| old as $int))
            }

            pub fn compare_exchange(
                &self,
                current: $int,
                new: $int,
                success: Ordering,
                failure: Ordering,
            ) -> Result<$int, $int> {
                let change = Change::From(u64::from(current), u64::from(new));
                self.exchange(change, success, failure)
                    .unwrap_or_else(|| self.0.compare_exchange(current, new, success, failure))
            }

            pub fn fetch_add(&self, value: $int, order: Ordering) -> $int {
                match self.exchange(Change::Add(u64::from(value)), order, Ordering::Relaxed) {
                    Some(Ok(old) | Err(old)) => old,
                    None => self.0.fetch_add(value, order),
                }
            }

            pub fn fetch_or(&self, value: $int, order: Ordering) -> $int {
                match self.exchange(Change::Or(u64::from(value)), order, Ordering::Relaxed) {
                    Some(Ok(old) | Err(old)) => old,
                    None => self.0.fetch_or(value, order),
                }
            }

            pub fn fetch_and(&self, value: $int, order: Ordering) -> $int {
                match self.exchange(Change::And(u64::from(value)), order, Ordering::Relaxed) {
                    Some(Ok(old) | Err(old)) => old,
                    None => self.0.fetch_and(value, order),
                }
            }
        }
    };
}

atomic!(AtomicU32, u32, false);
atomic!(AtomicU64, u64, true);
