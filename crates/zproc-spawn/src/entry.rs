//! What another process is to run: a function of a type that both know, found by its place.
//!
//! [`locate`] is given a target `F`, which has no size (a function, or a closure that captures nothing) or is a plain
//! function pointer. The compiler makes one `Entry` for each target and way to run it ([`Run`]): a constant with a mark,
//! the [`Kind`], and the address of a function that conjures the target up and runs it. [`find`] turns the place of the
//! entry back into the entry, in another process of the same build.
//!
//! **Why that is sound.** A place is only resolved in the same build (`image`), and what lies there is only taken for an
//! entry if it carries the mark of entries and the identity of its kind, which the linker put there and nobody writes. The
//! entry's function knows its target's type. A target without a size has no bytes to get wrong; that a value of it may be
//! made is shown by the one that `locate` was given, which is `Copy`. A function pointer is made of the place of its
//! code, which `locate` took from a pointer of that very type.

use std::any::TypeId;
use std::marker::PhantomData;

use serde::{Deserialize, Serialize};

use crate::image::{Holds, Place};

/// What entries are called with: a type of its own for each use of them.
pub trait Kind: 'static {
    /// What the function of an entry gets, and leaves its result in.
    type Call<'a>;
}

/// How a target is run.
pub trait Run<K: Kind, F>: 'static {
    /// The function pointers that can stand for the target.
    type Pointer: FnPointer;

    /// Runs it.
    fn run(target: F, call: &mut K::Call<'_>);
}

/// A type of plain function pointers.
pub trait FnPointer: sealed::Sealed + Copy + 'static {}

mod sealed {
    pub trait Sealed {}
}

macro_rules! fn_pointers {
    ($($argument:ident)*) => {
        impl<R: 'static $(, $argument: 'static)*> sealed::Sealed for fn($($argument),*) -> R {}
        impl<R: 'static $(, $argument: 'static)*> FnPointer for fn($($argument),*) -> R {}
    };
}
fn_pointers!();
fn_pointers!(A);
fn_pointers!(A B);
fn_pointers!(A B C);
fn_pointers!(A B C D);
fn_pointers!(A B C D E);

/// The place of a target and of the way to run it, for another process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Located {
    entry: Place,
    /// The code, if the target is a function pointer.
    pointer: Option<Place>,
}

/// Marks entries: the digits of π.
const MARK: [u64; 2] = [0x243f_6a88_85a3_08d3, 0x1319_8a2e_0370_7344];

/// A constant of the program that leads to a target.
#[repr(C)]
struct Entry<K: Kind> {
    mark: [u64; 2],
    kind: TypeId,
    /// Runs the target that the address makes, which is that of a function pointer or means nothing.
    enter: for<'a, 'b> fn(Address<'a>, &'a mut K::Call<'b>),
}

/// The code of a function pointer; only this module makes one.
struct Address<'a>(usize, PhantomData<&'a ()>);

struct Made<K, F, R>(PhantomData<(K, F, R)>);

impl<K: Kind, F: Copy + 'static, R: Run<K, F>> Made<K, F, R> {
    const ENTRY: &'static Entry<K> = &Entry {
        mark: MARK,
        kind: TypeId::of::<K>(),
        enter: enter::<K, F, R>,
    };
}

/// How a target is carried to another process.
enum Carrier {
    Nothing,
    Pointer,
}

fn carrier<F: 'static, P: FnPointer>() -> Option<Carrier> {
    if size_of::<F>() == 0 {
        Some(Carrier::Nothing)
    } else if TypeId::of::<F>() == TypeId::of::<P>() {
        Some(Carrier::Pointer)
    } else {
        None
    }
}

fn enter<K: Kind, F: Copy + 'static, R: Run<K, F>>(address: Address<'_>, call: &mut K::Call<'_>) {
    let target: F = match carrier::<F, R::Pointer>() {
        // SAFETY: a type without a size has no bytes that could be wrong, and its values may be copied; `locate` was given
        // one, and no place leads here that does not come from it.
        Some(Carrier::Nothing) => unsafe { std::ptr::NonNull::<F>::dangling().read() },
        // SAFETY: `F` is a type of function pointers, and the address is the one that `locate` read from a value of `F`,
        // in the same build: `find` has compared that.
        Some(Carrier::Pointer) => unsafe { std::mem::transmute_copy::<usize, F>(&address.0) },
        None => return,
    };
    R::run(target, call);
}

/// Says where a target is, to run it in another process by `R`.
///
/// # Errors
/// A text, if the target captures something, or lies in no image of the program.
pub fn locate<K: Kind, F: Copy + 'static, R: Run<K, F>>(target: F) -> Result<Located, String> {
    let nowhere = || "its code lies in no image that the loader knows of".to_owned();
    let entry: &'static Entry<K> = Made::<K, F, R>::ENTRY;
    let entry = Place::of((&raw const *entry).addr(), size_of::<Entry<K>>(), Holds::Data).ok_or_else(nowhere)?;
    let pointer = match carrier::<F, R::Pointer>() {
        Some(Carrier::Nothing) => None,
        Some(Carrier::Pointer) => {
            // SAFETY: `F` is a type of function pointers, which are as large as an address and may be read as one.
            let address = unsafe { std::mem::transmute_copy::<F, usize>(&target) };
            Some(Place::of(address, 1, Holds::Code).ok_or_else(nowhere)?)
        }
        None => {
            return Err("it captures something, which another process does not have: pass it as an argument".into());
        }
    };
    Ok(Located { entry, pointer })
}

/// A target that was found.
pub struct Found<K: Kind> {
    entry: &'static Entry<K>,
    pointer: usize,
}

impl<K: Kind> Found<K> {
    /// Runs it.
    pub fn run(&self, call: &mut K::Call<'_>) {
        (self.entry.enter)(Address(self.pointer, PhantomData), call);
    }
}

/// Finds a target that a process of the same build has located.
///
/// # Errors
/// A text that says why it is not here: another build, or a place that is not what it should be.
pub fn find<K: Kind>(located: &Located) -> Result<Found<K>, String> {
    let address = located.entry.address(size_of::<Entry<K>>(), Holds::Data)?;
    if !address.is_multiple_of(align_of::<Entry<K>>()) {
        return Err(format!("no entry begins at {address:#x}"));
    }
    let head = std::ptr::with_exposed_provenance::<[u64; 2]>(address);
    // SAFETY: aligned, and in a readable segment that is loaded for as long as its code can run.
    let mark = unsafe { head.read() };
    let kind = std::ptr::with_exposed_provenance::<TypeId>(address + std::mem::offset_of!(Entry<K>, kind));
    // SAFETY: as above; any bits are a `TypeId` to compare, and these are compared only.
    if mark != MARK || unsafe { kind.read() } != TypeId::of::<K>() {
        return Err(format!("there is no entry at {address:#x}"));
    }
    // SAFETY: the mark and the kind say that the linker put an `Entry<K>` here, which is never written.
    let entry = unsafe { &*std::ptr::with_exposed_provenance::<Entry<K>>(address) };
    let pointer = match &located.pointer {
        Some(place) => place.address(1, Holds::Code)?,
        None => 0,
    };
    Ok(Found { entry, pointer })
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Sums;
    impl Kind for Sums {
        type Call<'a> = (&'a [i32], i32);
    }
    struct Apply;
    impl<F: Fn(i32) -> i32 + Copy + 'static> Run<Sums, F> for Apply {
        type Pointer = fn(i32) -> i32;
        fn run(target: F, call: &mut (&[i32], i32)) {
            call.1 = call.0.iter().map(|n| target(*n)).sum();
        }
    }
    struct Other;
    impl Kind for Other {
        type Call<'a> = ();
    }

    fn double(n: i32) -> i32 {
        2 * n
    }

    fn run(located: &Located) -> i32 {
        let mut call = (&[1, 2, 3][..], 0);
        find::<Sums>(located).unwrap().run(&mut call);
        call.1
    }

    #[test]
    fn functions_closures_and_pointers_are_found() {
        assert_eq!(run(&locate::<Sums, _, Apply>(double).unwrap()), 12);
        assert_eq!(run(&locate::<Sums, _, Apply>(|n| n + 1).unwrap()), 9);
        for (pointer, sum) in [(double as fn(i32) -> i32, 12), (|n| n * 3, 18)] {
            assert_eq!(run(&locate::<Sums, _, Apply>(pointer).unwrap()), sum);
        }
    }

    #[test]
    fn what_captures_is_refused_and_so_is_what_is_no_entry_of_that_kind() {
        let n = std::hint::black_box(5);
        assert!(
            locate::<Sums, _, Apply>(move |m| m + n)
                .unwrap_err()
                .contains("captures")
        );
        let located = locate::<Sums, _, Apply>(double).unwrap();
        assert!(find::<Other>(&located).is_err());
        let code = locate::<Sums, _, Apply>(double as fn(i32) -> i32)
            .unwrap()
            .pointer
            .unwrap();
        let wrong = Located {
            entry: code,
            pointer: None,
        };
        assert!(find::<Sums>(&wrong).is_err());
    }
}
