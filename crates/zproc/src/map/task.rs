//! Tasks whose results are taken later, and by whoever has their names.

use std::any::Any;
use std::collections::HashMap;
use std::iter::FusedIterator;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::access::check_not_in_atomic;
use crate::error::{Error, Result};
use crate::os;
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

impl Tasks {
    pub(crate) fn new() -> Self {
        static LAST: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
        Self {
            context: LAST.fetch_add(1, std::sync::atomic::Ordering::Relaxed),
            waiting: Mutex::default(),
        }
    }

    /// Has a thread run the task, and keeps what it yields.
    pub(super) fn add<R: Send + 'static>(
        &self,
        results: impl FnOnce(SyncSender<Result<R>>) + Send + 'static,
    ) -> Result<Task> {
        let (sender, receiver) = sync_channel::<Result<R>>(MOST_WAITING);
        os::quiet_thread("zproc-task", move || results(sender))?;
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
}

impl<R> Iterator for TaskResults<R> {
    type Item = Result<R>;

    fn next(&mut self) -> Option<Result<R>> {
        let results = self.results.as_ref()?;
        if let Err(error) = check_not_in_atomic() {
            // Whoever counts or collects them would hold the writer lock for ever.
            self.results = None;
            return Some(Err(error));
        }
        let mut signals = Signals::default();
        loop {
            match results.recv_timeout(BETWEEN_LOOKS) {
                Ok(result) => return Some(result),
                Err(RecvTimeoutError::Disconnected) => return None,
                Err(RecvTimeoutError::Timeout) => {
                    if let Err(error) = signals.check() {
                        return Some(Err(error));
                    }
                }
            }
        }
    }
}

impl<R> FusedIterator for TaskResults<R> {}
