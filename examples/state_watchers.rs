//! State watchers: one process for each kind of watcher, and what each of them sees of the same nine updates.
//!
//! ```text
//! cargo run --example state_watchers
//! ```
//!
//! A process may come late, when all is over. It sees the same, since its watchers begin where it was started, and every
//! state that is waited for here was there once, if only until the next update.

mod common;

use std::process::ExitCode;
use std::time::Duration;

use common::{Result, Stage};
use zproc::{Error, Snapshot, State, Value};

type Watcher = for<'s> fn(&'s State) -> zproc::Result<Vec<Snapshot<'s>>>;

const WATCHERS: [(&str, Watcher); 14] = [
    // Edges: the next update that changes something, each time it is called.
    ("get_when_change", |s| {
        Ok(vec![s.get_when_change(["door"])?, s.get_when_change(["door"])?])
    }),
    ("get_when_any_change", |s| Ok(vec![s.get_when_any_change()?])),
    ("get_when_change_except", |s| {
        Ok(vec![s.get_when_change_except(["door", "guest"])?])
    }),
    ("get_when_change, duplicates", |s| {
        (0..3)
            .map(|_| s.watch().duplicates().get_when_change(["door"]))
            .collect()
    }),
    // Levels: a state in which something holds, that of now or else the first since the process was started.
    ("get_when", |s| Ok(vec![s.get_when(|house| Ok(house.len()? == 4))?])),
    ("get_when_equal", |s| Ok(vec![s.get_when_equal("door", "open")?])),
    ("get_when_not_equal", |s| Ok(vec![s.get_when_not_equal("lamp", "off")?])),
    ("get_when_none", |s| Ok(vec![s.get_when_none("lamp")?])),
    ("get_when_not_none", |s| Ok(vec![s.get_when_not_none("guest")?])),
    ("get_when_available", |s| Ok(vec![s.get_when_available("cat")?])),
    ("get_when_available, timeout", |s| {
        let watch = s.watch().timeout(Duration::from_millis(100));
        match watch.get_when_available("unicorn") {
            Err(Error::Timeout) => Ok(vec![]),
            other => Ok(vec![other?]),
        }
    }),
    // All about one update after another.
    ("get_raw_update", |s| {
        s.get_raw_update().map(|update| vec![update.before, update.after])
    }),
    ("updates", |s| {
        s.updates()?.take(8).map(|update| Ok(update?.after)).collect()
    }),
    ("updates_since", |s| {
        s.updates_since(8).take(2).map(|update| Ok(update?.after)).collect()
    }),
];

fn main() -> ExitCode {
    common::run("state_watchers", act, watch)
}

/// What the process does that the user starts.
fn act(stage: &Stage) -> Result {
    let house = &stage.state;
    house.extend([
        ("door", Value::from("shut")),
        ("lamp", "off".into()),
        ("guest", Value::None),
    ])?; // update 1
    let watchers = stage.start(0..WATCHERS.len())?;
    house.insert("door", "open")?; // 2
    house.insert("door", "shut")?;
    house.insert("door", "shut")?; // 4: no change, and so skipped unless one asks for duplicates
    house.insert("guest", "ann")?;
    house.insert("guest", Value::None)?; // 6
    house.insert("lamp", Value::None)?; // the bulb is gone
    house.insert("lamp", "off")?; // 8
    house.insert("cat", "in")?;
    house.remove("cat")?; // 10
    watchers.finish()
}

/// What each watcher does.
fn watch(state: &State, number: &str) -> Result {
    let (name, watcher) = WATCHERS
        .get(number.parse::<usize>()?)
        .ok_or("there is no such watcher")?;
    let mut lines = String::new();
    for seen in watcher(state)? {
        lines += &format!("{name:<28} update {:>2}: {}\n", seen.seq(), seen.to_map()?);
    }
    print!("{lines}");
    Ok(())
}
