//! The configuration that a cluster keeps in its store.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// `dynamic_config`: the cluster's dynamic configuration holds these settings. `null` removes one;
/// settings that aren't named stay.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DynamicConfig {
    #[serde(default = "super::agent_url")]
    pub url: String,
    pub config: Map<String, Value>,
    #[serde(default)]
    pub username: Option<String>,
    #[serde(default)]
    pub password: Option<String>,
    /// How long to wait for the agent to answer, in seconds.
    #[serde(default = "super::five_minutes_secs")]
    pub timeout: u64,
}
