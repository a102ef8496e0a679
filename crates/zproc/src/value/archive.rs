//! The stored form of rkyv archives, for those who know the type and those who don't.
//!
//! ```text
//! 0  fingerprint of the type   8  bytes of the archive   12  bytes of the name   16  archive, then name in UTF-8
//! ```
//!
//! The head has 16 bytes so that the archive lies on a multiple of 64: in the arena, and in the copies that the engine
//! hands out. The root of the archive is at its end, as rkyv has it. The name stands behind, where nobody who knows the
//! type comes by; it tells the others what they have there, and makes errors name both types.
//!
//! The fingerprint is the XXH3 hash of the name, seeded with the hash of version, size and alignment. It cannot see what is
//! inside of the type: see [`ArchivedValue`].

use std::fmt;

#[cfg(doc)]
use super::archived::ArchivedValue;
use super::decode::{Encoded, FromValue};
use super::encode::{Encoder, ToValue};
use super::error::{DecodeError, EncodeError};
use super::tag;

/// Bytes before the archive.
pub(crate) const HEAD: usize = 16;

/// What archives are aligned to at most.
pub(crate) const ALIGNMENT: usize = 64;

const _: () = assert!((shm_state::PAYLOAD_OFFSET + HEAD).is_multiple_of(ALIGNMENT));

/// Which type an archive is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TypeStamp {
    pub(crate) name: &'static str,
    pub(crate) fingerprint: u64,
}

/// Calls `write` to append the archive of a value of this type.
pub(crate) fn encode(
    out: Encoder<'_>,
    name: &str,
    fingerprint: u64,
    write: impl FnOnce(&mut Vec<u8>) -> Result<(), EncodeError>,
) -> Result<(), EncodeError> {
    out.fill(tag::ARCHIVED, |buffer| {
        let start = buffer.len();
        buffer.extend_from_slice(&head(fingerprint, 0, 0));
        write(buffer)?;
        let archive = buffer.len() - start - HEAD;
        let too_long = |_| EncodeError::TooLong { len: archive };
        let (archive, len) = (u32::try_from(archive), u32::try_from(name.len()));
        let head = head(fingerprint, archive.map_err(too_long)?, len.map_err(too_long)?);
        buffer[start..start + HEAD].copy_from_slice(&head);
        buffer.extend_from_slice(name.as_bytes());
        Ok(())
    })
}

fn head(fingerprint: u64, archive: u32, name: u32) -> [u8; HEAD] {
    let mut head = [0; HEAD];
    head[..8].copy_from_slice(&fingerprint.to_le_bytes());
    head[8..12].copy_from_slice(&archive.to_le_bytes());
    head[12..].copy_from_slice(&name.to_le_bytes());
    head
}

/// The archive in a stored value, if that is of this type.
#[inline(always)]
pub(crate) fn of_type<'a>(encoded: Encoded<'a>, stamp: TypeStamp) -> Result<&'a [u8], DecodeError> {
    bytes_of_type(encoded, stamp).ok_or_else(|| of_another(encoded, stamp))
}

/// As [`of_type`], with nothing to say why not.
#[inline(always)]
pub(crate) fn bytes_of_type<'a>(encoded: Encoded<'a>, stamp: TypeStamp) -> Option<&'a [u8]> {
    let (head, rest) = encoded.bytes().split_first_chunk::<HEAD>()?;
    let fingerprint = u64::from_le_bytes(*head.first_chunk()?);
    if encoded.tag() != tag::ARCHIVED || fingerprint != stamp.fingerprint {
        return None;
    }
    rest.get(..len_at(head, 8))
}

#[inline(always)]
fn len_at(head: &[u8; HEAD], at: usize) -> usize {
    u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]) as usize
}

/// Why a value is not of this type.
#[cold]
#[inline(never)]
fn of_another(encoded: Encoded<'_>, stamp: TypeStamp) -> DecodeError {
    match Parts::of(encoded, stamp.name) {
        Ok(parts) if parts.name == stamp.name => DecodeError::WrongVersion {
            name: stamp.name,
            expected: stamp.fingerprint,
            found: parts.fingerprint,
        },
        Ok(_) => encoded.wrong_type(stamp.name),
        Err(error) => error,
    }
}

/// The parts of a stored archive, checked.
#[derive(Clone, Copy)]
pub(crate) struct Parts<'a> {
    pub(crate) fingerprint: u64,
    pub(crate) archive: &'a [u8],
    pub(crate) name: &'a str,
}

impl<'a> Parts<'a> {
    /// Takes a value apart, for a reader who wanted an `expected`.
    pub(crate) fn of(encoded: Encoded<'a>, expected: &'static str) -> Result<Self, DecodeError> {
        if encoded.tag() != tag::ARCHIVED {
            return Err(encoded.wrong_type(expected));
        }
        let malformed = |reason| DecodeError::malformed(tag::ARCHIVED, reason);
        let Some((head, rest)) = encoded.bytes().split_first_chunk::<HEAD>() else {
            return Err(malformed("it ends within its head"));
        };
        let (archive, name) = (len_at(head, 8), len_at(head, 12));
        if archive as u64 + name as u64 != rest.len() as u64 {
            return Err(malformed("its lengths do not add up"));
        }
        let (archive, name) = rest.split_at(archive);
        match str::from_utf8(name) {
            Ok("") => Err(malformed("its type has no name")),
            Ok(name) => Ok(Self {
                fingerprint: u64::from_le_bytes([
                    head[0], head[1], head[2], head[3], head[4], head[5], head[6], head[7],
                ]),
                archive,
                name,
            }),
            Err(_) => Err(malformed("the name of its type is not UTF-8")),
        }
    }
}

impl fmt::Display for Parts<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<{}, {} bytes>", self.name, self.archive.len())
    }
}

/// A value of an rkyv type, of which this program need know no more than the name.
///
/// So programs can list, compare, copy and put back values of types that only others know.
///
/// ```
/// use zproc::rkyv::{Archive, Deserialize, Serialize};
/// use zproc::{State, Value};
///
/// #[derive(Archive, Serialize, Deserialize)]
/// #[rkyv(crate = zproc::rkyv)]
/// struct Pose { x: f64, y: f64 }
/// zproc::archived!(Pose as "robot.Pose");
///
/// let state = State::anonymous()?;
/// state.insert("pose", Pose { x: 1.0, y: 2.0 })?;
/// let Some(Value::Archived(pose)) = state.get("pose")? else { panic!("it is there") };
/// assert_eq!((pose.name(), pose.bytes().len()), ("robot.Pose", 16));
/// state.insert("copy", &pose)?;
/// assert_eq!(state.get::<Pose>("copy")?.map(|pose| pose.y), Some(2.0));
/// # Ok::<(), zproc::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct OwnedArchive(Box<Inner>);

/// Boxed because every [`Value`](crate::Value) has the size of its largest variant.
#[derive(Clone, PartialEq, Eq)]
struct Inner {
    fingerprint: u64,
    name: Box<str>,
    archive: Box<[u8]>,
}

impl OwnedArchive {
    /// The name of the type.
    ///
    /// ```
    /// # use zproc::rkyv::{Archive, Deserialize, Serialize};
    /// # #[derive(Archive, Serialize, Deserialize)]
    /// # #[rkyv(crate = zproc::rkyv)]
    /// # struct Pose { x: f64, y: f64 }
    /// # zproc::archived!(Pose as "robot.Pose");
    /// use zproc::{OwnedArchive, State};
    ///
    /// let state = State::anonymous()?;
    /// state.insert("pose", Pose { x: 1.0, y: 2.0 })?;
    /// let pose = state.get::<OwnedArchive>("pose")?.expect("it is there");
    /// assert_eq!(pose.name(), "robot.Pose");
    /// # Ok::<(), zproc::Error>(())
    /// ```
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// The fingerprint of the type; see [`ArchivedValue`](crate::ArchivedValue).
    ///
    /// ```
    /// # use zproc::rkyv::{Archive, Deserialize, Serialize};
    /// # #[derive(Archive, Serialize, Deserialize)]
    /// # #[rkyv(crate = zproc::rkyv)]
    /// # struct Pose { x: f64, y: f64 }
    /// # zproc::archived!(Pose as "robot.Pose");
    /// use zproc::{ArchivedValue, OwnedArchive, State};
    ///
    /// let state = State::anonymous()?;
    /// state.insert("pose", Pose { x: 1.0, y: 2.0 })?;
    /// let pose = state.get::<OwnedArchive>("pose")?.expect("it is there");
    /// assert_eq!(pose.fingerprint(), Pose::FINGERPRINT);
    /// # Ok::<(), zproc::Error>(())
    /// ```
    pub fn fingerprint(&self) -> u64 {
        self.0.fingerprint
    }

    /// The archive, not checked to be one.
    ///
    /// ```
    /// # use zproc::rkyv::{Archive, Deserialize, Serialize};
    /// # #[derive(Archive, Serialize, Deserialize)]
    /// # #[rkyv(crate = zproc::rkyv)]
    /// # struct Pose { x: f64, y: f64 }
    /// # zproc::archived!(Pose as "robot.Pose");
    /// use zproc::{OwnedArchive, State};
    ///
    /// let state = State::anonymous()?;
    /// state.insert("pose", Pose { x: 1.0, y: 2.0 })?;
    /// let pose = state.get::<OwnedArchive>("pose")?.expect("it is there");
    /// assert_eq!(pose.bytes(), [1f64.to_le_bytes(), 2f64.to_le_bytes()].concat());
    /// # Ok::<(), zproc::Error>(())
    /// ```
    pub fn bytes(&self) -> &[u8] {
        &self.0.archive
    }
}

impl ToValue for OwnedArchive {
    fn encode(&self, out: Encoder<'_>) -> Result<(), EncodeError> {
        encode(out, self.name(), self.fingerprint(), |buffer| {
            buffer.extend_from_slice(self.bytes());
            Ok(())
        })
    }
}

impl FromValue for OwnedArchive {
    fn from_encoded(encoded: Encoded<'_>) -> Result<Self, DecodeError> {
        let Parts {
            fingerprint,
            archive,
            name,
        } = Parts::of(encoded, tag::kind_name(tag::ARCHIVED))?;
        Ok(Self(Box::new(Inner {
            fingerprint,
            name: name.into(),
            archive: archive.into(),
        })))
    }
}

/// As it stands in a map that is shown: `<robot.Pose, 64 bytes>`.
impl fmt::Display for OwnedArchive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Parts {
            fingerprint: self.fingerprint(),
            archive: self.bytes(),
            name: self.name(),
        }
        .fmt(f)
    }
}

impl fmt::Debug for OwnedArchive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OwnedArchive")
            .field("name", &self.name())
            .field("fingerprint", &format_args!("{:#018x}", self.fingerprint()))
            .field("bytes", &format_args!("{}", super::display::Bytes(self.bytes())))
            .finish()
    }
}
