//! What a process does to be on time, and the clock it goes by. `docs/real-time.md` tells why.

use std::io;
use std::time::Duration;

use nix::errno::Errno;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::mman::{MlockAllFlags, mlockall};
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, ClockNanosleepFlags, clock_gettime, clock_nanosleep};
use nix::unistd::Pid;

use crate::Result;

/// Above all that is not real-time, and below the kernel's own threads that serve interrupts.
const PRIORITY: i32 = 40;

/// The CPUs of the plant and of the controllers: two different ones, if this process may use two.
pub fn cpus() -> Result<(usize, usize)> {
    let set = sched_getaffinity(Pid::from_raw(0))?;
    let mut allowed = (0..CpuSet::count()).filter(|&cpu| set.is_set(cpu).unwrap_or(false));
    let first = allowed.next().ok_or("there is no CPU")?;
    Ok((allowed.next_back().unwrap_or(first), first))
}

/// Prepares this process, which has mapped all that it needs, and says what it could not have. A thread that never sleeps is not given a real-time priority:
/// nothing else would run on its CPU, or the kernel would stop it for 50 ms of each second.
pub fn prepare(cpu: usize, never_sleeps: bool) -> Result<Vec<String>> {
    let mut notes = Vec::new();
    let mut set = CpuSet::new();
    set.set(cpu)?;
    sched_setaffinity(Pid::from_raw(0), &set)?;
    // What is mapped stays in memory, from when it is touched; without the latter the kernel would fill the state up to its
    // capacity.
    let flags = MlockAllFlags::MCL_CURRENT | MlockAllFlags::from_bits_retain(libc::MCL_ONFAULT);
    if let Err(error) = mlockall(flags) {
        notes.push(format!("memory is not locked ({error}): raise RLIMIT_MEMLOCK"));
    }
    // Without a real-time priority the kernel is free to be 50 µs late, to save wake-ups.
    nix::sys::prctl::set_timerslack(1)?;
    if never_sleeps {
        notes.push("no real-time priority for a process that never sleeps".into());
    } else if let Err(error) = become_fifo() {
        notes.push(format!(
            "no real-time priority ({error}): it needs CAP_SYS_NICE or RLIMIT_RTPRIO"
        ));
    }
    Ok(notes)
}

fn become_fifo() -> io::Result<()> {
    let parameters = libc::sched_param {
        sched_priority: PRIORITY,
    };
    // SAFETY: the kernel reads the structure, which outlives the call.
    match unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const parameters) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Nanoseconds of the clock that all processes of the machine share.
pub fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("every Linux has this clock");
    Duration::from(now).as_nanos() as u64
}

/// Sleeps until an instant of that clock. A deadline that is absolute does not drift by what each round takes.
pub fn sleep_until(ns: u64) -> Result<()> {
    let until = TimeSpec::from_duration(Duration::from_nanos(ns));
    loop {
        match clock_nanosleep(ClockId::CLOCK_MONOTONIC, ClockNanosleepFlags::TIMER_ABSTIME, &until) {
            Err(Errno::EINTR) => {}
            done => return Ok(done.map(drop)?),
        }
    }
}
