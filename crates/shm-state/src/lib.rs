//! A multi-version dict in memory that processes of one Linux machine share.
//!
//! Any process opens an [`Arena`], reads a [`Namespace`] of it without a lock, changes it in [`Transaction`]s, and
//! sleeps until it changes. Any of them may be SIGKILLed at any instruction; the others go on. Keys and values are
//! bytes with a type tag; the crate `zproc` puts types on top.
//!
//! From the outside in: `store` (arenas) and `namespace` are what users see; `write`, `overwrite` and `commit` make a
//! commit, `record` publishes it and finishes a dead writer's; `read`, `wait`, `sleep` and `quiet` are the readers'
//! side; `table`, `heap` and `reclaim` own index and memory; `pin`, `event`, `cancel`, `log` and `lock` are protocols
//! of a few words each, which know nothing of the rest; `space` resolves one namespace, `arena` turns offsets into
//! references, `layout` says what lies where, and only `sync` and `sys` touch atomics and the system.

#[cfg(not(all(
    target_os = "linux",
    target_endian = "little",
    any(target_arch = "x86_64", target_arch = "aarch64")
)))]
compile_error!(
    "shm-state runs on 64-bit little-endian Linux (x86-64 and aarch64): it relies on Linux futexes, robust lists, \
     pidfds and memfds, and on 64-bit atomics whose low half the kernel can address"
);

mod arena;
mod cancel;
mod chunks;
mod commit;
mod directory;
mod error;
mod event;
mod fault;
mod heap;
mod key;
mod layout;
mod lock;
mod log;
#[cfg(all(loom, test))]
mod models;
mod namespace;
mod overwrite;
mod participant;
mod pin;
mod pinned;
mod quiet;
mod read;
mod reclaim;
mod record;
mod seats;
#[cfg(feature = "shared_memory")]
mod shared_memory;
mod sleep;
mod space;
mod stats;
mod store;
mod sync;
mod sys;
mod table;
mod verify;
mod wait;
mod walk;
mod write;

pub use cancel::{Cancel, CancelWord, Watched};
pub use error::{Error, PinInfo, Result};
#[cfg(feature = "planted-faults")]
pub use fault::{Fault, plant};
pub use key::{Key, KeyRef, Payload};
pub use log::{Change, Record};
pub use namespace::{EntryRef, Filter, Namespace, Next, Place};
pub use pinned::Pinned;
pub use read::Small;
pub use sleep::{Events, MOST_WORDS, SLICE, Sleep, WeakNamespace};
pub use space::History;
pub use stats::{NamespaceStats, Stats, WatcherInfo};
pub use store::{Arena, ArenaOptions};
#[cfg(feature = "kill-points")]
pub use sync::{kill_at, kill_points_passed, stop_at, without_backstops};
pub use sys::fork::PerProcess;
pub use sys::time::Deadline;
pub use verify::Report;
pub use wait::{Ended, On, Strategy};
pub use write::Transaction;
