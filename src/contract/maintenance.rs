//! `maintenance/NAME`: marks that a run of the deploy side holds while it works on a cluster. Each is
//! attached to a lease of the run's own, so that it ends by itself when the control machine dies.

use super::member::is_false;
use crate::model::{MemberName, Scope};
use serde::{Deserialize, Serialize};

/// What is suspended, and by whom. NAME is the member that the mark is about.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct MaintenanceMark {
    /// Who holds it: the run and its machine.
    pub by: String,
    pub reason: String,
    /// Nobody takes the leader key of its own accord, in the whole cluster. A switchover or failover that is
    /// asked for still works.
    #[serde(skip_serializing_if = "is_false")]
    pub nofailover: bool,
    /// The member is about to be worked on: it gets no new readers, and it is nobody's candidate.
    #[serde(skip_serializing_if = "is_false")]
    pub drain: bool,
}

impl MaintenanceMark {
    /// The full name of the key. `namespace` is that of all keys of the cluster, `/service` unless
    /// configured.
    pub fn key(namespace: &str, scope: &Scope, name: &MemberName) -> String {
        format!("{}maintenance/{name}", cluster_prefix(namespace, scope))
    }
}

/// What all keys of a cluster begin with; ends in a slash.
pub fn cluster_prefix(namespace: &str, scope: &Scope) -> String {
    let namespace = namespace.trim_matches('/');
    let slash = if namespace.is_empty() { "" } else { "/" };
    format!("{slash}{namespace}/{scope}/")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_mark_says_no_more_than_it_means() {
        let mark = MaintenanceMark {
            by: "apply@desk".to_owned(),
            reason: "rolling restart".to_owned(),
            drain: true,
            ..MaintenanceMark::default()
        };
        let written = serde_json::to_value(&mark).unwrap();
        assert_eq!(written, json!({"by": "apply@desk", "reason": "rolling restart", "drain": true}));
        assert_eq!(serde_json::from_value::<MaintenanceMark>(written).unwrap(), mark);
        let key = MaintenanceMark::key("service/", &"demo".parse().unwrap(), &"pg1".parse().unwrap());
        assert_eq!(key, "/service/demo/maintenance/pg1");
    }
}
