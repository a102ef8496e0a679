//! Watchers, of four kinds. Each keeps account of what it saw and missed, so that one commit too many, too few or out of
//! order shows at once, also when it was stopped for longer than the history lasts.

use std::sync::atomic::AtomicBool;
use std::time::Duration;

use shm_state::{Deadline, Ended, Filter, Namespace, Next, On, Strategy};
use zproc::{Error, State, Update, WaitStrategy};

use crate::board::Word;
use crate::kid::Role;
use crate::model::{self, WATCHERS, counted, counter};

/// How long a watcher sleeps before it looks whether it is to stop.
const NAP: Duration = Duration::from_millis(20);

pub fn run(role: &mut Role) {
    match role.number - WATCHERS.start {
        0 => watch_log(role),
        1 => watch_updates(role),
        2 => watch_one_key(role),
        _ => watch_conditions(role),
    }
}

/// The watcher is to go on: it was not told to stop, or there is more to see.
fn goes_on(role: &Role, seen_all: bool) -> bool {
    (role.board.get(Word::Stop, 0) < 2 || !seen_all) && !role.is_orphaned()
}

/// What a watcher of all commits has seen and missed since it started.
struct Account {
    start: u64,
    seen: u64,
    missed: u64,
}

impl Account {
    fn new(role: &Role, start: u64) -> Self {
        role.board.set(Word::StartedAt, role.number, start);
        Self {
            start,
            seen: 0,
            missed: 0,
        }
    }

    fn at(&self) -> u64 {
        self.start + self.seen + self.missed
    }

    fn lose(&mut self, role: &Role, lost: u64) {
        assert_ne!(lost, 0, "told of a loss that is none");
        self.missed += lost;
        role.board.add(Word::Losses, role.number, 1);
    }

    fn close(&self, role: &Role) {
        role.board.set(Word::Seen, role.number, self.seen);
        role.board.set(Word::Missed, role.number, self.missed);
    }
}

/// The log of the engine, record by record, asleep between commits.
fn watch_log(role: &Role) {
    let namespace = role.arena.namespace(model::NAMESPACE).unwrap();
    let mut cursor = namespace.seq();
    let mut account = Account::new(role, cursor);
    while goes_on(role, cursor == namespace.seq()) {
        let until = namespace.seq();
        match namespace
            .next_match(&mut cursor, until, Filter::Any, true, None)
            .unwrap()
        {
            Next::Match(seq) => {
                account.seen += 1;
                assert_eq!(account.at(), seq, "in order, and none left out");
                check_record(&namespace, seq);
            }
            Next::Lagged(lost) => account.lose(role, lost),
            Next::Nothing => {
                let cancel = AtomicBool::new(false);
                let newer = |seq| Ok((seq > cursor).then_some(()));
                let ended = namespace.wait(On::Any, Strategy::Block, Deadline::after(NAP), &cancel, newer);
                assert_ne!(ended.unwrap(), Err(Ended::Closed));
            }
        }
        assert_eq!(account.at(), cursor);
    }
    account.close(role);
}

/// The record of a commit is that of a writer, and its keys can be read; unless it fell out of the history meanwhile.
fn check_record(namespace: &Namespace, seq: u64) {
    let Some(record) = namespace.record(seq).unwrap() else {
        return;
    };
    assert!(
        record.seq == seq && record.pid != 0 && !record.changes.is_empty(),
        "{record:?}"
    );
    if let Some(keys) = namespace.changed_keys(&record).unwrap() {
        let counters = keys.iter().filter(|(key, _)| key.bytes().starts_with(b"writer "));
        assert_eq!(counters.count(), 1, "{keys:?}");
    }
}

/// All updates, with the states before and after.
fn watch_updates(role: &mut Role) {
    let state = role.state(|settings| settings);
    let mut account = Account::new(role, state.cursor());
    while goes_on(role, state.cursor() == state.seq().unwrap()) {
        match state.watch().timeout(NAP).get_raw_update() {
            Ok(update) => {
                account.seen += 1;
                assert_eq!(account.at(), update.seq, "in order, and none left out");
                check_update(&update);
                if role.random.once_in(4) {
                    model::check(&update.before);
                    model::check(&update.after);
                }
            }
            Err(Error::Lagged { missed }) => account.lose(role, missed),
            Err(Error::Timeout) => {}
            Err(other) => panic!("{other}"),
        }
        assert_eq!(account.at(), state.cursor());
    }
    account.close(role);
}

/// The update counts one up and changed what it says.
fn check_update(update: &Update<'_>) {
    let Update { before, after, .. } = update;
    assert_eq!((before.seq() + 1, after.seq()), (update.seq, update.seq));
    assert!(update.writer.pid != 0 && !update.identical, "{}", update.seq);
    let is_counter = |key: &&zproc::Key| matches!(key, zproc::Key::Str(text) if text.starts_with("writer "));
    let counters: Vec<_> = update.changed.iter().filter(is_counter).collect();
    assert_eq!(counters.len(), 1, "{:?}", update.changed);
    let value = |snapshot: &zproc::Snapshot<'_>| snapshot.get::<i64>(counters[0]).unwrap().unwrap();
    assert_eq!(value(before) + 1, value(after), "{:?}", counters[0]);
}

/// One key: the counter of one writer, which no commit moves by more than one.
fn watch_one_key(role: &mut Role) {
    let (key, writer) = (counter(0), 0);
    let state = role.state(|settings| settings.wait_strategy(WaitStrategy::Block));
    let (mut last, mut missed) = (None::<i64>, 0);
    let mut settled = false;
    while goes_on(role, settled) {
        match state.watch().timeout(NAP).get_when_change([&key]) {
            Ok(snapshot) => {
                let now = counted(&snapshot, writer);
                check_step(last, now, 1, missed);
                (last, missed) = (Some(now), 0);
                if role.random.once_in(4) {
                    model::check(&snapshot);
                }
            }
            Err(Error::Lagged { missed: lost }) => {
                missed += lost;
                role.board.add(Word::Losses, role.number, 1);
            }
            Err(Error::Timeout) => settled = role.board.get(Word::Stop, 0) >= 2,
            Err(other) => panic!("{other}"),
        }
    }
    check_step(last, counted(&state.snapshot().unwrap(), writer), 0, missed);
}

/// The counter went `steps` further than it was last seen, and by what was missed.
fn check_step(last: Option<i64>, now: i64, steps: i64, missed: u64) {
    if let Some(last) = last {
        let most = steps + missed.cast_signed();
        assert!(
            (steps..=most).contains(&(now - last)),
            "from {last} to {now}, but {missed} missed"
        );
    }
}

/// Conditions: the counter of one writer reaches a value soon.
fn watch_conditions(role: &mut Role) {
    let writer = 1;
    let state = role.state(|settings| settings);
    while goes_on(role, true) {
        state.go_live().unwrap();
        let target = counted(&state.snapshot().unwrap(), writer) + 1 + role.random.below(5).cast_signed();
        let wait = |timeout| state.watch().timeout(timeout).get_when_equal(counter(writer), target);
        let mut result = wait(NAP);
        if matches!(result, Err(Error::Timeout)) && has_passed(&state, writer, target) {
            // It came to pass right after the deadline: then it is still to be found, or told as missed.
            result = wait(Duration::ZERO);
            assert!(!matches!(result, Err(Error::Timeout)), "passed over {target}");
        }
        match result {
            Ok(snapshot) => {
                assert_eq!(counted(&snapshot, writer), target);
                model::check(&snapshot);
            }
            Err(Error::Lagged { missed }) => {
                assert_ne!(missed, 0);
                role.board.add(Word::Losses, role.number, 1);
            }
            Err(Error::Timeout) => {}
            Err(other) => panic!("{other}"),
        }
        let at_least = |snapshot: &zproc::Snapshot<'_>| counted(snapshot, writer) >= target;
        match state.watch().timeout(NAP).get_when(at_least) {
            Ok(snapshot) => assert!(at_least(&snapshot)),
            Err(Error::Lagged { .. } | Error::Timeout) => {}
            Err(other) => panic!("{other}"),
        }
    }
}

fn has_passed(state: &State, writer: u64, target: i64) -> bool {
    counted(&state.snapshot().unwrap(), writer) >= target
}
