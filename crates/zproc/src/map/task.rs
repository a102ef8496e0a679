//! Tasks whose results are taken later, and by whoever has their names.

use std::any::Any;
use std::collections::HashMap;
use std::iter::FusedIterator;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::queue::{Received, Receiver, Sender, queue};
use crate::access::check_not_in_atomic;
use crate::error::{Error, Result};
use crate::os;
use crate::process::{Attempt, attempt};
use crate::signals::Signals;

/// The name of a task that was [submitted](crate::MapBuilder::submit). It can be serialised, and is of use in the context
/// that it comes from.
///
/// ```
/// use zproc::{Context, Result, Task};
///
/// fn main() -> Result<()> {
///     zproc::init();
///     let ctx = Context::new()?;
///     let task = ctx.process_map(|n: u64| n * n, 1..=3).submit()?;
///     let text = serde_json::to_string(&task).unwrap();
///     let again: Task = serde_json::from_str(&text).unwrap();
///     let squares: Result<Vec<u64>> = ctx.pull_results_for_task(&again)?.collect();
///     assert_eq!(squares?, [1, 4, 9]);
///     Ok(())
/// }
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Task {
    /// The process that has it.
    pid: u32,
    /// The context in that process.
    context: u64,
    number: u64,
}

/// The tasks of a context whose results were not taken yet.
pub(crate) struct Tasks {
    context: u64,
    waiting: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    last: u64,
    results: HashMap<u64, Box<dyn Any + Send>>,
}

/// Results that nobody takes wait in memory, up to so many; then the task waits.
const MOST_WAITING: usize = 1 << 16;
/// How long a wait goes on before it looks for signals.
const BETWEEN_LOOKS: Duration = Duration::from_millis(20);

/// Items are made by code of the user's, and whoever takes the results of them has to hear of its panics.
fn run_task<R>(sender: &Sender<Result<R>>, run: impl FnOnce(&dyn Fn(Result<R>) -> bool)) {
    match attempt(|| run(&|result| sender.send(result))) {
        Attempt::Returned(()) => {}
        Attempt::Panicked(failure) => drop(sender.send(Err(Error::Remote(Box::new(failure))))),
        Attempt::Exited(code) => std::process::exit(code),
    }
}

impl Tasks {
    pub(crate) fn new() -> Self {
        static LAST: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
        Self {
            context: LAST.fetch_add(1, std::sync::atomic::Ordering::Relaxed),
            waiting: Mutex::default(),
        }
    }

    /// Has a thread run the task, which hands over its results until that tells it that nobody takes them, and keeps them.
    pub(super) fn add<R: Send + 'static>(
        &self,
        run: impl FnOnce(&dyn Fn(Result<R>) -> bool) + Send + 'static,
    ) -> Result<Task> {
        let (sender, receiver) = queue::<Result<R>>(MOST_WAITING);
        os::quiet_thread("zproc-task", move || run_task(&sender, run))?;
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.last += 1;
        let number = waiting.last;
        waiting.results.insert(number, Box::new(receiver));
        Ok(Task {
            pid: std::process::id(),
            context: self.context,
            number,
        })
    }

    pub(crate) fn pull<R: Send + 'static>(&self, task: &Task) -> Result<TaskResults<R>> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let none = |why| Error::Process {
            reason: format!("there are no results for {task:?}: {why}"),
        };
        // Numbers are those of the context: one of the same number is another task.
        if (task.pid, task.context) != (std::process::id(), self.context) {
            return Err(none("it is a task of another context"));
        }
        let Some(results) = waiting.results.remove(&task.number) else {
            return Err(none("its results were taken already"));
        };
        match results.downcast::<Receiver<Result<R>>>() {
            Ok(results) => Ok(TaskResults {
                results: Some(*results),
                owner: task.pid,
            }),
            Err(results) => {
                waiting.results.insert(task.number, results);
                Err(Error::Process {
                    reason: format!("the results of {task:?} are not of type {}", std::any::type_name::<R>()),
                })
            }
        }
    }

    /// Forgets all of them, so that their threads end.
    pub(crate) fn clear(&self) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.results.clear();
    }
}

/// The results of a task that was submitted, in the order of its items: see
/// [`Context::pull_results_for_task`](crate::Context::pull_results_for_task). Errors end them as they do
/// [`MapResults`](crate::MapResults).
///
/// ```
/// use zproc::{Context, Result};
///
/// fn main() -> Result<()> {
///     zproc::init();
///     let ctx = Context::new()?;
///     let task = ctx.process_map(|n: u64| n + 1, [1, 2]).submit()?;
///     let mut results = ctx.pull_results_for_task::<u64>(&task)?;
///     assert_eq!(results.next().unwrap()?, 2);
///     Ok(())
/// }
/// ```
#[derive(Debug)]
pub struct TaskResults<R> {
    /// None once an error has ended them.
    results: Option<Receiver<Result<R>>>,
    /// The process whose thread sends them.
    owner: u32,
}

impl<R> Iterator for TaskResults<R> {
    type Item = Result<R>;

    fn next(&mut self) -> Option<Result<R>> {
        let results = self.results.as_mut()?;
        if let Some(result) = results.take_here() {
            return Some(result);
        }
        let checked = check_not_in_atomic().and_then(|()| match self.owner == std::process::id() {
            true => Ok(()),
            false => Err(Error::Forked),
        });
        if let Err(error) = checked {
            // Whoever counts or collects them would go on for ever, with the writer lock.
            self.results = None;
            return Some(Err(error));
        }
        let mut signals = Signals::default();
        loop {
            // Before it sleeps: with its first look a thread begins to watch.
            if let Err(error) = signals.check() {
                return Some(Err(error));
            }
            match results.receive(BETWEEN_LOOKS) {
                Received::Value(result) => return Some(result),
                Received::End => {
                    self.results = None;
                    return None;
                }
                Received::Nothing => {}
            }
        }
    }
}

impl<R> FusedIterator for TaskResults<R> {}
