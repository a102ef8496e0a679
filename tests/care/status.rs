//! Who holds the lock, who pins what, what the dead left: told without waiting for anybody.

use std::time::Duration;

use zproc::{Error, Life, Map, Result, State, Status};

use crate::kid::{Address, Kid, Role, eventually, ready_until_killed};

/// Stays inside of a transaction, in which it has changed something.
pub fn hold(role: &Role) {
    zproc::set_process_name("holder");
    let state = role.state();
    let never: Result<()> = state.atomic(|dict| {
        dict.insert("half", "done")?;
        ready_until_killed()
    });
    unreachable!("{never:?}");
}

/// Holds a snapshot, and has a watcher that saw the last update.
pub fn pin(role: &Role) {
    zproc::set_process_name("holder");
    let namespace = match role.argument.as_str() {
        "" => "default",
        other => other,
    };
    let state = State::builder(&role.address).namespace(namespace).open().unwrap();
    state.go_live().unwrap();
    let _snapshot = state.snapshot().unwrap();
    ready_until_killed();
}

fn state(address: &Address) -> Result<State> {
    let state = State::builder(address)
        .lock_timeout(Duration::from_millis(20))
        .create()?;
    state.insert("a", 1)?;
    Ok(state)
}

fn life_of_holder(status: &Status) -> Option<(u32, Life)> {
    let holder = status.namespaces[0].lock.holder.as_ref()?;
    Some((holder.pid, holder.life))
}

#[test]
fn a_stopped_holder_of_the_lock_is_named_while_it_is_stopped() -> Result<()> {
    let address = Address::new("stopped");
    let state = state(&address)?;
    assert_eq!(life_of_holder(&state.status()?), None);
    let kid = Kid::ready("hold", &address, "");
    assert_eq!(life_of_holder(&state.status()?), Some((kid.pid(), Life::Running)));
    kid.signal(libc::SIGSTOP);
    eventually("the child to be stopped", || {
        life_of_holder(&state.status().unwrap()) == Some((kid.pid(), Life::Stopped))
    });
    assert!(matches!(state.insert("a", 2), Err(Error::LockTimeout { pid, .. }) if pid == kid.pid()));
    let status = state.status()?;
    let holder = status.namespaces[0].lock.holder.as_ref().unwrap();
    assert_eq!((holder.name.as_deref(), holder.tid == 0), (Some("holder"), false));
    let participant = status.participants.iter().find(|one| one.pid == kid.pid()).unwrap();
    assert_eq!(
        (participant.name.as_deref(), participant.life),
        (Some("holder"), Life::Stopped)
    );
    assert_eq!((status.namespaces[0].commits, status.namespaces[0].keys), (1, Some(1)));
    assert!(!status.namespaces[0].unfinished && status.leftovers.locks == 0);
    kid.signal(libc::SIGCONT);
    eventually("the child to go on", || {
        life_of_holder(&state.status().unwrap()) == Some((kid.pid(), Life::Running))
    });
    Ok(())
}

#[test]
fn what_a_killed_holder_left_is_told_and_given_back() -> Result<()> {
    let address = Address::new("killed");
    let state = state(&address)?;
    let pid = Kid::ready("hold", &address, "").kill();
    let status = state.status()?;
    let lock = &status.namespaces[0].lock;
    assert!(
        lock.abandoned || life_of_holder(&status) == Some((pid, Life::Dead)),
        "{lock:?}"
    );
    assert_eq!((status.leftovers.locks, status.leftovers.processes), (1, 1));
    let dead = status.participants.iter().find(|one| one.pid == pid).unwrap();
    assert_eq!((dead.life, dead.name.as_deref()), (Life::Dead, Some("holder")));

    let reaped = state.reap()?;
    assert_eq!((reaped.locks, reaped.processes), (1, 1));
    let status = state.status()?;
    let lock = &status.namespaces[0].lock;
    assert!(lock.holder.is_none() && !lock.abandoned && lock.takeovers == 1);
    assert_eq!(status.leftovers, zproc::Leftovers::default());
    assert_eq!(status.participants.len(), 1);
    assert_eq!(state.snapshot()?, Map::from([("a", 1)]));
    assert!(state.verify()?.is_clean());
    Ok(())
}

#[test]
fn snapshots_and_watchers_of_the_dead_are_told_and_given_back() -> Result<()> {
    let address = Address::new("pins");
    let state = state(&address)?;
    let kid = Kid::ready("pin", &address, "");
    for value in 0..10 {
        state.insert("a", value)?;
    }
    let told = |dead: bool| -> Result<()> {
        let status = state.status()?;
        let (pin, watcher) = (&status.namespaces[0].pins[0], &status.namespaces[0].watchers[0]);
        let name = Some("holder");
        assert_eq!(
            (pin.pid, pin.name.as_deref(), pin.dead, pin.seq, pin.lag),
            (kid.pid(), name, dead, 1, 10)
        );
        assert_eq!(
            (watcher.pid, watcher.name.as_deref(), watcher.dead),
            (kid.pid(), name, dead)
        );
        assert_eq!((watcher.cursor, watcher.lag), (1, 10));
        let participant = status.participants.iter().find(|one| one.pid == kid.pid()).unwrap();
        assert_eq!((participant.pins, participant.watchers), (1, 1));
        assert_eq!(status.leftovers.pins, usize::from(dead));
        Ok(())
    };
    told(false)?;
    assert_eq!(state.reap()?, zproc::Reaped::default(), "nobody is dead");
    told(false)?;
    kid.signal(libc::SIGKILL);
    eventually("the child to be dead", || state.status().unwrap().leftovers.pins == 1);
    told(true)?;
    let reaped = state.reap()?;
    assert!(reaped.seats >= 1 && reaped.processes == 1, "{reaped:?}");
    let status = state.status()?;
    assert!(status.namespaces[0].pins.is_empty() && status.namespaces[0].watchers.is_empty());
    assert_eq!(status.leftovers, zproc::Leftovers::default());
    Ok(())
}

/// A stopped writer holds up those who need its lock, and nothing else. Waits for that lock for ten seconds.
#[test]
fn a_stopped_holder_does_not_keep_the_rest_from_being_given_back() -> Result<()> {
    let address = Address::new("reap-beside");
    let state = state(&address)?;
    let other = state.fork().namespace("other").open()?;
    other.insert("a", 1)?;
    Kid::ready("pin", &address, "other").kill();
    let kid = Kid::ready("hold", &address, "");
    kid.signal(libc::SIGSTOP);
    assert!(matches!(state.reap(), Err(Error::LockTimeout { pid, .. }) if pid == kid.pid()));
    assert_eq!(state.status()?.leftovers, zproc::Leftovers::default());
    Ok(())
}
