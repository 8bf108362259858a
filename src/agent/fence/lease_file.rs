//! The lease of the agent that lives here, for the one that comes after it. Holds no secret.

use crate::{
    agent::{clock::BootTime, core::Lease},
    model::MemberName,
};
use serde::{Deserialize, Serialize};
use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// What is written: a lease, whose it is, and of which life of the machine its times are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remembered {
    pub member: MemberName,
    pub boot_id: String,
    /// Process id of the agent that wrote it.
    pub agent: u32,
    pub term: u64,
    pub renewed_at_ms: u64,
    pub ttl_ms: u64,
}

impl Remembered {
    pub fn lease(&self) -> Lease {
        Lease { term: self.term, renewed_at: self.renewed_at_ms, ttl: self.ttl_ms, remembered: true }
    }
}

/// Where it is written: beside the data directory, or in it where nothing can be put beside it.
#[derive(Clone, Debug)]
pub struct LeaseFile {
    member: MemberName,
    boot_id: String,
    places: [PathBuf; 2],
}

impl LeaseFile {
    pub fn new(data_dir: &Path, member: MemberName) -> Self {
        let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let name = data_dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let beside = data_dir.with_file_name(format!(".{name}.lease"));
        Self { member, boot_id: boot_id.trim().to_owned(), places: [beside, data_dir.join(".pgfleet.lease")] }
    }

    /// Writes the lease; errors where neither place can be written.
    pub fn write(&self, lease: &Lease) -> io::Result<()> {
        let remembered = Remembered {
            member: self.member.clone(),
            boot_id: self.boot_id.clone(),
            agent: std::process::id(),
            term: lease.term,
            renewed_at_ms: lease.renewed_at,
            ttl_ms: lease.ttl,
        };
        let text = serde_json::to_string(&remembered).map_err(io::Error::other)?;
        let [beside, within] = &self.places;
        replace(beside, &text).or_else(|error| {
            // A data directory that initdb has yet to make must stay empty.
            if within.with_file_name("PG_VERSION").exists() { replace(within, &text) } else { Err(error) }
        })
    }

    /// The lease that the last agent of this member held, in this life of the machine.
    pub fn read(&self) -> Option<Remembered> {
        let read =
            |place: &PathBuf| serde_json::from_str::<Remembered>(&fs::read_to_string(place).ok()?).ok();
        self.places
            .iter()
            .filter_map(read)
            .filter(|found| found.member == self.member && found.boot_id == self.boot_id)
            .filter(|found| found.renewed_at_ms <= BootTime::now().0)
            .max_by_key(|found| found.renewed_at_ms)
    }

    /// Forgets the lease: it was given up or lost.
    pub fn remove(&self) {
        for place in &self.places {
            let _ = fs::remove_file(place);
        }
    }
}

/// Beside and renamed: a reader sees the old lease or the new one. Not synced: it means nothing after a
/// power loss.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    let new = path.with_extension("lease.new");
    fs::write(&new, text)?;
    fs::rename(&new, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_for_the_next_agent_of_the_same_member() {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data");
        let file = LeaseFile::new(&data, "pg1".parse().unwrap());
        assert_eq!(file.read(), None);
        let now = BootTime::now().0;
        let lease = Lease { term: 7, renewed_at: now, ttl: 3_000, remembered: false };
        file.write(&lease).unwrap();
        assert_eq!(file.read().unwrap().lease(), Lease { remembered: true, ..lease });
        // A copy of the data on the same machine belongs to another member.
        assert_eq!(LeaseFile::new(&data, "pg2".parse().unwrap()).read(), None);
        // A time that has not come yet is of another life of the machine.
        file.write(&Lease { renewed_at: now + 1_000_000, ..lease }).unwrap();
        assert_eq!(file.read(), None);
        file.remove();
        assert_eq!(file.read(), None);
    }
}
