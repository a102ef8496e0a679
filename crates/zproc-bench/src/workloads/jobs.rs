//! What the other processes do.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::board::{Board, SAMPLES};
use crate::clock::{now_ns, stay_busy};
use crate::peer::{Peer, Service};
use crate::rivals::{COUNTER, Client, MESSAGE, News, Operation, Rival, Waiting, Watcher};
use crate::{cpu, for_each_rival, futex};

/// Adds one until told to stop; says how often.
pub const INCREMENT: u32 = 1;
/// Receives so many messages, spinning; hands back how long each took.
pub const RECEIVE_SPINNING: u32 = 2;
/// The same, asleep.
pub const RECEIVE_ASLEEP: u32 = 3;
/// The same by a bare futex.
pub const RECEIVE_BY_FUTEX: u32 = 4;
/// The same by a Unix socket.
pub const RECEIVE_BY_SOCKET: u32 = 5;
/// The same by a word that both look at.
pub const RECEIVE_BY_WORD: u32 = 6;
/// Has so many threads watch, from then on.
pub const CROWD: u32 = 7;
/// Answers so many ticks, at a real-time priority if that is allowed; hands back how long after each was told it had it.
pub const CONTROL: u32 = 8;
/// The same by a bare futex.
pub const CONTROL_BY_FUTEX: u32 = 9;
/// Works for so many nanoseconds on each message, until none comes any more; says how many came.
pub const SLOW: u32 = 10;
/// Changes the state until it is killed.
pub const WRITE: u32 = 11;
/// Opens the dict and reads.
pub const READ_ONCE: u32 = 12;
/// Changes the state once; says when it had.
pub const WRITE_ONCE: u32 = 13;
/// Finds the dict and reads; says how many nanoseconds that took.
pub const OPEN: u32 = 14;
/// Makes a dict with so many keys; says how many bytes it and what serves it take.
pub const WEIGH: u32 = 15;

/// What `received` says when a receiver has begun to watch.
pub const READY: u64 = u64::MAX;
/// Nothing that is waited for takes so long.
const PATIENCE: Duration = Duration::from_secs(20);

/// Starts a process that uses a rival's dict.
pub fn spawn<R: Rival>(cpu: usize, address: &str) -> Peer {
    Peer::spawn(cpu, &[R::NAME.into(), address.into()])
}

/// Serves as what [`spawn`] asked for.
pub fn serve(service: &Service) -> ! {
    let name = service.arguments.first().expect("the name of a rival");
    for_each_rival!(serve_if_named(service, name));
    service.serve(|board, job, argument| match job {
        RECEIVE_BY_FUTEX => receive_by_futex(board, argument),
        RECEIVE_BY_WORD => receive_by_word(board, argument),
        RECEIVE_BY_SOCKET => receive_by_socket(board, argument, &service.arguments[1]),
        CONTROL_BY_FUTEX => in_real_time(|| control_by_futex(board, argument)),
        _ => unreachable!("job {job}"),
    })
}

fn serve_if_named<R: Rival>(service: &Service, name: &str) {
    if name != R::NAME {
        return;
    }
    let address = service.arguments[1].as_str();
    let mut ways = Ways::<R>::new(address);
    service.serve(|board, job, argument| match job {
        INCREMENT => increment(board, ways.client()),
        RECEIVE_SPINNING => receive(board, argument, told_by(ways.spinning())),
        RECEIVE_ASLEEP => receive(board, argument, told_by(ways.asleep())),
        CROWD => crowd::<R>(board, address, argument),
        CONTROL => in_real_time(|| {
            let (client, watcher) = ways.both();
            control(board, argument, told_by(watcher), |_, tick| client.set(COUNTER, tick))
        }),
        SLOW => slow(board, ways.asleep(), Duration::from_nanos(argument)),
        WRITE => write::<R>(ways.client()),
        READ_ONCE => ways.client().get(COUNTER).expect("is present"),
        WRITE_ONCE => write_once(ways.client()),
        OPEN => {
            let start = Instant::now();
            R::Client::open(address).get(COUNTER).expect("is present");
            start.elapsed().as_nanos() as u64
        }
        WEIGH => super::size::weigh::<R>(argument as usize),
        _ => unreachable!("job {job}"),
    })
}

/// This process's ways to a dict, opened when they are needed.
struct Ways<'a, R: Rival> {
    address: &'a str,
    client: Option<R::Client>,
    spinning: Option<R::Watcher>,
    asleep: Option<R::Watcher>,
}

impl<'a, R: Rival> Ways<'a, R> {
    fn new(address: &'a str) -> Self {
        Self {
            address,
            client: None,
            spinning: None,
            asleep: None,
        }
    }

    fn client(&mut self) -> &mut R::Client {
        self.client.get_or_insert_with(|| R::Client::open(self.address))
    }

    fn spinning(&mut self) -> &mut R::Watcher {
        let open = || R::Watcher::open(self.address, MESSAGE, Waiting::Spinning);
        self.spinning.get_or_insert_with(open)
    }

    fn asleep(&mut self) -> &mut R::Watcher {
        let open = || R::Watcher::open(self.address, MESSAGE, Waiting::Asleep);
        self.asleep.get_or_insert_with(open)
    }

    fn both(&mut self) -> (&mut R::Client, &mut R::Watcher) {
        self.client();
        self.asleep();
        self.client
            .as_mut()
            .zip(self.asleep.as_mut())
            .expect("both were just opened")
    }
}

fn increment(board: &Board, client: &mut impl Client) -> u64 {
    let mut count = 0;
    while board.stop.load(Ordering::Relaxed) == 0 {
        client.increment(COUNTER);
        count += 1;
    }
    count
}

/// The next number that a watcher is told.
fn told_by(watcher: &mut impl Watcher) -> impl FnMut() -> u64 {
    move || match watcher.next(PATIENCE) {
        News::Value(value) => value,
        other => panic!("{other:?} where a message was expected"),
    }
}

/// Receives `count` messages, which are the times at which they were sent.
fn receive(board: &Board, count: u64, mut next: impl FnMut() -> u64) -> u64 {
    board.received.store(READY, Ordering::Release);
    for (sample, received) in board.samples.iter().zip(1..=count) {
        let sent_ns = next();
        sample.store(now_ns() - sent_ns, Ordering::Relaxed);
        board.received.store(received, Ordering::Release);
    }
    0
}

fn by_futex(board: &Board) -> impl FnMut() -> u64 {
    let mut seen = board.futex.load(Ordering::Acquire);
    move || {
        loop {
            let now = board.futex.load(Ordering::Acquire);
            if now != seen {
                seen = now;
                return board.sent_ns.load(Ordering::Relaxed);
            }
            futex::wait(&board.futex, seen, Duration::from_secs(1));
        }
    }
}

fn receive_by_futex(board: &Board, count: u64) -> u64 {
    receive(board, count, by_futex(board))
}

fn receive_by_word(board: &Board, count: u64) -> u64 {
    let mut seen = board.sent_ns.load(Ordering::Acquire);
    receive(board, count, || {
        loop {
            let now = board.sent_ns.load(Ordering::Acquire);
            if now != seen {
                seen = now;
                return now;
            }
            std::hint::spin_loop();
        }
    })
}

fn receive_by_socket(board: &Board, count: u64, path: &str) -> u64 {
    let mut stream = UnixStream::connect(path).expect("the parent listens");
    stream.write_all(&[1]).expect("the parent reads");
    receive(board, count, || {
        let mut message = [0; 8];
        stream.read_exact(&mut message).expect("the parent writes");
        u64::from_le_bytes(message)
    })
}

/// Threads that watch; each counts in `received` that it has begun, and then each message that it gets.
fn crowd<R: Rival>(board: &Board, address: &str, count: u64) -> u64 {
    let begun = Arc::new(AtomicU64::new(0));
    // SAFETY: the board is mapped for as long as the process serves, and the process ends while the threads run.
    let board: &'static Board = unsafe { &*std::ptr::from_ref(board) };
    for _ in 0..count {
        let (address, begun) = (address.to_owned(), begun.clone());
        let watch = move || {
            let mut watcher = R::Watcher::open(&address, MESSAGE, Waiting::Asleep);
            begun.fetch_add(1, Ordering::Release);
            loop {
                match watcher.next(PATIENCE) {
                    News::Value(_) => _ = board.received.fetch_add(1, Ordering::Release),
                    News::Nothing => {}
                    News::Missed(missed) => panic!("{missed} missed"),
                }
            }
        };
        std::thread::spawn(watch);
    }
    while begun.load(Ordering::Acquire) < count {
        std::thread::sleep(Duration::from_millis(1));
    }
    // Some ways to subscribe are not acknowledged.
    std::thread::sleep(Duration::from_millis(300));
    0
}

fn in_real_time(f: impl FnOnce() -> u64) -> u64 {
    cpu::real_time(true);
    let result = f();
    cpu::real_time(false);
    result
}

/// Answers `count` ticks, which are the times at which they were told; the last one is the one told as late as that.
fn control(board: &Board, count: u64, mut next: impl FnMut() -> u64, mut answer: impl FnMut(&Board, u64)) -> u64 {
    board.received.store(READY, Ordering::Release);
    for number in 0..count {
        let told_ns = next();
        let late_ns = now_ns() - told_ns;
        board.samples[number as usize % SAMPLES].store(late_ns, Ordering::Relaxed);
        answer(board, told_ns);
        board.received.store(number + 1, Ordering::Release);
    }
    0
}

/// The same by a bare futex, where one look may find several ticks, each a period older than the next. The count is in the
/// lower half of the argument, the period in microseconds in the upper.
fn control_by_futex(board: &Board, argument: u64) -> u64 {
    let (count, period_ns) = (argument & 0xFFFF_FFFF, (argument >> 32) * 1000);
    let first = board.futex.load(Ordering::Acquire);
    let mut seen = 0;
    board.received.store(READY, Ordering::Release);
    while seen < count {
        let ticks = u64::from(board.futex.load(Ordering::Acquire).wrapping_sub(first));
        if ticks == seen {
            futex::wait(&board.futex, first.wrapping_add(seen as u32), Duration::from_secs(1));
            continue;
        }
        let late_ns = now_ns().saturating_sub(board.sent_ns.load(Ordering::Relaxed));
        for number in seen..ticks {
            let age_ns = (ticks - 1 - number) * period_ns;
            board.samples[number as usize % SAMPLES].store(late_ns + age_ns, Ordering::Relaxed);
        }
        board.received.store(ticks, Ordering::Release);
        seen = ticks;
    }
    0
}

fn slow(board: &Board, watcher: &mut impl Watcher, work: Duration) -> u64 {
    board.received.store(READY, Ordering::Release);
    let (mut count, mut told) = (0, 0);
    let mut patience = PATIENCE;
    loop {
        match watcher.next(patience) {
            News::Value(_) => count += 1,
            News::Missed(missed) => {
                told += missed;
                continue;
            }
            News::Nothing => break,
        }
        patience = Duration::from_secs(1);
        stay_busy(work);
    }
    board.samples[0].store(told, Ordering::Relaxed);
    count
}

fn write<R: Rival>(client: &mut R::Client) -> u64 {
    let can_increment = R::cannot(&[Operation::Increment]).is_none();
    for value in 0.. {
        if can_increment {
            client.increment(COUNTER);
        } else {
            client.set(COUNTER, value);
        }
    }
    0
}

fn write_once(client: &mut impl Client) -> u64 {
    // A rival that cannot go on may say so by a panic, which is an answer and needs no words.
    std::panic::set_hook(Box::new(|_| ()));
    client.set(COUNTER, 7);
    let written_ns = now_ns();
    assert_eq!(client.get(COUNTER), Some(7));
    written_ns
}
