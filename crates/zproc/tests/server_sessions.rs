//! Sessions of clients: how much one may hold, what its long calls hold up, and what it is told of the whole state.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;

use zproc::{Backend, Error, Life, Result, Server, State};

mod support;
use support::HANG;

/// As many as `docs/protocol.md` says.
const SNAPSHOTS: usize = 1024;

/// A state, and the server that it has over a socket, and mapped.
fn both() -> (Server, State, State) {
    let server = zproc::start_server().backend(Backend::Thread).start().unwrap();
    let mapped = State::open(server.address()).unwrap();
    let remote = State::open(&format!("{}?transport=socket", server.address())).unwrap();
    (server, remote, mapped)
}

/// A server that may only read has no more seats than there are from the beginning, 64, and a session that has taken one
/// keeps it.
#[test]
fn only_large_values_take_a_seat() {
    let state = State::anonymous().unwrap();
    let (key, text) = ("a key that is longer than 24 bytes", "x".repeat(4000));
    state.insert(key, &*text).unwrap();
    state.insert("large", vec![7u8; 5000]).unwrap();
    let served = state.fork().read_only(true).open().unwrap();
    let server = zproc::start_server().backend(Backend::Thread).state(&served);
    let server = server.start().unwrap();
    let open = || {
        let address = format!("{}?transport=socket", server.address());
        State::builder(&address).read_only(true).open().unwrap()
    };
    let clients: Vec<State> = (0..100).map(|_| open()).collect();
    for client in &clients {
        assert_eq!(client.get::<String>(key).unwrap().as_ref(), Some(&text));
        assert_eq!(client.get::<i64>("none of that name, which is long").unwrap(), None);
    }
    assert_eq!(state.status().unwrap().namespaces[0].pins.len(), 0);
    assert_eq!(clients[0].get::<Vec<u8>>("large").unwrap().unwrap().len(), 5000);
}

#[test]
fn a_session_has_so_many_snapshots_and_another_is_not_concerned() {
    let (_server, state, mapped) = both();
    state.insert("n", 0).unwrap();
    let mut held: Vec<_> = (0..SNAPSHOTS).map(|_| state.snapshot().unwrap()).collect();
    state.insert("n", 1).unwrap();
    let refused = state.snapshot().map(drop);
    let is_told = |error: &str| error.contains("1024 snapshots") && error.contains("drop some");
    assert!(
        matches!(&refused, Err(error @ Error::Disconnected { .. }) if is_told(&error.to_string())),
        "{refused:?}"
    );
    // What needs one says the same; the session goes on, and what it holds stays.
    assert!(state.keys().is_err());
    assert_eq!(state.get("n").unwrap(), Some(1));
    assert!([0, 500, SNAPSHOTS - 1].map(|n| held[n].get::<i64>("n").unwrap()) == [Some(0); 3]);
    let other = state.clone();
    assert_eq!(other.snapshot().unwrap().get("n").unwrap(), Some(1));
    assert_eq!(mapped.stats().unwrap().namespaces[0].pins.len(), SNAPSHOTS);
    held.pop();
    assert_eq!(state.snapshot().unwrap().get("n").unwrap(), Some(1));
    assert_eq!(state.keys().unwrap().count(), 1);
    held.clear();
    assert!(mapped.stats().unwrap().namespaces[0].pins.is_empty());
}

/// A conflict is told, and the transaction run once more, while another writer has the lock: what may take long is done
/// before it is had.
#[test]
fn a_transaction_is_validated_without_the_lock() {
    let (_server, state, mapped) = both();
    let writer = mapped.clone();
    mapped.insert("limit", 1).unwrap();
    let is_inside = &AtomicBool::new(false);
    let (begin, wait_begin) = channel();
    let (inside, wait_inside) = channel();
    let (end, wait_end) = channel();
    std::thread::scope(|scope| {
        let writing = scope.spawn(move || {
            wait_begin.recv_timeout(HANG).unwrap();
            writer.atomic(|dict| {
                is_inside.store(true, Ordering::SeqCst);
                inside.send(()).unwrap();
                let ended = wait_end.recv_timeout(HANG).is_ok();
                is_inside.store(false, Ordering::SeqCst);
                dict.insert("ended", ended)
            })
        });
        let mut runs = 0;
        let result = state.atomic(|dict| {
            runs += 1;
            let limit: i64 = dict.get("limit")?.unwrap_or(0);
            match runs {
                1 => {
                    // As another process would, and not nested: this thread is inside of `atomic`.
                    std::thread::scope(|scope| scope.spawn(|| mapped.insert("limit", 2)).join().unwrap())?;
                    begin.send(()).unwrap();
                    wait_inside.recv_timeout(HANG).unwrap();
                }
                2 => {
                    assert!(is_inside.load(Ordering::SeqCst), "it was told when the lock was free");
                    end.send(()).unwrap();
                }
                _ => {}
            }
            dict.insert("result", limit)
        });
        result.unwrap();
        assert_eq!(runs, 2);
        writing.join().unwrap().unwrap();
    });
    assert_eq!(
        (mapped.get("result").unwrap(), mapped.get("ended").unwrap()),
        (Some(2), Some(true))
    );
}

#[test]
fn figures_are_those_of_the_memory() -> Result<()> {
    let (_server, state, mapped) = both();
    state.extend((0..100).map(|n| (n, vec![n; 100])))?;
    mapped.fork().namespace("kitchen").open()?.insert("cookies", 5)?;
    let held = [state.snapshot()?, mapped.snapshot()?];
    state.remove(7)?;
    let watch = mapped.watch().timeout(std::time::Duration::ZERO);
    assert!(watch.get_when_any_change().is_ok());

    assert_eq!(state.stats()?, mapped.stats()?);
    assert_eq!(state.status()?, mapped.status()?);
    let stats = state.stats()?;
    assert_eq!((stats.namespaces.len(), stats.namespaces[0].keys), (2, 99));
    assert_eq!(stats.namespaces[0].pins.len(), held.len());
    assert!(stats.problems.is_empty() && stats.committed > 0);

    // Also while a writer is inside, whoever it is.
    std::thread::scope(|scope| {
        let (ask, wait_ask) = channel();
        let (end, wait_end) = channel();
        let mapped = &mapped;
        let writer = scope.spawn(move || {
            mapped.atomic(|_| {
                ask.send(()).unwrap();
                wait_end.recv_timeout(HANG).unwrap();
                Ok(())
            })
        });
        wait_ask.recv_timeout(HANG).unwrap();
        let holder = state.status()?.namespaces[0].lock.holder.clone().expect("it is held");
        assert_eq!((holder.pid, holder.life), (std::process::id(), Life::Running));
        end.send(()).unwrap();
        writer.join().unwrap()
    })?;
    let inside = state.atomic(|dict| {
        dict.insert("x", 1)?;
        assert!(matches!(state.stats(), Err(Error::NestedAtomic)));
        state.status()
    })?;
    assert_eq!(inside.namespaces[0].keys, Some(99));
    state.close();
    assert!(matches!(state.stats(), Err(Error::Closed)));
    assert!(matches!(state.status(), Err(Error::Closed)));
    Ok(())
}
