//! The process behind a run, so that one that died on this very machine is told from one that still runs.

use nix::{errno::Errno, sys::signal::kill, unistd::Pid};
use serde::{Deserialize, Serialize};
use std::fs;

/// A process, and the place where its number means it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    id: i32,
    /// The boot of the machine, and the namespace of its processes.
    place: String,
}

impl Process {
    /// This one.
    pub fn current() -> Option<Self> {
        Self::of(std::process::id())
    }

    /// The one that has this number here; none where the system doesn't tell (other than Linux).
    pub fn of(id: u32) -> Option<Self> {
        Some(Self { id: id.cast_signed(), place: place()? })
    }

    /// Whether it is known to have ended: it ran here, and nothing has its number any more.
    pub fn has_ended(&self) -> bool {
        place().is_some_and(|here| here == self.place)
            && kill(Pid::from_raw(self.id), None) == Err(Errno::ESRCH)
    }
}

fn place() -> Option<String> {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let namespace = fs::read_link("/proc/self/ns/pid").ok()?;
    Some(format!("{} {}", boot.trim(), namespace.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn only_what_ran_here_is_known_to_have_ended() {
        assert!(!Process::current().expect("Linux").has_ended());
        let mut child = Command::new("true").spawn().expect("started");
        let dead = Process::of(child.id()).expect("Linux");
        child.wait().expect("ended");
        assert!(dead.has_ended());
        assert!(!Process { place: "elsewhere".to_owned(), ..dead }.has_ended());
    }
}
