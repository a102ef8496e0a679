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
//! `snapshot` → `view` → `validated`; `codec` → `value`, `key` → `error`. Only `validated` has unsafe code, in two places.

#![deny(unsafe_code)]

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
mod validated;
pub mod value;
mod view;
mod watch;

pub use canceller::Canceller;
pub use error::{Error, Result};
pub use handle::Handle;
pub use key::{FromKey, Key, ToKey};
/// The version of rkyv that values are archived with. Types of a program that does not depend on rkyv itself derive its
/// traits with `#[rkyv(crate = zproc::rkyv)]`.
pub use rkyv;
pub use shm_state::{NamespaceStats, PinInfo, Report, Stats, Strategy as WaitStrategy, WatcherInfo};
pub use snapshot::Snapshot;
pub use state::{Builder, State, atomic, remove};
pub use transaction::Transaction;
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
