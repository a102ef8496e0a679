//! Files are replaced as a whole, whenever the process that saves is killed.

use std::path::{Path, PathBuf};

use zproc::{Dump, Result, State};

use crate::kid::{Kid, Role};

struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("zproc-care-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}

fn fill(state: &State, round: i64) -> Result<()> {
    state.replace_all((0..500).map(|n| (n, vec![round; 20])))
}

/// Saves one state after the other, until it is killed.
pub fn save(role: &Role) {
    let state = State::anonymous().unwrap();
    for round in 0.. {
        fill(&state, round).unwrap();
        state.save(&role.argument).unwrap();
        if round == 1 {
            println!("\nthe child is ready");
        }
    }
}

#[test]
fn a_kill_while_saving_leaves_the_file_before_or_after() -> Result<()> {
    let directory = Directory::new("save");
    for (number, name) in ["a.json", "a.dump"].into_iter().cycle().take(24).enumerate() {
        let path = directory.0.join(name);
        let kid = Kid::ready("save", "", path.to_str().unwrap());
        std::thread::sleep(std::time::Duration::from_micros(337 * number as u64));
        kid.kill();
        check(&path)?;
    }
    Ok(())
}

/// Whether the file holds one round, as a whole.
fn check(path: &Path) -> Result<()> {
    let state = State::anonymous()?;
    state.load(path)?;
    let round = state.get::<Vec<i64>>(0)?.unwrap()[0];
    let expected = State::anonymous()?;
    fill(&expected, round)?;
    assert_eq!(state.snapshot()?, expected.snapshot()?);
    assert_eq!(Dump::load(path)?.len(), 500);
    Ok(())
}
