//! Resource limits of login sessions.

use super::{Presence, placement::Placement};
use crate::{
    model::Digest,
    remote::{
        files,
        host::{Context, Finding, Manage},
        protocol::Failure,
    },
};
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
    pub state: Presence,
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
        if self.value.is_none() && self.state == Presence::Present {
            return Err("argument `value` is missing".to_owned());
        }
        Ok(())
    }
}

impl PamLimits {
    fn text(&self, old: &str) -> String {
        let kind = match self.limit_type {
            LimitType::Soft => "soft",
            LimitType::Hard => "hard",
            LimitType::Both => "-",
        };
        let key = [self.domain.as_str(), kind, self.limit_item.as_str()];
        let is_its_own = |line: &str| line.split_whitespace().take(3).eq(key);
        let mut lines: Vec<String> =
            old.lines().filter(|line| !is_its_own(line)).map(str::to_owned).collect();
        if let (Presence::Present, Some(value)) = (self.state, &self.value) {
            let place = old.lines().position(is_its_own).unwrap_or(lines.len()).min(lines.len());
            lines.insert(place, format!("{} {value}", key.join(" ")));
        }
        lines.iter().map(|line| format!("{line}\n")).collect()
    }
}

impl Manage for PamLimits {
    async fn check(&self, context: &Context<'_>) -> Result<Finding, Failure> {
        let old = files::read_text(&context.host.path(&self.dest))?;
        let text = self.text(&old);
        if old == text && self.state == Presence::Absent {
            return Ok(Finding::unchanged());
        }
        let placement = Placement::public(&self.dest);
        Ok(placement.check(context, Digest::of(text.as_bytes()), Some(text.as_bytes()))?.shared())
    }

    async fn apply(&self, context: &Context<'_>, _finding: &mut Finding) -> Result<(), Failure> {
        let old = files::read_text(&context.host.path(&self.dest))?;
        Placement::public(&self.dest).apply(context, self.text(&old).as_bytes()).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn one_line_is_kept_and_others_are_left_alone() {
        let limits: PamLimits = crate::remote::arguments::read(
            json!({"domain": "postgres", "limit_type": "soft", "limit_item": "nofile", "value": 65536}),
        )
        .expect("arguments");
        let text = limits.text("* soft core 0\npostgres  soft nofile 1024\n");
        assert_eq!(text, "* soft core 0\npostgres soft nofile 65536\n");
        assert_eq!(limits.text(&text), text);
    }
}
