//! States whose values have another encoding are refused, and the error says which both are.

use shm_state::{Arena, ArenaOptions};
use zproc::{Builder, Error, Result, State, VALUE_FORMAT};

fn options(value_format: u64) -> ArenaOptions {
    ArenaOptions {
        capacity: 1 << 20,
        value_format,
        ..ArenaOptions::default()
    }
}

/// The stamp with another byte: 1 the version of rkyv, 2 the size of its pointers, 4 its byte order.
fn other(byte: usize, value: u8) -> u64 {
    let mut bytes = VALUE_FORMAT.to_le_bytes();
    bytes[byte] = value;
    u64::from_le_bytes(bytes)
}

#[test]
fn a_state_of_another_value_format_is_refused() {
    let cases = [
        (0, "not zproc's"),
        (other(1, 9), "rkyv 0.9"),
        (other(2, 8), "pointers of 64 bits"),
        (other(4, 2), "big-endian"),
    ];
    for (format, what) in cases {
        let arena = Arena::anonymous(&options(format)).unwrap();
        let fd = || arena.fd().unwrap().try_clone_to_owned().unwrap();
        for result in [
            State::from_fd(fd()),
            Builder::anonymous().namespace("other").from_fd(fd()),
        ] {
            let error = result.unwrap_err();
            assert!(
                matches!(&error, Error::Incompatible { address, .. } if address == "the descriptor"),
                "{error:?}"
            );
            let told = error.to_string();
            assert!(
                told.contains(what) && told.contains("those of this program are of format 1 with little-endian"),
                "{told}"
            );
        }
        assert!(arena.namespaces().unwrap().is_empty(), "nothing was made in it");
    }
}

#[test]
fn a_named_state_of_another_value_format_is_refused_and_not_made_anew() {
    let name = format!("zproc-test-format-{}", std::process::id());
    let address = format!("shm://{name}");
    let arena = Arena::create(&name, &options(other(2, 2))).unwrap();
    let results = [State::open(&address), State::open_or_create(&address)];
    zproc::remove(&address).unwrap();
    for result in results {
        let error = result.unwrap_err();
        assert!(
            matches!(&error, Error::Incompatible { address: told, .. } if *told == address),
            "{error:?}"
        );
        assert!(error.to_string().contains("pointers of 16 bits"), "{error}");
    }
    assert!(arena.verify().unwrap().is_clean());
}

#[test]
fn a_state_carries_the_stamp() -> Result<()> {
    let state = State::anonymous()?;
    let fd = state
        .fd()
        .expect("it has a file")
        .try_clone_to_owned()
        .expect("a descriptor is free");
    assert_eq!(Arena::from_fd(fd)?.value_format(), VALUE_FORMAT);
    Ok(())
}
