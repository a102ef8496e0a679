//! Handlers in processes of their own: once for each update that matches, in order, from the moment the call returned.

use std::time::Duration;

use zproc::{Builder, Context, Error, Result, Snapshot, State};

zproc::init_tests!();

/// Notes what it was called with, in a namespace of its own, which nobody watches.
fn note(now: Snapshot<'_>, state: &State, key: String) -> Result<()> {
    let seen = state.fork().namespace("seen").open()?;
    let value: Option<i64> = now.get(key.as_str())?;
    let process = std::process::id();
    seen.insert(seen.len()? as u64, (now.seq(), value.unwrap_or(-1), process))
}

type Seen = Vec<(u64, i64, u32)>;

/// What was noted, when there are so many notes.
fn notes(ctx: &Context, count: usize) -> Seen {
    let seen = ctx.state().fork().namespace("seen").open().unwrap();
    let now = seen
        .watch()
        .timeout(Duration::from_secs(60))
        .get_when(|now| Ok(now.len()? >= count))
        .unwrap();
    (0..now.len().unwrap())
        .map(|n| now.get(n as u64).unwrap().unwrap())
        .collect()
}

fn values(seen: &Seen) -> Vec<i64> {
    seen.iter().map(|(_, value, _)| *value).collect()
}

#[test]
fn a_handler_for_changes_sees_each_from_the_call_on_in_a_process_of_its_own() {
    let ctx = Context::new().unwrap();
    ctx.state().insert("n", -7).unwrap();
    let process = ctx.call_when_change(["n"], note).args("n".into()).start().unwrap();
    for n in 0..100 {
        ctx.state().insert("n", n).unwrap();
        ctx.state().insert("noise", n).unwrap();
        ctx.state().insert("n", n).unwrap(); // identical, and no change
    }
    let seen = notes(&ctx, 100);
    assert_eq!(values(&seen), (0..100).collect::<Vec<_>>());
    assert!(seen.iter().all(|(_, _, pid)| Some(*pid) == process.pid()));
    assert!(seen.is_sorted_by_key(|(seq, _, _)| *seq));
    assert!(process.is_alive());
}

#[test]
fn duplicates_count_if_they_are_asked_for() {
    let ctx = Context::new().unwrap();
    ctx.call_when_change(["n"], note)
        .args("n".into())
        .duplicates()
        .start()
        .unwrap();
    (0..3).for_each(|_| ctx.state().insert("n", 5).unwrap());
    assert_eq!(values(&notes(&ctx, 3)), [5, 5, 5]);
}

#[test]
fn all_keys_but_some_may_be_watched() {
    let ctx = Context::new().unwrap();
    ctx.call_when_change_except(["noise"], note)
        .args("n".into())
        .start()
        .unwrap();
    ctx.state().insert("noise", 1).unwrap();
    ctx.state().insert("n", 1).unwrap();
    ctx.state().remove("n").unwrap();
    assert_eq!(values(&notes(&ctx, 2)), [1, -1]);
}

#[test]
fn a_condition_that_holds_already_calls_once_for_it_and_then_for_each_update() {
    let ctx = Context::new().unwrap();
    ctx.state().insert("n", 5).unwrap();
    ctx.call_when_equal("n", 5, note).args("n".into()).start().unwrap();
    for n in [4, 5, 5, 6, 5] {
        ctx.state().insert("n", n).unwrap();
        ctx.state().insert("noise", n).unwrap();
    }
    ctx.state().insert("n", 7).unwrap();
    let seen = notes(&ctx, 3);
    assert_eq!(values(&seen), [5, 5, 5]);
    assert_eq!(seen[0].0, 1, "the state at the call");
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(notes(&ctx, 3).len(), 3);
}

#[test]
fn every_condition_calls_when_it_holds() {
    type Start = fn(&Context) -> Result<zproc::Process<()>>;
    let cases: [(Start, &[i64]); 5] = [
        (
            |ctx| ctx.call_when_not_equal("n", 5, note).args("n".into()).start(),
            &[4, 6],
        ),
        (
            |ctx| ctx.call_when_not_none("n", note).args("n".into()).start(),
            &[4, 5, 6],
        ),
        (
            |ctx| ctx.call_when_available("n", note).args("n".into()).start(),
            &[4, 5, 6],
        ),
        (
            |ctx| {
                ctx.call_when(|now: &Snapshot<'_>| Ok(now.get::<i64>("n")? >= Some(5)), note)
                    .args("n".into())
                    .start()
            },
            // It watches all keys: it holds once more for the last update.
            &[5, 6, 6],
        ),
        (|ctx| ctx.call_when_none("m", note).args("n".into()).start(), &[6]),
    ];
    for (start, expected) in cases {
        let ctx = Context::new().unwrap();
        let process = start(&ctx).unwrap();
        for n in [4, 5, 6] {
            ctx.state().insert("n", n).unwrap();
        }
        ctx.state().insert("m", None::<i64>).unwrap();
        notes(&ctx, expected.len());
        std::thread::sleep(Duration::from_millis(50));
        assert_eq!(values(&notes(&ctx, expected.len())), expected);
        assert!(process.is_alive());
    }
}

#[test]
fn nothing_is_missed_under_a_storm_of_writes() {
    let state = Builder::anonymous()
        .capacity(256 << 20)
        .history(1 << 17, 64 << 20)
        .create()
        .unwrap();
    let ctx = Context::builder().state(state).build().unwrap();
    fn sum(now: Snapshot<'_>, state: &State) -> Result<()> {
        let n: u64 = now.get("n")?.unwrap_or(0);
        state.fork().namespace("sum").open()?.atomic(|dict| {
            if dict.get::<u64>("last")?.unwrap_or(0) + 1 != n {
                dict.insert("gap before", n)?;
            }
            dict.insert("last", n)
        })
    }
    ctx.call_when_change(["n"], sum).start().unwrap();
    for n in 1..=20_000u64 {
        ctx.state().insert("n", n).unwrap();
    }
    let told = ctx.state().fork().namespace("sum").open().unwrap();
    let end = told
        .watch()
        .timeout(Duration::from_secs(120))
        .get_when_equal("last", 20_000u64)
        .unwrap();
    assert_eq!(end.get::<u64>("gap before").unwrap(), None);
}

#[test]
fn a_timeout_ends_the_process_with_that_error() {
    let ctx = Context::new().unwrap();
    let quiet = ctx
        .call_when_equal("n", 5, note)
        .args("n".into())
        .timeout(Duration::from_millis(200))
        .start()
        .unwrap();
    // What does not match does not count: it goes on until the process has ended.
    let start = std::time::Instant::now();
    for n in 10.. {
        if !quiet.is_alive() {
            break;
        }
        assert!(
            start.elapsed() < Duration::from_secs(60),
            "what does not match begins the time anew"
        );
        ctx.state().insert("n", n).unwrap();
        std::thread::sleep(Duration::from_millis(30));
    }
    let error = quiet.wait().unwrap_err();
    let Error::ProcessWait {
        exit_code: 1,
        source: Some(source),
        ..
    } = &error
    else {
        panic!("{error}")
    };
    assert_eq!(source.type_name(), "zproc::Error::Timeout");
}

#[test]
fn an_error_of_the_handler_ends_it_or_is_retried_with_nothing_lost() {
    fn picky(now: Snapshot<'_>, state: &State) -> Result<()> {
        match now.get::<i64>("n")? {
            Some(2) => Err(Error::other("not two")),
            _ => note(now, state, "n".into()),
        }
    }
    let ctx = Context::new().unwrap();
    let ends = ctx.call_when_change(["n"], picky).start().unwrap();
    ctx.state().insert("n", 2).unwrap();
    assert!(ends.wait().unwrap_err().to_string().contains("not two"));
    ctx.call_when_change(["n"], picky)
        .retry_for_any()
        .retry_delay(Duration::from_millis(20))
        .start()
        .unwrap();
    for n in [1, 2, 3, 4] {
        ctx.state().insert("n", n).unwrap();
    }
    assert_eq!(values(&notes(&ctx, 3)), [1, 3, 4]);
}

/// Each retry tested the state at its cursor once more: after every timeout the handler was called again for an update that
/// it had had, and after its own error for that for ever.
#[test]
fn a_retry_of_a_condition_tells_nothing_twice() {
    fn fails(now: Snapshot<'_>, state: &State) -> Result<()> {
        note(now, state, "n".into())?;
        Err(Error::other("on purpose"))
    }
    for failing in [false, true] {
        let ctx = Context::new().unwrap();
        ctx.state().insert("n", 5).unwrap();
        if failing {
            let process = ctx.call_when_equal("n", 5, fails).retry_for_any();
            process.retry_delay(Duration::from_millis(10)).start().unwrap();
        } else {
            let process = ctx.call_when_equal("n", 5, note).args("n".into()).retry_for_any();
            let process = process.timeout(Duration::from_millis(30));
            process.retry_delay(Duration::from_millis(10)).start().unwrap();
        }
        notes(&ctx, 1);
        std::thread::sleep(Duration::from_millis(300));
        for n in [4, 5, 6, 5] {
            ctx.state().insert("n", n).unwrap();
        }
        notes(&ctx, 3);
        std::thread::sleep(Duration::from_millis(100));
        let seen: Vec<(u64, i64)> = notes(&ctx, 3).iter().map(|(seq, n, _)| (*seq, *n)).collect();
        assert_eq!(seen, [(1, 5), (3, 5), (5, 5)], "{failing}");
    }
}

#[test]
fn what_a_handler_changes_does_not_call_it() {
    fn echo(now: Snapshot<'_>, state: &State) -> Result<()> {
        state.insert("n", now.get::<i64>("n")?.unwrap_or(0) + 1)
    }
    let ctx = Context::new().unwrap();
    let process = ctx.call_when_change(["n"], echo).start().unwrap();
    ctx.state().insert("n", 1).unwrap();
    ctx.state().get_when_equal("n", 2).unwrap();
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(ctx.state().get("n").unwrap(), Some(2));
    assert!(process.is_alive());
}

#[test]
fn a_live_handler_passes_over_what_comes_meanwhile() {
    fn slow(now: Snapshot<'_>, state: &State) -> Result<()> {
        let seen = state.fork().namespace("seen").open()?;
        seen.insert(
            seen.len()? as u64,
            (now.seq(), now.get::<i64>("n")?.unwrap_or(-1), 0u32),
        )?;
        state
            .fork()
            .namespace("gate")
            .open()?
            .get_when_available("go")
            .map(drop)
    }
    let ctx = Context::new().unwrap();
    ctx.call_when_change(["n"], slow).live().start().unwrap();
    // It is live from the time when it runs on, so it is called until it has come to be.
    let gate = ctx.state().fork().namespace("gate").open().unwrap();
    let seen = ctx.state().fork().namespace("seen").open().unwrap();
    let mut n = 0;
    while seen.is_empty().unwrap() {
        n += 1;
        ctx.state().insert("n", n).unwrap();
        std::thread::sleep(Duration::from_millis(1));
    }
    for n in 1_000..1_010 {
        ctx.state().insert("n", n).unwrap();
    }
    gate.insert("go", true).unwrap();
    while seen.len().unwrap() < 2 {
        n += 1;
        ctx.state().insert("n", -n).unwrap();
        std::thread::sleep(Duration::from_millis(1));
    }
    let second: (u64, i64, u32) = seen.get(1u64).unwrap().unwrap();
    assert!(second.1 < 0, "{second:?}");
}

/// A run that was killed before it called the handler had taken note that it was called.
#[test]
fn a_condition_that_holds_already_is_tested_again_by_a_restart_that_comes_before_the_call() {
    fn dies_once(now: &Snapshot<'_>) -> Result<bool> {
        let mark = std::env::temp_dir().join(format!("zproc-dies-once-{}", nix::unistd::getppid()));
        if std::fs::File::create_new(&mark).is_ok() {
            std::process::abort();
        }
        Ok(now.get::<i64>("n")? == Some(5))
    }
    let mark = std::env::temp_dir().join(format!("zproc-dies-once-{}", std::process::id()));
    let ctx = Context::new().unwrap();
    ctx.state().insert("n", 5).unwrap();
    let process = ctx.call_when(dies_once, note).args("n".into()).restart_for_any();
    let process = process.restart_delay(Duration::from_millis(5)).start().unwrap();
    let seen = notes(&ctx, 1);
    let died = std::fs::remove_file(mark);
    assert!(died.is_ok() && seen[0].1 == 5 && process.is_alive(), "{seen:?}");
}

/// As long as updates came faster than the test was done with them, there was always one more to look at.
#[test]
fn a_timeout_comes_however_many_updates_do_not_match() {
    let state = Builder::anonymous()
        .capacity(256 << 20)
        .history(1 << 17, 64 << 20)
        .create()
        .unwrap();
    let ctx = Context::builder().state(state).build().unwrap();
    let slow = |_: &Snapshot<'_>| -> bool {
        std::thread::sleep(Duration::from_millis(20));
        false
    };
    let process = ctx.call_when(slow, note).args("n".into());
    let process = process.timeout(Duration::from_millis(200)).start().unwrap();
    let start = std::time::Instant::now();
    while process.is_alive() {
        assert!(start.elapsed() < Duration::from_secs(20), "it goes on for ever");
        ctx.state().insert("noise", start.elapsed().as_micros() as u64).unwrap();
        std::thread::sleep(Duration::from_millis(2));
    }
    let error = process.wait().unwrap_err();
    assert!(error.to_string().contains("zproc::Error::Timeout"), "{error}");
}

/// What a run was called with is not told again by the next, whichever signal ended it; what came meanwhile is.
#[test]
fn a_handler_that_is_killed_is_restarted_behind_the_update_that_killed_it() {
    fn deadly(now: Snapshot<'_>, state: &State) -> Result<()> {
        if now.get::<i64>("n")? == Some(3) {
            nix::sys::signal::raise(nix::sys::signal::Signal::SIGKILL).map_err(Error::other)?;
        }
        note(now, state, "n".into())
    }
    let ctx = Context::new().unwrap();
    let process = ctx
        .call_when_change(["n"], deadly)
        .restart_for([zproc::signals::SIGKILL]);
    let process = process.restart_delay(Duration::from_millis(5)).start().unwrap();
    for n in 1..=6 {
        ctx.state().insert("n", n).unwrap();
    }
    let seen = notes(&ctx, 5);
    assert_eq!(values(&seen), [1, 2, 4, 5, 6]);
    assert!(seen[0].2 != seen[4].2 && process.is_alive());
}

#[test]
fn a_handler_for_changes_of_no_keys_is_called_for_any() {
    let ctx = Context::new().unwrap();
    ctx.call_when_change([] as [&str; 0], note)
        .args("n".into())
        .start()
        .unwrap();
    ctx.state().insert("m", 1).unwrap();
    ctx.state().insert("n", 2).unwrap();
    ctx.state().remove("m").unwrap();
    assert_eq!(values(&notes(&ctx, 3)), [-1, 2, 2]);
}
