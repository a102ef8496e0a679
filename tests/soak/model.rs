//! What the state looks like, and what must hold in each of its snapshots.
//!
//! Every commit adds one to exactly one counter, that of the process which makes it. So in the snapshot after commit `s`
//! the counters add up to `s`: a lost commit, half a commit, or one that was made twice shows in any snapshot. Beside
//! its counter a writer sets the keys of a group, all to the same value, and keys that come and go.

use zproc::{Key, Result, Snapshot, State, Transaction, Value};

/// Who has a counter: the processes of the soak by their number, then the conductor.
pub const WRITERS: std::ops::Range<u64> = 0..4;
pub const WATCHERS: std::ops::Range<u64> = 4..8;
pub const HOLDERS: std::ops::Range<u64> = 8..10;
pub const WAITERS: std::ops::Range<u64> = 10..12;
pub const VICTIM: u64 = 12;
pub const CONDUCTOR: u64 = 13;

/// Commits that the namespace remembers.
pub const HISTORY: u32 = 16;
pub const NAMESPACE: &str = "soak";

/// Keys that are always set together.
const GROUP: u64 = 8;

pub fn counter(process: u64) -> String {
    format!("writer {process}")
}

fn counters() -> impl Iterator<Item = u64> {
    WRITERS.chain(WAITERS).chain([VICTIM, CONDUCTOR])
}

pub fn member(number: u64) -> String {
    format!("group {number}")
}

/// The first commit: everything that is never removed.
pub fn initialise(state: &State) -> Result<()> {
    state.atomic(|dict| {
        counters().try_for_each(|process| dict.insert(counter(process), i64::from(process == CONDUCTOR)))?;
        (0..GROUP).try_for_each(|number| dict.insert(member(number), 0))
    })
}

/// Sets the group to one value.
pub fn set_group(dict: &mut Transaction<'_>, value: i64) -> Result<()> {
    (0..GROUP).try_for_each(|number| dict.insert(member(number), value))
}

/// Adds one to a process's counter and returns the new value.
pub fn count(dict: &mut Transaction<'_>, process: u64) -> Result<i64> {
    dict.modify(counter(process), |n: i64| n + 1)
}

/// Whether a key is there from the first commit to the last.
pub fn is_lasting(key: &Key) -> bool {
    matches!(key, Key::Str(text) if text.starts_with("writer ") || text.starts_with("group "))
}

/// The counter that a process had in a snapshot.
pub fn counted(snapshot: &Snapshot<'_>, process: u64) -> i64 {
    snapshot
        .get(counter(process))
        .unwrap()
        .expect("counters are never removed")
}

/// Checks a snapshot after the first commit.
pub fn check(snapshot: &Snapshot<'_>) {
    let sum: i64 = counters().map(|process| counted(snapshot, process)).sum();
    assert_eq!(
        sum.cast_unsigned(),
        snapshot.seq(),
        "lost, half or doubled commits: {:?}",
        counters().map(|process| counted(snapshot, process)).collect::<Vec<_>>()
    );
    let group: Vec<Option<i64>> = (0..GROUP).map(|number| snapshot.get(member(number)).unwrap()).collect();
    assert!(
        group.windows(2).all(|pair| pair[0].is_some() && pair[0] == pair[1]),
        "half a commit in snapshot {}: {group:?}",
        snapshot.seq()
    );
}

/// All that a snapshot shows, in its order.
pub fn contents(snapshot: &Snapshot<'_>) -> Vec<(Key, Value)> {
    let contents: Vec<_> = snapshot.iter().collect::<Result<_>>().unwrap();
    assert_eq!(contents.len(), snapshot.len().unwrap());
    contents
}
