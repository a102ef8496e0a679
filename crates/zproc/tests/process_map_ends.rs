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

/// An iterator that says the same error for ever never ends, and here it held the writer lock.
#[test]
fn an_error_ends_the_results() {
    let ctx = Context::new().unwrap();
    let slow = |n: u64| {
        std::thread::sleep(Duration::from_millis(20));
        n
    };
    let mut results = ctx.process_map(slow, 0..1000).count(1).start().unwrap();
    let within: Vec<_> = ctx
        .state()
        .atomic(|_| Ok(results.by_ref().take(100).collect()))
        .unwrap();
    assert!(matches!(&within[..], [Err(Error::NestedAtomic)]), "{within:?}");
    assert!(results.next().is_none());
    let task = ctx.process_map(slow, 0..1000).count(1).submit().unwrap();
    let mut results = ctx.pull_results_for_task::<u64>(&task).unwrap();
    let within: Vec<_> = ctx
        .state()
        .atomic(|_| Ok(results.by_ref().take(100).collect()))
        .unwrap();
    assert!(matches!(&within[..], [Err(Error::NestedAtomic)]), "{within:?}");
    assert!(results.next().is_none());
}

/// So it was when the context was closed meanwhile.
#[test]
fn results_end_when_the_context_is_closed() {
    let ctx = Context::new().unwrap();
    let never = |_: u32| std::thread::sleep(Duration::from_secs(600));
    let results = ctx.process_map(never, 0..10).count(1).start().unwrap();
    let task = ctx.process_map(never, 0..10).count(1).submit().unwrap();
    let pulled = ctx.pull_results_for_task::<()>(&task).unwrap();
    let closing = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(30));
        ctx.close()
    });
    let all: Vec<_> = results.take(100).collect();
    assert!(matches!(&all[..], [Err(Error::Closed)]), "{all:?}");
    let all: Vec<_> = pulled.take(100).collect();
    assert!(matches!(&all[..], [Err(Error::Closed)]), "{all:?}");
    closing.join().unwrap().unwrap();
}
