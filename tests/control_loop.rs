//! The example `control_loop`, run as the program that it is: what it prints and draws, and that every tick is accounted
//! for. Nothing about time: the machine may have much else to do.
//!
//! `cargo test` builds the examples of this package beside the tests. `cargo test --test control_loop` does not: then it
//! must have been built before, with `cargo build --example control_loop`.

use std::collections::HashMap;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// The executable: in the directory `examples` beside that of this test.
fn program() -> PathBuf {
    let this = env::current_exe().expect("this test has a path");
    let directory = this.ancestors().nth(2).expect("tests lie two levels below the profile");
    let program = directory.join("examples/control_loop");
    assert!(
        program.is_file(),
        "{program:?} is missing: run `cargo build --example control_loop` before"
    );
    program
}

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(program());
    command.args(arguments).stdin(Stdio::null());
    command
}

/// A directory for what it draws, removed at the end.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path = env::temp_dir().join(format!("zproc-control-loop-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).expect("a directory can be made");
        Self(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Runs it for a second with these arguments; returns what it printed, and what it drew.
fn run(name: &str, arguments: &[&str]) -> (String, String) {
    let scratch = Scratch::new(name);
    let output = command(&["--seconds", "1"])
        .args(arguments)
        .current_dir(&scratch.0)
        .output();
    let output = output.expect("the example starts");
    let [text, errors] = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    assert!(output.status.success(), "{}\n{errors}\n{text}", output.status);
    assert_eq!(errors, "", "it complains");
    let picture = fs::read_to_string(scratch.0.join("control_loop.svg")).expect("it draws");
    (text, picture)
}

/// The rows of the table: a name and a percentile, and a cell for each loop. A row that has no name goes on with that of
/// the row above.
fn table(text: &str, columns: usize) -> HashMap<String, Vec<f64>> {
    let mut rows = HashMap::new();
    let mut name = String::new();
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().filter(|word| *word != "µs").collect();
        let Some(split) = words.len().checked_sub(columns) else {
            continue;
        };
        let cells: Result<Vec<f64>, _> = words[split..].iter().map(|word| word.parse()).collect();
        let Ok(cells) = cells else { continue };
        let label = words[..split].join(" ");
        let percentile = words[..split]
            .last()
            .filter(|word| word.starts_with('p') || **word == "max");
        match percentile {
            Some(percentile) => {
                if split > 1 {
                    name = label.trim_end_matches(percentile).trim().to_owned();
                }
                rows.insert(format!("{name} {percentile}"), cells);
            }
            None => {
                rows.insert(label, cells);
            }
        }
    }
    rows
}

/// Checks a table of so many loops that ran for a second.
fn check(text: &str, columns: usize, ticks: f64) {
    let rows = table(text, columns);
    let row = |name: &str| {
        rows.get(name)
            .unwrap_or_else(|| panic!("no row {name:?} in\n{text}\n{rows:?}"))
    };
    assert_eq!(row("ticks"), &vec![ticks; columns], "{text}");
    for column in 0..columns {
        for name in [
            "jitter: tick due → in hand",
            "of it, due → the plant ran",
            "round trip: tick → answer",
        ] {
            let times = ["p50", "p99", "p99.9", "max"].map(|at| row(&format!("{name} {at}"))[column]);
            assert!(
                times.is_sorted() && times[0] >= 0.0 && times[3] < 60e6,
                "{name}: {times:?}"
            );
        }
        // A controller has a tick after the plant had it.
        let [controllers, plants] =
            ["jitter: tick due → in hand max", "of it, due → the plant ran max"].map(|name| row(name)[column]);
        assert!(column > 0 || controllers >= plants, "{text}");
        assert!(row("missed deadlines")[column] <= ticks, "{text}");
    }
    // The state's controller has each tick, however late; a bare futex forgets.
    assert_eq!(row("ticks that the controller had")[0], ticks, "{text}");
    let pendulums = text.lines().filter(|line| line.contains(": the pendulum "));
    assert_eq!(pendulums.clone().count(), columns, "{text}");
    for line in pendulums {
        // If it fell it says why; the program fails if there is no reason.
        assert!(
            line.contains("stands") || line.contains("ticks in a row unanswered"),
            "{line}"
        );
    }
}

#[test]
fn a_loop_over_a_state_accounts_for_every_tick() {
    let (text, picture) = run("plain", &[]);
    check(&text, 1, 1000.0);
    assert!(picture.starts_with("<svg") && picture.contains("zproc") && !picture.contains("bare futex"));
}

#[test]
fn a_bare_loop_runs_beside_it_on_the_same_ticks() {
    let (text, picture) = run("bare", &["--bare", "--hz", "500"]);
    check(&text, 2, 500.0);
    let rows = table(&text, 2);
    let (missed, alone) = (&rows["missed deadlines"], &rows["of them, missed by it alone"]);
    assert_eq!(
        missed[0] - alone[0],
        missed[1] - alone[1],
        "those that both missed: {text}"
    );
    assert!(picture.contains("zproc") && picture.contains("bare futex"));
    // It is to be legible on a page of any colour.
    assert!(picture.contains(r##"fill="#FFFFFF""##));
}

#[test]
fn controllers_that_spin_take_turns() {
    let (text, _) = run("spin", &["--bare", "--spin", "--hz", "100"]);
    check(&text, 2, 100.0);
}

#[test]
fn what_it_does_not_know_is_an_error() {
    for (arguments, says) in [
        (&["--seconds", "0"][..], "--seconds goes from 1"),
        (&["--hz", "1000000"], "--hz from 10"),
        (&["--fast"], "--fast"),
        (&["--seconds"], "--seconds needs a value"),
    ] {
        let output = command(arguments).output().expect("the example starts");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && errors.contains(says), "{errors}");
    }
}

/// State and parent of a process, as the kernel shows them; `None` if there is none.
fn state_of(pid: &str) -> Option<(String, String)> {
    let stat = fs::read_to_string(Path::new("/proc").join(pid).join("stat")).ok()?;
    let mut words = stat.rsplit_once(") ")?.1.split(' ').map(str::to_owned);
    Some((words.next()?, words.next()?))
}

/// The controllers of a plant.
fn controllers_of(plant: &Child) -> Vec<String> {
    let plant = plant.id().to_string();
    let all = fs::read_dir("/proc").expect("/proc is mounted").flatten();
    let all = all.filter_map(|entry| entry.file_name().into_string().ok());
    all.filter(|pid| state_of(pid).is_some_and(|(_, parent)| parent == plant))
        .collect()
}

#[test]
fn a_plant_that_is_killed_leaves_no_controller() {
    let scratch = Scratch::new("killed");
    let mut plant = command(&["--bare"])
        .current_dir(&scratch.0)
        .stdout(Stdio::null())
        .spawn()
        .expect("the example starts");
    let start = Instant::now();
    let mut controllers = Vec::new();
    while controllers.len() < 2 {
        assert!(
            start.elapsed() < Duration::from_secs(60),
            "no controllers: {controllers:?}"
        );
        sleep(Duration::from_millis(1));
        controllers = controllers_of(&plant);
    }
    plant.kill().expect("it is ours");
    plant.wait().expect("it is ours");
    // They are not our children: somebody else collects them, sooner or later.
    let runs = |pid: &String| state_of(pid).is_some_and(|(state, _)| state != "Z");
    while controllers.iter().any(runs) {
        assert!(
            start.elapsed() < Duration::from_secs(60),
            "a controller outlives its plant"
        );
        sleep(Duration::from_millis(1));
    }
}
