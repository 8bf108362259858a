//! Groups of accounts.

use serde::{Deserialize, Serialize};

/// `group`: a group exists, or doesn't.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Group {
    pub name: String,
    #[serde(default)]
    pub gid: Option<u32>,
    #[serde(default)]
    pub system: bool,
    #[serde(default)]
    pub state: super::Presence,
}
