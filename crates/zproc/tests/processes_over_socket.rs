//! Processes whose state is used over a socket: a child gets it by the same transport, and it is the same state to it as one
//! in mapped memory would be.

use std::time::Duration;

use zproc::signals::SIGABRT;
use zproc::{Backend, Context, Error, Result, Server, Snapshot, State, Transport};

zproc::init_tests!();

mod support;
use support::{HANG, now};

const KEY: &str = "open sesame";

/// A context whose state is used over the socket of a server.
fn context() -> (Server, Context) {
    let server = zproc::start_server()
        .backend(Backend::Thread)
        .secret_key(KEY)
        .start()
        .unwrap();
    let state = State::builder(&format!("{}?transport=socket", server.address()));
    let state = state.secret_key(KEY).precise_time(true).open().unwrap();
    assert_ne!(state.transport(), Transport::Mapped);
    let ctx = Context::builder().state(state).build().unwrap();
    (server, ctx)
}

fn mapped(server: &Server) -> State {
    State::builder(server.address()).secret_key(KEY).open().unwrap()
}

/// Why the state of a child is used over a socket; an error if it is not.
fn reason(state: &State) -> Result<String> {
    match state.transport() {
        Transport::Socket { reason } => Ok(reason),
        other => Err(Error::other(format!("it is reached by {other}"))),
    }
}

#[test]
fn a_child_has_the_state_of_its_parent_by_the_same_way() {
    fn child(state: State) -> Result<(String, String, u32)> {
        state.insert("pid", std::process::id())?;
        Ok((reason(&state)?, state.namespace().to_owned(), std::process::id()))
    }
    let (server, ctx) = context();
    let found = ctx.process(child).start().unwrap().wait().unwrap();
    let expected = (reason(ctx.state()).unwrap(), "default".to_owned());
    assert_eq!((found.0, found.1), expected);
    assert_ne!(found.2, std::process::id());
    assert_eq!(ctx.state().get("pid").unwrap(), Some(found.2));
    // Also one in another namespace.
    let found = ctx.process(child).namespace("kitchen").start().unwrap().wait();
    let (_, namespace, pid) = found.unwrap();
    assert_eq!(namespace, "kitchen");
    let kitchen = mapped(&server).fork().namespace("kitchen").open().unwrap();
    assert_eq!(kitchen.get("pid").unwrap(), Some(pid));
}

#[test]
fn settings_of_the_state_are_those_of_the_parent() {
    fn write(state: State) -> Result<bool> {
        for n in 0..20 {
            state.insert("n", n)?;
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(state.is_read_only())
    }
    let (server, ctx) = context();
    let watcher = mapped(&server);
    assert!(!ctx.process(write).start().unwrap().wait().unwrap());
    // By the other clock the last digits are those of its ticks, each time.
    let times = (0..20).map(|_| watcher.get_raw_update().unwrap().time);
    let nanos = times.map(|time| time.duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() % 1000);
    assert!(nanos.collect::<std::collections::HashSet<_>>().len() > 1);

    let reader = ctx.state().fork().read_only(true).open().unwrap();
    let ctx = Context::builder().state(reader).build().unwrap();
    let Err(Error::ProcessWait {
        source: Some(error), ..
    }) = ctx.process(write).start().unwrap().wait()
    else {
        panic!("its parent may only read")
    };
    assert_eq!(error.type_name(), "zproc::Error::ReadOnly");
}

#[test]
fn a_child_watches_from_the_moment_of_its_start() {
    fn child(state: State) -> Result<Vec<i64>> {
        let next = || state.get_when_change(["n"])?.get::<i64>("n");
        (0..3).map(|_| Ok(next()?.unwrap_or(-1))).collect()
    }
    let (_server, ctx) = context();
    for backend in [Backend::Process, Backend::Thread] {
        let process = ctx.process(child).backend(backend).deferred().unwrap();
        ctx.state().insert("n", -2).unwrap();
        process.start().unwrap();
        (0..3).for_each(|n| ctx.state().insert("n", n).unwrap());
        assert_eq!(process.wait_timeout(HANG).unwrap(), [0, 1, 2]);
    }
}

#[test]
fn what_an_attempt_wrote_is_no_news_to_the_next() {
    fn child(state: State) -> Result<Vec<String>> {
        if !state.contains_key("tried")? {
            let seen = state.get_when_change(["n"])?;
            assert_eq!(seen.get::<i64>("n")?, Some(1));
            state.insert("tried", true)?;
            return Err(Error::other("once more"));
        }
        let mut seen = Vec::new();
        while let Ok(update) = now(&state).get_when_any_change() {
            seen.push(update.to_map()?.to_string());
        }
        Ok(seen)
    }
    let (_server, ctx) = context();
    let process = ctx.process(child).retry_for_any().deferred().unwrap();
    process.start().unwrap();
    ctx.state().insert("n", 1).unwrap();
    assert_eq!(process.wait_timeout(HANG).unwrap(), [""; 0]);
}

#[test]
fn a_child_that_died_goes_on_where_it_was() {
    fn child(state: State) -> Result<i64> {
        loop {
            let n = state.get_when_change(["n"])?.get::<i64>("n")?.unwrap_or(-1);
            state.insert(("seen", n), std::process::id())?;
            if n == 3 {
                std::process::abort();
            }
            if n == 6 {
                return Ok(n);
            }
        }
    }
    let (server, ctx) = context();
    let process = ctx.process(child).restart_for([SIGABRT]).start().unwrap();
    let mapped = mapped(&server);
    (1..=6).for_each(|n| mapped.insert("n", n).unwrap());
    assert_eq!(process.wait_timeout(HANG).unwrap(), 6);
    let pids: Vec<u32> = (1..=6).map(|n| mapped.get(("seen", n)).unwrap().unwrap()).collect();
    assert!(pids[..3].iter().all(|pid| *pid == pids[0]), "{pids:?}");
    assert!(
        pids[3..].iter().all(|pid| *pid == pids[3] && *pid != pids[0]),
        "{pids:?}"
    );
}

#[test]
fn handlers_workers_and_grandchildren_have_it_too() {
    fn note(snapshot: Snapshot<'_>, state: &State) -> Result<()> {
        let n: i64 = snapshot.get("n")?.unwrap_or(-1);
        state.insert(("noted", n), reason(state)?)
    }
    fn double(state: &State, n: i64) -> Result<i64> {
        reason(state)?;
        Ok(2 * n + state.get::<i64>("offset")?.unwrap_or(0))
    }
    fn parent(ctx: Context) -> Result<String> {
        fn child(state: State) -> Result<String> {
            state.insert("grandchild", true)?;
            reason(&state)
        }
        ctx.process(child).start()?.wait()
    }
    let (_server, ctx) = context();
    ctx.state().insert("offset", 1).unwrap();
    let results = ctx.process_map(double, 0..50).start().unwrap();
    let results: Vec<i64> = results.collect::<Result<_>>().unwrap();
    assert!(results.iter().zip(0..).all(|(found, n)| *found == 2 * n + 1));

    let handler = ctx.call_when_change(["n"], note).start().unwrap();
    (0..5).for_each(|n| ctx.state().insert("n", n).unwrap());
    ctx.state().get_when_available(("noted", 4)).unwrap();
    for n in 0..5 {
        assert!(ctx.state().contains_key(("noted", n)).unwrap(), "{n}");
    }
    handler.stop().unwrap();

    let reason = ctx.process(parent).start().unwrap().wait().unwrap();
    assert!(reason.contains("asks"), "{reason}");
    assert_eq!(ctx.state().get("grandchild").unwrap(), Some(true));
}

/// A session that was lost unnoticed is told by the first call after it, which is the look at where the child begins.
#[test]
fn a_process_starts_when_the_server_was_restarted_and_not_when_it_is_another() {
    fn child(state: State) -> Result<()> {
        state.insert("was here", true)
    }
    let name = format!("zproc-test-processes-{}", std::process::id());
    let (arena, path) = (format!("shm://{name}"), std::env::temp_dir().join(&name));
    let address = format!("ipc://{}", path.display());
    let serve = |arena: Option<&str>| {
        let server = zproc::start_server().address(&address).backend(Backend::Thread);
        match arena {
            Some(arena) => server.arena(arena).start().unwrap(),
            None => server.start().unwrap(),
        }
    };
    let server = serve(Some(&arena));
    let ctx = Context::builder().address(&format!("{address}?transport=socket"));
    let ctx = ctx.build().unwrap();
    server.stop().unwrap();
    let server = serve(Some(&arena));
    ctx.process(child).start().unwrap().wait().unwrap();
    assert_eq!(State::open(&arena).unwrap().get("was here").unwrap(), Some(true));
    server.stop().unwrap();
    let lost = ctx.process(child).start().map(drop);
    let is_told = matches!(&lost, Err(Error::NoServer { .. } | Error::Disconnected { .. }));
    assert!(is_told, "{lost:?}");
    let _other = serve(None);
    let other = ctx.process(child).start().map(drop);
    let is_told = matches!(&other, Err(Error::Disconnected { reason, .. }) if reason.contains("another state"));
    assert!(is_told, "{other:?}");
    assert!(matches!(
        now(ctx.state()).get_when_any_change(),
        Err(Error::Disconnected { .. })
    ));
    zproc::remove(&arena).unwrap();
}
