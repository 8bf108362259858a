//! Kernel modules.

use serde::{Deserialize, Serialize};

/// `modprobe`: a module is loaded, now and at boot. A kernel that has no such module (a container's
/// can't load any) is a warning.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Modprobe {
    pub name: String,
    #[serde(default)]
    pub params: Option<String>,
    #[serde(default)]
    pub state: super::Presence,
    /// Also at boot, through `/etc/modules-load.d`.
    #[serde(default = "super::yes")]
    pub persistent: bool,
}
