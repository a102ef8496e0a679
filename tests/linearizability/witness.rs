//! A second, stronger check, which takes the engine at its word: commits are numbered, and the order of these numbers
//! must itself explain the history.
//!
//! Each commit of a round is traced to the operation that made it, by the number that the call returned or by who signed
//! it in the log, and all are carried out in the order of their numbers. Then
//!
//! - each number belongs to one operation and each acknowledged write has one;
//! - what writers saw is what the dict held at that number;
//! - an operation that had returned before another was called has the lower number;
//! - a snapshot shows exactly the state of its number, and every other read that of some number between those that were
//!   the newest before and after it, such that reads and writes in sequence do not go back.
//!
//! Where [`super::checker`] is content with any order, this one must be it.

use crate::checker::{DictCall, Model};
use crate::dict::Dict;

/// What is known of a round.
pub struct Evidence<'a> {
    /// The state at the beginning.
    pub initial: &'a Dict,
    /// The newest commit at the beginning.
    pub base: u64,
    /// The newest commit at the end.
    pub last: u64,
    /// What was called.
    pub calls: &'a [DictCall],
    /// For each call, the numbers that the engine told.
    pub seqs: &'a [Option<(u64, u64)>],
    /// Who signed each of the commits, if they are still in the log.
    pub log: Option<Vec<u32>>,
}

/// The verdict.
#[derive(Debug, PartialEq, Eq)]
pub enum Finding {
    /// The order of the numbers explains everything. So many of the pending operations happened.
    Fine(u64),
    /// Not all numbers are known.
    Unknown,
    /// Why not.
    Refused(String),
}

/// Which operation made each commit of the round.
type Makers = Vec<Option<usize>>;

impl Evidence<'_> {
    /// Checks.
    pub fn check(&self) -> Finding {
        let made = match &self.log {
            Some(log) => self.makers_by_log(log).map(Some),
            None => self.makers_by_reply(),
        };
        match made {
            Ok(None) => Finding::Unknown,
            Ok(Some(makers)) => match self.fill_in(makers) {
                Ok(happened) => Finding::Fine(happened),
                Err(why) => Finding::Refused(why),
            },
            Err(why) => Finding::Refused(why),
        }
    }

    fn commits(&self, at: usize) -> bool {
        let call = &self.calls[at];
        call.seen.as_ref().is_some_and(|seen| call.op.commits(seen))
    }

    fn place(&self, seq: u64) -> Result<usize, String> {
        let place = seq.checked_sub(self.base + 1).map(|place| place as usize);
        let count = (self.last - self.base) as usize;
        place.filter(|place| *place < count).ok_or_else(|| {
            let Self { base, last, .. } = self;
            format!("commit {seq} is none of those after {base} up to {last}")
        })
    }

    /// Each client makes its commits in the order of its calls.
    fn makers_by_log(&self, log: &[u32]) -> Result<Makers, String> {
        let mut waiting: Vec<usize> = (0..self.calls.len()).rev().collect();
        waiting.retain(|at| self.calls[*at].seen.is_none() || self.commits(*at));
        waiting.sort_by_key(|at| std::cmp::Reverse(self.calls[*at].call));
        let mut makers = Makers::new();
        for (place, signed) in log.iter().enumerate() {
            let seq = self.base + 1 + place as u64;
            let of_client = waiting.iter().rposition(|at| self.calls[*at].client == *signed);
            let at =
                waiting.remove(of_client.ok_or_else(|| format!("commit {seq} of client {signed} is one too many"))?);
            if self.commits(at) && self.seqs[at].is_some_and(|told| told != (seq, seq)) {
                return Err(format!("call {:?} was told another number than {seq}", self.calls[at]));
            }
            makers.push(Some(at));
        }
        match waiting.iter().find(|at| self.calls[**at].seen.is_some()) {
            Some(lost) => Err(format!("no commit of {:?}", self.calls[*lost])),
            None => Ok(makers),
        }
    }

    /// `None` if a number was not told. Commits that nobody claims are left open.
    fn makers_by_reply(&self) -> Result<Option<Makers>, String> {
        let mut makers = vec![None; (self.last - self.base) as usize];
        for at in (0..self.calls.len()).filter(|at| self.commits(*at)) {
            let Some((seq, _)) = self.seqs[at] else { return Ok(None) };
            let place = self.place(seq)?;
            if let Some(other) = makers[place].replace(at) {
                return Err(format!(
                    "commit {seq} of both {:?} and {:?}",
                    self.calls[other], self.calls[at]
                ));
            }
        }
        Ok(Some(makers))
    }

    /// Gives each open commit to some pending operation, in all ways, until one explains everything. Returns how many
    /// pending operations happened.
    fn fill_in(&self, mut makers: Makers) -> Result<u64, String> {
        let Some(open) = makers.iter().position(Option::is_none) else {
            let order: Vec<usize> = makers.into_iter().flatten().collect();
            self.explain(&order)?;
            let happened = order.iter().filter(|at| self.calls[**at].seen.is_none());
            return Ok(happened.count() as u64);
        };
        let mut why = format!("nobody made commit {}", self.base + 1 + open as u64);
        for at in (0..self.calls.len()).filter(|at| self.calls[*at].seen.is_none()) {
            if makers.contains(&Some(at)) {
                continue;
            }
            makers[open] = Some(at);
            match self.fill_in(makers.clone()) {
                Ok(happened) => return Ok(happened),
                Err(reason) => why = reason,
            }
        }
        Err(why)
    }

    /// Whether this order of commits explains everything.
    fn explain(&self, order: &[usize]) -> Result<(), String> {
        let mut states = vec![self.initial.clone()];
        let mut latest_call = 0;
        for (place, at) in order.iter().enumerate() {
            let (call, seq) = (&self.calls[*at], self.base + 1 + place as u64);
            let mut state = states[place].clone();
            let shown = state.apply(&call.op);
            if call.seen.as_ref().is_some_and(|seen| *seen != shown) {
                return Err(format!("commit {seq} would have shown {shown:?}: {call:?}"));
            }
            if call.ret < latest_call {
                return Err(format!("commit {seq} ended before an earlier one began: {call:?}"));
            }
            latest_call = latest_call.max(call.call);
            states.push(state);
        }
        self.explain_reads(order, &states)
    }

    /// Gives each read the first state that it can have seen; to give it a later one would help nobody.
    fn explain_reads(&self, order: &[usize], states: &[Dict]) -> Result<(), String> {
        let mut reads: Vec<usize> = (0..self.calls.len()).collect();
        reads.retain(|at| self.calls[*at].seen.is_some() && !self.commits(*at));
        reads.sort_by_key(|at| self.calls[*at].call);
        let mut placed: Vec<(u64, usize)> = Vec::new(); // return and state of reads
        for at in reads {
            let call = &self.calls[at];
            let (low, high) = self.seqs[at].unwrap_or((self.base, self.last));
            let mut low = low.max(self.base) - self.base;
            let mut high = high.min(self.last).saturating_sub(self.base);
            for (place, maker) in order.iter().enumerate() {
                let maker = &self.calls[*maker];
                if maker.seen.is_some() && maker.ret < call.call {
                    low = low.max(place as u64 + 1);
                }
                if maker.call > call.ret {
                    high = high.min(place as u64);
                }
            }
            for (ret, state) in &placed {
                if *ret < call.call {
                    low = low.max(*state as u64);
                }
            }
            let fits = |state: &usize| Some(states[*state].clone().apply(&call.op)) == call.seen;
            let Some(state) = (low as usize..=high as usize).find(fits) else {
                let (low, high) = (low + self.base, high + self.base);
                return Err(format!(
                    "not what was there at any commit from {low} to {high}: {call:?}"
                ));
            };
            placed.push((call.ret, state));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checker::Call;
    use crate::dict::{Op, Seen, Step};

    fn call(client: u32, op: Op, seen: Option<Seen>, call: u64, ret: u64) -> DictCall {
        let seen = seen.map(|seen| vec![seen]);
        Call {
            client,
            op,
            seen,
            call,
            ret,
        }
    }

    fn insert(client: u32, id: u32, from: u64, until: u64) -> DictCall {
        call(client, Op::One(Step::Insert(0, id)), Some(Seen::Done), from, until)
    }

    fn get(client: u32, found: Option<u32>, from: u64, until: u64) -> DictCall {
        call(client, Op::One(Step::Get(0)), Some(Seen::Found(found)), from, until)
    }

    fn find(calls: &[DictCall], seqs: &[Option<(u64, u64)>], last: u64, log: Option<Vec<u32>>) -> Finding {
        let evidence = Evidence {
            initial: &Dict::default(),
            base: 10,
            last,
            calls,
            seqs,
            log,
        };
        evidence.check()
    }

    fn refused(finding: &Finding) -> bool {
        matches!(finding, Finding::Refused(_))
    }

    #[test]
    fn the_order_of_the_numbers_must_be_that_of_time() {
        let calls = [insert(1, 7, 0, 5), insert(2, 8, 6, 9)];
        let at = |seq| Some((seq, seq));
        assert_eq!(find(&calls, &[at(11), at(12)], 12, None), Finding::Fine(0));
        assert!(refused(&find(&calls, &[at(12), at(11)], 12, None)));
        assert!(refused(&find(&calls, &[at(11), at(11)], 12, None)));
        assert!(refused(&find(&calls, &[at(11), at(12)], 13, None)));
        assert_eq!(find(&calls, &[at(11), None], 12, None), Finding::Unknown);
        assert_eq!(find(&calls, &[at(11), None], 12, Some(vec![1, 2])), Finding::Fine(0));
        assert!(refused(&find(&calls, &[at(11), None], 12, Some(vec![2, 1]))));
        assert!(refused(&find(&calls, &[None, None], 11, Some(vec![1]))));
    }

    #[test]
    fn a_read_shows_a_state_between_the_numbers_around_it() {
        let at = |low, high| Some((low, high));
        let calls = [insert(1, 7, 0, 50), insert(1, 8, 51, 99), get(2, Some(7), 10, 90)];
        let found = |seqs| find(&calls, &[at(11, 11), at(12, 12), seqs], 12, None);
        assert_eq!(found(None), Finding::Fine(0));
        assert_eq!(found(at(10, 12)), Finding::Fine(0));
        assert!(refused(&found(at(12, 12))));
        assert!(refused(&found(at(10, 10))));
    }

    #[test]
    fn reads_in_sequence_do_not_go_back() {
        let at = |seq| Some((seq, seq));
        let calls = [insert(1, 7, 0, 99), get(2, Some(7), 10, 20), get(3, None, 30, 40)];
        assert!(refused(&find(&calls, &[at(11), None, None], 11, None)));
        let calls = [insert(1, 7, 0, 99), get(2, None, 10, 20), get(3, Some(7), 30, 40)];
        assert_eq!(find(&calls, &[at(11), None, None], 11, None), Finding::Fine(0));
    }

    #[test]
    fn a_commit_that_nobody_claims_is_a_dead_clients() {
        let pending = |op| call(1, op, None, 0, u64::MAX);
        let calls = [pending(Op::One(Step::Insert(0, 7))), get(2, Some(7), 10, 20)];
        assert_eq!(find(&calls, &[None, None], 11, None), Finding::Fine(1));
        assert!(refused(&find(&calls, &[None, None], 10, None)));
        let calls = [pending(Op::One(Step::Insert(0, 7))), get(2, None, 10, 20)];
        assert_eq!(find(&calls, &[None, None], 10, None), Finding::Fine(0));
        assert_eq!(find(&calls, &[None, None], 11, None), Finding::Fine(1));
        assert!(refused(&find(&calls, &[None, None], 12, None)));
        assert!(refused(&find(&calls[1..], &[None], 11, None)));
    }
}
