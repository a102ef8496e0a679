//! Random SIGKILLs over writers and watchers of one namespace.
//!
//! Four processes write and four watch. One after the other is killed, at a random moment or, more often, while it is
//! seen inside the writer lock, and another takes its place. After each kill the next owner of the lock must come by at
//! once, the verifier must be content, and what the dead writer had acknowledged must be there, with at most one
//! commit more. Every watcher has seen or missed exactly what was committed, in order, and never saw half a commit.
//!
//! `cargo xtask soak` makes it long: `ZPROC_SOAK=1` with `ZPROC_SOAK_KILLS` and `ZPROC_SOAK_SEED`.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use shm_state::{
    Arena, ArenaOptions, Deadline, Ended, Filter, History, KeyRef, Namespace, Next, On, Strategy, Transaction,
};

const KILLS: u64 = 2000;
const WRITERS: u64 = 4;
const WATCHERS: u64 = 4;
/// Keys that are always set together.
const GROUP: usize = 8;
/// Only ends a hang: nothing should take that long.
const PATIENCE: Duration = Duration::from_secs(60);

/// Places on the board: one number a process from each of these.
const ACKNOWLEDGED: u64 = 0;
const STARTED_AT: u64 = 16;
const SEEN: u64 = 32;
const MISSED: u64 = 48;
/// 1: the writers stop; 2: the watchers stop when they have seen everything.
const STOP: u64 = 64;

/// Numbers that outlive whoever wrote them: words of a file that has no name any more.
struct Board(File);

impl Board {
    fn new() -> Self {
        let path = format!("/dev/shm/zproc-soak-{}", std::process::id());
        let file = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)
            .unwrap();
        std::fs::remove_file(path).unwrap();
        file.set_len(4096).unwrap();
        Self(file)
    }

    fn get(&self, at: u64) -> u64 {
        let mut bytes = [0; 8];
        self.0.read_exact_at(&mut bytes, at * 8).unwrap();
        u64::from_le_bytes(bytes)
    }

    fn set(&self, at: u64, value: u64) {
        self.0.write_all_at(&value.to_le_bytes(), at * 8).unwrap();
    }
}

/// Pseudo-random numbers (xorshift64*).
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) % end
    }
}

fn key(text: &str) -> KeyRef<'_> {
    KeyRef::new(0, text.as_bytes())
}

fn number(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(bytes.try_into().unwrap())
}

fn counter_of(writer: u64) -> String {
    format!("writer {writer}")
}

/// A process of the soak. It is killed when this is dropped.
struct Kid {
    number: u64,
    process: Child,
}

impl Kid {
    fn start(number: u64, arena: &Arena, board: &Board, seed: u64) -> Self {
        let own = std::process::id();
        let path = |fd: i32| format!("/proc/{own}/fd/{fd}");
        let process = Command::new("/proc/self/exe")
            .args(["--exact", "child", "--nocapture", "--test-threads=1"])
            .env("ZPROC_SOAK_CHILD", number.to_string())
            .env("ZPROC_SOAK_CHILD_SEED", seed.to_string())
            .env("ZPROC_SOAK_ARENA", path(arena.fd().unwrap().as_raw_fd()))
            .env("ZPROC_SOAK_BOARD", path(board.0.as_raw_fd()))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        Self { number, process }
    }

    fn kill(&mut self) {
        let early = self.process.try_wait().unwrap();
        assert!(early.is_none(), "process {} ended by itself: {early:?}", self.number);
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    fn finish(mut self) {
        let start = Instant::now();
        while start.elapsed() < PATIENCE {
            if let Some(status) = self.process.try_wait().unwrap() {
                assert!(status.success(), "process {}: {status}", self.number);
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        panic!("process {} does not end", self.number);
    }
}

impl Drop for Kid {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Not a test by itself: what the processes of the soak do.
#[test]
fn child() {
    let Ok(number) = std::env::var("ZPROC_SOAK_CHILD") else {
        return;
    };
    let number: u64 = number.parse().unwrap();
    let open = |variable| {
        File::options()
            .read(true)
            .write(true)
            .open(std::env::var(variable).unwrap())
            .unwrap()
    };
    let board = Board(open("ZPROC_SOAK_BOARD"));
    let arena = Arena::from_fd(open("ZPROC_SOAK_ARENA").into()).unwrap();
    let namespace = arena.namespace("soak").unwrap();
    let seed = std::env::var("ZPROC_SOAK_CHILD_SEED").unwrap().parse().unwrap();
    if number < WRITERS {
        write(&namespace, number, &board, &mut Random::new(seed));
    } else {
        watch(&namespace, number, &board);
    }
}

fn orphaned(parent: u32) -> bool {
    std::os::unix::process::parent_id() != parent
}

fn write(namespace: &Namespace, own: u64, board: &Board, random: &mut Random) {
    let parent = std::os::unix::process::parent_id();
    let counter = counter_of(own);
    let counter = key(&counter);
    while board.get(STOP) == 0 && !orphaned(parent) {
        let mut tx = namespace.begin(Deadline::after(PATIENCE)).unwrap();
        let next = tx.get(&counter).unwrap().map_or(0, |value| number(value.bytes())) + 1;
        tx.put(&counter, 1, &next.to_le_bytes()).unwrap();
        change(&mut tx, own, next, random);
        tx.commit().unwrap();
        board.set(ACKNOWLEDGED + own, next);
        // Some leave the others the lock, some do not.
        if random.below(4) == 0 {
            std::thread::sleep(Duration::from_micros(random.below(300)));
        }
    }
}

/// Something or other beside the counter.
fn change(tx: &mut Transaction<'_>, own: u64, value: u64, random: &mut Random) {
    match random.below(8) {
        0..=2 => {
            for member in 0..GROUP {
                tx.put(&key(&format!("group {member}")), 1, &(value << 8 | own).to_le_bytes())
                    .unwrap();
            }
        }
        3 => drop(tx.remove(&key(&format!("extra {}", random.below(30)))).unwrap()),
        4 => {
            let name = format!("extra {}", random.below(30));
            tx.put(&key(&name), 2, &vec![own as u8; random.below(3000) as usize])
                .unwrap();
        }
        5 => {
            // A key that comes and goes makes the index anew now and then.
            tx.remove(&key(&format!("passing {}", value % 50))).unwrap();
            tx.put(&key(&format!("passing {}", (value + 25) % 50)), 1, &value.to_le_bytes())
                .unwrap();
        }
        6..=7 => {
            let until = Instant::now() + Duration::from_micros(random.below(400));
            while Instant::now() < until {
                std::hint::spin_loop();
            }
        }
        _ => {}
    }
}

fn watch(namespace: &Namespace, own: u64, board: &Board) {
    let parent = std::os::unix::process::parent_id();
    let start = namespace.seq();
    let (mut cursor, mut seen, mut missed) = (start, 0, 0);
    board.set(STARTED_AT + own, start);
    let strategies = [Strategy::Block, Strategy::default()];
    while (board.get(STOP) < 2 || cursor < namespace.seq()) && !orphaned(parent) {
        match namespace
            .next_match(&mut cursor, namespace.seq(), Filter::Any, true, None)
            .unwrap()
        {
            Next::Match(seq) => {
                seen += 1;
                assert_eq!(start + seen + missed, seq, "in order, and none left out");
                check_record(namespace, seq);
            }
            Next::Lagged(lost) => missed += lost,
            Next::Nothing => {
                let cancel = AtomicBool::new(false);
                let deadline = Deadline::after(Duration::from_millis(20));
                let newer = |seq| Ok((seq > cursor).then_some(()));
                let strategy = strategies[own as usize % 2];
                let ended = namespace.wait(On::Any, strategy, deadline, &cancel, newer).unwrap();
                assert_ne!(ended, Err(Ended::Cancelled));
            }
        }
        assert_eq!(start + seen + missed, cursor);
        if seen % 16 == 0 {
            check_snapshot(namespace);
        }
    }
    board.set(SEEN + own, seen);
    board.set(MISSED + own, missed);
}

/// The record of a commit is that of a writer, and its keys can be read; unless it fell out of the history meanwhile.
fn check_record(namespace: &Namespace, seq: u64) {
    let Some(record) = namespace.record(seq).unwrap() else {
        return;
    };
    assert!(
        record.seq == seq && record.pid != 0 && !record.changes.is_empty(),
        "{record:?}"
    );
    if let Some(keys) = namespace.changed_keys(&record).unwrap() {
        assert!(
            keys.iter().any(|(key, _)| key.bytes().starts_with(b"writer ")),
            "{keys:?}"
        );
    }
}

/// What is always set together is the same in every snapshot.
fn check_snapshot(namespace: &Namespace) {
    let pinned = namespace.pin().unwrap();
    let members = (0..GROUP).map(|member| pinned.get(&key(&format!("group {member}"))).unwrap());
    let members: Vec<_> = members.collect();
    assert!(
        members.windows(2).all(|pair| pair[0] == pair[1]),
        "half a commit: {members:?}"
    );
    assert_eq!(
        pinned.iter().unwrap().filter(Result::is_ok).count(),
        pinned.len().unwrap()
    );
}

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Which process to kill: often the one that is inside the writer lock right now.
fn choose(kids: &[Kid], namespace: &Namespace, random: &mut Random) -> usize {
    let mut seen = None;
    let looks = if random.below(8) > 0 { 20_000 } else { 0 };
    for _ in 0..looks {
        let now = namespace.lock_holder();
        let inside = now.and_then(|(pid, _)| kids.iter().position(|kid| kid.process.id() == pid));
        // Seen twice in a row: its transaction is long enough for the signal to arrive in time, more often than not.
        match inside {
            Some(inside) if now == seen => return inside,
            _ => seen = now,
        }
    }
    random.below(kids.len() as u64) as usize
}

/// What must hold after a kill.
fn check(arena: &Arena, namespace: &Namespace, board: &Board, killed: u64) {
    let tx = namespace
        .begin(Deadline::after(PATIENCE))
        .expect("the next writer after a kill");
    if killed < WRITERS {
        let stored = tx
            .get(&key(&counter_of(killed)))
            .unwrap()
            .map_or(0, |value| number(value.bytes()));
        let acknowledged = board.get(ACKNOWLEDGED + killed);
        assert!(
            (acknowledged..=acknowledged + 1).contains(&stored),
            "writer {killed} acknowledged {acknowledged}, {stored} is stored"
        );
        // The one who takes its place goes on from there.
        board.set(ACKNOWLEDGED + killed, stored);
    }
    drop(tx);
    let report = arena.verify().unwrap();
    assert!(
        report.is_clean(),
        "after a kill of process {killed}: {:#?}",
        report.problems
    );
}

#[test]
fn random_kills_lose_nothing_and_stop_nobody() {
    let long = variable("ZPROC_SOAK").is_some_and(|on| on != 0);
    let kills = if long {
        variable("ZPROC_SOAK_KILLS").unwrap_or(5 * KILLS)
    } else {
        KILLS
    };
    let seed = variable("ZPROC_SOAK_SEED").unwrap_or(u64::from(std::process::id()));
    println!("{kills} kills, ZPROC_SOAK_SEED={seed}");
    let mut random = Random::new(seed);
    let history = History {
        count: 16,
        bytes: 1 << 20,
    };
    let arena = Arena::anonymous(&ArenaOptions {
        capacity: 64 << 20,
        history,
    })
    .unwrap();
    let namespace = arena.namespace("soak").unwrap();
    let board = Board::new();
    let mut start = |number| Kid::start(number, &arena, &board, random.below(u64::MAX));
    let mut kids: Vec<Kid> = (0..WRITERS + WATCHERS).map(&mut start).collect();

    for _ in 0..kills {
        std::thread::sleep(Duration::from_micros(random.below(1500)));
        let at = choose(&kids, &namespace, &mut random);
        kids[at].kill();
        let number = kids[at].number;
        check(&arena, &namespace, &board, number);
        kids[at] = Kid::start(number, &arena, &board, random.below(u64::MAX));
    }

    // Everybody gets to work once more before the end.
    std::thread::sleep(Duration::from_millis(100));
    let (writers, watchers): (Vec<Kid>, Vec<Kid>) = kids.into_iter().partition(|kid| kid.number < WRITERS);
    board.set(STOP, 1);
    writers.into_iter().for_each(Kid::finish);
    board.set(STOP, 2);
    watchers.into_iter().for_each(Kid::finish);
    let committed = namespace.seq();
    let stored = |writer| {
        namespace
            .get(&key(&counter_of(writer)))
            .unwrap()
            .map_or(0, |v| number(v.bytes()))
    };
    assert_eq!(
        (0..WRITERS).map(stored).sum::<u64>(),
        committed,
        "each commit is in one counter"
    );
    for writer in 0..WRITERS {
        assert_eq!(
            stored(writer),
            board.get(ACKNOWLEDGED + writer),
            "writer {writer}, who was not killed at the end"
        );
    }
    for watcher in WRITERS..WRITERS + WATCHERS {
        let sum = board.get(STARTED_AT + watcher) + board.get(SEEN + watcher) + board.get(MISSED + watcher);
        assert_eq!(sum, committed, "what watcher {watcher} saw and missed");
    }
    let report = arena.verify().unwrap();
    assert!(report.is_clean(), "{:#?}", report.problems);
    // Every death inside the lock, and no other, is made up for by whoever gets it next.
    let inside = arena.stats().unwrap().namespaces[0].recoveries;
    println!("{committed} commits, {kills} kills, {inside} of them inside the writer lock");
    assert!(
        inside * 5 >= kills,
        "only {inside} of {kills} kills were inside the lock"
    );
}
