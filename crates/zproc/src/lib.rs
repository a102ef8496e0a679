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
//! The layers, each of which only knows those after it: `state` → `watch`, `handle`, `transaction` → `access` →
//! `snapshot` → `codec` → `value`, `key` → `error`.

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
