//! The file that a parent and a child share about one process: what the child is to do, and what came of it.
//!
//! It is a memfd that is read and written, never mapped. The parent writes the order before it starts the child. The child
//! notes that it has come as far as `init`, and at its end writes the outcome, and then, last, that there is one. The
//! parent waits for the end of the *process* and then looks; so an outcome is whole or not there, a grandchild that
//! outlives the child delays nothing, and there is nothing to race with.
//!
//! ```text
//! 0 mark      8 stage      16 kind of outcome      24 its length      32 length of the order      64 order, then outcome
//! ```

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::fs::FileExt;

use nix::sys::memfd::{MFdFlags, memfd_create};
use serde::{Deserialize, Serialize};
use zproc_spawn::entry::Located;

use super::settings::ProcessSettings;
use super::target::{from_bytes, to_bytes};
use crate::error::{Error, Result};
use crate::os::failed;
use crate::remote::RemoteError;
use crate::state::Handover;

/// What a child is to do.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Order {
    /// What to run, and its name for people.
    pub(crate) target: Located,
    pub(crate) name: String,
    pub(crate) args: Vec<u8>,
    pub(crate) retry_args: Option<Vec<u8>>,
    /// The state, and its descriptor, unless it is used over a socket.
    pub(crate) state: Handover,
    pub(crate) memory: Option<RawFd>,
    /// Where to note how far it has got, if it is to be restarted.
    pub(crate) trail: Option<RawFd>,
    /// Further descriptors, for targets of this library.
    pub(crate) fds: Vec<RawFd>,
    pub(crate) settings: ProcessSettings,
    pub(crate) parent: u32,
    /// What tools are to show as the name of the process.
    pub(crate) title: String,
}

/// How far a child has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// It was started.
    Started,
    /// It has come to `init`.
    Reached,
    /// It has come to what needs `init`, without it.
    Forgot,
}

/// What came of a target.
pub(crate) type Outcome = Result<Vec<u8>, Box<RemoteError>>;

pub(crate) struct Job {
    file: File,
}

const MARK: u64 = u64::from_le_bytes(*b"zprocjob");
const STAGE: u64 = 8;
const KIND: u64 = 16;
const LENGTH: u64 = 24;
const ORDER_LENGTH: u64 = 32;
const ORDER: u64 = 64;

const VALUE: u64 = 1;
const FAILURE: u64 = 2;

impl Job {
    /// A new one.
    pub(crate) fn create(order: &Order) -> Result<Self> {
        let fd = memfd_create("zproc-job", MFdFlags::MFD_CLOEXEC);
        let fd = fd.map_err(|errno| failed("memfd_create", errno.into()))?;
        let job = Self { file: File::from(fd) };
        let order = to_bytes("the order to a child", order)?;
        job.set(0, MARK)?;
        job.set(ORDER_LENGTH, order.len() as u64)?;
        job.put(ORDER, &order)?;
        job.set(STAGE, 0)?;
        job.set(KIND, 0)?;
        Ok(job)
    }

    /// That of this process, in the descriptor that its parent left open.
    pub(crate) fn open(fd: OwnedFd) -> Result<Self> {
        let job = Self { file: File::from(fd) };
        match job.get(0)? {
            MARK => Ok(job),
            other => Err(Error::Process {
                reason: format!("the descriptor that tells a child what to do holds something else ({other:#x})"),
            }),
        }
    }

    /// What is to be done.
    pub(crate) fn order(&self) -> Result<Order> {
        let length = self.get(ORDER_LENGTH)?;
        from_bytes("the order of the parent", &self.take(ORDER, length)?)
    }

    pub(crate) fn set_stage(&self, stage: Stage) -> Result<()> {
        self.set(STAGE, stage as u64)
    }

    pub(crate) fn stage(&self) -> Stage {
        match self.get(STAGE) {
            Ok(1) => Stage::Reached,
            Ok(2) => Stage::Forgot,
            _ => Stage::Started,
        }
    }

    /// Writes what came of it, of which the first one counts.
    pub(crate) fn finish(&self, outcome: &Outcome) -> Result<()> {
        if self.get(KIND)? != 0 {
            return Ok(());
        }
        let (kind, bytes) = match outcome {
            Ok(value) => (VALUE, value.clone()),
            Err(failure) => (FAILURE, to_bytes("the error of a child", failure)?),
        };
        self.put(self.outcome_at()?, &bytes)?;
        self.set(LENGTH, bytes.len() as u64)?;
        // Last: whoever sees the kind finds the rest.
        self.set(KIND, kind)
    }

    /// What came of it; `None` if the child ended without a word.
    pub(crate) fn outcome(&self) -> Result<Option<Outcome>> {
        let kind = self.get(KIND)?;
        if kind == 0 {
            return Ok(None);
        }
        let bytes = self.take(self.outcome_at()?, self.get(LENGTH)?)?;
        Ok(Some(match kind {
            VALUE => Ok(bytes),
            _ => Err(Box::new(from_bytes("the error of a child", &bytes)?)),
        }))
    }

    fn outcome_at(&self) -> Result<u64> {
        Ok(ORDER.saturating_add(self.get(ORDER_LENGTH)?).next_multiple_of(64))
    }

    fn set(&self, at: u64, value: u64) -> Result<()> {
        self.put(at, &value.to_le_bytes())
    }

    fn get(&self, at: u64) -> Result<u64> {
        let mut bytes = [0; 8];
        let read = self.file.read_exact_at(&mut bytes, at);
        read.map_err(|source| failed("reading the job of a process", source))?;
        Ok(u64::from_le_bytes(bytes))
    }

    fn put(&self, at: u64, bytes: &[u8]) -> Result<()> {
        let written = self.file.write_all_at(bytes, at);
        written.map_err(|source| failed("writing the job of a process", source))
    }

    /// The bytes that are there: a child may have written any length.
    fn take(&self, at: u64, length: u64) -> Result<Vec<u8>> {
        let size = self.file.metadata().map_or(0, |file| file.len());
        let mut bytes = vec![0; length.min(size.saturating_sub(at)) as usize];
        let read = self.file.read_exact_at(&mut bytes, at);
        read.map_err(|source| failed("reading the job of a process", source))?;
        Ok(bytes)
    }
}

impl AsFd for Job {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}
