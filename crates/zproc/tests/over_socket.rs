//! The tests of states once more, over sockets: each state of theirs is used through a server instead of mapped memory.

#![allow(clippy::duplicate_mod, reason = "each of them has its own support")]

#[path = "atomic.rs"]
mod atomic;
#[path = "dict.rs"]
mod dict;
#[path = "dump.rs"]
mod dump;
#[path = "handle.rs"]
mod handle;
#[path = "model.rs"]
mod model;
#[path = "rkyv_values.rs"]
mod rkyv_values;
#[path = "serde_values.rs"]
mod serde_values;
#[path = "snapshot.rs"]
mod snapshot;
#[path = "views.rs"]
mod views;
#[path = "watch_cancel.rs"]
mod watch_cancel;
#[path = "watch_changes.rs"]
mod watch_changes;
#[path = "watch_conditions.rs"]
mod watch_conditions;
#[path = "watch_event_fd.rs"]
mod watch_event_fd;
#[path = "watch_select.rs"]
mod watch_select;
#[path = "watch_settings.rs"]
mod watch_settings;
#[cfg(feature = "tokio")]
#[path = "watch_stream.rs"]
mod watch_stream;
#[path = "watch_waiting.rs"]
mod watch_waiting;
#[path = "wrap.rs"]
mod wrap;
