//! Errors and panics of other processes, as far as text can tell of them.

use std::error::Error as StdError;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::origin;

/// An error or a panic that happened in another process.
///
/// ```
/// use zproc::{Context, Error, Result};
///
/// fn baker() -> Result<()> {
///     let recipe = std::fs::read_to_string("/no/such/recipe").map_err(Error::other)?;
///     drop(recipe);
///     Ok(())
/// }
///
/// fn main() -> Result<()> {
///     zproc::init();
///     let ctx = Context::new()?;
///     let Err(Error::ProcessWait { source: Some(error), .. }) = ctx.process(baker).start()?.wait() else { panic!() };
///     assert_eq!(error.type_name(), "std::io::error::Error");
///     assert!(error.message().starts_with("No such file"));
///     if let Some(place) = error.location() {
///         eprintln!("made at {place}");
///     }
///     Ok(())
/// }
/// ```
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RemoteError {
    kind: Kind,
    type_name: String,
    message: String,
    /// The sources, the nearest first.
    chain: Option<Box<Link>>,
    location: Option<String>,
    backtrace: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Kind {
    Error,
    Panic,
    /// It ended in a way that says nothing of the target.
    Process,
}

/// One of the causes of an error.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Link {
    message: String,
    next: Option<Box<Link>>,
}

impl RemoteError {
    /// Of an error that a target returned on this thread.
    pub(crate) fn of_error(error: &Error) -> Self {
        let (message, chain) = (error.to_string(), Link::of(error.source()));
        let origin = match error {
            Error::Custom(custom) => origin::of(&**custom),
            // One that was carried here already is told as it was.
            Error::Remote(remote) => return (**remote).clone(),
            _ => None,
        };
        let (type_name, location, backtrace) = match origin {
            Some(origin) => (origin.type_name.to_owned(), origin.location, origin.backtrace),
            None => (variant(error), None, None),
        };
        Self {
            kind: Kind::Error,
            type_name,
            message,
            chain,
            location,
            backtrace,
        }
    }

    /// Of a panic.
    pub(crate) fn of_panic(message: String, location: Option<String>, backtrace: Option<String>) -> Self {
        Self {
            kind: Kind::Panic,
            type_name: "panic".into(),
            message,
            chain: None,
            location,
            backtrace,
        }
    }

    /// Of a process that did not get as far as its target, or left it otherwise.
    pub(crate) fn of_process(message: impl Into<String>) -> Self {
        Self {
            kind: Kind::Process,
            type_name: "process".into(),
            message: message.into(),
            chain: None,
            location: None,
            backtrace: None,
        }
    }

    /// The type of the error, such as `std::io::error::Error` or `zproc::Error::Timeout`; `panic` for a panic.
    ///
    /// The type is that which was given to [`Error::other`]; the variant, for other errors of this crate.
    ///
    /// ```
    /// use zproc::{Context, Error, Result};
    ///
    /// fn main() -> Result<()> {
    ///     zproc::init();
    ///     let ctx = Context::new()?;
    ///     let late = ctx.process(|| Err::<(), _>(Error::Timeout)).start()?.wait();
    ///     let Err(Error::ProcessWait { source: Some(error), .. }) = late else { panic!() };
    ///     assert_eq!(error.type_name(), "zproc::Error::Timeout");
    ///     Ok(())
    /// }
    /// ```
    pub fn type_name(&self) -> &str {
        &self.type_name
    }

    /// What the error says, without its sources; what was given to `panic!`.
    ///
    /// ```
    /// use zproc::{Context, Error, Result};
    ///
    /// fn main() -> Result<()> {
    ///     zproc::init();
    ///     let ctx = Context::new()?;
    ///     let burnt = ctx.process(|| -> () { panic!("{} cookies burnt", 12) }).start()?.wait();
    ///     let Err(Error::ProcessWait { source: Some(error), .. }) = burnt else { panic!() };
    ///     assert!(error.is_panic() && error.message() == "12 cookies burnt");
    ///     Ok(())
    /// }
    /// ```
    pub fn message(&self) -> &str {
        &self.message
    }

    /// What the sources of the error say, the nearest first.
    ///
    /// ```
    /// use zproc::{Context, Error, Result};
    ///
    /// fn main() -> Result<()> {
    ///     zproc::init();
    ///     let ctx = Context::new()?;
    ///     let failed = ctx.process(|| Err::<(), _>(Error::other("no flour"))).start()?.wait();
    ///     let Err(Error::ProcessWait { source: Some(error), .. }) = failed else { panic!() };
    ///     assert_eq!(error.chain().count(), 0); // a text has no source
    ///     Ok(())
    /// }
    /// ```
    pub fn chain(&self) -> impl Iterator<Item = &str> {
        std::iter::successors(self.chain.as_deref(), |link| link.next.as_deref()).map(|link| link.message.as_str())
    }

    /// Where the error was made by [`Error::other`], or where the panic began: file, line and column. `None` for errors of
    /// this crate, and if it is not known.
    ///
    /// ```
    /// use zproc::{Context, Error, Result};
    ///
    /// fn main() -> Result<()> {
    ///     zproc::init();
    ///     let ctx = Context::new()?;
    ///     let failed = ctx.process(|| Err::<(), _>(Error::other("no flour"))).start()?.wait();
    ///     let Err(Error::ProcessWait { source: Some(error), .. }) = failed else { panic!() };
    ///     assert!(error.location().unwrap().contains(".rs:"));
    ///     Ok(())
    /// }
    /// ```
    pub fn location(&self) -> Option<&str> {
        self.location.as_deref()
    }

    /// The calls that led there: of a panic in a child always, of an error if the environment variable `RUST_BACKTRACE` asks
    /// for it. A thread that stands for a process ([`Backend::Thread`](crate::Backend::Thread)) tells neither these nor the
    /// place of its panics, since that takes a hook of the whole program.
    ///
    /// ```
    /// use zproc::{Context, Error, Result};
    ///
    /// fn main() -> Result<()> {
    ///     zproc::init();
    ///     let ctx = Context::new()?;
    ///     let burnt = ctx.process(|| -> () { panic!("burnt") }).start()?.wait();
    ///     let Err(Error::ProcessWait { source: Some(error), .. }) = burnt else { panic!() };
    ///     assert!(error.backtrace().is_some());
    ///     Ok(())
    /// }
    /// ```
    pub fn backtrace(&self) -> Option<&str> {
        self.backtrace.as_deref()
    }

    /// Whether it is a panic.
    ///
    /// ```
    /// use zproc::{Context, Error, Result};
    ///
    /// fn main() -> Result<()> {
    ///     zproc::init();
    ///     let ctx = Context::new()?;
    ///     let failed = ctx.process(|| Err::<(), _>(Error::other("no flour"))).start()?.wait();
    ///     let Err(Error::ProcessWait { source: Some(error), .. }) = failed else { panic!() };
    ///     assert!(!error.is_panic());
    ///     Ok(())
    /// }
    /// ```
    pub fn is_panic(&self) -> bool {
        self.kind == Kind::Panic
    }
}

impl fmt::Display for RemoteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            Kind::Process => f.write_str(&self.message)?,
            Kind::Error => write!(f, "{} ({})", self.message, self.type_name)?,
            Kind::Panic => write!(f, "it panicked: {}", self.message)?,
        }
        match &self.location {
            Some(location) => write!(f, " at {location}"),
            None => Ok(()),
        }
    }
}

impl StdError for RemoteError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.chain.as_deref().map(|link| link as &dyn StdError)
    }
}

impl Link {
    fn of(error: Option<&(dyn StdError + 'static)>) -> Option<Box<Self>> {
        // A chain that goes in circles ends somewhere.
        const MOST: usize = 64;
        let (mut messages, mut next) = (Vec::new(), error);
        while let Some(error) = next.filter(|_| messages.len() < MOST) {
            messages.push(error.to_string());
            next = error.source();
        }
        let link = |next, message| Some(Box::new(Self { message, next }));
        messages.into_iter().rev().fold(None, link)
    }
}

impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl StdError for Link {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.next.as_deref().map(|link| link as &dyn StdError)
    }
}

/// The name of an error's variant.
fn variant(error: &Error) -> String {
    let text = format!("{error:?}");
    let end = text.find(|c: char| !c.is_alphanumeric()).unwrap_or(text.len());
    match error {
        Error::Custom(_) => "dyn std::error::Error".into(),
        _ => format!("zproc::Error::{}", &text[..end]),
    }
}
