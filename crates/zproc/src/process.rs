//! Processes: starting a function in one, waiting for what it returns, ending it.
//!
//! The parts: `target` says what can be run; `builder` and `settings` how; `job` is the file by which parent and child
//! speak; `child` is the child's side; `supervised` (the phases that a process goes through) and this file, which users
//! see, the parent's. Below them `zproc_spawn` does what only the system can.

mod builder;
mod child;
mod job;
mod retry;
mod settings;
mod supervised;
mod target;

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use serde::de::DeserializeOwned;
use shm_state::Deadline;

use crate::access::check_not_in_atomic;
use crate::error::{Error, Result};
pub use builder::ProcessBuilder;
pub(crate) use builder::{Launch, locate, make};
#[doc(hidden)]
pub use child::init_before_main;
pub(crate) use child::{Ended as Attempt, attempt, check_init};
pub use child::{Home, exit, init};
pub(crate) use job::Job;
pub use retry::Retry;
pub use settings::{Backend, ProcessSettings};
pub(crate) use settings::{Restart, settings};
pub(crate) use supervised::{Ended, Supervised};
pub use target::{Arguments, Fallible, Given, Missing, Plain, Target, WithContext, WithNothing, WithState};
pub(crate) use target::{Call, Targets, carry, from_bytes, to_bytes};

/// A process that runs a function, which returns a `T`.
///
/// Made by [`Context::process`](crate::Context::process). Its context keeps it, too, and stops it when it is dropped or
/// closed; dropping this handle alone ends nothing.
///
/// ```
/// use zproc::{Context, Result};
///
/// fn main() -> Result<()> {
///     zproc::init();
///     let ctx = Context::new()?;
///     let adder = ctx.process(|a: u32, b: u32| a + b).args((1, 2)).start()?;
///     assert_eq!(adder.wait()?, 3);
///     assert_eq!((adder.is_alive(), adder.exitcode()), (false, Some(0)));
///     Ok(())
/// }
/// ```
pub struct Process<T> {
    supervised: Arc<Supervised>,
    output: PhantomData<fn() -> T>,
}

impl<T> Clone for Process<T> {
    fn clone(&self) -> Self {
        Self {
            supervised: Arc::clone(&self.supervised),
            output: PhantomData,
        }
    }
}

impl<T: DeserializeOwned + 'static> Process<T> {
    pub(crate) fn new(supervised: Arc<Supervised>) -> Self {
        Self {
            supervised,
            output: PhantomData,
        }
    }

    /// Starts a process that was [deferred](ProcessBuilder::deferred). Its state watches from this moment on. Returns its
    /// process id.
    ///
    /// # Errors
    /// [`Error::Process`] if it was started already, [`Error::Closed`] if its context has ended, those of the system.
    ///
    /// ```
    /// use zproc::{Context, Error, Result};
    ///
    /// fn main() -> Result<()> {
    ///     zproc::init();
    ///     let ctx = Context::new()?;
    ///     let later = ctx.process(|| 5).deferred()?;
    ///     assert_eq!(later.pid(), None);
    ///     assert_eq!(Some(later.start()?), later.pid());
    ///     assert!(matches!(later.start(), Err(Error::Process { .. })));
    ///     assert_eq!(later.wait()?, 5);
    ///     Ok(())
    /// }
    /// ```
    pub fn start(&self) -> Result<u32> {
        self.supervised.start()
    }

    /// Waits for the process to end, and returns what its target returned. It may be called again, and by several threads.
    ///
    /// # Errors
    /// [`Error::ProcessWait`] if the target failed, panicked, or was killed; [`Error::Process`] if it was not started yet, and
    /// [`Error::Closed`] if it cannot be any more; [`Error::Signal`].
    ///
    /// The value counts if the process ended by itself: one that a signal ends behind its target, as on its way out, was
    /// killed.
    ///
    /// ```
    /// use zproc::{Context, Error, Result, signals::SIGABRT};
    ///
    /// fn main() -> Result<()> {
    ///     zproc::init();
    ///     let ctx = Context::new()?;
    ///     let child = ctx.process(|| -> () { std::process::abort() }).start()?;
    ///     let Err(Error::ProcessWait { exit_code, pid, .. }) = child.wait() else { panic!() };
    ///     assert_eq!((exit_code, Some(pid)), (-SIGABRT, child.pid()));
    ///     Ok(())
    /// }
    /// ```
    pub fn wait(&self) -> Result<T> {
        self.wait_until(Deadline::never())
    }

    /// As [`Process::wait`], for so long at most.
    ///
    /// # Errors
    /// [`Error::Timeout`] after that, and those of [`Process::wait`].
    ///
    /// ```
    /// use std::time::Duration;
    /// use zproc::{Context, Error, Result, State};
    ///
    /// fn main() -> Result<()> {
    ///     zproc::init();
    ///     let ctx = Context::new()?;
    ///     let child = ctx.process(|state: State| state.get_when_available("go").map(drop)).start()?;
    ///     assert!(matches!(child.wait_timeout(Duration::from_millis(10)), Err(Error::Timeout)));
    ///     ctx.state().insert("go", true)?;
    ///     child.wait()
    /// }
    /// ```
    pub fn wait_timeout(&self, timeout: Duration) -> Result<T> {
        self.wait_until(Deadline::after(timeout))
    }

    pub(crate) fn wait_until(&self, deadline: Deadline) -> Result<T> {
        Returned::wait(&self.supervised, deadline)?.get()
    }
}

impl<T> Process<T> {
    pub(crate) fn supervised(&self) -> &Arc<Supervised> {
        &self.supervised
    }

    /// Stops the process: SIGTERM, and if it has not ended after its [grace](ProcessBuilder::stop_grace), SIGKILL. Returns
    /// its exit code, which is −N if signal N ended it. Whatever it has started ends with it. One that has ended is left
    /// as it is.
    ///
    /// # Errors
    /// [`Error::Process`] if it was never started, and if it is a thread that has not ended after the grace.
    ///
    /// ```
    /// use zproc::{Context, Result, signals::SIGTERM};
    ///
    /// fn main() -> Result<()> {
    ///     zproc::init();
    ///     let ctx = Context::new()?;
    ///     let sleeper = ctx.process(|| std::thread::sleep(std::time::Duration::from_secs(60))).start()?;
    ///     assert_eq!(sleeper.stop()?, -SIGTERM);
    ///     Ok(())
    /// }
    /// ```
    pub fn stop(&self) -> Result<i32> {
        self.supervised.stop()
    }

    /// Whether it was started and has not ended. A process between its death and its restart is alive.
    ///
    /// ```
    /// use zproc::{Context, Result};
    ///
    /// fn main() -> Result<()> {
    ///     zproc::init();
    ///     let ctx = Context::new()?;
    ///     let child = ctx.process(|| std::thread::sleep(std::time::Duration::from_secs(60))).start()?;
    ///     assert!(child.is_alive());
    ///     child.stop()?;
    ///     assert!(!child.is_alive());
    ///     Ok(())
    /// }
    /// ```
    pub fn is_alive(&self) -> bool {
        self.supervised.is_alive()
    }

    /// Its process id, the last one if it was restarted; that of this process for a thread. `None` before it is started.
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
    pub fn pid(&self) -> Option<u32> {
        self.supervised.pid()
    }

    /// Its exit code: 0 if its target succeeded, 1 if it failed, −N if signal N ended it. `None` while it has not ended.
    ///
    /// ```
    /// use zproc::{Context, Result};
    ///
    /// fn main() -> Result<()> {
    ///     zproc::init();
    ///     let ctx = Context::new()?;
    ///     let child = ctx.process(|| -> () { zproc::exit(7) }).start()?;
    ///     assert!(child.wait().is_err());
    ///     assert_eq!(child.exitcode(), Some(7));
    ///     Ok(())
    /// }
    /// ```
    pub fn exitcode(&self) -> Option<i32> {
        self.supervised.exit_code()
    }

    /// The name of its target.
    ///
    /// ```
    /// use zproc::{Context, Result};
    ///
    /// fn eater() {}
    ///
    /// fn main() -> Result<()> {
    ///     zproc::init();
    ///     let ctx = Context::new()?;
    ///     assert!(ctx.process(eater).start()?.target().ends_with("eater"));
    ///     Ok(())
    /// }
    /// ```
    pub fn target(&self) -> &str {
        self.supervised.name()
    }

    /// The namespace of its state.
    ///
    /// ```
    /// use zproc::{Context, Result};
    ///
    /// fn main() -> Result<()> {
    ///     zproc::init();
    ///     let ctx = Context::new()?;
    ///     let child = ctx.process(|| ()).namespace("kitchen").start()?;
    ///     assert_eq!(child.namespace(), "kitchen");
    ///     Ok(())
    /// }
    /// ```
    pub fn namespace(&self) -> &str {
        self.supervised.namespace()
    }

    /// The same process, without the type of what it returns.
    ///
    /// ```
    /// use zproc::{AnyProcess, Context, Result};
    ///
    /// fn main() -> Result<()> {
    ///     zproc::init();
    ///     let ctx = Context::new()?;
    ///     let number = ctx.process(|| 5u32).start()?;
    ///     let text = ctx.process(|| String::from("five")).start()?;
    ///     let both: [AnyProcess; 2] = [number.erase(), text.erase()];
    ///     assert_eq!(both[1].wait()?.get::<String>()?, "five");
    ///     Ok(())
    /// }
    /// ```
    pub fn erase(&self) -> AnyProcess {
        AnyProcess(Process {
            supervised: Arc::clone(&self.supervised),
            output: PhantomData,
        })
    }
}

impl<T> fmt::Debug for Process<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Process")
            .field("target", &self.target())
            .field("pid", &self.pid())
            .field("exitcode", &self.exitcode())
            .finish_non_exhaustive()
    }
}

/// A process whatever it returns: see [`Context::processes`](crate::Context::processes). All that a [`Process`] can do
/// without that type it can, too.
///
/// ```
/// use zproc::{Context, Result};
///
/// fn main() -> Result<()> {
///     zproc::init();
///     let ctx = Context::new()?;
///     ctx.process(|| 5u32).start()?;
///     let any = &ctx.processes()[0];
///     assert_eq!(any.wait()?.get::<u32>()?, 5);
///     assert_eq!(any.exitcode(), Some(0));
///     Ok(())
/// }
/// ```
#[derive(Clone)]
pub struct AnyProcess(Process<Erased>);

/// Stands for what a process returns where that is not known: an [`AnyProcess`] is a `Process<Erased>` with a `wait` of its
/// own.
///
/// ```
/// use zproc::{Context, Erased, Process, Result};
///
/// fn stop<T>(process: &Process<T>) -> Result<i32> {
///     process.stop()
/// }
///
/// fn main() -> Result<()> {
///     zproc::init();
///     let ctx = Context::new()?;
///     let any = ctx.process(|| 5).start()?.erase();
///     any.wait()?;
///     assert_eq!(stop::<Erased>(&any)?, 0); // it has ended
///     Ok(())
/// }
/// ```
pub struct Erased(());

impl AnyProcess {
    pub(crate) fn new(supervised: Arc<Supervised>) -> Self {
        Self(Process {
            supervised,
            output: PhantomData,
        })
    }

    /// As [`Process::wait`], with a value that is yet to be read.
    ///
    /// ```
    /// use zproc::{Context, Result};
    ///
    /// fn main() -> Result<()> {
    ///     zproc::init();
    ///     let ctx = Context::new()?;
    ///     let any = ctx.process(|| 5u32).start()?.erase();
    ///     assert_eq!(any.wait()?.get::<u32>()?, 5);
    ///     Ok(())
    /// }
    /// ```
    pub fn wait(&self) -> Result<Returned> {
        Returned::wait(&self.0.supervised, Deadline::never())
    }

    /// As [`Process::wait_timeout`], with a value that is yet to be read.
    ///
    /// ```
    /// use std::time::Duration;
    /// use zproc::{Context, Result};
    ///
    /// fn main() -> Result<()> {
    ///     zproc::init();
    ///     let ctx = Context::new()?;
    ///     let any = ctx.process(|| 5u32).start()?.erase();
    ///     assert_eq!(any.wait_timeout(Duration::from_secs(60))?.get::<u32>()?, 5);
    ///     Ok(())
    /// }
    /// ```
    pub fn wait_timeout(&self, timeout: Duration) -> Result<Returned> {
        Returned::wait(&self.0.supervised, Deadline::after(timeout))
    }

    /// Starts it, if it was deferred: [`Process::start`].
    ///
    /// ```
    /// use zproc::{Context, Result};
    ///
    /// fn main() -> Result<()> {
    ///     zproc::init();
    ///     let ctx = Context::new()?;
    ///     let any = ctx.process(|| 5).deferred()?.erase();
    ///     assert_eq!(Some(any.start()?), any.pid());
    ///     Ok(())
    /// }
    /// ```
    pub fn start(&self) -> Result<u32> {
        self.0.supervised.start()
    }

    /// The same process with the type of what it returns; `None` if that is another one.
    ///
    /// ```
    /// use zproc::{Context, Result};
    ///
    /// fn main() -> Result<()> {
    ///     zproc::init();
    ///     let ctx = Context::new()?;
    ///     let any = ctx.process(|| 5u32).start()?.erase();
    ///     assert!(any.downcast::<String>().is_none());
    ///     assert_eq!(any.downcast::<u32>().unwrap().wait()?, 5);
    ///     Ok(())
    /// }
    /// ```
    pub fn downcast<T: DeserializeOwned + 'static>(&self) -> Option<Process<T>> {
        let supervised = &self.0.supervised;
        supervised.returns::<T>().then(|| Process::new(Arc::clone(supervised)))
    }

    pub(crate) fn supervised(&self) -> &Arc<Supervised> {
        &self.0.supervised
    }
}

impl std::ops::Deref for AnyProcess {
    type Target = Process<Erased>;

    fn deref(&self) -> &Process<Erased> {
        &self.0
    }
}

impl fmt::Debug for AnyProcess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What a process has returned, of a type that is yet to be told.
///
/// ```
/// use zproc::{Context, Error, Result};
///
/// fn main() -> Result<()> {
///     zproc::init();
///     let ctx = Context::new()?;
///     ctx.process(|| 5u32).start()?;
///     let returned = &ctx.wait_all(None)?[0];
///     assert!(matches!(returned.get::<String>(), Err(Error::Process { .. }))); // it is no text
///     assert_eq!(returned.get::<u32>()?, 5);
///     Ok(())
/// }
/// ```
#[derive(Clone)]
pub struct Returned {
    supervised: Arc<Supervised>,
    ended: Arc<Ended>,
}

impl Returned {
    pub(crate) fn wait(supervised: &Arc<Supervised>, deadline: Deadline) -> Result<Self> {
        check_not_in_atomic()?;
        let ended = supervised.wait(deadline, true)?;
        match &ended.value {
            Ok(_) => Ok(Self {
                supervised: Arc::clone(supervised),
                ended,
            }),
            Err(source) => Err(Error::ProcessWait {
                exit_code: ended.exit_code,
                pid: ended.pid,
                source: source.clone(),
            }),
        }
    }

    /// The value, which must be of the type that the target returns.
    ///
    /// # Errors
    /// [`Error::Process`] if it is of another type.
    ///
    /// ```
    /// use zproc::{Context, Result};
    ///
    /// fn main() -> Result<()> {
    ///     zproc::init();
    ///     let ctx = Context::new()?;
    ///     ctx.process(|| vec![1u8, 2]).start()?;
    ///     assert_eq!(ctx.wait_all(None)?[0].get::<Vec<u8>>()?, [1, 2]);
    ///     Ok(())
    /// }
    /// ```
    pub fn get<T: DeserializeOwned + 'static>(&self) -> Result<T> {
        if !self.supervised.returns::<T>() {
            return Err(Error::Process {
                reason: format!(
                    "{} returns {} and not {}",
                    self.supervised.name(),
                    self.supervised.output_name(),
                    std::any::type_name::<T>()
                ),
            });
        }
        from_bytes("the result", self.ended.value.as_deref().unwrap_or_default())
    }
}

impl fmt::Debug for Returned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Returned")
            .field("type", &self.supervised.output_name())
            .finish_non_exhaustive()
    }
}
