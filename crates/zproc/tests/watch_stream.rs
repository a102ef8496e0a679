//! Updates as an async stream: the feature `tokio`.

#![cfg(feature = "tokio")]

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use futures_core::Stream;
use support::{HANG, Served, eventually, left_by_a_dead_writer, pair};
use tokio::runtime::{Builder as Executor, Runtime};
use zproc::{Builder, Canceller, Error, Result, State, Update, UpdateStream};

mod support;

fn executor() -> Runtime {
    Executor::new_multi_thread()
        .worker_threads(2)
        .enable_time()
        .build()
        .unwrap()
}

async fn next<'s>(updates: &mut UpdateStream<'s>) -> Result<Update<'s>> {
    let next = tokio::time::timeout(HANG, updates.next()).await;
    next.expect("the task is woken").expect("it goes on")
}

/// A waker that counts.
#[derive(Default)]
struct Counter(AtomicUsize);

impl Wake for Counter {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

impl Counter {
    fn count(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

fn poll<'s>(updates: &mut UpdateStream<'s>, waker: &Waker) -> Poll<Option<Result<Update<'s>>>> {
    Pin::new(updates).poll_next(&mut Context::from_waker(waker))
}

#[test]
fn a_task_on_any_thread_gets_the_updates_in_order() -> Result<()> {
    const COUNT: u64 = 2000;
    let writer = Builder::anonymous()
        .history(2 * COUNT as u32, 64 << 20)
        .create()
        .served()?;
    let runtime = executor();
    let tasks: Vec<_> = (0..3)
        .map(|_| {
            let state = writer.clone();
            runtime.spawn(async move {
                let mut updates = state.updates_stream()?;
                for seq in 1..=COUNT {
                    let update = next(&mut updates).await?;
                    assert_eq!((update.seq, update.after.get("n")?), (seq, Some(seq)));
                    // Over an await, on whichever thread.
                    tokio::task::yield_now().await;
                    assert_eq!(update.before.seq(), seq - 1);
                }
                assert_eq!(state.cursor(), COUNT);
                Ok::<_, Error>(())
            })
        })
        .collect();
    for n in 1..=COUNT {
        writer.insert("n", n)?;
        if n % 100 == 0 {
            std::thread::sleep(Duration::from_micros(n));
        }
    }
    for task in tasks {
        runtime.block_on(task).unwrap()?;
    }
    Ok(())
}

#[test]
fn a_stream_has_the_settings_of_its_watch() -> Result<()> {
    executor().block_on(async {
        let (state, other) = pair();
        other.extend([("a", 1), ("b", 1)])?;
        let (of_a, of_others) = (state.fork().since(0).open()?, state.fork().since(0).open()?);
        let duplicates = state.fork().since(0).open()?;
        let mut a = of_a.watch().keys(["a"])?.stream()?;
        let mut others = of_others.watch().except(["a"])?.stream()?;
        let mut all = duplicates.watch().duplicates().stream()?;
        let mut live = state.watch().live().stream()?;
        other.insert("a", 1)?;
        other.insert("b", 2)?;
        other.insert("a", 2)?;
        for (updates, expected) in [
            (&mut a, &[1, 4][..]),
            (&mut others, &[1, 3]),
            (&mut all, &[1, 2, 3, 4]),
            (&mut live, &[3, 4]),
        ] {
            for seq in expected {
                assert_eq!(next(updates).await?.seq, *seq);
            }
            assert!(poll(updates, Waker::noop()).is_pending());
        }
        assert_eq!((of_a.cursor(), state.cursor()), (4, 0));
        let mut since = state.watch().stream_since(2)?;
        assert_eq!(next(&mut since).await?.seq, 3);
        assert_eq!(state.cursor(), 0);
        Ok(())
    })
}

#[test]
fn a_task_is_woken_once_for_an_update_and_not_for_what_it_would_not_get() -> Result<()> {
    let (state, other) = pair();
    let counter = Arc::new(Counter::default());
    let waker = Waker::from(Arc::clone(&counter));
    let mut updates = state.watch().keys(["n"])?.stream()?;
    assert!(poll(&mut updates, &waker).is_pending());
    state.insert("n", 1)?;
    other.insert("m", 1)?;
    other.insert("n", 1)?;
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(counter.count(), 0, "an own one, another key, an identical one");
    other.insert("n", 2)?;
    eventually("the task to be woken", || counter.count() == 1);
    other.insert("n", 3)?;
    other.insert("n", 4)?;
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(counter.count(), 1, "it has been told");
    for seq in [4, 5, 6] {
        let Poll::Ready(Some(update)) = poll(&mut updates, &waker) else {
            panic!("update {seq} is there")
        };
        assert_eq!(update?.seq, seq);
    }
    assert!(poll(&mut updates, &waker).is_pending());
    // The task that asked last is the one that is woken.
    let another = Arc::new(Counter::default());
    assert!(poll(&mut updates, &Waker::from(Arc::clone(&another))).is_pending());
    other.insert("n", 5)?;
    eventually("the other task to be woken", || another.count() == 1);
    assert_eq!(counter.count(), 1);
    Ok(())
}

#[test]
fn a_future_that_is_dropped_loses_nothing() -> Result<()> {
    let (state, other) = pair();
    let mut updates = state.updates_stream()?;
    for n in 1..=20u64 {
        {
            let mut future = Box::pin(updates.next());
            assert!(
                future
                    .as_mut()
                    .poll(&mut Context::from_waker(Waker::noop()))
                    .is_pending()
            );
            other.insert("n", n)?;
        }
        let update = executor().block_on(next(&mut updates))?;
        assert_eq!((update.seq, update.after.get("n")?), (n, Some(n)));
    }
    Ok(())
}

#[test]
fn a_timeout_holds_for_each_update_and_does_not_end_the_stream() -> Result<()> {
    executor().block_on(async {
        let (state, other) = pair();
        let mut updates = state.watch().timeout(Duration::from_millis(10)).stream()?;
        for seq in 1..=3 {
            assert!(matches!(next(&mut updates).await, Err(Error::Timeout)));
            assert!(matches!(next(&mut updates).await, Err(Error::Timeout)));
            other.insert("n", seq)?;
            assert_eq!(next(&mut updates).await?.seq, seq);
        }
        let mut at_once = state.watch().timeout(Duration::ZERO).stream()?;
        assert!(matches!(
            poll(&mut at_once, Waker::noop()),
            Poll::Ready(Some(Err(Error::Timeout)))
        ));
        Ok(())
    })
}

#[test]
fn a_cancel_wakes_the_task_and_a_close_ends_the_stream() -> Result<()> {
    let (state, other) = pair();
    let state = Arc::new(state);
    let canceller = Canceller::new();
    let runtime = executor();
    let task = {
        let (state, canceller) = (Arc::clone(&state), canceller.clone());
        runtime.spawn(async move {
            let mut updates = state.watch().cancel(&canceller).stream()?;
            let cancelled = next(&mut updates).await.map(drop);
            canceller.reset();
            let update = next(&mut updates).await?.seq;
            let closed = next(&mut updates).await.map(drop);
            Ok::<_, Error>((cancelled, update, closed, updates.next().await.is_none()))
        })
    };
    std::thread::sleep(Duration::from_millis(10));
    canceller.cancel();
    eventually("the task to go on", || !canceller.is_cancelled());
    other.insert("n", 1)?;
    eventually("the task to take the update", || state.cursor() == 1);
    std::thread::sleep(Duration::from_millis(10));
    state.close();
    let (cancelled, update, closed, ended) = runtime.block_on(task).unwrap()?;
    assert!(matches!(cancelled, Err(Error::Cancelled)));
    assert_eq!(update, 1);
    assert!(matches!(closed, Err(Error::Closed)));
    assert!(ended);
    Ok(())
}

#[test]
fn a_stream_that_lags_is_told_how_much_and_goes_on() -> Result<()> {
    executor().block_on(async {
        let state = Builder::anonymous().history(4, 1 << 20).create().served()?;
        let other = state.clone();
        let mut updates = state.updates_stream()?;
        for n in 1..=100 {
            other.insert("n", n)?;
        }
        let Err(Error::Lagged { missed }) = next(&mut updates).await else {
            panic!("it did not lag")
        };
        for seq in missed + 1..=100 {
            assert_eq!(next(&mut updates).await?.seq, seq);
        }
        assert!(poll(&mut updates, Waker::noop()).is_pending());
        Ok(())
    })
}

/// A key that changes seldom beside one that changes so often that the history is too short for all of it: whether the
/// stream follows the cursor or has a place of its own.
#[test]
fn a_quiet_key_beside_a_busy_one_does_not_lag() -> Result<()> {
    executor().block_on(async {
        let state = Builder::anonymous().history(4, 1 << 20).create().served()?;
        let other = state.clone();
        let quiet = state.watch().keys(["quiet"])?;
        let (mut of_cursor, mut own) = (quiet.stream()?, quiet.live().stream()?);
        for n in 0..100 {
            other.insert("busy", n)?;
            assert!(poll(&mut of_cursor, Waker::noop()).is_pending());
            assert!(poll(&mut own, Waker::noop()).is_pending());
        }
        other.insert("quiet", 1)?;
        assert_eq!(next(&mut own).await?.seq, 101);
        assert_eq!(next(&mut of_cursor).await?.seq, 101);
        Ok(())
    })
}

#[test]
fn tasks_that_share_a_state_share_its_updates() -> Result<()> {
    const COUNT: usize = 500;
    let other = Builder::anonymous()
        .history(2 * COUNT as u32, 64 << 20)
        .create()
        .served()?;
    let state = Arc::new(other.clone());
    let runtime = executor();
    let (found, all) = std::sync::mpsc::channel();
    let tasks: Vec<_> = (0..4)
        .map(|_| {
            let (state, found) = (Arc::clone(&state), found.clone());
            runtime.spawn(async move {
                // It may begin when all is over already.
                let Ok(mut updates) = state.updates_stream() else {
                    return;
                };
                while let Some(Ok(update)) = updates.next().await {
                    found.send(update.seq).unwrap();
                }
            })
        })
        .collect();
    for n in 0..COUNT {
        other.insert("n", n as u64)?;
    }
    let mut seqs: Vec<u64> = (0..COUNT).map(|_| all.recv_timeout(HANG).unwrap()).collect();
    state.close();
    for task in tasks {
        runtime.block_on(task).unwrap();
    }
    seqs.sort_unstable();
    assert_eq!(seqs, (1..=COUNT as u64).collect::<Vec<_>>(), "each went to exactly one");
    assert!(all.try_recv().is_err());
    Ok(())
}

#[test]
fn what_a_dead_writer_decided_is_found() -> Result<()> {
    let state = left_by_a_dead_writer();
    let update = executor().block_on(async { next(&mut state.updates_stream()?).await.map(|update| update.seq) })?;
    assert_eq!(update, 1);
    Ok(())
}

#[test]
fn streams_go_from_thread_to_thread() {
    fn sent<T: Send>(_: &T) {}
    let state = State::anonymous().served().unwrap();
    let mut updates = state.updates_stream().unwrap();
    sent(&updates);
    sent(&updates.next());
}

/// A task that is dropped by its own waker, as an executor may do, which drops the stream while it is told.
#[test]
fn a_waker_may_drop_the_stream_that_it_wakes() -> Result<()> {
    struct Holder(std::sync::Mutex<Option<UpdateStream<'static>>>, Counter);
    impl Wake for Holder {
        fn wake(self: Arc<Self>) {
            self.0.lock().unwrap().take();
            self.1.0.fetch_add(1, Ordering::SeqCst);
        }
    }
    let (state, other) = pair();
    // Kept for the rest of the process: the stream that lives in a waker has to be `'static`.
    let state: &'static State = Box::leak(Box::new(state));
    for n in 1..=50 {
        state.go_live()?;
        let holder = Arc::new(Holder(std::sync::Mutex::default(), Counter::default()));
        let waker = Waker::from(Arc::clone(&holder));
        let mut updates = state.updates_stream()?;
        assert!(poll(&mut updates, &waker).is_pending());
        *holder.0.lock().unwrap() = Some(updates);
        other.insert("n", n)?;
        eventually("the waker to run", || holder.1.count() == 1);
    }
    Ok(())
}
