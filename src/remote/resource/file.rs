//! Files, directories and links by their attributes.

use crate::remote::arguments::Permissions;
use serde::{Deserialize, Serialize};

/// `file`: what is at a path, who owns it, and its mode. Content is `copy`'s.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct File {
    #[serde(alias = "dest", alias = "name")]
    pub path: String,
    #[serde(default)]
    pub state: FileState,
    /// What a link points to.
    #[serde(default)]
    pub src: Option<String>,
    #[serde(default)]
    pub owner: Option<String>,
    #[serde(default)]
    pub group: Option<String>,
    #[serde(default)]
    pub mode: Option<Permissions>,
    /// Owner and group of everything below a directory, too.
    #[serde(default)]
    pub recurse: bool,
    /// A link may replace a file that is in its place.
    #[serde(default)]
    pub force: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FileState {
    /// There is one, whatever it holds.
    #[default]
    File,
    Directory,
    Link,
    Absent,
    /// Created empty if there is none; left alone otherwise.
    Touch,
}

impl File {
    pub(super) fn validate(&self) -> Result<(), String> {
        match (self.state, &self.src) {
            (FileState::Link, None) => Err("`src` is missing: what the link points to".to_owned()),
            (FileState::Link, Some(_)) | (_, None) => Ok(()),
            (_, Some(_)) => Err("`src` goes with `state: link` only".to_owned()),
        }
    }
}
