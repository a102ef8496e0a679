//! What is told to those who listen to events: of deaths, growth and shortage; and that listening does no harm.

use std::fmt::{Debug, Write};
use std::sync::{Arc, Mutex};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};
use zproc::{Error, Result, State};

use crate::kid::{Address, Kid};

/// Writes events down, each in one line, and then does what it was told to do.
#[derive(Clone, Default)]
struct Listener {
    heard: Arc<Mutex<Vec<String>>>,
    then: Option<Arc<dyn Fn() + Send + Sync>>,
}

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        write!(self.0, " {}={value:?}", field.name()).unwrap();
    }
}

impl Subscriber for Listener {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut line = Line(format!("{} {}", event.metadata().level(), event.metadata().target()));
        event.record(&mut line);
        self.heard.lock().unwrap().push(line.0);
        if let Some(then) = &self.then {
            then();
        }
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

impl Listener {
    fn then(then: impl Fn() + Send + Sync + 'static) -> Self {
        Self {
            then: Some(Arc::new(then)),
            ..Self::default()
        }
    }

    /// What is heard on this thread while `f` runs.
    fn hears<R>(&self, f: impl FnOnce() -> R) -> R {
        tracing::subscriber::with_default(self.clone(), f)
    }

    #[track_caller]
    fn one_with(&self, parts: &[&str]) -> String {
        let heard = self.heard.lock().unwrap();
        let found: Vec<_> = heard
            .iter()
            .filter(|line| parts.iter().all(|part| line.contains(part)))
            .collect();
        assert_eq!(found.len(), 1, "{parts:?} in {heard:?}");
        found[0].clone()
    }
}

/// A state whose writer was killed inside.
fn orphaned(address: &Address) -> Result<(State, u32)> {
    let state = State::create(address)?;
    state.insert("a", 1)?;
    let pid = Kid::ready("hold", address, "").kill();
    Ok((state, pid))
}

#[test]
fn the_takeover_of_a_dead_writers_lock_is_told_with_its_pid() -> Result<()> {
    let address = Address::new("takeover");
    let (state, pid) = orphaned(&address)?;
    let listener = Listener::default();
    listener.hears(|| state.insert("a", 2))?;
    let taken = listener.one_with(&["WARN shm_state", "took over"]);
    assert!(
        taken.contains(&format!(" pid={pid} ")) && taken.contains("namespace=\"default\""),
        "{taken}"
    );
    let finished = listener.one_with(&["INFO shm_state", "finished what a dead writer left"]);
    assert!(finished.contains("seq=1 commit=false"), "{finished}");
    listener.hears(|| state.insert("a", 3))?;
    assert_eq!(listener.heard.lock().unwrap().len(), 2, "told once");
    Ok(())
}

/// Events are told after the unlock: whoever hears of one may use the state that it is about.
#[test]
fn a_listener_may_use_the_state_that_the_event_is_about() -> Result<()> {
    let address = Address::new("reentrant");
    let (state, _) = orphaned(&address)?;
    let diary = State::open(&address)?;
    let listener = Listener::then(move || {
        diary.atomic(|dict| dict.modify_or("heard", 0, |n: i64| n + 1)).unwrap();
    });
    listener.hears(|| state.insert("a", 2))?;
    assert_eq!(state.get::<i64>("heard")?, Some(2));
    // The same when nothing is committed, and in a transaction that fails.
    let (state, _) = orphaned(&Address::new("reentrant-2"))?;
    let listener = Listener::default();
    let failed: Result<()> = listener.hears(|| state.atomic(|_| Err(Error::other("no"))));
    assert!(failed.is_err());
    listener.one_with(&["took over"]);
    Ok(())
}

#[test]
fn a_listener_that_panics_does_so_after_the_update_and_harms_nobody() -> Result<()> {
    let address = Address::new("panicking");
    let (state, _) = orphaned(&address)?;
    let listener = Listener::then(|| panic!("I cannot stand this"));
    let insert = || listener.hears(|| state.insert("a", 2));
    assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(insert)).is_err());
    assert_eq!((state.get("a")?, state.seq()?), (Some(2), 2));
    state.insert("a", 3)?;
    assert!(state.status()?.namespaces[0].lock.holder.is_none());
    Ok(())
}

#[test]
fn growth_shortage_and_the_pins_of_the_dead_are_told() -> Result<()> {
    let address = Address::new("shortage");
    let state = State::builder(&address).capacity(1 << 20).create()?;
    state.insert("a", 1)?;
    Kid::ready("pin", &address, "").kill();
    let listener = Listener::default();
    let value = vec![7u8; 10_000];
    listener.hears(|| (0..200).try_for_each(|_| state.insert("large", &value)))?;
    let heard = listener.heard.lock().unwrap().clone();
    let grew: Vec<_> = heard
        .iter()
        .filter(|line| line.starts_with("DEBUG shm_state message=took more memory"))
        .collect();
    assert!(
        !grew.is_empty() && grew.iter().all(|line| line.contains("from=") && line.contains("to=")),
        "{heard:?}"
    );
    let reaped = listener.one_with(&["INFO shm_state", "gave back what dead processes had pinned"]);
    assert!(reaped.contains("pins=1"), "{reaped}");
    assert!(
        heard
            .iter()
            .any(|line| line.contains("gave up history because memory is short")),
        "{heard:?}"
    );
    Ok(())
}

#[test]
fn a_watcher_that_lags_is_told() -> Result<()> {
    let state = zproc::Builder::anonymous().history(10, 1 << 20).create()?;
    let other = state.clone();
    (0..100).try_for_each(|n| other.insert("a", n))?;
    let listener = Listener::default();
    let Err(Error::Lagged { missed }) = listener.hears(|| state.get_when_any_change().map(drop)) else {
        panic!("it missed nothing");
    };
    let told = listener.one_with(&["WARN zproc", "fell out of the history"]);
    assert!(told.contains(&format!(" missed={missed} ")), "{told}");
    Ok(())
}
