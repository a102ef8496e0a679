//! A client process: it makes what it is told round by round, notes what it calls and what it sees, and may die anywhere.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::time::Duration;

use nix::sys::signal::{SigEvent, SigevNotify, Signal};
use nix::sys::time::TimeSpec;
use nix::sys::timer::{Expiration, Timer, TimerSetTimeFlags};
use nix::time::ClockId;
use shm_state::Arena;
use zproc::Builder;

use crate::board::Board;
use crate::clients::direct::Direct;
use crate::clients::liar::{Liar, Lie};
use crate::clients::typed::Typed;
use crate::clients::{Client, Names, PATIENCE, pause};
use crate::plan::Death;

/// The namespace, by the name that the upper layer gives it.
pub const NAMESPACE: &str = "default";

/// Which layer the clients use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layer {
    /// `shm_state::Namespace`.
    Engine,
    /// `zproc::State`.
    State,
}

/// What a client process is.
pub struct Worker<'b> {
    /// The board.
    pub board: &'b Board,
    /// Which of the clients it is.
    pub slot: usize,
    /// The layer.
    pub layer: Layer,
    /// Whether and how it lies.
    pub lie: Option<Lie>,
    /// The last round before its first.
    pub last_round: u64,
    /// It takes the place of a dead client: in this round, with the records of this area.
    pub stands_in: Option<(u64, usize)>,
}

impl Worker<'_> {
    /// Serves until it is killed.
    pub fn serve(self, arena: OwnedFd) {
        let arena = match self.layer {
            Layer::Engine => arena,
            Layer::State => {
                let state = Builder::anonymous()
                    .namespace(NAMESPACE)
                    .lock_timeout(PATIENCE)
                    .from_fd(arena)
                    .unwrap();
                return self.serve_with(Typed::new(&state));
            }
        };
        let arena = Arena::from_fd(arena).unwrap();
        let namespace = arena.namespace(NAMESPACE).unwrap();
        self.serve_with(Direct::new(&namespace));
    }

    fn serve_with(self, client: impl Client) {
        match self.lie {
            None => self.rounds(client),
            Some(lie) => self.rounds(Liar::new(client, lie)),
        }
    }

    fn rounds(mut self, mut client: impl Client) {
        let notify = SigevNotify::SigevSignal {
            signal: Signal::SIGKILL,
            si_value: 0,
        };
        let mut timer = Timer::new(ClockId::CLOCK_MONOTONIC, SigEvent::new(notify)).unwrap();
        if let Some((round, area)) = self.stands_in {
            self.make(round, area, &mut client, &mut timer);
            self.last_round = round;
        }
        loop {
            let round = self.board.next_round(self.last_round);
            self.make(round, self.slot, &mut client, &mut timer);
            self.last_round = round;
        }
    }

    fn make(&self, round: u64, area: usize, client: &mut impl Client, timer: &mut Timer) {
        let order = self.board.order(area);
        let (plan, names) = (order.plan(), Names::of(round));
        if self.stands_in != Some((round, area)) {
            self.board.start_together();
        }
        match order.death {
            Death::After(ns) => set(timer, ns.max(1)),
            Death::BeforeStore(store) => kill_at(store),
            _ => {}
        }
        for (op, planned) in plan.iter().enumerate() {
            self.board.calls(area, op);
            let reply = client.run(planned, &names);
            self.board.returns(area, op, &reply.seen, reply.seq);
            pause(planned.pauses, 7);
        }
        match order.death {
            Death::After(_) => set(timer, 0),
            Death::BeforeStore(_) => kill_at(u64::MAX),
            _ => {}
        }
        self.board.done(area, round);
    }
}

/// Sets a timer, or with 0 stops it.
fn set(timer: &mut Timer, ns: u64) {
    let after = TimeSpec::from_duration(Duration::from_nanos(ns));
    timer
        .set(Expiration::OneShot(after), TimerSetTimeFlags::empty())
        .unwrap();
}

/// Ends this process before a store to the arena, in builds that can.
fn kill_at(store: u64) {
    #[cfg(feature = "kill-points")]
    shm_state::kill_at(store);
    #[cfg(not(feature = "kill-points"))]
    assert_eq!(store, u64::MAX, "this build has no kill points");
}

/// A forked process. It is killed when this is dropped, and dies with its parent.
pub struct Process(i32);

impl Process {
    /// Forks a client. This process must have one thread only.
    pub fn fork(worker: Worker<'_>, arena: &File) -> Self {
        // SAFETY: this process has one thread, and the copy never returns from here.
        let pid = unsafe { libc::fork() };
        assert!(pid >= 0, "fork: {}", std::io::Error::last_os_error());
        if pid > 0 {
            return Self(pid);
        }
        // SAFETY: plain requests to the kernel.
        unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
        let arena = arena.try_clone().unwrap().into();
        let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| worker.serve(arena)));
        // SAFETY: ends this process without running anything that belongs to its parent.
        unsafe { libc::_exit(1) };
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.0.cast_unsigned()
    }

    /// Whether it has been killed. Fails if it ended otherwise.
    pub fn was_killed(&mut self) -> bool {
        let mut status = 0;
        // SAFETY: waits for a child of this process; `status` outlives the call.
        let ended = unsafe { libc::waitpid(self.0, &raw mut status, libc::WNOHANG) };
        if ended != self.0 {
            return false;
        }
        self.0 = 0;
        let killed = libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGKILL;
        assert!(killed, "a client failed, with status {status:#x}");
        true
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.0 > 0 {
            // SAFETY: the child was not waited for, so the pid is its own.
            unsafe { libc::kill(self.0, libc::SIGKILL) };
            // SAFETY: waits for it; the status is not asked for.
            unsafe { libc::waitpid(self.0, std::ptr::null_mut(), 0) };
        }
    }
}
