//! Values of any type that rkyv archives.
//!
//! The bytes of an archive are those of the type's archived form, so a fixed-size struct is written and read by copying
//! it, and a snapshot can show it where it lies ([`Snapshot::view`](crate::Snapshot::view)). The stored form is in
//! `archive`; here is what knows the type.
//!
//! Reading is for bytes that may be anything: they are copied out of the shared memory, then checked, then deserialised.

use std::mem::{align_of, size_of};
use std::num::NonZeroUsize;

use rkyv::api::high::{HighDeserializer, HighSerializer, HighValidator, to_bytes_in};
use rkyv::bytecheck::CheckBytes;
use rkyv::rancor::{BoxedError as Trouble, Failure, Source};
use rkyv::ser::allocator::ArenaHandle;
use rkyv::ser::{Positional, Writer};
use rkyv::util::AlignedVec;
use rkyv::validation::Validator;
use rkyv::validation::archive::ArchiveValidator;
use rkyv::validation::shared::SharedValidator;
use rkyv::{Archive, Archived, Deserialize, Serialize};
use xxhash_rust::const_xxh3::{xxh3_64, xxh3_64_with_seed};

use super::archive::{self, ALIGNMENT, TypeStamp};
use super::decode::{Encoded, FromValue};
use super::encode::{Encoder, ToValue};
use super::error::{DecodeError, EncodeError};

/// How deep pointers may lie in one another in an archive that is read. Checking goes as deep as they do.
const MAX_POINTERS: usize = 512;

/// A type that has all of rkyv's derived traits.
///
/// It is implemented for each such type, and by nothing else. Types that are to be stored under a name of their own, which
/// is what one wants for one's own types, say so with [`archived!`](crate::archived); all others go in [`Rkyv`].
///
/// ```
/// use std::collections::BTreeMap;
/// use zproc::{Rkyv, RkyvType, State};
///
/// /// Takes whatever rkyv can archive.
/// fn publish<T: RkyvType>(state: &State, key: &str, value: T) -> zproc::Result<()> {
///     state.insert(key, Rkyv(value))
/// }
///
/// let state = State::anonymous()?;
/// publish(&state, "letter", 'z')?;
/// publish(&state, "ages", BTreeMap::from([("ann".to_string(), 41u8)]))?;
/// assert_eq!(state.get::<Rkyv<char>>("letter")?, Some(Rkyv('z')));
/// # Ok::<(), zproc::Error>(())
/// ```
pub trait RkyvType:
    Archive<
        Archived: for<'a> CheckBytes<HighValidator<'a, Failure>>
                      + for<'a> CheckBytes<HighValidator<'a, Trouble>>
                      + Deserialize<Self, HighDeserializer<Failure>>
                      + Deserialize<Self, HighDeserializer<Trouble>>,
    > + for<'a> Serialize<HighSerializer<Output, ArenaHandle<'a>, Trouble>>
    + Sized
    + 'static
{
}

impl<T> RkyvType for T where
    T: Archive<
            Archived: for<'a> CheckBytes<HighValidator<'a, Failure>>
                          + for<'a> CheckBytes<HighValidator<'a, Trouble>>
                          + Deserialize<Self, HighDeserializer<Failure>>
                          + Deserialize<Self, HighDeserializer<Trouble>>,
        > + for<'a> Serialize<HighSerializer<Output, ArenaHandle<'a>, Trouble>>
        + 'static
{
}

/// A type whose values are stored as rkyv archives, under a name. Implemented by [`archived!`](crate::archived).
///
/// With each value the store keeps a fingerprint of its type: a hash of name, version, and size and alignment of the
/// archived form. Reading a value as another type is an error that names both.
///
/// The fingerprint does not see what is inside: two fields of the same size that change places, a `u32` that becomes an
/// `f32`, an enum that gets another order, or a change in a type behind a pointer, such as the items of a `Vec`. Bytes that
/// are valid in both types would be read as something that nobody wrote. So programs that may not be built from the
/// same source count the version up with every change of such a kind:
///
/// ```
/// use zproc::State;
///
/// mod yesterday {
///     use zproc::rkyv::{Archive, Deserialize, Serialize};
///
///     #[derive(Archive, Serialize, Deserialize)]
///     #[rkyv(crate = zproc::rkyv)]
///     pub struct Pose { pub x: f32, pub y: f32 }
///     zproc::archived!(Pose as "robot.Pose");
/// }
///
/// mod today {
///     use zproc::rkyv::{Archive, Deserialize, Serialize};
///
///     #[derive(Debug, Archive, Serialize, Deserialize)]
///     #[rkyv(crate = zproc::rkyv)]
///     pub struct Pose { pub y: f32, pub x: f32 }
///     zproc::archived!(Pose as "robot.Pose", version 2);
/// }
///
/// let state = State::anonymous()?;
/// state.insert("pose", yesterday::Pose { x: 1.0, y: 2.0 })?;
/// let error = state.get::<today::Pose>("pose").unwrap_err();
/// assert!(error.to_string().contains("another version or layout of robot.Pose"), "{error}");
/// # Ok::<(), zproc::Error>(())
/// ```
pub trait ArchivedValue: RkyvType + ToValue + FromValue {
    /// The name of the type, which is stored with each value.
    const NAME: &'static str;
    /// What tells it from older types of the same name.
    const VERSION: u32;
    /// What is stored to tell whether a value is of this type.
    const FINGERPRINT: u64 = fingerprint::<Self>(Self::NAME, Self::VERSION);
}

/// The fingerprint of a type. Fails, which is to say while it is compiled, if the type cannot be stored.
const fn fingerprint<T: Archive>(name: &str, version: u32) -> u64 {
    assert!(!name.is_empty(), "a type that is stored needs a name");
    xxh3_64_with_seed(name.as_bytes(), layout_hash::<T>(version))
}

/// The part of a fingerprint that is not the name's.
const fn layout_hash<T: Archive>(version: u32) -> u64 {
    let (size, align) = (size_of::<Archived<T>>(), align_of::<Archived<T>>());
    assert!(align <= ALIGNMENT, "values are aligned to 64 bytes at most");
    let numbers = (size as u128) << 64 | (align as u128) << 32 | version as u128;
    xxh3_64(&numbers.to_le_bytes())
}

/// A value of an rkyv type of another crate, which cannot be given a name with [`archived!`](crate::archived).
///
/// The name that is stored is that of [`std::any::type_name`], which programs of the same source that were built by the
/// same compiler agree on, and others nearly always do.
///
/// ```
/// use std::collections::HashMap;
/// use zproc::{Rkyv, State};
///
/// let state = State::anonymous()?;
/// state.insert("ages", Rkyv(HashMap::from([("ann".to_string(), 41u8)])))?;
/// let ages = state.get::<Rkyv<HashMap<String, u8>>>("ages")?;
/// assert_eq!(ages.map(|ages| ages.0["ann"]), Some(41));
/// # Ok::<(), zproc::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rkyv<T>(pub T);

impl<T: RkyvType> Rkyv<T> {
    /// Which type this is.
    pub(crate) fn stamp() -> TypeStamp {
        let name = std::any::type_name::<T>();
        TypeStamp {
            name,
            fingerprint: xxhash_rust::xxh3::xxh3_64_with_seed(name.as_bytes(), const { layout_hash::<T>(0) }),
        }
    }
}

impl<T: RkyvType> ToValue for Rkyv<T> {
    fn encode(&self, out: Encoder<'_>) -> Result<(), EncodeError> {
        encode(&self.0, Self::stamp(), out)
    }
}

impl<T: RkyvType> FromValue for Rkyv<T> {
    #[inline]
    fn from_encoded(encoded: Encoded<'_>) -> Result<Self, DecodeError> {
        decode(encoded, Self::stamp()).map(Self)
    }
}

/// A buffer that an archive is appended to.
#[doc(hidden)]
#[derive(Debug)]
pub struct Output {
    bytes: Vec<u8>,
    start: usize,
}

impl Positional for Output {
    #[inline]
    fn pos(&self) -> usize {
        self.bytes.len() - self.start
    }
}

impl<E> Writer<E> for Output {
    #[inline]
    fn write(&mut self, bytes: &[u8]) -> Result<(), E> {
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }
}

/// Writes a value as one of this type.
#[inline]
pub(crate) fn encode<T: RkyvType>(value: &T, stamp: TypeStamp, out: Encoder<'_>) -> Result<(), EncodeError> {
    archive::encode(out, stamp.name, stamp.fingerprint, |buffer| {
        let output = Output {
            start: buffer.len(),
            bytes: std::mem::take(buffer),
        };
        *buffer = to_bytes_in(value, output)
            .map_err(|trouble: Trouble| EncodeError::other(trouble))?
            .bytes;
        Ok(())
    })
}

/// Reads a value as one of this type.
#[inline]
pub(crate) fn decode<T: RkyvType>(encoded: Encoded<'_>, stamp: TypeStamp) -> Result<T, DecodeError> {
    let bytes = archive::of_type(encoded, stamp)?;
    if bytes.as_ptr().addr().is_multiple_of(ALIGNMENT) {
        return deserialize(bytes, stamp);
    }
    // Inside of a list, or in a copy that was made for other reasons.
    let mut aligned = AlignedVec::<ALIGNMENT>::with_capacity(bytes.len());
    aligned.extend_from_slice(bytes);
    deserialize(&aligned, stamp)
}

#[inline]
fn deserialize<T: RkyvType>(bytes: &[u8], stamp: TypeStamp) -> Result<T, DecodeError> {
    check::<T, Failure>(bytes)
        .and_then(rkyv::deserialize::<T, Failure>)
        .map_err(|Failure| damaged::<T>(bytes, stamp))
}

/// Reads a value without pointers; `None` if it takes more than that, or is none of this type.
#[inline(always)]
fn decode_fixed<T: RkyvType>(encoded: Encoded<'_>, stamp: TypeStamp) -> Option<T> {
    let bytes = archive::bytes_of_type(encoded, stamp)?;
    // Said once more, the length is a constant, and the compiler knows where everything is.
    let bytes = (bytes.len() == size_of::<Archived<T>>()).then(|| &bytes[..size_of::<Archived<T>>()])?;
    rkyv::deserialize::<T, Failure>(check::<T, Failure>(bytes).ok()?).ok()
}

/// The archive in these bytes, after everything in it was checked.
#[inline(always)]
pub(crate) fn check<T: Archive, E: Source>(bytes: &[u8]) -> Result<&Archived<T>, E>
where
    T::Archived: for<'a> CheckBytes<HighValidator<'a, E>>,
{
    check_to_depth::<T, E>(bytes, MAX_POINTERS)
}

#[inline(always)]
fn check_to_depth<T: Archive, E: Source>(bytes: &[u8], depth: usize) -> Result<&Archived<T>, E>
where
    T::Archived: for<'a> CheckBytes<HighValidator<'a, E>>,
{
    let bounds = ArchiveValidator::with_max_depth(bytes, NonZeroUsize::new(depth + 1));
    rkyv::api::access_with_context(bytes, &mut Validator::new(bounds, SharedValidator::new()))
}

/// The error for bytes that were found to be none of this type. It looks again, with a kind of error that can tell what is
/// wrong, and that would make looking slower.
#[cold]
#[inline(never)]
pub(crate) fn damaged<T: RkyvType>(bytes: &[u8], stamp: TypeStamp) -> DecodeError {
    let reason = match check::<T, Trouble>(bytes).and_then(rkyv::deserialize::<T, Trouble>) {
        Ok(_) => "it changes while it is read".into(),
        Err(_) if check_to_depth::<T, Failure>(bytes, 2 * MAX_POINTERS).is_ok() => {
            format!("its pointers lie more than {MAX_POINTERS} deep in one another")
        }
        Err(trouble) => trouble.to_string(),
    };
    DecodeError::DamagedArchive {
        name: stamp.name,
        reason: reason.into(),
    }
}

/// Stores values of types as rkyv archives, under their names.
///
/// A name and a version may be given; else the name is the path of the type, `my_crate::my_module::Pose`, and the version
/// 1. The types have rkyv's three derived traits. See [`ArchivedValue`] for what the version is for.
///
/// ```
/// use zproc::State;
/// use zproc::rkyv::{Archive, Deserialize, Serialize};
///
/// #[derive(Archive, Serialize, Deserialize, Debug, PartialEq)]
/// #[rkyv(crate = zproc::rkyv)]
/// struct Pose { x: f64, y: f64, heading: f32 }
///
/// #[derive(Archive, Serialize, Deserialize, Debug, PartialEq)]
/// #[rkyv(crate = zproc::rkyv)]
/// struct Plan { name: String, poses: Vec<Pose> }
///
/// zproc::archived!(Pose as "robot.Pose");
/// zproc::archived!(Plan as "robot.Plan", version 3);
///
/// let state = State::anonymous()?;
/// let pose = Pose { x: 1.0, y: -2.0, heading: 0.5 };
/// state.insert("pose", &pose)?;
/// assert_eq!(state.get::<Pose>("pose")?, Some(pose));
///
/// let error = state.get::<Plan>("pose").unwrap_err();
/// assert_eq!(error.to_string(), r#"the value of "pose": expected robot.Plan, found robot.Pose (rkyv)"#);
/// let error = state.get::<f64>("pose").unwrap_err();
/// assert_eq!(error.to_string(), r#"the value of "pose": expected float, found robot.Pose (rkyv)"#);
/// # Ok::<(), zproc::Error>(())
/// ```
#[macro_export]
macro_rules! archived {
    ($type:ty) => {
        $crate::archived!($type as concat!(module_path!(), "::", stringify!($type)), version 1);
    };
    ($type:ty as $name:expr) => {
        $crate::archived!($type as $name, version 1);
    };
    ($type:ty as $name:expr, version $version:expr) => {
        impl $crate::ArchivedValue for $type {
            const NAME: &'static str = $name;
            const VERSION: u32 = $version;
        }

        // Fails here, and not where it is used, if the type cannot be stored.
        const _: u64 = <$type as $crate::ArchivedValue>::FINGERPRINT;

        impl $crate::ToValue for $type {
            #[inline]
            fn encode(&self, out: $crate::Encoder<'_>) -> ::std::result::Result<(), $crate::EncodeError> {
                $crate::__private::encode(self, out)
            }
        }

        impl $crate::FromValue for $type {
            const FIXED_SIZE: ::std::option::Option<$crate::__private::FixedSize> = $crate::__private::fixed_size::<Self>();

            #[inline(always)]
            fn from_fixed(encoded: $crate::Encoded<'_>) -> ::std::option::Option<Self> {
                $crate::__private::decode_fixed(encoded)
            }

            #[inline]
            fn from_encoded(
                encoded: $crate::Encoded<'_>,
            ) -> ::std::result::Result<Self, $crate::DecodeError> {
                $crate::__private::decode(encoded)
            }
        }
    };
}

/// What `archived!` needs.
#[doc(hidden)]
pub mod for_macros {
    pub use shm_state::FixedSize;

    use super::{Archived, ArchivedValue, DecodeError, EncodeError, Encoded, Encoder, TypeStamp};
    use crate::value::archive::HEAD;
    use crate::value::decode::straight;

    /// Which type this is.
    pub(crate) const fn stamp<T: ArchivedValue>() -> TypeStamp {
        TypeStamp {
            name: T::NAME,
            fingerprint: T::FINGERPRINT,
        }
    }

    /// How many bytes values have if they hold no pointers. The name is not looked at.
    pub const fn fixed_size<T: ArchivedValue>() -> Option<FixedSize> {
        let head = HEAD + size_of::<Archived<T>>();
        straight(FixedSize {
            len: head + T::NAME.len(),
            head,
        })
    }

    /// Writes a value.
    #[inline]
    pub fn encode<T: ArchivedValue>(value: &T, out: Encoder<'_>) -> Result<(), EncodeError> {
        super::encode(value, const { stamp::<T>() }, out)
    }

    /// Reads a value of that length.
    #[inline(always)]
    pub fn decode_fixed<T: ArchivedValue>(encoded: Encoded<'_>) -> Option<T> {
        super::decode_fixed(encoded, const { stamp::<T>() })
    }

    /// Reads a value.
    #[inline]
    pub fn decode<T: ArchivedValue>(encoded: Encoded<'_>) -> Result<T, DecodeError> {
        super::decode(encoded, const { stamp::<T>() })
    }
}
