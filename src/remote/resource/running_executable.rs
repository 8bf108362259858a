//! Whether a process runs what is installed.

use crate::remote::{
    files,
    host::{Context, Finding, Host, Manage},
    protocol::Failure,
};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// `running_executable`: looks whether a server still runs a program that has been replaced since it was started.
/// Registers `stale`; a stale server waits for a restart.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunningExecutable {
    /// A file whose first line is the process.
    pub pid_file: String,
}

impl RunningExecutable {
    fn is_stale(&self, host: &Host) -> Result<bool, Failure> {
        let text = files::read_text(&host.path(&self.pid_file))?;
        let pid = text.lines().next().and_then(|line| line.trim().parse::<i32>().ok());
        // What doesn't run will start with what is installed.
        Ok(pid.is_some_and(is_replaced))
    }
}

/// Whether the program of a process is no longer at the path that it was started from. A package's new file is
/// renamed over the old one, which lives on without a name.
fn is_replaced(pid: i32) -> bool {
    let program = std::fs::read_link(Path::new("/proc").join(pid.to_string()).join("exe"));
    program.is_ok_and(|path| path.to_string_lossy().ends_with(" (deleted)"))
}

impl Manage for RunningExecutable {
    async fn check(&self, context: &Context<'_>) -> Result<Finding, Failure> {
        let stale = self.is_stale(context.host)?;
        Ok(Finding::unchanged().with("stale", stale).with("restart_pending", stale))
    }

    async fn apply(&self, _context: &Context<'_>, _finding: &mut Finding) -> Result<(), Failure> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_whose_program_was_replaced_is_stale() {
        let root = tempfile::tempdir().expect("a directory");
        let host = Host::at(root.path());
        let program = root.path().join("program");
        std::fs::copy("/bin/sleep", &program).expect("copied");
        let mut child = std::process::Command::new(&program).arg("60").spawn().expect("started");
        std::fs::write(root.path().join("pid"), format!("{}\n/data\n", child.id())).expect("written");
        let process = RunningExecutable { pid_file: "/pid".to_owned() };
        assert!(!process.is_stale(&host).expect("readable"));
        files::replace(&program, b"new", files::Attributes::default()).expect("replaced");
        assert!(process.is_stale(&host).expect("readable"));
        child.kill().and_then(|()| child.wait()).expect("ended");
        assert!(!process.is_stale(&host).expect("readable"), "what has ended is nobody's concern");
        let missing = RunningExecutable { pid_file: "/none".to_owned() };
        assert!(!missing.is_stale(&host).expect("readable"));
    }
}
