//! How processes are run: settings that a process has, or that its context has for all.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::retry::Retry;
use crate::error::Result;

/// What a process is.
///
/// ```
/// use zproc::{Backend, Context, Result};
///
/// fn main() -> Result<()> {
///     zproc::init();
///     let ctx = Context::new()?;
///     let thread = ctx.process(std::process::id).backend(Backend::Thread).start()?;
///     assert_eq!(thread.wait()?, std::process::id());
///     Ok(())
/// }
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Backend {
    /// A process of the system.
    #[default]
    Process,
    /// A thread of this process, for tests and for work that needs no protection from its like. It cannot be killed, and
    /// signals that are to be retried are those of the whole process.
    Thread,
}

/// Settings of processes that are to be the same for several of them: see
/// [`ContextBuilder::process_defaults`](crate::ContextBuilder::process_defaults). The builders of processes have methods of
/// the same names, and what is set there counts.
///
/// ```
/// use std::time::Duration;
/// use zproc::{Context, ProcessSettings, Result, Retry};
///
/// fn main() -> Result<()> {
///     zproc::init();
///     let patient = ProcessSettings::new().retry_for(Retry::any()).retry_delay(Duration::from_secs(1)).max_retries(3);
///     let ctx = Context::builder().process_defaults(patient).build()?;
///     assert_eq!(ctx.process(|| 5).start()?.wait()?, 5);
///     Ok(())
/// }
/// ```
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[must_use = "settings do nothing until they are used"]
pub struct ProcessSettings {
    pub(crate) namespace: Option<String>,
    pub(crate) retry_for: Option<Vec<Retry>>,
    pub(crate) retry_delay: Option<Duration>,
    pub(crate) max_retries: Option<Option<u32>>,
    pub(crate) restart_for: Option<Restart>,
    pub(crate) restart_delay: Option<Duration>,
    pub(crate) max_restarts: Option<Option<u32>>,
    pub(crate) stop_grace: Option<Duration>,
    pub(crate) backend: Option<Backend>,
}

/// After which deaths a process is started again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Restart {
    Any,
    Signals(Vec<i32>),
}

/// The default of `retry_delay`.
const RETRY_DELAY: Duration = Duration::from_secs(5);
/// The default of `restart_delay`.
const RESTART_DELAY: Duration = Duration::from_millis(100);
/// The longest time between a death and the restart after it.
const LONGEST_RESTART_DELAY: Duration = Duration::from_secs(30);
/// After a run that lasted so long, delays of restarts begin anew.
const HEALTHY: Duration = Duration::from_secs(30);
/// The default of `stop_grace`.
const STOP_GRACE: Duration = Duration::from_secs(5);

impl ProcessSettings {
    /// None set.
    ///
    /// ```
    /// use zproc::{Backend, ProcessSettings};
    ///
    /// let threads = ProcessSettings::new().backend(Backend::Thread);
    /// ```
    pub fn new() -> Self {
        Self::default()
    }

    /// These, and `defaults` where nothing is set.
    pub(crate) fn or(self, defaults: &Self) -> Self {
        let defaults = defaults.clone();
        Self {
            namespace: self.namespace.or(defaults.namespace),
            retry_for: self.retry_for.or(defaults.retry_for),
            retry_delay: self.retry_delay.or(defaults.retry_delay),
            max_retries: self.max_retries.or(defaults.max_retries),
            restart_for: self.restart_for.or(defaults.restart_for),
            restart_delay: self.restart_delay.or(defaults.restart_delay),
            max_restarts: self.max_restarts.or(defaults.max_restarts),
            stop_grace: self.stop_grace.or(defaults.stop_grace),
            backend: self.backend.or(defaults.backend),
        }
    }

    pub(crate) fn check(&self) -> Result<()> {
        self.retry_for.iter().flatten().try_for_each(Retry::check)
    }

    pub(crate) fn backend_or_default(&self) -> Backend {
        self.backend.unwrap_or_default()
    }

    pub(crate) fn grace(&self) -> Duration {
        self.stop_grace.unwrap_or(STOP_GRACE)
    }

    /// The signals that the child traps, since it tries again after them.
    pub(crate) fn retried_signals(&self) -> impl Iterator<Item = i32> {
        self.retry_for.iter().flatten().filter_map(Retry::signal_number)
    }

    /// How long to wait before a retry after so many; `None` if there is to be none.
    pub(crate) fn next_retry(&self, retries: u32) -> Option<Duration> {
        let most = self.max_retries.flatten().unwrap_or(u32::MAX);
        (retries < most).then(|| self.retry_delay.unwrap_or(RETRY_DELAY))
    }

    /// How long to wait before a restart after so many, of which so many were in a row, if the process died by `signal`.
    pub(crate) fn next_restart(&self, signal: i32, restarts: u32, in_a_row: u32) -> Option<Duration> {
        let wanted = match self.restart_for.as_ref()? {
            Restart::Any => true,
            Restart::Signals(signals) => signals.contains(&signal),
        };
        let most = self.max_restarts.flatten().unwrap_or(u32::MAX);
        let first = self.restart_delay.unwrap_or(RESTART_DELAY);
        let delay = first.saturating_mul(1u32.checked_shl(in_a_row).unwrap_or(u32::MAX));
        (wanted && restarts < most).then(|| delay.min(LONGEST_RESTART_DELAY.max(first)))
    }

    /// How many restarts in a row there were before a death, after so many before the run that it ended.
    pub(crate) fn restarts_in_a_row(before: u32, lasted: Duration) -> u32 {
        if lasted >= HEALTHY { 0 } else { before }
    }

    fn settings_mut(&mut self) -> &mut Self {
        self
    }
}

/// The methods that set settings, for what has some.
macro_rules! settings {
    () => {
        /// The namespace that the process is given; that of its context if it is not set.
        ///
        /// ```
        /// use zproc::{Context, ProcessSettings, Result, State};
        ///
        /// fn main() -> Result<()> {
        ///     zproc::init();
        ///     let settings = ProcessSettings::new().namespace("kitchen");
        ///     let ctx = Context::builder().process_defaults(settings).build()?;
        ///     let name = ctx.process(|state: State| state.namespace().to_owned()).start()?.wait()?;
        ///     assert_eq!(name, "kitchen");
        ///     Ok(())
        /// }
        /// ```
        pub fn namespace(mut self, name: impl Into<String>) -> Self {
            self.settings_mut().namespace = Some(name.into());
            self
        }

        /// Has the child run its target again after these failures; calls add up. It writes a report of each to stderr, and
        /// goes on with its state, which misses nothing, and is not told of what it has written itself in runs before.
        ///
        /// ```
        /// use zproc::{Error, ProcessSettings, Retry};
        ///
        /// let settings = ProcessSettings::new()
        ///     .retry_for(Retry::error::<std::io::Error>())
        ///     .retry_for(Retry::panic())
        ///     .retry_for(Retry::when(|error| matches!(error, Error::Timeout)));
        /// ```
        pub fn retry_for(mut self, failures: $crate::Retry) -> Self {
            self.settings_mut()
                .retry_for
                .get_or_insert_default()
                .push(failures);
            self
        }

        /// Has the child run its target again after every error and every panic.
        ///
        /// ```
        /// let settings = zproc::ProcessSettings::new().retry_for_any().max_retries(3);
        /// ```
        pub fn retry_for_any(self) -> Self {
            self.retry_for($crate::Retry::any())
        }

        /// How long a failed target rests before it is run again: 5 s if it is not set. A signal that the target has made an
        /// error, and that is none of the failures to retry, ends the rest, and the first wait of the next run.
        ///
        /// ```
        /// use std::time::Duration;
        ///
        /// let settings = zproc::ProcessSettings::new().retry_for_any().retry_delay(Duration::from_millis(100));
        /// ```
        pub fn retry_delay(mut self, delay: std::time::Duration) -> Self {
            self.settings_mut().retry_delay = Some(delay);
            self
        }

        /// How often a failed target is run again at most, which is one less than it is run; `None`, the default, for ever.
        ///
        /// ```
        /// let settings = zproc::ProcessSettings::new().retry_for_any().max_retries(3); // runs four times at most
        /// ```
        pub fn max_retries(mut self, retries: impl Into<Option<u32>>) -> Self {
            self.settings_mut().max_retries = Some(retries.into());
            self
        }

        /// Has the parent start the process again if it was ended by one of these signals, such as SIGSEGV, SIGABRT and
        /// SIGKILL. The new one runs the target from its beginning, and its state goes on where that of the dead one was: it
        /// is given what that had not been given yet, and not again what that had. If there were too many updates meanwhile,
        /// its first wait is an [`Error::Lagged`](crate::Error::Lagged). Processes that are stopped by `stop` are not
        /// started again.
        ///
        /// ```
        /// use zproc::signals::{SIGABRT, SIGSEGV};
        ///
        /// let settings = zproc::ProcessSettings::new().restart_for([SIGSEGV, SIGABRT]).max_restarts(10);
        /// ```
        pub fn restart_for(mut self, signals: impl IntoIterator<Item = i32>) -> Self {
            let signals = signals.into_iter().collect();
            self.settings_mut().restart_for = Some($crate::process::Restart::Signals(signals));
            self
        }

        /// Has the parent start the process again whichever signal ended it.
        ///
        /// ```
        /// let settings = zproc::ProcessSettings::new().restart_for_any().max_restarts(10);
        /// ```
        pub fn restart_for_any(mut self) -> Self {
            self.settings_mut().restart_for = Some($crate::process::Restart::Any);
            self
        }

        /// How long the parent waits before the first restart: 100 ms if it is not set. It doubles with each, up to 30 s, and
        /// begins anew after a run of 30 s.
        ///
        /// ```
        /// use std::time::Duration;
        ///
        /// let settings = zproc::ProcessSettings::new().restart_for_any().restart_delay(Duration::from_millis(10));
        /// ```
        pub fn restart_delay(mut self, delay: std::time::Duration) -> Self {
            self.settings_mut().restart_delay = Some(delay);
            self
        }

        /// How often the process is started again at most, in all; `None`, the default, for ever. A start that fails, as for
        /// want of memory, counts.
        ///
        /// ```
        /// let settings = zproc::ProcessSettings::new().restart_for_any().max_restarts(10);
        /// ```
        pub fn max_restarts(mut self, restarts: impl Into<Option<u32>>) -> Self {
            self.settings_mut().max_restarts = Some(restarts.into());
            self
        }

        /// How long a process that is stopped has between SIGTERM and SIGKILL: 5 s if it is not set.
        ///
        /// ```
        /// use std::time::Duration;
        ///
        /// let settings = zproc::ProcessSettings::new().stop_grace(Duration::from_millis(100));
        /// ```
        pub fn stop_grace(mut self, grace: std::time::Duration) -> Self {
            self.settings_mut().stop_grace = Some(grace);
            self
        }

        /// Whether it is a process of the system, which is the default, or a thread of this one.
        ///
        /// ```
        /// let settings = zproc::ProcessSettings::new().backend(zproc::Backend::Thread);
        /// ```
        pub fn backend(mut self, backend: $crate::Backend) -> Self {
            self.settings_mut().backend = Some(backend);
            self
        }
    };
}
pub(crate) use settings;

impl ProcessSettings {
    settings!();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn restarts_back_off_up_to_a_limit() {
        let settings = ProcessSettings::new().restart_for([9]).max_restarts(50);
        let delays: Vec<_> = (0..11)
            .map(|n| settings.next_restart(9, n, n).unwrap().as_millis())
            .collect();
        let doubled = [100, 200, 400, 800, 1600, 3200, 6400, 12_800, 25_600];
        assert_eq!(delays, [&doubled[..], &[30_000; 2]].concat());
        // Who asks for more than the limit at first gets that each time.
        let long = settings.clone().restart_delay(2 * LONGEST_RESTART_DELAY);
        assert!((0..5).all(|n| long.next_restart(9, n, n) == Some(2 * LONGEST_RESTART_DELAY)));
        assert_eq!(settings.next_restart(9, 49, 49), Some(LONGEST_RESTART_DELAY));
        assert_eq!(settings.next_restart(9, 50, 50), None);
        assert_eq!(settings.next_restart(11, 0, 0), None);
        // A run that went well has the delays begin anew, and counts for the limit all the same.
        assert_eq!(ProcessSettings::restarts_in_a_row(40, HEALTHY), 0);
        assert_eq!(ProcessSettings::restarts_in_a_row(40, Duration::from_secs(1)), 40);
        assert_eq!(settings.next_restart(9, 40, 0), Some(RESTART_DELAY));
        assert_eq!(settings.next_restart(9, 50, 0), None);
    }

    #[test]
    fn what_a_process_has_set_counts_before_the_defaults() {
        let defaults = ProcessSettings::new().max_retries(3).namespace("a");
        let settings = ProcessSettings::new().max_retries(None).or(&defaults);
        assert_eq!(
            (settings.max_retries, settings.namespace.as_deref()),
            (Some(None), Some("a"))
        );
    }
}
