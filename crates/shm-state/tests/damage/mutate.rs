//! Damage as text: a case is a list of lines, each of which damages an image in one way. Cases are what the fuzzer draws,
//! what it minimises, and what the corpus keeps.
//!
//! ```text
//! # a comment: the story
//! image roomy                    which healthy image
//! use after writers              when the damage is done, and who meets it first, see `exercise`
//! set PLACE VALUE
//! add PLACE NUMBER               a negative one too
//! xor PLACE NUMBER
//! bits PLACE NUMBER              sets the lowest byte
//! swap PLACE PLACE
//! fill OFFSET LENGTH WITH        zero, ones, random:SEED, or an offset to copy from
//! ```
//!
//! A place is a name of `layout`, or byte:OFFSET; with :lo or :hi behind it, half of that word. A value is a number, max,
//! #name (the granule of a structure), @place (what stands there), offset:place, end or cap (the granules that are
//! backed, and that there may be), pid or tid (of the process that meets the damage); each with +N or -N behind it.

use super::layout::{Field, GRANULE, Image, Kind};
use crate::common::Random;

/// A damaged image and how it is used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Case {
    pub lines: Vec<String>,
}

impl Case {
    /// Reads a case; comments and empty lines are left out.
    pub fn parse(text: &str) -> Self {
        let lines = text.lines().map(str::trim);
        let lines = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
        Self {
            lines: lines.map(String::from).collect(),
        }
    }

    /// The words behind `name` of the line that starts with it.
    pub fn setting(&self, name: &str) -> Vec<&str> {
        let found = self.lines.iter().find_map(|line| line.strip_prefix(name));
        found.unwrap_or("").split_whitespace().collect()
    }

    /// Damages the image. Panics at a line that means nothing.
    pub fn apply(&self, image: &mut Image) {
        for line in &self.lines {
            apply(image, line).unwrap_or_else(|| panic!("what does this line mean? {line}"));
        }
    }
}

/// The words in which two images of one size differ.
pub fn differences(clean: &Image, damaged: &Image) -> Vec<(usize, u64)> {
    let words = clean
        .bytes
        .as_chunks::<8>()
        .0
        .iter()
        .zip(damaged.bytes.as_chunks::<8>().0);
    let differ = words.enumerate().filter(|(_, (old, new))| old != new);
    differ.map(|(i, (_, new))| (i * 8, u64::from_le_bytes(*new))).collect()
}

/// A part of a word: its offset, its lowest bit, its mask.
fn place(image: &Image, text: &str) -> Option<(usize, u32, u64)> {
    let half = u64::from(u32::MAX);
    let (path, shift, mask) = match (text.strip_suffix(":lo"), text.strip_suffix(":hi")) {
        (Some(path), _) => (path, 0, half),
        (_, Some(path)) => (path, 32, half << 32),
        _ => (text, 0, u64::MAX),
    };
    let at = match path.strip_prefix("byte:") {
        Some(at) => number(at)? as usize / 8 * 8,
        None => image.find(path)?.at,
    };
    (at + 8 <= image.bytes.len()).then_some((at, shift, mask))
}

fn number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    }
}

fn load(image: &Image, (at, shift, mask): (usize, u32, u64)) -> u64 {
    (image.word(at) & mask) >> shift
}

fn store(image: &mut Image, (at, shift, mask): (usize, u32, u64), value: u64) {
    let kept = image.word(at) & !mask;
    image.set(at, kept | value << shift & mask);
}

fn value(image: &Image, text: &str) -> Option<u64> {
    let split = text[1..].find(['+', '-']).map_or(text.len(), |at| at + 1);
    let (atom, change) = text.split_at(split);
    let base = match atom {
        "max" => u64::MAX,
        "end" => (image.bytes.len() / GRANULE) as u64,
        "cap" => image.capacity / GRANULE as u64,
        "pid" => u64::from(std::process::id()),
        // SAFETY: takes nothing and only returns a number.
        "tid" => u64::from(unsafe { libc::gettid() }.cast_unsigned()),
        _ => match (
            atom.strip_prefix('#'),
            atom.strip_prefix('@'),
            atom.strip_prefix("offset:"),
        ) {
            (Some(name), ..) => u64::from(*image.places.get(name)?),
            (_, Some(path), _) => load(image, place(image, path)?),
            (_, _, Some(path)) => place(image, path)?.0 as u64,
            _ => number(atom)?,
        },
    };
    match change.split_at_checked(1) {
        Some(("+", by)) => Some(base.wrapping_add(number(by)?)),
        Some(("-", by)) => Some(base.wrapping_sub(number(by)?)),
        _ => Some(base),
    }
}

fn apply(image: &mut Image, line: &str) -> Option<()> {
    let words: Vec<&str> = line.split_whitespace().collect();
    match words[..] {
        ["image" | "use", ..] => {}
        ["set", target, new] => {
            let new = value(image, new)?;
            store(image, place(image, target)?, new);
        }
        ["add", target, by] => {
            let by = by
                .strip_prefix('-')
                .map_or_else(|| number(by), |by| Some(number(by)?.wrapping_neg()))?;
            let target = place(image, target)?;
            let sum = load(image, target).wrapping_add(by);
            store(image, target, sum);
        }
        ["xor", target, bits] => {
            let target = place(image, target)?;
            let new = load(image, target) ^ number(bits)?;
            store(image, target, new);
        }
        ["bits", target, bits] => {
            let target = place(image, target)?;
            let new = load(image, target) & !255 | number(bits)? & 255;
            store(image, target, new);
        }
        ["swap", one, two] => {
            let (one, two) = (place(image, one)?, place(image, two)?);
            let (a, b) = (load(image, one), load(image, two));
            store(image, one, b);
            store(image, two, a);
        }
        ["fill", at, len, with] => {
            let (at, len) = (number(at)? as usize, number(len)? as usize);
            let range = at..(at + len).min(image.bytes.len());
            match (with, with.strip_prefix("random:")) {
                ("zero", _) => image.bytes[range].fill(0),
                ("ones", _) => image.bytes[range].fill(255),
                (_, Some(seed)) => {
                    let mut random = Random::new(number(seed)?);
                    image.bytes[range].fill_with(|| random.next() as u8);
                }
                (from, _) => {
                    let from = (number(from)? as usize).min(image.bytes.len() - range.len());
                    image.bytes.copy_within(from..from + range.len(), range.start);
                }
            }
        }
        _ => return None,
    }
    Some(())
}

/// Draws a case for this image.
pub fn draw(image: &Image, name: &str, random: &mut Random) -> Case {
    let mut draw = Draw { image, random };
    let when = draw.one_of(&["before", "before", "after", "inside"]);
    let order = draw.one_of(&["readers", "writers"]);
    let mut lines = vec![format!("image {name}"), format!("use {when} {order}")];
    if draw.random.below(5) == 0 {
        lines.push(draw.state_of_affairs());
    }
    for _ in 0..[1, 1, 1, 2, 2, 3, 4, 6][draw.random.below(8) as usize] {
        draw.damage(&mut lines);
    }
    Case { lines }
}

struct Draw<'a> {
    image: &'a Image,
    random: &'a mut Random,
}

impl Draw<'_> {
    fn one_of<T: Copy>(&mut self, list: &[T]) -> T {
        list[self.random.below(list.len() as u64) as usize]
    }

    /// What a dead process may have left, in which damage is met on other paths.
    fn state_of_affairs(&mut self) -> String {
        let maintenance = format!("set a.control.marker @a.control.seq+{}", 1u64 << 63);
        let list = [
            "set a.control.marker @a.control.seq+1",
            &maintenance,
            "set a.control.rebuilding 1",
            "set a.lock.word 0x40000000",
            "set participant.0.pid 0",
            "set a.control.reserve 0",
            "set a.lock.word pid",
        ];
        // The last keeps every writer out until its deadline, which takes time.
        let last = list.len() - usize::from(self.random.below(20) > 0);
        self.one_of(&list[..last]).into()
    }

    /// Any meaning as likely as any other, however many words have it.
    fn field(&mut self) -> Field {
        loop {
            let group = self.random.below(self.image.groups.len() as u64) as usize;
            let any = self.one_of(&self.image.groups[group]);
            let field = &self.image.fields[any];
            // The head has a checksum: there is little to see behind it.
            if field.group.starts_with("head") && self.random.below(10) != 0 {
                continue;
            }
            return field.clone();
        }
    }

    fn damage(&mut self, lines: &mut Vec<String>) {
        match self.random.below(12) {
            0 => {
                let used = self.image.bytes.len() as u64 / 64;
                let len = self.one_of(&[64, 64, 256, 4096, 4096, 65536]);
                let at = (292 * 16 + self.random.below(used - 292 * 16)) * 64 / len * len;
                let with = match self.random.below(4) {
                    0 => "zero".into(),
                    1 => "ones".into(),
                    2 => format!("random:{}", self.random.below(1 << 32)),
                    _ => (self.random.below(used * 64 / len) * len).to_string(),
                };
                lines.push(format!("fill {at} {len} {with}"));
            }
            1 => {
                let at = 292 * 1024 + self.random.below(self.image.bytes.len() as u64 - 292 * 1024) / 8 * 8;
                let new = self.random.next();
                lines.push(format!("set byte:{at} {new:#x}"));
            }
            2 => {
                // Two structures of one kind change places, or lead to each other.
                let one = self.field();
                let same: Vec<&Field> = self.image.fields.iter().filter(|f| f.group == one.group).collect();
                let two = self.one_of(&same).path.clone();
                let (a, b) = (self.structure(&one.path), self.structure(&two));
                match (a, b, one.low) {
                    (Some(a), Some(b), Kind::Granule) if self.random.below(2) == 0 => {
                        lines.push(format!("set {}:lo #{b}", one.path));
                        lines.push(format!("set {two}:lo #{a}"));
                    }
                    _ => lines.push(format!("swap {} {two}", one.path)),
                }
            }
            _ => {
                let field = self.field();
                lines.push(self.change(&field));
            }
        }
    }

    /// The structure that a field is in.
    fn structure(&self, path: &str) -> Option<String> {
        let mut name = path;
        while let Some((front, _)) = name.rsplit_once('.') {
            if self.image.places.contains_key(front) {
                return Some(front.into());
            }
            name = front;
        }
        None
    }

    fn change(&mut self, field: &Field) -> String {
        let (suffix, kind, bits) = match field.high {
            Some(high) if self.random.below(2) == 0 => (":hi", high, 32),
            Some(_) => (":lo", field.low, 32),
            None => ("", field.low, 64),
        };
        let target = format!("{}{suffix}", field.path);
        match self.random.below(6) {
            0 => return format!("xor {target} {:#x}", 1u64 << self.random.below(bits)),
            1 => return format!("add {target} {}", self.one_of(&["1", "-1", "2", "64", "-64", "1024"])),
            _ => {}
        }
        let new = match kind {
            Kind::Granule => self.granule(&field.path),
            Kind::Count => {
                let list = [
                    "0",
                    "1",
                    "2",
                    "max",
                    "max-1",
                    "63",
                    "64",
                    "255",
                    "0x80000000",
                    "0x7fffffff",
                    "end",
                    "cap",
                ];
                match self.random.below(3) {
                    0 => format!("end-{}", self.random.below(2000)),
                    1 => self.random.below(1 << 20).to_string(),
                    _ => self.one_of(&list).into(),
                }
            }
            Kind::Commit => {
                let list = [
                    "@a.control.seq",
                    "@a.control.floor",
                    "@a.control.recyclable",
                    "max",
                    "0x8000000000000000",
                ];
                let base = self.one_of(&list);
                format!("{base}{}", self.one_of(&["", "", "+1", "-1", "+2", "+1000", "-5"]))
            }
            Kind::Bits => {
                let bits = [0, 1, 2, 3, 4, 8, 16, 24, 25, 31, 32, 56, 57, 58, 62, 63, 64, 127, 255];
                return format!("bits {target} {}", self.one_of(&bits));
            }
            Kind::Offset => {
                let any = self.random.below(self.image.fields.len() as u64) as usize;
                let list = [
                    "0",
                    "24",
                    "128",
                    "136",
                    "144",
                    "192",
                    "4096",
                    "4",
                    "max",
                    "max-7",
                    "0x8000000000000000",
                ];
                match self.random.below(3) {
                    0 => format!("offset:{}", self.image.fields[any].path),
                    1 => format!("offset:{}", field.path),
                    _ => self.one_of(&list).into(),
                }
            }
            Kind::Lock => {
                let list = [
                    "0x40000000",
                    "0x80000000",
                    "0xc0000000",
                    "tid",
                    "max",
                    "0xfff0000000000001",
                    "0x3fffffff",
                ];
                match self.random.below(2) {
                    0 => format!("{:#x}", self.random.next()),
                    _ => self.one_of(&list).into(),
                }
            }
            Kind::Data => match self.random.below(2) {
                0 => format!("{:#x}", self.random.next()),
                _ => self.one_of(&["0", "max", "1", "pid"]).into(),
            },
        };
        format!("set {target} {new}")
    }

    fn granule(&mut self, path: &str) -> String {
        let list = [
            "0",
            "1",
            "2",
            "3",
            "64",
            "2112",
            "end",
            "end-1",
            "end-2",
            "end+1",
            "cap",
            "cap-1",
            "max",
            "0x80000000",
        ];
        let at = self.random.below(self.image.places.len() as u64) as usize;
        let any = self.image.places.keys().nth(at).map_or("a", String::as_str).to_owned();
        match self.random.below(8) {
            0 => self.structure(path).map_or("0".into(), |own| format!("#{own}")),
            1 | 2 => format!("#{any}"),
            3 => format!("#{any}{}", self.one_of(&["+1", "-1", "+2", "+6", "+27", "+186"])),
            4 => "#a".to_owned() + self.one_of(&["", "+6", "+8", "+10", "+12", "+27", "+57", "+122", "+186"]),
            5 => self.random.below(self.image.bytes.len() as u64 / 64).to_string(),
            _ => self.one_of(&list).into(),
        }
    }
}
