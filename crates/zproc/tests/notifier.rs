//! The thread that feeds eventfds and streams: how many there are, when they end. A binary of its own, with one test,
//! since it counts the threads of its process.

use std::time::Duration;

use support::{HANG, eventually, is_readable, notifiers, now};
use zproc::{Builder, Result, State};

mod support;

/// Processor time that the notifiers have used, in clock ticks.
fn ticks() -> u64 {
    let tasks = std::fs::read_dir("/proc/self/task")
        .unwrap()
        .filter_map(std::result::Result::ok);
    let of = |task: std::fs::DirEntry| {
        let stat = std::fs::read_to_string(task.path().join("stat")).ok()?;
        let (head, rest) = stat.rsplit_once(") ")?;
        let fields: Vec<&str> = rest.split(' ').collect();
        let used = fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?;
        head.ends_with("(zproc-notifier").then_some(used)
    };
    tasks.filter_map(of).sum()
}

#[test]
fn there_are_few_threads_and_none_that_is_not_needed() -> Result<()> {
    assert_eq!(notifiers(), 0);
    let state = Builder::anonymous()
        .capacity(256 << 20)
        .history(4096, 64 << 20)
        .create()?;
    let other = state.clone();

    // One thread, for however many feeds of one namespace.
    let states: Vec<State> = (0..600).map(|_| state.clone()).collect();
    let feeds: Vec<_> = (0..600)
        .map(|n| states[n].watch().keys([n as u64])?.event_fd())
        .collect::<Result<_>>()?;
    eventually("one thread", || notifiers() == 1);
    for n in 0..600u64 {
        other.insert(n, 1)?;
    }
    for (feed, state) in feeds.iter().zip(&states) {
        assert!(is_readable(feed, HANG));
        assert!(now(state).get_when_any_change().is_ok());
        feed.clear()?;
    }
    assert_eq!(notifiers(), 1);

    // It sleeps: no processor time to speak of in a second and a half.
    std::thread::sleep(Duration::from_millis(200));
    let before = ticks();
    std::thread::sleep(Duration::from_millis(1500));
    assert!(ticks() - before < 30, "it is busy: {} ticks", ticks() - before);

    // Each thread watches 127 namespaces at most.
    let spaces: Vec<State> = (0..300)
        .map(|n| state.fork().namespace(format!("n{n}")).open())
        .collect::<Result<_>>()?;
    let further: Vec<_> = spaces
        .iter()
        .map(|space| space.watch().keys(0..300)?.event_fd())
        .collect::<Result<_>>()?;
    // Each gives itself its name.
    eventually("three threads", || notifiers() == 3);
    for (space, feed) in spaces.iter().zip(&further) {
        space.clone().insert(7, 1)?;
        assert!(is_readable(feed, HANG));
    }
    drop(further);
    eventually("two of the threads to end", || notifiers() == 1);
    other.insert(3u64, 2)?;
    assert!(is_readable(&feeds[3], HANG));
    drop(feeds);
    eventually("the last thread to end", || notifiers() == 0);

    // And again: a new one starts.
    for n in 0..100 {
        let feed = state.watch().event_fd()?;
        other.insert("n", n)?;
        assert!(is_readable(&feed, HANG));
        state.go_live()?;
    }
    eventually("the thread to end", || notifiers() == 0);
    streams::one_thread_for_all()
}

#[cfg(not(feature = "tokio"))]
mod streams {
    pub fn one_thread_for_all() -> zproc::Result<()> {
        Ok(())
    }
}

#[cfg(feature = "tokio")]
mod streams {
    use super::*;

    /// A thousand tasks that wait on two threads of the executor, and one notifier.
    pub fn one_thread_for_all() -> Result<()> {
        const TASKS: u64 = 1000;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .build()
            .unwrap();
        let state = Builder::anonymous().history(1 << 16, 64 << 20).create()?;
        let threads_before = support::threads().len();
        let tasks: Vec<_> = (0..TASKS)
            .map(|n| {
                let state = state.clone();
                runtime.spawn(async move {
                    let mut seen = Vec::new();
                    let mut updates = state.watch().keys([n])?.stream()?;
                    while seen.last() != Some(&3) {
                        let update = updates.next().await.expect("endless")?;
                        seen.push(update.after.get::<u64>(n)?.expect("it was set"));
                    }
                    Ok::<_, zproc::Error>(seen)
                })
            })
            .collect();
        eventually("a notifier", || notifiers() == 1);
        for value in 1..=3u64 {
            for n in 0..TASKS {
                state.insert(n, value)?;
                assert!(support::threads().len() <= threads_before + 1);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        for task in tasks {
            assert_eq!(runtime.block_on(task).unwrap()?, [1, 2, 3]);
        }
        eventually("the thread to end", || notifiers() == 0);
        Ok(())
    }
}
