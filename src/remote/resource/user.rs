//! Accounts.

use serde::{Deserialize, Serialize};

/// `user`: an account exists with these attributes, or doesn't.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct User {
    pub name: String,
    #[serde(default)]
    pub uid: Option<u32>,
    /// The primary group.
    #[serde(default)]
    pub group: Option<String>,
    #[serde(default)]
    pub groups: Option<Vec<String>>,
    /// Keep supplementary groups that are not named.
    #[serde(default)]
    pub append: bool,
    #[serde(default)]
    pub home: Option<String>,
    #[serde(default = "super::yes")]
    pub create_home: bool,
    #[serde(default)]
    pub shell: Option<String>,
    #[serde(default)]
    pub comment: Option<String>,
    #[serde(default)]
    pub system: bool,
    #[serde(default)]
    pub state: super::Presence,
    /// With `state: absent`, the home directory goes too.
    #[serde(default)]
    pub remove: bool,
}
