//! What is stepped: the operations of the kill sweep, and some that are about the company of others.

use std::time::Duration;

use shm_state::{Deadline, Error, KeyRef, Namespace};

use super::company::Company;
use super::tracee::mark;
use crate::common::model::{Change, Model, after, put};
use crate::kill::scenario::{Act, Scenario, World};
use crate::kill::{act, operations};

/// What the stopped process does.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Deed {
    /// What the scenario says.
    Scenario,
    /// Overwrites the one key through the place that it looked up before.
    PutInPlace,
    /// Waits for the writer lock in vain.
    WaitForLock,
}

/// One operation.
pub struct Case {
    /// Its name.
    pub name: &'static str,
    /// The state that it begins with, and what it changes.
    pub scenario: Scenario,
    /// Who is there beside it.
    pub company: Company,
    deed: Deed,
}

impl Case {
    /// Carries it out between two marks, in a forked child of the process that has the arena open.
    pub fn carry_out(&self, world: &World) {
        if self.deed == Deed::Scenario {
            return act::carry_out(&self.scenario, world, mark, mark);
        }
        let (_arena, namespace) = world.open();
        match self.deed {
            Deed::PutInPlace => put_in_place(&namespace, &self.scenario.changes[0]),
            _ => {
                mark();
                // Long enough that it sleeps, also if it is slow.
                let ended = namespace.begin(Deadline::after(Duration::from_millis(1500)));
                assert!(matches!(ended, Err(Error::LockTimeout { .. })));
                drop(ended);
            }
        }
        mark();
    }

    /// The state that it leads to, if it changes any.
    pub fn after(&self, before: &Model) -> Option<Model> {
        let commits = self.scenario.commits() && self.deed != Deed::WaitForLock || self.company == Company::Writer;
        commits.then(|| after(before, &self.scenario.changes))
    }
}

fn put_in_place(namespace: &Namespace, change: &Change) {
    let Change::Put(key, value) = change else {
        panic!("not a put")
    };
    let key = KeyRef::new(0, key);
    let place = namespace.locate(&key).unwrap();
    mark();
    namespace.put(&key, place, 1, value, Deadline::never()).unwrap();
}

/// All of them.
pub fn all() -> Vec<Case> {
    let as_swept = operations::all().into_iter().map(|mut scenario| {
        let mut company = Company::Nobody;
        if scenario.name == "trimming" {
            // The statistics that a template asks for begin a transaction, which would trim before the operation does.
            scenario.setup_after_pins = std::mem::replace(&mut scenario.setup, |_| {});
        }
        if scenario.act == Act::Watch {
            // What wakes it is a commit of somebody else, which readers see.
            scenario.changes = vec![put("watched", 5)];
            company = Company::Writer;
        }
        Case {
            name: scenario.name,
            scenario,
            company,
            deed: Deed::Scenario,
        }
    });
    let put = |name, company, deed| Case {
        name,
        scenario: operations::named("put"),
        company,
        deed,
    };
    // The floor is raised past a snapshot that somebody holds, and what may be recycled is.
    let trimming = operations::named("trimming");
    let beside_pins = Case {
        name: "trimming beside pins",
        scenario: Scenario {
            setup: |_| {},
            pins: 1,
            setup_after_pins: trimming.setup,
            ..trimming
        },
        company: Company::Nobody,
        deed: Deed::Scenario,
    };
    as_swept
        .chain([
            beside_pins,
            put("put in place", Company::Nobody, Deed::PutInPlace),
            put("put that wakes", Company::Sleeper, Deed::Scenario),
            put("put beside a waiter", Company::Waiter, Deed::Scenario),
            put("wait for the lock", Company::Owner, Deed::WaitForLock),
        ])
        .collect()
}
