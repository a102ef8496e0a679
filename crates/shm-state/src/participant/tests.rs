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
    let turn = Word64::new(0);
    let entrance = in_turn(&turn);
    // SAFETY: the attachment, if there were one, would be dropped before the memory.
    let result =
        unsafe { Attachment::attach(shared.slots(), shared.reopened(), namespace + 1, &entrance, &mut |_| ()) };
    assert!(matches!(result, Err(AttachError::PidNamespace { arena, own }) if arena == own + 1));
}

#[test]
fn a_full_table_says_so() {
    let shared = Shared::new();
    let namespace = process::pid_namespace().unwrap();
    let two = NonNull::slice_from_raw_parts(shared.slots().cast(), 2);
    let turn = Word64::new(1);
    let attach = || {
        // SAFETY: as above; a shorter table is mapped too.
        unsafe { Attachment::attach(two, shared.reopened(), namespace, &in_turn(&turn), &mut |_| ()) }
    };
    let both = (attach().unwrap(), attach().unwrap());
    assert_eq!((both.0.slot(), both.1.slot()), (1, 0));
    assert!(matches!(attach(), Err(AttachError::Full { slots: 2 })));
}

fn in_turn(turn: &Word64) -> Entrance<'_> {
    Entrance { turn, since: 7 }
}

/// Attaches at the slot that is next in turn.
fn attach_in_turn(shared: &Shared, slots: NonNull<[ParticipantSlot]>, turn: &Word64) -> Attachment {
    let namespace = process::pid_namespace().unwrap();
    // SAFETY: all tests drop the attachment before the memory.
    unsafe { Attachment::attach(slots, shared.reopened(), namespace, &in_turn(turn), &mut |_| ()) }.unwrap()
}

/// The name of whoever was there last was lost when the next process came, since that took the first free slot.
#[test]
fn those_who_left_are_known_until_the_turn_comes_back_to_their_slot() {
    let shared = Shared::new();
    let few = NonNull::slice_from_raw_parts(shared.slots().cast(), 8);
    let turn = Word64::new(0);
    let observer = attach_in_turn(&shared, few, &turn);
    let known = |slot| observer.known(slot).map(|known| (known.pid, known.since));
    assert_eq!((observer.slot(), known(1)), (0, None));
    for slot in 1..8 {
        assert_eq!(attach_in_turn(&shared, few, &turn).slot(), slot);
        assert_eq!((known(slot), observer.pid_of(slot)), (Some((std::process::id(), 7)), 0));
    }
    assert_eq!(turn.load(Ordering::Relaxed), 8);
    // As in `attach_in`.
    let deadline = Deadline::after(std::time::Duration::from_secs(20));
    let attach_at = |number: u64, slot: u32| loop {
        turn.store(number, Ordering::Relaxed);
        let attachment = attach_in_turn(&shared, few, &turn);
        if attachment.slot() == slot {
            return attachment;
        }
        assert!(!deadline.passed(), "turn {number} is that of slot {slot}");
        drop(attachment);
        std::thread::sleep(std::time::Duration::from_millis(1));
    };
    // Any number is a turn; slots in use are passed over.
    let _last = attach_at(8, 1);
    drop(attach_at(u64::MAX, 7));
    assert_eq!(observer.all_known().count(), 8);
}

#[test]
fn a_name_can_be_changed_and_stays_when_its_process_leaves() {
    let shared = Shared::new();
    let observer = shared.attach();
    let other = shared.attach();
    let slot = other.slot();
    let name = || observer.known(slot).unwrap().name;
    assert_eq!(name(), Name::new(&process::program_name()));
    other.rename(Name::new("sampler"));
    assert_eq!(name().text().as_deref(), Some("sampler"));
    drop(other);
    assert_eq!(name().text().as_deref(), Some("sampler"));
    // A death in between: nobody is known by half a name.
    observer.slot_at(slot).unwrap().named.store(0, Ordering::Relaxed);
    assert_eq!(observer.known(slot), None);
}
