//! States that are opened for reading only: what they can do, what they refuse, and what happens to a stray store.

use std::time::Duration;

use nix::sys::signal::Signal;
use zproc::{Backend, Builder, Context, Error, Map, Result, State};

zproc::init_tests!();

mod support;
use support::{HANG, now};

/// Each way to one and the same state.
fn readers(state: &State, server: &zproc::Server) -> Vec<State> {
    let open = |builder: Builder| builder.read_only(true).open().unwrap();
    vec![
        open(state.fork()),
        open(State::builder(server.address())),
        open(State::builder(&format!("{}?transport=socket", server.address()))),
        Builder::anonymous()
            .read_only(true)
            .from_fd(state.fd().unwrap().try_clone_to_owned().unwrap())
            .unwrap(),
    ]
}

#[test]
fn who_only_reads_gets_iterates_takes_snapshots_and_waits() -> Result<()> {
    let state = State::anonymous()?;
    let server = zproc::start_server().state(&state).backend(Backend::Thread).start()?;
    state.extend([("a", 1), ("b", 2)])?;
    for reader in readers(&state, &server) {
        state.replace_all([("a", 1), ("b", 2)])?;
        assert!(reader.is_read_only() && reader.clone().is_read_only());
        reader.go_live()?;
        assert_eq!(reader.get("a")?, Some(1));
        assert_eq!((reader.len()?, reader.contains_key("c")?), (2, false));
        let before = reader.snapshot()?;
        assert_eq!(reader.to_map()?, Map::from([("a", 1), ("b", 2)]));
        let handle = reader.handle::<i64>("a")?;
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| reader.watch().timeout(HANG).get_when_equal("a", 3).map(|now| now.seq()));
            std::thread::sleep(Duration::from_millis(30)); // asleep by then
            state.insert("a", 3).unwrap();
            assert_eq!(waiting.join().unwrap().unwrap(), state.seq().unwrap());
        });
        assert_eq!((before.get("a")?, handle.get()?), (Some(1), Some(3)));
        state.insert("b", 4)?;
        let update = reader.get_when_change(["b"])?;
        assert_eq!(update.get("b")?, Some(4));
        assert!(matches!(now(&reader).get_when_any_change(), Err(Error::Timeout)));
    }
    assert!(state.verify()?.is_clean());
    Ok(())
}

#[test]
fn every_write_is_refused() -> Result<()> {
    let state = State::anonymous()?;
    let server = zproc::start_server().state(&state).backend(Backend::Thread).start()?;
    state.insert("a", 1)?;
    for reader in readers(&state, &server) {
        let refused = |result: Result<()>| assert!(matches!(result, Err(Error::ReadOnly)), "{result:?}");
        refused(reader.insert("a", 2));
        refused(reader.insert("new", 2));
        refused(reader.handle::<i64>("a")?.set(2));
        refused(reader.remove("a").map(drop));
        refused(reader.pop_item().map(drop));
        refused(reader.get_or_insert("b", 1).map(drop));
        refused(reader.extend([("a", 2)]));
        refused(reader.replace_all([("a", 2)]));
        refused(reader.clear());
        refused(reader.atomic(|_| Ok(())));
        // Over a socket it was created.
        refused(reader.fork().namespace("new").open().map(drop));
        refused(reader.verify().map(drop));
        refused(reader.reap().map(drop));
        // Who asks for more gets it: it is no protection against intent.
        reader.fork().read_only(false).open()?.insert("b", 1)?;
        state.remove("b")?;
    }
    assert_eq!(state.to_map()?, Map::from([("a", 1)]));
    assert_eq!(state.stats()?.namespaces.len(), 1);
    assert!(matches!(
        Builder::anonymous().read_only(true).create(),
        Err(Error::ReadOnly)
    ));
    Ok(())
}

#[test]
fn a_named_state_is_opened_for_reading_only_and_never_created() -> Result<()> {
    let address = format!("shm://zproc-read-only-{}", std::process::id());
    let builder = State::builder(&address).read_only(true);
    assert!(matches!(builder.clone().open_or_create(), Err(Error::NotFound { .. })));
    let state = State::create(&address)?;
    // A namespace is there when somebody who may write has used it.
    state.insert("a", 1)?;
    assert_eq!(builder.open_or_create()?.get("a")?, Some(1));
    zproc::remove(&address)
}

#[test]
fn a_stray_store_ends_the_reader_and_damages_nothing() {
    /// Stores to the value where it lies, as a mistake in unsafe code might.
    fn stray(state: State) -> Result<()> {
        let snapshot = state.snapshot()?;
        let view = snapshot.view::<[u8]>("value")?.expect("it is there");
        state.status()?; // the process is at home in what readers write to
        // SAFETY: none; that is what is tested: the kernel ends this process here.
        unsafe { view.as_ptr().cast_mut().write_volatile(99) };
        Ok(())
    }
    let state = State::anonymous().unwrap();
    state.insert("value", vec![1u8; 1000]).unwrap();
    let ctx = |state: State| Context::builder().state(state).build().unwrap();
    let reader = ctx(state.fork().read_only(true).open().unwrap());
    let ended = reader.process(stray).start().unwrap().wait();
    let code = -(Signal::SIGSEGV as i32);
    assert!(
        matches!(ended, Err(Error::ProcessWait { exit_code, .. }) if exit_code == code),
        "{ended:?}"
    );
    assert_eq!(state.get("value").unwrap(), Some(vec![1u8; 1000]));
    state.insert("value", vec![2u8; 1000]).unwrap();
    assert!(state.verify().unwrap().is_clean());
}

#[test]
fn a_reader_that_is_killed_leaves_nothing_that_stays() {
    fn reader(state: State) -> Result<()> {
        let _held = state.snapshot()?;
        state.get_when_available("never").map(drop)
    }
    let state = State::anonymous().unwrap();
    state.insert("a", 1).unwrap();
    let ctx = Context::builder()
        .state(state.fork().read_only(true).open().unwrap())
        .build()
        .unwrap();
    let process = ctx.process(reader).start().unwrap();
    support::eventually("it holds a snapshot", || {
        !state.stats().unwrap().namespaces[0].pins.is_empty()
    });
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(process.pid().unwrap().cast_signed()),
        Signal::SIGKILL,
    )
    .unwrap();
    assert!(process.wait().is_err());
    state.reap().unwrap();
    assert!(state.stats().unwrap().namespaces[0].pins.is_empty());
    assert!(state.verify().unwrap().is_clean());
}

#[test]
fn many_snapshots_of_a_reader_are_an_error_and_not_a_signal() -> Result<()> {
    let state = State::anonymous()?;
    state.insert("a", 1)?;
    // Those who may write take as many as they like, beyond the places that readers may use.
    let held: Result<Vec<_>> = (0..200).map(|_| state.snapshot()).collect();
    let reader = state.fork().read_only(true).open()?;
    let none = reader.snapshot().map(drop);
    assert!(matches!(none, Err(Error::Engine(_))), "{none:?}");
    assert_eq!(reader.get("a")?, Some(1), "reading needs none");
    drop((held?, state.reap()?));
    Ok(())
}
