//! Runs the machine's own programs (`ip`, `nft`, ...) and turns their failures into errors.

use super::{Error, Result};
use std::{
    io::Write,
    path::Path,
    process::{Command, Output, Stdio},
};

/// Runs to the end and returns standard output.
pub(super) fn run(command: &mut Command) -> Result<String> {
    finish(command, b"")
}

/// As [`run`], with `input` on standard input.
pub(super) fn run_with_input(command: &mut Command, input: &str) -> Result<String> {
    finish(command, input.as_bytes())
}

fn finish(command: &mut Command, input: &[u8]) -> Result<String> {
    let output = collect(command, input)
        .map_err(|source| Error::Spawn { program: command.get_program().to_string_lossy().into(), source })?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let mut said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    if said.is_empty() {
        said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    }
    Err(Error::Command { command: line(command), status: output.status.to_string(), output: said })
}

fn collect(command: &mut Command, input: &[u8]) -> std::io::Result<Output> {
    command.env("LC_ALL", "C.UTF-8").stdout(Stdio::piped()).stderr(Stdio::piped());
    command.stdin(if input.is_empty() { Stdio::null() } else { Stdio::piped() });
    let mut child = command.spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        // A program that fails early closes its end; what it says is in its output.
        let _ = stdin.write_all(input);
    }
    child.wait_with_output()
}

/// The command as one would type it.
fn line(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
}

/// A command that runs inside a network namespace.
pub(super) fn inside(namespace: &Path, program: &str) -> Command {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net={}", namespace.display())).arg(program);
    command
}
