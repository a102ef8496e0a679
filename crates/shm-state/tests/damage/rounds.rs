//! Rounds in processes of their own. A worker draws and runs one case after the other, each under a limit of time and
//! all under one of memory, and notes which one it is at. However it ends, its parent knows the case, makes it smaller
//! as long as it still does harm, and reports it as a file for the corpus.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Instant;

use super::layout::Image;
use super::mutate::{Case, draw};
use crate::common::Random;
use crate::common::process::{Board, Kid, Role};

/// Places on the board.
const FIRST: u64 = 0;
const COUNT: u64 = 1;
const AT: u64 = 2;
const NOTICED: u64 = 3;
/// Milliseconds that the longest round took, and which it was.
const LONGEST: u64 = 4;
const LONGEST_AT: u64 = 5;

/// Processor time that one round may take before it counts as an endless loop.
const MOST_SECONDS: i64 = 20;
/// The same by the clock, for sleeps without an end.
const MOST_SLEEP: u32 = 120;
/// Memory that a worker may take beyond what it has when it starts: no length in an arena makes it need that.
const MOST_MEMORY: u64 = 256 << 20;

const FILE: &str = "SHM_STATE_TEST_CASE";

/// What is tested: the images, and how one is used.
pub struct Subject {
    pub names: &'static [&'static str],
    pub image: fn(&str) -> Image,
    pub run: fn(&Image, &Case) -> usize,
}

impl Subject {
    fn drawn(&self, images: &[Image], seed: u64) -> Case {
        let mut random = Random::new(seed);
        let which = random.below(self.names.len() as u64) as usize;
        draw(&images[which], self.names[which], &mut random)
    }

    fn run_one(&self, images: &[Image], case: &Case) -> usize {
        start_clock();
        let name = case.setting("image");
        let which = self.names.iter().position(|known| name.first() == Some(known));
        (self.run)(&images[which.expect("a case names its image")], case)
    }

    /// What a child process of these tests does. To be called from the test named `child`.
    pub fn play(&self, role: &Role) {
        let images: Vec<Image> = self.names.iter().map(|name| (self.image)(name)).collect();
        limit_memory(images.iter().map(|image| image.capacity).max().unwrap_or(0));
        if role.name == "replay" {
            let case = Case::parse(&fs::read_to_string(std::env::var(FILE).unwrap()).unwrap());
            role.board.set(NOTICED, self.run_one(&images, &case) as u64);
            return;
        }
        let first = role.board.get(FIRST);
        for seed in first..first.wrapping_add(role.board.get(COUNT)) {
            role.board.set(AT, seed);
            let start = Instant::now();
            let errors = self.run_one(&images, &self.drawn(&images, seed));
            let taken = start.elapsed().as_millis() as u64;
            if taken > role.board.get(LONGEST) {
                role.board.set(LONGEST, taken);
                role.board.set(LONGEST_AT, seed);
            }
            role.board.set(NOTICED, role.board.get(NOTICED) + u64::from(errors > 0));
        }
    }

    /// Runs so many rounds from a seed on. Returns in how many of them the damage was noticed.
    pub fn rounds(&self, first: u64, count: u64) -> u64 {
        if count == 1 {
            let images: Vec<Image> = self.names.iter().map(|name| (self.image)(name)).collect();
            println!("{}", self.drawn(&images, first).lines.join("\n"));
        }
        let workers = count.min(2);
        let boards: Vec<Board> = (0..workers)
            .map(|worker| {
                let board = Board::new();
                let share = count / workers + u64::from(worker < count % workers);
                board.set(FIRST, first.wrapping_add(worker * count.div_ceil(workers)));
                board.set(COUNT, share);
                board
            })
            .collect();
        let kids: Vec<Kid> = boards
            .iter()
            .map(|board| Kid::start("rounds", 0, None, board))
            .collect();
        let ends: Vec<ExitStatus> = kids.into_iter().map(Kid::wait_for_ever).collect();
        for (end, board) in ends.iter().zip(&boards) {
            if !end.success() {
                self.report(*end, board.get(AT));
            }
        }
        let longest = boards
            .iter()
            .map(|board| (board.get(LONGEST), board.get(LONGEST_AT)))
            .max();
        let (longest, seed) = longest.unwrap_or_default();
        let noticed = boards.iter().map(|board| board.get(NOTICED)).sum();
        println!(
            "{count} rounds from ZPROC_DAMAGE_SEED={first}: {noticed} noticed; the longest took {longest} ms (seed {seed})"
        );
        noticed
    }

    fn report(&self, end: ExitStatus, seed: u64) -> ! {
        let images: Vec<Image> = self.names.iter().map(|name| (self.image)(name)).collect();
        let mut case = self.drawn(&images, seed);
        let file = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("damage-{seed}.txt"));
        if replay(&case, &file).0.success() {
            let text = case.lines.join("\n");
            panic!("seed {seed} ended a worker ({end}), but does no harm when it is run alone:\n{text}");
        }
        // Without each line in turn.
        let mut at = 0;
        while at < case.lines.len() {
            let mut smaller = case.clone();
            let line = smaller.lines.remove(at);
            if !line.starts_with("image") && !replay(&smaller, &file).0.success() {
                case = smaller;
            } else {
                at += 1;
            }
        }
        let (end, _) = replay(&case, &file);
        panic!(
            "seed {seed}: {end}. Put this into the corpus, with its story ({}):\n{}",
            file.display(),
            case.lines.join("\n")
        );
    }

    /// Runs every case of a directory, each in a process of its own. Returns how many there were.
    pub fn replay_all(&self, corpus: &Path) -> usize {
        let mut files: Vec<PathBuf> = fs::read_dir(corpus).unwrap().map(|file| file.unwrap().path()).collect();
        files.retain(|file| file.extension().is_some_and(|end| end == "txt"));
        files.sort();
        for file in &files {
            let text = fs::read_to_string(file).unwrap();
            assert!(text.starts_with('#'), "{} has no story", file.display());
            let (end, errors) = replay_file(file);
            assert!(end.success(), "{}: {end}", file.display());
            let quiet = text.contains("# It is not noticed.");
            assert!(quiet || errors > 0, "{}: the damage was not noticed", file.display());
        }
        files.len()
    }
}

fn replay(case: &Case, file: &Path) -> (ExitStatus, u64) {
    fs::write(file, case.lines.join("\n") + "\n").unwrap();
    replay_file(file)
}

fn replay_file(file: &Path) -> (ExitStatus, u64) {
    let board = Board::new();
    let mut command = Kid::command("replay", 0, None, &board);
    let end = Kid::spawn(command.env(FILE, file)).wait_for_ever();
    (end, board.get(NOTICED))
}

/// Gives the round that begins its time: SIGPROF or SIGALRM, which nobody handles, end a process that exceeds it.
pub fn start_clock() {
    let time = libc::itimerval {
        it_interval: libc::timeval { tv_sec: 0, tv_usec: 0 },
        it_value: libc::timeval {
            tv_sec: MOST_SECONDS,
            tv_usec: 0,
        },
    };
    // SAFETY: a plain request to the kernel; `time` outlives the call.
    unsafe { libc::setitimer(libc::ITIMER_PROF, &raw const time, std::ptr::null_mut()) };
    // SAFETY: a plain request to the kernel.
    unsafe { libc::alarm(MOST_SLEEP) };
}

/// An allocation by a stored length fails, and so ends the process, instead of taking the machine's memory. The address
/// space of an arena comes on top.
pub fn limit_memory(arena: u64) {
    let statm = fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = statm.split(' ').next().unwrap().parse().unwrap();
    let limit = libc::rlimit {
        rlim_cur: pages * 4096 + MOST_MEMORY + arena,
        rlim_max: libc::RLIM_INFINITY,
    };
    // SAFETY: a plain request to the kernel; `limit` outlives the call.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_AS, &raw const limit) }, 0);
}
