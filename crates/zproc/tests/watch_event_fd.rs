//! Descriptors that become readable when a watcher has something to return.

use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use support::{
    HANG, Served, assert_nothing, eventually, holds_in_fork, is_over_socket, is_readable, left_by_a_dead_writer,
    notifiers, now, pair,
};
use zproc::{Builder, Canceller, Error, EventFeed, Result, State};

mod support;

/// Not readable, as far as that can be seen in a while.
#[track_caller]
fn assert_silent(feed: &EventFeed) {
    assert!(!is_readable(feed, Duration::from_millis(20)));
}

#[track_caller]
fn assert_rings(feed: &EventFeed) {
    assert!(is_readable(feed, HANG));
}

#[test]
fn it_is_readable_for_as_long_as_there_is_something() -> Result<()> {
    let (state, other) = pair();
    let feed = state.watch().event_fd()?;
    assert_silent(&feed);
    for n in 0..3 {
        other.insert("n", n)?;
    }
    assert_rings(&feed);
    // One at a time: it is readable again at once, also before its thread has had the time.
    for seq in 1..=3 {
        feed.clear()?;
        assert!(is_readable(&feed, Duration::ZERO), "update {seq} is to come");
        assert_eq!(now(&state).get_raw_update()?.seq, seq);
    }
    assert!(is_readable(&feed, Duration::ZERO), "until it is cleared");
    feed.clear()?;
    assert_silent(&feed);
    assert_nothing(now(&state).get_raw_update());
    other.insert("n", 3)?;
    assert_rings(&feed);
    Ok(())
}

#[test]
fn what_is_there_when_it_is_made_counts() -> Result<()> {
    let (state, other) = pair();
    other.insert("n", 1)?;
    let feed = state.watch().event_fd()?;
    assert!(is_readable(&feed, Duration::ZERO));
    Ok(())
}

#[test]
fn only_what_the_watcher_would_return_rings() -> Result<()> {
    let (state, other) = pair();
    state.insert("n", 1)?;
    let of_n = state.watch().keys(["n"])?.event_fd()?;
    let of_others = state.watch().except(["n"])?.event_fd()?;
    let duplicates = state.watch().duplicates().event_fd()?;
    state.insert("n", 2)?;
    for feed in [&of_n, &of_others, &duplicates] {
        assert_silent(feed);
    }
    other.insert("n", 2)?;
    assert_rings(&duplicates);
    assert_silent(&of_n);
    assert_silent(&of_others);
    other.insert("m", 1)?;
    assert_rings(&of_others);
    assert_silent(&of_n);
    other.insert("n", 3)?;
    assert_rings(&of_n);
    Ok(())
}

#[test]
fn that_of_a_live_watcher_rings_once_for_all_the_news() -> Result<()> {
    let (state, other) = pair();
    other.insert("n", 1)?;
    let feed = state.watch().live().event_fd()?;
    assert_silent(&feed);
    for n in 2..10 {
        other.insert("n", n)?;
    }
    assert_rings(&feed);
    feed.clear()?;
    assert_silent(&feed);
    other.insert("n", 10)?;
    assert_rings(&feed);
    assert_eq!(state.cursor(), 0);
    Ok(())
}

#[test]
fn the_end_of_its_state_rings_for_good() -> Result<()> {
    let (state, other) = pair();
    let feed = state.watch().event_fd()?;
    state.close();
    assert_rings(&feed);
    for _ in 0..3 {
        assert!(matches!(feed.clear(), Err(Error::Closed)));
        assert!(is_readable(&feed, Duration::ZERO));
    }
    let feed = other.watch().event_fd()?;
    drop(other);
    assert_rings(&feed);
    assert!(matches!(feed.clear(), Err(Error::Closed)));
    // Of another state nobody has anything open afterwards.
    let state = State::anonymous().served()?;
    let feed = state.watch().event_fd()?;
    drop(state);
    assert_rings(&feed);
    assert!(matches!(feed.clear(), Err(Error::Closed)));
    assert!(is_readable(&feed, Duration::ZERO));
    Ok(())
}

#[test]
fn a_canceller_rings_until_it_is_reset() -> Result<()> {
    let (state, other) = pair();
    let canceller = Canceller::new();
    let watch = state.watch().cancel(&canceller);
    let feed = watch.event_fd()?;
    assert_silent(&feed);
    canceller.cancel();
    assert_rings(&feed);
    assert!(matches!(feed.clear(), Err(Error::Cancelled)));
    assert!(matches!(watch.event_fd().map(drop), Err(Error::Cancelled)));
    canceller.reset();
    feed.clear()?;
    assert_silent(&feed);
    other.insert("n", 1)?;
    assert_rings(&feed);
    Ok(())
}

#[test]
fn what_a_dead_writer_decided_rings() -> Result<()> {
    let state = left_by_a_dead_writer();
    let feed = state.watch().keys(["n"])?.event_fd()?;
    assert_rings(&feed);
    assert_eq!(now(&state).get_raw_update()?.seq, 1);
    Ok(())
}

#[test]
fn it_keeps_no_memory_mapped() -> Result<()> {
    if is_over_socket() {
        return Ok(());
    }
    let state = State::anonymous()?;
    let file = std::fs::File::from(state.fd().expect("it has a file").try_clone_to_owned().unwrap());
    let inode = file.metadata().unwrap().ino().to_string();
    // Inodes of memfds are numbers of their own among all of the process's mappings with this name.
    let is_mapped = || {
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        maps.lines()
            .any(|line| line.contains("memfd:") && line.split_whitespace().nth(4) == Some(&inode))
    };
    let feed = state.watch().event_fd()?;
    assert!(is_mapped());
    drop(state);
    eventually("the memory to go", || !is_mapped());
    assert_rings(&feed);
    Ok(())
}

#[test]
fn a_feed_that_is_dropped_leaves_no_descriptor() -> Result<()> {
    let (state, other) = pair();
    for n in 0..200 {
        let feed = state.watch().event_fd()?;
        let link = format!("/proc/self/fd/{}", feed.as_raw_fd());
        assert_eq!(feed.as_fd().as_raw_fd(), feed.as_raw_fd());
        assert!(std::fs::read_link(&link).is_ok_and(|to| to.to_string_lossy().contains("eventfd")));
        other.insert("n", n)?;
        assert_rings(&feed);
        state.go_live()?;
    }
    Ok(())
}

/// A consumer that waits by poll takes every update of a busy writer, once, one at a time or all at once.
#[test]
fn nothing_is_missed_between_poll_clear_and_take() -> Result<()> {
    const COUNT: u64 = 5000;
    for one_at_a_time in [true, false] {
        let other = Builder::anonymous()
            .history(2 * COUNT as u32, 64 << 20)
            .create()
            .served()?;
        let state = other.clone();
        std::thread::scope(|scope| -> Result<()> {
            let watch = state.watch().keys(["n"])?;
            let feed = watch.event_fd()?;
            scope.spawn(|| {
                for n in 1..=COUNT {
                    other.insert("n", n).unwrap();
                    other.insert("noise", n).unwrap();
                    if n % 64 == 0 {
                        std::thread::sleep(Duration::from_micros(n % 500));
                    }
                }
            });
            let mut next = 1;
            while next <= COUNT {
                assert!(is_readable(&feed, HANG), "{next} never came");
                feed.clear()?;
                loop {
                    match watch.timeout(Duration::ZERO).get_when_any_change() {
                        Ok(found) => assert_eq!(found.get("n")?, Some(next)),
                        Err(Error::Timeout) => break,
                        Err(error) => return Err(error),
                    }
                    next += 1;
                    if one_at_a_time {
                        break;
                    }
                }
            }
            feed.clear()?;
            assert_silent(&feed);
            Ok(())
        })?;
    }
    Ok(())
}

/// A key that changes seldom, beside one that changes so often that the history is too short: the feed has looked at
/// all of it, so the watcher has missed nothing.
#[test]
fn a_quiet_key_beside_a_busy_one_does_not_lag() -> Result<()> {
    let state = Builder::anonymous().history(4, 1 << 20).create().served()?;
    let other = state.clone();
    let quiet = state.watch().keys(["quiet"])?;
    let feed = quiet.event_fd()?;
    for n in 0..100 {
        other.insert("busy", n)?;
        feed.clear()?;
    }
    other.insert("quiet", 1)?;
    assert_rings(&feed);
    assert_eq!(quiet.timeout(Duration::ZERO).get_when_any_change()?.seq(), 101);
    Ok(())
}

/// The producer's own updates do not count, however many leave the history.
#[test]
fn own_updates_never_ring_however_many() -> Result<()> {
    let (state, other) = pair();
    let feed = state.watch().event_fd()?;
    for n in 0..5000 {
        state.insert("own", n)?;
    }
    assert_silent(&feed);
    feed.clear()?;
    assert_silent(&feed);
    other.insert("theirs", 1)?;
    assert_rings(&feed);
    Ok(())
}

#[test]
fn a_forked_child_has_feeds_of_its_own_and_leaves_its_parents_alone() -> Result<()> {
    if is_over_socket() {
        return Ok(());
    }
    let address = format!("shm://zproc-test-feed-fork-{}", std::process::id());
    let state = State::create(&address)?;
    let own = State::open(&address)?;
    let feed = state.watch().event_fd()?;
    own.insert("n", 1)?;
    assert_rings(&feed);
    assert!(now(&state).get_raw_update().is_ok());
    feed.clear()?;
    for _ in 0..20 {
        assert!(holds_in_fork(|| {
            let inherited = matches!(feed.clear(), Err(Error::Forked));
            assert_eq!(notifiers(), 0, "threads do not come along");
            let theirs = State::open(&address).unwrap();
            let writer = theirs.clone();
            let feed = theirs.watch().event_fd().unwrap();
            writer.insert("n", 2).unwrap();
            assert_rings(&feed);
            feed.clear().unwrap();
            assert!(is_readable(&feed, Duration::ZERO));
            assert!(now(&theirs).get_raw_update().is_ok());
            drop(feed);
            eventually("the child's thread to end", || notifiers() == 0);
            inherited
        }));
        assert_rings(&feed);
        assert!(now(&state).get_raw_update().is_ok());
        feed.clear()?;
        own.insert("n", 1)?;
        assert_rings(&feed);
        assert!(now(&state).get_raw_update().is_ok());
        feed.clear()?;
    }
    zproc::remove(&address)
}
