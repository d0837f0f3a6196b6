//! `coverage [--write]`: the requirement ids that no test names, per list. Fails when a list got worse than
//! docs/spec/coverage.txt says; `--write` makes today's state the new measure.
#![forbid(unsafe_code)]

use anode_tests::coverage;
use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let write = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => false,
        ["--write"] => true,
        _ => {
            eprintln!("usage: coverage [--write]");
            return ExitCode::from(2);
        }
    };
    match run(write) {
        Ok(grown) if grown.is_empty() => ExitCode::SUCCESS,
        Ok(grown) => {
            for line in grown {
                eprintln!("{line}");
            }
            ExitCode::FAILURE
        }
        Err(e) => {
            eprintln!("{e}");
            ExitCode::FAILURE
        }
    }
}

fn run(write: bool) -> std::io::Result<Vec<String>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let spec = root.join("docs/spec");
    let file = spec.join("coverage.txt");
    let lists = coverage::measure(&root, &spec)?;
    for list in &lists {
        let named = list.ids - list.missing.len();
        println!(
            "{:>2}  {named:>3} of {:>3} named  missing: {}",
            list.letter,
            list.ids,
            coverage::ranges(&list.missing)
        );
    }
    if write {
        std::fs::write(&file, coverage::baseline(&lists))?;
        return Ok(Vec::new());
    }
    Ok(coverage::grown(&lists, &std::fs::read_to_string(&file)?))
}
