//! A block of lines, between markers, in a file that others own.

use crate::remote::arguments::Permissions;
use serde::{Deserialize, Serialize};

/// `blockinfile`: the lines between two markers are exactly these.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Blockinfile {
    #[serde(alias = "dest")]
    pub path: String,
    /// Empty means that the block is to be absent.
    #[serde(default, alias = "content")]
    pub block: String,
    /// Holds `{mark}`, which becomes `BEGIN` and `END`.
    #[serde(default = "marker")]
    pub marker: String,
    /// A regular line (or `EOF`, `BOF`) that a new block is put after.
    #[serde(default)]
    pub insertafter: Option<String>,
    #[serde(default)]
    pub insertbefore: Option<String>,
    #[serde(default)]
    pub state: super::Presence,
    /// Make the file if there is none.
    #[serde(default)]
    pub create: bool,
    #[serde(default)]
    pub owner: Option<String>,
    #[serde(default)]
    pub group: Option<String>,
    #[serde(default)]
    pub mode: Option<Permissions>,
    #[serde(default)]
    pub validate: Option<String>,
}

fn marker() -> String {
    "# {mark} PGFLEET MANAGED BLOCK".to_owned()
}

impl Blockinfile {
    pub(super) fn validate(&self) -> Result<(), String> {
        if !self.marker.contains("{mark}") {
            return Err("`marker`: expected `{mark}` in it".to_owned());
        }
        if self.insertafter.is_some() && self.insertbefore.is_some() {
            return Err("expected either `insertafter` or `insertbefore`, not both".to_owned());
        }
        Ok(())
    }
}
