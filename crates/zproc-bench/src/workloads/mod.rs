//! What the rivals are measured at, by turns.
//!
//! Each column of a [`Group`] is one run: every rival that can do the work takes a pass, then every one another, in
//! another order; so they share whatever state the machine is in. A pass comes down to one number. What is compared is
//! the ratio of two rivals' numbers round by round.

mod control;
mod crowd;
mod dict;
mod dying;
mod field;
mod group;
pub mod jobs;
mod losing;
mod notifying;
mod size;
mod starting;
mod together;
mod values;

use std::time::Duration;

pub use field::{Contender, Field};
pub use group::{Column, Group, Line, Unit};
pub use jobs::serve;

/// How and where to measure.
#[derive(Clone, Copy, Debug)]
pub struct Bench {
    /// Take less time.
    pub quick: bool,
    /// Where this process runs.
    pub own_cpu: usize,
    /// Where the others do.
    pub other_cpu: usize,
}

impl Bench {
    /// How long to measure one column.
    pub fn time(&self, full_ms: u64) -> Duration {
        Duration::from_millis(if self.quick { full_ms / 2 } else { full_ms })
    }

    /// The CPUs of `count` other processes, those first that this process is not on.
    pub fn cpus(&self, count: usize) -> impl Iterator<Item = usize> {
        [self.other_cpu, self.own_cpu].into_iter().cycle().take(count)
    }
}

/// A workload: its name, whether the quick run has it too, and how it is measured.
pub struct Workload {
    /// As in [`Group::id`].
    pub id: &'static str,
    /// Whether the quick run measures it.
    pub quick: bool,
    /// Measures it.
    pub measure: fn(&Bench) -> Group,
}

const fn workload(id: &'static str, quick: bool, measure: fn(&Bench) -> Group) -> Workload {
    Workload { id, quick, measure }
}

/// All of them, in the order of the report.
pub const WORKLOADS: &[Workload] = &[
    workload("get", true, dict::get),
    workload("handle get", true, dict::get_held),
    workload("set", true, dict::set),
    workload("handle set", false, dict::set_held),
    workload("snapshot", true, dict::snapshot),
    workload("get by size", false, values::get),
    workload("set by size", false, values::set),
    workload("request and reply", true, values::request_and_reply),
    workload("request with a value", false, values::request_with_value),
    workload("increments", true, together::increments),
    workload("notify", true, notifying::notify),
    workload("watchers", false, crowd::watchers),
    workload("control loop", false, control::control),
    workload("slow watcher", false, losing::slow_watcher),
    workload("killed writer", false, dying::killed_writer),
    workload("start-up", false, starting::start_up),
    workload("memory", false, size::memory),
];
