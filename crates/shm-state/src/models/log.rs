//! The log against a watcher: the record of a commit is read intact, or known to be gone.
//!
//! The ring has four slots. At first the readable commits are 3 to 5; commit 6 raises the floor to 4, and commit 7 takes
//! the slot of 3. Another scene has a commit of three changes, which lie in a block that is recycled.

use super::fixture::{Dict, drop_history, key, set};
use super::*;
use crate::sync::Word;
use crate::{Deadline, Namespace, log};

fn dict() -> Arc<Dict> {
    Dict::new(1, |namespace| {
        for (n, name) in ["a", "b", "c", "a", "b"].into_iter().enumerate() {
            set(namespace, name, n as u64);
        }
    })
}

/// Thread 1 commits twice, thread 2 reads the record of commit 3.
fn old_record(dict: &Arc<Dict>) -> impl Fn() + Send + Sync + 'static {
    let dict = Arc::clone(dict);
    move || {
        let space = dict.fresh();
        let (writer, watcher) = (Namespace::new(Arc::clone(&space), 1), Namespace::new(space, 2));
        let old = watcher.record(3).expect("no damage").expect("it is in the log");
        spawn(move || {
            set(&writer, "a", 10);
            set(&writer, "b", 11);
        });
        spawn(move || {
            let found = watcher.record(3).expect("no damage");
            let intact = found.as_ref().is_none_or(|found| *found == old);
            claim(intact, || format!("{found:?} instead of {old:?}"));
        });
    }
}

/// Thread 1 inserts two keys, thread 2 asks how many there were after commit 3.
fn old_count(dict: &Arc<Dict>) -> impl Fn() + Send + Sync + 'static {
    let dict = Arc::clone(dict);
    move || {
        let space = dict.fresh();
        let (writer, of_reader) = (Namespace::new(Arc::clone(&space), 1), Arc::clone(&space));
        spawn(move || {
            set(&writer, "d", 10);
            set(&writer, "e", 11);
        });
        spawn(move || {
            let live = log::live(&of_reader, 3);
            claim(matches!(live, None | Some(3)), || format!("{live:?} keys instead of 3"));
        });
    }
}

/// Thread 1 commits, thread 2 reads the record of the newest commit, and what it says is there.
fn new_record(dict: &Arc<Dict>) -> impl Fn() + Send + Sync + 'static {
    let dict = Arc::clone(dict);
    move || {
        let space = dict.fresh();
        let (writer, watcher) = (
            Namespace::new(Arc::clone(&space), 1),
            Namespace::new(Arc::clone(&space), 2),
        );
        let before = space.seq();
        let of_writer = Arc::clone(&space);
        spawn(move || {
            if !survives(|| set(&writer, "a", 10)) {
                // Whoever comes next, with a change under the same number if the first was not decided.
                if of_writer.seq() == before {
                    spawn(move || set(&Namespace::new(of_writer, 3), "a", 10));
                }
            }
        });
        spawn(move || {
            let seq = watcher.seq();
            if let Some(record) = watcher.record(seq).expect("no damage") {
                let change = record.changes[0];
                let birth = watcher.space().mapping.at::<crate::layout::Version>(change.new);
                let birth = birth.map(|version| version.head.birth.load(Ordering::Relaxed));
                let right = record.seq == seq && record.changes.len() == 1 && birth == Some(seq);
                claim(right, || {
                    format!("{record:?} for commit {seq}, whose version is of {birth:?}")
                });
            } else {
                claim(seq == before, || "the newest commit is not in the log".into());
            }
        });
    }
}

/// Commit 4 has three changes, in a block of two granules; it is what `blocks` more commits of that size recycle.
fn large_dict() -> Arc<Dict> {
    Dict::new(1, |namespace| {
        for (n, name) in ["a", "b", "c"].into_iter().enumerate() {
            set(namespace, name, n as u64);
        }
        large(namespace, 4);
    })
}

fn large(namespace: &Namespace, value: u64) {
    let mut transaction = namespace.begin(Deadline::never()).expect("the lock is free");
    for name in ["a", "b", "c"] {
        transaction
            .put(&key(name), 1, &value.to_le_bytes())
            .expect("there is room");
    }
    transaction.commit().expect("there is room");
}

/// Thread 1 gives up the history and commits something large again, thread 2 reads the record of commit 4.
fn large_record(dict: &Arc<Dict>) -> impl Fn() + Send + Sync + 'static {
    let dict = Arc::clone(dict);
    move || {
        let space = dict.fresh();
        let (writer, watcher) = (
            Namespace::new(Arc::clone(&space), 1),
            Namespace::new(Arc::clone(&space), 2),
        );
        let old = watcher.record(4).expect("no damage").expect("it is in the log");
        let block = space.log_slot(4).inline[0].load(Ordering::Relaxed);
        spawn(move || {
            drop_history(writer.space());
            large(&writer, 5);
            let reused = writer.space().log_slot(5).inline[0].load(Ordering::Relaxed);
            claim(reused == block, || format!("{UNSET}: nothing was recycled"));
        });
        spawn(move || {
            let found = watcher.record(4).expect("no damage");
            let intact = found.as_ref().is_none_or(|found| *found == old);
            claim(intact, || format!("{found:?} instead of {old:?}"));
        });
    }
}

/// Thread 1 sets a key and gives up the history, thread 2 asks whether the key was left alone.
fn quiet_key(dict: &Arc<Dict>) -> impl Fn() + Send + Sync + 'static {
    let dict = Arc::clone(dict);
    move || {
        let space = dict.fresh();
        let cursor = space.seq();
        let (writer, watcher) = (
            Namespace::new(Arc::clone(&space), 1),
            Namespace::new(Arc::clone(&space), 2),
        );
        spawn(move || {
            set(&writer, "a", 10);
            drop_history(writer.space());
        });
        spawn(move || {
            let untouched = watcher.untouched_until(&[key("a").to_owned()], cursor);
            claim(untouched.is_none_or(|until| until <= cursor), || {
                format!(
                    "the key was set by commit {}, and is said to be as it was until {untouched:?}",
                    cursor + 1
                )
            });
        });
    }
}

/// A watcher took a slot that left the history for a damaged one: it looked at the floor first and then once more at the
/// slot, and a writer came in between. The floor now comes last.
#[test]
fn a_record_is_intact_or_gone() {
    let dict = dict();
    holds("record of a slot that is taken", &Setup::default(), old_record(&dict));
    holds("count in a slot that is taken", &Setup::default(), old_count(&dict));
    let large = large_dict();
    holds(
        "record in a block that is recycled",
        &Setup::default(),
        large_record(&large),
    );
}

#[test]
fn the_newest_record_is_there() {
    let dict = dict();
    holds("newest record", &Setup::default(), new_record(&dict));
    holds_at_each_death("newest record", &Setup::default(), 1, true, new_record(&dict));
}

/// A watcher that lost records and yet is told of nothing lost has lost nothing.
#[test]
fn a_key_that_was_touched_is_not_taken_for_a_quiet_one() {
    let (dict, setup) = (dict(), Setup::default());
    holds("quiet key", &setup, quiet_key(&dict));
    let floor = at(&dict.space().control().reader.floor);
    finds(
        "floor is loaded relaxed",
        &setup,
        &[Fault::Relaxed(Kind::Load, Ordering::Acquire, floor)],
        quiet_key(&dict),
    );
}

#[test]
fn weaker_orders_are_found() {
    let dict = dict();
    let setup = Setup::default();
    let slot = dict.space().log_slot(7);
    let seq = at(&dict.space().control().reader.seq);
    finds(
        "no fences of the watcher",
        &setup,
        &[Fault::NoFence(Ordering::Acquire, 2)],
        old_record(&dict),
    );
    finds(
        "no fence after the zero",
        &setup,
        &[
            Fault::NoFence(Ordering::Release, 1),
            Fault::NoFence(Ordering::SeqCst, 1),
        ],
        old_count(&dict),
    );
    finds(
        "no zero",
        &setup,
        &[Fault::NoStore(at(&slot.seq), Some(0))],
        old_count(&dict),
    );
    finds(
        "seq is relaxed",
        &setup,
        &[
            Fault::Relaxed(Kind::Store, Ordering::Release, seq),
            Fault::Relaxed(Kind::Store, Ordering::Release, at(&dict.space().log_slot(6).seq)),
        ],
        new_record(&dict),
    );
}
