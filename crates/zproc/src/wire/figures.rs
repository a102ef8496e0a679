//! What a server tells of its state as a whole: the figures of `State::stats` and `State::status`, and what came of
//! `State::verify` and `State::reap`, as they go over the wire.
//!
//! Each is here once more, because what the engine tells may get further fields, and what goes over the wire must not
//! without a word in `docs/protocol.md`.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Who holds a snapshot, or watches: process, its name, whether it is dead, the update, and how many were made since.
type Seat = (u32, Option<String>, bool, u64, u64);
/// The holder if there is one, whether it died inside, whether somebody waits, how often it was taken over.
type Lock = (Option<(u32, u32, Option<String>, Life)>, bool, bool, u64);
/// Process, its name, how it is, its snapshots and its watchers.
type Participant = (u32, Option<String>, Life, u64, u64);
/// Its name, the bytes of its file system, and those that are free.
type Backing = (Option<String>, u64, u64);
/// Processes, seats, snapshots, locks, updates.
type Leftovers = [u64; 5];

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
enum Life {
    Running,
    Stopped,
    Dead,
    Unknown,
}

/// What both tell.
#[derive(Debug, Serialize, Deserialize)]
struct Whole {
    capacity: u64,
    committed: u64,
    table_bytes: u64,
    free_bytes: u64,
    backing: Backing,
    participants: Vec<Participant>,
    leftovers: Leftovers,
}

/// See `State::stats`.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Stats {
    whole: Whole,
    namespaces: Vec<NamespaceStats>,
    problems: Vec<String>,
}

#[derive(Debug, Serialize, Deserialize)]
struct NamespaceStats {
    name: String,
    commits: u64,
    recoveries: u64,
    takeovers: u64,
    wakes: u64,
    wakeups: u64,
    history: u64,
    keys: u64,
    live_bytes: u64,
    retired_bytes: u64,
    free_bytes: u64,
    control_bytes: u64,
    pins: Vec<Seat>,
    watchers: Vec<Seat>,
    lock: Lock,
}

/// See `State::status`.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Status {
    whole: Whole,
    directory_lock: Lock,
    namespaces: Vec<NamespaceStatus>,
}

#[derive(Debug, Serialize, Deserialize)]
struct NamespaceStatus {
    name: String,
    commits: u64,
    keys: Option<u32>,
    lock: Lock,
    unfinished: bool,
    history: u64,
    history_bytes: u64,
    bytes: u64,
    pins: Vec<Seat>,
    watchers: Vec<Seat>,
}

/// See `State::verify`.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Report {
    problems: Vec<String>,
    namespaces: u64,
    blocks: u64,
    live_bytes: u64,
    retired_bytes: u64,
    free_bytes: u64,
    keys: u64,
}

/// See `State::reap`.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Reaped {
    processes: u64,
    seats: u64,
    locks: u64,
}

/// What is told: made of what the engine says.
mod told {
    use super::*;

    fn name(name: Option<Arc<str>>) -> Option<String> {
        name.map(|name| name.to_string())
    }

    fn life(life: shm_state::Life) -> Life {
        match life {
            shm_state::Life::Running => Life::Running,
            shm_state::Life::Stopped => Life::Stopped,
            shm_state::Life::Dead => Life::Dead,
            _ => Life::Unknown,
        }
    }

    fn pin(pin: shm_state::PinInfo) -> Seat {
        (pin.pid, name(pin.name), pin.dead, pin.seq, pin.lag)
    }

    fn watcher(watcher: shm_state::WatcherInfo) -> Seat {
        let cursor = watcher.cursor;
        (watcher.pid, name(watcher.name), watcher.dead, cursor, watcher.lag)
    }

    fn lock(lock: shm_state::LockStatus) -> Lock {
        let holder = lock.holder.map(|it| (it.pid, it.tid, name(it.name), life(it.life)));
        (holder, lock.abandoned, lock.has_waiters, lock.takeovers)
    }

    fn participant(it: shm_state::Participant) -> Participant {
        (it.pid, name(it.name), life(it.life), it.pins as u64, it.watchers as u64)
    }

    fn leftovers(left: shm_state::Leftovers) -> Leftovers {
        [left.processes, left.seats, left.pins, left.locks, left.commits].map(|count| count as u64)
    }

    impl From<shm_state::Stats> for Stats {
        fn from(stats: shm_state::Stats) -> Self {
            Self {
                whole: Whole {
                    capacity: stats.capacity,
                    committed: stats.committed,
                    table_bytes: stats.table_bytes,
                    free_bytes: stats.free_bytes,
                    backing: (stats.backing.file, stats.backing.size, stats.backing.free),
                    participants: stats.participants.into_iter().map(participant).collect(),
                    leftovers: leftovers(stats.leftovers),
                },
                namespaces: stats.namespaces.into_iter().map(NamespaceStats::from).collect(),
                problems: stats.problems,
            }
        }
    }

    impl From<shm_state::NamespaceStats> for NamespaceStats {
        fn from(stats: shm_state::NamespaceStats) -> Self {
            Self {
                name: stats.name,
                commits: stats.commits,
                recoveries: stats.recoveries,
                takeovers: stats.takeovers,
                wakes: stats.wakes,
                wakeups: stats.wakeups,
                history: stats.history,
                keys: stats.keys,
                live_bytes: stats.live_bytes,
                retired_bytes: stats.retired_bytes,
                free_bytes: stats.free_bytes,
                control_bytes: stats.control_bytes,
                pins: stats.pins.into_iter().map(pin).collect(),
                watchers: stats.watchers.into_iter().map(watcher).collect(),
                lock: lock(stats.lock),
            }
        }
    }

    impl From<shm_state::Status> for Status {
        fn from(status: shm_state::Status) -> Self {
            Self {
                whole: Whole {
                    capacity: status.capacity,
                    committed: status.committed,
                    table_bytes: status.table_bytes,
                    free_bytes: status.free_bytes,
                    backing: (status.backing.file, status.backing.size, status.backing.free),
                    participants: status.participants.into_iter().map(participant).collect(),
                    leftovers: leftovers(status.leftovers),
                },
                directory_lock: lock(status.directory_lock),
                namespaces: status.namespaces.into_iter().map(NamespaceStatus::from).collect(),
            }
        }
    }

    impl From<shm_state::NamespaceStatus> for NamespaceStatus {
        fn from(status: shm_state::NamespaceStatus) -> Self {
            Self {
                name: status.name,
                commits: status.commits,
                keys: status.keys,
                lock: lock(status.lock),
                unfinished: status.unfinished,
                history: status.history,
                history_bytes: status.history_bytes,
                bytes: status.bytes,
                pins: status.pins.into_iter().map(pin).collect(),
                watchers: status.watchers.into_iter().map(watcher).collect(),
            }
        }
    }

    impl From<shm_state::Report> for Report {
        fn from(report: shm_state::Report) -> Self {
            Self {
                problems: report.problems,
                namespaces: report.namespaces as u64,
                blocks: report.blocks as u64,
                live_bytes: report.live_bytes,
                retired_bytes: report.retired_bytes,
                free_bytes: report.free_bytes,
                keys: report.keys,
            }
        }
    }

    impl From<shm_state::Reaped> for Reaped {
        fn from(reaped: shm_state::Reaped) -> Self {
            Self {
                processes: reaped.processes as u64,
                seats: reaped.seats as u64,
                locks: reaped.locks as u64,
            }
        }
    }
}

/// What is heard: made into what the engine would say. Its types are such that a field can be set, but not all of them at
/// once.
mod heard {
    use super::*;

    fn name(name: Option<String>) -> Option<Arc<str>> {
        name.map(Arc::from)
    }

    fn life(life: Life) -> shm_state::Life {
        match life {
            Life::Running => shm_state::Life::Running,
            Life::Stopped => shm_state::Life::Stopped,
            Life::Dead => shm_state::Life::Dead,
            Life::Unknown => shm_state::Life::Unknown,
        }
    }

    fn pin((pid, called, dead, seq, lag): Seat) -> shm_state::PinInfo {
        shm_state::PinInfo::new(pid, name(called), dead, seq, lag)
    }

    fn watcher((pid, called, dead, cursor, lag): Seat) -> shm_state::WatcherInfo {
        let mut watcher = shm_state::WatcherInfo::default();
        (watcher.pid, watcher.name, watcher.dead) = (pid, name(called), dead);
        (watcher.cursor, watcher.lag) = (cursor, lag);
        watcher
    }

    fn lock((held, abandoned, has_waiters, takeovers): Lock) -> shm_state::LockStatus {
        let mut lock = shm_state::LockStatus::default();
        lock.holder = held.map(|(pid, tid, called, how)| {
            let mut holder = shm_state::LockHolder::default();
            (holder.pid, holder.tid, holder.name, holder.life) = (pid, tid, name(called), life(how));
            holder
        });
        (lock.abandoned, lock.has_waiters, lock.takeovers) = (abandoned, has_waiters, takeovers);
        lock
    }

    fn participant((pid, called, how, pins, watchers): Participant) -> shm_state::Participant {
        let mut participant = shm_state::Participant::default();
        (participant.pid, participant.name, participant.life) = (pid, name(called), life(how));
        (participant.pins, participant.watchers) = (pins as usize, watchers as usize);
        participant
    }

    fn leftovers(counts: Leftovers) -> shm_state::Leftovers {
        let mut left = shm_state::Leftovers::default();
        [left.processes, left.seats, left.pins, left.locks, left.commits] = counts.map(|count| count as usize);
        left
    }

    fn backing((file, size, free): Backing) -> shm_state::Backing {
        let mut backing = shm_state::Backing::default();
        (backing.file, backing.size, backing.free) = (file, size, free);
        backing
    }

    impl From<Stats> for shm_state::Stats {
        fn from(stats: Stats) -> Self {
            let whole = stats.whole;
            Self {
                capacity: whole.capacity,
                committed: whole.committed,
                table_bytes: whole.table_bytes,
                free_bytes: whole.free_bytes,
                backing: backing(whole.backing),
                participants: whole.participants.into_iter().map(participant).collect(),
                leftovers: leftovers(whole.leftovers),
                namespaces: stats.namespaces.into_iter().map(From::from).collect(),
                problems: stats.problems,
            }
        }
    }

    impl From<NamespaceStats> for shm_state::NamespaceStats {
        fn from(stats: NamespaceStats) -> Self {
            Self {
                name: stats.name,
                commits: stats.commits,
                recoveries: stats.recoveries,
                takeovers: stats.takeovers,
                wakes: stats.wakes,
                wakeups: stats.wakeups,
                history: stats.history,
                keys: stats.keys,
                live_bytes: stats.live_bytes,
                retired_bytes: stats.retired_bytes,
                free_bytes: stats.free_bytes,
                control_bytes: stats.control_bytes,
                pins: stats.pins.into_iter().map(pin).collect(),
                watchers: stats.watchers.into_iter().map(watcher).collect(),
                lock: lock(stats.lock),
            }
        }
    }

    impl From<Status> for shm_state::Status {
        fn from(told: Status) -> Self {
            let (whole, mut status) = (told.whole, Self::default());
            (status.capacity, status.committed) = (whole.capacity, whole.committed);
            (status.table_bytes, status.free_bytes) = (whole.table_bytes, whole.free_bytes);
            status.backing = backing(whole.backing);
            status.directory_lock = lock(told.directory_lock);
            status.participants = whole.participants.into_iter().map(participant).collect();
            status.leftovers = leftovers(whole.leftovers);
            status.namespaces = told.namespaces.into_iter().map(From::from).collect();
            status
        }
    }

    impl From<NamespaceStatus> for shm_state::NamespaceStatus {
        fn from(told: NamespaceStatus) -> Self {
            let mut status = Self::default();
            (status.name, status.commits, status.keys) = (told.name, told.commits, told.keys);
            (status.lock, status.unfinished) = (lock(told.lock), told.unfinished);
            (status.history, status.history_bytes, status.bytes) = (told.history, told.history_bytes, told.bytes);
            status.pins = told.pins.into_iter().map(pin).collect();
            status.watchers = told.watchers.into_iter().map(watcher).collect();
            status
        }
    }

    impl From<Report> for shm_state::Report {
        fn from(report: Report) -> Self {
            Self {
                problems: report.problems,
                namespaces: report.namespaces as usize,
                blocks: report.blocks as usize,
                live_bytes: report.live_bytes,
                retired_bytes: report.retired_bytes,
                free_bytes: report.free_bytes,
                keys: report.keys,
            }
        }
    }

    impl From<Reaped> for shm_state::Reaped {
        fn from(told: Reaped) -> Self {
            let mut reaped = Self::default();
            reaped.processes = told.processes as usize;
            (reaped.seats, reaped.locks) = (told.seats as usize, told.locks as usize);
            reaped
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::message::{decode, encode};

    fn seat(n: u64) -> Seat {
        (
            n as u32,
            Some(format!("process {n}")),
            n.is_multiple_of(2),
            n + 1,
            n + 2,
        )
    }

    fn lock(n: u32) -> Lock {
        let holder = (n, n + 1, Some(format!("holder {n}")), Life::Stopped);
        (Some(holder), true, n.is_multiple_of(2), u64::from(n) + 2)
    }

    /// With another number in each place.
    fn whole() -> Whole {
        let lives = [Life::Running, Life::Stopped, Life::Dead, Life::Unknown];
        let participants = lives.into_iter().zip(20..);
        Whole {
            capacity: 1,
            committed: 2,
            table_bytes: 3,
            free_bytes: 4,
            backing: (Some("a file".into()), 5, 6),
            participants: participants
                .map(|(life, n)| (n, None, life, u64::from(n) + 100, u64::from(n) + 200))
                .collect(),
            leftovers: [7, 8, 9, 10, 11],
        }
    }

    fn bytes(figures: &impl Serialize) -> Vec<u8> {
        let mut bytes = Vec::new();
        encode(figures, &mut bytes).unwrap();
        bytes
    }

    #[test]
    fn what_is_told_is_what_is_heard() {
        let stats = Stats {
            whole: whole(),
            namespaces: vec![NamespaceStats {
                name: "default".into(),
                commits: 30,
                recoveries: 31,
                takeovers: 32,
                wakes: 33,
                wakeups: 34,
                history: 35,
                keys: 36,
                live_bytes: 37,
                retired_bytes: 38,
                free_bytes: 39,
                control_bytes: 40,
                pins: vec![seat(50), seat(51)],
                watchers: vec![seat(60)],
                lock: lock(70),
            }],
            problems: vec!["a problem".into()],
        };
        let heard = shm_state::Stats::from(decode::<Stats>(&bytes(&stats)).unwrap());
        assert_eq!(bytes(&Stats::from(heard)), bytes(&stats));
        let status = Status {
            whole: whole(),
            directory_lock: lock(12),
            namespaces: vec![NamespaceStatus {
                name: "kitchen".into(),
                commits: 80,
                keys: Some(81),
                lock: lock(91),
                unfinished: true,
                history: 82,
                history_bytes: 83,
                bytes: 84,
                pins: vec![seat(85)],
                watchers: vec![seat(86), seat(87)],
            }],
        };
        let heard = shm_state::Status::from(decode::<Status>(&bytes(&status)).unwrap());
        assert_eq!(bytes(&Status::from(heard)), bytes(&status));
        let report = Report {
            problems: vec!["a problem".into()],
            namespaces: 1,
            blocks: 2,
            live_bytes: 3,
            retired_bytes: 4,
            free_bytes: 5,
            keys: 6,
        };
        let heard = shm_state::Report::from(decode::<Report>(&bytes(&report)).unwrap());
        assert_eq!(bytes(&Report::from(heard)), bytes(&report));
        let reaped = Reaped {
            processes: 1,
            seats: 2,
            locks: 3,
        };
        let heard = shm_state::Reaped::from(decode::<Reaped>(&bytes(&reaped)).unwrap());
        assert_eq!(bytes(&Reaped::from(heard)), bytes(&reaped));
    }
}
