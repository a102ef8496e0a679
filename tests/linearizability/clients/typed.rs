//! The client of the crate that programs use: [`State`], its transactions, snapshots and handles.

use zproc::{Error, Handle, Key as TypedKey, State, Transaction, Value};

use super::{Client, Names, Reply, bytes_of, contents, die, id_of, length, pause};
use crate::dict::{BROKEN, Id, Key, Op, Seen, Step};
use crate::plan::{Planned, STABLE, Way};

/// A client of a state.
pub struct Typed<'s> {
    state: &'s State,
    handles: Vec<Handle<'s, Value>>,
}

/// Short values are integers, the others bytes.
fn value(id: Id) -> Value {
    if length(id) == 8 {
        Value::from(id)
    } else {
        Value::from(bytes_of(id))
    }
}

fn id(value: &Value) -> Id {
    match value {
        Value::Bytes(bytes) => id_of(bytes),
        Value::Int(int) => match u32::try_from(*int) {
            Ok(id) if length(id) == 8 => id,
            _ => BROKEN,
        },
        _ => BROKEN,
    }
}

fn key(names: &Names, key: &TypedKey) -> Key {
    match key {
        TypedKey::Str(name) => names.key(name.as_bytes()),
        _ => Key::MAX,
    }
}

fn found(value: Option<Value>) -> Seen {
    Seen::Found(value.as_ref().map(id))
}

impl<'s> Typed<'s> {
    /// A client.
    pub fn new(state: &'s State) -> Self {
        let names = Names::of(0);
        let handles = (0..STABLE).map(|at| state.handle(names.name(at)).unwrap());
        Self {
            state,
            handles: handles.collect(),
        }
    }

    fn transaction(&self, steps: &[Step], planned: &Planned, commits: bool, names: &Names) -> Vec<Seen> {
        let mut seen = Vec::new();
        let result = self.state.atomic(|dict| {
            for (number, step) in steps.iter().enumerate() {
                if planned.dies && number + 1 == steps.len() {
                    die();
                }
                seen.push(in_transaction(dict, step, names)?);
                pause(planned.pauses, number + 1);
            }
            if commits { Ok(()) } else { Err(Error::other("given up")) }
        });
        assert_eq!(result.is_ok(), commits, "{result:?}");
        seen
    }

    fn snapshot(&self, pauses: u64, names: &Names) -> (Seen, u64) {
        let snapshot = self.state.snapshot().unwrap();
        let each: Vec<Option<Id>> = names
            .keys()
            .map(|at| {
                pause(pauses, usize::from(at));
                snapshot.get::<Value>(names.name(at)).unwrap().as_ref().map(id)
            })
            .collect();
        let all = snapshot.iter().map(|entry| {
            let (name, value) = entry.unwrap();
            (key(names, &name), id(&value))
        });
        let all = all.collect();
        (contents(names, all, snapshot.len().unwrap(), &each), snapshot.seq())
    }

    fn one(&self, step: &Step, planned: &Planned, names: &Names) -> Vec<Seen> {
        let handle = |at: Key| self.handles.get(usize::from(at)).filter(|_| planned.way == Way::Handle);
        vec![match *step {
            Step::Get(at) => found(match handle(at) {
                Some(handle) => handle.get().unwrap(),
                None => self.state.get(names.name(at)).unwrap(),
            }),
            Step::Contains(at) => Seen::Present(self.state.contains_key(names.name(at)).unwrap()),
            Step::Len => Seen::Count(self.state.len().unwrap() as u32),
            Step::Insert(at, id) => {
                match handle(at) {
                    Some(handle) => handle.set(value(id)).unwrap(),
                    None => self.state.insert(names.name(at), value(id)).unwrap(),
                }
                Seen::Done
            }
            Step::Remove(at) => found(self.state.remove(names.name(at)).unwrap()),
            Step::Pop => {
                let popped = self.state.pop_item().unwrap();
                Seen::Popped(popped.map(|(name, value)| (key(names, &name), id(&value))))
            }
            Step::GetOrInsert(at, own) => {
                let found = self.state.get_or_insert(names.name(at), value(own)).unwrap();
                Seen::Found(Some(id(&found)))
            }
            // It does not say how many there were, so it is asked in the same transaction.
            Step::Clear => return self.transaction(&[Step::Clear], planned, true, names),
            Step::Contents => unreachable!("a snapshot"),
        }]
    }
}

impl Client for Typed<'_> {
    fn run(&mut self, planned: &Planned, names: &Names) -> Reply {
        let (seen, seq) = match &planned.op {
            Op::Atomic(steps) => (self.transaction(steps, planned, true, names), None),
            Op::Aborted(steps) => (self.transaction(steps, planned, false, names), None),
            Op::One(Step::Contents) => {
                let (seen, seq) = self.snapshot(planned.pauses, names);
                (vec![seen], Some((seq, seq)))
            }
            Op::One(step) if step.writes() && planned.way == Way::Transaction => {
                (self.transaction(std::slice::from_ref(step), planned, true, names), None)
            }
            Op::One(step) if step.writes() => (self.one(step, planned, names), None),
            Op::One(step) => {
                let before = self.state.seq().unwrap();
                let seen = self.one(step, planned, names);
                // Every other time nothing but the operation itself looks at the shared words.
                let seq = planned.pauses & 1 << 60 != 0;
                (seen, seq.then(|| (before, self.state.seq().unwrap())))
            }
        };
        Reply { seen, seq }
    }
}

fn in_transaction(dict: &mut Transaction<'_>, step: &Step, names: &Names) -> zproc::Result<Seen> {
    Ok(match *step {
        Step::Get(at) => found(dict.get(names.name(at))?),
        Step::Contains(at) => Seen::Present(dict.contains_key(names.name(at))?),
        Step::Len => Seen::Count(dict.len() as u32),
        Step::Contents => {
            let each = names.keys().map(|at| dict.get::<Value>(names.name(at)));
            let each: Vec<_> = each.collect::<zproc::Result<_>>()?;
            let each: Vec<_> = each.iter().map(|found| found.as_ref().map(id)).collect();
            let all = dict.iter()?.map(|(name, value)| (key(names, &name), id(&value)));
            contents(names, all.collect(), dict.len(), &each)
        }
        Step::Insert(at, id) => {
            dict.insert(names.name(at), value(id))?;
            Seen::Done
        }
        Step::Remove(at) => found(dict.remove(names.name(at))?),
        Step::Pop => {
            let popped = dict.pop_item()?;
            Seen::Popped(popped.map(|(name, value)| (key(names, &name), id(&value))))
        }
        Step::Clear => {
            let count = dict.len();
            dict.clear()?;
            Seen::Count(count as u32)
        }
        Step::GetOrInsert(at, own) => Seen::Found(Some(id(&dict.get_or_insert(names.name(at), value(own))?))),
    })
}
