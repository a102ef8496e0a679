//! Where sockets are whose paths nobody has chosen: in a directory that is this user's alone.

use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::{proof, socket};
use crate::error::Result;
use crate::os::failed;

/// A path that nobody has, in a directory of one's own.
pub(crate) fn random_path() -> Result<PathBuf> {
    let random: [u8; 8] = proof::random().map_err(|source| failed("getrandom", source))?;
    Ok(runtime_directory()?.join(format!("{:016x}.sock", u64::from_le_bytes(random))))
}

/// Where the server of a named arena listens, if it was given no address.
pub(crate) fn path_of_arena(name: &str) -> Result<PathBuf> {
    let plain = name.len() <= 32
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
    let file = if plain {
        format!("shm-{name}.sock")
    } else {
        // Long names have paths too.
        format!("shm+{}.sock", &blake3::hash(name.as_bytes()).to_hex()[..32])
    };
    Ok(runtime_directory()?.join(file))
}

/// A directory of this user's that others cannot enter: `zproc` in $XDG_RUNTIME_DIR or /run/user, else one in /tmp.
fn runtime_directory() -> Result<PathBuf> {
    let user = socket::own_user();
    let own = |path: &Path| std::fs::metadata(path).is_ok_and(|file| file.is_dir() && file.uid() == user);
    let parents = [
        std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from),
        Some(PathBuf::from(format!("/run/user/{user}"))),
    ];
    let parent = parents
        .into_iter()
        .flatten()
        .find(|path| path.is_absolute() && own(path));
    let path = parent.map_or_else(
        || PathBuf::from(format!("/tmp/zproc-{user}")),
        |path| path.join("zproc"),
    );
    let failed = |source| failed(&format!("making the directory {}", path.display()), source);
    match std::fs::DirBuilder::new().mode(0o700).create(&path) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(failed(error)),
        _ => {}
    }
    // Somebody else may have made it, to see what is put there.
    let file = std::fs::symlink_metadata(&path).map_err(failed)?;
    if file.is_dir() && file.uid() == user && file.mode() & 0o077 == 0 {
        return Ok(path);
    }
    let (owner, mode) = (file.uid(), file.mode() & 0o7777);
    Err(failed(io::Error::other(format!(
        "it belongs to user {owner} and has mode {mode:o}, and should be this user's ({user}) alone, 700: remove it, or set \
         XDG_RUNTIME_DIR"
    ))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_directory_is_for_this_user_alone() {
        let directory = std::fs::metadata(runtime_directory().unwrap()).unwrap();
        assert_eq!((directory.uid(), directory.mode() & 0o777), (socket::own_user(), 0o700));
        assert_ne!(random_path().unwrap(), random_path().unwrap());
        let name = "ü".repeat(100);
        assert!(path_of_arena(&name).unwrap().as_os_str().len() <= socket::PATH_MOST);
    }
}
