//! Seats: where a process pins snapshots and shows how far its watchers are.
//!
//! A seat belongs to a participant (slot and generation, which no later process shares) from the compare-and-swap
//! that takes it until its owner frees it, or a reaper who proved the owner dead. The control block has some; when
//! all are taken, dead owners' seats are reaped, and then another block of seats is chained behind them, by a record
//! that changes no key.
//!
//! That takes the writer lock, and a crowd may come at once. Each block is for many of them, so nobody queues for the lock
//! until it is his turn: a waiter looks for a free seat again and again meanwhile.

use std::time::Duration;

use crate::error::{Error, Result};
use crate::layout::{GRANULE, SEATS, Seat, SeatBlock, Superblock};
use crate::reclaim;
use crate::record;
use crate::signature::Signature;
use crate::space::Space;
use crate::sync::{Ordering, Word};
use crate::sys::time::Deadline;
use crate::walk;
use crate::write::Transaction;

/// How long to wait for a seat when all are taken.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long to wait for the writer lock until the first look whether somebody else has added seats; then twice as long, and
/// so on.
const FIRST_SLICE: Duration = Duration::from_millis(1);
const LONGEST_SLICE: Duration = Duration::from_millis(64);

/// Further blocks of seats that a namespace may have; a longer chain has a cycle.
pub const MOST_BLOCKS: usize = 4096;

/// Seats that should be free, so that readers need not wait for the writer lock to get one.
const SPARE: usize = 8;

/// A seat for this process. Waits for the writer lock only when all are taken.
pub fn take(space: &Space) -> Result<&Seat> {
    if let Some(seat) = space.take_seat() {
        return Ok(seat);
    }
    if space.mapping.is_read_only() {
        return Err(Error::TooManySnapshots(SEATS));
    }
    let deadline = Deadline::after(PATIENCE);
    let mut slice = FIRST_SLICE;
    loop {
        match Transaction::begin(space, Signature::NOBODY, deadline.sooner_of(slice)) {
            Ok(transaction) if free(space) == 0 && reclaim::reap(space) == 0 => add_block(transaction, true)?,
            Ok(_) => {}
            Err(Error::LockTimeout { .. }) if !deadline.passed() => slice = (2 * slice).min(LONGEST_SLICE),
            Err(error) => return Err(error),
        }
        if let Some(seat) = space.take_seat() {
            return Ok(seat);
        }
    }
}

fn free(space: &Space) -> usize {
    space
        .seats()
        .filter(|seat| seat.owner.load(Ordering::Relaxed) == 0)
        .count()
}

/// Adds seats before the last are taken, if nobody has the writer lock at the moment.
pub fn keep_some_free(space: &Space) {
    if space.mapping.is_read_only() || free(space) >= SPARE {
        return;
    }
    // Best effort: who finds no seat later waits in `take`.
    if let Ok(transaction) = Transaction::begin(space, Signature::NOBODY, Deadline::at_once())
        && reclaim::reap(space) == 0
    {
        let _ = add_block(transaction, false);
    }
}

/// Chains another block of seats. Only a reader that cannot do without gives up history for it (`reclaiming`).
fn add_block(mut transaction: Transaction<'_>, reclaiming: bool) -> Result<()> {
    let space = transaction.space;
    if walk::seat_blocks(space)?.len() >= MOST_BLOCKS {
        return Err(Error::TooManySnapshots(MOST_BLOCKS * SEATS));
    }
    let granules = (size_of::<SeatBlock>() / GRANULE) as u64;
    let granule = match transaction.scratch.heap.take(space, granules) {
        Ok(Some(granule)) => granule,
        _ if reclaiming => transaction.take(granules)?,
        Ok(None) => return Ok(()),
        Err(error) => return Err(error),
    };
    let block: &SeatBlock = space.mapping.at(granule).ok_or_else(|| {
        Error::corrupt(format!(
            "a block of seats at granule {granule} lies outside of the arena"
        ))
    })?;
    for seat in &block.seats {
        for word in [&seat.owner, &seat.pin, &seat.cursor] {
            word.store(0, Ordering::Relaxed);
        }
    }
    let head = &space.control().writer.seats_next;
    block.next.store(head.load(Ordering::Relaxed), Ordering::Relaxed);
    let scratch = &mut *transaction.scratch;
    scratch.record.push((space.mapping.offset_of(head), u64::from(granule)));
    scratch.heap.finish(space, &mut scratch.record)?;
    record::write(space, &scratch.record, 0)?;
    transaction.maintain()
}

/// A number that no other identity of the arena has had in its last 2^32 − 1.
pub fn next_identity(space: &Space) -> Result<u32> {
    let superblock: &Superblock = space.mapping.superblock()?;
    loop {
        // 0 stands for nobody, and is left out when the low half of the counter wraps.
        match superblock.next_identity.fetch_add(1, Ordering::Relaxed) as u32 {
            0 => {}
            identity => return Ok(identity),
        }
    }
}
