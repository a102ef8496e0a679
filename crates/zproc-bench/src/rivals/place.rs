//! A directory in memory for the files and sockets of a rival, and a process that serves it.

use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::atomic::{AtomicU32, Ordering};

static NUMBER: AtomicU32 = AtomicU32::new(0);

/// A directory that goes with its owner.
pub struct Place(PathBuf);

impl Place {
    /// A new one.
    pub fn create() -> Self {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = PathBuf::from(format!("/dev/shm/zproc-bench-{}-{number}", std::process::id()));
        std::fs::create_dir(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        Self(path)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The same, as an address.
    pub fn address(&self) -> String {
        self.0.display().to_string()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A name that no other rival of any process has.
pub fn name() -> String {
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    format!("zproc-bench-{}-{number}", std::process::id())
}

/// A process that ends with its owner.
pub struct Server(Child);

impl Server {
    /// Starts it, on the CPU of this process: there it answers sooner than on another one, which would have to be woken
    /// each time. An error is the system's reason why it did not start.
    pub fn start(command: &mut Command) -> std::io::Result<Self> {
        command.spawn().map(Self)
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
