//! The conductor: starts the processes, kills and stops them, and looks after each kill whether all is as it must be.

use std::time::{Duration, Instant};

use shm_state::{Arena, ArenaOptions, Deadline, History, Namespace};
use zproc::State;

use crate::board::{Board, Word};
use crate::kid::{Kid, PATIENCE, open_state};
use crate::model::{self, CONDUCTOR, HISTORY, HOLDERS, NAMESPACE, WATCHERS, WRITERS, counter};
use crate::random::Random;

/// Commits that a stopped process sleeps through, at most.
const MOST_LAG: u64 = 2000;

/// What happened so far.
#[derive(Default)]
pub struct Tally {
    pub kills: u64,
    pub kills_of_stopped: u64,
    pub kills_of_stopped_owners: u64,
    pub kills_while_holding: u64,
    pub stops: u64,
    pub stops_of_owners: u64,
    pub longest_wait: Duration,
}

pub struct Conductor {
    pub arena: Arena,
    pub namespace: Namespace,
    pub state: State,
    pub board: Board,
    pub random: Random,
    pub tally: Tally,
    /// When to do no more than what must be.
    until: Option<Instant>,
    /// Who is stopped, and until which kill or which commit, whichever comes first: how much memory it keeps from being
    /// used again must not depend on how busy the machine is.
    stopped: Vec<(u64, u64, u64)>,
}

impl Conductor {
    /// Every other seed has so little memory that the history is given up, and the arena is full, again and again.
    pub fn new(seed: u64, until: Option<Instant>) -> Self {
        let capacity = if seed.is_multiple_of(2) { 64 << 20 } else { 1 << 20 };
        let history = History {
            count: HISTORY,
            bytes: 1 << 20,
        };
        let arena = Arena::anonymous(&ArenaOptions {
            capacity,
            history,
            value_format: zproc::VALUE_FORMAT,
        })
        .unwrap();
        let state = open_state(&arena, |settings| settings.lock_timeout(PATIENCE));
        model::initialise(&state).unwrap();
        Self {
            namespace: arena.namespace(NAMESPACE).unwrap(),
            arena,
            state,
            board: Board::new(),
            random: Random::new(seed),
            tally: Tally::default(),
            until,
            stopped: Vec::new(),
        }
    }

    /// Whether the time is over; the test then says what it did not do.
    pub fn is_late(&self) -> bool {
        self.until.is_some_and(|until| Instant::now() > until)
    }

    pub fn start(&mut self, number: u64) -> Kid {
        Kid::start(number, &self.arena, &self.board, self.random.next())
    }

    /// Kills that many of the processes at work, and lets the others come to an end.
    pub fn kill(&mut self, kills: u64) {
        let mut kids: Vec<Kid> = (WRITERS.start..HOLDERS.end).map(|number| self.start(number)).collect();
        let end = self.tally.kills + kills;
        let mut sizes = Vec::new();
        while self.tally.kills < end && !self.is_late() {
            if (end - self.tally.kills).is_multiple_of(kills.div_ceil(10)) && sizes.len() < 10 {
                sizes.push(self.committed() >> 10);
            }
            std::thread::sleep(Duration::from_micros(self.random.below(1500)));
            match self.random.below(20) {
                0..=1 => self.stop_a_reader(&mut kids),
                2..=3 => self.stop_an_owner(&mut kids),
                4 => self.stop_a_writer(&mut kids),
                _ => {
                    let at = self.choose(&kids);
                    self.kill_one(&mut kids, at);
                }
            }
            self.continue_some(&mut kids, false);
        }
        println!("KiB taken by the arena at each tenth of {kills} kills: {sizes:?}");
        self.continue_some(&mut kids, true);
        self.finish(kids);
    }

    fn committed(&self) -> u64 {
        self.arena.stats().unwrap().committed
    }

    /// Who owns the lock just now, if it is one of ours and likely to stay inside until a signal arrives.
    fn find_owner(&self, kids: &[Kid]) -> Option<usize> {
        let (mut last, mut times) = (None, 0);
        for look in 0..10_000 {
            // Where the processors are busy, let somebody take the lock.
            if look % 16 == 15 {
                std::thread::yield_now();
            }
            let now = (self.namespace.lock_holder(), self.namespace.seq());
            times = if Some(now) == last { times + 1 } else { 0 };
            last = Some(now);
            // Seen again and again: its transaction is one of the longer ones.
            if times >= 4
                && let Some((pid, _)) = now.0
                && let Some(inside) = kids.iter().position(|kid| kid.pid() == pid)
            {
                return Some(inside);
            }
        }
        None
    }

    /// Whom to kill: mostly who is inside of the lock.
    fn choose(&mut self, kids: &[Kid]) -> usize {
        let owner = if self.random.below(8) < 5 {
            self.find_owner(kids)
        } else {
            None
        };
        owner.unwrap_or_else(|| self.random.below(kids.len() as u64) as usize)
    }

    fn kill_one(&mut self, kids: &mut [Kid], at: usize) {
        let kid = &mut kids[at];
        let number = kid.number;
        self.tally.kills_of_stopped += u64::from(kid.stopped);
        kid.check_alive();
        // What the others must get over: it may die inside, before, or behind.
        kid.send_kill();
        if self.random.once_in(2) {
            kid.reap();
            self.check(number, true);
        } else {
            // Nobody has collected it yet, and perhaps it has not even died yet.
            self.check(number, false);
            kid.reap();
        }
        self.tally.kills += 1;
        if HOLDERS.contains(&number) {
            self.tally.kills_while_holding += u64::from(self.board.get(Word::Held, number) != 0);
            self.board.set(Word::Held, number, 0);
        }
        self.stopped.retain(|(stopped, ..)| *stopped != number);
        self.settle_account(number);
        kids[at] = self.start(number);
    }

    /// What must hold after a kill.
    fn check(&mut self, killed: u64, is_dead: bool) {
        let start = Instant::now();
        let transaction = self
            .namespace
            .begin(Deadline::after(PATIENCE))
            .expect("the next writer after a kill");
        drop(transaction);
        self.tally.longest_wait = self.tally.longest_wait.max(start.elapsed());
        let report = self.arena.verify().unwrap();
        assert!(
            report.is_clean(),
            "after a kill of process {killed} (dead: {is_dead}): {:#?}",
            report.problems
        );
    }

    /// A dead writer has committed what it acknowledged, and at most one commit more.
    fn settle_account(&self, killed: u64) {
        if !WRITERS.contains(&killed) {
            return;
        }
        // Under the lock: what it had decided is published.
        drop(self.namespace.begin(Deadline::after(PATIENCE)).unwrap());
        let stored = self.counted(killed);
        let acknowledged = self.board.get(Word::Acknowledged, killed);
        assert!(
            (acknowledged..=acknowledged + 1).contains(&stored),
            "writer {killed} acknowledged {acknowledged}, {stored} is stored"
        );
        // The one who takes its place goes on from there.
        self.board.set(Word::Acknowledged, killed, stored);
    }

    pub fn counted(&self, process: u64) -> u64 {
        let value: Option<i64> = self.state.get(counter(process)).unwrap();
        value.unwrap().cast_unsigned()
    }

    /// Stops a watcher or a holder for some kills: it lags, or holds what it holds for longer than it meant to.
    fn stop_a_reader(&mut self, kids: &mut [Kid]) {
        let at = (WRITERS.end + self.random.below(HOLDERS.end - WRITERS.end)) as usize;
        if !kids[at].stopped {
            kids[at].check_alive();
            kids[at].stop();
            self.tally.stops += 1;
            let kill = self.tally.kills + 1 + self.random.below(20);
            self.stopped
                .push((kids[at].number, kill, self.namespace.seq() + MOST_LAG));
        }
    }

    fn continue_some(&mut self, kids: &mut [Kid], all: bool) {
        let (kills, seq) = (self.tally.kills, self.namespace.seq());
        self.stopped.retain(|(number, kill, commit)| {
            let goes_on = all || *kill <= kills || *commit <= seq;
            if goes_on {
                kids[*number as usize].go_on();
            }
            !goes_on
        });
    }

    /// Stops a writer inside of the lock: nobody robs it, whoever has little patience learns its pid, readers go on.
    fn stop_an_owner(&mut self, kids: &mut [Kid]) {
        for _ in 0..20 {
            let Some(at) = self.find_owner(kids) else { return };
            kids[at].check_alive();
            kids[at].stop();
            self.tally.stops += 1;
            // It does not execute any more, so what is true now stays so.
            if self.namespace.lock_holder().map(|(pid, _)| pid) != Some(kids[at].pid()) {
                kids[at].go_on();
                continue;
            }
            self.tally.stops_of_owners += 1;
            self.check_stopped_owner(kids[at].pid());
            if self.random.once_in(2) {
                self.tally.kills_of_stopped_owners += 1;
                self.kill_one(kids, at);
            } else {
                kids[at].go_on();
            }
            return;
        }
    }

    /// Stops a writer wherever it is. It may be the one that is next for the lock: that holds the others up for some
    /// milliseconds, and no longer.
    fn stop_a_writer(&mut self, kids: &mut [Kid]) {
        let at = self.random.below(WRITERS.end) as usize;
        kids[at].check_alive();
        kids[at].stop();
        self.tally.stops += 1;
        if self.namespace.lock_holder().map(|(pid, _)| pid) == Some(kids[at].pid()) {
            self.tally.stops_of_owners += 1;
            self.check_stopped_owner(kids[at].pid());
        } else {
            let progress = || (self.namespace.seq(), self.board.sum(Word::Full));
            let (start, before) = (Instant::now(), progress());
            while progress() == before {
                assert!(start.elapsed() < PATIENCE, "a stopped waiter holds up the others");
                std::thread::sleep(Duration::from_micros(100));
            }
        }
        kids[at].go_on();
    }

    fn check_stopped_owner(&mut self, owner: u32) {
        let seq = self.namespace.seq();
        // Now and then longer than any slice after which a waiter asks whether the owner is dead.
        let long = self.random.once_in(8);
        let patience = Duration::from_millis(if long { 250 } else { 1 + self.random.below(10) });
        match self.namespace.begin(Deadline::after(patience)) {
            Err(shm_state::Error::LockTimeout { pid, .. }) => assert_eq!(pid, owner),
            Err(other) => panic!("{other}"),
            Ok(_) => panic!("process {owner} is stopped inside of the lock, and was robbed of it"),
        }
        let hasty = self.state.fork().lock_timeout(Duration::from_millis(1)).open().unwrap();
        match hasty.insert(counter(CONDUCTOR), -1) {
            Err(zproc::Error::LockTimeout { pid, .. }) => assert_eq!(pid, owner),
            Err(other) => panic!("{other}"),
            Ok(()) => panic!("process {owner} is stopped inside of the lock, and was robbed of it"),
        }
        let snapshot = self.state.snapshot().unwrap();
        model::check(&snapshot);
        assert_eq!((snapshot.seq(), self.namespace.seq()), (seq, seq), "who wrote?");
        assert_eq!(self.namespace.lock_holder().map(|(pid, _)| pid), Some(owner));
    }

    /// Lets the writers and watchers come to an end and compares their accounts. The holders are killed, holding.
    fn finish(&mut self, kids: Vec<Kid>) {
        // Everybody gets to work once more before the end.
        std::thread::sleep(Duration::from_millis(100));
        let (writers, readers): (Vec<Kid>, Vec<Kid>) = kids.into_iter().partition(|kid| WRITERS.contains(&kid.number));
        let (watchers, holders): (Vec<Kid>, Vec<Kid>) =
            readers.into_iter().partition(|kid| WATCHERS.contains(&kid.number));
        for holder in holders {
            self.kill_holding(holder);
        }
        self.board.set(Word::Stop, 0, 1);
        writers.into_iter().for_each(Kid::finish);
        self.board.set(Word::Stop, 0, 2);
        watchers.into_iter().for_each(Kid::finish);
        self.board.set(Word::Stop, 0, 0);
        let committed = self.namespace.seq();
        for writer in WRITERS {
            let acknowledged = self.board.get(Word::Acknowledged, writer);
            assert_eq!(
                self.counted(writer),
                acknowledged,
                "writer {writer}, who was not killed"
            );
        }
        // The sum of the counters, which is the number of commits.
        model::check(&self.state.snapshot().unwrap());
        for watcher in WATCHERS.take(2) {
            let account = [Word::StartedAt, Word::Seen, Word::Missed].map(|word| self.board.get(word, watcher));
            assert_eq!(
                account.iter().sum::<u64>(),
                committed,
                "what watcher {watcher} saw and missed"
            );
        }
        let report = self.arena.verify().unwrap();
        assert!(report.is_clean(), "{:#?}", report.problems);
    }

    fn kill_holding(&mut self, mut holder: Kid) {
        let start = Instant::now();
        loop {
            holder.check_alive();
            holder.stop();
            if self.board.get(Word::Held, holder.number) != 0 {
                break;
            }
            holder.go_on();
            assert!(start.elapsed() < PATIENCE, "holder {} holds nothing", holder.number);
            std::thread::sleep(Duration::from_millis(1));
        }
        holder.kill();
        self.board.set(Word::Held, holder.number, 0);
        self.tally.kills += 1;
        self.tally.kills_of_stopped += 1;
        self.tally.kills_while_holding += 1;
    }
}
