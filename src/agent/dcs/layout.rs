//! Where things are in the store: `/NAMESPACE/SCOPE/...`, as Patroni lays it out.

use crate::contract::{
    DynamicConfig, Leader, MemberDocument, Revision, Snapshot, StatusDocument, Term, Versioned,
    cluster_prefix,
};
use crate::model::{Lsn, MemberName, Scope};
use serde::de::DeserializeOwned;
use std::{collections::BTreeMap, sync::Arc};

/// A shared key of a cluster that is written by compare-and-swap.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Key {
    Initialize,
    Config,
    Sync,
    Failover,
    History,
    Failsafe,
}

impl Key {
    pub const ALL: [Key; 6] =
        [Key::Initialize, Key::Config, Key::Sync, Key::Failover, Key::History, Key::Failsafe];

    pub fn as_str(self) -> &'static str {
        match self {
            Key::Initialize => "initialize",
            Key::Config => "config",
            Key::Sync => "sync",
            Key::Failover => "failover",
            Key::History => "history",
            Key::Failsafe => "failsafe",
        }
    }
}

/// One key as a store holds it, its name without the cluster's prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub value: String,
    pub created: i64,
    pub modified: i64,
    /// Zero for a key that lives for ever.
    pub lease: i64,
}

/// The paths of one cluster's keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    prefix: String,
}

impl Layout {
    /// `namespace` is Patroni's, `/service` unless configured.
    pub fn new(namespace: &str, scope: &Scope) -> Self {
        Self { prefix: cluster_prefix(namespace, scope) }
    }

    /// What all keys of the cluster begin with; ends in a slash.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    pub fn leader(&self) -> String {
        format!("{}leader", self.prefix)
    }

    pub fn status(&self) -> String {
        format!("{}status", self.prefix)
    }

    pub fn member(&self, name: &MemberName) -> String {
        format!("{}members/{name}", self.prefix)
    }

    pub fn key(&self, key: Key) -> String {
        format!("{}{}", self.prefix, key.as_str())
    }

    /// The name below the prefix.
    pub fn relative<'a>(&self, path: &'a str) -> Option<&'a str> {
        path.strip_prefix(&self.prefix)
    }
}

/// Makes a snapshot of a cluster's entries, by relative name. Reuses what `earlier` has parsed already.
pub fn snapshot(entries: &BTreeMap<String, Entry>, revision: i64, earlier: Option<&Snapshot>) -> Snapshot {
    let mut snapshot = Snapshot { revision: Revision(revision), ..Snapshot::default() };
    for (name, entry) in entries {
        if let Some(member) = name.strip_prefix("members/") {
            if let Ok(member) = member.parse::<MemberName>() {
                let document: MemberDocument = serde_json::from_str(&entry.value).unwrap_or_default();
                snapshot.members.insert(member, document);
            }
            continue;
        }
        if let Some(member) = name.strip_prefix("maintenance/") {
            if let (Ok(member), Ok(mark)) = (member.parse(), serde_json::from_str(&entry.value))
                && entry.lease != 0
            {
                snapshot.maintenance.insert(member, mark);
            }
            continue;
        }
        match name.as_str() {
            "initialize" => {
                snapshot.initialize = Some(Versioned::new(entry.value.clone(), entry.modified));
            }
            "config" => {
                let known = earlier
                    .and_then(|earlier| earlier.config.as_ref())
                    .filter(|known| known.revision == Revision(entry.modified));
                snapshot.config = Some(match known {
                    Some(known) => known.clone(),
                    None => {
                        let document = serde_json::from_str(&entry.value).unwrap_or_default();
                        let (config, _) = DynamicConfig::from_json(&document);
                        Versioned::new(Arc::new(config), entry.modified)
                    }
                });
            }
            "leader" => {
                snapshot.leader = entry.value.parse().ok().map(|name| Leader {
                    name,
                    term: Term(entry.created),
                    revision: Revision(entry.modified),
                    lease: entry.lease,
                });
            }
            "status" => snapshot.status = parse_status(entry),
            // What Patroni before 2.0 wrote; `status` sorts after it and wins.
            "optime/leader" => {
                let optime = entry.value.parse().map(Lsn).ok();
                snapshot.status = optime.map(|optime| {
                    Versioned::new(StatusDocument { optime, ..StatusDocument::default() }, entry.modified)
                });
            }
            "sync" => snapshot.sync = parse(entry),
            "failover" => snapshot.failover = parse(entry),
            "history" => snapshot.history = parse(entry),
            "failsafe" => snapshot.failsafe = parse(entry),
            _ => {}
        }
    }
    snapshot
}

fn parse<T: DeserializeOwned>(entry: &Entry) -> Option<Versioned<T>> {
    Some(Versioned::new(serde_json::from_str(&entry.value).ok()?, entry.modified))
}

/// The status, also where a member of another make put `null` into it.
fn parse_status(entry: &Entry) -> Option<Versioned<StatusDocument>> {
    let mut value: serde_json::Value = serde_json::from_str(&entry.value).ok()?;
    if let Some(map) = value.as_object_mut() {
        map.retain(|_, value| !value.is_null());
    }
    Some(Versioned::new(serde_json::from_value(value).ok()?, entry.modified))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_where_patroni_has_them() {
        for namespace in ["/service", "service", "/service/"] {
            let layout = Layout::new(namespace, &"demo".parse().unwrap());
            assert_eq!(layout.leader(), "/service/demo/leader");
            assert_eq!(layout.member(&"pg1".parse().unwrap()), "/service/demo/members/pg1");
            assert_eq!(layout.relative("/service/demo/config"), Some("config"));
        }
        assert_eq!(Layout::new("/a/b", &"demo".parse().unwrap()).prefix(), "/a/b/demo/");
        assert_eq!(Layout::new("", &"demo".parse().unwrap()).prefix(), "/demo/");
    }

    #[test]
    fn what_cannot_be_read_is_as_if_absent() {
        let entry = |value: &str| Entry { value: value.to_owned(), created: 3, modified: 5, lease: 0 };
        let entries = BTreeMap::from([
            ("initialize".to_owned(), entry("")),
            ("config".to_owned(), entry("{")),
            ("sync".to_owned(), entry("nonsense")),
            ("leader".to_owned(), entry("pg1")),
            ("members/pg1".to_owned(), entry("not json")),
            ("members/a/b".to_owned(), entry("{}")),
            ("maintenance/pg1".to_owned(), Entry { lease: 4, ..entry(r#"{"drain":true}"#) }),
            ("maintenance/pg2".to_owned(), entry(r#"{"drain":true}"#)),
            ("maintenance/pg3".to_owned(), Entry { lease: 4, ..entry("yes") }),
            ("status".to_owned(), entry(r#"{"optime":7,"slots":null,"retain_slots":[]}"#)),
        ]);
        let snapshot = snapshot(&entries, 9, None);
        assert_eq!(snapshot.initialize, Some(Versioned::new(String::new(), 5)));
        assert_eq!(snapshot.config.as_ref().unwrap().value.ttl, 30);
        assert_eq!(snapshot.sync, None);
        assert_eq!(snapshot.leader.as_ref().unwrap().term, Term(3));
        assert_eq!(snapshot.members.len(), 1, "present, though nothing is known of it");
        assert_eq!(snapshot.status.as_ref().unwrap().value.optime, Lsn(7));
        let drained = |name: &str| snapshot.is_drained(&name.parse().unwrap());
        assert!(drained("pg1") && !drained("pg2") && !drained("pg3"), "a mark that never ends is none");
    }
}
