//! Carrying an operation out, in a process that may be stopped or killed at any point of it.

use std::sync::atomic::AtomicBool;
use std::time::Duration;

use shm_state::{Deadline, KeyRef, Namespace, On, Strategy};

use super::scenario::{Act, Scenario, World};
use crate::common::is_full;
use crate::common::model::{self, Change};

/// Opens the arena of the parent in a forked child, and does there what the scenario says: between `begin` and `end`.
pub fn carry_out(scenario: &Scenario, world: &World, begin: impl FnOnce(), end: impl FnOnce()) {
    if scenario.act == Act::Join {
        begin();
        let _joined = world.open();
        return end();
    }
    let (arena, namespace) = world.open();
    if scenario.act == Act::Leave {
        drop(namespace.pin().unwrap());
        namespace.publish_cursor(3);
        model::commit(&namespace, &[], Deadline::never()).unwrap();
        begin();
        drop((namespace, arena));
        return end();
    }
    begin();
    match scenario.act {
        Act::Commit | Act::Put => commit(&namespace, scenario),
        Act::BeRefused => {
            let error = model::commit(&namespace, &scenario.changes, Deadline::never()).unwrap_err();
            assert!(is_full(&error), "{error}");
        }
        Act::Abort => {
            let mut tx = namespace.begin(Deadline::never()).unwrap();
            let apply = |change| model::apply_in(&mut tx, change).unwrap();
            scenario.changes.iter().for_each(apply);
        }
        Act::CreateNamespace => drop(arena.namespace("new").unwrap()),
        Act::Pin => {
            drop(namespace.pin().unwrap());
            let (_one, _two) = (namespace.pin().unwrap(), namespace.pin().unwrap());
        }
        Act::Wait => wait_in_vain(&namespace),
        Act::Watch => {
            let (seq, deadline) = (namespace.seq(), Deadline::after(Duration::from_secs(20)));
            let newer = |now| Ok((now > seq).then_some(now));
            let found = namespace.wait(On::Any, Strategy::Block, deadline, &AtomicBool::new(false), newer);
            assert_eq!(found.unwrap(), Ok(seq + 1));
        }
        Act::Verify => {
            crate::common::assert_clean(&arena);
            arena.stats().unwrap();
        }
        Act::Reap => {
            let reaped = arena.reap().unwrap();
            assert!(reaped.seats > 0 && reaped.processes > 0, "{reaped:?}");
        }
        Act::Leave | Act::Join | Act::CreateArena => {}
    }
    end();
}

fn wait_in_vain(namespace: &Namespace) {
    let (cancel, deadline) = (AtomicBool::new(false), Deadline::after(Duration::from_millis(1)));
    for on in [On::Any, On::Keys(&[1 << 40, 7])] {
        let ended = namespace.wait(on, Strategy::Block, deadline, &cancel, |_| Ok(None::<()>));
        ended.unwrap().unwrap_err();
    }
}

/// Commits the changes of a scenario.
pub fn commit(namespace: &Namespace, scenario: &Scenario) {
    if scenario.act == Act::Put {
        put_straight(namespace, scenario);
    } else {
        model::commit(namespace, &scenario.changes, Deadline::never()).unwrap();
    }
}

/// Sets the one key of the scenario.
fn put_straight(namespace: &Namespace, scenario: &Scenario) {
    let Change::Put(key, value) = &scenario.changes[0] else {
        panic!("not a put")
    };
    let key = KeyRef::new(0, key);
    namespace.put(&key, None, 1, value, Deadline::never()).unwrap();
}
