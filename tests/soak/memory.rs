//! What the dead leave behind: nothing.
//!
//! When everybody is gone, the state is brought to a known one: the same keys as at the beginning, the history full of
//! small commits, the index made anew several times on the way. The same is done to an arena that no process has ever
//! died in, and the two are compared: memory of blocks that are alive or retired, memory that nobody accounts for,
//! participants, snapshots, watchers, sleepers that somebody would wake, and what the conductor itself has open.
//!
//! The arena never gets smaller, so its size is that of the worst moment so far: it must not follow the number of kills,
//! and it must be the memory that the system counts.

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};

use zproc::{Key, Result};

use crate::board::Word;
use crate::conductor::Conductor;
use crate::kid::{PATIENCE, Role};
use crate::model::{self, CONDUCTOR};

/// The process that makes others reap.
pub const REAPER: u64 = 14;

/// Where the participants' table is in an arena, how many entries it has, and how long they are.
const PARTICIPANTS: (u64, usize, usize) = (4096, 4096, 64);
/// Where the directory is: the granule of the first namespace's control block.
const DIRECTORY: u64 = 260 << 10;
/// Where in a control block it says from which granule to which one no block has been made yet.
const BUMP: u64 = 656;
/// Where in a control block the events are, and how many: a futex and 15 words of sleepers, 32 bits each. The last is that
/// of any key.
const EVENTS: (u64, usize) = (3648, 257);
const GRANULE: u64 = 64;

/// Where memory is short, the blocks of an index (at most two alive, and those that the history still has) come from what
/// there is, and may be some granules longer than they need to be.
const SLACK: u64 = 16 * GRANULE;

/// What is left when everybody is gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Figures {
    /// Least and most bytes in living and retired blocks, while the index goes through its phases.
    pub used: (u64, u64),
    /// Bytes that belong to nobody: neither to a table, a block, nor to the free memory.
    pub unaccounted: i64,
    /// Bytes that the arena has taken.
    pub committed: u64,
    /// Bytes that the system has given to the file.
    pub backed: u64,
    /// Entries of the participants' table that somebody has, after those of the dead were given back.
    pub participants: usize,
    /// Events that say that somebody sleeps: as the dead left them, and after one commit to each key.
    pub sleepers: (usize, usize),
    /// Descriptors of the conductor.
    pub descriptors: usize,
    /// Files of ours in /dev/shm.
    pub files: usize,
}

impl Conductor {
    /// Brings the state to the known one and measures.
    pub fn settle(&mut self) -> Figures {
        let left_asleep = self.sleepers();
        self.remove_what_comes_and_goes().unwrap();
        self.start(REAPER).finish();
        let used = self.used_bytes();
        self.write_all_again();
        let stats = self.arena.stats().unwrap();
        let namespace = &stats.namespaces[0];
        let (pins, watchers) = (&*namespace.pins, &*namespace.watchers);
        assert_eq!((pins, watchers), (&[][..], &[][..]), "seats of the dead");
        self.arena.reap().unwrap();
        let blocks = namespace.control_bytes + namespace.live_bytes + namespace.retired_bytes + namespace.free_bytes;
        let file = self.file();
        let bump = word_at(&file, control_of(&file) + BUMP);
        let fresh = ((bump >> 32) - (bump & u64::from(u32::MAX))) * GRANULE;
        Figures {
            used,
            unaccounted: (stats.committed - stats.table_bytes - stats.free_bytes - blocks - fresh).cast_signed(),
            committed: stats.committed,
            backed: file.metadata().unwrap().blocks() * 512,
            participants: self.participants(),
            sleepers: (left_asleep, self.sleepers()),
            descriptors: fs::read_dir("/proc/self/fd").unwrap().count(),
            files: own_files(),
        }
    }

    fn remove_what_comes_and_goes(&self) -> Result<()> {
        self.state.atomic(|dict| {
            let passing: Vec<Key> = dict.keys()?.filter(|key| !model::is_lasting(key)).collect();
            passing.iter().try_for_each(|key| dict.remove(key).map(drop))?;
            model::count(dict, CONDUCTOR).map(drop)
        })
    }

    /// Makes keys come and go, and the index anew again and again. It takes a while until that of the worst moment is
    /// gone: while a snapshot was held for long, it kept the places of all keys that had come and gone since.
    fn used_bytes(&self) -> (u64, u64) {
        let now = || {
            let namespace = &self.arena.stats().unwrap().namespaces[0];
            namespace.live_bytes + namespace.retired_bytes
        };
        for _ in 0..200 {
            (0..256).for_each(|round| self.come_and_go(round));
            if now() < 64 << 10 {
                break;
            }
        }
        (0..1024).for_each(|round| self.come_and_go(round));
        let mut used = (u64::MAX, 0);
        for round in 0..128 {
            self.come_and_go(round);
            used = (used.0.min(now()), used.1.max(now()));
        }
        used
    }

    fn come_and_go(&self, round: i64) {
        let key = format!("settling {round}");
        self.step(|dict| dict.insert(&key, round)).unwrap();
        self.step(|dict| dict.remove(&key).map(drop)).unwrap();
    }

    fn step(&self, mut change: impl FnMut(&mut zproc::Transaction<'_>) -> Result<()>) -> Result<()> {
        self.state.atomic(|dict| {
            change(dict)?;
            model::count(dict, CONDUCTOR).map(drop)
        })
    }

    /// Sets every key to the value that it has. A dead sleeper costs the next commit to its key a system call, once.
    fn write_all_again(&self) {
        self.step(|dict| {
            let entries: Vec<_> = dict.iter()?.collect();
            entries.iter().try_for_each(|(key, value)| dict.insert(key, value))
        })
        .unwrap();
    }

    fn sleepers(&self) -> usize {
        let (at, events) = EVENTS;
        let file = self.file();
        let mut table = vec![0; events * 64];
        file.read_exact_at(&mut table, control_of(&file) + at).unwrap();
        let of_event = |event: &[u8]| event[4..].iter().map(|byte| byte.count_ones() as usize).sum::<usize>();
        table.chunks_exact(64).map(of_event).sum()
    }

    /// The arena as a file, in the format that is documented.
    fn file(&self) -> fs::File {
        self.arena.fd().unwrap().try_clone_to_owned().unwrap().into()
    }

    fn participants(&self) -> usize {
        let (at, entries, length) = PARTICIPANTS;
        let mut table = vec![0; entries * length];
        self.file().read_exact_at(&mut table, at).unwrap();
        table.chunks_exact(length).filter(|entry| entry[..8] != [0; 8]).count()
    }
}

/// Where the control block of the first namespace begins.
fn control_of(file: &fs::File) -> u64 {
    word_at(file, DIRECTORY) * GRANULE
}

fn word_at(file: &fs::File, at: u64) -> u64 {
    let mut bytes = [0; 8];
    file.read_exact_at(&mut bytes, at).unwrap();
    u64::from_le_bytes(bytes)
}

fn own_files() -> usize {
    let own = format!("zproc-soak-{}", std::process::id());
    let names = fs::read_dir("/dev/shm")
        .unwrap()
        .map(|entry| entry.unwrap().file_name());
    names.filter(|name| name.to_string_lossy().starts_with(&own)).count()
}

/// Takes snapshots until all seats are taken, and so has those of the dead reaped.
pub fn reap(role: &Role) {
    let namespace = role.arena.namespace(model::NAMESPACE).unwrap();
    let state = role.state(|settings| settings.lock_timeout(PATIENCE));
    let others = || {
        let stats = state.stats().unwrap();
        let (pins, watchers) = (&stats.namespaces[0].pins, &stats.namespaces[0].watchers);
        let pids = pins
            .iter()
            .map(|pin| pin.pid)
            .chain(watchers.iter().map(|watcher| watcher.pid));
        pids.filter(|pid| *pid != std::process::id()).count()
    };
    let mut held = Vec::new();
    while others() > 0 {
        held.push(namespace.pin().unwrap());
        assert!(held.len() <= 64, "{} seats of the dead are not reaped", others());
    }
}

/// Compares what is left after many deaths with what is left where nobody died (`untouched`), and with what was left
/// after fewer deaths (`early`).
pub fn compare(conductor: &Conductor, untouched: &Figures, early: &Figures, late: &Figures) {
    println!("memory          untouched: {untouched:?}");
    println!("  after fewer deaths: {early:?}");
    println!("  after all deaths:   {late:?}");
    for figures in [early, late] {
        let is_back = |now: u64, baseline: u64| now.abs_diff(baseline) <= baseline / 100 + SLACK;
        assert!(
            is_back(figures.used.0, untouched.used.0) && is_back(figures.used.1, untouched.used.1),
            "used memory is not back to its baseline"
        );
        assert_eq!(
            figures.unaccounted, untouched.unaccounted,
            "memory that belongs to nobody"
        );
        assert_eq!(
            figures.committed, figures.backed,
            "memory that the arena does not know of"
        );
        assert_eq!(
            figures.sleepers.1, 0,
            "nobody is there, but commits try to wake somebody"
        );
    }
    // Those of the dead are used again, or there would have been none left; and can be given back.
    assert_eq!(late.participants, 1, "the conductor is alone");
    assert_eq!(late.descriptors, early.descriptors, "the conductor leaks descriptors");
    assert_eq!((early.files, late.files), (0, 0), "files are left behind");
    assert!(
        late.committed <= 2 * early.committed.max(8 << 20),
        "the arena grows with the number of deaths"
    );
    assert_eq!(conductor.board.sum(Word::Held), 0);
}
