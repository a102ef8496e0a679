//! Where states are: addresses, descriptors, forks of a state, and forks of the process.

use std::time::Duration;

use zproc::{Builder, Error, Result, State, WaitStrategy};

/// An address that nobody else uses, and that goes with the test.
struct Address(String);

impl Address {
    fn new(test: &str) -> Self {
        Self(format!("shm://zproc-test-{test}-{}", std::process::id()))
    }
}

impl Drop for Address {
    fn drop(&mut self) {
        let _ = zproc::remove(&self.0);
    }
}

#[test]
fn create_open_and_remove() -> Result<()> {
    let address = Address::new("create");
    let address = address.0.as_str();
    let error = State::open(address).unwrap_err();
    assert!(
        matches!(&error, Error::NotFound { address: a } if a == address),
        "{error}"
    );
    assert!(error.to_string().contains("create it first"), "{error}");

    let state = State::create(address)?;
    assert_eq!(state.address(), Some(address));
    let error = State::create(address).unwrap_err();
    assert!(
        matches!(&error, Error::AlreadyExists { address: a } if a == address),
        "{error}"
    );

    state.insert("door", "open")?;
    for same in [State::open(address)?, State::open_or_create(address)?] {
        assert_eq!(same.get::<String>("door")?.as_deref(), Some("open"));
    }

    zproc::remove(address)?;
    assert!(matches!(zproc::remove(address), Err(Error::NotFound { .. })));
    assert!(matches!(State::open(address), Err(Error::NotFound { .. })));
    state.insert("door", "shut")?;
    let anew = State::open_or_create(address)?;
    assert!(
        anew.is_empty()?,
        "the name is free, and who has the old one goes on using it"
    );
    Ok(())
}

#[test]
fn an_address_that_cannot_be_is_refused() {
    for address in [
        "",
        "kitchen",
        "shm://",
        "shm://a/b",
        "shm://.hidden",
        "ipc://kitchen.sock",
    ] {
        for result in [
            State::open(address),
            State::create(address),
            State::open_or_create(address),
        ] {
            assert!(
                matches!(result, Err(Error::InvalidAddress { .. })),
                "{address:?}: {result:?}"
            );
        }
        assert!(matches!(zproc::remove(address), Err(Error::InvalidAddress { .. })));
    }
}

#[test]
fn a_file_that_is_no_state_is_refused_and_not_removed() {
    let name = format!("zproc-test-foreign-{}", std::process::id());
    let path = std::path::Path::new("/dev/shm").join(&name);
    std::fs::write(&path, vec![b'x'; 1 << 20]).unwrap();
    let address = format!("shm://{name}");
    for error in [State::open(&address).unwrap_err(), zproc::remove(&address).unwrap_err()] {
        assert!(
            matches!(&error, Error::Incompatible { address: a, .. } if *a == address),
            "{error}"
        );
    }
    let error = State::from_fd(std::fs::File::open(&path).unwrap().into()).unwrap_err();
    assert!(
        error.to_string().starts_with("the descriptor cannot be used: "),
        "{error}"
    );
    assert_eq!(std::fs::metadata(&path).unwrap().len(), 1 << 20);
    std::fs::remove_file(&path).unwrap();
}

#[test]
fn settings_that_cannot_be_are_refused() {
    for builder in [Builder::anonymous().capacity(1), Builder::anonymous().history(0, 0)] {
        assert!(matches!(
            builder.create(),
            Err(Error::Engine(shm_state::Error::InvalidOption { .. }))
        ));
    }
    let error = Builder::anonymous().namespace("").create().unwrap_err();
    assert!(
        matches!(error, Error::Engine(shm_state::Error::InvalidName { .. })),
        "{error}"
    );
    assert!(matches!(Builder::anonymous().open(), Err(Error::InvalidAddress { .. })));
}

#[test]
fn a_descriptor_opens_the_same_state() -> Result<()> {
    let state = State::anonymous()?;
    state.insert("door", "open")?;
    let fd = state.fd().unwrap().try_clone_to_owned().unwrap();
    let same = Builder::anonymous().namespace("default").from_fd(fd)?;
    assert_eq!(same.get::<String>("door")?.as_deref(), Some("open"));
    same.insert("door", "shut")?;
    assert_eq!(
        state.get_when_change(["door"])?.get::<String>("door")?.as_deref(),
        Some("shut")
    );
    assert_eq!(state.address(), None);
    Ok(())
}

#[test]
fn a_fork_has_the_settings_that_were_not_changed() -> Result<()> {
    let address = Address::new("fork");
    let state = State::builder(&address.0)
        .namespace("kitchen")
        .wait_strategy(WaitStrategy::Block)
        .lock_timeout(Duration::from_millis(5))
        .create()?;
    state.insert("n", 1)?;
    let (clone, fork) = (state.clone(), state.fork().open()?);
    let hall = state.fork().namespace("hall").lock_timeout(None).open()?;
    let elsewhere = fork.fork().address("shm://nowhere-to-be-found").open();
    assert!(matches!(elsewhere, Err(Error::NotFound { .. })));
    for same in [&clone, &fork] {
        assert_eq!((same.address(), same.namespace()), (state.address(), "kitchen"));
        assert_eq!(same.get::<i64>("n")?, Some(1));
    }
    assert_eq!((hall.address(), hall.namespace()), (state.address(), "hall"));
    state.atomic(|_| {
        std::thread::scope(|scope| {
            for impatient in [&clone, &fork] {
                let result = scope.spawn(|| impatient.insert("n", 2)).join().unwrap();
                assert!(matches!(result, Err(Error::LockTimeout { .. })), "{result:?}");
            }
            scope.spawn(|| hall.insert("n", 3)).join().unwrap()
        })
    })?;
    assert!(matches!(state.fork().create(), Err(Error::AlreadyExists { .. })));
    Ok(())
}

#[test]
fn a_clone_is_an_identity_whose_cursor_is_now() -> Result<()> {
    let state = State::anonymous()?;
    let other = state.clone();
    other.insert("n", 1)?;
    let (clone, fork, since) = (state.clone(), state.fork().open()?, state.fork().since(0).open()?);
    let zero = |state: &State| {
        state
            .watch()
            .timeout(Duration::ZERO)
            .get_when_any_change()
            .map(|found| found.seq())
    };
    assert!(matches!(zero(&clone), Err(Error::Timeout)));
    assert!(matches!(zero(&fork), Err(Error::Timeout)));
    assert_eq!((zero(&state)?, zero(&since)?), (1, 1));
    state.insert("n", 2)?;
    assert_eq!((zero(&clone)?, zero(&fork)?), (2, 2), "what one makes, the others see");
    Ok(())
}

/// Runs `test` in a child that is forked the plain way; whether it held.
fn holds_in_fork(test: impl FnOnce() -> bool) -> bool {
    use nix::sys::wait::{WaitStatus, waitpid};
    use nix::unistd::{ForkResult, fork};
    // SAFETY: the child runs `test`, which takes no lock that another thread of the parent may hold, and exits.
    match unsafe { fork() }.unwrap() {
        ForkResult::Child => {
            let held = std::panic::catch_unwind(std::panic::AssertUnwindSafe(test)).unwrap_or(false);
            // SAFETY: leaves without running what the parent has registered for its own exit.
            unsafe { nix::libc::_exit(i32::from(!held)) }
        }
        ForkResult::Parent { child } => waitpid(child, None).unwrap() == WaitStatus::Exited(child, 0),
    }
}

#[test]
fn a_state_says_so_when_it_is_used_after_a_fork() -> Result<()> {
    let state = State::anonymous()?;
    state.insert("n", 1)?;
    let handle = state.handle::<i64>("n")?;
    let snapshot = state.snapshot()?;
    assert_eq!(handle.get()?, Some(1));
    let forked = |result: Result<()>| matches!(result, Err(Error::Forked));
    assert!(holds_in_fork(|| {
        let read = snapshot.get::<i64>("n").map(drop);
        drop(snapshot);
        let clone = state.clone();
        let all = [
            forked(state.get::<i64>("n").map(drop)),
            forked(state.insert("n", 2)),
            forked(state.atomic(|_| Ok(()))),
            forked(state.snapshot().map(drop)),
            forked(state.len().map(drop)),
            forked(state.get_when_any_change().map(drop)),
            forked(state.get_when_equal("n", 2).map(drop)),
            forked(state.fork().open().map(drop)),
            forked(handle.get().map(drop)),
            forked(handle.set(2)),
            forked(clone.get::<i64>("n").map(drop)),
            forked(clone.insert("n", 2)),
            forked(read),
        ];
        drop(clone);
        all.iter().all(|held| *held)
    }));
    assert_eq!(
        state.get::<i64>("n")?,
        Some(1),
        "the child's end did the parent no harm"
    );
    state.insert("n", 3)?;
    assert!(state.verify()?.is_clean());
    Ok(())
}

#[test]
fn a_forked_child_can_open_the_state_anew() -> Result<()> {
    let address = Address::new("forked");
    let state = State::create(&address.0)?;
    state.insert("n", 1)?;
    assert!(holds_in_fork(|| {
        let own = State::open(&address.0).unwrap();
        own.atomic(|dict| dict.modify("n", |n: i64| n + 1)).is_ok()
    }));
    assert_eq!(state.get_when_change(["n"])?.get::<i64>("n")?, Some(2));
    Ok(())
}

#[test]
fn states_and_errors_go_from_thread_to_thread() {
    fn shared<T: Send + Sync>() {}
    fn sent<T: Send>() {}
    shared::<State>();
    shared::<Error>();
    shared::<zproc::Snapshot<'_>>();
    shared::<zproc::Watch<'_>>();
    sent::<zproc::Handle<'_, String>>();
}
