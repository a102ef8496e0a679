//! The layout of an arena, written down a second time: from `docs/design.md` and not from the engine.
//!
//! [`Image::parse`] walks a healthy image and names every word that means something: `a.entry.3.newest` is a word of the
//! fourth entry of namespace "a", `#a.entry.3` the granule where that entry is. Mutations speak in these names, so they
//! hit structures, and mean the same in every run. The walk follows what it finds without a bound: it is for images
//! before they are damaged.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

pub const GRANULE: usize = 64;
pub const CHUNK: usize = 64 * 1024;
const PARTICIPANTS: usize = 4096;
const DIRECTORY: usize = PARTICIPANTS + 4096 * 64;
const CHUNK_MAP: usize = DIRECTORY + 4096 * 8;
const CONTROL: usize = 24_192;
const CLASSES: usize = 120;
const RECORD_INLINE: usize = 120;
const SEATS: usize = 64;

/// What a word, or half of one, says. It decides which mutations are likely to hurt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A granule, 0 for none.
    Granule,
    /// Granules of a block, or bytes, slots, items: how much there is of something.
    Count,
    /// The number of a commit.
    Commit,
    /// A log2, perhaps with a granule above it.
    Bits,
    /// A byte offset.
    Offset,
    /// A lock word.
    Lock,
    /// Contents: hashes, keys, payloads, times.
    Data,
}

/// A word that means something.
#[derive(Clone, Debug)]
pub struct Field {
    /// What all words of this meaning share: the path without namespace and numbers.
    pub group: String,
    pub path: String,
    /// Offset in bytes.
    pub at: usize,
    pub low: Kind,
    /// `None`: one number of 64 bits.
    pub high: Option<Kind>,
}

/// The bytes of an arena, and what they mean.
#[derive(Clone)]
pub struct Image {
    pub bytes: Vec<u8>,
    pub capacity: u64,
    names: Arc<Names>,
}

/// What the words of an image mean.
#[derive(Default)]
pub struct Names {
    pub fields: Vec<Field>,
    /// The fields by what they mean.
    pub groups: Vec<Vec<usize>>,
    /// Granules of structures, by name.
    pub places: BTreeMap<String, u32>,
    by_path: BTreeMap<String, usize>,
}

impl std::ops::Deref for Image {
    type Target = Names;

    fn deref(&self) -> &Names {
        &self.names
    }
}

/// Walks an image and gives names.
struct Walk {
    bytes: Vec<u8>,
    capacity: u64,
    names: Names,
}

const fn low(word: u64) -> u32 {
    word as u32
}

const fn high(word: u64) -> u32 {
    (word >> 32) as u32
}

impl Image {
    /// Names the words of a healthy image.
    pub fn parse(bytes: Vec<u8>) -> Self {
        let mut walk = Walk {
            bytes,
            capacity: 0,
            names: Names::default(),
        };
        walk.arena();
        let Walk {
            bytes,
            capacity,
            mut names,
        } = walk;
        names.by_path = (0..).zip(&names.fields).map(|(i, f)| (f.path.clone(), i)).collect();
        assert_eq!(names.by_path.len(), names.fields.len(), "two fields have one name");
        let mut groups: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for (i, field) in names.fields.iter().enumerate() {
            groups.entry(&field.group).or_default().push(i);
        }
        names.groups = groups.into_values().collect();
        let names = Arc::new(names);
        Self { bytes, capacity, names }
    }

    /// The word at a byte offset.
    pub fn word(&self, at: usize) -> u64 {
        word(&self.bytes, at)
    }

    /// Sets the word at a byte offset.
    pub fn set(&mut self, at: usize, value: u64) {
        self.bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
    }

    /// The field of a name.
    pub fn find(&self, path: &str) -> Option<&Field> {
        self.by_path.get(path).map(|at| &self.fields[*at])
    }
}

fn word(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

impl Walk {
    fn arena(&mut self) {
        self.capacity = self.word(24);
        self.superblock();
        let count = self.word(144) as usize;
        for index in 0..count {
            let at = DIRECTORY + index * 8;
            self.field(&format!("directory.{index}"), at, Kind::Granule, None);
            self.namespace(self.word(at) as u32);
        }
        for chunk in 0..self.capacity as usize / CHUNK {
            let at = CHUNK_MAP + chunk * 8;
            if self.word(at) != 0 {
                self.field(&format!("chunk.{chunk}"), at, Kind::Count, Some(Kind::Count));
            }
        }
    }

    fn word(&self, at: usize) -> u64 {
        word(&self.bytes, at)
    }

    fn half(&self, granule: u32, at: usize) -> u64 {
        self.word(granule as usize * GRANULE + at)
    }

    fn field(&mut self, path: &str, at: usize, low: Kind, high: Option<Kind>) {
        let words = path.split('.').filter(|part| part.parse::<u64>().is_err());
        let group: Vec<&str> = words.filter(|part| part.len() > 1).collect();
        self.names.fields.push(Field {
            group: group.join("."),
            path: path.into(),
            at,
            low,
            high,
        });
    }

    fn numbers(&mut self, prefix: &str, base: usize, words: &[(usize, &str, Kind)]) {
        for (at, name, kind) in words {
            self.field(&format!("{prefix}.{name}"), base + at, *kind, None);
        }
    }

    fn superblock(&mut self) {
        let names = [
            "magic", "version", "layout", "capacity", "pidns", "boot0", "boot1", "count", "bytes", "values", "sum",
        ];
        for (i, name) in names.iter().enumerate() {
            self.field(&format!("head.{name}"), i * 8, Kind::Data, None);
        }
        let words = [
            (128, "committed", Kind::Count),
            (136, "identity", Kind::Data),
            (144, "namespaces", Kind::Count),
            (152, "turn", Kind::Count),
        ];
        self.numbers("arena", 0, &words);
        self.lock("arena", 192);
        for slot in 0..2 {
            let words = [
                (0, "pid", Kind::Data),
                (8, "identity", Kind::Data),
                (16, "nonce", Kind::Data),
                (24, "generation", Kind::Data),
                (32, "since", Kind::Data),
                (40, "name0", Kind::Data),
                (48, "name1", Kind::Data),
                (56, "named", Kind::Data),
            ];
            self.numbers(&format!("participant.{slot}"), PARTICIPANTS + slot * 64, &words);
        }
    }

    fn lock(&mut self, prefix: &str, base: usize) {
        self.field(&format!("{prefix}.lock.word"), base, Kind::Lock, None);
        self.field(&format!("{prefix}.lock.starving"), base + 8, Kind::Lock, None);
        self.field(&format!("{prefix}.lock.takeovers"), base + 16, Kind::Data, None);
    }

    fn namespace(&mut self, granule: u32) {
        let base = granule as usize * GRANULE;
        let len = self.word(base + 16) as usize;
        let name = String::from_utf8(self.bytes[base + 128..base + 128 + len].to_vec()).unwrap();
        self.names.places.insert(name.clone(), granule);
        let control = [
            (0, "magic", Kind::Data),
            (8, "index", Kind::Count),
            (16, "namelen", Kind::Count),
            (24, "logbits", Kind::Bits),
            (128, "name", Kind::Data),
            (384, "seq", Kind::Commit),
            (392, "floor", Kind::Commit),
            (400, "generation", Kind::Data),
            (408, "root", Kind::Bits),
            (416, "dense", Kind::Granule),
            (640, "marker", Kind::Commit),
            (648, "recyclable", Kind::Commit),
            (664, "run", Kind::Count),
            (688, "rebuilding", Kind::Count),
            (696, "recoveries", Kind::Data),
            (704, "wakes", Kind::Data),
            (712, "wakeups", Kind::Data),
            (720, "seatsnext", Kind::Granule),
        ];
        self.numbers(&format!("{name}.control"), base, &control);
        self.field(
            &format!("{name}.control.hint"),
            base + 424,
            Kind::Granule,
            Some(Kind::Granule),
        );
        self.field(
            &format!("{name}.control.bump"),
            base + 656,
            Kind::Granule,
            Some(Kind::Granule),
        );
        self.field(
            &format!("{name}.control.record"),
            base + 672,
            Kind::Count,
            Some(Kind::Granule),
        );
        self.field(
            &format!("{name}.control.reserve"),
            base + 680,
            Kind::Granule,
            Some(Kind::Count),
        );
        self.lock(&name, base + 512);
        for event in [0, 255, 256] {
            self.field(
                &format!("{name}.event.{event}"),
                base + 3648 + event * 64,
                Kind::Data,
                Some(Kind::Data),
            );
        }
        for seat in 0..SEATS {
            self.seat(&format!("{name}.seat.{seat}"), base + 20_096 + seat * GRANULE, seat < 2);
        }
        self.record(&name, base);
        self.log(&name, base);
        self.index(&name, base);
        self.lists(&name, base);
        let mut next = self.word(base + 720) as u32;
        for number in 0.. {
            if next == 0 {
                break;
            }
            let path = format!("{name}.seats.{number}");
            self.head(&path, next);
            self.field(
                &format!("{path}.next"),
                next as usize * GRANULE + 24,
                Kind::Granule,
                None,
            );
            for seat in 0..SEATS {
                self.seat(
                    &format!("{path}.{seat}"),
                    (next as usize + 1 + seat) * GRANULE,
                    seat < 2,
                );
            }
            next = self.half(next, 24) as u32;
        }
    }

    fn seat(&mut self, path: &str, at: usize, always: bool) {
        if !always && self.word(at) == 0 {
            return;
        }
        self.field(&format!("{path}.owner"), at, Kind::Count, Some(Kind::Data));
        self.field(&format!("{path}.pin"), at + 8, Kind::Commit, None);
        self.field(&format!("{path}.cursor"), at + 16, Kind::Commit, None);
    }

    fn head(&mut self, path: &str, granule: u32) {
        let at = granule as usize * GRANULE;
        self.names.places.insert(path.into(), granule);
        self.field(&format!("{path}.link"), at, Kind::Granule, Some(Kind::Count));
        self.field(&format!("{path}.birth"), at + 8, Kind::Commit, None);
        self.field(&format!("{path}.retired"), at + 16, Kind::Commit, None);
    }

    fn record(&mut self, name: &str, base: usize) {
        let (count, block) = (low(self.word(base + 672)) as usize, high(self.word(base + 672)));
        let (at, room) = match block {
            0 => (base + 1728, RECORD_INLINE),
            block => (block as usize * GRANULE + 64, usize::MAX),
        };
        for pair in 0..count.min(room) {
            self.field(
                &format!("{name}.record.{pair}.offset"),
                at + pair * 16,
                Kind::Offset,
                None,
            );
            self.field(
                &format!("{name}.record.{pair}.value"),
                at + pair * 16 + 8,
                Kind::Data,
                None,
            );
        }
    }

    fn log(&mut self, name: &str, base: usize) {
        self.names
            .places
            .insert(format!("{name}.log"), ((base + CONTROL) / GRANULE) as u32);
        for slot in 0..1usize << self.word(base + 24) {
            let at = base + CONTROL + slot * GRANULE;
            if self.word(at) == 0 {
                continue;
            }
            let path = format!("{name}.log.{slot}");
            let words = [
                (0, "seq", Kind::Commit),
                (24, "time", Kind::Data),
                (32, "retired", Kind::Count),
            ];
            self.numbers(&path, at, &words);
            self.field(&format!("{path}.writer"), at + 8, Kind::Data, Some(Kind::Data));
            self.field(&format!("{path}.counts"), at + 16, Kind::Count, Some(Kind::Count));
            for inline in 0..3 {
                let path = format!("{path}.change.{inline}");
                self.field(&path, at + 40 + inline * 8, Kind::Granule, Some(Kind::Granule));
            }
            let count = (low(self.word(at + 16)) & !(1 << 31)) as usize;
            if count > 2 {
                let block = self.word(at + 40) as u32;
                self.head(&format!("{path}.list"), block);
                for word in (0..2 * count).step_by(7) {
                    let path = format!("{path}.list.{word}");
                    self.field(
                        &path,
                        (block as usize + 1) * GRANULE + word * 8,
                        Kind::Granule,
                        Some(Kind::Granule),
                    );
                }
            }
        }
    }

    fn index(&mut self, name: &str, base: usize) {
        let root = self.word(base + 408);
        let (table, slots) = ((root >> 8) as u32, 1usize << (root & 255));
        if root == 0 {
            return;
        }
        self.head(&format!("{name}.table"), table);
        self.field(
            &format!("{name}.table.used"),
            table as usize * GRANULE + 24,
            Kind::Count,
            None,
        );
        let mut entries = Vec::new();
        for slot in 0..slots {
            let at = (table as usize + 1) * GRANULE + slot * 8;
            if self.word(at) != 0 {
                self.field(&format!("{name}.slot.{slot}"), at, Kind::Granule, Some(Kind::Data));
                entries.push(low(self.word(at)));
            }
        }
        let dense = self.word(base + 416) as u32;
        let at = dense as usize * GRANULE;
        self.head(&format!("{name}.dense"), dense);
        let words = [
            (24, "capacity", Kind::Count),
            (32, "len", Kind::Count),
            (40, "liveend", Kind::Count),
        ];
        self.numbers(&format!("{name}.dense"), at, &words);
        let mut ordered: Vec<u32> = Vec::new();
        for slot in 0..self.word(at + 32) as usize {
            let path = format!("{name}.dense.{slot}");
            self.field(&format!("{path}.entry"), at + 64 + slot * 16, Kind::Granule, None);
            self.field(&format!("{path}.inserted"), at + 72 + slot * 16, Kind::Commit, None);
            ordered.push(self.word(at + 64 + slot * 16) as u32);
        }
        // Numbered in the order of insertion, which does not depend on hashes.
        let mut seen = HashSet::new();
        ordered.extend(entries);
        ordered.retain(|entry| seen.insert(*entry));
        for (number, entry) in ordered.into_iter().enumerate() {
            self.entry(&format!("{name}.entry.{number}"), entry, self.word(base + 648));
        }
    }

    fn entry(&mut self, path: &str, granule: u32, recyclable: u64) {
        let at = granule as usize * GRANULE;
        self.head(path, granule);
        self.field(&format!("{path}.newest"), at + 24, Kind::Granule, Some(Kind::Count));
        self.field(&format!("{path}.hash"), at + 32, Kind::Data, None);
        self.field(&format!("{path}.key"), at + 40, Kind::Data, None);
        let mut version = low(self.word(at + 24));
        for age in 0.. {
            // What is below `recyclable` may be another block by now.
            let birth = self.half(version, 8);
            let path = format!("{path}.v{age}");
            self.head(&path, version);
            let at = version as usize * GRANULE;
            self.field(&format!("{path}.older"), at + 24, Kind::Granule, Some(Kind::Count));
            self.field(&format!("{path}.inserted"), at + 32, Kind::Commit, None);
            self.field(&format!("{path}.len"), at + 40, Kind::Count, None);
            self.field(&format!("{path}.payload"), at + 48, Kind::Data, None);
            version = low(self.word(at + 24));
            if birth <= recyclable || version == 0 {
                break;
            }
        }
    }

    fn lists(&mut self, name: &str, base: usize) {
        for class in 0..CLASSES {
            let at = base + 768 + class * 8;
            let (mut block, tail) = (low(self.word(at)), high(self.word(at)));
            if block == 0 {
                continue;
            }
            self.field(&format!("{name}.class.{class}"), at, Kind::Granule, Some(Kind::Granule));
            for number in 0.. {
                let path = format!("{name}.free.{class}.{number}");
                // Superseded versions and list blocks have a name already, as what they were.
                if !self.names.places.values().any(|known| *known == block) {
                    self.head(&path, block);
                }
                if block == tail {
                    break;
                }
                block = low(self.half(block, 0));
            }
        }
        let reserve = self.word(base + 680);
        let mut block = low(reserve);
        for number in 0..high(reserve) {
            if number < 4 {
                self.head(&format!("{name}.reserve.{number}"), block);
            }
            block = low(self.half(block, 0));
        }
    }
}
