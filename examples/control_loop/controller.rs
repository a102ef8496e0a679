//! The controller's process: this program again, in another role.
//!
//! It gets the memory of its loop as its standard input. On its standard output it says when it is ready, and at its end
//! what it has seen: how many ticks, and how late it had them.

use std::io::{self, BufRead, BufReader, Lines, Write};
use std::os::fd::AsFd;
use std::os::unix::process::parent_id;
use std::process::{Child, ChildStdout, Command, Stdio};

use hdrhistogram::Histogram;
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;

use crate::plant::Wire;
use crate::{Result, Settings, Waiting, futex_wire, realtime, report, state_wire};

pub const ROLE: &str = "controller";
const READY: &str = "ready";
const HANDLED: &str = "handled";

/// What a controller does, from its start to its end.
pub fn be(arguments: &[String]) -> Result<()> {
    let [parent, wire, waiting, cpu, warm_up] = arguments else {
        return Err("a controller is started by the plant".into());
    };
    set_pdeathsig(Signal::SIGKILL)?;
    // It may have died before that call.
    if parent_id() != parent.parse::<u32>()? {
        return Err("the parent is gone".into());
    }
    let waiting = Waiting::named(waiting)?;
    let mut left: u64 = warm_up.parse()?;
    let mut lateness = report::histogram()?;
    let late = |ns| match left {
        0 => lateness.saturating_record(ns),
        _ => left -= 1,
    };
    let memory = io::stdin().as_fd().try_clone_to_owned()?;
    let cpu = cpu.parse()?;
    let ready = || {
        // What it cannot have, the plant cannot have either, and says so.
        realtime::prepare(cpu, waiting == Waiting::Spin)?;
        Ok(writeln!(io::stdout(), "{READY}")?)
    };
    let handled = match wire.as_str() {
        Wire::STATE => state_wire::control(memory, waiting, ready, late)?,
        _ => futex_wire::control(memory, waiting, ready, late)?,
    };
    let mut out = io::stdout().lock();
    for at in lateness.iter_recorded() {
        writeln!(out, "{} {}", at.value_iterated_to(), at.count_at_value())?;
    }
    Ok(writeln!(out, "{HANDLED} {handled}")?)
}

/// A controller, as the plant has it. It is killed when this is dropped.
pub struct Controller {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

/// What a controller says at its end.
pub struct Account {
    /// Nanoseconds from when each tick was due until the controller had it.
    pub lateness: Histogram<u64>,
    /// Ticks that it had, those before the first that counts included.
    pub handled: u64,
}

impl Controller {
    /// Starts one, and waits until it is ready.
    pub fn start(wire: &Wire, cpu: usize, settings: &Settings) -> Result<Self> {
        let mut child = Command::new("/proc/self/exe")
            .args([
                ROLE,
                &std::process::id().to_string(),
                wire.name(),
                settings.waiting.name(),
            ])
            .args([cpu.to_string(), settings.warm_up().to_string()])
            .stdin(Stdio::from(wire.memory()?))
            .stdout(Stdio::piped())
            .spawn()?;
        let out = child.stdout.take().ok_or("the controller has no standard output")?;
        let lines = BufReader::new(out).lines();
        let mut controller = Self { child, lines };
        match controller.lines.next().transpose()? {
            Some(line) if line == READY => Ok(controller),
            said => Err(format!("the controller did not start: {said:?}").into()),
        }
    }

    /// Waits for its end.
    pub fn finish(mut self) -> Result<Account> {
        let mut lateness = report::histogram()?;
        let mut handled = None;
        for line in self.lines.by_ref() {
            let line = line?;
            let (first, second) = line.split_once(' ').ok_or("half a line")?;
            match first {
                HANDLED => handled = Some(second.parse()?),
                value => lateness.record_n(value.parse()?, second.parse()?)?,
            }
        }
        let status = self.child.wait()?;
        let handled = handled
            .filter(|_| status.success())
            .ok_or_else(|| format!("a controller failed: {status}"))?;
        Ok(Account { lateness, handled })
    }
}

impl Drop for Controller {
    fn drop(&mut self) {
        // One that has ended already is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
