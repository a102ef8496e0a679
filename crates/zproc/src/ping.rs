//! Asking a server whether it is there.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use shm_state::Deadline;

use crate::access::check_not_in_atomic;
use crate::address::Address;
use crate::error::{Error, Result};
use crate::link::{Attempt, Link};
use crate::os::failed;
use crate::secret::Secret;
use crate::wire::directory::sockets_of_arena;
use crate::wire::proof;

/// The answer of a server.
///
/// ```
/// use zproc::Backend;
///
/// let server = zproc::start_server().backend(Backend::Thread).start()?;
/// let pong = zproc::ping(server.address()).send()?.expect("the payload came back as it was");
/// assert_eq!(pong.pid, server.pid());
/// # Ok::<(), zproc::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Pong {
    /// The process that serves.
    pub pid: u32,
    /// How long the payload took there and back, on a connection that was made before.
    pub round_trip: Duration,
}

/// A question to a server, made by [`ping`]. It keeps its connection, and is best kept to ask again.
///
/// ```
/// use std::time::Duration;
/// use zproc::Backend;
///
/// let server = zproc::start_server().backend(Backend::Thread).secret_key("open sesame").start()?;
/// let ping = zproc::ping(server.address())
///     .secret_key("open sesame")
///     .timeout(Duration::from_secs(5))
///     .payload([1, 2, 3]);
/// assert!(ping.send()?.is_some());
/// # Ok::<(), zproc::Error>(())
/// ```
#[must_use = "nothing is sent before `send` is called"]
pub struct Ping {
    address: String,
    timeout: Option<Duration>,
    payload: Option<Vec<u8>>,
    secret: Secret,
    /// The connection that the last one went over.
    link: Mutex<Option<Kept>>,
}

/// A connection, and the process that made it: frames of a forked child must not come between its parent's.
struct Kept {
    link: Link,
    maker: u32,
}

/// Bytes of a payload that nobody has chosen.
const PAYLOAD: usize = 56;

/// Asks the server at an address whether it is there; [`Ping::send`] does so.
///
/// The address is `ipc:///PATH`, that of the server, or `shm://NAME`, for the server of that state that was started without
/// an address of its own.
///
/// ```
/// use zproc::Error;
///
/// let nobody = zproc::ping("ipc:///run/nobody/is/here.sock").send();
/// assert!(matches!(nobody, Err(Error::NoServer { .. })));
/// ```
pub fn ping(address: &str) -> Ping {
    Ping {
        address: address.into(),
        timeout: None,
        payload: None,
        secret: Secret::default(),
        link: Mutex::new(None),
    }
}

impl Ping {
    /// How long to wait for the answer. Without this call, or with `None`, as long as it takes; a server that is not there
    /// is noticed at once in any case. Zero does not wait: it tells [`Error::NoServer`] from [`Error::Timeout`], which then
    /// means that somebody listens, unless the answer is there already.
    ///
    /// ```
    /// use std::time::Duration;
    /// use zproc::{Backend, Error};
    ///
    /// let server = zproc::start_server().backend(Backend::Thread).start()?;
    /// let ping = zproc::ping(server.address());
    /// assert!(ping.clone().timeout(Duration::from_secs(60)).send()?.is_some());
    /// assert!(matches!(ping.timeout(Duration::ZERO).send(), Err(Error::Timeout) | Ok(Some(_))));
    /// # Ok::<(), Error>(())
    /// ```
    pub fn timeout(mut self, timeout: impl Into<Option<Duration>>) -> Self {
        self.timeout = timeout.into();
        self
    }

    /// What is sent, and compared with what comes back; 56 random bytes if nothing is set, 64 MiB at most.
    ///
    /// ```
    /// # let server = zproc::start_server().backend(zproc::Backend::Thread).start()?;
    /// assert!(zproc::ping(server.address()).payload(b"are you there?").send()?.is_some());
    /// # Ok::<(), zproc::Error>(())
    /// ```
    pub fn payload(mut self, payload: impl Into<Vec<u8>>) -> Self {
        self.payload = Some(payload.into());
        self
    }

    /// The secret key of the server. See [`ServerBuilder::secret_key`](crate::ServerBuilder::secret_key).
    ///
    /// ```
    /// use zproc::{Backend, Error};
    ///
    /// let server = zproc::start_server().backend(Backend::Thread).secret_key("open sesame").start()?;
    /// let ping = zproc::ping(server.address());
    /// assert!(matches!(ping.clone().send(), Err(Error::AccessDenied { .. })));
    /// assert!(ping.secret_key("open sesame").send()?.is_some());
    /// # Ok::<(), Error>(())
    /// ```
    pub fn secret_key(self, key: impl AsRef<[u8]>) -> Self {
        self.secret(Secret::new(key.as_ref()))
    }

    /// The connection that was made with another key is of no use.
    pub(crate) fn secret(mut self, secret: Secret) -> Self {
        self.secret = secret;
        self.link = Mutex::new(None);
        self
    }

    /// Sends it, and waits for the answer; `None` if another payload came back.
    ///
    /// The first call connects. Later ones of the same value go over the same connection, and make a new one if the server
    /// has closed it, or is another by now. Calls of several threads come one after the other.
    ///
    /// # Errors
    /// [`Error::NoServer`] if nobody listens there, and [`Error::AccessDenied`] if the key is not the server's: both at once.
    /// [`Error::Timeout`] if the server does not answer in time; [`Error::Disconnected`] if it ends meanwhile.
    ///
    /// ```
    /// # let server = zproc::start_server().backend(zproc::Backend::Thread).start()?;
    /// let address = server.address().to_owned();
    /// let ping = zproc::ping(&address);
    /// println!("{:?} there and back", ping.send()?.expect("it is the same payload").round_trip);
    /// server.stop()?;
    /// assert!(matches!(ping.send(), Err(zproc::Error::NoServer { .. })));
    /// # Ok::<(), zproc::Error>(())
    /// ```
    pub fn send(&self) -> Result<Option<Pong>> {
        check_not_in_atomic()?;
        let deadline = self.timeout.map_or(Deadline::never(), Deadline::after);
        let random: [u8; PAYLOAD];
        let payload = match &self.payload {
            Some(payload) => payload.as_slice(),
            None => {
                random = proof::random().map_err(|source| failed("getrandom", source))?;
                &random
            }
        };
        let maker = std::process::id();
        let mut kept = match deadline.remaining() {
            None => self.link.lock(),
            Some(left) => self.link.try_lock_for(left).ok_or(Error::Timeout)?,
        };
        // Behind an error an answer may still come, which the next ping must not take for its own: so it is not put back.
        if let Some(Kept { mut link, .. }) = kept.take().filter(|kept| kept.maker == maker) {
            match pong(&mut link, payload, deadline) {
                // The server has ended since, or has let it go.
                Err(Error::Disconnected { .. }) => {}
                answer => {
                    *kept = answer.is_ok().then_some(Kept { link, maker });
                    return answer;
                }
            }
        }
        let mut link = self.connect(deadline)?;
        let answer = pong(&mut link, payload, deadline)?;
        *kept = Some(Kept { link, maker });
        Ok(answer)
    }

    fn connect(&self, deadline: Deadline) -> Result<Link> {
        let address: Arc<str> = self.address.as_str().into();
        let paths = match Address::parse(&address)? {
            Address::Ipc(path, _) => vec![path.to_owned()],
            Address::Shm(name) => sockets_of_arena(name),
        };
        let mut none = Error::NoServer {
            address: self.address.clone(),
            reason: "the state needs none, and none was started for it without an address of its own".into(),
        };
        let key = self.secret.key(&address)?;
        for path in &paths {
            match Link::connect(&address, path, key, &Attempt::until(deadline)) {
                Err(error @ Error::NoServer { .. }) => none = error,
                result => return result,
            }
        }
        Err(none)
    }
}

fn pong(link: &mut Link, payload: &[u8], deadline: Deadline) -> Result<Option<Pong>> {
    let begin = Instant::now();
    let same = link.echo(payload, deadline)?;
    let (round_trip, pid) = (begin.elapsed(), link.pid);
    Ok(same.then_some(Pong { pid, round_trip }))
}

/// With a connection of its own.
impl Clone for Ping {
    fn clone(&self) -> Self {
        Self {
            address: self.address.clone(),
            timeout: self.timeout,
            payload: self.payload.clone(),
            secret: self.secret.clone(),
            link: Mutex::new(None),
        }
    }
}

/// Does not show the key.
impl fmt::Debug for Ping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ping")
            .field("address", &self.address)
            .field("timeout", &self.timeout)
            .field("payload", &self.payload.as_ref().map(Vec::len))
            .finish_non_exhaustive()
    }
}
