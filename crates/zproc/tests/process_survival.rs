//! Nothing survives by accident: no process, zombie or descriptor, whoever is killed or however a context ends.
//!
//! One test at a time in this file looks at the descriptors of the process, so they take turns.

use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use zproc::{Backend, Context, Error, Result, Snapshot, State};

zproc::init_tests!();

static TURN: Mutex<()> = Mutex::new(());

fn turn() -> MutexGuard<'static, ()> {
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

fn sleep(state: State, generation: u32) -> Result<()> {
    state.insert(("generation", generation), std::process::id())?;
    state.get_when_available("never")?;
    Ok(())
}

/// Starts a child, which starts a child, to the third generation.
fn family(ctx: Context, generation: u32) -> Result<()> {
    if generation < 3 {
        ctx.process(family).args(generation + 1).start()?;
        ctx.process(sleep).args(10 + generation).start()?;
    }
    sleep(ctx.state().clone(), generation)
}

/// Starts a family; returns the ids of all its members, the eldest first.
fn found(ctx: &Context) -> (zproc::Process<()>, Vec<u32>) {
    ctx.state().clear().unwrap();
    ctx.state().go_live().unwrap();
    let eldest = ctx.process(family).args(1).start().unwrap();
    let keys = [1, 2, 3, 11, 12].map(|generation| ("generation", generation));
    let all = ctx
        .state()
        .get_when(|now| now.len().map(|len| len == keys.len()))
        .unwrap();
    let pids = keys.map(|key| all.get(key).unwrap().unwrap());
    (eldest, pids.to_vec())
}

/// Whether it has ended; one that nobody has waited for yet has.
fn has_ended(pid: u32) -> bool {
    match std::fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(stat) => stat
            .rsplit_once(") ")
            .is_none_or(|(_, rest)| rest.starts_with(['Z', 'X'])),
        Err(_) => true,
    }
}

fn all_end(pids: &[u32]) {
    within_a_second(|| match pids.iter().find(|pid| !has_ended(**pid)) {
        Some(alive) => Err(format!("{alive} of {pids:?} survives")),
        None => Ok(()),
    });
}

/// Holds a second later; on a machine that is busy, when it could have ended some other processes one after the other since.
#[track_caller]
fn within_a_second(mut holds: impl FnMut() -> std::result::Result<(), String>) {
    let start = Instant::now();
    let mut others = 0;
    while let Err(text) = holds() {
        if start.elapsed() < Duration::from_secs(1) {
            std::thread::sleep(Duration::from_millis(1));
        } else {
            assert!(others < 20, "after {:?}: {text}", start.elapsed());
            end_bare_processes();
            others += 1;
        }
    }
}

/// Starts and kills a few processes that have nothing to do with the library.
fn end_bare_processes() {
    let start = || Command::new("sleep").arg("600").spawn().unwrap();
    let mut all: [Child; 3] = std::array::from_fn(|_| start());
    all.iter_mut().for_each(|process| process.kill().unwrap());
    for process in &mut all {
        process.wait().unwrap();
    }
}

fn kill_now(pid: u32) {
    kill(Pid::from_raw(pid as i32), Signal::SIGKILL).unwrap();
}

#[test]
fn a_hundred_kills_of_a_parent_leave_nothing() {
    let _turn = turn();
    let ctx = Context::new().unwrap();
    for _ in 0..100 * load() {
        let (eldest, pids) = found(&ctx);
        kill_now(pids[0]);
        let error = eldest.wait().unwrap_err();
        assert!(
            matches!(
                error,
                Error::ProcessWait {
                    exit_code: -9,
                    source: None,
                    ..
                }
            ),
            "{error}"
        );
        all_end(&pids);
    }
    assert!(ctx.state().verify().unwrap().is_clean());
}

#[test]
fn the_death_of_a_middle_generation_ends_what_is_below_and_nothing_else() {
    let _turn = turn();
    let ctx = Context::new().unwrap();
    for _ in 0..10 {
        let (eldest, pids) = found(&ctx);
        kill_now(pids[1]);
        all_end(&[pids[1], pids[2], pids[4]]);
        assert!(eldest.is_alive() && !has_ended(pids[3]));
        assert_eq!(eldest.stop().unwrap(), -15);
        all_end(&pids);
    }
}

#[test]
fn the_death_of_a_child_ends_nothing_else() {
    let _turn = turn();
    let ctx = Context::new().unwrap();
    let (eldest, pids) = found(&ctx);
    kill_now(pids[2]);
    all_end(&pids[2..3]);
    std::thread::sleep(Duration::from_millis(50));
    assert!([0, 1, 3, 4].iter().all(|member| !has_ended(pids[*member])));
    drop(ctx);
    all_end(&pids);
    assert!(!eldest.is_alive());
}

/// One of all that a process can have: workers at work, a handler, a server, a child, and a state of its own that they share.
fn with_everything(told: State) -> Result<()> {
    fn handler(now: Snapshot<'_>, state: &State) -> Result<()> {
        state.insert("handled", now.len()? as u64)
    }
    let ctx = Context::new()?;
    let slow = |state: &State, n: u64| {
        std::thread::sleep(Duration::from_millis(1));
        state.insert(("item", n % 100), n)
    };
    let mut results = ctx.process_map(slow, 0..).count(2).start()?;
    results.next().unwrap_or(Ok(()))?;
    let handler = ctx.call_when_change(["go"], handler).start()?;
    let child = ctx.process(sleep).args(1).restart_for_any().start()?;
    ctx.state().insert("go", true)?;
    let handled = ctx.state().clone();
    handled.get_when_available("handled")?;
    handled.get_when_available(("generation", 1))?;
    let mut pids: Vec<u32> = ctx.workers().iter().filter_map(|worker| worker.pid()).collect();
    pids.extend(
        [handler.pid(), child.pid(), Some(ctx.server()?.pid())]
            .into_iter()
            .flatten(),
    );
    // It serves, and ends in order from then on.
    ctx.ping()?.send()?;
    told.insert("family", (pids, ctx.address()?.to_owned()))?;
    results.for_each(drop);
    Ok(())
}

/// The files that a process has open in a directory, or in the one of named memory, which would stay when it ends.
fn lasting_files(pid: u32, directory: &Path) -> Vec<PathBuf> {
    let fds = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    let files = fds.filter_map(|fd| std::fs::read_link(fd.ok()?.path()).ok());
    let lasts = |file: &PathBuf| file.starts_with("/dev/shm") || file.starts_with(directory);
    files.filter(lasts).filter(|file| file.exists()).collect()
}

#[test]
fn the_death_of_a_parent_with_workers_handlers_and_servers_leaves_no_process_file_or_descriptor() {
    let _turn = turn();
    let ctx = Context::new().unwrap();
    let fds = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let mut before = None;
    for signal in [Signal::SIGKILL, Signal::SIGTERM, Signal::SIGABRT]
        .into_iter()
        .cycle()
        .take(9)
    {
        ctx.state().clear().unwrap();
        ctx.state().go_live().unwrap();
        let parent = ctx.process(with_everything).start().unwrap();
        let told = ctx.state().watch().timeout(Duration::from_secs(60));
        let told = told.get_when_available("family").unwrap();
        let (mut pids, address): (Vec<u32>, String) = told.get("family").unwrap().unwrap();
        drop(told);
        pids.push(parent.pid().unwrap());
        assert_eq!(pids.len(), 6);
        let socket = Path::new(address.strip_prefix("ipc://").unwrap());
        let directory = socket.parent().unwrap();
        let mut files: Vec<PathBuf> = pids.iter().flat_map(|pid| lasting_files(*pid, directory)).collect();
        let lock = format!("{}.lock", socket.display());
        assert_eq!(files, [Path::new(&lock)], "what a server holds, and nothing else");
        files.push(socket.to_owned());
        assert!(socket.exists());
        kill(Pid::from_raw(parent.pid().unwrap().cast_signed()), signal).unwrap();
        assert!(parent.wait().is_err());
        all_end(&pids);
        within_a_second(|| match files.iter().find(|file| file.exists()) {
            Some(file) => Err(format!("{} is left", file.display())),
            None => Ok(()),
        });
        let now = fds();
        assert!(now <= *before.get_or_insert(now), "{before:?} and {now} descriptors");
    }
}

/// A child is tied to its parent twice. Each means alone ends it.
#[test]
fn each_of_the_two_ties_to_a_parent_is_enough() {
    fn tied_once(state: State, by_pipe: bool) -> Result<()> {
        if by_pipe {
            nix::sys::prctl::set_pdeathsig(None).map_err(Error::other)?;
        } else {
            for fd in std::fs::read_dir("/proc/self/fd").map_err(Error::other)? {
                let path = fd.map_err(Error::other)?.path();
                let number = path.file_name().and_then(|name| name.to_str()?.parse::<i32>().ok());
                let is_pipe = std::fs::read_link(&path).is_ok_and(|to| to.to_string_lossy().starts_with("pipe:"));
                if let Some(number) = number.filter(|number| is_pipe && *number > 2) {
                    nix::unistd::close(number).map_err(Error::other)?;
                    state.insert("closed", true)?;
                }
            }
            assert!(state.contains_key("closed")?);
        }
        sleep(state, u32::from(by_pipe))
    }
    let _turn = turn();
    for by_pipe in [false, true] {
        let ctx = Context::new().unwrap();
        let parent = ctx.process(|ctx: Context, by_pipe: bool| -> Result<()> {
            ctx.process(tied_once).args(by_pipe).start()?;
            ctx.state().get_when_available("never").map(drop)
        });
        let parent = parent.args(by_pipe).start().unwrap();
        let key = ("generation", u32::from(by_pipe));
        let now = ctx.state().get_when_available(key).unwrap();
        let child: u32 = now.get(key).unwrap().unwrap();
        assert!(!has_ended(child));
        kill_now(parent.pid().unwrap());
        all_end(&[child]);
    }
}

#[test]
fn a_thread_that_started_processes_may_end() {
    let _turn = turn();
    let ctx = Context::new().unwrap();
    let child = std::thread::scope(|scope| {
        scope
            .spawn(|| ctx.process(sleep).args(1).start().unwrap())
            .join()
            .unwrap()
    });
    ctx.state().get_when_available(("generation", 1)).unwrap();
    std::thread::sleep(Duration::from_millis(50));
    assert!(child.is_alive());
    assert_eq!(child.stop().unwrap(), -15);
}

#[test]
fn a_parent_that_panics_or_is_terminated_leaves_nothing() {
    let _turn = turn();
    let ctx = Context::new().unwrap();
    let parent = ctx.process(|ctx: Context| -> Result<()> {
        let (_eldest, pids) = found(&ctx);
        ctx.state().insert("family", pids)?;
        panic!("on purpose")
    });
    assert!(parent.start().unwrap().wait().is_err());
    let pids: Vec<u32> = ctx.state().get("family").unwrap().unwrap();
    all_end(&pids);
    let (eldest, pids) = found(&ctx);
    kill(Pid::from_raw(pids[0] as i32), Signal::SIGTERM).unwrap();
    assert!(eldest.wait().is_err());
    all_end(&pids);
}

#[test]
fn what_is_not_to_be_cleaned_up_goes_on() {
    let _turn = turn();
    let ctx = Context::new().unwrap();
    let parent = ctx.process(|state: State| -> Result<u32> {
        let ctx = Context::builder().state(state).cleanup(false).build()?;
        let daemon = ctx.process(sleep).args(1).start()?;
        ctx.state().get_when_available(("generation", 1))?;
        Ok(daemon.pid().unwrap())
    });
    let daemon = parent.start().unwrap().wait().unwrap();
    std::thread::sleep(Duration::from_millis(50));
    assert!(!has_ended(daemon));
    ctx.state().insert("never", "but now").unwrap();
    all_end(&[daemon]);
}

#[test]
fn no_descriptor_is_left_here_and_none_too_many_is_there() {
    let _turn = turn();
    let count = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let here = || {
        let ctx = Context::new().unwrap();
        let there = ctx.process(|| {
            let fds = std::fs::read_dir("/proc/self/fd").unwrap().filter_map(|fd| {
                let fd = fd.unwrap().path();
                Some(std::fs::read_link(fd).ok()?.to_string_lossy().into_owned())
            });
            fds.filter(|target| target.contains("zproc-job")).count()
        });
        let others: Vec<_> = (0..5).map(|n| ctx.process(sleep).args(n).start().unwrap()).collect();
        let jobs = there.start().unwrap().wait().unwrap();
        assert_eq!(jobs, 1, "a child has its own job only");
        assert!(others.iter().all(zproc::Process::is_alive));
        let results: Vec<_> = (0..20)
            .map(|n: u32| ctx.process(|n: u32| n).args(n).start().unwrap())
            .collect();
        results.iter().for_each(|one| assert!(one.wait().is_ok()));
        // All that has descriptors or threads of its own.
        let handler = |_: Snapshot<'_>, _: &State| ();
        ctx.call_when_change(["n"], handler).start().unwrap();
        ctx.process(sleep).args(9).restart_for_any().start().unwrap();
        let thread = ctx.process(|| 5).backend(Backend::Thread).start().unwrap();
        assert_eq!(thread.wait().unwrap(), 5);
        ctx.process_map(|n: u32| n, 0..100)
            .count(2)
            .start()
            .unwrap()
            .for_each(drop);
        ctx.process_map(|n: u32| n, 0..).count(2).submit().unwrap();
    };
    here();
    let before = count();
    (0..3).for_each(|_| here());
    // Threads end a little later, with what they have open.
    let start = Instant::now();
    while count() > before {
        assert!(
            start.elapsed() < Duration::from_secs(30),
            "{before} and {} descriptors",
            count()
        );
        std::thread::sleep(Duration::from_millis(5));
    }
    let zombies = std::fs::read_dir("/proc/self/task")
        .unwrap()
        .filter_map(|task| std::fs::read_to_string(task.unwrap().path().join("children")).ok());
    assert_eq!(
        zombies.collect::<String>().trim(),
        "",
        "no child is left, not even a dead one"
    );
}

/// Processes that nobody waited for were left as zombies, with two descriptors each, until their context was closed.
#[test]
fn what_is_started_and_forgotten_leaves_nothing_while_others_are_started() {
    let _turn = turn();
    let ctx = Context::new().unwrap();
    let fds = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let start = || ctx.process(|| ()).start().unwrap().pid().unwrap();
    ctx.process(sleep).args(1).start().unwrap();
    let mut pids = vec![start()];
    let before = fds();
    for _ in 0..40 {
        all_end(&pids);
        pids.push(start());
    }
    all_end(&pids);
    let left = |pid: &&u32| std::path::Path::new(&format!("/proc/{pid}")).exists();
    let zombies = pids.iter().filter(left).count();
    assert!(
        zombies < 5 && fds() < before + 10,
        "{zombies} zombies, {before} and {} descriptors",
        fds()
    );
    // One that has a thread to restart it, and one that is a thread, have an eventfd more.
    let before = fds();
    for _ in 0..20 {
        ctx.process(|| ()).restart_for_any().start().unwrap().wait().unwrap();
        ctx.process(|| ())
            .backend(Backend::Thread)
            .start()
            .unwrap()
            .wait()
            .unwrap();
    }
    assert!(fds() < before + 10, "{before} and {} descriptors", fds());
}

/// How many times as often as usual things are repeated: more in a soak.
fn load() -> u32 {
    std::env::var("ZPROC_LOAD")
        .ok()
        .and_then(|load| load.parse().ok())
        .unwrap_or(1)
}
