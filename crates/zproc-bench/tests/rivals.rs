//! What is compared must do the work: each rival keeps what its trait promises, in one process and in two.
//!
//! Other processes are the program `zproc-bench`, as in a measurement. What a rival says it cannot do is not asked of it.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use zproc_bench::board::Board;
use zproc_bench::clock::now_ns;
use zproc_bench::for_each_rival;
use zproc_bench::keys::distinct;
use zproc_bench::peer::{Peer, use_program};
use zproc_bench::rivals::{
    COUNTER, Client, Contents, Iceoryx, MESSAGE, News, Operation, Redis, Rival, Segment, VALUE, Waiting, Watcher,
    ZmqFaithful, ZmqImproved, Zproc,
};
use zproc_bench::workloads::jobs::{self, READY, spawn};

/// Nothing takes so long, on however busy a machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// The rival with these contents, unless this machine lacks it or it cannot do what is needed.
fn with<R: Rival>(needs: &[Operation], contents: Contents) -> Option<R> {
    use_program(env!("CARGO_BIN_EXE_zproc-bench"));
    if R::cannot(needs).is_some() {
        return None;
    }
    R::create(&contents)
        .map_err(|reason| eprintln!("{}: not tested, {reason}", R::NAME))
        .ok()
}

fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < PATIENCE, "{what}");
        std::thread::sleep(Duration::from_micros(200));
    }
}

#[test]
fn what_is_set_can_be_read() {
    fn test<R: Rival>() {
        let Some(rival) = with::<R>(&[Operation::Get, Operation::Set], Contents::numbers(100)) else {
            return;
        };
        let mut client = R::Client::open(&rival.address());
        let keys = distinct(100);
        assert_eq!(client.get(&keys[42]), Some(42), "{}", R::NAME);
        assert_eq!(client.get("nobody put 20 bytes!"), None, "{}", R::NAME);
        client.set(&keys[42], u64::MAX);
        assert_eq!(client.get(&keys[42]), Some(u64::MAX), "{}", R::NAME);
        assert_eq!(client.get(&keys[43]), Some(43), "{}", R::NAME);
    }
    for_each_rival!(test());
}

#[test]
fn a_held_key_is_read_and_written_as_often_as_told() {
    fn test<R: Rival>() {
        let Some(rival) = with::<R>(&[Operation::GetHeld, Operation::SetHeld], Contents::numbers(100)) else {
            return;
        };
        let mut client = R::Client::open(&rival.address());
        let key = &distinct(100)[7];
        assert_eq!(client.get_held(key, 6), 42, "{}", R::NAME);
        client.set_held(key, 9);
        assert_eq!(client.get(key), Some(9), "{}", R::NAME);
    }
    for_each_rival!(test());
}

#[test]
fn bytes_come_back_as_they_were_put() {
    fn test<R: Rival>() {
        for size in [8, 1 << 10, 1 << 20] {
            let Some(rival) = with::<R>(&[Operation::Bytes], Contents::value(size)) else {
                return;
            };
            let mut client = R::Client::open(&rival.address());
            let mut read = vec![1];
            client.get_bytes(VALUE, &mut read);
            assert!(read == vec![7; size], "{} of {size}", R::NAME);
            let bytes: Vec<u8> = (0..size).map(|index| (index % 251) as u8).collect();
            client.set_bytes(VALUE, &bytes);
            client.get_bytes(VALUE, &mut read);
            assert!(read == bytes, "{} of {size}", R::NAME);
        }
    }
    for_each_rival!(test());
}

#[test]
fn a_snapshot_shows_the_newest() {
    fn test<R: Rival>() {
        let Some(rival) = with::<R>(&[Operation::Snapshot], Contents::numbers(100)) else {
            return;
        };
        let mut client = R::Client::open(&rival.address());
        let keys = distinct(100);
        assert_eq!(client.snapshot(&keys[99]), Some(99), "{}", R::NAME);
        client.set(&keys[99], 100);
        assert_eq!(client.snapshot(&keys[99]), Some(100), "{}", R::NAME);
    }
    for_each_rival!(test());
}

#[test]
fn increments_of_two_processes_add_up() {
    fn test<R: Rival>() {
        let needs = [Operation::Increment, Operation::OtherProcess];
        let Some(rival) = with::<R>(&needs, Contents::numbers(10)) else {
            return;
        };
        let mut client = R::Client::open(&rival.address());
        let mut peer = spawn::<R>(0, &rival.address());
        let ((), others) = peer.during(jobs::INCREMENT, 0, |_| {
            (0..500).for_each(|_| client.increment(COUNTER));
            // On a busy machine the other one may not have begun.
            let start = Instant::now();
            while client.get(COUNTER) == Some(500) && start.elapsed() < PATIENCE {
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        assert!(others > 0, "{}", R::NAME);
        assert_eq!(client.get(COUNTER), Some(500 + others), "{}", R::NAME);
    }
    for_each_rival!(test());
}

#[test]
fn a_watcher_in_another_process_gets_every_message() {
    fn test<R: Rival>() {
        for (operation, job) in [
            (Operation::WatchSpinning, jobs::RECEIVE_SPINNING),
            (Operation::WatchAsleep, jobs::RECEIVE_ASLEEP),
        ] {
            let needs = [operation, Operation::OtherProcess];
            let Some(rival) = with::<R>(&needs, Contents::numbers(10)) else {
                return;
            };
            let mut client = R::Client::open(&rival.address());
            let mut peer = spawn::<R>(0, &rival.address());
            peer.during(job, 20, |board: &Board| {
                for number in 0..20 {
                    let expected = if number == 0 { READY } else { number };
                    wait_until(R::NAME, || board.received.load(Ordering::Acquire) == expected);
                    client.tell(MESSAGE, now_ns());
                }
                wait_until(R::NAME, || board.received.load(Ordering::Acquire) == 20);
            });
        }
    }
    for_each_rival!(test());
}

#[test]
fn a_watcher_is_told_of_its_key_only_and_of_nothing_when_nothing_happens() {
    fn test<R: Rival>() {
        let Some(rival) = with::<R>(&[Operation::WatchAsleep], Contents::numbers(10)) else {
            return;
        };
        let mut client = R::Client::open(&rival.address());
        let mut watcher = R::Watcher::open(&rival.address(), MESSAGE, Waiting::Asleep);
        assert_eq!(watcher.next(Duration::from_millis(20)), News::Nothing, "{}", R::NAME);
        client.tell(COUNTER, 1);
        client.tell(MESSAGE, 2);
        assert_eq!(watcher.next(PATIENCE), News::Value(2), "{}", R::NAME);
        assert_eq!(watcher.next(Duration::from_millis(20)), News::Nothing, "{}", R::NAME);
    }
    for_each_rival!(test());
}

/// Kills a writer `times` times, each of a dict of its own. How often another process could write afterwards.
fn survived<R: Rival>(times: usize) -> Option<usize> {
    let mut survived = 0;
    for number in 0..times {
        let rival = with::<R>(&[Operation::OtherProcess], Contents::numbers(10))?;
        let mut survivor = spawn::<R>(0, &rival.address());
        let opened = survivor.begin(jobs::READ_ONCE, 0);
        assert!(survivor.is_done(opened, PATIENCE), "{}", R::NAME);
        let mut writer: Peer = spawn::<R>(0, &rival.address());
        writer.begin(jobs::WRITE, 0);
        let mut client = R::Client::open(&rival.address());
        let before = client.get(COUNTER);
        // Only the writer changes it.
        wait_until(R::NAME, || client.get(COUNTER) != before);
        std::thread::sleep(Duration::from_micros(137 * number as u64));
        writer.kill();
        let job = survivor.begin(jobs::WRITE_ONCE, 0);
        survived += usize::from(survivor.is_done(job, Duration::from_secs(10)));
    }
    Some(survived)
}

#[test]
fn after_a_writer_was_killed_the_others_go_on_where_that_is_promised() {
    assert_eq!(survived::<Zproc>(4), Some(4));
    assert_eq!(
        survived::<ZmqImproved>(4),
        Some(4),
        "the server gives up on a dead client"
    );
    assert!(matches!(survived::<Redis>(4), None | Some(4)));
}

#[test]
fn a_killed_writer_of_a_blackboard_leaves_nobody_who_can_write() {
    // If a release of iceoryx2 can do better, what the report says of it is to be changed.
    assert_eq!(survived::<Iceoryx>(2), Some(0));
}

#[test]
fn rivals_that_lock_are_not_asked_what_they_cannot_do() {
    assert!(Segment::cannot(&[Operation::Get, Operation::WatchAsleep]).is_some());
    assert!(Segment::cannot(&[Operation::Get]).is_none());
    assert!(ZmqFaithful::cannot(&[Operation::GetHeld]).is_some());
    assert!(Zproc::CANNOT.is_empty());
}
