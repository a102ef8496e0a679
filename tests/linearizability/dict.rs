//! The sequential dict that concurrent histories are held against: what each operation does and shows if nobody else is
//! there.
//!
//! Keys are small numbers, and each value that is ever written is another number, so that whoever reads one knows which
//! write it came from. Insertion order is part of the state.

use crate::checker::Model;

/// Which key.
pub type Key = u8;

/// Which write.
pub type Id = u32;

/// What stands for a value that nobody wrote: bytes of two writes mixed, or none that can be read at all.
pub const BROKEN: Id = Id::MAX;

/// Keys and values in insertion order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Dict(pub Vec<(Key, Id)>);

/// One access.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// The value of a key.
    Get(Key),
    /// Whether a key is there.
    Contains(Key),
    /// How many keys are there.
    Len,
    /// Everything: keys and values in order, their number, and the value of each key by itself.
    Contents,
    /// Puts a value under a key.
    Insert(Key, Id),
    /// Takes a key out; shows its value.
    Remove(Key),
    /// Takes the key out that was inserted last; shows both.
    Pop,
    /// Takes all keys out; shows how many there were.
    Clear,
    /// The value of a key, after a value was put there if the key was absent.
    GetOrInsert(Key, Id),
}

/// What a client calls, and what must happen at one instant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// A single access.
    One(Step),
    /// Several in one transaction.
    Atomic(Vec<Step>),
    /// Several in one transaction that is given up in the end: they see each other, and nobody else ever sees them.
    Aborted(Vec<Step>),
}

/// What a step showed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// Nothing to show.
    Done,
    /// A value, or that there is none.
    Found(Option<Id>),
    /// Whether the key is there.
    Present(bool),
    /// How many keys there are, or were.
    Count(u32),
    /// What was taken out.
    Popped(Option<(Key, Id)>),
    /// All keys and values in order.
    All(Vec<(Key, Id)>),
    /// Parts of one snapshot contradicted each other. No dict shows that.
    Contradiction,
}

impl Dict {
    /// The value of a key.
    pub fn get(&self, key: Key) -> Option<Id> {
        self.0.iter().find(|(k, _)| *k == key).map(|(_, id)| *id)
    }

    fn insert(&mut self, key: Key, id: Id) {
        match self.0.iter_mut().find(|(k, _)| *k == key) {
            Some(entry) => entry.1 = id,
            None => self.0.push((key, id)),
        }
    }

    fn remove(&mut self, key: Key) -> Option<Id> {
        let at = self.0.iter().position(|(k, _)| *k == key)?;
        Some(self.0.remove(at).1)
    }

    fn step(&mut self, step: &Step) -> Seen {
        match *step {
            Step::Get(key) => Seen::Found(self.get(key)),
            Step::Contains(key) => Seen::Present(self.get(key).is_some()),
            Step::Len => Seen::Count(self.0.len() as u32),
            Step::Contents => Seen::All(self.0.clone()),
            Step::Insert(key, id) => {
                self.insert(key, id);
                Seen::Done
            }
            Step::Remove(key) => Seen::Found(self.remove(key)),
            Step::Pop => Seen::Popped(self.0.pop()),
            Step::Clear => Seen::Count(std::mem::take(&mut self.0).len() as u32),
            Step::GetOrInsert(key, id) => {
                if self.get(key).is_none() {
                    self.insert(key, id);
                }
                Seen::Found(self.get(key))
            }
        }
    }
}

impl Model for Dict {
    type Op = Op;
    type Seen = Vec<Seen>;

    fn apply(&mut self, op: &Op) -> Vec<Seen> {
        match op {
            Op::One(step) => vec![self.step(step)],
            Op::Atomic(steps) => steps.iter().map(|step| self.step(step)).collect(),
            Op::Aborted(steps) => {
                let mut private = self.clone();
                steps.iter().map(|step| private.step(step)).collect()
            }
        }
    }
}

impl Step {
    /// The only key that it touches or depends on, if there is such a one.
    fn only_key(&self) -> Option<Key> {
        match *self {
            Step::Get(key) | Step::Contains(key) | Step::Insert(key, _) => Some(key),
            Step::Remove(key) | Step::GetOrInsert(key, _) => Some(key),
            Step::Len | Step::Contents | Step::Pop | Step::Clear => None,
        }
    }

    /// Whether it may change something.
    pub fn writes(&self) -> bool {
        !matches!(self, Step::Get(_) | Step::Contains(_) | Step::Len | Step::Contents)
    }
}

impl Op {
    /// The only key that it touches or depends on, if there is such a one.
    pub fn only_key(&self) -> Option<Key> {
        match self {
            Op::One(step) => step.only_key(),
            Op::Atomic(_) | Op::Aborted(_) => None,
        }
    }

    /// Whether it takes the writer lock, and so first finishes what a dead writer left.
    pub fn locks(&self) -> bool {
        match self {
            Op::One(step) => step.writes(),
            Op::Atomic(_) | Op::Aborted(_) => true,
        }
    }

    /// Whether it made a commit, by what it showed. A transaction that writes ends in an insertion, so that it always
    /// does.
    pub fn commits(&self, seen: &[Seen]) -> bool {
        match (self, seen) {
            (Op::One(Step::Insert(..)), _) => true,
            (Op::One(Step::Remove(_)), [Seen::Found(found)]) => found.is_some(),
            (Op::One(Step::Pop), [Seen::Popped(popped)]) => popped.is_some(),
            (Op::One(Step::Clear), [Seen::Count(count)]) => *count > 0,
            (Op::One(Step::GetOrInsert(_, own)), [Seen::Found(found)]) => *found == Some(*own),
            (Op::Atomic(steps), _) => matches!(steps.last(), Some(Step::Insert(..))),
            _ => false,
        }
    }
}

#[test]
fn a_new_key_goes_to_the_end_and_an_old_one_stays() {
    let mut dict = Dict(vec![(0, 1), (1, 2)]);
    let steps = vec![
        Step::Insert(0, 3),
        Step::Remove(1),
        Step::Insert(2, 4),
        Step::Insert(1, 5),
    ];
    let seen = dict.apply(&Op::Atomic(steps));
    assert_eq!(seen, [Seen::Done, Seen::Found(Some(2)), Seen::Done, Seen::Done]);
    assert_eq!(dict.0, [(0, 3), (2, 4), (1, 5)]);
    assert_eq!(dict.apply(&Op::One(Step::Pop)), [Seen::Popped(Some((1, 5)))]);
}

#[test]
fn an_aborted_transaction_sees_itself_and_leaves_nothing() {
    let mut dict = Dict(vec![(0, 1)]);
    let seen = dict.apply(&Op::Aborted(vec![Step::Clear, Step::Insert(1, 2), Step::Contents]));
    assert_eq!(seen, [Seen::Count(1), Seen::Done, Seen::All(vec![(1, 2)])]);
    assert_eq!(dict.0, [(0, 1)]);
}
