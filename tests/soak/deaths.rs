//! The time from a death inside of the writer lock to the next commit.
//!
//! A *victim* takes the lock in an `atomic` that never ends. Two *waiters* are seen asleep in the lock before it is
//! killed. Measured is the time until the commit of the first of them has returned, from just before the kill, and from
//! when the conductor saw the death by a pidfd. The second can be negative: the kernel marks the lock and wakes a waiter
//! before it tells anybody of the death.
//!
//! Two kinds of death: the kernel marks the lock, or it cannot, because the victim used a robust mutex inside. Both are
//! checked and not assumed: the victim looks at its own robust list.

use std::fs;
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::time::{ClockId, clock_gettime};

use crate::board::{Board, Word};
use crate::conductor::Conductor;
use crate::kid::{Kid, PATIENCE, Role};
use crate::mark;
use crate::model::{self, VICTIM, WAITERS, counter};

/// How the victim holds the lock, as bits of `Word::Order`.
const UNMARKED: u64 = 1;
const AWAKE: u64 = 2;

/// As many are measured however late it is.
const LEAST: usize = 20;

/// One death, in nanoseconds.
#[derive(Clone, Copy)]
pub struct Death {
    pub marked: bool,
    pub from_kill: i64,
    pub from_death: i64,
}

/// Nanoseconds of a clock that all processes share.
fn now() -> i64 {
    let time = clock_gettime(ClockId::CLOCK_MONOTONIC).unwrap();
    time.tv_sec() * 1_000_000_000 + time.tv_nsec()
}

/// Kills that many victims whose lock the kernel marks, and whose lock it does not.
pub fn measure(conductor: &mut Conductor, marked: u64, unmarked: u64) -> Vec<Death> {
    let mut left = [marked, unmarked];
    let mut waiters: Vec<Kid> = WAITERS.map(|number| conductor.start(number)).collect();
    let mut deaths = Vec::new();
    while left != [0, 0] && !(conductor.is_late() && deaths.len() >= LEAST) {
        let unmarked = conductor.random.below(left[0] + left[1]) >= left[0];
        left[usize::from(unmarked)] -= 1;
        deaths.push(kill_one(conductor, &mut waiters, unmarked));
    }
    conductor.board.set(Word::Stop, 0, 1);
    waiters.into_iter().for_each(Kid::finish);
    conductor.board.set(Word::Stop, 0, 0);
    deaths
}

fn kill_one(conductor: &mut Conductor, waiters: &mut [Kid], unmarked: bool) -> Death {
    let awake = conductor.random.once_in(2);
    let order = u64::from(unmarked) * UNMARKED + u64::from(awake) * AWAKE;
    conductor.board.set(Word::Order, 0, order);
    conductor.board.set(Word::Inside, 0, 0);
    let mut victim = conductor.start(VICTIM);
    until(&mut [&mut victim], |kids| {
        conductor.board.get(Word::Inside, 0) == u64::from(kids[0].pid())
    });
    let round = conductor.board.get(Word::Round, 0) + 1;
    conductor.board.set(Word::Round, 0, round);
    until(&mut waiters.iter_mut().collect::<Vec<_>>(), |kids| {
        kids.iter().all(|kid| is_asleep_in_lock(&conductor.board, kid, round))
    });
    // Waiters look at the owner in slices of up to 100 ms: the death is to come at any moment of one.
    let longest = if unmarked { 300_000 } else { 10_000 };
    std::thread::sleep(Duration::from_micros(conductor.random.below(longest)));
    let seq = conductor.namespace.seq();
    let holder = conductor.namespace.lock_holder().map(|(pid, _)| pid);
    assert_eq!(holder, Some(victim.pid()), "a living owner was robbed");

    let pidfd = pidfd_of(victim.pid());
    let killed = now();
    victim.send_kill();
    await_end(&pidfd);
    let died = now();
    // Dead processes that nobody has collected yet have to be recognised too.
    let early = conductor.random.once_in(2);
    if early {
        victim.reap();
    }
    until(&mut waiters.iter_mut().collect::<Vec<_>>(), |kids| {
        kids.iter()
            .all(|kid| conductor.board.get(Word::Done, kid.number) == round)
    });
    if !early {
        victim.reap();
    }
    let committed = conductor.namespace.seq();
    assert_eq!(committed, seq + waiters.len() as u64, "each waiter made one commit");
    let first = waiters
        .iter()
        .map(|kid| conductor.board.get(Word::DoneAt, kid.number).cast_signed())
        .min()
        .unwrap();
    assert!(first > killed, "a living owner was robbed");
    Death {
        marked: !unmarked,
        from_kill: first - killed,
        from_death: first - died,
    }
}

/// Waits for something that the processes do; they must live.
fn until(kids: &mut [&mut Kid], mut done: impl FnMut(&[&mut Kid]) -> bool) {
    let start = Instant::now();
    while !done(kids) {
        kids.iter_mut().for_each(|kid| kid.check_alive());
        assert!(start.elapsed() < PATIENCE, "process {} hangs", kids[0].number);
        std::thread::sleep(Duration::from_micros(200));
    }
}

/// After it announced that it is about to lock, the only place where a waiter sleeps is the lock.
fn is_asleep_in_lock(board: &Board, waiter: &Kid, round: u64) -> bool {
    if board.get(Word::Waiting, waiter.number) != round {
        return false;
    }
    let thread = board.get(Word::Thread, waiter.number);
    let stat = fs::read_to_string(format!("/proc/{}/task/{thread}/stat", waiter.pid())).unwrap();
    // The name, in parentheses, may contain anything.
    stat.rsplit(')').next().is_some_and(|rest| rest.starts_with(" S "))
}

fn pidfd_of(pid: u32) -> OwnedFd {
    // SAFETY: the call takes two integers.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    assert!(fd >= 0, "pidfd_open: {}", std::io::Error::last_os_error());
    // SAFETY: the kernel just made this descriptor for us, and nobody else owns it.
    unsafe { OwnedFd::from_raw_fd(i32::try_from(fd).unwrap()) }
}

fn await_end(pidfd: &OwnedFd) {
    let patience = PollTimeout::try_from(PATIENCE).unwrap();
    let mut fds = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
    assert_eq!(poll(&mut fds, patience).unwrap(), 1, "a killed process does not end");
}

/// Takes the lock and never gives it back.
pub fn victim(role: &Role) {
    let state = role.state(|settings| settings.lock_timeout(PATIENCE));
    let order = role.board.get(Word::Order, 0);
    let never = state.atomic(|dict| {
        model::count(dict, role.number)?;
        model::set_group(dict, -1)?;
        if order & UNMARKED != 0 {
            mark::lose();
        }
        assert_eq!(mark::is_there(), order & UNMARKED == 0);
        role.board.set(Word::Inside, 0, u64::from(std::process::id()));
        while !role.is_orphaned() {
            if order & AWAKE == 0 {
                std::thread::sleep(PATIENCE);
            }
            std::hint::spin_loop();
        }
        Ok(())
    });
    panic!("the victim came back: {never:?}");
}

/// In each round: waits for the lock, commits, notes the time.
pub fn waiter(role: &mut Role) {
    let state = role.state(|settings| settings.lock_timeout(PATIENCE));
    let own = role.number;
    let mut next = state.get::<i64>(counter(own)).unwrap().unwrap() + 1;
    let mut last = role.board.get(Word::Done, own);
    role.board.set(
        Word::Thread,
        own,
        u64::from(nix::unistd::gettid().as_raw().cast_unsigned()),
    );
    while role.board.get(Word::Stop, 0) == 0 && !role.is_orphaned() {
        let round = role.board.get(Word::Round, 0);
        if round == last {
            std::thread::sleep(Duration::from_micros(200));
            continue;
        }
        let by_insert = role.random.once_in(2);
        role.board.set(Word::Waiting, own, round);
        if by_insert {
            state.insert(counter(own), next).unwrap();
        } else {
            assert_eq!(state.atomic(|dict| model::count(dict, own)).unwrap(), next);
        }
        role.board.set(Word::DoneAt, own, now().cast_unsigned());
        role.board.set(Word::Acknowledged, own, next.cast_unsigned());
        role.board.set(Word::Done, own, round);
        (last, next) = (round, next + 1);
    }
}
