//! Contexts: many processes at once, their order, their ends.

#![forbid(unsafe_code)] // init_tests! does not need it

use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use zproc::signals::{SIGKILL, SIGTERM, SIGUSR1};
use zproc::{Context, Error, Result, State};

zproc::init_tests!();

fn double(n: u32) -> u32 {
    2 * n
}

fn square(n: u32) -> u32 {
    n * n
}

fn sleep(state: State) -> Result<()> {
    state.get_when_available("never").map(drop)
}

#[test]
fn a_factory_makes_so_many_of_each() {
    let ctx = Context::new().unwrap();
    let all = ctx.process_factory([double, square]).count(2).args(5).start().unwrap();
    let values: Vec<u32> = all.iter().map(|process| process.wait().unwrap()).collect();
    assert_eq!(values, [10, 10, 25, 25]);
    let mixed = (
        double,
        |_: State, n: u32| n + 1,
        |_: Context, n: u32| -> Result<u32> { Ok(n + 2) },
    );
    let all = ctx.process_factory(mixed).args(1).deferred().unwrap();
    ctx.start_all().unwrap();
    let values: Vec<u32> = all.iter().map(|process| process.wait().unwrap()).collect();
    assert_eq!(values, [2, 2, 3]);
    assert_eq!(ctx.processes().len(), 7);
    let retried = ctx.process_factory(vec![|n: u32| if n == 0 { Err(Error::Timeout) } else { Ok(n) }]);
    let retried = retried
        .args(0)
        .retry_args(4)
        .retry_for_any()
        .retry_delay(Duration::ZERO)
        .start()
        .unwrap();
    assert_eq!(retried[0].wait().unwrap(), 4);
}

#[test]
fn wait_all_returns_the_values_in_order_and_has_one_timeout_for_all() {
    let ctx = Context::new().unwrap();
    let first = ctx.process(|state: State| -> Result<String> {
        state.get_when_available("go")?;
        Ok("first".into())
    });
    first.start().unwrap();
    ctx.process(|| 2u64).start().unwrap();
    ctx.process_map(|n: u64| n, 0..10)
        .count(1)
        .start()
        .unwrap()
        .for_each(drop);
    assert!(matches!(ctx.wait_all(Duration::from_millis(50)), Err(Error::Timeout)));
    let safe = ctx.wait_all_safe(Duration::from_millis(20));
    assert!(matches!(safe[0], Err(Error::Timeout)) && safe[1].as_ref().unwrap().get::<u64>().unwrap() == 2);
    // A timeout for each would take 15 s.
    let many = Context::new().unwrap();
    many.process_factory([sleep]).count(15).start().unwrap();
    let start = Instant::now();
    let safe = many.wait_all_safe(Duration::from_secs(1));
    assert!(safe.len() == 15 && safe.iter().all(|one| matches!(one, Err(Error::Timeout))));
    assert!(start.elapsed() < Duration::from_secs(12));
    ctx.state().insert("go", true).unwrap();
    let values = ctx.wait_all(None).unwrap();
    assert_eq!(values.len(), 2, "workers are none of them");
    assert_eq!(values[0].get::<String>().unwrap(), "first");
    assert!(matches!(values[0].get::<u64>(), Err(Error::Process { .. })));
}

#[test]
fn errors_stand_in_the_place_of_their_processes() {
    let ctx = Context::new().unwrap();
    ctx.process(|| 1u8).start().unwrap();
    ctx.process(|| -> u8 { zproc::exit(3) }).start().unwrap();
    ctx.process(|| Err::<u8, _>(Error::other("no"))).start().unwrap();
    ctx.process(|| 4u8).deferred().unwrap();
    assert!(matches!(
        ctx.wait_all(None),
        Err(Error::ProcessWait { exit_code: 3, .. })
    ));
    let safe = ctx.wait_all_safe(None);
    assert!(safe[0].is_ok());
    assert!(matches!(
        safe[1],
        Err(Error::ProcessWait {
            exit_code: 3,
            source: None,
            ..
        })
    ));
    assert!(matches!(&safe[2], Err(Error::ProcessWait { source: Some(source), .. }) if source.message() == "no"));
    assert!(matches!(safe[3], Err(Error::Process { .. })), "it was not started");
}

#[test]
fn handles_without_a_type_can_be_given_it_again() {
    let ctx = Context::new().unwrap();
    ctx.process(|| 5u32).start().unwrap();
    let any = ctx.processes().remove(0);
    assert!(any.downcast::<u64>().is_none());
    assert_eq!(any.downcast::<u32>().unwrap().wait().unwrap(), 5);
    assert_eq!(any.wait().unwrap().get::<u32>().unwrap(), 5);
    assert_eq!((any.is_alive(), any.exitcode()), (false, Some(0)));
    assert!(any.target().contains("handles_without_a_type"), "{}", any.target());
}

#[test]
fn stop_all_returns_exit_codes_in_order_and_takes_one_grace() {
    let ctx = Context::new().unwrap();
    let stubborn = |state: State, n: u32| -> Result<()> {
        zproc::signal_to_error(SIGTERM)?;
        state.insert(n, "ready")?;
        loop {
            std::thread::sleep(Duration::from_secs(1));
        }
    };
    // A grace for each would take 12 s.
    for n in 0..8 {
        ctx.process(stubborn)
            .args(n)
            .stop_grace(Duration::from_millis(1500))
            .start()
            .unwrap();
    }
    ctx.state().get_when(|now| now.len().map(|len| len == 8)).unwrap();
    ctx.process(sleep).start().unwrap();
    ctx.process(sleep).deferred().unwrap();
    let done = ctx.process(|| ()).start().unwrap();
    done.wait().unwrap();
    let start = Instant::now();
    let codes = ctx.stop_all().unwrap();
    assert_eq!(codes[..8], [Some(-SIGKILL); 8]);
    assert_eq!(codes[8..], [Some(-SIGTERM), None, Some(0)]);
    assert!(start.elapsed() < Duration::from_secs(10));
}

#[test]
fn a_context_that_waits_ends_behind_its_processes() {
    let ctx = Context::builder().wait(true).build().unwrap();
    let state = ctx.state().clone();
    for n in 0..3u32 {
        let slow = |state: State, n: u32| {
            std::thread::sleep(Duration::from_millis(50));
            state.insert(n, true)
        };
        ctx.process(slow).args(n).start().unwrap();
    }
    drop(ctx);
    assert_eq!(state.len().unwrap(), 3);
}

/// A signal that ended the waiting ended the cleaning up, too, so the processes went on.
#[test]
fn a_signal_while_a_context_waits_ends_its_processes_all_the_same() {
    fn closes() -> Result<()> {
        zproc::signal_to_error(SIGUSR1)?;
        let ctx = Context::builder().wait(true).build()?;
        let child = ctx.process(sleep).start()?;
        let worker = {
            ctx.process_map(square, [1]).count(1).start()?.for_each(drop);
            ctx.workers().remove(0)
        };
        let signals = std::thread::spawn(|| {
            std::thread::sleep(Duration::from_millis(50));
            kill(Pid::this(), Signal::SIGUSR1)
        });
        let closed = ctx.close();
        assert!(matches!(closed, Err(Error::Signal { signal: SIGUSR1 })), "{closed:?}");
        assert!(!child.is_alive() && !worker.is_alive());
        signals.join().unwrap().map_err(Error::other)
    }
    let ctx = Context::new().unwrap();
    ctx.process(closes).start().unwrap().wait().unwrap();
}

/// What could not be started stayed in the context as if it were deferred, and every wait for all failed by it.
#[test]
fn what_cannot_be_started_is_none_of_the_contexts() {
    fn short_of_descriptors(ctx: Context) -> Result<()> {
        ctx.process(|| ()).start()?;
        let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).map_err(Error::other)?;
        setrlimit(Resource::RLIMIT_NOFILE, 0, hard).map_err(Error::other)?;
        let handler = |_: zproc::Snapshot<'_>, _: &State| ();
        assert!(ctx.process(|| ()).start().is_err());
        assert!(ctx.process_factory([double, square]).args(1).start().is_err());
        assert!(ctx.call_when_change(["n"], handler).start().is_err());
        setrlimit(Resource::RLIMIT_NOFILE, soft, hard).map_err(Error::other)?;
        assert_eq!((ctx.processes().len(), ctx.wait_all(None)?.len()), (1, 1));
        Ok(())
    }
    let ctx = Context::new().unwrap();
    ctx.process(short_of_descriptors).start().unwrap().wait().unwrap();
}

/// The first ones stayed in the context, to be started with all, though nobody had got them.
#[test]
fn a_factory_that_fails_half_way_makes_none() {
    let ctx = Context::new().unwrap();
    let captured = std::hint::black_box(3);
    let pair = (double, move |n: u32| n + captured);
    let error = ctx.process_factory(pair).count(2).args(1).deferred().unwrap_err();
    assert!(matches!(error, Error::Target { .. }), "{error}");
    assert_eq!(ctx.processes().len(), 0);
    ctx.start_all().unwrap();
    assert_eq!(ctx.wait_all(None).unwrap().len(), 0);
}

#[test]
fn threads_may_share_a_context() {
    let ctx = Context::new().unwrap();
    std::thread::scope(|scope| {
        for n in 0..4u32 {
            let ctx = &ctx;
            scope.spawn(move || {
                assert_eq!(ctx.process(double).args(n).start().unwrap().wait().unwrap(), 2 * n);
                let squares: Vec<u32> = ctx
                    .process_map(square, 0..500)
                    .count(2)
                    .start()
                    .unwrap()
                    .map(Result::unwrap)
                    .collect();
                assert_eq!(squares.len(), 500);
            });
        }
    });
    assert_eq!(ctx.processes().len(), 4);
}

/// In a child, whose children are the context's alone.
#[test]
fn the_server_of_a_context_starts_when_it_is_needed_and_ends_with_it() {
    fn children() -> usize {
        let tasks = std::fs::read_dir("/proc/self/task").unwrap();
        let children = |task: std::io::Result<std::fs::DirEntry>| {
            // A thread that has ended meanwhile has none.
            std::fs::read_to_string(task.unwrap().path().join("children")).unwrap_or_default()
        };
        tasks.map(|task| children(task).split_whitespace().count()).sum()
    }
    fn alone() {
        let ctx = Context::builder().secret_key("open sesame").build().unwrap();
        ctx.state().insert("cookies", 5).unwrap();
        assert_eq!(children(), 0);
        let addresses = std::thread::scope(|scope| {
            let all: Vec<_> = (0..8)
                .map(|_| scope.spawn(|| ctx.address().unwrap().to_owned()))
                .collect();
            all.into_iter().map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
        });
        assert!(
            addresses.iter().all(|address| *address == addresses[0]),
            "{addresses:?}"
        );
        assert_eq!(children(), 1);
        assert_eq!(
            ctx.ping().unwrap().send().unwrap().map(|pong| pong.pid),
            Some(ctx.server().unwrap().pid())
        );
        assert!(matches!(State::open(&addresses[0]), Err(Error::AccessDenied { .. })));
        let client = State::builder(&addresses[0]).secret_key("open sesame").open().unwrap();
        drop(ctx);
        assert_eq!(children(), 0);
        assert_eq!(client.get("cookies").unwrap(), Some(5));
        assert!(matches!(client.ping().unwrap().send(), Err(Error::NoServer { .. })));
    }
    Context::new().unwrap().process(alone).start().unwrap().wait().unwrap();
}

#[test]
fn a_context_over_a_server_has_the_address_of_that() {
    let server = zproc::start_server().secret_key("open sesame").start().unwrap();
    let ctx = Context::builder()
        .address(server.address())
        .secret_key("open sesame")
        .build()
        .unwrap();
    assert_eq!(ctx.address().unwrap(), server.address());
    let pong = ctx.ping().unwrap().send().unwrap().unwrap();
    assert_eq!(pong.pid, server.pid());
    // Its own is another one, of the same state.
    let own = ctx.server().unwrap();
    assert_ne!(own.pid(), server.pid());
    ctx.state().insert("cookies", 5).unwrap();
    let client = State::builder(own.address()).secret_key("open sesame").open().unwrap();
    assert_eq!(client.get("cookies").unwrap(), Some(5));
}

#[test]
fn a_child_opens_a_state_by_the_key_that_it_is_given_and_by_no_other() {
    fn open(address: String, key: Option<String>) -> Result<i64> {
        let builder = State::builder(&address);
        let builder = match key {
            Some(key) => builder.secret_key(key),
            None => builder,
        };
        Ok(builder.open()?.get("cookies")?.unwrap_or(0))
    }
    let ctx = Context::builder().secret_key("open sesame").build().unwrap();
    ctx.state().insert("cookies", 5).unwrap();
    let opened = |key: Option<&str>| {
        let args = (ctx.address().unwrap().to_owned(), key.map(str::to_owned));
        ctx.process(open).args(args).start().unwrap().wait()
    };
    assert_eq!(opened(Some("open sesame")).unwrap(), 5);
    for key in [Some("open barley"), None] {
        let error = opened(key).unwrap_err();
        assert!(error.to_string().contains("AccessDenied"), "{error}");
    }
}

#[test]
fn no_wait_nests_in_atomic() {
    let ctx = Context::new().unwrap();
    let process = ctx.process(|| 5).start().unwrap();
    let result = ctx.state().atomic(|_| process.wait());
    assert!(matches!(result, Err(Error::NestedAtomic)));
    assert_eq!(process.wait().unwrap(), 5);
}

/// It could be started when nobody was left who would stop it.
#[test]
fn what_is_not_started_before_its_context_ends_cannot_be_started_any_more() {
    for cleanup in [true, false] {
        let ctx = Context::builder().cleanup(cleanup).build().unwrap();
        let later = ctx.process(double).args(2).deferred().unwrap();
        drop(ctx);
        for _ in 0..2 {
            assert!(matches!(later.start(), Err(Error::Closed)), "{later:?}");
        }
        assert!(matches!(later.wait(), Err(Error::Closed)), "{later:?}");
        assert!(matches!(later.stop(), Err(Error::Closed)), "{later:?}");
        assert_eq!((later.pid(), later.exitcode(), later.is_alive()), (None, None, false));
    }
}

/// A process that was started while others were being stopped had its whole grace, without being asked to end.
#[test]
fn a_process_that_is_started_while_all_are_stopped_is_asked_to_end_too() {
    let ctx = Context::new().unwrap();
    let stubborn = |state: State| -> Result<()> {
        zproc::signal_to_error(SIGTERM)?;
        state.insert("trapped", true)?;
        std::thread::sleep(Duration::from_secs(600));
        Ok(())
    };
    let first = ctx
        .process(stubborn)
        .stop_grace(Duration::from_secs(1))
        .start()
        .unwrap();
    let grace = Duration::from_secs(40);
    let later = ctx.process(sleep).stop_grace(grace).deferred().unwrap();
    ctx.state().get_when_available("trapped").unwrap();
    let start = Instant::now();
    std::thread::scope(|scope| {
        let stopping = scope.spawn(|| ctx.stop_all().unwrap());
        // When the first has been asked to end, the other was passed over.
        std::thread::sleep(Duration::from_millis(300));
        later.start().unwrap();
        assert_eq!(stopping.join().unwrap(), [Some(-SIGKILL), Some(-SIGTERM)]);
    });
    assert!(start.elapsed() < grace / 2 && !first.is_alive());
}

/// A context that waits for its processes waited with the writer lock in hand.
#[test]
fn a_context_that_is_closed_in_atomic_waits_for_nobody() {
    fn close_in_atomic(state: State) -> Result<()> {
        let ctx = Context::builder().state(state.clone()).wait(true).build()?;
        let child = ctx.process(sleep).start()?;
        let mut ctx = Some(ctx);
        let closed = state.atomic(|_| Ok(ctx.take().map(Context::close)))?;
        assert!(matches!(closed, Some(Err(Error::NestedAtomic))), "{closed:?}");
        assert!(!child.is_alive());
        Ok(())
    }
    let ctx = Context::new().unwrap();
    let process = ctx.process(close_in_atomic).start().unwrap();
    process.wait_timeout(Duration::from_secs(30)).unwrap();
}
