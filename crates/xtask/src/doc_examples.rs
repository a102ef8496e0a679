//! Whether each public item of the libraries has an example in its documentation, which `cargo test` then runs.
//!
//! The sources are read as text. That is enough, because rustfmt has put every item where it is looked for: what a crate
//! exports stands in the `pub use` of its `lib.rs`; items and `impl` blocks begin in column 0, and methods in column 4.
//! The compiler's own lint for this (`rustdoc::missing_doc_code_examples`) is not stable.

use std::collections::BTreeSet;
use std::path::Path;

const LIBRARIES: [&str; 2] = ["crates/zproc/src", "crates/shm-state/src"];

/// Items that go without: one has to read nothing but their name, or they exist in test builds only.
const EXEMPT: &[&str] = &[
    // Of test builds, and of the models.
    "Fault",
    "Deadline::ns",
];

/// Fails with a list of the items that have no example.
pub fn are_everywhere(root: &Path) -> Result<(), String> {
    let mut missing = Vec::new();
    let mut exempt = BTreeSet::new();
    for library in LIBRARIES {
        let root = root.join(library);
        let exported = exported(&read(&root.join("lib.rs"))?);
        if exported.is_empty() {
            return Err(format!("{library}/lib.rs exports nothing"));
        }
        visit(&root, &mut |path, text| {
            for (line, item) in without_example(text, &exported) {
                if EXEMPT.contains(&item.as_str()) {
                    exempt.insert(item);
                } else {
                    missing.push(format!("{}:{line}: {item}", path.display()));
                }
            }
        })?;
    }
    if let Some(unused) = EXEMPT.iter().find(|item| !exempt.contains(**item)) {
        return Err(format!(
            "{unused} has an example, or is gone: take it off the list of exemptions"
        ));
    }
    if missing.is_empty() {
        return Ok(());
    }
    Err(format!(
        "{} public items have no example in their documentation (a code block that is compiled):\n{}",
        missing.len(),
        missing.join("\n")
    ))
}

fn read(path: &Path) -> Result<String, String> {
    std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))
}

/// Calls `f` with all source files but those of tests and models.
fn visit(directory: &Path, f: &mut impl FnMut(&Path, &str)) -> Result<(), String> {
    let failed = |error: std::io::Error| format!("{}: {error}", directory.display());
    for entry in std::fs::read_dir(directory).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.file_stem().is_some_and(|stem| stem == "tests" || stem == "models") {
            continue;
        }
        if path.is_dir() {
            visit(&path, f)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            f(&path, &read(&path)?);
        }
    }
    Ok(())
}

/// The names in the `pub use` items of a `lib.rs`, as they are where they come from.
fn exported(text: &str) -> BTreeSet<String> {
    let uses = text
        .split("\npub use ")
        .skip(1)
        .filter_map(|rest| rest.split(';').next());
    // Of `a::{B, C as D}` and `a::b::E` the last words before a comma, a brace, or the end; C and not D.
    let names = uses.flat_map(|list| list.split([',', '{', '}']));
    let names = names.map(|name| name.split(" as ").next().unwrap_or(name).trim());
    names
        .filter_map(|path| path.rsplit("::").next())
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect()
}

/// The exported items in a source text that have no example, with their lines.
fn without_example(text: &str, exported: &BTreeSet<String>) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    // The exported type or trait in whose block the line is; its methods are public with and without saying so.
    let mut block: Option<(&str, bool)> = None;
    let mut docs = Docs::default();
    for (number, line) in (1..).zip(text.lines()) {
        if docs.take(line.trim_start()) {
            continue;
        }
        let item = match line.len() - line.trim_start().len() {
            0 if line == "}" => {
                block = None;
                None
            }
            0 => {
                let item = item(line).filter(|(_, name)| exported.contains(*name));
                match (item, inherent(line)) {
                    (Some(("trait", name)), _) => block = Some((name, true)),
                    (None, Some(name)) if exported.contains(name) => block = Some((name, false)),
                    // A line such as `where` or `)` is in whatever block it is in.
                    (None, None) if !line.starts_with("impl") => {}
                    _ => block = None,
                }
                item.map(|(_, name)| name.to_owned())
            }
            4 => block.and_then(|(owner, all)| Some(format!("{owner}::{}", method(line, all)?))),
            _ => None,
        };
        if let Some(item) = item
            && !docs.has_example
            && !docs.hidden
        {
            found.push((number, item));
        }
        docs = Docs::default();
    }
    found
}

/// The documentation before an item.
#[derive(Default)]
struct Docs {
    /// Inside of a code block.
    in_code: bool,
    has_example: bool,
    hidden: bool,
}

impl Docs {
    /// Reads a line, if it is one of documentation or an attribute.
    fn take(&mut self, line: &str) -> bool {
        if let Some(text) = line.strip_prefix("///") {
            if let Some(kind) = text.trim_start().strip_prefix("```") {
                self.in_code = !self.in_code;
                self.has_example |= self.in_code && matches!(kind, "" | "no_run" | "should_panic" | "compile_fail");
            }
            return true;
        }
        self.hidden |= line.starts_with("#[doc(hidden)]");
        line.starts_with("#[") || line.starts_with("//")
    }
}

/// Kind and name of a public item.
fn item(line: &str) -> Option<(&str, &str)> {
    let mut words = line.strip_prefix("pub ")?.split_whitespace();
    let kind = words.find(|word| !["const", "unsafe", "async"].contains(word))?;
    // A constant has its name where others have their kind.
    let (kind, name) = match kind {
        "fn" | "struct" | "enum" | "trait" | "type" | "static" | "union" => (kind, words.next()?),
        name => ("const", name),
    };
    Some((kind, leading_name(name)))
}

/// The type of an inherent implementation.
fn inherent(line: &str) -> Option<&str> {
    let rest = line.strip_prefix("impl")?;
    if rest.contains(" for ") {
        return None;
    }
    let rest = match rest.strip_prefix('<') {
        Some(generics) => generics.split_once("> ")?.1,
        None => rest,
    };
    Some(leading_name(rest.trim_start()))
}

/// The name of a method; in the block of a trait, `all` are public.
fn method(line: &str, all: bool) -> Option<&str> {
    let line = line.trim_start();
    let line = match line.strip_prefix("pub ") {
        Some(line) => line,
        None if all => line,
        None => return None,
    };
    let mut words = line.split_whitespace();
    let kind = words.find(|word| !["const", "unsafe", "async"].contains(word))?;
    (kind == "fn").then(|| words.next().map(leading_name))?
}

fn leading_name(text: &str) -> &str {
    let end = text
        .find(|c: char| c != '_' && !c.is_alphanumeric())
        .unwrap_or(text.len());
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: &str = "\
/// Has one.
///
/// ```
/// assert!(true);
/// ```
#[derive(Debug)]
pub struct Good;

/// Has none that is compiled.
///
/// ```text
/// a drawing
/// ```
pub struct Bad<T>(T);

/// Not exported.
pub struct Inner;

impl<T> Bad<T> {
    /// None.
    pub const fn bare(self) {}

    /// Private.
    fn hidden(self) {}
}

impl Inner {
    pub fn invisible(self) {}
}

impl Clone for Good {
    fn clone(&self) -> Self {}
}

/// ```
/// ```
pub trait Shape {
    /// None.
    fn area(&self);

    #[doc(hidden)]
    fn secret(&self);
}

/// None.
pub fn draw<T>(shape: T)
where
    T: Shape,
{
}

pub const LIMIT: u8 = 1;
";

    #[test]
    fn items_without_a_compiled_example_are_found() {
        let exported = exported("mod a;\npub use a::{Good, Bad, Shape as Form, draw};\npub use b::LIMIT;\n");
        let found = without_example(SOURCE, &exported);
        let names: Vec<&str> = found.iter().map(|(_, item)| item.as_str()).collect();
        assert_eq!(names, ["Bad", "Bad::bare", "Shape::area", "draw", "LIMIT"]);
        assert_eq!(found[0].0, 14);
    }

    #[test]
    fn names_are_exported_over_several_lines() {
        let exported = exported("\npub use a::{\n    B, C,\n    D,\n};\n#[cfg(x)]\npub use e::f::G;\n");
        assert_eq!(exported.into_iter().collect::<Vec<_>>(), ["B", "C", "D", "G"]);
    }
}
