//! Large things: values up to 256 MiB and around the edges of granules, chunks and the arena; 2^20 keys.
//!
//! In a debug build large means less, since each word goes through a function there: `ZPROC_LIMITS=all` asks for the
//! full sizes (in a release build, please), which are the default of an optimised one.

mod common;
mod limit;

use std::ops::ControlFlow;
use std::ptr::NonNull;

use common::model::{self, Model, put};
use common::process::{Board, Kid, Role};
use common::{assert_clean, key};
use limit::words::Words;
use shm_state::{Arena, ArenaOptions, Deadline, Error, Filter, History, Key, KeyRef, Namespace, Next};

const MIB: usize = 1 << 20;
/// Bytes before the payload of a version, and of its granules.
const HEAD: usize = 48;
const GRANULE: usize = 64;
const CHUNK: usize = 64 * 1024;

fn full_size() -> bool {
    !cfg!(debug_assertions) || std::env::var("ZPROC_LIMITS").is_ok_and(|limits| limits == "all")
}

fn arena(capacity: usize, history_bytes: usize) -> Arena {
    let history = History {
        count: 8,
        bytes: history_bytes as u64,
    };
    let capacity = capacity as u64;
    Arena::anonymous(&ArenaOptions {
        capacity,
        history,
        ..ArenaOptions::default()
    })
    .unwrap()
}

fn set(namespace: &Namespace, name: &str, value: &[u8]) -> shm_state::Result<u64> {
    namespace.put(&key(name), None, 1, value, Deadline::never())
}

/// Bytes that are told from any shifted copy of themselves.
fn pattern(len: usize, salt: u64) -> Vec<u8> {
    let mut random = common::Random::new(salt);
    let words = std::iter::repeat_with(|| random.next().to_le_bytes()).take(len.div_ceil(8));
    let mut bytes: Vec<u8> = words.flatten().collect();
    bytes.truncate(len);
    bytes
}

#[test]
fn child() {
    let Some(role) = Role::of_this_process() else { return };
    let arena = role.arena();
    let namespace = arena.namespace("n").unwrap();
    match role.name.as_str() {
        "reads a large value" => {
            let pinned = namespace.pin().unwrap();
            let expected = pattern(role.number as usize, 1);
            assert!(namespace.get(&key("large")).unwrap().unwrap().bytes() == expected);
            role.board.set(0, 1);
            role.board.wait_for(1, 1);
            assert!(
                pinned.get(&key("large")).unwrap().unwrap().bytes() == expected,
                "in its snapshot"
            );
        }
        "counts keys" => {
            let pinned = namespace.pin().unwrap();
            assert_eq!(pinned.len().unwrap() as u64, role.number);
            assert_eq!(pinned.iter().unwrap().map(Result::unwrap).count() as u64, role.number);
        }
        other => panic!("no role {other}"),
    }
}

#[test]
fn a_value_of_256_mib_is_put_read_pinned_overwritten_and_removed() {
    let len = if full_size() { 256 * MIB } else { 24 * MIB };
    // Two of them and a little: the snapshot holds the first while the second is there.
    let capacity = 2 * len + 2 * MIB;
    let arena = arena(capacity, 4 * MIB);
    let namespace = arena.namespace("n").unwrap();
    let (first, second) = (pattern(len, 1), pattern(len - 5, 2));
    set(&namespace, "large", &first).unwrap();
    set(&namespace, "small", b"beside it").unwrap();
    let board = Board::new();
    let reader = Kid::start("reads a large value", len as u64, Some(&arena), &board);
    board.wait_for(0, 1);
    set(&namespace, "large", &second).unwrap();
    assert!(namespace.get(&key("large")).unwrap().unwrap().bytes() == second);
    // A third does not fit, and says how large it is and who holds the first.
    let error = set(&namespace, "large", &first).unwrap_err();
    let text = error.to_string();
    eprintln!("  {text}");
    let Error::Full {
        requested,
        free,
        capacity: most,
        ref pins,
        ..
    } = error
    else {
        panic!("{error}")
    };
    assert_eq!(requested as usize, (HEAD + len).next_multiple_of(GRANULE));
    assert!((free as usize) < 4 * MIB, "what the snapshot holds is not free: {text}");
    assert_eq!((most as usize, pins.len(), pins[0].pid), (capacity, 1, reader.pid()));
    assert!(
        text.contains(&requested.to_string()) && text.contains(&format!("process {}", reader.pid())),
        "{text}"
    );
    assert!(
        namespace.get(&key("large")).unwrap().unwrap().bytes() == second,
        "it stays readable"
    );
    assert_eq!(namespace.get(&key("small")).unwrap().unwrap().bytes(), b"beside it");
    board.set(1, 1);
    reader.succeeds();
    // With the snapshot gone there is room again, and again.
    for round in 0..3 {
        let value = if round % 2 == 0 { &first } else { &second };
        set(&namespace, "large", value).unwrap();
        assert!(namespace.get(&key("large")).unwrap().unwrap().bytes() == *value);
    }
    assert_clean(&arena);
    model::commit(&namespace, &[model::remove("large")], Deadline::never()).unwrap();
    assert_eq!(
        (namespace.len().unwrap(), namespace.get(&key("large")).unwrap()),
        (1, None)
    );
    set(&namespace, "another", &second).unwrap();
    assert_clean(&arena);
}

/// The largest value that an arena takes is found to the byte, and one byte more is an error with the sizes.
#[test]
fn the_largest_value_fits_to_the_byte() {
    let capacity = if full_size() { 256 * MIB } else { 4 * MIB };
    let fits = |len: usize| {
        let arena = arena(capacity, MIB);
        let namespace = arena.namespace("n").unwrap();
        let value = vec![7; len];
        let result = set(&namespace, "large", &value);
        assert_eq!(namespace.len().unwrap(), usize::from(result.is_ok()));
        if result.is_ok() {
            assert!(namespace.get(&key("large")).unwrap().unwrap().bytes() == value);
        }
        // Something small goes in beside it, or instead.
        set(&namespace, "small", b"small").unwrap();
        if result.is_ok() {
            assert!(namespace.get(&key("large")).unwrap().unwrap().bytes() == value);
        }
        assert_clean(&arena);
        result.err()
    };
    let (mut least, mut most) = (capacity - 8 * CHUNK, capacity);
    assert!(fits(least).is_none());
    while most - least > 1 {
        let middle = least.midpoint(most);
        match fits(middle) {
            None => least = middle,
            Some(error) => {
                let Error::Full {
                    requested,
                    capacity: all,
                    ..
                } = error
                else {
                    panic!("{error}")
                };
                assert_eq!(
                    (requested as usize, all as usize),
                    ((HEAD + middle).next_multiple_of(GRANULE), capacity)
                );
                most = middle;
            }
        }
    }
    eprintln!("  {least} bytes are the largest value in an arena of {capacity}");
    assert_eq!((HEAD + least) % GRANULE, 0, "it fills its granules");
    // Its chunks are all but those of the tables and the namespace, and what they leave of the last.
    assert!(
        capacity - least <= 7 * CHUNK + HEAD,
        "{} bytes are lost",
        capacity - least
    );
}

/// Values whose last byte is just before, at, and just behind the end of a granule, a size class, a chunk, a few chunks:
/// put, overwritten by each other, read, compared, removed.
#[test]
fn values_at_the_edges_of_granules_classes_and_chunks_are_kept_to_the_byte() {
    let arena = arena(24 * MIB, MIB);
    let namespace = arena.namespace("n").unwrap();
    let mut lens = vec![0, 1, 7, 8, 9, 15, 16, 17];
    let granules = [
        1, 2, 7, 8, 9, 10, 63, 64, 65, 80, 1022, 1023, 1024, 1025, 1279, 1280, 1281, 2047, 2048, 2049, 4096, 5000,
    ];
    lens.extend(
        granules
            .iter()
            .flat_map(|granules| (-2..=2).filter_map(move |by| (granules * GRANULE - HEAD).checked_add_signed(by))),
    );
    for (at, len) in lens.iter().enumerate() {
        let name = format!("key {}", at % 9);
        let value = pattern(*len, at as u64);
        set(&namespace, &name, &value).unwrap();
        let found = namespace.get(&key(&name)).unwrap().unwrap();
        assert!(found.bytes() == value, "{len} bytes");
        // Equal and almost equal values are told apart in their last byte.
        let seq = set(&namespace, &name, &value).unwrap();
        assert!(namespace.record(seq).unwrap().unwrap().identical, "{len} bytes");
        let mut other = value.clone();
        if let Some(last) = other.last_mut() {
            *last ^= 1;
            let seq = set(&namespace, &name, &other).unwrap();
            assert!(!namespace.record(seq).unwrap().unwrap().identical, "{len} bytes");
            assert!(namespace.get(&key(&name)).unwrap().unwrap().bytes() == other);
        }
        if at % 4 == 3 {
            model::commit(&namespace, &[model::remove(&*name)], Deadline::never()).unwrap();
        }
        if at % 20 == 0 {
            assert_clean(&arena);
        }
    }
    assert_clean(&arena);
}

/// Keys at the edges of what an entry takes, and the longest of all.
#[test]
fn keys_up_to_16_mib_are_kept_to_the_byte_and_longer_ones_refused() {
    let arena = arena(96 * MIB, MIB);
    let namespace = arena.namespace("n").unwrap();
    let mut keys: Vec<Vec<u8>> = [0, 1, 7, 8, 9, 16, 17, 23, 24, 25, 32, 87, 88, 89]
        .map(|len| pattern(len, 3))
        .into();
    keys.extend([CHUNK - 41, CHUNK - 40, CHUNK, (1 << 24) - 2, (1 << 24) - 1].map(|len| pattern(len, 3)));
    for (at, bytes) in keys.iter().enumerate() {
        namespace
            .put(&KeyRef::new(9, bytes), None, 1, &[at as u8; 20], Deadline::never())
            .unwrap();
    }
    for (at, bytes) in keys.iter().enumerate() {
        assert_eq!(
            namespace.get(&KeyRef::new(9, bytes)).unwrap().unwrap().bytes(),
            [at as u8; 20],
            "{}",
            bytes.len()
        );
    }
    let error = namespace
        .put(&KeyRef::new(9, &vec![1; 1 << 24]), None, 1, b"", Deadline::never())
        .unwrap_err();
    eprintln!("  {error}");
    assert_eq!(
        error.to_string(),
        "a key of 16777216 bytes is longer than the limit of 16777215: use a shorter one, such as a hash of it"
    );
    let found: Vec<Key> = namespace
        .pin()
        .unwrap()
        .iter()
        .unwrap()
        .map(|pair| pair.unwrap().0)
        .collect();
    assert!(found.iter().map(Key::bytes).eq(keys.iter().map(Vec::as_slice)));
    assert_clean(&arena);
}

/// No arena takes more than 128 GiB, whose granules are 2^31: the arithmetic of larger requests must not wrap.
#[test]
fn a_value_larger_than_any_arena_is_refused_with_its_size() {
    let arena = arena(4 * MIB, MIB);
    let namespace = arena.namespace("n").unwrap();
    set(&namespace, "a", b"1").unwrap();
    let most = 1usize << 39;
    // SAFETY: new memory at an address of the kernel's choice. It is never touched, so none of it exists.
    let address = unsafe {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        libc::mmap(std::ptr::null_mut(), most, libc::PROT_READ, flags, -1, 0)
    };
    assert_ne!(address, libc::MAP_FAILED, "512 GiB of address space");
    let start = NonNull::new(address.cast::<u8>()).unwrap();
    for len in [
        1 << 32,
        (1 << 37) - HEAD,
        1 << 37,
        (1 << 38) - HEAD,
        1 << 38,
        (1 << 38) + 1,
        most,
    ] {
        // SAFETY: mapped above for reading, as zeros.
        let value = unsafe { std::slice::from_raw_parts(start.as_ptr(), len) };
        let error = set(&namespace, "b", value).unwrap_err();
        let Error::Full { requested, .. } = error else {
            panic!("{error}")
        };
        assert_eq!(requested as usize, (HEAD + len).next_multiple_of(GRANULE), "{error}");
        set(&namespace, "a", b"2").unwrap();
    }
    // SAFETY: mapped above, and nobody has a reference into it any more.
    unsafe { libc::munmap(address, most) };
    assert_clean(&arena);
}

/// The last granules of an arena of the largest capacity have numbers just below 2^31, beside which one bit is free. The
/// memory before them is marked as another namespace's, and never touched.
#[test]
fn the_last_granules_of_the_largest_arena_are_used_like_any() {
    const CHUNK_MAP: u64 = 292 * 1024;
    const TABLES: u64 = CHUNK_MAP + (1 << 21) * 8;
    let capacity = 1usize << 37;
    let arena = arena(capacity, 128 * 1024);
    let words = Words::of(arena.fd().unwrap());
    let first = TABLES.div_ceil(CHUNK as u64);
    assert_eq!(words.get(128), first * 1024, "committed are the tables");
    // The last 20 chunks are free, and the very last 10 of them not had yet.
    let (last, had) = ((1 << 21) - 20, (1 << 21) - 10);
    words.fill(CHUNK_MAP + first * 8, 4001, (last - first) as usize);
    words.set(128, had * 1024);
    drop(arena);
    let arena = Arena::from_fd(words.file()).unwrap();
    let namespace = arena.namespace("n").unwrap();
    assert!(words.control(0) >= last * CHUNK as u64);
    let (mut model, mut random, mut refused) = (Model::new(), common::Random::new(37), 0);
    // Each shortage looks through the map of two million chunks.
    for round in 0..if full_size() { 2000 } else { 60 } {
        let name = format!("key {}", random.below(30));
        let change = match random.below(6) {
            0 => model::remove(name),
            1..=3 => put(name, 70_000 + random.below(60_000) as usize),
            _ => put(name, random.below(3000) as usize),
        };
        match model::commit(&namespace, std::slice::from_ref(&change), Deadline::never()) {
            Ok(seq) => {
                model::apply(&mut model, &change);
                // None if nothing was changed and the last commit gave its history up for room.
                let record = namespace.record(seq).unwrap().unwrap_or_default();
                assert!(record.changes.iter().all(|change| change.entry >= last as u32 * 1024));
            }
            Err(error) => {
                let Error::Full {
                    committed,
                    capacity: all,
                    ..
                } = error
                else {
                    panic!("{error}")
                };
                assert_eq!((committed, all), (1 << 37, 1 << 37), "round {round}");
                refused += 1;
            }
        }
        if round % 300 == 40 {
            model::check(&arena, &namespace, &model, "at the end of 128 GiB");
        }
    }
    assert!(refused > 0, "it was never full");
    for name in model.keys() {
        model::commit(&namespace, &[model::remove(name.clone())], Deadline::never()).unwrap();
    }
    set(&namespace, "all", &pattern(60_000, 5)).unwrap();
    assert!(namespace.get(&key("all")).unwrap().unwrap().bytes() == pattern(60_000, 5));
    assert_clean(&arena);
}

/// The name of key `number`, with a length that changes.
fn name_of(number: usize) -> String {
    format!("{number:>0$}", 6 + number % 20)
}

/// Inserted one by one and by thousands, read, walked, half of them removed, put back, under snapshots while the index
/// grows.
#[test]
fn a_million_keys_are_inserted_walked_removed_and_put_back() {
    let keys: usize = if full_size() { 1 << 20 } else { 1 << 15 };
    let arena = arena(2048 * MIB, 64 * MIB);
    let namespace = arena.namespace("n").unwrap();
    let mut pins = Vec::new();
    for number in 0..keys / 2 {
        if number.is_power_of_two() {
            pins.push((number, namespace.pin().unwrap()));
        }
        set(&namespace, &name_of(number), &number.to_le_bytes()).unwrap();
    }
    for some in (keys / 2..keys).collect::<Vec<_>>().chunks(1000) {
        let mut tx = namespace.begin(Deadline::never()).unwrap();
        for number in some {
            assert!(!tx.put(&key(&name_of(*number)), 1, &number.to_le_bytes()).unwrap());
        }
        tx.commit().unwrap();
    }
    let check = |expected: &dyn Fn(usize) -> bool, order: &[usize]| {
        for number in (0..keys).step_by(if keys > 1 << 18 { 7 } else { 1 }) {
            let found = namespace.get(&key(&name_of(number))).unwrap();
            let found = found.map(|found| usize::from_le_bytes(found.bytes().try_into().unwrap()));
            assert_eq!(found, expected(number).then_some(number));
        }
        let pinned = namespace.pin().unwrap();
        assert_eq!(pinned.len().unwrap(), order.len());
        let walked = pinned.iter().unwrap().map(Result::unwrap);
        let walked = walked.map(|(_, value)| usize::from_le_bytes(value.bytes().try_into().unwrap()));
        assert!(
            walked.eq(order.iter().copied()),
            "all keys in the order of their insertion"
        );
    };
    let all: Vec<usize> = (0..keys).collect();
    check(&|_| true, &all);
    for (number, pinned) in pins.drain(..) {
        assert_eq!(pinned.iter().unwrap().map(Result::unwrap).count(), number);
        assert!(number == 0 || pinned.contains(&key(&name_of(number - 1))).unwrap());
        assert!(!pinned.contains(&key(&name_of(number))).unwrap());
    }
    let whole = namespace.pin().unwrap();
    // Half of them: a quarter one by one, and the other in one transaction.
    for number in (0..keys).step_by(4) {
        model::commit(&namespace, &[model::remove(name_of(number))], Deadline::never()).unwrap();
    }
    let mut tx = namespace.begin(Deadline::never()).unwrap();
    for number in (2..keys).step_by(4) {
        assert!(tx.remove(&key(&name_of(number))).unwrap());
    }
    let seq = tx.commit().unwrap();
    assert_eq!(namespace.record(seq).unwrap().unwrap().changes.len(), keys / 4);
    let mut order: Vec<usize> = (1..keys).step_by(2).collect();
    check(&|number| number % 2 == 1, &order);
    assert_clean(&arena);
    // Put back in another order.
    for number in (0..keys).step_by(2).rev() {
        set(&namespace, &name_of(number), &number.to_le_bytes()).unwrap();
        order.push(number);
    }
    check(&|_| true, &order);
    assert_eq!(
        whole.iter().unwrap().map(Result::unwrap).count(),
        keys,
        "as it was before"
    );
    drop(whole);
    Kid::start("counts keys", keys as u64, Some(&arena), &Board::new()).succeeds();
    assert_clean(&arena);
    let stats = arena.stats().unwrap().namespaces.remove(0);
    eprintln!(
        "  {keys} keys, {} bytes alive, {} commits",
        stats.live_bytes, stats.commits
    );
    let mut tx = namespace.begin(Deadline::never()).unwrap();
    tx.clear().unwrap();
    tx.commit().unwrap();
    assert!(namespace.is_empty().unwrap());
    set(&namespace, "one", b"1").unwrap();
    assert_clean(&arena);
}

/// One transaction with all of them: its record, its list of changes and its wake-ups are as large. A watcher gets it as
/// one commit.
#[test]
fn a_transaction_of_a_million_keys_is_one_commit() {
    let keys: usize = if full_size() { 1 << 20 } else { 1 << 15 };
    let arena = arena(2048 * MIB, 256 * MIB);
    let namespace = arena.namespace("n").unwrap();
    let mut cursor = set(&namespace, "before", b"1").unwrap();
    let mut tx = namespace.begin(Deadline::never()).unwrap();
    for number in 0..keys {
        tx.put(&key(&name_of(number)), 1, &number.to_le_bytes()).unwrap();
    }
    assert_eq!(namespace.len().unwrap(), 1);
    let seq = tx.commit().unwrap();
    assert_eq!(namespace.len().unwrap(), keys + 1);
    let last = [key(&name_of(keys - 1)).to_owned()];
    let next = namespace
        .next_match(&mut cursor, seq, Filter::Keys(&last), false, None)
        .unwrap();
    assert_eq!(next, Next::Match(seq));
    let record = namespace.record(seq).unwrap().unwrap();
    assert_eq!((record.changes.len(), record.live as usize), (keys, keys + 1));
    let changed = namespace.changed_keys(&record).unwrap().unwrap();
    let first_wrong = changed
        .iter()
        .enumerate()
        .try_for_each(|(number, (changed, identical))| {
            match changed.bytes() == name_of(number).as_bytes() && !identical {
                true => ControlFlow::Continue(()),
                false => ControlFlow::Break(number),
            }
        });
    assert_eq!(first_wrong, ControlFlow::Continue(()));
    // Aborted, then all of them again with other values, then all of them away.
    let mut tx = namespace.begin(Deadline::never()).unwrap();
    tx.clear().unwrap();
    drop(tx);
    let mut tx = namespace.begin(Deadline::never()).unwrap();
    for number in 0..keys {
        assert!(tx.put(&key(&name_of(number)), 1, &[7; 30]).unwrap());
    }
    tx.commit().unwrap();
    assert_eq!(
        namespace.get(&key(&name_of(keys / 3))).unwrap().unwrap().bytes(),
        [7; 30]
    );
    assert_clean(&arena);
    let mut tx = namespace.begin(Deadline::never()).unwrap();
    for number in 0..keys {
        assert!(tx.remove(&key(&name_of(number))).unwrap());
    }
    tx.commit().unwrap();
    assert_eq!(namespace.len().unwrap(), 1);
    model::commit(&namespace, &[put("after", 8)], Deadline::never()).unwrap();
    assert_clean(&arena);
}
