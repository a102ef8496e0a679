//! Those who take part in a run, and the run.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::{Bench, Column, Line};
use crate::clock::ns_each;
use crate::keys::{Draws, Random};
use crate::peer::Peer;
use crate::rivals::{Contents, Operation, Rival};
use crate::rounds::Spread;

/// Every rival takes so many rounds at least.
const FEWEST: usize = 5;
/// By how much the way between the cores may change within a round.
const SAME_MODE: f64 = 1.5;
/// A pass takes so long, if a single operation does not take longer.
const PASS: Duration = Duration::from_micros(400);

/// Where a pass puts its events.
pub type Events = Rc<RefCell<Vec<u64>>>;

/// One that takes part.
pub struct Contender {
    /// What it is called.
    pub name: &'static str,
    /// Takes the pass with this number.
    pub pass: Box<dyn FnMut(usize) -> f64>,
    /// Single events of all passes, if the workload keeps them.
    pub events: Events,
}

/// How long a cache line takes from core to core: what figures of several processes depend on, and drifts.
pub struct Control {
    peer: Peer,
    one_way_ns: Vec<f64>,
}

impl Control {
    /// Nothing is measured yet.
    pub fn new(bench: &Bench) -> Self {
        Self {
            peer: Peer::spawn(bench.other_cpu, &["control".into(), String::new()]),
            one_way_ns: Vec::new(),
        }
    }

    /// Measures it.
    pub fn take(&mut self) {
        self.one_way_ns.push(self.peer.one_way_ns());
    }

    /// What was measured.
    pub fn spread(self) -> Option<Spread> {
        (!self.one_way_ns.is_empty()).then(|| Spread::of(self.one_way_ns))
    }
}

/// All that take part, and those that cannot, with the reason.
#[derive(Default)]
pub struct Field {
    runners: Vec<Contender>,
    absent: Vec<(&'static str, String)>,
}

impl Field {
    /// Nobody yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Lets a rival take part that can do all of `needs`: `start` makes its pass.
    pub fn add<R: Rival + 'static, P: FnMut(usize) -> f64 + 'static>(
        &mut self,
        needs: &[Operation],
        contents: &Contents,
        start: impl FnOnce(&R, &Events) -> P,
    ) {
        self.try_add(needs, contents, |rival, events| Ok(start(rival, events)));
    }

    /// The same with a start that may fail, and then says why.
    pub fn try_add<R: Rival + 'static, P: FnMut(usize) -> f64 + 'static>(
        &mut self,
        needs: &[Operation],
        contents: &Contents,
        start: impl FnOnce(&R, &Events) -> Result<P, String>,
    ) {
        let events = Events::default();
        let started = match R::cannot(needs) {
            Some(reason) => Err(reason.to_owned()),
            None => R::create(contents).and_then(|rival| Ok((start(&rival, &events)?, rival))),
        };
        match started {
            Ok(mut started) => self.push(R::NAME, events, move |round| {
                // As a whole: the pass, with its clients and processes, ends before what serves it.
                let (pass, _rival) = &mut started;
                pass(round)
            }),
            Err(reason) => self.absent.push((R::NAME, reason)),
        }
    }

    /// Lets something else take part: `start` makes its pass.
    pub fn add_other<P: FnMut(usize) -> f64 + 'static>(
        &mut self,
        name: &'static str,
        start: impl FnOnce(&Events) -> P,
    ) {
        let events = Events::default();
        let pass = start(&events);
        self.push(name, events, pass);
    }

    fn push(&mut self, name: &'static str, events: Events, pass: impl FnMut(usize) -> f64 + 'static) {
        self.runners.push(Contender {
            name,
            pass: Box::new(pass),
            events,
        });
    }

    /// Measures alone, in this process.
    pub fn run(self, name: impl Into<String>, x: f64, time: Duration) -> Column {
        self.run_with(name.into(), x, time, || 0.0)
    }

    /// Measures across processes, with the control before and after each round; rounds in which it changes do not
    /// count.
    pub fn run_between(self, name: impl Into<String>, x: f64, time: Duration, bench: &Bench) -> Column {
        let mut peer = Peer::spawn(bench.other_cpu, &["control".into(), String::new()]);
        self.run_with(name.into(), x, time, || peer.one_way_ns())
    }

    fn run_with(mut self, name: String, x: f64, time: Duration, mut control: impl FnMut() -> f64) -> Column {
        let count = self.runners.len();
        let (mut rounds, mut controls, mut discarded) = (vec![Vec::new(); count], Vec::new(), 0);
        for runner in &mut self.runners {
            (runner.pass)(0);
            runner.events.borrow_mut().clear();
        }
        let (mut order, mut random) = ((0..count).collect::<Vec<_>>(), Random::default());
        let start = Instant::now();
        for number in 1.. {
            let (kept, spent) = (rounds.first().map_or(FEWEST, Vec::len), start.elapsed());
            if spent > time && kept >= FEWEST {
                break;
            }
            let before = control();
            let lengths: Vec<usize> = self.runners.iter().map(|runner| runner.events.borrow().len()).collect();
            let mut figures = vec![0.0; count];
            random.shuffle(&mut order);
            for &index in &order {
                figures[index] = (self.runners[index].pass)(number);
            }
            let after = control();
            // On a machine that never settles down, rounds are better than none.
            if before.max(after) > SAME_MODE * before.min(after) && spent < 3 * time {
                discarded += 1;
                for (runner, length) in self.runners.iter().zip(lengths) {
                    runner.events.borrow_mut().truncate(length);
                }
                continue;
            }
            controls.extend([before, after].into_iter().filter(|ns| *ns > 0.0));
            figures
                .into_iter()
                .zip(&mut rounds)
                .for_each(|(figure, rounds)| rounds.push(figure));
        }
        let line = |(runner, rounds): (Contender, Vec<f64>)| Line {
            name: runner.name,
            rounds: Ok(rounds),
            events_ns: runner.events.take(),
            note: String::new(),
        };
        let absent = self.absent.into_iter().map(|(name, reason)| Line {
            name,
            rounds: Err(reason),
            events_ns: Vec::new(),
            note: String::new(),
        });
        Column {
            name,
            x,
            lines: self.runners.into_iter().zip(rounds).map(line).chain(absent).collect(),
            one_way_ns: (!controls.is_empty()).then(|| Spread::of(controls)),
            discarded,
            by_turns: true,
        }
    }
}

/// A pass over keys in random order: nanoseconds of each `work`.
pub fn over_keys(draws: Draws, mut work: impl FnMut(&'static str)) -> impl FnMut(usize) -> f64 {
    let mut count = 0;
    move |round| {
        let keys = draws.pass(round);
        let mut pass = |count: usize| ns_each(count, || keys[..count].iter().for_each(|key| work(key)));
        if count == 0 {
            count = calibrated(keys.len(), &mut pass);
        }
        // What the others' passes drove out of the caches comes back first.
        pass(count.div_ceil(2));
        pass(count)
    }
}

/// A pass of one and the same work: nanoseconds of each.
pub fn again_and_again(mut work: impl FnMut()) -> impl FnMut(usize) -> f64 {
    in_bulk(move |count| (0..count).for_each(|_| work()))
}

/// A pass of work that repeats itself as often as it is told: nanoseconds of each.
pub fn in_bulk(mut work: impl FnMut(usize)) -> impl FnMut(usize) -> f64 {
    let mut count = 0;
    move |_| {
        let mut pass = |count: usize| ns_each(count, || work(count));
        if count == 0 {
            count = calibrated(1 << 20, &mut pass);
        }
        pass(count.div_ceil(4));
        pass(count)
    }
}

/// How many operations make a pass; this warms up, too. The first ones open what is opened once, and one that is held up
/// by chance does not count: the quickest of three decides.
fn calibrated(most: usize, pass: &mut impl FnMut(usize) -> f64) -> usize {
    for _ in 0..3 {
        pass(1);
    }
    let mut quickest = |count| (0..3).map(|_| pass(count)).fold(f64::MAX, f64::min);
    let mut count = 1;
    while count < most && quickest(count) * (count as f64) < PASS.as_nanos() as f64 {
        count = (count * 2).min(most);
    }
    count
}
