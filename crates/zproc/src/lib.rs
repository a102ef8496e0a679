//! State that the processes of one machine share.
//!
//! A [`State`] is a dict in shared memory. Any process reads it without a lock, changes it atomically, and sleeps until
//! it changes:
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
//!
//! They are told after the update in which they happened, when its lock is free again: a listener may take its time, and use
//! the same state. If it panics, the call panics whose update is made by then. None is told from the paths that are
//! taken when nothing out of the ordinary happens.
//!
//! # Layers
//!
//! Each only knows those after it: `doctor`, `dump` → `state` → `watch`, `handle`, `transaction` → `access` → `snapshot` →
//! `codec` → `value`, `key` → `error`.

#![forbid(unsafe_code)]

mod access;
mod address;
mod codec;
mod doctor;
mod dump;
mod error;
mod handle;
pub mod key;
mod snapshot;
mod state;
mod transaction;
pub mod value;
mod watch;

pub use doctor::{Diagnosis, Finding, Severity, doctor};
pub use dump::{Dump, DumpFormat};
pub use error::{Error, Result};
pub use handle::Handle;
pub use key::{FromKey, Key, ToKey};
pub use shm_state::{
    Backing, Leftovers, Life, LockHolder, LockStatus, NamespaceStats, NamespaceStatus, Participant, PinInfo, Reaped,
    Report, Stats, Status, Strategy as WaitStrategy, WatcherInfo,
};
pub use snapshot::Snapshot;
pub use state::{Builder, State, atomic, remove};
pub use transaction::Transaction;
pub use value::{
    DecodeError, EncodeError, Encoded, Encoder, Entries, FromValue, Int, Items, ListEncoder, MAX_NESTING, Map,
    MapEncoder, ToValue, Value, kind_name, tag,
};
pub use watch::{Update, Updates, Verdict, Watch, Writer, set_process_name};
