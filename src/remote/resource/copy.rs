//! Files by their content.

use super::Content;
use crate::remote::arguments::Permissions;
use serde::{Deserialize, Serialize};

/// `copy` (and `template`, once rendered): a file holds exactly this content.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Copy {
    #[serde(alias = "path")]
    pub dest: String,
    pub content: Content,
    #[serde(default)]
    pub owner: Option<String>,
    #[serde(default)]
    pub group: Option<String>,
    #[serde(default)]
    pub mode: Option<Permissions>,
    /// A command that accepts the new file, `%s`, before it takes the old one's place.
    #[serde(default)]
    pub validate: Option<String>,
    /// Without it a file that exists is left alone.
    #[serde(default = "super::yes")]
    pub force: bool,
    /// Keep the replaced file beside the new one, with the time in its name.
    #[serde(default)]
    pub backup: bool,
}
