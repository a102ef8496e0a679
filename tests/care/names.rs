//! Each update tells who made it, also when that process is dead.

use zproc::{Result, State, Writer};

use crate::kid::{Address, Kid, Role, ready_until_killed};

/// Writes its id, under the name that it was told or that of its program.
pub fn write(role: &Role) {
    if !role.argument.is_empty() {
        zproc::set_process_name(&role.argument);
    }
    let state = role.state();
    state.insert("who", std::process::id()).unwrap();
    ready_until_killed();
}

fn writers(state: &State) -> Result<Vec<Writer>> {
    let updates = state.updates_since(0);
    let count = state.seq()? as usize;
    updates.take(count).map(|update| Ok(update?.writer)).collect()
}

fn program() -> String {
    let path = std::env::current_exe().unwrap();
    path.file_name().unwrap().to_str().unwrap()[..15].into()
}

#[test]
fn the_names_of_writers_are_known_after_they_were_killed() -> Result<()> {
    let address = Address::new("names");
    let state = State::create(&address)?;
    let mut expected = Vec::new();
    for name in ["sampler", "", "a reporter of much"] {
        let kid = Kid::ready("write", &address, name);
        expected.push((kid.pid(), name));
        kid.kill();
    }
    // Others come and go: each takes another slot.
    for _ in 0..5 {
        Kid::ready("write", &address, "passer-by").kill();
    }
    // Nothing was asked before, and this watcher was not even there.
    let elsewhere = State::open(&address)?.fork().since(0).open()?;
    for state in [&state, &elsewhere] {
        let writers = writers(state)?;
        assert_eq!(writers.len(), 8);
        for (writer, (pid, name)) in writers.iter().zip(&expected) {
            let name = match *name {
                "" => program(),
                name => name.chars().take(15).collect(),
            };
            assert_eq!((writer.pid, writer.name.as_deref()), (*pid, Some(&*name)));
            assert_eq!(writer.to_string(), format!("{name} (process {pid})"));
        }
        assert!(
            writers[3..]
                .iter()
                .all(|writer| writer.name.as_deref() == Some("passer-by"))
        );
    }
    Ok(())
}

#[test]
fn names_survive_the_cleaning_up_after_the_dead() -> Result<()> {
    let address = Address::new("names-reaped");
    let state = State::create(&address)?;
    let pid = Kid::ready("write", &address, "sampler").kill();
    assert_eq!(state.reap()?.processes, 1);
    let writer = &writers(&state)?[0];
    assert_eq!((writer.pid, writer.name.as_deref()), (pid, Some("sampler")));
    Ok(())
}
