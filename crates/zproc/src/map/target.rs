//! What workers run: a function of an item.

use std::marker::PhantomData;

use serde::Serialize;
use serde::de::DeserializeOwned;
use zproc_spawn::entry::{Kind, Run};

use super::ring::{FAILED, MOST_RESULT, VALUE};
use super::worker::Chunk;
use crate::error::{Error, Result};
use crate::process::{Attempt, Fallible, Plain, WithNothing, WithState, attempt, carry, from_bytes, to_bytes};
use crate::remote::RemoteError;
use crate::state::State;

#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be run by workers on items of type `{T}`",
    note = "it is a function, or a closure that captures nothing, of (&State or nothing, then the item, then up to three \
            arguments), whose types implement Serialize and DeserializeOwned (String, not &str)"
)]
/// A function that workers can run on items of type `T`: of a `&State` or of nothing, then of the item, then of up to three
/// arguments that are the same for all items. It captures nothing, and returns a value or a [`Result`](crate::Result).
///
/// ```
/// use zproc::{MapTarget, Result, State};
///
/// fn is_target<M, T, F: MapTarget<M, T>>(_: F) {}
/// is_target(|n: u64| n * n);
/// is_target(|text: String, limit: usize| -> Result<bool> { Ok(text.len() < limit) });
/// is_target(|state: &State, n: u64| state.insert("last", n));
/// ```
pub trait MapTarget<M, T>: Copy + Send + 'static {
    /// The arguments that are the same for all items.
    type Args: Serialize + DeserializeOwned + Clone;
    /// What it returns.
    type Output: Serialize + DeserializeOwned + 'static;
    #[doc(hidden)]
    const STATEFUL: bool;
    #[doc(hidden)]
    fn call(self, state: Option<&State>, item: T, args: Self::Args) -> Result<Self::Output>;
}

macro_rules! target {
    (($args:ty), ($($argument:ident)*)) => {
        target!(WithNothing, false, (), |state| (), ($args), ($($argument)*));
        target!(WithState, true, (&State), |state| (state.ok_or_else(no_state)?), ($args), ($($argument)*));
    };
    (
        $marker:ty, $stateful:literal, ($($first:ty)?), |$state:ident| ($($made:expr)?), ($args:ty), ($($argument:ident)*)
    ) => {
        target!(
            $marker, Plain, R, R, |result| Ok(result),
            $stateful, ($($first)?), |$state| ($($made)?), ($args), ($($argument)*)
        );
        target!(
            $marker, Fallible, R, Result<R>, |result| result,
            $stateful, ($($first)?), |$state| ($($made)?), ($args), ($($argument)*)
        );
    };
    (
        $marker:ty, $kind:ty, $value:ident, $returned:ty, |$result:ident| $as_result:expr, $stateful:literal,
        ($($first:ty)?), |$state:ident| ($($made:expr)?), ($args:ty), ($($argument:ident)*)
    ) => {
        impl<F, T, $value, $($argument,)*> MapTarget<($marker, $kind, fn($($argument),*) -> $value), T> for F
        where
            F: Fn($($first,)? T $(, $argument)*) -> $returned + Copy + Send + 'static,
            T: DeserializeOwned + 'static,
            $value: Serialize + DeserializeOwned + 'static,
            $($argument: Serialize + DeserializeOwned + Clone + 'static,)*
        {
            type Args = $args;
            type Output = $value;
            const STATEFUL: bool = $stateful;
            #[inline]
            #[allow(non_snake_case, unused_parens, unused_variables, reason = "names and places of generated arguments")]
            fn call(self, $state: Option<&State>, item: T, args: Self::Args) -> Result<$value> {
                let ($($argument),*) = args;
                let $result = self($($made,)? item $(, $argument)*);
                $as_result
            }
        }
    };
}
target!((()), ());
target!((A), (A));
target!(((A, B)), (A B));
target!(((A, B, C)), (A B C));

#[cold]
fn no_state() -> Error {
    Error::Process {
        reason: "the worker has no state".into(),
    }
}

/// The entries of functions of items.
pub(crate) struct Chunks;

impl Kind for Chunks {
    type Call<'a> = Chunk<'a>;
}

/// How functions of items with this marker are run.
pub(crate) struct RunItems<M, T>(PhantomData<(M, T)>);

impl<M: 'static, T: DeserializeOwned + 'static, F: MapTarget<M, T>> Run<Chunks, F> for RunItems<M, T> {
    type Pointer = fn();

    fn run(target: F, chunk: &mut Chunk<'_>) {
        // To read is code of the user's, which may panic.
        let args = match attempt(|| from_bytes::<F::Args>("the arguments", chunk.args)) {
            Attempt::Returned(Ok(args)) => args,
            Attempt::Returned(Err(error)) => return chunk.fail_rest(0, &error),
            Attempt::Panicked(failure) => return chunk.fail_rest_by(0, &failure),
            Attempt::Exited(code) => std::process::exit(code),
        };
        let state = match F::STATEFUL.then(|| chunk.state()).transpose() {
            Ok(state) => state,
            Err(error) => return chunk.fail_rest(0, &error),
        };
        let mut input = chunk.input;
        if chunk.first > 0 {
            // To get behind what was run already it has to be read. Should that kill this worker, too, the next item is lost
            // by it, so that it comes to an end.
            chunk.begin(chunk.first);
            let ended = attempt(|| {
                for _ in 0..chunk.first {
                    let read = postcard::take_from_bytes::<T>(input);
                    input = read.map_err(|error| carry::<T>("an item", &error))?.1;
                }
                Ok(())
            });
            match ended {
                Attempt::Returned(Ok(())) => {}
                Attempt::Returned(Err(error)) => return chunk.fail_rest(chunk.first, &error),
                Attempt::Panicked(failure) => return chunk.fail_rest_by(chunk.first, &failure),
                Attempt::Exited(code) => std::process::exit(code),
            }
        }
        for number in chunk.first..chunk.count {
            // Before it is read, which is code of the user's and may kill the worker as well.
            chunk.begin(number);
            let mut rest = None;
            let ended = attempt(|| {
                let read = postcard::take_from_bytes::<T>(input);
                let (item, behind) = read.map_err(|error| carry::<T>("an item", &error))?;
                rest = Some(behind);
                target.call(state, item, args.clone())
            });
            match (ended, rest) {
                (Attempt::Returned(Ok(value)), _) => chunk.finish_with(number, &value),
                (Attempt::Returned(Err(error)), Some(_)) => chunk.finish_failed(number, &RemoteError::of_error(&error)),
                (Attempt::Panicked(failure), Some(_)) => chunk.finish_failed(number, &failure),
                // Where the next item begins is not known.
                (Attempt::Returned(Err(error)), None) => return chunk.fail_rest(number, &error),
                (Attempt::Panicked(failure), None) => return chunk.fail_rest_by(number, &failure),
                (Attempt::Exited(code), _) => std::process::exit(code),
            }
            if chunk.is_broken() {
                // Its result is missing, and what comes behind a gap would be taken for it.
                return;
            }
            input = rest.unwrap_or_default();
        }
    }
}

impl Chunk<'_> {
    #[inline]
    fn finish_with<R: Serialize>(&mut self, number: u32, value: &R) {
        let mut scratch = std::mem::take(&mut self.scratch);
        match encode(value, &mut scratch, 0) {
            Ok(end) if end > MOST_RESULT => {
                let error = too_large::<R>(end);
                self.finish_failed(number, &RemoteError::of_error(&error));
            }
            Ok(end) => self.finish(number, VALUE, &scratch, end),
            Err(error) => self.finish_failed(number, &RemoteError::of_error(&carry::<R>("the result", &error))),
        }
        self.scratch = scratch;
    }

    #[cold]
    fn finish_failed(&mut self, number: u32, failure: &RemoteError) {
        let bytes = to_bytes("the error of a worker", failure).ok();
        let bytes = bytes.filter(|bytes| bytes.len() <= MOST_RESULT).unwrap_or_default();
        self.finish(number, FAILED, &bytes, bytes.len());
    }

    #[cold]
    fn fail_rest(&mut self, from: u32, error: &Error) {
        self.fail_rest_by(from, &RemoteError::of_error(error));
    }

    #[cold]
    fn fail_rest_by(&mut self, from: u32, failure: &RemoteError) {
        for number in from.max(self.first)..self.count {
            if self.is_broken() {
                return;
            }
            self.finish_failed(number, failure);
        }
    }
}

#[cold]
fn too_large<R>(length: usize) -> Error {
    Error::Carry {
        what: "the result",
        type_name: std::any::type_name::<R>().into(),
        reason: format!("it has {length} bytes, and {MOST_RESULT} is the most: return it in parts, or where it lies"),
    }
}

/// Writes a value to a buffer from `at` on, which grows as it has to; returns where it ends.
#[inline]
pub(super) fn encode<T: Serialize>(value: &T, buffer: &mut Vec<u8>, at: usize) -> Result<usize, postcard::Error> {
    postcard::serialize_with_flavor(value, Buffer { buffer, at })
}

/// A buffer that grows, and keeps its length, so that short values are written without a call.
struct Buffer<'b> {
    buffer: &'b mut Vec<u8>,
    at: usize,
}

/// The longest integer of postcard, but for those of 128 bits.
const SHORT: usize = 10;

impl Buffer<'_> {
    #[cold]
    #[inline(never)]
    fn grow(&mut self, by: usize) {
        let length = (self.buffer.len() * 2).max(self.at + by).max(256);
        self.buffer.resize(length, 0);
    }
}

impl postcard::ser_flavors::Flavor for Buffer<'_> {
    type Output = usize;

    #[inline]
    fn try_push(&mut self, byte: u8) -> postcard::Result<()> {
        if self.at == self.buffer.len() {
            self.grow(1);
        }
        self.buffer[self.at] = byte;
        self.at += 1;
        Ok(())
    }

    #[inline]
    fn try_extend(&mut self, bytes: &[u8]) -> postcard::Result<()> {
        if self.buffer.len() - self.at < bytes.len().max(SHORT) {
            self.grow(bytes.len().max(SHORT));
        }
        let room = &mut self.buffer[self.at..];
        self.at += bytes.len();
        match (room.first_chunk_mut::<SHORT>(), bytes.len()) {
            // One by one: they were just written one by one, and reading them at once would wait for that.
            (Some(room), ..=SHORT) => {
                for number in 0..SHORT {
                    if number == bytes.len() {
                        break;
                    }
                    room[number] = bytes[number];
                }
            }
            _ => room[..bytes.len()].copy_from_slice(bytes),
        }
        Ok(())
    }

    #[inline]
    fn finalize(self) -> postcard::Result<usize> {
        Ok(self.at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_holds_what_postcard_writes_wherever_it_begins() {
        let value = (
            1u8,
            -70_000i64,
            u128::MAX,
            "text".repeat(100),
            vec![1u16; 300],
            Some('x'),
        );
        let expected = postcard::to_stdvec(&value).unwrap();
        for at in [0, 1, 255, 256, 257] {
            let mut buffer = vec![7; at];
            let end = encode(&value, &mut buffer, at).unwrap();
            assert!(buffer[..at].iter().all(|byte| *byte == 7) && buffer[at..end] == expected[..]);
        }
    }
}
