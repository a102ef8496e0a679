//! Several processes at once.

use std::marker::PhantomData;
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::Context;
use crate::error::Result;
use crate::process::{
    Arguments, Given, Missing, Process, ProcessSettings, Supervised, Target, make, settings, to_bytes,
};

/// Targets for [`Context::process_factory`]: an array, a slice's worth in a vector, or a tuple, all with the same arguments
/// and results.
///
/// ```
/// use zproc::{Context, Result, State};
///
/// fn main() -> Result<()> {
///     zproc::init();
///     let ctx = Context::new()?;
///     let pair = (|n: u32| n + 1, |_: State, n: u32| n + 2); // a tuple may mix kinds
///     let values: Result<Vec<u32>> = ctx.process_factory(pair).args(5).start()?.iter().map(|one| one.wait()).collect();
///     assert_eq!(values?, [6, 7]);
///     Ok(())
/// }
/// ```
pub trait TargetList<M> {
    /// The arguments of each.
    type Args: Serialize + DeserializeOwned;
    /// What each returns.
    type Output: Serialize + DeserializeOwned + 'static;
    #[doc(hidden)]
    fn make(self, batch: &Batch<'_>, made: &mut Made) -> Result<()>;
}

/// What is the same for all processes of a factory.
#[doc(hidden)]
pub struct Batch<'c> {
    ctx: &'c Context,
    count: usize,
    args: Vec<u8>,
    retry_args: Option<Vec<u8>>,
    settings: ProcessSettings,
}

/// The processes that were made, also when the next one could not be.
#[doc(hidden)]
#[derive(Default)]
pub struct Made(Vec<Arc<Supervised>>);

impl Batch<'_> {
    fn make<M: 'static, F: Target<M>>(&self, target: F, made: &mut Made) -> Result<()> {
        for _ in 0..self.count {
            let (args, retry_args) = (self.args.clone(), self.retry_args.clone());
            made.0
                .push(make::<M, F>(self.ctx, target, args, retry_args, self.settings.clone())?);
        }
        Ok(())
    }
}

impl<M: 'static, F: Target<M>, const N: usize> TargetList<(M,)> for [F; N] {
    type Args = F::Args;
    type Output = F::Output;

    fn make(self, batch: &Batch<'_>, made: &mut Made) -> Result<()> {
        TargetList::<(M,)>::make(Vec::from(self), batch, made)
    }
}

impl<M: 'static, F: Target<M>> TargetList<(M,)> for Vec<F> {
    type Args = F::Args;
    type Output = F::Output;

    fn make(self, batch: &Batch<'_>, made: &mut Made) -> Result<()> {
        self.into_iter().try_for_each(|target| batch.make::<M, F>(target, made))
    }
}

macro_rules! tuple {
    ($first:ident $first_marker:ident $(, $other:ident $marker:ident)*) => {
        impl<$first_marker: 'static, $first: Target<$first_marker> $(, $marker: 'static, $other)*>
            TargetList<($first_marker, $($marker,)* ())> for ($first, $($other,)*)
        where
            $($other: Target<$marker, Args = $first::Args, Output = $first::Output>,)*
        {
            type Args = $first::Args;
            type Output = $first::Output;

            #[allow(non_snake_case, reason = "names of generated variables")]
            fn make(self, batch: &Batch<'_>, made: &mut Made) -> Result<()> {
                let ($first, $($other,)*) = self;
                batch.make::<$first_marker, $first>($first, made)?;
                $(batch.make::<$marker, $other>($other, made)?;)*
                Ok(())
            }
        }
    };
}
tuple!(F M);
tuple!(F M, G N);
tuple!(F M, G N, H O);
tuple!(F M, G N, H O, I P);

/// Several processes to be started, with their settings. Made by [`Context::process_factory`].
///
/// ```
/// use zproc::{Context, Result};
///
/// fn main() -> Result<()> {
///     zproc::init();
///     let ctx = Context::new()?;
///     let all = ctx.process_factory([|| 5]).count(3).start()?;
///     assert_eq!(all.len(), 3);
///     assert_eq!(ctx.wait_all(None)?.len(), 3);
///     Ok(())
/// }
/// ```
#[must_use = "processes are not started before `start` is called"]
pub struct Factory<'c, L: TargetList<M>, M, A = Missing> {
    ctx: &'c Context,
    targets: L,
    count: usize,
    args: A,
    retry_args: Option<L::Args>,
    settings: ProcessSettings,
    marker: PhantomData<fn() -> M>,
}

impl<'c, L: TargetList<M>, M: 'static> Factory<'c, L, M> {
    pub(super) fn new(ctx: &'c Context, targets: L) -> Self {
        Self {
            ctx,
            targets,
            count: 1,
            args: Missing,
            retry_args: None,
            settings: ProcessSettings::new(),
            marker: PhantomData,
        }
    }

    /// The arguments that each gets.
    ///
    /// ```
    /// use zproc::{Context, Result};
    ///
    /// fn main() -> Result<()> {
    ///     zproc::init();
    ///     let ctx = Context::new()?;
    ///     let all = ctx.process_factory([|n: u32| n + 1]).args(5).start()?;
    ///     assert_eq!(all[0].wait()?, 6);
    ///     Ok(())
    /// }
    /// ```
    pub fn args(self, args: L::Args) -> Factory<'c, L, M, Given<L::Args>> {
        Factory {
            ctx: self.ctx,
            targets: self.targets,
            count: self.count,
            args: Given(args),
            retry_args: self.retry_args,
            settings: self.settings,
            marker: PhantomData,
        }
    }
}

impl<L: TargetList<M>, M: 'static, A> Factory<'_, L, M, A> {
    settings!();

    /// How many processes each target gets: 1 if it is not set.
    ///
    /// ```
    /// use zproc::{Context, Result};
    ///
    /// fn main() -> Result<()> {
    ///     zproc::init();
    ///     let ctx = Context::new()?;
    ///     assert_eq!(ctx.process_factory([|| 5]).count(2).start()?.len(), 2);
    ///     Ok(())
    /// }
    /// ```
    pub fn count(mut self, count: usize) -> Self {
        self.count = count;
        self
    }

    /// Arguments that a target gets instead when it is run again after a failure.
    ///
    /// ```
    /// use zproc::{Context, Result};
    ///
    /// fn main() -> Result<()> {
    ///     zproc::init();
    ///     let ctx = Context::new()?;
    ///     ctx.process_factory([|n: u32| n + 1]).args(5).retry_args(6).retry_for_any().start()?;
    ///     Ok(())
    /// }
    /// ```
    pub fn retry_args(mut self, args: L::Args) -> Self {
        self.retry_args = Some(args);
        self
    }

    fn settings_mut(&mut self) -> &mut ProcessSettings {
        &mut self.settings
    }
}

impl<L: TargetList<M>, M: 'static, A: Arguments<L::Args>> Factory<'_, L, M, A> {
    /// Starts them all, in order.
    ///
    /// # Errors
    /// As [`ProcessBuilder::start`](crate::ProcessBuilder::start). Those that were started before go on.
    ///
    /// ```
    /// use zproc::{Context, Result};
    ///
    /// fn main() -> Result<()> {
    ///     zproc::init();
    ///     let ctx = Context::new()?;
    ///     for process in ctx.process_factory([|| 5, || 6]).start()? {
    ///         assert!(process.wait()? > 4);
    ///     }
    ///     Ok(())
    /// }
    /// ```
    pub fn start(self) -> Result<Vec<Process<L::Output>>> {
        let ctx = self.ctx;
        let all = self.deferred()?;
        ctx.start_new(all.iter().map(Process::supervised))?;
        Ok(all)
    }

    /// Makes them without starting them.
    ///
    /// # Errors
    /// As [`ProcessBuilder::deferred`](crate::ProcessBuilder::deferred). Then none is made.
    ///
    /// ```
    /// use zproc::{Context, Result};
    ///
    /// fn main() -> Result<()> {
    ///     zproc::init();
    ///     let ctx = Context::new()?;
    ///     let all = ctx.process_factory([|| 5]).count(2).deferred()?;
    ///     ctx.start_all()?;
    ///     assert_eq!(all[1].wait()?, 5);
    ///     Ok(())
    /// }
    /// ```
    pub fn deferred(self) -> Result<Vec<Process<L::Output>>> {
        let retry_args = self.retry_args.as_ref().map(|args| to_bytes("the arguments", args));
        let batch = Batch {
            ctx: self.ctx,
            count: self.count,
            retry_args: retry_args.transpose()?,
            args: to_bytes("the arguments", &self.args.take())?,
            settings: self.settings,
        };
        let mut made = Made::default();
        if let Err(error) = self.targets.make(&batch, &mut made) {
            self.ctx.forget(&made.0.iter().collect::<Vec<_>>());
            return Err(error);
        }
        Ok(made.0.into_iter().map(Process::new).collect())
    }
}
