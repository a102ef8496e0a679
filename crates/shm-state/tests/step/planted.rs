//! Whether the checks would notice a mistake: with the feature `planted-faults` the stepped process stores something in
//! the wrong order, or the recoverer leaves something out, and points must be bad.
//!
//! Everything else runs without the mistake: the state before, the observer, the other processes.

#[cfg(not(feature = "planted-faults"))]
mod planting {
    /// Called in the process that is stepped, before it opens the arena.
    pub fn in_writer() {}

    /// Runs the recovery of what a dead process left.
    pub fn in_recovery<T>(recovery: impl FnOnce() -> T) -> T {
        recovery()
    }
}

#[cfg(feature = "planted-faults")]
mod planting {
    use std::process::Command;
    use std::sync::OnceLock;

    use shm_state::{Fault, plant};

    use crate::step::case::Case;
    use crate::step::run::{self, Load};

    const FAULT: &str = "ZPROC_STEP_FAULT";

    static FOUND: OnceLock<Option<Fault>> = OnceLock::new();

    fn fault() -> Option<Fault> {
        let name = || std::env::var(FAULT).ok();
        let find = |name: String| Fault::ALL.into_iter().find(|fault| format!("{fault:?}") == name);
        *FOUND.get_or_init(|| name().and_then(find))
    }

    fn is_of_recovery(fault: Fault) -> bool {
        matches!(fault, Fault::NoRedo | Fault::NoSweep)
    }

    /// Called in the process that is stepped, before it opens the arena.
    pub fn in_writer() {
        plant(fault().filter(|fault| !is_of_recovery(*fault)));
    }

    /// Runs the recovery of what a dead process left.
    pub fn in_recovery<T>(recovery: impl FnOnce() -> T) -> T {
        struct Clear;
        impl Drop for Clear {
            fn drop(&mut self) {
                plant(None);
            }
        }
        let _clear = Clear;
        plant(fault().filter(|fault| is_of_recovery(*fault)));
        recovery()
    }

    /// In the driver: steps through one operation with the mistake that was asked for. `false`: none was.
    pub fn run(case: &Case, load: &Load) -> bool {
        let Some(name) = std::env::var_os(FAULT) else {
            return false;
        };
        let load = Load {
            all: true,
            steps: u64::MAX,
            kills: 0,
            enough: 40,
            ..*load
        };
        match run::run(case, &load) {
            Ok(tally) => println!(
                "\nplanted {name:?}: {} bad of {}",
                tally.bad,
                tally.looks + tally.recoveries
            ),
            Err(reason) => println!("\nNOT STEPPED {}: {reason}", case.name),
        }
        true
    }

    /// Each mistake that concerns the order of stores or what recovery relies on, and operations that make it. The rest
    /// of [`Fault::ALL`] show in what comes long after (a stale handle) or in how long a sleeper sleeps.
    const MISTAKES: &[(Option<Fault>, &[&str])] = &[
        (Some(Fault::MarkerFirst), &["insert", "put"]),
        (Some(Fault::SeqFirst), &["insert", "put", "remove"]),
        (Some(Fault::LogSlotLate), &["insert", "put"]),
        (Some(Fault::HeadBeforeVersion), &["overwrite", "put"]),
        (Some(Fault::LinkDirectly), &["dropped"]),
        (Some(Fault::SplitDirectly), &["merging"]),
        (Some(Fault::BumpDirectly), &["insert", "abort"]),
        (Some(Fault::NoRedo), &["insert", "put"]),
        (Some(Fault::NoSweep), &["abort"]),
        (Some(Fault::NoRebuildFlag), &["merging"]),
        (Some(Fault::FloorAfterRecycle), &["trimming"]),
        (Some(Fault::IgnorePins), &["trimming beside pins"]),
        (Some(Fault::CountFirst), &["namespace"]),
        (
            None,
            &[
                "insert",
                "put",
                "overwrite",
                "trimming",
                "trimming beside pins",
                "namespace",
            ],
        ),
    ];

    /// What the driver printed, or how it ended.
    fn outcome(command: &mut Command, fault: Option<Fault>) -> (String, bool) {
        let name = fault.map_or("none".into(), |fault| format!("{fault:?}"));
        let output = command.env(FAULT, name).env("RUST_BACKTRACE", "0").output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let line = text
            .lines()
            .find(|l| l.starts_with("planted") || l.starts_with("NOT STEPPED"));
        match line {
            Some(line) => (line.into(), !line.contains(": 0 bad")),
            None => (format!("the driver ended: {}", output.status), true),
        }
    }

    /// Plants one mistake after the other.
    pub fn assert_noticed(driver_of: impl Fn(&str) -> Command) {
        let mut missed = Vec::new();
        for (fault, cases) in MISTAKES {
            let mut any = false;
            for case in *cases {
                let (line, bad) = outcome(&mut driver_of(case), *fault);
                println!("{case:12} {line}");
                if line.starts_with("NOT STEPPED") {
                    return;
                }
                any |= bad;
            }
            if any != fault.is_some() {
                missed.push(fault);
            }
        }
        assert!(
            missed.is_empty(),
            "not noticed, or noticed though not there: {missed:?}"
        );
    }
}

pub use planting::*;
