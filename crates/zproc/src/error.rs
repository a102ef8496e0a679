//! What can go wrong, one variant a cause, each message with its numbers and the way out.

use std::error::Error as StdError;
use std::path::PathBuf;

use shm_state::PinInfo;
use thiserror::Error;

use crate::key::Key;
use crate::origin;
use crate::remote::RemoteError;
use crate::signals;
use crate::value::{DecodeError, EncodeError};

/// The result of the calls of this crate.
///
/// ```
/// fn count(state: &zproc::State) -> zproc::Result<u64> {
///     Ok(state.get("count")?.unwrap_or(0))
/// }
/// assert_eq!(count(&zproc::State::anonymous()?)?, 0);
/// # Ok::<(), zproc::Error>(())
/// ```
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a call failed.
///
/// ```
/// use zproc::{Error, State};
///
/// let state = State::anonymous()?;
/// state.insert("door", "open")?;
/// let error = state.get::<i64>("door").unwrap_err();
/// assert!(matches!(error, Error::WrongType { .. }));
/// assert_eq!(error.to_string(), r#"the value of "door": expected i64, found str "open""#);
/// # Ok::<(), Error>(())
/// ```
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// There is no state at that address.
    #[error("there is no state at {address}: create it first, or use open_or_create")]
    NotFound {
        /// The address that was asked for.
        address: String,
    },
    /// There is a state at that address already.
    #[error("there is a state at {address} already: open it, or remove it first")]
    AlreadyExists {
        /// The address that was asked for.
        address: String,
    },
    /// The address is none that this version understands.
    #[error("{address:?} is no address of a state: {reason}")]
    InvalidAddress {
        /// The address that was asked for.
        address: String,
        /// What is wrong with it and what to do.
        reason: String,
    },
    /// What is at the address is no state, or not one that this process may use.
    #[error("{address} cannot be used: {reason}")]
    Incompatible {
        /// The address.
        address: String,
        /// What is wrong with it and what to do.
        reason: String,
    },
    /// The shared memory holds bytes that no correct process writes.
    #[error("the state is corrupt: {what}; remove it and create it anew")]
    Corrupt {
        /// What was found, and where.
        what: String,
    },
    /// There is no room left. What is there can be read, and keys can be removed.
    ///
    /// ```
    /// use zproc::{Builder, Error};
    ///
    /// let state = Builder::anonymous().capacity(1 << 20).create()?;
    /// state.insert("log", "")?;
    /// let old = state.snapshot()?; // keeps what it shows
    /// state.insert("log", "more")?;
    /// let Err(Error::Full { requested, capacity, pins, .. }) = state.insert("large", vec![0u8; 2 << 20]) else {
    ///     panic!("there is room for 1 MiB");
    /// };
    /// assert!(requested > capacity);
    /// assert_eq!((pins[0].pid, pins[0].lag), (std::process::id(), 1));
    /// # drop(old);
    /// # Ok::<(), Error>(())
    /// ```
    #[error("the state is full: {requested} bytes asked for, {free} bytes free but in no block that large, {committed} \
             of {capacity} bytes in use{}; remove keys, drop snapshots, or create it with a larger capacity",
            pinned_by(.pins))]
    Full {
        /// Bytes of the block that could not be had.
        requested: u64,
        /// Bytes in free blocks of the namespace.
        free: u64,
        /// Bytes of memory in use.
        committed: u64,
        /// Bytes that may be in use.
        capacity: u64,
        /// Snapshots that keep old values alive.
        pins: Vec<PinInfo>,
    },
    /// The value is not of the type that was asked for.
    #[error("the value of {key}: {source}")]
    WrongType {
        /// The key.
        key: Key,
        /// Both types.
        source: DecodeError,
    },
    /// There is nothing to modify; see [`Transaction::modify_or`](crate::Transaction::modify_or).
    #[error("there is no key {key} to modify: insert it first, or use modify_or")]
    MissingKey {
        /// The key.
        key: Key,
    },
    /// A key or a value has no form as bytes.
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// A value that is under no key cannot be read as the type that was asked for.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// A watcher was too slow. It is told so once and goes on from the oldest update that there is.
    ///
    /// Whoever keeps a copy of the state takes a snapshot then, and goes on with the updates behind it, by
    /// [`State::updates_since`](crate::State::updates_since).
    ///
    /// ```
    /// use zproc::{Builder, Error};
    ///
    /// let state = Builder::anonymous().history(10, 1 << 20).create()?;
    /// let other = state.clone();
    /// for n in 1..=100 {
    ///     other.insert("cookies", n)?;
    /// }
    /// let Err(Error::Lagged { missed }) = state.get_when_any_change() else { panic!("there are 100") };
    /// assert_eq!(state.get_when_any_change()?.seq(), missed + 1);
    /// # Ok::<(), Error>(())
    /// ```
    #[error(
        "{missed} updates fell out of the history before this watcher saw them: call it again to go on from the \
             oldest there is; to miss none, watch more often or create the state with a longer history"
    )]
    Lagged {
        /// How many updates it missed.
        missed: u64,
    },
    /// Nothing that matches happened in time; see [`Watch::timeout`](crate::Watch::timeout).
    #[error("no update matched before the timeout: call again to go on waiting; nothing was consumed")]
    Timeout,
    /// The wait was ended by its [`Canceller`](crate::Canceller).
    #[error(
        "the wait was cancelled, and consumed nothing: call Canceller::reset and then the watcher again to go on where \
             it was"
    )]
    Cancelled,
    /// The writer lock was not had in time; see [`Builder::lock_timeout`](crate::Builder::lock_timeout).
    #[error(
        "the writer lock was not free in time: {} holds it; wait longer, or, if it is stopped, continue it or end it: its \
             lock is then taken over",
        holder(*.pid, *.tid)
    )]
    LockTimeout {
        /// The process that holds the lock, 0 when unknown.
        pid: u32,
        /// The thread that holds the lock.
        tid: u32,
    },
    /// A state was written to, or waited on, inside of `atomic`.
    ///
    /// ```
    /// use zproc::{Error, State};
    ///
    /// let state = State::anonymous()?;
    /// let result = state.atomic(|dict| {
    ///     dict.insert("a", 1)?; // this is the way
    ///     state.insert("b", 2) // and not this
    /// });
    /// assert!(matches!(result, Err(Error::NestedAtomic)));
    /// assert!(state.is_empty()?);
    /// # Ok::<(), Error>(())
    /// ```
    #[error(
        "this thread is inside of atomic, where states can only be read, and over a socket the one that is changed not even \
             that, since it would not be noticed if what was read changes: read and make changes through the transaction \
             that its closure was given; write to other states, and wait, after it"
    )]
    NestedAtomic,
    /// The process was forked after the state was opened.
    #[error("the state was opened before this process was forked: open it again in the child")]
    Forked,
    /// The state was closed.
    #[error("the state was closed: open it again, or use a clone of it")]
    Closed,
    /// No server listens at the address.
    #[error("no server listens at {address}: {reason}; start one there")]
    NoServer {
        /// The address that was asked for.
        address: String,
        /// What is there instead.
        reason: String,
    },
    /// A living server listens at the address already.
    #[error("{address} is in use: {reason}; stop it, or choose another address")]
    AddressInUse {
        /// The address that was asked for.
        address: String,
        /// Who uses it, as far as that is known.
        reason: String,
    },
    /// The server does not let this process in, or has not proved that it is the right one.
    #[error("{address} denies access: {reason}")]
    AccessDenied {
        /// The address of the server.
        address: String,
        /// What is missing, and what to do.
        reason: String,
    },
    /// The connection to the server is lost, or is none that can be used.
    #[error("the connection to {address} failed: {reason}")]
    Disconnected {
        /// The address of the server.
        address: String,
        /// What happened.
        reason: String,
    },
    /// The state was opened for reading only; see [`Builder::read_only`](crate::Builder::read_only).
    #[error("the state was opened for reading only: open it without read_only to write to it")]
    ReadOnly,
    /// The call needs the memory of the state mapped, and the state is used over a socket; see
    /// [`State::transport`](crate::State::transport).
    #[error(
        "the state is used over a socket, and this call needs its memory mapped: open it by shm://NAME, or without \
             transport=socket where the memory may be mapped"
    )]
    NotMapped,
    /// Other writers changed what a transaction had read, again and again: see [`State::atomic`](crate::State::atomic).
    #[error(
        "the transaction was run {attempts} times, and each time others had changed by then what it had read: try again \
             when there is less to do, read less in it, or map the state"
    )]
    Conflict {
        /// How often it was run.
        attempts: u32,
    },
    /// A file could not be read or written.
    #[error("{doing} {} failed: {source}", .path.display())]
    File {
        /// What was tried.
        doing: &'static str,
        /// The file, or its directory.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// What was to be loaded or restored is no dump that this program can use.
    #[error("this dump cannot be used: {reason}")]
    Dump {
        /// What is wrong with it and what to do.
        reason: String,
    },
    /// The program has not called [`zproc::init`](crate::init()), which processes need.
    #[error(
        "zproc::init() was not called: make it the first statement of main (in a test binary, put \
             zproc::init_tests!() at the top); without it a child would run the program from its beginning"
    )]
    NotInitialised,
    /// A process did not return a value; see [`Process::wait`](crate::Process::wait).
    ///
    /// ```
    /// # #![allow(clippy::needless_doctest_main)]
    /// use zproc::{Context, Error, Result};
    ///
    /// fn main() -> Result<()> {
    ///     zproc::init();
    ///     let ctx = Context::new()?;
    ///     let baker = ctx.process(|| Err::<(), _>(Error::other("out of flour"))).start()?;
    ///     let Err(Error::ProcessWait { exit_code, source: Some(source), .. }) = baker.wait() else { panic!() };
    ///     assert_eq!((exit_code, source.message()), (1, "out of flour"));
    ///     Ok(())
    /// }
    /// ```
    #[error("process {pid} {}", ended(*.exit_code, .source.as_deref()))]
    ProcessWait {
        /// Its exit code; −N if it was ended by signal N.
        exit_code: i32,
        /// Its process id; 0 if it could not be started.
        pid: u32,
        /// The error or panic that ended it; none if it ended without a word.
        source: Option<Box<RemoteError>>,
    },
    /// An error or a panic in another process, where that process goes on: see
    /// [`Context::process_map`](crate::Context::process_map).
    #[error(transparent)]
    Remote(Box<RemoteError>),
    /// A signal came while the call waited, or before it; see [`signal_to_error`](crate::signal_to_error).
    #[error("the wait was ended by signal {signal}, and consumed nothing: call it again to go on waiting")]
    Signal {
        /// The number of the signal.
        signal: i32,
    },
    /// The process was used in a way that does not fit what it is doing.
    #[error("{reason}")]
    Process {
        /// What was wrong, and what to do.
        reason: String,
    },
    /// The target of a process cannot be found in another process.
    #[error("the target {name} cannot be run in another process: {reason}")]
    Target {
        /// Its name.
        name: String,
        /// Why, and what to do.
        reason: String,
    },
    /// Arguments or results could not be carried to another process.
    #[error("{what} of type {type_name} cannot be carried between processes: {reason}")]
    Carry {
        /// What was to be carried.
        what: &'static str,
        /// Its type.
        type_name: String,
        /// What serde said.
        reason: String,
    },
    /// Some other failure of the store or the system.
    #[error(transparent)]
    Engine(shm_state::Error),
    /// A failure of the caller's own, from a closure that it passed; made by [`Error::other`].
    #[error(transparent)]
    Custom(Box<dyn StdError + Send + Sync>),
}

impl Error {
    /// An error of one's own, to fail with in a closure that is passed to this crate.
    ///
    /// ```
    /// use zproc::{Error, State};
    ///
    /// let state = State::anonymous()?;
    /// let result = state.atomic(|dict| {
    ///     dict.insert("order", 12)?;
    ///     Err::<(), _>(Error::other("out of flour"))
    /// });
    /// assert_eq!(result.unwrap_err().to_string(), "out of flour");
    /// assert!(!state.contains_key("order")?);
    /// # Ok::<(), Error>(())
    /// ```
    #[track_caller]
    pub fn other<E: Into<Box<dyn StdError + Send + Sync>>>(error: E) -> Self {
        let error = error.into();
        origin::note::<E>(&*error);
        Self::Custom(error)
    }

    /// Puts the address in place of what the engine knows the state by.
    pub(crate) fn at(address: &str) -> impl Fn(shm_state::Error) -> Self {
        move |error| {
            let address = address.to_owned();
            match error {
                shm_state::Error::NotFound { .. } => Self::NotFound { address },
                shm_state::Error::AlreadyExists { .. } => Self::AlreadyExists { address },
                shm_state::Error::InvalidName { reason, .. } => Self::InvalidAddress {
                    address,
                    reason: format!("{reason}; write shm://NAME"),
                },
                shm_state::Error::Incompatible { reason, .. } => Self::Incompatible { address, reason },
                other => other.into(),
            }
        }
    }
}

impl From<Box<dyn StdError + Send + Sync>> for Error {
    fn from(error: Box<dyn StdError + Send + Sync>) -> Self {
        origin::forget(&*error);
        Self::Custom(error)
    }
}

impl From<shm_state::Error> for Error {
    #[cold]
    fn from(error: shm_state::Error) -> Self {
        use shm_state::Error as Engine;
        match error {
            Engine::NotFound { name } => Self::NotFound { address: name },
            Engine::AlreadyExists { name } => Self::AlreadyExists { address: name },
            Engine::Incompatible { name, reason } => Self::Incompatible { address: name, reason },
            Engine::Corrupt { what } => Self::Corrupt { what },
            Engine::Full {
                requested,
                free,
                committed,
                capacity,
                pins,
            } => Self::Full {
                requested,
                free,
                committed,
                capacity,
                pins,
            },
            // A signal that is an event ends these waits, too.
            Engine::LockTimeout { pid, tid } => signals::pending().unwrap_or(Self::LockTimeout { pid, tid }),
            Engine::Deadlock => Self::NestedAtomic,
            Engine::Forked => Self::Forked,
            Engine::ReadOnly => Self::ReadOnly,
            other => Self::Engine(other),
        }
    }
}

/// Who holds a lock; a pid of 0 is unknown.
fn holder(pid: u32, tid: u32) -> String {
    match pid {
        0 => format!("thread {tid} of a process that is not known"),
        pid => format!("process {pid} (thread {tid})"),
    }
}

/// How a process ended that returned no value.
fn ended(exit_code: i32, source: Option<&RemoteError>) -> String {
    let how = match exit_code {
        0 => "ended without a value".to_owned(),
        ..0 => format!("was ended by signal {}", exit_code.unsigned_abs()),
        code => format!("ended with exit code {code}"),
    };
    match source {
        Some(source) => format!("{how}: {source}"),
        None => how,
    }
}

fn pinned_by(pins: &[PinInfo]) -> String {
    let list: Vec<String> = pins
        .iter()
        .take(4)
        .map(|pin| {
            let name = pin
                .name
                .as_deref()
                .map_or_else(String::new, |name| format!(" ({name})"));
            format!(
                "process {}{name} holds a snapshot that is {} updates old",
                pin.pid, pin.lag
            )
        })
        .collect();
    match pins.len() {
        0 => String::new(),
        1..=4 => format!(" ({})", list.join("; ")),
        all => format!(" ({}; and {} more)", list.join("; "), all - list.len()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_owner_of_a_lock_is_named_as_far_as_it_is_known() {
        let text = |pid| Error::LockTimeout { pid, tid: 7 }.to_string();
        assert!(text(5).contains("process 5 (thread 7) holds it"), "{}", text(5));
        assert!(
            text(0).contains("thread 7 of a process that is not known holds it"),
            "{}",
            text(0)
        );
    }
}
