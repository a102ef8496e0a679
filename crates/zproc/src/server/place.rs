//! The place of a server: a socket in the file system, and beside it a lock file that says whether its server lives.
//!
//! **Who may listen.** Beside the socket `PATH` lies `PATH.lock`. A server holds its lock (`flock`) for as long as it
//! lives; the kernel gives it back when the last process with the description ends, however that ends. Whoever has the
//! lock may remove a socket that is there, since its server is dead, and bind its own. So of several starters exactly one
//! wins, and none removes what another has just bound.
//!
//! **The lock file** is removed, by who holds its lock, when the server stops. Who locks it meanwhile compares what is
//! locked with what has the name, and begins anew if they differ.
//!
//! **Sweeping.** A server that was killed, with everybody who could have removed its files, leaves both. Whoever starts a
//! server at an address that nobody has chosen looks at the other sockets in that directory, and removes those whose lock
//! nobody holds: with the lock in hand, as one that takes the place over. So a lock may be taken for an instant by one who does
//! not serve. A starter that finds the lock taken looks whether somebody listens, and tries again if not.
//!
//! **A server in a child** gets socket and lock by inheritance; its parent closes its own copies, so that the lock ends
//! with the child.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, listen, socket};
use nix::sys::stat::{Mode, fchmod};
use shm_state::Deadline;

use crate::address::of_socket;
use crate::error::{Error, Result};
use crate::os::failed;
use crate::wire::socket as wire_socket;

/// So many rounds are lost to servers that stop in between.
const ROUNDS: u32 = 100;
/// How long to wait for one who has the lock and does not listen.
const ROUND: Duration = Duration::from_millis(1);
/// So many files are looked at by who sweeps: there may be any number.
const SWEPT: usize = 1024;
/// Connections that wait to be accepted; the kernel takes less if it is set to.
const BACKLOG: i32 = 1024;

/// A socket that listens, and the lock that goes with it.
pub(super) struct Place {
    pub(super) listener: UnixListener,
    pub(super) lock: File,
}

/// Binds the socket `path`, unless a living server has it.
pub(super) fn take(path: &Path) -> Result<Place> {
    let address = of_socket(path);
    if let Err(reason) = wire_socket::check_path(path) {
        return Err(Error::InvalidAddress { address, reason });
    }
    let lock = lock(path)?;
    remove_dead(path)?;
    let listener = bind_at(path).map_err(|source| failed(&format!("binding {}", path.display()), source))?;
    let noted = (&lock).write_all(format!("{}\n", std::process::id()).as_bytes());
    noted.map_err(|source| failed("writing the lock file of a server", source))?;
    Ok(Place { listener, lock })
}

/// The lock of a place at which nobody serves.
fn lock(path: &Path) -> Result<File> {
    for _ in 0..ROUNDS {
        if let Some(lock) = try_lock(path, true)? {
            return Ok(lock);
        }
        match wire_socket::connect(path, Deadline::at_once()) {
            // Who has the lock is about to listen, or is sweeping.
            Err(error) if [ErrorKind::ConnectionRefused, ErrorKind::NotFound].contains(&error.kind()) => {
                std::thread::sleep(ROUND);
            }
            _ => break,
        }
    }
    Err(in_use(path))
}

/// Removes what servers have left beside `path` that were killed.
pub(super) fn sweep(path: &Path) {
    let Some(directory) = path.parent() else { return };
    // What cannot be looked at, or removed, stays for the next.
    let Ok(entries) = std::fs::read_dir(directory) else {
        return;
    };
    for entry in entries.flatten().take(SWEPT) {
        let name = entry.file_name();
        let Some(socket) = name.to_str().and_then(|name| name.strip_suffix(".lock")) else {
            continue;
        };
        let other = directory.join(socket);
        if socket.ends_with(".sock")
            && other != path
            && let Ok(Some(lock)) = try_lock(&other, false)
            && remove_dead(&other).is_ok()
        {
            remove_locked(&other, &lock);
        }
    }
}

/// Says in the lock file which process serves.
pub(super) fn note_pid(mut lock: &File, pid: u32) -> io::Result<()> {
    use std::io::Seek;
    lock.set_len(0)?;
    lock.rewind()?;
    lock.write_all(format!("{pid}\n").as_bytes())
}

/// Removes the socket of a server that has ended, unless another has it by now.
pub(super) fn clear(path: &Path) {
    // What cannot be removed is taken over by the next server.
    if let Ok(Some(lock)) = try_lock(path, false) {
        remove_locked(path, &lock);
    }
}

/// Removes a socket of one's own, whose lock one holds. Nothing, if somebody has removed that, and another may serve there.
pub(super) fn remove_locked(path: &Path, lock: &File) {
    let lock_path = lock_path(path);
    if has_name(lock, &lock_path).is_ok_and(|has| has) {
        let _ = std::fs::remove_file(path);
        let _ = std::fs::remove_file(lock_path);
    }
}

/// Whether a file is the one at a path.
fn has_name(file: &File, path: &Path) -> io::Result<bool> {
    let own = file.metadata()?;
    let named = std::fs::symlink_metadata(path);
    Ok(named.is_ok_and(|named| (named.dev(), named.ino()) == (own.dev(), own.ino())))
}

/// The lock beside the socket `path`; `None` if another has it, or if it is not there and is not to be made.
fn try_lock(path: &Path, create: bool) -> Result<Option<File>> {
    let lock_path = lock_path(path);
    let failed = |source| failed(&format!("opening the lock file {}", lock_path.display()), source);
    for _ in 0..ROUNDS {
        let opened = OpenOptions::new()
            .read(true)
            .write(true)
            .create(create)
            .truncate(false)
            .mode(0o600)
            .custom_flags(nix::fcntl::OFlag::O_NOFOLLOW.bits())
            .open(&lock_path);
        let file = match opened {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound && !create => return Ok(None),
            Err(error) => return Err(failed(error)),
        };
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
        // Its server may have stopped, and removed it, between the two.
        if has_name(&file, &lock_path).map_err(failed)? {
            if create {
                file.set_len(0).map_err(failed)?;
            }
            return Ok(Some(file));
        }
    }
    Err(in_use(path))
}

fn lock_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    name.into()
}

/// Removes what a dead server has left. Call it with the lock.
fn remove_dead(path: &Path) -> Result<()> {
    let file = match std::fs::symlink_metadata(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(&format!("looking at {}", path.display()), error)),
    };
    if !file.file_type().is_socket() {
        return Err(Error::InvalidAddress {
            address: of_socket(path),
            reason: "there is a file, which is no socket; choose another path, or remove it yourself".into(),
        });
    }
    // It may be that of another program, which knows nothing of the lock.
    match wire_socket::connect(path, Deadline::at_once()) {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path).map_err(|source| failed("removing the socket of a dead server", source))
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        _ => Err(Error::AddressInUse {
            address: of_socket(path),
            reason: "a program listens there that holds no lock beside it".into(),
        }),
    }
}

fn in_use(path: &Path) -> Error {
    let mut pid = String::new();
    let read = File::open(lock_path(path)).and_then(|file| file.take(20).read_to_string(&mut pid));
    let reason = match (read, pid.trim().parse::<u32>()) {
        (Ok(_), Ok(pid)) => format!("process {pid} serves there"),
        _ => "a server lives there".into(),
    };
    Error::AddressInUse {
        address: of_socket(path),
        reason,
    }
}

fn bind_at(path: &Path) -> io::Result<UnixListener> {
    let fd = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    // The socket in the file system gets the mode that this one has: so it is never there with another.
    fchmod(&fd, Mode::S_IRUSR | Mode::S_IWUSR)?;
    bind(std::os::fd::AsRawFd::as_raw_fd(&fd), &UnixAddr::new(path)?)?;
    // More than the system takes is cut off by it.
    let backlog = Backlog::new(BACKLOG).unwrap_or(Backlog::MAXCONN);
    listen(&fd, backlog)?;
    Ok(UnixListener::from(fd))
}

/// Ends every wait for connections.
pub(super) fn hush(listener: &impl AsFd) {
    let fd = std::os::fd::AsRawFd::as_raw_fd(&listener.as_fd());
    let _ = nix::sys::socket::shutdown(fd, nix::sys::socket::Shutdown::Both);
}

/// Whether an error of `accept` is one of a moment, and not of the socket.
pub(super) fn is_passing(error: &io::Error) -> bool {
    let passing = [
        Errno::EINTR,
        Errno::ECONNABORTED,
        Errno::EMFILE,
        Errno::ENFILE,
        Errno::ENOBUFS,
        Errno::ENOMEM,
    ];
    error
        .raw_os_error()
        .is_some_and(|errno| passing.contains(&Errno::from_raw(errno)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("zproc-place-{name}-{}.sock", std::process::id()))
    }

    #[test]
    fn of_many_starters_one_wins_also_where_a_dead_server_left_its_socket() {
        let path = path("race");
        for _ in 0..20 {
            drop(UnixListener::bind(&path).unwrap()); // as if it was killed: nobody listens any more
            let winners: Vec<Place> = std::thread::scope(|scope| {
                let starters: Vec<_> = (0..8).map(|_| scope.spawn(|| take(&path))).collect();
                let results = starters.into_iter().map(|starter| starter.join().unwrap());
                results
                    .filter_map(|result| match result {
                        Ok(place) => Some(place),
                        Err(Error::AddressInUse { .. }) => None,
                        Err(error) => panic!("{error}"),
                    })
                    .collect()
            });
            assert_eq!(winners.len(), 1);
            wire_socket::connect(&path, Deadline::at_once()).unwrap();
            let file = std::fs::metadata(&path).unwrap();
            assert_eq!(file.mode() & 0o777, 0o600);
            remove_locked(&path, &winners[0].lock);
        }
        assert!(!path.exists() && !lock_path(&path).exists());
    }

    #[test]
    fn starters_and_stoppers_never_serve_side_by_side() {
        let path = path("churn");
        let serving = std::sync::atomic::AtomicU32::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..100 {
                        let Ok(place) = take(&path) else { continue };
                        assert_eq!(serving.fetch_add(1, std::sync::atomic::Ordering::SeqCst), 0);
                        wire_socket::connect(&path, Deadline::at_once()).unwrap();
                        serving.fetch_sub(1, std::sync::atomic::Ordering::SeqCst);
                        remove_locked(&path, &place.lock);
                    }
                });
            }
        });
    }

    /// A server whose files somebody had cleaned away removed those of its successor.
    #[test]
    fn a_server_removes_its_own_socket_and_not_its_successors() {
        let path = path("successor");
        let first = take(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        std::fs::remove_file(lock_path(&path)).unwrap();
        let second = take(&path).unwrap();
        remove_locked(&path, &first.lock);
        wire_socket::connect(&path, Deadline::at_once()).unwrap();
        assert!(matches!(take(&path), Err(Error::AddressInUse { .. })));
        remove_locked(&path, &second.lock);
        assert!(!path.exists() && !lock_path(&path).exists());
    }

    #[test]
    fn neither_a_file_nor_the_socket_of_another_program_is_removed() {
        let path = path("foreign");
        std::fs::write(&path, "precious").unwrap();
        assert!(matches!(take(&path), Err(Error::InvalidAddress { .. })));
        std::fs::remove_file(&path).unwrap();
        let listener = UnixListener::bind(&path).unwrap();
        assert!(matches!(take(&path), Err(Error::AddressInUse { .. })));
        drop(listener);
        let place = take(&path).unwrap();
        let error = take(&path).err().expect("it is in use").to_string();
        assert!(error.contains(&format!("process {}", std::process::id())), "{error}");
        remove_locked(&path, &place.lock);
    }

    #[test]
    fn one_who_has_the_lock_and_does_not_serve_is_waited_for() {
        let path = path("sweeper");
        let lock = try_lock(&path, true).unwrap().unwrap();
        std::thread::scope(|scope| {
            let starter = scope.spawn(|| take(&path));
            std::thread::sleep(Duration::from_millis(10));
            drop(lock);
            let place = starter.join().unwrap().expect("nobody serves there");
            remove_locked(&path, &place.lock);
        });
    }

    #[test]
    fn sweepers_remove_what_dead_servers_left_and_nothing_else() {
        let directory = std::env::temp_dir().join(format!("zproc-sweep-{}", std::process::id()));
        std::fs::create_dir(&directory).unwrap();
        let at = |name: &str| directory.join(name);
        let living = take(&at("living.sock")).unwrap();
        drop(take(&at("dead.sock")).unwrap());
        std::fs::write(at("lonely.sock.lock"), "5\n").unwrap();
        // A program that knows nothing of locks has taken the place of one that did.
        std::fs::write(at("foreign.sock.lock"), "5\n").unwrap();
        let foreign = UnixListener::bind(at("foreign.sock")).unwrap();
        for file in ["file.sock", "file.sock.lock", "notes.lock", "notes"] {
            std::fs::write(at(file), "precious").unwrap();
        }
        let own = take(&at("own.sock")).unwrap();
        std::thread::scope(|scope| {
            (0..4).for_each(|_| drop(scope.spawn(|| sweep(&at("own.sock")))));
        });
        let mut left: Vec<String> = std::fs::read_dir(&directory)
            .unwrap()
            .map(|file| file.unwrap().file_name().into_string().unwrap())
            .collect();
        left.sort_unstable();
        let expected = [
            "file.sock",
            "file.sock.lock",
            "foreign.sock",
            "foreign.sock.lock",
            "living.sock",
            "living.sock.lock",
            "notes",
            "notes.lock",
            "own.sock",
            "own.sock.lock",
        ];
        assert_eq!(left, expected);
        drop((living, own, foreign));
        std::fs::remove_dir_all(directory).unwrap();
    }
}
