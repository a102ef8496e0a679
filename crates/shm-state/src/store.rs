//! Arenas: made complete or not at all, opened after everything in the superblock was checked.
//!
//! **Creating.** A file without a name is sized, its tables are backed and written, and only then is it linked to its
//! name, which fails if the name is taken. So nobody ever sees half an arena, and of several creators exactly one
//! wins. An anonymous arena is a memfd whose size is sealed.
//!
//! **Opening** checks, in this order, with a read and not through the mapping: magic number, format version, layout
//! hash, checksum of the head, size of the file, boot, PID namespace. A process maps an arena once, however often it
//! opens it.

mod care;
mod inspect;

use std::collections::HashMap;
use std::io::ErrorKind;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering as Local};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use crate::arena::Mapping;
use crate::directory;
use crate::error::{Error, Result};
use crate::layout::{
    FORMAT_VERSION, MAGIC, MAX_CAPACITY, MIN_CAPACITY, PARTICIPANTS, SUPERBLOCK_HEAD_WORDS, Superblock, layout_hash,
};
use crate::lock::WriterLock;
use crate::namespace::Namespace;
use crate::participant::{AttachError, Attachment, Entrance, Name, ParticipantSlot, choose_name};
use crate::resident::Residency;
use crate::seats;
use crate::space::{History, Membership, Space};
use crate::sync::{Ordering, Word};
use crate::sys::fork::PerProcess;
use crate::sys::{file, process};
pub use inspect::{ArenaFile, FileSystem, Head, Inspection, Surroundings};

/// Where named arenas live.
const DIRECTORY: &str = "/dev/shm";
/// What a new arena is like.
///
/// ```
/// use shm_state::{Arena, ArenaOptions};
///
/// let arena = Arena::anonymous(&ArenaOptions { capacity: 1 << 20, ..Default::default() })?;
/// assert_eq!(arena.stats()?.capacity, 1 << 20);
/// # Ok::<(), shm_state::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ArenaOptions {
    /// Bytes that it may grow to; a limit, not memory that is taken. Rounded down to 64 KiB.
    pub capacity: u64,
    /// How much history each namespace keeps.
    pub history: History,
    /// Names the encoding of the values, for whoever puts types on top; see [`Arena::check_value_format`]. Nothing here
    /// depends on it.
    pub value_format: u64,
}

impl Default for ArenaOptions {
    /// 1 GiB; the last 256 commits, or 64 MiB of superseded values; values of format 0.
    fn default() -> Self {
        Self {
            capacity: 1 << 30,
            history: History {
                count: 256,
                bytes: 64 << 20,
            },
            value_format: 0,
        }
    }
}

/// Shared memory with namespaces in it. Cheap to clone.
///
/// ```
/// use shm_state::{Arena, ArenaOptions};
/// let arena = Arena::anonymous(&ArenaOptions::default())?;
/// assert_eq!(arena.namespace("default")?.seq(), 0);
/// assert!(arena.verify()?.is_clean());
/// # Ok::<(), shm_state::Error>(())
/// ```
#[derive(Clone)]
pub struct Arena {
    inner: Arc<Inner>,
}

struct Inner {
    name: String,
    spaces: Mutex<HashMap<String, Weak<Space>>>,
    history: History,
    value_format: u64,
    membership: Arc<Membership>,
    mapping: Arc<Mapping>,
}

/// Device and inode: what tells one arena from another; and whether it is mapped for reading only, which is another mapping.
type Identity = (u64, u64, bool);

/// Arenas that this process has mapped.
type Registry = Mutex<HashMap<Identity, Weak<Inner>>>;

/// A key for an arena in memory that the caller brings, each time another: no device has that number.
fn of_caller() -> Identity {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    (u64::MAX, NEXT.fetch_add(1, Local::Relaxed), false)
}

static REGISTRY: PerProcess<Registry> = PerProcess::new();

fn registry() -> Result<&'static Registry> {
    REGISTRY
        .get()
        .map_err(Error::os("mapping the page that notices a fork"))
}

/// Chooses what this process is called in all arenas: those that it has open, and those that it will open. Others see it
/// beside the process id. As much of it as fits into 15 bytes is used, without control characters. An empty name stands
/// for that of the program, which is what it is without this call.
///
/// ```
/// use shm_state::{Arena, ArenaOptions, Deadline, KeyRef};
///
/// let arena = Arena::anonymous(&ArenaOptions::default())?;
/// shm_state::set_process_name("sampler");
/// let namespace = arena.namespace("default")?;
/// let seq = namespace.put(&KeyRef::new(0, b"door"), None, 1, b"open", Deadline::never())?;
/// let record = namespace.record(seq)?.unwrap();
/// assert_eq!(namespace.writer_name(&record).as_deref(), Some("sampler"));
/// # Ok::<(), shm_state::Error>(())
/// ```
pub fn set_process_name(name: &str) {
    choose_name(Name::new(name));
    // Without a registry no arena is open.
    if let Ok(registry) = registry() {
        // Gathered first: an arena whose last other user leaves meanwhile ends here, outside of the lock.
        let arenas: Vec<_> = registry.lock().values().filter_map(Weak::upgrade).collect();
        arenas
            .iter()
            .for_each(|inner| inner.membership.rename(Name::of_this_process()));
    }
}

impl Arena {
    /// Creates a named arena, readable and writable by this user only.
    ///
    /// # Errors
    /// [`Error::AlreadyExists`], [`Error::InvalidName`], [`Error::InvalidOption`], [`Error::FileSystemFull`].
    ///
    /// ```
    /// use shm_state::{Arena, ArenaOptions, Error};
    ///
    /// # let name = format!("shm-state-doc-create-{}", std::process::id());
    /// # let name = name.as_str();
    /// let arena = Arena::create(name, &ArenaOptions::default())?;
    /// assert_eq!(arena.name(), name);
    /// assert!(matches!(Arena::create(name, &ArenaOptions::default()), Err(Error::AlreadyExists { .. })));
    /// # Arena::remove(name)?;
    /// # Ok::<(), shm_state::Error>(())
    /// ```
    pub fn create(name: &str, options: &ArenaOptions) -> Result<Self> {
        Self::create_resident(name, options, Residency::default())
    }

    /// As [`Arena::create`] and [`Arena::make_resident`] in one: if either fails there is no arena.
    ///
    /// # Errors
    /// Those of both.
    ///
    /// ```
    /// use shm_state::{Arena, ArenaOptions, Residency};
    ///
    /// # let name = format!("shm-state-doc-resident-{}", std::process::id());
    /// # let name = name.as_str();
    /// let residency = Residency { prefault: Some(4 << 20), lock: false };
    /// let arena = Arena::create_resident(name, &ArenaOptions::default(), residency)?;
    /// # Arena::remove(name)?;
    /// assert_eq!(arena.status()?.committed, 4 << 20);
    /// # Ok::<(), shm_state::Error>(())
    /// ```
    pub fn create_resident(name: &str, options: &ArenaOptions, residency: Residency) -> Result<Self> {
        let path = path_of(name)?;
        let capacity = check_options(options)?;
        let fd = file::unnamed_in(Path::new(DIRECTORY)).map_err(|error| {
            let hint = match error.kind() {
                ErrorKind::NotFound | ErrorKind::NotADirectory | ErrorKind::Unsupported => {
                    format!(" (a tmpfs must be mounted on {DIRECTORY})")
                }
                _ => String::new(),
            };
            Error::os(format!("creating {path:?}{hint}"))(error)
        })?;
        file::set_len(&fd, capacity).map_err(Error::os(format!("sizing {path:?} to {capacity} bytes")))?;
        let copy = file::reopen(&fd).map_err(Error::os("reopening the new arena"))?;
        let mapping = Mapping::of_file(fd, capacity)?;
        initialise(&mapping, options)?;
        mapping.make_resident(residency)?;
        match file::link(&copy, &path) {
            Ok(()) => Self::attach(name, mapping, copy),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Err(Error::AlreadyExists { name: name.into() }),
            Err(error) => Err(Error::os(format!("linking {path:?}"))(error)),
        }
    }

    /// Opens a named arena.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Incompatible`] with the reason when the file is no arena that this process may
    /// use.
    ///
    /// ```
    /// use shm_state::{Arena, ArenaOptions, Error};
    ///
    /// # let name = format!("shm-state-doc-open-{}", std::process::id());
    /// # let name = name.as_str();
    /// assert!(matches!(Arena::open(name), Err(Error::NotFound { .. })));
    /// let arena = Arena::create(name, &ArenaOptions::default())?;
    /// arena.namespace("default")?;
    /// assert_eq!(Arena::open(name)?.namespaces()?, ["default"]);
    /// # Arena::remove(name)?;
    /// # Ok::<(), shm_state::Error>(())
    /// ```
    pub fn open(name: &str) -> Result<Self> {
        Self::open_named(name, false)
    }

    fn open_named(name: &str, read_only: bool) -> Result<Self> {
        let path = path_of(name)?;
        match file::open(&path) {
            Ok(fd) => {
                check_owner(name, &fd)?;
                Self::open_file(name, fd, read_only)
            }
            Err(error) if error.kind() == ErrorKind::NotFound => Err(Error::NotFound { name: name.into() }),
            Err(error) => Err(opening(&path, error)),
        }
    }

    /// Opens a named arena, or creates it; when several processes do so at once, all get the same one.
    ///
    /// ```
    /// use shm_state::{Arena, ArenaOptions};
    ///
    /// # let name = format!("shm-state-doc-either-{}", std::process::id());
    /// # let name = name.as_str();
    /// let first = Arena::open_or_create(name, &ArenaOptions { capacity: 1 << 20, ..Default::default() })?;
    /// let second = Arena::open_or_create(name, &ArenaOptions::default())?;
    /// assert_eq!(second.stats()?.capacity, 1 << 20); // the options are those of the one who creates it
    /// # Arena::remove(name)?;
    /// # Ok::<(), shm_state::Error>(())
    /// ```
    pub fn open_or_create(name: &str, options: &ArenaOptions) -> Result<Self> {
        // Each round lost means that another process created or removed it in between.
        for _ in 0..100 {
            match Self::open(name) {
                Err(Error::NotFound { .. }) => {}
                other => return other,
            }
            match Self::create(name, options) {
                Err(Error::AlreadyExists { .. }) => {}
                other => return other,
            }
        }
        Err(Error::AlreadyExists { name: name.into() })
    }

    /// Removes the name of an arena. Processes that have it open go on using it; its memory is freed with the last.
    ///
    /// ```
    /// use shm_state::{Arena, ArenaOptions, Error};
    ///
    /// # let name = format!("shm-state-doc-remove-{}", std::process::id());
    /// # let name = name.as_str();
    /// let arena = Arena::create(name, &ArenaOptions::default())?;
    /// Arena::remove(name)?;
    /// assert!(matches!(Arena::open(name), Err(Error::NotFound { .. })));
    /// arena.namespace("default")?; // it can still be used
    /// # Ok::<(), shm_state::Error>(())
    /// ```
    pub fn remove(name: &str) -> Result<()> {
        let path = path_of(name)?;
        let fd = match file::open(&path) {
            Ok(fd) => std::fs::File::from(fd),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Err(Error::NotFound { name: name.into() });
            }
            Err(error) => return Err(opening(&path, error)),
        };
        let mut magic = [0; 8];
        if fd.read_exact_at(&mut magic, 0).is_err() || u64::from_le_bytes(magic) != MAGIC {
            let reason = format!("it is no arena; if it should go all the same, delete {path:?} yourself");
            return Err(Error::Incompatible {
                name: name.into(),
                reason,
            });
        }
        match file::remove(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => Err(Error::NotFound { name: name.into() }),
            other => other.map_err(Error::os(format!("removing {path:?}"))),
        }
    }

    /// Creates an arena without a name, which others get by its descriptor ([`Arena::fd`], [`Arena::from_fd`]).
    ///
    /// ```
    /// use shm_state::{Arena, ArenaOptions};
    ///
    /// let arena = Arena::anonymous(&ArenaOptions::default())?;
    /// assert_eq!(arena.name(), "");
    /// # Ok::<(), shm_state::Error>(())
    /// ```
    pub fn anonymous(options: &ArenaOptions) -> Result<Self> {
        let capacity = check_options(options)?;
        let fd =
            file::sealed_memfd("zproc", capacity).map_err(Error::os(format!("making a memfd of {capacity} bytes")))?;
        let copy = file::reopen(&fd).map_err(Error::os("reopening the new arena"))?;
        let mapping = Mapping::of_file(fd, capacity)?;
        initialise(&mapping, options)?;
        Self::attach("", mapping, copy)
    }

    /// Opens the arena in a file that was handed over, for example by inheritance.
    ///
    /// ```
    /// use shm_state::{Arena, ArenaOptions};
    ///
    /// let arena = Arena::anonymous(&ArenaOptions::default())?;
    /// let fd = arena.fd().expect("it is a file").try_clone_to_owned()?; // as a child would inherit it
    /// arena.namespace("default")?;
    /// assert_eq!(Arena::from_fd(fd)?.namespaces()?, ["default"]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn from_fd(fd: OwnedFd) -> Result<Self> {
        Self::open_file("", fd, false)
    }

    /// As [`Arena::from_fd`], for reading only: see [`Arena::open_read_only`]. The descriptor must be open for writing, too.
    ///
    /// ```
    /// use shm_state::{Arena, ArenaOptions};
    ///
    /// let arena = Arena::anonymous(&ArenaOptions::default())?;
    /// let fd = arena.fd().expect("it is a file").try_clone_to_owned()?;
    /// assert!(Arena::from_fd_read_only(fd)?.is_read_only());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn from_fd_read_only(fd: OwnedFd) -> Result<Self> {
        Self::open_file("", fd, true)
    }

    /// Opens an arena for reading only: every write is [`Error::ReadOnly`].
    ///
    /// Keys and values are mapped so that a store to them by this process, by whatever mistake, is a SIGSEGV, and never
    /// reaches the others. What readers write to stays writable: the list of processes, and of each namespace the block that
    /// has pins, events and the writer lock. So it protects against mistakes, and not against a process that means harm:
    /// that could open the arena for writing.
    ///
    /// A namespace must be there. A snapshot needs one of the first 64 seats of its namespace. Whoever only reads publishes
    /// nothing that a dead writer left decided; the next writer does.
    ///
    /// ```
    /// use shm_state::{Arena, ArenaOptions, Deadline, Error, KeyRef};
    ///
    /// # let name = &format!("shm-state-doc-read-only-{}", std::process::id());
    /// let arena = Arena::create(name, &ArenaOptions::default())?;
    /// let key = KeyRef::new(1, b"door");
    /// arena.namespace("default")?.put(&key, None, 1, b"open", Deadline::never())?;
    /// let reader = Arena::open_read_only(name)?.namespace("default")?;
    /// assert_eq!(reader.pin()?.get(&key)?.expect("it is there").bytes(), b"open");
    /// let write = reader.put(&key, None, 1, b"shut", Deadline::never());
    /// assert!(matches!(write, Err(Error::ReadOnly)));
    /// # Arena::remove(name)?;
    /// # Ok::<(), Error>(())
    /// ```
    pub fn open_read_only(name: &str) -> Result<Self> {
        Self::open_named(name, true)
    }

    /// Whether it was opened for reading only.
    ///
    /// ```
    /// # use shm_state::{Arena, ArenaOptions};
    /// assert!(!Arena::anonymous(&ArenaOptions::default())?.is_read_only());
    /// # Ok::<(), shm_state::Error>(())
    /// ```
    pub fn is_read_only(&self) -> bool {
        self.inner.mapping.is_read_only()
    }

    /// Prepares this process's part in the memory, so that touching it later costs no page fault: see [`Residency`].
    ///
    /// A process maps an arena once, so it holds for everything in it that has the arena open, and nothing takes it back
    /// until the last of them is dropped.
    ///
    /// # Errors
    /// [`Error::FileSystemFull`] if the arena cannot be given that much memory. [`Error::Os`] names RLIMIT_MEMLOCK if the
    /// memory, whose whole capacity counts, cannot be locked.
    ///
    /// ```
    /// use shm_state::{Arena, ArenaOptions, Residency};
    ///
    /// let arena = Arena::anonymous(&ArenaOptions::default())?;
    /// arena.make_resident(Residency { prefault: Some(4 << 20), lock: false })?;
    /// assert_eq!(arena.stats()?.committed, 4 << 20);
    /// # Ok::<(), shm_state::Error>(())
    /// ```
    pub fn make_resident(&self, residency: Residency) -> Result<()> {
        self.inner.mapping.make_resident(residency)
    }

    /// The file of the arena, to hand it to another process. `None` in a mapping of the caller's.
    ///
    /// ```
    /// use shm_state::{Arena, ArenaOptions};
    ///
    /// assert!(Arena::anonymous(&ArenaOptions::default())?.fd().is_some());
    /// # Ok::<(), shm_state::Error>(())
    /// ```
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.inner.mapping.file()
    }

    /// Makes an arena in shared memory that the caller brings. `lock_file` is a file that all users of the memory
    /// open, for reading and writing; byte locks on it tell who lives. It must be on tmpfs or a disk: overlayfs loses them.
    ///
    /// # Safety
    /// `memory` must be aligned to 4,096 bytes, shared, zeroed, mapped and backed for reading and writing until the
    /// arena and everything made from it is dropped, and be used by nobody but arenas made from it.
    ///
    /// ```
    /// use std::fs::{self, File};
    /// use std::io::Write;
    /// use std::ptr::NonNull;
    /// use shm_state::{Arena, ArenaOptions};
    ///
    /// let path = format!("/dev/shm/shm-state-doc-create-in-{}", std::process::id());
    /// let mut file = File::options().read(true).write(true).create_new(true).open(&path)?;
    /// let lock_file = File::options().read(true).write(true).open(&path)?;
    /// fs::remove_file(&path)?;
    /// file.write_all(&vec![0; 1 << 20])?; // now memory is behind all of it
    /// let map = memmap2::MmapRaw::map_raw(&file)?;
    /// let start = NonNull::new(map.as_mut_ptr()).expect("it is mapped somewhere");
    /// let memory = NonNull::slice_from_raw_parts(start, map.len());
    /// // SAFETY: new, shared, mapped at a page, and unmapped after the arena was dropped.
    /// let arena = unsafe { Arena::create_in(memory, lock_file.into(), &ArenaOptions::default())? };
    /// assert_eq!(arena.stats()?.capacity, 1 << 20);
    /// # drop(arena);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub unsafe fn create_in(memory: NonNull<[u8]>, lock_file: OwnedFd, options: &ArenaOptions) -> Result<Self> {
        let options = ArenaOptions {
            capacity: memory.len() as u64,
            ..*options
        };
        let capacity = check_options(&options)?;
        check_alignment(memory)?;
        // SAFETY: the caller's promise.
        let mapping = unsafe { Mapping::of_caller(memory.cast(), capacity) };
        initialise(&mapping, &options)?;
        Self::attach("", mapping, lock_file)
    }

    /// Opens an arena in shared memory that the caller brings.
    ///
    /// # Safety
    /// As for [`Arena::create_in`], whose `lock_file` this one must be too (opened anew).
    ///
    /// ```
    /// use std::fs::{self, File};
    /// use std::io::Write;
    /// use std::ptr::NonNull;
    /// use shm_state::{Arena, ArenaOptions};
    ///
    /// let path = format!("/dev/shm/shm-state-doc-open-in-{}", std::process::id());
    /// let mut file = File::options().read(true).write(true).create_new(true).open(&path)?;
    /// let lock_files = [(); 2].map(|()| File::options().read(true).write(true).open(&path));
    /// fs::remove_file(&path)?;
    /// file.write_all(&vec![0; 1 << 20])?;
    /// let [one, other] = lock_files;
    /// let map = memmap2::MmapRaw::map_raw(&file)?;
    /// let start = NonNull::new(map.as_mut_ptr()).expect("it is mapped somewhere");
    /// let memory = NonNull::slice_from_raw_parts(start, map.len());
    /// // SAFETY: new, shared, mapped at a page, and unmapped after the arena was dropped.
    /// let arena = unsafe { Arena::create_in(memory, one?.into(), &ArenaOptions::default())? };
    /// arena.namespace("default")?;
    /// // SAFETY: as above; another process would map the file itself.
    /// let opened = unsafe { Arena::open_in(memory, other?.into())? };
    /// assert_eq!(opened.namespaces()?, ["default"]);
    /// # drop((arena, opened));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub unsafe fn open_in(memory: NonNull<[u8]>, lock_file: OwnedFd) -> Result<Self> {
        check_alignment(memory)?;
        if (memory.len() as u64) < MIN_CAPACITY {
            return Err(incompatible(
                "",
                format!("it has {} bytes, the least is {MIN_CAPACITY}", memory.len()),
            ));
        }
        // SAFETY: the caller's promise; only the superblock is looked at.
        let probe = unsafe { Mapping::of_caller(memory.cast(), MIN_CAPACITY) };
        let mut words = [0; SUPERBLOCK_HEAD_WORDS + 1];
        for (to, from) in words.iter_mut().zip(probe.head_words()?) {
            *to = from.load(Ordering::Acquire);
        }
        // The memory may be larger than the arena, whose tables lie where its own capacity puts them.
        let capacity = probe.superblock()?.capacity.load(Ordering::Relaxed);
        check_head("", &words, capacity.min(memory.len() as u64))?;
        // SAFETY: the caller's promise; the capacity was checked to be no more than the memory.
        let mapping = unsafe { Mapping::of_caller(memory.cast(), capacity) };
        Self::attach("", mapping, lock_file)
    }

    fn open_file(name: &str, fd: OwnedFd, read_only: bool) -> Result<Self> {
        let (device, inode) = nix_stat(&fd)?;
        if let Some(open) = registry()?
            .lock()
            .get(&(device, inode, read_only))
            .and_then(Weak::upgrade)
        {
            return Ok(Self { inner: open });
        }
        let size = file::len(&fd).map_err(Error::os("fstat of the arena"))?;
        let fd = std::fs::File::from(fd);
        let mut bytes = [0; (SUPERBLOCK_HEAD_WORDS + 1) * 8];
        if fd.read_exact_at(&mut bytes, 0).is_err() {
            return Err(incompatible(
                name,
                format!("it has {size} bytes, which is too short for an arena; choose another name"),
            ));
        }
        let mut words = [0; SUPERBLOCK_HEAD_WORDS + 1];
        for (word, bytes) in words.iter_mut().zip(bytes.as_chunks::<8>().0) {
            *word = u64::from_le_bytes(*bytes);
        }
        check_head(name, &words, size)?;
        let fd = OwnedFd::from(fd);
        let copy = file::reopen(&fd).map_err(Error::os("reopening the arena"))?;
        let mapping = if read_only {
            Mapping::of_file_read_only(fd, size)?
        } else {
            Mapping::of_file(fd, size)?
        };
        Self::attach(name, mapping, copy)
    }

    /// Joins the arena as a participant.
    fn attach(name: &str, mapping: Mapping, lock_file: OwnedFd) -> Result<Self> {
        mapping.trust_committed()?;
        let mapping = Arc::new(mapping);
        let superblock = mapping.superblock()?;
        let slots: &[ParticipantSlot] = mapping
            .table(mapping.sections().participants, PARTICIPANTS)
            .ok_or_else(|| Error::corrupt("its table of participants is not backed by memory"))?;
        let pid_namespace = superblock.pid_namespace.load(Ordering::Relaxed);
        // Two threads that open the same arena at once must not map it twice.
        let mut open = registry()?.lock();
        let key = match mapping.file() {
            Some(fd) => {
                let (device, inode) = nix_stat(&fd)?;
                (device, inode, mapping.is_read_only())
            }
            None => of_caller(),
        };
        if let Some(inner) = open.get(&key).and_then(Weak::upgrade) {
            return Ok(Self { inner });
        }
        let entrance = Entrance {
            turn: &superblock.next_slot,
            since: superblock.next_identity.load(Ordering::Relaxed),
        };
        let attachment = {
            let mut locks = for_each_lock(superblock, &mapping);
            // SAFETY: the slots and the locks lie in `mapping`, which `Membership` drops after the attachment.
            unsafe { Attachment::attach(slots.into(), lock_file, pid_namespace, &entrance, &mut locks) }
        };
        let attachment = attachment.map_err(|error| attach_error(name, error))?;
        let history = History {
            count: superblock.history_count.load(Ordering::Relaxed) as u32,
            bytes: superblock.history_bytes.load(Ordering::Relaxed),
        };
        let value_format = superblock.value_format.load(Ordering::Relaxed);
        let membership = Arc::new(Membership::new(attachment, Arc::clone(&mapping)));
        let inner = Arc::new(Inner {
            name: name.into(),
            spaces: Mutex::default(),
            history,
            value_format,
            membership,
            mapping,
        });
        open.retain(|_, inner| inner.strong_count() > 0);
        open.insert(key, Arc::downgrade(&inner));
        Ok(Self { inner })
    }

    /// The name; empty for an anonymous arena.
    ///
    /// ```
    /// use shm_state::{Arena, ArenaOptions};
    ///
    /// assert_eq!(Arena::anonymous(&ArenaOptions::default())?.name(), "");
    /// # Ok::<(), shm_state::Error>(())
    /// ```
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// The encoding of the values that the arena was made for.
    ///
    /// ```
    /// use shm_state::{Arena, ArenaOptions};
    ///
    /// let arena = Arena::anonymous(&ArenaOptions { value_format: 7, ..ArenaOptions::default() })?;
    /// assert_eq!(arena.value_format(), 7);
    /// # Ok::<(), shm_state::Error>(())
    /// ```
    pub fn value_format(&self) -> u64 {
        self.inner.value_format
    }

    /// Refuses an arena that was made for values of another encoding. `describe` says in words what a format is.
    ///
    /// # Errors
    /// [`Error::Incompatible`], whose reason names both formats.
    ///
    /// ```
    /// use shm_state::{Arena, ArenaOptions};
    /// let arena = Arena::anonymous(&ArenaOptions { value_format: 1, ..ArenaOptions::default() })?;
    /// arena.check_value_format(1, |_| "rows".into())?;
    /// let describe = |format: u64| if format == 1 { "rows".into() } else { "columns".into() };
    /// let error = arena.check_value_format(2, describe).unwrap_err();
    /// assert!(error.to_string().contains("its values are rows, and those of this program are columns"));
    /// # Ok::<(), shm_state::Error>(())
    /// ```
    pub fn check_value_format(&self, expected: u64, describe: impl Fn(u64) -> String) -> Result<()> {
        let found = self.inner.value_format;
        if found == expected {
            return Ok(());
        }
        let reason = format!(
            "its values are {}, and those of this program are {} (formats {found:#018x} and {expected:#018x}); use programs that \
             were built with the same settings, or remove the arena",
            describe(found),
            describe(expected)
        );
        Err(incompatible(&self.inner.name, reason))
    }

    /// Opens a namespace, creating it if there is none of that name.
    ///
    /// # Errors
    /// [`Error::InvalidName`], [`Error::TooManyNamespaces`], [`Error::Full`].
    ///
    /// ```
    /// # use shm_state::{Arena, ArenaOptions};
    /// # let arena = Arena::anonymous(&ArenaOptions::default())?;
    /// let kitchen = arena.namespace("kitchen")?;
    /// let hall = arena.namespace("hall")?;
    /// assert_eq!((kitchen.seq(), hall.name()), (0, "hall"));
    /// # Ok::<(), shm_state::Error>(())
    /// ```
    pub fn namespace(&self, name: &str) -> Result<Namespace> {
        let space = self.space(name)?;
        let identity = seats::next_identity(&space)?;
        Ok(Namespace::new(space, identity))
    }

    /// Whether there is a namespace of that name.
    ///
    /// ```
    /// # use shm_state::{Arena, ArenaOptions};
    /// # let arena = Arena::anonymous(&ArenaOptions::default())?;
    /// let kitchen = arena.namespace("kitchen")?;
    /// assert!(arena.has_namespace("kitchen") && !arena.has_namespace("hall"));
    /// # Ok::<(), shm_state::Error>(())
    /// ```
    pub fn has_namespace(&self, name: &str) -> bool {
        directory::find(&self.inner.mapping, name).is_some()
    }

    /// A namespace that is there, whose control block readers write to.
    fn find_to_read(&self, name: &str) -> Result<u32> {
        let mapping = &self.inner.mapping;
        let granule = directory::find(mapping, name).ok_or(Error::ReadOnly)?;
        match directory::control_at(mapping, granule) {
            Some(control) => mapping.allow_writing(control).map(|()| granule),
            None => Err(Error::corrupt(format!("namespace {name:?} has no control block"))),
        }
    }

    fn space(&self, name: &str) -> Result<Arc<Space>> {
        let inner = &self.inner;
        if !inner.membership.is_current() {
            return Err(Error::Forked);
        }
        let spaces = inner.spaces.lock();
        if let Some(space) = spaces.get(name).and_then(Weak::upgrade) {
            return Ok(space);
        }
        let granule = if inner.mapping.is_read_only() {
            self.find_to_read(name)?
        } else {
            directory::find_or_create(&inner.mapping, &inner.membership, name, inner.history)?
        };
        // Its memory may be new. The lock of the directory is free again; that of `spaces` must be.
        drop(spaces);
        inner.mapping.news().tell();
        let mut spaces = inner.spaces.lock();
        if let Some(space) = spaces.get(name).and_then(Weak::upgrade) {
            return Ok(space); // another thread was faster
        }
        let (mapping, membership) = (Arc::clone(&inner.mapping), Arc::clone(&inner.membership));
        let space = Arc::new(Space::new(mapping, membership, name.into(), granule, inner.history)?);
        spaces.retain(|_, space| space.strong_count() > 0);
        spaces.insert(name.into(), Arc::downgrade(&space));
        Ok(space)
    }

    /// The names of all namespaces, in the order of their creation.
    ///
    /// ```
    /// # use shm_state::{Arena, ArenaOptions};
    /// # let arena = Arena::anonymous(&ArenaOptions::default())?;
    /// arena.namespace("kitchen")?;
    /// arena.namespace("hall")?;
    /// assert_eq!(arena.namespaces()?, ["kitchen", "hall"]);
    /// # Ok::<(), shm_state::Error>(())
    /// ```
    pub fn namespaces(&self) -> Result<Vec<String>> {
        directory::controls(&self.inner.mapping)
            .map(directory::name_of)
            .collect()
    }
}

/// Calls what it is given for every lock of an arena.
fn for_each_lock(superblock: &Superblock, mapping: &Mapping) -> impl FnMut(&mut dyn FnMut(&WriterLock)) {
    move |visit| {
        visit(&superblock.directory_lock);
        // Of an arena that is mapped for reading these are the pages that are written to all the same.
        directory::controls(mapping)
            .filter(|control| mapping.allow_writing(*control).is_ok())
            .for_each(|control| visit(&control.lock));
    }
}

fn path_of(name: &str) -> Result<PathBuf> {
    let reason = match name {
        "" => "it is empty",
        _ if name.len() > 200 => "it is longer than 200 bytes",
        _ if name.starts_with('.') => "it starts with a dot",
        _ if name.bytes().any(|b| b == b'/' || b < b' ' || b == 0x7f) => "it has a slash or a control character",
        _ => return Ok(PathBuf::from(DIRECTORY).join(name)),
    };
    Err(Error::InvalidName {
        name: name.into(),
        reason,
    })
}

/// The capacity in whole chunks.
fn check_options(options: &ArenaOptions) -> Result<u64> {
    let chunk = crate::layout::CHUNK as u64;
    let capacity = options.capacity / chunk * chunk;
    let bad = |option, value, reason| Err(Error::InvalidOption { option, value, reason });
    if capacity < MIN_CAPACITY {
        return bad("capacity", options.capacity, "the least is 640 KiB");
    }
    if capacity > MAX_CAPACITY {
        return bad("capacity", options.capacity, "the most is 128 GiB");
    }
    if !(1..=1 << 22).contains(&options.history.count) {
        return bad(
            "history.count",
            u64::from(options.history.count),
            "it must be between 1 and 4,194,304",
        );
    }
    Ok(capacity)
}

fn check_alignment(memory: NonNull<[u8]>) -> Result<()> {
    let address = memory.cast::<u8>().as_ptr() as usize;
    if address.is_multiple_of(4096) {
        return Ok(());
    }
    let reason = "the memory must be aligned to 4,096 bytes";
    Err(Error::InvalidOption {
        option: "memory",
        value: address as u64,
        reason,
    })
}

/// Writes the superblock of an arena that nobody else knows yet.
fn initialise(mapping: &Mapping, options: &ArenaOptions) -> Result<()> {
    mapping.commit_tables()?;
    let superblock: &Superblock = mapping.superblock()?;
    let boot = process::boot_id().map_err(Error::os("reading the boot id"))?;
    let (boot, _) = boot.as_chunks::<8>();
    let pid_namespace = process::pid_namespace().map_err(Error::os("reading /proc/self/ns/pid"))?;
    let head = [
        MAGIC,
        FORMAT_VERSION,
        layout_hash(),
        mapping.capacity(),
        pid_namespace,
        u64::from_le_bytes(boot[0]),
        u64::from_le_bytes(boot[1]),
        u64::from(options.history.count),
        options.history.bytes,
        options.value_format,
    ];
    let checksum = [checksum(&head)];
    // The magic number last, for those who look at memory that the caller brought.
    superblock.next_identity.store(1, Ordering::Release);
    let values: Vec<u64> = head.into_iter().chain(checksum).collect();
    for (word, value) in mapping.head_words()?.iter().zip(&values).rev() {
        word.store(*value, Ordering::Release);
    }
    Ok(())
}

fn checksum(head: &[u64]) -> u64 {
    let bytes: Vec<u8> = head.iter().flat_map(|w| w.to_le_bytes()).collect();
    xxhash_rust::xxh3::xxh3_64(&bytes)
}

/// Checks the head of a superblock; `size` is that of the file.
fn check_head(name: &str, words: &[u64; SUPERBLOCK_HEAD_WORDS + 1], size: u64) -> Result<()> {
    let [
        magic,
        version,
        layout,
        capacity,
        pid_namespace,
        boot0,
        boot1,
        count,
        _,
        _,
        sum,
    ] = *words;
    let refuse = |reason: String| Err(incompatible(name, reason));
    if magic != MAGIC {
        return refuse("it is no arena of this library (wrong magic number); choose another name".into());
    }
    if version != FORMAT_VERSION {
        return refuse(format!(
            "it has format version {version} and this program {FORMAT_VERSION}; use programs built with the same version \
             of the library, or remove the arena"
        ));
    }
    if layout != layout_hash() {
        return refuse("its layout is that of another build of the library; remove it, or use the same build".into());
    }
    if sum != checksum(&words[..SUPERBLOCK_HEAD_WORDS]) || !(1..=1 << 22).contains(&count) {
        return refuse("its superblock is damaged (wrong checksum); remove it and create it anew".into());
    }
    if capacity != size {
        return refuse(format!(
            "its file has {size} bytes and should have {capacity}: it was truncated; remove it"
        ));
    }
    let boot = process::boot_id().map_err(Error::os("reading the boot id"))?;
    if boot[..8] != boot0.to_le_bytes() || boot[8..] != boot1.to_le_bytes() {
        return refuse("it was made before the last reboot; remove it".into());
    }
    let own = process::pid_namespace().map_err(Error::os("reading /proc/self/ns/pid"))?;
    if own != pid_namespace {
        return refuse(format!(
            "it was made in PID namespace {pid_namespace} and this process is in {own}; thread ids do not mean the same \
             there, so the writer lock cannot work: run both in one PID namespace"
        ));
    }
    Ok(())
}

/// The error of a file that is there and cannot be opened: whose it is, and what it allows.
fn opening(path: &Path, error: std::io::Error) -> Error {
    let whose = std::fs::symlink_metadata(path).map_or_else(
        |_| String::new(),
        |file| {
            format!(
                ", which belongs to user {} and has mode {:o},",
                file.uid(),
                file.mode() & 0o7777
            )
        },
    );
    Error::os(format!("opening {path:?}{whose}"))(error)
}

/// Refuses the file of another user, who could have put it there for us to write to.
fn check_owner(name: &str, fd: &OwnedFd) -> Result<()> {
    let (owner, own) = file::owner(fd).map_err(Error::os("fstat of the arena"))?;
    if owner == own || owner == 0 {
        return Ok(());
    }
    Err(incompatible(
        name,
        format!("it belongs to user {owner} and this process runs as {own}; choose another name"),
    ))
}

fn incompatible(name: &str, reason: String) -> Error {
    Error::Incompatible {
        name: name.into(),
        reason,
    }
}

fn attach_error(name: &str, error: AttachError) -> Error {
    match error {
        AttachError::Full { slots } => Error::TooManyProcesses(slots),
        AttachError::Unsupported(why) => Error::Unsupported(why),
        AttachError::Io { what, error } => Error::os(what)(error),
        other => incompatible(name, other.to_string()),
    }
}

fn nix_stat(fd: &impl AsFd) -> Result<(u64, u64)> {
    file::identity(fd).map_err(Error::os("fstat of the arena"))
}
