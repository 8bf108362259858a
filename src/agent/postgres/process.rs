//! The postmaster as a process: found by its pid file, checked against /proc.

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use nix::sys::signal::Signal;

use super::handle::Handle;

/// What `postmaster.pid` says of the server's readiness.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Readiness {
    Starting,
    /// A standby that takes no connections (`hot_standby` is off).
    Standby,
    Ready,
    Stopping,
}

/// A postmaster that was alive when it was looked up, started by this agent or by anybody.
#[derive(Clone, Debug)]
pub struct Postmaster(Handle);

impl Postmaster {
    /// The postmaster of `data_dir`; `None` when no live process is behind its pid file.
    pub(super) fn of(data_dir: &Path) -> Option<Postmaster> {
        let handle = Handle::of(PidFile::read(data_dir)?.pid)?;
        // The handle is held before the checks: what they see is the process that it means.
        works_in(handle.pid(), data_dir).then_some(Postmaster(handle))
    }

    pub fn pid(&self) -> i32 {
        self.0.pid()
    }

    /// Whether it has not ended yet.
    pub fn is_alive(&self) -> bool {
        self.0.is_alive()
    }

    /// Resolves the moment it has ended, whoever its parent is.
    pub async fn exited(&self) {
        self.0.exited().await
    }

    /// Whether somebody has stopped it (SIGSTOP, a debugger): its sessions go on, and nothing new begins.
    pub(super) fn is_suspended(&self) -> bool {
        state_and_parent(self.pid()).is_some_and(|(state, _)| matches!(state, 'T' | 't'))
    }

    pub(super) fn signal(&self, signal: Signal) -> io::Result<()> {
        self.0.signal(signal)
    }

    /// Its children: backends, walsenders, the checkpointer, ... Each leads a process group of its own.
    pub(super) fn children(&self) -> Vec<Handle> {
        processes(|pid| state_and_parent(pid).is_some_and(|(_, parent)| parent == self.pid()))
    }
}

/// Every PostgreSQL process that works in `data_dir`.
pub(super) fn working_in(data_dir: &Path) -> Vec<Handle> {
    processes(|pid| works_in(pid, data_dir))
}

/// Handles to all processes that are `wanted`.
fn processes(wanted: impl Fn(i32) -> bool) -> Vec<Handle> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    // Asked a second time once the handle is held: the number may have changed hands before.
    pids.filter(|pid| wanted(*pid)).filter_map(Handle::of).filter(|handle| wanted(handle.pid())).collect()
}

/// `postmaster.pid`, which the postmaster keeps current.
pub(super) struct PidFile {
    pub pid: i32,
    pub readiness: Readiness,
}

impl PidFile {
    pub fn read(data_dir: &Path) -> Option<PidFile> {
        let text = fs::read_to_string(data_dir.join("postmaster.pid")).ok()?;
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        // A negative number is a single-user server: no postmaster.
        let pid = lines.first()?.parse().ok().filter(|pid| *pid > 1)?;
        let readiness = match lines.get(7).copied() {
            Some("ready") => Readiness::Ready,
            Some("standby") => Readiness::Standby,
            Some("stopping") => Readiness::Stopping,
            _ => Readiness::Starting,
        };
        Some(PidFile { pid, readiness })
    }
}

/// A number in a pid file left by a crash may have gone to any other process, even to a postmaster of
/// another data directory. PostgreSQL's processes work in their data directory.
fn works_in(pid: i32, data_dir: &Path) -> bool {
    let identity = |path: &Path| fs::metadata(path).map(|data| (data.dev(), data.ino())).ok();
    let working = PathBuf::from(format!("/proc/{pid}/cwd"));
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    matches!(name.trim(), "postgres" | "postmaster")
        && identity(data_dir).is_some_and(|wanted| identity(&working) == Some(wanted))
        && state_and_parent(pid).is_some_and(|(state, _)| state != 'Z')
}

fn state_and_parent(pid: i32) -> Option<(char, i32)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field, the name in brackets, may hold anything, blanks and brackets too.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    Some((fields.next()?.chars().next()?, fields.next()?.parse().ok()?))
}
