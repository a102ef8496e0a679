//! Three processes share one state: a *sampler* publishes figures of the machine, a *governor* sleeps until the load
//! crosses a threshold and switches the mode, and a *reporter*, which is the process that you start, sees every update.
//!
//! ```text
//! cargo run --release --example governor
//! ```
//!
//! This process also directs the show: it runs a load on and off, and half way through it kills the sampler in the
//! middle of a write and starts another. At the end the books must balance: what the reporter has seen, plus what it was
//! told that it missed, is what the writers say they wrote.
//!
//! The load is a fourth program, which knows nothing of the state. Its processor time is what counts as the load here:
//! the machine's would depend on whatever else runs on it, and might never fall.
//!
//! Nothing is left behind, however this ends. The state has no name: the processes inherit its memory, which is gone
//! with the last of them. And the kernel kills the children if their parent dies.

mod child;
mod governor;
mod reporter;
mod sampler;

use std::env;
use std::error::Error;
use std::fmt;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use zproc::{Builder, NamespaceStats, Snapshot, State};

use child::{Load, Writer};
use governor::{BUSY, CALM};

type Result<T, E = Box<dyn Error + Send + Sync>> = std::result::Result<T, E>;

/// A run that takes longer has failed.
const LIMIT: Duration = Duration::from_secs(15);
/// Nothing that is waited for takes so long, even on a machine with much else to do.
const PATIENCE: Duration = Duration::from_secs(6);
/// How many updates the state keeps for watchers that are late: a third of a second of them.
const HISTORY: u32 = 64;
/// How often the load goes on and off.
const ROUNDS: u32 = 4;
/// How long it stays on, or off, once the mode has followed, so that there is something to measure.
const DWELL: Duration = Duration::from_millis(900);

/// The key by which this process tells the others what to do; see the values below.
const ORDER: &str = "order";
const RUN: &str = "run";
/// The sampler stops in the middle of its next write.
const STALL: &str = "stall";
/// The writers end.
const STOP: &str = "stop";
/// This is the last update.
const DONE: &str = "done";

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let result = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => direct(),
        [role, parent, argument] => child::be(role, parent, argument),
        _ => Err("it takes no arguments".into()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("governor: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Starts everybody, has them play, and checks the books.
fn direct() -> Result<()> {
    println!(
        "The reporter sees every update of the other processes, in order, or is told exactly how many it missed.\n"
    );
    exit_after(LIMIT);
    // This one only watches. A state does not see its own updates, so what this process writes it writes through a
    // clone, which is somebody else.
    let watching = Builder::anonymous().history(HISTORY, 64 << 20).create()?;
    let state = watching.clone();
    let reporter = thread::spawn(move || reporter::report(&watching));
    let written = perform(&state)?;
    let report = reporter.join().map_err(|_| "the reporter panicked")??;
    let stats = state.stats()?;
    let table = Table {
        report: &report,
        stats: &stats.namespaces[0],
        bytes: stats.committed,
    };
    println!("\n{table}");
    if table.stats.recoveries == 0 {
        return Err("nobody took over from the sampler that was killed".into());
    }
    check("the reporter's count", report.seen + report.lost, written)?;
    check("the state's count", state.seq()?, written)
}

/// Runs the load on and off, and kills the sampler in between. Returns how many commits all writers say they made.
fn perform(state: &State) -> Result<u64> {
    let clock = Clock(Instant::now());
    let mut orders = Orders { state, given: 0 };
    orders.give(RUN)?;
    let load = Load::start()?;
    let mut sampler = Writer::start("sampler", state, load.pid())?;
    let governor = Writer::start("governor", state, load.pid())?;
    wait_until(state, |now| governor::mode_is(now, CALM))?;

    let mut written = 0;
    for round in 1..=ROUNDS {
        load.on()?;
        clock.say("load on", &follow(state, BUSY)?);
        thread::sleep(DWELL);
        load.off()?;
        clock.say("load off", &follow(state, CALM)?);
        thread::sleep(DWELL);
        if round == ROUNDS / 2 {
            orders.give(STALL)?;
            written += sampler.kill_inside()?;
            // Nobody unlocked for it: the next writer, which is this order, finds its owner dead and takes the lock over.
            orders.give(RUN)?;
            sampler = Writer::start("sampler", state, load.pid())?;
            clock.say("sampler killed inside of atomic", "started again");
        }
    }

    orders.give(STOP)?;
    written += sampler.finish()? + governor.finish()?;
    governor::check_switches(&state.snapshot()?)?;
    orders.give(DONE)?;
    Ok(written + orders.given)
}

/// Waits until the governor has switched to `mode`, and says how long that took.
fn follow(state: &State, mode: &str) -> Result<String> {
    let start = Instant::now();
    wait_until(state, |now| governor::mode_is(now, mode))
        .map_err(|error| format!("the mode did not become {mode}: {error}"))?;
    Ok(format!(
        "mode {mode} {:.0} ms later",
        start.elapsed().as_secs_f64() * 1e3
    ))
}

/// Sleeps until `test` holds. What was before this call does not matter, so it is a live watcher, and to have missed
/// something is no harm: it goes on with what there is.
fn wait_until(state: &State, test: impl Fn(&Snapshot<'_>) -> zproc::Result<bool>) -> zproc::Result<()> {
    loop {
        match state.watch().live().timeout(PATIENCE).get_when(&test) {
            Err(zproc::Error::Lagged { .. }) => {}
            result => return result.map(drop),
        }
    }
}

/// This process as a writer, which counts its own commits too.
struct Orders<'s> {
    state: &'s State,
    given: u64,
}

impl Orders<'_> {
    fn give(&mut self, order: &str) -> Result<()> {
        self.state.insert(ORDER, order)?;
        self.given += 1;
        Ok(())
    }
}

/// Ends this process, and by that its children, if it is still there after `limit`.
fn exit_after(limit: Duration) {
    thread::spawn(move || {
        thread::sleep(limit);
        eprintln!("governor: not done after {limit:?}");
        std::process::exit(1);
    });
}

fn check(name: &str, count: u64, written: u64) -> Result<()> {
    if count == written {
        return Ok(());
    }
    Err(format!("{name} is {count}, but the writers made {written} commits").into())
}

struct Clock(Instant);

impl Clock {
    fn say(&self, what: &str, then: &str) {
        println!("{:5.1} s  {what:<32} {then}", self.0.elapsed().as_secs_f64());
    }
}

/// The figures at the end.
struct Table<'r> {
    report: &'r reporter::Report,
    stats: &'r NamespaceStats,
    bytes: u64,
}

impl fmt::Display for Table<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { report, stats, bytes } = self;
        let wake = |share| format!("{:.1} µs", report.write_to_wake(share).as_secs_f64() * 1e6);
        let columns = [
            ("commits", stats.commits.to_string()),
            ("seen", report.seen.to_string()),
            ("lost", report.lost.to_string()),
            ("write-to-wake p50", wake(0.50)),
            ("write-to-wake p99", wake(0.99)),
            ("recoveries", stats.recoveries.to_string()),
            ("bytes", bytes.to_string()),
        ];
        let width = |(name, value): &(&str, String)| name.len().max(value.chars().count());
        let names: Vec<_> = columns
            .iter()
            .map(|column| format!("{:>1$}", column.0, width(column)))
            .collect();
        let values: Vec<_> = columns
            .iter()
            .map(|column| format!("{:>1$}", column.1, width(column)))
            .collect();
        write!(f, "{}\n{}", names.join("  "), values.join("  "))
    }
}
