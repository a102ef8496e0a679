//! Waiting for several watchers, and for descriptors, at once.
//!
//! **States only**: the events of all namespaces are armed, everything is looked at, and the thread sleeps on all of
//! their words at once (`shm_state`, `sleep`). No other thread takes part.
//!
//! **With descriptors** the kernel can only be asked by poll, so the thread of `notify` feeds an eventfd that is polled
//! beside them. So it is with states that are used over sockets, which have no words: each has a `listener`, which feeds the
//! same eventfd. To look at one of them is a question to its server.

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

use nix::sys::eventfd::EventFd;
use shm_state::{Deadline, Events, MOST_WORDS, Namespace, On, SLICE, Sleep, Strategy, Watched};
use zproc_spawn::signal::Bell;

use super::told::Told;
use super::{Scout, Watch};
use crate::access::is_in_atomic;
use crate::canceller::Canceller;
use crate::error::{Error, Result};
use crate::notify::{self, Teller};
use crate::os::{self, Interest};
use crate::over_socket::{self, Remote};
use crate::signals::Signals;
use crate::store::Store;

/// Waits until one of several watchers has something to return, or one of several descriptors is ready.
///
/// What is added gets a number, from 0. [`Select::wait`] gives the numbers of all that are ready, and consumes nothing:
/// the caller then asks the watchers, with a timeout of zero. The states may be of different namespaces and arenas.
///
/// **A watcher is ready** when it would return at once, with an update or with an error such as [`Error::Lagged`] or
/// [`Error::Closed`]. It has the settings of its [`Watch`]: keys, duplicates, canceller; not the timeout. One that is
/// not asked stays ready. A [live](Watch::live) watcher is ready when there was an update since it was added, or since
/// `wait` gave its number last: there is nothing to be consumed.
///
/// **Costs.** With watchers only, the thread sleeps on the words of all of them at once, as one watcher does, and spins
/// before as the first watcher's state says ([`Builder::wait_strategy`](crate::Builder::wait_strategy)). The kernel
/// watches 128 words. Namespaces share them, and one with more keys than its share wakes the thread at every update;
/// with more than 127 namespaces the thread looks every 10 ms, as it does before Linux 5.16. With descriptors, or states
/// that are used over sockets, there is no spinning, and the watchers are fed through the threads of an
/// [`EventFeed`](crate::EventFeed).
///
/// **Over a socket** ([`State::transport`](crate::State::transport)) each look at a watcher is a request, and each watcher
/// has, from its first wait on, a connection with a thread at both of its ends. While the server is away, its watchers are
/// ready at every wait, since they would say so: pause before the next one. A server that is stopped holds up a wait once
/// for each of its states: for 5 s, or until a second after the timeout (two, to connect), if that is sooner.
///
/// ```
/// use std::time::Duration;
/// use zproc::{Select, State};
///
/// let kitchen = State::anonymous()?;
/// let hall = kitchen.fork().namespace("hall").open()?;
/// let (cookies, visitors) = (kitchen.watch().keys(["cookies"])?, hall.watch());
/// let mut select = Select::new();
/// let of_kitchen = select.watch(&cookies)?;
/// let of_hall = select.watch(&visitors)?;
///
/// kitchen.clone().insert("cookies", 5)?;
/// let ready: Vec<usize> = select.wait(Duration::from_secs(5))?.collect();
/// assert_eq!(ready, [of_kitchen]);
/// let update = cookies.timeout(Duration::ZERO).get_raw_update()?;
/// assert_eq!(update.after.get("cookies")?, Some(5));
///
/// hall.clone().insert("visitor", "ann")?;
/// assert!(select.wait(None)?.eq([of_hall]));
/// # Ok::<(), zproc::Error>(())
/// ```
#[derive(Default)]
pub struct Select<'a> {
    items: Vec<Item<'a>>,
    groups: Vec<Group<'a>>,
    /// The watchers of states that are used over sockets.
    remotes: Vec<(usize, &'a Remote)>,
    canceller: Option<Canceller>,
    strategy: Option<Strategy>,
    feed: Option<Feed>,
    ready: Vec<usize>,
    sleep: Sleep,
}

#[expect(clippy::large_enum_variant, reason = "there are few, and most are watchers")]
enum Item<'a> {
    Watcher(Watcher<'a>),
    Fd(BorrowedFd<'a>, Interest),
}

struct Watcher<'a> {
    watch: Watch<'a>,
    scout: Scout,
    at: u64,
}

/// The watchers of one namespace.
struct Group<'a> {
    namespace: &'a Namespace,
    dict: usize,
    events: Events,
    members: Vec<usize>,
}

/// What is polled in the place of the watchers.
struct Feed {
    fd: Arc<EventFd>,
    /// Each with its number; the canceller of the whole has none.
    told: Vec<(Option<usize>, Told)>,
}

impl<'a> Select<'a> {
    /// Waits for nothing yet.
    ///
    /// ```
    /// use std::time::Duration;
    /// use zproc::{Error, Select};
    ///
    /// let result = Select::new().wait(Duration::from_millis(1)).map(drop);
    /// assert!(matches!(result, Err(Error::Timeout)));
    /// ```
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a watcher, and returns its number.
    ///
    /// # Errors
    /// [`Error::Closed`], [`Error::Forked`]; for a live watcher over a socket [`Error::Disconnected`] and
    /// [`Error::NoServer`].
    ///
    /// ```
    /// use zproc::{Select, State};
    ///
    /// let state = State::anonymous()?;
    /// let mut select = Select::new();
    /// assert_eq!(select.watch(&state.watch().keys(["a"])?)?, 0);
    /// assert_eq!(select.watch(&state.watch().keys(["b"])?)?, 1);
    /// # Ok::<(), zproc::Error>(())
    /// ```
    pub fn watch(&mut self, watch: &Watch<'a>) -> Result<usize> {
        let store = watch.watcher.access.store()?;
        let (scout, at) = Scout::of(watch)?;
        let number = self.items.len();
        self.strategy.get_or_insert(watch.watcher.access.patience.strategy);
        match store {
            Store::Mapped(namespace) => self.join_group(namespace, number),
            Store::Remote(remote) => self.remotes.push((number, remote)),
        }
        let watch = watch.clone();
        Ok(self.add(Item::Watcher(Watcher { watch, scout, at })))
    }

    fn join_group(&mut self, namespace: &'a Namespace, number: usize) {
        let dict = namespace.downgrade().dict();
        match self.groups.iter_mut().find(|group| group.dict == dict) {
            Some(group) => group.members.push(number),
            None => self.groups.push(Group {
                namespace,
                dict,
                events: Events::new(),
                members: vec![number],
            }),
        }
    }

    /// Adds a descriptor that is ready when it can be read from, or has failed; returns its number.
    ///
    /// ```
    /// use std::io::Write;
    /// use std::os::unix::net::UnixStream;
    /// use std::time::Duration;
    /// use zproc::{Select, State};
    ///
    /// let state = State::anonymous()?;
    /// let (mut ours, theirs) = UnixStream::pair().expect("descriptors left");
    /// let mut select = Select::new();
    /// select.watch(&state.watch())?;
    /// let of_socket = select.readable(&theirs);
    /// ours.write_all(b"hello").expect("a socket takes five bytes");
    /// assert!(select.wait(Duration::from_secs(5))?.eq([of_socket]));
    /// # Ok::<(), zproc::Error>(())
    /// ```
    pub fn readable(&mut self, fd: &'a impl AsFd) -> usize {
        self.add(Item::Fd(fd.as_fd(), Interest::Readable))
    }

    /// Adds a descriptor that is ready when it can be written to, or has failed; returns its number.
    ///
    /// ```
    /// use std::os::unix::net::UnixStream;
    /// use zproc::Select;
    ///
    /// let (ours, _theirs) = UnixStream::pair().expect("descriptors left");
    /// let mut select = Select::new();
    /// let of_socket = select.writable(&ours);
    /// assert!(select.wait(None)?.eq([of_socket]));
    /// # Ok::<(), zproc::Error>(())
    /// ```
    pub fn writable(&mut self, fd: &'a impl AsFd) -> usize {
        self.add(Item::Fd(fd.as_fd(), Interest::Writable))
    }

    /// Has [`Select::wait`] end with [`Error::Cancelled`] when the canceller says so. The canceller of a single
    /// [`Watch`] makes that one ready.
    ///
    /// ```
    /// use zproc::{Canceller, Error, Select, State};
    ///
    /// let (state, canceller) = (State::anonymous()?, Canceller::new());
    /// let mut select = Select::new();
    /// select.watch(&state.watch())?;
    /// select.cancel(&canceller);
    /// canceller.cancel();
    /// assert!(matches!(select.wait(None).map(drop), Err(Error::Cancelled)));
    /// # Ok::<(), Error>(())
    /// ```
    pub fn cancel(&mut self, canceller: &Canceller) {
        self.canceller = Some(canceller.clone());
        self.feed = None;
    }

    fn add(&mut self, item: Item<'a>) -> usize {
        self.feed = None;
        self.items.push(item);
        self.items.len() - 1
    }

    /// Waits until something is ready, for so long at most; gives the numbers of all that are, in ascending order, at
    /// least one. Zero asks without waiting; `None` waits for as long as it takes.
    ///
    /// # Errors
    /// [`Error::Timeout`], [`Error::Cancelled`]; [`Error::NestedAtomic`] if it would have to wait inside of `atomic`;
    /// [`Error::Forked`] in a forked child, which makes a `Select` of its own; [`Error::Signal`] while signals are events;
    /// [`Error::Engine`] if there is no descriptor or no thread left. Over a socket [`Error::Disconnected`] or
    /// [`Error::NoServer`] if a server answers and lets nobody wait: that of one which does not answer is for its watchers
    /// to say, which are ready.
    ///
    /// ```
    /// use std::time::Duration;
    /// use zproc::{Error, Select, State};
    ///
    /// let state = State::anonymous()?;
    /// let mut select = Select::new();
    /// select.watch(&state.watch())?;
    /// assert!(matches!(select.wait(Duration::ZERO).map(drop), Err(Error::Timeout)));
    /// # Ok::<(), Error>(())
    /// ```
    pub fn wait(&mut self, timeout: impl Into<Option<Duration>>) -> Result<Ready<'_>> {
        let timeout = timeout.into();
        let canceller = self.canceller.clone();
        let cancel = canceller.as_ref().map(Canceller::watch);
        if cancel.is_some_and(|cancel| cancel.is_cancelled()) {
            return Err(Error::Cancelled);
        }
        for group in &self.groups {
            group.namespace.check_fork()?;
        }
        for (_, remote) in &self.remotes {
            remote.check_fork()?;
        }
        let deadline = timeout.map_or(Deadline::never(), Deadline::after);
        let _in_time = (!self.remotes.is_empty()).then(|| over_socket::in_time(timeout));
        // Those of single watchers, as they are now.
        let seen: Vec<u32> = self.items.iter().map(Item::cancel_seen).collect();
        if !self.look_at_once(&seen)? {
            match timeout {
                Some(Duration::ZERO) => return Err(Error::Timeout),
                _ if is_in_atomic() => return Err(Error::NestedAtomic),
                _ if self.has_fds() || !self.remotes.is_empty() => self.poll(deadline, cancel.as_ref(), &seen)?,
                _ => {
                    self.spin(deadline, cancel.as_ref(), &seen)?;
                    self.sleep_on_words(deadline, cancel.as_ref(), &seen)?;
                }
            }
        }
        self.ready.sort_unstable();
        Ok(Ready {
            numbers: self.ready.iter(),
        })
    }

    fn has_fds(&self) -> bool {
        self.items.iter().any(|item| matches!(item, Item::Fd(..)))
    }

    /// Looks at everything, without waiting.
    fn look_at_once(&mut self, seen: &[u32]) -> Result<bool> {
        self.ready.clear();
        self.look(seen);
        if self.has_fds() {
            let (fds, ready) = (fds(&self.items), &mut self.ready);
            os::poll(fds, Some(Duration::ZERO), |number| ready.push(number))?;
        }
        Ok(!self.ready.is_empty())
    }

    /// Looks at all watchers.
    fn look(&mut self, seen: &[u32]) -> bool {
        for group in &self.groups {
            group.look(group.namespace.seq(), &mut self.items, seen, &mut self.ready);
        }
        if !self.remotes.is_empty() {
            look_over_sockets(&self.remotes, &mut self.items, seen, &mut self.ready);
        }
        !self.ready.is_empty()
    }

    /// Spins, if the first state says so.
    fn spin(&mut self, deadline: Deadline, cancel: Option<&Watched<'_>>, seen: &[u32]) -> Result<()> {
        let until = match self.strategy {
            Some(Strategy::Spin) => deadline,
            Some(Strategy::Adaptive(time)) => deadline.sooner_of(time),
            Some(Strategy::Block) | None => return Ok(()),
        };
        let mut slice = Deadline::after(SLICE);
        let mut signals = Signals::default();
        while self.ready.is_empty() && !until.passed() {
            signals.check()?;
            if cancel.is_some_and(Watched::is_cancelled) {
                return Err(Error::Cancelled);
            }
            if slice.passed() {
                slice = Deadline::after(SLICE);
                self.finish_for_the_dead(Duration::from_millis(1));
            }
            self.look(seen);
            std::hint::spin_loop();
        }
        Ok(())
    }

    /// Sleeps on the words of all watchers until something is ready.
    fn sleep_on_words(&mut self, deadline: Deadline, cancel: Option<&Watched<'_>>, seen: &[u32]) -> Result<()> {
        let mut slice = Deadline::after(SLICE);
        let mut signals = Signals::default();
        while self.ready.is_empty() {
            self.sleep.clear();
            signals.check()?;
            signals.word().iter().for_each(|word| self.sleep.add_word(word));
            self.sleep_on_cancellers(cancel, seen);
            let share = MOST_WORDS.saturating_sub(self.sleep.len()) / self.groups.len().max(1);
            for group in &mut self.groups {
                let now = group.arm(&self.items, share);
                self.sleep.add(group.namespace, &group.events);
                group.look(now, &mut self.items, seen, &mut self.ready);
            }
            if !self.ready.is_empty() {
                break;
            }
            if cancel.is_some_and(Watched::is_cancelled) {
                return Err(Error::Cancelled);
            }
            if deadline.passed() {
                return self.last_look(seen);
            }
            self.sleep.until(deadline.sooner_of(SLICE));
            if slice.passed() {
                slice = Deadline::after(SLICE);
                self.finish_for_the_dead(Duration::from_millis(100));
            }
        }
        Ok(())
    }

    fn sleep_on_cancellers(&mut self, cancel: Option<&Watched<'_>>, seen: &[u32]) {
        let mut known = Vec::new();
        if let (Some(canceller), Some(cancel)) = (&self.canceller, cancel) {
            known.push(canceller.id());
            self.sleep.add_word(cancel);
        }
        for (item, seen) in self.items.iter().zip(seen) {
            if let Some(canceller) = item.canceller()
                && !known.contains(&canceller.id())
            {
                known.push(canceller.id());
                self.sleep.add_word(&canceller.watched_since(*seen));
            }
        }
    }

    /// After the deadline: what a dead writer decided counts as having happened before.
    fn last_look(&mut self, seen: &[u32]) -> Result<()> {
        const PATIENCE: Duration = Duration::from_millis(1);
        self.finish_for_the_dead(PATIENCE);
        let mut failed: Vec<&Remote> = Vec::new();
        for (number, remote) in &self.remotes {
            if let Some(Item::Watcher(watcher)) = self.items.get(*number)
                && !has_failed(&failed, remote)
            {
                // A server does so at the end of a wait. What it fails with, the look says too.
                let filter = watcher.watch.subject.filter();
                let waited = remote.wait(filter, watcher.at, Deadline::after(PATIENCE), None);
                failed.extend(waited.is_err().then_some(*remote));
            }
        }
        if self.look(seen) { Ok(()) } else { Err(Error::Timeout) }
    }

    fn finish_for_the_dead(&self, patience: Duration) {
        self.groups
            .iter()
            .for_each(|group| group.namespace.finish_for_the_dead(patience));
    }

    /// Polls the descriptors and a feed of the watchers until something is ready.
    fn poll(&mut self, deadline: Deadline, cancel: Option<&Watched<'_>>, seen: &[u32]) -> Result<()> {
        let feed = match self.feed.take() {
            // That of a parent is fed in the parent.
            Some(feed) if feed.told.iter().all(|(_, one)| one.is_current()) => feed,
            _ => match Feed::of(&self.items, self.canceller.as_ref()) {
                Ok(feed) => feed,
                // Of a state that was closed since it was looked at.
                Err(_) if self.look(seen) => return Ok(()),
                Err(error) => return Err(error),
            },
        };
        let feed = self.feed.insert(feed);
        let bell = Bell::new().map_err(|source| os::failed("making an epoll", source))?;
        let mut signals = Signals::default();
        let result = loop {
            os::silence(&feed.fd);
            bell.iter().for_each(Bell::silence);
            if let Err(error) = signals.check() {
                break Err(error);
            }
            for (number, told) in &feed.told {
                let (at, seen) = match number.and_then(|number| Some((self.items.get(number)?, seen.get(number)?))) {
                    Some((Item::Watcher(watcher), seen)) => (watcher.at, *seen),
                    _ => (0, cancel.map_or(0, Watched::seen)),
                };
                told.want(at, Deadline::never(), seen, None);
            }
            let ready = &mut self.ready;
            let of_feed = (usize::MAX, feed.fd.as_fd(), Interest::Readable);
            let of_signals = bell.iter().map(|bell| (usize::MAX, bell.as_fd(), Interest::Readable));
            let polled = os::poll(
                fds(&self.items).chain([of_feed]).chain(of_signals),
                deadline.remaining(),
                |number| {
                    if number != usize::MAX {
                        ready.push(number);
                    }
                },
            );
            if let Err(error) = polled {
                break Err(error);
            }
            for group in &self.groups {
                group.look(group.namespace.seq(), &mut self.items, seen, ready);
            }
            if !self.remotes.is_empty() {
                look_over_sockets(&self.remotes, &mut self.items, seen, ready);
            }
            if !ready.is_empty() {
                break Ok(false);
            }
            if !self.remotes.is_empty()
                && let Err(error) = feed.rest()
            {
                break Err(error);
            }
            if cancel.is_some_and(Watched::is_cancelled) {
                break Err(Error::Cancelled);
            }
            if deadline.passed() {
                break Ok(true);
            }
        };
        // What fails now has made no difference: everything was looked at.
        let _ = feed.rest();
        if result? { self.last_look(seen) } else { Ok(()) }
    }
}

impl Item<'_> {
    fn canceller(&self) -> Option<&Canceller> {
        match self {
            Self::Watcher(watcher) => watcher.watch.canceller.as_ref(),
            Self::Fd(..) => None,
        }
    }

    fn cancel_seen(&self) -> u32 {
        self.canceller().map_or(0, |canceller| canceller.watch().seen())
    }
}

impl Group<'_> {
    /// Arms what all members watch. Returns up to which update they have to look.
    fn arm(&mut self, items: &[Item<'_>], share: usize) -> u64 {
        self.events.clear();
        for member in &self.members {
            if let Some(Item::Watcher(watcher)) = items.get(*member) {
                self.events.add(watcher.scout.hashes().map_or(On::Any, On::Keys));
            }
        }
        if self.events.len() > share {
            self.events.widen();
        }
        self.namespace.arm(&mut self.events)
    }

    /// Notes which members are ready.
    fn look(&self, until: u64, items: &mut [Item<'_>], seen: &[u32], ready: &mut Vec<usize>) {
        for member in &self.members {
            let Some(Item::Watcher(watcher)) = items.get_mut(*member) else {
                continue;
            };
            let store = Store::Mapped(self.namespace);
            if watcher.is_cancelled(seen[*member]) || watcher.scout.look(store, &mut watcher.at, until) {
                ready.push(*member);
                if watcher.watch.live {
                    watcher.at = until.max(watcher.at);
                }
            }
        }
    }
}

impl Watcher<'_> {
    fn is_cancelled(&self, seen: u32) -> bool {
        let canceller = self.watch.canceller.as_ref();
        canceller.is_some_and(|canceller| canceller.watched_since(seen).is_cancelled())
    }
}

impl Feed {
    fn of(items: &[Item<'_>], canceller: Option<&Canceller>) -> Result<Self> {
        let fd = Arc::new(os::event_fd()?);
        let mut told = Vec::new();
        for (number, item) in items.iter().enumerate() {
            if let Item::Watcher(Watcher { watch, .. }) = item {
                let scout = Scout::placed(watch);
                told.push((Some(number), Told::new(watch, scout, Teller::Fd(Arc::clone(&fd)))?));
            }
        }
        if let Some(canceller) = canceller {
            let teller = Teller::Fd(Arc::clone(&fd));
            let one = notify::register(None, Some(canceller.clone()), teller)?;
            told.push((None, Told::Mapped(one)));
        }
        Ok(Self { fd, told })
    }

    /// Wants nothing to be told any more.
    fn rest(&self) -> Result<()> {
        // Each of them, whatever another says.
        self.told
            .iter()
            .map(|(_, told)| told.rest().map(drop))
            .fold(Ok(()), Result::and)
    }
}

/// Notes which watchers of states that are used over sockets are ready.
fn look_over_sockets(remotes: &[(usize, &Remote)], items: &mut [Item<'_>], seen: &[u32], ready: &mut Vec<usize>) {
    // Who has failed is asked no more, since that may take a while: its other watchers would say the same.
    let mut failed: Vec<&Remote> = Vec::new();
    for (number, remote) in remotes {
        let Some(Item::Watcher(watcher)) = items.get_mut(*number) else {
            continue;
        };
        let mut is_lost = has_failed(&failed, remote);
        if !is_lost && !watcher.is_cancelled(seen[*number]) {
            match watcher.scout.try_look(Store::Remote(remote), &mut watcher.at, u64::MAX) {
                Ok(false) => continue,
                Ok(true) => {}
                Err(_) => is_lost = true,
            }
        }
        ready.push(*number);
        // If the server is away, there is news when it is back.
        if watcher.watch.live && !is_lost {
            match remote.seq() {
                Ok(newest) => watcher.at = newest.max(watcher.at),
                Err(_) => is_lost = true,
            }
        }
        if is_lost {
            failed.push(remote);
        }
    }
}

fn has_failed(failed: &[&Remote], remote: &Remote) -> bool {
    failed.iter().any(|other| std::ptr::eq(*other, remote))
}

fn fds<'i, 'a>(items: &'i [Item<'a>]) -> impl Iterator<Item = (usize, BorrowedFd<'a>, Interest)> + use<'i, 'a> {
    items.iter().enumerate().filter_map(|(number, item)| match item {
        Item::Fd(fd, interest) => Some((number, *fd, *interest)),
        Item::Watcher(_) => None,
    })
}

impl fmt::Debug for Select<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Select")
            .field("items", &self.items.len())
            .finish_non_exhaustive()
    }
}

/// The numbers of what is ready; see [`Select::wait`].
///
/// ```
/// use zproc::{Select, State};
///
/// let state = State::anonymous()?;
/// state.clone().insert("cookies", 5)?;
/// let mut select = Select::new();
/// let any = select.watch(&state.watch())?;
/// select.watch(&state.watch().keys(["milk"])?)?;
/// let of_cookies = select.watch(&state.watch().keys(["cookies"])?)?;
/// let ready = select.wait(None)?;
/// assert_eq!(ready.len(), 2);
/// for number in ready {
///     assert!(number == any || number == of_cookies);
/// }
/// # Ok::<(), zproc::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Ready<'s> {
    numbers: std::slice::Iter<'s, usize>,
}

impl Iterator for Ready<'_> {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        self.numbers.next().copied()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.numbers.size_hint()
    }
}

impl ExactSizeIterator for Ready<'_> {}
