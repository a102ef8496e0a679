//! Everything that the engine can be asked to do, done to a damaged arena.
//!
//! The damage is there before the arena is opened; or it happens after, to a process that has resolved pointers, places,
//! a pin and a seat; or inside of a transaction. Errors are what is expected. A panic, a signal or an endless loop ends
//! the process, and whoever started it notices.

use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use nix::sys::memfd::{MFdFlags, memfd_create};
use shm_state::{Arena, Deadline, Error, Filter, FixedSize, KeyRef, Namespace, On, Result, ShortRoom, Strategy};

use super::layout::Image;
use super::mutate::{Case, differences};
use crate::common::key;
use crate::common::model::{self, Change, put, remove};

/// What a process may take for a damaged arena of a few megabytes, beyond what a healthy one needs.
const MOST_GROWTH: u64 = 6 << 20;

/// What went wrong, as errors. How many there are says whether the damage was noticed.
#[derive(Default)]
pub struct Errors(Vec<Error>);

impl Errors {
    fn note<T>(&mut self, result: Result<T>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(error) => {
                assert!(!error.to_string().is_empty());
                self.0.push(error);
                None
            }
        }
    }

    /// A writer that waits until its deadline once does so every time.
    fn is_locked(&self) -> bool {
        let locked = |error: &Error| matches!(error, Error::LockTimeout { .. } | Error::Deadlock);
        self.0.iter().any(locked)
    }
}

fn soon() -> Deadline {
    Deadline::after(Duration::from_millis(10))
}

/// Damages a copy of the image and uses it. Returns how many errors that gave.
pub fn run(clean: &Image, case: &Case) -> usize {
    let mut damaged = clean.clone();
    case.apply(&mut damaged);
    let patch = differences(clean, &damaged);
    let file = File::from(memfd_create("damaged", MFdFlags::MFD_CLOEXEC).unwrap());
    file.set_len(clean.capacity).unwrap();
    let setting = case.setting("use");
    let when = setting.first().copied().unwrap_or("before");
    let writers_first = setting.get(1) == Some(&"writers");
    let mut errors = Errors::default();
    let result = if when == "before" {
        file.write_all_at(&damaged.bytes, 0).unwrap();
        use_all(file.try_clone().unwrap(), writers_first, &mut errors)
    } else {
        file.write_all_at(&clean.bytes, 0).unwrap();
        let strike = || {
            for (at, word) in &patch {
                file.write_all_at(&word.to_le_bytes(), *at as u64).unwrap();
            }
        };
        use_while(
            file.try_clone().unwrap(),
            when == "inside",
            writers_first,
            strike,
            &mut errors,
        )
    };
    errors.note(result);
    check_bystanders(clean, &damaged, &patch, &file);
    errors.0.len()
}

/// Damage of one structure must not spread to what others rely on: the tables, and the machine's memory.
fn check_bystanders(clean: &Image, damaged: &Image, patch: &[(usize, u64)], file: &File) {
    let hit = |from: usize, to: usize| patch.iter().any(|(at, _)| (from..to).contains(at));
    let chunk_map = 292 * 1024..292 * 1024 + clean.capacity as usize / (64 * 1024) * 8;
    // An arena whose chunks all seem to be taken, or all to be backed, may grow up to its capacity, as it always may.
    let taken = file.metadata().unwrap().blocks() * 512;
    assert!(
        hit(chunk_map.start, chunk_map.end) || hit(128, 136) || taken <= clean.bytes.len() as u64 + MOST_GROWTH,
        "the arena took {taken} bytes of memory"
    );
    let mut now = vec![0; chunk_map.start];
    file.read_exact_at(&mut now, 0).unwrap();
    let word = |at: usize| u64::from_le_bytes(now[at..at + 8].try_into().unwrap());
    assert_eq!(now[..80], damaged.bytes[..80], "the head of the superblock was written");
    let committed = word(128);
    assert!(
        hit(128, 136) || committed >= clean.word(128) && committed.is_multiple_of(1024) && committed <= taken / 64,
        "{committed} granules are said to be backed"
    );
    assert!(hit(192, 256) || word(192) == 0, "the directory lock was written");
    assert!(
        hit(4096 + 16 * 64, 260 * 1024)
            || hit(152, 160)
            || now[4096 + 16 * 64..260 * 1024].iter().all(|byte| *byte == 0),
        "the participants were written"
    );
    let directory = 260 * 1024..260 * 1024 + clean.word(144) as usize * 8;
    assert!(
        hit(144, 152) || now[directory.clone()] == damaged.bytes[directory],
        "the directory was written"
    );
}

fn use_all(file: File, writers_first: bool, errors: &mut Errors) -> Result<()> {
    let arena = Arena::from_fd(file.into())?;
    errors.note(arena.namespaces());
    try_locks(&arena, errors);
    for name in ["a", "b"] {
        if let Some(namespace) = errors.note(arena.namespace(name)) {
            use_namespace(&namespace, writers_first, errors);
            verify(&arena, errors);
        }
    }
    use_arena(&arena, errors);
    Ok(())
}

fn use_while(file: File, inside: bool, writers_first: bool, strike: impl Fn(), errors: &mut Errors) -> Result<()> {
    let arena = Arena::from_fd(file.into())?;
    let (namespace, other) = (arena.namespace("a")?, arena.namespace("b")?);
    let text = key("key 1");
    let (place, at) = (namespace.place(&text)?, namespace.locate(&text)?);
    let pinned = namespace.pin()?;
    namespace.publish_cursor(namespace.seq());
    errors.note(namespace.put(&text, at, 1, b"before", soon()));
    if inside {
        let mut tx = namespace.begin(soon())?;
        for number in 0..5 {
            errors.note(tx.put(&key(&format!("key {number}")), 1, &[7; 30]));
            errors.note(tx.put(&key(&format!("inside {number}")), 1, b"short"));
        }
        strike();
        errors.note(tx.remove(&key("key 2")));
        errors.note(tx.pop_last());
        errors.note(tx.put(&key("key 4"), 1, &[8; 3000]));
        errors.note(tx.get(&key("key 5")));
        errors.note(tx.get_with(&key("key 4"), |_, bytes| bytes.len()));
        errors.note(tx.entries());
        tx.rearm();
        errors.note(tx.commit());
    } else {
        strike();
    }
    try_locks(&arena, errors);
    errors.note(Ok(place.map(|place| place.peek(|_, _| ()))));
    errors.note(namespace.put(&text, at, 1, b"after", soon()));
    errors.note(pinned.get(&text));
    errors.note(pinned.contains(&text));
    errors.note(pinned.iter().and_then(|all| all.collect::<Result<Vec<_>>>()));
    errors.note(pinned.len());
    drop(pinned);
    use_namespace(&namespace, writers_first, errors);
    verify(&arena, errors);
    use_namespace(&other, writers_first, errors);
    use_arena(&arena, errors);
    Ok(())
}

/// Whether the writer locks can be had. `verify` and `stats` have the patience to wait ten seconds for each.
fn try_locks(arena: &Arena, errors: &mut Errors) {
    for name in ["a", "b", "c"] {
        let namespace = errors.note(arena.namespace(name));
        namespace.map(|namespace| errors.note(namespace.begin(soon()).map(drop)));
    }
}

fn use_namespace(namespace: &Namespace, writers_first: bool, errors: &mut Errors) {
    if !writers_first {
        read(namespace, errors);
        watch(namespace, errors);
    }
    write(namespace, errors);
    if writers_first {
        read(namespace, errors);
    }
    watch(namespace, errors);
    errors.note(namespace.fork().and_then(|fork| fork.len()));
}

fn verify(arena: &Arena, errors: &mut Errors) {
    if let Some(report) = (!errors.is_locked()).then(|| errors.note(arena.verify())).flatten()
        && !report.is_clean()
    {
        let what = report.problems.join("; ");
        errors.note::<()>(Err(Error::Corrupt { what }));
    }
}

fn use_arena(arena: &Arena, errors: &mut Errors) {
    errors.note(arena.status());
    if errors.is_locked() {
        return;
    }
    errors.note(arena.stats());
    errors.note(arena.reap());
    for name in ["new", "newer"] {
        let namespace = errors.note(arena.namespace(name));
        namespace.map(|namespace| errors.note(model::commit(&namespace, &[put("key", 20)], soon())));
    }
}

pub fn read(namespace: &Namespace, errors: &mut Errors) {
    let numbers = [0, 1, 2, 5, 11, 15, 19, 30, 39, 77];
    let texts = numbers
        .iter()
        .flat_map(|n| [format!("key {n}"), format!("a longer key than fits into a line {n}")]);
    for text in texts.chain(["large".into(), "larger".into()]) {
        let key = key(&text);
        errors.note(namespace.get(&key));
        errors.note(namespace.get_with(&key, |tag, bytes| (tag, bytes.len())));
        namespace
            .peek(&key)
            .map(|small| small.map(|small| small.with(|_, bytes| bytes.len())));
        namespace.peek_short(&key, |_, bytes| bytes.to_vec());
        for len in [8, 20, 30, 300] {
            let size = FixedSize { len, head: len };
            let _ = namespace.peek_exactly(&key, size, &mut ShortRoom::new());
        }
        errors.note(namespace.contains(&key));
        if let Some(Some(place)) = errors.note(namespace.place(&key)) {
            place.peek(|_, _| ());
            place.peek_short(|_, bytes| bytes.to_vec());
            errors.note(namespace.get_at(&place, |_, bytes| bytes.len()));
        }
    }
    errors.note(namespace.len());
    let (floor, seq) = (namespace.floor(), namespace.seq());
    for at in [floor, floor.wrapping_add(1), seq.wrapping_sub(1), seq] {
        if let Some(Some(pinned)) = errors.note(namespace.pin_at(at)) {
            errors.note(pinned.iter().and_then(|all| all.rev().collect::<Result<Vec<_>>>()));
            errors.note(pinned.get(&key("key 3")));
            errors.note(pinned.get_with(&key("large"), |_, bytes| bytes.len()));
            let seen = pinned
                .in_place(&key("large"))
                .map(|place| place.map(|place| place.bytes().to_vec()));
            errors.note(seen);
            drop(
                pinned
                    .in_place_at_hand(&key("key 3"))
                    .ok()
                    .flatten()
                    .map(|place| place.bytes().to_vec()),
            );
            errors.note(pinned.len());
        }
    }
    // More than there are seats in the control block, so that the others are looked for. Without the lock that takes long.
    let pins = if errors.is_locked() { 20 } else { 70 };
    let pins: Vec<_> = (0..pins).map_while(|_| errors.note(namespace.pin())).collect();
    errors.note(pins.last().map_or(Ok(0), |pinned| pinned.len()));
}

pub fn watch(namespace: &Namespace, errors: &mut Errors) {
    let seq = namespace.seq();
    let keys = [key("key 3").to_owned(), key("nothing").to_owned()];
    for filter in [Filter::Any, Filter::Keys(&keys), Filter::Except(&keys)] {
        let mut cursor = seq.saturating_sub(30);
        for _ in 0..8 {
            errors.note(namespace.next_match(&mut cursor, seq, filter, false, None));
        }
        errors.note(namespace.next_match(&mut 0, u64::MAX, filter, true, Some(1)));
    }
    for seq in (seq.saturating_sub(12)..=seq).chain([0, 1, u64::MAX]) {
        if let Some(Some(record)) = errors.note(namespace.record(seq)) {
            namespace.writer_name(&record);
            errors.note(namespace.changed_keys(&record));
        }
    }
    namespace.publish_cursor(seq);
    namespace.lock_holder();
    let cancel = AtomicBool::new(false);
    let hashes = [keys[0].as_ref().hash(), keys[1].as_ref().hash()];
    for on in [On::Any, On::Keys(&hashes[..1]), On::Keys(&hashes)] {
        for strategy in [Strategy::Block, Strategy::Spin] {
            let until = Deadline::after(Duration::from_micros(300));
            errors.note(namespace.wait::<()>(on, strategy, until, &cancel, |_| Ok(None)));
        }
    }
    namespace.wake_all();
}

pub fn write(namespace: &Namespace, errors: &mut Errors) {
    for number in 0..10 {
        let text = format!("key {number}");
        let at = errors.note(namespace.locate(&key(&text))).flatten();
        errors.note(namespace.put(
            &KeyRef::new(0, text.as_bytes()),
            at,
            1,
            &[number; 9][..number as usize],
            soon(),
        ));
        if number < 4 && errors.is_locked() {
            return;
        }
    }
    for number in 0..6 {
        let change = |change: Vec<Change>| model::commit(namespace, &change, soon());
        errors.note(change(vec![put(format!("key {number}"), 10 * number)]));
        errors.note(change(vec![remove(format!("key {}", 20 + number))]));
        errors.note(change(vec![put(format!("new {number}"), 300), Change::Pop]));
        errors.note(change(vec![
            put(format!("new {number}"), 300),
            remove(format!("new {number}")),
        ]));
        errors.note(change(vec![
            put("large", 9000 * number),
            Change::Pop,
            put("larger", 200),
        ]));
    }
    errors.note(namespace.begin(soon()).and_then(|mut tx| {
        tx.put(&key("aborted"), 1, &[1; 5000])?;
        tx.get(&key("key 1"))?;
        tx.contains(&key("nothing"))?;
        tx.entries().map(|_| tx.len())
    }));
    let many: Vec<Change> = (0..130).map(|n| put(format!("many {n}"), n)).collect();
    errors.note(model::commit(namespace, &many, soon()));
    let fewer: Vec<Change> = (0..60).map(|n| remove(format!("many {n}"))).collect();
    errors.note(model::commit(namespace, &fewer, soon()));
    errors.note(model::commit(namespace, &[Change::Clear, put("only", 70_000)], soon()));
    errors.note(model::commit(namespace, &[put("key 1", 3)], soon()));
}
