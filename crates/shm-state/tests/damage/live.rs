//! Damage to an arena that is in use: two readers, a writer and a watcher in processes of their own, and a fifth that
//! changes words under their hands, by writing the file and not through the engine. Most of the damage is undone after a
//! moment, so that work goes on and the next damage meets something.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use nix::sys::memfd::{MFdFlags, memfd_create};
use shm_state::{Arena, Deadline};

use super::exercise::{Errors, read, watch, write};
use super::images;
use super::layout::Image;
use super::mutate::{differences, draw};
use super::rounds::{limit_memory, start_clock};
use crate::common::Random;
use crate::common::process::{Board, Kid, Role, end_of, start_fork};

/// How long one arena is used. Much of it stays damaged, so a fresh one is more to the point.
const ROUND: Duration = Duration::from_millis(200);
/// What a call with a deadline of some milliseconds may take on a machine that does much else.
const MOST_LATE: Duration = Duration::from_secs(8);

/// Places on the board.
const SEED: u64 = 0;
const STRUCK: u64 = 1;
const WORKED: u64 = 2;
const ROUNDS: u64 = 3;

/// Runs rounds for so long.
pub fn run(seed: u64, seconds: u64) {
    let board = Board::new();
    board.set(SEED, seed);
    let end = Kid::start("live", seconds, None, &board).wait_for_ever();
    let (rounds, struck, worked) = (board.get(ROUNDS), board.get(STRUCK), board.get(WORKED));
    println!("{rounds} arenas from ZPROC_DAMAGE_SEED={seed}: damaged {struck} times, used {worked} times meanwhile");
    assert!(end.success(), "round {rounds} of ZPROC_DAMAGE_SEED={seed}: {end}");
    assert!(struck > 10 && worked > 10, "hardly anything happened");
}

/// What the role "live" does.
pub fn play(role: &Role) {
    limit_memory(0);
    let image = images::image("roomy");
    let end = Instant::now() + Duration::from_secs(role.number);
    while Instant::now() < end {
        let round = role.board.get(ROUNDS);
        one_round(&image, role.board.get(SEED).wrapping_add(round), &role.board);
        role.board.set(ROUNDS, round + 1);
    }
}

fn one_round(image: &Image, seed: u64, board: &Board) {
    let file = File::from(memfd_create("live", MFdFlags::MFD_CLOEXEC).unwrap());
    file.set_len(image.capacity).unwrap();
    file.write_all_at(&image.bytes, 0).unwrap();
    let jobs: [fn(&File, Instant) -> u64; 4] = [reader, reader, writer, watcher];
    let end = Instant::now() + ROUND;
    let kids: Vec<i32> = (10..)
        .zip(jobs)
        .map(|(place, job)| {
            start_fork(|| {
                start_clock();
                board.set(place, job(&file, end));
            })
        })
        .collect();
    let struck = strike(image, &file, seed, end);
    for (kid, name) in kids.into_iter().zip(["reader", "reader", "writer", "watcher"]) {
        let end = end_of(kid);
        assert!(
            end.success(),
            "the {name}: {end}; seed {seed}; damage so far:\n{}",
            struck.join("\n")
        );
    }
    board.set(STRUCK, board.get(STRUCK) + struck.len() as u64);
    let worked: u64 = (10..14).map(|place| board.get(place)).sum();
    board.set(WORKED, board.get(WORKED) + worked);
}

/// Damages the file until the end of the round. Returns what was done.
fn strike(image: &Image, file: &File, seed: u64, end: Instant) -> Vec<String> {
    let mut random = Random::new(seed);
    let mut done = Vec::new();
    while Instant::now() < end {
        std::thread::sleep(Duration::from_micros(random.below(4000)));
        let mut case = draw(image, "roomy", &mut random);
        // A lock word that names a living thread is believed: then nothing would happen any more.
        case.lines
            .retain(|line| !line.ends_with("pid") && !line.ends_with("tid"));
        let mut damaged = image.clone();
        case.apply(&mut damaged);
        let patch = differences(image, &damaged);
        let before: Vec<[u8; 8]> = patch.iter().map(|(at, _)| word(file, *at)).collect();
        for (at, new) in &patch {
            file.write_all_at(&new.to_le_bytes(), *at as u64).unwrap();
        }
        done.extend(case.lines.split_off(2));
        if random.below(8) != 0 {
            std::thread::sleep(Duration::from_micros(random.below(2000)));
            for ((at, _), old) in patch.iter().zip(before) {
                file.write_all_at(&old, *at as u64).unwrap();
            }
            done.push("(undone)".into());
        }
    }
    done
}

fn word(file: &File, at: usize) -> [u8; 8] {
    let mut bytes = [0; 8];
    file.read_exact_at(&mut bytes, at as u64).unwrap();
    bytes
}

/// Opens the arena and works with it again and again, three times before it opens it anew. Returns how often.
fn work(file: &File, end: Instant, mut job: impl FnMut(&shm_state::Namespace, &mut Errors)) -> u64 {
    let mut worked = 0;
    while Instant::now() < end {
        let Ok(arena) = Arena::from_fd(file.try_clone().unwrap().into()) else {
            continue;
        };
        for name in ["a", "a", "b"] {
            if let Ok(namespace) = arena.namespace(name) {
                job(&namespace, &mut Errors::default());
                worked += 1;
            }
        }
    }
    worked
}

fn reader(file: &File, end: Instant) -> u64 {
    work(file, end, read)
}

fn writer(file: &File, end: Instant) -> u64 {
    work(file, end, |namespace, errors| {
        let start = Instant::now();
        let _ = namespace.begin(Deadline::after(Duration::from_millis(10)));
        assert!(
            start.elapsed() < MOST_LATE,
            "a transaction began {:?} late",
            start.elapsed()
        );
        write(namespace, errors);
    })
}

fn watcher(file: &File, end: Instant) -> u64 {
    work(file, end, |namespace, errors| {
        let start = Instant::now();
        watch(namespace, errors);
        assert!(
            start.elapsed() < 4 * MOST_LATE,
            "a watcher was {:?} late",
            start.elapsed()
        );
    })
}
