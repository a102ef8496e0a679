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
//! What watchers promise is told in [`docs::watching`].
//!
//! The layers, each of which only knows those after it: `state` → `watch`, `handle`, `transaction` → `access`, `notify`
//! → `snapshot`, `canceller` → `codec` → `value`, `key` → `os`, `error`.

#![forbid(unsafe_code)]

mod access;
mod address;
mod canceller;
mod codec;
pub mod docs;
mod error;
mod handle;
pub mod key;
mod notify;
mod os;
mod snapshot;
mod state;
mod transaction;
pub mod value;
mod watch;

pub use canceller::Canceller;
pub use error::{Error, Result};
pub use handle::Handle;
pub use key::{FromKey, Key, ToKey};
pub use shm_state::{NamespaceStats, PinInfo, Report, Stats, Strategy as WaitStrategy, WatcherInfo};
pub use snapshot::Snapshot;
pub use state::{Builder, State, atomic, remove};
pub use transaction::Transaction;
pub use value::{
    DecodeError, EncodeError, Encoded, Encoder, Entries, FromValue, Int, Items, ListEncoder, MAX_NESTING, Map,
    MapEncoder, ToValue, Value, kind_name, tag,
};
#[cfg(feature = "tokio")]
pub use watch::UpdateStream;
pub use watch::{EventFeed, Ready, Select, Update, Updates, Verdict, Watch};
