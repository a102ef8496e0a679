//! What a program of one process takes: a map behind a lock, and one in shards. The floor for a dict of text, with no
//! second process, and nobody told of anything.

use std::any::Any;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use dashmap::DashMap;

use super::{Client, Contents, NoWatcher, Operation, Rival};

const ONE_PROCESS: &str = "lives in one process";
const NO_WATCHERS: &str = "tells nobody of changes";

/// All maps of this process, by their addresses.
static MAPS: Mutex<Vec<Option<Arc<dyn Any + Send + Sync>>>> = Mutex::new(Vec::new());

/// Keeps a map where its address finds it.
struct Kept(usize);

impl Kept {
    fn keep(map: impl Any + Send + Sync) -> Self {
        let mut maps = MAPS.lock().unwrap_or_else(PoisonError::into_inner);
        maps.push(Some(Arc::new(map)));
        Self(maps.len() - 1)
    }

    fn find<T: Any + Send + Sync>(address: &str) -> Arc<T> {
        let maps = MAPS.lock().unwrap_or_else(PoisonError::into_inner);
        let index: usize = address.parse().expect("the number of a map");
        let map = maps[index].clone().expect("its maker keeps the map");
        map.downcast().expect("its maker made this kind")
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        let mut maps = MAPS.lock().unwrap_or_else(PoisonError::into_inner);
        maps[self.0] = None;
    }
}

/// A `HashMap` behind a `RwLock`, one each for numbers and bytes.
#[derive(Default)]
pub struct Maps {
    numbers: RwLock<HashMap<String, u64>>,
    bytes: RwLock<HashMap<String, Vec<u8>>>,
}

/// `RwLock<HashMap>`.
pub struct LockedMap(Kept);

impl Rival for LockedMap {
    const NAME: &'static str = "RwLock<HashMap>";
    const CANNOT: &'static [(Operation, &'static str)] = &[
        (Operation::GetHeld, "keeps no way to an entry"),
        (Operation::SetHeld, "keeps no way to an entry"),
        (Operation::WatchSpinning, NO_WATCHERS),
        (Operation::WatchAsleep, NO_WATCHERS),
        (Operation::OtherProcess, ONE_PROCESS),
    ];
    type Client = Arc<Maps>;
    type Watcher = NoWatcher;

    fn create(contents: &Contents) -> Result<Self, String> {
        let numbers = contents
            .entries()
            .into_iter()
            .map(|(key, value)| (key.to_owned(), value));
        let bytes = contents.blob().into_iter().map(|(key, value)| (key.to_owned(), value));
        Ok(Self(Kept::keep(Maps {
            numbers: RwLock::new(numbers.collect()),
            bytes: RwLock::new(bytes.collect()),
        })))
    }

    fn address(&self) -> String {
        self.0.0.to_string()
    }
}

const UNPOISONED: &str = "nobody panics with the lock";

impl Client for Arc<Maps> {
    fn open(address: &str) -> Self {
        Kept::find(address)
    }

    #[inline]
    fn get(&mut self, key: &str) -> Option<u64> {
        self.numbers.read().expect(UNPOISONED).get(key).copied()
    }

    #[inline]
    fn set(&mut self, key: &str, value: u64) {
        *self
            .numbers
            .write()
            .expect(UNPOISONED)
            .get_mut(key)
            .expect("is present") = value;
    }

    fn get_held(&mut self, _: &str, _: usize) -> u64 {
        unreachable!()
    }

    fn set_held(&mut self, _: &str, _: usize) {
        unreachable!()
    }

    fn get_bytes(&mut self, key: &str, into: &mut Vec<u8>) {
        let bytes = self.bytes.read().expect(UNPOISONED);
        into.clone_from(bytes.get(key).expect("is present"));
    }

    fn set_bytes(&mut self, key: &str, value: &[u8]) {
        let mut bytes = self.bytes.write().expect(UNPOISONED);
        bytes.get_mut(key).expect("is present").copy_from_slice(value);
    }

    #[inline]
    fn snapshot(&mut self, key: &str) -> Option<u64> {
        let copy = self.numbers.read().expect(UNPOISONED).clone();
        copy.get(key).copied()
    }

    #[inline]
    fn increment(&mut self, key: &str) {
        *self
            .numbers
            .write()
            .expect(UNPOISONED)
            .get_mut(key)
            .expect("is present") += 1;
    }
}

/// A `DashMap`, one each for numbers and bytes.
#[derive(Default)]
pub struct Shards {
    numbers: DashMap<String, u64>,
    bytes: DashMap<String, Vec<u8>>,
}

/// `DashMap`.
pub struct ShardedMap(Kept);

impl Rival for ShardedMap {
    const NAME: &'static str = "DashMap";
    const CANNOT: &'static [(Operation, &'static str)] = &[
        (Operation::GetHeld, "a held entry keeps others out"),
        (Operation::SetHeld, "a held entry keeps others out"),
        (Operation::Snapshot, "locks its shards one after the other"),
        (Operation::WatchSpinning, NO_WATCHERS),
        (Operation::WatchAsleep, NO_WATCHERS),
        (Operation::OtherProcess, ONE_PROCESS),
    ];
    type Client = Arc<Shards>;
    type Watcher = NoWatcher;

    fn create(contents: &Contents) -> Result<Self, String> {
        let maps = Shards::default();
        for (key, value) in contents.entries() {
            maps.numbers.insert(key.to_owned(), value);
        }
        if let Some((key, value)) = contents.blob() {
            maps.bytes.insert(key.to_owned(), value);
        }
        Ok(Self(Kept::keep(maps)))
    }

    fn address(&self) -> String {
        self.0.0.to_string()
    }
}

impl Client for Arc<Shards> {
    fn open(address: &str) -> Self {
        Kept::find(address)
    }

    #[inline]
    fn get(&mut self, key: &str) -> Option<u64> {
        self.numbers.get(key).map(|value| *value)
    }

    #[inline]
    fn set(&mut self, key: &str, value: u64) {
        *self.numbers.get_mut(key).expect("is present") = value;
    }

    fn get_held(&mut self, _: &str, _: usize) -> u64 {
        unreachable!()
    }

    fn set_held(&mut self, _: &str, _: usize) {
        unreachable!()
    }

    fn get_bytes(&mut self, key: &str, into: &mut Vec<u8>) {
        into.clone_from(&self.bytes.get(key).expect("is present"));
    }

    fn set_bytes(&mut self, key: &str, value: &[u8]) {
        self.bytes.get_mut(key).expect("is present").copy_from_slice(value);
    }

    fn snapshot(&mut self, _: &str) -> Option<u64> {
        unreachable!()
    }

    #[inline]
    fn increment(&mut self, key: &str) {
        *self.numbers.get_mut(key).expect("is present") += 1;
    }
}
