//! Processes that were there and died: what they leave behind is part of the state that an operation begins with.

use std::fs::File;
use std::os::unix::fs::FileExt;

use super::scenario::World;
use crate::common::model::put;
use crate::common::process::fork;

/// Where it says whose turn it is among the participants' slots, see `docs/design.md`.
const NEXT_SLOT: u64 = 152;

/// Dies without warning.
fn die() -> ! {
    // SAFETY: a signal to this process, which nothing can handle.
    unsafe { libc::raise(libc::SIGKILL) };
    unreachable!()
}

/// A process that pins the newest snapshot and is killed.
pub fn pins_and_dies(world: &mut World) {
    let signal = fork(|| {
        let (_arena, namespace) = world.open();
        let _pinned = namespace.pin().unwrap();
        namespace.publish_cursor(namespace.seq());
        die();
    });
    assert_eq!(signal, Some(libc::SIGKILL));
}

/// A process that is killed in a transaction and beside a snapshot, without the kernel knowing of its lock: whoever
/// gets its slot, or waits for the lock, has to find out.
pub fn dies_unmarked(world: &mut World) {
    let signal = fork(|| {
        let (_arena, namespace) = world.open();
        let _pinned = namespace.pin().unwrap();
        let mut tx = namespace.begin(shm_state::Deadline::never()).unwrap();
        crate::common::model::apply_in(&mut tx, &put("a", 70_000)).unwrap();
        // The head of an empty robust list: it points to itself.
        let mut head = [0usize; 3];
        head[0] = head.as_ptr().addr();
        // SAFETY: `head` outlives this thread, which ends before it returns.
        let result = unsafe { libc::syscall(libc::SYS_set_robust_list, head.as_ptr(), size_of_val(&head)) };
        assert_eq!(result, 0);
        die();
    });
    assert_eq!(signal, Some(libc::SIGKILL));
    // Whoever comes next gets its slot, as it would be after some thousand processes.
    let file = File::from(world.arena.fd().unwrap().try_clone_to_owned().unwrap());
    let mut turn = [0; 8];
    file.read_exact_at(&mut turn, NEXT_SLOT).unwrap();
    let its_own = u64::from_le_bytes(turn) - 1;
    file.write_all_at(&its_own.to_le_bytes(), NEXT_SLOT).unwrap();
}
