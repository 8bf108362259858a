//! Health of an etcd member.

use super::await_condition;
use crate::remote::{
    host::{Context, Finding, Manage},
    http::{Call, Tls},
    protocol::Failure,
    wait::Look,
};
use hyper::Method;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::{collections::BTreeSet, time::Duration};

/// `etcd_member`: waits until this member is healthy and the cluster has exactly the expected members.
/// Registers whether it is their `leader`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EtcdMember {
    /// The client URL of this member.
    #[serde(default = "endpoint", alias = "url")]
    pub endpoint: String,
    /// Files with which to speak to it where it speaks TLS.
    #[serde(default)]
    pub tls: Tls,
    /// Names of the expected members; not compared when empty.
    #[serde(default)]
    pub members: Vec<String>,
    /// All members have to be healthy, asked at the addresses that they give to clients.
    #[serde(default)]
    pub everyone: bool,
    /// How long to wait, in seconds.
    #[serde(default = "super::five_minutes_secs")]
    pub timeout: u64,
    /// The unit whose last journal lines tell why it isn't up.
    #[serde(default = "unit")]
    pub unit: String,
}

fn endpoint() -> String {
    "http://127.0.0.1:2379".to_owned()
}

fn unit() -> String {
    "etcd.service".to_owned()
}

const ATTEMPT: Duration = Duration::from_secs(3);

impl EtcdMember {
    async fn condition(&self) -> Look {
        match self.look().await {
            Ok(()) => Look::Satisfied,
            Err(missing) => Look::Missing(format!("etcd: {missing}")),
        }
    }

    async fn look(&self) -> Result<(), String> {
        let base = self.endpoint.trim_end_matches('/');
        self.health(base).await?;
        if self.members.is_empty() && !self.everyone {
            return Ok(());
        }
        let document = self.post(&format!("{base}/v3/cluster/member/list")).await?;
        if !self.members.is_empty() {
            compare(&self.members, &document)?;
        }
        if self.everyone {
            let urls = addresses(&document);
            futures_util::future::try_join_all(urls.iter().map(|url| self.health(url))).await?;
        }
        Ok(())
    }

    /// Whether this member leads; `false` where it cannot be asked.
    async fn leads(&self) -> bool {
        let url = format!("{}/v3/maintenance/status", self.endpoint.trim_end_matches('/'));
        let status = self.post(&url).await;
        status.is_ok_and(|status| {
            let id = |value: &Value| value.as_str().filter(|id| *id != "0").map(str::to_owned);
            id(&status["leader"]).is_some_and(|leader| Some(leader) == id(&status["header"]["member_id"]))
        })
    }

    /// Whether the member at `base` is healthy: it sees a leader, and a quorum takes what it proposes.
    async fn health(&self, base: &str) -> Result<(), String> {
        let health = Call::get(&format!("{base}/health")).tls(&self.tls).limit(ATTEMPT).run().await;
        let health = health.map_err(|error| error.to_string())?;
        let document: Value = serde_json::from_slice(&health.body).unwrap_or_default();
        // A boolean in some versions, its word in others.
        let is_healthy = document["health"] == true || document["health"] == "true";
        if health.status == 200 && is_healthy {
            return Ok(());
        }
        let reason = document["reason"].as_str().filter(|reason| !reason.is_empty());
        Err(format!("{base} is not healthy: {}", reason.unwrap_or(health.text().trim())))
    }

    async fn post(&self, url: &str) -> Result<Value, String> {
        let answer = Call::send(Method::POST, url, "{}").tls(&self.tls).limit(ATTEMPT).run().await;
        let answer = answer.map_err(|error| error.to_string())?;
        serde_json::from_slice(&answer.body).map_err(|_| format!("{url}: {}", answer.text().trim()))
    }
}

/// Where each member of the list answers clients.
fn addresses(document: &Value) -> Vec<String> {
    let members = document["members"].as_array().map(Vec::as_slice).unwrap_or_default();
    let urls = members.iter().filter_map(|member| member["clientURLs"].as_array()?.first()?.as_str());
    urls.map(|url| url.trim_end_matches('/').to_owned()).collect()
}

/// Whether a list of members, as etcd's gateway gives it, has exactly the expected names.
fn compare(expected: &[String], document: &Value) -> Result<(), String> {
    let members = document["members"].as_array().map(Vec::as_slice).unwrap_or_default();
    let names = members.iter().map(|member| member["name"].as_str().unwrap_or_default());
    let found: BTreeSet<&str> = names.clone().filter(|name| !name.is_empty()).collect();
    let expected: BTreeSet<&str> = expected.iter().map(String::as_str).collect();
    let list = |names: Vec<&&str>| names.into_iter().copied().collect::<Vec<_>>().join(", ");
    let missing = list(expected.difference(&found).collect());
    let foreign = list(found.difference(&expected).collect());
    // A member that was added and has never started has no name yet.
    let unnamed = names.filter(|name| name.is_empty()).count();
    match (missing.is_empty(), foreign.is_empty(), unnamed) {
        (true, true, 0) => Ok(()),
        (false, _, 0) => Err(format!("members missing: {missing}")),
        (false, _, _) => Err(format!("members that have not started yet: {missing}")),
        (true, false, _) => Err(format!("members that nobody expects: {foreign}")),
        (true, true, _) => Err(format!("{unnamed} members have been added and never started")),
    }
}

impl Manage for EtcdMember {
    async fn check(&self, context: &Context<'_>) -> Result<Finding, Failure> {
        let limit = Duration::from_secs(self.timeout);
        let found =
            await_condition(context, limit, Some(&self.unit), async || self.condition().await).await?;
        Ok(found.with("leader", self.leads().await))
    }

    async fn apply(&self, _context: &Context<'_>, _finding: &mut Finding) -> Result<(), Failure> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn every_member_is_asked_at_its_first_address() {
        let document = json!({"members": [
            {"name": "a", "clientURLs": ["http://10.0.0.1:2379/", "http://127.0.0.1:2379"]},
            {"name": "b", "clientURLs": ["http://10.0.0.2:2379"]},
            {"name": ""},
        ]});
        assert_eq!(addresses(&document), ["http://10.0.0.1:2379", "http://10.0.0.2:2379"]);
    }

    #[test]
    fn members_are_compared_by_name() {
        let expected = ["a".to_owned(), "b".to_owned()];
        let compare = |names: &[&str]| {
            let members: Vec<_> = names.iter().map(|name| json!({"name": name, "ID": "1"})).collect();
            compare(&expected, &json!({"members": members}))
        };
        assert_eq!(compare(&["b", "a"]), Ok(()));
        assert_eq!(compare(&["a"]), Err("members missing: b".to_owned()));
        assert_eq!(compare(&["a", ""]), Err("members that have not started yet: b".to_owned()));
        assert_eq!(compare(&["a", "b", "c"]), Err("members that nobody expects: c".to_owned()));
        assert_eq!(compare(&["a", "b", ""]), Err("1 members have been added and never started".to_owned()));
    }
}
