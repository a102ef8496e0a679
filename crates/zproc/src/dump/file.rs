//! Dumps in files.
//!
//! **Writing** replaces a file as a whole or not at all: the dump goes to a new file beside it, which is brought to the
//! disk and then renamed, and the directory is brought to the disk too. A process that dies meanwhile leaves the old file
//! as it was, and perhaps a file `.zproc-PID-N.tmp`, which can be deleted.
//!
//! **Reading** goes by what the file begins with. It takes memory for the file and for what is in it.
//!
//! | | begins with | then |
//! |---|---|---|
//! | [`DumpFormat::Json`] | `{` | JSON, in one line |
//! | [`DumpFormat::Binary`] | `zprocdmp` | postcard, whose format is fixed by its specification |

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use super::Dump;
use crate::error::{Error, Result};
use crate::snapshot::Snapshot;
use crate::state::State;

const MAGIC: &[u8] = b"zprocdmp";

/// How a dump is written to a file.
///
/// ```
/// use zproc::DumpFormat;
///
/// assert_eq!(DumpFormat::of("kitchen.json"), DumpFormat::Json);
/// assert_eq!(DumpFormat::of("kitchen.dump"), DumpFormat::Binary);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DumpFormat {
    /// JSON, which people and most programs can read.
    Json,
    /// About as small as what it holds.
    Binary,
}

impl DumpFormat {
    /// The format that goes with the name of a file: JSON if it ends in `.json`, else the binary one.
    ///
    /// ```
    /// use zproc::DumpFormat;
    ///
    /// assert_eq!(DumpFormat::of("/var/lib/kitchen.JSON"), DumpFormat::Json);
    /// assert_eq!(DumpFormat::of("kitchen"), DumpFormat::Binary);
    /// ```
    pub fn of(path: impl AsRef<Path>) -> Self {
        match path.as_ref().extension().and_then(OsStr::to_str) {
            Some(extension) if extension.eq_ignore_ascii_case("json") => Self::Json,
            _ => Self::Binary,
        }
    }
}

impl Dump {
    /// Writes it to a file, in the format that goes with the file's name; see [`DumpFormat::of`].
    ///
    /// The file is replaced as a whole or, after an error or a crash, stays as it was; when the call returns, it is on the
    /// disk. A new file can be read and written by its user only, an existing one keeps its permissions.
    ///
    /// # Errors
    /// [`Error::File`] if it cannot be written.
    ///
    /// ```
    /// use zproc::{Dump, State};
    ///
    /// # let path = std::env::temp_dir().join(format!("zproc-doc-save-{}.json", std::process::id()));
    /// let state = State::anonymous()?;
    /// state.insert("cookies", 5)?;
    /// let dump = state.snapshot()?.dump()?;
    /// dump.save(&path)?;
    /// assert_eq!(Dump::load(&path)?, dump);
    /// # std::fs::remove_file(path).unwrap();
    /// # Ok::<(), zproc::Error>(())
    /// ```
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        self.save_as(&path, DumpFormat::of(&path))
    }

    /// As [`Dump::save`], in a format that does not depend on the name.
    ///
    /// ```
    /// use zproc::{Dump, DumpFormat, State};
    ///
    /// # let path = std::env::temp_dir().join(format!("zproc-doc-save-as-{}.backup", std::process::id()));
    /// let state = State::anonymous()?;
    /// state.insert("cookies", 5)?;
    /// let dump = state.snapshot()?.dump()?;
    /// dump.save_as(&path, DumpFormat::Json)?; // whatever the file is called
    /// assert!(std::fs::read_to_string(&path).unwrap().starts_with('{'));
    /// assert_eq!(Dump::load(&path)?, dump);
    /// # std::fs::remove_file(path).unwrap();
    /// # Ok::<(), zproc::Error>(())
    /// ```
    pub fn save_as(&self, path: impl AsRef<Path>, format: DumpFormat) -> Result<()> {
        replace(path.as_ref(), |file| self.write(file, format))
    }

    fn write(&self, file: &mut BufWriter<File>, format: DumpFormat) -> io::Result<()> {
        match format {
            DumpFormat::Json => {
                serde_json::to_writer(&mut *file, self)?;
                file.write_all(b"\n")
            }
            DumpFormat::Binary => {
                file.write_all(MAGIC)?;
                postcard::to_io(self, file).map(drop).map_err(io::Error::other)
            }
        }
    }

    /// Reads a file that [`Dump::save`] has written, in whichever format.
    ///
    /// # Errors
    /// [`Error::File`] if it cannot be read; [`Error::Dump`] if it is no dump, damaged, or of a later version.
    ///
    /// ```
    /// use zproc::{Dump, Error};
    ///
    /// # let path = std::env::temp_dir().join(format!("zproc-doc-load-{}.json", std::process::id()));
    /// std::fs::write(&path, "{}").unwrap();
    /// assert!(matches!(Dump::load(&path), Err(Error::Dump { .. })));
    /// # std::fs::remove_file(path).unwrap();
    /// ```
    pub fn load(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let bytes = read(path)?;
        let dump = match bytes.strip_prefix(MAGIC) {
            Some(rest) => postcard::take_from_bytes(rest)
                .map_err(|error| error.to_string())
                .and_then(|(dump, rest)| match rest {
                    [] => Ok(dump),
                    _ => Err(format!("{} bytes follow it", rest.len())),
                }),
            None if bytes.trim_ascii_start().starts_with(b"{") => {
                serde_json::from_slice(&bytes).map_err(|error| error.to_string())
            }
            None => Err("it begins as no dump does".into()),
        };
        dump.map_err(|reason| Error::Dump {
            reason: format!("{}: {reason}", path.display()),
        })
    }
}

fn failed(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::File { doing, path, source }
}

/// The bytes of a file that has an end.
fn read(path: &Path) -> Result<Vec<u8>> {
    let read = || {
        // Before it is opened: that could wait for whoever writes to a pipe, or do something to a device.
        check_regular(&fs::metadata(path)?)?;
        let file = File::open(path)?;
        let about = file.metadata()?;
        check_regular(&about)?;
        let mut bytes = Vec::new();
        let len = usize::try_from(about.len()).map_err(io::Error::other)?;
        bytes.try_reserve_exact(len)?;
        file.take(about.len()).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    read().map_err(failed("reading", path))
}

fn check_regular(about: &fs::Metadata) -> io::Result<()> {
    match about.is_file() {
        true => Ok(()),
        false => Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file")),
    }
}

/// Replaces a file by what `write` writes, as a whole or not at all.
fn replace(path: &Path, write: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>) -> Result<()> {
    // The file that a link leads to, so that the link stays one.
    let existing = fs::canonicalize(path).and_then(|target| fs::metadata(&target).map(|about| (target, about)));
    let target = match existing {
        // The name of a pipe or a device is not to become that of a file.
        Ok((target, about)) => check_regular(&about)
            .map(|()| target)
            .map_err(failed("writing", path))?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => path.to_owned(),
        Err(error) => return Err(failed("writing", path)(error)),
    };
    let directory = match target.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let (temporary, file) = new_file(directory).map_err(failed("making a file in", directory))?;
    let written = fill(file, &target, write)
        .and_then(|()| fs::rename(&temporary, &target))
        .map_err(failed("writing", path));
    if written.is_err() {
        drop(fs::remove_file(&temporary));
        return written;
    }
    // The new name, too, is to survive a crash of the machine.
    let synced = File::open(directory).and_then(|directory| directory.sync_all());
    synced.map_err(failed("bringing to the disk", directory))
}

/// A file of this user's only, by a name that nobody else uses.
fn new_file(directory: &Path) -> io::Result<(PathBuf, File)> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    loop {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = directory.join(format!(".zproc-{}-{number}.tmp", std::process::id()));
        // Left by a process that had this id before.
        match OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            other => return other.map(|file| (path, file)),
        }
    }
}

fn fill(file: File, target: &Path, write: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>) -> io::Result<()> {
    if let Ok(existing) = fs::metadata(target) {
        file.set_permissions(existing.permissions())?;
    }
    let mut buffered = BufWriter::with_capacity(64 * 1024, file);
    write(&mut buffered)?;
    buffered
        .into_inner()
        .map_err(io::IntoInnerError::into_error)?
        .sync_all()
}

impl Snapshot<'_> {
    /// Writes a copy to a file: JSON if its name ends in `.json`, else a binary format. See [`Dump::save`].
    ///
    /// ```
    /// use zproc::State;
    ///
    /// # let path = std::env::temp_dir().join(format!("zproc-doc-snapshot-{}.dump", std::process::id()));
    /// let state = State::anonymous()?;
    /// state.insert("cookies", 5)?;
    /// state.snapshot()?.save(&path)?;
    /// let after_the_next_boot = State::anonymous()?;
    /// after_the_next_boot.load(&path)?;
    /// assert_eq!(after_the_next_boot.get::<i64>("cookies")?, Some(5));
    /// # std::fs::remove_file(path).unwrap();
    /// # Ok::<(), zproc::Error>(())
    /// ```
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        self.dump()?.save(path)
    }
}

impl State {
    /// Writes a copy of the state as it is now to a file; see [`Snapshot::save`].
    ///
    /// ```
    /// use zproc::{Dump, State};
    ///
    /// # let path = std::env::temp_dir().join(format!("zproc-doc-state-save-{}.dump", std::process::id()));
    /// let state = State::anonymous()?;
    /// state.insert("cookies", 5)?;
    /// state.save(&path)?;
    /// state.insert("cookies", 4)?;
    /// assert_eq!(Dump::load(&path)?.to_map()?.to_string(), r#"{"cookies": 5}"#);
    /// # std::fs::remove_file(path).unwrap();
    /// # Ok::<(), zproc::Error>(())
    /// ```
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        // Held no longer than the copy takes.
        let dump = self.snapshot()?.dump()?;
        dump.save(path)
    }

    /// Takes out all keys and puts those of a file there that [`State::save`] has written, in one update.
    ///
    /// # Errors
    /// As for [`Dump::load`] and [`State::restore`]. The state is then as before.
    ///
    /// ```
    /// use zproc::{Map, State};
    ///
    /// # let path = std::env::temp_dir().join(format!("zproc-doc-state-{}.json", std::process::id()));
    /// let state = State::anonymous()?;
    /// state.insert("cookies", 5)?;
    /// state.save(&path)?;
    /// state.extend([("cookies", 0), ("crumbs", 100)])?;
    /// state.load(&path)?;
    /// assert_eq!(state.snapshot()?, Map::from([("cookies", 5)]));
    /// # std::fs::remove_file(path).unwrap();
    /// # Ok::<(), zproc::Error>(())
    /// ```
    pub fn load(&self, path: impl AsRef<Path>) -> Result<()> {
        self.restore(&Dump::load(path)?)
    }
}
