//! Starting a child: the running program, executed once more.
//!
//! **Clone.** `clone(CLONE_VM | CLONE_VFORK | CLONE_PIDFD)`: nothing of the parent's memory is copied, however much there
//! is, and the parent's thread waits until the child executes. Meanwhile the child runs on a stack of its own, with
//! descriptors and signal handlers of its own, and does nothing but system calls. What it leaves in memory is read by the
//! parent: the error, if it could not execute.
//!
//! **Execute** the link `/proc/self/exe`, which leads to what is running, also after the file was replaced or unlinked. The
//! child gets the arguments and the environment of this process, and one variable more ([`crate::start`]).
//!
//! **Descriptors** of this project are close-on-exec everywhere. Those that the child is to have lose the flag in the
//! child, between clone and exec, so that nothing else that this process starts inherits them. They keep their numbers.
//!
//! **Signals** are blocked on the thread that clones, so no handler of this process runs in the child, which shares its
//! memory. The child sets handlers back to their defaults, SIGPIPE too, and then blocks those that it is to block, and no
//! others.
//!
//! **CPUs**: a child may run where the thread may that asks for it.
//!
//! **One thread** of the process starts all children and lives as long as the process: `PR_SET_PDEATHSIG` fires when the
//! *thread* that made the child ends.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStringExt;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Mutex, PoisonError, mpsc};

use nix::sys::signal::{SigSet, SigmaskHow};
use shm_state::PerProcess;

use crate::start::{MARKER, Marker};
use crate::{check, tie};

/// What to start a child with.
pub struct Order<'a> {
    /// The descriptor that tells the child what to do.
    pub job: BorrowedFd<'a>,
    /// What else it is to have.
    pub keep: &'a [BorrowedFd<'a>],
    /// Whether it is to end when this process does.
    pub tied: bool,
    /// Signals that are to be blocked in it, from its beginning on and in all its threads.
    pub blocked: SigSet,
}

/// A child that was started.
#[derive(Debug)]
pub struct Child {
    /// Its process id.
    pub pid: u32,
    /// A descriptor of it: readable once it has ended.
    pub pidfd: OwnedFd,
}

/// Starts a child.
///
/// # Errors
/// Those of the system: too many processes, too little memory, no `/proc`.
pub fn spawn(order: &Order<'_>) -> io::Result<Child> {
    let home = HOME.get()?;
    let (answer, answered) = mpsc::channel();
    let keep = order.keep.iter().chain([&order.job]).map(AsRawFd::as_raw_fd).collect();
    let mut request = Request {
        cpus: cpus(),
        keep,
        job: order.job.as_raw_fd(),
        tie: None,
        blocked: order.blocked,
        answer,
    };
    {
        let mut home = home.lock().unwrap_or_else(PoisonError::into_inner);
        let home = match &mut *home {
            Some(home) => home,
            none => none.insert(Home::new()?),
        };
        if order.tied {
            request.tie = Some(home.tie.read.as_raw_fd());
        }
        home.requests.send(request).map_err(io::Error::other)?;
    }
    // The descriptors are borrowed until then.
    answered.recv().map_err(io::Error::other)?
}

/// The CPUs on which this thread may run; none on a machine with more than a set can hold.
fn cpus() -> Option<libc::cpu_set_t> {
    // SAFETY: plain data, for which zeros are valid.
    let mut cpus = unsafe { std::mem::zeroed::<libc::cpu_set_t>() };
    // SAFETY: writes a set of the size that is told.
    let result = unsafe { libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &raw mut cpus) };
    (result == 0).then_some(cpus)
}

/// What a process needs to start children. A forked process makes its own.
struct Home {
    requests: mpsc::Sender<Request>,
    tie: tie::Pipe,
}

static HOME: PerProcess<Mutex<Option<Home>>> = PerProcess::new();

struct Request {
    /// Where the thread that asks may run: its child may run there, too.
    cpus: Option<libc::cpu_set_t>,
    keep: Vec<RawFd>,
    job: RawFd,
    tie: Option<RawFd>,
    blocked: SigSet,
    answer: mpsc::Sender<io::Result<Child>>,
}

impl Home {
    fn new() -> io::Result<Self> {
        let tie = tie::Pipe::new()?;
        let (requests, received) = mpsc::channel::<Request>();
        quiet_thread("zproc-spawn", move || {
            // Ends with the process only: the sender is never dropped.
            for request in received {
                let _ = request.answer.send(start(&request));
            }
        })?;
        Ok(Self { requests, tie })
    }
}

/// Starts a thread on which no signal handler of the program ever runs.
pub fn quiet_thread(name: &str, run: impl FnOnce() + Send + 'static) -> io::Result<std::thread::JoinHandle<()>> {
    let before = SigSet::all().thread_swap_mask(SigmaskHow::SIG_BLOCK)?;
    let thread = std::thread::Builder::new().name(name.into()).spawn(run);
    before.thread_set_mask()?;
    thread
}

/// What the child finds in its parent's memory.
struct Plan {
    cpus: Option<libc::cpu_set_t>,
    keep: Vec<RawFd>,
    arguments: Vec<*const c_char>,
    environment: Vec<*const c_char>,
    tied: bool,
    blocked: SigSet,
    parent: u32,
    /// Why it could not execute.
    error: AtomicI32,
}

/// Enough for a few system calls, and a signal that cannot come.
const STACK: usize = 64 << 10;

fn start(request: &Request) -> io::Result<Child> {
    let marker = Marker {
        job: request.job,
        tie: request.tie,
    };
    let arguments: Vec<CString> = std::env::args_os().map(|arg| c_string(arg.into_vec())).collect();
    let mut environment: Vec<CString> = std::env::vars_os()
        .filter(|(name, _)| name != MARKER)
        .map(|(name, value)| c_string([name.into_vec(), value.into_vec()].join(&b'=')))
        .collect();
    environment.push(c_string(format!("{MARKER}={marker}").into_bytes()));
    let mut keep = request.keep.clone();
    keep.extend(request.tie);
    let plan = Plan {
        cpus: request.cpus,
        keep,
        arguments: pointers(&arguments),
        environment: pointers(&environment),
        tied: request.tie.is_some(),
        blocked: request.blocked,
        parent: std::process::id(),
        error: AtomicI32::new(0),
    };
    let child = clone(&plan)?;
    match plan.error.load(Ordering::Relaxed) {
        0 => Ok(child),
        errno => {
            let _ = crate::exit::reap(&child);
            let source = io::Error::from_raw_os_error(errno);
            let why = format!("executing /proc/self/exe: {source}; /proc must be mounted, and its program readable");
            Err(io::Error::new(source.kind(), why))
        }
    }
}

fn c_string(mut bytes: Vec<u8>) -> CString {
    bytes.retain(|byte| *byte != 0);
    CString::new(bytes).unwrap_or_default()
}

/// A list for `execve`: pointers into `strings`, and null.
fn pointers(strings: &[CString]) -> Vec<*const c_char> {
    strings
        .iter()
        .map(|string| string.as_ptr())
        .chain([std::ptr::null()])
        .collect()
}

fn clone(plan: &Plan) -> io::Result<Child> {
    let mut stack = vec![0u128; STACK / size_of::<u128>()];
    let mut pidfd: c_int = -1;
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_PIDFD | libc::SIGCHLD;
    let top = stack.as_mut_ptr_range().end;
    let argument = (&raw const *plan).cast_mut().cast::<c_void>();
    // SAFETY: the function runs on a stack that nobody else uses, and reads `plan`. Both outlive it, because CLONE_VFORK
    // keeps this thread in the kernel until the child has executed or ended. It makes system calls only, and unwinds
    // nothing. Signals are blocked on this thread, so no handler runs in the child.
    let pid = check(unsafe { libc::clone(in_child, top.cast(), flags, argument, &raw mut pidfd) })?;
    Ok(Child {
        pid: pid.cast_unsigned(),
        // SAFETY: the kernel made this descriptor for us (close-on-exec) and wrote its number before it returned.
        pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) },
    })
}

extern "C" fn in_child(plan: *mut c_void) -> c_int {
    // SAFETY: what `clone` passed; it lives until this has executed or ended.
    let plan = unsafe { &*plan.cast::<Plan>() };
    reset_signals();
    if plan.tied {
        // SAFETY: takes integers.
        unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
        // SAFETY: takes nothing.
        if unsafe { libc::getppid() }.cast_unsigned() != plan.parent {
            // The parent ended before that.
            leave();
        }
    }
    if let Some(cpus) = &plan.cpus {
        // SAFETY: reads a set of the size that is told. If it fails, the child runs where the spawning thread may.
        unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), cpus) };
    }
    for fd in &plan.keep {
        // SAFETY: takes integers; the table of descriptors is this child's own.
        unsafe { libc::fcntl(*fd, libc::F_SETFD, 0) };
    }
    let blocked: &libc::sigset_t = plan.blocked.as_ref();
    // SAFETY: reads a set that `start` keeps; the mask is that of this child, whose handlers are the defaults.
    unsafe { libc::sigprocmask(libc::SIG_SETMASK, blocked, std::ptr::null_mut()) };
    const PROGRAM: &CStr = c"/proc/self/exe";
    // SAFETY: C strings and lists of them that end in null, which `start` keeps until this has executed.
    unsafe { libc::execve(PROGRAM.as_ptr(), plan.arguments.as_ptr(), plan.environment.as_ptr()) };
    let error = io::Error::last_os_error().raw_os_error().unwrap_or(libc::EINVAL);
    plan.error.store(error, Ordering::Relaxed);
    leave()
}

fn leave() -> ! {
    // SAFETY: ends this child without running anything of its parent's.
    unsafe { libc::_exit(127) }
}

/// Sets handlers to their defaults, and SIGPIPE, which the standard library ignores. Other ignored signals stay ignored.
fn reset_signals() {
    for signal in 1..=libc::SIGRTMAX() {
        // SAFETY: plain data, for which zeros are valid.
        let mut action = unsafe { std::mem::zeroed::<libc::sigaction>() };
        // SAFETY: writes what is this function's own; a number that cannot be asked for is an error.
        let known = unsafe { libc::sigaction(signal, std::ptr::null(), &raw mut action) } == 0;
        let is_plain = action.sa_sigaction == libc::SIG_DFL || action.sa_sigaction == libc::SIG_IGN;
        if known && (!is_plain || signal == libc::SIGPIPE) {
            // SAFETY: plain data, for which zeros are valid: no flags, the default handler.
            let default = unsafe { std::mem::zeroed::<libc::sigaction>() };
            // SAFETY: the handlers are this child's own, since CLONE_SIGHAND is not given.
            unsafe { libc::sigaction(signal, &raw const default, std::ptr::null_mut()) };
        }
    }
}
