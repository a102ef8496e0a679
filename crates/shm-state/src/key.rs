//! Keys and values as the engine sees them: bytes with a type tag.

use std::fmt;

use smallvec::SmallVec;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::layout::KEY_MAX;

/// Bits of a key's length in its shape.
const LEN_BITS: u32 = 24;

const _: () = assert!(KEY_MAX < 1 << LEN_BITS);

/// Key tag and length as they stand in an entry. Of a key that is too long for any, only the low bits of the length.
#[inline(always)]
fn shape(tag: u8, len: usize) -> u32 {
    u32::from(tag) << LEN_BITS | (len as u32 & ((1 << LEN_BITS) - 1))
}

/// The tag and the length that a shape was made of.
#[inline(always)]
pub(crate) fn tag_and_len(shape: u32) -> (u8, usize) {
    ((shape >> LEN_BITS) as u8, (shape & ((1 << LEN_BITS) - 1)) as usize)
}

/// A key with its hash, borrowed.
///
/// The hash is XXH3-64 of the bytes, seeded with the tag; its output is fixed by the XXH3 specification, so
/// different programs agree on it.
///
/// ```
/// let a = shm_state::KeyRef::new(1, b"door");
/// assert_ne!(a.hash(), shm_state::KeyRef::new(2, b"door").hash());
/// ```
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct KeyRef<'a> {
    hash: u64,
    /// Tag and length in one word, as they stand in an entry: a byte beside padding would be stored by one width and loaded
    /// by another, which stalls.
    shape: u32,
    bytes: &'a [u8],
}

impl<'a> KeyRef<'a> {
    /// Hashes a key.
    ///
    /// ```
    /// let key = shm_state::KeyRef::new(1, b"door");
    /// assert_eq!((key.tag(), key.bytes()), (1, &b"door"[..]));
    /// ```
    #[inline]
    pub fn new(tag: u8, bytes: &'a [u8]) -> Self {
        Self {
            hash: xxh3_64_with_seed(bytes, u64::from(tag)),
            shape: shape(tag, bytes.len()),
            bytes,
        }
    }

    /// The type tag.
    ///
    /// ```
    /// assert_eq!(shm_state::KeyRef::new(1, b"door").tag(), 1);
    /// ```
    #[inline(always)]
    pub fn tag(&self) -> u8 {
        tag_and_len(self.shape).0
    }

    /// Tag and length as they stand in an entry.
    #[inline(always)]
    pub(crate) fn shape(&self) -> u32 {
        self.shape
    }

    /// The bytes.
    ///
    /// ```
    /// assert_eq!(shm_state::KeyRef::new(1, b"door").bytes(), b"door");
    /// ```
    #[inline(always)]
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// The hash.
    ///
    /// ```
    /// use shm_state::KeyRef;
    ///
    /// assert_eq!(KeyRef::new(1, b"door").hash(), KeyRef::new(1, b"door").hash());
    /// ```
    #[inline(always)]
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// A copy that owns its bytes.
    ///
    /// ```
    /// use shm_state::KeyRef;
    ///
    /// let key = KeyRef::new(1, String::from("door").as_bytes()).to_owned();
    /// assert_eq!(key.as_ref(), KeyRef::new(1, b"door"));
    /// ```
    pub fn to_owned(&self) -> Key {
        Key {
            hash: self.hash,
            tag: self.tag(),
            bytes: SmallVec::from_slice(self.bytes),
        }
    }
}

impl fmt::Debug for KeyRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyRef")
            .field("hash", &self.hash)
            .field("tag", &self.tag())
            .field("bytes", &self.bytes)
            .finish()
    }
}

/// A key with its hash, owned.
///
/// ```
/// use shm_state::{Key, KeyRef};
///
/// let keys: Vec<Key> = [b"door", b"lamp"].map(|name| KeyRef::new(1, name).to_owned()).into();
/// assert!(keys.contains(&KeyRef::new(1, b"lamp").to_owned()));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    hash: u64,
    tag: u8,
    /// Short keys lie here, so that a watcher of one allocates nothing.
    bytes: SmallVec<[u8; 24]>,
}

impl Key {
    /// The key, borrowed.
    ///
    /// ```
    /// use shm_state::KeyRef;
    ///
    /// let key = KeyRef::new(1, b"door").to_owned();
    /// assert_eq!(key.as_ref().hash(), KeyRef::new(1, b"door").hash());
    /// ```
    #[inline(always)]
    pub fn as_ref(&self) -> KeyRef<'_> {
        KeyRef {
            hash: self.hash,
            shape: shape(self.tag, self.bytes.len()),
            bytes: &self.bytes,
        }
    }

    /// The type tag.
    ///
    /// ```
    /// assert_eq!(shm_state::KeyRef::new(1, b"door").to_owned().tag(), 1);
    /// ```
    pub fn tag(&self) -> u8 {
        self.tag
    }

    /// The bytes.
    ///
    /// ```
    /// assert_eq!(shm_state::KeyRef::new(1, b"door").to_owned().bytes(), b"door");
    /// ```
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// Payloads up to this many bytes are copied out without an allocation.
pub const INLINE: usize = 16;

/// A value, copied out of the arena.
///
/// ```
/// # use shm_state::{Arena, ArenaOptions, Deadline, KeyRef};
/// # let arena = Arena::anonymous(&ArenaOptions::default())?;
/// # let namespace = arena.namespace("default")?;
/// namespace.put(&KeyRef::new(1, b"door"), None, 7, b"open", Deadline::never())?;
/// let value = namespace.get(&KeyRef::new(1, b"door"))?.expect("it was put there");
/// assert_eq!((value.tag(), value.bytes()), (7, &b"open"[..]));
/// # Ok::<(), shm_state::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Payload {
    tag: u16,
    repr: Repr,
}

#[derive(Clone, Debug)]
enum Repr {
    Inline { len: u8, bytes: [u8; INLINE] },
    Heap(Vec<u8>),
}

impl Payload {
    /// A value of at most [`INLINE`] bytes, from two words as they lie in memory.
    #[inline(always)]
    pub(crate) fn inline(tag: u16, len: usize, words: [u64; 2]) -> Self {
        let mut bytes = [0; INLINE];
        bytes[..8].copy_from_slice(&words[0].to_le_bytes());
        bytes[8..].copy_from_slice(&words[1].to_le_bytes());
        Self {
            tag,
            repr: Repr::Inline {
                len: len.min(INLINE) as u8,
                bytes,
            },
        }
    }

    /// A copy of some bytes.
    ///
    /// ```
    /// let payload = shm_state::Payload::copy_of(7, b"open");
    /// assert_eq!((payload.tag(), payload.bytes()), (7, &b"open"[..]));
    /// ```
    #[inline(always)]
    pub fn copy_of(tag: u16, bytes: &[u8]) -> Self {
        let mut inline = [0; INLINE];
        match inline.get_mut(..bytes.len()) {
            Some(part) => part.copy_from_slice(bytes),
            None => return Self::heap(tag, bytes.to_vec()),
        }
        Self {
            tag,
            repr: Repr::Inline {
                len: bytes.len() as u8,
                bytes: inline,
            },
        }
    }

    pub(crate) fn heap(tag: u16, bytes: Vec<u8>) -> Self {
        Self {
            tag,
            repr: Repr::Heap(bytes),
        }
    }

    /// The type tag.
    ///
    /// ```
    /// # use shm_state::{Arena, ArenaOptions, Deadline, KeyRef};
    /// # let arena = Arena::anonymous(&ArenaOptions::default())?;
    /// # let namespace = arena.namespace("default")?;
    /// namespace.put(&KeyRef::new(1, b"door"), None, 7, b"open", Deadline::never())?;
    /// let value = namespace.get(&KeyRef::new(1, b"door"))?.expect("it was put there");
    /// assert_eq!(value.tag(), 7);
    /// # Ok::<(), shm_state::Error>(())
    /// ```
    #[inline(always)]
    pub fn tag(&self) -> u16 {
        self.tag
    }

    /// The bytes.
    ///
    /// ```
    /// # use shm_state::{Arena, ArenaOptions, Deadline, KeyRef};
    /// # let arena = Arena::anonymous(&ArenaOptions::default())?;
    /// # let namespace = arena.namespace("default")?;
    /// namespace.put(&KeyRef::new(1, b"door"), None, 7, b"open", Deadline::never())?;
    /// let value = namespace.get(&KeyRef::new(1, b"door"))?.expect("it was put there");
    /// assert_eq!(value.bytes(), b"open");
    /// # Ok::<(), shm_state::Error>(())
    /// ```
    #[inline(always)]
    pub fn bytes(&self) -> &[u8] {
        match &self.repr {
            Repr::Inline { len, bytes } => &bytes[..usize::from(*len)],
            Repr::Heap(bytes) => bytes,
        }
    }

    /// The bytes, owned.
    ///
    /// ```
    /// # use shm_state::{Arena, ArenaOptions, Deadline, KeyRef};
    /// # let arena = Arena::anonymous(&ArenaOptions::default())?;
    /// # let namespace = arena.namespace("default")?;
    /// namespace.put(&KeyRef::new(1, b"door"), None, 7, b"open", Deadline::never())?;
    /// let value = namespace.get(&KeyRef::new(1, b"door"))?.expect("it was put there");
    /// assert_eq!(value.into_bytes(), b"open".to_vec());
    /// # Ok::<(), shm_state::Error>(())
    /// ```
    pub fn into_bytes(self) -> Vec<u8> {
        match self.repr {
            Repr::Inline { len, bytes } => bytes[..usize::from(len)].to_vec(),
            Repr::Heap(bytes) => bytes,
        }
    }
}

impl PartialEq for Payload {
    fn eq(&self, other: &Self) -> bool {
        self.tag == other.tag && self.bytes() == other.bytes()
    }
}

impl Eq for Payload {}
