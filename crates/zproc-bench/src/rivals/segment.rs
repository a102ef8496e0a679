//! What one would write by hand: a segment of the crate `shared_memory` with a table of fixed slots, under one mutex that
//! processes share.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use shared_memory::{Shmem, ShmemConf};

use super::place::name;
use super::table_of_slots::{Slot, Table, bytes_needed};
use super::{Client, Contents, News, Operation, Rival, Waiting, Watcher};

/// A segment.
pub struct Segment(Shmem);

impl Rival for Segment {
    const NAME: &'static str = "segment + mutex";
    const CANNOT: &'static [(Operation, &'static str)] = &[(Operation::WatchAsleep, "a mutex wakes nobody")];
    type Client = SegmentClient;
    type Watcher = SegmentWatcher;

    fn create(contents: &Contents) -> Result<Self, String> {
        let bytes = bytes_needed(contents.keys + 2, contents.bytes);
        let segment = ShmemConf::new().size(bytes).os_id(format!("/{}", name())).create();
        let segment = segment.map_err(|error| error.to_string())?;
        // SAFETY: the segment is as long as such a table needs, zeroed, and nobody else knows of it yet.
        let table = unsafe { Table::create(segment.as_ptr(), contents.keys + 2, contents.bytes) };
        for (key, value) in contents.entries() {
            table.locked(|table| table.add(key, value));
        }
        if let Some((_, value)) = contents.blob() {
            table.locked(|table| table.blob().copy_from_slice(&value));
        }
        Ok(Self(segment))
    }

    fn address(&self) -> String {
        self.0.get_os_id().to_owned()
    }
}

/// A segment, open.
pub struct SegmentClient {
    table: Table,
    copy: Vec<Slot>,
    _segment: Shmem,
}

impl Client for SegmentClient {
    fn open(address: &str) -> Self {
        let segment = ShmemConf::new()
            .os_id(address)
            .open()
            .expect("its maker keeps the segment");
        // SAFETY: the segment's maker made a table in it before it told anybody the address.
        let table = unsafe { Table::open(segment.as_ptr()) };
        Self {
            table,
            copy: Vec::new(),
            _segment: segment,
        }
    }

    #[inline]
    fn get(&mut self, key: &str) -> Option<u64> {
        self.table.locked(|table| table.find(key).map(|slot| slot.value))
    }

    #[inline]
    fn set(&mut self, key: &str, value: u64) {
        self.table.locked(|table| {
            table.find(key).expect("is present").value = value;
            table.changed();
        });
    }

    fn get_held(&mut self, key: &str, times: usize) -> u64 {
        let index = self.table.locked(|table| table.index(key)).expect("is present");
        let number = |_| self.table.locked(|table| table.at(index).value);
        (0..times).map(number).fold(0, u64::wrapping_add)
    }

    fn set_held(&mut self, key: &str, times: usize) {
        let index = self.table.locked(|table| table.index(key)).expect("is present");
        for value in 1..=times as u64 {
            self.table.locked(|table| {
                table.at(index).value = value;
                table.changed();
            });
        }
    }

    fn get_bytes(&mut self, _: &str, into: &mut Vec<u8>) {
        into.clear();
        self.table.locked(|table| into.extend_from_slice(table.blob()));
    }

    fn set_bytes(&mut self, _: &str, value: &[u8]) {
        self.table.locked(|table| table.blob().copy_from_slice(value));
    }

    fn snapshot(&mut self, key: &str) -> Option<u64> {
        self.table.locked(|table| {
            self.copy.clear();
            self.copy.extend_from_slice(table.slots());
        });
        let index = self.table.place_of(key, |index| self.copy[index].key);
        index.map(|index| self.copy[index].value)
    }

    #[inline]
    fn increment(&mut self, key: &str) {
        self.table.locked(|table| {
            table.find(key).expect("is present").value += 1;
            table.changed();
        });
    }
}

/// Looks at the count of changes.
pub struct SegmentWatcher {
    client: SegmentClient,
    key: String,
    seen: u64,
    value: u64,
}

impl Watcher for SegmentWatcher {
    fn open(address: &str, key: &str, _: Waiting) -> Self {
        let mut client = SegmentClient::open(address);
        // Acquire: pairs with the Release of a change, though the mutex would do.
        let seen = client.table.changes().load(Ordering::Acquire);
        let value = client.get(key).expect("is present");
        Self {
            client,
            key: key.to_owned(),
            seen,
            value,
        }
    }

    fn next(&mut self, patience: Duration) -> News {
        let start = Instant::now();
        for turn in 1u32.. {
            // Acquire: as above.
            let changes = self.client.table.changes().load(Ordering::Acquire);
            if changes == self.seen {
                std::hint::spin_loop();
                if turn.is_multiple_of(1024) && start.elapsed() > patience {
                    break;
                }
                continue;
            }
            self.seen = changes;
            let value = self.client.get(&self.key).expect("is present");
            if value != self.value {
                self.value = value;
                return News::Value(value);
            }
        }
        News::Nothing
    }
}
