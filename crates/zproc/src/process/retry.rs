//! Which failures a process tries again.

use std::error::Error as StdError;
use std::marker::PhantomData;

use serde::{Deserialize, Serialize};
use zproc_spawn::entry::{self, Kind, Located, Run};

use crate::error::{Error, Result};

/// Failures after which a process runs its target again: see
/// [`ProcessBuilder::retry_for`](crate::ProcessBuilder::retry_for).
///
/// ```
/// use std::time::Duration;
/// use zproc::{Context, Error, Result, Retry, State};
///
/// fn fetch(state: State) -> Result<u32> {
///     let tries: u32 = state.atomic(|dict| dict.modify_or("tries", 0, |n: u32| n + 1))?;
///     if tries < 3 { Err(Error::Timeout) } else { Ok(tries) }
/// }
///
/// fn main() -> Result<()> {
///     zproc::init();
///     let ctx = Context::new()?;
///     let fetcher = ctx.process(fetch)
///         .retry_for(Retry::when(|error| matches!(error, Error::Timeout)))
///         .retry_delay(Duration::from_millis(1))
///         .start()?;
///     assert_eq!(fetcher.wait()?, 3);
///     Ok(())
/// }
/// ```
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Retry(How);

#[derive(Clone, Debug, Serialize, Deserialize)]
enum How {
    Test(Result<Located, String>),
    Panic,
    Signal(i32),
    Any,
}

/// The entries of tests of errors.
struct Tests;

/// An error, and whether it is one that is tried again.
struct Asked<'a>(&'a Error, bool);

impl Kind for Tests {
    type Call<'a> = Asked<'a>;
}

struct Ask;

impl<F: Fn(&Error) -> bool + Copy + 'static> Run<Tests, F> for Ask {
    type Pointer = fn();

    fn run(test: F, asked: &mut Asked<'_>) {
        asked.1 = test(asked.0);
    }
}

struct Is<E>(PhantomData<E>);

impl<E: StdError + 'static> Is<E> {
    fn of(error: &Error) -> bool {
        matches!(error, Error::Custom(custom) if custom.is::<E>())
    }
}

impl Retry {
    /// Errors for which `test` holds: a function, or a closure that captures nothing.
    ///
    /// ```
    /// use zproc::{Error, Retry};
    ///
    /// let patient = Retry::when(|error| matches!(error, Error::Timeout | Error::Lagged { .. }));
    /// ```
    pub fn when<F: Fn(&Error) -> bool + Copy + 'static>(test: F) -> Self {
        const {
            assert!(
                size_of::<F>() == 0,
                "the test captures something, which another process does not have"
            )
        };
        Self(How::Test(entry::locate::<Tests, F, Ask>(test)))
    }

    /// Errors that were made by [`Error::other`] of an `E`.
    ///
    /// ```
    /// let broken = zproc::Retry::error::<std::io::Error>();
    /// ```
    pub fn error<E: StdError + 'static>() -> Self {
        Self::when(Is::<E>::of)
    }

    /// Panics. In a program whose panics abort the process, only its parent can start it again:
    /// [`ProcessBuilder::restart_for`](crate::ProcessBuilder::restart_for).
    ///
    /// ```
    /// let clumsy = zproc::Retry::panic();
    /// ```
    pub fn panic() -> Self {
        Self(How::Panic)
    }

    /// A signal, which is made an [`Error::Signal`] for that ([`signal_to_error`](crate::signal_to_error)). It may come as soon
    /// as the process is started.
    ///
    /// ```
    /// let stubborn = zproc::Retry::signal(zproc::signals::SIGTERM);
    /// ```
    pub fn signal(signal: i32) -> Self {
        Self(How::Signal(signal))
    }

    /// Every error and every panic. A signal that was made an error is one: a process that traps SIGTERM is killed when its
    /// grace is over, since it does not end by it.
    ///
    /// ```
    /// let endless = zproc::Retry::any();
    /// ```
    pub fn any() -> Self {
        Self(How::Any)
    }

    /// What has to be made an error first.
    pub(crate) fn signal_number(&self) -> Option<i32> {
        match self.0 {
            How::Signal(signal) => Some(signal),
            _ => None,
        }
    }

    /// Whether it cannot work, and why.
    pub(crate) fn check(&self) -> Result<()> {
        match &self.0 {
            How::Test(Err(reason)) => Err(Error::Target {
                name: "of a test of errors".into(),
                reason: reason.clone(),
            }),
            _ => Ok(()),
        }
    }

    /// Whether it is for this error; `None` is a panic.
    pub(crate) fn is_for(&self, error: Option<&Error>) -> bool {
        match (&self.0, error) {
            (How::Any, _) | (How::Panic, None) => true,
            (How::Signal(signal), Some(Error::Signal { signal: came })) => signal == came,
            (How::Test(Ok(located)), Some(error)) => {
                let mut asked = Asked(error, false);
                if let Ok(test) = entry::find::<Tests>(located) {
                    test.run(&mut asked);
                }
                asked.1
            }
            _ => false,
        }
    }
}
