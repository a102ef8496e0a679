//! Many of everything: namespaces up to their limit and one more, a thousand watchers asleep in several processes, more
//! seats than a namespace can have.

mod common;
mod limit;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use common::model::{self, put};
use common::process::{Board, Kid, Role};
use common::{Name, PATIENCE, assert_clean, key};
use limit::words::{Words, control};
use shm_state::{Arena, ArenaOptions, Deadline, Error, History, Namespace, On, Strategy};

const MIB: u64 = 1 << 20;

fn options(capacity: u64) -> ArenaOptions {
    let history = History { count: 8, bytes: MIB };
    ArenaOptions {
        capacity,
        history,
        ..ArenaOptions::default()
    }
}

fn full_size() -> bool {
    !cfg!(debug_assertions) || std::env::var("ZPROC_LIMITS").is_ok_and(|limits| limits == "all")
}

#[test]
fn child() {
    let Some(role) = Role::of_this_process() else { return };
    match role.name.as_str() {
        "uses all namespaces" => use_all_namespaces(&role),
        "watchers" => watch_in_many_threads(&role),
        other => panic!("no role {other}"),
    }
}

/// The name of namespace `number`; some are as long as can be.
fn name_of(number: usize) -> String {
    match number % 10 {
        0 => format!("{number:0>255}"),
        _ => format!("namespace {number}"),
    }
}

fn write(arena: &Arena, number: usize, key: &str) {
    let namespace = arena.namespace(&name_of(number)).unwrap();
    model::commit(&namespace, &[put(key, number % 300)], Deadline::never()).unwrap();
}

/// Made, used, listed, and used by another process; then one more than there can be.
#[test]
fn namespaces_up_to_the_limit_work_and_one_more_is_an_error() {
    // Nearly all, or enough that the last ones can be made without all the walks over those before.
    let most = 4096;
    let name = Name::new("namespaces");
    let arena = Arena::create(&name, &options(512 * MIB)).unwrap();
    for number in 0..1000 {
        write(&arena, number, "a");
    }
    let listed = arena.namespaces().unwrap();
    assert!(
        listed.iter().eq((0..1000).map(name_of).collect::<Vec<_>>().iter()),
        "in the order of their creation"
    );
    let board = Board::new();
    let start = |count| Kid::start("uses all namespaces", count, Some(&arena), &board);
    start(1000).succeeds();
    for number in 0..1000 {
        assert_eq!(arena.namespace(&name_of(number)).unwrap().len().unwrap(), 2);
    }
    let stats = arena.stats().unwrap();
    assert_eq!(
        (
            stats.namespaces.len(),
            stats.namespaces.iter().map(|one| one.keys).sum::<u64>()
        ),
        (1000, 2000)
    );
    if !full_size() {
        // The rest is quadratic in their number, for each is looked for among all.
        pretend_that_there_are(&arena, most);
    } else {
        for number in 1000..most {
            write(&arena, number, "a");
        }
        start(most as u64).succeeds();
        assert_eq!(arena.namespaces().unwrap().len(), most);
    }
    for _ in 0..3 {
        let error = arena.namespace("one more").err().expect("more namespaces than fit");
        assert!(matches!(error, Error::TooManyNamespaces(4096)), "{error}");
        let text = error.to_string();
        assert_eq!(
            text,
            "the arena has 4096 namespaces, which is the limit: use another arena"
        );
    }
    write(&arena, 999, "c");
    write(&arena, 0, "c");
    if full_size() {
        assert_clean(&arena);
    }
}

/// Fills the rest of the directory with the last namespace that there is.
fn pretend_that_there_are(arena: &Arena, count: usize) {
    const DIRECTORY: u64 = 260 * 1024;
    let words = Words::of(arena.fd().unwrap());
    let made = arena.namespaces().unwrap().len();
    let last = words.get(DIRECTORY + (made as u64 - 1) * 8);
    (made..count).for_each(|at| words.set(DIRECTORY + at as u64 * 8, last));
    words.set(144, count as u64);
}

fn use_all_namespaces(role: &Role) {
    let arena = role.arena();
    let count = role.number as usize;
    assert_eq!(arena.namespaces().unwrap().len(), count);
    for number in (0..count).rev() {
        write(&arena, number, "b");
    }
}

/// Places on the board: how many are asleep, and how many were woken in the round; then what the writer says.
const ASLEEP: u64 = 0;
const WOKEN: u64 = 100;
const ROUND: u64 = 200;

const PROCESSES: u64 = 8;
const THREADS: u64 = 125;
const ROUNDS: u64 = 4;

/// A thousand threads in eight processes sleep, each on a key of its own, on several, or on any. In each round every key
/// is set once, by one commit each, two keys a commit, ten, and all at once, and each watcher must be woken.
///
/// The snapshot that each takes first needs a seat. When seats were only added by whoever's turn it was at the writer lock,
/// and each turn asked the kernel after the owner of every seat, the last of a thousand waited for longer than 10 s.
#[test]
fn a_thousand_sleeping_watchers_are_all_woken() {
    let arena = Arena::anonymous(&options(64 * MIB)).unwrap();
    let namespace = arena.namespace("n").unwrap();
    let board = Board::new();
    let kids: Vec<Kid> = (0..PROCESSES)
        .map(|number| Kid::start("watchers", number, Some(&arena), &board))
        .collect();
    let all = |place: u64| (0..PROCESSES).map(|number| board.get(place + number)).sum::<u64>();
    let mut woken = 0;
    for round in 1..=ROUNDS {
        common::eventually("all watchers to be about to sleep", || {
            all(ASLEEP) == PROCESSES * THREADS * round
        });
        // Asleep, and not on their way. Some are between two slices of a second.
        common::eventually("nearly all watchers to sleep", || {
            let asleep: u64 = kids.iter().map(|kid| sleepers_of(kid.pid())).sum();
            asleep >= PROCESSES * THREADS * 9 / 10
        });
        let stats = arena.stats().unwrap().namespaces.remove(0);
        if round == 1 {
            assert_eq!(stats.pins.len() as u64, PROCESSES * THREADS, "each has a seat");
        } else {
            assert_eq!(stats.watchers.len() as u64, PROCESSES * THREADS, "each has a seat");
        }
        let before = stats.wakeups;
        // One key in a commit, then two, then ten.
        let names: Vec<String> = (0..PROCESSES * THREADS).map(|number| format!("key {number}")).collect();
        for some in names.chunks([1, 2, 10, 1000][round as usize - 1]) {
            let changes: Vec<_> = some.iter().map(|name| put(&**name, round as usize)).collect();
            model::commit(&namespace, &changes, Deadline::never()).unwrap();
        }
        board.set(ROUND, round);
        common::eventually("all watchers to be woken", || all(WOKEN) == PROCESSES * THREADS * round);
        woken = arena.stats().unwrap().namespaces[0].wakeups - before;
    }
    // By the one commit of the last round. On a machine with more to do than it can, slices of a second end before their
    // thread is woken.
    eprintln!("  {woken} of {} were woken by one commit", PROCESSES * THREADS);
    assert!(
        woken >= PROCESSES * THREADS / 2,
        "only {woken} were woken by the commit"
    );
    kids.into_iter().for_each(Kid::succeeds);
    assert_clean(&arena);
    assert!(
        arena.stats().unwrap().namespaces[0].watchers.is_empty(),
        "all seats are free again"
    );
}

/// How many threads that watch are in a call that sleeps on a futex.
fn sleepers_of(pid: u32) -> u64 {
    let Ok(tasks) = std::fs::read_dir(format!("/proc/{pid}/task")) else {
        return 0;
    };
    let sleeps = |task: &std::fs::DirEntry| {
        let read = |what| std::fs::read_to_string(task.path().join(what)).unwrap_or_default();
        let call = read("syscall").split(' ').next().and_then(|call| call.parse().ok());
        read("comm").trim() == "watcher" && matches!(call, Some(libc::SYS_futex | libc::SYS_futex_waitv))
    };
    tasks.flatten().filter(sleeps).count() as u64
}

fn watch_in_many_threads(role: &Role) {
    let arena = role.arena();
    let (asleep, woken) = (AtomicU64::new(0), AtomicU64::new(0));
    let (arena, asleep, woken) = (&arena, &asleep, &woken);
    std::thread::scope(|scope| {
        let show = |place: u64, count: &AtomicU64| {
            role.board.set(place + role.number, count.load(Ordering::SeqCst));
        };
        let threads: Vec<_> = (0..THREADS)
            .map(|thread| {
                let watch = move || {
                    let namespace = arena.namespace("n").unwrap();
                    watch_each_round(&namespace, role.number * THREADS + thread, &role.board, asleep, woken);
                };
                std::thread::Builder::new()
                    .name("watcher".into())
                    .stack_size(256 * 1024)
                    .spawn_scoped(scope, watch)
                    .unwrap()
            })
            .collect();
        while !threads.iter().all(|thread| thread.is_finished()) {
            show(ASLEEP, asleep);
            show(WOKEN, woken);
            std::thread::sleep(Duration::from_millis(2));
        }
        show(WOKEN, woken);
    });
}

fn watch_each_round(namespace: &Namespace, number: u64, board: &Board, asleep: &AtomicU64, woken: &AtomicU64) {
    let (own, other) = (
        format!("key {number}"),
        format!("key {}", (number + 1) % (PROCESSES * THREADS)),
    );
    let hashes = [key(&own).hash(), key(&other).hash()];
    let on = match number % 10 {
        0 => On::Any,
        1 => On::Keys(&hashes),
        _ => On::Keys(&hashes[..1]),
    };
    let cancel = AtomicBool::new(false);
    // Whoever finds no seat free to show its cursor does without; a snapshot waits for one.
    let mut pinned = Some(namespace.pin().unwrap());
    for round in 1..=ROUNDS {
        let mut looks = 0;
        namespace.publish_cursor(namespace.seq());
        let is_set = |_| {
            looks += 1;
            if looks == 1 {
                asleep.fetch_add(1, Ordering::SeqCst);
            }
            let found = namespace.get(&key(&own))?;
            Ok(found.filter(|found| found.bytes().len() as u64 == round).map(drop))
        };
        let deadline = Deadline::after(PATIENCE);
        namespace
            .wait(on, Strategy::Block, deadline, &cancel, is_set)
            .unwrap()
            .expect("a wake-up was lost");
        assert!(
            pinned.take().is_none_or(|pinned| !pinned.contains(&key(&own)).unwrap()),
            "a snapshot of before"
        );
        woken.fetch_add(1, Ordering::SeqCst);
        // Seldom, so that a thousand who ask leave time to those who are still to be woken.
        while board.get(ROUND) < round {
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

/// It used to say that the system cannot run the lock.
#[test]
fn more_transactions_than_a_thread_can_be_in_are_an_error() {
    let arena = Arena::anonymous(&options(4 * MIB)).unwrap();
    let namespaces: Vec<Namespace> = (0..9)
        .map(|number| arena.namespace(&name_of(number)).unwrap())
        .collect();
    let mut open: Vec<_> = namespaces[..8]
        .iter()
        .map(|one| one.begin(Deadline::never()).unwrap())
        .collect();
    let error = namespaces[8]
        .begin(Deadline::never())
        .err()
        .expect("a ninth transaction");
    assert!(matches!(error, Error::TooManyTransactions(8)), "{error}");
    assert_eq!(
        error.to_string(),
        "this thread is inside 8 transactions, which is the limit: finish one of them first"
    );
    // Reading needs no lock, and each of the eight can be finished, in any order.
    assert!(namespaces[8].is_empty().unwrap());
    for at in [3, 0, 5, 1] {
        let mut tx = open.remove(at);
        tx.put(&key("a"), 1, b"1").unwrap();
        tx.commit().unwrap();
    }
    model::commit(&namespaces[8], &[put("a", 8)], Deadline::never()).unwrap();
    drop(open);
    assert_clean(&arena);
}

/// All seats of all blocks that a namespace may have are taken: an error that says how many, and a way on.
#[test]
fn more_snapshots_than_there_can_be_are_an_error() {
    let arena = Arena::anonymous(&options(64 * MIB)).unwrap();
    let namespace = arena.namespace("n").unwrap();
    model::commit(&namespace, &[put("a", 8)], Deadline::never()).unwrap();
    let first = namespace.pin().unwrap();
    let words = Words::of(arena.fd().unwrap());
    let at = words.control(0);
    // What this process has in its seats: everything else is as if it were taken in the same way.
    let mine = words.get(at + control::SEATS);
    assert!(mine != 0);
    let take_all = |seats: u64| (0..64).for_each(|seat| words.set(seats + seat * 64, mine));
    take_all(at + control::SEATS);
    let blocks = if full_size() { 4096 } else { 300 };
    let mut pins = Vec::new();
    let error = loop {
        match namespace.pin() {
            Ok(pin) => pins.push(pin),
            Err(error) => break Some(error),
        }
        take_all(words.get(at + control::SEATS_NEXT) * 64 + 64);
        if pins.len() > blocks {
            break None;
        }
    };
    if full_size() {
        let error = error.expect("more seats than there can be");
        eprintln!("  {error}");
        assert!(matches!(error, Error::TooManySnapshots(262_144)), "{error}");
        assert_eq!(pins.len(), 4096);
    } else {
        assert!(error.is_none() && pins.len() == 301, "{} {error:?}", pins.len());
    }
    // Who holds one can go on, who writes can, and one that is dropped is there for the next.
    assert_eq!(first.len().unwrap(), 1);
    model::commit(&namespace, &[put("b", 8)], Deadline::never()).unwrap();
    assert_eq!(namespace.len().unwrap(), 2);
    pins.pop();
    assert_eq!(namespace.pin().unwrap().len().unwrap(), 2);
    assert_clean(&arena);
}
