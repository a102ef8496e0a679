//! Files that hold an arena: made without a name, linked into place when complete, grown by allocation, and
//! locked by the byte. Every descriptor is close-on-exec. Errors are those of the kernel; [`is_full`] and
//! [`io::ErrorKind::AlreadyExists`] tell apart the ones that callers answer.

use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use nix::fcntl::{AT_FDCWD, AtFlags, FallocateFlags, FcntlArg, OFlag, SealFlag, fallocate, fcntl, open as open_fd};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::stat::Mode;
use nix::sys::statvfs;
use nix::unistd::{ftruncate, linkat};

use super::limit::Limit;
use super::without_proc;

/// A file without a name anywhere, `length` bytes long, all of them holes. Its size can never change again.
pub fn sealed_memfd(name: &str, length: u64) -> io::Result<OwnedFd> {
    let fd = memfd_create(name, MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?;
    set_len(&fd, length)?;
    let seals = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL;
    fcntl(&fd, FcntlArg::F_ADD_SEALS(seals))?;
    Ok(fd)
}

/// A file of mode 0600 in `directory` that has no name yet and vanishes unless [`link`] gives it one.
pub fn unnamed_in(directory: &Path) -> io::Result<OwnedFd> {
    let flags = OFlag::O_TMPFILE | OFlag::O_RDWR | OFlag::O_CLOEXEC;
    Ok(open_fd(directory, flags, Mode::S_IRUSR | Mode::S_IWUSR)?)
}

/// Gives an unnamed file a name. `AlreadyExists` if the name is taken: of several creators exactly one wins.
pub fn link(file: impl AsFd, path: &Path) -> io::Result<()> {
    let source = own_path(&file);
    Ok(linkat(
        AT_FDCWD,
        source.as_str(),
        AT_FDCWD,
        path,
        AtFlags::AT_SYMLINK_FOLLOW,
    )?)
}

/// Opens an existing file for reading and writing; refuses a symbolic link in its last component.
pub fn open(path: &Path) -> io::Result<OwnedFd> {
    Ok(open_fd(
        path,
        OFlag::O_RDWR | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW,
        Mode::empty(),
    )?)
}

/// Opens whatever is there for reading, without waiting for anybody; refuses a symbolic link in its last component.
pub fn open_to_look(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    Ok(open_fd(path, flags, Mode::empty())?)
}

/// Opens the same file once more. The copy is an open file description of its own: byte locks taken through it
/// end with it, whatever happens to the original or to mappings of it.
pub fn reopen(file: impl AsFd) -> io::Result<OwnedFd> {
    let path = own_path(&file);
    open_fd(path.as_str(), OFlag::O_RDWR | OFlag::O_CLOEXEC, Mode::empty()).map_err(|error| without_proc(error.into()))
}

/// Removes a name. The file itself lives on while anybody has it open or mapped.
pub fn remove(path: &Path) -> io::Result<()> {
    Ok(nix::unistd::unlink(path)?)
}

/// The file's size in bytes.
pub fn len(file: impl AsFd) -> io::Result<u64> {
    let size = nix::sys::stat::fstat(file)?.st_size;
    u64::try_from(size).map_err(io::Error::other)
}

/// Device and inode, which no other file of the machine has.
pub fn identity(file: impl AsFd) -> io::Result<(u64, u64)> {
    let stat = nix::sys::stat::fstat(file)?;
    Ok((stat.st_dev, stat.st_ino))
}

/// The user that this process acts as.
pub fn user() -> u32 {
    nix::unistd::geteuid().as_raw()
}

/// The user whom the file belongs to, and the one that this process acts as.
pub fn owner(file: impl AsFd) -> io::Result<(u32, u32)> {
    Ok((nix::sys::stat::fstat(file)?.st_uid, nix::unistd::geteuid().as_raw()))
}

/// Sets the file's size; new bytes are holes, which may turn out not to exist when they are touched.
///
/// Beyond RLIMIT_FSIZE the kernel would answer with SIGXFSZ, which ends the process, so it is not asked.
pub fn set_len(file: impl AsFd, length: u64) -> io::Result<()> {
    if Limit::FileSize.get().is_some_and(|most| length > most) {
        return Err(io::Error::from_raw_os_error(libc::EFBIG));
    }
    Ok(ftruncate(file, offset(length)?)?)
}

/// Makes the bytes of `range` real, so that touching them cannot fail. [`is_full`] tells if there is no room.
///
/// A memfd belongs to a file system without a limit: there only the memory limit of the cgroup or the machine
/// ends an allocation, and it may do so by killing a process. Bound the range beforehand.
pub fn allocate(file: impl AsFd, range: Range<u64>) -> io::Result<()> {
    let (start, length) = (offset(range.start)?, offset(range.end.saturating_sub(range.start))?);
    if length == 0 {
        return Ok(());
    }
    loop {
        match fallocate(&file, FallocateFlags::empty(), start, length) {
            Err(nix::errno::Errno::EINTR) => {}
            done => return Ok(done?),
        }
    }
}

/// Whether the error means that the file system, its quota or the memory limit has no more room.
pub fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::OutOfMemory
    )
}

/// Bytes of the file system that the file is in; 0 if it has no limit, or does not say.
pub fn size_of_file_system(file: impl AsFd) -> u64 {
    statvfs::fstatvfs(file).map_or(0, |stat| stat.blocks().saturating_mul(stat.fragment_size()))
}

/// What the system calls an open file: its path, or the name of a memfd.
pub fn name(file: impl AsFd) -> Option<String> {
    let path = std::fs::read_link(own_path(&file)).ok()?;
    Some(path.to_string_lossy().into_owned())
}

/// A file system: its kind, as `mount` calls it, if it is one that matters here; its bytes, and those that a user may still
/// have. 0 and 0: it has no limit of its own.
pub fn file_system(file: impl AsFd) -> io::Result<(&'static str, u64, u64)> {
    let stat = nix::sys::statfs::fstatfs(&file)?;
    let kind = match stat.filesystem_type() {
        nix::sys::statfs::TMPFS_MAGIC => "tmpfs",
        nix::sys::statfs::OVERLAYFS_SUPER_MAGIC => "overlay",
        nix::sys::statfs::HUGETLBFS_MAGIC => "hugetlbfs",
        _ => "another file system",
    };
    let stat = statvfs::fstatvfs(&file)?;
    let bytes = |blocks: u64| blocks.saturating_mul(stat.fragment_size());
    Ok((kind, bytes(stat.blocks()), bytes(stat.blocks_available())))
}

/// Gives back the lock of a byte that was taken through this open file description.
pub fn unlock_byte(file: impl AsFd, byte: u64) -> io::Result<()> {
    fcntl(file, FcntlArg::F_OFD_SETLK(&byte_lock(libc::F_UNLCK, byte)?))?;
    Ok(())
}

/// Takes the exclusive lock of one byte for this open file description; `false` if another one has it.
/// The byte need not exist. The lock ends when the last descriptor of the description is closed.
pub fn try_lock_byte(file: impl AsFd, byte: u64) -> io::Result<bool> {
    match fcntl(file, FcntlArg::F_OFD_SETLK(&byte_lock(libc::F_WRLCK, byte)?)) {
        Ok(_) => Ok(true),
        Err(nix::errno::Errno::EAGAIN | nix::errno::Errno::EACCES) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Whether another open file description has the lock of the byte.
pub fn byte_is_locked(file: impl AsFd, byte: u64) -> io::Result<bool> {
    let mut lock = byte_lock(libc::F_WRLCK, byte)?;
    fcntl(file, FcntlArg::F_OFD_GETLK(&mut lock))?;
    Ok(i32::from(lock.l_type) != libc::F_UNLCK)
}

fn byte_lock(kind: i32, byte: u64) -> io::Result<libc::flock> {
    Ok(libc::flock {
        l_type: i16::try_from(kind).map_err(io::Error::other)?,
        l_whence: 0, // SEEK_SET
        l_start: offset(byte)?,
        l_len: 1,
        l_pid: 0,
    })
}

fn offset(bytes: u64) -> io::Result<libc::off_t> {
    libc::off_t::try_from(bytes).map_err(|_| io::ErrorKind::FileTooLarge.into())
}

fn own_path(file: &impl AsFd) -> String {
    format!("/proc/self/fd/{}", file.as_fd().as_raw_fd())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory(name: &str) -> std::path::PathBuf {
        let path = Path::new("/dev/shm").join(format!("shm-state-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        path
    }

    #[test]
    fn of_two_creators_the_second_learns_that_the_name_is_taken() {
        let directory = directory("link");
        let path = directory.join("a");
        let (first, second) = (unnamed_in(&directory).unwrap(), unnamed_in(&directory).unwrap());
        link(&first, &path).unwrap();
        assert_eq!(link(&second, &path).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        set_len(&first, 12_345).unwrap();
        assert_eq!(len(open(&path).unwrap()).unwrap(), 12_345);
        assert_eq!(nix::sys::stat::fstat(&first).unwrap().st_mode & 0o777, 0o600);
        remove(&path).unwrap();
        assert_eq!(open(&path).unwrap_err().kind(), io::ErrorKind::NotFound);
        std::fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn a_sealed_file_keeps_its_size_and_can_be_filled() {
        let fd = sealed_memfd("test", 1 << 20).unwrap();
        assert_eq!(len(&fd).unwrap(), 1 << 20);
        allocate(&fd, 4_096..1 << 20).unwrap();
        allocate(&fd, 5..5).unwrap();
        assert!(set_len(&fd, 1 << 21).is_err() && set_len(&fd, 0).is_err());
        assert!(allocate(&fd, 1 << 20..1 << 21).is_err());
    }

    #[test]
    fn a_full_file_system_is_recognised() {
        // Not a memfd: those have no file system limit, so the kernel would first use up the memory.
        let fd = unnamed_in(Path::new("/dev/shm")).unwrap();
        let limit = nix::sys::statvfs::fstatvfs(&fd).unwrap();
        let more = limit.blocks() * limit.fragment_size() * 2;
        if more > 0 {
            let error = allocate(&fd, 0..more).unwrap_err();
            assert!(is_full(&error), "{error}");
        }
    }

    #[test]
    fn a_byte_lock_belongs_to_one_open_file() {
        let fd = sealed_memfd("bytes", 4_096).unwrap();
        let (one, two) = (reopen(&fd).unwrap(), reopen(&fd).unwrap());
        assert!(try_lock_byte(&one, 9_000).unwrap() && try_lock_byte(&one, 9_000).unwrap());
        assert!(!byte_is_locked(&one, 9_000).unwrap(), "its own lock is not in its way");
        assert!(!try_lock_byte(&two, 9_000).unwrap() && byte_is_locked(&two, 9_000).unwrap());
        assert!(try_lock_byte(&two, 9_001).unwrap() && byte_is_locked(&one, 9_001).unwrap());
        drop(one);
        assert!(!byte_is_locked(&two, 9_000).unwrap());
    }
}
