//! The time of an update: to a few milliseconds, or exactly if its writer wants.

use std::time::SystemTime;

use zproc::{Builder, Result, State};

/// How many of so many updates are dated between the moments before and after they were made.
fn exact(state: &State, updates: usize) -> Result<usize> {
    let watcher = state.clone();
    let mut exact = 0;
    for number in 0..updates {
        let before = SystemTime::now();
        if number % 2 == 0 {
            state.insert("straight", number)?;
        } else {
            state.extend([("a", number), ("b", number)])?;
        }
        let after = SystemTime::now();
        let time = watcher.get_raw_update()?.time;
        assert!(time <= after, "no clock runs ahead");
        exact += usize::from(before <= time);
    }
    Ok(exact)
}

#[test]
fn a_writer_that_asks_for_it_dates_its_updates_precisely() -> Result<()> {
    let coarse = State::anonymous()?;
    assert!(
        exact(&coarse, 100)? < 100,
        "the coarse clock would have to move on just before each update"
    );
    let precise = Builder::anonymous().precise_time(true).create()?;
    assert_eq!(exact(&precise, 100)?, 100);
    // A fork and a clone do as the state that they are of, unless told otherwise.
    assert_eq!(exact(&precise.clone(), 100)?, 100);
    assert_eq!(exact(&precise.fork().namespace("other").open()?, 100)?, 100);
    assert!(exact(&precise.fork().precise_time(false).open()?, 100)? < 100);
    Ok(())
}
