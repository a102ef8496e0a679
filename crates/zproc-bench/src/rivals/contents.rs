//! What a dict holds when a workload begins.

use crate::keys::distinct;

/// A key that is counted under.
pub const COUNTER: &str = "counter with 20 byte";
/// A key that messages go under.
pub const MESSAGE: &str = "message with 20 byte";
/// The key of the bytes of [`Contents::Bytes`].
pub const VALUE: &str = "bytes under 20 bytes";

/// What a dict holds, and how many will watch it.
#[derive(Clone, Copy, Debug)]
pub struct Contents {
    /// So many keys, the first of [`distinct`], each with its number; and if there are any, [`COUNTER`] and [`MESSAGE`]
    /// with 0.
    pub keys: usize,
    /// So many bytes under [`VALUE`], if there are any.
    pub bytes: usize,
    /// Watchers of one key that there may be at once: some rivals have to know.
    pub watchers: usize,
}

impl Contents {
    /// So many keys with a number each.
    pub fn numbers(keys: usize) -> Self {
        Self {
            keys,
            bytes: 0,
            watchers: 4,
        }
    }

    /// One value of so many bytes.
    pub fn value(bytes: usize) -> Self {
        Self {
            keys: 0,
            bytes,
            watchers: 4,
        }
    }

    /// The entries that are numbers.
    pub fn entries(self) -> Vec<(&'static str, u64)> {
        if self.keys == 0 {
            return Vec::new();
        }
        let keys = distinct(self.keys).iter().map(String::as_str);
        keys.zip(0..).chain([(COUNTER, 0), (MESSAGE, 0)]).collect()
    }

    /// The entry that is bytes.
    pub fn blob(self) -> Option<(&'static str, Vec<u8>)> {
        (self.bytes > 0).then(|| (VALUE, vec![7; self.bytes]))
    }
}
