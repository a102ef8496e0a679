//! The phases that a process goes through, as its parent sees them.
//!
//! ```text
//! deferred ── start ──▶ running ── it ended ──▶ ended
//!                        ▲   │ killed, and to be restarted
//!                        └── resting
//! ```
//!
//! One that is still deferred when its context ends is closed: it cannot be started any more.
//!
//! Nobody watches a process that nobody asks about: whoever waits polls its pidfd, and whoever finds that it has ended
//! reaps it, reads the outcome and moves it on ([`Supervised::settle`]). One that is to be restarted, and one that is a
//! thread, has a thread that does so (the *keeper*), and an eventfd that becomes readable at the end, for those who wait.
//!
//! The lock of the phase is never held while somebody waits.

use std::any::TypeId;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::panic::catch_unwind;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::eventfd::EventFd;
use nix::sys::signal::Signal;
use shm_state::Deadline;
use zproc_spawn::exit::{self, Exit};
use zproc_spawn::signal;
use zproc_spawn::spawn::{self, Child};

use super::builder::Launch;
use super::child::{self, Home};
use super::job::{Job, Order, Stage};
use super::settings::{Backend, ProcessSettings};
use crate::error::{Error, Result};
use crate::os::{self, failed};
use crate::remote::RemoteError;
use crate::trail::Trail;

/// A child that has not come to `init` after so long is given up.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often a child on its way there is looked at. Time that passes between two looks counts twice that at most, so that
/// time in which the whole machine stands still does not count.
const LOOK: Duration = Duration::from_millis(100);
/// How long a wait for another child lasts until it begins anew.
const LONG: Duration = Duration::from_secs(60);

/// A process, shared by its handles and its context.
pub(crate) struct Supervised {
    launch: Launch,
    /// The process whose child it is.
    owner: u32,
    phase: Mutex<Phase>,
    /// For the keeper, who rests between a death and a restart.
    stopping: Condvar,
    /// Whether there is a keeper.
    is_kept: bool,
    /// What it takes to have one, until it has ended.
    kept: Mutex<Option<Arc<Kept>>>,
}

struct Kept {
    /// Readable once it has ended.
    end: EventFd,
    /// Where it notes how far it has got, if it is to be restarted.
    trail: Option<Trail>,
}

enum Phase {
    Deferred,
    /// Its context has ended before it was started.
    Closed,
    Running(Arc<Run>),
    /// A thread runs the target.
    Thread,
    /// It died, and will be started again unless it is stopped.
    Resting {
        pid: u32,
        exit_code: i32,
        /// How often it was started again, or that failed, and how often in a row.
        restarts: (u32, u32),
    },
    Ended(Arc<Ended>),
}

/// One run of a child.
pub(crate) struct Run {
    child: Child,
    job: Job,
    begun: Instant,
    /// How often the process was restarted before, and how often in a row.
    restarts: (u32, u32),
    stopped: AtomicBool,
    /// It was seen to have come to `init`.
    arrived: AtomicBool,
    /// When it was looked at last, and how much time has passed until then.
    way: Mutex<(Instant, Duration)>,
}

/// How it ended.
pub(crate) struct Ended {
    pub(crate) exit_code: i32,
    pub(crate) pid: u32,
    /// The value; or the failure, if there was a word of it.
    pub(crate) value: Result<Vec<u8>, Option<Box<RemoteError>>>,
    /// Whether it came to `init`.
    pub(crate) began: bool,
}

impl Supervised {
    pub(crate) fn new(launch: Launch) -> Result<Arc<Self>> {
        let settings = &launch.settings;
        let is_thread = settings.backend_or_default() == Backend::Thread;
        let is_kept = settings.restart_for.is_some() || is_thread;
        let kept = match is_kept {
            true => Some(Arc::new(Kept {
                end: os::event_fd()?,
                trail: match is_thread {
                    false => Some(Trail::create().map_err(|source| failed("making the trail of a process", source))?),
                    true => None,
                },
            })),
            false => None,
        };
        Ok(Arc::new(Self {
            launch,
            owner: std::process::id(),
            phase: Mutex::new(Phase::Deferred),
            stopping: Condvar::new(),
            is_kept,
            kept: Mutex::new(kept),
        }))
    }

    pub(crate) fn name(&self) -> &str {
        &self.launch.name
    }

    pub(crate) fn namespace(&self) -> &str {
        self.launch.namespace()
    }

    pub(crate) fn returns<T: 'static>(&self) -> bool {
        self.launch.output.0 == TypeId::of::<T>()
    }

    pub(crate) fn output_name(&self) -> &'static str {
        self.launch.output.1
    }

    fn kept(&self) -> Option<Arc<Kept>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn phase(&self) -> MutexGuard<'_, Phase> {
        self.phase.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn start(self: &Arc<Self>) -> Result<u32> {
        let mut phase = self.phase();
        match *phase {
            Phase::Deferred => {}
            Phase::Closed => return Err(Error::Closed),
            _ => {
                return Err(Error::Process {
                    reason: format!("{} was started already: a process can be started once", self.name()),
                });
            }
        }
        let order = self.order(false)?;
        if self.launch.settings.backend_or_default() == Backend::Thread {
            let home = Home::in_thread(order.state.clone(), order.state.open_beside(&self.launch.state)?);
            let keeper = Arc::clone(self);
            let thread = std::thread::Builder::new().name("zproc-thread".into());
            let thread = thread.spawn(move || keeper.run_here(&order, &home));
            thread.map_err(|source| failed("starting a thread", source))?;
            *phase = Phase::Thread;
            return Ok(std::process::id());
        }
        if self.launch.settings.restart_for.is_some() {
            // Before there is a child, which nobody would keep. It waits for the phase, and ends if that is still `Deferred`.
            let keeper = Arc::clone(self);
            os::quiet_thread("zproc-keeper", move || keeper.keep())?;
        }
        let run = self.launch_child(&order, (0, 0))?;
        let pid = run.child.pid;
        *phase = Phase::Running(run);
        Ok(pid)
    }

    /// What a child is to do: from now on, or from where the last one had got to.
    fn order(&self, again: bool) -> Result<Order> {
        let mut order = self.launch.order()?;
        if let Some(kept) = self.kept()
            && let Some(trail) = &kept.trail
        {
            order.trail = Some(trail.as_fd().as_raw_fd());
            let now = order.state.since();
            match again {
                false => trail.reset(now),
                true => {
                    // Whatever a broken process has noted: not beyond what there is.
                    order.state.set_since(trail.cursor().min(now));
                    order.state.set_identity(trail.identity());
                }
            }
        }
        Ok(order)
    }

    fn launch_child(&self, order: &Order, restarts: (u32, u32)) -> Result<Arc<Run>> {
        let job = Job::create(order)?;
        let memory = self.launch.memory()?;
        let kept = self.kept();
        let mut keep: Vec<BorrowedFd<'_>> = memory.into_iter().collect();
        keep.extend(self.launch.fds.iter().map(AsFd::as_fd));
        keep.extend(kept.iter().filter_map(|kept| kept.trail.as_ref()).map(AsFd::as_fd));
        let child = spawn::spawn(&spawn::Order {
            job: job.as_fd(),
            keep: &keep,
            tied: self.launch.tied,
            // Until it has come to trap them: it would be ended by what it is to try again after.
            blocked: signal::set(self.launch.settings.retried_signals()),
        });
        let child = child.map_err(|source| failed("starting a process", source))?;
        Ok(Arc::new(Run {
            child,
            job,
            begun: Instant::now(),
            restarts,
            stopped: false.into(),
            arrived: false.into(),
            way: Mutex::new((Instant::now(), Duration::ZERO)),
        }))
    }

    /// The life of a thread that stands for a process.
    fn run_here(&self, order: &Order, home: &Home) {
        let done = child::run(order, home);
        let value = match done.outcome {
            Some(outcome) => outcome.map_err(Some),
            None => Err(None),
        };
        let ended = Ended {
            exit_code: done.code,
            pid: std::process::id(),
            value,
            began: true,
        };
        self.end(&mut self.phase(), ended);
    }

    fn end(&self, phase: &mut Phase, ended: Ended) -> Arc<Ended> {
        let ended = Arc::new(ended);
        *phase = Phase::Ended(Arc::clone(&ended));
        self.stopping.notify_all();
        // Those who wait have their own reference, so it is closed behind the last of them.
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(kept) = kept {
            os::ring(&kept.end);
        }
        ended
    }

    /// The life of the thread that restarts it.
    fn keep(&self) {
        loop {
            let run = match &*self.phase() {
                Phase::Running(run) => Arc::clone(run),
                _ => return,
            };
            let pidfd = run.child.pidfd.as_fd();
            if os::wait_readable(&[pidfd], Deadline::after(run.slice()), false).is_err() {
                // As when memory is short: nobody else would look.
                std::thread::sleep(LOOK);
            }
            run.look();
            let mut phase = self.phase();
            let delay = match &*phase {
                Phase::Running(running) if Arc::ptr_eq(running, &run) => match self.settle(&mut phase) {
                    Some(delay) => delay,
                    None => continue,
                },
                _ => return,
            };
            let Some(delay) = delay else { continue };
            let mut phase = self.tell_of_death(phase, delay);
            let (mut delay, mut failures) = (delay, 0u32);
            loop {
                if !self.rest(phase, delay) {
                    return;
                }
                let Err(error) = self.restart() else { break };
                failures = failures.saturating_add(1);
                phase = self.phase();
                match self.next_try(&mut phase, failures, &error) {
                    Some(next) => delay = next,
                    None => return,
                }
            }
        }
    }

    /// After a restart that failed, as for want of memory: counts it as a death. The time until the next try; `None` if it
    /// is given up, or was stopped.
    fn next_try(&self, phase: &mut Phase, failures: u32, error: &Error) -> Option<Duration> {
        let Phase::Resting {
            pid,
            exit_code,
            restarts,
        } = phase
        else {
            return None;
        };
        *restarts = (restarts.0.saturating_add(1), restarts.1.saturating_add(1));
        let next = self.launch.settings.next_restart(-*exit_code, restarts.0, restarts.1);
        if next.is_none() {
            let text = format!("it could not be restarted, {failures} times in a row: {error}");
            let ended = Ended {
                exit_code: *exit_code,
                pid: *pid,
                value: Err(Some(Box::new(RemoteError::of_process(text)))),
                began: true,
            };
            self.end(phase, ended);
        }
        next
    }

    /// Tells those who listen, without the lock, that the process died. If one of them panics, that is theirs.
    fn tell_of_death<'s>(&'s self, phase: MutexGuard<'s, Phase>, delay: Duration) -> MutexGuard<'s, Phase> {
        if let Phase::Resting { pid, exit_code, .. } = *phase {
            drop(phase);
            let (process, signal) = (self.name(), -exit_code);
            let _ = catch_unwind(|| {
                tracing::warn!(target: "zproc", process, pid, signal, ?delay, "a process died and will be restarted");
            });
            return self.phase();
        }
        phase
    }

    /// Waits, unless it is stopped meanwhile.
    fn rest(&self, phase: MutexGuard<'_, Phase>, delay: Duration) -> bool {
        let until = Instant::now() + delay;
        let mut phase = phase;
        while matches!(*phase, Phase::Resting { .. }) {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return true;
            }
            let waited = self.stopping.wait_timeout(phase, left);
            phase = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        false
    }

    fn restart(&self) -> Result<()> {
        let order = self.order(true)?;
        let mut phase = self.phase();
        if let Phase::Resting { restarts, .. } = *phase {
            let restarts = (restarts.0.saturating_add(1), restarts.1.saturating_add(1));
            *phase = Phase::Running(self.launch_child(&order, restarts)?);
        }
        Ok(())
    }

    /// If it has ended: reaps it, reads the outcome, and moves it on. Tells the time until a restart if there is to be one,
    /// and whether it has ended for good by `Some(None)`; `None` if it runs.
    fn settle(&self, phase: &mut Phase) -> Option<Option<Duration>> {
        let Phase::Running(run) = phase else { return Some(None) };
        if !exit::has_ended(&run.child) {
            return None;
        }
        let run = Arc::clone(run);
        let pid = run.child.pid;
        let exit = exit::reap(&run.child).unwrap_or(Exit::Unknown);
        let outcome = run.job.outcome().ok().flatten();
        let exit_code = match (exit, &outcome) {
            (Exit::Code(code), _) => code,
            (Exit::Signal(signal), _) => -signal,
            // Somebody else has taken it: the outcome says.
            (Exit::Unknown, Some(Ok(_))) => 0,
            (Exit::Unknown, _) => 1,
        };
        let stopped = run.stopped.load(Ordering::Relaxed);
        let (restarts, in_a_row) = run.restarts;
        let in_a_row = ProcessSettings::restarts_in_a_row(in_a_row, run.begun.elapsed());
        if let Exit::Signal(signal) = exit
            && !stopped
            && let Some(delay) = self.launch.settings.next_restart(signal, restarts, in_a_row)
        {
            *phase = Phase::Resting {
                pid,
                exit_code,
                restarts: (restarts, in_a_row),
            };
            return Some(Some(delay));
        }
        let value = match outcome {
            Some(Ok(value)) if exit_code == 0 => Ok(value),
            Some(Ok(_)) => Err(None),
            Some(Err(failure)) => Err(Some(failure)),
            None => Err(run
                .why_without_a_word(stopped)
                .map(|text| Box::new(RemoteError::of_process(text)))),
        };
        let began = run.job.stage() == Stage::Reached;
        self.end(
            phase,
            Ended {
                exit_code,
                pid,
                value,
                began,
            },
        );
        Some(None)
    }

    pub(crate) fn wait(&self, deadline: Deadline, tell_signals: bool) -> Result<Arc<Ended>> {
        if !self.is_own() {
            return Err(Error::Forked);
        }
        let mut last = false;
        loop {
            let run = {
                let mut phase = self.phase();
                if self.is_mine_to_settle() {
                    self.settle(&mut phase);
                }
                match &*phase {
                    Phase::Ended(ended) => return Ok(Arc::clone(ended)),
                    Phase::Deferred => {
                        return Err(Error::Process {
                            reason: format!("{} was not started: call start first", self.name()),
                        });
                    }
                    Phase::Closed => return Err(Error::Closed),
                    Phase::Running(run) => Some(Arc::clone(run)),
                    Phase::Thread | Phase::Resting { .. } => None,
                }
            };
            if last {
                return Err(Error::Timeout);
            }
            let kept = self.kept();
            let fd = match (&kept, &run) {
                (Some(kept), _) => kept.end.as_fd(),
                (None, Some(run)) => run.child.pidfd.as_fd(),
                (None, None) => continue,
            };
            let look = deadline.sooner_of(run.as_ref().map_or(LONG, |run| run.slice()));
            if !os::wait_readable(&[fd], look, tell_signals)? && deadline.passed() {
                last = true;
            }
            if let Some(run) = &run {
                run.look();
            }
        }
    }

    /// A descriptor that is readable once the child has ended.
    pub(crate) fn running(&self) -> Option<Arc<Run>> {
        match &*self.phase() {
            Phase::Running(run) => Some(Arc::clone(run)),
            _ => None,
        }
    }

    /// Whether those who wait move it on, or a keeper does.
    fn is_mine_to_settle(&self) -> bool {
        !self.is_kept
    }

    pub(crate) fn stop(&self) -> Result<i32> {
        let grace = Deadline::after(self.grace());
        self.ask_to_stop();
        self.finish_stop(grace)
    }

    /// The first half of [`Supervised::stop`].
    pub(crate) fn ask_to_stop(&self) {
        if !self.is_own() {
            return;
        }
        let mut phase = self.phase();
        match &*phase {
            Phase::Running(run) => {
                if !run.stopped.swap(true, Ordering::Relaxed) {
                    let _ = exit::send(&run.child, Signal::SIGTERM);
                }
            }
            Phase::Resting { pid, exit_code, .. } => {
                let (pid, exit_code) = (*pid, *exit_code);
                self.end(
                    &mut phase,
                    Ended {
                        exit_code,
                        pid,
                        value: Err(None),
                        began: true,
                    },
                );
            }
            Phase::Deferred | Phase::Closed | Phase::Thread | Phase::Ended(_) => {}
        }
    }

    /// The second half of [`Supervised::stop`].
    pub(crate) fn finish_stop(&self, grace: Deadline) -> Result<i32> {
        // Once more, in case that it was not started before.
        self.ask_to_stop();
        match self.wait(grace, false) {
            Ok(ended) => return Ok(ended.exit_code),
            Err(Error::Timeout) => {}
            Err(error) => return Err(error),
        }
        if matches!(*self.phase(), Phase::Thread) {
            return Err(Error::Process {
                reason: format!(
                    "{} is a thread, which cannot be killed: have it end by itself",
                    self.name()
                ),
            });
        }
        self.kill();
        // The kernel ends it, however busy the machine is.
        Ok(self.wait(Deadline::never(), false)?.exit_code)
    }

    fn kill(&self) {
        if let Phase::Running(run) = &*self.phase() {
            let _ = exit::send(&run.child, Signal::SIGKILL);
        }
    }

    /// Whether it is a child of this process, and not of the one that this was forked from.
    pub(crate) fn is_own(&self) -> bool {
        self.owner == std::process::id()
    }

    /// How long it has to end by itself when it is stopped.
    pub(crate) fn grace(&self) -> Duration {
        self.launch.settings.grace()
    }

    /// Whether it was started.
    pub(crate) fn is_started(&self) -> bool {
        !matches!(*self.phase(), Phase::Deferred | Phase::Closed)
    }

    /// Has it never be started, if it was not.
    pub(crate) fn close(&self) {
        let mut phase = self.phase();
        if matches!(*phase, Phase::Deferred) {
            *phase = Phase::Closed;
        }
    }

    pub(crate) fn is_alive(&self) -> bool {
        let mut phase = self.phase();
        if self.is_mine_to_settle() {
            self.settle(&mut phase);
        }
        match &*phase {
            Phase::Running(run) => !self.is_over(run),
            Phase::Thread | Phase::Resting { .. } => true,
            Phase::Deferred | Phase::Closed | Phase::Ended(_) => false,
        }
    }

    /// Whether a process with a keeper has ended, which has not got to it yet, and will not be restarted.
    fn is_over(&self, run: &Run) -> bool {
        exit::has_ended(&run.child) && run.stopped.load(Ordering::Relaxed)
    }

    pub(crate) fn pid(&self) -> Option<u32> {
        match &*self.phase() {
            Phase::Deferred | Phase::Closed => None,
            Phase::Running(run) => Some(run.child.pid),
            Phase::Thread => Some(std::process::id()),
            Phase::Resting { pid, .. } => Some(*pid),
            Phase::Ended(ended) => Some(ended.pid),
        }
    }

    pub(crate) fn exit_code(&self) -> Option<i32> {
        self.ended().map(|ended| ended.exit_code)
    }

    /// How it has ended, if it has.
    pub(crate) fn ended(&self) -> Option<Arc<Ended>> {
        let mut phase = self.phase();
        if self.is_mine_to_settle() {
            self.settle(&mut phase);
        }
        match &*phase {
            Phase::Ended(ended) => Some(Arc::clone(ended)),
            _ => None,
        }
    }

    /// Lets a process that outlives its context be collected when it ends.
    pub(crate) fn let_go(self: &Arc<Self>) {
        if self.is_mine_to_settle() && self.is_alive() {
            let this = Arc::clone(self);
            let _ = os::quiet_thread("zproc-reaper", move || drop(this.wait(Deadline::never(), false)));
        }
    }
}

impl AsFd for Run {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.child.pidfd.as_fd()
    }
}

impl Run {
    /// How long to wait before the next look at it.
    pub(crate) fn slice(&self) -> Duration {
        if self.is_on_its_way() { LOOK } else { LONG }
    }

    /// Takes note of time that has passed, and ends a child that does not come to `init`.
    pub(crate) fn look(&self) {
        if self.is_on_its_way() && self.passed(true) >= PATIENCE {
            let _ = exit::send(&self.child, Signal::SIGKILL);
        }
    }

    /// Whether it has not come to `init` yet. That it has is read once.
    fn is_on_its_way(&self) -> bool {
        let is = !self.arrived.load(Ordering::Relaxed) && self.job.stage() == Stage::Started;
        self.arrived.store(!is, Ordering::Relaxed);
        is
    }

    /// How much time has passed, until now or until the last look.
    fn passed(&self, until_now: bool) -> Duration {
        let mut way = self.way.lock().unwrap_or_else(PoisonError::into_inner);
        if until_now {
            let now = Instant::now();
            let passed = now.duration_since(way.0).min(2 * LOOK);
            *way = (now, way.1 + passed);
        }
        way.1
    }

    /// Why a child ended that wrote no outcome, if that is known.
    fn why_without_a_word(&self, stopped: bool) -> Option<String> {
        match self.job.stage() {
            Stage::Reached => None,
            Stage::Forgot => {
                Some("it came to Context::new without zproc::init(): make that the first statement of main".into())
            }
            Stage::Started if stopped => None,
            Stage::Started if self.passed(false) >= PATIENCE => Some(
                "it did not come to zproc::init() within 5 s, and was ended: make it the first statement of main"
                    .into(),
            ),
            Stage::Started => {
                Some("it ended before it came to zproc::init(): make that the first statement of main".into())
            }
        }
    }
}

/// A process that nobody can ask about any more does not outlive its last handle, unless it is meant to.
impl Drop for Supervised {
    fn drop(&mut self) {
        let is_ours = self.launch.tied && self.is_own();
        let phase = self.phase.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Phase::Running(run) = phase
            && is_ours
        {
            let _ = exit::send(&run.child, Signal::SIGKILL);
            let _ = exit::reap(&run.child);
        }
    }
}
