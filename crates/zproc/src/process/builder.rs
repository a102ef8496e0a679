//! Building a process: its target, arguments and settings, and what starting it needs of its context.

use std::any::{TypeId, type_name};
use std::marker::PhantomData;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use serde::Serialize;
use zproc_spawn::entry::{self, Located};

use super::job::Order;
use super::settings::{ProcessSettings, settings};
use super::target::{Arguments, Given, Missing, RunTarget, Target, Targets, to_bytes};
use super::{Process, Supervised};
use crate::context::Context;
use crate::error::{Error, Result};
use crate::state::{Handover, State};
use crate::transport::Transport;

/// What it takes to start a process, as often as it takes.
pub(crate) struct Launch {
    pub(crate) target: Located,
    pub(crate) name: String,
    pub(crate) args: Vec<u8>,
    pub(crate) retry_args: Option<Vec<u8>>,
    /// The type of what it returns, and its name.
    pub(crate) output: (TypeId, &'static str),
    pub(crate) state: Arc<State>,
    pub(crate) settings: ProcessSettings,
    /// Further descriptors, for targets of this library.
    pub(crate) fds: Vec<Arc<OwnedFd>>,
    /// Whether it ends with this process.
    pub(crate) tied: bool,
}

impl Launch {
    /// What the child is to do, from now on.
    pub(crate) fn order(&self) -> Result<Order> {
        let state = Handover::of(&self.state, self.settings.namespace.as_deref())?;
        Ok(Order {
            target: self.target.clone(),
            name: self.name.clone(),
            args: self.args.clone(),
            retry_args: self.retry_args.clone(),
            state,
            memory: self.memory()?.map(|memory| memory.as_raw_fd()),
            trail: None,
            fds: self.fds.iter().map(AsRawFd::as_raw_fd).collect(),
            settings: self.settings.clone(),
            parent: std::process::id(),
            title: zproc_spawn::start::name(),
        })
    }

    /// The descriptor of the state; none if it is used over a socket.
    pub(crate) fn memory(&self) -> Result<Option<BorrowedFd<'_>>> {
        match (self.state.fd(), self.state.transport()) {
            (None, Transport::Mapped) => Err(Error::Process {
                reason:
                    "the memory of this state has no descriptor that a child could inherit: open the state by an address, \
                     or create it with State::anonymous"
                        .into(),
            }),
            (memory, _) => Ok(memory),
        }
    }

    pub(crate) fn namespace(&self) -> &str {
        self.settings.namespace.as_deref().unwrap_or(self.state.namespace())
    }
}

/// Says where a target is, for its errors under its name.
pub(crate) fn locate<M: 'static, F: Target<M>>(target: F) -> Result<Located> {
    entry::locate::<Targets, F, RunTarget<M>>(target).map_err(|reason| Error::Target {
        name: type_name::<F>().into(),
        reason,
    })
}

/// A process to be started, with its settings. Made by [`Context::process`].
///
/// ```
/// use zproc::{Context, Result, State};
///
/// fn main() -> Result<()> {
///     zproc::init();
///     let ctx = Context::new()?;
///     let child = ctx.process(|state: State, n: u32| state.insert("n", n))
///         .args(5)
///         .namespace("kitchen")
///         .retry_for_any()
///         .max_retries(3)
///         .start()?;
///     child.wait()?;
///     assert_eq!(ctx.state().fork().namespace("kitchen").open()?.get("n")?, Some(5));
///     Ok(())
/// }
/// ```
#[must_use = "a process is not started before `start` is called"]
pub struct ProcessBuilder<'c, F: Target<M>, M, A = Missing> {
    ctx: &'c Context,
    target: F,
    args: A,
    retry_args: Option<F::Args>,
    settings: ProcessSettings,
    marker: PhantomData<fn() -> M>,
}

impl<'c, F: Target<M>, M: 'static> ProcessBuilder<'c, F, M> {
    pub(crate) fn new(ctx: &'c Context, target: F) -> Self {
        const {
            assert!(
                size_of::<F>() == 0 || size_of::<F>() == size_of::<usize>(),
                "the target captures something, which another process does not have: pass it as an argument"
            );
        };
        Self {
            ctx,
            target,
            args: Missing,
            retry_args: None,
            settings: ProcessSettings::new(),
            marker: PhantomData,
        }
    }

    /// The arguments of the target behind its state or context: the only one as it is, several as a tuple.
    ///
    /// ```
    /// use zproc::{Context, Result};
    ///
    /// fn main() -> Result<()> {
    ///     zproc::init();
    ///     let ctx = Context::new()?;
    ///     assert_eq!(ctx.process(|a: String, b: u8| (a, b)).args(("a".into(), 1)).start()?.wait()?, ("a".into(), 1));
    ///     Ok(())
    /// }
    /// ```
    pub fn args(self, args: F::Args) -> ProcessBuilder<'c, F, M, Given<F::Args>> {
        ProcessBuilder {
            ctx: self.ctx,
            target: self.target,
            args: Given(args),
            retry_args: self.retry_args,
            settings: self.settings,
            marker: PhantomData,
        }
    }
}

impl<F: Target<M>, M: 'static, A> ProcessBuilder<'_, F, M, A> {
    settings!();

    /// Arguments that the target gets instead when it is run again after a failure.
    ///
    /// ```
    /// use std::time::Duration;
    /// use zproc::{Context, Error, Result};
    ///
    /// fn main() -> Result<()> {
    ///     zproc::init();
    ///     let ctx = Context::new()?;
    ///     let target = |fails: bool| if fails { Err(Error::Timeout) } else { Ok(5) };
    ///     let child = ctx.process(target).args(true).retry_args(false).retry_for_any().retry_delay(Duration::ZERO).start()?;
    ///     assert_eq!(child.wait()?, 5);
    ///     Ok(())
    /// }
    /// ```
    pub fn retry_args(mut self, args: F::Args) -> Self {
        self.retry_args = Some(args);
        self
    }

    fn settings_mut(&mut self) -> &mut ProcessSettings {
        &mut self.settings
    }
}

impl<F: Target<M>, M: 'static, A: Arguments<F::Args>> ProcessBuilder<'_, F, M, A> {
    /// Starts the process. Its state watches from this moment on, so it misses nothing that happens until it runs.
    ///
    /// # Errors
    /// [`Error::NotInitialised`], [`Error::Target`], [`Error::Carry`], those of the system.
    ///
    /// ```
    /// use zproc::{Context, Result};
    ///
    /// fn main() -> Result<()> {
    ///     zproc::init();
    ///     let ctx = Context::new()?;
    ///     assert_eq!(ctx.process(|| 5).start()?.wait()?, 5);
    ///     Ok(())
    /// }
    /// ```
    pub fn start(self) -> Result<Process<F::Output>> {
        let ctx = self.ctx;
        let process = self.deferred()?;
        ctx.start_new([process.supervised()])?;
        Ok(process)
    }

    /// Makes the process without starting it; [`Process::start`] or [`Context::start_all`] does.
    ///
    /// # Errors
    /// [`Error::NotInitialised`], [`Error::Target`], [`Error::Carry`].
    ///
    /// ```
    /// use zproc::{Context, Result};
    ///
    /// fn main() -> Result<()> {
    ///     zproc::init();
    ///     let ctx = Context::new()?;
    ///     let later = ctx.process(|| 5).deferred()?;
    ///     ctx.start_all()?;
    ///     assert_eq!(later.wait()?, 5);
    ///     Ok(())
    /// }
    /// ```
    pub fn deferred(self) -> Result<Process<F::Output>> {
        let retry_args = self.retry_args.as_ref().map(encode_args).transpose()?;
        let args = encode_args(&self.args.take())?;
        let supervised = make::<M, F>(self.ctx, self.target, args, retry_args, self.settings)?;
        Ok(Process::new(supervised))
    }
}

fn encode_args<A: Serialize>(args: &A) -> Result<Vec<u8>> {
    to_bytes("the arguments", args)
}

/// Makes a process of a context.
pub(crate) fn make<M: 'static, F: Target<M>>(
    ctx: &Context,
    target: F,
    args: Vec<u8>,
    retry_args: Option<Vec<u8>>,
    settings: ProcessSettings,
) -> Result<Arc<Supervised>> {
    ctx.add(Launch {
        target: locate::<M, F>(target)?,
        name: type_name::<F>().into(),
        args,
        retry_args,
        output: (TypeId::of::<F::Output>(), type_name::<F::Output>()),
        state: ctx.base(),
        settings,
        fds: Vec::new(),
        tied: true,
    })
}
