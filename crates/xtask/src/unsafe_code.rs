//! Whether `docs/design.md` accounts for all unsafe code: a table with one row for each file that has some, how much, and
//! why. A change that adds an unsafe block has to say there what it is for.

use std::collections::BTreeMap;
use std::path::Path;

/// Where the unsafe code is, by what the table calls the files there, and where it is accounted for.
const SOURCES: [(&str, &str); 3] = [
    ("", "crates/shm-state/src"),
    ("zproc-spawn/", "crates/zproc-spawn/src"),
    ("zproc/", "crates/zproc/src"),
];
const ACCOUNT: &str = "docs/design.md";
const SECTION: &str = "## Unsafe code";

/// Unsafe blocks; and unsafe functions, traits and implementations.
type Amounts = (usize, usize);

/// Compares the table with the sources.
pub fn is_accounted_for(root: &Path) -> Result<(), String> {
    let text = std::fs::read_to_string(root.join(ACCOUNT)).map_err(|error| format!("{ACCOUNT}: {error}"))?;
    let told = rows(&text);
    let mut found = BTreeMap::new();
    for (prefix, sources) in SOURCES {
        let mut files = BTreeMap::new();
        collect(&root.join(sources), &root.join(sources), &mut files)?;
        found.extend(
            files
                .into_iter()
                .map(|(file, amounts)| (format!("{prefix}{file}"), amounts)),
        );
    }
    if told.is_empty() || found.is_empty() {
        return Err(format!(
            "nothing to compare: section '{SECTION}' of {ACCOUNT} with the sources"
        ));
    }
    let mut wrong = Vec::new();
    for file in told.keys().chain(found.keys().filter(|file| !told.contains_key(*file))) {
        let (told, found) = (told.get(file).copied(), found.get(file).copied());
        if told != found {
            wrong.push(format!("{file}: told {told:?}, found {found:?}"));
        }
    }
    if wrong.is_empty() {
        Ok(())
    } else {
        Err(format!(
            "the table in section '{SECTION}' of {ACCOUNT} (blocks, then functions, traits and impls) differs from \
             the sources:\n{}",
            wrong.join("\n")
        ))
    }
}

/// The rows of the table: `| \`file\` | blocks | others | why |`.
fn rows(text: &str) -> BTreeMap<String, Amounts> {
    let section = text.lines().skip_while(|line| *line != SECTION).skip(1);
    let section = section.take_while(|line| !line.starts_with("## "));
    section.filter_map(row).collect()
}

fn row(line: &str) -> Option<(String, Amounts)> {
    let mut cells = line.trim_matches('|').split('|').map(str::trim);
    let file = cells.next()?.strip_prefix('`')?.strip_suffix('`')?;
    let mut amount = || cells.next()?.parse().ok();
    Some((file.to_owned(), (amount()?, amount()?)))
}

/// Counts in all files but those of tests and models.
fn collect(root: &Path, directory: &Path, found: &mut BTreeMap<String, Amounts>) -> Result<(), String> {
    let failed = |error: std::io::Error| format!("{}: {error}", directory.display());
    for entry in std::fs::read_dir(directory).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.file_stem().is_some_and(|stem| stem == "tests" || stem == "models") {
            continue;
        }
        if path.is_dir() {
            collect(root, &path, found)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let amounts = count(&std::fs::read_to_string(&path).map_err(failed)?);
            if amounts != (0, 0) {
                let name = path.strip_prefix(root).unwrap_or(&path);
                found.insert(name.to_string_lossy().into_owned(), amounts);
            }
        }
    }
    Ok(())
}

/// Counts in a source text, leaving out its comments and the module `tests` at its end.
fn count(text: &str) -> Amounts {
    let code = text.split("#[cfg(test)]\nmod tests").next().unwrap_or(text);
    let mut amounts = (0, 0);
    for line in code.lines().map(|line| line.split("//").next().unwrap_or(line)) {
        for (at, word) in line.match_indices("unsafe ") {
            let rest = &line[at + word.len()..];
            if rest.starts_with('{') {
                amounts.0 += 1;
            } else if ["fn", "impl", "trait", "extern"]
                .iter()
                .any(|kind| rest.starts_with(kind))
            {
                amounts.1 += 1;
            }
        }
    }
    amounts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_told_from_functions_and_comments() {
        let text = "// unsafe { no }\nlet a = unsafe { b() };\npub unsafe fn c() {}\nunsafe impl Send for D {}\n\
                    #[cfg(test)]\nmod tests { unsafe { e() } }";
        assert_eq!(count(text), (1, 2));
    }

    #[test]
    fn only_the_table_of_the_section_counts() {
        let text = "## Parts\n| `a.rs` | 1 | 0 | x |\n## Unsafe code\n| file | blocks | others | why |\n|---|---|---|---|\n\
                    | `sys/b.rs` | 2 | 3 | y |\n## Tests\n| `c.rs` | 1 | 1 | z |\n";
        assert_eq!(rows(text), BTreeMap::from([("sys/b.rs".to_owned(), (2, 3))]));
    }
}
