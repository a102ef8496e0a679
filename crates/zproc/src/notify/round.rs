//! What the thread does between two sleeps.
//!
//! Each round holds the list of registrations still, so that whoever lets one go knows that the thread has let go of it
//! too. Tasks are woken, and dead writers' commits finished, after that.
//!
//! A namespace is looked at when one of its events has moved, when somebody has a new wish, and once a second. What
//! was changed is read from the log once for all who watch its keys; only those whose keys are among it look for
//! themselves.

use std::collections::{HashMap, HashSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Waker;
use std::time::Duration;

use shm_state::{Deadline, Events, Namespace, On, SLICE, Sleep, WeakNamespace};

use super::shard::{List, Shard};
use super::{Lookout, Registration, Teller, Wish, lock, wake};
use crate::os;

/// For how long to try for the writer lock, to finish a dead writer's commit.
const PATIENCE: Duration = Duration::from_millis(100);

/// With fewer who watch keys of a namespace, each looks for itself.
const FEW: usize = 4;

/// A namespace, and who watches it.
struct Source {
    namespace: WeakNamespace,
    registrations: Vec<Arc<Registration>>,
    events: Events,
    /// Up to which update everybody has looked, or was passed by.
    seen: Option<u64>,
}

/// What the thread keeps from round to round.
#[derive(Default)]
pub(super) struct Round {
    sources: Vec<Source>,
    /// Those who only wait for a canceller, a deadline, or others to tell them.
    others: Vec<Arc<Registration>>,
    next_slice: Option<Deadline>,
    sleep: Sleep,
}

/// What comes out of one.
struct Outcome<'a> {
    sleep: &'a mut Sleep,
    wakers: Vec<Waker>,
    /// When somebody wants to be told that nothing came.
    until: Deadline,
    /// Cancellers whose words are slept on.
    cancellers: HashSet<usize>,
}

/// What was changed since everybody looked last.
struct Changed {
    since: u64,
    /// By the hashes of the keys.
    hashes: HashSet<u64>,
}

impl Round {
    /// Goes on until there is nobody to tell.
    pub(super) fn run(mut self, shard: &Shard) {
        while self.go(shard) {}
    }

    fn go(&mut self, shard: &Shard) -> bool {
        // First: whoever rings from here on ends the sleep, and what those want who rang before is seen.
        let bell = shard.bell.watch();
        let slice_over = self.next_slice.is_none_or(Deadline::passed);
        if slice_over {
            self.next_slice = Some(Deadline::after(SLICE));
        }
        self.sleep.clear();
        self.sleep.add_word(&bell);
        let mut outcome = Outcome {
            sleep: &mut self.sleep,
            wakers: Vec::new(),
            until: self.next_slice.unwrap_or(Deadline::never()),
            cancellers: HashSet::new(),
        };
        {
            let mut list = lock(&shard.list);
            if list.registrations.is_empty() {
                list.runs = false;
                return false;
            }
            let all = slice_over || list.changed;
            if list.changed {
                list.changed = false;
                (self.sources, self.others) = sort(&list);
            }
            let share = list.share(self.sources.len());
            for source in &mut self.sources {
                source.visit(all, share, &mut outcome);
            }
            // There may be many that listeners tell.
            for registration in self.others.iter().filter(|other| !other.is_told_by_others_only()) {
                registration.visit(None, &mut outcome);
            }
        }
        let Outcome { wakers, until, .. } = outcome;
        wakers.into_iter().for_each(wake);
        if slice_over {
            self.finish_for_the_dead();
        }
        self.sleep.until(until);
        true
    }

    fn finish_for_the_dead(&self) {
        for namespace in self.sources.iter().filter_map(|source| source.namespace.upgrade()) {
            // What was finished is told to whoever listens.
            let _ = catch_unwind(AssertUnwindSafe(|| namespace.finish_for_the_dead(PATIENCE)));
        }
    }
}

/// Sorts the registrations by their namespaces.
fn sort(list: &List) -> (Vec<Source>, Vec<Arc<Registration>>) {
    let (mut sources, mut others) = (Vec::<Source>::new(), Vec::new());
    let mut places = HashMap::new();
    for registration in &list.registrations {
        let Some(lookout) = &registration.lookout else {
            others.push(Arc::clone(registration));
            continue;
        };
        let place = *places.entry(lookout.namespace().dict()).or_insert_with(|| {
            sources.push(Source {
                namespace: lookout.namespace().clone(),
                registrations: Vec::new(),
                events: Events::new(),
                seen: None,
            });
            sources.len() - 1
        });
        sources[place].registrations.push(Arc::clone(registration));
    }
    (sources, others)
}

impl Source {
    fn visit(&mut self, all: bool, share: usize, outcome: &mut Outcome<'_>) {
        let Some(namespace) = self.namespace.upgrade() else {
            // The states are gone, and with them all that could be returned.
            for registration in &self.registrations {
                outcome.wakers.extend(registration.tell(&mut lock(&registration.wish)));
            }
            return;
        };
        // Each of them, so that none is fresh any more.
        let fresh = self
            .registrations
            .iter()
            .filter(|registration| registration.was_fresh())
            .count();
        if all || fresh > 0 || namespace.has_moved(&self.events) {
            self.look(&namespace, share, outcome);
        } else {
            for registration in &self.registrations {
                registration.visit(None, outcome);
            }
        }
        outcome.sleep.add(&namespace, &self.events);
    }

    fn look(&mut self, namespace: &Namespace, share: usize, outcome: &mut Outcome<'_>) {
        self.events.clear();
        let mut of_keys = 0;
        for registration in &self.registrations {
            if let Some(lookout) = &registration.lookout
                && lock(&registration.wish).is_there
            {
                let hashes = lookout.hashes();
                of_keys += usize::from(hashes.is_some());
                self.events.add(hashes.map_or(On::Any, On::Keys));
            }
        }
        if self.events.len() > share {
            self.events.widen();
        }
        // Before anybody looks.
        let now = namespace.arm(&mut self.events);
        let since = self.seen.filter(|_| of_keys >= FEW);
        let changed = since.and_then(|since| Changed::between(namespace, since, now));
        for registration in &self.registrations {
            registration.visit(Some((namespace, now, changed.as_ref())), outcome);
        }
        self.seen = Some(now);
    }
}

impl Changed {
    /// `None` if it cannot be told.
    fn between(namespace: &Namespace, since: u64, until: u64) -> Option<Self> {
        let mut hashes = HashSet::new();
        let told = namespace.changed_hashes(since, until, |hash| {
            hashes.insert(hash);
        });
        matches!(told, Ok(true)).then_some(Self { since, hashes })
    }

    /// Whether none of the updates after `at` concerns these keys.
    fn passes_by(&self, lookout: &dyn Lookout, at: u64) -> bool {
        let hashes = lookout.hashes();
        at >= self.since && hashes.is_some_and(|hashes| !hashes.iter().any(|hash| self.hashes.contains(hash)))
    }
}

impl Registration {
    fn was_fresh(&self) -> bool {
        // Acquire pairs with the Release behind the wish.
        self.is_fresh.load(Ordering::Relaxed) && self.is_fresh.swap(false, Ordering::Acquire)
    }

    /// Tells it if there is a reason. `news` is the namespace, its newest update, and what was changed, if it is known.
    fn visit(&self, news: Option<(&Namespace, u64, Option<&Changed>)>, outcome: &mut Outcome<'_>) {
        let mut wish = lock(&self.wish);
        if !wish.is_there {
            return;
        }
        if let (Some(lookout), Some((namespace, now, changed))) = (&self.lookout, news) {
            if changed.is_some_and(|changed| changed.passes_by(&**lookout, wish.at)) && !lookout.is_closed() {
                lookout.passed(&mut wish.at, now);
            } else if lookout.look(namespace, &mut wish.at, now) {
                return outcome.wakers.extend(self.tell(&mut wish));
            }
        }
        if wish.deadline.passed() {
            return outcome.wakers.extend(self.tell(&mut wish));
        }
        outcome.until = outcome.until.min(wish.deadline);
        let Some(canceller) = &self.canceller else { return };
        let word = canceller.watched_since(wish.cancel_seen);
        if word.is_cancelled() {
            outcome.wakers.extend(self.tell(&mut wish));
        } else if outcome.cancellers.insert(canceller.id()) {
            outcome.sleep.add_word(&word);
        }
    }

    /// Tells it, if it wants to be told. The waker of a task is for the caller to call, without a lock.
    pub(super) fn tell(&self, wish: &mut Wish) -> Option<Waker> {
        if !std::mem::take(&mut wish.is_there) {
            return None;
        }
        match &mut wish.teller {
            Teller::Fd(fd) => {
                os::ring(fd);
                None
            }
            Teller::Task(waker) => waker.take(),
            Teller::Gone => None,
        }
    }
}
