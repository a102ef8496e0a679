//! The processes of a context.
//!
//! Nobody need wait for a process that was started. So that those who do not leave no zombies behind, each process that is
//! added has a few others looked at, in turn: one that has ended is reaped, and what was kept open for it is closed. If so
//! many run, so many again that have ended are there at most, give or take a few.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::process::Supervised;

#[derive(Default)]
pub(super) struct Roll {
    /// All of them, in order.
    all: Vec<Arc<Supervised>>,
    /// Those that were not seen to have ended.
    running: VecDeque<Arc<Supervised>>,
}

/// How many are looked at for each that is added.
const LOOKS: usize = 4;

impl Roll {
    pub(super) fn add(&mut self, process: &Arc<Supervised>) {
        for _ in 0..LOOKS.min(self.running.len()) {
            // To ask is to reap it.
            if let Some(one) = self.running.pop_front()
                && one.ended().is_none()
            {
                self.running.push_back(one);
            }
        }
        self.all.push(Arc::clone(process));
        self.running.push_back(Arc::clone(process));
    }

    pub(super) fn remove(&mut self, those: &[&Arc<Supervised>]) {
        let stays = |one: &Arc<Supervised>| those.iter().all(|other| !Arc::ptr_eq(one, other));
        self.all.retain(stays);
        self.running.retain(stays);
    }

    pub(super) fn all(&self) -> &Vec<Arc<Supervised>> {
        &self.all
    }
}
