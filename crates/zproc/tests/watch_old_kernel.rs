//! Kernels before 5.16, which have no `futex_waitv`: what sleeps on several words looks every 10 ms instead. A binary
//! of its own, with one test, since its thread for feeds has to live under the filter that denies the call.

use std::time::Duration;

use calls::deny;
use support::{HANG, is_readable, now, pair};
use zproc::{Canceller, Error, Result, Select, WaitStrategy};

#[allow(dead_code, reason = "the engine's tests use the rest")]
#[path = "../../shm-state/tests/locks/calls.rs"]
mod calls;
mod support;

#[test]
fn everything_works_without_waiting_for_several_words_at_once() -> Result<()> {
    for error in [libc::ENOSYS, libc::EPERM] {
        // The filter is for this thread and those that it starts.
        std::thread::spawn(move || {
            deny(libc::SYS_futex_waitv, error);
            works()
        })
        .join()
        .unwrap()?;
    }
    Ok(())
}

fn works() -> Result<()> {
    let (state, other) = pair();
    let state = state.fork().wait_strategy(WaitStrategy::Block).open()?;
    let canceller = Canceller::new();
    let watch = state.watch().cancel(&canceller).timeout(HANG);

    for _ in 0..5 {
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| watch.get_when_change(["never"]).map(drop));
            std::thread::sleep(Duration::from_millis(15));
            canceller.cancel();
            assert!(matches!(waiting.join().unwrap(), Err(Error::Cancelled)));
        });
        canceller.reset();
    }

    let elsewhere = state.fork().namespace("elsewhere").open()?;
    let writers = [other, elsewhere.clone()];
    let mut select = Select::new();
    select.watch(&state.watch().keys(["a", "b"])?)?;
    select.watch(&elsewhere.watch())?;
    let feeds = [
        state.watch().keys(["a", "b"])?.event_fd()?,
        elsewhere.watch().event_fd()?,
    ];
    for round in 0..10 {
        let number = round % 2;
        std::thread::scope(|scope| {
            let writer = &writers[number];
            scope.spawn(move || {
                std::thread::sleep(Duration::from_millis(15));
                writer.insert("b", round as u64).unwrap();
            });
            assert!(select.wait(HANG).unwrap().eq([number]));
        });
        assert!(is_readable(&feeds[number], HANG));
        assert!(!is_readable(&feeds[1 - number], Duration::ZERO));
        assert!(now([&state, &elsewhere][number]).get_when_any_change().is_ok());
        feeds[number].clear()?;
    }
    Ok(())
}
