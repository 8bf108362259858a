//! Handlers that a change owes this host, kept on its disk from before the change until the handler has
//! run, so that a run that dies in between is completed by the next one.

use crate::{
    model::Digest,
    remote::{
        files::{self, Attributes},
        host::Host,
        protocol::Failure,
    },
};
use std::path::PathBuf;

const FOLDER: &str = "/var/lib/pgfleet/debts";

/// The debts of one host: a file each, named by the digest of the handler's name, holding the name.
pub(crate) struct Debts {
    folder: PathBuf,
}

impl Debts {
    pub fn of(host: &Host) -> Self {
        Self { folder: host.path(FOLDER) }
    }

    /// The names of the handlers that are owed, sorted.
    pub fn list(&self) -> Result<Vec<String>, Failure> {
        let Ok(entries) = std::fs::read_dir(&self.folder) else { return Ok(Vec::new()) };
        let mut names = Vec::new();
        for entry in entries.flatten() {
            // What an interrupted run left half-written was noted before any change: it owes nothing.
            if !entry.file_name().to_string_lossy().starts_with('.') {
                names.push(files::read_text(&entry.path())?);
            }
        }
        names.sort();
        Ok(names)
    }

    /// Notes a debt durably. True when it is new.
    pub fn owe(&self, handler: &str) -> Result<bool, Failure> {
        let path = self.path(handler);
        if path.exists() {
            return Ok(false);
        }
        files::make_directory(&self.folder, Attributes { mode: Some(0o700), ..Attributes::default() })?;
        files::replace(&path, handler.as_bytes(), Attributes::default())?;
        Ok(true)
    }

    /// Strikes a debt off; there need not be one.
    pub fn settle(&self, handler: &str) -> Result<(), Failure> {
        files::remove_file(&self.path(handler))
    }

    fn path(&self, handler: &str) -> PathBuf {
        self.folder.join(Digest::of(handler.as_bytes()).short())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_debt_is_owed_until_settled() {
        let root = tempfile::tempdir().expect("a directory");
        let debts = Debts::of(&Host::at(root.path()));
        assert!(debts.list().expect("readable").is_empty());
        assert!(debts.owe("restart etcd/../x").expect("noted"));
        assert!(!debts.owe("restart etcd/../x").expect("noted"));
        assert!(debts.owe("reload haproxy").expect("noted"));
        assert_eq!(debts.list().expect("readable"), ["reload haproxy", "restart etcd/../x"]);
        debts.settle("restart etcd/../x").expect("struck off");
        debts.settle("never owed").expect("nothing to strike off");
        assert_eq!(debts.list().expect("readable"), ["reload haproxy"]);
    }
}
