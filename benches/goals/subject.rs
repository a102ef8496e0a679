//! A state and a `HashMap` with the same contents, and the same work on both.

use std::collections::HashMap;
use std::os::fd::AsFd;

use zproc::State;
use zproc_bench::board::number_of;
use zproc_bench::clock::ns_each;
use zproc_bench::keys::{Draws, distinct};

/// Both, and keys in the order of their use.
pub struct Subject {
    pub state: State,
    pub map: HashMap<String, u64>,
    pub draws: Draws,
}

impl Subject {
    /// With so many keys.
    pub fn new(keys: usize) -> Self {
        let state = State::anonymous().expect("there is room for a state");
        Self::with(state, keys)
    }

    /// With so many keys, in this state.
    pub fn with(state: State, count: usize) -> Self {
        let keys = distinct(count);
        let mut map = HashMap::new();
        for (key, value) in keys.iter().zip(0..) {
            state.insert(key, value).expect("there is room");
            map.insert(key.clone(), value);
        }
        Self {
            state,
            map,
            draws: Draws::from(keys, if count > 10_000 { 1 << 15 } else { 1 << 13 }),
        }
    }

    /// Nanoseconds of a `get`, in the pass with this number.
    #[inline(never)]
    pub fn get(&self, pass: usize) -> f64 {
        let (keys, mut sum) = (self.draws.pass(pass), 0u64);
        let ns = ns_each(keys.len(), || {
            for key in keys {
                sum = sum.wrapping_add(self.state.get::<u64>(*key).expect("is readable").expect("is present"));
            }
        });
        std::hint::black_box(sum);
        ns
    }

    /// Nanoseconds of a `HashMap::get`, in the pass opposite to this one.
    #[inline(never)]
    pub fn map_get(&self, pass: usize) -> f64 {
        let (keys, mut sum) = (self.draws.pass(Draws::opposite(pass)), 0u64);
        let ns = ns_each(keys.len(), || {
            for key in keys {
                sum = sum.wrapping_add(*self.map.get(*key).expect("is present"));
            }
        });
        std::hint::black_box(sum);
        ns
    }

    /// Nanoseconds of an `insert` over a key that is there, in the pass with this number.
    #[inline(never)]
    pub fn insert(&self, pass: usize) -> f64 {
        let keys = self.draws.pass(pass);
        ns_each(keys.len(), || {
            for (key, value) in keys.iter().zip(0u64..) {
                self.state.insert(*key, value).expect("there is room");
            }
        })
    }

    /// Nanoseconds of a `HashMap::insert` of a copy of the key, in the pass opposite to this one.
    #[inline(never)]
    pub fn map_insert(&mut self, pass: usize) -> f64 {
        let keys = self.draws.pass(Draws::opposite(pass));
        ns_each(keys.len(), || {
            for (key, value) in keys.iter().zip(0u64..) {
                self.map.insert((*key).to_owned(), value);
            }
        })
    }

    /// How another process finds the state.
    pub fn address(&self) -> String {
        number_of(&self.state.fd().expect("a state has a descriptor").as_fd()).to_string()
    }
}
