//! The thread that feeds eventfds and streams, and a listener to events that panics on it. A binary of its own, with one
//! test, since the listener is that of all threads.

use std::sync::atomic::{AtomicU32, Ordering};

use support::{HANG, eventually, is_readable, left_by_a_dead_writer, now};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};
use zproc::Result;

mod support;

/// How often the listener has panicked.
static PANICS: AtomicU32 = AtomicU32::new(0);

/// Panics when it is told of anything on the thread that feeds.
struct Listener;

impl Subscriber for Listener {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, _: &Event<'_>) {
        if std::thread::current().name() == Some("zproc-notifier") {
            PANICS.fetch_add(1, Ordering::Relaxed);
            panic!("the listener fails");
        }
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// The thread finishes what dead writers left, and tells of it. When the listener panicked, the thread ended, and nobody
/// knew: no feed and no stream of the process was told of anything any more.
#[test]
fn a_listener_that_panics_does_not_end_the_thread() -> Result<()> {
    tracing::subscriber::set_global_default(Listener).unwrap();
    let state = left_by_a_dead_writer();
    let feed = state.watch().event_fd()?;
    assert!(is_readable(&feed, HANG), "the dead writer's update");
    eventually("the listener to be told", || PANICS.load(Ordering::Relaxed) > 0);
    assert_eq!(now(&state).get_when_any_change()?.seq(), 1);
    feed.clear()?;
    state.clone().insert("n", 2)?;
    assert!(is_readable(&feed, HANG), "an update after the panic");
    Ok(())
}
