//! Views: values where they lie, checked once, and never taken for what they are not.

use std::cell::Cell;

use common::process::fork;
use rkyv::{Archive, Deserialize, Serialize};
use shm_state::{Arena, Deadline, KeyRef, Namespace};
use zproc::{Builder, Error, Result, Snapshot, State, ToValue, archived, tag};

#[path = "../../shm-state/tests/common/mod.rs"]
mod common;
mod support;
use support::Served;

#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq)]
struct Scan {
    angle: f32,
    distances: Vec<f32>,
    note: String,
}
archived!(Scan as "robot.Scan");

fn scan(len: usize) -> Scan {
    Scan {
        angle: len as f32,
        distances: (0..len).map(|n| n as f32).collect(),
        note: format!("{len} distances"),
    }
}

#[track_caller]
fn assert_shows(snapshot: &Snapshot<'_>, key: &str, expected: &Scan) -> usize {
    let view = snapshot.view::<Scan>(key).unwrap().expect("it is there");
    assert_eq!(view.angle, expected.angle);
    assert_eq!(view.note, expected.note);
    assert!(
        view.distances
            .iter()
            .map(|n| n.to_native())
            .eq(expected.distances.iter().copied())
    );
    std::ptr::from_ref(zproc::View::into_ref(view)).addr()
}

/// A state, and the engine's view of it.
fn with_engine() -> (State, Namespace) {
    let state = Builder::anonymous()
        .capacity(4 << 20)
        .history(2, 1 << 16)
        .create()
        .served()
        .unwrap();
    let namespace = Arena::from_fd(support::memory(&state))
        .unwrap()
        .namespace("default")
        .unwrap();
    (state, namespace)
}

/// Puts bytes under a key that the library would not.
fn put_raw(namespace: &Namespace, key: &str, tag: u16, bytes: &[u8]) {
    let key = KeyRef::new(tag::key::STR, key.as_bytes());
    namespace.put(&key, None, tag, bytes, Deadline::never()).unwrap();
}

#[test]
fn a_view_shows_values_of_any_length_where_they_lie() -> Result<()> {
    let state = State::anonymous().served()?;
    for len in [0, 1, 3, 100, 1000, 20_000, 1_000_000] {
        state.insert("scan", scan(len))?;
        let snapshot = state.snapshot()?;
        let first = assert_shows(&snapshot, "scan", &scan(len));
        assert_eq!(assert_shows(&snapshot, "scan", &scan(len)), first, "nothing was copied");
        let other = std::thread::scope(|scope| {
            let shown = scope.spawn(|| assert_shows(&snapshot, "scan", &scan(len)));
            shown.join().unwrap()
        });
        assert_eq!(other, first);
        assert!(snapshot.view::<Scan>("other")?.is_none());
    }
    Ok(())
}

/// Over a socket what is shown lies in the snapshot, which must neither move nor lose it while more is looked at.
#[test]
fn views_of_many_keys_by_several_threads_stay() -> Result<()> {
    let state = State::anonymous().served()?;
    state.extend((0..300).map(|n| (n, format!("the text of number {n}"))))?;
    state.insert("scan", scan(1000))?;
    let snapshot = state.snapshot()?;
    state.replace_all([(0, "another")])?;
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let first = snapshot.view::<Scan>("scan").unwrap().expect("it is there");
                let views: Vec<_> = (0..300).map(|n| snapshot.view::<str>(n).unwrap()).collect();
                for (n, view) in views.iter().enumerate() {
                    assert_eq!(view.as_deref(), Some(&*format!("the text of number {n}")));
                    let again = snapshot.view::<str>(n).unwrap();
                    assert_eq!(again.map(|text| text.as_ptr()), view.map(|text| text.as_ptr()));
                }
                assert_eq!((first.distances.len(), first.note.as_str()), (1000, "1000 distances"));
                assert!(snapshot.view::<str>("absent").unwrap().is_none());
                assert!(matches!(
                    snapshot.view::<[u8]>(0).map(drop),
                    Err(Error::WrongType { .. })
                ));
            });
        }
    });
    Ok(())
}

#[test]
fn a_view_stays_while_others_write() -> Result<()> {
    // Little memory and a short history, so that everything that is not pinned is recycled at once.
    let state = Builder::anonymous()
        .capacity(2 << 20)
        .history(1, 1 << 12)
        .create()
        .served()?;
    state.insert("scan", scan(500))?;
    state.insert("gone", scan(300))?;
    let snapshot = state.snapshot()?;
    let view = snapshot.view::<Scan>("scan")?.expect("it is there");
    state.remove("gone")?;
    for round in 0..500 {
        state.insert("scan", scan(round % 7 * 100))?;
        state.insert(("other", round % 20), scan(200))?;
        if round % 50 == 0 {
            state.clear()?;
        }
    }
    assert!(view.distances.iter().map(|n| n.to_native()).eq(scan(500).distances));
    assert_shows(&snapshot, "gone", &scan(300));
    drop(snapshot);
    for round in 0..50 {
        state.insert("scan", scan(round))?;
        assert_shows(&state.snapshot()?, "scan", &scan(round));
    }
    assert!(support::is_clean(&state));
    Ok(())
}

#[test]
fn text_and_bytes_are_shown() -> Result<()> {
    let state = State::anonymous().served()?;
    let (text, bytes) = ("é, and more. ".repeat(2000), vec![0xffu8; 100_000]);
    state.insert("long", &text)?;
    state.insert("short", "é")?;
    state.insert("empty", "")?;
    state.insert("bytes", &bytes)?;
    state.insert("few", b"\xff")?;
    let snapshot = state.snapshot()?;
    for _ in 0..2 {
        assert_eq!(snapshot.view::<str>("long")?.as_deref(), Some(text.as_str()));
        assert_eq!(snapshot.view::<str>("short")?.as_deref(), Some("é"));
        assert_eq!(snapshot.view::<str>("empty")?.as_deref(), Some(""));
        assert_eq!(snapshot.view::<[u8]>("bytes")?.as_deref(), Some(&bytes[..]));
        assert_eq!(snapshot.view::<[u8]>("few")?.as_deref(), Some(&b"\xff"[..]));
    }
    let first = snapshot.view::<str>("long")?.map(|text| text.as_ptr());
    assert_eq!(snapshot.view::<str>("long")?.map(|text| text.as_ptr()), first);
    Ok(())
}

#[test]
fn values_are_aligned_as_their_types_ask_for() -> Result<()> {
    #[derive(Archive, Serialize, Deserialize)]
    #[rkyv(attr(repr(C, align(64))))]
    struct Line([u8; 64]);
    archived!(Line);
    #[derive(Archive, Serialize, Deserialize)]
    struct Wide {
        lines: Vec<Line>,
        numbers: Vec<u128>,
        odd: u8,
    }
    archived!(Wide);
    let state = State::anonymous().served()?;
    for len in [1usize, 5, 100] {
        let wide = || Wide {
            lines: (0..len).map(|n| Line([n as u8; 64])).collect(),
            numbers: (0..len as u128).collect(),
            odd: 3,
        };
        state.insert(("wide", len), wide())?;
        state.insert("line", Line([5; 64]))?;
        let snapshot = state.snapshot()?;
        let shown = snapshot.view::<Wide>(("wide", len))?.expect("it is there");
        assert_eq!((shown.lines.len(), shown.numbers.len(), shown.odd), (len, len, 3));
        assert!(shown.lines.as_ptr().addr().is_multiple_of(64));
        let read = state.get::<Wide>(("wide", len))?.expect("it is there");
        assert_eq!(
            (read.lines[len - 1].0[0], read.numbers[len - 1]),
            (len as u8 - 1, len as u128 - 1)
        );
        assert!(snapshot.view::<Line>("line")?.is_some_and(|line| line.0 == [5; 64]));
        assert!(snapshot.get::<Line>("line")?.is_some_and(|line| line.0 == [5; 64]));
    }
    Ok(())
}

thread_local! {
    static CHECKS: Cell<usize> = const { Cell::new(0) };
}

/// Counts how often it is checked.
#[derive(Archive, Serialize, Deserialize)]
#[rkyv(bytecheck(verify))]
struct Counted {
    number: u32,
}
archived!(Counted);

// SAFETY: any number is valid; it only takes note.
unsafe impl<C: rkyv::rancor::Fallible + ?Sized> rkyv::bytecheck::Verify<C> for ArchivedCounted {
    fn verify(&self, _: &mut C) -> std::result::Result<(), C::Error> {
        CHECKS.set(CHECKS.get() + 1);
        Ok(())
    }
}

#[test]
fn a_version_is_checked_once_and_each_new_one_again() -> Result<()> {
    if support::is_over_socket() {
        return Ok(()); // each snapshot fetches it anew, and nothing says that it is the same
    }
    let state = State::anonymous().served()?;
    let shown = |key: &str| -> Result<Option<u32>> {
        let snapshot = state.snapshot()?;
        let view = snapshot.view::<Counted>(key)?;
        Ok(view.map(|view| view.number.to_native()))
    };
    state.insert("a", Counted { number: 1 })?;
    state.insert("b", Counted { number: 2 })?;
    for _ in 0..10 {
        assert_eq!((shown("a")?, shown("b")?), (Some(1), Some(2)));
    }
    assert_eq!(CHECKS.get(), 2, "once each");
    for number in 10..20 {
        state.insert("a", Counted { number })?;
        assert_eq!((shown("a")?, shown("a")?), (Some(number), Some(number)));
    }
    assert_eq!(CHECKS.get(), 12);
    state.remove("a")?;
    assert_eq!(shown("a")?, None);
    state.insert("a", Counted { number: 30 })?;
    assert_eq!((shown("a")?, shown("a")?, CHECKS.get()), (Some(30), Some(30), 13));
    // More versions than a thread remembers.
    for number in 0..10_000 {
        state.insert("a", Counted { number })?;
        assert_eq!(shown("a")?, Some(number));
    }
    assert_eq!((shown("b")?, shown("b")?), (Some(2), Some(2)));
    assert!(CHECKS.get() <= 10_013 + 2);
    let checked = CHECKS.get();
    std::thread::scope(|scope| scope.spawn(|| assert_eq!(shown("b").unwrap(), Some(2))).join().unwrap());
    assert_eq!(CHECKS.get(), checked, "the other thread counts for itself");
    Ok(())
}

/// Two types that the fingerprint cannot tell apart; not all that is valid for one is for the other.
mod alike {
    #[derive(rkyv::Archive, rkyv::Serialize, rkyv::Deserialize, Debug)]
    pub struct Byte(pub u8);
    zproc::archived!(Byte as "alike");

    #[derive(rkyv::Archive, rkyv::Serialize, rkyv::Deserialize, Debug)]
    pub struct Bool(pub bool);
    zproc::archived!(Bool as "alike");
}

#[test]
fn what_was_checked_for_one_type_is_checked_again_for_another() -> Result<()> {
    let state = State::anonymous().served()?;
    state.insert("two", alike::Byte(2))?;
    state.insert("one", alike::Byte(1))?;
    let snapshot = state.snapshot()?;
    for _ in 0..3 {
        assert_eq!(snapshot.view::<alike::Byte>("two")?.map(|byte| byte.0), Some(2));
        let error = snapshot.view::<alike::Bool>("two").map(drop).unwrap_err();
        assert!(error.to_string().contains("damaged alike (rkyv)"), "{error}");
        assert!(state.get::<alike::Bool>("two").is_err());
        assert_eq!(snapshot.view::<alike::Bool>("one")?.map(|bool| bool.0), Some(true));
    }
    Ok(())
}

#[test]
fn damaged_bytes_are_refused_again_and_again() {
    let (state, namespace) = with_engine();
    let good = scan(10).with_encoded(|encoded| encoded.bytes().to_vec()).unwrap();
    state.insert("scan", scan(10)).unwrap();
    assert_shows(&state.snapshot().unwrap(), "scan", &scan(10));
    // The length of the vector, which stands behind the pointer near the end of the archive.
    let length = good.len() - "robot.Scan".len() - 12;
    let mut bad = good.clone();
    bad[length..length + 4].copy_from_slice(&1_000_000u32.to_le_bytes());
    assert_ne!(bad, good);
    put_raw(&namespace, "scan", tag::ARCHIVED, &bad);
    put_raw(
        &namespace,
        "text",
        tag::STR,
        b"no text: \xff, and long enough not to be small",
    );
    let snapshot = state.snapshot().unwrap();
    for _ in 0..3 {
        let error = snapshot.view::<Scan>("scan").map(drop).unwrap_err();
        assert!(error.to_string().contains("damaged robot.Scan (rkyv)"), "{error}");
        assert!(snapshot.get::<Scan>("scan").is_err());
        assert!(snapshot.view::<str>("text").is_err());
    }
    put_raw(&namespace, "scan", tag::ARCHIVED, &good);
    assert_shows(&state.snapshot().unwrap(), "scan", &scan(10));
}

/// The first value of a state lies at the same place and is made by the same update as that of any other.
#[test]
fn what_was_checked_in_one_state_is_checked_again_in_the_next() {
    let good = alike::Bool(true)
        .with_encoded(|encoded| encoded.bytes().to_vec())
        .unwrap();
    let mut bad = good.clone();
    bad[16] = 2;
    for round in 0..20 {
        let (state, namespace) = with_engine();
        put_raw(
            &namespace,
            "bool",
            tag::ARCHIVED,
            if round % 2 == 0 { &good } else { &bad },
        );
        let snapshot = state.snapshot().unwrap();
        for _ in 0..2 {
            assert_eq!(snapshot.view::<alike::Bool>("bool").is_ok(), round % 2 == 0);
        }
    }
}

#[test]
fn a_forked_child_gets_no_view() {
    let state = State::anonymous().served().unwrap();
    state.insert("scan", scan(10)).unwrap();
    let snapshot = state.snapshot().unwrap();
    assert_shows(&snapshot, "scan", &scan(10));
    let signal = fork(|| {
        let forked = snapshot.view::<Scan>("scan").map(drop);
        assert!(matches!(forked, Err(Error::Forked)), "{forked:?}");
    });
    assert_eq!(signal, None);
}

/// Pointers in pointers, deeper than any reader follows.
#[test]
fn deep_archives_are_refused_and_not_followed() -> Result<()> {
    #[derive(Archive, Serialize, Deserialize)]
    #[rkyv(
        serialize_bounds(__S: rkyv::ser::Writer + rkyv::ser::Allocator, __S::Error: rkyv::rancor::Source),
        deserialize_bounds(__D::Error: rkyv::rancor::Source),
        bytecheck(bounds(__C: rkyv::validation::ArchiveContext, __C::Error: rkyv::rancor::Source))
    )]
    struct Chain {
        #[rkyv(omit_bounds)]
        next: Option<Box<Chain>>,
    }
    archived!(Chain);
    let chain = |len: usize| {
        (0..len).fold(Chain { next: None }, |next, _| Chain {
            next: Some(Box::new(next)),
        })
    };
    let state = State::anonymous().served()?;
    state.insert("deep", chain(400))?;
    state.insert("too deep", chain(600))?;
    let snapshot = state.snapshot()?;
    for _ in 0..2 {
        assert!(snapshot.view::<Chain>("deep")?.is_some());
        assert!(state.get::<Chain>("deep")?.is_some());
        for error in [
            snapshot.view::<Chain>("too deep").map(drop).unwrap_err(),
            state.get::<Chain>("too deep").map(drop).unwrap_err(),
        ] {
            assert!(error.to_string().contains("more than 512 deep"), "{error}");
        }
    }
    Ok(())
}
