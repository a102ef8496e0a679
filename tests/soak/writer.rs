//! Writers: each commit adds one to the writer's counter, in one of the ways that a user has.
//!
//! Most commits are made by `atomic`, with changes of other keys; some by `insert` or a handle, whose straight path has
//! stores of its own to die between. Now and then a writer has little patience for the lock, and now and then it loses
//! the kernel's mark while it is inside.

use std::time::{Duration, Instant};

use zproc::{Error, Handle, Result, State, Transaction};

use crate::board::Word;
use crate::kid::{PATIENCE, Role};
use crate::mark;
use crate::model::{self, counter};
use crate::random::Random;

pub fn run(mut role: Role) {
    let state = role.state(|settings| settings.lock_timeout(PATIENCE));
    let own = role.number;
    let mut next = state.get::<i64>(counter(own)).unwrap().unwrap() + 1;
    let handle = state.handle(counter(own)).unwrap();
    let mut full_without_pins = 0;
    while role.board.get(Word::Stop, 0) == 0 && !role.is_orphaned() {
        let patient = !role.random.once_in(16);
        let result = if patient {
            commit(&state, &handle, own, next, &mut role.random)
        } else {
            let timeout = Duration::from_millis(1 + role.random.below(20));
            let hasty = state.fork().lock_timeout(timeout).open().unwrap();
            let handle = hasty.handle(counter(own)).unwrap();
            commit(&hasty, &handle, own, next, &mut role.random)
        };
        match result {
            Ok(()) => {
                role.board.set(Word::Acknowledged, own, next.cast_unsigned());
                next += 1;
                full_without_pins = 0;
            }
            Err(Error::LockTimeout { pid, .. }) if !patient => {
                assert_ne!(pid, std::process::id(), "this process does not hold the lock");
                role.board.add(Word::Timeouts, own, 1);
            }
            // Holders may pin more than there is room for. They may have let it go before the error was made, but not
            // time after time.
            Err(Error::Full { pins, .. }) => {
                full_without_pins = if pins.is_empty() { full_without_pins + 1 } else { 0 };
                assert!(full_without_pins < 100, "full, and nobody holds a snapshot");
                role.board.add(Word::Full, own, 1);
                std::thread::sleep(Duration::from_millis(2));
            }
            Err(other) => panic!("writer {own}: {other}"),
        }
        // Some leave the others the lock, some do not.
        if role.random.once_in(4) {
            std::thread::sleep(Duration::from_micros(role.random.below(300)));
        }
    }
}

fn commit(state: &State, handle: &Handle<'_, i64>, own: u64, next: i64, random: &mut Random) -> Result<()> {
    match random.below(8) {
        0 => state.insert(counter(own), next),
        1 => handle.set(next),
        _ => state.atomic(|dict| {
            let counted = model::count(dict, own)?;
            assert_eq!(counted, next, "writer {own} is the only one who counts here");
            change(dict, next, random)
        }),
    }
}

/// Something or other beside the counter.
fn change(dict: &mut Transaction<'_>, value: i64, random: &mut Random) -> Result<()> {
    match random.below(9) {
        0..=2 => model::set_group(dict, value)?,
        3 => drop(dict.remove(format!("extra {}", random.below(30)))?),
        4 => {
            let bytes = vec![value.to_le_bytes()[0]; random.below(3000) as usize];
            dict.insert(format!("extra {}", random.below(30)), bytes)?;
        }
        5 => {
            // A key that comes and goes makes the index anew now and then.
            dict.remove(format!("passing {}", value % 50))?;
            dict.insert(format!("passing {}", (value + 25) % 50), value)?;
        }
        6 => mark::lose(),
        _ => {}
    }
    if random.once_in(3) {
        let until = Instant::now() + Duration::from_micros(random.below(400));
        while Instant::now() < until {
            std::hint::spin_loop();
        }
    }
    Ok(())
}
