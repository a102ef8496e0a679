//! Memory that is there before it is touched: page tables filled beforehand, and pages that are not swapped out.

use std::ffi::c_void;
use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::errno::Errno;
use nix::sys::mman::{MmapAdvise, ProtFlags, madvise, mprotect};

use super::check;

/// The distance at which pages are looked at one by one: the least page that Linux has on the supported processors.
pub const PAGE: usize = 4096;

/// Fills the page tables of this process for a range, as if each of its pages had been written.
///
/// # Safety
/// The range must begin at a page, and be mapped for reading and writing until this returns. All of it must exist in the
/// file under it: a page that could not be had would be a signal on kernels before Linux 5.14.
pub unsafe fn populate(start: NonNull<u8>, length: usize) -> io::Result<()> {
    let all = MmapAdvise::MADV_POPULATE_WRITE;
    loop {
        // SAFETY: changes no content, only which pages this process has in its tables.
        match unsafe { madvise(start.cast(), length, all) } {
            Ok(()) => return Ok(()),
            Err(Errno::EINTR) => {}
            // Linux before 5.14 does not know it.
            Err(Errno::EINVAL) => break,
            Err(error) => return Err(error.into()),
        }
    }
    for at in (0..length).step_by(PAGE) {
        // A load is enough: a shared page of memory comes writable, for nobody keeps an account of who wrote it.
        // SAFETY: the page is in the range, which is mapped and exists; any bits are an atomic word.
        let word = unsafe { &*start.as_ptr().wrapping_add(at).cast::<AtomicU64>() };
        std::hint::black_box(word.load(Ordering::Relaxed));
    }
    Ok(())
}

/// Keeps the pages of a mapped range in memory from the time on when they are first touched, until it is unmapped. What
/// is a hole in the file stays one. ENOMEM: beyond RLIMIT_MEMLOCK.
pub fn lock(start: NonNull<u8>, length: usize) -> io::Result<()> {
    /// `MLOCK_ONFAULT` of linux/mman.h. Without it the kernel would fill every hole of the file.
    const ON_FAULT: libc::c_uint = 1;
    // SAFETY: changes no content. A range that is not mapped is an error.
    check(unsafe { libc::syscall(libc::SYS_mlock2, start.as_ptr().cast::<c_void>(), length, ON_FAULT) })?;
    Ok(())
}

/// Lets this process write to a range of a mapping that it had for reading only.
///
/// # Safety
/// The range must begin at a page, and lie in a shared mapping of a file that is open for writing.
pub unsafe fn allow_writing(start: NonNull<u8>, length: usize) -> io::Result<()> {
    // SAFETY: takes nothing away from anybody, and changes no content; the caller's promise for the rest.
    unsafe { mprotect(start.cast(), length, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE) }?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::file;

    /// Bytes that are in the page tables of this process, of the mapping that begins there.
    fn resident(start: NonNull<u8>) -> u64 {
        let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let of_it = maps.split(&format!("\n{:x}-", start.as_ptr().addr())).nth(1).unwrap();
        let line = of_it.lines().find_map(|line| line.strip_prefix("Rss:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
    }

    #[test]
    fn a_part_of_a_file_is_populated_and_its_holes_stay_holes() {
        let fd = file::sealed_memfd("populate", 1 << 20).unwrap();
        file::allocate(&fd, 0..1 << 18).unwrap();
        let map = memmap2::MmapOptions::new()
            .map_raw(&std::fs::File::from(fd.try_clone().unwrap()))
            .unwrap();
        let start = NonNull::new(map.as_mut_ptr()).unwrap();
        assert_eq!(resident(start), 0);
        // SAFETY: mapped until the end of the test; that part was allocated.
        unsafe { populate(start, 1 << 18) }.unwrap();
        assert_eq!(resident(start), 1 << 18);
        assert_eq!(nix::sys::stat::fstat(&fd).unwrap().st_blocks * 512, 1 << 18);
    }
}
