//! Values where they lie in shared memory.
//!
//! A view trusts what `get` does not: that nobody writes to the bytes while it looks at them. For the processes of a state
//! that is so, since a snapshot keeps its versions from being recycled, and a version never changes. What the bytes say is
//! checked once for each version and thread, see `validated`. Over a socket there is a copy of this process's own instead,
//! which needs no trust, and is checked at each look.

use std::fmt;
use std::ops::Deref;

use shm_state::InPlace;

use crate::validated;
use crate::value::archived::for_macros::stamp;
use crate::value::{ArchivedValue, DecodeError, Encoded, Rkyv, RkyvType, tag};

/// A type whose values a snapshot can show without a copy: see [`Snapshot::view`](crate::Snapshot::view).
///
/// | type | what is shown |
/// |---|---|
/// | those with [`archived!`](crate::archived), and [`Rkyv`] | the archived form |
/// | `str` | the text |
/// | `[u8]` | the byte string |
///
/// ```
/// use zproc::{Snapshot, State, View, Viewable};
///
/// /// A view of a value that has to be there.
/// fn required<'s, T: Viewable + ?Sized>(snapshot: &'s Snapshot<'_>, key: &str) -> zproc::Result<View<'s, T>> {
///     snapshot.view(key)?.ok_or_else(|| zproc::Error::other(format!("{key} is missing")))
/// }
///
/// let state = State::anonymous()?;
/// state.insert("text", "a long text")?;
/// state.insert("picture", vec![0u8; 1 << 20].as_slice())?;
/// let snapshot = state.snapshot()?;
/// assert!(required::<str>(&snapshot, "text")?.ends_with("text"));
/// assert_eq!(required::<[u8]>(&snapshot, "picture")?.len(), 1 << 20);
/// assert_eq!(required::<str>(&snapshot, "film").unwrap_err().to_string(), "film is missing");
/// # Ok::<(), zproc::Error>(())
/// ```
pub trait Viewable: sealed::Sealed + 'static {
    /// What is shown.
    type Target: ?Sized;

    /// The value, if this thread has checked it lately.
    #[doc(hidden)]
    fn known(place: InPlace<'_>) -> Option<&Self::Target>;

    /// The value, after a check.
    #[doc(hidden)]
    fn show(place: InPlace<'_>) -> Result<&Self::Target, DecodeError>;

    /// The same of a value that is in no arena, and so has no version by which one knows it again.
    #[doc(hidden)]
    fn check(value: Encoded<'_>) -> Result<&Self::Target, DecodeError>;
}

mod sealed {
    pub trait Sealed {}
}

impl<T: ArchivedValue> sealed::Sealed for T {}
impl<T: ArchivedValue> Viewable for T {
    type Target = T::Archived;

    #[inline(always)]
    fn known(place: InPlace<'_>) -> Option<&T::Archived> {
        validated::known_archive::<T>(place, const { stamp::<T>() })
    }

    fn show(place: InPlace<'_>) -> Result<&T::Archived, DecodeError> {
        validated::archive::<T>(place, const { stamp::<T>() })
    }

    fn check(value: Encoded<'_>) -> Result<&T::Archived, DecodeError> {
        validated::check_archive::<T>(value, const { stamp::<T>() })
    }
}

impl<T: RkyvType> sealed::Sealed for Rkyv<T> {}
impl<T: RkyvType> Viewable for Rkyv<T> {
    type Target = T::Archived;

    #[inline(always)]
    fn known(place: InPlace<'_>) -> Option<&T::Archived> {
        validated::known_archive::<T>(place, Self::stamp())
    }

    fn show(place: InPlace<'_>) -> Result<&T::Archived, DecodeError> {
        validated::archive::<T>(place, Self::stamp())
    }

    fn check(value: Encoded<'_>) -> Result<&T::Archived, DecodeError> {
        validated::check_archive::<T>(value, Self::stamp())
    }
}

impl sealed::Sealed for str {}
impl Viewable for str {
    type Target = str;

    #[inline(always)]
    fn known(place: InPlace<'_>) -> Option<&str> {
        validated::known_text(place)
    }

    fn show(place: InPlace<'_>) -> Result<&str, DecodeError> {
        match place.tag() {
            tag::STR => validated::text(place).ok_or_else(no_text),
            _ => Err(stored(place).wrong_type("str")),
        }
    }

    fn check(value: Encoded<'_>) -> Result<&str, DecodeError> {
        match value.tag() {
            tag::STR => str::from_utf8(value.bytes()).map_err(|_| no_text()),
            _ => Err(value.wrong_type("str")),
        }
    }
}

#[cold]
fn no_text() -> DecodeError {
    DecodeError::malformed(tag::STR, "it is not UTF-8")
}

impl sealed::Sealed for [u8] {}
impl Viewable for [u8] {
    type Target = [u8];

    #[inline(always)]
    fn known(place: InPlace<'_>) -> Option<&[u8]> {
        (place.tag() == tag::BYTES).then(|| place.bytes())
    }

    fn show(place: InPlace<'_>) -> Result<&[u8], DecodeError> {
        Self::check(stored(place))
    }

    fn check(value: Encoded<'_>) -> Result<&[u8], DecodeError> {
        match value.tag() {
            tag::BYTES => Ok(value.bytes()),
            _ => Err(value.wrong_type("bytes")),
        }
    }
}

fn stored(place: InPlace<'_>) -> Encoded<'_> {
    Encoded::new(place.tag(), place.bytes())
}

/// A value where it lies, in shared memory or, over a socket, in a copy that its snapshot keeps; for as long as that
/// lives: see [`Snapshot::view`](crate::Snapshot::view).
///
/// ```
/// use zproc::State;
///
/// let state = State::anonymous()?;
/// state.insert("text", "a long text")?;
/// let snapshot = state.snapshot()?;
/// state.insert("text", "another")?; // the snapshot keeps what it shows
/// let text = snapshot.view::<str>("text")?.expect("it is there");
/// assert_eq!(text.len(), 11); // as a reference to the value
/// # Ok::<(), zproc::Error>(())
/// ```
pub struct View<'s, T: Viewable + ?Sized> {
    target: &'s T::Target,
}

impl<'s, T: Viewable + ?Sized> View<'s, T> {
    #[inline(always)]
    pub(crate) fn new(target: &'s T::Target) -> Self {
        Self { target }
    }

    /// The value, borrowed from the snapshot and not from this view of it. A function and no method, which would hide one
    /// of the value's own.
    ///
    /// ```
    /// use zproc::{State, View};
    ///
    /// let state = State::anonymous()?;
    /// state.insert("text", "a long text")?;
    /// let snapshot = state.snapshot()?;
    /// let first = snapshot.view::<str>("text")?.and_then(|text| View::into_ref(text).split(' ').next());
    /// assert_eq!(first, Some("a"));
    /// # Ok::<(), zproc::Error>(())
    /// ```
    #[inline(always)]
    pub fn into_ref(view: Self) -> &'s T::Target {
        view.target
    }
}

impl<T: Viewable + ?Sized> Deref for View<'_, T> {
    type Target = T::Target;

    #[inline(always)]
    fn deref(&self) -> &T::Target {
        self.target
    }
}

impl<T: Viewable + ?Sized> Clone for View<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T: Viewable + ?Sized> Copy for View<'_, T> {}

impl<T: Viewable<Target: fmt::Debug> + ?Sized> fmt::Debug for View<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.target.fmt(f)
    }
}
