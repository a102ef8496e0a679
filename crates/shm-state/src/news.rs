//! What is worth telling, told by `tracing` once no lock of the engine is held.
//!
//! Whoever listens may block, panic, or use the very namespace that the news is about. So what happens under a writer lock
//! is noted here, and told after the unlock, by whichever thread comes first: at the end of a commit, of an overwrite, or of
//! a transaction that was dropped. A thread that panics tells nothing, and one that dies takes its news along.
//!
//! | event | level | fields |
//! |---|---|---|
//! | a writer died inside, and its lock was taken over | WARN | `namespace`, empty for the directory's; `pid`, `tid`; 0 if the kernel erased it |
//! | what it left was finished | INFO | `namespace`, `seq`, `commit` (a commit that it had decided), `maintenance` (seats that it was adding), `free_lists` (made anew), `chunks` (freed) |
//! | more memory was had | DEBUG | `from`, `to`: bytes in use |
//! | the history was given up because memory is short | INFO | `namespace`, `from`, `to`: the oldest commit that can be read |
//! | what dead processes had pinned was given back | INFO | `namespace`, `seats`, `pins` |
//!
//! Nothing is noted unless some subscriber wants events of that level, which costs one load to know.

use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use tracing::Level;
use tracing::level_filters::LevelFilter;

/// More than this is not kept: somebody has the lock for very long.
const MOST: usize = 256;

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A lock was taken over.
    TookOver { namespace: String, pid: u32, tid: u32 },
    /// What a dead writer left was finished.
    Recovered { namespace: String, seq: u64, done: Done },
    /// The arena has grown, in bytes.
    Grew { from: u64, to: u64 },
    /// The history was given up.
    Trimmed { namespace: String, from: u64, to: u64 },
    /// Seats of dead processes were given back.
    Reaped {
        namespace: String,
        seats: usize,
        pins: usize,
    },
}

/// What a recovery found to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Done {
    /// A commit was decided and not visible.
    pub commit: bool,
    /// A record that changes no key was decided and not finished.
    pub maintenance: bool,
    /// The free lists were made anew.
    pub free_lists: bool,
    /// Chunks that were claimed and in no run.
    pub chunks: usize,
}

impl Event {
    fn level(&self) -> Level {
        match self {
            Self::TookOver { .. } => Level::WARN,
            Self::Recovered { .. } | Self::Trimmed { .. } | Self::Reaped { .. } => Level::INFO,
            Self::Grew { .. } => Level::DEBUG,
        }
    }

    fn tell(self) {
        match self {
            Self::TookOver { namespace, pid, tid } => {
                tracing::warn!(target: "shm_state", namespace, pid, tid, "took over the writer lock of a dead process");
            }
            Self::Recovered { namespace, seq, done } => {
                let Done {
                    commit,
                    maintenance,
                    free_lists,
                    chunks,
                } = done;
                tracing::info!(
                    target: "shm_state", namespace, seq, commit, maintenance, free_lists, chunks,
                    "finished what a dead writer left"
                );
            }
            Self::Grew { from, to } => tracing::debug!(target: "shm_state", from, to, "took more memory"),
            Self::Trimmed { namespace, from, to } => {
                tracing::info!(target: "shm_state", namespace, from, to, "gave up history because memory is short");
            }
            Self::Reaped { namespace, seats, pins } => {
                tracing::info!(
                    target: "shm_state", namespace, seats, pins, "gave back what dead processes had pinned"
                );
            }
        }
    }
}

/// The news of one arena that this process has not told yet.
#[derive(Default)]
pub struct News {
    /// Whether there are any. Only a hint outside of the mutex: who misses it leaves them to the next.
    any: AtomicBool,
    events: Mutex<Vec<Event>>,
}

impl News {
    /// Takes note of something.
    #[cold]
    pub fn note(&self, event: Event) {
        // Not `enabled!`, which asks the subscriber: this is under a lock.
        if LevelFilter::current() < event.level() {
            return;
        }
        let mut events = self.events.lock();
        if events.len() < MOST {
            events.push(event);
        }
        self.any.store(true, Ordering::Relaxed);
    }

    /// Tells what was noted. Without any lock in hand.
    #[inline(always)]
    pub fn tell(&self) {
        if self.any.load(Ordering::Relaxed) {
            self.tell_all();
        }
    }

    #[cold]
    #[inline(never)]
    fn tell_all(&self) {
        // A panic of the subscriber's on top of another would end the process.
        if std::thread::panicking() {
            return;
        }
        // Not waited for: another thread is at it, or was when this process was forked.
        let Some(mut events) = self.events.try_lock() else {
            return;
        };
        let told = std::mem::take(&mut *events);
        self.any.store(false, Ordering::Relaxed);
        drop(events);
        told.into_iter().for_each(Event::tell);
    }
}
