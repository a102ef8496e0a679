//! What exactly is promised: atomicity and order, identity and cursor, levels and edges, history, values, the end.
//!
//! # Updates
//!
//! An *update* is what one call that writes, or one [`State::atomic`], did. A namespace has one sequence of them, numbered
//! 1, 2, 3, …; all processes see them in this order.
//!
//! * An update is visible as a whole or not at all, to everybody at the same instant, also if its process is killed at any
//!   instruction.
//! * A call that changes nothing (a `remove` of a missing key, an `extend` with nothing) is no update. One that writes what
//!   is there already is an *identical* update.
//! * What a process wrote before is visible to whoever has seen what it wrote after. So is what it did otherwise, such as
//!   writing to a pipe.
//! * Reading takes no lock, and no reader waits for a writer. Each single read sees the newest update; reads that must
//!   belong together are made from one [`Snapshot`].
//! * Namespaces have nothing to do with each other: neither order nor atomicity spans two.
//!
//! ```
//! use zproc::State;
//!
//! let state = State::anonymous()?;
//! state.extend([("flour", 3), ("sugar", 2)])?; // one update
//! state.insert("flour", 3)?; // an identical one
//! state.remove("milk")?; // none
//! assert_eq!(state.seq()?, 2);
//! # Ok::<(), zproc::Error>(())
//! ```
//!
//! # Transactions
//!
//! While the closure of [`State::atomic`] runs, no other writer of the namespace does, in any process. It sees its own
//! changes, everybody else the state before it. If it returns an error, panics, or its process dies, it has done nothing.
//!
//! Inside of it, states can be read, and show the state before it. Writing through a state, of whatever namespace, and
//! waiting fail with [`Error::NestedAtomic`]: two transactions that wait for each other's lock would wait for ever.
//!
//! # Identity
//!
//! Each [`State`] value is an *identity*. It has a *cursor*, the number of the last update that it has consumed, and its
//! watchers leave out the updates that were made through itself.
//!
//! * [`Clone`] and [`State::fork`] make another identity, whose cursor is now; [`Builder::since`] says from where.
//! * Threads that share a `&State` share its cursor: each update is returned to one of them. A *condition* is another
//!   matter: all threads that wait for one may see it come true in the same update.
//! * An identity is not a process. Two `State` values of one process see each other's updates; [`Update::writer`] is the
//!   process.
//!
//! ```
//! use std::time::Duration;
//! use zproc::{Error, State};
//!
//! let one = State::anonymous()?;
//! let other = one.clone();
//! one.insert("cookies", 5)?;
//! let now = |state: &State| state.watch().timeout(Duration::ZERO).get_when_any_change().map(|update| update.seq());
//! assert!(matches!(now(&one), Err(Error::Timeout))); // its own
//! assert_eq!(now(&other)?, 1);
//! assert_eq!((one.cursor(), other.cursor()), (0, 1));
//! # Ok::<(), Error>(())
//! ```
//!
//! # Levels and edges
//!
//! | watcher | tests the current state first? | then | the cursor afterwards |
//! |---|---|---|---|
//! | [`get_when_change`], [`_any_change`], [`_change_except`], [`get_raw_update`], [`updates`] | no | the next update after the cursor that matches | at that update |
//! | [`get_when`], [`_equal`], [`_not_equal`], [`_none`], [`_not_none`], [`_available`] | yes: if it holds, returns at once | each update after the cursor in order, old ones too | unmoved if it held at once, else at the returned update |
//! | any of them after [`watch().live()`](Watch::live) | as above | only updates after the call | unmoved |
//! | [`updates_since`] | no | the next update after the number that it was given | unmoved |
//!
//! The first row are *edges*: something happens. The second are *levels*: something holds. To wait for something that may
//! be the case already, take a level; to process all that happens, take edges.
//!
//! * A change of a key is that it appears, that its value becomes a different one, or that it goes. Identical updates are
//!   left out unless [`Watch::duplicates`] asks for them.
//! * A missing key satisfies none of `_equal`, `_not_equal`, `_none` and `_not_none`. A closure sees the snapshot and
//!   decides itself.
//! * A level may be found in the past: a value that came and went since the cursor is not missed. The snapshot that is
//!   returned is the state in which it held; that of now may be different.
//! * A level that holds at once leaves the cursor where it is. A loop of those falls out of the history with its first
//!   wait after a whole one: it should be live, or catch [`Error::Lagged`].
//! * For a level the current state counts whoever made it; of the updates after the cursor, only those of others do.
//! * To look and then wait without a gap, first [`State::go_live`], then look: what happens after the look is buffered.
//!
//! ```
//! use zproc::State;
//!
//! let state = State::anonymous()?;
//! let other = state.clone();
//! other.insert("door", "open")?;
//! other.insert("door", "shut")?;
//! // A level that holds: returns the current state and consumes nothing.
//! assert_eq!((state.get_when_equal("door", "shut")?.seq(), state.cursor()), (2, 0));
//! // One that held once: found in the past, and consumed.
//! assert_eq!((state.get_when_equal("door", "open")?.seq(), state.cursor()), (1, 1));
//! // An edge: the next change after the cursor.
//! assert_eq!((state.get_when_change(["door"])?.seq(), state.cursor()), (2, 2));
//! # Ok::<(), zproc::Error>(())
//! ```
//!
//! # Timeouts and cancelling
//!
//! Without one, a watcher waits for as long as it takes. With [`Watch::timeout`], a match that is there already is
//! returned first, and after the deadline it is [`Error::Timeout`]. Zero asks without waiting. A watcher that gave up has
//! consumed nothing, and asking again goes on where it was.
//!
//! [`Watch::cancel`] names a [`Canceller`], with which another thread or a signal handler ends a wait: it fails with
//! [`Error::Cancelled`] and has consumed nothing either. [`State::close`] ends all waits of a state with [`Error::Closed`].
//! A signal that [`signal_to_error`](crate::signal_to_error) was called for ends every wait with [`Error::Signal`], once for
//! each thread that waits, and consumes nothing.
//!
//! # More than one thing
//!
//! | | waits for | costs |
//! |---|---|---|
//! | [`Select`] | watchers of several states, and descriptors | one sleep on all of them; with descriptors the thread below |
//! | [`Watch::event_fd`] | one watcher, in an event loop | one thread a process, for all feeds and streams |
//! | `Watch::stream`, feature `tokio` | one watcher, in an async task | the same thread |
//!
//! Over a socket there is no such sleep: with each of the three, each watcher has a thread and a connection of its own
//! ([`Transport::Socket`](crate::Transport::Socket)).
//!
//! They tell *that* a watcher has something to return. The thread sleeps as a watcher does: a writer whose update wakes it
//! makes one system call, and from there to the event loop or the task it is a further wake-up.
//!
//! # History
//!
//! A namespace keeps its last updates for watchers, as many as it was created with ([`Builder::history`]): 256 at least
//! and up to twice as many if nothing was set, unless the values that they superseded take more than 64 MiB. When the
//! memory runs short the whole history goes.
//!
//! A watcher whose next update is gone gets [`Error::Lagged`] with the exact number of updates that it missed, counted in
//! updates of the namespace, whatever keys it watches. It is told so once. Called again, it goes on with the oldest update
//! that there is. Own updates at the front do not count as missed, nor do updates of which it can still be told that they
//! touched none of the watched keys.
//!
//! A [`Snapshot`] that is held is not touched by that: what it shows stays, and takes memory, until it is dropped.
//!
//! ```
//! use zproc::{Builder, Error};
//!
//! let state = Builder::anonymous().history(10, 1 << 20).create()?;
//! let other = state.clone();
//! for n in 1..=100 {
//!     other.insert("n", n)?;
//! }
//! let Err(Error::Lagged { missed }) = state.get_when_change(["n"]) else { panic!("there are 100") };
//! assert_eq!(state.get_when_change(["n"])?.seq(), missed + 1);
//! # Ok::<(), Error>(())
//! ```
//!
//! Whoever keeps a copy of the state goes on exactly with a snapshot, and the updates behind it:
//!
//! ```
//! use std::time::Duration;
//! use zproc::{Builder, Error, Map, State, Value};
//!
//! let state = Builder::anonymous().history(4, 1 << 20).create()?;
//! let other = state.clone();
//! for n in 0..100 {
//!     other.insert(n % 7, n)?;
//! }
//! let mut copy = Map::new();
//! let mut updates = state.watch().timeout(Duration::ZERO).updates_since(0);
//! loop {
//!     match updates.next().expect("endless") {
//!         Ok(update) => {
//!             for key in &update.changed {
//!                 match update.after.get::<Value>(key)? {
//!                     Some(value) => copy.insert(key.clone(), value),
//!                     None => copy.remove(key),
//!                 };
//!             }
//!         }
//!         Err(Error::Lagged { .. }) => {
//!             let snapshot = state.snapshot()?;
//!             copy = snapshot.to_map()?;
//!             updates = state.watch().timeout(Duration::ZERO).updates_since(snapshot.seq());
//!         }
//!         Err(Error::Timeout) => break,
//!         Err(error) => return Err(error),
//!     }
//! }
//! assert_eq!(state.snapshot()?, copy);
//! # Ok::<(), Error>(())
//! ```
//!
//! # Equality
//!
//! Whether a value is another one is decided by its kind and its stored bytes. Integers of every width are one kind, so
//! `5u8` equals `5i64`; `1`, `1.0` and `true` are three different values; floats are equal if their bits are, so `NaN`
//! equals itself and `0.0` differs from `-0.0`. Two maps with the same entries in another order are equal to
//! [`get_when_equal`] and to `==`, but writing one over the other is a change. See [`value`](crate::value).
//!
//! # Death
//!
//! A process may be killed at any instruction.
//!
//! | where it was | what the others see |
//! |---|---|
//! | before the instant at which its update counts | no update; the next writer takes the lock over at once |
//! | after it | the whole update: the next writer, or a watcher after a second at most, finishes it |
//! | with snapshots or watchers | what they held is given back when memory runs short, at the latest |
//!
//! A process that is stopped is not dead: it keeps its lock, and [`Error::LockTimeout`] names it to those who set a
//! [`Builder::lock_timeout`].
//!
//! [`get_when_change`]: State::get_when_change
//! [`_any_change`]: State::get_when_any_change
//! [`_change_except`]: State::get_when_change_except
//! [`get_raw_update`]: State::get_raw_update
//! [`updates`]: State::updates
//! [`updates_since`]: State::updates_since
//! [`get_when`]: State::get_when
//! [`get_when_equal`]: State::get_when_equal
//! [`_equal`]: State::get_when_equal
//! [`_not_equal`]: State::get_when_not_equal
//! [`_none`]: State::get_when_none
//! [`_not_none`]: State::get_when_not_none
//! [`_available`]: State::get_when_available

use crate::{Builder, Canceller, Error, Select, Snapshot, State, Update, Watch};
