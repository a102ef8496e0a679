//! The model of the dict: what its contents must be.

use indexmap::IndexMap;
use shm_state::{Arena, Deadline, FixedSize, KeyRef, Namespace, Payload, Pinned, Result, ShortRoom, Transaction};

/// Keys and values in insertion order. Key tag 0, value tag 1.
pub type Model = IndexMap<Vec<u8>, Vec<u8>>;

/// One change.
#[derive(Clone, Debug)]
pub enum Change {
    /// Sets a key.
    Put(Vec<u8>, Vec<u8>),
    /// Removes a key.
    Remove(Vec<u8>),
    /// Removes the key that was inserted last.
    Pop,
    /// Removes all keys.
    Clear,
}

/// Sets a key to `len` bytes that depend on key and `len`.
pub fn put(key: impl Into<Vec<u8>>, len: usize) -> Change {
    let key = key.into();
    let mut value: Vec<u8> = (0..len)
        .map(|i| (i as u8).wrapping_mul(31).wrapping_add(len as u8))
        .collect();
    value.iter_mut().zip(&key).for_each(|(v, k)| *v ^= k);
    Change::Put(key, value)
}

/// Removes a key.
pub fn remove(key: impl Into<Vec<u8>>) -> Change {
    Change::Remove(key.into())
}

/// Applies a change to the model.
pub fn apply(model: &mut Model, change: &Change) {
    match change {
        Change::Put(key, value) => drop(model.insert(key.clone(), value.clone())),
        Change::Remove(key) => drop(model.shift_remove(key)),
        Change::Pop => drop(model.pop()),
        Change::Clear => model.clear(),
    }
}

/// The model after some changes.
pub fn after(model: &Model, changes: &[Change]) -> Model {
    let mut model = model.clone();
    changes.iter().for_each(|change| apply(&mut model, change));
    model
}

/// Applies a change inside a transaction.
pub fn apply_in(tx: &mut Transaction<'_>, change: &Change) -> Result<()> {
    match change {
        Change::Put(key, value) => drop(tx.put(&KeyRef::new(0, key), 1, value)?),
        Change::Remove(key) => drop(tx.remove(&KeyRef::new(0, key))?),
        Change::Pop => drop(tx.pop_last()?),
        Change::Clear => tx.clear()?,
    }
    Ok(())
}

/// Commits some changes as one transaction.
pub fn commit(namespace: &Namespace, changes: &[Change], deadline: Deadline) -> Result<u64> {
    let mut tx = namespace.begin(deadline)?;
    for change in changes {
        apply_in(&mut tx, change)?;
    }
    tx.commit()
}

/// What a transaction sees.
pub fn contents_in(tx: &Transaction<'_>) -> Model {
    tx.entries()
        .unwrap()
        .into_iter()
        .map(|(key, value)| (key.bytes().to_vec(), value.into_bytes()))
        .collect()
}

/// What a snapshot shows.
pub fn contents_of(pinned: &Pinned<'_>) -> Model {
    let pairs = pinned.iter().unwrap().map(Result::unwrap);
    pairs
        .map(|(key, value)| (key.bytes().to_vec(), value.into_bytes()))
        .collect()
}

/// What the newest snapshot shows.
pub fn contents(namespace: &Namespace) -> Model {
    contents_of(&namespace.pin().unwrap())
}

/// A value, and by which call it was read.
pub type Read = (&'static str, Option<Vec<u8>>);

/// Reads the newest value of a key in every way that does not leave it to another one.
pub fn reads(namespace: &Namespace, key: &KeyRef<'_>) -> Vec<Read> {
    let bytes = |_, bytes: &[u8]| bytes.to_vec();
    let got = namespace.get(key).unwrap().map(Payload::into_bytes);
    let len = got.as_ref().map_or(20, Vec::len);
    let mut reads = vec![("get", got), ("get_with", namespace.get_with(key, bytes).unwrap())];
    match namespace.peek(key) {
        Ok(small) => reads.push(("peek", small.map(|small| small.with(bytes)))),
        Err(longer) => reads.extend(
            namespace
                .peek_longer(longer, bytes)
                .map(|found| ("peek_longer", Some(found))),
        ),
    }
    let (mut room, head) = (ShortRoom::new(), len.min(500));
    if let Ok(found) = namespace.peek_exactly(key, FixedSize { len, head }, &mut room) {
        let tail = reads[0].1.iter().flat_map(|bytes| &bytes[head..]);
        let found = found.map(|(_, head)| head.iter().chain(tail).copied().collect());
        reads.push(("peek_exactly", found));
    }
    if let Some(place) = namespace.place(key).unwrap() {
        reads.extend(place.peek(bytes).map(|found| ("peek by place", found)));
        reads.extend(namespace.get_at(&place, bytes).unwrap().map(|found| ("get_at", found)));
    }
    reads
}

/// Reads the value of a key from a snapshot, in every way.
pub fn looks(pinned: &Pinned<'_>, key: &KeyRef<'_>) -> Vec<Read> {
    let get = pinned.get(key).unwrap().map(Payload::into_bytes);
    let get_with = pinned.get_with(key, |_, bytes| bytes.to_vec()).unwrap();
    let in_place = pinned.in_place(key).unwrap().map(|place| place.bytes().to_vec());
    let mut looks = vec![("get", get), ("get_with", get_with), ("in_place", in_place)];
    if let Ok(found) = pinned.in_place_at_hand(key) {
        looks.push(("in_place_at_hand", found.map(|place| place.bytes().to_vec())));
    }
    looks
}

/// Fails unless all have read the same.
#[track_caller]
pub fn assert_read(reads: &[Read], expected: Option<&Vec<u8>>, key: &[u8], when: &str) {
    for (way, found) in reads {
        let key = String::from_utf8_lossy(key);
        assert!(
            found.as_ref() == expected,
            "{when}: {way} of {key:?}: {found:?} and not {expected:?}"
        );
    }
}

/// Whether two states are the same, order included.
pub fn same(a: &Model, b: &Model) -> bool {
    a.len() == b.len() && a.iter().eq(b.iter())
}

/// A state in few words, for messages.
pub fn brief(model: &Model) -> String {
    let pairs = model.iter().map(|(key, value)| {
        let head: Vec<u8> = value.iter().copied().take(4).collect();
        format!("{}: {} bytes {head:?}", String::from_utf8_lossy(key), value.len())
    });
    format!("{} keys {{{}}}", model.len(), pairs.collect::<Vec<_>>().join(", "))
}

/// Fails unless two states are the same, order included.
#[track_caller]
pub fn assert_same(found: &Model, expected: &Model, when: &str) {
    assert!(
        same(found, expected),
        "{when}:\n   found {}\nexpected {}",
        brief(found),
        brief(expected)
    );
}

/// Fails unless every way of reading shows this state, and the verifier finds nothing.
#[track_caller]
pub fn check(arena: &Arena, namespace: &Namespace, model: &Model, when: &str) {
    let pinned = namespace.pin().unwrap();
    assert_same(&contents_of(&pinned), model, when);
    assert_eq!(pinned.len().unwrap(), model.len(), "{when}: length of the snapshot");
    assert_eq!(namespace.len().unwrap(), model.len(), "{when}: length");
    for (key, value) in model {
        assert_read(&reads(namespace, &KeyRef::new(0, key)), Some(value), key, when);
        assert_read(&looks(&pinned, &KeyRef::new(0, key)), Some(value), key, when);
    }
    assert_read(
        &reads(namespace, &KeyRef::new(0, b"never set")),
        None,
        b"never set",
        when,
    );
    assert!(!namespace.contains(&KeyRef::new(0, b"never set")).unwrap());
    drop(pinned);
    let report = arena.verify().unwrap();
    assert!(report.is_clean(), "{when}: {:#?}", report.problems);
}
