//! What the doctor may find: as data, in words, and what to do.

use std::fmt;

use shm_state::{Life, LockStatus, PinInfo, WatcherInfo};

/// How bad something is.
///
/// ```
/// use zproc::Severity;
///
/// assert!(Severity::Fine < Severity::Note && Severity::Warning < Severity::Fatal);
/// assert_eq!(Severity::Warning.to_string(), "warning");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// As it should be.
    Fine,
    /// Nothing to do, but good to know.
    Note,
    /// It works, but not as well as it should, or not for long.
    Warning,
    /// The state cannot be used by this process.
    Fatal,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Fine => "fine",
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Fatal => "fatal",
        })
    }
}

/// Something that the doctor looked at.
///
/// Displayed, it is a sentence; [`Finding::severity`] says how bad it is, and [`Finding::remedy`] what helps.
///
/// ```
/// use zproc::{Finding, Severity};
///
/// let finding = Finding::Version { found: 1, own: 3 };
/// assert_eq!(finding.severity(), Severity::Fatal);
/// assert_eq!(finding.to_string(), "its format has version 1, and this program reads version 3");
/// assert!(finding.remedy("shm://kitchen").unwrap().contains("remove"));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Finding {
    /// There is nothing at the address.
    Missing,
    /// What is there is a link, a directory or a device.
    NoFile,
    /// Whose the file is, and as whom this process runs.
    Owner {
        /// The user whom the file belongs to.
        owner: u32,
        /// The user that this process acts as.
        user: u32,
    },
    /// Who may read and write the file.
    Mode {
        /// The permissions.
        mode: u32,
        /// They are enough for this process.
        enough: bool,
    },
    /// The file cannot be read.
    Unreadable {
        /// The system's answer.
        reason: String,
    },
    /// Whether the file begins as a state does. One that is too short to have a head does not.
    Magic {
        /// It does.
        is_state: bool,
        /// Bytes of the file.
        size: u64,
    },
    /// The version of the format.
    Version {
        /// That of the file.
        found: u64,
        /// The one that this program reads.
        own: u64,
    },
    /// Whether the structures inside lie where this program looks for them.
    Layout {
        /// They do.
        same: bool,
    },
    /// Whether the head of the file is undamaged.
    Checksum {
        /// It is.
        intact: bool,
    },
    /// The size of the file, which should be the capacity of the state.
    Size {
        /// Bytes of the file.
        size: u64,
        /// Bytes that the state may grow to.
        capacity: u64,
    },
    /// Whether it was made since the machine was started.
    Boot {
        /// It was; `None` if that cannot be told without /proc.
        same: Option<bool>,
    },
    /// The PID namespace, in which process ids mean something.
    PidNamespace {
        /// That of the state.
        found: u64,
        /// That of this process; `None` if that cannot be told without /proc.
        own: Option<u64>,
    },
    /// Whether the memory is there that is said to be.
    Backing {
        /// Bytes that are said to be backed by memory.
        committed: u64,
        /// Bytes that are.
        backed: u64,
    },
    /// The file system, which must keep locks of files that are only mapped, and have room to grow.
    FileSystem {
        /// Its kind.
        kind: &'static str,
        /// Its bytes; 0 if it has no limit of its own.
        size: u64,
        /// The bytes that it has left.
        free: u64,
        /// Bytes that the state may still want.
        wanted: u64,
    },
    /// The address space of this process, in which the whole capacity is reserved.
    AddressSpace {
        /// Bytes that it may have (RLIMIT_AS); `None` if there is no limit.
        limit: Option<u64>,
        /// Bytes that the state may grow to.
        capacity: u64,
    },
    /// Whether it could be opened.
    Opening {
        /// Why not.
        refused: Option<String>,
    },
    /// A writer lock.
    Lock {
        /// Of which namespace; `None`: the one that is held while a namespace is added.
        namespace: Option<String>,
        /// How it is.
        lock: LockStatus,
    },
    /// A writer died after its update was decided and before it was visible.
    UnfinishedUpdate {
        /// Where.
        namespace: String,
    },
    /// A snapshot that holds memory back: older than the history, or a dead process's.
    OldSnapshot {
        /// Where.
        namespace: String,
        /// Whose, and how old.
        pin: PinInfo,
    },
    /// A watcher that lags by more than half of the history, or that is a dead process's.
    SlowWatcher {
        /// Where.
        namespace: String,
        /// Whose, and how slow.
        watcher: WatcherInfo,
        /// Updates in the history. What lies further back is lost to the watcher.
        history: u64,
    },
    /// Processes that died while they had the state open.
    DeadProcesses {
        /// Their ids.
        pids: Vec<u32>,
        /// Places for snapshots and watchers that they left.
        seats: usize,
    },
    /// A process that is stopped.
    StoppedProcess {
        /// Its id.
        pid: u32,
        /// What it is called.
        name: Option<String>,
    },
    /// How full it is.
    Memory {
        /// Bytes of memory in use.
        committed: u64,
        /// Bytes that may be in use.
        capacity: u64,
        /// Bytes in use that no namespace has.
        free: u64,
    },
    /// How full a namespace is.
    Heap {
        /// Which.
        namespace: String,
        /// Bytes of keys, newest values and index.
        live: u64,
        /// Bytes that snapshots and watchers may still need.
        retired: u64,
        /// Bytes that are free for new values.
        free: u64,
    },
    /// What lies in memory was not counted.
    NotCounted {
        /// Why.
        reason: String,
    },
    /// The memory holds what no correct process writes.
    Damage {
        /// What was found.
        what: String,
    },
}

impl Finding {
    /// How bad it is.
    ///
    /// ```
    /// use zproc::{Finding, Severity};
    ///
    /// assert_eq!(Finding::Layout { same: true }.severity(), Severity::Fine);
    /// assert_eq!(Finding::Layout { same: false }.severity(), Severity::Fatal);
    /// ```
    pub fn severity(&self) -> Severity {
        use Severity::{Fatal, Fine, Note, Warning};
        let fatal_unless = |fine: bool| if fine { Fine } else { Fatal };
        match self {
            Self::Missing | Self::NoFile | Self::Unreadable { .. } | Self::Damage { .. } => Fatal,
            Self::Owner { owner, user } => fatal_unless(owner == user || *owner == 0),
            Self::Mode { enough: false, .. } => Fatal,
            Self::Mode { mode, .. } if mode & 0o077 != 0 => Warning,
            Self::Mode { .. } => Fine,
            Self::Magic { is_state, .. } => fatal_unless(*is_state),
            Self::Version { found, own } => fatal_unless(found == own),
            Self::Layout { same } => fatal_unless(*same),
            Self::Checksum { intact } => fatal_unless(*intact),
            Self::Size { size, capacity } => fatal_unless(size == capacity),
            Self::Boot { same } => fatal_unless(*same == Some(true)),
            Self::PidNamespace { found, own } => fatal_unless(Some(*found) == *own),
            Self::Backing { committed, backed } => fatal_unless(committed <= backed),
            Self::FileSystem { kind: "overlay", .. } => Fatal,
            Self::FileSystem { size, free, wanted, .. } => match *size > 0 && *wanted > *free {
                true if *free < 1 << 20 => Warning,
                true => Note,
                false => Fine,
            },
            Self::AddressSpace { limit, capacity } => fatal_unless(limit.is_none_or(|limit| limit > *capacity)),
            Self::Opening { refused } => fatal_unless(refused.is_none()),
            Self::Lock { lock, .. } => match &lock.holder {
                Some(holder) if holder.life == Life::Stopped => Warning,
                None if !lock.abandoned => Fine,
                _ => Note,
            },
            Self::UnfinishedUpdate { .. } | Self::DeadProcesses { .. } | Self::NotCounted { .. } => Note,
            Self::OldSnapshot { pin, .. } => {
                if pin.dead {
                    Note
                } else {
                    Warning
                }
            }
            Self::SlowWatcher { watcher, history, .. } => match watcher.dead || watcher.lag <= *history {
                true => Note,
                false => Warning,
            },
            Self::StoppedProcess { .. } => Note,
            Self::Memory {
                committed,
                capacity,
                free,
            } => match capacity.saturating_sub(*committed).saturating_add(*free) < capacity / 10 {
                true => Warning,
                false => Fine,
            },
            Self::Heap { .. } => Fine,
        }
    }

    /// What to do about it, for the state at that address; `None` if there is nothing to do.
    ///
    /// ```
    /// use zproc::Finding;
    ///
    /// let stopped = Finding::StoppedProcess { pid: 4711, name: Some("baker".into()) };
    /// assert_eq!(stopped.to_string(), "process 4711 (baker) is stopped, and its watchers with it");
    /// assert_eq!(stopped.remedy("shm://kitchen").as_deref(), Some("kill -CONT 4711, if it should go on"));
    /// assert_eq!(Finding::Checksum { intact: true }.remedy("shm://kitchen"), None);
    /// ```
    pub fn remedy(&self, address: &str) -> Option<String> {
        if self.severity() == Severity::Fine {
            return None;
        }
        let remove = format!("remove it: zproc::remove({address:?})");
        let reap = "it goes by itself when it is needed; state.reap() does it now";
        Some(match self {
            Self::Missing => "create it, or open it with open_or_create".into(),
            Self::NoFile | Self::Magic { .. } => "use another address, or delete the file yourself".into(),
            Self::Owner { owner, .. } => format!("run this process as user {owner}, or use another address"),
            Self::Mode { enough: false, .. } => "allow its user to read and write it: chmod 600".into(),
            Self::Mode { .. } => "allow it to its user only: chmod 600".into(),
            Self::Unreadable { .. } => "let this process run as a user who may read and write it".into(),
            Self::Version { .. } | Self::Layout { .. } => {
                format!("run programs that were built with the same version of the library, or {remove}")
            }
            Self::Checksum { .. } | Self::Size { .. } | Self::Backing { .. } | Self::Damage { .. } => {
                format!("{remove}, and create it anew")
            }
            Self::Boot { same: Some(false) } => format!("{remove}; its processes are gone"),
            Self::Boot { .. } | Self::PidNamespace { own: None, .. } => "mount /proc".into(),
            Self::PidNamespace { .. } => {
                "run all processes in one PID namespace (docker run --pid=…), since thread ids mean nothing in another"
                    .into()
            }
            Self::FileSystem { kind: "overlay", .. } => "mount a tmpfs on /dev/shm".into(),
            Self::FileSystem { .. } => {
                "make room there, or enlarge it (mount -o remount,size=…, or docker run --shm-size=…)".into()
            }
            Self::AddressSpace { .. } => "raise RLIMIT_AS (ulimit -v), or create it with a smaller capacity".into(),
            Self::Opening { .. } => return None,
            Self::Lock { lock, .. } => return remedy_of_lock(lock),
            Self::UnfinishedUpdate { .. } => "the next writer finishes it, or a watcher within a second".into(),
            Self::OldSnapshot { pin, .. } if pin.dead => reap.into(),
            Self::OldSnapshot { .. } => "drop it there: until then nothing that it shows can be recycled".into(),
            Self::SlowWatcher { watcher, .. } if watcher.dead => reap.into(),
            Self::SlowWatcher { .. } => {
                "have it watch more often, or create the state with a longer history: Builder::history".into()
            }
            Self::DeadProcesses { .. } => reap.into(),
            Self::StoppedProcess { pid, .. } => format!("kill -CONT {pid}, if it should go on"),
            Self::Memory { .. } => "remove keys, drop snapshots, or create it with a larger capacity".into(),
            Self::NotCounted { .. } | Self::Heap { .. } => return None,
        })
    }
}

fn remedy_of_lock(lock: &LockStatus) -> Option<String> {
    let holder = lock.holder.as_ref();
    Some(match holder.map(|holder| (holder.life, holder.pid)) {
        Some((Life::Stopped, pid)) => {
            format!("kill -CONT {pid}, or kill -KILL {pid}: then the next writer takes the lock over")
        }
        Some((Life::Dead, _)) | None => "the next writer takes it over and finishes what was begun".into(),
        Some(_) => return None,
    })
}

/// A process, by name and id.
pub(super) fn process(pid: u32, name: Option<&str>) -> String {
    match (pid, name) {
        (0, _) => "a process that is no longer known".into(),
        (pid, Some(name)) => format!("process {pid} ({name})"),
        (pid, None) => format!("process {pid}"),
    }
}

/// So many of a kind.
pub(super) fn count(count: usize, of: &str) -> String {
    format!("{count} {of}{}", if count == 1 { "" } else { "s" })
}

/// Bytes for people.
fn bytes(bytes: u64) -> String {
    let units = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    match (1..=6).rev().find(|power| bytes >> (10 * power) != 0) {
        Some(power) => format!(
            "{:.1} {}",
            bytes as f64 / f64::from(1024u16).powi(power),
            units[power as usize - 1]
        ),
        None => format!("{bytes} bytes"),
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lock { namespace, lock } => write_lock(f, namespace.as_deref(), lock),
            Self::UnfinishedUpdate { namespace } => write!(
                f,
                "namespace {namespace:?}: a writer died when its update was decided and not yet visible"
            ),
            Self::OldSnapshot { namespace, pin } => {
                let whose = process(pin.pid, pin.name.as_deref());
                let dead = if pin.dead { ", which is dead," } else { "" };
                write!(
                    f,
                    "namespace {namespace:?}: {whose}{dead} has a snapshot that is {} old",
                    count(pin.lag as usize, "update")
                )
            }
            Self::SlowWatcher {
                namespace,
                watcher,
                history,
            } => {
                let whose = process(watcher.pid, watcher.name.as_deref());
                let dead = if watcher.dead { ", which is dead," } else { "" };
                write!(
                    f,
                    "namespace {namespace:?}: {whose}{dead} has a watcher that is {} behind, of {history} in the history",
                    count(watcher.lag as usize, "update")
                )
            }
            Self::DeadProcesses { pids, seats } => write_dead(f, pids, *seats),
            Self::StoppedProcess { pid, name } => {
                write!(
                    f,
                    "{} is stopped, and its watchers with it",
                    process(*pid, name.as_deref())
                )
            }
            Self::Memory {
                committed,
                capacity,
                free,
            } => write!(
                f,
                "{} of {} are in use, {} of that by no namespace",
                bytes(*committed),
                bytes(*capacity),
                bytes(*free)
            ),
            Self::Heap {
                namespace,
                live,
                retired,
                free,
            } => write!(
                f,
                "namespace {namespace:?}: {} are alive, {} kept for snapshots and watchers, {} free",
                bytes(*live),
                bytes(*retired),
                bytes(*free)
            ),
            Self::NotCounted { reason } => write!(f, "what lies in memory was not counted: {reason}"),
            Self::Damage { what } => write!(f, "it is damaged: {what}"),
            about_the_file => about_the_file.write_about_file(f),
        }
    }
}

impl Finding {
    fn write_about_file(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => f.write_str("there is no state"),
            Self::NoFile => f.write_str("what is there is a link, a directory or a device, and no state"),
            Self::Owner { owner, user } => {
                write!(f, "it belongs to user {owner}, and this process runs as user {user}")
            }
            Self::Mode { mode, .. } => write!(f, "its permissions are {mode:03o}"),
            Self::Unreadable { reason } => write!(f, "it cannot be read: {reason}"),
            Self::Magic { is_state: true, .. } => f.write_str("it begins as a state does"),
            Self::Magic { size, .. } => write!(f, "it is no state: its {size} bytes begin with something else"),
            Self::Version { found, own } if found == own => write!(f, "its format has version {found}"),
            Self::Version { found, own } => {
                write!(
                    f,
                    "its format has version {found}, and this program reads version {own}"
                )
            }
            Self::Layout { same: true } => f.write_str("its layout is that of this build of the library"),
            Self::Layout { .. } => f.write_str("its layout is that of another build of the library"),
            Self::Checksum { intact: true } => f.write_str("its head is intact"),
            Self::Checksum { .. } => f.write_str("its head is damaged: the checksum is wrong"),
            Self::Size { size, capacity } if size == capacity => write!(f, "it may grow to {}", bytes(*capacity)),
            Self::Size { size, capacity } => {
                write!(
                    f,
                    "its file has {size} bytes and should have {capacity}: it was truncated, or enlarged"
                )
            }
            Self::Boot { same: Some(true) } => f.write_str("it was made since the machine was started"),
            Self::Boot { same: Some(false) } => f.write_str("it was made before the machine was started last"),
            Self::Boot { same: None } => {
                f.write_str("whether it is older than the last start of the machine is unknown")
            }
            Self::PidNamespace { found, own } => match own {
                Some(own) if own == found => write!(f, "its PID namespace is that of this process, {found}"),
                Some(own) => write!(f, "its PID namespace is {found}, and that of this process {own}"),
                None => write!(f, "its PID namespace is {found}, and that of this process unknown"),
            },
            Self::Backing { committed, backed } if committed <= backed => {
                write!(f, "it has {} of memory", bytes(*backed))
            }
            Self::Backing { committed, backed } => write!(
                f,
                "it claims {committed} bytes of memory and has {backed}: to read it could end this process by SIGBUS"
            ),
            Self::FileSystem {
                kind,
                size,
                free,
                wanted,
            } => match size {
                0 => write!(f, "its file system ({kind}) has no limit"),
                _ => write!(
                    f,
                    "its file system ({kind}) has {} left of {}; the state may want {} more",
                    bytes(*free),
                    bytes(*size),
                    bytes(*wanted)
                ),
            },
            Self::AddressSpace { limit: None, .. } => f.write_str("the address space of this process has no limit"),
            Self::AddressSpace {
                limit: Some(limit),
                capacity,
            } => write!(
                f,
                "this process may have {} of address space, and the state reserves {}",
                bytes(*limit),
                bytes(*capacity)
            ),
            Self::Opening { refused: None } => f.write_str("it can be opened"),
            Self::Opening { refused: Some(reason) } => write!(f, "it could not be opened: {reason}"),
            _ => Ok(()),
        }
    }
}

fn write_lock(f: &mut fmt::Formatter<'_>, namespace: Option<&str>, lock: &LockStatus) -> fmt::Result {
    match namespace {
        Some(namespace) => write!(f, "namespace {namespace:?}: the writer lock ")?,
        None => f.write_str("the lock for new namespaces ")?,
    }
    match &lock.holder {
        None if lock.abandoned => f.write_str("was held by a process that died"),
        None => f.write_str("is free"),
        Some(holder) => {
            let whose = process(holder.pid, holder.name.as_deref());
            let thread = if holder.tid == 0 {
                String::new()
            } else {
                format!(" (thread {})", holder.tid)
            };
            write!(f, "is held by {whose}{thread}, which is {}", holder.life)?;
            f.write_str(if lock.has_waiters { "; others wait for it" } else { "" })
        }
    }
}

fn write_dead(f: &mut fmt::Formatter<'_>, pids: &[u32], seats: usize) -> fmt::Result {
    let some: Vec<String> = pids.iter().take(8).map(u32::to_string).collect();
    let more = pids.len().saturating_sub(some.len());
    let kind = if pids.len() == 1 { "process" } else { "processes" };
    write!(f, "{} {kind} died with it open", pids.len())?;
    if !some.is_empty() {
        write!(
            f,
            " ({}{})",
            some.join(", "),
            if more > 0 {
                format!(" and {more} more")
            } else {
                String::new()
            }
        )?;
    }
    write!(f, " and left {}", count(seats, "place"))?;
    f.write_str(" for snapshots and watchers")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_told_in_the_largest_unit_that_fits() {
        let told = [0, 1023, 1024, 1536, 640 << 10, 1 << 30, u64::MAX].map(bytes);
        assert_eq!(
            told,
            [
                "0 bytes",
                "1023 bytes",
                "1.0 KiB",
                "1.5 KiB",
                "640.0 KiB",
                "1.0 GiB",
                "16.0 EiB"
            ]
        );
    }
}
