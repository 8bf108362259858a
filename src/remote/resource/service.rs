//! What systemd runs.

use serde::{Deserialize, Serialize};

/// `service` (alias `systemd`): a unit runs or not, now and after a boot.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Service {
    #[serde(alias = "unit")]
    pub name: String,
    #[serde(default)]
    pub state: Option<ServiceState>,
    #[serde(default)]
    pub enabled: Option<bool>,
    #[serde(default)]
    pub masked: Option<bool>,
    /// Read unit files anew first; it is done anyway where systemd says that they changed.
    #[serde(default)]
    pub daemon_reload: bool,
    /// How long a unit must stay active after it was started, in milliseconds.
    #[serde(default = "second_ms")]
    pub settle_ms: u64,
    /// How long starting or stopping may take, in seconds.
    #[serde(default = "two_minutes_secs")]
    pub timeout: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ServiceState {
    #[serde(alias = "running")]
    Started,
    Stopped,
    /// Always a change; meant for handlers.
    Restarted,
    /// Always a change, a start when the unit is down; meant for handlers.
    Reloaded,
}

fn second_ms() -> u64 {
    1000
}

fn two_minutes_secs() -> u64 {
    120
}
