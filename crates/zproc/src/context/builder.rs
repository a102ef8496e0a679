//! Opening contexts.

use std::sync::{Arc, Mutex};

use super::Context;
use super::server::LazyServer;
use crate::error::Result;
use crate::map::{Tasks, Workers};
use crate::process::{Backend, ProcessSettings, check_init};
use crate::secret::Secret;
use crate::state::{Builder, State};

/// Settings to make a context with. Made by [`Context::builder`].
///
/// ```
/// use zproc::{Context, ProcessSettings, Result};
///
/// fn main() -> Result<()> {
///     zproc::init();
///     let ctx = Context::builder()
///         .namespace("kitchen")
///         .process_defaults(ProcessSettings::new().retry_for_any().max_retries(3))
///         .build()?;
///     assert_eq!(ctx.process(|| 5).start()?.wait()?, 5);
///     Ok(())
/// }
/// ```
#[derive(Debug)]
#[must_use = "a builder does nothing until `build` is called"]
pub struct ContextBuilder {
    source: Source,
    namespace: Option<String>,
    defaults: ProcessSettings,
    wait: bool,
    cleanup: bool,
    server_backend: Backend,
    secret: Secret,
}

#[derive(Debug)]
enum Source {
    Anonymous,
    Address(String),
    State(Box<State>),
}

impl ContextBuilder {
    pub(super) fn new() -> Self {
        Self {
            source: Source::Anonymous,
            namespace: None,
            defaults: ProcessSettings::new(),
            wait: false,
            cleanup: true,
            server_backend: Backend::default(),
            secret: Secret::default(),
        }
    }

    /// Opens the state at an address, or creates it if that is `shm://NAME`; it stays when the context ends.
    ///
    /// ```
    /// use zproc::{Context, Result};
    ///
    /// fn main() -> Result<()> {
    ///     zproc::init();
    ///     let address = format!("shm://zproc-doc-context-{}", std::process::id());
    ///     let ctx = Context::builder().address(&address).build()?;
    ///     assert_eq!(ctx.address()?, address);
    ///     zproc::remove(&address)
    /// }
    /// ```
    pub fn address(mut self, address: &str) -> Self {
        self.source = Source::Address(address.into());
        self
    }

    /// Uses a state that is open already.
    ///
    /// ```
    /// use zproc::{Builder, Context, Result};
    ///
    /// fn main() -> Result<()> {
    ///     zproc::init();
    ///     let state = Builder::anonymous().capacity(16 << 20).create()?;
    ///     let ctx = Context::builder().state(state).build()?;
    ///     assert_eq!(ctx.state().stats()?.capacity, 16 << 20);
    ///     Ok(())
    /// }
    /// ```
    pub fn state(mut self, state: State) -> Self {
        self.source = Source::State(Box::new(state));
        self
    }

    /// The namespace of the state, and of processes that have no other set.
    ///
    /// ```
    /// use zproc::{Context, Result, State};
    ///
    /// fn main() -> Result<()> {
    ///     zproc::init();
    ///     let ctx = Context::builder().namespace("kitchen").build()?;
    ///     let name = ctx.process(|state: State| state.namespace().to_owned()).start()?.wait()?;
    ///     assert_eq!(name, "kitchen");
    ///     Ok(())
    /// }
    /// ```
    pub fn namespace(mut self, name: impl Into<String>) -> Self {
        self.namespace = Some(name.into());
        self
    }

    /// Whether the [server](Context::server) of the context is a child process, as it is if this is not set, or a thread.
    ///
    /// ```
    /// use zproc::{Backend, Context, Result};
    ///
    /// fn main() -> Result<()> {
    ///     zproc::init();
    ///     let ctx = Context::builder().server_backend(Backend::Thread).build()?;
    ///     assert_eq!(ctx.server()?.pid(), std::process::id());
    ///     Ok(())
    /// }
    /// ```
    pub fn server_backend(mut self, backend: Backend) -> Self {
        self.server_backend = backend;
        self
    }

    /// The secret key of the context's [server](Context::server), and of the one at [`ContextBuilder::address`].
    ///
    /// ```
    /// use zproc::{Context, Error, Result, State};
    ///
    /// fn main() -> Result<()> {
    ///     zproc::init();
    ///     let ctx = Context::builder().secret_key("open sesame").build()?;
    ///     assert!(ctx.ping()?.send()?.is_some());
    ///     assert!(matches!(State::open(ctx.address()?), Err(Error::AccessDenied { .. })));
    ///     Ok(())
    /// }
    /// ```
    pub fn secret_key(mut self, key: impl AsRef<[u8]>) -> Self {
        self.secret = Secret::new(key.as_ref());
        self
    }

    /// Whether the context waits for its processes to end by themselves when it ends. It does not if this is not set.
    ///
    /// ```
    /// use zproc::{Context, Result, State};
    ///
    /// fn main() -> Result<()> {
    ///     zproc::init();
    ///     let ctx = Context::builder().wait(true).build()?;
    ///     let state = ctx.state().clone();
    ///     ctx.process(|state: State| state.insert("done", true)).start()?;
    ///     drop(ctx);
    ///     assert_eq!(state.get("done")?, Some(true));
    ///     Ok(())
    /// }
    /// ```
    pub fn wait(mut self, wait: bool) -> Self {
        self.wait = wait;
        self
    }

    /// Whether processes end with the context, and with this process. They do if this is not set; with `false` they go on,
    /// whatever happens to their parent.
    ///
    /// ```
    /// use zproc::{Context, Result};
    ///
    /// fn main() -> Result<()> {
    ///     zproc::init();
    ///     let ctx = Context::builder().cleanup(false).build()?;
    ///     let daemon = ctx.process(|| std::thread::sleep(std::time::Duration::from_secs(60))).start()?;
    ///     drop(ctx);
    ///     assert!(daemon.is_alive());
    ///     daemon.stop()?;
    ///     Ok(())
    /// }
    /// ```
    pub fn cleanup(mut self, cleanup: bool) -> Self {
        self.cleanup = cleanup;
        self
    }

    /// Settings for all processes of the context; what a process has set itself counts before them.
    ///
    /// ```
    /// use zproc::{Backend, Context, ProcessSettings, Result};
    ///
    /// fn main() -> Result<()> {
    ///     zproc::init();
    ///     let ctx = Context::builder().process_defaults(ProcessSettings::new().backend(Backend::Thread)).build()?;
    ///     assert_eq!(ctx.process(std::process::id).start()?.wait()?, std::process::id());
    ///     assert_ne!(ctx.process(std::process::id).backend(Backend::Process).start()?.wait()?, std::process::id());
    ///     Ok(())
    /// }
    /// ```
    pub fn process_defaults(mut self, settings: ProcessSettings) -> Self {
        self.defaults = settings;
        self
    }

    /// Makes the context.
    ///
    /// # Errors
    /// [`Error::NotInitialised`](crate::Error::NotInitialised) in a program that has not called
    /// [`zproc::init`](crate::init()); those of opening a state.
    ///
    /// ```
    /// use zproc::{Context, Result};
    ///
    /// fn main() -> Result<()> {
    ///     zproc::init();
    ///     let ctx = Context::builder().build()?;
    ///     assert!(ctx.processes().is_empty());
    ///     Ok(())
    /// }
    /// ```
    pub fn build(self) -> Result<Context> {
        check_init()?;
        let named = |builder: Builder| match &self.namespace {
            Some(name) => builder.namespace(name),
            None => builder,
        };
        let state = match self.source {
            Source::Anonymous => named(Builder::anonymous()).create()?,
            Source::Address(address) => {
                let builder = State::builder(&address).secret(self.secret.clone());
                named(builder).open_or_create()?
            }
            Source::State(state) if self.namespace.is_none() => *state,
            Source::State(state) => named(state.fork()).open()?,
        };
        let base = Arc::new(state.clone());
        Ok(Context {
            workers: Workers::new(Arc::clone(&base), self.defaults.clone()),
            tasks: Tasks::new(),
            owner: std::process::id(),
            base,
            state,
            defaults: self.defaults,
            wait: self.wait,
            cleanup: self.cleanup,
            server: LazyServer::new(self.server_backend, self.secret),
            processes: Mutex::default(),
        })
    }
}
