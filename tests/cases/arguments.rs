//! Wrong arguments. A case holds the words of a command line; what is told has the exit code first.

use std::{fs, process::Command};

#[test]
fn wrong_arguments_are_explained() {
    super::check("arguments", 20, |case| {
        let words = shlex_split(&fs::read_to_string(case).expect("a readable case"));
        let mut command = Command::new(env!("CARGO_BIN_EXE_pgfleet"));
        command.args(&words).env_clear().env("NO_COLOR", "1").env("HOME", "/nonexistent");
        let output = command.output().expect("the command starts");
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        format!("exit {}\n{told}", output.status.code().unwrap_or(-1))
    });
}

/// The words of a line as a shell would split them; quotes are all that is needed here.
fn shlex_split(line: &str) -> Vec<String> {
    shlex::split(line.trim()).expect("closed quotes")
}
