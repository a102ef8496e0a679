//! Values for people: roughly as Python writes them.

use std::fmt::{self, Display, Write};

use super::archive::Parts;
use super::decode::Encoded;
use super::{Map, Value, tag};

/// How many characters of a value a message gives.
const PREVIEW_CHARS: usize = 40;

/// Up to how many bytes of a value are read to write that.
const PREVIEW_BYTES: usize = 256;

/// A byte string, as `b"..."`.
pub(crate) struct Bytes<'a>(pub(crate) &'a [u8]);

impl Display for Bytes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "b\"{}\"", self.0.escape_ascii())
    }
}

/// As Python writes it, but for the quotes, which are double: `{"eaten": 4, "open": True, "last": None}`.
impl Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::None => f.write_str("None"),
            Value::Bool(true) => f.write_str("True"),
            Value::Bool(false) => f.write_str("False"),
            Value::Int(int) => write!(f, "{int}"),
            Value::Float(float) => write!(f, "{float:?}"),
            Value::Str(text) => write!(f, "{text:?}"),
            Value::Bytes(bytes) => write!(f, "{}", Bytes(bytes)),
            Value::List(items) => {
                f.write_str("[")?;
                for (i, item) in items.iter().enumerate() {
                    write!(f, "{}{item}", if i > 0 { ", " } else { "" })?;
                }
                f.write_str("]")
            }
            Value::Map(map) => write!(f, "{map}"),
            Value::Archived(archive) => write!(f, "{archive}"),
        }
    }
}

/// As Python writes a dict.
impl Display for Map {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("{")?;
        for (i, (key, value)) in self.iter().enumerate() {
            write!(f, "{}{key}: {value}", if i > 0 { ", " } else { "" })?;
        }
        f.write_str("}")
    }
}

/// The kind of a value and its beginning, in a few words: `str "open"`.
pub(crate) fn preview(encoded: Encoded<'_>) -> String {
    let kind = encoded.kind();
    let bytes = encoded.bytes();
    let head = &bytes[..bytes.len().min(PREVIEW_BYTES)];
    let mut out = Shortened {
        text: String::new(),
        room: PREVIEW_CHARS,
    };
    // An error of `write!` says that the room is used up, which is as good an end as any.
    let _ = match encoded.tag() {
        tag::NONE => return kind.into(),
        tag::STR => write!(out, "{:?}", String::from_utf8_lossy(head)),
        tag::BYTES => write!(out, "{}", Bytes(head)),
        tag::ARCHIVED => match Parts::of(encoded, kind) {
            // The type says more than what one could show of the value.
            Ok(parts) => return format!("{} (rkyv)", parts.name),
            Err(_) => write!(out, "of {} damaged bytes", bytes.len()),
        },
        _ if bytes.len() > PREVIEW_BYTES => write!(out, "of {} bytes", bytes.len()),
        _ => match encoded.get::<Value>() {
            Ok(value) => write!(out, "{value}"),
            Err(_) => write!(out, "of {} damaged bytes", bytes.len()),
        },
    };
    format!("{kind} {}", out.text)
}

/// Takes so many characters, and then an ellipsis.
struct Shortened {
    text: String,
    room: usize,
}

impl Write for Shortened {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        for c in s.chars() {
            if self.room == 0 {
                self.text.push('…');
                return Err(fmt::Error);
            }
            self.room -= 1;
            self.text.push(c);
        }
        Ok(())
    }
}
