//! Waiting until something is reachable.

use serde::{Deserialize, Serialize};

/// `wait_for`: a port accepts connections, a URL answers, or a path exists. Changes nothing.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WaitFor {
    #[serde(default = "loopback")]
    pub host: String,
    #[serde(default)]
    pub port: Option<u16>,
    #[serde(default)]
    pub url: Option<String>,
    /// Statuses of `url` that end the wait; 200 when none is named.
    #[serde(default)]
    pub status: Vec<u16>,
    #[serde(default)]
    pub path: Option<String>,
    #[serde(default)]
    pub state: WaitState,
    /// How long to wait, in seconds.
    #[serde(default = "super::five_minutes_secs")]
    pub timeout: u64,
    /// The unit whose last journal lines tell why it isn't up.
    #[serde(default)]
    pub unit: Option<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WaitState {
    #[default]
    #[serde(alias = "present")]
    Started,
    #[serde(alias = "absent")]
    Stopped,
}

fn loopback() -> String {
    "127.0.0.1".to_owned()
}

impl WaitFor {
    pub(super) fn validate(&self) -> Result<(), String> {
        let given = [self.port.is_some(), self.url.is_some(), self.path.is_some()];
        if given.iter().filter(|given| **given).count() != 1 {
            return Err("expected one of `port`, `url`, `path`".to_owned());
        }
        match &self.url {
            Some(url) if !url.starts_with("http://") => {
                Err(format!("`url`: expected http://..., found `{url}`"))
            }
            _ => Ok(()),
        }
    }
}
