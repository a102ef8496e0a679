//! The same loop over a bare futex in shared memory: the least that two processes can do, as the control. It has no
//! history, so a tick that came and went is lost; and nothing of it survives a process that dies.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use memmap2::{MmapOptions, MmapRaw};
use nix::sys::memfd::{MFdFlags, memfd_create};

use crate::pendulum::Motion;
use crate::realtime::now_ns;
use crate::{Answer, Result, Waiting};

/// What both processes see. The plant writes the upper half, the controller the lower. All zeroes at the start.
#[repr(C)]
struct Page {
    /// The number of the tick plus 1; the controller sleeps on it.
    tick: AtomicU32,
    last: AtomicU32,
    due_ns: AtomicU64,
    motion: [AtomicU64; 4],
    lower: Answered,
}

#[repr(C, align(128))]
struct Answered {
    /// The number of the answered tick plus 1.
    tick: AtomicU32,
    force: AtomicU64,
    at_ns: AtomicU64,
}

struct Mapped(MmapRaw);

impl Mapped {
    fn of(memory: &File) -> Result<Self> {
        Ok(Self(
            MmapOptions::new().len(size_of::<Page>()).populate().map_raw(memory)?,
        ))
    }

    fn page(&self) -> &Page {
        // SAFETY: the mapping begins at a page, is as long, and lives as long as `self`; it consists of atomic words, for
        // which all bits are values.
        unsafe { &*self.0.as_ptr().cast::<Page>() }
    }
}

/// The plant's side.
pub struct Plant {
    mapped: Mapped,
    memory: File,
}

impl Plant {
    pub fn new() -> Result<Self> {
        let memory = File::from(memfd_create("control_loop", MFdFlags::MFD_CLOEXEC)?);
        memory.set_len(size_of::<Page>() as u64)?;
        let mapped = Mapped::of(&memory)?;
        Ok(Self { mapped, memory })
    }

    /// The memory, for the controller.
    pub fn memory(&self) -> Result<OwnedFd> {
        Ok(self.memory.try_clone()?.into())
    }

    /// Publishes a tick.
    pub fn publish(&self, tick: u64, due_ns: u64, motion: &Motion) {
        let page = self.mapped.page();
        let Motion {
            position,
            speed,
            angle,
            turn,
        } = *motion;
        for (word, figure) in page.motion.iter().zip([position, speed, angle, turn]) {
            word.store(figure.to_bits(), Ordering::Relaxed);
        }
        page.due_ns.store(due_ns, Ordering::Relaxed);
        // Release: with the words above.
        page.tick.store(tick as u32 + 1, Ordering::Release);
        wake(&page.tick);
    }

    /// The last tick that was answered, and how.
    pub fn answer(&self) -> Option<Answer> {
        let lower = &self.mapped.page().lower;
        // Acquire: with the words below it.
        let tick = lower.tick.load(Ordering::Acquire).checked_sub(1)?;
        Some(Answer {
            tick: tick.into(),
            force: f64::from_bits(lower.force.load(Ordering::Relaxed)),
            at_ns: lower.at_ns.load(Ordering::Relaxed),
        })
    }

    /// Ends the controller.
    pub fn end(&self, tick: u64) {
        let page = self.mapped.page();
        page.last.store(1, Ordering::Relaxed);
        page.tick.store(tick as u32 + 1, Ordering::Release);
        wake(&page.tick);
    }
}

/// The controller's side: calls `ready` when it is, and `late` with how late it has each tick, until the last. Returns how
/// many it had.
pub fn control(
    memory: OwnedFd,
    waiting: Waiting,
    ready: impl FnOnce() -> Result<()>,
    mut late: impl FnMut(u64),
) -> Result<u64> {
    let mapped = Mapped::of(&File::from(memory))?;
    let page = mapped.page();
    let mut seen = 0;
    let mut handled = 0;
    ready()?;
    loop {
        // Acquire: with what was measured.
        let tick = page.tick.load(Ordering::Acquire);
        if tick == seen {
            match waiting {
                Waiting::Spin => std::hint::spin_loop(),
                Waiting::Block => wait(&page.tick, seen),
            }
            continue;
        }
        if page.last.load(Ordering::Relaxed) == 1 {
            return Ok(handled);
        }
        late(now_ns().saturating_sub(page.due_ns.load(Ordering::Relaxed)));
        let [position, speed, angle, turn] =
            [0, 1, 2, 3].map(|figure| f64::from_bits(page.motion[figure].load(Ordering::Relaxed)));
        let motion = Motion {
            position,
            speed,
            angle,
            turn,
        };
        page.lower.force.store(motion.force().to_bits(), Ordering::Relaxed);
        page.lower.at_ns.store(now_ns(), Ordering::Relaxed);
        // Release: with the words above.
        page.lower.tick.store(tick, Ordering::Release);
        seen = tick;
        handled += 1;
    }
}

fn wake(word: &AtomicU32) {
    // SAFETY: the call looks only at the address of the word.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE, i32::MAX) };
}

/// Sleeps while the word holds `value`. May return early.
fn wait(word: &AtomicU32, value: u32) {
    let second = Duration::from_secs(1);
    let timeout = libc::timespec {
        tv_sec: second.as_secs().cast_signed(),
        tv_nsec: 0,
    };
    // SAFETY: both pointers come from references and are valid during the call, which writes to neither.
    unsafe {
        libc::syscall(
            libc::SYS_futex,
            word.as_ptr(),
            libc::FUTEX_WAIT,
            value,
            &raw const timeout,
        )
    };
}
