//! `members/NAME`: what a member says of itself in the store.

use super::{PostgresState, Role, status::PendingChange};
use crate::model::{Lsn, Timeline};
use indexmap::IndexMap;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A member's key. Every field may be missing: agents of other makes and versions write these too.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct MemberDocument {
    /// `postgres://HOST:PORT/postgres`, how other members reach this PostgreSQL.
    pub conn_url: String,
    /// `http://HOST:PORT/patroni`, how other members reach this agent.
    pub api_url: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proxy_url: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<PostgresState>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<Role>,
    /// The agent's version.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Written by a primary: its WAL insert position; by a standby: the later of received and replayed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub xlog_location: Option<Lsn>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub receive_lsn: Option<Lsn>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replay_lsn: Option<Lsn>,
    /// `streaming` or `in archive recovery`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replication_state: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeline: Option<Timeline>,
    #[serde(skip_serializing_if = "Tags::is_empty")]
    pub tags: Tags,
    #[serde(skip_serializing_if = "is_false")]
    pub pending_restart: bool,
    /// What differs between the running server and its configuration, by parameter.
    #[serde(skip_serializing_if = "IndexMap::is_empty")]
    pub pending_restart_reason: IndexMap<String, PendingChange>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scheduled_restart: Option<Value>,
    #[serde(skip_serializing_if = "is_false")]
    pub pause: bool,
    /// `Some(false)` on a new primary until the checkpoint after its promotion is done: until then others
    /// must not run pg_rewind against it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checkpoint_after_promote: Option<bool>,
    /// Keys that this version has no name for.
    #[serde(flatten)]
    pub other: serde_json::Map<String, Value>,
}

pub(super) fn is_false(value: &bool) -> bool {
    !value
}

impl MemberDocument {
    /// Host and port of this member's PostgreSQL, out of `conn_url`.
    pub fn postgres_address(&self) -> Option<(String, u16)> {
        address_of(&self.conn_url, 5432)
    }

    /// Host and port of this member's REST API, out of `api_url`.
    pub fn api_address(&self) -> Option<(String, u16)> {
        address_of(&self.api_url, 8008)
    }

    /// Whether this member's REST API speaks TLS.
    pub fn api_speaks_tls(&self) -> bool {
        self.api_url.starts_with("https://")
    }

    /// The furthest position that this member is known to have.
    pub fn position(&self) -> Option<Lsn> {
        self.xlog_location.max(self.receive_lsn).max(self.replay_lsn).filter(|lsn| *lsn != Lsn(0))
    }
}

/// Host and port of `scheme://[user[:password]@]host[:port][/path]`; IPv6 addresses stand in brackets.
fn address_of(url: &str, default_port: u16) -> Option<(String, u16)> {
    let (_, rest) = url.split_once("://")?;
    let authority = rest.split(['/', '?']).next().unwrap_or_default();
    let address = authority.rsplit_once('@').map_or(authority, |(_, address)| address);
    let (host, port) = if let Some(bracketed) = address.strip_prefix('[') {
        let (host, after) = bracketed.split_once(']')?;
        (host, after.strip_prefix(':'))
    } else {
        address.split_once(':').map_or((address, None), |(host, port)| (host, Some(port)))
    };
    let port = port.map_or(Some(default_port), |port| port.parse().ok())?;
    (!host.is_empty()).then(|| (host.to_owned(), port))
}

/// A member's tags: those with a meaning, and any that operators invent for `?tag_NAME=`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Tags(pub serde_json::Map<String, Value>);

impl Tags {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Never becomes the primary: `nofailover`, or a `failover_priority` of zero or less. When both are
    /// given, `nofailover` counts.
    pub fn nofailover(&self) -> bool {
        match self.0.get("nofailover") {
            Some(value) => truthy(value),
            None => self.priority("failover_priority") <= 0,
        }
    }

    /// Which of two equally advanced candidates is preferred; 1 unless said otherwise, 0 with `nofailover`.
    pub fn failover_priority(&self) -> i64 {
        if self.nofailover() { 0 } else { self.priority("failover_priority").max(1) }
    }

    /// Which of several standbys is made synchronous first; 0 with `nosync`.
    pub fn sync_priority(&self) -> i64 {
        if self.nosync() { 0 } else { self.priority("sync_priority").max(1) }
    }

    pub fn noloadbalance(&self) -> bool {
        self.0.get("noloadbalance").is_some_and(truthy)
    }

    /// New replicas are copied from this member where it can serve.
    pub fn clonefrom(&self) -> bool {
        self.0.get("clonefrom").is_some_and(truthy)
    }

    pub fn nosync(&self) -> bool {
        match self.0.get("nosync") {
            Some(value) => truthy(value),
            None => self.priority("sync_priority") <= 0,
        }
    }

    pub fn nostream(&self) -> bool {
        self.0.get("nostream").is_some_and(truthy)
    }

    /// The member that this one replicates from instead of the leader.
    pub fn replicatefrom(&self) -> Option<&str> {
        self.0.get("replicatefrom").and_then(Value::as_str).filter(|name| !name.is_empty())
    }

    fn priority(&self, name: &str) -> i64 {
        match self.0.get(name) {
            Some(Value::String(text)) => text.trim().parse().unwrap_or(1),
            Some(value) => value.as_i64().unwrap_or(1),
            None => 1,
        }
    }
}

/// What Patroni takes for true: YAML's booleans also as text.
pub(super) fn truthy(value: &Value) -> bool {
    match value {
        Value::Bool(value) => *value,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => matches!(text.to_ascii_lowercase().as_str(), "true" | "on" | "yes" | "1"),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn reads_a_key_that_patroni_wrote() {
        let text = r#"{"conn_url":"postgres://10.0.0.1:5433/postgres","api_url":"http://[fd00::1]:8008/patroni",
            "state":"running","role":"replica","version":"4.0.7","xlog_location":67108960,"receive_lsn":67108960,
            "replay_lsn":67108864,"replication_state":"streaming","timeline":2,"tags":{"nofailover":true},
            "failsafe_something":1}"#;
        let member: MemberDocument = serde_json::from_str(text).unwrap();
        assert_eq!(member.postgres_address(), Some(("10.0.0.1".to_owned(), 5433)));
        assert_eq!(member.api_address(), Some(("fd00::1".to_owned(), 8008)));
        assert_eq!(member.position(), Some(Lsn(67108960)));
        assert!(member.tags.nofailover());
        let written = serde_json::to_value(&member).unwrap();
        assert_eq!(written, serde_json::from_str::<Value>(text).unwrap(), "nothing added, nothing lost");
    }

    #[test]
    fn finds_the_address_in_a_url() {
        for (url, expected) in [
            ("postgres://pg1/postgres", Some(("pg1", 5432))),
            ("postgres://user:pa:ss@pg1:6000/postgres?x=1", Some(("pg1", 6000))),
            ("postgres://[::1]/postgres", Some(("::1", 5432))),
            ("postgres://pg1:port/", None),
            ("pg1:5432", None),
            ("", None),
        ] {
            assert_eq!(address_of(url, 5432), expected.map(|(host, port)| (host.to_owned(), port)), "{url}");
        }
    }

    #[test]
    fn tags_mean_what_patroni_means() {
        let tags = |value: Value| serde_json::from_value::<Tags>(value).unwrap();
        assert!(tags(json!({"failover_priority": 0})).nofailover());
        assert!(!tags(json!({"failover_priority": 0, "nofailover": false})).nofailover());
        assert_eq!(tags(json!({"failover_priority": "3"})).failover_priority(), 3);
        assert_eq!(tags(json!({})).failover_priority(), 1);
        assert!(tags(json!({"sync_priority": 0})).nosync());
        assert_eq!(tags(json!({"replicatefrom": "pg2"})).replicatefrom(), Some("pg2"));
        assert!(tags(json!({"noloadbalance": "yes"})).noloadbalance());
    }
}
