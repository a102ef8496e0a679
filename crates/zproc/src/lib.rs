//! State that the processes of one machine share.

pub mod key;
pub mod value;

pub use key::{FromKey, Key, ToKey};
pub use value::{
    DecodeError, EncodeError, Encoded, Encoder, Entries, FromValue, Int, Items, ListEncoder, MAX_NESTING, Map, MapEncoder,
    ToValue, Value, kind_name, tag,
};
