//! What the processes of a test leave for each other: orders, records of what was called and seen, and the signal to
//! start. It is memory that they share, so that it outlives whoever is killed.
//!
//! **Records do not lie.** The time of the call is stored before the call begins, and that of the return last of all; a
//! record without it is that of a pending operation. All times are of `CLOCK_MONOTONIC`, which all processes of the
//! machine share. A full fence stands between the clock and the operation on either side, since the processor may
//! otherwise read memory before it reads the clock, or the clock before a store is visible: the span that is recorded may
//! be longer than the true one, never shorter.

use std::sync::atomic::{AtomicU64, Ordering, fence};

use crate::dict::{Key, Seen};
use crate::plan::{Death, Order, Profile};

/// Clients at a time.
pub const CLIENTS: usize = 4;
/// Places for records: one for each client, and one for whoever takes its place in the same round.
pub const AREAS: usize = 2 * CLIENTS;
/// The most operations of a client in a round.
pub const MOST_OPS: usize = 40;

const RECORD: usize = 64;
const HEAD: usize = 16;
const AREA: usize = HEAD + MOST_OPS * RECORD;
const WORDS: usize = HEAD + AREAS * AREA;

/// Words of the board's own head.
const ROUND: usize = 0;
const ARRIVED: usize = 1;

/// Words of an area's head, behind the order.
const DONE: usize = 8;
const CLIENT: usize = 9;

/// Words of a record.
const CALL: usize = 0;
const RET: usize = 1;
const SEQ: usize = 2;
const LEN: usize = 4;
const SEEN: usize = 5;

/// The board.
pub struct Board(&'static [AtomicU64]);

/// What a client left of one operation.
#[derive(Clone, Debug)]
pub struct Record {
    /// When it was called.
    pub call: u64,
    /// When it returned and what it showed, unless it is pending.
    pub returned: Option<(u64, Vec<Seen>)>,
    /// Commits between which, or at which, it had its effect, as the engine told.
    pub seq: Option<(u64, u64)>,
}

/// Nanoseconds of the clock that all processes share.
pub fn now() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` outlives the call.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    time.tv_sec.cast_unsigned() * 1_000_000_000 + time.tv_nsec.cast_unsigned()
}

impl Board {
    /// A board for this process and those that it forks. Its memory is never given back.
    pub fn new() -> Self {
        let (access, flags) = (
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED | libc::MAP_ANONYMOUS,
        );
        // SAFETY: a new mapping at an address of the kernel's choice.
        let memory = unsafe { libc::mmap(std::ptr::null_mut(), WORDS * 8, access, flags, -1, 0) };
        assert_ne!(memory, libc::MAP_FAILED, "{}", std::io::Error::last_os_error());
        // SAFETY: so many words of zeroes, aligned to a page and never unmapped; all access to them is atomic.
        Self(unsafe { std::slice::from_raw_parts(memory.cast(), WORDS) })
    }

    fn area(&self, area: usize) -> &[AtomicU64] {
        &self.0[HEAD + area * AREA..][..AREA]
    }

    fn words(&self, area: usize, op: usize) -> &[AtomicU64] {
        &self.area(area)[HEAD + op * RECORD..][..RECORD]
    }

    /// Puts an order into an area, and makes its records empty.
    pub fn give(&self, area: usize, client: u32, order: &Order) {
        let (kind, number) = match order.death {
            Death::None => (0, 0),
            Death::After(ns) => (1, ns),
            Death::Inside(op) => (2, op as u64),
            Death::BeforeStore(store) => (3, store),
        };
        let profile = Profile::ALL
            .iter()
            .position(|profile| *profile == order.profile)
            .unwrap();
        let words = [
            order.seed,
            profile as u64,
            order.count as u64,
            u64::from(order.first_id),
            kind,
            number,
        ];
        let head = self.area(area);
        for (word, value) in head.iter().zip(words) {
            word.store(value, Ordering::Relaxed);
        }
        head[DONE].store(0, Ordering::Relaxed);
        head[CLIENT].store(u64::from(client), Ordering::Relaxed);
        for op in 0..order.count {
            self.words(area, op)[CALL].store(0, Ordering::Relaxed);
            self.words(area, op)[RET].store(0, Ordering::Relaxed);
        }
    }

    /// The order in an area.
    pub fn order(&self, area: usize) -> Order {
        let word = |at: usize| self.area(area)[at].load(Ordering::Relaxed);
        Order {
            seed: word(0),
            profile: Profile::ALL[word(1) as usize],
            count: word(2) as usize,
            first_id: word(3) as u32,
            death: match word(4) {
                0 => Death::None,
                1 => Death::After(word(5)),
                2 => Death::Inside(word(5) as usize),
                _ => Death::BeforeStore(word(5)),
            },
        }
    }

    /// Whose area it is now.
    pub fn client(&self, area: usize) -> u32 {
        self.area(area)[CLIENT].load(Ordering::Relaxed) as u32
    }

    /// Notes that an operation is about to be called.
    pub fn calls(&self, area: usize, op: usize) {
        // SeqCst, a full barrier on x86-64, and the fence for elsewhere: nothing of the operation comes before the clock.
        self.words(area, op)[CALL].store(now(), Ordering::SeqCst);
        fence(Ordering::SeqCst);
    }

    /// Notes what an operation showed.
    pub fn returns(&self, area: usize, op: usize, seen: &[Seen], seq: Option<(u64, u64)>) {
        fence(Ordering::SeqCst); // nothing of the operation comes after the clock
        let time = now();
        let words = self.words(area, op);
        let mut encoded = Vec::new();
        seen.iter().for_each(|seen| encode(seen, &mut encoded));
        assert!(encoded.len() <= RECORD - SEEN, "{seen:?} is too much for a record");
        let (low, high) = seq.map_or((0, 0), |(low, high)| (low + 1, high + 1));
        words[SEQ].store(low, Ordering::Relaxed);
        words[SEQ + 1].store(high, Ordering::Relaxed);
        words[LEN].store(encoded.len() as u64, Ordering::Relaxed);
        for (word, value) in words[SEEN..].iter().zip(encoded) {
            word.store(value, Ordering::Relaxed);
        }
        // Release: whoever sees the time sees the rest. (A death is a barrier by itself.)
        words[RET].store(time, Ordering::Release);
    }

    /// What was noted of an operation. `None` if it was never called.
    pub fn record(&self, area: usize, op: usize) -> Option<Record> {
        let words = self.words(area, op);
        let word = |at: usize| words[at].load(Ordering::Relaxed);
        let ret = words[RET].load(Ordering::Acquire);
        let call = word(CALL);
        if call == 0 {
            return None;
        }
        let (low, high) = (word(SEQ), word(SEQ + 1));
        let encoded: Vec<u64> = (0..word(LEN) as usize).map(|at| word(SEEN + at)).collect();
        Some(Record {
            call,
            returned: (ret != 0).then(|| (ret, decode(&encoded))),
            seq: (ret != 0 && high != 0).then(|| (low - 1, high - 1)),
        })
    }

    /// Opens a round: wakes all clients.
    pub fn open_round(&self, round: u64) {
        self.0[ARRIVED].store(0, Ordering::Relaxed);
        self.0[ROUND].store(round, Ordering::Release); // orders are there
        // SAFETY: wakes sleepers on a word that lives for ever.
        unsafe { libc::syscall(libc::SYS_futex, self.0[ROUND].as_ptr(), libc::FUTEX_WAKE, i32::MAX) };
    }

    /// Waits for a round after `last`. It sleeps, and so leaves the processor to whoever checks the round before.
    pub fn next_round(&self, last: u64) -> u64 {
        loop {
            let round = self.0[ROUND].load(Ordering::Acquire);
            if round != last {
                return round;
            }
            let none = std::ptr::null::<libc::timespec>();
            // SAFETY: sleeps on the low half of a word that lives for ever while it has that value.
            unsafe {
                libc::syscall(
                    libc::SYS_futex,
                    self.0[ROUND].as_ptr(),
                    libc::FUTEX_WAIT,
                    last as u32,
                    none,
                )
            };
        }
    }

    /// Arrives at the start of a round, and waits for the others: all that run set off within nanoseconds.
    pub fn start_together(&self) {
        self.0[ARRIVED].fetch_add(1, Ordering::SeqCst);
        let mut looks = 0_u32;
        while self.0[ARRIVED].load(Ordering::SeqCst) < CLIENTS as u64 {
            looks += 1;
            if looks.is_multiple_of(64) {
                std::thread::yield_now();
            }
            std::hint::spin_loop();
        }
    }

    /// Notes that the client of an area is through with a round.
    pub fn done(&self, area: usize, round: u64) {
        self.area(area)[DONE].store(round, Ordering::Release);
    }

    /// Whether the client of an area is through with a round.
    pub fn is_done(&self, area: usize, round: u64) -> bool {
        self.area(area)[DONE].load(Ordering::Acquire) == round
    }
}

fn pair((key, id): (Key, u32)) -> u64 {
    u64::from(key) << 32 | u64::from(id)
}

fn encode(seen: &Seen, words: &mut Vec<u64>) {
    match seen {
        Seen::Done => words.push(0),
        Seen::Found(found) => words.extend([1, found.map_or(0, |id| u64::from(id) + 1)]),
        Seen::Present(is) => words.extend([2, u64::from(*is)]),
        Seen::Count(count) => words.extend([3, u64::from(*count)]),
        Seen::Popped(popped) => words.extend([4, popped.map_or(0, |both| pair(both) + 1)]),
        Seen::All(all) => {
            words.extend([5, all.len() as u64]);
            words.extend(all.iter().copied().map(pair));
        }
        Seen::Contradiction => words.push(6),
    }
}

fn decode(mut words: &[u64]) -> Vec<Seen> {
    let unpair = |word: u64| ((word >> 32) as Key, word as u32);
    let mut all = Vec::new();
    while let [kind, rest @ ..] = words {
        let (seen, used) = match (*kind, rest) {
            (0, _) => (Seen::Done, 0),
            (1, [found, ..]) => (Seen::Found(found.checked_sub(1).map(|id| id as u32)), 1),
            (2, [is, ..]) => (Seen::Present(*is != 0), 1),
            (3, [count, ..]) => (Seen::Count(*count as u32), 1),
            (4, [popped, ..]) => (Seen::Popped(popped.checked_sub(1).map(unpair)), 1),
            (5, [count, pairs @ ..]) => {
                let count = *count as usize;
                (
                    Seen::All(pairs[..count].iter().copied().map(unpair).collect()),
                    1 + count,
                )
            }
            _ => (Seen::Contradiction, 0),
        };
        all.push(seen);
        words = &rest[used..];
    }
    all
}

#[test]
fn what_was_seen_is_read_back() {
    let board = Board::new();
    let seen = [
        Seen::Done,
        Seen::Found(None),
        Seen::Found(Some(crate::dict::BROKEN)),
        Seen::Present(true),
        Seen::Count(5),
        Seen::Popped(None),
        Seen::Popped(Some((255, crate::dict::BROKEN))),
        Seen::All(vec![]),
        Seen::All(vec![(0, 0), (4, 7)]),
        Seen::Contradiction,
    ];
    assert!(board.record(3, 2).is_none());
    board.calls(3, 2);
    assert!(board.record(3, 2).unwrap().returned.is_none());
    board.returns(3, 2, &seen, Some((0, 7)));
    let record = board.record(3, 2).unwrap();
    let (ret, read) = record.returned.unwrap();
    assert_eq!((&read[..], record.seq), (&seen[..], Some((0, 7))));
    assert!(record.call <= ret && ret <= now());
}
