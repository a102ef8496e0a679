//! A worker: a process that takes chunks, runs them, and hands them back, until it is to end.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::time::Instant;

use serde::{Deserialize, Serialize};
use zproc_spawn::entry::{self, Found, Located, Run};
use zproc_spawn::shared::Shared;
use zproc_spawn::{signal, start};

use super::ring::{Orders, Ring};
use super::target::Chunks;
use crate::error::{Error, Result};
use crate::os::failed;
use crate::process::{Call, Home, Targets, from_bytes, to_bytes};
use crate::remote::RemoteError;
use crate::state::State;

/// The target of workers.
#[derive(Clone, Copy)]
pub(super) struct Worker;

/// How it is run.
pub(super) struct RunWorker;

impl Run<Targets, Worker> for RunWorker {
    type Pointer = fn();

    fn run(_: Worker, call: &mut Call<'_>) {
        let run = || {
            let (worker, place): (u32, u32) = from_bytes("the number of a worker", call.args)?;
            work(call.home, worker, place as usize)?;
            to_bytes("the result", &())
        };
        call.outcome = Some(run());
    }
}

/// What a task's chunks are to be run with.
#[derive(Serialize, Deserialize)]
pub(super) struct TaskOrders {
    pub(super) target: Located,
    pub(super) args: Vec<u8>,
}

/// A chunk at work.
pub(crate) struct Chunk<'a> {
    ring: &'a Ring,
    slot: usize,
    /// Where the next result goes.
    at: usize,
    pub(super) input: &'a [u8],
    pub(super) args: &'a [u8],
    pub(super) first: u32,
    pub(super) count: u32,
    pub(super) scratch: Vec<u8>,
    state: &'a std::cell::OnceCell<State>,
    home: &'a Home,
    broken: Option<std::io::Error>,
}

impl<'a> Chunk<'a> {
    /// The worker's state, which is the same for all its items.
    pub(super) fn state(&self) -> Result<&'a State> {
        match self.state.get() {
            Some(state) => Ok(state),
            None => {
                let state = self.home.state()?;
                Ok(self.state.get_or_init(|| state))
            }
        }
    }

    #[inline]
    pub(super) fn begin(&self, number: u32) {
        self.ring.begin(self.slot, number);
    }

    /// A result could not be written, so nothing may come behind it.
    #[inline]
    pub(super) fn is_broken(&self) -> bool {
        self.broken.is_some()
    }

    #[inline]
    pub(super) fn finish(&mut self, number: u32, status: u32, bytes: &[u8], length: usize) {
        match self
            .ring
            .finish(self.slot, (number, self.count), self.at, status, bytes, length)
        {
            Ok(next) => self.at = next,
            Err(error) => self.broken = Some(error),
        }
    }
}

fn work(home: &Home, worker: u32, place: usize) -> Result<()> {
    let [memory, large, news] = inherited(home)?;
    let ring = Ring {
        memory: Shared::open(memory).map_err(|source| failed("mapping the slots of workers", source))?,
        large: File::from(large),
    };
    let mut known: Option<(u32, Found<Chunks>, Vec<u8>)> = None;
    let state = std::cell::OnceCell::new();
    let mut scratch = vec![0; 256];
    while let Some(slot) = ring.claim(worker, place) {
        let begun = Instant::now();
        let broken = |source| failed("reading a chunk of items", source);
        let (orders, count, first, input) = ring.take(slot).map_err(broken)?;
        let (target, args) = match &mut known {
            Some((task, target, args)) if *task == orders.task => (&*target, &*args),
            known => {
                let (target, args) = read(&ring, orders)?;
                let (_, target, args) = &*known.insert((orders.task, target, args));
                (target, args)
            }
        };
        let mut chunk = Chunk {
            at: ring.output_end(slot, first, count),
            ring: &ring,
            slot,
            input: &input,
            args,
            first,
            count,
            scratch,
            state: &state,
            home,
            broken: None,
        };
        target.run(&mut chunk);
        scratch = chunk.scratch;
        if let Some(source) = chunk.broken {
            return Err(failed("writing the results of items", source));
        }
        ring.hand_back(slot, begun.elapsed());
        signal::ring(news.as_fd());
    }
    Ok(())
}

fn inherited(home: &Home) -> Result<[OwnedFd; 3]> {
    let fds: [RawFd; 3] = home.fds().try_into().map_err(|_| Error::Process {
        reason: "a worker was started without its slots".into(),
    })?;
    let take = |fd| start::inherited(fd).map_err(|source| failed("inheriting the slots of workers", source));
    let [memory, large, news] = fds.map(take);
    Ok([memory?, large?, news?])
}

fn read(ring: &Ring, orders: Orders) -> Result<(Found<Chunks>, Vec<u8>)> {
    let bytes = ring.get_large(orders.at, orders.length);
    let bytes = bytes.map_err(|source| failed("reading the orders of a task", source))?;
    let orders: TaskOrders = from_bytes("the orders of a task", &bytes)?;
    let found = entry::find::<Chunks>(&orders.target);
    let found = found.map_err(|reason| Error::Remote(Box::new(RemoteError::of_process(reason))))?;
    Ok((found, orders.args))
}
