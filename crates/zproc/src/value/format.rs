//! The stamp by which programs whose values have another encoding refuse each other's states.

use rkyv::primitive::{ArchivedU32, ArchivedUsize};
use rkyv::rend::u32_le;

/// The encoding of values in this program: what a new state is stamped with, and what a state must be stamped with to be
/// opened.
///
/// It names the table of kinds ([`value`](crate::value)), and how rkyv was built: its version, the byte order, and the size
/// and alignment of relative pointers. `shm_state` knows it as `value_format`, for programs that make the arena themselves:
///
/// ```
/// use shm_state::{Arena, ArenaOptions};
/// use zproc::State;
///
/// let options = ArenaOptions { value_format: zproc::VALUE_FORMAT, ..ArenaOptions::default() };
/// let arena = Arena::anonymous(&options)?;
/// let fd = arena.fd().expect("it has a file").try_clone_to_owned().expect("a descriptor is free");
/// State::from_fd(fd)?.insert("cookies", 5)?;
/// # Ok::<(), zproc::Error>(())
/// ```
pub const VALUE_FORMAT: u64 = u64::from_le_bytes([
    TABLE,
    RKYV,
    size_of::<ArchivedUsize>() as u8,
    align_of::<ArchivedUsize>() as u8,
    LITTLE_ENDIAN,
    0,
    0,
    0,
]);

/// Generation of the table of kinds.
const TABLE: u8 = 1;
/// Archives of rkyv 0.8; its releases of that number read each other's.
const RKYV: u8 = 8;
const LITTLE_ENDIAN: u8 = 1;

/// Fails to compile where some other crate has switched rkyv to another byte order.
const _: fn(u32_le) -> ArchivedU32 = |little_endian| little_endian;
const _: () = assert!(
    size_of::<ArchivedUsize>() == 4 && align_of::<ArchivedUsize>() == 4,
    "some other crate has switched rkyv to other pointers, or to unaligned ones"
);

/// What a stamp says, in words.
pub(crate) fn describe(format: u64) -> String {
    let [table, rkyv, size, align, order, ..] = format.to_le_bytes();
    if table == 0 {
        return "not zproc's".into();
    }
    let order = match order {
        LITTLE_ENDIAN => "little-endian",
        _ => "big-endian",
    };
    let bits = u32::from(size) * 8;
    format!(
        "of format {table} with {order} archives of rkyv 0.{rkyv}, pointers of {bits} bits aligned to {align} bytes"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stamp_says_what_it_stands_for() {
        let expected = "of format 1 with little-endian archives of rkyv 0.8, pointers of 32 bits aligned to 4 bytes";
        assert_eq!(
            (VALUE_FORMAT, describe(VALUE_FORMAT).as_str()),
            (0x01_04_04_08_01, expected)
        );
        assert_eq!(describe(0), "not zproc's");
    }
}
