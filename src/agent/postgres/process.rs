//! The postmaster as a process: found by its pid file, checked against /proc, watched through a pidfd.

use std::{
    fs, io,
    os::{
        fd::{AsFd, AsRawFd, FromRawFd, OwnedFd},
        unix::fs::MetadataExt,
    },
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use nix::sys::signal::Signal;
use tokio::io::{Interest, unix::AsyncFd};

/// What `postmaster.pid` says of the server's readiness.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Readiness {
    Starting,
    /// A standby that takes no connections (`hot_standby` is off).
    Standby,
    Ready,
    Stopping,
}

/// A postmaster that was alive when it was looked up. The kernel's handle to it can never mean another
/// process, whatever happens to its number.
#[derive(Clone, Debug)]
pub struct Postmaster {
    pid: i32,
    handle: Arc<OwnedFd>,
}

impl PartialEq for Postmaster {
    fn eq(&self, other: &Self) -> bool {
        self.pid == other.pid && Arc::ptr_eq(&self.handle, &other.handle)
    }
}

impl Postmaster {
    /// The postmaster of `data_dir`, whoever started it; `None` when no live process is behind its pid file.
    pub(super) fn of(data_dir: &Path) -> Option<Postmaster> {
        let pid = PidFile::read(data_dir)?.pid;
        let handle = pidfd(pid).ok()?;
        // The handle is held before the checks: what they see is the process that it means.
        is_postmaster_of(pid, data_dir).then(|| Postmaster { pid, handle: Arc::new(handle) })
    }

    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Whether it has not ended yet.
    pub fn is_alive(&self) -> bool {
        let mut poll = libc::pollfd { fd: self.handle.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one valid pollfd, and a timeout of zero.
        unsafe { libc::poll(&mut poll, 1, 0) == 0 }
    }

    /// Resolves the moment it has ended, whoever its parent is.
    pub async fn exited(&self) {
        if let Ok(handle) = self.handle.as_fd().try_clone_to_owned() {
            // SAFETY: the descriptor is owned by what it is registered with, and closed with it.
            let watch = unsafe { AsyncFd::register_with_interest(handle, Interest::READABLE) };
            if let Ok(watch) = watch
                && watch.readable().await.is_ok()
            {
                return;
            }
        }
        // No descriptor left to wait with: ask again and again instead.
        while self.is_alive() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Whether somebody has stopped it (SIGSTOP, a debugger): its sessions go on, and nothing new begins.
    pub(super) fn is_suspended(&self) -> bool {
        state_and_parent(self.pid).is_some_and(|(state, _)| matches!(state, 'T' | 't'))
    }

    pub(super) fn signal(&self, signal: Signal) -> io::Result<()> {
        signal_handle(&self.handle, signal)
    }

    /// Its children: backends, walsenders, the checkpointer, ... Each leads a process group of its own.
    pub(super) fn children(&self) -> Vec<Postmaster> {
        let Ok(processes) = fs::read_dir("/proc") else { return Vec::new() };
        processes
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
            .filter(|pid| parent(*pid) == Some(self.pid))
            .filter_map(|pid| {
                let handle = pidfd(pid).ok()?;
                (parent(pid) == Some(self.pid)).then(|| Postmaster { pid, handle: Arc::new(handle) })
            })
            .collect()
    }
}

/// Every PostgreSQL process that works in `data_dir`.
pub(super) fn working_in(data_dir: &Path) -> Vec<Postmaster> {
    let Ok(processes) = fs::read_dir("/proc") else { return Vec::new() };
    processes
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
        .filter(|pid| is_postmaster_of(*pid, data_dir))
        .filter_map(|pid| {
            let handle = pidfd(pid).ok()?;
            is_postmaster_of(pid, data_dir).then(|| Postmaster { pid, handle: Arc::new(handle) })
        })
        .collect()
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
/// another data directory. A postmaster works in its data directory.
fn is_postmaster_of(pid: i32, data_dir: &Path) -> bool {
    let identity = |path: &Path| fs::metadata(path).map(|data| (data.dev(), data.ino())).ok();
    let working = PathBuf::from(format!("/proc/{pid}/cwd"));
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    matches!(name.trim(), "postgres" | "postmaster")
        && identity(data_dir).is_some_and(|wanted| identity(&working) == Some(wanted))
        && state_and_parent(pid).is_some_and(|(state, _)| state != 'Z')
}

fn parent(pid: i32) -> Option<i32> {
    state_and_parent(pid).map(|(_, parent)| parent)
}

fn state_and_parent(pid: i32) -> Option<(char, i32)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field, the name in brackets, may hold anything, blanks and brackets too.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    Some((fields.next()?.chars().next()?, fields.next()?.parse().ok()?))
}

fn pidfd(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: the call takes two integers and gives a new descriptor, owned by nobody else.
    unsafe {
        match libc::syscall(libc::SYS_pidfd_open, pid, 0) {
            -1 => Err(io::Error::last_os_error()),
            descriptor => Ok(OwnedFd::from_raw_fd(descriptor as i32)),
        }
    }
}

fn signal_handle(handle: &OwnedFd, signal: Signal) -> io::Result<()> {
    let (descriptor, number) = (handle.as_raw_fd(), signal as i32);
    // SAFETY: a live descriptor, a signal number, no siginfo, no flags.
    let sent = unsafe {
        libc::syscall(libc::SYS_pidfd_send_signal, descriptor, number, std::ptr::null::<libc::siginfo_t>(), 0)
    };
    if sent == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
