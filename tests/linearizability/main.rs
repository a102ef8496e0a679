//! Every history is linearizable: whatever processes call at the same time, and whoever of them is killed meanwhile, what
//! each of them sees is what a dict would show to which they had come one after the other.
//!
//! Four processes call a few operations each, on a few keys, all at once: reads, insertions, removals, lengths,
//! snapshots, transactions of several keys, through both layers and by every way that they offer. Some processes are
//! killed on the way. What was called when, and what was seen, outlives them ([`board`]); each history is then checked
//! exactly, once without trusting the engine in anything ([`checker`]), and once against the numbers that it gave to the
//! commits ([`witness`]). What was under way at a kill may have happened or not, at most once, and not after the
//! recovery.
//!
//! That the checkers see what they are to see is tested with histories that are wrong, and against a search that tries
//! every order (their own tests), with clients that lie ([`clients::liar`]), and with mistakes in the engine itself
//! (`faults`).
//!
//! `ZPROC_LINEAR_ROUNDS` sets how many histories each layer is tested with, `ZPROC_LINEAR_SECONDS` after which time it is
//! enough even so, and `ZPROC_LINEAR_SEED` what is called in them; who comes first is never the same. With the feature `kill-points` most of those who are killed die before a
//! store to the arena, whichever it is, instead of at a random time; with `planted-faults` too, the engine can be given
//! mistakes.

mod board;
mod checker;
mod clients;
mod dict;
mod driver;
#[cfg(all(feature = "planted-faults", feature = "kill-points"))]
mod faults;
mod figures;
mod plan;
mod random;
mod witness;
mod worker;

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use board::Board;
use clients::liar::Lie;
use driver::Episode;
use figures::Figures;
use random::Random;
use worker::Layer;

const ROLE: &str = "ZPROC_LINEAR_ROLE";

/// Histories for each layer.
const ROUNDS: u64 = 2000;
/// Enough, unless a number is asked for: on a machine with much else to do a round takes long.
const SECONDS: u64 = 20;
/// Rounds on one arena; so many are always made.
const EPISODE: u64 = 100;

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Not a test by itself: the process with one thread that the others start, and which forks the clients.
#[test]
fn driver_process() {
    let Ok(role) = std::env::var(ROLE) else { return };
    // SAFETY: a plain request to the kernel: to die with the test that started it.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
    let seed = variable("ZPROC_LINEAR_SEED").unwrap_or(u64::from(std::process::id()));
    println!("\nZPROC_LINEAR_SEED={seed}");
    match role.as_str() {
        "engine" => honest(Layer::Engine, seed),
        "state" => honest(Layer::State, seed),
        "lies" => lies(seed),
        #[cfg(all(feature = "planted-faults", feature = "kill-points"))]
        role if faults::run(role, seed) => {}
        _ => panic!("an unknown role"),
    }
}

/// Plays a role in a process of its own. Returns whether that went well, and what it wrote.
fn driver(role: &str) -> (bool, String) {
    let mut command = Command::new("/proc/self/exe");
    command.args(["--exact", "driver_process", "--nocapture", "--test-threads=1"]);
    let output = command.env(ROLE, role).stdin(Stdio::null()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    (output.status.success(), text.into_owned())
}

/// Plays a role that must go well.
fn play(role: &str) {
    let (well, text) = driver(role);
    assert!(well, "{text}");
    println!("{text}");
}

fn honest(layer: Layer, seed: u64) {
    let asked = variable("ZPROC_LINEAR_ROUNDS");
    let limit = variable("ZPROC_LINEAR_SECONDS").or(asked.is_none().then_some(SECONDS));
    let (rounds, start) = (asked.unwrap_or(ROUNDS), Instant::now());
    let is_over = || limit.is_some_and(|limit| start.elapsed() > Duration::from_secs(limit));
    let (board, mut random, mut figures) = (Board::new(), Random::new(seed), Figures::default());
    while figures.rounds < rounds {
        let episode = Episode {
            layer,
            history: [1, 2, 16, 256][random.below(4) as usize],
            kills: !random.once_in(5),
            lie: None,
            broken: false,
            rounds: EPISODE.min(rounds - figures.rounds),
            seed: random.next(),
        };
        episode.play(&board, &mut figures);
        if is_over() && figures.rounds < rounds {
            println!("{layer:?}: time is over after {} of {rounds} histories", figures.rounds);
            break;
        }
    }
    println!("{layer:?}: {}", figures.summary());
    assert!(
        figures.overlapping * 10 > figures.calls,
        "the clients hardly ever met: {}",
        figures.summary()
    );
    let rounds = figures.rounds;
    if rounds >= 1000 {
        assert!(
            figures.kills * 4 > rounds && figures.inside * 10 > figures.kills && figures.pending > rounds / 20,
            "too few kills where they matter: {}",
            figures.summary()
        );
        assert!(
            figures.happened >= 5 && figures.happened < figures.numbered_pending,
            "of what was pending, some happens and some does not: {}",
            figures.summary()
        );
    }
}

fn lies(seed: u64) {
    let board = Board::new();
    let mut started = 0;
    for lie in Lie::ALL {
        let mut figures = Figures {
            rounds: started,
            ..Figures::default()
        };
        let mut random = Random::new(seed);
        // Until it was noticed, but a sceptic would not wait for ever.
        while figures.refused < 3 && figures.rounds - started < 2000 {
            let episode = Episode {
                layer: if random.once_in(2) { Layer::Engine } else { Layer::State },
                history: 256,
                kills: false,
                lie: Some(lie),
                broken: false,
                rounds: 20,
                seed: random.next(),
            };
            episode.play(&board, &mut figures);
        }
        let rounds = figures.rounds - started;
        let (refused, by_number) = (figures.refused, figures.refused_by_number);
        println!("{lie:?}: {refused} of {rounds} histories refused, by the numbers {by_number}");
        assert!(
            refused >= 3 && by_number >= 3,
            "{lie:?} was not noticed in {rounds} histories"
        );
        started = figures.rounds;
    }
}

#[test]
fn histories_of_the_engine_are_linearizable_whoever_is_killed() {
    play("engine");
}

#[test]
fn histories_of_states_are_linearizable_whoever_is_killed() {
    play("state");
}

#[test]
fn a_client_that_lies_is_noticed() {
    play("lies");
}
