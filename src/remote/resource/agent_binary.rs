//! The agent's executable.

use super::placement::Placement;
use crate::remote::{
    arguments::Permissions,
    files,
    host::{Context, Finding, Manage, failure},
    protocol::{Failure, Version},
};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::path::Path;

/// `agent_binary`: the running executable, which is the agent as well, is installed at `dest`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgentBinary {
    #[serde(default = "dest", alias = "path")]
    pub dest: String,
    #[serde(default)]
    pub owner: Option<String>,
    #[serde(default)]
    pub group: Option<String>,
    #[serde(default = "mode")]
    pub mode: Permissions,
}

const RUNNING: &str = "/proc/self/exe";

fn dest() -> String {
    "/usr/local/bin/pgfleet".to_owned()
}

fn mode() -> Permissions {
    Permissions(0o755)
}

impl AgentBinary {
    fn placement(&self) -> Placement<'_> {
        Placement {
            path: &self.dest,
            owner: self.owner.as_deref(),
            group: self.group.as_deref(),
            mode: Some(self.mode),
            validate: None,
        }
    }

    fn executable() -> Result<Vec<u8>, Failure> {
        std::fs::read(RUNNING).map_err(|error| files::explain("read", Path::new(RUNNING), &error))
    }
}

impl Manage for AgentBinary {
    async fn check(&self, context: &Context<'_>) -> Result<Finding, Failure> {
        let digest = files::digest(Path::new(RUNNING))?.ok_or_else(|| failure("this program has no file"))?;
        // No content for the diff: two executables differ in more than anyone reads.
        let finding = self.placement().check(context, digest, None)?;
        let installed = match finding.changed {
            true => files::digest(&context.host.path(&self.dest))?,
            false => Some(digest),
        };
        let version = Version {
            name: "pgfleet".to_owned(),
            installed: installed.map(|installed| format!("build {}", installed.short())),
            to: (installed != Some(digest))
                .then(|| format!("{} build {}", env!("CARGO_PKG_VERSION"), digest.short())),
        };
        Ok(finding.with("versions", json!([version])))
    }

    async fn apply(&self, context: &Context<'_>, _finding: &mut Finding) -> Result<(), Failure> {
        // Renamed into place: what runs from the old file goes on running.
        self.placement().apply(context, &Self::executable()?).await
    }
}
