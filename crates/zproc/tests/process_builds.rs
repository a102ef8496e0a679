//! Programs with and without `init`, and whose executables change while they run. This one has a `main` of its own, which
//! plays them all: without arguments it is the test, which runs itself in each role.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use zproc::{Context, Error, Result};

/// In a child that has not come to `init`.
fn is_child() -> bool {
    std::env::var_os("ZPROC_CHILD").is_some()
}

fn main() -> ExitCode {
    let role = std::env::args().nth(1).unwrap_or_default();
    let result = match role.as_str() {
        "forgetful" => forgetful(),
        "ends" | "workers_end" if is_child() => Ok(()),
        "sleeps" | "workers_sleep" if is_child() => {
            std::thread::sleep(Duration::from_secs(600));
            Ok(())
        }
        "forgets" if is_child() => Context::new().map(drop),
        "off_main" => off_main(),
        "ends" => told("ended before it came to zproc::init()"),
        "sleeps" => told("within 5 s"),
        "forgets" => told("Context::new without zproc::init()"),
        "workers_end" => workers_told("ended before it came to zproc::init()"),
        "workers_sleep" => workers_told("within 5 s"),
        "runs" => runs(),
        "replaced" => replaced(),
        // The harness of other tests takes arguments, too.
        _ => {
            test();
            Ok(())
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{role}: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Nothing is started by a program that did not call `init`.
fn forgetful() -> Result<()> {
    assert!(!is_child(), "a chain of itself");
    assert!(matches!(Context::new(), Err(Error::NotInitialised)));
    assert!(matches!(Context::builder().build(), Err(Error::NotInitialised)));
    Ok(())
}

/// A child that does not come to `init` is told of as what it is.
fn told(expected: &str) -> Result<()> {
    zproc::init();
    let error = Context::new()?.process(|| 5).start()?.wait();
    match &error {
        Err(Error::ProcessWait {
            source: Some(source), ..
        }) if source.message().contains(expected) => Ok(()),
        other => Err(Error::other(format!("{other:?}"))),
    }
}

/// So are workers. A map waited for them for ever if they did not end, and started new ones for ever if they did.
fn workers_told(expected: &str) -> Result<()> {
    zproc::init();
    let ctx = Context::new()?;
    let results: Vec<Result<u64>> = ctx.process_map(|n: u64| n, 0..10).count(4).start()?.take(100).collect();
    match &results[..] {
        [
            Err(Error::ProcessWait {
                source: Some(source), ..
            }),
        ] if source.message().contains(expected) => Ok(()),
        other => Err(Error::other(format!("{other:?}"))),
    }
}

/// A child comes to `init` on a thread.
fn off_main() -> Result<()> {
    let thread = std::thread::spawn(|| {
        zproc::init();
        Context::new()?.process(|| 5).start()?.wait()
    });
    let result = thread.join().map_err(|_| Error::other("a panic"))?;
    match result {
        Err(Error::ProcessWait { exit_code: 70, .. }) => Ok(()),
        other => Err(Error::other(format!("{other:?}"))),
    }
}

/// Does what processes do.
fn runs() -> Result<()> {
    zproc::init();
    let ctx = Context::new()?;
    let failing = ctx.process(|| -> () { panic!("on purpose") }).start()?;
    let Err(Error::ProcessWait {
        source: Some(source), ..
    }) = failing.wait()
    else {
        return Err(Error::other("it did not panic"));
    };
    let (own, sum) = (
        ctx.process(std::process::id).start()?,
        ctx.process(|a: u8, b: u8| a + b).args((1, 2)).start()?,
    );
    let squares: Result<Vec<u64>> = ctx.process_map(|n: u64| n * n, 1..=3).count(1).start()?.collect();
    let pointers = ctx.process_factory([|n: u8| n, |n: u8| n + 1]).args(7).start()?;
    let pointers: Vec<u8> = pointers.iter().map(|one| one.wait()).collect::<Result<_>>()?;
    let fine = source.message() == "on purpose" && Some(own.wait()?) == own.pid() && sum.wait()? == 3;
    if fine && squares? == [1, 4, 9] && pointers == [7, 8] {
        Ok(())
    } else {
        Err(Error::other("a wrong result"))
    }
}

/// The executable is replaced by another build while the program runs.
fn replaced() -> Result<()> {
    if !is_child() {
        let own = std::env::current_exe().map_err(Error::other)?;
        std::fs::remove_file(&own).map_err(Error::other)?;
        std::fs::copy("/bin/false", own).map_err(Error::other)?;
    }
    runs()
}

fn test() {
    let this = std::env::current_exe().expect("this program has a path");
    for role in ["forgetful", "ends", "forgets", "off_main", "runs", "workers_end"] {
        run(&this, role);
    }
    // These take 5 s and more, in which they do nothing.
    std::thread::scope(|scope| {
        for role in ["sleeps", "workers_sleep"] {
            scope.spawn(|| run(&this, role));
        }
    });
    let copy = Copy::of(&this, "replaced");
    run(&copy.0, "replaced");
    let copy = Copy::of(&this, "stripped");
    // Where there is no such tool there is nothing to test.
    if Command::new("strip")
        .arg(&copy.0)
        .status()
        .is_ok_and(|status| status.success())
    {
        run(&copy.0, "runs");
    }
    println!("test of programs with and without init ... ok");
}

fn run(program: &Path, role: &str) {
    let output = Command::new(program).arg(role).output().expect("it can be started");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{role}: {}\n{errors}", output.status);
}

/// A copy of the executable, which is removed in the end.
struct Copy(PathBuf);

impl Copy {
    fn of(program: &Path, name: &str) -> Self {
        let copy = program.with_file_name(format!("zproc-{name}-{}", std::process::id()));
        std::fs::copy(program, &copy).expect("there is room for a copy");
        Self(copy)
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}
