//! Unit files.

use super::{
    Content, Presence,
    placement::{Placement, holds, not_transferred},
};
use crate::remote::{
    command::Invocation,
    files::{self, Attributes},
    host::{Context, Finding, Host, Manage, failure},
    memory::{Thing, Trace},
    protocol::Failure,
    systemd::{self, Unit},
};
use serde::{Deserialize, Serialize};
use std::time::Duration;

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
    pub state: Presence,
    #[serde(default = "super::yes")]
    pub verify: bool,
}

impl SystemdUnit {
    pub(super) fn validate(&self) -> Result<(), String> {
        if self.name.contains('/') {
            return Err("`name`: expected the name of a unit, not a path".to_owned());
        }
        if self.content.is_none() && self.state == Presence::Present {
            return Err("`content` is missing".to_owned());
        }
        Ok(())
    }
}

const FOLDER: &str = "/etc/systemd/system";

impl SystemdUnit {
    fn unit(&self) -> String {
        systemd::full_name(&self.name)
    }

    fn path(&self) -> String {
        match &self.dropin {
            Some(dropin) => format!("{FOLDER}/{}.d/{}.conf", self.unit(), dropin.trim_end_matches(".conf")),
            None => format!("{FOLDER}/{}", self.unit()),
        }
    }

    pub(super) fn is_in_place(&self, host: &Host) -> bool {
        self.content.as_ref().is_none_or(|content| holds(host, &self.path(), content.digest()))
    }

    /// Has systemd's own checker look at a whole unit before it is put in place. What it says of other
    /// units is none of this one's business.
    async fn accept(&self, context: &Context<'_>, content: &[u8]) -> Result<(), Failure> {
        // A template unit can't be looked at without an instance, a drop-in not without its unit.
        if !self.verify || self.dropin.is_some() || self.name.contains('@') || !context.host.is_live() {
            return Ok(());
        }
        let folder =
            tempfile::tempdir().map_err(|error| failure(format!("no temporary directory: {error}")))?;
        let path = folder.path().join(self.unit());
        files::replace(&path, content, Attributes::default())?;
        let verify = Invocation::new("systemd-analyze")
            .args(["verify", "--man=no", "--recursive-errors=no"])
            .arg(path.display().to_string());
        let output = verify.output(context.host).await?;
        let said = |line: &&str| line.contains(&*self.unit());
        let lines: Vec<_> = output.stderr.lines().filter(said).map(str::to_owned).collect();
        if output.is_success() || lines.is_empty() {
            return Ok(());
        }
        let mut failure = verify.failed(&output, &format!("systemd refuses the new {}", self.unit()));
        failure.last_lines = lines;
        failure.next_step =
            Some("correct the template or its variables; the old unit is still in place".to_owned());
        Err(failure)
    }
}

impl Manage for SystemdUnit {
    async fn check(&self, context: &Context<'_>) -> Result<Finding, Failure> {
        let (host, path) = (context.host, self.path());
        let mut finding =
            match (self.state, &self.content) {
                (Presence::Absent, _) | (_, None) => match files::look(&host.path(&path))? {
                    Some(_) => Finding::changed(format!("{path}: present -> absent")),
                    None => Finding::unchanged(),
                }
                .leaving(Trace::Gone(Thing::file(&path))),
                (Presence::Present, Some(content)) => {
                    let folder =
                        std::path::Path::new(&path).parent().map(|folder| folder.display().to_string());
                    // The folder of drop-ins is made on the way.
                    context.promise(format!("path {}", folder.unwrap_or_default()));
                    let placement = Placement::public(&path);
                    let bytes = host.content(content);
                    if self.dropin.is_some() && !host.path(&path).exists() {
                        let new = bytes.as_deref().filter(|_| context.diff);
                        Finding::changed(new.map_or(format!("{path}: absent -> file"), |new| {
                            files::diff(&path, None, Some(new))
                        }))
                        .leaving(placement.trace(
                            content.digest(),
                            Attributes { mode: Some(0o644), ..Attributes::default() },
                        ))
                    } else {
                        placement.check(context, content.digest(), bytes.as_deref())?
                    }
                }
            };
        if finding.changed {
            context.promise(format!("unit {}", self.unit()));
        } else if host.is_live() && Unit::show(host, &self.unit()).await?.needs_daemon_reload() {
            // An earlier run was interrupted between writing and loading.
            finding.differs(format!("{}: on disk -> loaded", self.unit()));
        }
        Ok(finding.with("path", path))
    }

    async fn apply(&self, context: &Context<'_>, _finding: &mut Finding) -> Result<(), Failure> {
        let (host, path) = (context.host, self.path());
        match (self.state, &self.content) {
            (Presence::Absent, _) | (_, None) => files::remove_file(&host.path(&path))?,
            (Presence::Present, Some(content)) if !self.is_in_place(host) => {
                let bytes = host.content(content).ok_or_else(|| not_transferred(&path))?;
                self.accept(context, &bytes).await?;
                if let Some(folder) = host.path(&path).parent().filter(|folder| !folder.exists()) {
                    files::make_directory(folder, Attributes { mode: Some(0o755), ..Attributes::default() })?;
                }
                Placement::public(&path).apply(context, &bytes).await?;
            }
            (Presence::Present, Some(content)) => {
                let bytes = files::read(&host.path(&path))?.unwrap_or_default();
                debug_assert_eq!(crate::model::Digest::of(&bytes), content.digest());
                Placement::public(&path).apply(context, &bytes).await?;
            }
        }
        if host.is_live() {
            systemd::systemctl(host, &["daemon-reload"], Duration::from_secs(90)).await?;
        }
        Ok(())
    }
}
