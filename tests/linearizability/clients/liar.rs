//! Clients that lie: what an engine would look like that breaks one of its promises now and then. The checkers must
//! notice each of them.

use super::{Client, Names, Reply, pause};
use crate::dict::{Key, Op, Seen, Step};
use crate::plan::{Planned, Way};

/// What is not as promised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lie {
    /// Every third read of a key shows what the one before showed.
    StaleRead,
    /// Every fourth insertion is acknowledged and not made.
    LostWrite,
    /// Some insertions are made a second time, behind the operation that follows.
    WrittenTwice,
    /// Some insertions are acknowledged first and made behind the operation that follows.
    LateWrite,
    /// The steps of a transaction are made one by one.
    TornTransaction,
    /// A snapshot shows some keys as they are and others as they were a moment ago.
    TornSnapshot,
}

impl Lie {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::StaleRead,
        Self::LostWrite,
        Self::WrittenTwice,
        Self::LateWrite,
        Self::TornTransaction,
        Self::TornSnapshot,
    ];
}

/// A client that lies about another.
pub struct Liar<C> {
    honest: C,
    lie: Lie,
    read: [Option<Seen>; 8],
    owed: Option<Planned>,
    count: u64,
}

impl<C: Client> Liar<C> {
    /// Makes a liar of a client.
    pub fn new(honest: C, lie: Lie) -> Self {
        Self {
            honest,
            lie,
            read: std::array::from_fn(|_| None),
            owed: None,
            count: 0,
        }
    }

    fn stale(&mut self, key: Key, planned: &Planned, names: &Names) -> Vec<Seen> {
        let fresh = self.honest.run(planned, names).seen;
        let known = &mut self.read[usize::from(key)];
        match known {
            Some(known) if self.count.is_multiple_of(3) => vec![known.clone()],
            _ => {
                *known = Some(fresh[0].clone());
                fresh
            }
        }
    }

    fn torn_transaction(&mut self, steps: &[Step], planned: &Planned, names: &Names) -> Vec<Seen> {
        let mut seen = Vec::new();
        for (number, step) in steps.iter().enumerate() {
            let alone = Planned {
                op: Op::One(step.clone()),
                ..planned.clone()
            };
            seen.extend(self.honest.run(&alone, names).seen);
            pause(planned.pauses, number + 1);
        }
        seen
    }

    fn torn_snapshot(&mut self, planned: &Planned, names: &Names) -> Vec<Seen> {
        let before = self.honest.run(planned, names).seen;
        std::thread::yield_now();
        let after = self.honest.run(planned, names).seen;
        let ([Seen::All(before)], [Seen::All(after)]) = (&before[..], &after[..]) else {
            return after;
        };
        let old = |key: Key| before.iter().find(|(k, _)| *k == key);
        let mixed = after.iter().map(|now| {
            if now.0 % 2 == 0 {
                *old(now.0).unwrap_or(now)
            } else {
                *now
            }
        });
        vec![Seen::All(mixed.collect())]
    }
}

impl<C: Client> Client for Liar<C> {
    fn run(&mut self, planned: &Planned, names: &Names) -> Reply {
        self.count += 1;
        let owed = self.owed.take();
        let seen = match (self.lie, &planned.op) {
            (Lie::StaleRead, Op::One(Step::Get(key))) => self.stale(*key, planned, names),
            (Lie::LostWrite, Op::One(Step::Insert(_, id))) if id / 4 % 4 == 0 => vec![Seen::Done],
            (Lie::LateWrite, Op::One(Step::Insert(_, id))) if id / 4 % 4 == 0 => {
                self.owed = Some(planned.clone());
                vec![Seen::Done]
            }
            (Lie::WrittenTwice, Op::One(Step::Insert(_, id))) if id / 4 % 4 == 0 => {
                self.owed = Some(planned.clone());
                self.honest.run(planned, names).seen
            }
            (Lie::TornTransaction, Op::Atomic(steps)) => self.torn_transaction(&steps.clone(), planned, names),
            (Lie::TornSnapshot, Op::One(Step::Contents)) => self.torn_snapshot(planned, names),
            _ => self.honest.run(planned, names).seen,
        };
        if let Some(mut owed) = owed {
            // Not through a handle, which this client may have asked about meanwhile.
            owed.way = Way::Plain;
            self.honest.run(&owed, names);
        }
        Reply { seen, seq: None }
    }
}
