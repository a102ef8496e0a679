//! The doctor: why a state cannot be opened, what is wrong with one that can, and what to do about it.
//!
//! `examine` makes findings of what is there, `finding` says how bad each is, in words and as data, and what helps.

mod examine;
mod finding;

use std::fmt;
use std::path::PathBuf;

use shm_state::{Participant, Status};

use crate::error::Result;
pub use finding::{Finding, Severity};
use finding::{count, process};

/// What the [`doctor`] found.
///
/// Displayed, it is a report for people. For programs, [`Finding`] has the same as data.
///
/// ```
/// use zproc::State;
///
/// # let address = format!("shm://zproc-doc-diagnosis-{}", std::process::id());
/// # let address = address.as_str();
/// State::create(address)?;
/// let diagnosis = zproc::doctor(address)?;
/// for finding in &diagnosis.findings {
///     println!("{}: {finding}", finding.severity());
/// }
/// let status = diagnosis.status.expect("it can be opened");
/// assert_eq!(status.namespaces[0].name, "default");
/// zproc::remove(address)?;
/// # Ok::<(), zproc::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Diagnosis {
    /// The address that was asked for.
    pub address: String,
    /// The file behind it.
    pub path: PathBuf,
    /// Everything that was looked at, healthy or not, in the order in which opening a state depends on it.
    pub findings: Vec<Finding>,
    /// Who is there and what they do; `None` if the state cannot be opened.
    pub status: Option<Status>,
}

impl Diagnosis {
    /// How bad the worst of the findings is.
    ///
    /// ```
    /// use zproc::{Severity, State};
    ///
    /// # let address = format!("shm://zproc-doc-severity-{}", std::process::id());
    /// # let address = address.as_str();
    /// assert_eq!(zproc::doctor(address)?.severity(), Severity::Fatal); // there is none
    /// State::create(address)?;
    /// assert!(zproc::doctor(address)?.severity() < Severity::Fatal);
    /// zproc::remove(address)?;
    /// # Ok::<(), zproc::Error>(())
    /// ```
    pub fn severity(&self) -> Severity {
        let all = self.findings.iter().map(Finding::severity);
        all.max().unwrap_or(Severity::Fine)
    }

    /// The findings that somebody should do something about: warnings, and what keeps the state from being used.
    ///
    /// ```
    /// # let address = format!("shm://zproc-doc-problems-{}", std::process::id());
    /// # let address = address.as_str();
    /// let diagnosis = zproc::doctor(address)?;
    /// let problems: Vec<String> = diagnosis.problems().map(|problem| problem.to_string()).collect();
    /// assert_eq!(problems, ["there is no state"]);
    /// # Ok::<(), zproc::Error>(())
    /// ```
    pub fn problems(&self) -> impl Iterator<Item = &Finding> {
        let is_one = |finding: &&Finding| finding.severity() >= Severity::Warning;
        self.findings.iter().filter(is_one)
    }
}

/// Examines the state at an address, whether or not it can be opened.
///
/// First it looks at the file, without mapping it: whether it is there, whose it is, and whether version, layout,
/// checksum, size, boot and PID namespace are such that this process can use it. If so, it opens the state and looks at
/// who is there, who holds the writer locks, snapshots and watchers, and how full it is. Where a lock is free, or becomes
/// so within a tenth of a second, it is taken to count what lies in memory, and to check it as
/// [`State::verify`](crate::State::verify) does; whoever takes it finishes what a dead writer left, and so does the doctor,
/// after it has told of it. Nothing else is changed: [`State::reap`](crate::State::reap) cleans up.
///
/// # Errors
/// [`Error::InvalidAddress`](crate::Error::InvalidAddress). That there is nothing, or nothing usable, is a finding and no
/// error.
///
/// ```
/// use zproc::{Finding, State};
///
/// # let address = format!("shm://zproc-doc-doctor-{}", std::process::id());
/// # let address = address.as_str();
/// let diagnosis = zproc::doctor(address)?;
/// assert_eq!(diagnosis.findings[0], Finding::Missing);
///
/// let state = State::create(address)?;
/// let diagnosis = zproc::doctor(address)?;
/// println!("{diagnosis}");
/// assert_eq!(diagnosis.status.unwrap().participants[0].pid, std::process::id());
/// zproc::remove(address)?;
/// # Ok::<(), zproc::Error>(())
/// ```
pub fn doctor(address: &str) -> Result<Diagnosis> {
    examine::examine(address)
}

/// A report: all findings with what to do, then who is there.
impl fmt::Display for Diagnosis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} ({})", self.address, self.path.display())?;
        for finding in &self.findings {
            writeln!(f, "  {:<8} {finding}", finding.severity().to_string())?;
            if let Some(remedy) = finding.remedy(&self.address) {
                writeln!(f, "           -> {remedy}")?;
            }
        }
        let Some(status) = &self.status else { return Ok(()) };
        writeln!(f, "\nprocesses")?;
        for participant in &status.participants {
            write_participant(f, participant)?;
        }
        writeln!(f, "\nnamespaces")?;
        for namespace in &status.namespaces {
            let keys = namespace.keys.map_or_else(|| "?".into(), |keys| keys.to_string());
            let holder = match &namespace.lock.holder {
                Some(holder) => format!("held by {}", process(holder.pid, holder.name.as_deref())),
                None => "free".into(),
            };
            writeln!(
                f,
                "  {:?}: {} updates, {keys} keys, {} of history, {}, {}; lock {holder}",
                namespace.name,
                namespace.commits,
                count(namespace.history as usize, "update"),
                count(namespace.pins.len(), "snapshot"),
                count(namespace.watchers.len(), "watcher"),
            )?;
        }
        Ok(())
    }
}

fn write_participant(f: &mut fmt::Formatter<'_>, participant: &Participant) -> fmt::Result {
    let Participant {
        pid,
        name,
        life,
        pins,
        watchers,
        ..
    } = participant;
    writeln!(
        f,
        "  {pid:>7} {:<15} {:<8} {}, {}",
        name.as_deref().unwrap_or("?"),
        life.to_string(),
        count(*pins, "snapshot"),
        count(*watchers, "watcher")
    )
}
