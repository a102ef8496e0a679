//! One operation, instruction by instruction.
//!
//! After each instruction: did the shared memory change, and would the kernel know of every lock that the process
//! owns? After each instruction that changed it (in a sample: after some of them): [`Observer::look`], and a recovery
//! of a copy in which everybody is dead ([`Image::after_deaths`]). At the end, and at some instructions that a number
//! picks, the real thing: SIGKILL, and recovery of the arena itself, beside the snapshots that are held.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};

use shm_state::{Deadline, KeyRef, Namespace, Pinned, Place, Transaction};

use super::case::Case;
use super::company::{Companion, Company};
use super::image::Image;
use super::observer::{self, Eyes, Observer};
use super::tracee::{Stop, Tracee};
use super::{creation, planted};
use crate::common::model::{self, Model, assert_same};
use crate::common::{Random, eventually};
use crate::kill::aftermath;
use crate::kill::scenario::{Act, Scenario, Template, World};

/// The seconds after which a thousand steps, or one check, count as a hang.
const HANG: u32 = 60;

/// How much is done.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Checks follow every change, and not a sample of them.
    pub all: bool,
    /// Which sample.
    pub seed: u64,
    /// After so many instructions the operation runs on by itself.
    pub steps: u64,
    /// Processes that are really killed, at most.
    pub kills: u64,
    /// Instructions that these may take all together.
    pub kill_steps: u64,
    /// After so many bad points there is no need to go on.
    pub enough: u64,
}

/// What was done, and what was bad.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    /// Instructions executed one by one, system calls included.
    pub instructions: u64,
    /// There were more, which were not.
    pub partly: bool,
    /// Those after which shared memory was not what it was before.
    pub changed: u64,
    /// Times everything was read.
    pub looks: u64,
    /// Copies that were recovered.
    pub recoveries: u64,
    /// Processes that were really killed.
    pub kills: u64,
    /// Points where something was wrong.
    pub bad: u64,
}

/// What came out, unless the system does not allow it.
pub type Outcome = Result<Tally, String>;

/// Steps through one operation, then kills some more.
pub fn run(case: &Case, load: &Load) -> Outcome {
    if case.scenario.act == Act::CreateArena {
        return creation::run(case, load);
    }
    let template = Template::of(&case.scenario);
    let mut tally = Tally::default();
    walk(case, load, &template, None, &mut tally)?;
    let mut random = Random::new(load.seed ^ 0x5eed);
    let steps = tally.instructions.max(1);
    let kills = (load.kill_steps / steps).min(load.kills);
    for _ in 0..kills {
        if tally.bad >= load.enough {
            break;
        }
        let at = random.below(steps);
        let mut this = Tally::default();
        walk(case, load, &template, Some(at), &mut this)?;
        tally.kills += this.kills;
        tally.bad += this.bad;
    }
    Ok(tally)
}

/// Counts a check as bad if it panics, and says where it was.
pub fn check(tally: &mut Tally, place: impl FnOnce() -> String, what: &str, check: impl FnOnce()) {
    // SAFETY: a plain request to the kernel: SIGALRM, which nobody handles, ends this process if the check hangs.
    unsafe { libc::alarm(HANG) };
    if catch_unwind(AssertUnwindSafe(check)).is_err() {
        tally.bad += 1;
        println!("bad: {what}, after instruction {} at {}", tally.instructions, place());
    }
}

/// Which of the changes a sample checks: the first ones, then fewer and fewer, and more where a commit is decided.
struct Sample {
    all: bool,
    random: Random,
    next: u64,
    decided: u64,
}

impl Sample {
    fn new(load: &Load) -> Self {
        Self {
            all: load.all,
            random: Random::new(load.seed),
            next: 1,
            decided: 12,
        }
    }

    fn takes(&mut self, change: u64, is_unfinished: bool) -> bool {
        if self.all {
            return true;
        }
        if is_unfinished && self.decided > 0 && self.random.below(4) == 0 {
            self.decided -= 1;
            return true;
        }
        if change < self.next {
            return false;
        }
        self.next = change + 1 + self.random.below(2 + change / 3);
        true
    }
}

/// A world in which the operation is stepped: to its end, or to a kill.
struct Stage<'a> {
    case: &'a Case,
    template: &'a Template,
    before: Model,
    after: Option<Model>,
    seq: u64,
}

fn walk(case: &Case, load: &Load, template: &Template, kill_at: Option<u64>, tally: &mut Tally) -> Result<(), String> {
    let mut world = template.copy();
    let scenario = &case.scenario;
    // The observer's seats count as those that the scenario wants taken.
    let pins = if scenario.pins > observer::SEATS {
        scenario.pins - observer::SEATS
    } else {
        scenario.pins
    };
    let reader = world.namespace.fork().unwrap();
    let pinners: Vec<Namespace> = (0..pins).map(|_| world.namespace.fork().unwrap()).collect();
    let pinned = world.model.clone();
    let mut held: Vec<Pinned<'_>> = pinners.iter().map(|namespace| namespace.pin().unwrap()).collect();
    (scenario.setup_after_pins)(&mut world);
    let stage = Stage {
        case,
        template,
        before: world.model.clone(),
        after: case.after(&world.model),
        seq: world.namespace.seq(),
    };
    let places = places(&reader, &world);
    let is_after = stage.play(&world, (&held, &pinned), load, kill_at, tally)?;
    let expected = stage.model(is_after);
    check(
        tally,
        || "its end".into(),
        "what the death or the end left",
        || {
            let _ =
                planted::in_recovery(|| aftermath::recover(scenario, &mut world, std::slice::from_ref(expected), None));
            check_places(&places, &world.model);
            held.iter()
                .for_each(|pin| assert_same(&model::contents_of(pin), &pinned, "pinned all along"));
            if scenario.unpin {
                held.clear();
            }
            aftermath::care(&mut world);
            held.iter()
                .for_each(|pin| assert_same(&model::contents_of(pin), &pinned, "pinned, after more commits"));
            aftermath::check_namespaces(scenario, &world.arena, kill_at.is_some());
            check_places(&places, &world.model);
        },
    );
    Ok(())
}

/// Handles of all keys that the history knows, resolved before the operation.
fn places<'n>(reader: &'n Namespace, world: &World) -> Vec<(Vec<u8>, Place<'n>)> {
    let keys: BTreeSet<&Vec<u8>> = world.history.iter().flat_map(|(_, model)| model.keys()).collect();
    let place = |key: &Vec<u8>| Some((key.clone(), reader.place(&KeyRef::new(0, key)).unwrap()?));
    keys.into_iter().filter_map(place).collect()
}

/// What is read through a handle is the value of its key, or nothing.
fn check_places(places: &[(Vec<u8>, Place<'_>)], model: &Model) {
    for (key, place) in places {
        let found = place.peek(|_, bytes| bytes.to_vec());
        assert!(
            found.is_none_or(|found| found.as_ref() == model.get(key)),
            "an old handle of {key:?}"
        );
    }
}

impl Stage<'_> {
    fn model(&self, is_after: bool) -> &Model {
        match &self.after {
            Some(after) if is_after => after,
            _ => &self.before,
        }
    }

    /// Steps to the end, with checks, or to the kill, without. Says which state must be there then.
    fn play(
        &self,
        world: &World,
        older: (&[Pinned<'_>], &Model),
        load: &Load,
        kill_at: Option<u64>,
        tally: &mut Tally,
    ) -> Result<bool, String> {
        let namespaces = (Eyes::of(&world.namespace), world.namespace.fork().unwrap());
        let owner: Option<Transaction<'_>> =
            (self.case.company == Company::Owner).then(|| namespaces.1.begin(Deadline::never()).unwrap());
        let mut companion = (self.case.company == Company::Sleeper).then(|| Companion::sleeper(world));
        let mut observer = Observer::new(&world.arena, &namespaces.0, &self.before, self.after.as_ref(), older);
        let mut tracee = Tracee::start(|| {
            planted::in_writer();
            self.case.carry_out(world);
        })?;
        if self.case.company == Company::Writer {
            companion = Some(Companion::writer(world, &self.case.scenario.changes, tracee.pid()));
        }
        let mut image = Image::of(&world.arena);
        image.see();
        let mut sample = Sample::new(load);
        loop {
            if tally.instructions.is_multiple_of(1024) {
                // SAFETY: as in `check`.
                unsafe { libc::alarm(HANG) };
            }
            if kill_at.is_some_and(|at| at <= tally.instructions) {
                tally.kills += 1;
                let decided = image.decided();
                drop(tracee);
                drop(owner);
                return Ok(decided > self.seq);
            }
            if kill_at.is_none() && tally.instructions >= load.steps {
                tally.partly = true;
                tracee.run_to_mark();
                break;
            }
            match tracee.step() {
                Stop::Instruction => tally.instructions += 1,
                Stop::Mark => break,
                Stop::End(status) => panic!("the stepped process ended: {status:?}"),
            }
            if self.case.company == Company::Waiter && companion.is_none() && image.lock().0 == tracee.pid() {
                companion = Some(Companion::waiter(world));
                eventually("the waiter to wait", || image.lock().1);
            }
            if image.has_hidden_owner(&tracee) {
                tally.bad += 1;
                println!(
                    "bad: the kernel does not know who owns a lock, before {}",
                    tracee.place()
                );
            }
            if kill_at.is_some() || tracee.reads_the_clock() || !image.changed() {
                continue;
            }
            tally.changed += 1;
            if !sample.takes(tally.changed, image.is_unfinished()) {
                image.see();
                continue;
            }
            companion.iter_mut().for_each(Companion::freeze);
            let bytes = image.after_deaths(&tracee);
            let is_after = image.decided() > self.seq;
            let place = || tracee.place();
            tally.recoveries += 1;
            check(tally, place, "recovery", || {
                recover_copy(&self.case.scenario, self.template, bytes, self.model(is_after))
            });
            tally.looks += 1;
            check(tally, place, "reading", || {
                assert!(!image.counts_half_a_namespace(), "half a namespace counts");
                observer.look();
            });
            image.see();
            companion.iter().for_each(Companion::thaw);
            if tally.bad >= load.enough {
                return Ok(image.decided() > self.seq);
            }
        }
        check(tally, || "its end".into(), "reading", || observer.look());
        let is_new = observer.is_new();
        check(
            tally,
            || "its end".into(),
            "the end",
            || {
                assert!(
                    self.after.is_some() == is_new,
                    "an operation that ended left the other state"
                );
                assert!(tracee.finish(), "the stepped process failed");
            },
        );
        drop(owner);
        if let Some(companion) = companion {
            check(
                tally,
                || "its end".into(),
                "the process beside",
                || assert!(companion.succeeds()),
            );
        }
        Ok(is_new)
    }
}

/// What a process finds that comes when all others are dead.
fn recover_copy(scenario: &Scenario, template: &Template, bytes: Vec<u8>, expected: &Model) {
    let mut world = template.with(bytes, expected.clone()).copy();
    let _ = planted::in_recovery(|| aftermath::recover(scenario, &mut world, std::slice::from_ref(expected), None));
    aftermath::care(&mut world);
    aftermath::check_namespaces(scenario, &world.arena, true);
}
