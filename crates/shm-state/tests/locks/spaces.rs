//! PID namespaces of the tests' own: in one, a test is process 1, its ids are small, and it may say which one the next
//! process or thread gets.

use std::ffi::CStr;
use std::fs;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;

use crate::common::process::{Board, Kid, Role, end_of, start_fork};

/// Which role process 1 plays.
const INNER: &str = "SHM_STATE_TEST_INNER_ROLE";
/// The status of a process that may not make namespaces.
const DENIED: i32 = 77;

/// Has a child play a role as process 1 of a new PID namespace, with a `/proc` that shows it. The reason if the system
/// does not let it. Panics if the role fails.
#[track_caller]
pub fn play_as_process_one(role: &str, number: u64, board: &Board) -> Result<(), String> {
    let kid = Kid::spawn(Kid::command("begin a PID namespace", number, None, board).env(INNER, role));
    let status = kid.wait();
    match status.code() {
        Some(0) => Ok(()),
        Some(DENIED) => Err("this process may not make PID and mount namespaces (no root, no user namespaces)".into()),
        _ => panic!("process 1 failed: {status}"),
    }
}

/// What the child between does.
pub fn begin_if_told(role: &Role) {
    if role.name != "begin a PID namespace" {
        return;
    }
    super::lead_a_process();
    if let Err(error) = unshare(libc::CLONE_NEWPID | libc::CLONE_NEWNS) {
        eprintln!("unshare: {error}");
        std::process::exit(DENIED);
    }
    let inner = std::env::var(INNER).unwrap();
    let first = start_fork(|| {
        super::die_with_parent();
        if let Err(error) = mount_proc() {
            eprintln!("mounting /proc: {error}");
            // SAFETY: ends this process.
            unsafe { libc::_exit(DENIED) };
        }
        role.board.keep_on_exec();
        let error = Kid::command(&inner, role.number, None, &role.board).exec();
        panic!("exec: {error}");
    });
    let status = end_of(first);
    std::process::exit(status.code().unwrap_or(1));
}

/// Leaves namespaces; in a user namespace of its own if it may not otherwise, which only a process of one thread can.
pub fn unshare(flags: i32) -> io::Result<()> {
    // SAFETY: takes flags.
    if unsafe { libc::unshare(flags) } == 0 {
        return Ok(());
    }
    let (user, group) = (nix::unistd::geteuid(), nix::unistd::getegid());
    // SAFETY: takes flags.
    if unsafe { libc::unshare(flags | libc::CLONE_NEWUSER) } != 0 {
        return Err(io::Error::last_os_error());
    }
    fs::write("/proc/self/setgroups", "deny")?;
    fs::write("/proc/self/uid_map", format!("0 {user} 1"))?;
    fs::write("/proc/self/gid_map", format!("0 {group} 1"))
}

fn mount(kind: &CStr, target: &CStr, flags: u64, options: &CStr) -> io::Result<()> {
    let (kind, target, options) = (kind.as_ptr(), target.as_ptr(), options.as_ptr());
    // SAFETY: three texts that live during the call, and flags.
    match unsafe { libc::mount(kind, target, kind, flags, options.cast()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Has what is mounted from here on stay in this mount namespace.
pub fn keep_mounts_private() -> io::Result<()> {
    mount(c"none", c"/", libc::MS_REC | libc::MS_PRIVATE, c"")
}

/// Shows this process's PID namespace in `/proc`.
pub fn mount_proc() -> io::Result<()> {
    keep_mounts_private()?;
    mount(c"proc", c"/proc", 0, c"")
}

/// Has `/proc` show only the processes of this user.
pub fn mount_hiding_proc() -> io::Result<()> {
    keep_mounts_private()?;
    mount(c"proc", c"/proc", 0, c"hidepid=2")
}

/// Hides `/proc` behind an empty directory.
pub fn hide_proc() -> io::Result<()> {
    keep_mounts_private()?;
    mount(c"tmpfs", c"/proc", 0, c"")
}

/// From here on the children of this process are in the PID namespace of process `pid`, which must be one below its own.
pub fn send_children_to(pid: i32) -> io::Result<()> {
    let namespace = fs::File::open(format!("/proc/{pid}/ns/pid"))?;
    // SAFETY: an open descriptor and a flag.
    match unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWPID) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The next process or thread of this PID namespace gets this id, if it is free. For process 1 and its children only.
pub fn next_id(id: u32) {
    fs::write("/proc/sys/kernel/ns_last_pid", (id - 1).to_string()).expect("choosing an id");
}
