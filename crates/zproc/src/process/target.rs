//! What a process runs: functions, told apart by their types.
//!
//! [`Target`] is implemented for every function whose arguments and result can be carried to another process. Its
//! parameter `M` is a marker that the compiler finds: it holds what the function takes first (a state, a context or
//! neither), whether it returns a value or a `Result`, and the function's type, which makes the implementations distinct.
//! They never overlap, since states, contexts and errors can be neither serialised nor deserialised.

use std::marker::PhantomData;

use serde::Serialize;
use serde::de::DeserializeOwned;
use zproc_spawn::entry::{FnPointer, Kind, Run};

use super::child::Home;
use crate::context::Context;
use crate::error::{Error, Result};
use crate::state::State;

#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be the target of a process",
    label = "not a target",
    note = "a target is a function, or a closure that captures nothing, of (State or Context or neither, then up to four \
            arguments)",
    note = "its arguments and its result must implement Serialize and DeserializeOwned (String, not &str); it may return a \
            zproc::Result of such a type"
)]
/// A function that a process can run.
///
/// These are functions, and closures that capture nothing, that take
/// - a [`State`], or a [`Context`], or neither,
/// - then up to four arguments of types that serde serialises and deserialises (`String`, not `&str`),
///
/// and return a value of such a type, or a [`Result`](crate::Result) of one. Arguments and results travel in postcard's
/// format, which is not for types that ask what comes next, such as serde's untagged enums.
///
/// ```
/// use zproc::{Context, Result, State};
///
/// fn eater(state: State, meals: u32) -> Result<u32> {
///     state.insert("eaten", meals)?;
///     Ok(meals)
/// }
///
/// fn main() -> Result<()> {
///     zproc::init();
///     let ctx = Context::new()?;
///     assert_eq!(ctx.process(eater).args(5).start()?.wait()?, 5);
///     assert_eq!(ctx.process(|a: u32, b: u32| a + b).args((1, 2)).start()?.wait()?, 3);
///     assert_eq!(ctx.state().get("eaten")?, Some(5));
///     Ok(())
/// }
/// ```
///
/// What captures something is refused, since another process does not have it:
///
/// ```compile_fail
/// # fn main() -> zproc::Result<()> {
/// # zproc::init();
/// let text = String::from("captured");
/// let ctx = zproc::Context::new()?;
/// ctx.process(move || text.len()).start()?;
/// # Ok(())
/// # }
/// ```
///
/// So are references as arguments:
///
/// ```compile_fail
/// # fn main() -> zproc::Result<()> {
/// # zproc::init();
/// let ctx = zproc::Context::new()?;
/// ctx.process(|text: &str| text.len()).args("text").start()?;
/// # Ok(())
/// # }
/// ```
pub trait Target<M>: Copy + Send + 'static {
    /// Its arguments: `()`, the only one, or a tuple of them.
    type Args: Serialize + DeserializeOwned;
    /// What it returns.
    type Output: Serialize + DeserializeOwned + 'static;
    #[doc(hidden)]
    type Pointer: FnPointer;
    #[doc(hidden)]
    fn call(self, home: &Home, args: Self::Args) -> Result<Self::Output>;
}

/// Marks targets that take a [`State`] first.
///
/// ```
/// use zproc::{State, Target, WithState};
///
/// fn is_target<F: Target<(WithState, zproc::Plain, fn(u32) -> u32)>>(_: F) {}
/// is_target(|_: State, n: u32| n);
/// ```
pub struct WithState;

/// Marks targets that take a [`Context`] first.
///
/// ```
/// use zproc::{Context, Target, WithContext};
///
/// fn is_target<F: Target<(WithContext, zproc::Plain, fn(u32) -> u32)>>(_: F) {}
/// is_target(|_: Context, n: u32| n);
/// ```
pub struct WithContext;

/// Marks targets that take neither a state nor a context.
///
/// ```
/// use zproc::{Target, WithNothing};
///
/// fn is_target<F: Target<(WithNothing, zproc::Plain, fn(u32) -> u32)>>(_: F) {}
/// is_target(|n: u32| n);
/// ```
pub struct WithNothing;

/// Marks targets that return a plain value.
///
/// ```
/// use zproc::{Plain, Target, WithNothing};
///
/// fn is_target<F: Target<(WithNothing, Plain, fn() -> u32)>>(_: F) {}
/// is_target(|| 5);
/// ```
pub struct Plain;

/// Marks targets that return a [`Result`](crate::Result).
///
/// ```
/// use zproc::{Fallible, Target, WithNothing};
///
/// fn is_target<F: Target<(WithNothing, Fallible, fn() -> u32)>>(_: F) {}
/// is_target(|| Ok(5));
/// ```
pub struct Fallible;

macro_rules! target {
    ($marker:ty, ($($first:ty)?), |$home:ident| ($($made:expr)?), $args:ty, ($($argument:ident)*)) => {
        impl<F, R, $($argument,)*> Target<($marker, Plain, fn($($argument),*) -> R)> for F
        where
            F: Fn($($first,)? $($argument),*) -> R + Copy + Send + 'static,
            R: Serialize + DeserializeOwned + 'static,
            $($argument: Serialize + DeserializeOwned + 'static,)*
        {
            type Args = $args;
            type Output = R;
            type Pointer = fn($($first,)? $($argument),*) -> R;
            #[allow(non_snake_case, unused_parens, unused_variables, reason = "names and places of generated arguments")]
            fn call(self, $home: &Home, args: Self::Args) -> Result<R> {
                let ($($argument),*) = args;
                Ok(self($($made,)? $($argument),*))
            }
        }

        impl<F, R, $($argument,)*> Target<($marker, Fallible, fn($($argument),*) -> R)> for F
        where
            F: Fn($($first,)? $($argument),*) -> Result<R> + Copy + Send + 'static,
            R: Serialize + DeserializeOwned + 'static,
            $($argument: Serialize + DeserializeOwned + 'static,)*
        {
            type Args = $args;
            type Output = R;
            type Pointer = fn($($first,)? $($argument),*) -> Result<R>;
            #[allow(non_snake_case, unused_parens, unused_variables, reason = "names and places of generated arguments")]
            fn call(self, $home: &Home, args: Self::Args) -> Result<R> {
                let ($($argument),*) = args;
                self($($made,)? $($argument),*)
            }
        }
    };
    ($args:ty, ($($argument:ident)*)) => {
        target!(WithState, (State), |home| (home.state()?), $args, ($($argument)*));
        target!(WithContext, (Context), |home| (home.context()?), $args, ($($argument)*));
        target!(WithNothing, (), |home| (), $args, ($($argument)*));
    };
}
target!((), ());
target!(A, (A));
target!((A, B), (A B));
target!((A, B, C), (A B C));
target!((A, B, C, D), (A B C D));

/// The entries of targets.
pub(crate) struct Targets;

impl Kind for Targets {
    type Call<'a> = Call<'a>;
}

/// A call of a target in the process that it is for.
pub(crate) struct Call<'a> {
    pub(crate) home: &'a Home,
    pub(crate) args: &'a [u8],
    /// The value that was returned, as it is carried.
    pub(crate) outcome: Option<Result<Vec<u8>>>,
}

/// How targets with this marker are run.
pub(crate) struct RunTarget<M>(PhantomData<M>);

impl<M: 'static, F: Target<M>> Run<Targets, F> for RunTarget<M> {
    type Pointer = F::Pointer;

    fn run(target: F, call: &mut Call<'_>) {
        let run = || {
            let args = from_bytes::<F::Args>("the arguments", call.args)?;
            to_bytes("the result", &target.call(call.home, args)?)
        };
        call.outcome = Some(run());
    }
}

/// A value as it is carried to another process.
pub(crate) fn to_bytes<T: Serialize>(what: &'static str, value: &T) -> Result<Vec<u8>> {
    postcard::to_stdvec(value).map_err(|error| carry::<T>(what, &error))
}

/// The value that was carried here.
pub(crate) fn from_bytes<T: DeserializeOwned>(what: &'static str, bytes: &[u8]) -> Result<T> {
    postcard::from_bytes(bytes).map_err(|error| carry::<T>(what, &error))
}

#[cold]
pub(crate) fn carry<T>(what: &'static str, error: &postcard::Error) -> Error {
    Error::Carry {
        what,
        type_name: std::any::type_name::<T>().into(),
        reason: error.to_string(),
    }
}

/// Arguments that are still to be given.
///
/// ```
/// use zproc::{Context, Result};
///
/// fn main() -> Result<()> {
///     zproc::init();
///     let ctx = Context::new()?;
///     ctx.process(|| ()).start()?; // takes none, so none are missing
///     Ok(())
/// }
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Missing;

/// Arguments that were given.
///
/// ```
/// use zproc::{Context, Result};
///
/// fn main() -> Result<()> {
///     zproc::init();
///     let ctx = Context::new()?;
///     assert_eq!(ctx.process(|n: u32| n + 1).args(5).start()?.wait()?, 6);
///     Ok(())
/// }
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Given<A>(pub(crate) A);

#[diagnostic::on_unimplemented(
    message = "the target takes arguments of type `{A}`, and has none",
    label = "arguments are missing",
    note = "give them with `.args(…)`: the only one as it is, several as a tuple"
)]
/// Whether all arguments are there: [`Given`], or [`Missing`] where there are none.
///
/// A process is not started without its arguments:
///
/// ```compile_fail
/// # fn main() -> zproc::Result<()> {
/// # zproc::init();
/// zproc::Context::new()?.process(|n: u32| n + 1).start()?;
/// # Ok(())
/// # }
/// ```
pub trait Arguments<A> {
    #[doc(hidden)]
    fn take(self) -> A;
}

impl Arguments<()> for Missing {
    fn take(self) {}
}

impl<A> Arguments<A> for Given<A> {
    fn take(self) -> A {
        self.0
    }
}
