//! LMDB through `heed`, told to forget about durability: in a directory in memory, without syncing, writing straight to
//! the map. That is the quickest it gets, and what a shared dict is compared with.

use std::path::Path;

use heed::byteorder::NativeEndian;
use heed::types::{Bytes, Str, U64};
use heed::{Database, Env, EnvFlags, EnvOpenOptions};

use super::place::Place;
use super::{Client, Contents, NoWatcher, Operation, Rival};

const NO_WATCHERS: &str = "tells nobody of changes";
const NO_HANDLES: &str = "every use of a key descends the tree in a transaction";

/// An environment of LMDB.
pub struct Lmdb(Place);

impl Rival for Lmdb {
    const NAME: &'static str = "LMDB";
    const CANNOT: &'static [(Operation, &'static str)] = &[
        (Operation::GetHeld, NO_HANDLES),
        (Operation::SetHeld, NO_HANDLES),
        (Operation::WatchSpinning, NO_WATCHERS),
        (Operation::WatchAsleep, NO_WATCHERS),
    ];
    type Client = LmdbClient;
    type Watcher = NoWatcher;

    fn create(contents: &Contents) -> Result<Self, String> {
        let place = Place::create();
        let env = open(place.path());
        let mut write = env.write_txn().expect("nobody else writes");
        let numbers: Numbers = env.create_database(&mut write, Some("numbers")).expect("there is room");
        let bytes: Blobs = env.create_database(&mut write, Some("bytes")).expect("there is room");
        for (key, value) in contents.entries() {
            numbers.put(&mut write, key, &value).expect("there is room");
        }
        if let Some((key, value)) = contents.blob() {
            bytes.put(&mut write, key, &value).expect("there is room");
        }
        write.commit().expect("there is room");
        // A process may not have the same environment open twice.
        env.prepare_for_closing().wait();
        Ok(Self(place))
    }

    fn address(&self) -> String {
        self.0.address()
    }
}

type Numbers = Database<Str, U64<NativeEndian>>;
type Blobs = Database<Str, Bytes>;

fn open(path: &Path) -> Env {
    let mut options = EnvOpenOptions::new();
    options.map_size(1 << 30).max_dbs(2).max_readers(2048);
    let flags = EnvFlags::NO_SYNC | EnvFlags::NO_META_SYNC | EnvFlags::WRITE_MAP | EnvFlags::MAP_ASYNC;
    // SAFETY: these give durability up, which nobody needs here, and let stray writes of this process damage the map; it
    // makes none.
    unsafe { options.flags(flags) };
    // SAFETY: the directory is on a local file system, and no process but benchmarks of this kind touches its files.
    unsafe { options.open(path) }.expect("an environment can be opened")
}

/// An environment, open.
pub struct LmdbClient {
    env: Env,
    numbers: Numbers,
    bytes: Blobs,
}

impl Client for LmdbClient {
    fn open(address: &str) -> Self {
        let env = open(Path::new(address));
        let read = env.read_txn().expect("a reader's slot is free");
        let numbers = env.open_database(&read, Some("numbers")).expect("is readable");
        let bytes = env.open_database(&read, Some("bytes")).expect("is readable");
        let (numbers, bytes) = (numbers.expect("was created"), bytes.expect("was created"));
        // Keeps the databases' handles valid beyond the transaction.
        read.commit().expect("a transaction that read ends");
        Self { env, numbers, bytes }
    }

    #[inline]
    fn get(&mut self, key: &str) -> Option<u64> {
        let read = self.env.read_txn().expect("a reader's slot is free");
        self.numbers.get(&read, key).expect("is readable")
    }

    #[inline]
    fn set(&mut self, key: &str, value: u64) {
        let mut write = self.env.write_txn().expect("the lock can be taken");
        self.numbers.put(&mut write, key, &value).expect("there is room");
        write.commit().expect("there is room");
    }

    fn get_held(&mut self, _: &str, _: usize) -> u64 {
        unreachable!()
    }

    fn set_held(&mut self, _: &str, _: usize) {
        unreachable!()
    }

    fn get_bytes(&mut self, key: &str, into: &mut Vec<u8>) {
        let read = self.env.read_txn().expect("a reader's slot is free");
        let bytes = self.bytes.get(&read, key).expect("is readable").expect("is present");
        into.clear();
        into.extend_from_slice(bytes);
    }

    fn set_bytes(&mut self, key: &str, value: &[u8]) {
        let mut write = self.env.write_txn().expect("the lock can be taken");
        self.bytes.put(&mut write, key, value).expect("there is room");
        write.commit().expect("there is room");
    }

    #[inline]
    fn snapshot(&mut self, key: &str) -> Option<u64> {
        // A transaction that reads sees the dict as it was at its beginning.
        self.get(key)
    }

    #[inline]
    fn increment(&mut self, key: &str) {
        let mut write = self.env.write_txn().expect("the lock can be taken");
        let count = self.numbers.get(&write, key).expect("is readable").expect("is present");
        self.numbers.put(&mut write, key, &(count + 1)).expect("there is room");
        write.commit().expect("there is room");
    }
}
