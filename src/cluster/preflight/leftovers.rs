//! Is there anything of an older cluster that a bootstrap would stumble over, or destroy?

use super::{Findings, Found, Machine};
use crate::model::HostName;
use std::collections::BTreeMap;

/// What the hosts hold together.
pub struct Cluster<'a> {
    /// The system identifier of the data on each host.
    data: BTreeMap<&'a HostName, &'a str>,
    /// The first host whose store has something of the cluster.
    store: Option<&'a HostName>,
    /// Every host that may have data has been asked.
    data_is_known: bool,
}

impl<'a> Cluster<'a> {
    pub fn of(machines: &'a [Machine], everyone: bool) -> Self {
        let found =
            || machines.iter().filter_map(|machine| Some((&machine.name, machine.found.as_ref().ok()?)));
        let data = found().filter_map(|(name, found)| {
            Some((name, found.survey.data.as_ref()?.system_identifier.as_deref()?))
        });
        let mut stores = found().filter(|(_, found)| found.survey.store.as_ref().is_some_and(|s| s.keys > 0));
        Self {
            data: data.collect(),
            store: stores.next().map(|(name, _)| name),
            data_is_known: everyone && machines.iter().all(|machine| machine.found.is_ok()),
        }
    }

    pub fn judge(&self, host: &HostName, found: &Found, own: &mut Findings<'_>) {
        agent(found, own);
        self.data(found, own);
        etcd(found, own);
        if self.store == Some(host) {
            self.store(found, own);
        }
        files(found, own);
        rivals(found, own);
        own.otherwise("leftovers", || match has_own_agent(found) || is_own_etcd(found) {
            true => "what is there belongs to this cluster".to_owned(),
            false => "none".to_owned(),
        });
    }

    /// What is in the data directory.
    fn data(&self, found: &Found, own: &mut Findings<'_>) {
        let (Some(postgres), Some(data)) = (&found.needs.postgres, &found.survey.data) else { return };
        let path = &postgres.data_dir;
        if data.is_empty {
            return;
        }
        let Some(version) = &data.version else {
            // Of the cluster's own agent it is a copy that is under way.
            if !has_own_agent(found) {
                own.fail(
                    "leftovers",
                    format!("{path} is not empty, and what is in it is no data of PostgreSQL"),
                    format!("Choose another `postgres_data_dir`. If nobody needs it: `rm -rf {path}`."),
                );
            }
            return;
        };
        if *version != postgres.version.to_string() {
            own.fail(
                "leftovers",
                format!("{path} holds data of PostgreSQL {version}, and {} is wanted", postgres.version),
                format!(
                    "Set `postgres_version: {version}`, or another `postgres_data_dir`. If nobody needs the \
                     data: `rm -rf {path}`."
                ),
            );
            return;
        }
        let identifier = data.system_identifier.as_deref().unwrap_or_default();
        let stranger = self.data.iter().find(|(_, other)| **other != identifier);
        if let Some((other, _)) = stranger {
            own.fail(
                "leftovers",
                format!("{path} holds other data than {other}: they were never one cluster"),
                format!("Keep the data that is right. Where nobody needs it: `rm -rf {path}`."),
            );
        } else if !has_own_agent(found) {
            own.warn(
                "leftovers",
                format!("{path} holds data that no agent looks after; a bootstrap adopts it"),
                format!("If it is of an older cluster and nobody needs it: `rm -rf {path}`."),
            );
        }
    }

    /// The store remembers a cluster whose data nobody has.
    fn store(&self, found: &Found, own: &mut Findings<'_>) {
        let store = found.survey.store.as_ref().and_then(|store| store.system_identifier.as_deref());
        let Some(identifier) = store.filter(|identifier| !identifier.is_empty()) else { return };
        let folder = &found.needs.store_folder;
        if self.data_is_known && !self.data.values().any(|data| *data == identifier) {
            own.fail(
                "leftovers",
                format!(
                    "the store remembers a cluster in {folder} (system identifier {identifier}), and no \
                     host has its data"
                ),
                format!("If that cluster is gone for good: `etcdctl del --prefix {folder}`."),
            );
        }
    }
}

/// Whether etcd's settings on the host are those of this cluster.
pub fn is_own_etcd(found: &Found) -> bool {
    let there = &found.survey.etcd;
    found.needs.etcd.as_ref().is_some_and(|etcd| {
        there.data_dir.as_ref() == Some(&etcd.data_dir) && there.token.as_ref() == Some(&etcd.token)
    })
}

/// Whether the agent that is set up on the host is one of this cluster's.
pub fn has_own_agent(found: &Found) -> bool {
    found.survey.agent.as_ref().is_some_and(|agent| agent.scope == found.needs.cluster)
}

fn agent(found: &Found, own: &mut Findings<'_>) {
    let Some(agent) = found.survey.agent.as_ref().filter(|_| found.needs.postgres.is_some()) else { return };
    if agent.scope != found.needs.cluster {
        own.fail(
            "leftovers",
            format!("the host is member `{}` of another cluster, `{}`", agent.name, agent.scope),
            format!(
                "If nobody needs that one: `systemctl disable --now pgfleet-agent; rm -rf /etc/pgfleet {}`.",
                agent.data_dir
            ),
        );
    }
}

fn etcd(found: &Found, own: &mut Findings<'_>) {
    let Some(etcd) = found.needs.etcd.as_ref().filter(|_| !is_own_etcd(found)) else { return };
    let there = &found.survey.etcd;
    if there.has_data {
        let whose = match &there.token {
            Some(token) => format!("another etcd cluster (token `{token}`)"),
            None => "an etcd cluster that is not set up here".to_owned(),
        };
        own.fail(
            "leftovers",
            format!("{} holds data of {whose}", etcd.data_dir),
            format!(
                "Choose another `etcd_data_dir`. If nobody needs it: `systemctl disable --now etcd; rm -rf {}`.",
                etcd.data_dir
            ),
        );
    } else if let Some(token) = there.token.as_ref().filter(|token| **token != etcd.token) {
        own.warn(
            "leftovers",
            format!(
                "etcd is set up for another cluster (token `{token}`); a bootstrap replaces its settings"
            ),
            "If somebody needs them: `cp /etc/default/etcd /etc/default/etcd.saved`.",
        );
    }
}

fn files(found: &Found, own: &mut Findings<'_>) {
    for file in &found.survey.foreign_files {
        let replaced = file.contains("haproxy") && found.needs.haproxy
            || file.contains("keepalived") && found.needs.keepalived;
        if replaced {
            own.warn(
                "leftovers",
                format!("{file} is not pgfleet's; a bootstrap replaces it"),
                format!("If somebody needs it: `cp {file} {file}.saved`."),
            );
        }
    }
}

/// What would rule over PostgreSQL, or over the virtual address, beside the cluster's own agents.
fn rivals(found: &Found, own: &mut Findings<'_>) {
    if found.needs.postgres.is_none() && !found.needs.keepalived {
        return;
    }
    for unit in &found.survey.rivals {
        own.fail(
            "leftovers",
            format!("{unit} runs here or starts at boot; two agents fight over one server"),
            format!("If nobody needs it: `systemctl disable --now {unit}`."),
        );
    }
}
