//! Watchers: what they learn of every commit, what they learn of those they missed, and what wakes them.

mod common;

use std::sync::atomic::AtomicBool;
use std::time::Instant;

use common::model::{self, put};
use common::process::{Board, Kid, Role};
use common::{PATIENCE, assert_clean, eventually, key};
use shm_state::{
    Arena, ArenaOptions, Cancel, CancelWord, Deadline, Ended, Filter, History, KeyRef, Namespace, Next, On, Strategy,
};

fn arena() -> Arena {
    Arena::anonymous(&ArenaOptions {
        capacity: 8 << 20,
        history: History {
            count: 64,
            bytes: 1 << 20,
        },
        ..ArenaOptions::default()
    })
    .unwrap()
}

/// Places on the board.
const READY: u64 = 0;
const SEEN: u64 = 1;
const LOST: u64 = 2;
const STOP: u64 = 3;
const ROUNDS: u64 = 2000;

/// Sleeps until a commit after `seq` is there; fails when it takes too long.
fn sleep_until_after(namespace: &Namespace, on: On<'_>, seq: u64) -> u64 {
    let cancel = AtomicBool::new(false);
    let newer = |now| Ok((now > seq).then_some(now));
    namespace
        .wait(on, Strategy::Block, Deadline::after(PATIENCE), &cancel, newer)
        .unwrap()
        .expect("a wake-up was lost")
}

/// Sleeps until a key has this value.
fn sleep_until_value(namespace: &Namespace, key: &KeyRef<'_>, value: u64) {
    let cancel = AtomicBool::new(false);
    let check = |_| {
        let found = namespace.get(key)?;
        Ok(found
            .is_some_and(|found| found.bytes() == value.to_le_bytes())
            .then_some(()))
    };
    let on = [key.hash()];
    let ended = namespace
        .wait(
            On::Keys(&on),
            Strategy::Block,
            Deadline::after(PATIENCE),
            &cancel,
            check,
        )
        .unwrap();
    ended.unwrap_or_else(|ended| panic!("waiting for {value}: {ended:?}"));
}

fn set(namespace: &Namespace, key: &KeyRef<'_>, value: u64) -> u64 {
    let mut tx = namespace.begin(Deadline::never()).unwrap();
    tx.put(key, 1, &value.to_le_bytes()).unwrap();
    tx.commit().unwrap()
}

#[test]
fn child() {
    let Some(role) = Role::of_this_process() else { return };
    let arena = role.arena();
    let namespace = arena.namespace("n").unwrap();
    match role.name.as_str() {
        "watch one key" => {
            role.board.set(READY, 1);
            sleep_until_value(&namespace, &key("watched"), 1);
        }
        "answer" => {
            for round in 1..=ROUNDS {
                sleep_until_value(&namespace, &key("ping"), round);
                set(&namespace, &key("pong"), round);
            }
        }
        "write" => (0..ROUNDS).for_each(|round| {
            set(&namespace, &key(&format!("k{}", role.number)), round);
        }),
        "watch all" => {
            let mut cursor = 0;
            let (mut seen, mut lost) = (0, 0);
            role.board.set(READY, 1);
            while role.board.get(STOP) == 0 || cursor < namespace.seq() {
                match namespace
                    .next_match(&mut cursor, namespace.seq(), Filter::Any, true, None)
                    .unwrap()
                {
                    Next::Match(seq) => {
                        seen += 1;
                        assert_eq!(seen + lost, seq, "in order, and none left out");
                    }
                    Next::Lagged(missed) => {
                        lost += missed;
                        assert_eq!(seen + lost, cursor);
                    }
                    Next::Nothing => std::thread::yield_now(),
                }
            }
            role.board.set(SEEN, seen);
            role.board.set(LOST, lost);
        }
        other => panic!("no role {other}"),
    }
}

#[test]
fn a_watcher_a_million_commits_behind_learns_exactly_how_many_it_missed() {
    const COMMITS: u64 = 1_000_000;
    let arena = arena();
    let namespace = arena.namespace("n").unwrap();
    for number in 1..=COMMITS {
        namespace
            .put(&key("k"), None, 1, &number.to_le_bytes(), Deadline::never())
            .unwrap();
    }
    let mut cursor = 0;
    let mut next = || {
        namespace
            .next_match(&mut cursor, COMMITS, Filter::Any, true, None)
            .unwrap()
    };
    let floor = namespace.floor();
    assert_eq!(next(), Next::Lagged(floor));
    assert!(COMMITS - floor >= 64, "the history keeps 64 commits");
    for seq in floor + 1..=COMMITS {
        assert_eq!(next(), Next::Match(seq));
        // Before and after are both there.
        let value = |seq: u64| {
            namespace
                .pin_at(seq)
                .unwrap()
                .unwrap()
                .get(&key("k"))
                .unwrap()
                .unwrap()
                .into_bytes()
        };
        assert_eq!(
            (value(seq - 1), value(seq)),
            ((seq - 1).to_le_bytes().to_vec(), seq.to_le_bytes().to_vec())
        );
    }
    assert_eq!(next(), Next::Nothing);
    assert_clean(&arena);
}

/// Whether all threads of a process sleep.
fn sleeps(pid: u32) -> bool {
    let Ok(tasks) = std::fs::read_dir(format!("/proc/{pid}/task")) else {
        return false;
    };
    tasks.filter_map(Result::ok).all(|task| {
        let stat = std::fs::read_to_string(task.path().join("stat")).unwrap_or_default();
        stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('S'))
    })
}

fn wakeups(arena: &Arena) -> u64 {
    arena.stats().unwrap().namespaces[0].wakeups
}

/// A key whose commits do not wake those who sleep on `other`.
fn key_of_another_group(other: &KeyRef<'_>) -> String {
    // Keys whose hashes differ a lot: of a few, one is certainly in another group.
    let group = |hash: u64| (hash >> 20) % 512;
    (0..)
        .map(|n| format!("other {n}"))
        .find(|text| group(key(text).hash()) != group(other.hash()))
        .unwrap()
}

#[test]
fn a_watcher_of_one_key_sleeps_through_commits_to_others() {
    let (arena, board) = (arena(), Board::new());
    let namespace = arena.namespace("n").unwrap();
    let other = key_of_another_group(&key("watched"));
    let kid = Kid::start("watch one key", 0, Some(&arena), &board);
    board.wait_for(READY, 1);
    eventually("the watcher to fall asleep", || sleeps(kid.pid()));
    let before = wakeups(&arena);
    (0..5000).for_each(|number| {
        set(&namespace, &key(&other), number);
    });
    assert_eq!(wakeups(&arena), before, "it was woken by commits to another key");
    set(&namespace, &key("watched"), 1);
    kid.succeeds();
    assert!(wakeups(&arena) <= before + 1);
}

#[test]
fn no_wake_up_is_lost_between_two_processes() {
    let (arena, board) = (arena(), Board::new());
    let namespace = arena.namespace("n").unwrap();
    let kid = Kid::start("answer", 0, Some(&arena), &board);
    let start = Instant::now();
    for round in 1..=ROUNDS {
        set(&namespace, &key("ping"), round);
        sleep_until_value(&namespace, &key("pong"), round);
    }
    kid.succeeds();
    assert_eq!(namespace.seq(), 2 * ROUNDS);
    // Whoever misses a wake-up looks for itself a second later, so many lost ones show here.
    assert!(
        start.elapsed() < 2 * PATIENCE,
        "{ROUNDS} rounds took {:?}",
        start.elapsed()
    );
}

#[test]
fn watchers_see_and_miss_together_exactly_what_was_committed() {
    let arena = arena();
    let boards: Vec<Board> = (0..3).map(|_| Board::new()).collect();
    let watchers: Vec<Kid> = boards
        .iter()
        .map(|board| Kid::start("watch all", 0, Some(&arena), board))
        .collect();
    boards.iter().for_each(|board| board.wait_for(READY, 1));
    let writers: Vec<Kid> = (0..3)
        .map(|number| Kid::start("write", number, Some(&arena), &boards[0]))
        .collect();
    writers.into_iter().for_each(Kid::succeeds);
    boards.iter().for_each(|board| board.set(STOP, 1));
    watchers.into_iter().for_each(Kid::succeeds);
    let committed = arena.namespace("n").unwrap().seq();
    assert_eq!(committed, 3 * ROUNDS);
    for board in &boards {
        assert_eq!(board.get(SEEN) + board.get(LOST), committed);
    }
    assert_clean(&arena);
}

#[test]
fn a_record_says_who_made_the_commit_and_what_it_changed() {
    let arena = arena();
    let (one, two) = (arena.namespace("n").unwrap(), arena.namespace("n").unwrap());
    model::commit(&one, &[put("a", 8), put("b", 8)], Deadline::never()).unwrap();
    model::commit(&two, &[put("b", 8), put("c", 300)], Deadline::never()).unwrap();
    model::commit(&one, &[model::remove("a"), model::Change::Pop], Deadline::never()).unwrap();
    let changes = |seq| -> Vec<(String, bool)> {
        let record = one.record(seq).unwrap().unwrap();
        assert_eq!((record.seq, record.pid), (seq, std::process::id()));
        assert_eq!(record.identity, if seq == 2 { two.identity() } else { one.identity() });
        let keys = one.changed_keys(&record).unwrap().unwrap();
        keys.into_iter()
            .map(|(key, identical)| (String::from_utf8_lossy(key.bytes()).into(), identical))
            .collect()
    };
    assert_eq!(changes(1), [("a".into(), false), ("b".into(), false)]);
    assert_eq!(changes(2), [("b".into(), true), ("c".into(), false)]);
    assert_eq!(changes(3), [("a".into(), false), ("c".into(), false)]);
    // A watcher that leaves its own commits out, one of a key, one of all but a key, one that wants duplicates.
    let matches = |filter: Filter<'_>, duplicates, skip| -> Vec<u64> {
        let mut cursor = 0;
        let mut found = Vec::new();
        while let Next::Match(seq) = one
            .next_match(&mut cursor, one.seq(), filter, duplicates, skip)
            .unwrap()
        {
            found.push(seq);
        }
        found
    };
    let keys = [key("b").to_owned()];
    assert_eq!(matches(Filter::Any, false, Some(one.identity())), [2]);
    assert_eq!(matches(Filter::Keys(&keys), false, None), [1]);
    assert_eq!(matches(Filter::Keys(&keys), true, None), [1, 2]);
    assert_eq!(matches(Filter::Except(&keys), false, None), [1, 2, 3]);
}

#[test]
fn a_killed_sleeper_costs_the_others_nothing() {
    let (arena, board) = (arena(), Board::new());
    let namespace = arena.namespace("n").unwrap();
    for _ in 0..5 {
        let kid = Kid::start("watch one key", 0, Some(&arena), &board);
        board.wait_for(READY, 1);
        eventually("the watcher to fall asleep", || sleeps(kid.pid()));
        kid.kill();
        board.set(READY, 0);
        let before = arena.stats().unwrap().namespaces[0].wakes;
        (0..100).for_each(|number| {
            set(&namespace, &key("watched"), number + 2);
        });
        let woken = arena.stats().unwrap().namespaces[0].wakes - before;
        assert!(woken <= 1, "{woken} commits tried to wake a dead process");
    }
}

#[test]
fn sleepers_on_many_keys_and_on_any_are_woken() {
    let arena = arena();
    let namespace = arena.namespace("n").unwrap();
    let hashes: Vec<u64> = (0..40).map(|n| key(&format!("k{n}")).hash()).collect();
    let too_many: Vec<u64> = (0..100).map(|n| key(&format!("k{n}")).hash()).collect();
    for round in 0..60 {
        let ons = [
            On::Any,
            On::Keys(&hashes),
            On::Keys(&too_many),
            On::Keys(&hashes[..2]),
            On::Keys(&[]),
        ];
        let seq = namespace.seq();
        std::thread::scope(|scope| {
            let sleepers: Vec<_> = ons
                .iter()
                .map(|on| scope.spawn(|| sleep_until_after(&arena.namespace("n").unwrap(), *on, seq)))
                .collect();
            if round % 2 == 0 {
                std::thread::sleep(std::time::Duration::from_millis(2));
            }
            set(&namespace, &key(&format!("k{}", round % 2)), round);
            for sleeper in sleepers {
                assert_eq!(sleeper.join().unwrap(), seq + 1);
            }
        });
    }
}

/// A watcher of one key slept while others changed, more often than the history is long, and was told that it had lost
/// commits, although none of them was any of its business.
#[test]
fn a_watcher_of_a_quiet_key_loses_nothing_by_a_short_history() {
    let arena = arena();
    let namespace = arena.namespace("n").unwrap();
    set(&namespace, &key("quiet"), 1);
    let next = |cursor: &mut u64, name: &str| {
        let keys = [key(name).to_owned()];
        let next = namespace.next_match(cursor, namespace.seq(), Filter::Keys(&keys), true, None);
        next.unwrap()
    };
    let noise = || {
        for number in 0..5000 {
            set(&namespace, &key("noise"), number);
        }
    };
    for name in ["quiet", "never there"] {
        let mut cursor = namespace.seq();
        noise();
        assert!(cursor < namespace.floor());
        assert_eq!(next(&mut cursor, name), Next::Nothing, "{name}");
        assert_eq!(cursor, namespace.seq());
        // The change itself is found, also if it is the first thing that is looked at.
        noise();
        let changed = set(&namespace, &key(name), 2);
        assert_eq!(next(&mut cursor, name), Next::Match(changed), "{name}");
    }
    // What was set, removed, or both, among the lost ones is lost.
    for case in 0..4 {
        let mut cursor = namespace.seq();
        let name = if case < 2 { "quiet" } else { "short-lived" };
        set(&namespace, &key(name), 3);
        if case != 0 {
            model::commit(&namespace, &[model::remove(name)], Deadline::never()).unwrap();
        }
        if case == 3 {
            // The index is made anew, and forgets the key.
            for number in 0..2000 {
                set(&namespace, &key(&format!("k{number}")), number);
            }
        }
        noise();
        let lost = namespace.floor() - cursor;
        assert_eq!(next(&mut cursor, name), Next::Lagged(lost), "case {case}");
    }
    assert_clean(&arena);
}

/// Random commits to few keys, a history that is shorter still, and a watcher that looks now and then: it never passes
/// over a commit to its key without being told.
#[test]
fn a_watcher_of_a_key_that_is_told_of_no_loss_has_lost_nothing() {
    let seed = common::number_from_env("SHM_STATE_TEST_SEED").unwrap_or(u64::from(std::process::id()));
    println!("SHM_STATE_TEST_SEED={seed}");
    let mut random = common::Random::new(seed);
    let (mut quiet, mut lagged) = (0, 0);
    for _ in 0..30 {
        let arena = Arena::anonymous(&ArenaOptions {
            capacity: 8 << 20,
            history: History {
                count: 4,
                bytes: 1 << 20,
            },
            ..ArenaOptions::default()
        })
        .unwrap();
        let namespace = arena.namespace("n").unwrap();
        let keys = [key("w").to_owned()];
        let (mut cursor, mut touched) = (0, Vec::new());
        for round in 0..400 {
            let burst = random.below(20);
            for _ in 0..burst {
                let name = match random.below(40) {
                    0 => "w".to_owned(),
                    n => format!("k{}", n + round / 20 * 40),
                };
                let change = match random.below(3) {
                    0 => model::remove(name.as_str()),
                    _ => put(name.as_str(), 8),
                };
                let before = namespace.seq();
                model::commit(&namespace, &[change], Deadline::never()).unwrap();
                if name == "w" && namespace.seq() > before {
                    touched.push(namespace.seq());
                }
            }
            let until = namespace.seq();
            while cursor < until {
                let (from, floor) = (cursor, namespace.floor());
                let next = namespace.next_match(&mut cursor, until, Filter::Keys(&keys), true, None);
                let passed = |to: u64| touched.iter().any(|seq| (from + 1..to).contains(seq));
                match next.unwrap() {
                    Next::Match(seq) => assert!(touched.contains(&seq) && !passed(seq), "{from} to {seq}"),
                    Next::Nothing => assert!(!passed(cursor + 1), "{from} to {cursor}"),
                    Next::Lagged(lost) => {
                        assert_eq!((lost, cursor), (floor - from, floor));
                        lagged += 1;
                        continue;
                    }
                }
                quiet += usize::from(from < floor);
            }
        }
    }
    println!("{quiet} times nothing was lost, {lagged} times something");
    assert!(quiet > 100 && lagged > 100, "{quiet} {lagged}");
}

#[test]
fn a_cancelled_wait_says_by_which_word_and_one_that_was_closed_so() {
    let arena = arena();
    let namespace = arena.namespace("n").unwrap();
    let words: Vec<CancelWord> = (0..3).map(|_| CancelWord::new()).collect();
    for strategy in [Strategy::Block, Strategy::Spin] {
        for (number, word) in words.iter().enumerate() {
            let closed = AtomicBool::new(false);
            let watched: Vec<_> = words.iter().map(CancelWord::watch).collect();
            let wait = || {
                let cancel = Cancel {
                    closed: &closed,
                    words: &watched,
                };
                let ended = namespace.wait(On::Any, strategy, Deadline::after(PATIENCE), cancel, |_| Ok(None::<()>));
                ended.unwrap().unwrap_err()
            };
            std::thread::scope(|scope| {
                let waiting = scope.spawn(wait);
                std::thread::sleep(std::time::Duration::from_millis(2));
                word.cancel();
                assert_eq!(waiting.join().unwrap(), Ended::Cancelled(number));
            });
            assert_eq!(wait(), Ended::Cancelled(number), "a cancel that came before");
            word.reset();
            assert_eq!(wait(), Ended::Cancelled(number), "it came, and was taken back");
        }
        let (closed, watched) = (AtomicBool::new(false), words[0].watch());
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| {
                let cancel = Cancel {
                    closed: &closed,
                    words: std::slice::from_ref(&watched),
                };
                let ended = namespace.wait(On::Any, strategy, Deadline::after(PATIENCE), cancel, |_| Ok(None::<()>));
                ended.unwrap().unwrap_err()
            });
            std::thread::sleep(std::time::Duration::from_millis(2));
            closed.store(true, std::sync::atomic::Ordering::SeqCst);
            namespace.wake_all();
            assert_eq!(waiting.join().unwrap(), Ended::Closed);
        });
    }
}
