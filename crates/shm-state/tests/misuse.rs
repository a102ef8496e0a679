//! Uses that nobody should make, and that must not break anything all the same.

use std::cell::RefCell;
use std::thread;
use std::time::Duration;

use shm_state::{Arena, ArenaOptions, Deadline, Error, KeyRef, Namespace, Transaction};

fn soon() -> Deadline {
    Deadline::after(Duration::from_secs(20))
}

/// A place carried only a granule, so one of another namespace led a write to that one's entry: the blocks of both
/// were mixed up.
#[test]
fn a_place_of_another_namespace_is_not_believed() {
    let arena = Arena::anonymous(&ArenaOptions::default()).unwrap();
    let (a, b) = (arena.namespace("a").unwrap(), arena.namespace("b").unwrap());
    let key = KeyRef::new(1, b"key");
    for round in 0..2000u64 {
        a.put(&key, None, 1, &round.to_le_bytes(), soon()).unwrap();
        b.put(&key, None, 1, &round.to_le_bytes(), soon()).unwrap();
    }
    let place = a.locate(&key).unwrap();
    b.put(&key, place, 1, &7u64.to_le_bytes(), soon()).unwrap();
    assert_eq!(b.get(&key).unwrap().unwrap().bytes(), 7u64.to_le_bytes());
    assert_eq!(a.get(&key).unwrap().unwrap().bytes(), 1999u64.to_le_bytes());
    let report = arena.verify().unwrap();
    assert!(report.is_clean(), "{:?}", report.problems);
}

/// The destructor of a thread gives up the locks that it holds, perhaps before that of a transaction in a thread-local,
/// which then freed memory in the name of the lock's next owner.
#[test]
fn a_transaction_that_outlives_the_lock_of_its_thread_touches_nothing() {
    thread_local! {
        static OPEN: RefCell<Option<Transaction<'static>>> = const { RefCell::new(None) };
    }
    let arena: &'static Arena = Box::leak(Box::new(Arena::anonymous(&ArenaOptions::default()).unwrap()));
    let namespace: &'static Namespace = Box::leak(Box::new(arena.namespace("n").unwrap()));
    let key = |number: u32| number.to_le_bytes();
    for round in 0..20u32 {
        let leave = thread::spawn(move || {
            // Registered before the lock's own destructor, and so run after it.
            OPEN.with(|open| {
                let mut transaction = namespace.begin(soon()).unwrap();
                transaction.put(&KeyRef::new(1, &key(round)), 1, &[1; 300_000]).unwrap();
                *open.borrow_mut() = Some(transaction);
            });
        });
        let write = thread::spawn(move || {
            for number in 0..20 {
                namespace
                    .put(&KeyRef::new(2, &key(number)), None, 1, &[2; 100_000], soon())
                    .unwrap();
            }
        });
        leave.join().unwrap();
        write.join().unwrap();
    }
    let report = arena.verify().unwrap();
    assert!(report.is_clean(), "{:?}", report.problems);
}

/// Each removal of the last key searched through all that had been removed before.
#[test]
fn a_transaction_can_pop_many_keys() {
    let arena = Arena::anonymous(&ArenaOptions::default()).unwrap();
    let namespace = arena.namespace("n").unwrap();
    const KEYS: u32 = 50_000;
    let mut transaction = namespace.begin(soon()).unwrap();
    for number in 0..KEYS {
        transaction
            .put(&KeyRef::new(1, &number.to_le_bytes()), 1, &[0; 8])
            .unwrap();
    }
    transaction.commit().unwrap();
    let mut transaction = namespace.begin(soon()).unwrap();
    for number in (0..KEYS).rev() {
        let (key, _) = transaction.pop_last().unwrap().unwrap();
        assert_eq!(key.bytes(), number.to_le_bytes());
    }
    assert!(transaction.pop_last().unwrap().is_none());
    transaction.commit().unwrap();
    assert!(namespace.is_empty().unwrap());
}

#[test]
fn a_name_that_cannot_be_is_an_error() {
    for name in ["", "a/b", ".hidden", "new\nline"] {
        assert!(matches!(Arena::open(name), Err(Error::InvalidName { .. })), "{name:?}");
    }
}
