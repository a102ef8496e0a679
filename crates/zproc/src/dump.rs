//! Dumps: copies of a state that outlive the machine's next boot, in any format that serde knows.
//!
//! **Guarantee.** What is restored is what was dumped: every key and value byte for byte as the store has it, and the
//! order of insertion. A dump that was damaged or edited, that is of something else, or that a later version made in a
//! form which this one does not know, is refused.
//!
//! A [`Dump`] keeps the bytes of the store. `wire` turns them into what is written, kind by kind, so that a dump in JSON can
//! be read by people and other programs; `file` keeps dumps in files.
//!
//! **Version 1.** A struct of these fields, in this order:
//!
//! | field | |
//! |---|---|
//! | `format` | the text `zproc-dump` |
//! | `version` | 1; a reader refuses any later one |
//! | `namespace`, `seq`, `time_ns` | where the dump is from: the number of its last update, and when it was made |
//! | `entries` | pairs of a key and a value, in the order of insertion; see `wire` |
//! | `checksum` | XXH3-64 of all that, see [`Dump::checksum`]; may be left out, as in a dump that was written by hand |

mod file;
mod wire;

use std::fmt;
use std::time::{Duration, SystemTime};

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use xxhash_rust::xxh3::Xxh3;

use crate::codec::{decode_key, name};
use crate::error::{Error, Result};
use crate::key::Key;
use crate::snapshot::Snapshot;
use crate::state::State;
use crate::value::{DecodeError, FromValue, Map, Value};
pub use file::DumpFormat;
use wire::{Entries, FormatName, Number, OutEntries, Version};

/// A copy of a state, to be written in whatever format, and restored.
///
/// Made by [`Snapshot::dump`]. It keeps nothing from being recycled. [`Dump::save`] writes it to a file; for anything else
/// it has serde's `Serialize` and `Deserialize`, and loses nothing in any format: integers of every width, floats that are
/// no numbers, byte strings and tuples are written in a way that even JSON keeps.
///
/// ```
/// use zproc::{Dump, State};
///
/// let state = State::anonymous()?;
/// state.insert(("oven", 1), f64::NAN)?;
/// state.insert("flour", vec![1u128 << 100, 0])?;
/// let json = serde_json::to_string(&state.snapshot()?.dump()?).expect("anything can be dumped");
///
/// let dump: Dump = serde_json::from_str(&json).expect("nobody has changed it");
/// let other = State::anonymous()?;
/// other.restore(&dump)?;
/// assert_eq!(other.snapshot()?, state.snapshot()?);
/// # Ok::<(), zproc::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Dump {
    namespace: String,
    seq: u64,
    time_ns: u64,
    entries: Vec<Entry>,
}

/// A key and its value as the store has them.
#[derive(Clone, PartialEq, Eq)]
struct Entry {
    key_tag: u8,
    key: Box<[u8]>,
    tag: u16,
    value: Box<[u8]>,
    /// The value is not of the kinds that every program can read.
    opaque: bool,
}

impl Entry {
    /// Refuses what a state would not read, unless it is of a kind that this version does not know.
    fn new((key_tag, key): (u8, Box<[u8]>), (tag, value): (u16, Box<[u8]>)) -> Result<Self, DecodeError> {
        let opaque = match Value::decode(tag, &value) {
            Ok(_) => false,
            Err(DecodeError::UnknownTag { .. }) => true,
            Err(error) => return Err(error),
        };
        Ok(Self {
            key_tag,
            key,
            tag,
            value,
            opaque,
        })
    }

    fn key_ref(&self) -> shm_state::KeyRef<'_> {
        shm_state::KeyRef::new(self.key_tag, &self.key)
    }

    fn decode(&self) -> Result<(Key, Value)> {
        let key = decode_key(&self.key_ref())?;
        match Value::decode(self.tag, &self.value) {
            Ok(value) => Ok((key, value)),
            Err(source) => Err(Error::WrongType { key, source }),
        }
    }
}

impl Dump {
    pub(crate) fn of(snapshot: &Snapshot<'_>) -> Result<Self> {
        let mut entries = Vec::new();
        for entry in snapshot.stored() {
            let (key, payload) = entry?;
            let key = key.as_ref();
            decode_key(&key)?;
            let (stored_key, stored) = ((key.tag(), key.bytes().into()), (payload.tag(), payload.bytes().into()));
            let entry = Entry::new(stored_key, stored);
            entries.push(entry.map_err(|source| Error::WrongType {
                key: name(&key),
                source,
            })?);
        }
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        Ok(Self {
            namespace: snapshot.namespace().into(),
            seq: snapshot.seq(),
            time_ns: now.map_or(0, |now| u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)),
            entries,
        })
    }

    /// The namespace that it is a copy of.
    ///
    /// ```
    /// let state = zproc::State::anonymous()?;
    /// let kitchen = state.fork().namespace("kitchen").open()?;
    /// assert_eq!(kitchen.snapshot()?.dump()?.namespace(), "kitchen");
    /// # Ok::<(), zproc::Error>(())
    /// ```
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The number of the update after which the state was like this.
    ///
    /// ```
    /// let state = zproc::State::anonymous()?;
    /// state.insert("cookies", 5)?;
    /// state.insert("cookies", 4)?;
    /// assert_eq!(state.snapshot()?.dump()?.seq(), 2);
    /// # Ok::<(), zproc::Error>(())
    /// ```
    pub fn seq(&self) -> u64 {
        self.seq
    }

    /// When the copy was made, by the clock of the machine it was made on.
    ///
    /// ```
    /// use std::time::SystemTime;
    ///
    /// let start = SystemTime::now();
    /// let dump = zproc::State::anonymous()?.snapshot()?.dump()?;
    /// assert!((start..=SystemTime::now()).contains(&dump.time()));
    /// # Ok::<(), zproc::Error>(())
    /// ```
    pub fn time(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_nanos(self.time_ns)
    }

    /// How many keys there are.
    ///
    /// ```
    /// let state = zproc::State::anonymous()?;
    /// state.extend([("flour", 3), ("sugar", 2)])?;
    /// assert_eq!(state.snapshot()?.dump()?.len(), 2);
    /// # Ok::<(), zproc::Error>(())
    /// ```
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are no keys.
    ///
    /// ```
    /// let state = zproc::State::anonymous()?;
    /// assert!(state.snapshot()?.dump()?.is_empty());
    /// state.insert("cookies", 5)?;
    /// assert!(!state.snapshot()?.dump()?.is_empty());
    /// # Ok::<(), zproc::Error>(())
    /// ```
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The keys and values in the order of insertion.
    ///
    /// ```
    /// use zproc::State;
    ///
    /// let state = State::anonymous()?;
    /// state.extend([("b", 1), ("a", 2)])?;
    /// let dump = state.snapshot()?.dump()?;
    /// let keys: zproc::Result<Vec<_>> = dump.iter().map(|entry| Ok(entry?.0)).collect();
    /// assert_eq!(keys?, ["b".into(), "a".into()]);
    /// # Ok::<(), zproc::Error>(())
    /// ```
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = Result<(Key, Value)>> + ExactSizeIterator + '_ {
        self.entries.iter().map(Entry::decode)
    }

    /// The keys and values as a map.
    ///
    /// ```
    /// use zproc::{Map, State};
    ///
    /// let state = State::anonymous()?;
    /// state.insert("cookies", 5)?;
    /// assert_eq!(state.snapshot()?.dump()?.to_map()?, Map::from([("cookies", 5)]));
    /// # Ok::<(), zproc::Error>(())
    /// ```
    pub fn to_map(&self) -> Result<Map> {
        self.iter().collect()
    }

    /// XXH3-64 of the length of the namespace's name in eight bytes, the name, `seq`, `time_ns`, and of each entry the
    /// key's tag in one byte, the number of its bytes in eight, the bytes, and the same of the value with two bytes for the
    /// tag: all numbers little-endian, tags and bytes as in [`tag`](crate::tag).
    fn checksum(&self) -> u64 {
        let mut hash = Xxh3::new();
        let mut part = |tag: &[u8], bytes: &[u8]| {
            hash.update(tag);
            hash.update(&(bytes.len() as u64).to_le_bytes());
            hash.update(bytes);
        };
        part(&[], self.namespace.as_bytes());
        part(&self.seq.to_le_bytes(), &[]);
        part(&self.time_ns.to_le_bytes(), &[]);
        for entry in &self.entries {
            part(&[entry.key_tag], &entry.key);
            part(&entry.tag.to_le_bytes(), &entry.value);
        }
        hash.digest()
    }
}

impl Serialize for Dump {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        #[serde(rename = "Dump")]
        struct Out<'a> {
            format: FormatName,
            version: Version,
            namespace: &'a str,
            seq: u64,
            time_ns: u64,
            entries: OutEntries<'a>,
            checksum: Option<Number>,
        }
        let Self {
            namespace,
            seq,
            time_ns,
            entries,
        } = self;
        let out = Out {
            format: FormatName,
            version: Version,
            namespace,
            seq: *seq,
            time_ns: *time_ns,
            entries: OutEntries(entries),
            checksum: Some(Number(self.checksum())),
        };
        out.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Dump {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // Format and version come first, so that a dump of another kind is refused as such.
        #[derive(Deserialize)]
        #[serde(rename = "Dump")]
        struct In {
            #[serde(rename = "format")]
            _format: FormatName,
            #[serde(rename = "version")]
            _version: Version,
            namespace: String,
            seq: u64,
            time_ns: u64,
            entries: Entries,
            #[serde(default)]
            checksum: Option<Number>,
        }
        let In {
            namespace,
            seq,
            time_ns,
            entries,
            checksum,
            ..
        } = In::deserialize(deserializer)?;
        let dump = Self {
            namespace,
            seq,
            time_ns,
            entries: entries.0,
        };
        match checksum {
            Some(Number(told)) if told != dump.checksum() => Err(D::Error::custom(
                "its checksum is not that of its contents: it was damaged, or edited; after an edit take the checksum out",
            )),
            _ => Ok(dump),
        }
    }
}

/// Says where it is from and how much it is; [`Dump::iter`] gives the contents.
impl fmt::Debug for Dump {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dump")
            .field("namespace", &self.namespace)
            .field("seq", &self.seq)
            .field("time", &self.time())
            .field("len", &self.len())
            .finish_non_exhaustive()
    }
}

impl Snapshot<'_> {
    /// A copy that can be written to a file, or in any other way, and that [`State::restore`] takes back.
    ///
    /// # Errors
    /// [`Error::WrongType`] if a value in the state is damaged. Values of kinds that this version does not know are copied
    /// as they are.
    ///
    /// ```
    /// use zproc::State;
    ///
    /// let state = State::anonymous()?;
    /// state.insert("cookies", 5)?;
    /// let dump = state.snapshot()?.dump()?;
    /// state.clear()?;
    /// state.restore(&dump)?;
    /// assert_eq!(state.get::<i64>("cookies")?, Some(5));
    /// # Ok::<(), zproc::Error>(())
    /// ```
    pub fn dump(&self) -> Result<Dump> {
        Dump::of(self)
    }
}

impl State {
    /// Takes out all keys and puts those of the dump there, in their order, in one update.
    ///
    /// # Errors
    /// As for [`State::insert`], for example [`Error::Full`]; and [`Error::Dump`] if the dump, written by hand, has a key
    /// twice; over a socket [`Error::Disconnected`] if the dump is larger than a request may be (64 MiB, fewer than 2²⁰
    /// keys). The state is then as before.
    ///
    /// ```
    /// use zproc::{Map, State};
    ///
    /// let state = State::anonymous()?;
    /// state.insert("cookies", 5)?;
    /// let dump = state.snapshot()?.dump()?;
    /// let other = State::anonymous()?;
    /// other.insert("flour", 3)?;
    /// other.restore(&dump)?;
    /// assert_eq!(other.snapshot()?, Map::from([("cookies", 5)]));
    /// # Ok::<(), zproc::Error>(())
    /// ```
    pub fn restore(&self, dump: &Dump) -> Result<()> {
        self.write(|transaction| {
            transaction.clear()?;
            for entry in &dump.entries {
                let key = entry.key_ref();
                if transaction.put_stored(&key, entry.tag, &entry.value)? {
                    let reason = format!("it has the key {} twice", name(&key));
                    return Err(Error::Dump { reason });
                }
            }
            Ok(())
        })
    }
}
