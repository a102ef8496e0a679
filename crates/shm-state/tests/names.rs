//! Who made a commit: found by pid and identity, though pids are used again and identities wrap.

mod common;
mod limit;

use std::os::fd::AsFd;

use common::key;
use limit::words::{NEXT_IDENTITY, PARTICIPANTS, Words};
use shm_state::{Arena, ArenaOptions, Deadline, Namespace, Record};

/// Words of a participant's slot.
mod slot {
    pub const SINCE: u64 = 32;
    pub const NAME: u64 = 40;
    pub const NAMED: u64 = 56;
}

fn commit(namespace: &Namespace) -> Record {
    let seq = namespace.put(&key("a"), None, 1, b"1", Deadline::never()).unwrap();
    namespace.record(seq).unwrap().unwrap()
}

/// As if a process had been there, and left.
fn pretend(words: &Words, number: u64, pid: u32, since: u64, name: &[u8; 8]) {
    let at = PARTICIPANTS + number * 64;
    words.set(at + slot::SINCE, since);
    words.set(at + slot::NAME, u64::from_le_bytes(*name));
    words.set(at + slot::NAMED, pid.into());
}

#[test]
fn of_those_with_the_pid_the_writer_is_the_last_that_came_before_its_identity() {
    for first in [1000u64, (1 << 31) - 5, (1 << 32) - 5, (1 << 40) - 5, u64::MAX - 5] {
        let arena = Arena::anonymous(&ArenaOptions::default()).unwrap();
        let words = Words::of(arena.fd().unwrap().as_fd());
        words.set(NEXT_IDENTITY, first);
        let namespaces: Vec<Namespace> = (0..20).map(|_| arena.namespace("n").unwrap()).collect();
        let me = std::process::id();
        // It came shortly before, and not when identities began.
        let own = (0..64)
            .find(|number| words.get(PARTICIPANTS + number * 64) == me.into())
            .unwrap();
        words.set(PARTICIPANTS + own * 64 + slot::SINCE, first.wrapping_sub(100));
        let records: Vec<Record> = namespaces.iter().map(commit).collect();
        let identity = |at: usize| u64::from(records[at].identity);
        pretend(&words, 7, me, identity(0), b"first\0\0\0");
        pretend(&words, 9, me, identity(12), b"second\0\0");
        pretend(&words, 8, me + 1, identity(3), b"stranger");
        pretend(&words, 6, me, identity(19).wrapping_add(1), b"too late");
        let names: Vec<_> = records.iter().map(|record| namespaces[0].writer_name(record)).collect();
        for (at, name) in names.iter().enumerate() {
            let expected = if at < 12 { "first" } else { "second" };
            assert_eq!(name.as_deref(), Some(expected), "commit {at} of {first}");
        }
        // What was found is kept when another comes into the slot; who was never asked for is unknown.
        pretend(&words, 9, me + 2, 0, b"another\0");
        assert_eq!(namespaces[0].writer_name(&records[15]).as_deref(), Some("second"));
        let record = Record {
            pid: me + 7,
            identity: 77,
            ..records[0].clone()
        };
        assert_eq!(namespaces[0].writer_name(&record), None);
    }
}

#[test]
fn a_new_name_is_seen_by_those_who_knew_the_old_one() {
    let arena = Arena::anonymous(&ArenaOptions::default()).unwrap();
    let namespace = arena.namespace("n").unwrap();
    let record = commit(&namespace);
    for name in ["baker", "cook", "a name of more than sixteen bytes"] {
        shm_state::set_process_name(name);
        let seen = namespace.writer_name(&record).unwrap();
        assert_eq!(*seen, *name.chars().take(15).collect::<String>());
    }
    shm_state::set_process_name("");
    let program = std::env::current_exe().unwrap();
    let program = program.file_name().unwrap().to_str().unwrap();
    assert!(program.starts_with(&*namespace.writer_name(&record).unwrap()));
    // Any bytes are a name, or none.
    let words = Words::of(arena.fd().unwrap().as_fd());
    let number = (0..64)
        .find(|number| words.get(PARTICIPANTS + number * 64) != 0)
        .unwrap();
    words.set(PARTICIPANTS + number * 64 + slot::NAME, u64::MAX);
    assert!(namespace.writer_name(&record).is_some());
    words.set(PARTICIPANTS + number * 64 + slot::NAME, 0);
    assert_eq!(namespace.writer_name(&record), None);
}
