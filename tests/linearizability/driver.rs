//! The one who makes rounds: it gives orders, buries the dead, and checks what was recorded.
//!
//! A round: all clients start together and make a few operations each; some are killed on the way, and for each another
//! process joins at once. When all is quiet, the driver itself takes the writer lock, which finishes what the last dead
//! client left, and reads everything; this belongs to the history. What it read is the initial state of the next round.

use std::fs::File;
use std::time::Instant;

use shm_state::{Arena, ArenaOptions, History, Namespace};
use zproc::Builder;

use crate::board::{AREAS, Board, CLIENTS, MOST_OPS, now};
use crate::checker::{Call, DictCall, refuse};
use crate::clients::direct::Direct;
use crate::clients::liar::Lie;
use crate::clients::typed::Typed;
use crate::clients::{Client, Names, PATIENCE};
use crate::dict::{Dict, Op, Seen, Step};
use crate::figures::Figures;
use crate::plan::{Death, IDS_PER_OP, Order, Planned, Profile, STABLE, Way};
use crate::random::Random;
use crate::witness::{Evidence, Finding};
use crate::worker::{Layer, NAMESPACE, Process, Worker};

/// Operations of a client in a round, unless they are of single keys; and of one who stands in for a dead one.
const OPS: usize = 8;
const OPS_OF_STAND_IN: usize = 3;

/// The client that the driver is.
const DRIVER: u32 = 0;

/// Some rounds on one arena.
pub struct Episode {
    /// The layer that the clients use.
    pub layer: Layer,
    /// Commits that the namespace keeps: with few, blocks are used again at once.
    pub history: u32,
    /// Whether clients are killed.
    pub kills: bool,
    /// Whether they lie. Then what is refused is counted, else it ends the test.
    pub lie: Option<Lie>,
    /// As for a lie: the engine is known to be broken.
    pub broken: bool,
    /// Rounds.
    pub rounds: u64,
    /// For the random numbers.
    pub seed: u64,
}

impl Episode {
    /// Plays it.
    pub fn play(&self, board: &Board, figures: &mut Figures) {
        let history = History {
            count: self.history,
            bytes: 4 << 20,
        };
        let options = ArenaOptions {
            capacity: 32 << 20,
            history,
            value_format: zproc::VALUE_FORMAT,
        };
        let arena = Arena::anonymous(&options).unwrap();
        let namespace = arena.namespace(NAMESPACE).unwrap();
        let fd = arena.fd().unwrap().try_clone_to_owned().unwrap();
        let state = Builder::anonymous().namespace(NAMESPACE).lock_timeout(PATIENCE);
        let state = state.from_fd(fd.try_clone().unwrap()).unwrap();
        let client: Box<dyn Client + '_> = match self.layer {
            Layer::Engine => Box::new(Direct::new(&namespace)),
            Layer::State => Box::new(Typed::new(&state)),
        };
        let mut rounds = Rounds {
            episode: self,
            board,
            figures,
            random: Random::new(self.seed),
            file: File::from(fd),
            namespace: &namespace,
            client,
            processes: Vec::new(),
            clients: DRIVER,
            ids: 0,
            dict: Dict::default(),
        };
        rounds.start();
        for number in 0..self.rounds {
            if !rounds.play() {
                break;
            }
            if number % 16 == 0 && !self.broken {
                let report = arena.verify().unwrap();
                assert!(report.is_clean(), "{:#?}", report.problems);
            }
        }
        drop(rounds);
        let report = arena.verify().unwrap();
        assert!(self.broken || report.is_clean(), "{:#?}", report.problems);
        figures.inside += arena.stats().unwrap().namespaces[0].takeovers;
    }
}

/// What goes on from round to round.
struct Rounds<'e> {
    episode: &'e Episode,
    board: &'e Board,
    figures: &'e mut Figures,
    random: Random,
    file: File,
    namespace: &'e Namespace,
    client: Box<dyn Client + 'e>,
    processes: Vec<Process>,
    /// Clients so far.
    clients: u32,
    /// Values so far.
    ids: u32,
    /// The state after the last round.
    dict: Dict,
}

/// A client of a round.
struct Part {
    area: usize,
    client: u32,
    pid: u32,
    /// When its death was known.
    dead: Option<u64>,
}

impl Rounds<'_> {
    fn fork(&mut self, slot: usize, stands_in: Option<(u64, usize)>) -> Process {
        let worker = Worker {
            board: self.board,
            slot,
            layer: self.episode.layer,
            lie: self.episode.lie,
            last_round: self.figures.rounds,
            stands_in,
        };
        Process::fork(worker, &self.file)
    }

    fn start(&mut self) {
        for slot in 0..CLIENTS {
            let process = self.fork(slot, None);
            self.processes.push(process);
        }
    }

    /// Orders for a client, whose number is new.
    fn order(&mut self, area: usize, profile: Profile, count: usize, death: Death) -> u32 {
        self.clients += 1;
        let order = Order {
            seed: self.random.next(),
            profile,
            count,
            first_id: self.ids,
            death,
        };
        self.ids += count as u32 * IDS_PER_OP;
        self.board.give(area, self.clients, &order);
        self.clients
    }

    fn death(&mut self, count: usize) -> Death {
        let span = self.figures.usual_span;
        match self.random.below(8) {
            0 => Death::Inside(self.random.below(count as u64) as usize),
            1..=4 if cfg!(feature = "kill-points") => Death::BeforeStore(self.random.below(40 * count as u64)),
            _ => Death::After(self.random.below(span + span / 8)),
        }
    }

    /// One round. Returns whether there is a state to go on with.
    fn play(&mut self) -> bool {
        let round = self.figures.rounds + 1;
        let profile = Profile::ALL[self.random.below(4) as usize];
        let count = if profile == Profile::Single { MOST_OPS } else { OPS };
        let deaths = if self.episode.kills {
            [0, 1, 1, 2][self.random.below(4) as usize]
        } else {
            0
        };
        let base = self.namespace.seq();
        // SAFETY: a plain request to the kernel: SIGALRM, which nobody handles, ends this process if it hangs.
        unsafe { libc::alarm(4 * PATIENCE.as_secs() as u32) };
        let mut parts: Vec<Part> = (0..CLIENTS)
            .map(|slot| {
                let death = if slot < deaths { self.death(count) } else { Death::None };
                let client = self.order(slot, profile, count, death);
                let pid = self.processes[slot].pid();
                Part {
                    area: slot,
                    client,
                    pid,
                    dead: None,
                }
            })
            .collect();
        self.board.open_round(round);
        self.figures.rounds = round;
        self.wait(round, profile, &mut parts);
        let names = Names::of(round);
        let mut history = self.collect(&parts);
        let found = self.look(&names, &mut history);
        set_deadlines(&mut history.calls, &parts);
        self.figures.count(&history.calls, deaths == 0);
        self.judge(&history, found.is_some(), profile, base, &parts);
        let Some(found) = found else { return false };
        self.dict = found;
        self.tidy(&names);
        true
    }

    /// Waits until all are through or dead. For who dies, another one joins.
    fn wait(&mut self, round: u64, profile: Profile, parts: &mut Vec<Part>) {
        let start = Instant::now();
        let mut looks = 0_u64;
        loop {
            let mut all_done = true;
            for at in 0..parts.len() {
                let Part { area, dead, .. } = parts[at];
                if dead.is_some() || self.board.is_done(area, round) {
                    continue;
                }
                all_done = false;
                if self.processes[area % CLIENTS].was_killed() {
                    parts[at].dead = Some(now());
                    self.figures.kills += 1;
                    let stand_in = self.replace(area, round, profile);
                    parts.push(stand_in);
                }
            }
            if all_done {
                return;
            }
            assert!(start.elapsed() < 2 * PATIENCE, "round {round} does not end");
            looks += 1;
            if looks < 20 {
                std::thread::yield_now();
            } else {
                std::thread::sleep(std::time::Duration::from_micros(20));
            }
        }
    }

    fn replace(&mut self, area: usize, round: u64, profile: Profile) -> Part {
        assert!(area < CLIENTS, "one that stands in was killed");
        let own = area + CLIENTS;
        let client = self.order(own, profile, OPS_OF_STAND_IN, Death::None);
        self.processes[area] = self.fork(area, Some((round, own)));
        Part {
            area: own,
            client,
            pid: self.processes[area].pid(),
            dead: None,
        }
    }

    /// What the clients recorded. What died inside of its transaction, before the commit, is left out: it must not have
    /// happened.
    fn collect(&mut self, parts: &[Part]) -> Recorded {
        let mut history = Recorded::default();
        for part in parts {
            assert_eq!(self.board.client(part.area), part.client);
            let order = self.board.order(part.area);
            for (op, planned) in order.plan().into_iter().enumerate() {
                let Some(record) = self.board.record(part.area, op) else {
                    break;
                };
                let pending = record.returned.is_none();
                assert!(!pending || part.dead.is_some(), "a live client left {planned:?}");
                if pending && planned.dies {
                    self.figures.before_commit += 1;
                    continue;
                }
                let (ret, seen) = record
                    .returned
                    .map_or((u64::MAX, None), |(ret, seen)| (ret, Some(seen)));
                history.calls.push(Call {
                    client: part.client,
                    op: planned.op,
                    seen,
                    call: record.call,
                    ret,
                });
                history.seqs.push(record.seq);
            }
        }
        history
    }

    /// Takes the writer lock and looks at everything, as a client of its own. Returns what is there, unless that
    /// contradicts itself.
    fn look(&mut self, names: &Names, history: &mut Recorded) -> Option<Dict> {
        let first = Op::Aborted(vec![Step::Contents]);
        let mut ops = vec![first, Op::One(Step::Contents), Op::One(Step::Len)];
        ops.extend(names.keys().map(|key| Op::One(Step::Get(key))));
        let mut all = None;
        for op in ops {
            let planned = plainly(op.clone());
            let call = now();
            let reply = self.client.run(&planned, names);
            let ret = now();
            if let (Op::Aborted(_), [Seen::All(pairs)]) = (&op, &reply.seen[..]) {
                all = Some(Dict(pairs.clone()));
            }
            history.calls.push(Call {
                client: DRIVER,
                op,
                seen: Some(reply.seen),
                call,
                ret,
            });
            history.seqs.push(reply.seq);
        }
        all
    }

    fn judge(&mut self, history: &Recorded, whole: bool, profile: Profile, base: u64, parts: &[Part]) {
        let mut calls = history.calls.clone();
        if profile == Profile::Single {
            // So that it can be split. The other check sees all of it.
            calls.retain(|call| call.client != DRIVER || call.op.only_key().is_some());
        }
        let (mut refused, states) = refuse(&self.dict, &calls);
        if !whole {
            refused.get_or_insert_with(|| "what is there in the end contradicts itself".into());
        }
        self.figures.states += states;
        self.figures.most_states = self.figures.most_states.max(states);
        let last = self.namespace.seq();
        let evidence = Evidence {
            initial: &self.dict,
            base,
            last,
            calls: &history.calls,
            seqs: &history.seqs,
            log: self.log(base, last, parts),
        };
        let second = match evidence.check() {
            Finding::Fine(happened) => {
                self.figures.happened += happened;
                self.figures.numbered_pending += calls.iter().filter(|call| call.seen.is_none()).count() as u64;
                None
            }
            Finding::Unknown => {
                self.figures.without_numbers += 1;
                None
            }
            Finding::Refused(why) => Some(why),
        };
        self.figures.refused += u64::from(refused.is_some());
        self.figures.refused_by_number += u64::from(second.is_some());
        if self.episode.lie.is_some() || self.episode.broken || refused.is_none() && second.is_none() {
            return;
        }
        let (round, seed) = (self.figures.rounds, self.episode.seed);
        panic!(
            "round {round}, {:?}, history {}, seed of the episode {seed}\n\
             not linearizable: {}\nby the numbers of commits: {}\n{:#?}",
            self.episode.layer,
            self.episode.history,
            refused.as_deref().unwrap_or("no, it is"),
            second.as_deref().unwrap_or("they are fine"),
            history.calls,
        );
    }

    /// Who made which commit, if all of them are still in the log.
    fn log(&self, base: u64, last: u64, parts: &[Part]) -> Option<Vec<u32>> {
        (base + 1..=last)
            .map(|seq| {
                let record = self.namespace.record(seq).unwrap()?;
                let part = parts.iter().find(|part| part.pid == record.pid);
                Some(
                    part.unwrap_or_else(|| panic!("{record:?} is signed by no client"))
                        .client,
                )
            })
            .collect()
    }

    /// Takes the keys out that the next round does not know.
    fn tidy(&mut self, names: &Names) {
        for key in names.keys().filter(|key| *key >= STABLE) {
            if self.dict.get(key).is_some() {
                self.client.run(&plainly(Op::One(Step::Remove(key))), names);
            }
        }
        self.dict.0.retain(|(key, _)| *key < STABLE);
    }
}

/// An operation of the driver.
fn plainly(op: Op) -> Planned {
    Planned {
        op,
        way: Way::Plain,
        pauses: u64::MAX,
        dies: false,
    }
}

/// A history with the numbers of commits beside it.
#[derive(Default)]
struct Recorded {
    calls: Vec<DictCall>,
    seqs: Vec<Option<(u64, u64)>>,
}

/// What a dead client left is finished by the next owner of the writer lock. So it happened, if at all, before the first
/// return of an operation that takes the lock and was called when the death was known.
fn set_deadlines(calls: &mut [DictCall], parts: &[Part]) {
    for part in parts {
        let Some(dead) = part.dead else { continue };
        let later = calls.iter().filter(|call| call.call > dead && call.seen.is_some());
        let deadline = later.filter(|call| call.op.locks()).map(|call| call.ret).min();
        let deadline = deadline.expect("the driver takes the lock in the end");
        let mut pending = calls
            .iter_mut()
            .filter(|call| call.client == part.client && call.seen.is_none());
        if let Some(call) = pending.next() {
            call.ret = deadline;
        }
    }
}

const _: () = assert!(AREAS == 2 * CLIENTS);
