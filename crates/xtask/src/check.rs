//! `cargo xtask check`: everything that must pass before a change goes in.

use std::path::Path;

use crate::step::{Need, Step};
use crate::{doc_examples, unsafe_code};

/// The command that runs the tests. The README tells it to users word for word, and a step below checks that.
const TEST_COMMAND: &str = "cargo test --locked";

/// The table of checks, quick ones first.
#[rustfmt::skip]
pub const STEPS: &[Step] = &[
    Step::run("format",              "cargo fmt --all -- --check"),
    Step::inspect("readme",          readme_names_the_test_command),
    Step::inspect("unsafe code",     unsafe_code::is_accounted_for),
    Step::inspect("doc examples",    doc_examples::are_everywhere),
    Step::run("dependencies",        "cargo deny --workspace --locked check licenses bans sources").needs(Need::Subcommand("deny")),
    Step::run("lint",                "cargo clippy --workspace --all-targets --locked -- -D warnings"),
    Step::run("lint test builds",    "cargo clippy -p zproc-workspace -p shm-state --features zproc-workspace/kill-points,zproc-workspace/planted-faults --all-targets --locked -- -D warnings"),
    Step::run("lint features",       "cargo clippy -p shm-state -p zproc --features shm-state/shared_memory,zproc/tokio --all-targets --locked -- -D warnings"),
    Step::run("lint models",         "cargo clippy -p shm-state --release --all-targets --locked --target-dir target/models -- -D warnings").with("RUSTFLAGS", "--cfg loom"),
    Step::run("docs",                "cargo doc --workspace --no-deps --locked").with("RUSTDOCFLAGS", "-D warnings"),
    Step::run("docs tokio",          "cargo doc -p zproc --features tokio --no-deps --locked").with("RUSTDOCFLAGS", "-D warnings"),
    Step::run("aarch64",             "cargo check --workspace --target aarch64-unknown-linux-gnu --locked").needs(Need::Target("aarch64-unknown-linux-gnu")),
    Step::run("test",                TEST_COMMAND),
    Step::run("test features",       "cargo test -p shm-state --features kill-points,shared_memory --locked --lib --test shared_memory"),
    Step::run("test tokio",          "cargo test -p zproc --features tokio --locked --test watch_stream --test notifier"),
    Step::run("tokio over sockets",  "cargo test -p zproc --features tokio --locked --test over_socket --test server_watching stream"),
    Step::run("examples of tokio",   "cargo test -p zproc --features tokio --locked --doc stream"),
    Step::run("prove: every store",  "cargo test --release -p shm-state --features kill-points,planted-faults --locked --test kill_points").with("ZPROC_SWEEP", "all"),
    Step::run("prove: models",       "cargo test --release -p shm-state --locked --target-dir target/models --lib models").with("RUSTFLAGS", "--cfg loom"),
    Step::run("see: instructions",   "cargo test --release -p shm-state --features planted-faults --locked --test every_instruction planted"),
    Step::run("see: histories",      "cargo test --release --features kill-points,planted-faults --locked --test linearizability mistakes"),
    Step::run("example",             "cargo run --release --locked --example governor"),
    Step::run("instructions",        "cargo bench -p zproc-bench --locked --bench instructions"),
];

/// What concerns the libraries that zproc is compared with, which only these steps build. Figures count here, so they are
/// for a quiet machine.
#[rustfmt::skip]
pub const RIVALS: &[Step] = &[
    Step::run("lint rivals",         "cargo clippy -p zproc-bench --features rivals --all-targets --locked -- -D warnings").needs(Need::CxxCompiler),
    Step::run("test rivals",         "cargo test --release -p zproc-bench --features rivals --locked --lib --test rivals").needs(Need::CxxCompiler),
    Step::run("criterion",           "cargo bench -p zproc-bench --features rivals --locked --bench state --bench rivals -- --test").needs(Need::CxxCompiler),
    Step::run("beside the rivals",   "cargo run --release -p zproc-bench --features rivals --locked -- report --quick").needs(Need::CxxCompiler),
];

/// The README must name the very command that this task runs.
fn readme_names_the_test_command(root: &Path) -> Result<(), String> {
    let path = root.join("README.md");
    let readme = std::fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    if names_command(&readme, TEST_COMMAND) {
        Ok(())
    } else {
        Err(format!(
            "README.md must name the command `{TEST_COMMAND}`, on a line of its own or in backticks"
        ))
    }
}

/// Whether `text` has exactly this command, in backticks or as a line of a code block (a prompt before it and a
/// comment behind it don't count).
fn names_command(text: &str, command: &str) -> bool {
    let code = |line: &str| line.split('#').next().unwrap_or("").trim().trim_start_matches("$ ") == command;
    text.contains(&format!("`{command}`")) || text.lines().any(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_found_only_when_it_is_exact() {
        let found = |text| names_command(text, "cargo test --locked");
        assert!(found("Run `cargo test --locked`."));
        assert!(found("```\n$ cargo test --locked   # all of them\n```"));
        assert!(!found("cargo test"));
        assert!(!found("```\ncargo test --locked --release\n```"));
        assert!(!found("Run `cargo test --locked --release`."));
    }
}
