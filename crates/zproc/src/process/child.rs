//! The child's side: from `init` to the end of the target, with retries between.
//!
//! A child begins as every run of the program does, and comes to [`init`], which sees the marker in the environment, does
//! what the job says, and ends the process. Nothing after `init` is reached.
//!
//! A thread that stands for a process ([`Backend::Thread`](crate::Backend::Thread)) comes to [`run`] directly.

use std::any::Any;
use std::cell::{Cell, OnceCell, RefCell};
use std::fmt;
use std::io::{self, Write};
use std::os::fd::{OwnedFd, RawFd};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use shm_state::Deadline;
use zproc_spawn::{entry, signal, start};

use super::job::{Job, Order, Outcome, Stage};
use super::target::{Call, Targets};
use crate::context::Context;
use crate::error::{Error, Result};
use crate::remote::RemoteError;
use crate::signals;
use crate::state::{Handover, State};
use crate::trail::Trail;
use crate::watch::Progress;
use crate::{origin, os};

static INITIALISED: AtomicBool = AtomicBool::new(false);
/// The job of this process, for a panic that aborts.
static JOB: OnceLock<Job> = OnceLock::new();

thread_local! {
    /// This thread runs a target, which [`exit`] may leave.
    static IN_TARGET: Cell<bool> = const { Cell::new(false) };
    /// The last panic of this thread, told by the hook.
    static PANIC: RefCell<Option<RemoteError>> = const { RefCell::new(None) };
}

/// The exit code of a child whose target failed.
const FAILED: i32 = 1;
/// That of a child that could not come as far as its target: EX_SOFTWARE.
const BROKEN: i32 = 70;

/// Makes processes possible. Call it as the first statement of `main`.
///
/// A child is the same program, executed again. In it, this call runs the target and then ends the process, so that
/// nothing behind it happens twice. What comes before happens in each child: so nothing should, and no threads in
/// particular. In a program that is no child it takes note that it was called, and returns.
///
/// Tests that start processes use [`init_tests!`](crate::init_tests) instead, since a test binary's `main` is not theirs.
///
/// # Panics
/// Not in a program that is no child. A child that comes here on another thread than the main one ends with a message.
///
/// ```
/// use zproc::{Context, Result};
///
/// fn main() -> Result<()> {
///     zproc::init();
///     let ctx = Context::new()?;
///     let child = ctx.process(std::process::id).start()?;
///     assert_eq!(Some(child.wait()?), child.pid());
///     Ok(())
/// }
/// ```
pub fn init() {
    if start::is_pending() {
        if !start::is_main_thread() {
            tell(format_args!(
                "init() was called on a thread other than the main one: make it the first statement of main"
            ));
            std::process::exit(BROKEN);
        }
        match start::take() {
            Ok(Some(fd)) => main(fd),
            Ok(None) => {}
            Err(error) => {
                tell(format_args!("this child cannot begin: {error}"));
                std::process::exit(BROKEN);
            }
        }
    }
    INITIALISED.store(true, Ordering::Relaxed);
}

/// What [`init_tests!`](crate::init_tests) runs before `main`.
#[doc(hidden)]
pub fn init_before_main() {
    if start::is_pending() {
        start::ignore_sigpipe();
    }
    init();
}

/// Makes processes possible in a test binary: put it at the top of the file, outside of functions.
///
/// A child of a test is the test binary, executed again, whose `main` would run the tests once more. This puts
/// [`init`](crate::init()) before `main`. Children that begin there have no guard page behind their stack's end that turns an
/// overflow into a message.
///
/// ```
/// zproc::init_tests!();
///
/// #[test]
/// fn a_process_returns_its_value() {
///     let ctx = zproc::Context::new().unwrap();
///     assert_eq!(ctx.process(|| 5).start().unwrap().wait().unwrap(), 5);
/// }
/// ```
#[allow(clippy::test_attr_in_doctest, reason = "that is where it is used")]
#[macro_export]
macro_rules! init_tests {
    () => {
        const _: () = {
            extern "C" fn before_main() {
                $crate::__init_before_main();
            }
            #[used]
            #[unsafe(link_section = ".init_array")]
            static BEFORE_MAIN: extern "C" fn() = before_main;
        };
    };
}

/// Fails if `init` was not called. A child that comes here without it says so to its parent first.
pub(crate) fn check_init() -> Result<()> {
    if INITIALISED.load(Ordering::Relaxed) {
        return Ok(());
    }
    if let Ok(Some(fd)) = start::pending_job()
        && let Ok(job) = Job::open(fd)
    {
        let _ = job.set_stage(Stage::Forgot);
    }
    Err(Error::NotInitialised)
}

/// Ends the process, or the target of a process, with an exit code.
///
/// In the target of a [`Process`](crate::Process) it unwinds, so values are dropped, and then ends the child; elsewhere it is
/// [`std::process::exit`]. Whoever waits for the process gets an [`Error::ProcessWait`] with the code, and no value.
///
/// ```
/// use zproc::{Context, Error, Result};
///
/// fn main() -> Result<()> {
///     zproc::init();
///     let ctx = Context::new()?;
///     let child = ctx.process(|| -> () { zproc::exit(7) }).start()?;
///     assert!(matches!(child.wait(), Err(Error::ProcessWait { exit_code: 7, source: None, .. })));
///     Ok(())
/// }
/// ```
pub fn exit(code: i32) -> ! {
    if IN_TARGET.get() && cfg!(panic = "unwind") {
        resume_unwind(Box::new(ExitWith(code)))
    }
    std::process::exit(code)
}

struct ExitWith(i32);

/// What a target is given by the process that it runs in.
#[doc(hidden)]
pub struct Home {
    /// Where a state begins to watch.
    place: RefCell<Handover>,
    /// Its memory, which is opened when a state is asked for: not every target does. None if it is used over a socket.
    memory: RefCell<Option<OwnedFd>>,
    /// The first state, of which others are made.
    state: OnceCell<State>,
    /// How far the state that was given to the target is.
    given: RefCell<Option<Arc<Progress>>>,
    /// Where that is noted for the parent.
    trail: Option<Arc<Trail>>,
    /// A standing watch has looked at the state where it began.
    standing: Cell<bool>,
    fds: Vec<RawFd>,
    is_in_child: bool,
}

impl Home {
    /// In a child, which has inherited the memory and further descriptors.
    fn in_child(place: Handover, memory: Option<OwnedFd>, trail: Option<Trail>, fds: Vec<RawFd>) -> Self {
        Self {
            place: RefCell::new(place),
            memory: RefCell::new(memory),
            state: OnceCell::new(),
            given: RefCell::new(None),
            standing: Cell::new(trail.as_ref().is_some_and(Trail::is_standing)),
            trail: trail.map(Arc::new),
            fds,
            is_in_child: true,
        }
    }

    /// In a thread of the process that has the state.
    pub(crate) fn in_thread(place: Handover, state: State) -> Self {
        Self {
            place: RefCell::new(place),
            memory: RefCell::new(None),
            state: OnceCell::from(state),
            given: RefCell::new(None),
            trail: None,
            standing: Cell::new(false),
            fds: Vec::new(),
            is_in_child: false,
        }
    }

    /// A state for the target.
    pub(crate) fn state(&self) -> Result<State> {
        let mut place = self.place.borrow_mut();
        let first = match self.state.get() {
            Some(state) => state,
            None => {
                let state = place.open(self.memory.borrow_mut().take())?;
                self.state.get_or_init(|| state)
            }
        };
        let state = place.open_beside(first)?;
        // The next one goes on as this one, so that what an attempt that failed has written is no news to it.
        let identity = state.identity()?;
        place.set_identity(Some(identity));
        if let Some(trail) = &self.trail {
            trail.note_identity(identity);
            state.progress().set_trail(Arc::clone(trail));
        }
        *self.given.borrow_mut() = Some(Arc::clone(state.progress()));
        Ok(state)
    }

    /// A context for the target.
    pub(crate) fn context(&self) -> Result<Context> {
        Context::builder().state(self.state()?).build()
    }

    /// The descriptors that were left open for the target.
    pub(crate) fn fds(&self) -> &[RawFd] {
        &self.fds
    }

    /// Whether a standing watch begins, and does not go on where an attempt before this one, or a process that died, has
    /// begun it.
    pub(crate) fn begins_standing(&self) -> bool {
        !self.standing.get()
    }

    /// It has begun from now on.
    pub(crate) fn note_standing(&self) {
        self.trail.iter().for_each(|trail| trail.note_standing());
        self.standing.set(true);
    }

    /// Has the next state begin where the last one has got to.
    fn go_on(&self) {
        if let Some(given) = self.given.borrow_mut().take() {
            self.place.borrow_mut().set_since(given.cursor());
        }
    }
}

/// The whole life of a child behind `init`.
fn main(fd: OwnedFd) -> ! {
    INITIALISED.store(true, Ordering::Relaxed);
    let job = match Job::open(fd) {
        Ok(job) => JOB.get_or_init(|| job),
        Err(error) => {
            tell(format_args!("this child cannot begin: {error}"));
            std::process::exit(BROKEN);
        }
    };
    let _ = job.set_stage(Stage::Reached);
    origin::remember();
    listen_to_panics();
    let done = job.order().and_then(|order| {
        start::set_name(&order.title);
        let memory = order.memory.map(start::inherited).transpose();
        let memory = memory.map_err(|source| os::failed("inheriting the state", source))?;
        let trail = order
            .trail
            .map(|fd| start::inherited(fd).and_then(Trail::open))
            .transpose();
        let trail = trail.map_err(|source| os::failed("inheriting the trail", source))?;
        let home = Home::in_child(order.state.clone(), memory, trail, order.fds.clone());
        Ok(run(&order, &home))
    });
    let (outcome, code) = match done {
        Ok(Done { outcome, code }) => (outcome, code),
        Err(error) => {
            let text = format!("it could not begin: {error}");
            (Some(Err(Box::new(RemoteError::of_process(text)))), BROKEN)
        }
    };
    let mut code = code;
    if let Some(outcome) = outcome
        && let Err(error) = job.finish(&outcome)
    {
        tell(format_args!("the outcome of this process is lost: {error}"));
        code = BROKEN;
    }
    std::process::exit(code)
}

/// How a target ended.
pub(crate) struct Done {
    /// None if it left by [`exit`].
    pub(crate) outcome: Option<Outcome>,
    pub(crate) code: i32,
}

/// Runs the target until it succeeds, or fails in a way that is not tried again. It never unwinds: whoever waits for a
/// thread would wait for ever.
pub(crate) fn run(order: &Order, home: &Home) -> Done {
    // Functions of the user's also say which failures are retried.
    match attempt(|| run_with_retries(order, home)) {
        Ended::Returned(done) => done,
        Ended::Panicked(failure) => Done {
            outcome: Some(Err(Box::new(failure))),
            code: FAILED,
        },
        Ended::Exited(code) => Done { outcome: None, code },
    }
}

fn run_with_retries(order: &Order, home: &Home) -> Done {
    let failed = |failure: RemoteError| Done {
        outcome: Some(Err(Box::new(failure))),
        code: FAILED,
    };
    let settings = &order.settings;
    for signal in settings.retried_signals() {
        if let Err(error) = signals::signal_to_error(signal) {
            return failed(RemoteError::of_error(&error));
        }
    }
    if home.is_in_child {
        // The parent has had them blocked until now. If that fails, they come when the target ends.
        let _ = signal::set(settings.retried_signals()).thread_unblock();
    }
    let target = match entry::find::<Targets>(&order.target) {
        Ok(target) => target,
        Err(reason) => {
            let name = order.name.clone();
            return failed(RemoteError::of_error(&Error::Target { name, reason }));
        }
    };
    let is_wanted = |error: Option<&Error>| settings.retry_for.iter().flatten().any(|retry| retry.is_for(error));
    let mut args = &order.args;
    let mut retries = 0;
    loop {
        let ended = attempt(|| {
            let mut call = Call {
                home,
                args,
                outcome: None,
            };
            target.run(&mut call);
            call.outcome
        });
        let (error, failure) = match ended {
            Ended::Returned(Some(Ok(value))) => {
                return Done {
                    outcome: Some(Ok(value)),
                    code: 0,
                };
            }
            Ended::Returned(Some(Err(error))) => {
                let failure = RemoteError::of_error(&error);
                (Some(error), failure)
            }
            Ended::Returned(None) => return failed(RemoteError::of_process("its target was not run")),
            Ended::Panicked(failure) => (None, failure),
            Ended::Exited(code) => return Done { outcome: None, code },
        };
        let wanted = is_wanted(error.as_ref());
        let delay = settings.next_retry(retries).filter(|_| wanted);
        if wanted {
            report(order, &failure, retries, delay);
        }
        let Some(delay) = delay else { return failed(failure) };
        // A signal that would be retried belongs to the attempt that failed. Another ends the rest, and the first wait of the
        // next attempt: by SIGTERM somebody asks the process to end.
        let is_retried = |signal| is_wanted(Some(&Error::Signal { signal }));
        os::rest(Deadline::after(delay), || signals::forget(is_retried));
        home.go_on();
        args = order.retry_args.as_ref().unwrap_or(args);
        retries = retries.saturating_add(1);
    }
}

/// How one attempt ended.
pub(crate) enum Ended<T> {
    Returned(T),
    Panicked(RemoteError),
    Exited(i32),
}

/// Runs something of the user's, which may panic or leave by [`exit`].
pub(crate) fn attempt<T>(f: impl FnOnce() -> T) -> Ended<T> {
    let outer = IN_TARGET.replace(true);
    let result = catch_unwind(AssertUnwindSafe(f));
    IN_TARGET.set(outer);
    match result {
        Ok(value) => Ended::Returned(value),
        Err(payload) => match payload.downcast_ref::<ExitWith>() {
            Some(ExitWith(code)) => Ended::Exited(*code),
            None => {
                let told = PANIC.take();
                Ended::Panicked(told.unwrap_or_else(|| RemoteError::of_panic(text_of(&*payload), None, None)))
            }
        },
    }
}

fn text_of(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a value that is no text".to_owned())
}

/// Takes note of each panic, beside what happens to it anyway.
fn listen_to_panics() {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        let location = info.location().map(ToString::to_string);
        let backtrace = std::backtrace::Backtrace::force_capture().to_string();
        let failure = RemoteError::of_panic(text_of(info.payload()), location, Some(backtrace));
        // There will be no other occasion.
        if cfg!(panic = "abort")
            && let Some(job) = JOB.get()
        {
            let _ = job.finish(&Err(Box::new(failure.clone())));
        }
        PANIC.set(Some(failure));
        before(info);
    }));
}

/// Tells people of a failure that may be tried again.
fn report(order: &Order, failure: &RemoteError, retries: u32, delay: Option<std::time::Duration>) {
    let next = match delay {
        Some(delay) => format!("retry {} in {delay:?}", retries + 1),
        None => "no retries are left".to_owned(),
    };
    let backtrace = failure.backtrace().map_or_else(String::new, |text| format!("\n{text}"));
    tell(format_args!(
        "process {} ({}, child of {}) failed in attempt {}: {failure}; {next}{backtrace}",
        std::process::id(),
        order.name,
        order.parent,
        retries + 1,
    ));
}

/// Writes to stderr. If nobody can read it, that is no reason to end: `eprintln` would panic.
fn tell(text: fmt::Arguments<'_>) {
    let _ = writeln!(io::stderr(), "zproc: {text}");
}
