//! Files by their content.

use super::{
    Content,
    placement::{Placement, holds, not_transferred},
};
use crate::remote::{
    arguments::Permissions,
    files,
    host::{Context, Finding, Host, Manage},
    protocol::Failure,
};
use serde::{Deserialize, Serialize};

/// `copy` (and `template`, once rendered): a file holds exactly this content.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Copy {
    #[serde(alias = "path")]
    pub dest: String,
    pub content: Content,
    #[serde(default)]
    pub owner: Option<String>,
    #[serde(default)]
    pub group: Option<String>,
    #[serde(default)]
    pub mode: Option<Permissions>,
    /// A command that accepts the new file, `%s`, before it takes the old one's place.
    #[serde(default)]
    pub validate: Option<String>,
    /// Without it a file that exists is left alone.
    #[serde(default = "super::yes")]
    pub force: bool,
    /// Keep the replaced file beside the new one, with the time in its name.
    #[serde(default)]
    pub backup: bool,
}

impl Copy {
    pub(super) fn is_in_place(&self, host: &Host) -> bool {
        holds(host, &self.dest, self.content.digest())
    }

    fn placement(&self) -> Placement<'_> {
        Placement {
            path: &self.dest,
            owner: self.owner.as_deref(),
            group: self.group.as_deref(),
            mode: self.mode,
            validate: self.validate.as_deref(),
        }
    }
}

impl Manage for Copy {
    async fn check(&self, context: &Context<'_>) -> Result<Finding, Failure> {
        if !self.force && files::look(&context.host.path(&self.dest))?.is_some() {
            return Ok(Finding::unchanged().with("dest", self.dest.as_str()));
        }
        let content = context.host.content(&self.content);
        let finding = self.placement().check(context, self.content.digest(), content.as_deref())?;
        // What is only made where nothing is belongs to others from then on.
        Ok(if self.force { finding } else { finding.shared() })
    }

    async fn apply(&self, context: &Context<'_>, finding: &mut Finding) -> Result<(), Failure> {
        let host = context.host;
        let path = host.path(&self.dest);
        let content = match host.content(&self.content) {
            Some(content) => content.into_owned(),
            // Only owner or mode differ, so the content was not sent.
            None if self.is_in_place(host) => files::read(&path)?.unwrap_or_default(),
            None => return Err(not_transferred(&self.dest)),
        };
        if self.backup
            && let Some(old) = files::read(&path)?.filter(|old| *old != content)
        {
            let now = jiff::Timestamp::now().strftime("%Y%m%dT%H%M%SZ");
            let backup = format!("{}.{now}~", self.dest);
            let attributes = files::Attributes::default().or(files::look(&path)?.as_ref());
            files::replace(&host.path(&backup), &old, attributes)?;
            finding.result.insert("backup_file".to_owned(), backup.into());
        }
        self.placement().apply(context, &content).await
    }
}
