//! Contexts: a state, and the processes that share it.
//!
//! A [`Context`] keeps what it started, in order, and ends it when it is closed or dropped. Its parts: `builder` opens it,
//! `factory` makes several processes at once, `handler` calls functions when the state changes, `roll` is the list of its
//! processes, `server` gives the state an address.

mod builder;
mod factory;
mod handler;
mod roll;
mod server;

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use shm_state::Deadline;

use crate::access::check_not_in_atomic;
use crate::address::Address;
use crate::error::{Error, Result};
use crate::map::{Tasks, Workers};
use crate::ping::Ping;
use crate::process::{AnyProcess, Launch, ProcessBuilder, ProcessSettings, Returned, Supervised, Target, check_init};
use crate::server::Server;
use crate::state::State;
pub use builder::ContextBuilder;
pub use factory::{Factory, TargetList};
pub use handler::{Handled, Handler, HandlerBuilder};
use roll::Roll;
use server::LazyServer;

/// A state, and the processes that share it.
///
/// Dropping or closing a context stops its processes; so does the kernel if this process ends in any other way. A context
/// may be used by several threads.
///
/// ```
/// use zproc::{Context, Result, State};
///
/// fn eater(state: State, meals: u32) -> Result<u32> {
///     for _ in 0..meals {
///         state.get_when_change(["cookies"])?; // buffered: misses nothing since start()
///         state.atomic(|dict| dict.modify("cookies", |n: i64| n - 1))?;
///     }
///     Ok(meals)
/// }
///
/// fn main() -> Result<()> {
///     zproc::init(); // a child starts here and goes no further
///     let ctx = Context::new()?;
///     let state = ctx.state();
///     state.insert("cookies", 0)?;
///     let eater = ctx.process(eater).args(5).start()?;
///     for _ in 0..5 {
///         state.atomic(|dict| dict.modify("cookies", |n: i64| n + 1))?;
///     }
///     assert_eq!(eater.wait()?, 5);
///     Ok(())
/// }
/// ```
pub struct Context {
    state: State,
    /// The same state, for processes that are started later: it has the context's settings, and no watchers.
    base: Arc<State>,
    defaults: ProcessSettings,
    wait: bool,
    cleanup: bool,
    processes: Mutex<Roll>,
    workers: Arc<Workers>,
    tasks: Tasks,
    server: LazyServer,
    /// The process that made it.
    owner: u32,
}

impl Context {
    /// One with a new state without an address.
    ///
    /// # Errors
    /// [`Error::NotInitialised`](crate::Error::NotInitialised) in a program that has not called [`zproc::init`](crate::init());
    /// those of [`State::anonymous`].
    ///
    /// ```
    /// use zproc::{Context, Result};
    ///
    /// fn main() -> Result<()> {
    ///     zproc::init();
    ///     let ctx = Context::new()?;
    ///     ctx.state().insert("door", "open")?;
    ///     Ok(())
    /// }
    /// ```
    pub fn new() -> Result<Self> {
        Self::builder().build()
    }

    /// Settings to make a context with.
    ///
    /// ```
    /// use zproc::{Context, Result};
    ///
    /// fn main() -> Result<()> {
    ///     zproc::init();
    ///     let ctx = Context::builder().namespace("kitchen").wait(true).build()?;
    ///     assert_eq!(ctx.namespace(), "kitchen");
    ///     Ok(())
    /// }
    /// ```
    pub fn builder() -> ContextBuilder {
        ContextBuilder::new()
    }

    /// Its state, which is a watcher of its own.
    ///
    /// ```
    /// use zproc::{Context, Result, State};
    ///
    /// fn main() -> Result<()> {
    ///     zproc::init();
    ///     let ctx = Context::new()?;
    ///     ctx.process(|state: State| state.insert("door", "open")).start()?;
    ///     assert!(ctx.state().get_when_available("door")?.contains_key("door")?);
    ///     Ok(())
    /// }
    /// ```
    pub fn state(&self) -> &State {
        &self.state
    }

    /// The namespace of its state.
    ///
    /// ```
    /// use zproc::{Context, Result};
    ///
    /// fn main() -> Result<()> {
    ///     zproc::init();
    ///     assert_eq!(Context::new()?.namespace(), "default");
    ///     Ok(())
    /// }
    /// ```
    pub fn namespace(&self) -> &str {
        self.state.namespace()
    }

    /// The address of its state. One without a name gets that of its [server](Context::server), which is started.
    ///
    /// ```
    /// use zproc::{Context, Result, State};
    ///
    /// fn main() -> Result<()> {
    ///     zproc::init();
    ///     let ctx = Context::new()?;
    ///     State::open(ctx.address()?)?.insert("door", "open")?;
    ///     assert_eq!(ctx.state().get("door")?, Some("open".to_owned()));
    ///     Ok(())
    /// }
    /// ```
    pub fn address(&self) -> Result<&str> {
        match self.state.address() {
            Some(address) => Ok(address),
            None => Ok(self.server()?.address()),
        }
    }

    /// A server of its state, which the first call of this, of [`Context::ping`], or of [`Context::address`] for a state without a
    /// name starts. It ends with the context; should it be killed, those who have mapped the state go on, and
    /// [`start_server`](crate::start_server()) starts another.
    ///
    /// # Errors
    /// Those of [`ServerBuilder::start`](crate::ServerBuilder::start).
    ///
    /// ```
    /// use zproc::{Context, Result};
    ///
    /// fn main() -> Result<()> {
    ///     zproc::init();
    ///     let ctx = Context::new()?;
    ///     assert_eq!(ctx.server()?.address(), ctx.address()?);
    ///     assert_ne!(ctx.server()?.pid(), std::process::id());
    ///     Ok(())
    /// }
    /// ```
    pub fn server(&self) -> Result<&Server> {
        self.server.of(&self.base)
    }

    /// Asks its [server](Context::server), or the one that its state was had from, whether it is there: see
    /// [`ping`](crate::ping()).
    ///
    /// ```
    /// use std::time::Duration;
    /// use zproc::{Context, Result};
    ///
    /// fn main() -> Result<()> {
    ///     zproc::init();
    ///     let ctx = Context::new()?;
    ///     let pong = ctx.ping()?.timeout(Duration::from_secs(60)).send()?;
    ///     assert_eq!(pong.map(|pong| pong.pid), Some(ctx.server()?.pid()));
    ///     Ok(())
    /// }
    /// ```
    pub fn ping(&self) -> Result<Ping> {
        match self.state.address().map(Address::parse) {
            Some(Ok(Address::Ipc(..))) => self.state.ping(),
            _ => self.server.ping(&self.base),
        }
    }

    /// A process that runs `target`, to be given its arguments and settings and to be started. What a target may be is
    /// told at [`Target`].
    ///
    /// ```
    /// use zproc::{Context, Result, State};
    ///
    /// fn greet(state: State, name: String) -> Result<()> {
    ///     state.insert("greeting", format!("hello {name}"))
    /// }
    ///
    /// fn main() -> Result<()> {
    ///     zproc::init();
    ///     let ctx = Context::new()?;
    ///     ctx.process(greet).args("you".into()).start()?.wait()?;
    ///     assert_eq!(ctx.state().get("greeting")?, Some("hello you".to_owned()));
    ///     Ok(())
    /// }
    /// ```
    pub fn process<M: 'static, F: Target<M>>(&self, target: F) -> ProcessBuilder<'_, F, M> {
        ProcessBuilder::new(self, target)
    }

    /// Several processes: [`Factory::count`] for each of the targets, which are an array or a vector of functions, or a
    /// tuple, all with the same arguments and results.
    ///
    /// ```
    /// use zproc::{Context, Result};
    ///
    /// fn double(n: u32) -> u32 { 2 * n }
    /// fn square(n: u32) -> u32 { n * n }
    ///
    /// fn main() -> Result<()> {
    ///     zproc::init();
    ///     let ctx = Context::new()?;
    ///     let all = ctx.process_factory([double, square]).count(2).args(5).start()?;
    ///     let values: Result<Vec<u32>> = all.iter().map(|process| process.wait()).collect();
    ///     assert_eq!(values?, [10, 10, 25, 25]);
    ///     Ok(())
    /// }
    /// ```
    pub fn process_factory<M: 'static, L: TargetList<M>>(&self, targets: L) -> Factory<'_, L, M> {
        Factory::new(self, targets)
    }

    /// Its processes, in the order in which they were made, without workers and handlers' insides: those that have ended,
    /// too.
    ///
    /// ```
    /// use zproc::{Context, Result};
    ///
    /// fn main() -> Result<()> {
    ///     zproc::init();
    ///     let ctx = Context::new()?;
    ///     let child = ctx.process(|| 5).start()?;
    ///     assert_eq!(ctx.processes()[0].pid(), child.pid());
    ///     Ok(())
    /// }
    /// ```
    pub fn processes(&self) -> Vec<AnyProcess> {
        self.list().into_iter().map(AnyProcess::new).collect()
    }

    /// Starts all processes that were not started yet.
    ///
    /// ```
    /// use zproc::{Context, Result};
    ///
    /// fn main() -> Result<()> {
    ///     zproc::init();
    ///     let ctx = Context::new()?;
    ///     ctx.process(|| 1).start()?;
    ///     ctx.process(|| 2).deferred()?;
    ///     ctx.start_all()?;
    ///     assert_eq!(ctx.wait_all(None)?.len(), 2);
    ///     Ok(())
    /// }
    /// ```
    pub fn start_all(&self) -> Result<()> {
        let waiting = self.processes();
        let mut waiting = waiting.iter().filter(|process| !process.supervised().is_started());
        waiting.try_for_each(|process| process.start().map(drop))
    }

    /// Stops all processes, each as [`Process::stop`](crate::Process::stop) does, and all at once. Returns their exit
    /// codes, in the order of [`Context::processes`]; `None` for those that were never started.
    ///
    /// ```
    /// use zproc::{Context, Result, signals::SIGTERM};
    ///
    /// fn main() -> Result<()> {
    ///     zproc::init();
    ///     let ctx = Context::new()?;
    ///     ctx.process(|| std::thread::sleep(std::time::Duration::from_secs(60))).start()?;
    ///     ctx.process(|| ()).deferred()?;
    ///     assert_eq!(ctx.stop_all()?, [Some(-SIGTERM), None]);
    ///     Ok(())
    /// }
    /// ```
    pub fn stop_all(&self) -> Result<Vec<Option<i32>>> {
        stop_all(&self.list())
    }

    /// Waits for all processes, and returns their values in the order of [`Context::processes`]. The timeout is for all of
    /// them together.
    ///
    /// # Errors
    /// The first in that order; [`Context::wait_all_safe`] returns all.
    ///
    /// ```
    /// use std::time::Duration;
    /// use zproc::{Context, Result};
    ///
    /// fn main() -> Result<()> {
    ///     zproc::init();
    ///     let ctx = Context::new()?;
    ///     ctx.process(|| 5u32).start()?;
    ///     ctx.process(|| "five".to_owned()).start()?;
    ///     let values = ctx.wait_all(Duration::from_secs(60))?;
    ///     assert_eq!((values[0].get::<u32>()?, values[1].get::<String>()?), (5, "five".into()));
    ///     Ok(())
    /// }
    /// ```
    pub fn wait_all(&self, timeout: impl Into<Option<Duration>>) -> Result<Vec<Returned>> {
        check_not_in_atomic()?;
        let deadline = timeout.into().map_or(Deadline::never(), Deadline::after);
        let all = self.list();
        all.iter().map(|process| Returned::wait(process, deadline)).collect()
    }

    /// As [`Context::wait_all`], with the error of each process in its place.
    ///
    /// ```
    /// use zproc::{Context, Error, Result};
    ///
    /// fn main() -> Result<()> {
    ///     zproc::init();
    ///     let ctx = Context::new()?;
    ///     ctx.process(|| -> () { zproc::exit(7) }).start()?;
    ///     ctx.process(|| 5).start()?;
    ///     let ended = ctx.wait_all_safe(None);
    ///     assert!(matches!(ended[0], Err(Error::ProcessWait { exit_code: 7, .. })) && ended[1].is_ok());
    ///     Ok(())
    /// }
    /// ```
    pub fn wait_all_safe(&self, timeout: impl Into<Option<Duration>>) -> Vec<Result<Returned>> {
        let deadline = timeout.into().map_or(Deadline::never(), Deadline::after);
        let all = self.list();
        all.iter().map(|process| Returned::wait(process, deadline)).collect()
    }

    /// Ends it: stops all processes. Dropping it does the same, and cannot tell of errors.
    ///
    /// # Errors
    /// [`Error::Signal`] if one came while it [waited](ContextBuilder::wait) for its processes, [`Error::NestedAtomic`] if it was
    /// to wait for them within [`State::atomic`], which it does not, and what went wrong at the end of one. Everything is
    /// stopped all the same.
    ///
    /// ```
    /// use zproc::{Context, Result};
    ///
    /// fn main() -> Result<()> {
    ///     zproc::init();
    ///     let ctx = Context::new()?;
    ///     let child = ctx.process(|| std::thread::sleep(std::time::Duration::from_secs(60))).start()?;
    ///     ctx.close()?;
    ///     assert!(!child.is_alive());
    ///     Ok(())
    /// }
    /// ```
    pub fn close(mut self) -> Result<()> {
        self.end()
    }

    /// The state that processes are started with.
    pub(crate) fn base(&self) -> Arc<State> {
        Arc::clone(&self.base)
    }

    pub(crate) fn worker_pool(&self) -> &Arc<Workers> {
        &self.workers
    }

    pub(crate) fn tasks(&self) -> &Tasks {
        &self.tasks
    }

    /// Settings for a process, with what the context has for all.
    pub(crate) fn with_defaults(&self, settings: ProcessSettings) -> Result<ProcessSettings> {
        let settings = settings.or(&self.defaults);
        settings.check()?;
        Ok(settings)
    }

    /// Makes a process.
    pub(crate) fn add(&self, mut launch: Launch) -> Result<Arc<Supervised>> {
        check_init()?;
        launch.settings = self.with_defaults(launch.settings)?;
        launch.tied = self.cleanup;
        let process = Supervised::new(launch)?;
        self.roll().add(&process);
        Ok(process)
    }

    /// Starts processes that were just made. Those that cannot be started are none of the context's: nobody could start them
    /// later, and whoever waits for all would fail by them.
    pub(crate) fn start_new<'p>(&self, new: impl IntoIterator<Item = &'p Arc<Supervised>>) -> Result<()> {
        let (mut started, mut unstarted) = (Ok(()), Vec::new());
        for process in new {
            if started.is_ok() {
                started = process.start().map(drop);
            }
            if started.is_err() {
                unstarted.push(process);
            }
        }
        self.forget(&unstarted);
        started
    }

    /// Has processes that were not started be none of the context's.
    fn forget(&self, unstarted: &[&Arc<Supervised>]) {
        if !unstarted.is_empty() {
            self.roll().remove(unstarted);
        }
    }

    fn roll(&self) -> MutexGuard<'_, Roll> {
        self.processes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its processes now: a copy, so that nobody else waits while they are waited for.
    fn list(&self) -> Vec<Arc<Supervised>> {
        self.roll().all().clone()
    }

    fn end(&mut self) -> Result<()> {
        if self.owner != std::process::id() {
            // A fork has copied it. What it has started is the business of the process that did.
            return Err(Error::Forked);
        }
        let roll = std::mem::take(&mut *self.roll());
        let all = roll.all();
        // First: what was not started would be started when nobody is left who ends it.
        all.iter().for_each(|process| process.close());
        // Each step is taken whatever became of those before it: an error, as by a signal, ends the waiting and no more.
        let waited = match self.wait {
            // With the writer lock in hand it could be for ever: what they wait for may be that.
            true => check_not_in_atomic().and_then(|()| {
                let mut started = all.iter().filter(|process| process.is_started());
                started.try_for_each(|process| process.wait(Deadline::never(), true).map(drop))
            }),
            false => Ok(()),
        };
        self.tasks.clear();
        let workers = self.workers.close();
        let processes = match self.cleanup {
            true => stop_all(all).map(drop),
            false => {
                all.iter().for_each(Supervised::let_go);
                Ok(())
            }
        };
        let server = self.server.stop();
        waited.and(workers).and(processes).and(server)
    }
}

/// Asks all to stop, and then waits for them.
pub(crate) fn stop_all(all: &[Arc<Supervised>]) -> Result<Vec<Option<i32>>> {
    let graces: Vec<Deadline> = all
        .iter()
        .map(|process| {
            process.ask_to_stop();
            Deadline::after(process.grace())
        })
        .collect();
    let mut codes = Vec::with_capacity(all.len());
    let mut failed = None;
    for (process, grace) in all.iter().zip(graces) {
        let code = if process.is_started() {
            process.finish_stop(grace).map(Some)
        } else {
            Ok(None)
        };
        match code {
            Ok(code) => codes.push(code),
            // The others are stopped all the same.
            Err(error) => failed = failed.or(Some(error)),
        }
    }
    failed.map_or(Ok(codes), Err)
}

impl Drop for Context {
    fn drop(&mut self) {
        // There is nobody to tell.
        let _ = self.end();
    }
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context")
            .field("state", &self.state)
            .field("processes", &self.processes())
            .finish_non_exhaustive()
    }
}
