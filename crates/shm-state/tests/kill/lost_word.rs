//! Whether the checks would notice a mistake: a commit of which one word was lost.
//!
//! An operation is carried out, and then one word that it changed gets its old value back, as if the recovery of a dead
//! writer had forgotten it, or a store had come too late. Then everything is checked as after a kill. Words that mean
//! nothing (payloads of blocks that are free, links of blocks that are alive, times) make no difference; of the others
//! each one should.

use std::fs::File;
use std::os::unix::fs::FileExt;

use super::operations;
use super::scenario::{Scenario, Template};
use super::{aftermath, end_within, point};
use crate::common::model;
use crate::common::process::{end_of, fork, start_fork};

/// Plants one lost word after the other; returns how many there were, and how many were noticed.
fn lose_each_word(scenario: &Scenario) -> (usize, usize) {
    let template = Template::of(scenario);
    let world = template.copy();
    assert_eq!(fork(|| point::commit(&world.open().1, scenario)), None);
    let mut after = vec![0; world.arena.stats().unwrap().committed as usize];
    let file = File::from(world.arena.fd().unwrap().try_clone_to_owned().unwrap());
    file.read_exact_at(&mut after, 0).unwrap();
    let contents = model::after(&world.model, &scenario.changes);
    let word = |bytes: &[u8], at: usize| bytes.get(at..at + 8).map_or([0; 8], |word| word.try_into().unwrap());
    let changed = (292 * 1024..after.len())
        .step_by(8)
        .filter(|at| word(&after, *at) != word(template.bytes(), *at));
    let changed: Vec<usize> = changed.collect();
    let noticed = changed.iter().filter(|at| {
        let mut bytes = after.clone();
        bytes[**at..**at + 8].copy_from_slice(&word(template.bytes(), **at));
        let faulty = template.with(bytes, contents.clone());
        let pid = start_fork(|| {
            std::panic::set_hook(Box::new(|_| {}));
            end_within(20);
            let mut world = faulty.copy();
            aftermath::recover(scenario, &mut world, std::slice::from_ref(&contents), None);
            aftermath::care(&mut world);
        });
        !end_of(pid).success()
    });
    (changed.len(), noticed.count())
}

/// Panics unless the words that matter were missed.
pub fn run() {
    let mut summary = Vec::new();
    for name in ["insert", "overwrite", "remove", "clear", "growth"] {
        let scenario = operations::named(name);
        let (lost, noticed) = lose_each_word(&scenario);
        summary.push(format!("{name}: {noticed} of {lost}"));
        // The rest are those that mean nothing once the commit is done: its record, the time, links of live blocks.
        assert!(
            noticed >= 5 && noticed * 5 > lost,
            "{name}: of {lost} lost words only {noticed} were noticed"
        );
    }
    println!("\nswept lost words: noticed: {}", summary.join(", "));
}
