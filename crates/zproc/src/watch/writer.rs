//! Who made an update.

use std::fmt;
use std::sync::Arc;

/// The process that made an update.
///
/// ```
/// use zproc::State;
///
/// zproc::set_process_name("baker");
/// let state = State::anonymous()?;
/// state.clone().insert("cookies", 5)?;
/// let writer = state.get_raw_update()?.writer;
/// assert_eq!(writer.name.as_deref(), Some("baker"));
/// assert_eq!(writer.to_string(), format!("baker (process {})", std::process::id()));
/// # Ok::<(), zproc::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Writer {
    /// Its process id. The process may have ended since, and another have the id.
    pub pid: u32,
    /// What it is called: the name of its program, or what it chose by [`set_process_name`]. It is known for long after the
    /// process has ended; `None` once about four thousand others have opened the state since.
    pub name: Option<Arc<str>>,
}

impl fmt::Display for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            Some(name) => write!(f, "{name} (process {})", self.pid),
            None => write!(f, "process {}", self.pid),
        }
    }
}

/// Chooses what this process is called by others, in all states: those that it has open, and those that it will open.
///
/// As much of the name as fits into 15 bytes is used, whole characters only and without control characters. Without this
/// call, and after one with an empty name, it is the name of the program, as the system knows it. What a watcher learns is
/// the present name of the writer, not the one at the time of the update; children that are forked inherit it.
///
/// ```
/// let state = zproc::State::anonymous()?;
/// zproc::set_process_name("a sampler of temperatures");
/// state.clone().insert("kitchen", 21.5)?;
/// assert_eq!(state.get_raw_update()?.writer.name.as_deref(), Some("a sampler of te"));
/// # Ok::<(), zproc::Error>(())
/// ```
pub fn set_process_name(name: &str) {
    shm_state::set_process_name(name);
}
