//! What the tests of the engine share: the model, child processes of this very test binary, boards on which processes
//! leave numbers for each other, and waits that end.

#![allow(dead_code, reason = "each test binary uses a part of it")]
#![allow(unreachable_pub, reason = "a module of several test binaries")]

pub mod model;
pub mod process;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use shm_state::{Arena, Error, KeyRef};

/// The longest that anything is waited for. Nothing should take that long: it only ends a hang.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The name of an arena that no other test uses. The arena is removed with it.
pub struct Name(String);

impl Name {
    /// A new name; `what` is only for people who look into /dev/shm.
    pub fn new(what: &str) -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        Self(format!("shm-state-test-{what}-{}-{count}", std::process::id()))
    }

    /// A name that another process chose.
    pub fn of(name: &str) -> Self {
        Self(name.into())
    }

    /// Where its file is.
    pub fn path(&self) -> std::path::PathBuf {
        std::path::Path::new("/dev/shm").join(&self.0)
    }
}

impl std::ops::Deref for Name {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl Drop for Name {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(self.path());
    }
}

/// Asks again and again until the answer is yes. Panics when it takes too long.
pub fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < PATIENCE, "waited {PATIENCE:?} in vain: {what}");
        std::thread::sleep(Duration::from_micros(200));
    }
}

/// A key of this text.
pub fn key(text: &str) -> KeyRef<'_> {
    KeyRef::new(0, text.as_bytes())
}

/// Fails with everything that the verifier found.
#[track_caller]
pub fn assert_clean(arena: &Arena) {
    let report = arena.verify().expect("verifying");
    assert!(report.is_clean(), "{:#?}", report.problems);
}

/// Whether an arena is full, or its file system.
pub fn is_full(error: &Error) -> bool {
    matches!(error, Error::Full { .. } | Error::FileSystemFull { .. })
}

/// Pseudo-random numbers (xorshift64*): the same for the same seed, everywhere.
pub struct Random(u64);

impl Random {
    /// Starts a sequence.
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// The next number.
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end.max(1)
    }
}

/// Whether `cargo xtask sanitize` runs the test: then there are pages, mappings and calls that are not ours.
pub fn is_sanitized() -> bool {
    ["ASAN_OPTIONS", "LSAN_OPTIONS", "TSAN_OPTIONS"]
        .iter()
        .any(|variable| std::env::var_os(variable).is_some())
}

/// A number from the environment.
pub fn number_from_env(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}
