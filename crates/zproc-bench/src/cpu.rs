//! Pinning, scheduling, accounts of what a thread used, and which machine this is.

use std::io;
use std::mem::MaybeUninit;
use std::sync::OnceLock;
use std::time::Duration;

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

/// The CPUs that this process may use.
pub fn allowed() -> Vec<usize> {
    let set = sched_getaffinity(Pid::from_raw(0)).expect("a process may ask where it runs");
    (0..CpuSet::count())
        .filter(|&cpu| set.is_set(cpu).unwrap_or(false))
        .collect()
}

/// The CPUs that this process could use when it first asked, whatever it is pinned to by now.
pub fn online() -> Vec<usize> {
    static ONLINE: OnceLock<Vec<usize>> = OnceLock::new();
    ONLINE.get_or_init(allowed).clone()
}

/// Lets this thread, and those that it starts from now on, run on these CPUs only.
pub fn pin(cpus: &[usize]) {
    let mut set = CpuSet::new();
    for &cpu in cpus {
        set.set(cpu).expect("the CPU is one of those that were allowed");
    }
    sched_setaffinity(Pid::from_raw(0), &set).expect("the CPUs are among those that were allowed");
}

/// How a thread is scheduled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheduling {
    /// As the process was started: like everybody, if nobody said otherwise.
    Other,
    /// As everybody, and for the smallest share.
    Nice,
    /// When nobody else wants to run.
    Idle,
    /// Before everybody, until it sleeps.
    Fifo,
}

/// Has this thread scheduled so from now on.
pub fn schedule(how: Scheduling) -> io::Result<()> {
    static STARTED_WITH: OnceLock<i32> = OnceLock::new();
    // SAFETY: takes integers.
    let own = *STARTED_WITH.get_or_init(|| unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) });
    let (policy, sched_priority, nice) = match how {
        Scheduling::Other => (libc::SCHED_OTHER, 0, own),
        Scheduling::Nice => (libc::SCHED_OTHER, 0, 19),
        Scheduling::Idle => (libc::SCHED_IDLE, 0, own),
        Scheduling::Fifo => (libc::SCHED_FIFO, 40, own),
    };
    let parameters = libc::sched_param { sched_priority };
    // SAFETY: the kernel reads the structure, which outlives the call.
    if unsafe { libc::sched_setscheduler(0, policy, &raw const parameters) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: takes integers.
    if unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, nice) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Gives this thread a real-time priority, or takes it away; `false` if that is not allowed.
pub fn real_time(on: bool) -> bool {
    schedule(if on { Scheduling::Fifo } else { Scheduling::Other }).is_ok()
}

fn usage() -> libc::rusage {
    let mut usage = MaybeUninit::<libc::rusage>::uninit();
    // SAFETY: the kernel fills the structure.
    let result = unsafe { libc::getrusage(libc::RUSAGE_THREAD, usage.as_mut_ptr()) };
    assert_eq!(result, 0, "a thread may ask for its own usage");
    // SAFETY: filled by the call, which succeeded.
    unsafe { usage.assume_init() }
}

/// Processor time of this thread.
pub fn used() -> Duration {
    let time = |time: libc::timeval| {
        Duration::from_secs(time.tv_sec.unsigned_abs()) + Duration::from_micros(time.tv_usec.unsigned_abs())
    };
    let usage = usage();
    time(usage.ru_utime) + time(usage.ru_stime)
}

/// Page faults of this thread that needed no disk.
pub fn faults() -> i64 {
    usage().ru_minflt
}

/// Runs `f` in a forked copy of this process, and waits for its end.
pub fn in_child(f: impl FnOnce()) {
    // SAFETY: this is the only thread of the process, so the copy can go on with anything.
    match unsafe { nix::unistd::fork() }.expect("a process can be started") {
        nix::unistd::ForkResult::Child => {
            f();
            std::process::exit(0);
        }
        nix::unistd::ForkResult::Parent { child } => {
            let status = nix::sys::wait::waitpid(child, None).expect("it is our child");
            assert_eq!(status, nix::sys::wait::WaitStatus::Exited(child, 0));
        }
    }
}

/// Processor, kernel and number of CPUs, as a line to print above figures.
pub fn machine() -> String {
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    let cpuinfo = read("/proc/cpuinfo");
    let model = cpuinfo.lines().find(|line| line.starts_with("model name"));
    let model = model
        .and_then(|line| line.split(':').nth(1))
        .map_or(std::env::consts::ARCH, str::trim);
    let kernel = read("/proc/sys/kernel/osrelease");
    let virtualised = if cpuinfo.contains(" hypervisor") {
        ", virtual machine"
    } else {
        ""
    };
    format!("{model}, {} CPUs{virtualised}, Linux {}", online().len(), kernel.trim())
}
