//! `call_when_*`: processes that call a handler for each update that one waits for.

use std::any::{TypeId, type_name};
use std::marker::PhantomData;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use zproc_spawn::entry::{self, Run};

use super::Context;
use crate::error::{Error, Result};
use crate::key::ToKey;
use crate::process::{
    Arguments, Call, Given, Launch, Missing, Process, ProcessSettings, Targets, from_bytes, settings, to_bytes,
};
use crate::snapshot::Snapshot;
use crate::state::State;
use crate::value::ToValue;
use crate::watch::{Standing, Verdict};

#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be called for updates",
    note = "a handler is a function, or a closure that captures nothing, of (Snapshot<'_>, &State, then up to three arguments) \
            that returns () or zproc::Result<()>"
)]
/// A function that is called for updates: of a [`Snapshot`], which is the state right after the update, a [`State`], and up
/// to three arguments, which returns nothing or a [`Result`] of nothing.
///
/// What it changes through its state is no update to it. As a target, it captures nothing.
///
/// ```
/// use zproc::{Context, Handler, Result, Snapshot, State};
///
/// fn is_handler<M, H: Handler<M>>(_: H) {}
/// is_handler(|_: Snapshot<'_>, _: &State| ());
/// is_handler(|now: Snapshot<'_>, state: &State, limit: u32| -> Result<()> {
///     if now.get::<u32>("cookies")? > Some(limit) { state.insert("too many", true) } else { Ok(()) }
/// });
/// ```
pub trait Handler<M>: Copy + Send + 'static {
    /// Its arguments behind snapshot and state.
    type Args: Serialize + DeserializeOwned;
    #[doc(hidden)]
    fn handle(self, snapshot: Snapshot<'_>, state: &State, args: Self::Args) -> Result<()>;
}

/// What a handler may return: nothing, or a [`Result`] of nothing.
///
/// ```
/// fn may_be_returned<R: zproc::Handled>() {}
/// may_be_returned::<()>();
/// may_be_returned::<zproc::Result<()>>();
/// ```
pub trait Handled {
    #[doc(hidden)]
    fn handled(self) -> Result<()>;
}

impl Handled for () {
    fn handled(self) -> Result<()> {
        Ok(())
    }
}

impl Handled for Result<()> {
    fn handled(self) -> Result<()> {
        self
    }
}

macro_rules! handler {
    ($args:ty, ($($argument:ident)*)) => {
        impl<F, R, $($argument,)*> Handler<fn($($argument),*) -> R> for F
        where
            F: for<'a, 'b> Fn(Snapshot<'a>, &'b State $(, $argument)*) -> R + Copy + Send + 'static,
            R: Handled,
            $($argument: Serialize + DeserializeOwned + 'static,)*
        {
            type Args = $args;
            #[allow(non_snake_case, unused_parens, reason = "names and places of generated arguments")]
            fn handle(self, snapshot: Snapshot<'_>, state: &State, args: Self::Args) -> Result<()> {
                let ($($argument),*) = args;
                self(snapshot, state $(, $argument)*).handled()
            }
        }
    };
}
handler!((), ());
handler!(A, (A));
handler!((A, B), (A B));
handler!((A, B, C), (A B C));

/// How handlers with this marker are run.
struct RunHandler<M>(PhantomData<M>);

impl<M: 'static, H: Handler<M>> Run<Targets, H> for RunHandler<M> {
    type Pointer = fn();

    fn run(handler: H, call: &mut Call<'_>) {
        let run = || {
            let (standing, args): (Standing, Vec<u8>) = from_bytes("the watch of a handler", call.args)?;
            let state = call.home.state()?;
            let begins = call.home.begins_standing();
            let begun = || call.home.note_standing();
            standing.run(&state, begins, begun, |snapshot| {
                handler.handle(snapshot, &state, from_bytes("the arguments", &args)?)
            })?;
            to_bytes("the result", &())
        };
        call.outcome = Some(run());
    }
}

/// A process that calls a handler for updates, to be given its settings and to be started. Made by
/// [`Context::call_when_change`] and its kin.
///
/// ```
/// use std::time::Duration;
/// use zproc::{Context, Error, Result, Snapshot, State};
///
/// fn greet(now: Snapshot<'_>, state: &State, word: String) -> Result<()> {
///     let guest: String = now.get("guest")?.unwrap_or_default();
///     state.insert("greeting", format!("{word} {guest}"))
/// }
///
/// fn main() -> Result<()> {
///     zproc::init();
///     let ctx = Context::new()?;
///     let greeter = ctx.call_when_change(["guest"], greet)
///         .args("hello".into())
///         .timeout(Duration::from_secs(1))
///         .start()?;
///     ctx.state().insert("guest", "Ada")?;
///     let now = ctx.state().get_when_available("greeting")?;
///     assert_eq!(now.get("greeting")?, Some("hello Ada".to_owned()));
///     let Err(Error::ProcessWait { source: Some(source), .. }) = greeter.wait() else { panic!() };
///     assert_eq!(source.type_name(), "zproc::Error::Timeout"); // nobody else came
///     Ok(())
/// }
/// ```
#[must_use = "a handler is not called before `start` is called"]
pub struct HandlerBuilder<'c, H: Handler<M>, M, A = Missing> {
    ctx: &'c Context,
    handler: H,
    standing: Result<Standing>,
    args: A,
    settings: ProcessSettings,
    marker: PhantomData<fn() -> M>,
}

impl<'c, H: Handler<M>, M: 'static> HandlerBuilder<'c, H, M> {
    fn new(ctx: &'c Context, standing: Result<Standing>, handler: H) -> Self {
        const {
            assert!(
                size_of::<H>() == 0,
                "the handler captures something, which another process does not have"
            )
        };
        Self {
            ctx,
            handler,
            standing,
            args: Missing,
            settings: ProcessSettings::new(),
            marker: PhantomData,
        }
    }

    /// The arguments of the handler behind snapshot and state: the only one as it is, several as a tuple.
    ///
    /// ```
    /// use zproc::{Context, Result, Snapshot, State};
    ///
    /// fn main() -> Result<()> {
    ///     zproc::init();
    ///     let ctx = Context::new()?;
    ///     let handler = |_: Snapshot<'_>, state: &State, n: u32| state.insert("n", n);
    ///     ctx.call_when_available("go", handler).args(5).start()?;
    ///     ctx.state().insert("go", true)?;
    ///     ctx.state().get_when_equal("n", 5)?;
    ///     Ok(())
    /// }
    /// ```
    pub fn args(self, args: H::Args) -> HandlerBuilder<'c, H, M, Given<H::Args>> {
        HandlerBuilder {
            ctx: self.ctx,
            handler: self.handler,
            standing: self.standing,
            args: Given(args),
            settings: self.settings,
            marker: PhantomData,
        }
    }
}

impl<H: Handler<M>, M: 'static, A> HandlerBuilder<'_, H, M, A> {
    settings!();

    fn settings_mut(&mut self) -> &mut ProcessSettings {
        &mut self.settings
    }

    /// Passes over updates that come while the handler runs.
    ///
    /// ```
    /// use zproc::{Context, Result, Snapshot, State};
    ///
    /// fn main() -> Result<()> {
    ///     zproc::init();
    ///     let ctx = Context::new()?;
    ///     ctx.call_when_change(["door"], |_: Snapshot<'_>, _: &State| ()).live().start()?;
    ///     Ok(())
    /// }
    /// ```
    pub fn live(mut self) -> Self {
        if let Ok(standing) = &mut self.standing {
            standing.live = true;
        }
        self
    }

    /// Counts updates that write a value equal to the one that was there.
    ///
    /// ```
    /// use zproc::{Context, Result, Snapshot, State};
    ///
    /// fn main() -> Result<()> {
    ///     zproc::init();
    ///     let ctx = Context::new()?;
    ///     ctx.call_when_change(["beat"], |_: Snapshot<'_>, _: &State| ()).duplicates().start()?;
    ///     Ok(())
    /// }
    /// ```
    pub fn duplicates(mut self) -> Self {
        if let Ok(standing) = &mut self.standing {
            standing.duplicates = true;
        }
        self
    }

    /// Ends the process with [`Error::Timeout`] if nothing that matches happens for so long.
    ///
    /// ```
    /// use std::time::Duration;
    /// use zproc::{Context, Error, Result, Snapshot, State};
    ///
    /// fn main() -> Result<()> {
    ///     zproc::init();
    ///     let ctx = Context::new()?;
    ///     let handler = |_: Snapshot<'_>, _: &State| ();
    ///     let process = ctx.call_when_change(["never"], handler).timeout(Duration::from_millis(10)).start()?;
    ///     assert!(matches!(process.wait(), Err(Error::ProcessWait { exit_code: 1, .. })));
    ///     Ok(())
    /// }
    /// ```
    pub fn timeout(mut self, timeout: Duration) -> Self {
        if let Ok(standing) = &mut self.standing {
            standing.timeout = Some(timeout);
        }
        self
    }
}

impl<H: Handler<M>, M: 'static, A: Arguments<H::Args>> HandlerBuilder<'_, H, M, A> {
    /// Starts the process. It misses nothing that happens after this call has returned. It ends with the first error of the
    /// handler, or when it is stopped.
    ///
    /// ```
    /// use zproc::{Context, Result, Snapshot, State};
    ///
    /// fn main() -> Result<()> {
    ///     zproc::init();
    ///     let ctx = Context::new()?;
    ///     let handler = |now: Snapshot<'_>, state: &State| state.insert("seen", now.get::<u32>("n")?.unwrap());
    ///     let process = ctx.call_when_change(["n"], handler).start()?;
    ///     ctx.state().insert("n", 5u32)?;
    ///     ctx.state().get_when_equal("seen", 5u32)?;
    ///     process.stop()?;
    ///     Ok(())
    /// }
    /// ```
    pub fn start(self) -> Result<Process<()>> {
        let ctx = self.ctx;
        let process = self.deferred()?;
        ctx.start_new([process.supervised()])?;
        Ok(process)
    }

    /// Makes the process without starting it; it watches from its start on.
    ///
    /// ```
    /// use zproc::{Context, Result, Snapshot, State};
    ///
    /// fn main() -> Result<()> {
    ///     zproc::init();
    ///     let ctx = Context::new()?;
    ///     ctx.call_when_change(["n"], |_: Snapshot<'_>, _: &State| ()).deferred()?;
    ///     ctx.start_all()
    /// }
    /// ```
    pub fn deferred(self) -> Result<Process<()>> {
        let standing = self.standing?;
        standing.check()?;
        let args = to_bytes("the arguments", &self.args.take())?;
        let target = entry::locate::<Targets, H, RunHandler<M>>(self.handler).map_err(|reason| Error::Target {
            name: type_name::<H>().into(),
            reason,
        })?;
        let supervised = self.ctx.add(Launch {
            target,
            name: type_name::<H>().into(),
            args: to_bytes("the watch of a handler", &(standing, args))?,
            retry_args: None,
            output: (TypeId::of::<()>(), "()"),
            state: self.ctx.base(),
            settings: self.settings,
            fds: Vec::new(),
            tied: true,
        })?;
        Ok(Process::new(supervised))
    }
}

/// Each of these starts a process of its own, which calls a handler once for each update that matches, in order, from the
/// moment on at which `start` returned. A condition that holds already at that moment calls it once for it.
///
/// "Once" holds for handlers that fail, too: a retry ([`retry_for`](HandlerBuilder::retry_for)) or a restart goes on behind
/// the update for which the handler failed, and misses none of those that came meanwhile. A handler that must have another
/// try at the same update has it by itself.
///
/// A handler that is slower than the updates come falls behind, and out of the history if that is not long enough
/// ([`Builder::history`](crate::Builder::history)): then its process ends with
/// [`Error::Lagged`](crate::Error::Lagged).
impl Context {
    /// Calls `handler` when one of `keys` changes, of any key if there are none.
    ///
    /// ```
    /// use zproc::{Context, Result, Snapshot, State};
    ///
    /// fn count(_: Snapshot<'_>, state: &State) -> Result<()> {
    ///     state.atomic(|dict| dict.modify_or("changes", 0, |n: u32| n + 1)).map(drop)
    /// }
    ///
    /// fn main() -> Result<()> {
    ///     zproc::init();
    ///     let ctx = Context::new()?;
    ///     ctx.call_when_change(["door"], count).start()?;
    ///     ctx.state().insert("door", "open")?;
    ///     ctx.state().insert("door", "shut")?;
    ///     ctx.state().get_when_equal("changes", 2u32)?;
    ///     Ok(())
    /// }
    /// ```
    pub fn call_when_change<K: ToKey, M: 'static, H: Handler<M>>(
        &self,
        keys: impl IntoIterator<Item = K>,
        handler: H,
    ) -> HandlerBuilder<'_, H, M> {
        HandlerBuilder::new(self, Standing::change(keys), handler)
    }

    /// Calls `handler` when a key changes that is none of `keys`.
    ///
    /// ```
    /// use zproc::{Context, Result, Snapshot, State};
    ///
    /// fn main() -> Result<()> {
    ///     zproc::init();
    ///     let ctx = Context::new()?;
    ///     let handler = |_: Snapshot<'_>, state: &State| state.insert("seen", true);
    ///     ctx.call_when_change_except(["noise"], handler).start()?;
    ///     ctx.state().insert("noise", 1)?;
    ///     ctx.state().insert("door", "open")?;
    ///     ctx.state().get_when_available("seen")?;
    ///     Ok(())
    /// }
    /// ```
    pub fn call_when_change_except<K: ToKey, M: 'static, H: Handler<M>>(
        &self,
        keys: impl IntoIterator<Item = K>,
        handler: H,
    ) -> HandlerBuilder<'_, H, M> {
        HandlerBuilder::new(self, Standing::except(keys), handler)
    }

    /// Calls `handler` when `test` holds, a function or a closure that captures nothing.
    ///
    /// ```
    /// use zproc::{Context, Result, Snapshot, State};
    ///
    /// fn main() -> Result<()> {
    ///     zproc::init();
    ///     let ctx = Context::new()?;
    ///     let many = |now: &Snapshot<'_>| Ok(now.get::<u32>("cookies")? > Some(10));
    ///     ctx.call_when(many, |_: Snapshot<'_>, state: &State| state.insert("full", true)).start()?;
    ///     ctx.state().insert("cookies", 12u32)?;
    ///     ctx.state().get_when_available("full")?;
    ///     Ok(())
    /// }
    /// ```
    pub fn call_when<V, T, M: 'static, H: Handler<M>>(&self, test: T, handler: H) -> HandlerBuilder<'_, H, M>
    where
        V: Verdict + 'static,
        T: Fn(&Snapshot<'_>) -> V + Copy + 'static,
    {
        HandlerBuilder::new(self, Ok(Standing::test(test)), handler)
    }

    /// Calls `handler` when `key` is there and equals `value`.
    ///
    /// ```
    /// use zproc::{Context, Result, Snapshot, State};
    ///
    /// fn main() -> Result<()> {
    ///     zproc::init();
    ///     let ctx = Context::new()?;
    ///     ctx.state().insert("oranges", 5)?; // holds already
    ///     ctx.call_when_equal("oranges", 5, |_: Snapshot<'_>, state: &State| state.insert("seen", true)).start()?;
    ///     ctx.state().get_when_available("seen")?;
    ///     Ok(())
    /// }
    /// ```
    pub fn call_when_equal<M: 'static, H: Handler<M>>(
        &self,
        key: impl ToKey,
        value: impl ToValue,
        handler: H,
    ) -> HandlerBuilder<'_, H, M> {
        HandlerBuilder::new(self, Standing::equal(key, value), handler)
    }

    /// Calls `handler` when `key` is there and differs from `value`.
    ///
    /// ```
    /// use zproc::{Context, Result, Snapshot, State};
    ///
    /// fn main() -> Result<()> {
    ///     zproc::init();
    ///     let ctx = Context::new()?;
    ///     ctx.call_when_not_equal("apples", 5, |_: Snapshot<'_>, state: &State| state.insert("seen", true)).start()?;
    ///     ctx.state().insert("apples", 4)?;
    ///     ctx.state().get_when_available("seen")?;
    ///     Ok(())
    /// }
    /// ```
    pub fn call_when_not_equal<M: 'static, H: Handler<M>>(
        &self,
        key: impl ToKey,
        value: impl ToValue,
        handler: H,
    ) -> HandlerBuilder<'_, H, M> {
        HandlerBuilder::new(self, Standing::not_equal(key, value), handler)
    }

    /// Calls `handler` when `key` is there and is none.
    ///
    /// ```
    /// use zproc::{Context, Result, Snapshot, State};
    ///
    /// fn main() -> Result<()> {
    ///     zproc::init();
    ///     let ctx = Context::new()?;
    ///     ctx.call_when_none("oven", |_: Snapshot<'_>, state: &State| state.insert("cold", true)).start()?;
    ///     ctx.state().insert("oven", None::<u32>)?;
    ///     ctx.state().get_when_available("cold")?;
    ///     Ok(())
    /// }
    /// ```
    pub fn call_when_none<M: 'static, H: Handler<M>>(&self, key: impl ToKey, handler: H) -> HandlerBuilder<'_, H, M> {
        HandlerBuilder::new(self, Standing::none(key), handler)
    }

    /// Calls `handler` when `key` is there and is not none.
    ///
    /// ```
    /// use zproc::{Context, Result, Snapshot, State};
    ///
    /// fn main() -> Result<()> {
    ///     zproc::init();
    ///     let ctx = Context::new()?;
    ///     ctx.call_when_not_none("oven", |_: Snapshot<'_>, state: &State| state.insert("hot", true)).start()?;
    ///     ctx.state().insert("oven", Some(180u32))?;
    ///     ctx.state().get_when_available("hot")?;
    ///     Ok(())
    /// }
    /// ```
    pub fn call_when_not_none<M: 'static, H: Handler<M>>(
        &self,
        key: impl ToKey,
        handler: H,
    ) -> HandlerBuilder<'_, H, M> {
        HandlerBuilder::new(self, Standing::not_none(key), handler)
    }

    /// Calls `handler` when `key` is there.
    ///
    /// ```
    /// use zproc::{Context, Result, Snapshot, State};
    ///
    /// fn main() -> Result<()> {
    ///     zproc::init();
    ///     let ctx = Context::new()?;
    ///     ctx.call_when_available("door", |_: Snapshot<'_>, state: &State| state.insert("seen", true)).start()?;
    ///     ctx.state().insert("door", "open")?;
    ///     ctx.state().get_when_available("seen")?;
    ///     Ok(())
    /// }
    /// ```
    pub fn call_when_available<M: 'static, H: Handler<M>>(
        &self,
        key: impl ToKey,
        handler: H,
    ) -> HandlerBuilder<'_, H, M> {
        HandlerBuilder::new(self, Standing::available(key), handler)
    }
}
