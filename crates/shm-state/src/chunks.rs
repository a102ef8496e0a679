//! Which namespace owns which chunk.
//!
//! **Guarantee.** A chunk belongs to one namespace or to none, at every instant. The map has one word a chunk:
//!
//! | word | meaning |
//! |---|---|
//! | 0 | free |
//! | owner | claimed: part of a run, or on its way into one |
//! | owner, `HEAD`, length | first chunk of a run of the owner's heap |
//!
//! **Protocol.** A writer claims free chunks by compare-and-swap; they become a run when its commit assigns the
//! `HEAD` word (through the record, like every other word). When it aborts, it frees them. When it dies, they are
//! claimed but in no run: [`sweep`], under the namespace's lock, frees what is.

use std::collections::HashMap;

use crossbeam_utils::Backoff;

use crate::arena::Mapping;
use crate::error::{Error, Result};
use crate::sync::{Ordering, Word, Word64};

const FREE: u64 = 0;
const HEAD: u64 = 1 << 16;
const OWNER: u64 = HEAD - 1;

/// The word of the first chunk of a run.
pub fn head_word(owner: u32, chunks: u32) -> u64 {
    claim_word(owner) | HEAD | u64::from(chunks) << 32
}

fn claim_word(owner: u32) -> u64 {
    u64::from(owner) + 1
}

/// A number of consecutive chunks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// The first chunk.
    pub first: u32,
    /// How many.
    pub chunks: u32,
}

/// Claims `chunks` chunks right behind `first`, all or none.
fn claim_at(map: &[Word64], owner: u32, first: u32, chunks: u32) -> bool {
    let Some(words) = map.get(first as usize..(first + chunks) as usize) else {
        return false;
    };
    for (i, word) in words.iter().enumerate() {
        // AcqRel: what the previous owner did with the chunk happened before; ours happens after.
        if word
            .compare_exchange(FREE, claim_word(owner), Ordering::AcqRel, Ordering::Relaxed)
            .is_err()
        {
            release(
                map,
                owner,
                Run {
                    first,
                    chunks: i as u32,
                },
            );
            return false;
        }
    }
    true
}

/// Frees claimed chunks.
pub fn release(map: &[Word64], owner: u32, run: Run) {
    for word in &map[run.first as usize..(run.first + run.chunks) as usize] {
        // Release pairs with the Acquire of the next claim. A failure means that it is not ours: leave it.
        let _ = word.compare_exchange(claim_word(owner), FREE, Ordering::Release, Ordering::Relaxed);
    }
}

/// Claims between `need` and `want` consecutive chunks; those behind `after` if that is possible.
pub fn claim(mapping: &Mapping, owner: u32, need: u32, want: u32, after: u32) -> Result<Run> {
    let map = mapping.chunk_map()?;
    let first_chunk = mapping.sections().first_chunk;
    let backoff = Backoff::new();
    loop {
        let backed = mapping.committed() / crate::layout::CHUNK_GRANULES;
        let free_from = |at: u32| {
            let window = &map[at.min(backed) as usize..backed as usize];
            let free = window
                .iter()
                .take(want as usize)
                .take_while(|w| w.load(Ordering::Relaxed) == FREE)
                .count();
            free as u32
        };
        let mut at = after.max(first_chunk);
        let mut best = free_from(at);
        if best < need {
            at = first_chunk;
            while at < backed {
                best = free_from(at);
                if best >= need {
                    break;
                }
                at += best + 1;
            }
        }
        if best >= need && at < backed {
            if claim_at(map, owner, at, best) {
                return Ok(Run {
                    first: at,
                    chunks: best,
                });
            }
            backoff.snooze(); // another namespace was faster
            continue;
        }
        // Chunks at the end of the backed part may be free already: only what is missing is asked for.
        let tail = map[first_chunk as usize..backed as usize]
            .iter()
            .rev()
            .take_while(|w| w.load(Ordering::Relaxed) == FREE)
            .count() as u32;
        let tail = tail.min(need - 1);
        mapping.grow(need - tail, want.max(need) - tail)?;
    }
}

/// The runs of a namespace, in the order of their addresses. Damage ends in an error.
pub fn runs(mapping: &Mapping, owner: u32) -> Result<Vec<Run>> {
    let map = mapping.chunk_map()?;
    let mut runs = Vec::new();
    let mut at = mapping.sections().first_chunk as usize;
    while at < map.len() {
        let word = map[at].load(Ordering::Acquire);
        if word & HEAD == 0 {
            at += 1;
            continue;
        }
        let chunks = (word >> 32) as usize;
        if chunks == 0 || at + chunks > map.len() {
            return Err(Error::corrupt(format!(
                "chunk {at} heads a run of {chunks} chunks in a map of {}",
                map.len()
            )));
        }
        if word & OWNER == claim_word(owner) {
            runs.push(Run {
                first: at as u32,
                chunks: chunks as u32,
            });
        }
        at += chunks;
    }
    Ok(runs)
}

/// The chunks that `owner` claimed and that are in no run.
fn unlinked(mapping: &Mapping, owner: u32) -> Result<Vec<u32>> {
    let map = mapping.chunk_map()?;
    let mut found = Vec::new();
    let mut at = mapping.sections().first_chunk as usize;
    while at < map.len() {
        let word = map[at].load(Ordering::Acquire);
        if word & HEAD != 0 {
            at += ((word >> 32) as usize).max(1);
            continue;
        }
        if word == claim_word(owner) {
            found.push(at as u32);
        }
        at += 1;
    }
    Ok(found)
}

/// How many chunks `owner` claimed and never put into a run. Only under its lock, with no claim under way.
pub fn orphans(mapping: &Mapping, owner: u32) -> Result<usize> {
    Ok(unlinked(mapping, owner)?.len())
}

/// Frees the chunks that `owner` claimed and never put into a run, and says how many. Only under its lock, with no claim
/// under way.
pub fn sweep(mapping: &Mapping, owner: u32) -> Result<usize> {
    let map = mapping.chunk_map()?;
    let unlinked = unlinked(mapping, owner)?;
    for first in &unlinked {
        let run = Run {
            first: *first,
            chunks: 1,
        };
        release(map, owner, run);
    }
    Ok(unlinked.len())
}

/// Frees every chunk of `owner`, runs included: what is left of a namespace whose creator died. Only under the
/// directory lock, for an index that has no namespace.
pub fn reset(mapping: &Mapping, owner: u32) -> Result<()> {
    let map = mapping.chunk_map()?;
    for run in runs(mapping, owner)? {
        // From a run to claimed chunks, in one store; then as any other leftovers.
        map[run.first as usize].store(claim_word(owner), Ordering::Release);
    }
    sweep(mapping, owner).map(drop)
}

/// How many chunks each owner has in runs or has claimed: for those who look without a lock. What is damaged is left out.
pub fn owned(mapping: &Mapping) -> Result<HashMap<u32, u32>> {
    let map = mapping.chunk_map()?;
    let mut owned = HashMap::new();
    let mut at = mapping.sections().first_chunk as usize;
    // A claimed chunk behind its head is counted with it, so only claims of a transaction under way remain.
    while at < map.len() {
        let word = map[at].load(Ordering::Acquire);
        let chunks = match word & HEAD {
            0 => 1,
            // Damage may claim more than there are.
            _ => ((word >> 32) as usize).clamp(1, map.len() - at),
        };
        if let Some(owner) = ((word & OWNER) as u32).checked_sub(1) {
            *owned.entry(owner).or_default() += chunks as u32;
        }
        at += chunks;
    }
    Ok(owned)
}

/// Counts free chunks, and chunks that are claimed but in no run, among the backed ones: for the statistics.
pub fn census(mapping: &Mapping) -> Result<(u32, u32)> {
    let map = mapping.chunk_map()?;
    let backed = (mapping.committed() / crate::layout::CHUNK_GRANULES) as usize;
    let (mut free, mut claimed) = (0, 0);
    let mut at = mapping.sections().first_chunk as usize;
    while at < backed.min(map.len()) {
        let word = map[at].load(Ordering::Acquire);
        if word & HEAD != 0 {
            at += ((word >> 32) as usize).max(1);
            continue;
        }
        if word == FREE {
            free += 1
        } else {
            claimed += 1
        }
        at += 1;
    }
    Ok((free, claimed))
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::{Arena, ArenaOptions};

    /// The status of an arena whose chunk map was damaged overflowed, as the sum of its chunks did.
    #[test]
    fn a_run_that_claims_to_go_beyond_the_map_counts_to_its_end() {
        let arena = Arena::anonymous(&ArenaOptions::default()).unwrap();
        let namespace = arena.namespace("default").unwrap();
        let mapping = &namespace.space().mapping;
        let first = mapping.sections().first_chunk as usize;
        let map = mapping.chunk_map().unwrap();
        map[first].store(head_word(0, 1), Ordering::Relaxed);
        map[first + 1].store(head_word(0, u32::MAX), Ordering::Relaxed);
        assert_eq!(owned(mapping).unwrap()[&0] as usize, map.len() - first);
        arena.status().unwrap();
    }
}
