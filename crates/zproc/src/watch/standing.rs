//! A watch that goes on: what a handler process looks for, carried there, and the loop that finds it.
//!
//! A handler for changes is called for each update behind the cursor that changes what it watches. One for a condition is
//! called for the state at the cursor, if the condition holds for it, and then for each update that changes what the
//! condition is about and after which it holds. The cursor is where the watch was made, in the parent; so the two together
//! miss nothing and see nothing twice. A retry goes on at the cursor, and does not test the state there once more: it was
//! tested, there or behind the update that the cursor stands at. So what the handler failed for is not told again. Only a run
//! that failed, or died, before that test was done leaves it to the next.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use shm_state::{Deadline, KeyRef};
use zproc_spawn::entry::{self, Kind, Located, Run};

use super::Verdict;
use super::condition::{Condition, Stored};
use super::subject::Subject;
use crate::codec::with_key;
use crate::error::{Error, Result};
use crate::key::ToKey;
use crate::snapshot::Snapshot;
use crate::state::State;
use crate::value::ToValue;

/// What a handler is called for, and how it waits for that.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Standing {
    sought: What,
    pub(crate) live: bool,
    pub(crate) duplicates: bool,
    pub(crate) timeout: Option<Duration>,
}

/// A key as it is stored.
type Carried = (u8, Vec<u8>);

#[derive(Clone, Debug, Serialize, Deserialize)]
enum What {
    /// A change of one of these keys; of any if there are none.
    Change(Vec<Carried>),
    /// A change of a key that is none of these.
    Except(Vec<Carried>),
    /// A closure holds.
    Test(Result<Located, String>),
    /// Something holds for a key.
    Key(Carried, Holds),
}

/// A [`Condition`], to be carried.
#[derive(Clone, Debug, Serialize, Deserialize)]
enum Holds {
    Equal(u16, Vec<u8>),
    NotEqual(u16, Vec<u8>),
    None,
    NotNone,
    Available,
}

/// The entries of tests of snapshots.
struct Tests;

struct Asked<'a> {
    snapshot: &'a Snapshot<'a>,
    verdict: Result<bool>,
}

impl Kind for Tests {
    type Call<'a> = Asked<'a>;
}

struct Ask<V>(std::marker::PhantomData<V>);

impl<V: Verdict + 'static, F: Fn(&Snapshot<'_>) -> V + Copy + 'static> Run<Tests, F> for Ask<V> {
    type Pointer = fn();

    fn run(test: F, asked: &mut Asked<'_>) {
        asked.verdict = test(asked.snapshot).verdict();
    }
}

impl Standing {
    fn new(sought: What) -> Self {
        Self {
            sought,
            live: false,
            duplicates: false,
            timeout: None,
        }
    }

    pub(crate) fn change<K: ToKey>(keys: impl IntoIterator<Item = K>) -> Result<Self> {
        Ok(Self::new(What::Change(carried_all(keys)?)))
    }

    pub(crate) fn except<K: ToKey>(keys: impl IntoIterator<Item = K>) -> Result<Self> {
        Ok(Self::new(What::Except(carried_all(keys)?)))
    }

    pub(crate) fn test<V: Verdict + 'static, F: Fn(&Snapshot<'_>) -> V + Copy + 'static>(test: F) -> Self {
        Self::new(What::Test(entry::locate::<Tests, F, Ask<V>>(test)))
    }

    pub(crate) fn equal(key: impl ToKey, value: impl ToValue) -> Result<Self> {
        let (tag, bytes) = Stored::carried(value)?;
        Ok(Self::new(What::Key(carried(key)?, Holds::Equal(tag, bytes))))
    }

    pub(crate) fn not_equal(key: impl ToKey, value: impl ToValue) -> Result<Self> {
        let (tag, bytes) = Stored::carried(value)?;
        Ok(Self::new(What::Key(carried(key)?, Holds::NotEqual(tag, bytes))))
    }

    pub(crate) fn none(key: impl ToKey) -> Result<Self> {
        Ok(Self::new(What::Key(carried(key)?, Holds::None)))
    }

    pub(crate) fn not_none(key: impl ToKey) -> Result<Self> {
        Ok(Self::new(What::Key(carried(key)?, Holds::NotNone)))
    }

    pub(crate) fn available(key: impl ToKey) -> Result<Self> {
        Ok(Self::new(What::Key(carried(key)?, Holds::Available)))
    }

    /// Why it cannot work, if it cannot.
    pub(crate) fn check(&self) -> Result<()> {
        match &self.sought {
            What::Test(Err(reason)) => Err(unfound(reason.clone())),
            _ => Ok(()),
        }
    }

    /// Calls the handler for ever; ends with its first error, or with that of a wait. `begins` unless it goes on where it was
    /// ended by such an error; `begun` is called when the state at the cursor was tested, right before the handler is.
    pub(crate) fn run(
        &self,
        state: &State,
        begins: bool,
        begun: impl FnOnce(),
        mut handle: impl FnMut(Snapshot<'_>) -> Result<()>,
    ) -> Result<()> {
        let subject = match &self.sought {
            What::Change(keys) => Subject::one_of(keys.iter().map(|key| Ok(owned(key))))?,
            What::Except(keys) => Subject::Except(keys.iter().map(owned).collect()),
            What::Test(_) => Subject::Any,
            What::Key(key, _) => Subject::Key(owned(key)),
        };
        let mut test = self.sought.test()?;
        let mut watch = state.watch().of(subject);
        watch.live = self.live;
        watch.duplicates = self.duplicates;
        if begins && self.sought.is_condition() {
            let now = match self.live {
                false => state.snapshot_at(state.cursor())?,
                true => None,
            };
            let now = now.map_or_else(|| state.snapshot(), Ok)?;
            let holds = test(&now)?;
            begun();
            if holds {
                handle(now)?;
            }
        }
        loop {
            let deadline = self.timeout.map(Deadline::after);
            watch.last = None;
            let found = loop {
                if watch.last.is_none() && deadline.is_some_and(Deadline::passed) {
                    // What comes from now on is too late. Before it there may be more than was looked at.
                    watch.last = Some(state.seq()?);
                }
                watch.timeout = deadline.and_then(Deadline::remaining);
                let next = watch.get_when_any_change()?;
                if test(&next)? {
                    break next;
                }
            };
            handle(found)?;
        }
    }
}

/// Whether something holds for a snapshot.
type Test = Box<dyn FnMut(&Snapshot<'_>) -> Result<bool>>;

impl What {
    fn is_condition(&self) -> bool {
        matches!(self, Self::Test(_) | Self::Key(..))
    }

    fn test(&self) -> Result<Test> {
        Ok(match self {
            Self::Change(_) | Self::Except(_) => Box::new(|_| Ok(true)),
            Self::Test(located) => {
                let located = located.as_ref().map_err(|reason| unfound(reason.clone()))?;
                let found = entry::find::<Tests>(located).map_err(unfound)?;
                Box::new(move |snapshot| {
                    let mut asked = Asked {
                        snapshot,
                        verdict: Ok(false),
                    };
                    found.run(&mut asked);
                    asked.verdict
                })
            }
            Self::Key(key, holds) => {
                let (key, condition) = (owned(key), holds.condition());
                Box::new(move |snapshot| condition.holds(snapshot, &key.as_ref()))
            }
        })
    }
}

impl Holds {
    fn condition(&self) -> Condition {
        match self {
            Self::Equal(tag, bytes) => Condition::Equal(Stored::of(*tag, bytes)),
            Self::NotEqual(tag, bytes) => Condition::NotEqual(Stored::of(*tag, bytes)),
            Self::None => Condition::None,
            Self::NotNone => Condition::NotNone,
            Self::Available => Condition::Available,
        }
    }
}

#[cold]
fn unfound(reason: String) -> Error {
    Error::Target {
        name: "of a test of snapshots".into(),
        reason,
    }
}

fn carried(key: impl ToKey) -> Result<Carried> {
    with_key(key, |key| Ok((key.tag(), key.bytes().to_vec())))
}

fn carried_all<K: ToKey>(keys: impl IntoIterator<Item = K>) -> Result<Vec<Carried>> {
    keys.into_iter().map(carried).collect()
}

fn owned((tag, bytes): &Carried) -> shm_state::Key {
    KeyRef::new(*tag, bytes).to_owned()
}
