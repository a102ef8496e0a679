//! A thread that tells others, and the list of those it tells.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use shm_state::{CancelWord, MOST_WORDS};

use super::round::Round;
use super::{Registration, lock};
use crate::error::Result;
use crate::os;

/// One thread, when there is somebody to tell.
#[derive(Default)]
pub(super) struct Shard {
    /// On which the thread sleeps, besides what is watched: to *interrupt* it is to ring it.
    pub(super) bell: CancelWord,
    pub(super) list: Mutex<List>,
}

#[derive(Default)]
pub(super) struct List {
    /// A thread is there, and will look at the list again before it ends.
    pub(super) runs: bool,
    /// Since the thread looked last.
    pub(super) changed: bool,
    pub(super) registrations: Vec<Arc<Registration>>,
    /// Namespaces and cancellers, each with how many registrations need it: what takes a word at least.
    needs: HashMap<usize, usize>,
}

impl Registration {
    fn needs(&self) -> impl Iterator<Item = usize> {
        let namespace = self.lookout.as_ref().map(|lookout| lookout.namespace().dict());
        let canceller = self.canceller.as_ref().map(super::Canceller::id);
        [namespace, canceller].into_iter().flatten()
    }
}

impl Shard {
    /// Takes one in, if there is a word for it.
    pub(super) fn add(self: &Arc<Self>, registration: &Arc<Registration>) -> Result<bool> {
        let mut list = lock(&self.list);
        let new = registration
            .needs()
            .filter(|need| !list.needs.contains_key(need))
            .count();
        // One is the bell's.
        if list.needs.len() + new + 1 > MOST_WORDS {
            return Ok(false);
        }
        if !list.runs {
            let shard = Arc::clone(self);
            os::quiet_thread("zproc-notifier", move || Round::default().run(&shard))?;
            list.runs = true;
        }
        for need in registration.needs() {
            *list.needs.entry(need).or_default() += 1;
        }
        list.registrations.push(Arc::clone(registration));
        list.changed = true;
        Ok(true)
    }

    /// Lets one go. The thread does not look at it any more when this returns.
    pub(super) fn remove(&self, registration: &Arc<Registration>) {
        {
            let mut list = lock(&self.list);
            list.registrations.retain(|other| !Arc::ptr_eq(other, registration));
            list.changed = true;
            for need in registration.needs() {
                if let Some(count) = list.needs.get_mut(&need) {
                    *count -= 1;
                    if *count == 0 {
                        list.needs.remove(&need);
                    }
                }
            }
        }
        self.ring();
    }

    /// Has the thread look. What came before is seen by it then.
    pub(super) fn ring(&self) {
        self.bell.interrupt();
    }
}

impl List {
    /// How many words are left to the events of each of so many namespaces.
    pub(super) fn share(&self, namespaces: usize) -> usize {
        let cancellers = self.needs.len().saturating_sub(namespaces);
        (MOST_WORDS - 1).saturating_sub(cancellers) / namespaces.max(1)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use shm_state::{Deadline, Sleep};

    use super::*;

    /// The bell was a flag that the thread took down and then noted. If somebody rang in between, the next ring found the
    /// flag up and changed nothing, and the thread slept on it until it looked for itself, after a second.
    #[test]
    fn a_ring_is_heard_though_another_came_before_the_bell_was_noted() {
        let shard = Shard::default();
        shard.ring();
        let bell = shard.bell.watch();
        shard.ring();
        let mut sleep = Sleep::new();
        sleep.add_word(&bell);
        let hang = Deadline::after(Duration::from_secs(10));
        sleep.until(hang);
        assert!(!hang.passed());
    }
}
