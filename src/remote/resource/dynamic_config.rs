//! The configuration that a cluster keeps in its store.

use super::running_settings::{self, RunningSettings, Server};
use crate::remote::{
    host::{Context, Finding, Manage, failure_with},
    http::{Call, Response, Tls},
    protocol::{Effect, Failure, Mode, Setting},
    wait::{Look, until},
};
use hyper::Method;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::time::Duration;

/// `dynamic_config`: the cluster's dynamic configuration holds these settings. `null` removes one;
/// settings that aren't named stay.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DynamicConfig {
    #[serde(default = "super::agent_url")]
    pub url: String,
    /// Files with which to speak to it where it speaks TLS.
    #[serde(default)]
    pub tls: Tls,
    pub config: Map<String, Value>,
    #[serde(default)]
    pub username: Option<String>,
    #[serde(default)]
    pub password: Option<String>,
    /// How long to wait for the agent to answer, in seconds.
    #[serde(default = "super::five_minutes_secs")]
    pub timeout: u64,
    /// The port of the server on this host, which is asked what each setting is now, and whether a change
    /// of it takes a restart. Nobody is asked when absent.
    #[serde(default)]
    pub port: Option<u16>,
    #[serde(default = "socket_dir")]
    pub socket_dir: String,
    #[serde(default = "superuser")]
    pub superuser: String,
    #[serde(default)]
    pub superuser_password: Option<String>,
}

fn socket_dir() -> String {
    "/var/run/postgresql".to_owned()
}

fn superuser() -> String {
    "postgres".to_owned()
}

const ATTEMPT: Duration = Duration::from_secs(5);

/// What was written is seen by the member that was asked within a turn of its loop, for which Patroni takes up
/// to `loop_wait`; its default is 10 s.
const SEEN_WITHIN: Duration = Duration::from_secs(30);

impl DynamicConfig {
    fn address(&self) -> String {
        format!("{}/config", self.url.trim_end_matches('/'))
    }

    async fn get(&self) -> Result<Map<String, Value>, String> {
        let url = self.address();
        let call =
            Call::get(&url).authorize(self.username.as_deref(), self.password.as_deref()).tls(&self.tls);
        let response =
            call.limit(ATTEMPT).run().await.map_err(|error| format!("the agent does not answer: {error}"))?;
        match (response.status, serde_json::from_slice(&response.body)) {
            (200, Ok(config)) => Ok(config),
            _ => Err(said(&url, &response)),
        }
    }

    /// The configuration, waited for when applying.
    async fn current(&self, context: &Context<'_>) -> Result<Map<String, Value>, Failure> {
        let mut current = Map::new();
        let limit =
            if context.mode == Mode::Check { Duration::ZERO } else { Duration::from_secs(self.timeout) };
        until(context, limit, async || match self.get().await {
            Ok(config) => {
                current = config;
                Look::Satisfied
            }
            Err(missing) => Look::Missing(missing),
        })
        .await?;
        Ok(current)
    }
}

impl DynamicConfig {
    /// What each change costs, as the running server and the other members let it be told.
    async fn weigh(
        &self,
        context: &Context<'_>,
        current: &Map<String, Value>,
        patch: &Map<String, Value>,
        warnings: &mut Vec<String>,
    ) -> Vec<Setting> {
        let names: Vec<&str> = patch
            .get("postgresql")
            .and_then(|postgresql| postgresql.get("parameters")?.as_object())
            .map(|parameters| parameters.keys().map(String::as_str).collect())
            .unwrap_or_default();
        let (Some(port), false) = (self.port, names.is_empty()) else {
            return settings(current, patch, &RunningSettings::new(), true);
        };
        let server = Server {
            socket_dir: &self.socket_dir,
            port,
            superuser: &self.superuser,
            password: self.superuser_password.as_deref(),
        };
        let running = server.ask(context.host, &names).await.unwrap_or_else(|why| {
            let unknown = "whether a change takes a restart could not be asked of the running server";
            warnings.push(format!("{unknown}: {why}"));
            RunningSettings::new()
        });
        let weighed = settings(current, patch, &running, true);
        if running_settings::need_restart(&weighed) && !self.has_others().await {
            return settings(current, patch, &running, false);
        }
        weighed
    }

    /// Whether another member could lead while one restarts.
    async fn has_others(&self) -> bool {
        let url = format!("{}/cluster", self.url.trim_end_matches('/'));
        let Ok(response) = Call::get(&url).limit(ATTEMPT).run().await else { return false };
        let document: Value = serde_json::from_slice(&response.body).unwrap_or_default();
        let running = |member: &&Value| {
            matches!(member["state"].as_str(), Some("running" | "streaming" | "in archive recovery"))
        };
        document["members"].as_array().is_some_and(|members| members.iter().filter(running).count() > 1)
    }
}

fn said(url: &str, response: &Response) -> String {
    format!("{url}: status {} {}", response.status, response.text()).trim_end().to_owned()
}

/// The part of `wanted` that `current` lacks: what to PATCH so that, merged, everything wanted holds.
fn patch(current: &Map<String, Value>, wanted: &Map<String, Value>) -> Map<String, Value> {
    let mut patch = Map::new();
    for (key, value) in wanted {
        match (current.get(key), value) {
            (None | Some(Value::Null), Value::Null) => {}
            (Some(Value::Object(current)), Value::Object(wanted)) => {
                let inner = self::patch(current, wanted);
                if !inner.is_empty() {
                    patch.insert(key.clone(), inner.into());
                }
            }
            (Some(current), wanted) if same(current, wanted) => {}
            _ => {
                patch.insert(key.clone(), value.clone());
            }
        }
    }
    patch
}

/// Equal as configuration values: `100` and `"100"` mean the same to PostgreSQL.
fn same(one: &Value, other: &Value) -> bool {
    let plain = |value: &Value| match value {
        Value::Number(number) => Some(number.to_string()),
        Value::String(text) => Some(text.clone()),
        _ => None,
    };
    one == other || plain(one).is_some_and(|one| plain(other) == Some(one))
}

/// Every setting that is to change, with its path, what it is and what it is to be.
fn changes<'a>(
    path: &str,
    current: Option<&'a Map<String, Value>>,
    patch: &'a Map<String, Value>,
    found: &mut Vec<(String, Option<&'a Value>, &'a Value)>,
) {
    for (key, value) in patch {
        let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        match (current.and_then(|current| current.get(key)), value) {
            (Some(Value::Object(current)), Value::Object(patch)) => {
                changes(&path, Some(current), patch, found);
            }
            (None, Value::Object(patch)) if !patch.is_empty() => changes(&path, None, patch, found),
            (current, value) => found.push((path, current, value)),
        }
    }
}

/// One line per setting that is to change.
fn describe(current: &Map<String, Value>, patch: &Map<String, Value>) -> String {
    let mut found = Vec::new();
    changes("", Some(current), patch, &mut found);
    let text = |value: Option<&Value>| match value {
        None | Some(Value::Null) => "absent".to_owned(),
        Some(value) => value.to_string(),
    };
    let lines = found.iter().map(|(path, old, new)| format!("{path}: {} -> {}", text(*old), text(Some(new))));
    lines.collect::<Vec<_>>().join("\n")
}

/// Where PostgreSQL's own settings are.
const PARAMETERS: &str = "postgresql.parameters.";

fn plain(value: &Value) -> Option<String> {
    match value {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        Value::Bool(flag) => Some(if *flag { "on" } else { "off" }.to_owned()),
        other => Some(other.to_string()),
    }
}

/// Each setting that is to change, with what it costs.
fn settings(
    current: &Map<String, Value>,
    patch: &Map<String, Value>,
    running: &RunningSettings,
    others: bool,
) -> Vec<Setting> {
    let mut found = Vec::new();
    changes("", Some(current), patch, &mut found);
    let setting = |(path, old, new): (String, Option<&Value>, &Value)| {
        let new = plain(new);
        let Some(name) = path.strip_prefix(PARAMETERS) else {
            // The agents take in what is theirs by themselves; access rules reach the servers by a reload.
            let effect = if path.starts_with("postgresql.pg_") { Effect::Reload } else { Effect::None };
            return Setting { old: old.and_then(plain), name: path, new, effect };
        };
        let known = running.get(name);
        let old = known.and_then(running_settings::Running::value).or_else(|| old.and_then(plain));
        let effect = running_settings::cost(name, known, old.as_deref(), new.as_deref(), others);
        Setting { name: name.to_owned(), old, new, effect }
    };
    found.into_iter().map(setting).collect()
}

impl Manage for DynamicConfig {
    async fn check(&self, context: &Context<'_>) -> Result<Finding, Failure> {
        let current = match self.current(context).await {
            Ok(current) => current,
            Err(_) if context.anticipates_change() => {
                return Ok(Finding::changed("dynamic configuration of a cluster that is yet to be made"));
            }
            Err(failure) => return Err(failure),
        };
        let patch = patch(&current, &self.config);
        let mut finding = Finding::unchanged();
        if !patch.is_empty() {
            finding.differs(describe(&current, &patch));
            finding.settings = self.weigh(context, &current, &patch, &mut finding.warnings).await;
            finding.effect = finding.settings.iter().map(|setting| setting.effect).max().unwrap_or_default();
        }
        Ok(finding)
    }

    async fn apply(&self, context: &Context<'_>, finding: &mut Finding) -> Result<(), Failure> {
        let patch = patch(&self.current(context).await?, &self.config);
        let url = self.address();
        let body = Value::Object(patch.clone()).to_string();
        let call = Call::send(Method::PATCH, &url, body)
            .authorize(self.username.as_deref(), self.password.as_deref())
            .tls(&self.tls)
            .limit(ATTEMPT);
        let next_step = "see whether the store is reachable from this host, and the agent's log";
        let response = call.run().await.map_err(|error| failure_with(error.to_string(), next_step))?;
        match response.status {
            200 => {
                // Members find out for themselves, a moment later, whether a new value needs a restart.
                let parameters = patch.get("postgresql").and_then(|part| part.get("parameters")).is_some();
                finding.result.insert("restart_pending".to_owned(), parameters.into());
                Ok(())
            }
            400 | 422 => {
                Err(failure_with(said(&url, &response), "correct the setting that the agent refuses"))
            }
            401 | 403 => Err(failure_with(
                said(&url, &response),
                "give `username` and `password` of the agent's REST API",
            )),
            _ => Err(failure_with(said(&url, &response), next_step)),
        }
    }

    /// A member shows what it last heard of the store, so one that has just joined, or is busy, shows what was
    /// written a moment later.
    async fn verify(&self, context: &Context<'_>, _finding: &mut Finding) -> Result<(), Failure> {
        let limit = SEEN_WITHIN.min(Duration::from_secs(self.timeout));
        until(context, limit, async || match self.get().await {
            Ok(current) => {
                let missing = patch(&current, &self.config);
                if missing.is_empty() {
                    return Look::Satisfied;
                }
                let missing = describe(&current, &missing);
                Look::Missing(format!("{} does not show what was written: {missing}", self.address()))
            }
            Err(missing) => Look::Missing(missing),
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn map(value: Value) -> Map<String, Value> {
        value.as_object().expect("a map").clone()
    }

    fn merge(current: &mut Map<String, Value>, patch: &Map<String, Value>) {
        for (key, value) in patch {
            match (current.get_mut(key), value) {
                (_, Value::Null) => {
                    current.remove(key);
                }
                (Some(Value::Object(current)), Value::Object(patch)) => merge(current, patch),
                _ => {
                    current.insert(key.clone(), value.clone());
                }
            }
        }
    }

    #[test]
    fn only_what_differs_is_sent_and_said() {
        let current = map(
            json!({"ttl": 30, "postgresql": {"parameters": {"work_mem": "4MB", "max_connections": 100}}}),
        );
        let wanted = map(
            json!({"ttl": 20, "postgresql": {"parameters": {"max_connections": "100", "work_mem": null, "x.y": "on"}}}),
        );
        let patch = patch(&current, &wanted);
        assert_eq!(
            Value::from(patch.clone()),
            json!({"ttl": 20, "postgresql": {"parameters": {"work_mem": null, "x.y": "on"}}})
        );
        insta::assert_snapshot!(describe(&current, &patch), @r#"
ttl: 30 -> 20
postgresql.parameters.work_mem: "4MB" -> absent
postgresql.parameters.x.y: absent -> "on"
"#);
    }

    fn config() -> impl Strategy<Value = Value> {
        let leaf =
            prop_oneof![Just(json!(null)), (0..4i64).prop_map(Value::from), "[0-3]".prop_map(Value::from)];
        let object = leaf.prop_recursive(3, 16, 4, |inner| {
            prop::collection::hash_map("[abc]", inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect()))
        });
        prop::collection::hash_map("[abc]", object, 0..4)
            .prop_map(|map| Value::Object(map.into_iter().collect()))
    }

    proptest! {
        #[test]
        fn merged_with_its_patch_a_configuration_differs_no_more(current in config(), wanted in config()) {
            let (mut current, wanted) = (map(current), map(wanted));
            let first = patch(&current, &wanted);
            merge(&mut current, &first);
            // A whole map that is new keeps its nulls, which then mean absent as well.
            prop_assert!(patch(&current, &wanted).is_empty());
        }
    }
}
