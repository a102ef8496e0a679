//! Examines a state, and says what to do about what is wrong with it:
//!
//! ```console
//! cargo run --example doctor -- shm://NAME            # only looks
//! cargo run --example doctor -- shm://NAME --reap     # gives back what dead processes left, then looks
//! ```
//!
//! It ends with status 0 if there is nothing to do, 1 after warnings, and 2 if the state cannot be used.

use std::process::ExitCode;

use zproc::{Result, Severity, State};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    ExitCode::from(run(&arguments))
}

/// The whole program, but for where the arguments come from. Returns its exit status.
pub fn run(arguments: &[&str]) -> u8 {
    let result = match arguments {
        [address] => examine(address),
        [address, "--reap"] => reap(address).and_then(|()| examine(address)),
        _ => {
            eprintln!("usage: doctor shm://NAME [--reap]");
            return 64;
        }
    };
    result.unwrap_or_else(|error| {
        eprintln!("{error}");
        2
    })
}

fn examine(address: &str) -> Result<u8> {
    let diagnosis = zproc::doctor(address)?;
    print!("{diagnosis}");
    Ok(match diagnosis.severity() {
        Severity::Fine | Severity::Note => 0,
        Severity::Warning => 1,
        Severity::Fatal => 2,
    })
}

fn reap(address: &str) -> Result<()> {
    let reaped = State::open(address)?.reap()?;
    println!(
        "gave back {} entries of dead processes, {} places for snapshots and watchers, {} locks\n",
        reaped.processes, reaped.seats, reaped.locks
    );
    Ok(())
}
