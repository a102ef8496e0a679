//! Clients: the operations as the two layers offer them, each by the ways that there are.

pub mod direct;
pub mod liar;
pub mod typed;

use std::time::Duration;

use nix::sys::signal::{Signal, raise};

use crate::dict::{BROKEN, Id, Key, Seen};
use crate::plan::{Planned, STABLE};

/// Only ends a hang.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Something that carries operations out on a shared dict.
pub trait Client {
    /// Does what is planned.
    fn run(&mut self, planned: &Planned, names: &Names) -> Reply;
}

/// What an operation showed.
#[derive(Clone, Debug)]
pub struct Reply {
    /// For each step.
    pub seen: Vec<Seen>,
    /// Numbers of commits, if they can be told: of the commit that it made, or between which it read.
    pub seq: Option<(u64, u64)>,
}

/// What the keys are called in a round.
pub struct Names(Vec<String>);

impl Names {
    /// Three names that stay, one too long for the head of an entry, and two that no other round has.
    pub fn of(round: u64) -> Self {
        let mut names: Vec<String> = ["a", "stable", "stable, and too long for the head of an entry"]
            .map(String::from)
            .into();
        assert_eq!(names.len(), usize::from(STABLE));
        names.extend((0..2).map(|number| format!("fresh {round}.{number}")));
        Self(names)
    }

    /// All keys.
    pub fn keys(&self) -> std::ops::Range<Key> {
        0..self.0.len() as Key
    }

    /// What a key is called.
    pub fn name(&self, key: Key) -> &str {
        &self.0[usize::from(key)]
    }

    /// The key of a name. 255, which no plan has, if it is none of these.
    pub fn key(&self, name: &[u8]) -> Key {
        let at = self.0.iter().position(|own| own.as_bytes() == name);
        at.map_or(Key::MAX, |at| at as Key)
    }
}

/// How many bytes a value has: mostly eight, which are read and overwritten on the shortest way; some do not fit into
/// the head of a version, some need several granules, and few are so long that they are read under a pin.
fn length(id: Id) -> usize {
    match id.wrapping_mul(0x9e37_79b9) >> 24 {
        0..=191 => 8,
        192..=223 => 16,
        224..=239 => 40,
        240..=253 => 200,
        _ => 5000,
    }
}

fn word(id: Id) -> [u8; 8] {
    (u64::from(!id) << 32 | u64::from(id)).to_le_bytes()
}

/// The bytes of a value.
fn bytes_of(id: Id) -> Vec<u8> {
    word(id).repeat(length(id) / 8)
}

/// Which value has these bytes; [`BROKEN`] if they are not one that was written.
fn id_of(bytes: &[u8]) -> Id {
    let Some((first, _)) = bytes.split_first_chunk::<4>() else {
        return BROKEN;
    };
    let id = Id::from_le_bytes(*first);
    let whole = bytes.len() == length(id) && bytes.chunks_exact(8).all(|chunk| chunk == word(id));
    if whole { id } else { BROKEN }
}

/// What a snapshot showed: all of it, its length, and each key by itself. They must agree.
fn contents(names: &Names, all: Vec<(Key, Id)>, len: usize, each: &[Option<Id>]) -> Seen {
    let of = |key: Key| all.iter().find(|(k, _)| *k == key).map(|(_, id)| *id);
    let agrees = names.keys().zip(each).all(|(key, found)| of(key) == *found);
    if agrees && len == all.len() {
        Seen::All(all)
    } else {
        Seen::Contradiction
    }
}

/// Dawdles, as some bits say: between steps of a transaction or a snapshot, and between operations. On few processors
/// giving way is what makes operations overlap.
pub fn pause(pauses: u64, step: usize) {
    let bits = pauses.rotate_right(8 * step as u32);
    match bits & 15 {
        0 => std::thread::yield_now(),
        1..=4 => (0..bits >> 4 & 127).for_each(|_| std::hint::spin_loop()),
        _ => {}
    }
}

/// Ends this process.
fn die() -> ! {
    raise(Signal::SIGKILL).unwrap();
    unreachable!("nobody survives a SIGKILL")
}

#[test]
fn a_mixture_of_two_values_is_none() {
    for id in 0..2000 {
        assert_eq!(id_of(&bytes_of(id)), id);
    }
    let long: Vec<Id> = (0..2000).filter(|id| length(*id) == 40).collect();
    let mut mixed = bytes_of(long[0]);
    mixed[32..].copy_from_slice(&bytes_of(long[1])[32..]);
    assert_eq!(id_of(&mixed), BROKEN);
    assert_eq!(id_of(&bytes_of(long[0])[..32]), BROKEN);
    assert_eq!(id_of(b""), BROKEN);
}
