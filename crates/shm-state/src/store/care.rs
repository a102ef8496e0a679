//! Looking after an arena: checking it, counting what is in it, seeing who is there, and cleaning up after the dead.

use std::time::Duration;

use super::{Arena, for_each_lock};
use crate::directory;
use crate::error::{Error, Result};
use crate::layout::GRANULE;
use crate::signature::Signature;
use crate::stats::{NamespaceStats, Stats};
use crate::status::{Reaped, Status};
use crate::sys::time::Deadline;
use crate::verify::{self, Report};
use crate::write::Transaction;

/// How long to wait for a writer lock.
const PATIENCE: Duration = Duration::from_secs(10);

impl Arena {
    /// Walks everything that is reachable and accounts for every block. Takes the writer lock of one namespace after
    /// the other.
    ///
    /// # Errors
    /// [`Error::LockTimeout`] when a lock is not free within ten seconds. Damage is no error but part of the report.
    ///
    /// ```
    /// # use shm_state::{Arena, ArenaOptions, Deadline, KeyRef};
    /// # let arena = Arena::anonymous(&ArenaOptions::default())?;
    /// # let namespace = arena.namespace("default")?;
    /// namespace.put(&KeyRef::new(1, b"door"), None, 1, b"open", Deadline::never())?;
    /// let report = arena.verify()?;
    /// assert!(report.is_clean(), "{:?}", report.problems);
    /// assert_eq!((report.namespaces, report.keys), (1, 1));
    /// # Ok::<(), shm_state::Error>(())
    /// ```
    pub fn verify(&self) -> Result<Report> {
        let mut report = Report::default();
        let (counted, names) = (directory::count(&self.inner.mapping), self.namespaces()?);
        report.problems.extend(missing(counted, names.len()));
        for name in names {
            let space = self.space(&name)?;
            let _transaction = Transaction::begin(&space, Signature::NOBODY, Deadline::after(PATIENCE))?;
            verify::check(&space, &mut report);
        }
        Ok(report)
    }

    /// Figures about memory, commits, pins and watchers. Takes the writer lock of one namespace after the other;
    /// [`Arena::status`] does not.
    ///
    /// # Errors
    /// [`Error::LockTimeout`] when a lock is not free within ten seconds.
    ///
    /// ```
    /// # use shm_state::{Arena, ArenaOptions, Deadline, KeyRef};
    /// # let arena = Arena::anonymous(&ArenaOptions::default())?;
    /// # let namespace = arena.namespace("default")?;
    /// namespace.put(&KeyRef::new(1, b"door"), None, 1, b"open", Deadline::never())?;
    /// let stats = &arena.stats()?.namespaces[0];
    /// assert_eq!((stats.name.as_str(), stats.commits, stats.keys), ("default", 1, 1));
    /// # Ok::<(), shm_state::Error>(())
    /// ```
    pub fn stats(&self) -> Result<Stats> {
        self.stats_by(Deadline::after(PATIENCE))
    }

    /// As [`Arena::stats`], with another deadline for the locks.
    ///
    /// ```
    /// # use shm_state::{Arena, ArenaOptions, Deadline, Error};
    /// # let arena = Arena::anonymous(&ArenaOptions::default())?;
    /// # let namespace = arena.namespace("default")?;
    /// let transaction = namespace.begin(Deadline::never())?;
    /// std::thread::scope(|scope| {
    ///     let other = scope.spawn(|| arena.stats_by(Deadline::at_once()));
    ///     assert!(matches!(other.join().unwrap(), Err(Error::LockTimeout { .. })));
    /// });
    /// drop(transaction);
    /// assert_eq!(arena.stats_by(Deadline::at_once())?.namespaces.len(), 1);
    /// # Ok::<(), shm_state::Error>(())
    /// ```
    pub fn stats_by(&self, deadline: Deadline) -> Result<Stats> {
        // Counted first: then no fewer are there, whoever makes one meanwhile.
        let (counted, before) = (directory::count(&self.inner.mapping), self.status()?);
        let mut problems: Vec<String> = missing(counted, before.namespaces.len()).into_iter().collect();
        let namespaces: Result<Vec<NamespaceStats>> = before
            .namespaces
            .into_iter()
            .map(|namespace| {
                let space = self.space(&namespace.name)?;
                let _transaction = Transaction::begin(&space, Signature::NOBODY, deadline)?;
                crate::stats::namespace(&space, namespace.lock, &mut problems)
            })
            .collect();
        let (free, _) = crate::chunks::census(&self.inner.mapping)?;
        Ok(Stats {
            capacity: before.capacity,
            committed: u64::from(self.inner.mapping.committed()) * GRANULE as u64,
            table_bytes: before.table_bytes,
            free_bytes: u64::from(free) * crate::layout::CHUNK as u64,
            backing: before.backing,
            participants: before.participants,
            leftovers: before.leftovers,
            namespaces: namespaces?,
            problems,
        })
    }

    /// Who is there, who holds the locks, who pins what, who lags, what the dead left. Takes no lock and waits for nobody,
    /// so it can be asked while a writer is stopped inside.
    ///
    /// ```
    /// use shm_state::{Arena, ArenaOptions, Deadline, Life};
    ///
    /// let arena = Arena::anonymous(&ArenaOptions::default())?;
    /// let namespace = arena.namespace("default")?;
    /// let _transaction = namespace.begin(Deadline::never())?;
    /// let status = arena.status()?;
    /// let holder = status.namespaces[0].lock.holder.as_ref().expect("this thread");
    /// assert_eq!((holder.pid, holder.life), (std::process::id(), Life::Running));
    /// # Ok::<(), shm_state::Error>(())
    /// ```
    pub fn status(&self) -> Result<Status> {
        let inner = &self.inner;
        if !inner.membership.is_current() {
            return Err(Error::Forked);
        }
        crate::status::status(&inner.mapping, &inner.membership, inner.history)
    }

    /// Gives back what dead processes left: commits that they had decided are finished, their locks, seats and slots are
    /// freed, and memory that only they pinned can be used again. All of it happens by itself when it is needed. Takes the
    /// writer lock of one namespace after the other.
    ///
    /// # Errors
    /// [`Error::LockTimeout`] when a lock is not free within ten seconds. What does not need that lock is done all the same.
    ///
    /// ```
    /// use shm_state::{Arena, ArenaOptions, Reaped};
    ///
    /// let arena = Arena::anonymous(&ArenaOptions::default())?;
    /// assert_eq!(arena.reap()?, Reaped::default()); // nobody has died
    /// # Ok::<(), shm_state::Error>(())
    /// ```
    pub fn reap(&self) -> Result<Reaped> {
        let inner = &self.inner;
        if !inner.membership.is_current() {
            return Err(Error::Forked);
        }
        if self.is_read_only() {
            return Err(Error::ReadOnly);
        }
        // The slots first: that marks the locks of the dead, who need not be waited for then.
        let superblock = inner.mapping.superblock()?;
        let mut for_each_lock = for_each_lock(superblock, &inner.mapping);
        let swept = inner.membership.attachment().sweep(&mut for_each_lock);
        let mut reaped = Reaped {
            processes: swept.map_err(Error::os("locking a byte of the lock file"))?,
            ..Reaped::default()
        };
        let deadline = Deadline::after(PATIENCE);
        let mut failed = None;
        for name in self.namespaces()? {
            if let Err(error) = self.reap_in(&name, deadline, &mut reaped) {
                failed.get_or_insert(error);
            }
        }
        failed.map_or(Ok(reaped), Err)
    }

    fn reap_in(&self, name: &str, deadline: Deadline, reaped: &mut Reaped) -> Result<()> {
        let space = self.space(name)?;
        let takeovers = || space.control().lock.takeovers();
        let before = takeovers();
        let transaction = Transaction::begin(&space, Signature::NOBODY, deadline)?;
        reaped.locks += takeovers().wrapping_sub(before) as usize;
        reaped.seats += transaction.reap();
        Ok(())
    }
}

/// What is wrong if the directory counts more namespaces than are there.
fn missing(counted: u64, there: usize) -> Option<String> {
    let is_wrong = (there as u64) < counted;
    is_wrong.then(|| format!("the directory counts {counted} namespaces, and {there} are there"))
}
