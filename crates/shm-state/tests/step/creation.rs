//! Creating a named arena: at no instruction is there half an arena under the name.
//!
//! Until the name is there, opening it says that there is none, and a death leaves nothing. From then on the memory is
//! watched as in the other operations, and what a death leaves must be an arena like any other.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;

use nix::sys::memfd::{MFdFlags, memfd_create};
use shm_state::{Arena, Error};

use super::case::Case;
use super::image::Image;
use super::run::{Load, Outcome, Tally, check};
use super::tracee::{Stop, Tracee, mark};
use crate::common::model::Model;
use crate::common::{Name, Random};
use crate::kill::aftermath;
use crate::kill::scenario::{Scenario, World};

/// Steps between two attempts to open the arena while there is none.
const ATTEMPT: u64 = 64;

/// Steps through the creation, then kills some creators.
pub fn run(case: &Case, load: &Load) -> Outcome {
    // Once per program a thread is started to see what the kernel does; that thread would be in the way.
    drop(Arena::anonymous(&case.scenario.options).unwrap());
    let mut tally = Tally::default();
    walk(&case.scenario, load, None, &mut tally)?;
    let mut random = Random::new(load.seed ^ 0x5eed);
    let steps = tally.instructions.max(1);
    for _ in 0..(load.kill_steps / steps).min(load.kills) {
        let mut this = Tally::default();
        walk(&case.scenario, load, Some(random.below(steps)), &mut this)?;
        tally.kills += this.kills;
        tally.bad += this.bad;
    }
    Ok(tally)
}

fn walk(scenario: &Scenario, load: &Load, kill_at: Option<u64>, tally: &mut Tally) -> Result<(), String> {
    let name = Name::new("stepped");
    let mut tracee = Tracee::start(|| {
        mark();
        let _arena = Arena::create(&name, &scenario.options).unwrap();
        mark();
    })?;
    let mut image: Option<Image> = None;
    loop {
        if kill_at.is_some_and(|at| at <= tally.instructions) {
            tally.kills += 1;
            drop(tracee);
            let found = Arena::open(&name);
            let there = image.is_some();
            check(
                tally,
                || "its end".into(),
                "what a death left",
                || {
                    match &found {
                        Ok(_) => assert!(there),
                        Err(Error::NotFound { .. }) => assert!(!there),
                        Err(error) => panic!("{error}"),
                    }
                    live_in(scenario, Arena::open_or_create(&name, &scenario.options).unwrap());
                },
            );
            return Ok(());
        }
        if kill_at.is_none() && tally.instructions >= load.steps {
            tally.partly = true;
            tracee.run_to_mark();
            break;
        }
        match tracee.step() {
            Stop::Instruction => tally.instructions += 1,
            Stop::Mark => break,
            Stop::End(status) => panic!("the stepped process ended: {status:?}"),
        }
        let new = image.is_none() && name.path().exists();
        if image.is_none() && !new {
            if tally.instructions.is_multiple_of(ATTEMPT) && kill_at.is_none() {
                tally.looks += 1;
                let none = matches!(Arena::open(&name), Err(Error::NotFound { .. }));
                check(tally, || tracee.place(), "opening", || assert!(none));
            }
            continue;
        }
        let image = image.get_or_insert_with(|| Image::of_file(File::open(name.path()).unwrap()));
        if kill_at.is_some() || !image.changed() {
            continue;
        }
        tally.changed += 1;
        tally.recoveries += 1;
        let bytes = image.after_deaths(&tracee);
        check(
            tally,
            || tracee.place(),
            "recovery",
            || {
                let file = File::from(memfd_create("stepped", MFdFlags::MFD_CLOEXEC).unwrap());
                file.set_len(scenario.options.capacity).unwrap();
                file.write_all_at(&bytes, 0).unwrap();
                live_in(
                    scenario,
                    Arena::from_fd(file.as_fd().try_clone_to_owned().unwrap()).unwrap(),
                );
            },
        );
    }
    tally.looks += 1;
    check(
        tally,
        || "its end".into(),
        "the end",
        || {
            assert!(tracee.finish(), "the stepped process failed");
            live_in(scenario, Arena::open(&name).unwrap());
        },
    );
    Ok(())
}

/// The arena is one like any other.
fn live_in(scenario: &Scenario, arena: Arena) {
    let namespace = arena.namespace("swept").unwrap();
    let mut world = World::new(arena, namespace, Model::new());
    (scenario.setup)(&mut world);
    aftermath::care(&mut world);
}
