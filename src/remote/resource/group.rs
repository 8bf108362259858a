//! Groups of accounts.

use super::Presence;
use crate::remote::{
    command::Invocation,
    host::{Context, Finding, Manage},
    protocol::Failure,
};
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
    pub state: Presence,
}

impl Manage for Group {
    async fn check(&self, context: &Context<'_>) -> Result<Finding, Failure> {
        let mut finding = Finding::unchanged().with("name", self.name.as_str());
        match (context.host.accounts().group(&self.name), self.state) {
            (None, Presence::Absent) => {}
            (Some(_), Presence::Absent) => finding.differs(format!("group {}: present -> absent", self.name)),
            (None, Presence::Present) => {
                finding.differs(format!("group {}: absent -> present", self.name));
                context.promise(format!("group {}", self.name));
            }
            (Some(group), Presence::Present) => {
                if let Some(gid) = self.gid.filter(|gid| *gid != group.gid) {
                    finding.differs(format!("group {}: gid: {} -> {gid}", self.name, group.gid));
                }
            }
        }
        Ok(finding)
    }

    async fn apply(&self, context: &Context<'_>, _finding: &mut Finding) -> Result<(), Failure> {
        let exists = context.host.accounts().group(&self.name).is_some();
        let gid = self.gid.map(|gid| ["--gid".to_owned(), gid.to_string()]).into_iter().flatten();
        let command = match self.state {
            Presence::Absent => Invocation::new("groupdel"),
            Presence::Present if exists => Invocation::new("groupmod").args(gid),
            Presence::Present => {
                Invocation::new("groupadd").args(gid).args(self.system.then_some("--system"))
            }
        };
        let command = command.args(["--", &self.name]);
        command.success(context.host, &format!("group {} could not be changed", self.name)).await.map(drop)
    }
}
