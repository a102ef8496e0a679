//! The small examples, each run as the program that it is: what it prints, and that it leaves nothing behind.
//!
//! `cargo test` builds the examples of this package beside the tests. `cargo test --test examples` does not: then they
//! must have been built before, with `cargo build --examples`.

use std::env;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::SystemTime;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use zproc::{Error, State};

/// What to do when `program` cannot be tested.
const REMEDY: &str = "`cargo test` builds it, but not if it is told which tests to run; then run `cargo build --examples` \
                      before it, with the same profile and target directory";

/// The executable of an example: in the directory `examples` beside that of this test, whatever profile and target
/// directory it was built with.
fn program(name: &str) -> PathBuf {
    let this = env::current_exe().expect("this test has a path");
    let directory = this.ancestors().nth(2).expect("tests lie two levels below the profile");
    let program = directory.join("examples").join(name);
    let built = modified(&program).unwrap_or_else(|error| panic!("{program:?}: {error}: {REMEDY}"));
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    for source in [sources.join(name).with_extension("rs"), sources.join("common/mod.rs")] {
        // Where the test runs without its sources, it runs as it was built.
        if let Ok(changed) = modified(&source) {
            assert!(changed <= built, "{program:?} is older than {source:?}: {REMEDY}");
        }
    }
    program
}

fn modified(path: &Path) -> io::Result<SystemTime> {
    path.metadata()?.modified()
}

/// Runs an example to its end and returns its lines.
fn run(name: &str) -> Vec<String> {
    let child = Command::new(program(name))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the example starts");
    let pid = child.id();
    let output = child.wait_with_output().expect("the example ends");
    let [text, errors] = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    assert!(output.status.success(), "{name}: {}\n{errors}\n{text}", output.status);
    assert_eq!(errors, "", "{name} complains");
    assert_nothing_is_left(name, pid);
    text.lines().map(str::to_owned).collect()
}

/// Where an example keeps its state.
fn address(name: &str, pid: u32) -> String {
    format!("shm://zproc-{name}-{pid}")
}

fn assert_nothing_is_left(name: &str, pid: u32) {
    let left = State::open(&address(name, pid));
    assert!(
        matches!(left, Err(Error::NotFound { .. })),
        "{name} left its state: {left:?}"
    );
}

/// The number in a line, between what is before and behind it; `None` if it is another line.
fn number(line: &str, before: &str, behind: &str) -> Option<u32> {
    line.strip_prefix(before)?.split_once(behind)?.0.trim().parse().ok()
}

/// The only line that has a number there.
fn only_number(lines: &[String], before: &str, behind: &str) -> u32 {
    let found: Vec<u32> = lines.iter().filter_map(|line| number(line, before, behind)).collect();
    assert_eq!(found.len(), 1, "lines with {before:?} and {behind:?} in {lines:#?}");
    found[0]
}

#[test]
fn atomicity_loses_no_atomic_increment() {
    let lines = run("atomicity");
    assert_eq!(lines[0], "50 processes made 20 increments each, which is 1000.");
    assert_eq!(only_number(&lines, "atomic:", "counted, 0 lost"), 1000, "{lines:#?}");
    // Those that are not atomic may be lost, and need not be; but no more than there were.
    assert!(
        (1..=1000).contains(&only_number(&lines, "get and insert:", "counted")),
        "{lines:#?}"
    );
    assert_eq!(lines.len(), 3);
}

#[test]
fn chain_reaction_goes_in_order() {
    let lines = run("chain_reaction");
    let (first, rest) = lines.split_first().expect("it prints something");
    let (last, dominoes) = rest.split_last().expect("it prints more");
    assert_eq!((first.as_str(), last.as_str()), ("push", "all have fallen"));
    let fallen: Vec<_> = dominoes
        .iter()
        .filter_map(|line| number(line, "domino ", " falls"))
        .collect();
    assert_eq!(fallen, (1..=20).collect::<Vec<_>>(), "{lines:#?}");
    assert_eq!(dominoes.len(), 20);
    // Each is a process of its own.
    let mut processes: Vec<_> = dominoes
        .iter()
        .filter_map(|line| line.split_once(" falls "))
        .map(|(_, by)| by)
        .collect();
    processes.sort_unstable();
    processes.dedup();
    assert_eq!(processes.len(), 20, "{lines:#?}");
}

#[test]
fn cookie_eater_eats_what_is_baked() {
    let lines = run("cookie_eater");
    let count = |text: &str| lines.iter().filter(|line| *line == text).count();
    assert_eq!((count("here's a cookie!"), count("nom nom")), (5, 5), "{lines:#?}");
    assert_eq!(lines[10..], ["eaten: 5", "left: 0"]);
}

#[test]
fn nested_processes_end_with_the_eldest() {
    let lines = run("nested_processes");
    let pids: Vec<u32> = lines[..5]
        .iter()
        .map(|line| line.rsplit(' ').next().unwrap_or_default().parse().unwrap())
        .collect();
    assert_eq!(
        lines[5..],
        ["the eldest ended with exit code -15, and the others with it"]
    );
    let start = std::time::Instant::now();
    for pid in pids {
        // One that ended without being waited for yet is a zombie, which has no memory.
        let lives = || {
            let status = std::fs::read_to_string(format!("/proc/{pid}/status"));
            status.is_ok_and(|status| status.contains("VmRSS"))
        };
        while lives() {
            assert!(start.elapsed().as_secs() < 30, "{pid} is left");
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }
}

#[test]
fn remote_errors_tell_what_went_wrong_where() {
    let lines = run("remote_errors");
    let places = lines
        .iter()
        .filter(|line| line.contains("place    examples/remote_errors.rs:"))
        .count();
    assert_eq!(places, 2, "{lines:#?}");
    for expected in [
        "  type     core::num::error::ParseIntError",
        "  message  invalid digit found in string",
        "  type     panic",
        "  message  somebody has baked",
        "  type     zproc::Error::Timeout",
        "  place    not known",
        "exit code -6",
    ] {
        assert!(lines.iter().any(|line| line == expected), "{expected:?} in {lines:#?}");
    }
    assert_eq!(lines.iter().filter(|line| *line == "exit code 1").count(), 3);
}

#[test]
fn downloader_tells_of_each_page_in_order() {
    let lines = run("downloader");
    assert_eq!(lines.len(), 41, "{lines:#?}");
    let words = |n: u32| only_number(&lines, &format!("Page {n}:"), "words");
    assert!((0..40).filter(|n| *n != 20).all(|n| words(n) == n + 2), "{lines:#?}");
    assert!(
        lines[20].contains("page-20") && lines[20].contains("No such file"),
        "{}",
        lines[20]
    );
    assert!(lines[19].starts_with("Page 19:") && lines[21].starts_with("Page 21:"));
    assert_eq!(lines[40], "838 words in 39 pages, 1 failed, by 4 workers");
}

#[test]
fn luck_test_has_one_winner_whom_all_know() {
    let lines = run("luck_test");
    assert_eq!(lines.len(), 6, "{lines:#?}");
    let lucky = lines
        .iter()
        .find(|line| line.starts_with("draw "))
        .expect("somebody is lucky");
    assert!(number(lucky, "draw ", ":").expect("draws are counted") >= 1, "{lucky}");
    let (_, winner) = lucky.split_once(": ").expect("the draw has a winner");
    let winner = number(winner, "player ", " has drawn 77").expect("the number is the lucky one");
    assert!((1..=5).contains(&winner), "{lucky}");
    for player in 1..=5 {
        let line = format!("player {player} knows that player {winner} has won");
        assert!(lines.contains(&line), "{line:?} is not in {lines:#?}");
    }
}

/// What a consumer of the peanut processor ate.
fn eaten(lines: &[String], manner: &str) -> Vec<u32> {
    let mut found = lines.iter().filter_map(|line| line.strip_prefix(manner));
    let (Some(line), None) = (found.next(), found.next()) else {
        panic!("one line for {manner:?} in {lines:#?}");
    };
    let (count, numbers) = line
        .trim_start()
        .strip_prefix("ate")
        .and_then(|line| line.split_once(':'))
        .expect("it ate");
    let numbers: Vec<u32> = numbers
        .split_whitespace()
        .map(|peanut| peanut.parse().expect("a number"))
        .collect();
    assert_eq!(count.trim(), numbers.len().to_string(), "{line}");
    numbers
}

#[test]
fn peanut_processor_misses_what_each_manner_may_miss() {
    let lines = run("peanut_processor");
    assert_eq!(lines.len(), 3, "{lines:#?}");
    let all: Vec<u32> = (1..=30).collect();
    assert_eq!(eaten(&lines, "buffered"), all);

    // In order, none twice. How many are missed depends on the machine.
    let live = eaten(&lines, "live");
    assert!(live.iter().all(|peanut| all.contains(peanut)), "{lines:#?}");
    assert!(live.is_sorted_by(|a, b| a < b), "{lines:#?}");

    // None is missed before the break, and none after it.
    let hybrid = eaten(&lines, "hybrid");
    let (before, after) = hybrid.split_at_checked(5).unwrap_or_else(|| panic!("{lines:#?}"));
    assert_eq!(before, &all[..5]);
    assert!(all.ends_with(after), "{lines:#?}");
}

#[test]
fn state_watchers_see_each_its_own() {
    const HOUSE: &str = r#""door": "shut", "lamp": "off", "guest": None"#;
    const OPEN: &str = r#""door": "open", "lamp": "off", "guest": None"#;
    const ANN: &str = r#""door": "shut", "lamp": "off", "guest": "ann""#;
    const DARK: &str = r#""door": "shut", "lamp": None, "guest": None"#;
    const CAT: &str = r#""door": "shut", "lamp": "off", "guest": None, "cat": "in""#;
    let seen: [(&str, &[(u32, &str)]); 13] = [
        ("get_when_change", &[(2, OPEN), (3, HOUSE)]),
        ("get_when_any_change", &[(2, OPEN)]),
        ("get_when_change_except", &[(7, DARK)]),
        ("get_when_change, duplicates", &[(2, OPEN), (3, HOUSE), (4, HOUSE)]),
        ("get_when", &[(9, CAT)]),
        ("get_when_equal", &[(2, OPEN)]),
        ("get_when_not_equal", &[(7, DARK)]),
        ("get_when_none", &[(7, DARK)]),
        ("get_when_not_none", &[(5, ANN)]),
        ("get_when_available", &[(9, CAT)]),
        ("get_raw_update", &[(1, HOUSE), (2, OPEN)]),
        (
            "updates",
            &[
                (2, OPEN),
                (3, HOUSE),
                (5, ANN),
                (6, HOUSE),
                (7, DARK),
                (8, HOUSE),
                (9, CAT),
                (10, HOUSE),
            ],
        ),
        ("updates_since", &[(9, CAT), (10, HOUSE)]),
    ];
    let lines = run("state_watchers");
    let mut count = 0;
    for (watcher, updates) in seen {
        let own: Vec<_> = lines
            .iter()
            .filter(|line| line.split("  ").next() == Some(watcher))
            .collect();
        let expected: Vec<_> = updates
            .iter()
            .map(|(seq, house)| format!("{watcher:<28} update {seq:>2}: {{{house}}}"))
            .collect();
        assert_eq!(own, expected.iter().collect::<Vec<_>>());
        count += own.len();
    }
    // The one that waits in vain sees nothing.
    assert_eq!(lines.len(), count, "{lines:#?}");
}

/// A named state outlives its processes, so an example that is interrupted has to remove it.
#[test]
fn an_example_that_is_interrupted_leaves_nothing_behind() {
    // On a machine with much else to do it may be over before it is looked at: then once more.
    let interrupted = (0..100).any(|_| interrupt("chain_reaction"));
    assert!(interrupted, "its state was never there");
}

/// Starts an example and interrupts it. Returns whether its state was there before.
fn interrupt(name: &str) -> bool {
    let mut child = Command::new(program(name))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("the example starts");
    let pid = child.id();
    let mut lines = BufReader::new(child.stdout.take().expect("its output is a pipe")).lines();
    lines.next().expect("it prints something").expect("it prints text");
    let was_there = State::open(&address(name, pid)).is_ok();
    kill(Pid::from_raw(pid.cast_signed()), Signal::SIGINT).expect("it is there until it was waited for");
    // The children have the pipe open as well: it ends with the last of them.
    lines.for_each(drop);
    child.wait().expect("the example ends");
    assert_nothing_is_left(name, pid);
    was_there
}
