//! Sockets: paths that fit, connections that do not wait for ever, and who is at the other end.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, UnixAddr, connect as connect_fd, getsockopt, socket, sockopt,
};
use nix::unistd::geteuid;
use shm_state::Deadline;

/// The longest path of a socket: the kernel's structure has room for 108 bytes, the last of which is 0.
pub(crate) const PATH_MOST: usize = 107;

/// Whether a path is too long for the name of a socket; then says so.
pub(crate) fn check_path(path: &Path) -> Result<(), String> {
    let length = path.as_os_str().len();
    if length <= PATH_MOST {
        return Ok(());
    }
    Err(format!(
        "its path has {length} bytes, and sockets can have {PATH_MOST}: choose a shorter one, for example below \
         $XDG_RUNTIME_DIR"
    ))
}

/// Connects to a server, whose queue may be full for a while.
pub(crate) fn connect(path: &Path, deadline: Deadline) -> io::Result<UnixStream> {
    let address = UnixAddr::new(path)?;
    let mut pause = std::time::Duration::from_micros(200);
    loop {
        // Without blocking, since a full queue would be waited for without a limit.
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let fd = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
        match connect_fd(std::os::fd::AsRawFd::as_raw_fd(&fd), &address) {
            Ok(()) => {
                let stream = UnixStream::from(fd);
                stream.set_nonblocking(false)?;
                return Ok(stream);
            }
            Err(Errno::EAGAIN | Errno::EINTR) if !deadline.passed() => {
                std::thread::sleep(deadline.remaining().map_or(pause, |left| left.min(pause)));
                pause = (2 * pause).min(std::time::Duration::from_millis(20));
            }
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// The user and the process at the other end, as the kernel knows them.
pub(crate) fn peer(stream: &impl AsFd) -> io::Result<(u32, u32)> {
    let peer = getsockopt(stream, sockopt::PeerCredentials)?;
    Ok((peer.uid(), peer.pid().cast_unsigned()))
}

/// The user that this process acts as.
pub(crate) fn own_user() -> u32 {
    geteuid().as_raw()
}

/// Whether a user may be trusted with what is ours: ourselves, and root, who can take it anyway.
pub(crate) fn is_trusted(user: u32) -> bool {
    user == own_user() || user == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_path_is_107_bytes() {
        let path = |length: usize| std::path::PathBuf::from(format!("/{}", "a".repeat(length - 1)));
        check_path(&path(107)).unwrap();
        assert!(check_path(&path(108)).unwrap_err().contains("108 bytes"));
    }

    #[test]
    fn the_other_end_of_a_pair_is_this_process() {
        let (one, _other) = UnixStream::pair().unwrap();
        assert_eq!(peer(&one).unwrap(), (own_user(), std::process::id()));
    }
}
