//! The settings of a watch, in their combinations, for those who go from update to update; and how to go on after one
//! has lagged.

use std::collections::BTreeMap;
use std::time::Duration;

use support::{HANG, Served, assert_nothing, now, pair};
use zproc::{Builder, Error, Key, Map, Result, State, Update, Watch};

mod support;

/// What was done, by whom: (number of the update, changed keys, written keys, by the watcher itself).
struct Done {
    seq: u64,
    changed: Vec<&'static str>,
    written: Vec<&'static str>,
    own: bool,
}

/// Some updates of all kinds through `state` itself and through another identity.
fn do_something(state: &State, other: &State) -> Result<Vec<Done>> {
    let mut done = Vec::new();
    let mut note = |seq, changed: &[&'static str], written: &[&'static str], own| {
        done.push(Done {
            seq,
            changed: changed.to_vec(),
            written: written.to_vec(),
            own,
        });
    };
    other.insert("a", 1)?;
    note(1, &["a"], &["a"], false);
    other.insert("a", 1)?;
    note(2, &[], &["a"], false);
    state.insert("b", 1)?;
    note(3, &["b"], &["b"], true);
    other.extend([("a", 1), ("b", 2), ("c", 3)])?;
    note(4, &["b", "c"], &["a", "b", "c"], false);
    other.insert("c", 3)?;
    note(5, &[], &["c"], false);
    state.insert("c", 3)?;
    note(6, &[], &["c"], true);
    other.remove("b")?;
    note(7, &["b"], &["b"], false);
    other.extend([("d", 1)])?;
    note(8, &["d"], &["d"], false);
    Ok(done)
}

#[derive(Clone, Copy, Debug)]
enum Only {
    All,
    Keys(&'static [&'static str]),
    Except(&'static [&'static str]),
}

impl Only {
    fn counts(self, key: &str) -> bool {
        match self {
            Self::All | Self::Keys([]) => true,
            Self::Keys(keys) => keys.contains(&key),
            Self::Except(keys) => !keys.contains(&key),
        }
    }

    fn of<'s>(self, watch: &Watch<'s>) -> Result<Watch<'s>> {
        match self {
            Self::All => Ok(watch.clone()),
            Self::Keys(keys) => watch.keys(keys),
            Self::Except(keys) => watch.except(keys),
        }
    }
}

const SELECTIONS: [Only; 7] = [
    Only::All,
    Only::Keys(&[]),
    Only::Keys(&["a"]),
    Only::Keys(&["b", "d", "nobody"]),
    Only::Except(&[]),
    Only::Except(&["a", "b"]),
    Only::Except(&["c", "d"]),
];

fn check(update: &Update<'_>, done: &[Done], duplicates: bool) -> Result<()> {
    let done = done.iter().find(|done| done.seq == update.seq).expect("it was made");
    let keys = if duplicates { &done.written } else { &done.changed };
    assert_eq!(
        update.changed,
        keys.iter().map(|key| Key::from(*key)).collect::<Vec<_>>()
    );
    assert_eq!(update.identical, done.changed.is_empty());
    assert_eq!((update.before.seq(), update.after.seq()), (update.seq - 1, update.seq));
    Ok(())
}

#[test]
fn every_combination_of_settings_yields_exactly_what_it_says() -> Result<()> {
    for only in SELECTIONS {
        for duplicates in [false, true] {
            for place in ["cursor", "live", "since"] {
                let (state, other) = pair();
                let mut watch = only.of(&now(&state))?;
                if duplicates {
                    watch = watch.duplicates();
                }
                let mut updates = match place {
                    "cursor" => watch.updates()?,
                    "live" => watch.live().updates()?,
                    _ => watch.updates_since(2),
                };
                let done = do_something(&state, &other)?;
                let mut expected = Vec::new();
                for done in done
                    .iter()
                    .filter(|done| !done.own && (place != "since" || done.seq > 2))
                {
                    let keys = if duplicates { &done.written } else { &done.changed };
                    if keys.iter().any(|key| only.counts(key)) {
                        expected.push(done.seq);
                    }
                }
                let what = format!("{only:?}, duplicates: {duplicates}, {place}");
                let mut found = Vec::new();
                for update in updates.by_ref().map_while(Result::ok) {
                    check(&update, &done, duplicates)?;
                    found.push(update.seq);
                }
                assert_eq!(found, expected, "{what}");
                assert_nothing(updates.next().expect("it goes on"));
                let cursor = match place {
                    "cursor" => expected.last().copied().unwrap_or(0),
                    _ => 0,
                };
                assert_eq!(state.cursor(), cursor, "{what}");
                // Those who take one at a time get the same.
                if place == "cursor" {
                    let again = state.fork().since(0).open()?;
                    let mut watch = only.of(&now(&again))?;
                    if duplicates {
                        watch = watch.duplicates();
                    }
                    let snapshots = std::iter::from_fn(|| watch.get_when_any_change().ok().map(|found| found.seq()));
                    let own = |seq: &u64| !done.iter().any(|done| done.seq == *seq && done.own);
                    assert_eq!(snapshots.filter(own).collect::<Vec<_>>(), expected, "{what}");
                    assert_nothing(watch.get_raw_update());
                }
            }
        }
    }
    Ok(())
}

#[test]
fn a_setting_makes_a_new_watch_and_leaves_the_old_one() -> Result<()> {
    let (state, other) = pair();
    other.insert("a", 1)?;
    let plain = now(&state);
    let (live, of_b) = (plain.live(), plain.keys(["b"])?);
    assert_nothing(live.get_when_any_change());
    assert_nothing(of_b.get_when_any_change());
    assert_nothing(plain.except(["a"])?.get_raw_update());
    assert_eq!(plain.get_when_any_change()?.seq(), 1);
    Ok(())
}

#[test]
fn those_who_name_keys_themselves_are_not_restricted() -> Result<()> {
    let (state, other) = pair();
    other.insert("a", 1)?;
    let of_b = now(&state).keys(["b"])?;
    assert_eq!(of_b.get_when_equal("a", 1)?.seq(), 1);
    assert_eq!(of_b.get_when_change_except(["c"])?.seq(), 1);
    other.insert("a", 2)?;
    assert_eq!(of_b.get_when_change(["a"])?.seq(), 2);
    Ok(())
}

#[test]
fn a_closure_is_asked_about_the_current_state_and_then_only_after_updates_of_the_keys() -> Result<()> {
    let (state, other) = pair();
    for n in 1..=3 {
        other.insert("a", n)?;
        other.insert("b", n)?;
    }
    let mut asked = Vec::new();
    let result = now(&state).keys(["b"])?.get_when(|snapshot| {
        asked.push(snapshot.seq());
        false
    });
    assert_nothing(result);
    assert_eq!(asked, [6, 2, 4, 6]);
    Ok(())
}

#[test]
fn a_watcher_of_keys_wakes_up_for_them_only() -> Result<()> {
    let (state, other) = pair();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| {
            let watch = state.watch().keys(["n"]).unwrap().timeout(HANG);
            let update = watch.updates().unwrap().next().expect("endless").unwrap();
            (update.seq, update.after.get::<i64>("n").unwrap())
        });
        for n in 0..50 {
            other.insert("noise", n).unwrap();
        }
        other.insert("n", 7).unwrap();
        assert_eq!(waiting.join().unwrap(), (51, Some(7)));
    });
    Ok(())
}

/// The recipe of the documentation: take a snapshot, forget what it shows, and go on with the updates behind it.
#[test]
fn one_who_lagged_goes_on_exactly_from_a_snapshot() -> Result<()> {
    const COUNT: i64 = 20_000;
    let state = Builder::anonymous().history(16, 1 << 20).create().served()?;
    let other = state.clone();
    let mut lags = 0;
    std::thread::scope(|scope| -> Result<()> {
        scope.spawn(|| {
            for n in 0..COUNT {
                other.insert(n % 100, n).unwrap();
                if n % 1000 == 0 {
                    // Let the watcher catch up now and then.
                    std::thread::sleep(Duration::from_millis(5));
                }
            }
            other.insert("end", 1).unwrap();
        });
        let (mut copy, mut at) = (BTreeMap::<Key, zproc::Value>::new(), 0);
        let mut updates = state.watch().timeout(HANG).updates_since(0);
        loop {
            match updates.next().expect("it goes on") {
                Ok(update) => {
                    assert_eq!(update.seq, at + 1, "in order, and none left out");
                    at = update.seq;
                    for key in update.changed {
                        match update.after.get(&key)? {
                            Some(value) => copy.insert(key, value),
                            None => copy.remove(&key),
                        };
                    }
                    if copy.contains_key(&Key::from("end")) {
                        break;
                    }
                    if at % 64 == 0 {
                        // Slower than the writer.
                        std::thread::sleep(Duration::from_micros(200));
                    }
                }
                Err(Error::Lagged { missed }) => {
                    assert!(missed > 0);
                    lags += 1;
                    let snapshot = state.snapshot()?;
                    copy = snapshot.iter().collect::<Result<_>>()?;
                    at = snapshot.seq();
                    updates = state.watch().timeout(HANG).updates_since(at);
                    if copy.contains_key(&Key::from("end")) {
                        break;
                    }
                }
                Err(error) => return Err(error),
            }
        }
        let copy: Map = copy.into_iter().collect();
        assert_eq!(state.snapshot()?, copy, "the copy is what the state is");
        Ok(())
    })?;
    println!("lagged {lags} times");
    Ok(())
}
