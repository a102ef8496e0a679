//! The workers of a context, as their parent has them: how many there are, what they are at, and who has died.
//!
//! Tasks share the workers and the slots. Each task has a queue of its chunks in order, which are in a slot until they are
//! collected. If slots run out, those of other tasks that are done are collected for them, so that a task whose results
//! nobody takes yet is in nobody's way.
//!
//! Nobody watches the workers in between: whoever waits for results polls their pidfds beside the eventfd that they write
//! to, and deals with what has happened ([`Workers::tend`]). The lock is never held while somebody waits.

use std::any::TypeId;
use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::sys::memfd::{MFdFlags, memfd_create};
use shm_state::Deadline;
use zproc_spawn::entry;
use zproc_spawn::shared::Shared;
use zproc_spawn::signal::{self, Bell};

use super::ring::{LENGTH, MOST_WORKERS, Orders, PLACES, Results, Ring, SLOTS};
use super::worker::{RunWorker, TaskOrders, Worker};
use crate::error::{Error, Result};
use crate::os::{self, failed};
use crate::process::{Backend, Ended, Launch, ProcessSettings, Supervised, Targets, to_bytes};
use crate::state::State;

/// The workers of a context.
pub(crate) struct Workers {
    /// The process whose children they are.
    owner: u32,
    base: Arc<State>,
    defaults: ProcessSettings,
    pool: Mutex<Pool>,
}

#[derive(Default)]
struct Pool {
    /// There once there are workers.
    shared: Option<Common>,
    members: Vec<Member>,
    /// How many workers there are to be.
    wanted: usize,
    next_worker: u32,
    next_task: u32,
    next_order: u64,
    tasks: HashMap<u32, Queue>,
    free: Vec<usize>,
    /// Deaths of workers that were at no chunk, since anything was achieved.
    barren: usize,
    closed: bool,
}

/// What all workers have.
struct Common {
    ring: Ring,
    news: OwnedFd,
    /// For workers to inherit.
    fds: Vec<Arc<OwnedFd>>,
}

struct Member {
    id: u32,
    place: usize,
    process: Arc<Supervised>,
    retired: bool,
}

struct Queue {
    orders: Orders,
    chunks: VecDeque<Chunk>,
    /// Nobody takes its results any more.
    abandoned: bool,
    /// Deaths of workers that were at one of its chunks, since anything of it was achieved.
    barren: usize,
    /// The last of them, once there were too many. No worker is given anything of it any more.
    failed: Option<Arc<Ended>>,
}

enum Chunk {
    InSlot(usize),
    /// It was collected, which may have failed.
    Done(Result<Finished>),
}

impl Queue {
    /// Whether workers may be given its chunks.
    fn is_alive(&self) -> bool {
        !self.abandoned && self.failed.is_none()
    }
}

/// A chunk that was run.
pub(super) struct Finished {
    pub(super) results: Results,
    pub(super) count: u32,
    pub(super) took: Duration,
}

/// What is at the front of a task's queue.
pub(super) enum Front {
    Finished(Finished),
    Pending,
    Nothing,
}

/// Chunks of a task that are on their way: four for each worker and four, or so many.
const MOST_NEAR: usize = SLOTS * 3 / 4;
const _: () = assert!(MOST_NEAR >= 2 * MOST_WORKERS && MOST_NEAR + MOST_BEHIND < SLOTS);
/// Chunks more, which are done, while the first one is not. As they take about as long, that is how long an item may take
/// beside the others until they wait for it.
const MOST_BEHIND: usize = 128;
/// How long a wait for workers lasts until it begins anew.
const LONGEST_WAIT: Duration = Duration::from_secs(1);
/// So many deaths in a row without any result, and for each worker, end a task: something is wrong with it, or with all
/// workers if they were not at it.
const MOST_BARREN: usize = 3;

impl Workers {
    pub(crate) fn new(base: Arc<State>, defaults: ProcessSettings) -> Arc<Self> {
        Arc::new(Self {
            owner: std::process::id(),
            base,
            defaults,
            pool: Mutex::default(),
        })
    }

    fn pool(&self) -> MutexGuard<'_, Pool> {
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Fails in a fork, which has a copy of all this and the same slots.
    pub(super) fn check_own(&self) -> Result<()> {
        match self.owner == std::process::id() {
            true => Ok(()),
            false => Err(Error::Forked),
        }
    }

    /// The processes of the workers.
    pub(crate) fn processes(&self) -> Vec<Arc<Supervised>> {
        self.pool()
            .members
            .iter()
            .map(|member| Arc::clone(&member.process))
            .collect()
    }

    /// Begins a task with so many workers; with that many new ones if `new`.
    pub(super) fn begin(&self, orders: &TaskOrders, count: usize, new: bool) -> Result<u32> {
        self.check_own()?;
        let bytes = to_bytes("the orders of a task", orders)?;
        let mut pool = self.pool();
        if pool.closed {
            return Err(Error::Closed);
        }
        self.tend_locked(&mut pool)?;
        let (alive, before) = (pool.alive(), pool.wanted);
        let is_alone = !pool.tasks.values().any(Queue::is_alive);
        pool.wanted = match (new, is_alone) {
            (true, false) => alive + count,
            (false, false) => alive.max(count),
            (_, true) => count,
        };
        if pool.wanted > MOST_WORKERS {
            let reason = format!(
                "{} workers were asked for: a context has {MOST_WORKERS} at most",
                pool.wanted
            );
            pool.wanted = before;
            return Err(Error::Process { reason });
        }
        if new && is_alone {
            pool.retire(alive);
        }
        if let Err(error) = self.adjust(&mut pool) {
            // The tasks that there are go on with those that they have.
            pool.wanted = before;
            return Err(error);
        }
        let pool = &mut *pool;
        let common = pool.common()?;
        let at = common
            .ring
            .put_large(&bytes)
            .map_err(|source| failed("writing the orders of a task", source))?;
        pool.next_task = pool.next_task.wrapping_add(1);
        let queue = Queue {
            orders: Orders {
                task: pool.next_task,
                at,
                length: bytes.len() as u64,
            },
            chunks: VecDeque::new(),
            abandoned: false,
            barren: 0,
            failed: None,
        };
        pool.tasks.insert(pool.next_task, queue);
        Ok(pool.next_task)
    }

    /// Something that rings when a worker has finished a chunk.
    pub(super) fn bell(&self) -> Result<Bell> {
        let mut pool = self.pool();
        let bell = Bell::of(pool.common()?.news.as_fd());
        bell.map_err(|source| failed("making an epoll", source))
    }

    /// Whether a task may have another chunk on its way.
    pub(super) fn has_room(&self, task: u32) -> bool {
        let mut pool = self.pool();
        let workers = pool.alive();
        let (Some(common), Some(queue)) = (&pool.shared, pool.tasks.get(&task)) else {
            return false;
        };
        let near = (4 * workers + 4).min(MOST_NEAR);
        let is_undone = |chunk: &&Chunk| matches!(chunk, Chunk::InSlot(slot) if !common.ring.is_done(*slot));
        let within = queue.chunks.len() < near
            // Those behind a slow one are done. They are not to idle the workers, and not to fill the memory.
            || queue.chunks.front().as_ref().is_some_and(is_undone)
                && queue.chunks.len() < near + MOST_BEHIND
                && queue.chunks.iter().filter(is_undone).count() < 2 * workers;
        within && pool.find_slot(task).is_some()
    }

    /// Hands a chunk to the workers; false if there is no slot for it yet.
    pub(super) fn offer(&self, task: u32, count: u32, input: &[u8]) -> Result<bool> {
        let mut pool = self.pool();
        if pool.closed {
            return Err(Error::Closed);
        }
        if pool.tasks.get(&task).is_some_and(|queue| queue.failed.is_some()) {
            // Whoever takes the results is told.
            return Ok(false);
        }
        let Some(slot) = pool.find_slot(task) else {
            return Ok(false);
        };
        let pool = &mut *pool;
        let (Some(common), Some(queue)) = (&pool.shared, pool.tasks.get_mut(&task)) else {
            return Err(Error::Closed);
        };
        let posted = common.ring.post(slot, queue.orders, pool.next_order, count, input);
        posted.map_err(|source| failed("handing items to workers", source))?;
        pool.free.retain(|free| *free != slot);
        pool.next_order += 1;
        queue.chunks.push_back(Chunk::InSlot(slot));
        Ok(true)
    }

    /// Takes what is at the front of a task's queue, if it is done.
    pub(super) fn front(&self, task: u32) -> Result<Front> {
        let mut pool = self.pool();
        if pool.closed {
            return Err(Error::Closed);
        }
        let pool = &mut *pool;
        let (Some(common), Some(queue)) = (&pool.shared, pool.tasks.get_mut(&task)) else {
            return Ok(Front::Nothing);
        };
        if let Some(ended) = &queue.failed {
            return Err(died(ended));
        }
        let slot = match queue.chunks.front() {
            None => return Ok(Front::Nothing),
            Some(Chunk::InSlot(slot)) if !common.ring.is_done(*slot) => return Ok(Front::Pending),
            Some(Chunk::InSlot(slot)) => Some(*slot),
            Some(Chunk::Done(_)) => None,
        };
        let finished = match (slot, queue.chunks.pop_front()) {
            (None, Some(Chunk::Done(finished))) => finished?,
            (Some(slot), _) => {
                let collected = collect(&common.ring, slot);
                pool.free.push(slot);
                collected?
            }
            _ => return Ok(Front::Nothing),
        };
        (queue.barren, pool.barren) = (0, 0);
        Ok(Front::Finished(finished))
    }

    /// Deals with workers that have ended.
    pub(super) fn tend(&self) -> Result<()> {
        self.tend_locked(&mut self.pool())
    }

    fn tend_locked(&self, pool: &mut Pool) -> Result<()> {
        let (gone, left): (Vec<_>, Vec<_>) = std::mem::take(&mut pool.members)
            .into_iter()
            .map(|member| (member.process.ended(), member))
            .partition(|(ended, _)| ended.is_some());
        pool.members = left.into_iter().map(|(_, member)| member).collect();
        let mut last = None;
        let limit = MOST_BARREN * (pool.wanted + 1);
        for (ended, member) in gone {
            let Some(ended) = ended else { continue };
            let mut last_words = [0; 16];
            last_words[..4].copy_from_slice(&ended.exit_code.to_le_bytes());
            last_words[4..8].copy_from_slice(&ended.pid.to_le_bytes());
            let mut left = Vec::new();
            if let Some(common) = &pool.shared {
                left = common.ring.bury(member.id, &last_words);
                // Who else waits has to look, too.
                signal::ring(common.news.as_fd());
            }
            if left.iter().any(|left| left.achieved) {
                pool.barren = 0;
            }
            if left.is_empty() && !member.retired {
                // One that did not even come to `init` says as much as a death of each: others will not do better.
                pool.barren += if ended.began { 1 } else { pool.wanted + 1 };
                last = Some(Arc::clone(&ended));
            }
            for left in left {
                let Some(queue) = pool.tasks.get_mut(&left.task) else {
                    continue;
                };
                queue.barren = if left.achieved { 0 } else { queue.barren + 1 };
                if queue.barren > limit && queue.failed.is_none() {
                    queue.failed = Some(Arc::clone(&ended));
                }
            }
        }
        // Before others are started, which would go on with it.
        pool.sweep();
        if let Some(ended) = last
            && pool.barren > limit
        {
            pool.barren = 0;
            return Err(died(&ended));
        }
        pool.wanted = if pool.closed { 0 } else { pool.wanted };
        if pool.alive() >= pool.wanted {
            return Ok(());
        }
        match self.adjust(pool) {
            // As when descriptors, memory or processes are short for a while. The next look tries again; until then the others
            // do its part.
            Err(error) if pool.alive() > 0 => {
                tracing::warn!(target: "zproc", %error, "a worker could not be replaced yet");
                Ok(())
            }
            adjusted => adjusted,
        }
    }

    /// Starts and retires workers until there are as many as are wanted.
    fn adjust(&self, pool: &mut Pool) -> Result<()> {
        pool.retire(pool.alive().saturating_sub(pool.wanted));
        while pool.alive() < pool.wanted {
            let place = (0..PLACES)
                .find(|place| pool.members.iter().all(|member| member.place != *place))
                .ok_or_else(|| Error::Process {
                    reason: "too many workers are still at their last chunk: wait for results first".into(),
                })?;
            // Their number stands beside the state of a slot in one word.
            pool.next_worker = (pool.next_worker + 1) & (u32::MAX >> 2);
            let id = pool.next_worker;
            let fds = {
                let common = pool.common()?;
                common.ring.retire(place, false);
                common.fds.clone()
            };
            let process = self.start_worker(id, place, fds)?;
            pool.members.push(Member {
                id,
                place,
                process,
                retired: false,
            });
        }
        Ok(())
    }

    fn start_worker(&self, id: u32, place: usize, fds: Vec<Arc<OwnedFd>>) -> Result<Arc<Supervised>> {
        let target = entry::locate::<Targets, Worker, RunWorker>(Worker);
        let target = target.map_err(|reason| Error::Target {
            name: "of workers".into(),
            reason,
        })?;
        let settings = ProcessSettings {
            namespace: self.defaults.namespace.clone(),
            stop_grace: self.defaults.stop_grace,
            backend: Some(Backend::Process),
            ..ProcessSettings::default()
        };
        let process = Supervised::new(Launch {
            target,
            name: "zproc::worker".into(),
            args: to_bytes("the number of a worker", &(id, place as u32))?,
            retry_args: None,
            output: (TypeId::of::<()>(), "()"),
            state: Arc::clone(&self.base),
            settings,
            fds,
            tied: true,
        })?;
        process.start()?;
        Ok(process)
    }

    /// Waits until a worker has finished a chunk since the bell was silenced, or has ended; for a second at most. A signal
    /// that is an event ends it, if asked for.
    pub(super) fn wait(&self, bell: &Bell, tell_signals: bool) -> Result<()> {
        let runs: Vec<_> = self
            .processes()
            .iter()
            .filter_map(|process| process.running())
            .collect();
        let fds: Vec<_> = runs.iter().map(|run| run.as_fd()).chain([bell.as_fd()]).collect();
        // One on its way to `init` is looked at more often: it may never come there.
        let slices = runs.iter().map(|run| run.slice());
        let slice = slices.min().unwrap_or(LONGEST_WAIT).min(LONGEST_WAIT);
        os::wait_readable(&fds, Deadline::after(slice), tell_signals)?;
        runs.iter().for_each(|run| run.look());
        Ok(())
    }

    /// Nobody takes the results of a task any more. Somebody does if this is a copy in a fork.
    pub(super) fn abandon(&self, task: u32) {
        if self.check_own().is_err() {
            return;
        }
        let mut pool = self.pool();
        if let Some(queue) = pool.tasks.get_mut(&task) {
            queue.abandoned = true;
            queue.chunks.retain(|chunk| matches!(chunk, Chunk::InSlot(_)));
        }
        pool.sweep();
    }

    /// Ends all workers.
    pub(crate) fn close(&self) -> Result<()> {
        let members = {
            let mut pool = self.pool();
            pool.closed = true;
            pool.wanted = 0;
            if let Some(common) = &pool.shared {
                signal::ring(common.news.as_fd());
            }
            // One that traps SIGTERM, or ignores it, ends by this: at once, or behind its chunk.
            let all = pool.members.len();
            pool.retire(all);
            std::mem::take(&mut pool.members)
        };
        let processes: Vec<_> = members.into_iter().map(|member| member.process).collect();
        let stopped = crate::context::stop_all(&processes).map(drop);
        self.pool().shared = None;
        stopped
    }
}

/// That a task ended because its workers do not live.
fn died(ended: &Ended) -> Error {
    Error::ProcessWait {
        exit_code: ended.exit_code,
        pid: ended.pid,
        source: ended.value.as_ref().err().cloned().flatten(),
    }
}

/// Takes what is in a slot, which is free then in any case.
fn collect(ring: &Ring, slot: usize) -> Result<Finished> {
    let (count, took_ns) = ring.effort(slot);
    let results = ring.collect(slot);
    Ok(Finished {
        results: results.map_err(|source| failed("reading the results of workers", source))?,
        count,
        took: Duration::from_nanos(took_ns),
    })
}

impl Pool {
    fn alive(&self) -> usize {
        self.members.iter().filter(|member| !member.retired).count()
    }

    /// Has so many workers end, the youngest first.
    fn retire(&mut self, count: usize) {
        let Some(common) = &self.shared else { return };
        let youngest = self.members.iter_mut().rev().filter(|member| !member.retired);
        for member in youngest.take(count) {
            member.retired = true;
            common.ring.retire(member.place, true);
        }
    }

    fn common(&mut self) -> Result<&mut Common> {
        if self.shared.is_none() {
            self.shared = Some(Common::new()?);
            // The last is used first, so that no more are used than are needed.
            self.free = (0..SLOTS).rev().collect();
        }
        self.shared.as_mut().ok_or(Error::Closed)
    }

    /// A slot for a task; collects what is done of others if it has to.
    fn find_slot(&mut self, task: u32) -> Option<usize> {
        if self.free.is_empty() {
            self.sweep();
        }
        if self.free.is_empty()
            && let Some(common) = &self.shared
        {
            let others = self.tasks.iter_mut().filter(|(other, _)| **other != task);
            for chunk in others.flat_map(|(_, queue)| &mut queue.chunks) {
                if let Chunk::InSlot(slot) = *chunk
                    && common.ring.is_done(slot)
                {
                    *chunk = Chunk::Done(collect(&common.ring, slot));
                    self.free.push(slot);
                }
            }
        }
        self.free.last().copied()
    }

    /// Frees the slots of tasks that were abandoned, or have failed, as far as no worker is at them, and forgets the abandoned
    /// that have none left.
    fn sweep(&mut self) {
        let Some(common) = &self.shared else { return };
        let free = &mut self.free;
        self.tasks.retain(|_, queue| {
            if queue.is_alive() {
                return true;
            }
            queue.chunks.retain(|chunk| match chunk {
                Chunk::InSlot(slot) if common.ring.withdraw(*slot) => {
                    free.push(*slot);
                    false
                }
                Chunk::InSlot(_) => true,
                Chunk::Done(_) => false,
            });
            let goes = queue.abandoned && queue.chunks.is_empty();
            if goes {
                common.ring.punch_large(queue.orders.at, queue.orders.length);
            }
            !goes
        });
    }
}

impl Common {
    fn new() -> Result<Self> {
        let memory =
            Shared::create("zproc-workers", LENGTH).map_err(|source| failed("making slots for workers", source))?;
        let large = memfd_create("zproc-large", MFdFlags::MFD_CLOEXEC);
        let large = large.map_err(|errno| failed("memfd_create", errno.into()))?;
        let news = signal::event_fd().map_err(|source| failed("making an eventfd", source))?;
        let copy = |fd: std::os::fd::BorrowedFd<'_>| {
            let copy = fd
                .try_clone_to_owned()
                .map_err(|source| failed("copying a descriptor", source));
            copy.map(Arc::new)
        };
        let fds = vec![copy(memory.as_fd())?, copy(large.as_fd())?, copy(news.as_fd())?];
        Ok(Self {
            ring: Ring {
                memory,
                large: File::from(large),
            },
            news,
            fds,
        })
    }
}
