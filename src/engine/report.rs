//! What a run did, complete enough to print a recap or a JSON document from it.

use super::plan::Look;
use crate::{
    diagnostic::Location,
    model::HostName,
    remote::{
        protocol::{Drift, Effect, Failure, Setting, Version},
        resource::Resource,
    },
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
    /// A look saw that something is not so yet that a run would wait for.
    #[serde(skip)]
    pub awaiting: bool,
    /// What is installed and what is on offer, with the play that looked.
    #[serde(skip)]
    pub versions: Vec<(String, Version)>,
    /// Under `plan`, every step with what it found, for a plan that is saved.
    #[serde(skip)]
    pub looks: Vec<Look>,
    /// Tasks whose name, once rendered, holds a secret.
    #[serde(skip)]
    pub telling: Vec<String>,
}

impl Tally {
    /// How many steps were looked at.
    pub(super) fn steps(&self) -> usize {
        self.unchanged + self.skipped + self.changes.len()
    }

    /// Adds what was found where nothing differs.
    pub(super) fn extend_unchanged(&mut self, found: Tally) {
        self.unchanged += found.unchanged;
        self.skipped += found.skipped;
        self.warnings.extend(found.warnings);
        self.restart_pending |= found.restart_pending;
        self.versions.extend(found.versions);
        self.looks.extend(found.looks);
        self.telling.extend(found.telling);
    }
}

/// A step that changed something, or under `plan` would.
#[derive(Debug, Serialize)]
pub struct Change {
    pub play: String,
    pub step: String,
    /// Changes with the same number may happen at the same time; a lower one is over before.
    pub wave: u32,
    /// What of the cluster it stops, starts or reloads.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub part: Option<Part>,
    pub effect: Effect,
    /// Settings of running servers, each with what it costs.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub settings: Vec<Setting>,
    /// What it replaces was not put there by us.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drift: Option<Drift>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub diff: String,
}

/// A part of the cluster that a step can stop, start or reload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Part {
    Database,
    Store,
    Proxy,
    Address,
}

impl Part {
    /// The part whose unit the resource drives; none for everything else.
    pub fn of(resource: &Resource) -> Option<Part> {
        match resource {
            Resource::Service(service) => match service.name.trim_end_matches(".service") {
                "pgfleet-agent" | "patroni" | "postgresql" => Some(Part::Database),
                name if name.starts_with("postgresql@") => Some(Part::Database),
                "etcd" | "zookeeper" => Some(Part::Store),
                "haproxy" => Some(Part::Proxy),
                "keepalived" => Some(Part::Address),
                _ => None,
            },
            Resource::DynamicConfig(_) => Some(Part::Database),
            _ => None,
        }
    }
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
