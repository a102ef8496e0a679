//! Pinning, and which machine this is.

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

/// The CPUs that this process may use.
pub fn allowed() -> Vec<usize> {
    let set = sched_getaffinity(Pid::from_raw(0)).expect("a process may ask where it runs");
    (0..CpuSet::count())
        .filter(|&cpu| set.is_set(cpu).unwrap_or(false))
        .collect()
}

/// Lets this thread, and those that it starts from now on, run on these CPUs only.
pub fn pin(cpus: &[usize]) {
    let mut set = CpuSet::new();
    for &cpu in cpus {
        set.set(cpu).expect("the CPU is one of those that were allowed");
    }
    sched_setaffinity(Pid::from_raw(0), &set).expect("the CPUs are among those that were allowed");
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
    format!(
        "{model}, {} CPUs{virtualised}, Linux {}",
        allowed().len(),
        kernel.trim()
    )
}
