//! What an operation of the sweep is made of, and the state that it begins with.

use std::collections::VecDeque;
use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::rc::Rc;

use nix::sys::memfd::{MFdFlags, memfd_create};
use shm_state::{Arena, ArenaOptions, Deadline, Namespace};

use crate::common::is_full;
use crate::common::model::{self, Change, Model, put};

/// What the child does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// Commits the changes.
    Commit,
    /// Sets the one key of the changes, on the straight path of an overwrite.
    Put,
    /// Makes the changes in a transaction and drops it.
    Abort,
    /// Tries to commit the changes, which do not fit.
    BeRefused,
    /// Creates an arena.
    CreateArena,
    /// Creates a namespace.
    CreateNamespace,
    /// Opens arena and namespace. All others open first and are only killed afterwards.
    Join,
    /// Closes arena and namespace, after having used them.
    Leave,
    /// Pins a snapshot and unpins it, pins it again and another one beside it, and unpins both.
    Pin,
    /// Waits for a commit in vain.
    Wait,
    /// Waits for a commit, which the parent makes once the child sleeps.
    Watch,
    /// Looks for mistakes and counts, under the lock.
    Verify,
    /// Gives back what dead processes left.
    Reap,
}

/// One operation.
pub struct Scenario {
    /// Its name.
    pub name: &'static str,
    /// What it does.
    pub act: Act,
    /// The arena.
    pub options: ArenaOptions,
    /// Makes the state before the operation, in the parent.
    pub setup: fn(&mut World),
    /// How many snapshots the parent pins then.
    pub pins: usize,
    /// The pins are dropped after the next commit, since little else is possible beside them.
    pub unpin: bool,
    /// Goes on with the state after the pins were taken.
    pub setup_after_pins: fn(&mut World),
    /// What is changed.
    pub changes: Vec<Change>,
    /// What is committed next, under the number that the operation would have had. Must work before and after.
    pub next: Vec<Change>,
    /// At most so many points are visited unless all are.
    pub most_points: u64,
    /// An operation with fewer stores than this did not do what it is here for.
    pub least_stores: u64,
    /// The setup leaves a lock whose owner's death the kernel was not told of: the next writer needs the backstop.
    pub unmarked: bool,
}

impl Scenario {
    /// Whether the arena is so small that its history may go at any time.
    pub fn is_short_of_memory(&self) -> bool {
        self.options.capacity < 1 << 20
    }

    /// Whether it is a commit: then the state after it differs from that before.
    pub fn commits(&self) -> bool {
        matches!(self.act, Act::Commit | Act::Put)
    }
}

/// The state that an operation begins with, as bytes: a copy of them is an arena.
pub struct Template {
    capacity: u64,
    bytes: Vec<u8>,
    model: Model,
    history: VecDeque<(u64, Rc<Model>)>,
}

impl Template {
    /// Makes the state of a scenario.
    pub fn of(scenario: &Scenario) -> Self {
        let arena = Arena::anonymous(&scenario.options).unwrap();
        let namespace = arena.namespace("swept").unwrap();
        let mut world = World::new(arena, namespace, Model::new());
        (scenario.setup)(&mut world);
        let stats = world.arena.stats().unwrap();
        let mut bytes = vec![0; stats.committed as usize];
        let file = File::from(world.arena.fd().unwrap().try_clone_to_owned().unwrap());
        file.read_exact_at(&mut bytes, 0).unwrap();
        Self {
            capacity: stats.capacity,
            bytes,
            model: world.model,
            history: world.history,
        }
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The same with other bytes and contents.
    pub fn with(&self, bytes: Vec<u8>, model: Model) -> Self {
        Self {
            capacity: self.capacity,
            bytes,
            model,
            history: VecDeque::new(),
        }
    }

    /// A copy that nobody has attached yet but this process.
    pub fn copy(&self) -> World {
        let file = File::from(memfd_create("swept", MFdFlags::MFD_CLOEXEC).unwrap());
        file.set_len(self.capacity).unwrap();
        file.write_all_at(&self.bytes, 0).unwrap();
        let arena = Arena::from_fd(file.as_fd().try_clone_to_owned().unwrap()).unwrap();
        let namespace = arena.namespace("swept").unwrap();
        let mut world = World::new(arena, namespace, self.model.clone());
        world.history = self.history.clone();
        world
    }
}

/// An arena, and what must be in it.
pub struct World {
    /// The arena.
    pub arena: Arena,
    /// Its namespace.
    pub namespace: Namespace,
    /// Its contents.
    pub model: Model,
    /// The last commits, and the contents after each.
    pub history: VecDeque<(u64, Rc<Model>)>,
}

/// More commits than any history here has.
const REMEMBERED: usize = 20;

impl World {
    /// An arena with these contents.
    pub fn new(arena: Arena, namespace: Namespace, model: Model) -> Self {
        Self {
            arena,
            namespace,
            model,
            history: VecDeque::new(),
        }
    }

    /// Opens the arena once more, as a forked child must.
    pub fn open(&self) -> (Arena, Namespace) {
        let arena = Arena::from_fd(self.arena.fd().unwrap().try_clone_to_owned().unwrap()).unwrap();
        let namespace = arena.namespace("swept").unwrap();
        (arena, namespace)
    }

    /// Commits some changes as one transaction, in arena and model.
    pub fn commit(&mut self, changes: &[Change]) {
        let seq = model::commit(&self.namespace, changes, Deadline::never()).unwrap();
        self.committed(seq, model::after(&self.model, changes));
    }

    /// Takes note of a commit.
    pub fn committed(&mut self, seq: u64, model: Model) {
        self.history.push_back((seq, Rc::new(model.clone())));
        self.history.drain(..self.history.len().saturating_sub(REMEMBERED));
        self.model = model;
    }

    /// Commits each change by itself.
    pub fn commit_each(&mut self, changes: impl IntoIterator<Item = Change>) {
        changes.into_iter().for_each(|change| self.commit(&[change]));
    }

    /// Sets keys to values of `len` bytes until the arena is full. Returns how many.
    pub fn fill(&mut self, prefix: &str, len: usize) -> usize {
        for number in 0.. {
            let change = [put(format!("{prefix}{number}"), len)];
            match model::commit(&self.namespace, &change, Deadline::never()) {
                Ok(seq) => self.committed(seq, model::after(&self.model, &change)),
                Err(error) if is_full(&error) => return number,
                Err(error) => panic!("{error}"),
            }
        }
        unreachable!()
    }
}
