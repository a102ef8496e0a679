//! What must hold after a kill: for readers at once, for the next writer at once, and for all that comes later.

use std::time::Duration;

use shm_state::{Arena, Deadline, Error, Filter, Namespace, Next, Transaction};

use super::scenario::{Act, Scenario, World};
use crate::common::assert_clean;
use crate::common::model::{self, Change, Model, assert_same, remove};

/// The longest that a commit after a death may wait for the lock where it may wait at all.
pub const SOON: Duration = Duration::from_secs(5);

/// Readers go on before anybody has the lock: they see the state before the operation, or after it once it is published,
/// and every commit of the history. `seen` is a commit that the parent made itself during the operation.
pub fn check_readers(world: &World, base: u64, after: &Model, seen: Option<u64>) {
    let pin = world.namespace.pin().unwrap();
    let expected = match pin.seq() {
        seq if seq == base || Some(seq) == seen => &world.model,
        seq => {
            assert_eq!(seq, base + 1, "the commit that a reader sees");
            after
        }
    };
    assert_same(&model::contents_of(&pin), expected, "what a reader sees at once");
    drop(pin);
    for (seq, model) in &world.history {
        match world.namespace.pin_at(*seq).unwrap() {
            Some(pin) => assert_same(&model::contents_of(&pin), model, "a snapshot of the history"),
            None => assert!(*seq < world.namespace.floor(), "commit {seq} is not in the history"),
        }
    }
    check_log(&world.namespace);
}

/// Begins a transaction without waiting at all. The mark of the kernel stands before a killed process can be waited for,
/// so the lock is free. Only a watcher that slept for a second meanwhile (`sleeper`) may be looking after the dead itself.
fn begin_at_once(world: &World, unmarked: bool, sleeper: Option<i32>) -> Transaction<'_> {
    match world.namespace.begin(Deadline::at_once()) {
        Ok(tx) => tx,
        Err(Error::LockTimeout { pid, .. }) if unmarked || sleeper.is_some_and(|s| s.cast_unsigned() == pid) => {
            let tx = world.namespace.begin(Deadline::after(SOON));
            tx.expect("the next writer after a watcher or the backstop")
        }
        Err(error) => panic!("the next writer after the death has to wait: {error}"),
    }
}

/// The next commit, at once. Says whether the operation had been committed.
pub fn recover(scenario: &Scenario, world: &mut World, expected: &[Model], sleeper: Option<i32>) -> bool {
    let mut tx = begin_at_once(world, scenario.unmarked, sleeper);
    let found = model::contents_in(&tx);
    let Some(which) = expected.iter().position(|model| model::same(model, &found)) else {
        let expected: Vec<String> = expected.iter().map(model::brief).collect();
        panic!(
            "an impossible state:\n   found {}\nexpected {}",
            model::brief(&found),
            expected.join("\n      or ")
        );
    };
    let apply = |change| model::apply_in(&mut tx, change).unwrap();
    scenario.next.iter().for_each(apply);
    let seq = tx.commit().unwrap();
    world.committed(seq, model::after(&found, &scenario.next));
    assert_eq!(world.namespace.seq(), seq);
    assert_eq!(world.namespace.len().unwrap(), world.model.len());
    assert_clean(&world.arena);
    check_log(&world.namespace);
    if !scenario.is_short_of_memory() {
        let kept = seq - world.namespace.floor();
        let least = u64::from(scenario.options.history.count).min(seq);
        assert!(kept >= least, "{kept} commits of history are left of {least}");
    }
    which > 0 || (expected.len() == 1 && scenario.commits())
}

/// Other commits, with room made for them if there was none; then everything is looked at again.
pub fn care(world: &mut World) {
    let large = |world: &World, count| -> Vec<Vec<u8>> {
        let keys = world.model.keys().filter(|key| key.starts_with(b"f"));
        keys.take(count).cloned().collect()
    };
    world.commit_each(large(world, 6).into_iter().map(remove));
    let more: Vec<Change> = large(world, 30).into_iter().map(remove).collect();
    world.commit(&more);
    world.commit(&[model::put("a", 1), model::put("other", 33), remove("e")]);
    for round in 0..12 {
        world.commit(&[
            model::put(format!("churn{}", round % 5), 7 * round),
            model::put("a", round),
        ]);
        world.commit_each([remove(format!("churn{}", (round + 2) % 5)), model::put("b", 30)]);
    }
    model::check(&world.arena, &world.namespace, &world.model, "after more commits");
    check_log(&world.namespace);
}

/// Every commit of the history can be read.
pub fn check_log(namespace: &Namespace) {
    let until = namespace.seq();
    let mut cursor = namespace.floor();
    for seq in cursor + 1..=until {
        let next = namespace
            .next_match(&mut cursor, until, Filter::Any, true, None)
            .unwrap();
        assert_eq!(next, Next::Match(seq));
        let record = namespace.record(seq).unwrap().expect("a commit above the floor");
        assert_eq!(
            namespace.changed_keys(&record).unwrap().expect("its keys").len(),
            record.changes.len()
        );
    }
}

/// A namespace that was being made is whole, or is made by the next who asks; further ones too.
pub fn check_namespaces(scenario: &Scenario, arena: &Arena, killed: bool) {
    let names = arena.namespaces().unwrap();
    let makes = scenario.act == Act::CreateNamespace;
    let allowed: &[&[&str]] = match (makes, killed) {
        (false, _) => &[&["swept"]],
        (true, true) => &[&["swept"], &["swept", "new"]],
        (true, false) => &[&["swept", "new"]],
    };
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    assert!(allowed.contains(&names.as_slice()), "{names:?}");
    if !makes {
        return;
    }
    for name in ["third", "new"] {
        let namespace = arena.namespace(name).unwrap();
        let model = Model::from([(b"k".to_vec(), b"v".to_vec())]);
        let change = model::Change::Put(b"k".to_vec(), b"v".to_vec());
        model::commit(&namespace, &[change], Deadline::after(SOON)).unwrap();
        model::check(arena, &namespace, &model, name);
    }
}
