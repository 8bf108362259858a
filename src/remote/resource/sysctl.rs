//! Kernel parameters.

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

/// `sysctl`: kernel parameters, kept in a file and set now. What the kernel refuses (a container's
/// does) is a warning: the file still says it for the next boot.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sysctl {
    #[serde(default, alias = "key")]
    pub name: Option<String>,
    #[serde(default, alias = "val")]
    pub value: Option<String>,
    /// Several at once, instead of `name` and `value`.
    #[serde(default)]
    pub values: IndexMap<String, String>,
    #[serde(default)]
    pub state: super::Presence,
    #[serde(default = "sysctl_file")]
    pub sysctl_file: String,
    /// Set the running kernel's value too.
    #[serde(default = "super::yes", alias = "reload")]
    pub sysctl_set: bool,
}

fn sysctl_file() -> String {
    "/etc/sysctl.d/90-pgfleet.conf".to_owned()
}

impl Sysctl {
    pub(super) fn validate(&self) -> Result<(), String> {
        match (&self.name, &self.value, self.values.is_empty()) {
            (None, None, false) => Ok(()),
            (Some(_), Some(_), true) => Ok(()),
            (Some(_), None, true) if self.state == super::Presence::Absent => Ok(()),
            _ => Err("expected `name` and `value`, or `values`".to_owned()),
        }
    }
}
