//! The reporter: sees every update, buffered, and keeps the books.
//!
//! Once it sleeps for so long that updates fall out of the history, so that there is something to be lost. It is then
//! told exactly how many.

use std::thread;
use std::time::Duration;

use zproc::{Error, State, Update};

use crate::{DONE, HISTORY, ORDER, Result, sampler};

/// The nap comes after so many updates, and lasts for so many.
const NAP_AFTER: u64 = 300;
const NAP: u64 = 3 * HISTORY as u64;

/// What the reporter has to say.
#[derive(Default)]
pub struct Report {
    /// Updates that it got.
    pub seen: u64,
    /// Updates that it was told it had missed.
    pub lost: u64,
    /// Nanoseconds from just before a commit until the reporter, which was waiting, had the update. Ascending.
    delays: Vec<u64>,
}

impl Report {
    /// The write-to-wake time that this share of the updates did not exceed.
    pub fn write_to_wake(&self, share: f64) -> Duration {
        let index = (self.delays.len() as f64 * share) as usize;
        Duration::from_nanos(self.delays.get(index).copied().unwrap_or_default())
    }
}

/// Watches until the last update.
pub fn report(state: &State) -> Result<Report> {
    let mut report = Report::default();
    let mut newest_sample = 0;
    let mut napped = false;
    loop {
        if report.seen >= NAP_AFTER && !napped {
            nap(state)?;
            napped = true;
        }
        let (update, waited) = match next(state) {
            Err(Error::Lagged { missed }) => {
                report.lost += missed;
                continue;
            }
            result => result?,
        };
        let woken_at = sampler::now()?;
        report.seen += 1;
        if !sampler::is_whole(&update.after)? {
            return Err(format!("update {} shows half of a sample", update.seq).into());
        }
        let written_at = update.after.get(sampler::WRITTEN_AT)?.unwrap_or(0);
        if written_at != newest_sample {
            newest_sample = written_at;
            if waited {
                report.delays.push(woken_at - written_at);
            }
        }
        if is_done(&update)? {
            if report.delays.is_empty() {
                return Err("no update was waited for".into());
            }
            report.delays.sort_unstable();
            return Ok(report);
        }
    }
}

/// The next update, and whether it was waited for. An update that was there already says nothing about waking.
fn next(state: &State) -> zproc::Result<(Update<'_>, bool)> {
    // Every commit counts, also one that changes nothing.
    let watch = state.watch().duplicates();
    match watch.timeout(Duration::ZERO).get_raw_update() {
        Err(Error::Timeout) => Ok((watch.get_raw_update()?, true)),
        update => Ok((update?, false)),
    }
}

/// Sleeps until enough updates have been made, or the last one.
fn nap(state: &State) -> Result<()> {
    let until = state.cursor() + NAP;
    while state.seq()? < until && state.get::<String>(ORDER)?.as_deref() != Some(DONE) {
        thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

fn is_done(update: &Update<'_>) -> zproc::Result<bool> {
    Ok(update.after.get::<String>(ORDER)?.as_deref() == Some(DONE))
}
