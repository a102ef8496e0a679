//! Maps and tasks that do not go to their end: errors that end them, contexts that are closed, forks, slow items.

use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use zproc::signals::SIGUSR1;
use zproc::{Context, Error, Result, State, Task};

mod support;

zproc::init_tests!();

const PATIENCE: Duration = Duration::from_secs(60);

fn square(n: u64) -> u64 {
    n * n
}

/// Tasks are numbered in each context, and to ask the wrong context destroyed its own task of that number.
#[test]
fn a_task_of_another_context_costs_a_context_none_of_its_own() {
    let (ctx, elsewhere) = (Context::new().unwrap(), Context::new().unwrap());
    let other: Task = ctx.process_map(square, 0..10).count(1).submit().unwrap();
    let own = elsewhere.process_map(square, 0..10).count(1).submit().unwrap();
    let error = elsewhere.pull_results_for_task::<u64>(&other).unwrap_err();
    assert!(error.to_string().contains("another context"), "{error}");
    for (ctx, task) in [(&ctx, &other), (&elsewhere, &own)] {
        assert_eq!(ctx.pull_results_for_task::<u64>(task).unwrap().count(), 10);
    }
}
