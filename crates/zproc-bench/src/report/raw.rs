//! All samples, for those who want to look at them in another way.

use std::fmt::Write;
use std::path::Path;

use crate::workloads::Group;

/// Writes a file with the rounds of a workload, and one with its events. That they cannot be written ends nothing.
pub fn keep(directory: &Path, group: &Group) {
    let name = group.id.replace(' ', "-");
    let (mut rounds, mut events) = ("column,rival,round,figure\n".to_owned(), "column,rival,ns\n".to_owned());
    for column in &group.columns {
        for line in &column.lines {
            for (number, figure) in line.rounds.iter().flatten().enumerate() {
                let _ = writeln!(rounds, "\"{}\",{},{number},{figure}", column.name, line.name);
            }
            for ns in &line.events_ns {
                let _ = writeln!(events, "\"{}\",{},{ns}", column.name, line.name);
            }
        }
    }
    let write = |file: String, text: String| {
        let path = directory.join(file);
        let written = std::fs::create_dir_all(directory).and_then(|()| std::fs::write(&path, text));
        if let Err(error) = written {
            eprintln!("{}: {error}", path.display());
        }
    };
    write(format!("{name}.csv"), rounds);
    if group
        .columns
        .iter()
        .flat_map(|column| &column.lines)
        .any(|line| !line.events_ns.is_empty())
    {
        write(format!("{name}-events.csv"), events);
    }
}
