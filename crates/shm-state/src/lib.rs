//! A multi-version dict in memory that processes of one Linux machine share.
//!
//! Any process opens an [`Arena`], reads a [`Namespace`] of it without a lock, changes it in [`Transaction`]s, and
//! sleeps until it changes. Any of them may be SIGKILLed at any instruction; the others go on. Keys and values are
//! bytes with a type tag; the crate `zproc` puts types on top.
//!
//! ```
//! use shm_state::{Arena, ArenaOptions, Deadline, Filter, KeyRef, Next};
//!
//! let arena = Arena::anonymous(&ArenaOptions::default())?; // or Arena::open_or_create(name, …), in each process
//! let namespace = arena.namespace("default")?;
//! let (door, lamp) = (KeyRef::new(1, b"door"), KeyRef::new(1, b"lamp"));
//!
//! let mut transaction = namespace.begin(Deadline::never())?;
//! transaction.put(&door, 1, b"open")?;
//! transaction.put(&lamp, 1, b"on")?;
//! assert_eq!(transaction.commit()?, 1);
//!
//! let before = namespace.pin()?; // the state as it is now, for as long as this lives
//! namespace.put(&door, None, 1, b"shut", Deadline::never())?; // a commit of one key
//! assert_eq!(namespace.get(&door)?.expect("it is there").bytes(), b"shut");
//! assert_eq!(before.get(&door)?.expect("it is there").bytes(), b"open");
//!
//! // The log, which watchers read: the first commit behind 0 that changes the lamp.
//! let lamps = [lamp.to_owned()];
//! let found = namespace.next_match(&mut 0, namespace.seq(), Filter::Keys(&lamps), false, None)?;
//! assert_eq!(found, Next::Match(1));
//! # Ok::<(), shm_state::Error>(())
//! ```
//!
//! From the outside in: `store` (arenas) and `namespace` are what users see; `write`, `overwrite` and `commit` make a
//! commit, `record` publishes it and finishes a dead writer's; `read`, `copy`, `wait`, `sleep` and `quiet` are the readers'
//! side; `table`, `heap` and `reclaim` own index and memory; `pin`, `event`, `cancel`, `log` and `lock` are protocols of a
//! few words each, which know nothing of the rest; `space` resolves one namespace, `arena` turns offsets into references,
//! `layout` says what lies where, and only `sync` and `sys` touch atomics and the system.

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
mod copy;
mod directory;
mod error;
mod event;
mod fault;
mod heap;
mod held;
mod interrupt;
mod key;
mod layout;
mod lock;
mod log;
#[cfg(all(loom, test))]
mod models;
mod namespace;
mod news;
mod overwrite;
mod owners;
mod participant;
mod pin;
mod pinned;
mod quiet;
mod read;
mod reclaim;
mod record;
mod resident;
mod seats;
#[cfg(feature = "shared_memory")]
mod shared_memory;
mod signature;
mod sleep;
mod space;
mod stats;
mod status;
mod store;
mod sync;
mod sys;
mod table;
mod verify;
mod wait;
mod walk;
mod write;
mod writers;

pub use cancel::{Cancel, CancelWord, Watched};
pub use copy::ShortRoom;
pub use error::{Error, PinInfo, Result};
pub use event::SLICE;
#[cfg(feature = "planted-faults")]
pub use fault::{Fault, plant};
pub use held::Held;
pub use interrupt::interrupt_lock_waits;
pub use key::{Key, KeyRef, Payload};
pub use log::{Change, Changes, Record};
pub use namespace::{EntryRef, Filter, FixedSize, Namespace, Next, NotAtHand, Place};
pub use owners::WatcherInfo;
pub use pinned::{InPlace, PAYLOAD_OFFSET, Pinned, Position, VersionId};
pub use read::Small;
pub use resident::Residency;
pub use sleep::{Events, Sleep, WeakNamespace};
pub use space::History;
pub use stats::{NamespaceStats, Stats};
pub use status::{Backing, Leftovers, LockHolder, LockStatus, NamespaceStatus, Participant, Reaped, Status};
pub use store::{Arena, ArenaFile, ArenaOptions, FileSystem, Head, Inspection, Surroundings, set_process_name};
#[cfg(feature = "kill-points")]
pub use sync::{kill_at, kill_points_passed, stop_at, without_backstops};
pub use sys::fork::PerProcess;
pub use sys::futex::MOST_WORDS;
pub use sys::process::Life;
pub use sys::time::Deadline;
pub use sys::unshared::Unshared;
pub use verify::Report;
pub use wait::{Ended, On, Strategy};
pub use write::Transaction;
