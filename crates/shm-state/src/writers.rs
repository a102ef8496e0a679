//! Who made a commit: from the pid and the identity in its record to the name of the process.
//!
//! Of the slots with that pid (see `participant`), the writer's is the one whose user came last before the identity was
//! given out; identities are counted by the arena, and compared as numbers that wrap. A watcher asks for each update, so
//! what was found is kept, by identity: then only the slot's few words are looked at, for the process may have changed
//! its name. When another process has the slot, what was known of the last one still is.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::log::Record;
use crate::participant::{Attachment, Known, Name};

/// Identities that are remembered; beyond, all are looked up anew.
const REMEMBERED: usize = 4096;

/// The writers that this process has met in one arena.
#[derive(Default)]
pub struct Writers {
    met: Mutex<HashMap<u32, Met>>,
}

struct Met {
    /// Its slot, and what that said; `None` if nobody knew it any more.
    slot: Option<(u32, Known)>,
    name: Option<Arc<str>>,
}

impl Met {
    fn find(attachment: &Attachment, pid: u32, identity: u32) -> Self {
        // How many identities were given out between the coming of the user and the one that is asked for.
        let age = |known: &Known| identity.wrapping_sub(known.since as u32);
        let came_before = |known: &Known| age(known) < 1 << 31;
        let slots = attachment
            .all_known()
            .filter(|(_, known)| known.pid == pid && came_before(known));
        let slot = slots.min_by_key(|(_, known)| age(known));
        let name = slot.and_then(|(_, known)| text(known.name));
        Self { slot, name }
    }

    /// Looks whether the process has another name now.
    fn refresh(&mut self, attachment: &Attachment) {
        if let Some((slot, was)) = &mut self.slot
            && let Some(now) = attachment.known(*slot)
            && (now.pid, now.since) == (was.pid, was.since)
            && now.name != was.name
        {
            (*was, self.name) = (now, text(now.name));
        }
    }
}

fn text(name: Name) -> Option<Arc<str>> {
    name.text().map(Arc::from)
}

impl Writers {
    /// The name of the process that made a commit; `None` if nothing is known of it any more.
    pub fn name(&self, attachment: &Attachment, record: &Record) -> Option<Arc<str>> {
        let mut met = self.met.lock();
        if met.len() >= REMEMBERED && !met.contains_key(&record.identity) {
            met.clear();
        }
        let writer = met
            .entry(record.identity)
            .or_insert_with(|| Met::find(attachment, record.pid, record.identity));
        writer.refresh(attachment);
        writer.name.clone()
    }
}
