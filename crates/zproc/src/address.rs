//! Addresses: where a state is.

use std::path::Path;

use crate::error::{Error, Result};

const SHM: &str = "shm://";
const IPC: &str = "ipc://";

/// What an address says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Address<'a> {
    /// An arena of this name.
    Shm(&'a str),
    /// A server that listens on this socket.
    Ipc(&'a Path, Wanted),
}

/// How the memory behind a server is to be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// Mapped, and over the socket if it may not be.
    Either,
    /// Mapped or not at all.
    Mapped,
    /// Over the socket.
    Socket,
}

impl<'a> Address<'a> {
    pub(crate) fn parse(address: &'a str) -> Result<Self> {
        if let Some(name) = address.strip_prefix(SHM) {
            return match name {
                "" => invalid(address, "it has no name; write shm://NAME"),
                name => Ok(Self::Shm(name)),
            };
        }
        let Some(place) = address.strip_prefix(IPC) else {
            return invalid(
                address,
                if address.starts_with("tcp://") {
                    "a state is shared by the processes of one machine, so there is no tcp://; write shm://NAME, or \
                     ipc:///PATH for a server"
                } else {
                    "write shm://NAME, or ipc:///PATH for a server"
                },
            );
        };
        let (path, wanted) = match place.split_once('?') {
            None => (place, Wanted::Either),
            Some((path, "transport=auto")) => (path, Wanted::Either),
            Some((path, "transport=map")) => (path, Wanted::Mapped),
            Some((path, "transport=socket")) => (path, Wanted::Socket),
            Some(_) => {
                return invalid(
                    address,
                    "behind the path there may be ?transport=map, ?transport=socket or ?transport=auto, and nothing else",
                );
            }
        };
        if !path.starts_with('/') || path.ends_with('/') || path.contains('\0') {
            return invalid(
                address,
                "its path is not one from the root to a socket; write ipc:///PATH",
            );
        }
        let path = Path::new(path);
        match crate::wire::socket::check_path(path) {
            Ok(()) => Ok(Self::Ipc(path, wanted)),
            Err(reason) => invalid(address, &reason),
        }
    }
}

/// The address of a server that listens on a socket.
pub(crate) fn of_socket(path: &Path) -> String {
    format!("{IPC}{}", path.display())
}

/// The name of the arena at an address.
pub(crate) fn arena_name(address: &str) -> Result<&str> {
    match Address::parse(address)? {
        Address::Shm(name) => Ok(name),
        Address::Ipc(..) => invalid(
            address,
            "it is that of a server, which has its state already: open it; states are created, and removed, at shm://NAME",
        ),
    }
}

fn invalid<T>(address: &str, reason: &str) -> Result<T> {
    Err(Error::InvalidAddress {
        address: address.into(),
        reason: reason.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_is_no_shm_address_says_what_to_write() {
        assert_eq!(arena_name("shm://kitchen").unwrap(), "kitchen");
        for (address, reason) in [
            ("shm://", "no name"),
            ("kitchen", "write shm://NAME"),
            ("ipc:///tmp/kitchen.sock", "that of a server"),
            ("tcp://127.0.0.1:5000", "one machine"),
        ] {
            let error = arena_name(address).unwrap_err();
            assert!(matches!(&error, Error::InvalidAddress { address: a, .. } if a == address));
            assert!(error.to_string().contains(reason), "{error}");
        }
    }

    #[test]
    fn an_address_of_a_server_is_a_path_from_the_root() {
        let address = Address::parse("ipc:///run/kitchen.sock").unwrap();
        assert_eq!(address, Address::Ipc(Path::new("/run/kitchen.sock"), Wanted::Either));
        let address = Address::parse("ipc:///run/kitchen.sock?transport=socket").unwrap();
        assert_eq!(address, Address::Ipc(Path::new("/run/kitchen.sock"), Wanted::Socket));
        assert!(Address::parse("ipc:///run/kitchen.sock?transport=pigeon").is_err());
        for bad in ["ipc://", "ipc://kitchen.sock", "ipc:///run/", "ipc:///run/\0"] {
            let error = Address::parse(bad).unwrap_err().to_string();
            assert!(error.contains("ipc:///PATH"), "{error}");
        }
        let long = format!("ipc:///tmp/{}", "a".repeat(200));
        let error = Address::parse(&long).unwrap_err().to_string();
        assert!(error.contains("205 bytes") && error.contains("107"), "{error}");
    }
}
