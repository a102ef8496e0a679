//! Whether a recorded history is linearizable: whether each operation can be given one instant between its call and its
//! return such that, carried out one after the other in the order of these instants, they show what they showed.
//!
//! The search is that of Wing and Gong ("Testing and verifying concurrent objects", 1993) with Lowe's memoization
//! ("Testing for linearizability", 2017): take one operation after the other out of the history, each one that no
//! remaining one had returned before it was called; go back when none fits; and never look twice at the same remainder
//! with the same state. It trusts nothing but the clock, and knows nothing of the engine.
//!
//! **Pending operations.** A client that is killed leaves an operation without return. It may have had its effect, or
//! not; so the search may take it, whatever it would have shown, or leave it out. With a *deadline* it must not come
//! after any operation that was called later than that: by then a dead writer's commit has been finished or never will
//! be.
//!
//! **Parts.** A history is linearizable if its restriction to each object is (Herlihy and Wing, 1990). Keys are such
//! objects as long as each operation touches one key alone; a transaction, a snapshot or a length ties them together. So
//! [`by_key`] splits only histories that have none of these, and says so.
//!
//! **Why no library.** Three crates do something like it. `stateright` (0.31) has a tester of histories with operations in
//! flight, but no memoization, so that it walks through all interleavings, no deadlines, and brings a model checker with
//! a web server along. `todc-utils` (0.1) has the same search as here, but refuses incomplete histories.
//! `lincheck` (0.2) runs threads of one process by itself and takes no recorded history. The search is a page.

#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::hash::Hash;

use crate::dict::{Dict, Key, Op, Seen};

/// An object as it is when one operation comes after the other.
pub trait Model: Clone + Eq + Hash {
    /// What can be called.
    type Op;
    /// What it shows.
    type Seen: PartialEq;

    /// Carries an operation out.
    fn apply(&mut self, op: &Self::Op) -> Self::Seen;
}

/// One operation of a history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call<O, S> {
    /// Who called. A client calls one after the other.
    pub client: u32,
    /// What was called.
    pub op: O,
    /// What it showed; `None`: it is pending.
    pub seen: Option<S>,
    /// Nanoseconds, taken before it was called.
    pub call: u64,
    /// Nanoseconds, taken after it returned. Of a pending one: its deadline.
    pub ret: u64,
}

/// A call on the dict.
pub type DictCall = Call<Op, Vec<Seen>>;

/// What the search found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// An order that explains everything; pending operations that had no effect are not in it.
    pub order: Option<Vec<usize>>,
    /// The longest order that explains a part; for the message.
    pub longest: Vec<usize>,
    /// Pairs of remainder and state that were looked at.
    pub states: u64,
}

/// The most operations in one history.
pub const MOST: usize = 128;

/// A place in the search: which operations have had their effect, the state then, and where to go on looking.
struct Place<M> {
    taken: u128,
    state: M,
    next: usize,
}

/// Searches for an order.
pub fn check<M: Model>(initial: &M, calls: &[Call<M::Op, M::Seen>]) -> Verdict {
    assert!(calls.len() <= MOST, "{} operations, at most {MOST}", calls.len());
    let completed = (0..calls.len()).filter(|at| calls[*at].seen.is_some());
    let completed: u128 = completed.map(|at| 1 << at).sum();
    let mut known = HashSet::new();
    let mut verdict = Verdict {
        order: None,
        longest: Vec::new(),
        states: 1,
    };
    let mut path = Vec::new();
    let mut places = vec![Place {
        taken: 0,
        state: initial.clone(),
        next: 0,
    }];
    while let Some(place) = places.last_mut() {
        if place.taken & completed == completed {
            verdict.order = Some(path);
            return verdict;
        }
        let Some((at, state)) = next(calls, place) else {
            places.pop();
            path.pop();
            continue;
        };
        let taken = place.taken | 1 << at;
        if known.insert((taken, state.clone())) {
            verdict.states += 1;
            path.push(at);
            places.push(Place { taken, state, next: 0 });
            if path.len() > verdict.longest.len() {
                verdict.longest.clone_from(&path);
            }
        }
    }
    verdict
}

/// The next operation that may come now and that fits, and the state after it.
fn next<M: Model>(calls: &[Call<M::Op, M::Seen>], place: &mut Place<M>) -> Option<(usize, M)> {
    let is_taken = |at: usize| place.taken & 1 << at != 0;
    let all = 0..calls.len();
    let waiting = all.clone().filter(|at| !is_taken(*at) && calls[*at].seen.is_some());
    let first_return = waiting.map(|at| calls[at].ret).min().unwrap_or(u64::MAX);
    let latest_call = all
        .filter(|at| is_taken(*at))
        .map(|at| calls[at].call)
        .max()
        .unwrap_or(0);
    while place.next < calls.len() {
        let at = place.next;
        let call = &calls[at];
        place.next += 1;
        // Equal times say nothing about the order.
        let late = call.seen.is_none() && call.ret < latest_call;
        if is_taken(at) || call.call > first_return || late {
            continue;
        }
        let mut state = place.state.clone();
        let seen = state.apply(&call.op);
        if call.seen.as_ref().is_none_or(|recorded| *recorded == seen) {
            return Some((at, state));
        }
    }
    None
}

/// The history of each key with its initial state. `None` if some operation does not touch one key alone.
pub fn by_key(initial: &Dict, calls: &[DictCall]) -> Option<Vec<(Dict, Vec<DictCall>)>> {
    let keys: Option<Vec<Key>> = calls.iter().map(|call| call.op.only_key()).collect();
    let keys = keys?;
    let mut each = keys.clone();
    each.sort_unstable();
    each.dedup();
    let part = |key: Key| {
        let initial = initial.0.iter().copied().filter(|(k, _)| *k == key).collect();
        let calls = keys.iter().zip(calls).filter(|(k, _)| **k == key);
        (Dict(initial), calls.map(|(_, call)| call.clone()).collect())
    };
    Some(each.into_iter().map(part).collect())
}

/// Why a history of the dict is not linearizable, if it isn't, and how many states were looked at. By key if it can be.
pub fn refuse(initial: &Dict, calls: &[DictCall]) -> (Option<String>, u64) {
    let parts = by_key(initial, calls).unwrap_or_else(|| vec![(initial.clone(), calls.to_vec())]);
    let mut states = 0;
    for (initial, calls) in parts {
        let verdict = check(&initial, &calls);
        states += verdict.states;
        if verdict.order.is_none() {
            return (Some(story(&initial, &calls, &verdict)), states);
        }
    }
    (None, states)
}

/// A history as people read it: by time of call, from the first call on.
pub fn story(initial: &Dict, calls: &[DictCall], verdict: &Verdict) -> String {
    let start = calls.iter().map(|call| call.call).min().unwrap_or(0);
    let mut sorted: Vec<usize> = (0..calls.len()).collect();
    sorted.sort_by_key(|at| calls[*at].call);
    let mut text = format!("initially {:?}\n", initial.0);
    for at in sorted {
        let Call {
            client,
            op,
            seen,
            call,
            ret,
        } = &calls[at];
        let place = verdict.longest.iter().position(|taken| *taken == at);
        let place = place.map_or("   -".into(), |place| format!("{place:4}"));
        let (from, until) = (call - start, ret.saturating_sub(start));
        let shown = match seen {
            Some(seen) => format!("..{until:8}  client {client:2}  {op:?} -> {seen:?}"),
            None => format!("..    ?     client {client:2}  {op:?} pending"),
        };
        text += &format!("{place}  {from:8}{shown}\n");
    }
    text + "(the first column: the longest order that explains a part)"
}
