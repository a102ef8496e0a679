//! An arena in a segment of the crate `shared_memory`, used by two processes.
#![cfg(feature = "shared_memory")]

use std::process::Command;
use std::time::Duration;

use shared_memory::ShmemConf;
use shm_state::{Arena, ArenaOptions, Deadline, Error, KeyRef};

const SEGMENT: &str = "SHM_STATE_TEST_SEGMENT";

fn soon() -> Deadline {
    Deadline::after(Duration::from_secs(20))
}

#[test]
fn two_processes_share_an_arena_in_a_segment() {
    let segment = ShmemConf::new().size(2 << 20).create().unwrap();
    // SAFETY: the segment is new, and dropped after the arena.
    let arena = unsafe { Arena::create_in_segment(&segment, &ArenaOptions::default()).unwrap() };
    let namespace = arena.namespace("n").unwrap();
    namespace
        .put(&KeyRef::new(1, b"from"), None, 1, b"parent", soon())
        .unwrap();
    let child = Command::new("/proc/self/exe")
        .args(["--exact", "child", "--nocapture"])
        .env(SEGMENT, segment.get_os_id())
        .status()
        .unwrap();
    assert!(child.success());
    assert_eq!(
        namespace.get(&KeyRef::new(1, b"from")).unwrap().unwrap().bytes(),
        b"child"
    );
    assert!(arena.verify().unwrap().is_clean());
    drop(namespace);
    drop(arena);
}

/// The other process; does nothing in a run of its own.
#[test]
fn child() {
    let Ok(name) = std::env::var(SEGMENT) else { return };
    let segment = ShmemConf::new().os_id(name).open().unwrap();
    // SAFETY: the segment is dropped after the arena.
    let arena = unsafe { Arena::open_in_segment(&segment).unwrap() };
    let namespace = arena.namespace("n").unwrap();
    assert_eq!(
        namespace.get(&KeyRef::new(1, b"from")).unwrap().unwrap().bytes(),
        b"parent"
    );
    namespace
        .put(&KeyRef::new(1, b"from"), None, 1, b"child", soon())
        .unwrap();
    drop(namespace);
    drop(arena);
}

#[test]
fn a_segment_without_an_arena_is_refused() {
    let segment = ShmemConf::new().size(2 << 20).create().unwrap();
    // SAFETY: no arena comes of it.
    let refused = unsafe { Arena::open_in_segment(&segment) };
    assert!(matches!(refused.map(drop), Err(Error::Incompatible { .. })));
}
