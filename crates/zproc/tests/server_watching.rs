//! Feeds, streams and selects of states that are used over sockets, where that differs from mapped memory: servers that end
//! while somebody waits, what is left of those who waited, and what it costs. What is the same is in `over_socket.rs`.

use std::io;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use zproc::{Backend, Builder, Canceller, Context, Error, EventFeed, Result, Select, Server, State};

zproc::init_tests!();

mod support;
use support::{HANG, Place, eventually, has_stopped, holds_in_fork, is_readable, now, over_socket, threads};

/// Longer than an update takes, as far as that can be told.
const WHILE: Duration = Duration::from_millis(30);

/// How many threads of this process wait at servers.
fn listeners() -> usize {
    threads().iter().filter(|name| *name == "zproc-listener").count()
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

fn is_lost<T>(result: &Result<T>) -> bool {
    matches!(result, Err(Error::Disconnected { .. } | Error::NoServer { .. }))
}

/// What `wait` returns, which was woken: at the end of a long wait everything is looked at in any case.
#[track_caller]
fn woken<T>(wait: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let result = wait();
    assert!(start.elapsed() < HANG / 2, "nobody told it");
    result
}

#[track_caller]
fn assert_silent(feed: &EventFeed) {
    assert!(!is_readable(feed, WHILE));
}

fn send(server: &Server, signal: Signal) {
    kill(Pid::from_raw(server.pid().cast_signed()), signal).unwrap();
}

fn kill_server(server: &Server) {
    send(server, Signal::SIGKILL);
    eventually("it ends", || !server.is_alive());
}

#[test]
fn a_feed_rings_when_its_server_is_killed_and_goes_on_with_the_next() -> Result<()> {
    let place = Place::new("feed");
    let mut server = place.serve();
    let (state, mapped) = place.open();
    let feed = state.watch().event_fd()?;
    let live = state.watch().live().event_fd()?;
    for round in 1..=3 {
        assert_silent(&feed);
        assert_silent(&live);
        kill_server(&server);
        for feed in [&feed, &live] {
            assert!(is_readable(feed, HANG), "that there is none");
            let _ = feed.clear();
            assert!(is_readable(feed, HANG), "it is so still");
        }
        let lost = now(&state).get_raw_update().map(drop);
        assert!(is_lost(&lost), "{lost:?}");
        server = place.serve();
        eventually("the server is found", || {
            now(&state)
                .get_raw_update()
                .is_err_and(|error| matches!(error, Error::Timeout))
        });
        for feed in [&feed, &live] {
            eventually("it is silent", || feed.clear().is_ok() && !is_readable(feed, WHILE));
        }
        mapped.insert("n", round)?;
        assert!(is_readable(&feed, HANG) && is_readable(&live, HANG));
        assert_eq!(now(&state).get_raw_update()?.seq, round);
        feed.clear()?;
        live.clear()?;
    }
    Ok(())
}

/// Losses of connections that were had added up to a server that lets nobody wait, which was told as an error.
#[test]
fn a_feed_takes_servers_that_end_one_after_the_other_for_no_error() -> Result<()> {
    let place = Place::new("ends");
    let mut server = place.serve();
    let (state, mapped) = place.open();
    let feed = state.watch().event_fd()?;
    assert_silent(&feed);
    // Sooner than a question is answered that nothing comes for.
    for _ in 0..4 {
        kill_server(&server);
        assert!(is_readable(&feed, HANG));
        server = place.serve();
        eventually("it is silent", || {
            feed.clear().unwrap();
            !is_readable(&feed, WHILE)
        });
    }
    mapped.insert("n", 1)?;
    assert!(is_readable(&feed, HANG));
    assert_eq!(now(&state).get_raw_update()?.seq, 1);
    Ok(())
}

#[test]
fn a_select_says_that_its_server_was_killed_and_goes_on_with_the_next() -> Result<()> {
    let place = Place::new("select");
    let mut server = place.serve();
    let (state, mapped) = place.open();
    let other = State::anonymous()?;
    let watch = state.watch();
    let mut select = Select::new();
    select.watch(&other.watch())?;
    let of_state = select.watch(&watch)?;
    for round in 1..=2 {
        std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(WHILE);
                kill_server(&server);
            });
            assert!(woken(|| select.wait(HANG)).unwrap().eq([of_state]));
        });
        let lost = now(&state).get_raw_update().map(drop);
        assert!(is_lost(&lost), "{lost:?}");
        // What is mapped is waited for as before, also while it is away.
        other.clone().insert("n", round)?;
        assert!(select.wait(HANG)?.eq([0, of_state]));
        other.go_live()?;
        server = place.serve();
        eventually("the server is found", || {
            matches!(select.wait(Duration::ZERO), Err(Error::Timeout))
        });
        std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(WHILE);
                mapped.insert("n", round).unwrap();
            });
            assert!(woken(|| select.wait(HANG)).unwrap().eq([of_state]));
        });
        assert_eq!(now(&state).get_raw_update()?.seq, round);
    }
    Ok(())
}

/// Mapped states of two arenas, one over a socket and a descriptor, each of which wakes it.
#[test]
fn a_select_waits_for_what_is_mapped_what_is_not_and_descriptors_alike() -> Result<()> {
    let server = zproc::start_server().backend(Backend::Thread).start()?;
    let states = [
        State::anonymous()?,
        over_socket(server.address()),
        over_socket(server.address()).fork().namespace("kitchen").open()?,
        State::anonymous()?,
    ];
    let writers = states.clone();
    let (ours, theirs) = UnixStream::pair().unwrap();
    for with_fd in [false, true] {
        let mut select = Select::new();
        for state in &states {
            select.watch(&state.watch().keys(["n"])?)?;
        }
        if with_fd {
            select.readable(&theirs);
        }
        for round in 0..40u64 {
            let number = round as usize % writers.len();
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    std::thread::sleep(Duration::from_micros(300 * (round % 7)));
                    writers[number].insert("n", round).unwrap();
                });
                assert!(woken(|| select.wait(HANG)).unwrap().eq([number]));
            });
            assert!(now(&states[number]).get_when_change(["n"]).is_ok());
            assert!(matches!(select.wait(Duration::ZERO), Err(Error::Timeout)));
        }
        if with_fd {
            io::Write::write_all(&mut &ours, &[1]).unwrap();
            assert!(select.wait(HANG)?.eq([states.len()]));
        }
    }
    Ok(())
}

/// A server that is stopped answers nothing: who waits is told in the time of any call, and it goes on.
#[test]
fn a_feed_rings_when_its_server_is_stopped() -> Result<()> {
    let place = Place::new("stopped");
    let server = place.serve();
    let (state, mapped) = place.open();
    let feed = state.watch().event_fd()?;
    assert_silent(&feed);
    send(&server, Signal::SIGSTOP);
    eventually("it stops", || has_stopped(server.pid()));
    assert!(is_readable(&feed, HANG));
    let _ = feed.clear();
    let lost = now(&state).get_raw_update().map(drop);
    assert!(is_lost(&lost), "{lost:?}");
    send(&server, Signal::SIGCONT);
    eventually("it is silent", || feed.clear().is_ok() && !is_readable(&feed, WHILE));
    mapped.insert("n", 1)?;
    assert!(is_readable(&feed, HANG));
    Ok(())
}

/// However they end, while they wait and while they do not.
#[test]
fn what_is_dropped_or_closed_leaves_no_thread_and_no_descriptor() {
    fn in_child() -> Result<()> {
        let server = zproc::start_server().start()?;
        let mapped = State::open(server.address())?;
        drop(over_socket(server.address()).watch().event_fd()?);
        eventually("the first ends", || listeners() == 0);
        let before = descriptors();
        let left = |what: &str| {
            eventually(&format!("{what}: the threads end"), || listeners() == 0);
            eventually(&format!("{what}: the descriptors are closed"), || {
                descriptors() <= before
            });
        };
        let feeds = |state: &State| -> Result<Vec<EventFeed>> {
            let canceller = Canceller::new();
            let feeds = [
                state.watch().event_fd(),
                state.watch().live().event_fd(),
                state.watch().keys(["n"])?.cancel(&canceller).event_fd(),
            ];
            feeds.into_iter().collect()
        };
        for round in 0..4 {
            // While they wait, and when they have been told.
            let is_told = round % 2 == 1;
            let tell = || -> Result<()> {
                match is_told {
                    true => mapped.insert("n", mapped.seq()?),
                    false => Ok(()),
                }
            };
            let wait = |feeds: &[EventFeed]| {
                // Each gives itself its name.
                eventually("the threads have begun", || listeners() == 3);
                std::thread::sleep(WHILE);
                assert!(
                    feeds
                        .iter()
                        .all(|feed| is_readable(feed, HANG * u32::from(is_told)) == is_told)
                );
            };
            let state = over_socket(server.address());
            let told = feeds(&state)?;
            tell()?;
            wait(&told);
            drop(told);
            eventually("the threads end", || listeners() == 0);
            assert!(now(&state).get_raw_update().is_ok() == is_told);
            drop(state);
            left("a feed that was dropped");

            let state = over_socket(server.address());
            let told = feeds(&state)?;
            tell()?;
            wait(&told);
            state.close();
            eventually("the threads end", || listeners() == 0);
            assert!(told.iter().all(|feed| is_readable(feed, HANG)));
            assert!(told.iter().all(|feed| matches!(feed.clear(), Err(Error::Closed))));
            drop((told, state));
            left("a state that was closed");

            let state = over_socket(server.address());
            let told = feeds(&state)?;
            tell()?;
            wait(&told);
            let of_feeds = told.len();
            drop(state);
            eventually("the threads end", || listeners() == 0);
            // Each has the one that it shows, and the one by which its thread was woken.
            eventually("connections are closed", || descriptors() <= before + 2 * of_feeds);
            assert!(told.iter().all(|feed| is_readable(feed, HANG)));
            assert!(told.iter().all(|feed| matches!(feed.clear(), Err(Error::Closed))));
            drop(told);
            left("a state that was dropped");

            let state = over_socket(server.address());
            let mut select = Select::new();
            select.watch(&state.watch())?;
            assert!(matches!(select.wait(Duration::from_millis(5)), Err(Error::Timeout)));
            drop(select);
            drop(state);
            left("a select");
        }
        Ok(())
    }
    let ctx = Context::new().unwrap();
    ctx.process(in_child).start().unwrap().wait().unwrap();
}

#[test]
fn a_forked_child_has_feeds_of_its_own_and_leaves_its_parents_alone() -> Result<()> {
    let place = Place::new("fork");
    let _server = place.serve();
    let (state, mapped) = place.open();
    let feed = state.watch().event_fd()?;
    let mut select = Select::new();
    select.watch(&state.watch())?;
    assert!(matches!(select.wait(Duration::from_millis(5)), Err(Error::Timeout)));
    for round in 1..=10u64 {
        let mut dropped = Some(state.watch().event_fd()?);
        assert!(holds_in_fork(|| {
            let inherited = matches!(feed.clear(), Err(Error::Forked))
                && matches!(select.wait(Duration::ZERO), Err(Error::Forked))
                && matches!(state.watch().event_fd(), Err(Error::Forked));
            drop(dropped.take());
            assert_eq!(listeners(), 0, "threads do not come along");
            let (theirs, writer) = place.open();
            let feed = theirs.watch().event_fd().unwrap();
            writer.insert("child", round).unwrap();
            assert!(is_readable(&feed, HANG));
            assert!(now(&theirs).get_raw_update().is_ok());
            feed.clear().unwrap();
            assert_silent(&feed);
            drop(feed);
            eventually("the child's thread to end", || listeners() == 0);
            inherited
        }));
        assert!(is_readable(&dropped.expect("it was dropped in the child"), HANG));
        assert!(is_readable(&feed, HANG), "round {round}");
        assert_eq!(now(&state).get_raw_update()?.seq, 2 * round - 1);
        feed.clear()?;
        assert_silent(&feed);
        mapped.insert("parent", round)?;
        assert!(is_readable(&feed, HANG) && select.wait(HANG)?.eq([0]));
        assert_eq!(now(&state).get_raw_update()?.seq, 2 * round);
        feed.clear()?;
    }
    Ok(())
}

/// Passes connections on to a server, as long as it is to.
struct Between {
    path: PathBuf,
    passes: Arc<AtomicBool>,
    connections: Arc<AtomicU32>,
}

impl Between {
    fn new(name: &str, server: &Server) -> Self {
        let path = std::env::temp_dir().join(format!("zproc-between-{name}-{}.sock", std::process::id()));
        let listener = UnixListener::bind(&path).unwrap();
        let (passes, connections) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicU32::new(0)));
        let between = Self {
            path,
            passes: Arc::clone(&passes),
            connections: Arc::clone(&connections),
        };
        let server = server.address().trim_start_matches("ipc://").to_owned();
        let pass = |mut from: UnixStream, mut to: UnixStream| {
            std::thread::spawn(move || {
                let _ = io::copy(&mut from, &mut to);
                let _ = to.shutdown(std::net::Shutdown::Both);
            })
        };
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let client = client.unwrap();
                connections.fetch_add(1, Ordering::SeqCst);
                if passes.load(Ordering::SeqCst) {
                    let server = UnixStream::connect(&server).unwrap();
                    pass(client.try_clone().unwrap(), server.try_clone().unwrap());
                    pass(server, client);
                }
            }
        });
        between
    }

    fn address(&self) -> String {
        format!("ipc://{}", self.path.display())
    }

    fn connections(&self) -> u32 {
        self.connections.load(Ordering::SeqCst)
    }
}

impl Drop for Between {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

#[test]
fn a_feed_has_one_connection_however_many_updates_there_are() -> Result<()> {
    let server = zproc::start_server().backend(Backend::Thread).start()?;
    let between = Between::new("one", &server);
    let state = over_socket(&between.address());
    let mapped = State::open(server.address())?;
    // More than the connections that a state keeps beside.
    let feeds: Vec<EventFeed> = (0..8).map(|_| state.watch().event_fd()).collect::<Result<_>>()?;
    for n in 1..=50u64 {
        mapped.insert("n", n)?;
        for feed in &feeds {
            assert!(is_readable(feed, HANG));
        }
        assert_eq!(now(&state).get_raw_update()?.seq, n);
        for feed in &feeds {
            feed.clear()?;
        }
    }
    assert_eq!(between.connections(), 1 + feeds.len() as u32);
    Ok(())
}

/// Each watcher waited for a stopped server anew, a second or more.
#[test]
fn a_select_asks_a_server_that_does_not_answer_once_and_not_for_each_watcher() -> Result<()> {
    let place = Place::new("once");
    let server = place.serve();
    let between = Between::new("once", &server);
    let state = over_socket(&between.address());
    let mut select = Select::new();
    for _ in 0..4 {
        select.watch(&state.watch())?;
        select.watch(&state.watch().live())?;
    }
    assert!(matches!(select.wait(Duration::from_millis(5)), Err(Error::Timeout)));
    let before = between.connections();
    send(&server, Signal::SIGSTOP);
    eventually("it stops", || has_stopped(server.pid()));
    let ready: Vec<usize> = select.wait(Duration::ZERO)?.collect();
    send(&server, Signal::SIGCONT);
    assert_eq!(ready, [0, 1, 2, 3, 4, 5, 6, 7]);
    // Those who listen may notice, and connect anew: not while nobody waits.
    assert_eq!(between.connections(), before, "it was asked again");
    eventually("the server is found", || {
        matches!(select.wait(Duration::ZERO), Err(Error::Timeout))
    });
    Ok(())
}

/// A server that answers, and lets nobody wait: who looked and found nothing would have asked again without end.
#[test]
fn a_server_that_takes_no_more_connections_is_an_error() -> Result<()> {
    let server = zproc::start_server().backend(Backend::Thread).start()?;
    let between = Between::new("full", &server);
    let state = over_socket(&between.address());
    between.passes.store(false, Ordering::SeqCst);
    assert_eq!(state.len()?, 0, "by the connection that there is");
    let feed = state.watch().event_fd()?;
    let mut tries = 0;
    let error = loop {
        assert!(is_readable(&feed, HANG));
        tries += 1;
        match feed.clear() {
            Err(error) => break error,
            Ok(()) => assert!(tries < 100, "it goes in circles"),
        }
    };
    assert!(
        matches!(error, Error::Disconnected { .. }) && tries <= 3,
        "{error} after {tries}"
    );
    let mut select = Select::new();
    select.watch(&state.watch())?;
    let result = woken(|| select.wait(HANG).map(drop));
    assert!(is_lost(&result), "{result:?}");
    between.passes.store(true, Ordering::SeqCst);
    eventually("it is silent", || feed.clear().is_ok() && !is_readable(&feed, WHILE));
    State::open(server.address())?.insert("n", 1)?;
    assert!(is_readable(&feed, HANG) && select.wait(HANG)?.eq([0]));
    Ok(())
}

/// Has updates pass that no watcher of changes gets: in all more than the history has, and so few between two questions that
/// none of these lags.
fn pass_unnoticed(state: &State, mapped: &State) -> Result<()> {
    for _ in 0..5 {
        for _ in 0..20 {
            mapped.insert("n", 1)?;
            state.insert("own", 1)?;
        }
        std::thread::sleep(Duration::from_millis(1200));
    }
    Ok(())
}

/// What passes while a question is out counts as looked at, also when it has left the history.
#[test]
fn what_a_watcher_would_not_get_does_not_make_it_lag_while_it_waits() -> Result<()> {
    let mapped = Builder::anonymous().history(64, 1 << 20).create()?;
    let server = zproc::start_server().state(&mapped).backend(Backend::Thread).start()?;
    let state = over_socket(server.address());
    mapped.insert("n", 1)?;
    state.go_live()?;
    let feed = state.watch().event_fd()?;
    pass_unnoticed(&state, &mapped)?;
    assert_silent(&feed);
    mapped.insert("n", 2)?;
    assert!(is_readable(&feed, HANG));
    assert_eq!(now(&state).get_raw_update()?.after.get("n")?, Some(2));
    Ok(())
}

#[cfg(feature = "tokio")]
mod streams {
    use super::*;
    use std::pin::Pin;
    use std::task::{Poll, Waker};

    use futures_core::Stream;
    use zproc::{Update, UpdateStream};

    fn executor() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_time()
            .build()
            .unwrap()
    }

    async fn next<'s>(updates: &mut UpdateStream<'s>) -> Result<Update<'s>> {
        let start = Instant::now();
        let next = tokio::time::timeout(HANG, updates.next()).await;
        assert!(start.elapsed() < HANG / 2, "nobody told it");
        next.expect("the task is woken").expect("it goes on")
    }

    fn is_pending(updates: &mut UpdateStream<'_>) -> bool {
        let mut context = std::task::Context::from_waker(Waker::noop());
        matches!(Pin::new(updates).poll_next(&mut context), Poll::Pending)
    }

    #[derive(Default)]
    struct Woken(AtomicBool);

    impl std::task::Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::SeqCst);
        }
    }

    #[test]
    fn a_stream_says_that_its_server_was_killed_and_another_goes_on_where_it_was() -> Result<()> {
        let place = Place::new("stream");
        let mut server = place.serve();
        let (state, mapped) = place.open();
        for round in 1..=2 {
            executor().block_on(async {
                let (mut updates, mut live) = (state.updates_stream()?, state.watch().live().stream()?);
                assert!(is_pending(&mut updates) && is_pending(&mut live));
                let killing = async {
                    tokio::time::sleep(WHILE).await;
                    kill_server(&server);
                };
                let (result, other, ()) = tokio_join(next(&mut updates), next(&mut live), killing).await;
                assert!(is_lost(&result) && is_lost(&other), "{result:?}, {other:?}");
                assert!(updates.next().await.is_none() && live.next().await.is_none());
                server = place.serve();
                mapped.insert("n", round)?;
                let mut updates = state.updates_stream()?;
                assert_eq!(next(&mut updates).await?.seq, round);
                Ok::<_, Error>(())
            })?;
        }
        Ok(())
    }

    /// All three, one beside the other.
    async fn tokio_join<A, B, C>(
        a: impl Future<Output = A>,
        b: impl Future<Output = B>,
        c: impl Future<Output = C>,
    ) -> (A, B, C) {
        let (mut a, mut b, mut c) = (Box::pin(a), Box::pin(b), Box::pin(c));
        let (mut of_a, mut of_b, mut of_c) = (None, None, None);
        std::future::poll_fn(|context| {
            fn step<F: Future>(
                future: &mut Pin<Box<F>>,
                out: &mut Option<F::Output>,
                context: &mut std::task::Context<'_>,
            ) {
                if out.is_none()
                    && let Poll::Ready(ready) = future.as_mut().poll(context)
                {
                    *out = Some(ready);
                }
            }
            step(&mut a, &mut of_a, context);
            step(&mut b, &mut of_b, context);
            step(&mut c, &mut of_c, context);
            if of_a.is_some() && of_b.is_some() && of_c.is_some() {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
        .await;
        (of_a.unwrap(), of_b.unwrap(), of_c.unwrap())
    }

    /// Where nobody looks between its end and the next one's beginning, there is nothing to tell.
    #[test]
    fn a_stream_goes_on_over_a_server_that_was_replaced_meanwhile() -> Result<()> {
        let place = Place::new("replaced");
        let server = place.serve();
        let (state, mapped) = place.open();
        let mut updates = state.updates_stream()?;
        let wait = |updates: &mut UpdateStream<'_>| {
            let woken = Arc::new(Woken::default());
            let waker = Waker::from(Arc::clone(&woken));
            let polled = Pin::new(updates).poll_next(&mut std::task::Context::from_waker(&waker));
            assert!(polled.is_pending());
            woken
        };
        // It has a connection then: the loss of one that is only being made tells nothing of the others.
        let woken = wait(&mut updates);
        mapped.insert("n", 1)?;
        eventually("the update is noticed", || woken.0.load(Ordering::SeqCst));
        assert_eq!(executor().block_on(next(&mut updates))?.seq, 1);
        let woken = wait(&mut updates);
        kill_server(&server);
        eventually("the loss is noticed", || woken.0.load(Ordering::SeqCst));
        let _server = place.serve();
        mapped.insert("n", 2)?;
        assert_eq!(executor().block_on(next(&mut updates))?.seq, 2);
        Ok(())
    }

    #[test]
    fn what_a_stream_with_a_place_would_not_get_does_not_make_it_lag_while_it_waits() -> Result<()> {
        let mapped = Builder::anonymous().history(64, 1 << 20).create()?;
        let server = zproc::start_server().state(&mapped).backend(Backend::Thread).start()?;
        let state = over_socket(server.address());
        mapped.insert("n", 1)?;
        let mut updates = state.watch().live().stream()?;
        assert!(is_pending(&mut updates));
        pass_unnoticed(&state, &mapped)?;
        mapped.insert("n", 2)?;
        let update = executor().block_on(next(&mut updates))?;
        assert_eq!(update.after.get("n")?, Some(2));
        Ok(())
    }

    #[test]
    fn a_stream_of_a_state_that_was_closed_is_not_made() {
        let server = zproc::start_server().backend(Backend::Thread).start().unwrap();
        let state = over_socket(server.address());
        state.close();
        assert!(matches!(state.updates_stream().map(drop), Err(Error::Closed)));
        assert!(matches!(state.watch().stream_since(0).map(drop), Err(Error::Closed)));
    }

    #[test]
    fn two_streams_of_one_state_share_its_updates_and_those_with_a_place_have_them_all() -> Result<()> {
        const COUNT: u64 = 300;
        let mapped = Builder::anonymous().history(2 * COUNT as u32, 16 << 20).create()?;
        let server = zproc::start_server().state(&mapped).backend(Backend::Thread).start()?;
        let state = Arc::new(over_socket(server.address()));
        let runtime = executor();
        let tasks: Vec<_> = [true, true, false, false]
            .map(|shares| {
                let state = Arc::clone(&state);
                runtime.spawn(async move {
                    let mut updates = if shares {
                        state.updates_stream()?
                    } else {
                        state.watch().stream_since(0)?
                    };
                    let mut seqs = Vec::new();
                    while seqs.last() != Some(&COUNT) {
                        match tokio::time::timeout(HANG, updates.next()).await.expect("it is woken") {
                            Some(Ok(update)) => seqs.push(update.seq),
                            // That of who shares, when the other one had the last.
                            _ => break,
                        }
                    }
                    Ok::<_, Error>(seqs)
                })
            })
            .into();
        for n in 1..=COUNT {
            mapped.insert("n", n)?;
            if n % 20 == 0 {
                std::thread::sleep(Duration::from_micros(50 * n));
            }
        }
        eventually("all are taken", || state.cursor() == COUNT);
        let mut results = tasks.into_iter();
        let (one, other) = (results.next().unwrap(), results.next().unwrap());
        for task in results {
            assert_eq!(runtime.block_on(task).unwrap()?, (1..=COUNT).collect::<Vec<_>>());
        }
        state.close();
        let (one, other) = (runtime.block_on(one).unwrap()?, runtime.block_on(other).unwrap()?);
        let mut all: Vec<u64> = one.into_iter().chain(other).collect();
        all.sort_unstable();
        assert_eq!(all, (1..=COUNT).collect::<Vec<_>>(), "each went to exactly one");
        Ok(())
    }
}
