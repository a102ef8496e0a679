//! Walking the heap of a namespace from outside: its tiles, and which of them are alive.
//!
//! Two things are true at every instant, whoever died: the runs of a namespace are tiled by blocks without a gap (a
//! length changes by one store of one word), and what is alive can be found from the control block. So free lists can
//! always be made anew (`reclaim`), and every block can be accounted for (`verify`). Only under the writer lock.

use crate::chunks;
use crate::error::{Error, Result};
use crate::layout::{BlockHead, CHUNK_GRANULES, Entry, SeatBlock, high, low};
use crate::read::View;
use crate::space::Space;
use crate::sync::{Ordering, Word};

/// One block as the heap walk finds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tile {
    /// Where.
    pub granule: u32,
    /// How long.
    pub granules: u32,
    /// The run that it is part of: blocks of different runs are never one, even if they are neighbours.
    pub run: u32,
    /// Its `retired`, which means something only if it is not alive.
    pub retired: u64,
}

/// All blocks of a namespace by address. Damage ends in an error.
pub fn tiles(space: &Space) -> Result<Vec<Tile>> {
    let writer = &space.control().writer;
    let (bump, current) = (
        low(writer.bump.load(Ordering::Relaxed)),
        writer.run.load(Ordering::Relaxed) as u32,
    );
    let mut tiles = Vec::new();
    for run in chunks::runs(&space.mapping, space.index)? {
        let (start, end) = (run.first * CHUNK_GRANULES, (run.first + run.chunks) * CHUNK_GRANULES);
        let holds_control = space.mapping.offset_of(space.control()) == u64::from(start) * 64;
        let mut at = if holds_control { space.heap_start } else { start };
        let stop = if run.first == current { bump } else { end };
        if stop > end {
            return Err(Error::corrupt(format!(
                "bump is at granule {stop}, behind its run, which ends at {end}"
            )));
        }
        while at < stop {
            let head: &BlockHead = space
                .mapping
                .at(at)
                .ok_or_else(|| Error::corrupt(format!("a block at granule {at} lies outside of the arena")))?;
            let granules = high(head.link.load(Ordering::Relaxed));
            if granules == 0 || u64::from(at) + u64::from(granules) > u64::from(stop) {
                return Err(Error::corrupt(format!(
                    "the block at granule {at} has {granules} granules and its run ends at {stop}"
                )));
            }
            tiles.push(Tile {
                granule: at,
                granules,
                run: run.first,
                retired: head.retired.load(Ordering::Relaxed),
            });
            at += granules;
        }
    }
    Ok(tiles)
}

/// A set of granules.
pub struct Marks(Vec<u64>);

impl Marks {
    /// No granule of the arena.
    pub fn none(space: &Space) -> Self {
        Self(vec![0; space.mapping.committed() as usize / 64 + 1])
    }

    /// Adds a granule; says whether it was new. Granules outside of the arena are damage.
    pub fn add(&mut self, granule: u32) -> Result<bool> {
        let word = self
            .0
            .get_mut(granule as usize / 64)
            .ok_or_else(|| Error::corrupt(format!("granule {granule} lies outside of the arena")))?;
        let bit = 1 << (granule % 64);
        let new = *word & bit == 0;
        *word |= bit;
        Ok(new)
    }

    /// Whether a granule is in the set.
    pub fn has(&self, granule: u32) -> bool {
        self.0
            .get(granule as usize / 64)
            .is_some_and(|word| word & (1 << (granule % 64)) != 0)
    }
}

/// Marks the blocks that are alive: index, array, entries, their newest versions, further seats.
pub fn mark_live(space: &Space) -> Result<Marks> {
    let mut live = Marks::none(space);
    let reader = &space.control().reader;
    let view = View::new(space, reader.seq.load(Ordering::Acquire));
    for root in [
        reader.root.load(Ordering::Relaxed) >> 8,
        reader.dense.load(Ordering::Relaxed),
    ] {
        if root != 0 {
            live.add(root as u32)?;
        }
    }
    let table = view.table().map_err(|t| t.damage(space))?;
    let (slots, _) = view.dense().map_err(|t| t.damage(space))?;
    let indexed = table
        .iter()
        .map(|slot| low(slot.load(Ordering::Relaxed)))
        .filter(|entry| *entry != 0);
    for entry in indexed.chain(slots.iter().map(|slot| slot.entry.load(Ordering::Relaxed) as u32)) {
        if live.add(entry)? {
            let head: &Entry = space
                .mapping
                .at(entry)
                .ok_or_else(|| Error::corrupt(format!("an entry at granule {entry} lies outside of the arena")))?;
            let newest = low(head.newest.load(Ordering::Relaxed));
            if newest != 0 {
                live.add(newest)?;
            }
        }
    }
    for block in seat_blocks(space)? {
        live.add(block)?;
    }
    Ok(live)
}

/// The granules of further blocks of seats.
pub fn seat_blocks(space: &Space) -> Result<Vec<u32>> {
    let mut blocks = Vec::new();
    let mut next = space.control().writer.seats_next.load(Ordering::Acquire) as u32;
    while next != 0 {
        if blocks.len() >= crate::seats::MOST_BLOCKS || blocks.contains(&next) {
            return Err(Error::corrupt(format!(
                "the blocks of seats form a cycle at granule {next}, or there are too many"
            )));
        }
        blocks.push(next);
        let block: &SeatBlock = space
            .mapping
            .at(next)
            .ok_or_else(|| Error::corrupt(format!("a block of seats at granule {next} lies outside of the arena")))?;
        next = block.next.load(Ordering::Acquire) as u32;
    }
    Ok(blocks)
}

/// The blocks of a chain that starts at `head`, at most `limit` of them; a longer chain has a cycle.
pub fn chain(space: &Space, head: u32, tail: u32, limit: usize) -> Result<Vec<u32>> {
    let mut blocks = Vec::new();
    let mut at = head;
    while at != 0 {
        if blocks.len() >= limit {
            return Err(Error::corrupt(format!(
                "the free list that starts at granule {head} does not end"
            )));
        }
        blocks.push(at);
        if at == tail {
            return Ok(blocks);
        }
        at = low(crate::heap::block(&space.mapping, at)?.link.load(Ordering::Relaxed));
    }
    if tail != 0 {
        return Err(Error::corrupt(format!(
            "the free list that starts at granule {head} misses its tail {tail}"
        )));
    }
    Ok(blocks)
}

/// The blocks that are kept back for removals.
pub fn reserve(space: &Space) -> Result<Vec<u32>> {
    let word = space.control().writer.reserve.load(Ordering::Relaxed);
    let mut blocks = Vec::new();
    let mut at = low(word);
    for _ in 0..high(word).min(crate::layout::RESERVE) {
        let head = crate::heap::block(&space.mapping, at)?;
        blocks.push(at);
        at = low(head.link.load(Ordering::Relaxed));
    }
    Ok(blocks)
}
