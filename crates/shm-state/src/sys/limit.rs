//! Resource limits of this process, to say in an error how tight they are and how to widen them.

use std::io;
use std::mem::MaybeUninit;

/// What a process may be short of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// Bytes of the largest file that it may make.
    FileSize,
    /// Bytes that it may map.
    AddressSpace,
    /// Descriptors.
    Files,
    /// Processes and threads of its user.
    Threads,
    /// Bytes that it may lock in memory.
    LockedMemory,
}

impl Limit {
    /// The limit; `None` if there is none.
    pub fn get(self) -> Option<u64> {
        let resource = match self {
            Self::FileSize => libc::RLIMIT_FSIZE,
            Self::AddressSpace => libc::RLIMIT_AS,
            Self::Files => libc::RLIMIT_NOFILE,
            Self::Threads => libc::RLIMIT_NPROC,
            Self::LockedMemory => libc::RLIMIT_MEMLOCK,
        };
        let mut limit = MaybeUninit::<libc::rlimit>::uninit();
        // SAFETY: the kernel fills the structure.
        if unsafe { libc::getrlimit(resource, limit.as_mut_ptr()) } != 0 {
            return None;
        }
        // SAFETY: filled by the call, which succeeded.
        let now = unsafe { limit.assume_init() }.rlim_cur;
        (now != libc::RLIM_INFINITY).then_some(now)
    }

    /// Name, value and remedy; empty if there is no limit.
    pub fn describe(self) -> String {
        let (name, unit, remedy) = match self {
            Self::FileSize => ("RLIMIT_FSIZE", " bytes", "ulimit -f"),
            Self::AddressSpace => ("RLIMIT_AS", " bytes", "ulimit -v"),
            Self::Files => ("RLIMIT_NOFILE", "", "ulimit -n"),
            Self::Threads => ("RLIMIT_NPROC", "", "ulimit -u"),
            Self::LockedMemory => (
                "RLIMIT_MEMLOCK",
                " bytes",
                "ulimit -l, or LimitMEMLOCK= of a systemd unit",
            ),
        };
        self.get().map_or_else(String::new, |now| {
            format!("; {name} is {now}{unit}: raise it ({remedy})")
        })
    }
}

/// What to do about an error of the system, to be put behind its message; empty if there is nothing to say.
pub fn way_out(error: &io::Error) -> String {
    let both = || Limit::Threads.describe() + &Limit::AddressSpace.describe();
    if error.kind() == io::ErrorKind::OutOfMemory {
        return Limit::AddressSpace.describe();
    }
    match error.raw_os_error() {
        Some(libc::EFBIG) => Limit::FileSize.describe(),
        Some(libc::EMFILE) => Limit::Files.describe(),
        // Of starting a thread, whose stack may be what did not fit.
        Some(libc::EAGAIN) => both(),
        Some(libc::EACCES | libc::EPERM) => {
            let user = nix::unistd::geteuid();
            format!("; this process runs as user {user}, who must be allowed to read and write it")
        }
        // Of making a file, which has no content yet.
        Some(libc::ENOSPC) => "; the file system has no room for another file (see df -i): remove some there".into(),
        Some(libc::EROFS) => "; remount it for writing".into(),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_the_limit_behind_it_and_how_to_raise_it() {
        let text = way_out(&io::Error::from_raw_os_error(libc::EMFILE));
        let now = Limit::Files.get().expect("every process has a limit of descriptors");
        assert_eq!(text, format!("; RLIMIT_NOFILE is {now}: raise it (ulimit -n)"));
        assert_eq!(way_out(&io::Error::from_raw_os_error(libc::EINVAL)), "");
    }
}
