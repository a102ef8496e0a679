//! Corrupt bytes, seen from above the engine: whatever lies in an arena, reading, watching and changing a `State` ends in
//! an error or a wrong value.
//!
//! The machinery is that of the engine's own `tests/damage.rs`. Here the damaged arena is used through every call of
//! `State`; and values and keys of damaged bytes, which the engine knows nothing about, are put under a healthy one.

#[path = "../../shm-state/tests/common/mod.rs"]
mod common;
#[path = "../../shm-state/tests/damage/layout.rs"]
mod layout;
#[path = "../../shm-state/tests/damage/mutate.rs"]
mod mutate;
#[path = "../../shm-state/tests/damage/rounds.rs"]
mod rounds;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use common::process::Role;
use common::{Random, number_from_env};
use layout::Image;
use mutate::{Case, differences};
use nix::sys::memfd::{MFdFlags, memfd_create};
use rounds::Subject;
use shm_state::{Arena, Deadline, KeyRef};
use zproc::{Builder, Error, Map, Result, Rkyv, Snapshot, State, ToValue, Value, archived};

const SUBJECT: Subject = Subject {
    names: &["state"],
    image: |_| image(),
    run: use_damaged,
};

#[test]
fn child() {
    let Some(role) = Role::of_this_process() else { return };
    SUBJECT.play(&role);
}

#[test]
fn damage_is_an_error_and_never_a_crash_or_an_endless_loop() {
    let rounds = number_from_env("ZPROC_DAMAGE_ROUNDS").unwrap_or(400);
    let seed = number_from_env("ZPROC_DAMAGE_SEED").unwrap_or(u64::from(std::process::id()) << 32);
    let noticed = SUBJECT.rounds(seed, rounds);
    assert!(
        noticed * 5 > rounds || rounds < 100,
        "only {noticed} of {rounds} were noticed"
    );
}

#[test]
fn what_did_harm_once_does_none() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus/damage");
    assert!(SUBJECT.replay_all(&corpus) >= 1);
}

/// A type with a bit of everything, behind pointers.
#[derive(rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
struct Plan {
    name: String,
    steps: Vec<(bool, Option<char>, Box<str>)>,
    tags: BTreeMap<u8, Vec<u16>>,
}
archived!(Plan as "robot.Plan");

/// One without pointers, of which not every bit pattern is valid.
#[derive(rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
struct Flags([Option<bool>; 20]);
archived!(Flags as "robot.Flags");

fn plan() -> Plan {
    Plan {
        name: "to the kitchen, by way of the hall".into(),
        steps: (0..5)
            .map(|n| (n % 2 == 0, Some('é'), "step".repeat(n).into()))
            .collect(),
        tags: BTreeMap::from([(1, vec![2, 3]), (4, vec![])]),
    }
}

fn nested(depth: usize) -> Value {
    (0..depth).fold(Value::from(1), |inner, n| match n % 2 {
        0 => Value::from_iter([inner, "beside".into()]),
        _ => Map::from([("inner", inner)]).into(),
    })
}

/// Equal to no state of these tests.
fn nested_map() -> Map {
    Map::from([("value", nested(60)), ("never", 1.into())])
}

fn values() -> Map {
    Map::from([
        ("none", Value::None),
        ("bool", true.into()),
        ("int", (-5).into()),
        ("large", u128::MAX.into()),
        ("float", 0.1.into()),
        ("str", "a string of more than sixteen bytes".into()),
        ("short", "open".into()),
        ("bytes", b"\x00\xff"[..].into()),
        ("list", Value::from_iter([1, 2, 3])),
        ("map", Map::from([("inner", Value::from_iter(["a", "b"]))]).into()),
        ("nested", nested(20)),
        ("plan", Value::of(&plan()).unwrap()),
        ("flags", Value::of(&Flags([Some(true); 20])).unwrap()),
        ("plans", Value::of(&[plan(), plan()]).unwrap()),
        (
            "long",
            "long enough for a block of its own ".repeat(300).as_str().into(),
        ),
    ])
}

fn builder() -> Builder {
    Builder::anonymous()
        .namespace("a")
        .capacity(4 << 20)
        .history(8, 1 << 20)
        .lock_timeout(Duration::from_millis(10))
}

fn image() -> Image {
    let state = builder().create().unwrap();
    for _ in 0..2 {
        state.extend(&values()).unwrap();
    }
    for number in 0..30 {
        state.insert(("tuple", number), number).unwrap();
        state.insert(number, [number; 3]).unwrap();
    }
    for number in 0..10 {
        state.remove(number).unwrap();
        state.insert("short", number).unwrap();
    }
    let _pinned = state.snapshot().unwrap();
    state
        .insert(
            b"a key of bytes that has more than one line for itself, to be sure".as_slice(),
            1,
        )
        .unwrap();
    let mut bytes = vec![0; state.stats().unwrap().committed as usize];
    let file = File::from(state.fd().unwrap().try_clone_to_owned().unwrap());
    file.read_exact_at(&mut bytes, 0).unwrap();
    Image::parse(bytes)
}

fn use_damaged(clean: &Image, case: &Case) -> usize {
    let mut damaged = clean.clone();
    case.apply(&mut damaged);
    let file = File::from(memfd_create("damaged", MFdFlags::MFD_CLOEXEC).unwrap());
    file.set_len(clean.capacity).unwrap();
    let before = case.setting("use").first() == Some(&"before");
    file.write_all_at(if before { &damaged.bytes } else { &clean.bytes }, 0)
        .unwrap();
    let mut errors = Vec::new();
    let mut note = |result: Result<()>| errors.extend(result.err());
    let strike = || {
        for (at, word) in differences(clean, &damaged) {
            file.write_all_at(&word.to_le_bytes(), at as u64).unwrap();
        }
    };
    match builder().since(0).from_fd(file.try_clone().unwrap().into()) {
        Ok(state) => use_state(
            &state,
            || {
                if before {
                } else {
                    strike()
                }
            },
            &mut note,
        ),
        Err(error) => note(Err(error)),
    }
    for error in &errors {
        assert!(!error.to_string().is_empty());
    }
    errors.len()
}

/// Every call of a state. `strike` is called once, when handles, snapshots and iterators are at hand.
fn use_state(state: &State, strike: impl Fn(), note: &mut impl FnMut(Result<()>)) {
    let short = Duration::from_micros(300);
    let (handle, snapshot) = (state.handle::<Value>("short"), state.snapshot());
    if let Ok(handle) = &handle {
        note(handle.get().map(drop));
    }
    let mut updates = state.watch().timeout(short).updates();
    let struck = Cell::new(false);
    note(state.atomic(|dict| {
        dict.insert("before", 1)?;
        strike();
        struck.set(true);
        dict.modify_or("int", 0, |n: i64| n.wrapping_add(1))?;
        dict.pop_item()?;
        dict.to_map()?;
        dict.get_or_insert("new", 5)?;
        dict.remove("bool").map(drop)
    }));
    if !struck.get() {
        strike();
    }
    if let (Ok(handle), Ok(snapshot)) = (&handle, &snapshot) {
        note(handle.get().map(drop));
        note(handle.set("by the handle".into()));
        note(snapshot.to_map().map(drop));
        note(snapshot.len().map(drop));
        note(snapshot.get::<Value>("nested").map(drop));
        note(snapshot.keys().rev().try_for_each(|key| key.map(drop)));
        note(snapshot.values().try_for_each(|value| value.map(drop)));
    }
    // Before anything is written by what may be damaged: a view trusts what it has checked once.
    note(state.snapshot().and_then(|snapshot| look(&snapshot)));
    read(state, note);
    if let Ok(updates) = &mut updates {
        for update in updates.take(20) {
            note(update.and_then(|update| update.after.to_map().and(update.before.len()).map(drop)));
        }
    }
    note(state.watch().timeout(short).get_when_change(["int", "short"]).map(drop));
    note(state.watch().timeout(short).get_when_change_except(["int"]).map(drop));
    note(state.watch().timeout(short).get_when_any_change().map(drop));
    note(state.watch().timeout(short).get_when_equal("int", 77).map(drop));
    note(
        state
            .watch()
            .timeout(short)
            .get_when(|snapshot| snapshot.contains_key("never"))
            .map(drop),
    );
    note(state.insert("short", 3));
    note(state.insert("short", "a value of another class, which is longer than the other one"));
    note(state.extend((0..40).map(|n| (("many", n), n))));
    note(state.remove("list").map(drop));
    note(state.take::<Map>("map").map(drop));
    note(state.pop_item().map(drop));
    note(state.get_or_insert("int", 5).map(drop));
    note(state.go_live());
    note(state.replace_all([("only", 1)]));
    note(state.clear());
    read(state, note);
    if handle
        .as_ref()
        .is_ok_and(|handle| !matches!(handle.set(Value::None), Err(Error::LockTimeout { .. })))
    {
        note(state.verify().map(drop));
        note(state.stats().map(drop));
    }
}

fn read(state: &State, note: &mut impl FnMut(Result<()>)) {
    for key in values().keys() {
        note(state.get::<Value>(key).map(drop));
        note(state.get::<String>(key).map(drop).or(Ok(())));
        note(state.get::<Vec<Value>>(key).map(drop).or(Ok(())));
        note(state.get::<BTreeMap<String, Value>>(key).map(drop).or(Ok(())));
        note(state.get::<Plan>(key).map(drop).or(Ok(())));
        note(state.get::<Flags>(key).map(drop).or(Ok(())));
        note(
            state
                .handle::<Flags>(key)
                .and_then(|flags| flags.get())
                .map(drop)
                .or(Ok(())),
        );
        note(state.contains_key(key).map(drop));
    }
    note(state.get::<Plan>("plan").map(drop));
    note(state.get::<Flags>("flags").map(drop));
    note(state.to_map().map(drop));
    note(state.iter().map(|all| assert!(all.rev().count() < 1 << 20)));
    note(state.keys().map(drop));
    note(state.values().map(drop));
    note(state.len().map(drop));
    note(state.snapshot().map(|snapshot| assert!(snapshot != nested_map())));
}

/// Looks at values where they lie. They are checked here, after whatever was done to them.
fn look(snapshot: &Snapshot<'_>) -> Result<()> {
    let mut result = Ok(());
    for key in ["value", "plan", "flags", "long"] {
        let seen = [
            snapshot.view::<Plan>(key).map(|plan| plan.map(|plan| plan.name.len())),
            snapshot
                .view::<Flags>(key)
                .map(|flags| flags.map(|flags| flags.0.iter().flatten().count())),
            snapshot
                .view::<str>(key)
                .map(|text| text.map(|text| text.chars().count())),
            snapshot.view::<[u8]>(key).map(|bytes| bytes.map(|bytes| bytes.len())),
        ];
        result = seen.into_iter().fold(result, |result, seen| result.and(seen.map(drop)));
    }
    result
}

/// Bytes that no program wrote, as values and as keys: tags that do not exist, lengths beyond the end, text that is no
/// text, lists in lists in lists.
#[test]
fn values_of_any_bytes_are_errors_or_values() {
    let rounds = number_from_env("ZPROC_DAMAGE_ROUNDS").unwrap_or(200) * 10;
    let seed = number_from_env("ZPROC_DAMAGE_SEED").unwrap_or(u64::from(std::process::id()) << 32);
    let mut seeds: Vec<(u16, Vec<u8>)> = Vec::new();
    for value in values().iter().map(|(_, value)| value).chain([&nested(60)]) {
        value
            .with_encoded(|encoded| seeds.push((encoded.tag(), encoded.bytes().to_vec())))
            .unwrap();
    }
    // A list in a list, deeper than any reader follows.
    for inner in [9, 10] {
        let deep = (0..3000u32).fold(Vec::new(), |inside, _| {
            let mut outside = vec![inner];
            outside.extend((inside.len() as u32).to_le_bytes());
            outside.extend(inside);
            outside
        });
        seeds.push((u16::from(inner), deep));
    }
    let state = builder().create().unwrap();
    let arena = Arena::from_fd(state.fd().unwrap().as_fd().try_clone_to_owned().unwrap()).unwrap();
    let namespace = arena.namespace("a").unwrap();
    let mut wrong = 0;
    for round in 0..rounds {
        let mut random = Random::new(seed.wrapping_add(round));
        let (mut tag, mut bytes) = seeds[random.below(seeds.len() as u64) as usize].clone();
        for _ in 0..random.below(4) {
            garble(&mut tag, &mut bytes, &seeds, &mut random);
        }
        let (name, deadline) = (&bytes[..bytes.len().min(100)], Deadline::never());
        namespace
            .put(&KeyRef::new(7, b"value"), None, tag, &bytes, deadline)
            .unwrap();
        namespace
            .put(&KeyRef::new(random.below(12) as u8, name), None, 3, &[1; 8], deadline)
            .unwrap();
        let mut note = |result: Result<()>| {
            wrong += u64::from(result.is_err_and(|error| !error.to_string().is_empty()));
        };
        note(state.get::<Value>("value").map(|value| drop(format!("{value:?}"))));
        note(state.get::<String>("value").map(drop));
        note(state.get::<i64>("value").map(drop));
        note(state.get::<Vec<Vec<Value>>>("value").map(drop));
        note(state.get::<BTreeMap<String, Value>>("value").map(drop));
        note(state.get::<(u8, Option<f32>)>("value").map(drop));
        note(state.get::<Plan>("value").map(drop));
        note(state.get::<Flags>("value").map(drop));
        note(state.get::<Rkyv<Vec<String>>>("value").map(drop));
        note(state.get::<Vec<Plan>>("value").map(drop));
        note(state.to_map().map(drop));
        note(state.keys().map(|all| all.for_each(|key| drop(key.to_string()))));
        note(state.snapshot().map(|snapshot| assert!(snapshot != nested_map())));
        note(state.updates_since(state.seq().unwrap() - 1).next().unwrap().map(drop));
        note(state.remove("value").map(drop));
        namespace
            .begin(deadline)
            .and_then(|mut tx| tx.clear().and_then(|()| tx.commit()))
            .unwrap();
    }
    assert!(
        wrong > rounds,
        "only {wrong} of {rounds} rounds of garbage were noticed"
    );
}

fn garble(tag: &mut u16, bytes: &mut Vec<u8>, seeds: &[(u16, Vec<u8>)], random: &mut Random) {
    let at = random.below(bytes.len() as u64) as usize;
    let other = &seeds[random.below(seeds.len() as u64) as usize].1;
    match random.below(8) {
        0 => *tag = [0, 1, 2, 5, 7, 9, 10, 11, 255, 256, 65535][random.below(11) as usize],
        1 => bytes.truncate(at),
        2 => bytes.extend_from_slice(&other[..other.len().min(40)]),
        3 => {
            let len = [0, 1, 0x7fff_ffff, u32::MAX, bytes.len() as u32][random.below(5) as usize];
            let from = at.min(bytes.len().saturating_sub(4));
            bytes.splice(from..(from + 4).min(bytes.len()), len.to_le_bytes());
        }
        4 => bytes.insert(at, random.next() as u8),
        _ => {
            if let Some(byte) = bytes.get_mut(at) {
                *byte = match random.below(3) {
                    0 => *byte ^ 1 << random.below(8),
                    1 => random.below(12) as u8,
                    _ => random.next() as u8,
                };
            }
        }
    }
}

/// A watcher had taken note of updates, and then the number of the newest one was set back. It found the next update in
/// the log, could not pin what does not exist, and looked again: for ever, whatever its deadline.
#[test]
fn a_watcher_ends_when_commits_disappear() {
    // SAFETY: a plain request to the kernel: SIGALRM, which nobody handles, ends this test if it hangs.
    unsafe { libc::alarm(60) };
    let image = image();
    let seq = image.find("a.control.seq").unwrap().at as u64;
    let file = File::from(memfd_create("damaged", MFdFlags::MFD_CLOEXEC).unwrap());
    file.set_len(image.capacity).unwrap();
    file.write_all_at(&image.bytes, 0).unwrap();
    let state = builder().from_fd(file.try_clone().unwrap().into()).unwrap();
    let other = state.fork().open().unwrap();
    for number in 0..3 {
        other.insert("int", number).unwrap();
    }
    let calls = Cell::new(0);
    let watch = state.watch().timeout(Duration::from_millis(50));
    let result = watch.get_when(|snapshot| {
        calls.set(calls.get() + 1);
        if calls.get() == 2 {
            file.write_all_at(&1u64.to_le_bytes(), seq).unwrap();
        }
        snapshot.contains_key("never")
    });
    // SAFETY: as above; the other tests take their time.
    unsafe { libc::alarm(0) };
    assert!(calls.get() >= 2, "the updates in between were looked at");
    assert!(
        matches!(result, Err(Error::Corrupt { .. })),
        "{:?}",
        result.map(|snapshot| snapshot.seq())
    );
}
