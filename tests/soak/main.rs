//! Random SIGKILLs over the writers, watchers and snapshot holders of one state.
//!
//! Four processes write, four watch, two hold snapshots, nearly all through `zproc::State`. One after the other is
//! killed, at a random moment or, more often, while it is seen inside of the writer lock, and another takes its place.
//! Some are stopped: inside of the lock, for longer than the history lasts, with snapshots in hand; they go on, or are
//! killed as they stand. After each kill the next owner of the lock must come by, the verifier must be content, and what
//! the dead writer had acknowledged must be there, with at most one commit more. Every watcher has seen or missed exactly
//! what was committed, in order; every snapshot stays what it was; at the end nothing of the dead is left.
//!
//! A second part measures the time from a death inside of the lock to the next commit.
//!
//! The modules: `model` says what must hold in any snapshot; `writer`, `watcher`, `holder` and `deaths` are what the
//! processes do, `conductor`, `kid` and `memory` what is done to them; `board`, `random`, `mark` and `figures` are tools.
//!
//! `cargo xtask soak` makes it long: `ZPROC_SOAK=1` with `ZPROC_SOAK_KILLS`, `ZPROC_SOAK_DEATHS` (how many are measured)
//! and `ZPROC_SOAK_SEED`. The seed repeats all choices, but not how the system schedules the processes.

mod board;
mod conductor;
mod deaths;
mod figures;
mod holder;
mod kid;
mod mark;
mod memory;
mod model;
mod random;
mod watcher;
mod writer;

use std::time::{Duration, Instant};

use board::Word;
use conductor::Conductor;
use kid::Role;

const KILLS: u64 = 1000;
/// How long the short soak kills, on a machine where it does not get the processor.
const BUDGET: Duration = Duration::from_secs(75);

/// Not a test by itself: what the processes of the soak do.
#[test]
fn child() {
    let Some(mut role) = Role::of_this_process() else {
        return;
    };
    match role.number {
        number if model::WRITERS.contains(&number) => writer::run(role),
        number if model::WATCHERS.contains(&number) => watcher::run(&mut role),
        number if model::HOLDERS.contains(&number) => holder::run(role),
        number if model::WAITERS.contains(&number) => deaths::waiter(&mut role),
        model::VICTIM => deaths::victim(&role),
        memory::REAPER => memory::reap(&role),
        other => panic!("no process has the number {other}"),
    }
}

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn random_kills_lose_nothing_stop_nobody_and_leave_nothing() {
    let long = variable("ZPROC_SOAK").is_some_and(|on| on != 0);
    let kills = variable("ZPROC_SOAK_KILLS").filter(|_| long).unwrap_or(KILLS);
    let seed = variable("ZPROC_SOAK_SEED").unwrap_or(u64::from(std::process::id()));
    println!(
        "{kills} kills, ZPROC_SOAK_SEED={seed}, load of the machine {}",
        figures::load()
    );
    let untouched = Conductor::new(seed, None).settle();

    let start = Instant::now();
    let mut conductor = Conductor::new(seed, (!long).then(|| start + BUDGET));
    conductor.kill(kills.div_ceil(10));
    let early = conductor.settle();
    conductor.kill(kills - kills.div_ceil(10));
    print(&conductor, start);
    if conductor.tally.kills < kills {
        println!(
            "NOT DONE: {} of {kills} kills, the machine is too busy",
            kills - conductor.tally.kills
        );
        assert!(conductor.tally.kills >= kills / 4, "hardly anything was done");
    }

    let start = Instant::now();
    let load = figures::load();
    let measured = variable("ZPROC_SOAK_DEATHS").unwrap_or(kills.div_ceil(10));
    let deaths = deaths::measure(&mut conductor, measured, measured.div_ceil(5));
    println!(
        "{} measured deaths in {:.0} s",
        deaths.len(),
        start.elapsed().as_secs_f64()
    );
    let in_time = figures::print(&deaths, &load);
    let late = conductor.settle();
    memory::compare(&conductor, &untouched, &early, &late);
    // A test says nothing of times, since it has to pass on a machine that is busy with others.
    if long {
        in_time.expect("the next writer goes on in time, on a machine with nothing else to do");
    }
}

fn print(conductor: &Conductor, start: Instant) {
    let (tally, board) = (&conductor.tally, &conductor.board);
    let namespace = &conductor.arena.stats().unwrap().namespaces[0];
    println!(
        "{} commits, {} kills in {:.0} s: {} made up for inside of the lock, {} of stopped processes ({} inside of the \
         lock), {} of holders of snapshots; longest wait for the lock after a kill {:.1} ms",
        namespace.commits,
        tally.kills,
        start.elapsed().as_secs_f64(),
        namespace.recoveries,
        tally.kills_of_stopped,
        tally.kills_of_stopped_owners,
        tally.kills_while_holding,
        tally.longest_wait.as_secs_f64() * 1e3
    );
    println!(
        "{} stops, {} inside of the lock; {} locks not had in time; {} losses told to watchers; {} checks of snapshots \
         older than the history; {} times full",
        tally.stops,
        tally.stops_of_owners,
        board.sum(Word::Timeouts),
        board.sum(Word::Losses),
        board.sum(Word::OldChecks),
        board.sum(Word::Full),
    );
    // A soak that does not do what it is for proves nothing.
    assert!(
        namespace.recoveries * 8 >= tally.kills,
        "too few of the kills were inside of the lock"
    );
    for (what, times) in [
        ("stopped owners", tally.stops_of_owners),
        ("kills of stopped owners", tally.kills_of_stopped_owners),
        ("kills of holders", tally.kills_while_holding),
        ("losses", board.sum(Word::Losses)),
        ("checks of old snapshots", board.sum(Word::OldChecks)),
    ] {
        assert!(times >= tally.kills / 500, "too few {what}: {times}");
    }
}
