//! What can be told of a named arena from outside, whether or not it can be opened: for those who look for the reason why
//! it cannot.
//!
//! The file is read and never mapped, so nothing in it can do harm, and nobody notices. What its head says is taken as it
//! is: of a file of another version only the first words mean what they mean here.

use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::{Arena, DIRECTORY, checksum, path_of};
use crate::error::Result;
use crate::layout::{FORMAT_VERSION, GRANULE, MAGIC, SUPERBLOCK_HEAD_WORDS, Superblock, layout_hash};
use crate::sys::{file, limit::Limit, process};

/// A file system.
///
/// ```
/// use shm_state::Arena;
///
/// let here = Arena::inspect("doors")?.here;
/// let file_system = here.file_system.expect("it has a directory for named arenas");
/// assert!(file_system.free <= file_system.size, "{file_system:?}");
/// # Ok::<(), shm_state::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct FileSystem {
    /// `tmpfs`, `overlay`, or another.
    pub kind: &'static str,
    /// Its bytes; 0 if it has no limit of its own, or would not say.
    pub size: u64,
    /// The bytes that it has left.
    pub free: u64,
}

/// The head of an arena.
///
/// ```
/// use shm_state::{Arena, ArenaOptions};
///
/// # let name = format!("shm-state-doc-head-{}", std::process::id());
/// # let name = name.as_str();
/// let arena = Arena::create(name, &ArenaOptions { capacity: 8 << 20, ..ArenaOptions::default() })?;
/// let head = Arena::inspect(name)?.file.unwrap().head.unwrap().unwrap();
/// # Arena::remove(name)?;
/// assert!(head.is_arena && head.is_intact);
/// assert_eq!((head.capacity, head.committed), (8 << 20, arena.status()?.committed));
/// # Ok::<(), shm_state::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Head {
    /// It begins as every arena does.
    pub is_arena: bool,
    /// The version of the format.
    pub version: u64,
    /// The fingerprint of the layout.
    pub layout: u64,
    /// Bytes that it may grow to, which should be the size of the file.
    pub capacity: u64,
    /// Inode of the PID namespace that it was made in.
    pub pid_namespace: u64,
    /// The boot of the machine that it was made in.
    pub boot_id: [u8; 16],
    /// The checksum is that of the words before.
    pub is_intact: bool,
    /// Bytes that are said to be backed by memory.
    pub committed: u64,
}

/// The file of an arena.
///
/// ```
/// use shm_state::{Arena, ArenaOptions};
///
/// # let name = format!("shm-state-doc-file-{}", std::process::id());
/// # let name = name.as_str();
/// let arena = Arena::create(name, &ArenaOptions::default())?;
/// let found = Arena::inspect(name)?;
/// # Arena::remove(name)?;
/// let file = found.file.expect("it was just made");
/// assert!(file.is_regular && file.backed <= file.size);
/// assert_eq!((file.mode, file.owner), (0o600, found.here.user)); // nobody else may open it
/// # Ok::<(), shm_state::Error>(())
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub struct ArenaFile {
    /// It is a regular file: no link, directory, or device.
    pub is_regular: bool,
    /// The user whom it belongs to.
    pub owner: u32,
    /// Who may read and write it.
    pub mode: u32,
    /// Its size.
    pub size: u64,
    /// Bytes of it that are backed by memory.
    pub backed: u64,
    /// Its head; `None` if it is too short to have one; the error if it cannot be read.
    pub head: io::Result<Option<Head>>,
}

/// What opening an arena depends on, beside the arena.
///
/// ```
/// use shm_state::{Arena, ArenaOptions};
///
/// # let name = format!("shm-state-doc-surroundings-{}", std::process::id());
/// # let name = name.as_str();
/// let arena = Arena::create(name, &ArenaOptions::default())?;
/// let found = Arena::inspect(name)?;
/// # Arena::remove(name)?;
/// let head = found.file.unwrap().head.unwrap().unwrap();
/// assert_eq!((head.version, head.layout), (found.here.version, found.here.layout));
/// assert_eq!(Some(head.boot_id), found.here.boot_id); // a restart makes an arena useless
/// # Ok::<(), shm_state::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Surroundings {
    /// The user that this process acts as.
    pub user: u32,
    /// The version of the format that this program reads.
    pub version: u64,
    /// The fingerprint of its layout.
    pub layout: u64,
    /// This boot of the machine; `None` without /proc.
    pub boot_id: Option<[u8; 16]>,
    /// Inode of the PID namespace of this process; `None` without /proc.
    pub pid_namespace: Option<u64>,
    /// Bytes of address space that this process may have (RLIMIT_AS); `None` if there is no limit.
    pub address_space: Option<u64>,
    /// The file system of named arenas; `None` if there is none.
    pub file_system: Option<FileSystem>,
}

/// What [`Arena::inspect`] found.
///
/// ```
/// use shm_state::Arena;
///
/// # let name = format!("shm-state-doc-inspection-{}", std::process::id());
/// # let name = name.as_str();
/// let found = Arena::inspect(name)?;
/// assert!(found.path.ends_with(name));
/// assert!(found.file.is_none()); // nobody has made it
/// # Ok::<(), shm_state::Error>(())
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub struct Inspection {
    /// Where the arena should be.
    pub path: PathBuf,
    /// The file there; `None` if there is none.
    pub file: Option<ArenaFile>,
    /// What else matters.
    pub here: Surroundings,
}

impl Arena {
    /// Looks at a named arena from outside: whether it is there, whose it is, and what its head says.
    ///
    /// # Errors
    /// [`Error::InvalidName`](crate::Error::InvalidName). Everything else is part of what is found.
    ///
    /// ```
    /// use shm_state::{Arena, ArenaOptions};
    ///
    /// let name = format!("doc-inspect-{}", std::process::id());
    /// assert!(Arena::inspect(&name)?.file.is_none());
    /// let arena = Arena::create(&name, &ArenaOptions::default())?;
    /// let found = Arena::inspect(&name)?;
    /// let head = found.file.unwrap().head.unwrap().unwrap();
    /// assert!(head.is_intact && head.version == found.here.version);
    /// Arena::remove(&name)?;
    /// # Ok::<(), shm_state::Error>(())
    /// ```
    pub fn inspect(name: &str) -> Result<Inspection> {
        let path = path_of(name)?;
        // The head first: meanwhile the arena may grow, and it has the memory before it says so.
        let head = head_of(&path);
        let file = std::fs::symlink_metadata(&path).ok().map(|about| ArenaFile {
            is_regular: about.is_file(),
            owner: about.uid(),
            mode: about.mode() & 0o7777,
            size: about.len(),
            backed: about.blocks() * 512,
            head,
        });
        let here = Surroundings {
            user: file::user(),
            version: FORMAT_VERSION,
            layout: layout_hash(),
            boot_id: process::boot_id().ok(),
            pid_namespace: process::pid_namespace().ok(),
            address_space: Limit::AddressSpace.get(),
            file_system: file_system(),
        };
        Ok(Inspection { path, file, here })
    }
}

fn file_system() -> Option<FileSystem> {
    let directory = file::open_to_look(Path::new(DIRECTORY)).ok()?;
    let (kind, size, free) = file::file_system(directory).ok()?;
    Some(FileSystem { kind, size, free })
}

fn head_of(path: &Path) -> io::Result<Option<Head>> {
    let file = std::fs::File::from(file::open_to_look(path)?);
    let mut bytes = [0; std::mem::offset_of!(Superblock, committed) + 8];
    match file.read_exact_at(&mut bytes, 0) {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    }
    let (words, _) = bytes.as_chunks::<8>();
    let word = |at: usize| u64::from_le_bytes(words[at / 8]);
    let head: Vec<u64> = (0..SUPERBLOCK_HEAD_WORDS).map(|at| word(at * 8)).collect();
    let mut boot_id = [0; 16];
    let at = std::mem::offset_of!(Superblock, boot_id);
    boot_id.copy_from_slice(&bytes[at..at + 16]);
    Ok(Some(Head {
        is_arena: word(std::mem::offset_of!(Superblock, magic)) == MAGIC,
        version: word(std::mem::offset_of!(Superblock, version)),
        layout: word(std::mem::offset_of!(Superblock, layout)),
        capacity: word(std::mem::offset_of!(Superblock, capacity)),
        pid_namespace: word(std::mem::offset_of!(Superblock, pid_namespace)),
        boot_id,
        is_intact: word(std::mem::offset_of!(Superblock, checksum)) == checksum(&head),
        committed: word(std::mem::offset_of!(Superblock, committed)).saturating_mul(GRANULE as u64),
    }))
}
