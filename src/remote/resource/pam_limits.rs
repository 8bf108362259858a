//! Resource limits of login sessions.

use serde::{Deserialize, Serialize};

/// `pam_limits`: one line of `/etc/security/limits.d`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PamLimits {
    pub domain: String,
    pub limit_type: LimitType,
    pub limit_item: String,
    #[serde(default)]
    pub value: Option<String>,
    #[serde(default = "dest")]
    pub dest: String,
    #[serde(default)]
    pub state: super::Presence,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LimitType {
    Soft,
    Hard,
    #[serde(rename = "-")]
    Both,
}

fn dest() -> String {
    "/etc/security/limits.d/90-pgfleet.conf".to_owned()
}

impl PamLimits {
    pub(super) fn validate(&self) -> Result<(), String> {
        if self.value.is_none() && self.state == super::Presence::Present {
            return Err("argument `value` is missing".to_owned());
        }
        Ok(())
    }
}
