//! What a run did, complete enough to print a recap or a JSON document from it.

use crate::{
    diagnostic::Location,
    model::HostName,
    remote::protocol::{Effect, Failure},
};
use indexmap::IndexMap;
use serde::Serialize;

/// The outcome of a run on every host that it named.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    pub hosts: IndexMap<HostName, Tally>,
    pub plays: Vec<PlayTime>,
    pub failures: Vec<HostFailure>,
    /// The operator stopped the run.
    pub cancelled: bool,
    /// Tasks of the playbook that no host got to, because of a failure before them.
    pub not_reached: usize,
}

#[derive(Debug, Default, Serialize)]
pub struct Tally {
    pub unchanged: usize,
    pub skipped: usize,
    pub changes: Vec<Change>,
    pub warnings: Vec<String>,
    /// A step saw, or may have caused, that a setting of PostgreSQL waits for a restart.
    #[serde(skip)]
    pub restart_pending: bool,
}

/// A step that changed something, or under `plan` would.
#[derive(Debug, Serialize)]
pub struct Change {
    pub play: String,
    pub step: String,
    pub effect: Effect,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub diff: String,
}

#[derive(Debug, Serialize)]
pub struct PlayTime {
    pub name: String,
    pub seconds: f64,
}

#[derive(Debug, Serialize)]
pub struct HostFailure {
    pub host: HostName,
    pub play: String,
    pub step: String,
    #[serde(skip)]
    pub at: Option<Location>,
    #[serde(flatten)]
    pub failure: Failure,
    /// The host went away, rather than a step having failed on it.
    pub unreachable: bool,
}

impl Report {
    pub fn succeeded(&self) -> bool {
        self.failures.is_empty() && !self.cancelled
    }

    /// How many steps changed something, over all hosts.
    pub fn changed(&self) -> usize {
        self.hosts.values().map(|tally| tally.changes.len()).sum()
    }

    /// Whether members of the cluster may wait for a restart of PostgreSQL.
    pub fn restart_pending(&self) -> bool {
        self.hosts.values().any(|tally| tally.restart_pending)
    }

    pub fn tally(&mut self, host: &HostName) -> &mut Tally {
        self.hosts.entry(host.clone()).or_default()
    }
}
