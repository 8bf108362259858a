//! Health of a PostgreSQL cluster, as its agents tell it.

use super::await_condition;
use crate::remote::{
    host::{Context, Finding, Manage},
    http::{Call, Response, Tls},
    protocol::Failure,
    wait::Look,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::time::Duration;

/// `postgres_cluster`: waits until the cluster has one leader and every expected member runs; replicas
/// stream on the leader's timeline.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PostgresCluster {
    /// The agent's REST API.
    #[serde(default = "super::agent_url")]
    pub url: String,
    /// Agents to ask instead, the first that answers. Where none does there is no cluster yet, and nothing
    /// to wait for.
    #[serde(default)]
    pub urls: Vec<String>,
    /// Files with which to speak to it where it speaks TLS.
    #[serde(default)]
    pub tls: Tls,
    /// Names of the expected members; those that the cluster knows when empty.
    #[serde(default)]
    pub members: Vec<String>,
    /// How far a replica may be behind, in bytes; not looked at when absent.
    #[serde(default)]
    pub max_lag: Option<u64>,
    /// No member may still need a restart for a changed parameter.
    #[serde(default)]
    pub no_pending_restart: bool,
    /// How long to wait, in seconds.
    #[serde(default = "super::five_minutes_secs")]
    pub timeout: u64,
    /// The unit whose last journal lines tell why the agent isn't up.
    #[serde(default = "unit")]
    pub unit: String,
}

fn unit() -> String {
    "pgfleet-agent.service".to_owned()
}

const ATTEMPT: Duration = Duration::from_secs(3);

/// What is missing, and the member that it is about, where it is about one.
#[derive(Debug, PartialEq)]
struct Missing {
    what: String,
    member: Option<String>,
}

impl PostgresCluster {
    /// Whether all is as it should be; whether a member waits for a restart comes back by `pending`.
    async fn condition(&self, pending: &mut bool) -> Look {
        match self.look().await {
            Ok(document) => {
                let members = document["members"].as_array().map(Vec::as_slice).unwrap_or_default();
                *pending = members.iter().any(|member| member["pending_restart"] == true);
                Look::Satisfied
            }
            Err(missing) => Look::Missing(missing),
        }
    }

    /// The list of members, if the cluster is as it should be.
    async fn look(&self) -> Result<Value, String> {
        let Some((url, response)) = self.ask().await? else { return Ok(Value::Null) };
        let document: Value = serde_json::from_slice(&response.body).map_err(|_| {
            format!("{url}: status {} {}", response.status, response.text()).trim_end().to_owned()
        })?;
        match self.judge(&document) {
            Ok(()) => Ok(document),
            Err(Missing { what, member: None }) => Err(what),
            Err(Missing { what, member: Some(name) }) => {
                let error = self.last_error(&document, &name).await;
                Err(error.map_or(what.clone(), |error| format!("{what}: {error}")))
            }
        }
    }

    /// The list of members as an agent answers it; `None` where none of several does.
    async fn ask(&self) -> Result<Option<(String, Response)>, String> {
        let urls = if self.urls.is_empty() { std::slice::from_ref(&self.url) } else { &self.urls };
        let mut silence = String::new();
        for url in urls {
            let url = format!("{}/cluster", url.trim_end_matches('/'));
            match Call::get(&url).tls(&self.tls).limit(ATTEMPT).run().await {
                Ok(response) => return Ok(Some((url, response))),
                Err(error) => silence = format!("the agent does not answer: {error}"),
            }
        }
        if self.urls.is_empty() { Err(silence) } else { Ok(None) }
    }

    /// What a `/cluster` document lacks.
    fn judge(&self, document: &Value) -> Result<(), Missing> {
        let of_cluster = |what: String| Err(Missing { what, member: None });
        let members = document["members"].as_array().map(Vec::as_slice).unwrap_or_default();
        let leaders: Vec<_> = members
            .iter()
            .filter(|member| {
                matches!(text(member, "role"), "leader" | "primary" | "master" | "standby_leader")
            })
            .collect();
        let leader = match leaders.as_slice() {
            [leader] => leader,
            [] => return of_cluster(self.without_leader(members)),
            _ => return of_cluster(format!("{} members call themselves leader", leaders.len())),
        };
        for expected in &self.members {
            if !members.iter().any(|member| text(member, "name") == expected) {
                return of_cluster(format!("member {expected} has not registered yet"));
            }
        }
        let considered = members.iter().filter(|member| {
            self.members.is_empty() || self.members.iter().any(|name| name == text(member, "name"))
        });
        for member in considered {
            if let Err(what) = self.judge_member(member, leader) {
                let name = text(member, "name").to_owned();
                return Err(Missing { what: format!("{name} {what}"), member: Some(name) });
            }
        }
        Ok(())
    }

    fn without_leader(&self, members: &[Value]) -> String {
        let states: Vec<_> = members
            .iter()
            .map(|member| format!("{} {}", text(member, "name"), text(member, "state")))
            .collect();
        match states.is_empty() {
            true => "the cluster has no member yet".to_owned(),
            false => format!("the cluster has no leader yet ({})", states.join(", ")),
        }
    }

    fn judge_member(&self, member: &Value, leader: &Value) -> Result<(), String> {
        let state = text(member, "state");
        let is_leader = member["name"] == leader["name"];
        if !(state == "running" || state == "streaming" && !is_leader) {
            return Err(format!("is {state}"));
        }
        if !is_leader && member["timeline"] != leader["timeline"] {
            return Err(format!(
                "is on timeline {}, the leader on {}",
                member["timeline"], leader["timeline"]
            ));
        }
        if self.no_pending_restart && member["pending_restart"] == true {
            return Err("needs a restart for changed parameters".to_owned());
        }
        match (self.max_lag, member["lag"].as_u64()) {
            _ if is_leader => Ok(()),
            (Some(max), Some(lag)) if lag > max => Err(format!("is {lag} bytes behind (at most {max})")),
            (Some(_), None) => Err(format!("has an unknown lag ({})", member["lag"])),
            _ => Ok(()),
        }
    }

    /// What the member itself says is wrong, asked of its own agent.
    async fn last_error(&self, document: &Value, name: &str) -> Option<String> {
        let members = document["members"].as_array()?;
        let url = text(members.iter().find(|member| text(member, "name") == name)?, "api_url");
        let response = Call::get(url).tls(&self.tls).limit(ATTEMPT).run().await.ok()?;
        let status: Value = serde_json::from_slice(&response.body).ok()?;
        ["last_error", "error", "reason"].iter().find_map(|key| status[key].as_str()).map(str::to_owned)
    }
}

fn text<'a>(member: &'a Value, key: &str) -> &'a str {
    member[key].as_str().unwrap_or_default()
}

impl Manage for PostgresCluster {
    async fn check(&self, context: &Context<'_>) -> Result<Finding, Failure> {
        let limit = Duration::from_secs(self.timeout);
        let mut pending = false;
        let found =
            await_condition(context, limit, Some(&self.unit), async || self.condition(&mut pending).await)
                .await?;
        Ok(found.with("restart_pending", pending))
    }

    async fn apply(&self, _context: &Context<'_>, _finding: &mut Finding) -> Result<(), Failure> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn judge(members: Value) -> String {
        let cluster = json!({"members": ["a", "b"], "max_lag": 100, "no_pending_restart": true});
        let cluster: PostgresCluster = crate::remote::arguments::read(cluster).expect("arguments");
        cluster.judge(&json!({"members": members})).err().map(|missing| missing.what).unwrap_or_default()
    }

    #[test]
    fn says_what_a_cluster_lacks() {
        let a = json!({"name": "a", "role": "leader", "state": "running", "timeline": 2});
        let b = json!({"name": "b", "role": "sync_standby", "state": "streaming", "timeline": 2, "lag": 0});
        let but = |key: &str, value: Value| {
            let mut member = b.clone();
            member[key] = value;
            json!([a, member])
        };
        assert_eq!(judge(json!([a, b])), "");
        assert_eq!(judge(json!([])), "the cluster has no member yet");
        assert_eq!(judge(json!([b])), "the cluster has no leader yet (b streaming)");
        assert_eq!(judge(json!([a])), "member b has not registered yet");
        assert_eq!(judge(but("role", json!("leader"))), "2 members call themselves leader");
        assert_eq!(judge(but("state", json!("creating replica"))), "b is creating replica");
        assert_eq!(judge(but("timeline", json!(1))), "b is on timeline 1, the leader on 2");
        assert_eq!(judge(but("lag", json!(101))), "b is 101 bytes behind (at most 100)");
        assert_eq!(judge(but("lag", json!("unknown"))), "b has an unknown lag (\"unknown\")");
        assert_eq!(judge(but("pending_restart", json!(true))), "b needs a restart for changed parameters");
    }
}
