//! The directory of namespaces: found without a lock, added under the arena's directory lock.
//!
//! **Words.** A table of granules, and a count. A namespace is complete before its entry is stored, and the count is
//! stored last (Release, pairs with the Acquire of readers), so a reader meets only complete ones. Entries are never
//! removed.
//!
//! **Death.** A creator that dies leaves chunks claimed for an index that the count does not reach yet; the next
//! creator, who gets the same index, frees them first.

use std::time::Duration;

use crate::arena::Mapping;
use crate::chunks;
use crate::error::{Error, Result};
use crate::fault::{Fault, planted};
use crate::layout::{
    BlockHead, CHUNK_GRANULES, CONTROL_MAGIC, Control, GRANULE, LogSlot, NAME_MAX, NAMESPACES, RESERVE, pack,
};
use crate::news::Event;
use crate::space::{History, Membership};
use crate::sync::{Ordering, Word, Word64};
use crate::sys::time::Deadline;

/// How long to wait for another process that adds a namespace.
const PATIENCE: Duration = Duration::from_secs(10);

fn table(mapping: &Mapping) -> Option<&[Word64]> {
    mapping.table(mapping.sections().directory, NAMESPACES)
}

/// The control blocks of all namespaces, in the order of their creation. Damaged entries are left out.
pub fn controls(mapping: &Mapping) -> impl Iterator<Item = &Control> {
    let table = table(mapping).unwrap_or(&[]);
    let granules = table
        .iter()
        .take(count(mapping) as usize)
        .map(|word| word.load(Ordering::Acquire) as u32);
    granules.filter_map(|granule| control_at(mapping, granule))
}

/// How many namespaces the directory counts. As many can be found, unless it is damaged.
pub fn count(mapping: &Mapping) -> u64 {
    mapping.superblock().map_or(0, |s| s.namespaces.load(Ordering::Acquire))
}

/// The control block at a granule. It is aligned to more than a granule, which a damaged entry might not respect.
pub fn control_at(mapping: &Mapping, granule: u32) -> Option<&Control> {
    if granule.is_multiple_of(2) {
        mapping.at(granule)
    } else {
        None
    }
}

/// The name of a namespace.
pub fn name_of(control: &Control) -> Result<String> {
    let len = control.name_len.load(Ordering::Relaxed) as usize;
    let bytes: Vec<u8> = control
        .name
        .iter()
        .flat_map(|w| w.load(Ordering::Relaxed).to_le_bytes())
        .collect();
    let bytes = bytes.get(..len).filter(|_| len <= NAME_MAX);
    let name = bytes.and_then(|bytes| std::str::from_utf8(bytes).ok());
    name.map(String::from)
        .ok_or_else(|| Error::corrupt("the name of a namespace is damaged"))
}

pub fn find(mapping: &Mapping, name: &str) -> Option<u32> {
    // Word by word: among thousands of namespaces, decoding every name would take as long as all the rest.
    let is_it = |control: &&Control| {
        control.name_len.load(Ordering::Relaxed) == name.len() as u64
            && crate::read::same_bytes(&control.name, name.as_bytes())
    };
    let control = controls(mapping).find(is_it)?;
    Some((mapping.offset_of(control) / GRANULE as u64) as u32)
}

/// The granule of the control block of a namespace, which is created if there is none of that name.
pub fn find_or_create(mapping: &Mapping, member: &Membership, name: &str, history: History) -> Result<u32> {
    let reason = match name.len() {
        0 => Some("it is empty"),
        len if len > NAME_MAX => Some("it is longer than 255 bytes"),
        _ => None,
    };
    if let Some(reason) = reason {
        return Err(Error::InvalidName {
            name: name.into(),
            reason,
        });
    }
    if let Some(granule) = find(mapping, name) {
        return Ok(granule);
    }
    let superblock = mapping.superblock()?;
    let guard = member.lock(&superblock.directory_lock, Deadline::after(PATIENCE))?;
    if let Some((pid, tid)) = guard.dead_owner() {
        let namespace = String::new();
        mapping.news().note(Event::TookOver { namespace, pid, tid });
    }
    if let Some(granule) = find(mapping, name) {
        return Ok(granule);
    }
    let index = superblock.namespaces.load(Ordering::Acquire);
    let entry = table(mapping)
        .and_then(|t| t.get(index as usize))
        .ok_or(Error::TooManyNamespaces(NAMESPACES))?;
    if planted(Fault::CountFirst) {
        superblock.namespaces.store(index + 1, Ordering::Release);
    }
    let granule = create(mapping, index as u32, name, history)?;
    entry.store(u64::from(granule), Ordering::Release);
    superblock.namespaces.store(index + 1, Ordering::Release);
    Ok(granule)
}

fn create(mapping: &Mapping, index: u32, name: &str, history: History) -> Result<u32> {
    chunks::reset(mapping, index)?;
    // Twice the history, so that the floor rises in batches.
    let log_bits = (u64::from(history.count) * 2).next_power_of_two().ilog2().max(2);
    let control_granules = (size_of::<Control>() / GRANULE) as u32;
    let log_granules = (1u32 << log_bits) * (size_of::<LogSlot>() / GRANULE) as u32;
    let used = control_granules + log_granules + RESERVE;
    let need = (used + CHUNK_GRANULES / 8).div_ceil(CHUNK_GRANULES);
    let run = chunks::claim(mapping, index, need, need, 0)?;
    let granule = run.first * CHUNK_GRANULES;
    let bytes = granule as usize * GRANULE;
    let words: &[Word64] = mapping
        .slice(bytes, used as usize * GRANULE / 8)
        .ok_or_else(|| Error::corrupt("a new namespace lies outside of the arena"))?;
    // Its chunks may have been used before.
    words.iter().for_each(|word| word.store(0, Ordering::Relaxed));
    let control: &Control =
        control_at(mapping, granule).ok_or_else(|| Error::corrupt("a new namespace lies outside of the arena"))?;
    for (word, chunk) in control.name.iter().zip(name.as_bytes().chunks(8)) {
        word.store(crate::read::tail_word(chunk), Ordering::Relaxed);
    }
    control.name_len.store(name.len() as u64, Ordering::Relaxed);
    control.index.store(u64::from(index), Ordering::Relaxed);
    control.log_bits.store(u64::from(log_bits), Ordering::Relaxed);
    let heap = granule + control_granules + log_granules;
    for at in heap..heap + RESERVE {
        let block: &BlockHead = mapping
            .at(at)
            .ok_or_else(|| Error::corrupt("a new namespace lies outside of the arena"))?;
        let next = if at + 1 < heap + RESERVE { at + 1 } else { 0 };
        block.link.store(pack(next, 1), Ordering::Relaxed);
    }
    control.writer.reserve.store(pack(heap, RESERVE), Ordering::Relaxed);
    control.writer.run.store(u64::from(run.first), Ordering::Relaxed);
    let end = (run.first + run.chunks) * CHUNK_GRANULES;
    control.writer.bump.store(pack(heap + RESERVE, end), Ordering::Relaxed);
    control.magic.store(CONTROL_MAGIC, Ordering::Release);
    let map = mapping.chunk_map()?;
    map[run.first as usize].store(chunks::head_word(index, run.chunks), Ordering::Release);
    Ok(granule)
}
