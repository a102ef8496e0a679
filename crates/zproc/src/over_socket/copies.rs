//! Values of a snapshot that were fetched to be shown, kept for as long as it lives.
//!
//! What is shown is borrowed from the snapshot, also while other threads have more fetched. So nothing here is ever moved,
//! changed or removed: it is a tree that grows, of keys by their hashes, two bits at each step, in which each place is
//! written once. Only what was asked for is in it.

use std::sync::OnceLock;

use rkyv::util::AlignedVec;
use shm_state::{Key, KeyRef, PAYLOAD_OFFSET};

use crate::value::{ALIGNMENT, Encoded};

/// What has been fetched so far.
#[derive(Default)]
pub(super) struct Copies {
    root: Place,
}

type Place = OnceLock<Box<Node>>;

struct Node {
    key: Key,
    value: Copied,
    below: [Place; 4],
}

/// The bytes of a value, aligned as they are in the arena.
pub(super) struct Copied {
    tag: u16,
    /// What is to be aligned stands behind [`PADDING`] bytes.
    bytes: AlignedVec<ALIGNMENT>,
}

/// How far behind a multiple of the alignment payloads begin.
const PADDING: usize = PAYLOAD_OFFSET % ALIGNMENT;

impl Copied {
    pub(super) fn of(tag: u16, value: &[u8]) -> Self {
        let mut bytes = AlignedVec::with_capacity(PADDING + value.len());
        bytes.extend_from_slice(&[0; PADDING]);
        bytes.extend_from_slice(value);
        Self { tag, bytes }
    }

    fn show(&self) -> Encoded<'_> {
        Encoded::new(self.tag, &self.bytes[PADDING..])
    }
}

impl Copies {
    /// The value of a key, if it is here.
    pub(super) fn get(&self, key: &KeyRef<'_>) -> Option<Encoded<'_>> {
        let (mut place, mut hash) = (&self.root, key.hash());
        loop {
            let node = place.get()?;
            if node.key.as_ref() == *key {
                return Some(node.value.show());
            }
            place = node.below_by(&mut hash);
        }
    }

    /// Keeps the value of a key, unless another thread was faster: then it has the same.
    pub(super) fn keep(&self, key: &KeyRef<'_>, value: Copied) {
        let (mut place, mut hash) = (&self.root, key.hash());
        let mut new = Box::new(Node {
            key: key.to_owned(),
            value,
            below: Default::default(),
        });
        while let Err(back) = place.set(new) {
            new = back;
            // It is full, and stays so.
            let Some(node) = place.get() else { return };
            if node.key == new.key {
                return;
            }
            place = node.below_by(&mut hash);
        }
    }
}

impl Node {
    /// The place where keys with such a hash go on; takes off the bits that say so.
    fn below_by(&self, hash: &mut u64) -> &Place {
        let [first, second, third, fourth] = &self.below;
        let bits = *hash & 3;
        *hash >>= 2;
        match bits {
            0 => first,
            1 => second,
            2 => third,
            _ => fourth,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: u32) -> Key {
        KeyRef::new(1, &n.to_le_bytes()).to_owned()
    }

    #[test]
    fn what_is_kept_is_found_where_it_was_put_whatever_comes_after_it() {
        const COUNT: u32 = 2000;
        let copies = Copies::default();
        let value = |n: u32| vec![n as u8; n as usize % 100];
        std::thread::scope(|scope| {
            // All of them keep the same, as threads that want the same values do.
            for _ in 0..4 {
                scope.spawn(|| {
                    let mut seen = Vec::new();
                    for n in 0..COUNT {
                        copies.keep(&key(n).as_ref(), Copied::of(n as u16, &value(n)));
                        seen.push(copies.get(&key(n).as_ref()).unwrap().bytes());
                    }
                    for (n, seen) in (0..COUNT).zip(seen) {
                        let again = copies.get(&key(n).as_ref()).unwrap();
                        assert_eq!((again.tag(), again.bytes()), (n as u16, &*value(n)));
                        assert_eq!(again.bytes().as_ptr(), seen.as_ptr());
                        assert!((seen.as_ptr().addr() + ALIGNMENT - PADDING).is_multiple_of(ALIGNMENT));
                    }
                });
            }
        });
        assert!(copies.get(&key(COUNT).as_ref()).is_none());
    }
}
