//! Addresses: where a state is.

use crate::error::{Error, Result};

const SHM: &str = "shm://";

/// The name of the arena at an address.
pub(crate) fn arena_name(address: &str) -> Result<&str> {
    let invalid = |reason: &str| {
        Err(Error::InvalidAddress {
            address: address.into(),
            reason: reason.into(),
        })
    };
    match address.strip_prefix(SHM) {
        Some("") => invalid("it has no name; write shm://NAME"),
        Some(name) => Ok(name),
        None if address.starts_with("ipc://") => {
            invalid("servers, which ipc:// is for, are not supported by this version; write shm://NAME")
        }
        None if address.starts_with("tcp://") => {
            invalid("a state is shared by the processes of one machine, so there is no tcp://; write shm://NAME")
        }
        None => invalid("write shm://NAME"),
    }
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
            ("ipc:///tmp/kitchen.sock", "not supported by this version"),
            ("tcp://127.0.0.1:5000", "one machine"),
        ] {
            let error = arena_name(address).unwrap_err();
            assert!(matches!(&error, Error::InvalidAddress { address: a, .. } if a == address));
            assert!(error.to_string().contains(reason), "{error}");
        }
    }
}
