//! Wrong input, and what its author is told: each case is a file (or a folder) with the expected text beside it.
//!
//! To add one, write `KIND/NAME.yml`, run with `PGFLEET_WRITE_CASES=1`, and read `KIND/NAME.txt` as a user would.

mod arguments;
mod inventory;
mod playbook;
mod template;

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Runs every case of a folder: `input` turns the case's path into what the user is told. Paths are relative to
/// the repository, so that the texts are the same everywhere.
pub fn check(folder: &str, least: usize, input: impl Fn(&Path) -> String) {
    let folder = Path::new("tests/cases").join(folder);
    let cases = cases(&folder);
    assert!(cases.len() >= least, "{} cases in {}, expected at least {least}", cases.len(), folder.display());
    let mut wrong = Vec::new();
    for case in cases {
        let told = format!("{}\n", input(&case).trim_end());
        let expected_file = case.with_extension("txt");
        if std::env::var_os("PGFLEET_WRITE_CASES").is_some() {
            fs::write(&expected_file, &told).expect("a writable case");
        }
        let expected = fs::read_to_string(&expected_file).unwrap_or_default();
        if told != expected {
            wrong.push(format!("== {}\n-- expected\n{expected}-- told\n{told}", case.display()));
        }
    }
    assert!(wrong.is_empty(), "PGFLEET_WRITE_CASES=1 writes what is told now\n{}", wrong.join("\n"));
}

/// Everything in the folder but expected texts.
fn cases(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).expect("a folder of cases");
    let mut cases: Vec<PathBuf> = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_none_or(|extension| extension != "txt"))
        .collect();
    cases.sort();
    cases
}
