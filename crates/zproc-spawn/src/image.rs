//! Where something lies in a program, in words that another process of the same build understands.
//!
//! Addresses differ from process to process. A [`Place`] says instead: in which of the loaded images (the program itself
//! is the first, shared libraries follow in the order of loading), how far from where that image was loaded, and which
//! build of the image. Whoever turns a place back into an address compares the build, and looks whether the offset lies
//! in a segment that is loaded with the rights that are asked for. What then lies there is for `entry` to check.
//!
//! **Build.** The linker's build id (the note of type 3 of GNU) where there is one; else device, inode, size and time of
//! the file. The link `/proc/self/exe` leads to the same inode for as long as anything runs it, also after the file was
//! replaced by a new build or unlinked.

use std::ffi::{CStr, c_int, c_void};
use std::fmt::Write;
use std::os::unix::fs::MetadataExt;

use serde::{Deserialize, Serialize};

/// A place in the code or the constants of a build of a program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    image: u32,
    offset: u64,
    build: String,
}

/// What a segment must allow.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Holds {
    /// Reading.
    Data,
    /// Reading and executing.
    Code,
}

struct Image {
    base: usize,
    name: String,
    segments: Vec<Segment>,
    notes: Vec<(usize, usize)>,
}

struct Segment {
    start: usize,
    end: usize,
    flags: u32,
}

impl Segment {
    fn allows(&self, holds: Holds) -> bool {
        self.flags & libc::PF_R != 0 && (holds == Holds::Data || self.flags & libc::PF_X != 0)
    }

    fn contains(&self, address: usize, length: usize) -> bool {
        (self.start..self.end).contains(&address) && self.end - address >= length
    }
}

impl Place {
    /// The place of `length` bytes at `address`; `None` if they are in no loaded image.
    pub(crate) fn of(address: usize, length: usize, holds: Holds) -> Option<Self> {
        let images = images();
        let (number, image) = images
            .iter()
            .enumerate()
            .find(|(_, image)| image.has(address, length, holds))?;
        Some(Self {
            image: u32::try_from(number).ok()?,
            offset: address.wrapping_sub(image.base) as u64,
            build: image.build(number == 0),
        })
    }

    /// The address of `length` bytes at this place in this process, or why there is none.
    pub(crate) fn address(&self, length: usize, holds: Holds) -> Result<usize, String> {
        let images = images();
        let image = images
            .get(self.image as usize)
            .ok_or_else(|| format!("its image number {} is not loaded here", self.image))?;
        let build = image.build(self.image == 0);
        if build != self.build {
            return Err(format!(
                "it was sent by another build of {}: {} there, {build} here; start both with the same executable",
                if image.name.is_empty() {
                    "the program"
                } else {
                    &image.name
                },
                self.build
            ));
        }
        let address = image.base.wrapping_add(self.offset as usize);
        if !image.has(address, length, holds) {
            return Err(format!(
                "offset {:#x} is in no segment of its image that holds it",
                self.offset
            ));
        }
        Ok(address)
    }

    /// Which build of the program this is.
    pub fn build_of_program() -> String {
        images().first().map_or_else(String::new, |image| image.build(true))
    }
}

impl Image {
    fn has(&self, address: usize, length: usize, holds: Holds) -> bool {
        self.segments
            .iter()
            .any(|segment| segment.allows(holds) && segment.contains(address, length))
    }

    fn build(&self, is_program: bool) -> String {
        if let Some(id) = self.build_id() {
            return id;
        }
        let file = if is_program { "/proc/self/exe" } else { &self.name };
        match std::fs::metadata(file) {
            Ok(file) => format!(
                "file {}:{} of {} bytes at {}.{:09}",
                file.dev(),
                file.ino(),
                file.size(),
                file.mtime(),
                file.mtime_nsec()
            ),
            // Such as the kernel's own image: where it is the same, so is its name.
            Err(_) => format!("image {}", self.name),
        }
    }

    /// The build id in the notes, in hexadecimal digits.
    fn build_id(&self) -> Option<String> {
        const GNU_BUILD_ID: u32 = 3;
        for (start, length) in &self.notes {
            if !self.has(*start, *length, Holds::Data) {
                continue;
            }
            // SAFETY: the bytes lie in a segment that the loader mapped readable for as long as the image is loaded, which
            // is for as long as its code can run, and nobody writes notes. Only this process's memory is concerned.
            let notes = unsafe { std::slice::from_raw_parts(std::ptr::with_exposed_provenance::<u8>(*start), *length) };
            if let Some(id) = note(notes, b"GNU\0", GNU_BUILD_ID) {
                return Some(id.iter().fold(String::new(), |mut text, byte| {
                    let _ = write!(text, "{byte:02x}");
                    text
                }));
            }
        }
        None
    }
}

/// The content of the note of this owner and type.
fn note<'n>(mut notes: &'n [u8], owner: &[u8], wanted: u32) -> Option<&'n [u8]> {
    let padded = |length: u32| (length as usize).checked_next_multiple_of(4);
    loop {
        let (head, rest) = notes.split_at_checked(12)?;
        let word = |at: usize| Some(u32::from_ne_bytes(head.get(at..at + 4)?.try_into().ok()?));
        let (name_length, length, kind) = (word(0)?, word(4)?, word(8)?);
        let (name, rest) = rest.split_at_checked(padded(name_length)?)?;
        let content = rest.get(..length as usize)?;
        if kind == wanted && name.get(..name_length as usize) == Some(owner) {
            return Some(content);
        }
        notes = rest.get(padded(length)?..)?;
    }
}

/// What is loaded now, the program first.
fn images() -> Vec<Image> {
    let mut images: Vec<Image> = Vec::new();
    // SAFETY: the callback matches what is expected of it, and `images` outlives the call, during which nobody else has
    // it.
    unsafe { libc::dl_iterate_phdr(Some(visit), (&raw mut images).cast()) };
    images
}

unsafe extern "C" fn visit(info: *mut libc::dl_phdr_info, _size: usize, images: *mut c_void) -> c_int {
    // SAFETY: the loader passes a description that is valid during the call.
    let info = unsafe { &*info };
    // SAFETY: what `images` passed, whose only user this is meanwhile.
    let images = unsafe { &mut *images.cast::<Vec<Image>>() };
    let name = if info.dlpi_name.is_null() {
        String::new()
    } else {
        // SAFETY: not null, so it is a C string of the loader's, valid during the call.
        unsafe { CStr::from_ptr(info.dlpi_name) }.to_string_lossy().into_owned()
    };
    let headers = if info.dlpi_phdr.is_null() {
        &[]
    } else {
        // SAFETY: the loader passes so many program headers, which stay loaded during the call.
        unsafe { std::slice::from_raw_parts(info.dlpi_phdr, usize::from(info.dlpi_phnum)) }
    };
    let base = info.dlpi_addr as usize;
    let mut image = Image {
        base,
        name,
        segments: Vec::new(),
        notes: Vec::new(),
    };
    for header in headers {
        let (start, length) = (base.wrapping_add(header.p_vaddr as usize), header.p_memsz as usize);
        match header.p_type {
            libc::PT_LOAD => image.segments.push(Segment {
                start,
                end: start.saturating_add(length),
                flags: header.p_flags,
            }),
            libc::PT_NOTE => image.notes.push((start, length)),
            _ => {}
        }
    }
    images.push(image);
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    static HERE: [u64; 4] = [1, 2, 3, 4];

    #[test]
    fn a_place_leads_back_to_its_address() {
        let address = HERE.as_ptr().addr();
        let place = Place::of(address, size_of_val(&HERE), Holds::Data).unwrap();
        assert_eq!(place.address(size_of_val(&HERE), Holds::Data), Ok(address));
        let code = a_place_leads_back_to_its_address as fn() as usize;
        let place = Place::of(code, 1, Holds::Code).unwrap();
        assert_eq!(place.address(1, Holds::Code), Ok(code));
    }

    #[test]
    fn what_is_in_no_image_or_of_another_build_is_refused() {
        let local = Box::new(5);
        assert_eq!(Place::of((&raw const *local).addr(), 4, Holds::Data), None);
        assert_eq!(
            Place::of(HERE.as_ptr().addr(), 32, Holds::Code),
            None,
            "constants are no code"
        );
        let mut place = Place::of(HERE.as_ptr().addr(), 32, Holds::Data).unwrap();
        place.offset += 1 << 40;
        assert!(place.address(32, Holds::Data).unwrap_err().contains("no segment"));
        place.build.push('x');
        assert!(place.address(32, Holds::Data).unwrap_err().contains("another build"));
        place.image = 1 << 20;
        assert!(place.address(32, Holds::Data).unwrap_err().contains("not loaded"));
    }

    #[test]
    fn notes_are_walked_to_the_one_that_is_sought() {
        let mut notes = Vec::new();
        for (kind, content) in [(1u32, &b"abcde"[..]), (3, b"id")] {
            notes.extend(4u32.to_ne_bytes());
            notes.extend((content.len() as u32).to_ne_bytes());
            notes.extend(kind.to_ne_bytes());
            notes.extend(b"GNU\0");
            notes.extend(content);
            notes.resize(notes.len().next_multiple_of(4), 0);
        }
        assert_eq!(note(&notes, b"GNU\0", 3), Some(&b"id"[..]));
        assert_eq!(note(&notes, b"GNU\0", 4), None);
        assert_eq!(note(&notes[..30], b"GNU\0", 3), None, "what is cut off is no note");
    }
}
