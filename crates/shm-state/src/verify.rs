//! The verifier: every block of a namespace is alive, retired, free or kept back, and exactly one of these.
//!
//! It takes the writer lock, so it sees a namespace between commits, and reports all it finds instead of stopping at
//! the first. Besides the blocks it checks what readers rely on: each key is found through the index, chains of
//! versions fall, the array's live slots are as many as the log says, free lists are ordered by retirement.

use std::collections::HashMap;

use crate::chunks;
use crate::error::Result;
use crate::heap::{block, class_of};
use crate::key::KeyRef;
use crate::layout::{CLASSES, Entry, GRANULE, Version, high, low};
use crate::log;
use crate::read::View;
use crate::space::Space;
use crate::sync::{Ordering, Word};
use crate::walk;

/// What [`crate::Arena::verify`] found.
///
/// ```
/// # use shm_state::{Arena, ArenaOptions, Deadline, KeyRef};
/// # let arena = Arena::anonymous(&ArenaOptions::default())?;
/// # let namespace = arena.namespace("default")?;
/// namespace.put(&KeyRef::new(1, b"door"), None, 1, b"open", Deadline::never())?;
/// let report = arena.verify()?;
/// assert_eq!((report.namespaces, report.keys, report.problems.len()), (1, 1, 0));
/// # Ok::<(), shm_state::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// What is wrong; empty if all is well.
    pub problems: Vec<String>,
    /// Namespaces looked at.
    pub namespaces: usize,
    /// Blocks accounted for.
    pub blocks: usize,
    /// Bytes in blocks that are alive.
    pub live_bytes: u64,
    /// Bytes in blocks that old snapshots and watchers may still need.
    pub retired_bytes: u64,
    /// Bytes in blocks that are free.
    pub free_bytes: u64,
    /// Keys alive.
    pub keys: u64,
}

impl Report {
    /// Whether nothing is wrong.
    ///
    /// ```
    /// assert!(shm_state::Report::default().is_clean());
    /// ```
    pub fn is_clean(&self) -> bool {
        self.problems.is_empty()
    }
}

/// What is wrong, as far as anybody would read: in a large heap one damaged word may make millions of blocks wrong.
#[derive(Default)]
struct Problems {
    list: Vec<String>,
    more: usize,
}

impl Problems {
    fn push(&mut self, problem: String) {
        if self.list.len() < 1000 {
            self.list.push(problem);
        } else {
            self.more += 1;
        }
    }
}

/// Checks one namespace. Only under its writer lock.
pub fn check(space: &Space, report: &mut Report) {
    let mut problems = Problems::default();
    if let Err(error) = check_all(space, report, &mut problems) {
        problems.push(error.to_string());
    }
    report.namespaces += 1;
    let Problems { mut list, more } = problems;
    if more > 0 {
        list.push(format!("{more} more problems"));
    }
    report
        .problems
        .extend(list.into_iter().map(|p| format!("namespace {:?}: {p}", space.name)));
}

fn check_all(space: &Space, report: &mut Report, problems: &mut Problems) -> Result<()> {
    let tiles = walk::tiles(space)?;
    let live = walk::mark_live(space)?;
    let recyclable = space.control().writer.recyclable.load(Ordering::Relaxed);
    let floor = space.control().reader.floor.load(Ordering::Relaxed);
    if recyclable > floor || floor > space.seq() {
        problems.push(format!(
            "blocks are recycled up to commit {recyclable}, the history begins at {floor} and ends at {}",
            space.seq()
        ));
    }
    let mut listed: HashMap<u32, u64> = HashMap::new();
    check_lists(space, tiles.len(), &mut listed, problems)?;
    let reserve = walk::reserve(space)?;
    for granule in &reserve {
        if listed.insert(*granule, 0).is_some() {
            problems.push(format!(
                "the block at granule {granule} is kept back and in a free list"
            ));
        }
    }
    let mut known = 0;
    for tile in &tiles {
        let bytes = u64::from(tile.granules) * GRANULE as u64;
        match (live.has(tile.granule), listed.get(&tile.granule)) {
            (true, Some(_)) => problems.push(format!("the block at granule {} is alive and free", tile.granule)),
            (false, None) => problems.push(format!("the block at granule {} is lost", tile.granule)),
            (true, None) => report.live_bytes += bytes,
            (false, Some(retired)) if *retired > recyclable => report.retired_bytes += bytes,
            (false, Some(_)) => report.free_bytes += bytes,
        }
        known += usize::from(listed.contains_key(&tile.granule));
    }
    if known != listed.len() {
        problems.push(format!(
            "{} blocks in free lists are no blocks of the heap",
            listed.len() - known
        ));
    }
    report.blocks += tiles.len();
    report.keys += check_keys(space, recyclable, &listed, problems)?;
    let orphans = chunks::orphans(&space.mapping, space.index)?;
    if orphans > 0 {
        problems.push(format!("{orphans} chunks are claimed and in no run"));
    }
    Ok(())
}

/// Collects the blocks of all free lists with the commit that retired them.
fn check_lists(space: &Space, limit: usize, listed: &mut HashMap<u32, u64>, problems: &mut Problems) -> Result<()> {
    let seq = space.seq();
    for class in 0..CLASSES {
        let word = space.control().classes[class].load(Ordering::Relaxed);
        let mut before = 0;
        for granule in walk::chain(space, low(word), high(word), limit)? {
            let head = block(&space.mapping, granule)?;
            let (granules, retired) = (
                high(head.link.load(Ordering::Relaxed)),
                head.retired.load(Ordering::Relaxed),
            );
            if granules == 0 || class_of(granules) != class {
                problems.push(format!(
                    "the block at granule {granule} ({granules} granules) is in list {class}"
                ));
            }
            if retired > seq {
                problems.push(format!(
                    "the block at granule {granule} was retired by commit {retired} of {seq}"
                ));
            }
            let recyclable = space.control().writer.recyclable.load(Ordering::Relaxed);
            if retired < before && before > recyclable {
                problems.push(format!("free list {class} is out of order at granule {granule}"));
            }
            before = before.max(retired);
            if listed.insert(granule, retired).is_some() {
                problems.push(format!(
                    "the block at granule {granule} is in two free lists, or twice in one"
                ));
            }
        }
    }
    Ok(())
}

/// Checks the index, the array and the versions. Returns the number of live keys.
fn check_keys(space: &Space, recyclable: u64, listed: &HashMap<u32, u64>, problems: &mut Problems) -> Result<u64> {
    let view = View::new(space, space.seq());
    let table = view.table().map_err(|t| t.damage(space))?;
    let (slots, live_end) = view.dense().map_err(|t| t.damage(space))?;
    for slot in table.iter().map(|s| s.load(Ordering::Relaxed)).filter(|s| *s != 0) {
        let (tag, bytes) = view.key_of(low(slot)).map_err(|t| t.damage(space))?;
        let key = KeyRef::new(tag, &bytes);
        if high(key.hash()) != high(slot) || view.find(&key) != Ok(Some(low(slot))) {
            problems.push(format!("the entry at granule {} is not found by its key", low(slot)));
        }
        check_chain(space, low(slot), recyclable, listed, problems)?;
    }
    let mut live = 0;
    for (at, slot) in slots.iter().enumerate() {
        let found = view.at_slot(slot).map_err(|t| t.damage(space))?;
        live += u64::from(found.is_some());
        if found.is_some() && at >= live_end {
            problems.push(format!(
                "slot {at} of the array is alive behind its live end {live_end}"
            ));
        }
    }
    let logged = log::live(space, view.seq).map(u64::from);
    if logged != Some(live) {
        problems.push(format!("{live} keys are alive, the log says {logged:?}"));
    }
    Ok(live)
}

/// Checks that the versions that snapshots may need are there, in falling order.
fn check_chain(
    space: &Space,
    entry: u32,
    recyclable: u64,
    listed: &HashMap<u32, u64>,
    problems: &mut Problems,
) -> Result<()> {
    let damage = |granule| move || crate::read::Torn(granule).damage(space);
    let head: &Entry = space.mapping.at(entry).ok_or_else(damage(entry))?;
    let newest = low(head.newest.load(Ordering::Relaxed));
    let mut version: &Version = space.mapping.at(newest).ok_or_else(damage(newest))?;
    if version.head.birth.load(Ordering::Relaxed) > space.seq() {
        problems.push(format!(
            "the version at granule {newest} was born after the newest commit"
        ));
    }
    loop {
        let birth = version.head.birth.load(Ordering::Relaxed);
        let older = low(version.older.load(Ordering::Relaxed));
        if birth <= recyclable || older == 0 {
            return Ok(());
        }
        let next: &Version = space.mapping.at(older).ok_or_else(damage(older))?;
        if listed.get(&older) != Some(&birth) {
            problems.push(format!(
                "the version at granule {older} was not retired by commit {birth}, which superseded it"
            ));
            return Ok(());
        }
        if next.head.birth.load(Ordering::Relaxed) >= birth {
            problems.push(format!(
                "the versions of the entry at granule {entry} do not fall at granule {older}"
            ));
            return Ok(());
        }
        version = next;
    }
}
