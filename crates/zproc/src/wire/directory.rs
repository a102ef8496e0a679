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
    Ok(runtime_directory()?.join(file_of_arena(name)))
}

/// Where it may listen that was started in another environment, as by a service or by `su`, and a socket is.
pub(crate) fn sockets_of_arena(name: &str) -> Vec<PathBuf> {
    let file = file_of_arena(name);
    let mut paths: Vec<PathBuf> = directories()
        .filter(|path| check(path).is_ok_and(|stranger| stranger.is_none()))
        .map(|path| path.join(&file))
        .filter(|path| path.exists())
        .collect();
    paths.dedup();
    paths
}

fn file_of_arena(name: &str) -> String {
    let plain = name.len() <= 32
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
    if plain {
        format!("shm-{name}.sock")
    } else {
        // Long names have paths too.
        format!("shm+{}.sock", &blake3::hash(name.as_bytes()).to_hex()[..32])
    }
}

/// Where directories for sockets may be: `zproc` in $XDG_RUNTIME_DIR and /run/user, if these are this user's, and one in /tmp.
fn directories() -> impl Iterator<Item = PathBuf> {
    let user = socket::own_user();
    let own = move |path: &PathBuf| {
        path.is_absolute() && std::fs::metadata(path).is_ok_and(|file| file.is_dir() && file.uid() == user)
    };
    let parents = [
        std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from),
        Some(PathBuf::from(format!("/run/user/{user}"))),
    ];
    let below = parents.into_iter().flatten().filter(own).map(|path| path.join("zproc"));
    below.chain([PathBuf::from(format!("/tmp/zproc-{user}"))])
}

/// Whose a directory is, and its mode, if it is not this user's alone. Somebody else may have made it, to see what is put
/// there.
fn check(path: &Path) -> io::Result<Option<(u32, u32)>> {
    let file = std::fs::symlink_metadata(path)?;
    let is_own = file.is_dir() && file.uid() == socket::own_user() && file.mode() & 0o077 == 0;
    Ok((!is_own).then_some((file.uid(), file.mode() & 0o7777)))
}

/// A directory of this user's that others cannot enter: the first that can be.
fn runtime_directory() -> Result<PathBuf> {
    let user = socket::own_user();
    let path = directories().next().unwrap_or_default();
    let failed = |source| failed(&format!("making the directory {}", path.display()), source);
    match std::fs::DirBuilder::new().mode(0o700).create(&path) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(failed(error)),
        _ => {}
    }
    match check(&path).map_err(failed)? {
        None => Ok(path),
        Some((owner, mode)) => Err(failed(io::Error::other(format!(
            "it belongs to user {owner} and has mode {mode:o}, and should be this user's ({user}) alone, 700: remove it, or \
             set XDG_RUNTIME_DIR"
        )))),
    }
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
