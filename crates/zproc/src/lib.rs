//! State that the processes of one machine share.
//!
//! A [`State`] is a dict in shared memory. Any process of the machine reads it in nanoseconds and without a lock, changes
//! it atomically, and sleeps until it changes. Any of them may be killed with SIGKILL at any instruction, and the others
//! go on. It needs no server.
//!
//! ```
//! use zproc::State;
//!
//! let state = State::anonymous()?;
//! let eater = state.clone(); // another process would call State::open
//! state.insert("cookies", 0)?;
//! state.atomic(|dict| dict.modify("cookies", |n: i64| n + 1))?;
//! let update = eater.get_when_equal("cookies", 1)?;
//! assert_eq!(update.get::<i64>("cookies")?, Some(1));
//! # Ok::<(), zproc::Error>(())
//! ```
//!
//! # A tour
//!
//! **Open.** A state has an address, `shm://NAME`: [`State::open`], [`State::create`], [`State::open_or_create`], and
//! [`State::builder`] with settings. One without an address, [`State::anonymous`], is handed on by its descriptor. A named
//! state stays until it is [removed](remove()) or the machine is rebooted.
//!
//! **Serve.** [`start_server`] hands a state, with or without a name, to the processes of the same user that know its
//! secret key, and then is out of their way. Its address, `ipc:///PATH`, is opened like any other; a process that cannot map
//! the memory, in a container for example, gets the same `State` over the socket ([`State::transport`]). [`ping`] asks whether
//! it is there.
//!
//! **Use as a dict.** Keys are text, integers, byte strings and tuples of them ([`ToKey`]); values are whatever is
//! [`ToValue`], read as whatever is [`FromValue`], or as a [`Value`], which takes all of them. The order is that of
//! insertion. A missing key is `None` and no error; [`Value::None`] is a value.
//!
//! **Change several things at once.** [`State::atomic`] runs a closure with a [`Transaction`], a dict that sees its own
//! changes; other writers wait, readers do not. An error or a panic leaves the state as it was.
//!
//! **Look at several things at once.** A [`Snapshot`] is the state as it was after one update, and costs nanoseconds. A
//! [`Handle`] reads and writes one key without looking it up.
//!
//! **Wait.** `get_when_change` and its kin wait for the next update; `get_when`, `get_when_equal` and their kin until
//! something holds. Watchers are buffered: they miss nothing since they last looked, or get the exact number of updates
//! that they lost. [`State::watch`] has settings. The page [`semantics`] says all of it exactly.
//!
//! **Run processes.** A [`Context`] is a state and the processes that share it: [`Context::process`] runs a function in a
//! process of its own and returns what it returns, [`Context::process_map`] a function of many items by workers,
//! [`Context::call_when_change`] and its kin a handler for each update. They end with their parent, however that ends. A
//! program that uses them calls [`init`](init()) first.
//!
//! **Keep apart.** A state has namespaces, each a dict with a writer lock and a history of its own:
//! [`State::fork`]`().namespace("…").open()`.
//!
//! ```
//! use std::thread;
//! use zproc::State;
//!
//! # let address = format!("shm://zproc-doc-tour-{}", std::process::id());
//! # let address = address.as_str();
//! let shop = State::open_or_create(address)?;
//! shop.extend([("flour", 3), ("cookies", 0)])?;
//! let baker = thread::spawn({
//!     let baker = State::open(address)?; // as another process would
//!     move || {
//!         baker.get_when_change(["order"])?; // sleeps until there is one
//!         baker.atomic(|dict| {
//!             dict.modify("flour", |n: u32| n - 1)?;
//!             dict.modify("cookies", |n: u32| n + 12)
//!         })
//!     }
//! });
//! shop.insert("order", 12)?;
//! let baked = shop.get_when(|shelf| Ok(shelf.get::<u32>("cookies")? > Some(0)))?;
//! assert_eq!(baked.get("flour")?, Some(2)); // both changes or none
//! assert_eq!(baker.join().expect("the baker does not panic")?, 12);
//! # zproc::remove(address)?;
//! # Ok::<(), zproc::Error>(())
//! ```
//!
//! # The calls
//!
//! | to | on [`State`] | in [`Transaction`] | on [`Snapshot`] |
//! |---|---|---|---|
//! | read | [`get`](State::get) [`contains_key`](State::contains_key) [`len`](State::len) [`is_empty`](State::is_empty) [`iter`](State::iter) [`keys`](State::keys) [`values`](State::values) [`to_map`](State::to_map) | the same | the same, and `==` |
//! | write | [`insert`](State::insert) [`remove`](State::remove) [`take`](State::take) [`pop_item`](State::pop_item) [`get_or_insert`](State::get_or_insert) [`extend`](State::extend) [`clear`](State::clear) [`replace_all`](State::replace_all) | the same, and [`modify`](Transaction::modify) [`modify_or`](Transaction::modify_or) | – |
//! | be atomic | [`atomic`](State::atomic), [`zproc::atomic`](atomic()) | – | – |
//! | look at one instant | [`snapshot`](State::snapshot) | – | [`seq`](Snapshot::seq), [`view`](Snapshot::view) |
//! | save and load | [`save`](State::save) [`load`](State::load) [`restore`](State::restore) | – | [`dump`](Snapshot::dump) [`save`](Snapshot::save) |
//! | use one key often | [`handle`](State::handle) | – | – |
//! | wait for an update | [`get_when_change`](State::get_when_change) [`_any_change`](State::get_when_any_change) [`_change_except`](State::get_when_change_except) [`get_raw_update`](State::get_raw_update) [`updates`](State::updates) [`updates_since`](State::updates_since) | – | – |
//! | wait until something holds | [`get_when`](State::get_when) [`_equal`](State::get_when_equal) [`_not_equal`](State::get_when_not_equal) [`_none`](State::get_when_none) [`_not_none`](State::get_when_not_none) [`_available`](State::get_when_available) | – | – |
//! | wait in another way | [`watch`](State::watch): [`live`](Watch::live) [`timeout`](Watch::timeout) [`duplicates`](Watch::duplicates) [`keys`](Watch::keys) [`cancel`](Watch::cancel) [`event_fd`](Watch::event_fd); [`Select`]; [`go_live`](State::go_live) | – | – |
//! | open | [`open`](State::open) [`create`](State::create) [`open_or_create`](State::open_or_create) [`anonymous`](State::anonymous) [`from_fd`](State::from_fd) [`builder`](State::builder) [`fork`](State::fork), [`read_only`](Builder::read_only) | – | – |
//! | end | [`close`](State::close), or drop it; [`zproc::remove`](remove()) | – | – |
//! | serve | [`start_server`], [`ping`](State::ping) [`transport`](State::transport) | – | – |
//! | see how it is | [`seq`](State::seq) [`cursor`](State::cursor) [`status`](State::status) [`stats`](State::stats) [`verify`](State::verify) [`reap`](State::reap) [`doctor`] | – | – |
//!
//! Processes:
//!
//! | to | there is |
//! |---|---|
//! | begin | [`init`](init()) first in `main`, [`init_tests!`] in tests; [`Context::new`] [`Context::builder`] |
//! | run a function | [`process`](Context::process) with [`args`](ProcessBuilder::args), [`start`](ProcessBuilder::start) or [`deferred`](ProcessBuilder::deferred); [`process_factory`](Context::process_factory) |
//! | have its value | [`wait`](Process::wait) [`wait_timeout`](Process::wait_timeout); [`wait_all`](Context::wait_all) [`wait_all_safe`](Context::wait_all_safe) |
//! | end it | [`stop`](Process::stop) [`stop_all`](Context::stop_all) [`close`](Context::close) [`exit`](exit()) |
//! | look at it | [`is_alive`](Process::is_alive) [`pid`](Process::pid) [`exitcode`](Process::exitcode) [`processes`](Context::processes) [`workers`](Context::workers) |
//! | be tolerant | [`retry_for`](ProcessBuilder::retry_for) [`retry_for_any`](ProcessBuilder::retry_for_any) [`restart_for`](ProcessBuilder::restart_for) and their settings, in [`ProcessSettings`] for a whole context |
//! | run it for many items | [`process_map`](Context::process_map) with [`count`](MapBuilder::count), [`progress`](MapBuilder::progress), [`start`](MapBuilder::start) or [`submit`](MapBuilder::submit); [`pull_results_for_task`](Context::pull_results_for_task) |
//! | run it for updates | [`call_when_change`](Context::call_when_change) [`_change_except`](Context::call_when_change_except) [`call_when`](Context::call_when) [`_equal`](Context::call_when_equal) [`_not_equal`](Context::call_when_not_equal) [`_none`](Context::call_when_none) [`_not_none`](Context::call_when_not_none) [`_available`](Context::call_when_available) |
//! | hear of signals | [`signal_to_error`] [`restore_signal`] |
//!
//! # Errors
//!
//! One enum, [`Error`], with a variant for each cause; messages carry the numbers and the way out. Those that a program
//! deals with, instead of passing them on:
//!
//! | variant | what to do |
//! |---|---|
//! | [`Lagged`](Error::Lagged) | note what was missed and call again: it goes on with the oldest update that there is |
//! | [`Timeout`](Error::Timeout) | look whether it still makes sense to wait, and call again |
//! | [`Full`](Error::Full) | remove keys or drop snapshots; it says which processes hold old ones |
//! | [`LockTimeout`](Error::LockTimeout) | try again; if its owner is stopped, continue it or end it |
//! | [`NotFound`](Error::NotFound), [`AlreadyExists`](Error::AlreadyExists) | [`State::open_or_create`] takes either |
//! | [`WrongType`](Error::WrongType) | read a [`Value`], and look |
//! | [`Cancelled`](Error::Cancelled) | end, or reset the [`Canceller`] and call again |
//! | [`Closed`](Error::Closed) | end: somebody has called [`State::close`] |
//! | [`Signal`](Error::Signal) | do what the signal asks for; the call may be made again |
//! | [`ProcessWait`](Error::ProcessWait) | look at its source, which is what went wrong in the process |
//!
//! ```
//! use std::time::Duration;
//! use zproc::{Error, State};
//!
//! /// The next update of a key, whatever was missed before it; `None` if nothing happens for too long.
//! fn next(state: &State, key: &str) -> zproc::Result<Option<u64>> {
//!     loop {
//!         return match state.watch().timeout(Duration::from_millis(10)).get_when_change([key]) {
//!             Ok(now) => now.get(key),
//!             Err(Error::Lagged { missed }) => {
//!                 eprintln!("{missed} updates were missed");
//!                 continue;
//!             }
//!             Err(Error::Timeout) => Ok(None),
//!             Err(error) => Err(error),
//!         };
//!     }
//! }
//!
//! let state = State::anonymous()?;
//! let other = state.clone();
//! for n in 1..=1000 {
//!     other.insert("n", n)?;
//! }
//! assert!(next(&state, "n")? > Some(1));
//! assert_eq!(next(&state, "m")?, None);
//! # Ok::<(), Error>(())
//! ```
//!
//! # Living with it
//!
//! [`State::status`] tells who has a state open, who holds its lock, who holds snapshots, who lags, and what dead processes
//! left, without waiting for anybody; [`State::stats`] counts what lies in memory, [`State::verify`] checks it, and
//! [`State::reap`] cleans up. [`doctor`] says why a state cannot be opened, and what to do. [`State::save`] and
//! [`State::load`] carry a state over a reboot, which shared memory does not survive.
//!
//! **Events** go to whoever listens by the crate `tracing`:
//!
//! | event | level, target | fields |
//! |---|---|---|
//! | a writer died inside, and its lock was taken over | WARN `shm_state` | `namespace`, empty for the lock for new ones; `pid`, `tid`: 0 if not known |
//! | what a dead writer left was finished | INFO `shm_state` | `namespace`, `seq`, `commit`, `maintenance`, `free_lists`, `chunks`: what there was to do |
//! | snapshots of dead processes were given back | INFO `shm_state` | `namespace`, `seats`, `pins` |
//! | history was given up because memory is short | INFO `shm_state` | `namespace`, `from`, `to`: the oldest update that watchers can read |
//! | more memory was taken | DEBUG `shm_state` | `from`, `to`: bytes |
//! | a watcher fell out of the history | WARN `zproc` | `namespace`, `missed`, `oldest` |
//! | a process died and will be restarted | WARN `zproc` | `process`, `pid`, `signal`, `delay` |
//! | a server was started, or stopped | INFO `zproc` | `address`, `pid` |
//! | a client was refused by a server of this process | WARN `zproc` | `user`, `pid` of another user; else `failure` |
//! | a server of this process is short of descriptors or threads | WARN `zproc` | `error` |
//!
//! They are told after the update in which they happened, when its lock is free again: a listener may take its time, and use
//! the same state. If it panics, the call panics whose update is made by then. None is told from the paths that are
//! taken when nothing out of the ordinary happens.
//!
//! # What it is not
//!
//! It is for one machine, and one user and PID namespace of it. It is memory: gone after a reboot. Whoever may write it is
//! trusted to mean no harm. Linux on x86-64 is what is tested; see the project's README.
//!
//! # Inside
//!
//! The layers, each of which only knows those after it: `server` → `context`, `process` and `map`, which know each other →
//! `doctor`, `dump` → `state` → `watch`, `handle`, `transaction`, `ping` → `access` → `snapshot` → `store` → `over_socket` →
//! `link`, `notify`, `shared`, `trail` → `wire`, `canceller` → `view` → `validated`; `codec` → `value`, `key` → `os`, `error`. Only
//! `validated` has unsafe code, in two places. Below them all is the engine, the crate [`shm_state`], and beside it
//! `zproc_spawn`, which starts processes.

#![deny(unsafe_code)]

mod access;
mod address;
mod canceller;
mod codec;
mod context;
mod doctor;
mod dump;
mod error;
mod handle;
pub mod key;
mod link;
mod map;
mod notify;
mod origin;
mod os;
mod over_socket;
mod ping;
mod process;
mod remote;
mod secret;
#[cfg(any(doc, doctest))]
pub mod semantics;
mod server;
mod shared;
pub mod signals;
mod snapshot;
mod state;
mod store;
mod trail;
mod transaction;
mod transport;
mod validated;
pub mod value;
mod view;
mod watch;
mod wire;

pub use canceller::Canceller;
pub use context::{Context, ContextBuilder, Factory, Handled, Handler, HandlerBuilder, TargetList};
pub use doctor::{Diagnosis, Finding, Severity, doctor};
pub use dump::{Dump, DumpFormat};
pub use error::{Error, Result};
pub use handle::Handle;
pub use key::{FromKey, Key, ToKey};
pub use map::{MapBuilder, MapResults, MapTarget, Progress, Task, TaskResults};
pub use ping::{Ping, Pong, ping};
#[doc(hidden)]
pub use process::init_before_main as __init_before_main;
pub use process::{
    AnyProcess, Arguments, Backend, Erased, Fallible, Given, Missing, Plain, Process, ProcessBuilder, ProcessSettings,
    Retry, Returned, Target, WithContext, WithNothing, WithState, exit, init,
};
pub use remote::RemoteError;
/// The version of rkyv that values are archived with. Types of a program that does not depend on rkyv itself derive its
/// traits with `#[rkyv(crate = zproc::rkyv)]`.
pub use rkyv;
pub use server::{Server, ServerBuilder, start_server};
pub use shm_state::{
    Backing, Leftovers, Life, LockHolder, LockStatus, NamespaceStats, NamespaceStatus, Participant, PinInfo, Reaped,
    Report, Stats, Status, Strategy as WaitStrategy, WatcherInfo,
};
pub use signals::{restore_signal, signal_to_error};
pub use snapshot::Snapshot;
pub use state::{Builder, State, atomic, remove};
pub use transaction::Transaction;
pub use transport::Transport;
#[doc(hidden)]
pub use value::archived::for_macros as __private;
pub use value::{
    ArchivedValue, DecodeError, EncodeError, Encoded, Encoder, Entries, FromValue, Int, Items, ListEncoder,
    MAX_NESTING, Map, MapEncoder, OwnedArchive, Rkyv, RkyvType, Serde, ToValue, VALUE_FORMAT, Value, from_value,
    kind_name, tag, to_value,
};
pub use view::{View, Viewable};
#[cfg(feature = "tokio")]
pub use watch::UpdateStream;
pub use watch::{EventFeed, Ready, Select, Update, Updates, Verdict, Watch, Writer, set_process_name};
