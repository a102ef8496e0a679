//! The client of the engine: [`Namespace`], its transactions, snapshots and places.

use shm_state::{Deadline, KeyRef, Namespace, Payload, Place, Transaction};

use super::{Client, Names, PATIENCE, Reply, bytes_of, contents, die, id_of, pause};
use crate::dict::{Id, Key, Op, Seen, Step};
use crate::plan::{Planned, STABLE, Way};

const TAG: u16 = 1;

/// A client of a namespace.
pub struct Direct<'n> {
    namespace: &'n Namespace,
    places: [Option<Place<'n>>; STABLE as usize],
}

fn id(payload: &Payload) -> Id {
    id_of(payload.bytes())
}

fn key<'k>(names: &'k Names, key: Key) -> KeyRef<'k> {
    KeyRef::new(0, names.name(key).as_bytes())
}

impl<'n> Direct<'n> {
    /// A client.
    pub fn new(namespace: &'n Namespace) -> Self {
        Self {
            namespace,
            places: [None; STABLE as usize],
        }
    }

    fn begin(&self) -> Transaction<'n> {
        self.namespace
            .begin(Deadline::after(PATIENCE))
            .expect("the writer lock")
    }

    /// Several steps in one transaction.
    fn transaction(&self, steps: &[Step], planned: &Planned, commits: bool, names: &Names) -> Reply {
        let mut tx = self.begin();
        let mut seen = Vec::new();
        for (number, step) in steps.iter().enumerate() {
            if planned.dies && number + 1 == steps.len() {
                die();
            }
            seen.push(in_transaction(&mut tx, step, names));
            pause(planned.pauses, number + 1);
        }
        let seq = if commits { tx.commit().unwrap() } else { tx.base_seq() };
        Reply {
            seen,
            seq: Some((seq, seq)),
        }
    }

    fn place(&mut self, at: Key, names: &Names) -> Option<Place<'n>> {
        let place = self.places.get_mut(usize::from(at))?;
        if !place.is_some_and(|place| place.is_current()) {
            *place = self.namespace.place(&key(names, at)).unwrap();
        }
        *place
    }

    fn get(&mut self, at: Key, way: Way, names: &Names) -> Option<Id> {
        if way == Way::Handle
            && let Some(place) = self.place(at, names)
            && let Some(found) = place.peek(|_, bytes| id_of(bytes))
        {
            return found;
        }
        let key = key(names, at);
        match way {
            Way::Transaction => self.namespace.get(&key).unwrap().map(|payload| id(&payload)),
            _ => self.namespace.get_with(&key, |_, bytes| id_of(bytes)).unwrap(),
        }
    }

    fn insert(&mut self, at: Key, id: Id, way: Way, names: &Names) -> u64 {
        let (key, bytes) = (key(names, at), bytes_of(id));
        if way == Way::Transaction {
            let mut tx = self.begin();
            tx.put(&key, TAG, &bytes).unwrap();
            return tx.commit().unwrap();
        }
        // As it is: a place that went stale must be noticed by the engine.
        let place = self
            .places
            .get(usize::from(at))
            .filter(|_| way == Way::Handle)
            .copied()
            .flatten();
        let place = place.map(|place| place.entry_ref());
        let put = self.namespace.put(&key, place, TAG, &bytes, Deadline::after(PATIENCE));
        put.unwrap()
    }

    fn snapshot(&self, pauses: u64, names: &Names) -> (Seen, u64) {
        let pinned = self.namespace.pin().unwrap();
        let each: Vec<Option<Id>> = names
            .keys()
            .map(|at| {
                pause(pauses, usize::from(at));
                pinned.get(&key(names, at)).unwrap().map(|payload| id(&payload))
            })
            .collect();
        let all = pinned.iter().unwrap().map(|entry| {
            let (key, payload) = entry.unwrap();
            (names.key(key.bytes()), id(&payload))
        });
        let all = all.collect();
        (contents(names, all, pinned.len().unwrap(), &each), pinned.seq())
    }

    /// A step that takes no lock.
    fn read(&mut self, step: &Step, planned: &Planned, names: &Names) -> Reply {
        let before = self.namespace.seq();
        let seen = match *step {
            Step::Get(at) => Seen::Found(self.get(at, planned.way, names)),
            Step::Contains(at) => Seen::Present(self.namespace.contains(&key(names, at)).unwrap()),
            Step::Len => Seen::Count(self.namespace.len().unwrap() as u32),
            _ => {
                let (seen, seq) = self.snapshot(planned.pauses, names);
                return Reply {
                    seen: vec![seen],
                    seq: Some((seq, seq)),
                };
            }
        };
        // Every other time nothing but the operation itself looks at the shared words.
        let seq = (planned.pauses & 1 << 60 != 0).then(|| (before, self.namespace.seq()));
        Reply { seen: vec![seen], seq }
    }
}

impl Client for Direct<'_> {
    fn run(&mut self, planned: &Planned, names: &Names) -> Reply {
        match &planned.op {
            Op::Atomic(steps) => self.transaction(steps, planned, true, names),
            Op::Aborted(steps) => self.transaction(steps, planned, false, names),
            Op::One(Step::Insert(at, id)) => {
                let seq = self.insert(*at, *id, planned.way, names);
                Reply {
                    seen: vec![Seen::Done],
                    seq: Some((seq, seq)),
                }
            }
            Op::One(step) if step.writes() => self.transaction(std::slice::from_ref(step), planned, true, names),
            Op::One(step) => self.read(step, planned, names),
        }
    }
}

fn in_transaction(tx: &mut Transaction<'_>, step: &Step, names: &Names) -> Seen {
    match *step {
        Step::Get(at) => Seen::Found(tx.get(&key(names, at)).unwrap().map(|payload| id(&payload))),
        Step::Contains(at) => Seen::Present(tx.contains(&key(names, at)).unwrap()),
        Step::Len => Seen::Count(tx.len() as u32),
        Step::Contents => {
            let each: Vec<_> = names.keys().map(|at| tx.get(&key(names, at)).unwrap()).collect();
            let each: Vec<_> = each.iter().map(|found| found.as_ref().map(id)).collect();
            let all = tx.entries().unwrap();
            let all = all.iter().map(|(key, payload)| (names.key(key.bytes()), id(payload)));
            contents(names, all.collect(), tx.len(), &each)
        }
        Step::Insert(at, id) => {
            tx.put(&key(names, at), TAG, &bytes_of(id)).unwrap();
            Seen::Done
        }
        Step::Remove(at) => {
            let key = key(names, at);
            let found = tx.get(&key).unwrap().map(|payload| id(&payload));
            let removed = tx.remove(&key).unwrap();
            if removed == found.is_some() {
                Seen::Found(found)
            } else {
                Seen::Contradiction
            }
        }
        Step::Pop => {
            let popped = tx.pop_last().unwrap();
            Seen::Popped(popped.map(|(key, payload)| (names.key(key.bytes()), id(&payload))))
        }
        Step::Clear => {
            let count = tx.len();
            tx.clear().unwrap();
            Seen::Count(count as u32)
        }
        Step::GetOrInsert(at, own) => {
            let key = key(names, at);
            let found = tx.get(&key).unwrap().map(|payload| id(&payload));
            if found.is_none() {
                tx.put(&key, TAG, &bytes_of(own)).unwrap();
            }
            Seen::Found(Some(found.unwrap_or(own)))
        }
    }
}
