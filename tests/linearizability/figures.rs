//! What was done and found, in numbers.

use crate::board::CLIENTS;
use crate::checker::DictCall;

/// The numbers.
#[derive(Debug, Default)]
pub struct Figures {
    /// Rounds, which is histories, so far.
    pub rounds: u64,
    /// Operations in them.
    pub calls: u64,
    /// Those that overlapped one of another client in time.
    pub overlapping: u64,
    /// Those that were pending.
    pub pending: u64,
    /// The pending ones in histories for which all numbers of commits were known.
    pub numbered_pending: u64,
    /// Those of them that had made their commit.
    pub happened: u64,
    /// Clients that were killed.
    pub kills: u64,
    /// Those of them that held the writer lock.
    pub inside: u64,
    /// Those of them that died before the commit by plan.
    pub before_commit: u64,
    /// States that the search looked at, and the most in one history.
    pub states: u64,
    /// The most in one history.
    pub most_states: u64,
    /// Histories for which not all numbers of commits were known.
    pub without_numbers: u64,
    /// Histories that are not linearizable.
    pub refused: u64,
    /// Histories that the numbers of the commits do not explain.
    pub refused_by_number: u64,
    /// Nanoseconds from the first call to the last return of a client, about.
    pub usual_span: u64,
}

impl Figures {
    /// Counts a history; `undisturbed`: nobody was to be killed.
    pub fn count(&mut self, calls: &[DictCall], undisturbed: bool) {
        let clients = calls.iter().filter(|call| call.client != 0);
        let clients: Vec<&DictCall> = clients.collect();
        self.calls += calls.len() as u64;
        self.pending += clients.iter().filter(|call| call.seen.is_none()).count() as u64;
        let overlaps = |a: &DictCall| {
            let beside = |b: &&&DictCall| b.client != a.client && b.call < a.ret && a.call < b.ret;
            clients.iter().any(|b| beside(&b))
        };
        self.overlapping += clients.iter().filter(|call| overlaps(call)).count() as u64;
        if undisturbed && clients.len() >= CLIENTS {
            let first = clients[0].client;
            let of_first = clients.iter().filter(|call| call.client == first);
            let (from, until) = of_first.fold((u64::MAX, 0), |(from, until), call| {
                (from.min(call.call), until.max(call.ret))
            });
            // The processor is taken away now and then; such a round says nothing.
            let span = until.saturating_sub(from).clamp(2_000, 100_000);
            let usual = if self.usual_span == 0 { span } else { self.usual_span };
            self.usual_span = (7 * usual + span.min(4 * usual)) / 8;
        }
    }

    /// In a few lines.
    pub fn summary(&self) -> String {
        format!(
            "{} histories of {} operations, {} % of them beside another; {} kills, {} inside the writer lock, {} planned \
             there; {} operations pending ({} of {} happened); {} states, {} at most; numbers known for {} histories; \
             refused: {}, by the numbers: {}",
            self.rounds,
            self.calls,
            self.overlapping * 100 / self.calls.max(1),
            self.kills,
            self.inside,
            self.before_commit,
            self.pending,
            self.happened,
            self.numbered_pending,
            self.states,
            self.most_states,
            self.rounds - self.without_numbers,
            self.refused,
            self.refused_by_number,
        )
    }
}
