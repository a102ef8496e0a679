//! The steps of a task: what they are, and running a table of them until the first failure.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// One row of a task's table.
pub struct Step {
    name: &'static str,
    action: Action,
    environment: [Option<(&'static str, &'static str)>; 2],
    need: Option<Need>,
}

/// What a step does.
enum Action {
    /// Runs a program; its words are separated by spaces.
    Run(&'static str),
    /// Looks at the files of the workspace.
    Inspect(fn(&Path) -> Result<(), String>),
}

/// Something that not every machine has. A step that lacks it is skipped, and says so.
#[derive(Clone, Copy)]
pub enum Need {
    /// A subcommand of cargo.
    Subcommand(&'static str),
    /// The standard library of another target.
    Target(&'static str),
    /// A C and a C++ compiler, for the libraries that zproc is compared with.
    CxxCompiler,
}

/// How a step ended, if it did not fail.
enum Outcome {
    Passed(Duration),
    Skipped(String),
}

impl Step {
    /// A step that runs `command`, a program and its arguments.
    pub const fn run(name: &'static str, command: &'static str) -> Self {
        Self {
            name,
            action: Action::Run(command),
            environment: [None; 2],
            need: None,
        }
    }

    /// A step that calls `inspect` with the root of the workspace.
    pub const fn inspect(name: &'static str, inspect: fn(&Path) -> Result<(), String>) -> Self {
        Self {
            name,
            action: Action::Inspect(inspect),
            environment: [None; 2],
            need: None,
        }
    }

    /// Sets a variable in the environment of the step's program; two at most.
    pub const fn with(mut self, variable: &'static str, value: &'static str) -> Self {
        assert!(self.environment[1].is_none(), "a step has two variables at most");
        let free = self.environment[0].is_some() as usize;
        self.environment[free] = Some((variable, value));
        self
    }

    /// Skips the step where `need` is not met.
    pub const fn needs(mut self, need: Need) -> Self {
        self.need = Some(need);
        self
    }

    /// What the step does, as it is printed.
    fn describe(&self) -> String {
        match &self.action {
            Action::Run(command) => {
                let variables = self.environment.iter().flatten();
                let variables = variables.map(|(variable, value)| format!("{variable}='{value}' "));
                variables.collect::<String>() + command
            }
            Action::Inspect(_) => "look at the files".to_owned(),
        }
    }

    /// Performs the step in the directory `root`, which is an error too when what it needs is missing.
    pub fn finish(&self, root: &Path) -> Result<(), String> {
        println!("{}", self.describe());
        match self.perform(root)? {
            Outcome::Passed(_) => Ok(()),
            Outcome::Skipped(reason) => Err(reason),
        }
    }

    /// Performs the step in the directory `root`.
    fn perform(&self, root: &Path) -> Result<Outcome, String> {
        if let Some(reason) = self.need.and_then(|need| need.missing(root)) {
            return Ok(Outcome::Skipped(reason));
        }
        let start = Instant::now();
        match self.action {
            Action::Inspect(inspect) => inspect(root)?,
            Action::Run(line) => {
                let mut words = line.split_whitespace();
                let mut command = Command::new(words.next().ok_or("the step names no program")?);
                command
                    .args(words)
                    .envs(self.environment.iter().flatten().copied())
                    .current_dir(root)
                    .stdin(Stdio::null());
                finish(&mut command)?;
            }
        }
        Ok(Outcome::Passed(start.elapsed()))
    }
}

impl Need {
    /// Why the need is not met, or `None` if it is.
    fn missing(self, root: &Path) -> Option<String> {
        match self {
            Need::Subcommand(name) => {
                let found = quiet(root, "cargo", &[name, "--version"]).is_some();
                (!found).then(|| format!("cargo-{name} is not installed (cargo install cargo-{name} --locked)"))
            }
            Need::Target(target) => {
                let library = quiet(root, "rustc", &["--print", "target-libdir", "--target", target]);
                let found = library.is_some_and(|path| Path::new(path.trim()).is_dir());
                (!found).then(|| format!("target not installed (rustup target add {target})"))
            }
            Need::CxxCompiler => {
                let found = quiet(root, "c++", &["--version"]).is_some();
                (!found).then(|| "no C++ compiler (apt-get install g++)".to_owned())
            }
        }
    }
}

/// Performs the steps in order, printing each one and its time, and stops at the first failure, whose name is in the
/// error.
pub fn run_all(steps: &[Step], root: &Path) -> Result<(), String> {
    let start = Instant::now();
    let mut summary = String::new();
    for (number, step) in (1..).zip(steps) {
        println!("\n==> {number}/{} {}: {}", steps.len(), step.name, step.describe());
        let begun = Instant::now();
        let outcome = step.perform(root).map_err(|error| {
            format!(
                "step '{}' FAILED after {}: {error}",
                step.name,
                seconds(begun.elapsed())
            )
        })?;
        let line = match outcome {
            Outcome::Passed(time) => format!("{:>8}  {}", seconds(time), step.name),
            Outcome::Skipped(reason) => format!("{:>8}  {}: {reason}", "skipped", step.name),
        };
        println!("<== {}", line.trim_start());
        summary.push_str(&line);
        summary.push('\n');
    }
    println!("\n{summary}{:>8}  all", seconds(start.elapsed()));
    Ok(())
}

/// Runs a program to its end; anything but success is an error.
pub fn finish(command: &mut Command) -> Result<(), String> {
    let status = command
        .status()
        .map_err(|error| format!("cannot start {:?}: {error}", command.get_program()))?;
    if status.success() {
        Ok(())
    } else {
        Err(format!("{:?}: {status}", command.get_program()))
    }
}

/// Runs a program silently and returns what it wrote, or `None` if it failed or does not exist.
pub fn quiet(root: &Path, program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program)
        .args(arguments)
        .current_dir(root)
        .stdin(Stdio::null())
        .output()
        .ok()?;
    output
        .status
        .success()
        .then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// A time as it is printed.
fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn never(_: &Path) -> Result<(), String> {
        panic!("a step after a failed or missing one was performed");
    }

    fn here() -> &'static Path {
        Path::new(".")
    }

    #[test]
    fn the_first_failure_ends_the_run_and_is_named() {
        let steps = [
            Step::run("good", "true"),
            Step::run("bad", "false"),
            Step::inspect("late", never),
        ];
        let error = run_all(&steps, here()).unwrap_err();
        assert!(error.contains("'bad'"), "{error}");
    }

    #[test]
    fn a_program_that_does_not_exist_is_a_failure() {
        let error = run_all(&[Step::run("lost", "no-such-program-7c1")], here()).unwrap_err();
        assert!(error.contains("no-such-program-7c1"), "{error}");
    }

    #[test]
    fn a_step_without_what_it_needs_is_skipped() {
        let steps = [
            Step::inspect("tool", never).needs(Need::Subcommand("no-such-subcommand-7c1")),
            Step::inspect("target", never).needs(Need::Target("no-such-target-7c1")),
        ];
        assert_eq!(run_all(&steps, here()), Ok(()));
    }

    #[test]
    fn a_step_sees_its_variable() {
        let step = Step::run(
            "variable",
            "grep -qz ^XTASK_STEP_VARIABLE=two.words$ /proc/self/environ",
        );
        assert!(run_all(&[step.with("XTASK_STEP_VARIABLE", "two words")], here()).is_ok());
    }
}
