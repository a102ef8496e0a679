//! A state and a `HashMap` with the same contents, and the same work on both.

use std::collections::HashMap;
use std::os::fd::AsFd;

use zproc::State;
use zproc_bench::board::number_of;
use zproc_bench::clock::ns_each;
use zproc_bench::keys::{distinct, draw};

/// Both, and the keys of one round in the order of their use.
pub struct Subject {
    pub state: State,
    pub map: HashMap<String, u64>,
    pub draws: Vec<&'static str>,
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
            draws: draw(keys, if count > 10_000 { 1 << 17 } else { 1 << 16 }),
        }
    }

    /// Nanoseconds of a `get`.
    #[inline(never)]
    pub fn get(&self) -> f64 {
        let mut sum = 0u64;
        let ns = ns_each(self.draws.len(), || {
            for key in &self.draws {
                sum = sum.wrapping_add(self.state.get::<u64>(*key).expect("is readable").expect("is present"));
            }
        });
        std::hint::black_box(sum);
        ns
    }

    /// Nanoseconds of a `HashMap::get`.
    #[inline(never)]
    pub fn map_get(&self) -> f64 {
        let mut sum = 0u64;
        let ns = ns_each(self.draws.len(), || {
            for key in &self.draws {
                sum = sum.wrapping_add(*self.map.get(*key).expect("is present"));
            }
        });
        std::hint::black_box(sum);
        ns
    }

    /// Nanoseconds of an `insert` over a key that is there.
    #[inline(never)]
    pub fn insert(&self) -> f64 {
        ns_each(self.draws.len(), || {
            for (key, value) in self.draws.iter().zip(0u64..) {
                self.state.insert(*key, value).expect("there is room");
            }
        })
    }

    /// Nanoseconds of a `HashMap::insert` of a copy of the key.
    #[inline(never)]
    pub fn map_insert(&mut self) -> f64 {
        let Self { map, draws, .. } = self;
        ns_each(draws.len(), || {
            for (key, value) in draws.iter().zip(0u64..) {
                map.insert((*key).to_owned(), value);
            }
        })
    }

    /// How another process finds the state.
    pub fn address(&self) -> String {
        number_of(&self.state.fd().expect("a state has a descriptor").as_fd()).to_string()
    }
}
