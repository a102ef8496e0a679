//! Who is who: cached ids, identities of processes that survive the reuse of their ids, and proofs of death.
//!
//! A process is identified by its id *and* the inode of its pidfd, which the kernel (Linux 6.9 on) never gives
//! out twice between two boots. Older kernels give all pidfds one inode; there the identity is the start time in
//! clock ticks from `/proc/PID/stat`, which the same id cannot have twice in practice. All processes of one boot
//! make the same choice, because they see the same kernel.

use std::cell::Cell;
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicU8, Ordering};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::{check, fork, without_proc};

/// What is known of a process that was recorded as a pid and an identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Process {
    /// It exists and has not ended.
    Alive,
    /// It ended; its parent may not have noticed yet. Never untrue again.
    Ended,
    /// No process has the pid, or another one has it. Weaker than [`Process::Ended`]: it also looks so from
    /// inside a PID namespace that does not contain the process.
    Gone,
    /// The kernel would not say (a sandbox, no free descriptor): no proof of anything.
    Unknown,
}

/// Whether a process, or a thread, goes on, as far as another process can tell.
///
/// ```
/// # use shm_state::{Arena, ArenaOptions, Life};
/// # let arena = Arena::anonymous(&ArenaOptions::default())?;
/// # let namespace = arena.namespace("default")?;
/// let life = arena.status()?.participants[0].life;
/// assert_eq!(life, Life::Running);
/// assert_eq!(life.to_string(), "running");
/// # Ok::<(), shm_state::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Life {
    /// It has not ended, and is not stopped.
    Running,
    /// It is stopped, by a signal or by a debugger, and goes on after a SIGCONT, or when the debugger lets it.
    Stopped,
    /// It has certainly ended.
    Dead,
    /// The system would not say.
    #[default]
    Unknown,
}

impl std::fmt::Display for Life {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Running => "running",
            Self::Stopped => "stopped",
            Self::Dead => "dead",
            Self::Unknown => "unknown",
        })
    }
}

/// How a thread that has not ended is: running or stopped. The leader of a process has its process's id.
pub fn pace(pid: u32, tid: u32) -> Life {
    if !proc_is_ours() {
        return Life::Unknown;
    }
    let stat = fs::read_to_string(format!("/proc/{pid}/task/{tid}/stat")).unwrap_or_default();
    match field_after_name(&stat, 0) {
        Some("T" | "t") => Life::Stopped,
        // One that has ended is not waited for yet, or is a leader that has left its threads: others say what that means.
        Some("Z" | "X") | None => Life::Unknown,
        Some(_) => Life::Running,
    }
}

/// The calling thread's id, without a system call, and right after a fork too.
pub fn tid() -> u32 {
    #[cfg(all(loom, test))]
    if let Some(tid) = crate::models::system::tid() {
        return tid;
    }
    thread_local! {
        static CACHE: Cell<(u64, u32)> = const { Cell::new((0, 0)) };
    }
    CACHE.with(|cache| {
        let epoch = fork::epoch();
        if epoch != 0 && cache.get().0 == epoch {
            return cache.get().1;
        }
        let tid = thread_id();
        if let Ok(epoch) = fork::renew() {
            cache.set((epoch, tid));
        }
        tid
    })
}

/// The calling thread's id, asked from the kernel.
pub fn thread_id() -> u32 {
    nix::unistd::gettid().as_raw().cast_unsigned()
}

/// A descriptor of the process `pid`; readable once the process has ended. ESRCH if there is none.
pub fn pidfd_open(pid: u32) -> io::Result<OwnedFd> {
    open_pidfd(pid, 0)
}

fn open_pidfd(pid: u32, flags: u32) -> io::Result<OwnedFd> {
    // SAFETY: the call takes two integers.
    let fd = check(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, flags) })?;
    let fd = i32::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: the kernel just made this descriptor for us (close-on-exec), and nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The identity of a process, to be recorded beside its pid: never 0.
pub fn identity(pid: u32) -> io::Result<u64> {
    let pidfd = pidfd_open(pid)?;
    identity_of(&pidfd, pid)
}

fn identity_of(pidfd: &OwnedFd, pid: u32) -> io::Result<u64> {
    if inodes_identify(pidfd)? {
        inode(pidfd)
    } else {
        start_time(pid)
    }
}

/// What has become of the process that had this pid and [`identity`].
pub fn state(pid: u32, recorded: u64) -> Process {
    if pid == 0 {
        return Process::Unknown;
    }
    let pidfd = match pidfd_open(pid) {
        Ok(pidfd) => pidfd,
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => return Process::Gone,
        // The number belongs to a thread that leads no process (kernels say EINVAL or ENOENT).
        Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::ENOENT)) => {
            return if pid <= i32::MAX.cast_unsigned() {
                Process::Gone
            } else {
                Process::Unknown
            };
        }
        Err(_) => return Process::Unknown,
    };
    match identity_of(&pidfd, pid) {
        Ok(identity) if identity == recorded => match ended(&pidfd) {
            Ok(true) => Process::Ended,
            Ok(false) => Process::Alive,
            Err(_) => Process::Unknown,
        },
        Ok(_) => Process::Gone,
        // Only the start time can be missing: the process was reaped since the descriptor was opened.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Process::Gone,
        Err(_) => Process::Unknown,
    }
}

/// Whether the thread `tid` of process `pid` is certainly gone, or has ended and is only not collected yet.
///
/// Says nothing about a process `pid` other than the one meant: check its [`state`] first. (If that process ended
/// in between, the answer is still right: its threads ended too.)
pub fn thread_is_gone(pid: u32, tid: u32) -> bool {
    #[cfg(all(loom, test))]
    if let Some(gone) = crate::models::system::is_gone(tid) {
        return gone;
    }
    // SAFETY: signal 0 is not delivered; the call takes three integers.
    let result = check(unsafe { libc::syscall(libc::SYS_tgkill, pid, tid, 0) });
    if let Err(error) = result {
        return error.raw_os_error() == Some(libc::ESRCH);
    }
    match open_pidfd(tid, libc::PIDFD_THREAD) {
        // A leader that left stays as a zombie while other threads run, and since Linux 6.15 its pidfd waits for them all.
        Ok(pidfd) => ended(&pidfd).unwrap_or(false) || pid == tid && is_zombie(pid, tid),
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => true,
        // Before Linux 6.9.
        Err(_) => is_zombie(pid, tid),
    }
}

fn is_zombie(pid: u32, tid: u32) -> bool {
    if !proc_is_ours() {
        return false;
    }
    let stat = fs::read_to_string(format!("/proc/{pid}/task/{tid}/stat"));
    stat.is_ok_and(|stat| matches!(field_after_name(&stat, 0), Some("Z" | "X")))
}

/// Whether the process (or the thread) behind the descriptor has ended.
pub fn ended(pidfd: &OwnedFd) -> io::Result<bool> {
    let mut fds = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
    loop {
        match poll(&mut fds, PollTimeout::ZERO) {
            Ok(count) => return Ok(count > 0),
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Whether pidfds have inodes of their own on this kernel; asked once.
fn inodes_identify(pidfd: &OwnedFd) -> io::Result<bool> {
    const UNKNOWN: u8 = 0;
    const YES: u8 = 1;
    const NO: u8 = 2;
    static ANSWER: AtomicU8 = AtomicU8::new(UNKNOWN);
    let known = ANSWER.load(Ordering::Relaxed);
    if known != UNKNOWN {
        return Ok(known == YES);
    }
    let mut info = std::mem::MaybeUninit::<libc::statfs>::uninit();
    // SAFETY: the kernel fills the structure; the descriptor is open.
    check(unsafe { libc::fstatfs(pidfd.as_raw_fd(), info.as_mut_ptr()) })?;
    // SAFETY: filled by the call, which succeeded.
    let info = unsafe { info.assume_init() };
    let yes = info.f_type == 0x5049_4446; // PID_FS_MAGIC; the field's type depends on the C library
    ANSWER.store(if yes { YES } else { NO }, Ordering::Relaxed);
    Ok(yes)
}

fn inode(fd: &OwnedFd) -> io::Result<u64> {
    Ok(nix::sys::stat::fstat(fd)?.st_ino)
}

/// Whether `/proc` shows the PID namespace of this process. It may be that of a parent namespace, where the same number is
/// another process.
fn proc_is_ours() -> bool {
    // pid_namespaces(7): the ids of the process from the namespace of the mounted /proc down to its own.
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ids = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
    ids.is_some_and(|ids| ids.split_ascii_whitespace().count() == 1)
}

/// When the process started, in clock ticks since boot, plus one so that it is never 0.
fn start_time(pid: u32) -> io::Result<u64> {
    if !proc_is_ours() {
        let why = "/proc is not mounted, or shows another PID namespace";
        return Err(io::Error::new(io::ErrorKind::Unsupported, why));
    }
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).map_err(|error| {
        // Reading the file of a process that is being reaped gives ESRCH.
        if error.raw_os_error() == Some(libc::ESRCH) {
            io::ErrorKind::NotFound.into()
        } else {
            error
        }
    })?;
    // proc(5): starttime is field 22, and the name that may contain anything is field 2.
    let ticks = field_after_name(&stat, 19).and_then(|field| field.parse::<u64>().ok());
    ticks
        .map(|ticks| ticks.saturating_add(1))
        .ok_or_else(|| io::ErrorKind::InvalidData.into())
}

fn field_after_name(stat: &str, index: usize) -> Option<&str> {
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_ascii_whitespace().nth(index)
}

/// The name of the file that this process executes. Not what the kernel calls it, which is `exe` for one that was started
/// as a copy of its parent, by `/proc/self/exe`.
pub fn program_name() -> String {
    let path = fs::read_link("/proc/self/exe").ok();
    let path = path.or_else(|| std::env::args_os().next().map(std::path::PathBuf::from));
    let name = path.as_deref().and_then(std::path::Path::file_name).unwrap_or_default();
    // What the kernel adds when the file was replaced or removed meanwhile.
    let name = name.to_string_lossy();
    name.strip_suffix(" (deleted)").unwrap_or(&name).to_owned()
}

/// The inode of this process's PID namespace: TIDs mean the same to two processes only if theirs are equal.
pub fn pid_namespace() -> io::Result<u64> {
    Ok(fs::metadata("/proc/self/ns/pid").map_err(without_proc)?.ino())
}

/// The random id of this boot of the machine: process ids and identities of another boot mean nothing.
pub fn boot_id() -> io::Result<[u8; 16]> {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").map_err(without_proc)?;
    let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
    let id = u128::from_str_radix(&digits, 16).map_err(io::Error::other)?;
    Ok(id.to_be_bytes())
}

/// Stops this process until it is continued.
#[cfg(feature = "kill-points")]
pub fn stop_self() {
    let _ = nix::sys::signal::kill(nix::unistd::getpid(), nix::sys::signal::SIGSTOP);
}

/// Ends this process the way a crash test wants it: no handler, no destructor, no further instruction.
#[cfg(feature = "kill-points")]
pub fn kill_self() -> ! {
    let _ = nix::sys::signal::kill(nix::unistd::getpid(), nix::sys::signal::SIGKILL);
    loop {
        std::hint::spin_loop();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Child, Command};

    fn sleeper() -> Child {
        Command::new("sleep").arg("60").spawn().unwrap()
    }

    #[test]
    fn a_process_is_alive_then_ended_then_gone() {
        let mut child = sleeper();
        let id = identity(child.id()).unwrap();
        assert_ne!(id, 0);
        assert_eq!(state(child.id(), id), Process::Alive);
        assert_eq!(
            state(child.id(), id + 1),
            Process::Gone,
            "another process with that pid"
        );
        assert!(!thread_is_gone(child.id(), child.id()));
        child.kill().unwrap();
        while state(child.id(), id) == Process::Alive {
            std::thread::yield_now();
        }
        assert_eq!(state(child.id(), id), Process::Ended, "a zombie");
        assert!(thread_is_gone(child.id(), child.id()));
        child.wait().unwrap();
        assert_eq!(state(child.id(), id), Process::Gone);
        assert!(thread_is_gone(child.id(), child.id()));
    }

    #[test]
    fn a_stopped_process_is_told_from_a_running_one() {
        let mut child = sleeper();
        let pid = nix::unistd::Pid::from_raw(child.id().cast_signed());
        assert_eq!(pace(child.id(), child.id()), Life::Running);
        nix::sys::signal::kill(pid, nix::sys::signal::SIGSTOP).unwrap();
        while pace(child.id(), child.id()) != Life::Stopped {
            std::thread::yield_now();
        }
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(pace(child.id(), child.id()), Life::Unknown);
    }

    #[test]
    fn start_times_tell_processes_apart() {
        let mut first = sleeper();
        std::thread::sleep(std::time::Duration::from_millis(25));
        let mut second = sleeper();
        assert_ne!(start_time(first.id()).unwrap(), start_time(second.id()).unwrap());
        assert_eq!(start_time(first.id()).unwrap(), start_time(first.id()).unwrap());
        for child in [&mut first, &mut second] {
            child.kill().unwrap();
            child.wait().unwrap();
            assert_eq!(start_time(child.id()).unwrap_err().kind(), io::ErrorKind::NotFound);
        }
    }

    #[test]
    fn a_thread_is_gone_once_it_has_ended() {
        let (send, receive) = std::sync::mpsc::channel::<u32>();
        let (stop, stopped) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::spawn(move || {
            send.send(tid()).unwrap();
            stopped.recv().ok();
        });
        let other = receive.recv().unwrap();
        assert!(other != tid() && !thread_is_gone(std::process::id(), other));
        assert!(thread_is_gone(other, std::process::id()), "a thread of another process");
        drop(stop);
        thread.join().unwrap();
        while !thread_is_gone(std::process::id(), other) {
            std::thread::yield_now();
        }
    }

    #[test]
    fn ids_are_those_of_the_kernel() {
        assert_eq!((tid(), tid()), (thread_id(), thread_id()));
        assert_ne!(pid_namespace().unwrap(), 0);
        assert_ne!(boot_id().unwrap(), [0; 16]);
    }

    #[test]
    fn names_with_spaces_and_brackets_do_not_shift_the_fields() {
        assert_eq!(field_after_name("7 (a) b ) Z 1 2", 0), Some("Z"));
        assert_eq!(field_after_name("7 (a) b ) Z 1 2", 2), Some("2"));
        assert_eq!(field_after_name("garbage", 0), None);
    }
}
