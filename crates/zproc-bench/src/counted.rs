//! Counts of instructions, as they are written down and compared.

use std::collections::BTreeMap;
use std::fmt;

/// By how much an operation may grow.
const TOLERANCE: f64 = 1.05;
/// The same where another compiler has made the code: what it does otherwise is within this.
const TOLERANCE_OF_OTHERS: f64 = 1.25;

/// How far an operation may be from itself with another number of keys.
const FLAT: f64 = 1.05;

/// What is between the name of an operation and a number of keys that is not the usual one.
pub const BY_KEYS: &str = ", ";

const HEAD: &str = "\
# Instructions of one operation on a state of 1,000 keys, or as many as it says. Written and compared by
#
#     cargo bench -p zproc-bench --bench instructions -- --update
#
# A change that costs more than 5 % has to say here, by a new figure, that it does. With another number of keys an
# operation may not take 5 % more or less.
";

/// What was counted.
#[derive(Debug, PartialEq)]
pub struct Counts {
    /// By what was compiled.
    pub compiler: String,
    /// Instructions of each operation.
    pub each: BTreeMap<String, f64>,
}

impl Counts {
    /// By how much those may be above `committed`; `None` if they are of another processor.
    fn tolerance(&self, committed: &Self) -> Option<f64> {
        let processor = |counts: &Self| counts.compiler.rsplit(", ").next().map(str::to_owned);
        if self.compiler == committed.compiler {
            Some(TOLERANCE)
        } else {
            (processor(self) == processor(committed)).then_some(TOLERANCE_OF_OTHERS)
        }
    }

    /// What costs another amount with another number of keys.
    fn not_flat(&self) -> impl Iterator<Item = String> {
        self.each.iter().filter_map(|(name, count)| {
            let usual = self.each.get(name.split_once(BY_KEYS)?.0)?;
            let ratio = count / usual;
            (!(1.0 / FLAT..=FLAT).contains(&ratio))
                .then(|| format!("'{name}' takes {count:.1} instructions, and {usual:.1} with 1,000"))
        })
    }

    /// Reads what `Display` writes.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut counts = Self {
            compiler: String::new(),
            each: BTreeMap::new(),
        };
        for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let (name, value) = line
                .split_once(" = ")
                .ok_or_else(|| format!("not 'name = value': {line}"))?;
            let name = name.trim_matches('"').to_owned();
            if name == "compiler" {
                value.trim_matches('"').clone_into(&mut counts.compiler);
            } else {
                let count = value.parse().map_err(|_| format!("not a number: {line}"))?;
                counts.each.insert(name, count);
            }
        }
        Ok(counts)
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{HEAD}\ncompiler = \"{}\"\n", self.compiler)?;
        self.each
            .iter()
            .try_for_each(|(name, count)| writeln!(f, "\"{name}\" = {count:.1}"))
    }
}

/// A table of both, and an error that names what has grown too much or is missing.
pub fn compare(committed: &Counts, counted: &Counts) -> (String, Result<(), String>) {
    let (mut table, mut bad) = (String::new(), Vec::new());
    let tolerance = counted.tolerance(committed);
    for (name, now) in &counted.each {
        let Some(before) = committed.each.get(name) else {
            table += &format!("{name:<18} {now:>8.1}\n");
            bad.push(format!("'{name}' is not written down"));
            continue;
        };
        let ratio = now / before;
        table += &format!(
            "{name:<18} {now:>8.1}  written down {before:>8.1}  {:>+6.1} %\n",
            (ratio - 1.0) * 100.0
        );
        if tolerance.is_some_and(|tolerance| ratio > tolerance) {
            bad.push(format!(
                "'{name}' takes {now:.1} instructions, {before:.1} are written down"
            ));
        }
    }
    bad.extend(counted.not_flat());
    let gone = committed.each.keys().filter(|name| !counted.each.contains_key(*name));
    bad.extend(gone.map(|name| format!("'{name}' is written down, and not counted any more")));
    if counted.compiler != committed.compiler {
        let judged = match tolerance {
            Some(tolerance) => format!("judged with {:.0} %", (tolerance - 1.0) * 100.0),
            None => "not judged".to_owned(),
        };
        table += &format!(
            "{judged}: compiled by {}, written down by {}\n",
            counted.compiler, committed.compiler
        );
    }
    let result = if bad.is_empty() {
        Ok(())
    } else {
        Err(format!(
            "{}; if that is worth it, run this with --update",
            bad.join("; ")
        ))
    };
    (table, result)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(compiler: &str, each: &[(&str, f64)]) -> Counts {
        Counts {
            compiler: compiler.into(),
            each: each.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect(),
        }
    }

    #[test]
    fn what_is_written_can_be_read() {
        let counts = counts("rustc 1, x86_64", &[("get", 12.5), ("handle get", 3.0)]);
        assert_eq!(Counts::parse(&counts.to_string()), Ok(counts));
        assert!(Counts::parse("get: 5").is_err());
        assert!(Counts::parse("get = many").is_err());
    }

    #[test]
    fn growth_beyond_the_tolerance_is_an_error_that_names_the_operation() {
        let committed = counts("rustc 1", &[("get", 100.0), ("set", 200.0)]);
        let judged = |get, set| compare(&committed, &counts("rustc 1", &[("get", get), ("set", set)])).1;
        assert_eq!(judged(104.9, 10.0), Ok(()));
        let error = judged(100.0, 211.0).unwrap_err();
        assert!(error.contains("'set'") && !error.contains("'get'"), "{error}");
        let all_and = |new| compare(&committed, &counts("rustc 1", &[("get", 1.0), ("set", 1.0), new])).1;
        assert!(all_and(("new", 1.0)).unwrap_err().contains("'new'"));
        let gone = compare(&committed, &counts("rustc 1", &[("get", 1.0)])).1;
        assert!(gone.unwrap_err().contains("'set'"));
    }

    #[test]
    fn what_depends_on_the_number_of_keys_is_an_error() {
        let judged = |few, many| {
            let counts = counts(
                "rustc 1",
                &[("get", 100.0), ("get, 10 keys", few), ("get, 100,000 keys", many)],
            );
            compare(&counts, &counts).1
        };
        assert_eq!(judged(96.0, 104.0), Ok(()));
        assert!(judged(94.0, 100.0).unwrap_err().contains("'get, 10 keys'"));
        let error = judged(100.0, 106.0).unwrap_err();
        assert!(
            error.contains("'get, 100,000 keys'") && !error.contains("'get, 10 keys'"),
            "{error}"
        );
    }

    #[test]
    fn another_compiler_has_more_freedom_and_another_processor_is_not_judged() {
        let committed = counts("rustc 1, x86_64", &[("get", 100.0)]);
        let compared = |compiler, get| compare(&committed, &counts(compiler, &[("get", get)]));
        assert_eq!(compared("rustc 2, x86_64", 124.0).1, Ok(()));
        let (table, result) = compared("rustc 2, x86_64", 126.0);
        assert!(table.contains("judged with 25 %"), "{table}");
        assert!(result.unwrap_err().contains("'get'"));
        let (table, result) = compared("rustc 1, aarch64", 300.0);
        assert_eq!(result, Ok(()));
        assert!(table.contains("not judged"), "{table}");
    }
}
