//! What a reload of the configuration changed.

use super::Config;
use serde_json::{Map, Value};

/// A setting that differs. Values are not told: some are secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// `section.key`.
    pub path: String,
    /// The running agent cannot take it up: it keeps the old value until it is started again.
    pub needs_agent_restart: bool,
}

/// Settings, or whole sections, that an agent only reads when it starts.
const AT_START: &[&str] = &[
    "scope",
    "name",
    "namespace",
    "postgresql.data_dir",
    "postgresql.name",
    "restapi.listen",
    "restapi.certfile",
    "restapi.keyfile",
    "restapi.cafile",
    "restapi.verify_client",
    "ctl",
    "etcd3",
    "etcd",
    "watchdog",
    "log",
];

impl Config {
    /// What differs in `new`, in the order of its paths.
    pub fn changes(&self, new: &Config) -> Vec<Change> {
        let mut changes = Vec::new();
        compare(&self.document.0, &new.document.0, "", &mut changes);
        changes.sort_by(|a, b| a.path.cmp(&b.path));
        changes
    }
}

fn compare(old: &Map<String, Value>, new: &Map<String, Value>, path: &str, changes: &mut Vec<Change>) {
    let keys = old.keys().chain(new.keys().filter(|key| !old.contains_key(*key)));
    for key in keys {
        let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        match (old.get(key), new.get(key)) {
            (Some(Value::Object(old)), Some(Value::Object(new))) => compare(old, new, &path, changes),
            (old, new) if old == new => {}
            _ => {
                let at_start = |known: &&str| {
                    path == **known || path.strip_prefix(*known).is_some_and(|rest| rest.starts_with('.'))
                };
                let needs_agent_restart = AT_START.iter().any(at_start);
                changes.push(Change { path, needs_agent_restart });
            }
        }
    }
}
