//! `process_map`: a function of many items, run by workers.
//!
//! `ring` is the memory by which items and results travel, and says what becomes of them when a worker dies; `worker` is the
//! worker's side; `pool` and `results` are the parent's; `target` says what can be run; `task` lets results be taken later,
//! from a `queue`.

mod pool;
mod queue;
mod results;
mod ring;
mod target;
mod task;
mod worker;

use std::any::type_name;
use std::marker::PhantomData;
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;
use zproc_spawn::entry;

use crate::context::Context;
use crate::error::{Error, Result};
use crate::process::{AnyProcess, Arguments, Given, Missing, to_bytes};
pub(crate) use pool::Workers;
pub use results::{MapResults, Progress};
use ring::MOST_WORKERS;
pub use target::MapTarget;
use target::{Chunks, RunItems};
pub(crate) use task::Tasks;
pub use task::{Task, TaskResults};
use worker::TaskOrders;

/// A function of many items, to be given its settings and to be started. Made by [`Context::process_map`].
///
/// As an iterator it starts itself, and an error of that is its only item.
///
/// ```
/// use zproc::{Context, Result};
///
/// fn main() -> Result<()> {
///     zproc::init();
///     let ctx = Context::new()?;
///     let mut sum = 0;
///     for product in ctx.process_map(|n: u64, factor: u64| n * factor, 1..=100).args(2).count(2) {
///         sum += product?;
///     }
///     assert_eq!(sum, 10_100);
///     Ok(())
/// }
/// ```
#[must_use = "items are not run before `start` is called"]
pub struct MapBuilder<'c, 'p, F, M, I, A = Missing> {
    ctx: &'c Context,
    target: F,
    items: I,
    args: A,
    count: Option<usize>,
    new: bool,
    progress: Option<Box<dyn FnMut(Progress) + 'p>>,
    marker: PhantomData<fn() -> M>,
}

impl<'c, 'p, F, M, I> MapBuilder<'c, 'p, F, M, I>
where
    I: Iterator<Item: Serialize + DeserializeOwned + 'static>,
    F: MapTarget<M, I::Item>,
{
    /// Arguments of the function behind the item, the same for all items: the only one as it is, several as a tuple.
    ///
    /// ```
    /// use zproc::{Context, Result};
    ///
    /// fn main() -> Result<()> {
    ///     zproc::init();
    ///     let ctx = Context::new()?;
    ///     let powers: Result<Vec<u64>> = ctx.process_map(u64::pow, [2, 3]).args(3).start()?.collect();
    ///     assert_eq!(powers?, [8, 27]);
    ///     Ok(())
    /// }
    /// ```
    pub fn args(self, args: F::Args) -> MapBuilder<'c, 'p, F, M, I, Given<F::Args>> {
        MapBuilder {
            ctx: self.ctx,
            target: self.target,
            items: self.items,
            args: Given(args),
            count: self.count,
            new: self.new,
            progress: self.progress,
            marker: PhantomData,
        }
    }
}

impl<'c, 'p, F, M, I, A> MapBuilder<'c, 'p, F, M, I, A> {
    /// How many workers there are to be, 256 at most: one for each CPU if it is not set. Workers of earlier maps are used again; further
    /// ones are started, and unused ones end, unless another map still needs them.
    ///
    /// ```
    /// use zproc::{Context, Result};
    ///
    /// fn main() -> Result<()> {
    ///     zproc::init();
    ///     let ctx = Context::new()?;
    ///     ctx.process_map(|n: u32| n, 0..10).count(3).start()?.for_each(drop);
    ///     assert_eq!(ctx.workers().len(), 3);
    ///     Ok(())
    /// }
    /// ```
    pub fn count(mut self, count: usize) -> Self {
        self.count = Some(count.max(1));
        self
    }

    /// Starts new workers, as many as there are to be. Those that there are end, unless another map still needs them.
    ///
    /// ```
    /// use zproc::{Context, Result};
    ///
    /// fn main() -> Result<()> {
    ///     zproc::init();
    ///     let ctx = Context::new()?;
    ///     ctx.process_map(|n: u32| n, 0..10).count(1).start()?.for_each(drop);
    ///     let old = ctx.workers()[0].pid();
    ///     ctx.process_map(|n: u32| n, 0..10).count(2).new_workers().start()?.for_each(drop);
    ///     let living = ctx.workers().into_iter().filter(|worker| worker.is_alive() && worker.pid() != old);
    ///     assert_eq!(living.count(), 2);
    ///     Ok(())
    /// }
    /// ```
    pub fn new_workers(mut self) -> Self {
        self.new = true;
        self
    }

    /// Calls a function each time that results have come, in the thread that asks for them.
    ///
    /// ```
    /// use zproc::{Context, Result};
    ///
    /// fn main() -> Result<()> {
    ///     zproc::init();
    ///     let ctx = Context::new()?;
    ///     let show = |progress: zproc::Progress| println!("{} of {:?}", progress.done, progress.total);
    ///     ctx.process_map(|n: u32| n, 0..10).progress(show).start()?.for_each(drop);
    ///     Ok(())
    /// }
    /// ```
    pub fn progress<'q>(self, progress: impl FnMut(Progress) + 'q) -> MapBuilder<'c, 'q, F, M, I, A> {
        MapBuilder {
            ctx: self.ctx,
            target: self.target,
            items: self.items,
            args: self.args,
            count: self.count,
            new: self.new,
            progress: Some(Box::new(progress)),
            marker: PhantomData,
        }
    }
}

impl<'p, F, M, I, A> MapBuilder<'_, 'p, F, M, I, A>
where
    M: 'static,
    I: Iterator<Item: Serialize + DeserializeOwned + 'static>,
    F: MapTarget<M, I::Item>,
    A: Arguments<F::Args>,
{
    /// Starts the work. Items are taken from the iterator as far ahead of the results as keeps the workers busy: by this
    /// call, and then whenever a result is asked for.
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
    ///     let lengths = ctx.process_map(|text: String| text.len(), ["a".to_owned(), "bc".to_owned()]).start()?;
    ///     assert_eq!(lengths.collect::<Result<Vec<_>>>()?, [1, 2]);
    ///     Ok(())
    /// }
    /// ```
    pub fn start(self) -> Result<MapResults<'p, I, F::Output>> {
        let (items, progress) = (self.items, self.progress);
        let begun = begin::<F, M, I::Item>(self.ctx, self.target, &self.args.take(), self.count, self.new)?;
        MapResults::new(begun.0, begun.1, items, progress)
    }

    /// Starts the work in a thread of its own, which goes on to its end, or rests while 65,536 results wait; they are taken
    /// by [`Context::pull_results_for_task`]. A progress callback is not called. A panic of the iterator is an
    /// [`Error::Remote`] behind the results before it, and the last.
    ///
    /// ```
    /// use zproc::{Context, Result};
    ///
    /// fn main() -> Result<()> {
    ///     zproc::init();
    ///     let ctx = Context::new()?;
    ///     let task = ctx.process_map(|n: u64| n * n, vec![1, 2, 3]).submit()?;
    ///     let squares: Result<Vec<u64>> = ctx.pull_results_for_task(&task)?.collect();
    ///     assert_eq!(squares?, [1, 4, 9]);
    ///     Ok(())
    /// }
    /// ```
    pub fn submit(self) -> Result<Task>
    where
        I: Send + 'static,
        F::Output: Send,
    {
        let (ctx, items) = (self.ctx, self.items);
        let (workers, task) = begin::<F, M, I::Item>(ctx, self.target, &self.args.take(), self.count, self.new)?;
        let pool = Arc::clone(&workers);
        let added = ctx.tasks().add::<F::Output>(move |hand_over| {
            // Signals are told to who takes the results. Here they would stand where the result of an item belongs.
            let results = MapResults::new(workers, task, items, None).map(MapResults::without_signals);
            match results {
                // It ends early when nobody can take them any more.
                Ok(mut results) => drop(results.all(hand_over)),
                Err(error) => drop(hand_over(Err(error))),
            }
        });
        added.inspect_err(|_| pool.abandon(task))
    }
}

fn begin<F: MapTarget<M, T>, M: 'static, T: DeserializeOwned + 'static>(
    ctx: &Context,
    target: F,
    args: &F::Args,
    count: Option<usize>,
    new: bool,
) -> Result<(Arc<Workers>, u32)> {
    const {
        assert!(
            size_of::<F>() == 0,
            "the function captures something, which another process does not have"
        )
    };
    crate::process::check_init()?;
    let target = entry::locate::<Chunks, F, RunItems<M, T>>(target).map_err(|reason| Error::Target {
        name: type_name::<F>().into(),
        reason,
    })?;
    let orders = TaskOrders {
        target,
        args: to_bytes("the arguments", args)?,
    };
    let cpus = || {
        std::thread::available_parallelism()
            .map_or(1, usize::from)
            .min(MOST_WORKERS)
    };
    let workers = ctx.worker_pool();
    let task = workers.begin(&orders, count.unwrap_or_else(cpus), new)?;
    Ok((Arc::clone(workers), task))
}

impl<'p, F, M, I, A> IntoIterator for MapBuilder<'_, 'p, F, M, I, A>
where
    M: 'static,
    I: Iterator<Item: Serialize + DeserializeOwned + 'static>,
    F: MapTarget<M, I::Item>,
    A: Arguments<F::Args>,
{
    type Item = Result<F::Output>;
    type IntoIter = std::iter::Chain<
        std::option::IntoIter<Result<F::Output>>,
        std::iter::Flatten<std::option::IntoIter<MapResults<'p, I, F::Output>>>,
    >;

    fn into_iter(self) -> Self::IntoIter {
        let (failed, results) = match self.start() {
            Ok(results) => (None, Some(results)),
            Err(error) => (Some(Err(error)), None),
        };
        failed.into_iter().chain(results.into_iter().flatten())
    }
}

impl Context {
    /// Runs a function on each of `items` in worker processes, and yields the results in the order of the items.
    ///
    /// What the function may be is told at [`MapTarget`]: whether it is given a state says its type. An item of which it
    /// fails, or panics, is an [`Error::Remote`] in its place; one whose worker dies is an [`Error::ProcessWait`] in its
    /// place, and is not run again, since it may have had its effect. The worker is replaced, and the others go on.
    ///
    /// Of the [defaults](crate::ContextBuilder::process_defaults) of the context, namespace and grace hold for workers;
    /// retries, restarts and the backend do not.
    ///
    /// Several iterators are zipped before: `names.zip(ages)` makes items that are pairs, and ends with the shorter one.
    ///
    /// ```
    /// use zproc::{Context, Error, Result};
    ///
    /// fn inverse(n: i32) -> Result<f64> {
    ///     match n {
    ///         0 => Err(Error::other("zero has no inverse")),
    ///         n => Ok(1.0 / f64::from(n)),
    ///     }
    /// }
    ///
    /// fn main() -> Result<()> {
    ///     zproc::init();
    ///     let ctx = Context::new()?;
    ///     let results: Vec<Result<f64>> = ctx.process_map(inverse, [2, 0, 4]).start()?.collect();
    ///     assert!(matches!(&results[..], [Ok(0.5), Err(Error::Remote(_)), Ok(0.25)]));
    ///     Ok(())
    /// }
    /// ```
    pub fn process_map<F, M, I>(&self, target: F, items: I) -> MapBuilder<'_, 'static, F, M, I::IntoIter>
    where
        I: IntoIterator<Item: Serialize + DeserializeOwned + 'static>,
        F: MapTarget<M, I::Item>,
    {
        MapBuilder {
            ctx: self,
            target,
            items: items.into_iter(),
            args: Missing,
            count: None,
            new: false,
            progress: None,
            marker: PhantomData,
        }
    }

    /// The results of a task that was [submitted](MapBuilder::submit) in this context, which are yielded once.
    ///
    /// # Errors
    /// [`Error::Process`] if they were taken before, are of another type, or the task is another context's.
    ///
    /// ```
    /// use zproc::{Context, Error, Result};
    ///
    /// fn main() -> Result<()> {
    ///     zproc::init();
    ///     let ctx = Context::new()?;
    ///     let task = ctx.process_map(|n: u64| n * n, 1..=3).submit()?;
    ///     assert_eq!(ctx.pull_results_for_task::<u64>(&task)?.count(), 3);
    ///     assert!(matches!(ctx.pull_results_for_task::<u64>(&task), Err(Error::Process { .. })));
    ///     Ok(())
    /// }
    /// ```
    pub fn pull_results_for_task<R: Send + 'static>(&self, task: &Task) -> Result<TaskResults<R>> {
        self.tasks().pull(task)
    }

    /// Its worker processes, which are there once [`Context::process_map`] was used.
    ///
    /// ```
    /// use zproc::{Context, Result};
    ///
    /// fn main() -> Result<()> {
    ///     zproc::init();
    ///     let ctx = Context::new()?;
    ///     ctx.process_map(|n: u32| n, 0..10).count(2).start()?.for_each(drop);
    ///     assert!(ctx.workers().iter().all(|worker| worker.is_alive()));
    ///     assert!(ctx.processes().is_empty());
    ///     Ok(())
    /// }
    /// ```
    pub fn workers(&self) -> Vec<AnyProcess> {
        self.worker_pool()
            .processes()
            .into_iter()
            .map(AnyProcess::new)
            .collect()
    }
}
