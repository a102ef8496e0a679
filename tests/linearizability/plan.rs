//! What a client does in a round: a sequence of operations that a few numbers determine, so that the client and the one
//! who checks make the same one of them.

use crate::dict::{Id, Key, Op, Step};
use crate::random::Random;

/// Keys that stay over many rounds; handles are made for them.
pub const STABLE: Key = 3;

/// What kinds of operations a round has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// All of them, five keys, two of which are new in each round.
    Mixed,
    /// Reads and overwrites of two keys: the shortest operations, most often on the straight path.
    Hot,
    /// Transactions and snapshots.
    Together,
    /// Many operations of one key each: a history that splits by key.
    Single,
}

impl Profile {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Mixed, Self::Hot, Self::Together, Self::Single];

    fn keys(self) -> u64 {
        match self {
            Self::Mixed => 5,
            Self::Hot => 2,
            Self::Together | Self::Single => 4,
        }
    }
}

/// By which way of several an operation is to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// The shortest one.
    Plain,
    /// Through what was remembered of the key.
    Handle,
    /// In a transaction of its own.
    Transaction,
}

/// What all steps of a client in a round follow from.
#[derive(Clone, Copy, Debug)]
pub struct Order {
    /// For the random numbers.
    pub seed: u64,
    /// The kinds.
    pub profile: Profile,
    /// How many operations.
    pub count: usize,
    /// The values that are written count from here.
    pub first_id: Id,
    /// How the client is to die.
    pub death: Death,
}

/// How a client dies in a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Death {
    /// It lives.
    None,
    /// A SIGKILL so many nanoseconds after the start, wherever it is then.
    After(u64),
    /// In this operation, which is a transaction then: inside, before the last step.
    Inside(usize),
    /// Before this store to the arena (in builds with kill points).
    BeforeStore(u64),
}

/// One operation to be made.
#[derive(Clone, Debug)]
pub struct Planned {
    /// What.
    pub op: Op,
    /// How.
    pub way: Way,
    /// Random bits that say where the client dawdles.
    pub pauses: u64,
    /// The process is to end inside of it.
    pub dies: bool,
}

/// Values that one operation may write.
pub const IDS_PER_OP: Id = 4;

impl Order {
    /// The operations.
    pub fn plan(&self) -> Vec<Planned> {
        let mut random = Random::new(self.seed);
        (0..self.count)
            .map(|number| self.planned(number, &mut random))
            .collect()
    }

    fn planned(&self, number: usize, random: &mut Random) -> Planned {
        let id = self.first_id + number as Id * IDS_PER_OP;
        let dies = self.death == Death::Inside(number);
        let op = match self.profile {
            _ if dies => Op::Atomic(writing_steps(id, self.profile, random)),
            Profile::Mixed => mixed(id, random),
            Profile::Hot => hot(id, random),
            Profile::Together => together(id, random),
            Profile::Single => single(id, random),
        };
        let way = match random.below(5) {
            0 => Way::Transaction,
            1 | 2 => Way::Handle,
            _ => Way::Plain,
        };
        let pauses = random.next();
        Planned { op, way, pauses, dies }
    }
}

fn key(profile: Profile, random: &mut Random) -> Key {
    random.below(profile.keys()) as Key
}

fn hot(id: Id, random: &mut Random) -> Op {
    let key = key(Profile::Hot, random);
    Op::One(match random.below(20) {
        0..=9 => Step::Get(key),
        10..=17 => Step::Insert(key, id),
        18 => Step::Remove(key),
        _ => Step::Contents,
    })
}

fn single(id: Id, random: &mut Random) -> Op {
    let key = key(Profile::Single, random);
    Op::One(match random.below(20) {
        0..=8 => Step::Get(key),
        9 => Step::Contains(key),
        10..=15 => Step::Insert(key, id),
        16..=17 => Step::Remove(key),
        _ => Step::GetOrInsert(key, id),
    })
}

fn mixed(id: Id, random: &mut Random) -> Op {
    let key = key(Profile::Mixed, random);
    Op::One(match random.below(40) {
        0..=9 => Step::Get(key),
        10 => Step::Contains(key),
        11..=12 => Step::Len,
        13..=15 => Step::Contents,
        16..=25 => Step::Insert(key, id),
        26..=28 => Step::Remove(key),
        29..=30 => Step::GetOrInsert(key, id),
        31 => Step::Pop,
        32 => Step::Clear,
        _ => return transaction(id, Profile::Mixed, random),
    })
}

fn together(id: Id, random: &mut Random) -> Op {
    match random.below(10) {
        0..=3 => transaction(id, Profile::Together, random),
        4..=6 => Op::One(Step::Contents),
        7 => Op::One(Step::Len),
        8 => Op::One(Step::Get(key(Profile::Together, random))),
        _ => Op::One(Step::Insert(key(Profile::Together, random), id)),
    }
}

fn transaction(id: Id, profile: Profile, random: &mut Random) -> Op {
    match random.below(8) {
        0 => Op::Atomic(vec![
            Step::Get(key(profile, random)),
            Step::Contents,
            Step::Get(key(profile, random)),
        ]),
        1 => Op::Aborted(writing_steps(id, profile, random)),
        _ => Op::Atomic(writing_steps(id, profile, random)),
    }
}

/// Some steps, the last of which is an insertion: whoever commits them makes a commit.
fn writing_steps(id: Id, profile: Profile, random: &mut Random) -> Vec<Step> {
    let count = 1 + random.below(3) as Id;
    let mut steps: Vec<Step> = (0..count)
        .map(|number| {
            let key = key(profile, random);
            match random.below(12) {
                0..=2 => Step::Get(key),
                3 => Step::Remove(key),
                4 => Step::Contents,
                5 if random.once_in(3) => Step::Clear,
                5 => Step::Pop,
                6 => Step::GetOrInsert(key, id + number),
                _ => Step::Insert(key, id + number),
            }
        })
        .collect();
    steps.push(Step::Insert(key(profile, random), id + count));
    steps
}
