//! Scalars, text and pointers as values.

use std::borrow::Cow;
use std::rc::Rc;
use std::sync::Arc;

use super::decode::{Encoded, FromValue};
use super::encode::{Encoder, ToValue};
use super::error::{DecodeError, EncodeError};
use super::{Int, tag};

impl ToValue for () {
    fn encode(&self, out: Encoder<'_>) -> Result<(), EncodeError> {
        out.none()
    }

    #[inline(always)]
    fn with_encoded<R>(&self, f: impl FnOnce(Encoded<'_>) -> R) -> Result<R, EncodeError> {
        Ok(f(Encoded::new(tag::NONE, &[])))
    }
}

impl FromValue for () {
    #[inline]
    fn from_encoded(encoded: Encoded<'_>) -> Result<Self, DecodeError> {
        match (encoded.tag(), encoded.bytes()) {
            (tag::NONE, []) => Ok(()),
            (tag::NONE, _) => Err(DecodeError::malformed(tag::NONE, "it has bytes")),
            _ => Err(encoded.wrong_type("none")),
        }
    }
}

impl<T: ToValue> ToValue for Option<T> {
    fn encode(&self, out: Encoder<'_>) -> Result<(), EncodeError> {
        match self {
            Some(value) => value.encode(out),
            None => out.none(),
        }
    }

    #[inline(always)]
    fn with_encoded<R>(&self, f: impl FnOnce(Encoded<'_>) -> R) -> Result<R, EncodeError> {
        match self {
            Some(value) => value.with_encoded(f),
            None => ().with_encoded(f),
        }
    }
}

impl<T: FromValue> FromValue for Option<T> {
    #[inline]
    fn from_encoded(encoded: Encoded<'_>) -> Result<Self, DecodeError> {
        match encoded.tag() {
            tag::NONE => encoded.get().map(|()| None),
            _ => encoded.get().map(Some),
        }
    }
}

impl ToValue for bool {
    #[inline]
    fn encode(&self, out: Encoder<'_>) -> Result<(), EncodeError> {
        out.bool(*self)
    }

    #[inline(always)]
    fn with_encoded<R>(&self, f: impl FnOnce(Encoded<'_>) -> R) -> Result<R, EncodeError> {
        Ok(f(Encoded::new(tag::BOOL, &[u8::from(*self)])))
    }
}

impl FromValue for bool {
    #[inline]
    fn from_encoded(encoded: Encoded<'_>) -> Result<Self, DecodeError> {
        match (encoded.tag(), encoded.bytes()) {
            (tag::BOOL, [0]) => Ok(false),
            (tag::BOOL, [1]) => Ok(true),
            (tag::BOOL, _) => Err(DecodeError::malformed(tag::BOOL, "it is neither 0 nor 1")),
            _ => Err(encoded.wrong_type("bool")),
        }
    }
}

impl ToValue for f64 {
    #[inline]
    fn encode(&self, out: Encoder<'_>) -> Result<(), EncodeError> {
        out.float(*self)
    }

    #[inline(always)]
    fn with_encoded<R>(&self, f: impl FnOnce(Encoded<'_>) -> R) -> Result<R, EncodeError> {
        Ok(f(Encoded::new(tag::FLOAT, &self.to_le_bytes())))
    }
}

impl FromValue for f64 {
    #[inline]
    fn from_encoded(encoded: Encoded<'_>) -> Result<Self, DecodeError> {
        match (encoded.tag(), encoded.bytes().try_into()) {
            (tag::FLOAT, Ok(bytes)) => Ok(f64::from_le_bytes(bytes)),
            (tag::FLOAT, Err(_)) => Err(DecodeError::malformed(tag::FLOAT, "it is not 8 bytes long")),
            _ => Err(encoded.wrong_type("float")),
        }
    }
}

impl ToValue for f32 {
    #[inline]
    fn encode(&self, out: Encoder<'_>) -> Result<(), EncodeError> {
        out.float((*self).into())
    }

    #[inline(always)]
    fn with_encoded<R>(&self, f: impl FnOnce(Encoded<'_>) -> R) -> Result<R, EncodeError> {
        f64::from(*self).with_encoded(f)
    }
}

impl FromValue for f32 {
    #[inline]
    fn from_encoded(encoded: Encoded<'_>) -> Result<Self, DecodeError> {
        f64::from_encoded(encoded).map(|float| float as f32)
    }
}

impl ToValue for Int {
    #[inline]
    fn encode(&self, out: Encoder<'_>) -> Result<(), EncodeError> {
        out.int(*self)
    }

    #[inline(always)]
    fn with_encoded<R>(&self, f: impl FnOnce(Encoded<'_>) -> R) -> Result<R, EncodeError> {
        Ok(self.with_bytes(|tag, bytes| f(Encoded::new(tag, bytes))))
    }
}

impl FromValue for Int {
    #[inline]
    fn from_encoded(encoded: Encoded<'_>) -> Result<Self, DecodeError> {
        match (encoded.tag(), encoded.bytes().try_into()) {
            (tag::INT, Ok(bytes)) => Ok(i64::from_le_bytes(bytes).into()),
            (tag, _) => Int::decode_rare(tag, encoded.bytes(), "int"),
        }
    }
}

/// The two traits for an integer; the braces hold further methods of the one and of the other.
macro_rules! int_values {
    ($int:ident { $($to_hooks:item)* } { $($from_hooks:item)* }) => {
        impl ToValue for $int {
            #[inline]
            fn encode(&self, out: Encoder<'_>) -> Result<(), EncodeError> {
                out.int(*self)
            }

            #[inline(always)]
            fn with_encoded<R>(&self, f: impl FnOnce(Encoded<'_>) -> R) -> Result<R, EncodeError> {
                Int::from(*self).with_encoded(f)
            }

            $($to_hooks)*
        }

        impl FromValue for $int {
            #[inline]
            fn from_encoded(encoded: Encoded<'_>) -> Result<Self, DecodeError> {
                if encoded.tag() == tag::INT
                    && let Ok(bytes) = encoded.bytes().try_into()
                    && let Ok(int) = Self::try_from(i64::from_le_bytes(bytes))
                {
                    return Ok(int);
                }
                Int::decode_rare(encoded.tag(), encoded.bytes(), stringify!($int))?.try_into()
            }

            $($from_hooks)*
        }
    };
    ($($int:ident)*) => { $(int_values!($int {} {});)* };
}
int_values!(i8 i16 i32 i64 i128 isize u16 u32 u64 u128 usize);
int_values!(u8 {
    fn encode_slice(items: &[Self], out: Encoder<'_>) -> Result<(), EncodeError> {
        out.bytes(items)
    }

    #[inline]
    fn with_encoded_slice<R>(items: &[Self], f: impl FnOnce(Encoded<'_>) -> R) -> Result<R, EncodeError> {
        Ok(f(Encoded::new(tag::BYTES, items)))
    }
} {
    const IS_BYTE: bool = true;

    #[inline(always)]
    fn array_from_fixed<const N: usize>(encoded: Encoded<'_>) -> Option<[Self; N]> {
        match encoded.tag() {
            tag::BYTES => encoded.bytes().try_into().ok(),
            _ => None,
        }
    }

    fn vec_from_encoded(encoded: Encoded<'_>) -> Result<Vec<Self>, DecodeError> {
        match encoded.tag() {
            tag::BYTES => Ok(encoded.bytes().to_vec()),
            _ => Err(encoded.wrong_type("bytes")),
        }
    }

    fn array_from_encoded<const N: usize>(encoded: Encoded<'_>) -> Result<[Self; N], DecodeError> {
        let bytes = encoded.bytes();
        match encoded.tag() {
            tag::BYTES => bytes.try_into().map_err(|_| DecodeError::WrongLength {
                expected: N,
                found: bytes.len(),
                unit: "bytes",
            }),
            _ => Err(encoded.wrong_type("bytes")),
        }
    }
});

impl ToValue for str {
    #[inline]
    fn encode(&self, out: Encoder<'_>) -> Result<(), EncodeError> {
        out.str(self)
    }

    #[inline(always)]
    fn with_encoded<R>(&self, f: impl FnOnce(Encoded<'_>) -> R) -> Result<R, EncodeError> {
        Ok(f(Encoded::new(tag::STR, self.as_bytes())))
    }
}

impl ToValue for String {
    #[inline]
    fn encode(&self, out: Encoder<'_>) -> Result<(), EncodeError> {
        out.str(self)
    }

    #[inline(always)]
    fn with_encoded<R>(&self, f: impl FnOnce(Encoded<'_>) -> R) -> Result<R, EncodeError> {
        self.as_str().with_encoded(f)
    }
}

impl FromValue for String {
    fn from_encoded(encoded: Encoded<'_>) -> Result<Self, DecodeError> {
        if encoded.tag() != tag::STR {
            return Err(encoded.wrong_type("str"));
        }
        match str::from_utf8(encoded.bytes()) {
            Ok(text) => Ok(text.into()),
            Err(_) => Err(DecodeError::malformed(tag::STR, "it is not UTF-8")),
        }
    }
}

impl FromValue for Box<str> {
    fn from_encoded(encoded: Encoded<'_>) -> Result<Self, DecodeError> {
        String::from_encoded(encoded).map(Into::into)
    }
}

macro_rules! pointers_to_values {
    ($([$($generics:tt)*] $pointer:ty;)*) => {$(
        impl<$($generics)*> ToValue for $pointer {
            #[inline]
            fn encode(&self, out: Encoder<'_>) -> Result<(), EncodeError> {
                (**self).encode(out)
            }

            #[inline(always)]
            fn with_encoded<R>(&self, f: impl FnOnce(Encoded<'_>) -> R) -> Result<R, EncodeError> {
                (**self).with_encoded(f)
            }
        }
    )*};
}
pointers_to_values! {
    [T: ToValue + ?Sized] &T;
    [T: ToValue + ?Sized] &mut T;
    [T: ToValue + ?Sized] Box<T>;
    [T: ToValue + ?Sized] Rc<T>;
    [T: ToValue + ?Sized] Arc<T>;
    [T: ToValue + ToOwned + ?Sized] Cow<'_, T>;
}

impl<T: FromValue> FromValue for Box<T> {
    fn from_encoded(encoded: Encoded<'_>) -> Result<Self, DecodeError> {
        encoded.get().map(Box::new)
    }
}

impl<T> FromValue for Cow<'_, T>
where
    T: ToOwned<Owned: FromValue> + ?Sized,
{
    fn from_encoded(encoded: Encoded<'_>) -> Result<Self, DecodeError> {
        encoded.get().map(Cow::Owned)
    }
}
