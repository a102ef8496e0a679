//! What the tests share: waits that end, looks at threads, forked children, a writer that died half way, and places for
//! servers that come and go.

#![allow(dead_code, reason = "each test binary uses a part of it")]
#![allow(unreachable_pub, reason = "a module of several test binaries")]

use std::cell::RefCell;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use words::{Words, control};
use zproc::{Backend, Builder, Error, Result, Server, State, Stats, Transport, Watch};

#[allow(dead_code, reason = "the engine's tests use the rest")]
#[path = "../../../shm-state/tests/limit/words.rs"]
pub mod words;

/// Longer than anything here takes: it only ends a hang.
pub const HANG: Duration = Duration::from_secs(60);

/// Asks without waiting.
pub fn now(state: &State) -> Watch<'_> {
    state.watch().timeout(Duration::ZERO)
}

#[track_caller]
pub fn assert_nothing<T: std::fmt::Debug>(result: Result<T>) {
    assert!(matches!(result, Err(Error::Timeout)), "{result:?}");
}

thread_local! {
    /// Servers of this thread's tests, each with the state that it serves. They end with the thread.
    static SERVED: RefCell<Vec<(Server, State)>> = const { RefCell::new(Vec::new()) };
}

/// Whether this is the run of the tests in which states are used over sockets: `over_socket.rs`.
pub fn is_over_socket() -> bool {
    let program = std::env::current_exe().unwrap();
    program
        .file_name()
        .unwrap()
        .to_str()
        .unwrap()
        .starts_with("over_socket")
}

/// Has the tests run over both transports.
pub trait Served {
    /// The state, or in the run over sockets the same over one.
    fn served(self) -> Result<State>;
}

impl Served for Result<State> {
    fn served(self) -> Result<State> {
        let state = self?;
        if !is_over_socket() {
            return Ok(state);
        }
        let server = zproc::start_server().state(&state).backend(Backend::Thread).start()?;
        let remote = State::builder(&format!("{}?transport=socket", server.address()));
        let remote = remote.namespace(state.namespace()).open()?;
        assert_ne!(remote.transport(), Transport::Mapped);
        SERVED.with_borrow_mut(|served| served.push((server, state)));
        Ok(remote)
    }
}

/// What the memory of a state says, also where that is not mapped by the state itself.
pub fn stats(state: &State) -> Stats {
    with_mapped(state, |state| state.stats().unwrap())
}

/// Whether the memory of a state is in order.
pub fn is_clean(state: &State) -> bool {
    problems(state).is_empty()
}

/// What is not in order in the memory of a state.
pub fn problems(state: &State) -> Vec<String> {
    with_mapped(state, |state| state.verify().unwrap().problems)
}

/// The descriptor of the memory of a state.
pub fn memory(state: &State) -> OwnedFd {
    with_mapped(state, |state| state.fd().unwrap().try_clone_to_owned().unwrap())
}

/// Ends the servers of this thread's tests so far: for those that make many.
pub fn end_servers() {
    SERVED.with_borrow_mut(Vec::clear);
}

/// Calls `f` with the state, or with the mapped one that is served to it.
fn with_mapped<R>(state: &State, f: impl FnOnce(&State) -> R) -> R {
    if state.transport() == Transport::Mapped {
        return f(state);
    }
    SERVED.with_borrow(|served| {
        let server = state.address().unwrap().split('?').next();
        let mapped = served.iter().find(|(one, _)| Some(one.address()) == server);
        f(&mapped.unwrap().1)
    })
}

/// A state, and another identity of it.
pub fn pair() -> (State, State) {
    let state = State::anonymous().served().unwrap();
    let other = state.clone();
    (state, other)
}

/// Asks again and again until the answer is yes.
#[track_caller]
pub fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < HANG, "waited {HANG:?} in vain: {what}");
        std::thread::sleep(Duration::from_micros(200));
    }
}

/// Whether a descriptor is readable, or becomes so in time.
pub fn is_readable(fd: &impl AsFd, timeout: Duration) -> bool {
    let mut fds = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
    let timeout = PollTimeout::try_from(timeout).expect("below a month");
    loop {
        match poll(&mut fds, timeout) {
            Ok(count) => return count == 1,
            Err(nix::errno::Errno::EINTR) => {}
            Err(errno) => panic!("{errno}"),
        }
    }
}

/// The id of the calling thread.
pub fn thread_id() -> i32 {
    nix::unistd::gettid().as_raw()
}

/// Whether a thread of this process sleeps in the kernel.
pub fn sleeps(thread: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/self/task/{thread}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('S'))
}

/// The names of the threads of this process.
pub fn threads() -> Vec<String> {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let name = |task: std::fs::DirEntry| std::fs::read_to_string(task.path().join("comm")).ok();
    tasks
        .filter_map(|task| name(task.ok()?))
        .map(|name| name.trim().to_owned())
        .collect()
}

/// How many threads tell others of updates.
pub fn notifiers() -> usize {
    threads().iter().filter(|name| *name == "zproc-notifier").count()
}

/// Whether a process that was sent SIGSTOP has stopped with all its threads, which happens some time after.
pub fn has_stopped(pid: u32) -> bool {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    tasks.flatten().all(|task| {
        let stat = std::fs::read_to_string(task.path().join("stat")).unwrap_or_default();
        stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T'))
    })
}

/// Runs `test` in a child that is forked the plain way; whether it held.
pub fn holds_in_fork(test: impl FnOnce() -> bool) -> bool {
    use nix::sys::wait::{WaitStatus, waitpid};
    use nix::unistd::{ForkResult, fork};
    // SAFETY: the child runs `test`, which takes no lock that another thread of the parent may hold, and exits.
    match unsafe { fork() }.unwrap() {
        ForkResult::Child => {
            // SAFETY: a plain request to the kernel: this process ends if it hangs.
            unsafe { libc::alarm(60) };
            let held = std::panic::catch_unwind(std::panic::AssertUnwindSafe(test)).unwrap_or(false);
            // SAFETY: leaves without running what the parent has registered for its own exit.
            unsafe { libc::_exit(i32::from(!held)) }
        }
        ForkResult::Parent { child } => waitpid(child, None).unwrap() == WaitStatus::Exited(child, 0),
    }
}

/// A state in which update 1 is decided and not yet visible: as a writer leaves it that is killed between the last of
/// its assignments and the number of the update. `watch` gets the state with the cursor before it.
pub fn left_by_a_dead_writer() -> State {
    let state = Builder::anonymous().create().unwrap();
    state.clone().insert("n", 1).unwrap();
    let words = Words::of(fd_of(&state));
    let at = words.control(0);
    assert_eq!((words.get(at + control::SEQ), words.get(at + control::MARKER)), (1, 1));
    words.set(at + control::SEQ, 0);
    Ok(state).served().unwrap().fork().since(0).open().unwrap()
}

fn fd_of(state: &State) -> BorrowedFd<'_> {
    state.fd().expect("it has a file")
}

/// The state of a server, used over its socket.
pub fn over_socket(address: &str) -> State {
    State::open(&format!("{address}?transport=socket")).unwrap()
}

/// A named state, which outlives its servers, and where they listen.
pub struct Place {
    pub state: String,
    pub address: String,
}

impl Place {
    pub fn new(name: &str) -> Self {
        let name = format!("zproc-place-{name}-{}", std::process::id());
        let path = std::env::temp_dir().join(format!("{name}.sock"));
        Self {
            state: format!("shm://{name}"),
            address: format!("ipc://{}", path.display()),
        }
    }

    pub fn serve(&self) -> Server {
        zproc::start_server()
            .address(&self.address)
            .arena(&self.state)
            .start()
            .unwrap()
    }

    /// Over the socket, and mapped.
    pub fn open(&self) -> (State, State) {
        (over_socket(&self.address), State::open(&self.state).unwrap())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = zproc::remove(&self.state);
    }
}
