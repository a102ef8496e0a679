//! Ids of dead owners that somebody else has: processes and threads whose TID is just what the lock word says. The kernel's
//! mark is lost each time, so everything hangs on proofs. Each scenario plays in a PID namespace of its own, where a
//! test chooses the ids.

mod common;
mod locks;

use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use common::process::{Board, Kid, Role};
use common::{Random, assert_clean, eventually, key, number_from_env};
use locks::inside::Detector;
use locks::mutex::lose_mark;
use locks::trace::Traced;
use locks::{
    FREE, GO_ON, READY, TID, arena, begin, did_not_run, enters_after, exit_thread, hold, is_not_robbed, soon, spaces,
    tid,
};
use shm_state::{Arena, Deadline, Error, Namespace};

/// Set by a thread or a process that got in.
const GOT_IN: u64 = FREE;
/// Set where tracing is not allowed.
const DENIED: u64 = FREE + 1;
/// Between the id of one process and that of the next, room for the threads of the test harness.
const APART: u32 = 20;

#[test]
fn child() {
    let Some(role) = locks::role() else { return };
    match role.name.as_str() {
        // As process 1 of the namespace.
        "stranger" => a_stranger_has_the_id(),
        "participant" => a_participant_has_the_id(),
        "heir" => an_heir_of_the_slot_has_the_id(),
        "thread elsewhere" => a_thread_of_another_participant_has_the_id(),
        "thread idle" => an_idle_thread_of_the_owners_process_has_the_id(),
        "thread locks" => a_thread_of_the_owners_process_has_the_id_and_locks(),
        "stopped taker" => the_id_is_reused_between_proof_and_takeover(&role),
        "churn" => ids_are_reused_all_the_time(),
        // As others.
        "attached" | "attached under the same id" => {
            if role.number > 0 {
                locks::lead_process(role.number as u32);
            }
            let _arena = role.arena();
            role.board.set(READY, 1);
            role.board.wait_for(GO_ON, 1);
        }
        "holds unmarked" => {
            locks::lead_process(role.number as u32);
            let namespace = open(&role);
            let mut tx = begin(namespace);
            tx.put(&key("unfinished"), 1, b"value").unwrap();
            lose_mark();
            hold(&role.board);
        }
        "holds under the same id" => {
            locks::lead_process(role.number as u32);
            let namespace = open(&role);
            let mut tx = begin(namespace);
            tx.put(&key("finished"), 1, b"value").unwrap();
            hold(&role.board);
            tx.commit().unwrap();
        }
        "takes" => {
            let namespace = open(&role);
            role.board.set(TID, u64::from(tid()));
            begin(namespace).commit().unwrap();
            role.board.set(GOT_IN, 1);
        }
        "loses a thread inside" => {
            let namespace = open(&role);
            let board = &role.board;
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    let mut tx = begin(namespace);
                    tx.put(&key("unfinished"), 1, b"value").unwrap();
                    lose_mark();
                    std::mem::forget(tx);
                    board.set(TID, u64::from(tid()));
                    exit_thread();
                });
                board.wait_for(TID, 1);
                let dead = board.get(TID) as u32;
                eventually("the thread to be gone", || !thread_exists(std::process::id(), dead));
                board.set(READY, 1);
                if role.number > 0 {
                    let next = thread_with(dead, || {
                        if role.number == 2 {
                            begin(namespace).commit().unwrap();
                            board.set(GOT_IN, 1);
                        }
                        board.set(READY, 2);
                        board.wait_for(GO_ON, 1);
                    });
                    next.join().unwrap();
                }
                board.wait_for(GO_ON, 2);
                std::process::exit(0);
            });
        }
        "churns" => churn(&role),
        other => panic!("no role {other}"),
    }
}

fn open(role: &Role) -> &'static Namespace {
    let arena: &'static Arena = Box::leak(Box::new(role.arena()));
    Box::leak(Box::new(arena.namespace("n").unwrap()))
}

fn thread_exists(pid: u32, tid: u32) -> bool {
    // SAFETY: signal 0 is not delivered.
    unsafe { libc::syscall(libc::SYS_tgkill, pid, tid, 0) == 0 }
}

/// Starts a thread with this TID, which outlives nothing that `run` uses: it is joined in the same function.
fn thread_with<'a>(id: u32, run: impl FnOnce() + Send + 'a) -> std::thread::JoinHandle<()> {
    let run = move || {
        assert_eq!(tid(), id, "the TID that the dead owner had");
        run();
    };
    spaces::next_id(id);
    // SAFETY: the caller joins it before anything that it borrows goes.
    unsafe { std::thread::Builder::new().spawn_unchecked(run) }.unwrap()
}

/// An owner whose mark is lost, with an id of its own, killed and collected. Whoever opens the arena next gets its slot,
/// unless the process in front is ended before, which had an earlier one.
fn a_dead_owner(arena: &Arena, id: u32, before_death: impl FnOnce()) -> Kid {
    let (first, board) = (Board::new(), Board::new());
    let in_front = Kid::start("attached", 0, Some(arena), &first);
    first.wait_for(READY, 1);
    let owner = Kid::start("holds unmarked", u64::from(id), Some(arena), &board);
    board.wait_for(READY, 1);
    assert_eq!(board.get(TID), u64::from(id));
    is_not_robbed(&arena.namespace("n").unwrap(), id);
    before_death();
    // SAFETY: the owner lives until here, so the id is its own.
    assert_eq!(unsafe { libc::kill(id.cast_signed(), libc::SIGKILL) }, 0);
    // The process between collects the owner.
    assert!(!owner.wait().success());
    in_front
}

fn a_stranger_has_the_id() {
    let (arena, id) = (arena(), 20 * APART);
    let namespace = arena.namespace("n").unwrap();
    let _in_front = a_dead_owner(&arena, id, || ());
    spaces::next_id(id);
    let mut stranger = Command::new("sleep").arg("60").spawn().unwrap();
    assert_eq!(stranger.id(), id);
    enters_after("a stranger has the dead owner's pid and TID", &namespace);
    assert!(stranger.try_wait().unwrap().is_none());
    stranger.kill().unwrap();
    stranger.wait().unwrap();
    assert_eq!(locks::takeovers(&arena, "n"), 1);
    assert!(!namespace.contains(&key("unfinished")).unwrap());
    assert_clean(&arena);
}

fn a_participant_has_the_id() {
    let (arena, id) = (arena(), 20 * APART);
    let namespace = arena.namespace("n").unwrap();
    a_dead_owner(&arena, id, || ()).kill();
    let board = Board::new();
    let start = Instant::now();
    let other = Kid::start("holds under the same id", u64::from(id), Some(&arena), &board);
    board.wait_for(READY, 1);
    eprintln!(
        "a participant with the dead owner's TID: in after {:?}",
        start.elapsed()
    );
    assert_eq!(namespace.lock_holder(), Some((id, id)));
    is_not_robbed(&namespace, id);
    board.set(GO_ON, 1);
    other.succeeds();
    assert!(namespace.contains(&key("finished")).unwrap() && !namespace.contains(&key("unfinished")).unwrap());
    assert_clean(&arena);
}

/// Slot, process, TID: all that the lock says is true of the heir, who never locked. So it is swept before it is his.
fn an_heir_of_the_slot_has_the_id() {
    let (arena, id) = (arena(), 20 * APART);
    let namespace = arena.namespace("n").unwrap();
    let _in_front = a_dead_owner(&arena, id, || ());
    let board = Board::new();
    let heir = Kid::start("attached under the same id", u64::from(id), Some(&arena), &board);
    board.wait_for(READY, 1);
    enters_after("the heir of the slot has the dead owner's TID", &namespace);
    assert_eq!(locks::takeovers(&arena, "n"), 1);
    board.set(GO_ON, 1);
    heir.succeeds();
    assert_clean(&arena);
}

/// A process that lives and whose thread died inside, without a mark. What follows is the role's number.
fn an_owner_without_its_thread(arena: &Arena, then: u64) -> (Kid, Board, u32) {
    let board = Board::new();
    let owner = Kid::start("loses a thread inside", then, Some(arena), &board);
    board.wait_for(READY, 1);
    let id = board.get(TID) as u32;
    (owner, board, id)
}

fn a_thread_of_another_participant_has_the_id() {
    let arena = arena();
    let namespace = arena.namespace("n").unwrap();
    let (owner, board, id) = an_owner_without_its_thread(&arena, 0);
    let locks_itself = thread_with(id, || {
        enters_after("a thread of another process has the dead thread's TID", &namespace);
    });
    locks_itself.join().unwrap();
    board.set(GO_ON, 2);
    owner.succeeds();
    assert_clean(&arena);
}

/// The one thing that cannot be proved: the kernel says that the process and such a thread of it live. Nobody comes in and
/// nobody hangs: the error names the thread. When it ends, or locks itself, the lock is free.
fn an_idle_thread_of_the_owners_process_has_the_id() {
    let arena = arena();
    let namespace = arena.namespace("n").unwrap();
    let (owner, board, id) = an_owner_without_its_thread(&arena, 1);
    board.wait_for(READY, 2);
    let error = namespace.begin(Deadline::after(locks::SEVERAL_PROOFS)).err().unwrap();
    assert!(
        matches!(error, Error::LockTimeout { pid, tid } if (pid, tid) == (owner.pid(), id)),
        "{error}"
    );
    board.set(GO_ON, 1);
    enters_after("an idle thread of the same process had the TID, and ended", &namespace);
    board.set(GO_ON, 2);
    owner.succeeds();
    assert_clean(&arena);
}

fn a_thread_of_the_owners_process_has_the_id_and_locks() {
    let arena = arena();
    let namespace = arena.namespace("n").unwrap();
    let (owner, board, _) = an_owner_without_its_thread(&arena, 2);
    board.wait_for(GOT_IN, 1);
    enters_after("a thread of the same process has the TID, and locked", &namespace);
    assert_eq!(locks::takeovers(&arena, "n"), 1);
    board.set(GO_ON, 2);
    owner.succeeds();
    assert_clean(&arena);
}

/// The taker has its proof and is stopped; the lock goes through other hands and comes to a thread of the very TID that
/// the taker saw. What the taker then does must fail, though half of the word is as it was.
fn the_id_is_reused_between_proof_and_takeover(role: &Role) {
    let (arena, id) = (arena(), 20 * APART);
    let namespace = arena.namespace("n").unwrap();
    let board = Board::new();
    spaces::next_id(40 * APART);
    let mut taker = None;
    let mut traced = None;
    a_dead_owner(&arena, id, || {
        taker = Some(Kid::start("takes", 0, Some(&arena), &board));
        board.wait_for(TID, 1);
        traced = Some(Traced::stop(board.get(TID)));
    })
    .kill();
    let (taker, traced) = (taker.unwrap(), traced.unwrap());
    let traced = match traced {
        Ok(traced) => traced,
        Err(why) => {
            eprintln!("{why}");
            return role.board.set(DENIED, 1);
        }
    };
    // Proving asks for the byte, and then once more whether it asked the right file: the last call before the takeover.
    traced.run_past(|number| number == libc::SYS_fcntl);
    traced.run_past(|_| true);
    let other_board = Board::new();
    let other = Kid::start("holds under the same id", u64::from(id), Some(&arena), &other_board);
    other_board.wait_for(READY, 1);
    assert_eq!(namespace.lock_holder(), Some((id, id)));
    drop(traced);
    is_not_robbed(&namespace, id);
    assert_eq!(board.get(GOT_IN), 0, "the taker came in beside the living owner");
    other_board.set(GO_ON, 1);
    other.succeeds();
    taker.succeeds();
    assert_eq!(board.get(GOT_IN), 1);
    assert!(namespace.contains(&key("finished")).unwrap(), "the owner's commit");
    assert_eq!(locks::takeovers(&arena, "n"), 1, "of the dead owner, by the second one");
    assert_clean(&arena);
}

/// Threads come in and go, of few TIDs; some die inside without a mark.
fn churn(role: &Role) {
    let namespace = open(role);
    let detector: &'static Detector = Box::leak(Box::new(Detector::of_parent()));
    let mut random = Random::new(role.number);
    loop {
        let (kind, spins) = (random.below(8), random.below(200));
        let visitor = std::thread::Builder::new().stack_size(128 << 10);
        let dies = kind == 0;
        let visitor = visitor.spawn(move || {
            let mut tx = begin(namespace);
            if kind < 3 {
                lose_mark();
            }
            detector.visit(|| {
                tx.put(&key("visitor"), 1, &tid().to_le_bytes()).unwrap();
                (0..spins).for_each(|_| std::hint::spin_loop());
                if dies {
                    exit_thread();
                }
            });
            tx.commit().unwrap();
        });
        match visitor {
            // A thread that left by the bare system call cannot be joined.
            Ok(visitor) if !dies => visitor.join().unwrap(),
            Ok(visitor) => eventually("the visitor to end", || visitor_is_gone(&visitor)),
            Err(error) => panic!("{error}"),
        }
    }
}

fn visitor_is_gone(visitor: &std::thread::JoinHandle<()>) -> bool {
    use std::os::unix::thread::JoinHandleExt;
    // SAFETY: never joined nor detached, so the handle is good; the C library knows by the kernel's word that it ended.
    unsafe { libc::pthread_tryjoin_np(visitor.as_pthread_t(), std::ptr::null_mut()) == 0 }
}

fn ids_are_reused_all_the_time() {
    let seconds = number_from_env("SHM_STATE_KILL_SECONDS").unwrap_or(2);
    let (arena, board, detector) = (arena(), Board::new(), Detector::new());
    let namespace = arena.namespace("n").unwrap();
    let mut random = Random::new(7);
    let start = |random: &mut Random| {
        let mut command = Kid::command("churns", random.next(), Some(&arena), &board);
        Kid::spawn(detector.show_to(&mut command))
    };
    let mut kids: Vec<Kid> = (0..3).map(|_| start(&mut random)).collect();
    let end = Instant::now() + Duration::from_secs(seconds);
    let (mut kills, mut longest) = (0u64, Duration::ZERO);
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                spaces::next_id(300);
                std::thread::sleep(Duration::from_micros(300));
            }
        });
        while Instant::now() < end {
            let victim = random.below(3) as usize;
            std::thread::sleep(Duration::from_micros(random.below(20_000)));
            match random.below(4) {
                0 => {
                    // Stopped wherever it is, between a proof and a takeover too.
                    kids[victim].signal(libc::SIGSTOP);
                    std::thread::sleep(Duration::from_micros(random.below(20_000)));
                    kids[victim].signal(libc::SIGCONT);
                }
                _ => {
                    kids.swap_remove(victim).kill();
                    kills += 1;
                    let since = Instant::now();
                    let tx = namespace.begin(soon()).unwrap();
                    longest = longest.max(since.elapsed());
                    detector.visit(|| ());
                    tx.commit().unwrap();
                    kids.push(start(&mut random));
                }
            }
        }
        over.store(true, Ordering::Relaxed);
    });
    kids.clear();
    enters_after("after the churn", &namespace);
    eprintln!(
        "few ids: {kills} processes killed, {} visits, {} deaths inside, longest wait {:.1} ms",
        detector.entries(),
        locks::takeovers(&arena, "n"),
        longest.as_secs_f64() * 1e3
    );
    detector.assert_never_two();
    assert!(detector.entries() > 0 && locks::takeovers(&arena, "n") > 0);
    assert_clean(&arena);
}

fn plays(role: &str) {
    let board = Board::new();
    if let Err(why) = spaces::play_as_process_one(role, 0, &board) {
        did_not_run(role, &why);
    }
    if board.get(DENIED) != 0 {
        did_not_run(role, "this process may not trace its children");
    }
}

#[test]
fn a_dead_owner_whose_id_a_stranger_has() {
    plays("stranger");
}

#[test]
fn a_dead_owner_whose_id_a_participant_has_that_locks() {
    plays("participant");
}

#[test]
fn a_dead_owner_whose_id_and_slot_a_new_process_has() {
    plays("heir");
}

#[test]
fn a_dead_thread_whose_id_a_thread_of_another_participant_has() {
    plays("thread elsewhere");
}

#[test]
fn a_dead_thread_whose_id_an_idle_thread_of_its_process_has() {
    plays("thread idle");
}

#[test]
fn a_dead_thread_whose_id_a_thread_of_its_process_has_that_locks() {
    plays("thread locks");
}

/// With a lock word of 32 bits there were two owners each time.
#[test]
fn a_taker_that_is_stopped_between_proof_and_takeover_takes_nothing_from_a_namesake() {
    plays("stopped taker");
}

#[test]
fn few_ids_reused_all_the_time_by_threads_that_die_inside() {
    plays("churn");
}
