//! Looking at a state, from outside in.

use std::time::Duration;

use shm_state::{Arena, ArenaFile, Deadline, Head, Inspection, Life, NamespaceStatus, Status, Surroundings};

use super::{Diagnosis, Finding, Severity};
use crate::address::arena_name;
use crate::error::{Error, Result};
use crate::value::{VALUE_FORMAT, describe_format};

/// How long to wait for the writer locks, to count what lies in memory.
const PATIENCE: Duration = Duration::from_millis(100);

pub(super) fn examine(address: &str) -> Result<Diagnosis> {
    let name = arena_name(address)?;
    let Inspection { path, file, here, .. } = Arena::inspect(name).map_err(Error::at(address))?;
    let mut diagnosis = Diagnosis {
        address: address.into(),
        path,
        findings: Vec::new(),
        status: None,
    };
    let Some(file) = file else {
        diagnosis.findings.push(Finding::Missing);
        diagnosis.findings.extend(file_system(&here, 0));
        return Ok(diagnosis);
    };
    about_file(&file, &here, &mut diagnosis.findings);
    // Whether it may be mapped without harm is known by now.
    if diagnosis.severity() < Severity::Fatal {
        match Arena::open(name) {
            Ok(arena) => {
                let refused = arena.check_value_format(VALUE_FORMAT, describe_format).err();
                diagnosis.findings.push(Finding::Opening {
                    refused: refused.map(|error| error.to_string()),
                });
                inside(&arena, &mut diagnosis);
            }
            Err(error) => diagnosis.findings.push(Finding::Opening {
                refused: Some(error.to_string()),
            }),
        }
    }
    Ok(diagnosis)
}

fn about_file(file: &ArenaFile, here: &Surroundings, findings: &mut Vec<Finding>) {
    if !file.is_regular {
        findings.push(Finding::NoFile);
        return;
    }
    let (owner, user) = (file.owner, here.user);
    findings.push(Finding::Owner { owner, user });
    findings.push(Finding::Mode {
        mode: file.mode,
        enough: user == 0 || owner != user || file.mode & 0o600 == 0o600,
    });
    let size = file.size;
    match &file.head {
        Err(error) => findings.push(Finding::Unreadable {
            reason: error.to_string(),
        }),
        Ok(Some(head)) if head.is_arena => {
            findings.push(Finding::Magic { is_state: true, size });
            about_head(file, head, here, findings);
        }
        Ok(_) => findings.push(Finding::Magic { is_state: false, size }),
    }
}

fn about_head(file: &ArenaFile, head: &Head, here: &Surroundings, findings: &mut Vec<Finding>) {
    findings.push(Finding::Version {
        found: head.version,
        own: here.version,
    });
    // What else it says means something only in the same version.
    if head.version != here.version {
        return;
    }
    let capacity = head.capacity;
    findings.push(Finding::Layout {
        same: head.layout == here.layout,
    });
    findings.push(Finding::Checksum { intact: head.is_intact });
    if !head.is_intact || head.layout != here.layout {
        return;
    }
    findings.extend([
        Finding::Size {
            size: file.size,
            capacity,
        },
        Finding::Boot {
            same: here.boot_id.map(|own| own == head.boot_id),
        },
        Finding::PidNamespace {
            found: head.pid_namespace,
            own: here.pid_namespace,
        },
        Finding::Backing {
            committed: head.committed,
            backed: file.backed,
        },
    ]);
    findings.extend(file_system(here, capacity.saturating_sub(head.committed)));
    findings.push(Finding::AddressSpace {
        limit: here.address_space,
        capacity,
    });
}

fn file_system(here: &Surroundings, wanted: u64) -> Option<Finding> {
    here.file_system.as_ref().map(|found| Finding::FileSystem {
        kind: found.kind,
        size: found.size,
        free: found.free,
        wanted,
    })
}

/// Looks at an arena that could be opened, whatever its values are: first without a lock, then with each that can be had.
fn inside(arena: &Arena, diagnosis: &mut Diagnosis) {
    let findings = &mut diagnosis.findings;
    let status = match arena.status() {
        Ok(status) => status,
        Err(error) => {
            findings.push(damage(&error));
            return;
        }
    };
    about_status(&status, findings);
    match arena.stats_by(Deadline::after(PATIENCE)) {
        Ok(stats) => {
            findings.extend(problems(stats.problems));
            findings.extend(stats.namespaces.into_iter().map(|namespace| Finding::Heap {
                namespace: namespace.name,
                live: namespace.live_bytes,
                retired: namespace.retired_bytes,
                free: namespace.free_bytes,
            }));
        }
        Err(error @ shm_state::Error::Corrupt { .. }) => findings.push(damage(&error)),
        Err(error) => findings.push(Finding::NotCounted {
            reason: error.to_string(),
        }),
    }
    diagnosis.status = Some(status);
}

/// One is often the cause of many: the first of them.
fn problems(mut problems: Vec<String>) -> impl Iterator<Item = Finding> {
    const TOLD: usize = 8;
    let more = problems.len().saturating_sub(TOLD);
    problems.truncate(TOLD);
    problems.extend((more > 0).then(|| format!("{more} more problems")));
    problems.into_iter().map(|what| Finding::Damage { what })
}

fn damage(error: &shm_state::Error) -> Finding {
    let what = match error {
        shm_state::Error::Corrupt { what } => what.clone(),
        other => other.to_string(),
    };
    Finding::Damage { what }
}

fn about_status(status: &Status, findings: &mut Vec<Finding>) {
    findings.push(Finding::Memory {
        committed: status.committed,
        capacity: status.capacity,
        free: status.free_bytes,
    });
    if status.directory_lock.holder.is_some() || status.directory_lock.abandoned {
        findings.push(Finding::Lock {
            namespace: None,
            lock: status.directory_lock.clone(),
        });
    }
    let with_life = |life| status.participants.iter().filter(move |one| one.life == life);
    let dead: Vec<u32> = with_life(Life::Dead).map(|one| one.pid).collect();
    if !dead.is_empty() || status.leftovers.seats > 0 {
        findings.push(Finding::DeadProcesses {
            pids: dead,
            seats: status.leftovers.seats,
        });
    }
    findings.extend(with_life(Life::Stopped).map(|one| Finding::StoppedProcess {
        pid: one.pid,
        name: one.name.as_deref().map(Into::into),
    }));
    status
        .namespaces
        .iter()
        .for_each(|namespace| about_namespace(namespace, findings));
}

fn about_namespace(status: &NamespaceStatus, findings: &mut Vec<Finding>) {
    let namespace = || status.name.clone();
    findings.push(Finding::Lock {
        namespace: Some(namespace()),
        lock: status.lock.clone(),
    });
    let is_at_it = status.lock.holder.as_ref().is_some_and(|one| one.life != Life::Dead);
    if status.unfinished && !is_at_it {
        findings.push(Finding::UnfinishedUpdate { namespace: namespace() });
    }
    let old = status.pins.iter().filter(|pin| pin.dead || pin.lag > status.history);
    findings.extend(old.map(|pin| Finding::OldSnapshot {
        namespace: namespace(),
        pin: pin.clone(),
    }));
    let slow = status.watchers.iter();
    let slow = slow.filter(|watcher| watcher.dead || watcher.lag > status.history.max(2) / 2);
    findings.extend(slow.map(|watcher| Finding::SlowWatcher {
        namespace: namespace(),
        watcher: watcher.clone(),
        history: status.history,
    }));
}
