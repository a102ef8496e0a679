//! Functions of many items, run by workers: order, laziness, failures in their places, workers that die.

use std::cell::Cell;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use zproc::{Context, Error, Progress, Result, State, Task};

zproc::init_tests!();

const PATIENCE: Duration = Duration::from_secs(60);

fn square(n: u64) -> u64 {
    n * n
}

#[test]
fn results_come_in_order_whatever_takes_how_long() {
    let ctx = Context::new().unwrap();
    for count in [0u64, 1, 2, 1000, 100_000] {
        let squares: Vec<u64> = ctx
            .process_map(square, 0..count)
            .start()
            .unwrap()
            .map(Result::unwrap)
            .collect();
        assert!(squares.iter().zip(0..).all(|(square, n)| *square == n * n) && squares.len() as u64 == count);
    }
    let uneven = |n: u64| {
        if n.is_multiple_of(7) {
            std::thread::sleep(Duration::from_millis(2));
        }
        n
    };
    let all: Vec<u64> = ctx
        .process_map(uneven, 0..200)
        .count(3)
        .start()
        .unwrap()
        .map(Result::unwrap)
        .collect();
    assert_eq!(all, (0..200).collect::<Vec<_>>());
}

#[test]
fn functions_take_a_state_and_common_arguments() {
    let ctx = Context::new().unwrap();
    let with_three = |n: u32, a: u32, b: String, c: Vec<u8>| format!("{n}{a}{b}{c:?}");
    let texts: Vec<String> = ctx
        .process_map(with_three, [1, 2])
        .args((3, "x".into(), vec![9]))
        .start()
        .unwrap()
        .map(Result::unwrap)
        .collect();
    assert_eq!(texts, ["13x[9]", "23x[9]"]);
    let add = |state: &State, n: u64, factor: u64| {
        state
            .atomic(|dict| dict.modify_or("sum", 0u64, |sum: u64| sum + n * factor))
            .map(drop)
    };
    let results: Vec<Result<()>> = ctx.process_map(add, 1..=100).args(2).start().unwrap().collect();
    assert!(results.iter().all(Result::is_ok), "{results:?}");
    assert_eq!(ctx.state().get("sum").unwrap(), Some(10_100u64));
    // Items are zipped, and end with the shorter iterator.
    let pair = |(name, age): (String, u8)| format!("{name} {age}");
    let names = ["a", "b", "c"].map(str::to_owned);
    let pairs: Vec<String> = ctx
        .process_map(pair, names.into_iter().zip(1..=2))
        .into_iter()
        .map(Result::unwrap)
        .collect();
    assert_eq!(pairs, ["a 1", "b 2"]);
}

#[test]
fn work_starts_at_the_call_and_looks_ahead_within_bounds() {
    let ctx = Context::new().unwrap();
    let taken = Cell::new(0u64);
    let endless = (0u64..).inspect(|_| taken.set(taken.get() + 1));
    let note = |state: &State, n: u64| {
        std::thread::sleep(Duration::from_millis(1));
        state.insert(n, true).map(|()| n)
    };
    let mut results = ctx.process_map(note, endless).count(2).start().unwrap();
    // Nobody has asked for a result.
    ctx.state().watch().timeout(PATIENCE).get_when_available(3u64).unwrap();
    std::thread::sleep(Duration::from_millis(100));
    assert!((1..1000).contains(&taken.get()), "{} items were taken", taken.get());
    for n in 0..300 {
        assert_eq!(results.next().unwrap().unwrap(), n);
    }
    assert!(taken.get() < 300 + 1000, "{} items were taken", taken.get());
    let before = taken.get();
    drop(results);
    assert_eq!(taken.get(), before);
    // The workers are free for others.
    assert_eq!(
        ctx.process_map(square, [3]).start().unwrap().next().unwrap().unwrap(),
        9
    );
}

#[test]
fn an_item_that_fails_is_an_error_in_its_own_place() {
    fn picky(n: u32) -> Result<u32> {
        match n % 10 {
            3 => Err(Error::other(std::io::Error::other("three"))),
            5 => panic!("five"),
            _ => Ok(n),
        }
    }
    let ctx = Context::new().unwrap();
    let results: Vec<Result<u32>> = ctx.process_map(picky, 0..500).count(2).start().unwrap().collect();
    for (result, n) in results.iter().zip(0..) {
        match (n % 10, result) {
            (3, Err(Error::Remote(error))) => {
                assert_eq!((error.message(), error.type_name()), ("three", "std::io::error::Error"));
            }
            (5, Err(Error::Remote(error))) => assert!(error.is_panic() && error.message() == "five"),
            (_, Ok(value)) => assert_eq!(*value, n),
            (_, other) => panic!("{n}: {other:?}"),
        }
    }
    assert_eq!((results.len(), ctx.workers().len()), (500, 2));
}

#[test]
fn an_item_that_kills_its_worker_is_lost_and_no_other() {
    fn deadly(n: u32) -> u32 {
        match n {
            50 | 333 => {
                let _ = kill(Pid::this(), Signal::SIGKILL);
                std::thread::sleep(PATIENCE);
            }
            200 => zproc::exit(7),
            201 => std::process::abort(),
            _ => {}
        }
        n
    }
    let ctx = Context::new().unwrap();
    let results: Vec<Result<u32>> = ctx.process_map(deadly, 0..1000).count(2).start().unwrap().collect();
    assert_eq!(results.len(), 1000);
    for (result, n) in results.iter().zip(0..) {
        let code = match n {
            50 | 333 => -9,
            200 => 7,
            201 => -6,
            _ => {
                assert_eq!(*result.as_ref().unwrap(), n);
                continue;
            }
        };
        let Err(Error::ProcessWait { exit_code, pid, .. }) = result else {
            panic!("{n}: {result:?}")
        };
        assert!(*exit_code == code && *pid != 0, "{n}: {result:?}");
    }
    assert_eq!(ctx.workers().iter().filter(|worker| worker.is_alive()).count(), 2);
}

#[test]
fn a_worker_killed_in_each_of_fifty_maps_costs_one_item_at_most() {
    fn slow(state: &State, n: u64) -> Result<u64> {
        let start = Instant::now();
        while start.elapsed() < Duration::from_micros(20) {
            std::hint::spin_loop();
        }
        if n.is_multiple_of(64) {
            state.insert("at", n)?;
        }
        Ok(n + 1)
    }
    let ctx = Context::new().unwrap();
    let mut lost = 0;
    for round in 0..50 * u64::from(load()) {
        let mut results = ctx.process_map(slow, 0..2000).count(2).start().unwrap();
        let mut all = Vec::new();
        for n in 0..2000 {
            if n == round % 50 * 37 {
                let workers = ctx.workers();
                let victim = workers[round as usize % workers.len()].pid().unwrap();
                kill(Pid::from_raw(victim as i32), Signal::SIGKILL).unwrap();
            }
            all.push(results.next().unwrap());
        }
        assert!(results.next().is_none());
        let failed = all.iter().filter(|result| result.is_err()).count();
        assert!(failed <= 1, "{failed} items of round {round} were lost to one death");
        for (result, n) in all.into_iter().zip(0..) {
            match result {
                Ok(value) => assert_eq!(value, n + 1),
                Err(Error::ProcessWait { exit_code: -9, .. }) => lost += 1,
                Err(error) => panic!("{error}"),
            }
        }
    }
    // Many of those who die are at an item: if none was, nobody was killed.
    assert!((1..=50 * load()).contains(&lost), "{lost} items were lost");
}

#[test]
fn items_and_results_may_be_of_any_size() {
    let ctx = Context::new().unwrap();
    let sizes = [0usize, 1, 100, 70_000, 300_000, 3, 5 << 20, 10];
    let items = sizes.map(|size| vec![7u8; size]);
    let doubled = |bytes: Vec<u8>| [&bytes[..], &bytes[..]].concat();
    for _ in 0..3 {
        let results = ctx.process_map(doubled, items.clone()).count(2).start().unwrap();
        let lengths: Vec<usize> = results.map(|bytes| bytes.unwrap().len()).collect();
        assert_eq!(lengths, sizes.map(|size| 2 * size));
    }
    // Small items with results that together do not fit into a slot.
    let grown: Vec<usize> = ctx
        .process_map(|n: usize| vec![1u8; n], vec![1000; 3000])
        .start()
        .unwrap()
        .map(|r| r.unwrap().len())
        .collect();
    assert_eq!(grown, [1000; 3000]);
}

#[test]
fn several_maps_share_the_workers_and_none_is_in_the_way_of_another() {
    let ctx = Context::new().unwrap();
    let mut waiting: Vec<_> = (0..20u64)
        .map(|_| ctx.process_map(square, 0..5000).count(2).start().unwrap())
        .collect();
    let another: Vec<u64> = ctx
        .process_map(square, 0..10_000)
        .count(2)
        .start()
        .unwrap()
        .map(Result::unwrap)
        .collect();
    assert_eq!(another.len(), 10_000);
    for n in 0..5000 {
        for results in &mut waiting {
            assert_eq!(results.next().unwrap().unwrap(), n * n);
        }
    }
    assert!(waiting.iter_mut().all(|results| results.next().is_none()));
}

#[test]
fn workers_are_used_again_and_those_too_many_end() {
    let ctx = Context::new().unwrap();
    let pids = |count: usize, new: bool| {
        let map = ctx.process_map(|_: u32| std::process::id(), 0..50).count(count);
        let map = if new { map.new_workers() } else { map };
        map.start().unwrap().for_each(|pid| assert!(pid.is_ok()));
        let mut pids: Vec<u32> = ctx.workers().iter().filter_map(|worker| worker.pid()).collect();
        pids.sort_unstable();
        pids
    };
    let first = pids(2, false);
    assert_eq!((first.len(), pids(2, false)), (2, first.clone()));
    let new: Vec<u32> = pids(3, true).into_iter().filter(|pid| !first.contains(pid)).collect();
    assert_eq!(new.len(), 3);
    let of_three = pids(1, false);
    assert!(of_three.iter().any(|pid| new.contains(pid)), "{new:?} {of_three:?}");
    let start = Instant::now();
    while ctx.workers().iter().filter(|worker| worker.is_alive()).count() > 1 {
        assert!(start.elapsed() < PATIENCE, "unused workers go on");
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(pids(1, false).len(), 1);
    let worker = pids(1, false)[0];
    drop(ctx);
    assert!(
        kill(Pid::from_raw(worker as i32), None).is_err(),
        "workers end with their context"
    );
}

#[test]
fn progress_is_told_to_the_end() {
    let ctx = Context::new().unwrap();
    let told = Cell::new((0, None));
    let progress = |progress: Progress| {
        assert!(progress.done > told.get().0);
        told.set((progress.done, progress.total));
    };
    ctx.process_map(square, 0..3000)
        .progress(progress)
        .start()
        .unwrap()
        .for_each(drop);
    assert_eq!(told.get(), (3000, Some(3000)));
}

#[test]
fn a_task_is_serialised_and_yields_its_results_once() {
    let ctx = Context::new().unwrap();
    let task = ctx.process_map(square, 0..1000).count(2).submit().unwrap();
    let other = ctx
        .process_map(|n: u64| n.to_string(), 0..10)
        .count(2)
        .submit()
        .unwrap();
    let task: Task = serde_json::from_str(&serde_json::to_string(&task).unwrap()).unwrap();
    assert!(
        matches!(ctx.pull_results_for_task::<String>(&task), Err(Error::Process { .. })),
        "of another type"
    );
    let squares: Vec<u64> = ctx.pull_results_for_task(&task).unwrap().map(Result::unwrap).collect();
    assert_eq!(squares, (0..1000).map(square).collect::<Vec<_>>());
    assert!(matches!(
        ctx.pull_results_for_task::<u64>(&task),
        Err(Error::Process { .. })
    ));
    let elsewhere = Context::new().unwrap();
    assert!(matches!(
        elsewhere.pull_results_for_task::<String>(&other),
        Err(Error::Process { .. })
    ));
    assert_eq!(ctx.pull_results_for_task::<String>(&other).unwrap().count(), 10);
    // One that nobody takes is in nobody's way, also when it has no end.
    ctx.process_map(square, 0..).submit().unwrap();
}

#[test]
fn workers_that_cannot_live_end_the_map_with_an_error() {
    fn deadly(_: u32) -> u32 {
        std::process::abort()
    }
    let ctx = Context::new().unwrap();
    let results: Vec<Result<u32>> = ctx.process_map(deadly, 0..20).count(2).start().unwrap().collect();
    assert_eq!(results.len(), 20, "each item is lost in its place");
    assert!(
        results
            .iter()
            .all(|result| matches!(result, Err(Error::ProcessWait { exit_code: -6, .. })))
    );
}

#[test]
fn closing_the_context_ends_those_who_wait_for_results() {
    let ctx = Context::new().unwrap();
    let never = |_: u32| std::thread::sleep(Duration::from_secs(600));
    let mut results = ctx.process_map(never, 0..10).count(1).start().unwrap();
    let closing = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(30));
        ctx.close()
    });
    assert!(matches!(results.next().unwrap(), Err(Error::Closed)));
    closing.join().unwrap().unwrap();
}

/// How many times as often as usual things are repeated: more in a soak.
fn load() -> u32 {
    std::env::var("ZPROC_LOAD")
        .ok()
        .and_then(|load| load.parse().ok())
        .unwrap_or(1)
}
