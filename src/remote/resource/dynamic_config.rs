//! The configuration that a cluster keeps in its store.

use crate::remote::{
    host::{Context, Finding, Manage, failure_with},
    http::{Call, Response, Tls},
    protocol::{Effect, Failure, Mode},
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
}

const ATTEMPT: Duration = Duration::from_secs(5);

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

/// One line per setting that is to change.
fn describe(path: &str, current: &Map<String, Value>, patch: &Map<String, Value>, lines: &mut Vec<String>) {
    for (key, value) in patch {
        let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        match (current.get(key), value) {
            (Some(Value::Object(current)), Value::Object(patch)) => describe(&path, current, patch, lines),
            (None, value) => lines.push(format!("{path}: absent -> {value}")),
            (Some(current), Value::Null) => lines.push(format!("{path}: {current} -> absent")),
            (Some(current), value) => lines.push(format!("{path}: {current} -> {value}")),
        }
    }
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
        let mut lines = Vec::new();
        describe("", &current, &patch, &mut lines);
        let mut finding = Finding::unchanged();
        if !patch.is_empty() {
            finding.differs(lines.join("\n"));
            finding.effect = Effect::Reload;
        }
        Ok(finding)
    }

    async fn apply(&self, context: &Context<'_>, _finding: &mut Finding) -> Result<(), Failure> {
        let patch = patch(&self.current(context).await?, &self.config);
        let url = self.address();
        let body = Value::Object(patch).to_string();
        let call = Call::send(Method::PATCH, &url, body)
            .authorize(self.username.as_deref(), self.password.as_deref())
            .tls(&self.tls)
            .limit(ATTEMPT);
        let next_step = "see whether the store is reachable from this host, and the agent's log";
        let response = call.run().await.map_err(|error| failure_with(error.to_string(), next_step))?;
        match response.status {
            200 => Ok(()),
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
        let mut lines = Vec::new();
        describe("", &current, &patch, &mut lines);
        insta::assert_snapshot!(lines.join("\n"), @r#"
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
