//! Corrupt bytes: an error, or a wrong value, but never a panic, a crash or an endless loop.

mod common;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use common::model::{self, Change, put, remove};
use common::{Random, key, number_from_env};
use nix::sys::memfd::{MFdFlags, memfd_create};
use shm_state::{Arena, ArenaOptions, Deadline, Error, Filter, History, On, Result, Strategy};

const CAPACITY: u64 = 1 << 20;

/// The bytes of an arena with a bit of everything in it.
fn image() -> Vec<u8> {
    let history = History {
        count: 8,
        bytes: 1 << 20,
    };
    let arena = Arena::anonymous(&ArenaOptions {
        capacity: CAPACITY,
        history,
    })
    .unwrap();
    let namespace = arena.namespace("n").unwrap();
    let commit = |changes: &[Change]| {
        model::commit(&namespace, changes, Deadline::never()).unwrap();
    };
    for number in 0..40 {
        commit(&[put(format!("key {number}"), number % 20)]);
    }
    commit(&(0..20).map(|n| put(format!("key {n}"), n)).collect::<Vec<_>>());
    for number in 10..20 {
        commit(&[
            remove(format!("key {number}")),
            put(format!("a longer key than fits into a line {number}"), 70),
        ]);
    }
    let mut image = vec![0; arena.stats().unwrap().committed as usize];
    File::from(arena.fd().unwrap().try_clone_to_owned().unwrap())
        .read_exact_at(&mut image, 0)
        .unwrap();
    image
}

/// Changes some words in the way that a stray write would.
fn damage(image: &mut [u8], used: &[usize], random: &mut Random) {
    for _ in 0..=random.below(4) {
        let at = used[random.below(used.len() as u64) as usize];
        let word: &mut [u8; 8] = (&mut image[at..at + 8]).try_into().unwrap();
        let old = u64::from_le_bytes(*word);
        let new = match random.below(6) {
            0 => old ^ 1 << random.below(64),
            1 => random.next(),
            2 => u64::MAX,
            3 => old.wrapping_add(1),
            4 => old & 0xffff_ffff | random.next() << 32,
            _ => 0,
        };
        *word = new.to_le_bytes();
    }
}

#[test]
fn damage_is_an_error_and_never_a_crash_or_an_endless_loop() {
    // SAFETY: a plain request to the kernel: SIGALRM, which nobody handles, ends this test if it hangs.
    unsafe { libc::alarm(300) };
    let image = image();
    // Behind the superblock, which has a checksum; and not the locks and slots of processes at the head.
    let used: Vec<usize> = (164 * 1024..image.len() - 8)
        .step_by(8)
        .filter(|at| image[*at..at + 8] != [0; 8])
        .collect();
    let rounds = number_from_env("ZPROC_DAMAGE_ROUNDS").unwrap_or(3000);
    let seed = number_from_env("ZPROC_DAMAGE_SEED").unwrap_or(u64::from(std::process::id()));
    let mut noticed = 0;
    for round in 0..rounds {
        let mut damaged = image.clone();
        let mut random = Random::new(seed.wrapping_add(round));
        damage(&mut damaged, &used, &mut random);
        let again = format!("ZPROC_DAMAGE_SEED={} ZPROC_DAMAGE_ROUNDS=1", seed.wrapping_add(round));
        let result = std::panic::catch_unwind(|| use_all_of(&damaged));
        let problems = result.unwrap_or_else(|_| panic!("panicked: {again}"));
        noticed += u64::from(problems > 0);
    }
    assert!(
        noticed * 10 > rounds || rounds < 100,
        "only {noticed} of {rounds} were noticed, ZPROC_DAMAGE_SEED={seed}"
    );
}

/// Opens an arena of these bytes and does everything with it. Returns how many errors there were.
fn use_all_of(image: &[u8]) -> usize {
    let file = File::from(memfd_create("image", MFdFlags::MFD_CLOEXEC).unwrap());
    file.set_len(CAPACITY).unwrap();
    file.write_all_at(image, 0).unwrap();
    let mut errors = Vec::new();
    if let Err(error) = use_arena(file, &mut errors) {
        errors.push(error);
    }
    for error in &errors {
        assert!(!error.to_string().is_empty());
    }
    errors.len()
}

fn use_arena(file: File, errors: &mut Vec<Error>) -> Result<()> {
    let arena = Arena::from_fd(file.into())?;
    let namespace = arena.namespace("n")?;
    let mut note = |result: Result<()>| errors.extend(result.err());
    let soon = || Deadline::after(Duration::from_millis(10));
    for number in 0..25 {
        note(namespace.get(&key(&format!("key {number}"))).map(drop));
        let place = namespace.place(&key(&format!("key {number}")));
        note(place.map(|place| {
            place.map(|place| place.peek(|_, _| ()));
        }));
    }
    note(namespace.len().map(drop));
    let snapshot = namespace.pin().and_then(|pinned| {
        pinned.len()?;
        pinned.iter()?.rev().collect::<Result<Vec<_>>>()?;
        Ok(())
    });
    note(snapshot);
    let mut cursor = namespace.seq().saturating_sub(30);
    let until = namespace.seq().min(cursor.saturating_add(60));
    let keys = [key("key 3").to_owned()];
    for filter in [Filter::Any, Filter::Keys(&keys), Filter::Except(&keys)] {
        note(namespace.next_match(&mut cursor, until, filter, true, None).map(drop));
    }
    for seq in until.saturating_sub(8)..=until {
        note(namespace.record(seq).and_then(|record| match record {
            Some(record) => namespace.changed_keys(&record).map(drop),
            None => Ok(()),
        }));
    }
    let cancel = AtomicBool::new(false);
    note(
        namespace
            .wait(On::Any, Strategy::Block, soon(), &cancel, |_| Ok(Some(())))
            .map(drop),
    );
    for number in 0..12 {
        note(model::commit(&namespace, &[put(format!("key {number}"), number)], soon()).map(drop));
        note(model::commit(&namespace, &[remove(format!("key {}", 20 + number))], soon()).map(drop));
        note(model::commit(&namespace, &[put(format!("new {number}"), 300), Change::Pop], soon()).map(drop));
    }
    note(
        model::commit(
            &namespace,
            &(0..70).map(|n| put(format!("many {n}"), n)).collect::<Vec<_>>(),
            soon(),
        )
        .map(drop),
    );
    note(model::commit(&namespace, &[Change::Clear], soon()).map(drop));
    match arena.verify() {
        Ok(report) if report.is_clean() => {}
        Ok(report) => note(Err(Error::Corrupt {
            what: report.problems.join("; "),
        })),
        Err(error) => note(Err(error)),
    }
    note(arena.stats().map(drop));
    Ok(())
}
