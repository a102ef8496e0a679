//! Servers: where they listen, whom they let in, what they hand over, and what is left when they end.

use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use zproc::{Backend, Context, Error, Result, Server, State};

zproc::init_tests!();

mod support;
use support::{HANG, eventually, has_stopped};

const BOTH: [Backend; 2] = [Backend::Thread, Backend::Process];

fn started(backend: Backend) -> Server {
    zproc::start_server().backend(backend).start().unwrap()
}

fn path_of(server: &Server) -> PathBuf {
    server.address().strip_prefix("ipc://").unwrap().into()
}

fn own_path(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("zproc-server-{name}-{}.sock", std::process::id()))
}

fn address_of(path: &Path) -> String {
    format!("ipc://{}", path.display())
}

fn send(pid: u32, signal: Signal) {
    kill(Pid::from_raw(pid.cast_signed()), signal).unwrap();
}

/// A signal only asks for it.
fn stop(server: &Server) {
    stop_pid(server.pid());
}

fn stop_pid(pid: u32) {
    send(pid, Signal::SIGSTOP);
    eventually("it stops", || has_stopped(pid));
}

#[test]
fn a_server_hands_over_one_state_to_all_its_clients() {
    for backend in BOTH {
        let server = started(backend);
        assert_eq!(server.pid() == std::process::id(), backend == Backend::Thread);
        let (one, other) = (
            State::open(server.address()).unwrap(),
            State::open(server.address()).unwrap(),
        );
        assert_eq!(one.address(), Some(server.address()));
        one.insert("cookies", 5).unwrap();
        assert_eq!(
            other.get_when_available("cookies").unwrap().get("cookies").unwrap(),
            Some(5)
        );
        let kitchen = State::builder(server.address())
            .namespace("kitchen")
            .open_or_create()
            .unwrap();
        assert!(kitchen.is_empty().unwrap());
        assert!(one.verify().unwrap().is_clean());
    }
}

#[test]
fn a_random_address_lies_in_a_directory_of_this_user_alone_and_goes_with_the_server() {
    for backend in BOTH {
        let server = started(backend);
        let path = path_of(&server);
        let directory = std::fs::metadata(path.parent().unwrap()).unwrap();
        assert_eq!(directory.mode() & 0o777, 0o700);
        assert!(std::fs::metadata(&path).unwrap().file_type().is_socket());
        assert!(server.is_alive());
        let address = server.address().to_owned();
        if backend == Backend::Thread {
            server.stop().unwrap();
        } else {
            drop(server);
        }
        assert!(!path.exists() && !PathBuf::from(format!("{}.lock", path.display())).exists());
        assert!(matches!(State::open(&address), Err(Error::NoServer { .. })));
        assert!(matches!(zproc::ping(&address).send(), Err(Error::NoServer { .. })));
    }
}

#[test]
fn an_address_in_use_is_refused_and_that_of_a_killed_server_taken_over() {
    let path = own_path("takeover");
    let start = || zproc::start_server().address(&address_of(&path)).start();
    let first = start().unwrap();
    let error = start().expect_err("it is in use");
    assert!(
        matches!(&error, Error::AddressInUse { reason, .. } if reason.contains(&first.pid().to_string())),
        "{error}"
    );
    send(first.pid(), Signal::SIGKILL);
    eventually("the killed server ends", || !first.is_alive());
    assert!(path.exists(), "nobody was there to remove it");
    assert!(matches!(State::open(&address_of(&path)), Err(Error::NoServer { .. })));
    // Several at once, one of which wins.
    let winners: Vec<Server> = std::thread::scope(|scope| {
        let starters: Vec<_> = (0..4).map(|_| scope.spawn(start)).collect();
        let results = starters.into_iter().map(|starter| starter.join().unwrap());
        results
            .filter_map(|result| match result {
                Ok(server) => Some(server),
                Err(Error::AddressInUse { .. }) => None,
                Err(error) => panic!("{error}"),
            })
            .collect()
    });
    assert_eq!(winners.len(), 1);
    // The dead one does not remove what is another's by now.
    drop(first);
    assert!(zproc::ping(&address_of(&path)).send().unwrap().is_some());
    drop(winners);
    assert!(!path.exists());
}

#[test]
fn a_server_that_is_a_process_ends_with_the_one_that_started_it() {
    fn starter() -> Result<(u32, String)> {
        let server = zproc::start_server().start()?;
        // From then on it ends in order; before, it is killed as every child is.
        zproc::ping(server.address()).send()?;
        let told = (server.pid(), server.address().to_owned());
        std::mem::forget(server);
        Ok(told)
    }
    let ctx = Context::new().unwrap();
    let (pid, address) = ctx.process(starter).start().unwrap().wait().unwrap();
    let gone = || !Path::new(&format!("/proc/{pid}")).exists() || is_zombie(pid);
    eventually("the server ends", gone);
    eventually("nobody listens", || {
        matches!(State::open(&address), Err(Error::NoServer { .. }))
    });
    let path = PathBuf::from(address.strip_prefix("ipc://").unwrap());
    assert!(files(&path).iter().all(|file| !file.exists()));
}

/// A child that a program forks plainly, and what it leaves.
struct Forked(u32);

impl Drop for Forked {
    fn drop(&mut self) {
        let _ = kill(Pid::from_raw(self.0.cast_signed()), Signal::SIGKILL);
    }
}

/// Forks a child that does nothing, and tells of it.
fn fork_and_tell(told: &State, address: &str) -> Result<()> {
    // SAFETY: the child makes system calls only, and ends after a minute.
    let child = match unsafe { nix::unistd::fork() }.unwrap() {
        nix::unistd::ForkResult::Parent { child } => child.as_raw().cast_unsigned(),
        nix::unistd::ForkResult::Child => {
            // SAFETY: ends this process in a minute.
            unsafe { libc::alarm(60) };
            loop {
                nix::unistd::pause();
            }
        }
    };
    told.extend([("child", zproc::Value::from(child)), ("address", address.into())])?;
    std::thread::sleep(HANG);
    Ok(())
}

/// The child of such a program, whose address was told, when the program was killed.
fn killed(program: fn(State) -> Result<()>, given: &str) -> (Forked, String) {
    let told = State::anonymous().unwrap();
    told.insert("given", given).unwrap();
    let ctx = Context::builder().state(told.clone()).build().unwrap();
    let process = ctx.process(program).start().unwrap();
    let now = told.watch().timeout(HANG).get_when_available("address").unwrap();
    let child = Forked(now.get("child").unwrap().unwrap());
    send(process.pid().unwrap(), Signal::SIGKILL);
    let _ = process.wait();
    (child, now.get("address").unwrap().unwrap())
}

/// A child kept socket and lock of its parent's server: the address was in use by the dead, and connections were let in
/// that nobody answered.
#[test]
fn a_forked_child_keeps_nothing_of_a_server_that_is_a_thread() {
    fn serve(told: State) -> Result<()> {
        let given: String = told.get("given")?.unwrap_or_default();
        let server = zproc::start_server().address(&given).backend(Backend::Thread).start()?;
        fork_and_tell(&told, server.address())
    }
    let path = own_path("forked");
    let (_child, address) = killed(serve, &address_of(&path));
    assert!(matches!(
        zproc::ping(&address).timeout(HANG).send(),
        Err(Error::NoServer { .. })
    ));
    let next = zproc::start_server()
        .address(&address)
        .backend(Backend::Thread)
        .start()
        .unwrap();
    assert!(zproc::ping(next.address()).timeout(HANG).send().unwrap().is_some());
}

/// How many processes have a file open, or mapped.
fn holders(inode: u64) -> usize {
    let holds = |process: &Path| {
        let maps = std::fs::read_to_string(process.join("maps")).unwrap_or_default();
        let inode_of = |line: &str| line.split_whitespace().nth(4).and_then(|inode| inode.parse().ok());
        let is_it = |file: std::fs::Metadata| file.ino() == inode;
        maps.lines()
            .any(|line| line.contains("memfd") && inode_of(line) == Some(inode))
            || std::fs::read_dir(process.join("fd")).is_ok_and(|fds| {
                let is_memory = |fd: &Path| {
                    let to = std::fs::read_link(fd);
                    to.is_ok_and(|to| to.to_string_lossy().starts_with("/memfd:"))
                };
                fds.flatten()
                    .any(|fd| is_memory(&fd.path()) && std::fs::metadata(fd.path()).is_ok_and(is_it))
            })
    };
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    processes.filter(|process| holds(&process.path())).count()
}

#[test]
fn the_memory_of_an_anonymous_state_is_gone_when_everybody_is_killed() {
    fn serve(told: State) -> Result<()> {
        let server = zproc::start_server().start()?;
        let state = State::open(server.address())?;
        let inode = nix::sys::stat::fstat(state.fd().expect("it is mapped")).unwrap().st_ino;
        told.insert("address", server.address())?;
        told.extend([("inode", inode), ("server", server.pid().into())])?;
        std::thread::sleep(HANG);
        Ok(())
    }
    let told = State::anonymous().unwrap();
    let ctx = Context::builder().state(told.clone()).build().unwrap();
    let process = ctx.process(serve).start().unwrap();
    let now = told.watch().timeout(HANG).get_when_available("server").unwrap();
    let number = |key: &str| now.get::<u64>(key).unwrap().unwrap();
    let (inode, server) = (number("inode"), number("server") as u32);
    assert_eq!(holders(inode), 2, "server and client");
    send(server, Signal::SIGKILL);
    send(process.pid().unwrap(), Signal::SIGKILL);
    let _ = process.wait();
    eventually("nobody has it", || holders(inode) == 0);
    let address: String = now.get("address").unwrap().unwrap();
    let path = address.strip_prefix("ipc://").unwrap();
    // Unless a server of another test has swept them by now.
    files(Path::new(path))
        .iter()
        .for_each(|file| drop(std::fs::remove_file(file)));
}

/// A child kept the connection of its parent open, and the server the snapshots.
#[test]
fn a_forked_child_keeps_nothing_of_a_client() {
    fn use_over_socket(told: State) -> Result<()> {
        let given: String = told.get("given")?.unwrap_or_default();
        let state = State::open(&format!("{given}?transport=socket"))?;
        std::mem::forget((state.snapshot()?, state.snapshot()?));
        fork_and_tell(&told, &given)
    }
    let server = started(Backend::Process);
    let state = State::open(server.address()).unwrap();
    let (_child, _) = killed(use_over_socket, server.address());
    eventually("its snapshots are given back", || {
        state
            .stats()
            .unwrap()
            .namespaces
            .iter()
            .all(|namespace| namespace.pins.is_empty())
    });
}

/// Ctrl-C ended the server of a program that handles it, since the terminal signals both.
#[test]
fn a_server_that_is_a_process_outlives_the_signals_of_terminals() {
    let server = started(Backend::Process);
    let address = server.address().to_owned();
    for signal in [Signal::SIGINT, Signal::SIGHUP, Signal::SIGQUIT] {
        send(server.pid(), signal);
        assert!(zproc::ping(&address).timeout(HANG).send().unwrap().is_some());
    }
    assert!(server.is_alive());
    server.stop().unwrap();
    assert!(matches!(zproc::ping(&address).send(), Err(Error::NoServer { .. })));
}

fn is_zombie(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with('Z'))
}

/// The state was created although nobody could serve it there.
#[test]
fn a_server_that_cannot_be_started_leaves_nothing_behind() {
    let server = started(Backend::Thread);
    let name = format!("shm://zproc-test-nothing-{}", std::process::id());
    let in_use = zproc::start_server().address(server.address()).arena(&name).start();
    assert!(matches!(in_use, Err(Error::AddressInUse { .. })));
    assert!(matches!(State::open(&name), Err(Error::NotFound { .. })));
    // And if it is the state that cannot be had, the address is free again.
    let path = own_path("nothing");
    let no_state = zproc::start_server()
        .address(&address_of(&path))
        .arena("shm://")
        .start();
    assert!(matches!(no_state, Err(Error::InvalidAddress { .. })), "{no_state:?}");
    assert!(!path.exists() && !PathBuf::from(format!("{}.lock", path.display())).exists());
    for backend in BOTH {
        // It started, and could serve nobody.
        let remote = State::open(&format!("{}?transport=socket", server.address())).unwrap();
        let result = zproc::start_server().state(&remote).backend(backend).start();
        assert!(matches!(result, Err(Error::NotMapped)), "{result:?}");
    }
}

#[test]
fn bad_addresses_of_servers_are_clear_errors() {
    let long = address_of(&std::env::temp_dir().join("x".repeat(120)));
    let start = |address: &str| zproc::start_server().address(address).backend(Backend::Thread).start();
    let error = start(&long).err().unwrap().to_string();
    assert!(error.contains("107"), "{error}");
    assert!(State::open(&long).unwrap_err().to_string().contains("107"));
    for bad in ["shm://kitchen", "ipc://relative", "tcp://127.0.0.1:1", "nothing"] {
        assert!(matches!(start(bad), Err(Error::InvalidAddress { .. })), "{bad}");
    }
    let nowhere = start("ipc:///no/such/directory/server.sock");
    assert!(matches!(nowhere, Err(Error::Engine(_))), "{nowhere:?}");
    let address = address_of(&own_path("create"));
    assert!(matches!(State::create(&address), Err(Error::InvalidAddress { .. })));
    assert!(matches!(zproc::remove(&address), Err(Error::InvalidAddress { .. })));
}

#[test]
fn a_named_state_has_its_server_found_by_its_name() {
    let name = format!("shm://zproc-test-server-{}", std::process::id());
    let state = State::create(&name).unwrap();
    let none = state.ping().unwrap().send();
    assert!(
        matches!(&none, Err(Error::NoServer { address, .. }) if *address == name),
        "{none:?}"
    );
    let server = zproc::start_server()
        .arena(&name)
        .backend(Backend::Thread)
        .start()
        .unwrap();
    assert!(state.ping().unwrap().send().unwrap().is_some());
    let second = zproc::start_server()
        .arena(&name)
        .backend(Backend::Thread)
        .start()
        .unwrap();
    assert_ne!(server.address(), second.address());
    State::open(second.address()).unwrap().insert("cookies", 5).unwrap();
    assert_eq!(state.get("cookies").unwrap(), Some(5));
    zproc::remove(&name).unwrap();
}

/// It was looked for where the environment of who asks points, and not where its own did.
#[test]
fn a_named_state_has_its_server_found_from_another_environment() {
    let name = format!("shm://zproc-test-environment-{}", std::process::id());
    let server = zproc::start_server().arena(&name).start().unwrap();
    let runtime = std::env::temp_dir().join(format!("zproc-test-environment-{}", std::process::id()));
    std::fs::create_dir(&runtime).unwrap();
    let there = runtime.join("zproc");
    std::fs::DirBuilder::new().mode(0o700).create(&there).unwrap();
    // One that has ended is no reason not to look further.
    drop(std::os::unix::net::UnixListener::bind(there.join(path_of(&server).file_name().unwrap())).unwrap());
    let status = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "a_ping_in_this_environment"])
        .env("XDG_RUNTIME_DIR", &runtime)
        .env(ASK, &name)
        .status();
    assert!(status.unwrap().success());
    drop(server);
    std::fs::remove_dir_all(runtime).unwrap();
    zproc::remove(&name).unwrap();
}

const ASK: &str = "ZPROC_TEST_ASK";

/// Run in another environment by the test above.
#[test]
#[ignore = "is a part of the test before"]
fn a_ping_in_this_environment() {
    let address = std::env::var(ASK).expect("it is run by another test");
    assert!(zproc::ping(&address).timeout(HANG).send().unwrap().is_some());
}

#[test]
fn keys_open_what_they_belong_to_and_nothing_else() {
    for backend in BOTH {
        let locked = zproc::start_server()
            .backend(backend)
            .secret_key("open sesame")
            .start()
            .unwrap();
        let open = started(backend);
        let with = |server: &Server, key: &str| State::builder(server.address()).secret_key(key).open();
        assert!(with(&locked, "open sesame").is_ok());
        for (error, says) in [
            (with(&locked, "open barley").unwrap_err(), "wrong"),
            (State::open(locked.address()).unwrap_err(), "has none"),
            (with(&locked, "").unwrap_err(), "empty"),
            (with(&open, "open sesame").unwrap_err(), "has no secret key"),
            (
                zproc::ping(locked.address()).secret_key("x").send().unwrap_err(),
                "wrong",
            ),
            (zproc::ping(locked.address()).send().unwrap_err(), "has none"),
        ] {
            assert!(matches!(error, Error::AccessDenied { .. }), "{error}");
            assert!(error.to_string().contains(says), "{error}");
        }
        let empty = zproc::start_server().backend(backend).secret_key("").start();
        assert!(matches!(empty, Err(Error::AccessDenied { .. })));
        let state = with(&locked, "open sesame").unwrap();
        assert!(state.ping().unwrap().send().unwrap().is_some(), "a state knows its key");
        assert!(
            state
                .fork()
                .namespace("n")
                .open()
                .unwrap()
                .ping()
                .unwrap()
                .send()
                .unwrap()
                .is_some()
        );
    }
}

#[test]
fn pings_echo_what_they_are_given() {
    let server = started(Backend::Process);
    for payload in [vec![], vec![1, 2, 3], vec![7; 1 << 20]] {
        let pong = zproc::ping(server.address())
            .payload(payload)
            .timeout(HANG)
            .send()
            .unwrap()
            .unwrap();
        assert_eq!(pong.pid, server.pid());
        assert!(pong.round_trip > Duration::ZERO);
    }
    // It does not wait, but on a busy machine the answer may be there before one looks.
    let at_once = zproc::ping(server.address()).timeout(Duration::ZERO).send();
    assert!(matches!(at_once, Err(Error::Timeout) | Ok(Some(_))), "{at_once:?}");
}

#[test]
fn a_stopped_server_lets_pings_run_into_their_timeout_and_answers_later() {
    let server = started(Backend::Process);
    stop(&server);
    for timeout in [Duration::ZERO, Duration::from_millis(50)] {
        let late = zproc::ping(server.address()).timeout(timeout).send();
        assert!(matches!(late, Err(Error::Timeout)), "{late:?}");
    }
    send(server.pid(), Signal::SIGCONT);
    assert!(zproc::ping(server.address()).timeout(HANG).send().unwrap().is_some());
}

/// A late answer to one is not the answer to the next.
#[test]
fn a_ping_that_is_kept_outlives_timeouts_and_servers() {
    let path = own_path("kept");
    let start = || zproc::start_server().address(&address_of(&path)).start().unwrap();
    let server = start();
    let ping = zproc::ping(server.address()).timeout(HANG);
    let pid = || ping.send().unwrap().map(|pong| pong.pid);
    assert_eq!([pid(), pid()], [Some(server.pid()); 2]);

    let hurried = ping.clone().timeout(Duration::from_millis(200));
    eventually("an answer in time", || matches!(hurried.send(), Ok(Some(_))));
    stop(&server);
    assert!(matches!(hurried.send(), Err(Error::Timeout)));
    send(server.pid(), Signal::SIGCONT);
    eventually("an answer in time, and its own", || match hurried.send() {
        Ok(pong) => pong.is_some(),
        Err(Error::Timeout) => false,
        Err(error) => panic!("{error}"),
    });

    send(server.pid(), Signal::SIGKILL);
    eventually("its end", || !server.is_alive());
    assert!(matches!(ping.send(), Err(Error::NoServer { .. })));
    let next = start();
    assert_eq!(pid(), Some(next.pid()));
}

/// The connection is the same: the server's descriptors do not become more.
#[test]
fn pings_of_one_value_share_a_connection() {
    let server = started(Backend::Process);
    let ping = zproc::ping(server.address()).timeout(HANG);
    let descriptors = || std::fs::read_dir(format!("/proc/{}/fd", server.pid())).unwrap().count();
    ping.send().unwrap().unwrap();
    let before = descriptors();
    for _ in 0..20 {
        ping.send().unwrap().unwrap();
        assert_eq!(descriptors(), before);
    }
    let others: Vec<_> = (0..20).map(|_| ping.clone()).collect();
    for other in &others {
        other.send().unwrap().unwrap();
    }
    assert_eq!(descriptors(), before + 20);
}

/// In a child, since the signal is an event for the whole process.
#[test]
fn a_signal_that_is_an_event_ends_a_ping() {
    fn pinger(address: String) -> Result<bool> {
        zproc::signal_to_error(zproc::signals::SIGUSR2)?;
        let own = std::process::id();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(Duration::from_millis(20));
                send(own, Signal::SIGUSR2);
            });
            let result = zproc::ping(&address).send();
            Ok(matches!(result, Err(Error::Signal { .. })))
        })
    }
    let server = started(Backend::Process);
    stop(&server);
    let ctx = Context::new().unwrap();
    let pinger = ctx.process(pinger).args(server.address().to_owned()).start().unwrap();
    assert!(pinger.wait().unwrap());
    send(server.pid(), Signal::SIGCONT);
}

#[test]
fn killing_the_server_under_load_disturbs_no_client_that_has_mapped() {
    let server = started(Backend::Process);
    let state = State::open(server.address()).unwrap();
    state.insert("n", 0).unwrap();
    const TURNS: u64 = 2000;
    std::thread::scope(|scope| {
        let watcher = State::open(server.address()).unwrap();
        let watching = scope.spawn(move || {
            let mut last = 0;
            while last < 2 * TURNS {
                let now = watcher.watch().timeout(HANG).get_when_change(["n"]);
                match now {
                    Ok(now) => last = now.get::<u64>("n").unwrap().unwrap(),
                    Err(Error::Lagged { .. }) => last = watcher.get("n").unwrap().unwrap(),
                    Err(error) => panic!("{error}"),
                }
            }
        });
        for _ in 0..2 {
            let writer = State::open(server.address()).unwrap();
            scope.spawn(move || {
                for _ in 0..TURNS {
                    writer.atomic(|dict| dict.modify("n", |n: u64| n + 1)).unwrap();
                }
            });
        }
        send(server.pid(), Signal::SIGKILL);
        watching.join().unwrap();
    });
    assert_eq!(state.get("n").unwrap(), Some(2 * TURNS));
    assert!(state.verify().unwrap().is_clean());
    assert!(
        !server.is_alive() || {
            eventually("it ends", || !server.is_alive());
            true
        }
    );
}

#[test]
fn a_child_of_a_client_shares_the_state_without_the_server() {
    fn child(state: State) -> Result<Option<String>> {
        state.insert("seen", true)?;
        Ok(state.address().map(str::to_owned))
    }
    let server = zproc::start_server()
        .backend(Backend::Process)
        .secret_key("k")
        .start()
        .unwrap();
    let address = server.address().to_owned();
    let state = State::builder(&address).secret_key("k").open().unwrap();
    let ctx = Context::builder().state(state.clone()).build().unwrap();
    drop(server);
    assert_eq!(ctx.process(child).start().unwrap().wait().unwrap(), Some(address));
    assert_eq!(state.get("seen").unwrap(), Some(true));
}

#[test]
fn a_context_opens_the_state_of_a_server() {
    let server = started(Backend::Thread);
    let ctx = Context::builder().address(server.address()).build().unwrap();
    ctx.state().insert("cookies", 5).unwrap();
    assert_eq!(State::open(server.address()).unwrap().get("cookies").unwrap(), Some(5));
}

#[test]
fn keys_are_shown_by_nothing() {
    let builder = State::builder("ipc:///x").secret_key("open sesame");
    let server = zproc::start_server().secret_key("open sesame");
    let ping = zproc::ping("ipc:///x").secret_key("open sesame");
    for text in [format!("{builder:?}"), format!("{server:?}"), format!("{ping:?}")] {
        assert!(!text.contains("sesame") && !text.contains("ey("), "{text}");
    }
}

/// Where a server listens, and the lock file beside it.
fn files(path: &Path) -> [PathBuf; 2] {
    [path.to_owned(), format!("{}.lock", path.display()).into()]
}

/// A process with a server of its own; it is told which process serves, and where.
fn starter(ctx: &Context) -> (zproc::Process<()>, u32, PathBuf) {
    let process = ctx.process(|state: State| -> Result<()> {
        let server = zproc::start_server().start()?;
        // It serves, and ends in order from then on.
        zproc::ping(server.address()).send()?;
        state.insert("server", (server.pid(), path_of(&server).display().to_string()))?;
        std::thread::sleep(HANG);
        Ok(())
    });
    let process = process.start().unwrap();
    let told = ctx.state().watch().timeout(HANG).get_when_available("server").unwrap();
    let (pid, path): (u32, String) = told.get("server").unwrap().unwrap();
    (process, pid, path.into())
}

/// Its files stayed, one pair for each of its lives.
#[test]
fn a_server_whose_parent_is_killed_removes_its_files() {
    for signal in [Signal::SIGKILL, Signal::SIGTERM] {
        let ctx = Context::new().unwrap();
        let (process, server, path) = starter(&ctx);
        assert!(files(&path).iter().all(|file| file.exists()));
        send(process.pid().unwrap(), signal);
        let is_gone = || !Path::new(&format!("/proc/{server}")).exists() || is_zombie(server);
        eventually("the server ends", is_gone);
        eventually("its files are gone", || files(&path).iter().all(|file| !file.exists()));
    }
}

#[test]
fn what_a_killed_server_left_is_swept_by_the_next() {
    for backend in BOTH {
        let ctx = Context::new().unwrap();
        let (process, server, path) = starter(&ctx);
        // The one cannot remove them, and the other neither.
        stop_pid(process.pid().unwrap());
        send(server, Signal::SIGKILL);
        eventually("the server ends", || is_zombie(server));
        send(process.pid().unwrap(), Signal::SIGKILL);
        assert!(process.wait().is_err());
        let living = started(Backend::Thread);
        let next = started(backend);
        // Perhaps by that of another test, which is at it.
        eventually("its files are gone", || files(&path).iter().all(|file| !file.exists()));
        for server in [living, next] {
            assert!(zproc::ping(server.address()).send().unwrap().is_some());
        }
    }
}
