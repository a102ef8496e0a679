//! Slots change hands only when their users are certainly gone.

use super::*;
use crate::lock::tests::harness::Shared;
use crate::sys::time::Deadline;

const READY: usize = 1;

#[test]
fn the_slot_of_a_dead_process_is_used_again_under_another_generation() {
    let shared = Shared::new();
    let attachment = shared.attach();
    let mut player = shared.spawn("attach");
    let slot = u32::try_from(shared.await_word(READY) - 1).unwrap();
    let generation = shared_generation(&attachment, slot);
    assert_ne!(slot, attachment.slot());
    assert_eq!(attachment.pid_of(slot), player.pid());
    assert!(!attachment.is_dead(slot, generation));
    player.kill();
    while !attachment.is_dead(slot, generation) {
        std::thread::yield_now();
    }
    player.kill_and_reap();
    assert!(attachment.is_dead(slot, generation), "after it was reaped, too");
    let next = attach_in(&shared, slot);
    assert_eq!((next.slot(), next.generation()), (slot, generation + 1));
    assert!(attachment.is_dead(slot, generation) && !attachment.is_dead(slot, generation + 1));
}

fn shared_generation(attachment: &Attachment, slot: u32) -> u32 {
    let generation = attachment.slot_at(slot).unwrap().generation.load(Ordering::Acquire);
    u32::try_from(generation).unwrap()
}

/// Attaches until it gets a slot whose user has left. Another test's child, forked while that one attached, may keep the
/// byte until it executes its program.
fn attach_in(shared: &Shared, slot: u32) -> Attachment {
    let deadline = Deadline::after(std::time::Duration::from_secs(20));
    loop {
        let attachment = shared.attach();
        if attachment.slot() == slot {
            return attachment;
        }
        assert!(!deadline.passed(), "slot {slot} is not used again");
        drop(attachment);
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
}

#[test]
fn detaching_frees_the_slot() {
    let shared = Shared::new();
    let observer = shared.attach();
    let first = shared.attach();
    let (slot, generation) = (first.slot(), first.generation());
    assert!(!observer.is_dead(slot, generation) && observer.is_this_process(slot));
    drop(first);
    assert!(observer.is_dead(slot, generation) && observer.pid_of(slot) == 0);
    let second = attach_in(&shared, slot);
    assert_eq!((second.slot(), second.generation()), (slot, generation + 1));
}

#[test]
fn a_used_slot_is_swept_before_it_is_used_again() {
    let shared = Shared::new();
    let observer = shared.attach();
    let first = shared.attach();
    let slot = first.slot();
    std::mem::forget(first.lock(shared.lock(5), Deadline::at_once()).unwrap());
    drop(first);
    let second = attach_in(&shared, slot);
    assert_eq!(second.holder(shared.lock(5)), None);
    assert!(observer.lock(shared.lock(5), Deadline::at_once()).unwrap().took_over());
}

#[test]
fn a_detached_participant_cannot_keep_a_lock() {
    let shared = Shared::new();
    let observer = shared.attach();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let first = shared.attach();
            std::mem::forget(first.lock(shared.lock(5), Deadline::at_once()).unwrap());
            drop(first);
        });
    });
    let guard = observer
        .lock(shared.lock(5), Deadline::after(std::time::Duration::from_secs(5)))
        .unwrap();
    assert!(guard.took_over());
}

#[test]
fn another_pid_namespace_is_refused() {
    let shared = Shared::new();
    let namespace = process::pid_namespace().unwrap();
    // SAFETY: the attachment, if there were one, would be dropped before the memory.
    let result = unsafe { Attachment::attach(shared.slots(), shared.reopened(), namespace + 1, &mut |_| ()) };
    assert!(matches!(result, Err(AttachError::PidNamespace { arena, own }) if arena == own + 1));
}

#[test]
fn a_full_table_says_so() {
    let shared = Shared::new();
    let namespace = process::pid_namespace().unwrap();
    let two = NonNull::slice_from_raw_parts(shared.slots().cast(), 2);
    let attach = || {
        // SAFETY: as above; a shorter table is mapped too.
        unsafe { Attachment::attach(two, shared.reopened(), namespace, &mut |_| ()) }
    };
    let _both = (attach().unwrap(), attach().unwrap());
    assert!(matches!(attach(), Err(AttachError::Full { slots: 2 })));
}
