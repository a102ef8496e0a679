//! The table for those who come from Python names a test in each row: it exists.

use std::fs;
use std::path::Path;

#[test]
fn every_test_that_the_table_names_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let table = fs::read_to_string(root.join("../../docs/from-python.md")).unwrap();
    // `file::name` in backticks; paths of the library begin with a type or with its name.
    let names: Vec<_> = table
        .split('`')
        .filter_map(|code| code.split_once("::"))
        .filter(|(file, name)| *file != "zproc" && [file, name].iter().all(|part| is_snake_case(part)))
        .collect();
    assert!(names.len() > 40, "only {} tests were found in the table", names.len());
    for (file, name) in names {
        let tests = fs::read_to_string(root.join("tests").join(file).with_extension("rs"));
        let tests = tests.unwrap_or_else(|error| panic!("{file}::{name}: {error}"));
        assert!(tests.contains(&format!("fn {name}(")), "{file}::{name} does not exist");
    }
}

fn is_snake_case(name: &str) -> bool {
    !name.is_empty()
        && name
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
}
