//! Bodies of the requests that an operator sends: `POST /switchover`, `/failover`, `/restart`.

use super::{Role, dynamic::parse_time_secs, member::truthy};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// What is wrong with a body, as the answer's text says it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidBody(pub String);

/// `POST /switchover` and `POST /failover`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SwitchoverRequest {
    /// The leader that is to step down; a failover has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leader: Option<String>,
    /// The member that is to lead. Old clients of `/failover` call it `member`.
    #[serde(default, alias = "member", skip_serializing_if = "Option::is_none")]
    pub candidate: Option<String>,
    /// ISO 8601 with an offset; absent: now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheduled_at: Option<String>,
}

/// `POST /restart`: restart now, or at a time, if the conditions hold.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RestartRequest {
    /// ISO 8601 with an offset; absent: now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule: Option<String>,
    #[serde(flatten)]
    pub filter: RestartFilter,
    /// Seconds that the restart may take.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<u64>,
}

/// Conditions under which a node restarts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestartFilter {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<Role>,
    /// Restart only servers older than this version, for example `17.2`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub postgres_version: Option<String>,
    /// Restart only where a restart is pending.
    #[serde(default)]
    pub restart_pending: bool,
}

impl RestartRequest {
    /// Reads a body with the strictness that clients are used to: an unknown key is an error.
    pub fn parse(body: &Map<String, Value>) -> Result<Self, InvalidBody> {
        let mut request = Self::default();
        for (key, value) in body {
            match key.as_str() {
                "schedule" => request.schedule = value.as_str().map(str::to_owned),
                "role" => {
                    request.filter.role = match value.as_str() {
                        Some("primary" | "master") => Some(Role::Primary),
                        Some("standby_leader") => Some(Role::StandbyLeader),
                        Some("replica") => Some(Role::Replica),
                        _ => {
                            let expected =
                                "PostgreSQL role should be either primary, standby_leader, or replica";
                            return Err(InvalidBody(expected.to_owned()));
                        }
                    }
                }
                "postgres_version" => {
                    let version = value.as_str().unwrap_or_default();
                    version_num(version).ok_or_else(|| {
                        InvalidBody(format!(
                            "Invalid PostgreSQL version `{version}`: expected a version such as 17 or 17.2"
                        ))
                    })?;
                    request.filter.postgres_version = Some(version.to_owned());
                }
                "timeout" => {
                    let seconds = parse_time_secs(value).filter(|seconds| *seconds > 0).ok_or_else(|| {
                        InvalidBody("Timeout should be a positive number of seconds".to_owned())
                    })?;
                    request.timeout = Some(seconds);
                }
                "restart_pending" => request.filter.restart_pending = truthy(value),
                other => {
                    return Err(InvalidBody(format!("Unknown filter for the scheduled restart: {other}")));
                }
            }
        }
        Ok(request)
    }
}

/// A scheduled restart of a member key, as `/patroni` and `/cluster` show it: without what only the member
/// itself goes by.
pub fn shown_restart(scheduled: &Value) -> Value {
    let mut shown = scheduled.clone();
    if let Some(map) = shown.as_object_mut() {
        map.remove("postmaster_start_time");
    }
    shown
}

impl RestartFilter {
    /// Whether a server in this role, of this `server_version_num`, is meant.
    pub fn matches(&self, role: Role, server_version: u32, restart_pending: bool) -> bool {
        self.role.is_none_or(|wanted| wanted == role)
            && (!self.restart_pending || restart_pending)
            && self
                .postgres_version
                .as_deref()
                .is_none_or(|version| version_num(version).is_some_and(|version| server_version < version))
    }
}

/// `server_version_num` of `17` or `17.2`.
fn version_num(version: &str) -> Option<u32> {
    let (major, minor) = version.split_once('.').unwrap_or((version, "0"));
    let number = major.parse::<u32>().ok()?.checked_mul(10_000)?.checked_add(minor.parse().ok()?)?;
    (number >= 100_000).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn parse(body: Value) -> Result<RestartRequest, String> {
        RestartRequest::parse(body.as_object().unwrap()).map_err(|error| error.0)
    }

    #[test]
    fn a_restart_names_its_conditions() {
        let request = parse(
            json!({"role": "replica", "postgres_version": "17.2", "timeout": "1min", "restart_pending": true}),
        )
        .unwrap();
        assert_eq!(request.timeout, Some(60));
        assert!(request.filter.matches(Role::Replica, 170_001, true));
        assert!(!request.filter.matches(Role::Replica, 170_002, true));
        assert!(!request.filter.matches(Role::Primary, 170_001, true));
        assert!(!request.filter.matches(Role::Replica, 170_001, false));
        assert!(RestartFilter::default().matches(Role::Primary, 0, false));
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        assert_eq!(
            parse(json!({"rolle": 1})).unwrap_err(),
            "Unknown filter for the scheduled restart: rolle"
        );
        assert!(
            parse(json!({"role": "leader"})).unwrap_err().contains("primary, standby_leader, or replica")
        );
        assert!(parse(json!({"timeout": 0})).unwrap_err().contains("positive"));
        assert!(parse(json!({"postgres_version": "new"})).unwrap_err().contains("`new`"));
    }

    #[test]
    fn a_scheduled_restart_is_shown_without_what_is_internal() {
        let key = json!({"schedule": "2099-01-01T00:00:00+00:00", "postmaster_start_time": "x"});
        assert_eq!(shown_restart(&key), json!({"schedule": "2099-01-01T00:00:00+00:00"}));
    }

    #[test]
    fn old_clients_say_member() {
        let request: SwitchoverRequest = serde_json::from_value(json!({"member": "pg2"})).unwrap();
        assert_eq!(request.candidate.as_deref(), Some("pg2"));
    }
}
