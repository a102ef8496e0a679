//! The results of a task, in the order of its items, as they are asked for.
//!
//! Whoever asks also feeds: items are taken from the iterator, encoded and handed to the workers as far as the look-ahead
//! allows, at the start and whenever a chunk has come back. Chunks begin with one item and grow until they take
//! [`AIM`], so that handing them over costs little beside running them, and the last ones are not large.

use std::fmt;
use std::iter::FusedIterator;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use zproc_spawn::signal::Bell;

use super::pool::{Finished, Front, Workers};
use super::ring::{FAILED, INPUT, LOST, MOST_ITEMS, Results, VALUE};
use super::target::encode;
use crate::access::check_not_in_atomic;
use crate::error::{Error, Result};
use crate::process::{carry, from_bytes};

/// How long the items of a chunk take to run, as nearly as it can be had.
const AIM: Duration = Duration::from_micros(700);

/// How far a task is: see [`MapBuilder::progress`](crate::MapBuilder::progress).
///
/// ```
/// use zproc::{Context, Progress, Result};
///
/// fn main() -> Result<()> {
///     zproc::init();
///     let ctx = Context::new()?;
///     let mut last = None;
///     let show = |progress: Progress| last = Some((progress.done, progress.total));
///     ctx.process_map(|n: u32| n, 0..10).progress(show).start()?.for_each(drop);
///     assert_eq!(last, Some((10, Some(10))));
///     Ok(())
/// }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// How many items are done.
    pub done: u64,
    /// How many there are, if the iterator tells.
    pub total: Option<u64>,
}

/// The results of [`Context::process_map`](crate::Context::process_map), in the order of the items. Each is yielded as soon
/// as it and those before it are there; asking for one waits for it.
///
/// An error that is not of an item ends them: it is yielded once, the rest is given up, and nothing follows. Such are
/// [`Error::Closed`](crate::Error::Closed), [`Error::NestedAtomic`](crate::Error::NestedAtomic) (to wait for results within
/// [`State::atomic`](crate::State::atomic) would keep the writer lock from the workers), workers that cannot be started or do
/// not live, and an item that cannot be carried, behind the results before it. Only an
/// [`Error::Signal`](crate::Error::Signal) ends nothing: ask again.
///
/// Dropping it gives up what was not asked for.
///
/// ```
/// use zproc::{Context, Result};
///
/// fn main() -> Result<()> {
///     zproc::init();
///     let ctx = Context::new()?;
///     let mut squares = ctx.process_map(|n: u64| n * n, 1..).start()?; // endless
///     assert_eq!(squares.next().unwrap()?, 1);
///     assert_eq!(squares.next().unwrap()?, 4);
///     Ok(())
/// }
/// ```
pub struct MapResults<'p, I: Iterator, R> {
    workers: Arc<Workers>,
    task: u32,
    items: Option<I>,
    /// Items of the next chunk.
    size: u32,
    /// An encoded chunk for which there is no slot yet: its items, and the bytes of `input` that it fills.
    waiting: Option<(u32, usize)>,
    input: Vec<u8>,
    /// What is being yielded.
    current: Option<Results>,
    bell: Bell,
    progress: Option<Box<dyn FnMut(Progress) + 'p>>,
    done: u64,
    total: Option<u64>,
    /// An item that cannot be carried or handed over ends the task behind those before it.
    failure: Option<Error>,
    /// Nothing comes any more: all was yielded, or an error.
    over: bool,
    /// Whether signals end its waits.
    tell_signals: bool,
    output: PhantomData<fn() -> R>,
}

impl<'p, I: Iterator, R> MapResults<'p, I, R>
where
    I::Item: Serialize,
    R: DeserializeOwned,
{
    pub(super) fn new(
        workers: Arc<Workers>,
        task: u32,
        items: I,
        progress: Option<Box<dyn FnMut(Progress) + 'p>>,
    ) -> Result<Self> {
        let total = match items.size_hint() {
            (least, Some(most)) if least == most => Some(least as u64),
            _ => None,
        };
        let bell = workers.bell().inspect_err(|_| workers.abandon(task))?;
        let mut results = Self {
            bell,
            workers,
            task,
            items: Some(items),
            size: 1,
            waiting: None,
            input: Vec::new(),
            current: None,
            progress,
            done: 0,
            total,
            failure: None,
            over: false,
            tell_signals: true,
            output: PhantomData,
        };
        results.feed()?;
        Ok(results)
    }

    /// Has signals end no wait of it.
    pub(super) fn without_signals(mut self) -> Self {
        self.tell_signals = false;
        self
    }

    /// Hands items to the workers, as many as may be on their way.
    fn feed(&mut self) -> Result<()> {
        while self.waiting.is_some() || self.items.is_some() {
            if !self.workers.has_room(self.task) {
                return Ok(());
            }
            let Some((count, length)) = self.waiting.take().or_else(|| self.encode_chunk()) else {
                return Ok(());
            };
            if !self.workers.offer(self.task, count, &self.input[..length])? {
                self.waiting = Some((count, length));
                return Ok(());
            }
        }
        Ok(())
    }

    /// Takes the items of a chunk; `None` if there are no more.
    fn encode_chunk(&mut self) -> Option<(u32, usize)> {
        let items = self.items.as_mut()?;
        let (mut count, mut length) = (0, 0);
        while count < self.size && length < INPUT {
            let Some(item) = items.next() else {
                self.items = None;
                break;
            };
            match encode(&item, &mut self.input, length) {
                Ok(end) => length = end,
                Err(error) => {
                    self.failure = Some(carry::<I::Item>("an item", &error));
                    self.items = None;
                    break;
                }
            }
            count += 1;
        }
        (count > 0).then_some((count, length))
    }

    /// Takes note of a chunk that was run.
    fn take(&mut self, finished: Finished) {
        let Finished { results, count, took } = finished;
        let each = (took.as_nanos() / u128::from(count.max(1))).max(1);
        let ideal = (AIM.as_nanos() / each).clamp(1, MOST_ITEMS.into()) as u32;
        // At most twice as many as were tried, so that one that was quick by chance does not decide.
        self.size = ideal.min((self.size).max(count).saturating_mul(2)).max(1);
        self.done += u64::from(count);
        // First: the callback may panic, and whoever catches that asks for these next.
        self.current = Some(results);
        if let Some(progress) = &mut self.progress {
            progress(Progress {
                done: self.done,
                total: self.total,
            });
        }
    }

    /// The next chunk of results; `None` behind the last.
    fn next_chunk(&mut self) -> Result<bool> {
        check_not_in_atomic()?;
        self.workers.check_own()?;
        loop {
            // What rings from here on is heard below.
            self.bell.silence();
            self.workers.tend()?;
            self.feed()?;
            match self.workers.front(self.task)? {
                Front::Finished(finished) => {
                    self.take(finished);
                    // Before its results are looked at, so that the workers have something to do meanwhile.
                    if let Err(error) = self.feed() {
                        self.failure = Some(error);
                        (self.items, self.waiting) = (None, None);
                    }
                    return Ok(true);
                }
                Front::Nothing if self.waiting.is_none() && self.items.is_none() => return Ok(false),
                Front::Nothing | Front::Pending => self.workers.wait(&self.bell, self.tell_signals)?,
            }
        }
    }

    #[inline]
    fn decode(status: u32, bytes: &[u8]) -> Result<R> {
        if status == VALUE {
            from_bytes("the result", bytes)
        } else {
            Err(failure(status, bytes))
        }
    }
}

#[cold]
fn failure(status: u32, bytes: &[u8]) -> Error {
    match (status, bytes.as_chunks::<4>().0) {
        (FAILED, _) => match from_bytes("the error of a worker", bytes) {
            Ok(error) => Error::Remote(Box::new(error)),
            Err(error) => error,
        },
        (LOST, [code, pid, ..]) => Error::ProcessWait {
            exit_code: i32::from_le_bytes(*code),
            pid: u32::from_le_bytes(*pid),
            source: None,
        },
        _ => Error::Process {
            reason: format!("a worker has written a result of an unknown kind ({status})"),
        },
    }
}

impl<I: Iterator, R> Iterator for MapResults<'_, I, R>
where
    I::Item: Serialize,
    R: DeserializeOwned,
{
    type Item = Result<R>;

    #[inline]
    fn next(&mut self) -> Option<Result<R>> {
        loop {
            if let Some(results) = &mut self.current
                && let Some((status, bytes)) = results.next()
            {
                return Some(Self::decode(status, bytes));
            }
            self.current = None;
            if self.over {
                return None;
            }
            match self.next_chunk() {
                Ok(true) => {}
                Ok(false) => {
                    self.over = true;
                    return self.failure.take().map(Err);
                }
                // Of a wait, and not of the task, which goes on.
                Err(error @ Error::Signal { .. }) => return Some(Err(error)),
                Err(error) => {
                    self.over = true;
                    self.items = None;
                    self.workers.abandon(self.task);
                    return Some(Err(error));
                }
            }
        }
    }
}

impl<I: Iterator, R> FusedIterator for MapResults<'_, I, R>
where
    I::Item: Serialize,
    R: DeserializeOwned,
{
}

impl<I: Iterator, R> Drop for MapResults<'_, I, R> {
    fn drop(&mut self) {
        self.workers.abandon(self.task);
    }
}

impl<I: Iterator, R> fmt::Debug for MapResults<'_, I, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MapResults")
            .field("task", &self.task)
            .field("done", &self.done)
            .field("total", &self.total)
            .finish_non_exhaustive()
    }
}
