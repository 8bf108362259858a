//! Running PostgreSQL's own programs.

use std::{path::Path, process::Stdio, time::Duration};

use tokio::{process::Command, time::timeout};

use super::{Error, files};

/// Limit of a program that only reads a few files.
pub(super) const SHORT: Duration = Duration::from_secs(10);

/// A program that gets none of what is meant for the agent: a postmaster that found `NOTIFY_SOCKET`
/// would report to systemd in the agent's name, and libpq reads every `PG*`.
pub(super) fn command(program: &Path) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy().into_owned();
        if name.starts_with("PG")
            || name.starts_with("PATRONI_")
            || name.starts_with("WATCHDOG_")
            || name == "NOTIFY_SOCKET"
        {
            command.env_remove(name);
        }
    }
    command.stdin(Stdio::null()).current_dir("/");
    command
}

/// Runs a program to its end and gives its standard output. It is ended when the limit has passed, or
/// when the caller loses interest. Errors carry its last lines.
pub(super) async fn run(mut command: Command, tool: &str, limit: Duration) -> Result<String, Error> {
    let program = command.as_std().get_program().to_owned();
    let child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|source| Error::Spawn { tool: program.into(), source })?;
    let output = timeout(limit, child.wait_with_output())
        .await
        .map_err(|_| failure(tool, format!("did not end within {limit:?}"), ""))?
        .map_err(|error| failure(tool, error.to_string(), ""))?;
    if !output.status.success() {
        let said = [output.stdout.as_slice(), b"\n", output.stderr.as_slice()].concat();
        return Err(failure(tool, output.status.to_string(), &String::from_utf8_lossy(&said)));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

pub(super) fn failure(tool: &str, status: String, said: &str) -> Error {
    Error::Tool { tool: tool.to_owned(), status, last_lines: files::last_lines(said, 8) }
}

/// The operating system user that this process runs as.
pub(super) fn user_name() -> Option<String> {
    let user = nix::unistd::User::from_uid(nix::unistd::geteuid());
    user.ok().flatten().map(|user| user.name)
}
