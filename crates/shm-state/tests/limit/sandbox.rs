//! Processes with little of something: resource limits, a /dev/shm of their own, another user.
//!
//! All of it changes the calling process for good, so it is for children that were started for nothing else.

use std::ffi::{CStr, CString};

/// The user and group that nobody is, for processes that are to have no rights.
pub const NOBODY: u32 = 65_534;

/// Says loudly that something was not tried. Straight to the terminal: the harness would swallow it.
pub fn skipped(what: &str, why: &str) {
    eprintln!("NOT TESTED: {what}: {why}");
}

/// Sets a soft limit; the hard one stays, so that it can be lifted again.
pub fn set_limit(resource: libc::__rlimit_resource_t, soft: u64) {
    let mut limit = get_limit(resource);
    limit.rlim_cur = soft.min(limit.rlim_max);
    // SAFETY: reads a structure of this function.
    let result = unsafe { libc::setrlimit(resource, &raw const limit) };
    assert_eq!(result, 0, "setrlimit: {}", std::io::Error::last_os_error());
}

/// Both limits.
pub fn get_limit(resource: libc::__rlimit_resource_t) -> libc::rlimit {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: fills a structure of this function.
    let result = unsafe { libc::getrlimit(resource, &raw mut limit) };
    assert_eq!(result, 0, "getrlimit: {}", std::io::Error::last_os_error());
    limit
}

/// Lifts a soft limit to the hard one.
pub fn lift_limit(resource: libc::__rlimit_resource_t) {
    set_limit(resource, u64::MAX);
}

/// The descriptors that are open, without opening one to find out.
pub fn descriptors() -> Vec<i32> {
    // SAFETY: asks for the flags of a number, which is a descriptor or not.
    (0..1024)
        .filter(|fd| unsafe { libc::fcntl(*fd, libc::F_GETFD) } >= 0)
        .collect()
}

/// Bytes of address space that this process has mapped.
pub fn address_space() -> u64 {
    let pages: u64 = std::fs::read_to_string("/proc/self/statm")
        .unwrap()
        .split(' ')
        .next()
        .unwrap()
        .parse()
        .unwrap();
    pages * 4096
}

/// Gives this process a mount namespace of its own in which a new tmpfs with these options is mounted on /dev/shm.
/// `false` when it may not.
pub fn own_shm(options: &str) -> bool {
    let flags = [
        (libc::CLONE_NEWNS, false),
        (libc::CLONE_NEWUSER | libc::CLONE_NEWNS, true),
    ];
    // SAFETY: changes the namespaces of this process only, which is here for nothing else.
    if !flags.iter().any(|(flags, _)| unsafe { libc::unshare(*flags) } == 0) {
        return false;
    }
    mount(c"/", libc::MS_REC | libc::MS_PRIVATE, "") && mount(c"/dev/shm", 0, options)
}

/// Mounts a tmpfs, or changes the options of a mount.
pub fn mount(target: &CStr, flags: libc::c_ulong, options: &str) -> bool {
    let options = CString::new(options).unwrap();
    let kind = c"tmpfs".as_ptr();
    // SAFETY: all strings end in zero and outlive the call.
    unsafe { libc::mount(kind, target.as_ptr(), kind, flags, options.as_ptr().cast()) == 0 }
}

/// Becomes a user without rights. `false` when this process may not.
pub fn become_nobody() -> bool {
    // SAFETY: three calls that take integers; all threads of this process follow, says the C library.
    let groups = unsafe { libc::setgroups(0, std::ptr::null()) };
    // SAFETY: as above.
    let group = unsafe { libc::setresgid(NOBODY, NOBODY, NOBODY) };
    // SAFETY: as above.
    let user = unsafe { libc::setresuid(NOBODY, NOBODY, NOBODY) };
    (groups, group, user) == (0, 0, 0)
}

/// Whether this process runs as root.
pub fn is_root() -> bool {
    // SAFETY: asks for an integer.
    unsafe { libc::geteuid() == 0 }
}
