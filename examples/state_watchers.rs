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

const WATCHERS: [&str; 14] = [
    "get_when_change",
    "get_when_any_change",
    "get_when_change_except",
    "get_when_change, duplicates",
    "get_when",
    "get_when_equal",
    "get_when_not_equal",
    "get_when_none",
    "get_when_not_none",
    "get_when_available",
    "get_when_available, timeout",
    "get_raw_update",
    "updates",
    "updates_since",
];

fn main() -> ExitCode {
    common::run("state_watchers", act, |state, kind| {
        let mut lines = String::new();
        for seen in watch(state, kind)? {
            lines += &format!("{kind:<28} update {:>2}: {}\n", seen.seq(), seen.to_map()?);
        }
        print!("{lines}");
        Ok(())
    })
}

/// What the process does that the user starts.
fn act(stage: &Stage) -> Result {
    let house = &stage.state;
    house.extend([
        ("door", Value::from("shut")),
        ("lamp", "off".into()),
        ("guest", Value::None),
    ])?; // update 1
    let watchers = stage.start(WATCHERS)?;
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
fn watch<'s>(state: &'s State, kind: &str) -> Result<Vec<Snapshot<'s>>> {
    let duplicates = state.watch().duplicates();
    let short = state.watch().timeout(Duration::from_millis(100));
    Ok(match kind {
        // The next update that changes something, each time it is called.
        "get_when_change" => vec![state.get_when_change(["door"])?, state.get_when_change(["door"])?],
        "get_when_any_change" => vec![state.get_when_any_change()?],
        "get_when_change_except" => vec![state.get_when_change_except(["door", "guest"])?],
        "get_when_change, duplicates" => {
            let next = |_| duplicates.get_when_change(["door"]);
            (0..3).map(next).collect::<zproc::Result<_>>()?
        }
        // A state in which something holds: that of now, or else the first since this process was started.
        "get_when" => vec![state.get_when(|house| Ok(house.len()? == 4))?],
        "get_when_equal" => vec![state.get_when_equal("door", "open")?],
        "get_when_not_equal" => vec![state.get_when_not_equal("lamp", "off")?],
        "get_when_none" => vec![state.get_when_none("lamp")?],
        "get_when_not_none" => vec![state.get_when_not_none("guest")?],
        "get_when_available" => vec![state.get_when_available("cat")?],
        "get_when_available, timeout" => match short.get_when_available("unicorn") {
            Err(Error::Timeout) => vec![],
            other => vec![other?],
        },
        // All about one update after another.
        "get_raw_update" => {
            let update = state.get_raw_update()?;
            vec![update.before, update.after]
        }
        "updates" => state
            .updates()?
            .take(8)
            .map(|update| Ok(update?.after))
            .collect::<Result<_>>()?,
        "updates_since" => state
            .updates_since(8)
            .take(2)
            .map(|update| Ok(update?.after))
            .collect::<Result<_>>()?,
        _ => return Err(format!("there is no watcher {kind}").into()),
    })
}
