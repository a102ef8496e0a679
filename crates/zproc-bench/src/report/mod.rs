//! Measuring everything, and writing it down.

mod goals;
mod machine;
mod markdown;
mod plot;
mod raw;

use std::panic::catch_unwind;
use std::path::{Path, PathBuf};

use indicatif::{ProgressBar, ProgressStyle};

use crate::cpu;
use crate::workloads::{Bench, Group, WORKLOADS, Workload};
use goals::{Goal, Verdict};

/// What is ours in tables.
const OURS: &str = "zproc";
/// The quick run measures what misses its goal so often before it believes that.
const ATTEMPTS: usize = 3;

/// The root directory of the workspace.
fn root() -> PathBuf {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package
        .ancestors()
        .nth(2)
        .expect("this package lives in crates/")
        .to_path_buf()
}

/// Measures. An error says what was missed, or what could not be written.
pub fn run(quick: bool, filters: &[String]) -> Result<(), String> {
    let goals = goals::read(&root().join("benches/goals.toml"))?;
    println!("{}", machine::describe());
    let bench = pinned(quick)?;
    let chosen = |workload: &&Workload| {
        let named = filters.is_empty() || filters.iter().any(|filter| workload.id.contains(filter.as_str()));
        named && (workload.quick || !quick)
    };
    let chosen: Vec<&Workload> = WORKLOADS.iter().filter(chosen).collect();
    let mut groups = measure_all(&bench, &chosen);
    if quick {
        complete(&chosen, &groups)?;
        let is_chosen = |goal: &Goal| chosen.iter().any(|workload| workload.id == goal.group);
        let goals: Vec<Goal> = goals.into_iter().filter(is_chosen).collect();
        return check(&bench, &goals, &mut groups);
    }
    if !filters.is_empty() {
        groups.iter().for_each(|group| println!("{}", markdown::group(group)));
        return complete(&chosen, &groups);
    }
    let pages = root().join("docs");
    std::fs::create_dir_all(pages.join("benchmarks")).map_err(|error| error.to_string())?;
    plot::draw_all(&pages.join("benchmarks"), &groups)?;
    let page = pages.join("benchmarks.md");
    std::fs::write(&page, markdown::page(&groups, &goals)).map_err(|error| format!("{}: {error}", page.display()))?;
    println!("{}", markdown::verdicts(&groups, &goals));
    println!("written: {}", page.display());
    complete(&chosen, &groups)
}

/// An error names the workloads that ended in a panic.
fn complete(chosen: &[&Workload], groups: &[Group]) -> Result<(), String> {
    let is_missing = |workload: &&&Workload| groups.iter().all(|group| group.id != workload.id);
    let missing: Vec<&str> = chosen.iter().filter(is_missing).map(|workload| workload.id).collect();
    if missing.is_empty() {
        Ok(())
    } else {
        Err(format!("could not be measured: {}", missing.join(", ")))
    }
}

/// Keeps this process on one CPU.
fn pinned(quick: bool) -> Result<Bench, String> {
    let allowed = cpu::online();
    let [other_cpu, .., own_cpu] = allowed[..] else {
        return Err("this takes two CPUs".into());
    };
    cpu::pin(&[own_cpu]);
    // A thousand watchers with a few descriptors each.
    let (_, most) = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE).unwrap_or((0, 0));
    let _ = nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE, most, most);
    Ok(Bench {
        quick,
        own_cpu,
        other_cpu,
    })
}

fn measure_all(bench: &Bench, workloads: &[&Workload]) -> Vec<Group> {
    let bar = ProgressBar::new(workloads.len() as u64);
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} {msg} ({elapsed})");
    bar.set_style(style.expect("the template is well formed"));
    let measure = |workload: &&Workload| {
        bar.set_message(workload.id);
        // Drawn now: nothing else is to run while something is measured.
        bar.tick();
        // A panic, which has said what was wrong, costs the workload and not the others.
        let group = catch_unwind(|| (workload.measure)(bench)).ok();
        if let Some(group) = &group {
            raw::keep(&root().join("target/zproc-bench"), group);
        }
        bar.inc(1);
        group
    };
    let groups = workloads.iter().filter_map(measure).collect();
    bar.finish_with_message("measured");
    groups
}

/// Whether all ratios are there and within twice their goals; measures those again that are not.
fn check(bench: &Bench, goals: &[Goal], groups: &mut [Group]) -> Result<(), String> {
    for attempt in 1.. {
        groups.iter().for_each(|group| println!("{}", markdown::group(group)));
        let (verdicts, unjudged) = goals::judge_all(goals, groups);
        println!("{}", markdown::verdict_table(&verdicts));
        if !unjudged.is_empty() {
            let unjudged: Vec<String> = unjudged.iter().map(|goal| goal.to_string()).collect();
            return Err(format!("could not be judged: {}", unjudged.join("; ")));
        }
        let bad: Vec<&Verdict<'_>> = verdicts.iter().filter(|verdict| !verdict.is_within(2.0)).collect();
        if bad.is_empty() {
            return Ok(());
        }
        let names: Vec<String> = bad.iter().map(|verdict| verdict.goal.to_string()).collect();
        let ids: Vec<String> = bad.iter().map(|verdict| verdict.goal.group.clone()).collect();
        if attempt == ATTEMPTS {
            return Err(format!(
                "worse than the goal by more than 2 × in {ATTEMPTS} attempts: {}",
                names.join("; ")
            ));
        }
        println!("again: {}", names.join("; "));
        for (group, workload) in groups
            .iter_mut()
            .filter(|group| ids.iter().any(|id| id == group.id))
            .filter_map(|group| {
                let workload = WORKLOADS.iter().find(|workload| workload.id == group.id)?;
                Some((group, workload))
            })
        {
            *group = catch_unwind(|| (workload.measure)(bench))
                .map_err(|_| format!("could not be measured again: {}", workload.id))?;
        }
    }
    unreachable!("the last attempt returns")
}
