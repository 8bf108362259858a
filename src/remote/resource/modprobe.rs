//! Kernel modules.

use super::{Presence, placement::Placement};
use crate::{
    model::Digest,
    remote::{
        command::Invocation,
        files,
        host::{Context, Finding, Host, Manage},
        protocol::Failure,
    },
};
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
    pub state: Presence,
    /// Also at boot, through `/etc/modules-load.d`.
    #[serde(default = "super::yes")]
    pub persistent: bool,
}

impl Modprobe {
    /// The files that load it at boot, with what they hold.
    fn files(&self) -> Vec<(String, String)> {
        let name = &self.name;
        let load = (format!("/etc/modules-load.d/{name}.conf"), format!("{name}\n"));
        let params = self.params.as_ref().filter(|params| !params.is_empty());
        let options = params
            .map(|params| (format!("/etc/modprobe.d/{name}.conf"), format!("options {name} {params}\n")));
        std::iter::once(load).chain(options).collect()
    }

    fn is_loaded(&self, host: &Host) -> bool {
        host.path(format!("/sys/module/{}", self.name.replace('-', "_"))).exists()
    }

    /// Why this kernel can't load modules, if it can't.
    fn hindrance(&self, host: &Host) -> Option<String> {
        let release = std::fs::read_to_string(host.path("/proc/sys/kernel/osrelease")).unwrap_or_default();
        let release = release.trim();
        if !host.path("/proc/modules").exists() {
            return Some("the kernel is built without loadable modules".to_owned());
        }
        if !host.path(format!("/lib/modules/{release}")).is_dir() {
            return Some(format!("the host has no modules for its kernel {release} (a container?)"));
        }
        None
    }
}

impl Manage for Modprobe {
    async fn check(&self, context: &Context<'_>) -> Result<Finding, Failure> {
        let host = context.host;
        let mut finding = Finding::unchanged().with("name", self.name.as_str());
        if self.persistent {
            for (path, text) in self.files() {
                match self.state {
                    Presence::Present => {
                        let text = text.as_bytes();
                        let file = Placement::public(&path).check(context, Digest::of(text), Some(text))?;
                        if file.changed {
                            finding.differs(file.diff);
                        }
                    }
                    Presence::Absent if files::look(&host.path(&path))?.is_some() => {
                        finding.differs(format!("{path}: present -> absent"));
                    }
                    Presence::Absent => {}
                }
            }
        }
        match (self.state, self.is_loaded(host), self.hindrance(host)) {
            (Presence::Present, false, Some(why)) => {
                finding.warnings.push(format!("module {} is not loaded: {why}", self.name));
            }
            (Presence::Present, false, None) => {
                finding.differs(format!("module {}: absent -> loaded", self.name))
            }
            (Presence::Absent, true, None) => {
                finding.differs(format!("module {}: loaded -> absent", self.name))
            }
            _ => {}
        }
        Ok(finding)
    }

    async fn apply(&self, context: &Context<'_>, _finding: &mut Finding) -> Result<(), Failure> {
        let host = context.host;
        if self.persistent {
            for (path, text) in self.files() {
                match self.state {
                    Presence::Present => Placement::public(&path).apply(context, text.as_bytes()).await?,
                    Presence::Absent => files::remove_file(&host.path(&path))?,
                }
            }
        }
        let command = match (self.state, self.is_loaded(host)) {
            _ if self.hindrance(host).is_some() => return Ok(()),
            (Presence::Present, false) => {
                let params = self.params.iter().flat_map(|params| params.split_whitespace());
                Invocation::new("modprobe").args(["--", &self.name]).args(params)
            }
            (Presence::Absent, true) => Invocation::new("modprobe").args(["--remove", "--", &self.name]),
            _ => return Ok(()),
        };
        command.success(host, &format!("module {} could not be loaded or removed", self.name)).await.map(drop)
    }
}
