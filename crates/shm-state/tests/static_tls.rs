//! A program whose static thread locals are larger than the stack of a small thread. The C library takes them out of the
//! stack, so the thread that tries the kernel's robust futexes could not be started, and no arena opened.

use std::cell::Cell;

use shm_state::{Arena, ArenaOptions};

thread_local! {
    static LARGE: [Cell<u8>; 1 << 20] = const { [const { Cell::new(0) }; 1 << 20] };
}

#[test]
fn large_thread_locals_do_not_keep_a_program_from_opening_an_arena() {
    LARGE.with(|bytes| bytes[1 << 19].set(1));
    Arena::anonymous(&ArenaOptions::default())
        .unwrap()
        .namespace("n")
        .unwrap();
}
