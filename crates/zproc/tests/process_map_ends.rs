//! Maps and tasks that do not go to their end: errors that end them, contexts that are closed, forks, slow items.

use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigHandler, Signal, kill, signal};
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

/// The thread of a task was told of signals, too, and put each where the result of an item belongs.
#[test]
fn signals_take_no_place_among_the_results_of_a_task() {
    fn signalled(ctx: Context) -> Result<()> {
        zproc::signal_to_error(SIGUSR1)?;
        let slow = |state: &State, n: u64| {
            std::thread::sleep(Duration::from_millis(3));
            state.insert(n, true).map(|()| n)
        };
        let task = ctx.process_map(slow, 0..100).count(1).submit()?;
        for n in 0..100u64 {
            if n.is_multiple_of(10) {
                let _ = kill(Pid::this(), Signal::SIGUSR1);
            }
            loop {
                match ctx.state().get_when_available(n) {
                    Ok(_) => break,
                    Err(Error::Signal { .. }) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        let all: Vec<Result<u64>> = ctx.pull_results_for_task(&task)?.collect();
        let right = all.len() == 100 && all.iter().zip(0..).all(|(one, n)| matches!(one, Ok(m) if *m == n));
        if right {
            Ok(())
        } else {
            Err(Error::other(format!("{all:?}")))
        }
    }
    let ctx = Context::new().unwrap();
    ctx.process(signalled).start().unwrap().wait_timeout(PATIENCE).unwrap();
}

/// Whoever pulled the results of such a task saw a shorter list, and no error.
#[test]
fn a_task_whose_items_panic_ends_with_an_error() {
    let ctx = Context::new().unwrap();
    let items = (0..100u64).inspect(|n| assert!(*n < 50, "no more items"));
    let task = ctx.process_map(square, items).count(1).submit().unwrap();
    let mut all: Vec<Result<u64>> = ctx.pull_results_for_task(&task).unwrap().take(200).collect();
    let Some(Err(Error::Remote(error))) = all.pop() else {
        panic!("{all:?}")
    };
    assert!(error.is_panic() && error.message() == "no more items", "{error}");
    assert!(all.len() <= 50 && all.iter().zip(0..).all(|(one, n)| matches!(one, Ok(m) if *m == n * n)));
}

/// A task whose results nobody takes rests, and goes on when somebody does.
#[test]
fn a_task_rests_while_too_many_results_wait() {
    let ctx = Context::new().unwrap();
    let note = |state: &State, n: u64| {
        if n.is_multiple_of(10_000) {
            state.insert(n, true).map(|()| n)
        } else {
            Ok(n)
        }
    };
    let task = ctx.process_map(note, 0..).count(2).submit().unwrap();
    ctx.state()
        .watch()
        .timeout(PATIENCE)
        .get_when_available(60_000u64)
        .unwrap();
    let mut last = 0;
    support::eventually("the task rests", || {
        std::thread::sleep(Duration::from_millis(100));
        let keys = ctx.state().len().unwrap();
        std::mem::replace(&mut last, keys) == keys
    });
    assert!(last < 200, "{last}0,000 items were run");
    let mut results = ctx.pull_results_for_task::<u64>(&task).unwrap();
    for n in 0..300_000 {
        assert_eq!(results.next().unwrap().unwrap(), n);
    }
}

/// An item that kills its worker while it is decoded had no place: workers died until the map was given up.
#[test]
fn an_item_whose_decoding_kills_its_worker_is_lost_in_its_place() {
    let ctx = Context::new().unwrap();
    let numbers = [0, 1, 2, 3, 66, 5].map(Deadly);
    let results: Vec<Result<u64>> = ctx
        .process_map(|n: Deadly| n.0, numbers)
        .count(1)
        .start()
        .unwrap()
        .collect();
    assert_eq!(results.len(), 6, "{results:?}");
    assert!(
        results[..4]
            .iter()
            .zip(0..)
            .all(|(one, n)| matches!(one, Ok(m) if *m == n)),
        "{results:?}"
    );
    assert!(
        matches!(results[4], Err(Error::ProcessWait { exit_code: -6, .. })),
        "{results:?}"
    );
    let panics: Vec<Result<u64>> = ctx
        .process_map(|n: Deadly| n.0, [0, 77].map(Deadly))
        .count(1)
        .start()
        .unwrap()
        .collect();
    assert!(
        matches!(&panics[..], [Ok(0), Err(Error::Remote(error))] if error.is_panic()),
        "{panics:?}"
    );
}

#[derive(serde::Serialize)]
struct Deadly(u64);

impl<'de> serde::Deserialize<'de> for Deadly {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> std::result::Result<Self, D::Error> {
        match u64::deserialize(from)? {
            66 => std::process::abort(),
            77 => panic!("while it is decoded"),
            n => Ok(Self(n)),
        }
    }
}

/// A worker that could not write a result went on behind it, and the gap was filled with what lay there before.
#[test]
fn a_result_that_cannot_be_written_is_lost_and_no_other_is_wrong() {
    fn short_of_room(n: u64) -> Result<Vec<u8>> {
        if n == 1000 {
            // From here on this worker cannot write files.
            let (_, hard) = getrlimit(Resource::RLIMIT_FSIZE).map_err(Error::other)?;
            // SAFETY: no handler.
            unsafe { signal(Signal::SIGXFSZ, SigHandler::SigIgn) }.map_err(Error::other)?;
            setrlimit(Resource::RLIMIT_FSIZE, 1, hard).map_err(Error::other)?;
        }
        let length = if n == 1001 { 400_000 } else { n as usize % 50 };
        Ok(vec![n as u8; length])
    }
    let ctx = Context::new().unwrap();
    let results = ctx.process_map(short_of_room, 0..2000).count(1).start().unwrap();
    let all: Vec<Result<Vec<u8>>> = results.collect();
    assert_eq!(all.len(), 2000);
    for (result, n) in all.into_iter().zip(0..) {
        match (n, result) {
            (1001, Err(Error::ProcessWait { .. })) => {}
            (1001, other) => panic!("{:?}", other.map(|bytes| bytes.len())),
            (_, result) => assert_eq!(result.unwrap(), vec![n as u8; n as usize % 50], "{n}"),
        }
    }
}

/// Chunks that were done counted as look-ahead too, so that one slow item idled all other workers.
#[test]
fn a_slow_item_does_not_idle_the_other_workers() {
    let ctx = Context::new().unwrap();
    let run = |state: &State, n: u64| -> Result<u64> {
        match n {
            0 => drop(state.watch().timeout(PATIENCE).get_when_available("go")?),
            60 => state.insert("go", true)?,
            // A chunk of its own.
            _ => std::thread::sleep(Duration::from_millis(1)),
        }
        Ok(n)
    };
    let results = ctx.process_map(run, 0..200).count(2).start().unwrap();
    for (result, n) in results.zip(0..) {
        assert_eq!(result.unwrap(), n);
    }
}

/// There were slots for 24 workers.
#[test]
fn forty_workers_are_busy_at_once() {
    let ctx = Context::new().unwrap();
    let meet = |state: &State, n: u64| -> Result<u64> {
        state.insert(n, true)?;
        state
            .clone()
            .watch()
            .timeout(PATIENCE)
            .get_when(|now| Ok(now.len()? >= 40))?;
        Ok(n)
    };
    let results: Vec<Result<u64>> = ctx.process_map(meet, 0..40).count(40).start().unwrap().collect();
    assert!(results.iter().all(Result::is_ok), "{results:?}");
}

/// A fork has a copy of the results. Dropping it gave up the chunks of the original, whose next result never came.
#[test]
fn a_copy_of_results_in_a_fork_leaves_the_original_alone() {
    let ctx = Context::new().unwrap();
    let slow = |n: u64| {
        std::thread::sleep(Duration::from_millis(2));
        n
    };
    let mut results = Some(ctx.process_map(slow, 0..100).count(1).start().unwrap());
    assert!(support::holds_in_fork(|| {
        let mut copy = results.take().unwrap();
        let next = copy.next();
        drop(copy);
        matches!(next, Some(Err(Error::Forked)))
    }));
    let all: Vec<u64> = results.unwrap().map(Result::unwrap).collect();
    assert_eq!(all, (0..100).collect::<Vec<_>>());
}
