//! The doctor on states with processes: stopped, dead, without room. What it says of files is tested with the library.

use zproc::{Finding, Life, Result, Severity, State, doctor};

use crate::doctor_example;
use crate::kid::{Address, Kid, Role, eventually};

/// Runs the example.
pub fn run_example(role: &Role) {
    println!();
    let mut arguments = vec![role.address.as_str()];
    arguments.extend(role.argument.split_whitespace());
    let status = doctor_example::run(&arguments);
    std::process::exit(status.into());
}

pub fn run_with_little_address_space(role: &Role) {
    let limit = libc::rlimit {
        rlim_cur: 512 << 20,
        rlim_max: 512 << 20,
    };
    // SAFETY: the structure outlives the call.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_AS, &raw const limit) }, 0);
    run_example(role);
}

/// What the example writes, and the status that it ends with.
fn example(kid: Kid) -> (String, Option<i32>) {
    let (text, status) = kid.output();
    let report = text.find("shm://").map_or("", |at| &text[at..]);
    (report.into(), status.code())
}

#[track_caller]
fn assert_tells(report: &str, parts: &[String]) {
    for part in parts {
        assert!(report.contains(part.as_str()), "no {part:?} in\n{report}");
    }
}

#[test]
fn the_example_tells_of_a_healthy_state_and_of_none() -> Result<()> {
    let address = Address::new("example");
    let (report, status) = example(Kid::start("doctor", &address, ""));
    assert_tells(&report, &["fatal    there is no state".into(), "-> create it".into()]);
    assert_eq!(status, Some(2));

    let state = State::create(&address)?;
    zproc::set_process_name("care");
    state.insert("a", 1)?;
    let (report, status) = example(Kid::start("doctor", &address, ""));
    let pid = std::process::id();
    assert_tells(
        &report,
        &[
            format!("{} ({})\n", &*address, address.path()),
            "fine     it can be opened".into(),
            "fine     namespace \"default\": the writer lock is free".into(),
            format!("{pid:>7} care            running"),
            "\"default\": 1 updates, 1 keys".into(),
        ],
    );
    assert_eq!(status, Some(0), "{report}");
    Ok(())
}

#[test]
fn the_doctor_names_a_stopped_holder_and_does_not_wait_for_it() -> Result<()> {
    let address = Address::new("doctor-stopped");
    let state = State::create(&address)?;
    let kid = Kid::ready("hold", &address, "");
    kid.signal(libc::SIGSTOP);
    eventually("the child to be stopped", || {
        let holder = state.status().unwrap().namespaces[0].lock.holder.clone();
        holder.is_some_and(|holder| holder.life == Life::Stopped)
    });
    let diagnosis = doctor(&address)?;
    assert_eq!(diagnosis.severity(), Severity::Warning, "{diagnosis}");
    let problem = diagnosis.problems().next().unwrap();
    assert!(matches!(problem, Finding::Lock { lock, .. } if lock.holder.as_ref().unwrap().pid == kid.pid()));
    assert!(
        problem
            .remedy(&address)
            .unwrap()
            .contains(&format!("kill -CONT {}", kid.pid()))
    );
    let not_counted = |finding: &Finding| matches!(finding, Finding::NotCounted { .. });
    assert!(diagnosis.findings.iter().any(not_counted), "{diagnosis}");
    let (report, status) = example(Kid::start("doctor", &address, ""));
    let pid = kid.pid();
    assert_tells(
        &report,
        &[
            format!("warning  namespace \"default\": the writer lock is held by process {pid} (holder) (thread {pid}"),
            format!("-> kill -CONT {pid}, or kill -KILL {pid}"),
            format!("note     process {pid} (holder) is stopped"),
            format!("lock held by process {pid} (holder)"),
        ]
        .map(|part| part.replace(&format!(" (thread {pid}"), "")),
    );
    assert_eq!(status, Some(1), "{report}");
    Ok(())
}

#[test]
fn the_doctor_tells_what_the_dead_left_and_the_example_reaps_it() -> Result<()> {
    let address = Address::new("doctor-dead");
    let state = State::builder(&address).history(10, 1 << 20).create()?;
    state.insert("a", 0)?;
    let pid = Kid::ready("pin", &address, "").kill();
    (0..100).try_for_each(|n| state.insert("a", n))?;
    let holder = Kid::ready("hold", &address, "").kill();
    let diagnosis = doctor(&address)?;
    let findings = &diagnosis.findings;
    let dead = findings.iter().find_map(|finding| match finding {
        Finding::DeadProcesses { pids, .. } => Some(pids.clone()),
        _ => None,
    });
    assert_eq!(dead, Some(vec![pid, holder]), "{diagnosis}");
    let old = |finding: &Finding| matches!(finding, Finding::OldSnapshot { pin, .. } if pin.pid == pid && pin.dead);
    assert!(findings.iter().any(old), "{diagnosis}");
    let slow = |finding: &Finding| matches!(finding, Finding::SlowWatcher { watcher, .. } if watcher.pid == pid && watcher.dead);
    assert!(findings.iter().any(slow), "{diagnosis}");
    let abandoned = |finding: &Finding| matches!(finding, Finding::Lock { lock, .. } if lock.abandoned);
    assert!(findings.iter().any(abandoned), "{diagnosis}");
    let counted = |finding: &Finding| matches!(finding, Finding::Heap { .. });
    assert!(
        findings.iter().any(counted),
        "the doctor got the lock of the dead: {diagnosis}"
    );

    let (text, status) = Kid::start("doctor", &address, "--reap").output();
    assert!(text.contains("gave back 2 entries of dead processes"), "{text}");
    assert!(
        text.contains("the writer lock is free") && !text.contains("which is dead"),
        "{text}"
    );
    assert_eq!(status.code(), Some(0), "{text}");
    assert_eq!(state.status()?.leftovers, zproc::Leftovers::default());
    Ok(())
}

#[test]
fn the_doctor_tells_a_living_process_whose_snapshot_holds_memory_back() -> Result<()> {
    let address = Address::new("doctor-old");
    let state = State::builder(&address).history(10, 1 << 20).create()?;
    state.insert("a", 0)?;
    let kid = Kid::ready("pin", &address, "");
    (0..100).try_for_each(|n| state.insert("a", n))?;
    let diagnosis = doctor(&address)?;
    let told: Vec<String> = diagnosis.problems().map(Finding::to_string).collect();
    let expected = format!("process {} (holder) has a snapshot that is 100 updates old", kid.pid());
    assert!(told.iter().any(|told| told.contains(&expected)), "{diagnosis}");
    let expected = format!(
        "process {} (holder) has a watcher that is 100 updates behind",
        kid.pid()
    );
    assert!(told.iter().any(|told| told.contains(&expected)), "{diagnosis}");
    Ok(())
}

#[test]
fn the_doctor_tells_of_too_little_address_space() -> Result<()> {
    let address = Address::new("doctor-space");
    let _state = State::create(&address)?;
    let (report, status) = example(Kid::start("doctor with little address space", &address, ""));
    let expected = "fatal    this process may have 512.0 MiB of address space, and the state reserves 1.0 GiB";
    assert_tells(&report, &[expected.into(), "ulimit -v".into()]);
    assert_eq!(status, Some(2), "{report}");
    Ok(())
}

#[test]
fn the_doctor_tells_another_user_that_the_state_is_not_his() -> Result<()> {
    const NOBODY: u32 = 65534;
    // SAFETY: asks for a number.
    if unsafe { libc::geteuid() } != 0 {
        println!("DID NOT RUN: only root can become somebody else");
        return Ok(());
    }
    let address = Address::new("doctor-user");
    let _state = State::create(&address)?;
    let (report, status) = example(Kid::start_as("doctor", &address, "", Some(NOBODY)));
    assert_tells(
        &report,
        &[
            "it belongs to user 0, and this process runs as user 65534".into(),
            "fatal    it cannot be read: Permission denied".into(),
        ],
    );
    assert_eq!(status, Some(2), "{report}");
    // And root, who could read it, of a file that somebody else put there.
    std::os::unix::fs::chown(address.path(), Some(NOBODY), None).unwrap();
    let diagnosis = doctor(&address)?;
    assert!(
        diagnosis
            .problems()
            .any(|finding| *finding == Finding::Owner { owner: NOBODY, user: 0 })
    );
    assert_eq!(diagnosis.severity(), Severity::Fatal);
    Ok(())
}

/// Such an arena could be mapped, so the doctor found nothing wrong where `State::open` had refused it.
#[test]
fn the_doctor_tells_of_values_in_another_encoding() -> Result<()> {
    let address = Address::new("doctor-values");
    let options = shm_state::ArenaOptions {
        value_format: zproc::VALUE_FORMAT + 1,
        ..Default::default()
    };
    let _arena = shm_state::Arena::create(address.trim_start_matches("shm://"), &options).unwrap();
    let refused = State::open(&address).expect_err("its values are others").to_string();
    let diagnosis = doctor(&address)?;
    assert_eq!(diagnosis.severity(), Severity::Fatal);
    let mut problems = diagnosis.problems().map(ToString::to_string);
    let told = problems.find(|problem| problem.contains("its values are"));
    assert!(told.is_some(), "{diagnosis}, but opening says: {refused}");
    assert!(
        diagnosis.status.is_some(),
        "what is not about values can be told all the same"
    );
    Ok(())
}
