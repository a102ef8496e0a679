//! Who tells of a state that is used over a socket.
//!
//! A thread of its own, with a connection of its own, for each who wants to be told: the server answers one question at a
//! time on a connection, when there is an answer. While somebody wants to be told, the thread has one question out, for the
//! first update behind what was looked at, and asks again every second, so that the history does not go by meanwhile.
//!
//! **At rest.** Who wants nothing for the moment is not waited for: the question that is out goes on, what it finds is
//! remembered, and looked at when somebody wants to be told again. If it is behind the place that was looked at by then, it
//! is told, and else there is the next question. So a look costs no connection. Without a question the thread waits on its
//! connection, to see it end, and on its *wake*, a descriptor that is rung by a new wish and by the end.
//!
//! **The end.** When the state is closed or dropped, which shuts all of its connections down, those who want to be told are
//! told, and the thread ends; so it does when it is not needed any more. One without a connection notices the end of its
//! state after up to a second, and one that is about to connect to a server that is stopped needs the time of all calls.
//!
//! **Loss.** When the connection is lost, those who want to be told are told: they look for themselves, and see what the
//! watcher would say, or that the server is there again; then the next question makes a new connection. If there is none to
//! be had, twice in a row, the server answers, but not here (it may be full): this is told as an error, since who looks and
//! finds nothing would otherwise ask without end. Who goes on after it does not ask at full speed: from the second question
//! without an answer on the thread pauses before the next one, for 10 ms and up to a second.
//!
//! **Order of locks**: that of [`State`] comes first, then those of `notify`. Tasks are woken without any.
//!
//! **Forks.** A child has no such thread, and leaves what it inherited alone.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::Waker;
use std::time::Duration;

use nix::sys::eventfd::EventFd;
use shm_state::{Deadline, Next, SLICE};

use super::Scout;
use crate::canceller::Canceller;
use crate::error::{Error, Result};
use crate::link::Wake;
use crate::notify::{self, Alarm, Registered, Teller};
use crate::os::{self, Interest};
use crate::over_socket::{Line, Remote};

/// So many failures in a row are told as an error, and followed by a pause.
const FAILURES: u32 = 2;
/// The first of these, of which each is twice as long as the one before, up to [`SLICE`].
const PAUSE: Duration = Duration::from_millis(10);
/// How soon in a pause it is noticed that the state was closed.
const PAUSE_SLICE: Duration = Duration::from_millis(50);

/// One who is told.
pub(super) struct Listener {
    shared: Arc<Shared>,
    /// For its canceller and its deadline, of which `notify` tells.
    registered: Registered,
}

/// What the thread knows.
struct Shared {
    remote: Weak<Remote>,
    scout: Scout,
    alarm: Alarm,
    wake: EventFd,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Somebody wants to be told of what comes after this update.
    wish: Option<u64>,
    /// A question is out.
    is_asking: bool,
    /// The update that the last question found.
    found: Option<u64>,
    /// No update up to this one, behind the place of the wish, is what is sought.
    looked: u64,
    /// Questions without an answer, in a row.
    failures: u32,
    /// Those that had no connection, or were refused on one, in a row.
    refusals: u32,
    failure: Option<Error>,
    /// Nobody wants to be told any more.
    is_over: bool,
    /// The thread has ended: the state is closed, or it has panicked.
    has_ended: bool,
}

/// What the thread has to do.
enum Step {
    /// Ask for what comes after this update.
    Ask(u64),
    Rest,
    End,
}

impl Listener {
    /// One who can be told when there is something for `scout` in `remote`, when `canceller` says so, or at a deadline.
    pub(super) fn new(
        remote: Weak<Remote>,
        scout: Scout,
        canceller: Option<Canceller>,
        teller: Teller,
    ) -> Result<Self> {
        let registered = notify::register(None, canceller, teller)?;
        let shared = Arc::new(Shared {
            remote,
            scout,
            alarm: registered.alarm(),
            wake: os::event_fd()?,
            state: Mutex::default(),
        });
        let running = Running(Arc::clone(&shared));
        os::quiet_thread("zproc-listener", move || {
            let running = running;
            running.0.run();
        })?;
        Ok(Self { shared, registered })
    }

    /// As [`Registered::is_current`].
    pub(super) fn is_current(&self) -> bool {
        self.registered.is_current()
    }

    /// The one who looks ahead.
    pub(super) fn scout(&self) -> &Scout {
        &self.shared.scout
    }

    /// Where it looks, unless the state was dropped.
    pub(super) fn remote(&self) -> Option<Arc<Remote>> {
        self.shared.remote.upgrade()
    }

    /// As [`Registered::want`].
    pub(super) fn want(&self, at: u64, deadline: Deadline, cancel_seen: u32, waker: Option<&Waker>) {
        // First: the thread tells only those who are registered.
        self.registered.want(at, deadline, cancel_seen, waker);
        let mut state = self.shared.lock();
        state.wish = Some(at);
        if state.has_ended {
            self.shared.tell(state);
        } else if !state.is_asking {
            os::ring(&self.shared.wake);
        }
    }

    /// As [`Registered::rest`]; fails if no question could be asked since it was wanted, and if none will be any more,
    /// though the state is open.
    pub(super) fn rest(&self) -> Result<u64> {
        let at = self.registered.rest();
        let mut state = self.shared.lock();
        state.wish = None;
        match state.failure.take() {
            Some(error) => Err(error),
            // Every wish would be told at once.
            None if state.has_ended && !self.shared.scout.is_closed() => Err(ended()),
            None => Ok(at.max(state.looked)),
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if self.is_current() {
            self.shared.lock().is_over = true;
            os::ring(&self.shared.wake);
        }
    }
}

impl Shared {
    /// What a panic may have left behind is whole at each step.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells whoever wants to be told.
    fn tell(&self, mut state: MutexGuard<'_, State>) {
        let waker = state.wish.take().and_then(|_| self.alarm.ring());
        drop(state);
        waker.into_iter().for_each(notify::wake);
    }

    fn run(&self) {
        let mut line = Line::default();
        loop {
            match self.step() {
                Step::Ask(at) => self.ask(&mut line, at),
                Step::Rest => self.rest(&mut line),
                Step::End => return,
            }
        }
    }

    fn step(&self) -> Step {
        loop {
            let mut state = self.lock();
            // What is rung for is written under the lock, and rung for after that: it is seen here, or the ring stays.
            os::silence(&self.wake);
            if state.is_over || self.scout.is_closed() {
                return Step::End;
            }
            let Some(wish) = state.wish else {
                return Step::Rest;
            };
            let at = self.scout.resume(wish.max(state.looked));
            if state.found.take_if(|seq| *seq <= at).is_some() || state.found.is_none() {
                state.is_asking = true;
                return Step::Ask(at);
            }
            self.tell(state);
        }
    }

    /// Asks once, and notes what came of it.
    fn ask(&self, line: &mut Line, at: u64) {
        self.pause();
        let (had_line, result) = self.answer(line, at);
        let mut state = self.lock();
        state.is_asking = false;
        if result.is_ok() {
            (state.failures, state.refusals) = (0, 0);
        }
        match result {
            Ok((Next::Match(seq), _)) => {
                state.found = Some(seq);
                // A server may say what it likes.
                self.scout.passed(&mut state.looked, seq.saturating_sub(1));
            }
            Ok((Next::Nothing, looked)) => self.scout.passed(&mut state.looked, looked),
            // What was lost was consumed by others, or was their own.
            Ok((Next::Lagged(_), _)) if self.scout.resume(state.wish.unwrap_or(at)) > at => {}
            Ok((Next::Lagged(_), _)) => self.tell(state),
            Err(error) => {
                state.failures = state.failures.saturating_add(1);
                // Who has lost a connection finds another, or not, by the next question.
                let is_lost = had_line && line.fd().is_none();
                state.refusals = if is_lost { 0 } else { state.refusals.saturating_add(1) };
                if state.refusals >= FAILURES && state.wish.is_some() {
                    state.failure = Some(error);
                }
                self.tell(state);
            }
        }
    }

    /// After some failures in a row, some time without a question.
    fn pause(&self) {
        let failures = self.lock().failures;
        let Some(doublings) = failures.checked_sub(FAILURES) else {
            return;
        };
        let end = Deadline::after(PAUSE.saturating_mul(1 << doublings.min(16)).min(SLICE));
        // While a question is out only the end of those who want to be told rings.
        while !self.lock().is_over && !self.scout.is_closed() && !end.passed() {
            let slice = end.remaining().unwrap_or(PAUSE_SLICE).min(PAUSE_SLICE);
            let wake = [(0, self.wake.as_fd(), Interest::Readable)];
            if os::poll(wake.into_iter(), Some(slice), |_: usize| ()).is_err() {
                std::thread::sleep(slice);
            }
        }
    }

    /// The answer; and whether there was a connection for the question.
    fn answer(&self, line: &mut Line, at: u64) -> (bool, Result<(Next, u64)>) {
        // Kept for as long as it is asked; who drops the state meanwhile ends that.
        let Some(remote) = self.remote.upgrade() else {
            return (false, Err(Error::Closed));
        };
        match remote.connect_line(line) {
            Ok(()) => (true, self.answer_of(&remote, line, at)),
            Err(error) => (false, Err(error)),
        }
    }

    fn answer_of(&self, remote: &Remote, line: &mut Line, at: u64) -> Result<(Next, u64)> {
        let sought = self.scout.sought();
        let wake = Wake {
            fd: self.wake.as_fd(),
            reason: &|| self.lock().is_over.then_some(Error::Closed),
        };
        let filter = sought.subject.filter();
        remote.next_on(line, at, filter, sought.duplicates, SLICE, &wake)
    }

    /// Waits for a wish, and for the end.
    fn rest(&self, line: &mut Line) {
        let mut has_ended = false;
        let fds = [Some(self.wake.as_fd()), line.fd()];
        let fds = fds.into_iter().enumerate();
        let fds =
            fds.filter_map(|(number, fd): (usize, Option<BorrowedFd<'_>>)| Some((number, fd?, Interest::Readable)));
        if os::poll(fds, Some(SLICE), |number| has_ended |= number == 1).is_err() {
            std::thread::sleep(SLICE);
        }
        if has_ended {
            line.has_ended();
        }
    }
}

#[cold]
fn ended() -> Error {
    os::failed(
        "the thread that waits at the server",
        io::Error::other("it has panicked"),
    )
}

/// While it lives, the thread runs.
struct Running(Arc<Shared>);

impl Drop for Running {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        (state.is_asking, state.has_ended) = (false, true);
        self.0.tell(state);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each wish is told at once then, without anything to be told: who looked and wanted again went in circles.
    #[test]
    fn that_the_thread_has_ended_before_the_state_is_an_error() -> Result<()> {
        let state = crate::State::anonymous()?;
        let fd = Arc::new(os::event_fd()?);
        let scout = Scout::placed(&state.watch());
        let listener = Listener::new(Weak::new(), scout, None, Teller::Fd(fd))?;
        assert!(listener.rest().is_ok());
        // As it does when the thread unwinds.
        drop(Running(Arc::clone(&listener.shared)));
        assert!(matches!(listener.rest(), Err(Error::Engine(_))));
        state.close();
        assert!(listener.rest().is_ok(), "that is for others to say");
        Ok(())
    }
}
