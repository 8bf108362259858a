//! Unit files.

use super::Content;
use serde::{Deserialize, Serialize};

/// `systemd_unit`: a unit file, or a drop-in of one, in `/etc/systemd/system`; checked by
/// `systemd-analyze verify` before it is put in place, and loaded.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SystemdUnit {
    /// With its ending; `.service` when there is none.
    pub name: String,
    #[serde(default)]
    pub content: Option<Content>,
    /// The name of a drop-in, `NAME.d/DROPIN.conf`, rather than the unit itself.
    #[serde(default)]
    pub dropin: Option<String>,
    #[serde(default)]
    pub state: super::Presence,
    #[serde(default = "super::yes")]
    pub verify: bool,
}

impl SystemdUnit {
    pub(super) fn validate(&self) -> Result<(), String> {
        if self.name.contains('/') {
            return Err("`name`: expected the name of a unit, not a path".to_owned());
        }
        if self.content.is_none() && self.state == super::Presence::Present {
            return Err("`content` is missing".to_owned());
        }
        Ok(())
    }
}
