//! The sampler: publishes what the kernel counts, 200 times a second, one key a figure.
//!
//! All figures of a sample are one transaction, so that a reader never sees the figures of two samples mixed. To prove
//! it, the sampler adds their sum, and whoever looks can add them up.

use std::time::{Duration, Instant};
use std::{fs, thread};

use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;
use zproc::{Key, Snapshot, State};

use crate::{ORDER, Result, STALL, STOP, child};

/// The load: how much of one processor the load program has had lately.
pub const LOAD: &str = "load";
/// When the sample was written, by the clock that all processes share.
pub const WRITTEN_AT: &str = "written at";
/// The sum of all figures.
const SUM: &str = "sum";

const PERIOD: Duration = Duration::from_millis(5);
/// The load is averaged over about so long: processor time comes in slices.
const SMOOTHING: Duration = Duration::from_millis(100);

/// The columns of `/proc/stat`.
const COLUMNS: [&str; 8] = ["user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal"];

/// The key and value of a figure: `("cpu0", "idle")`, `("meminfo", "MemFree")`. No other keys are pairs.
type Figure<'t> = ((&'t str, &'t str), u64);

/// What the sampler does until it is told to stop.
pub fn sample(state: &State, load: Pid) -> Result<()> {
    let mut load = LoadMeter::new(ClockId::pid_cpu_clock_id(load)?)?;
    let mut next = Instant::now();
    loop {
        let order = state.get::<String>(ORDER)?.unwrap_or_default();
        if order == STOP {
            return Ok(());
        }
        let (stat, meminfo) = (fs::read_to_string("/proc/stat")?, fs::read_to_string("/proc/meminfo")?);
        let figures: Vec<_> = stat_figures(&stat).chain(meminfo_figures(&meminfo)).collect();
        write(state, &figures, load.read()?, order == STALL)?;
        child::committed()?;
        // A sample that is late is not made up for.
        next = Instant::now().max(next + PERIOD);
        thread::sleep(next - Instant::now());
    }
}

/// Writes one sample; if `stall`, stops half way.
fn write(state: &State, figures: &[Figure<'_>], load: f64, stall: bool) -> zproc::Result<()> {
    let (first, second) = figures.split_at(figures.len() / 2);
    let sum = figures.iter().fold(0, |sum: u64, (_, value)| sum.wrapping_add(*value));
    state.atomic(|dict| {
        dict.insert(SUM, sum)?;
        dict.extend(first.iter().copied())?;
        if stall {
            child::stall().map_err(zproc::Error::other)?;
        }
        dict.extend(second.iter().copied())?;
        dict.insert(LOAD, load)?;
        dict.insert(WRITTEN_AT, now()?)
    })
}

/// Nanoseconds on the clock that all processes of the machine share.
pub fn now() -> zproc::Result<u64> {
    let time = clock_gettime(ClockId::CLOCK_MONOTONIC).map_err(zproc::Error::other)?;
    Ok(Duration::from(time).as_nanos() as u64)
}

/// Whether the figures add up to their sum, as they do if all are of the same sample.
pub fn is_whole(state: &Snapshot<'_>) -> zproc::Result<bool> {
    let Some(expected) = state.get::<u64>(SUM)? else {
        return Ok(true);
    };
    let mut sum = 0u64;
    for entry in state.iter() {
        let (key, value) = entry?;
        if matches!(key, Key::Tuple(_)) {
            sum = sum.wrapping_add(value.to::<u64>().map_err(zproc::Error::other)?);
        }
    }
    Ok(sum == expected)
}

/// The figures of `/proc/stat`: a line for each processor, and lines of one figure. (Interrupts have a line of hundreds,
/// which are left out.)
fn stat_figures(text: &str) -> impl Iterator<Item = Figure<'_>> {
    text.lines().flat_map(|line| {
        let mut words = line.split_whitespace();
        let name = words.next().unwrap_or("");
        let values = words.map_while(|word| word.parse().ok());
        let per_processor = name.starts_with("cpu").then(|| COLUMNS.map(|column| (name, column)));
        let single = (!name.starts_with("cpu") && line.split_whitespace().count() == 2).then_some([("stat", name)]);
        per_processor
            .into_iter()
            .flatten()
            .chain(single.into_iter().flatten())
            .zip(values)
    })
}

/// The figures of `/proc/meminfo`, most of them in kB.
fn meminfo_figures(text: &str) -> impl Iterator<Item = Figure<'_>> {
    text.lines().filter_map(|line| {
        let (name, rest) = line.split_once(':')?;
        let value = rest.split_whitespace().next()?.parse().ok()?;
        Some((("meminfo", name), value))
    })
}

/// Tells what part of one processor a process uses, smoothed.
struct LoadMeter {
    clock: ClockId,
    used: Duration,
    read_at: Instant,
    load: f64,
}

impl LoadMeter {
    fn new(clock: ClockId) -> Result<Self> {
        Ok(Self {
            clock,
            used: clock.now()?.into(),
            read_at: Instant::now(),
            load: 0.0,
        })
    }

    fn read(&mut self) -> Result<f64> {
        let (used, now) = (Duration::from(self.clock.now()?), Instant::now());
        let time = (now - self.read_at).as_secs_f64();
        if time > 0.0 {
            let share = used.saturating_sub(self.used).as_secs_f64() / time;
            let weight = 1.0 - (-time / SMOOTHING.as_secs_f64()).exp();
            self.load += (share - self.load) * weight;
            (self.used, self.read_at) = (used, now);
        }
        Ok(self.load)
    }
}
