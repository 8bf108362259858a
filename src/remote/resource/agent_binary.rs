//! The agent's executable.

use crate::remote::arguments::Permissions;
use serde::{Deserialize, Serialize};

/// `agent_binary`: the running executable, which is the agent as well, is installed at `dest`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgentBinary {
    #[serde(default = "dest", alias = "path")]
    pub dest: String,
    #[serde(default)]
    pub owner: Option<String>,
    #[serde(default)]
    pub group: Option<String>,
    #[serde(default = "mode")]
    pub mode: Permissions,
}

fn dest() -> String {
    "/usr/local/bin/pgfleet".to_owned()
}

fn mode() -> Permissions {
    Permissions(0o755)
}
