//! Files, directories and links by their attributes.

use crate::remote::{
    arguments::Permissions,
    files::{self, Attributes, Found, Kind},
    host::{Context, Finding, Manage, failure, failure_with},
    memory::{Thing, Trace},
    protocol::Failure,
};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// `file`: what is at a path, who owns it, and its mode. Content is `copy`'s.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct File {
    #[serde(alias = "dest", alias = "name")]
    pub path: String,
    #[serde(default)]
    pub state: FileState,
    /// What a link points to.
    #[serde(default)]
    pub src: Option<String>,
    #[serde(default)]
    pub owner: Option<String>,
    #[serde(default)]
    pub group: Option<String>,
    #[serde(default)]
    pub mode: Option<Permissions>,
    /// Owner and group of everything below a directory, too.
    #[serde(default)]
    pub recurse: bool,
    /// A link may replace a file that is in its place.
    #[serde(default)]
    pub force: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FileState {
    /// There is one, whatever it holds.
    #[default]
    File,
    Directory,
    Link,
    Absent,
    /// Created empty if there is none; left alone otherwise.
    Touch,
}

impl File {
    pub(super) fn validate(&self) -> Result<(), String> {
        match (self.state, &self.src) {
            (FileState::Link, None) => Err("`src` is missing: what the link points to".to_owned()),
            (FileState::Link, Some(_)) | (_, None) => Ok(()),
            (_, Some(_)) => Err("`src` goes with `state: link` only".to_owned()),
        }
    }
}

impl File {
    fn attributes(&self, context: &Context<'_>) -> Result<(Attributes, bool), Failure> {
        Attributes::resolve(context, self.owner.as_deref(), self.group.as_deref(), self.mode)
    }

    /// Notes what is to be made, or refuses what is in its place.
    fn check_kind(
        &self,
        context: &Context<'_>,
        finding: &mut Finding,
        found: Option<&Found>,
        wanted: Kind,
    ) -> Result<(), Failure> {
        match found {
            Some(found) if found.kind == wanted => Ok(()),
            Some(found) if wanted == Kind::Link && self.force && found.kind == Kind::File => {
                finding.differs(format!("{}: file -> link", self.path));
                Ok(())
            }
            Some(found) => Err(failure_with(
                format!("{} is a {}, not a {}", self.path, found.kind.name(), wanted.name()),
                "remove it first, by a `file` task with `state: absent`, if nothing needs it",
            )),
            None => {
                if wanted != Kind::Directory {
                    files::require_parent(context, &self.path)?;
                }
                finding.differs(format!("{}: absent -> {}", self.path, wanted.name()));
                context.promise(format!("path {}", self.path));
                Ok(())
            }
        }
    }

    /// Everything below a directory whose owner or group differs.
    fn strays(&self, directory: &Path, attributes: Attributes) -> Result<Vec<PathBuf>, Failure> {
        let explain = |error: std::io::Error| files::explain("read", directory, &error);
        let mut strays = Vec::new();
        for entry in std::fs::read_dir(directory).map_err(explain)? {
            let path = entry.map_err(explain)?.path();
            let Some(found) = files::look(&path)? else { continue };
            if attributes.uid.is_some_and(|uid| uid != found.uid)
                || attributes.gid.is_some_and(|gid| gid != found.gid)
            {
                strays.push(path.clone());
            }
            if found.kind == Kind::Directory {
                strays.extend(self.strays(&path, attributes)?);
            }
        }
        Ok(strays)
    }
}

impl Manage for File {
    async fn check(&self, context: &Context<'_>) -> Result<Finding, Failure> {
        let path = context.host.path(&self.path);
        let found = files::look(&path)?;
        let mut finding = Finding::unchanged().with("path", self.path.as_str());
        if self.state == FileState::Absent {
            if let Some(found) = found {
                finding.differs(format!("{}: {} -> absent", self.path, found.kind.name()));
            }
            finding.trace = Some(Trace::Gone(Thing::file(&self.path)));
            return Ok(finding);
        }
        let (attributes, promised) = self.attributes(context)?;
        match self.state {
            FileState::Directory => {
                self.check_kind(context, &mut finding, found.as_ref(), Kind::Directory)?
            }
            FileState::Touch => match found {
                Some(_) => {}
                None => self.check_kind(context, &mut finding, None, Kind::File)?,
            },
            FileState::File => match found {
                None if context.is_path_promised(&self.path) => {
                    finding.differs(format!("{}: attributes of a file that is yet to be made", self.path));
                }
                None => {
                    return Err(failure_with(
                        format!("{} does not exist", self.path),
                        "make it by `copy` or `template` before, or say `state: directory` or `touch`",
                    ));
                }
                Some(_) => {}
            },
            FileState::Link => {
                self.check_kind(context, &mut finding, found.as_ref(), Kind::Link)?;
                let target = self.src.as_deref().unwrap_or_default();
                if found.is_some_and(|found| found.kind == Kind::Link) {
                    let current = std::fs::read_link(&path).unwrap_or_default();
                    if current != Path::new(target) {
                        finding.differs(format!("{}: -> {} -> {target}", self.path, current.display()));
                    }
                }
            }
            FileState::Absent => {}
        }
        if let Some(found) = found {
            files::note_attributes(&mut finding, &self.path, &attributes.differences(&found, context.host));
            if self.recurse && found.kind == Kind::Directory {
                let strays = self.strays(&path, attributes)?;
                if !strays.is_empty() {
                    finding.differs(format!(
                        "{}: owner or group of {} entries below",
                        self.path,
                        strays.len()
                    ));
                }
            }
        }
        if promised {
            finding.differs(format!("{}: owner or group that is yet to be created", self.path));
        }
        Ok(finding)
    }

    async fn apply(&self, context: &Context<'_>, _finding: &mut Finding) -> Result<(), Failure> {
        let path = context.host.path(&self.path);
        if self.state == FileState::Absent {
            return files::remove(&path);
        }
        let (attributes, _) = self.attributes(context)?;
        match self.state {
            FileState::Directory => {
                files::make_directory(&path, attributes)?;
                if self.recurse {
                    let owner = Attributes { mode: None, ..attributes };
                    for stray in self.strays(&path, attributes)? {
                        files::set_attributes(&stray, owner)?;
                    }
                }
                Ok(())
            }
            FileState::Link => {
                let target = self.src.as_deref().ok_or_else(|| failure("`src` is missing"))?;
                if std::fs::read_link(&path).ok().as_deref() != Some(Path::new(target)) {
                    files::make_link(target, &path)?;
                }
                files::set_attributes(&path, Attributes { mode: None, ..attributes })
            }
            FileState::Touch if !path.exists() => files::replace(&path, b"", attributes),
            FileState::Touch | FileState::File | FileState::Absent => {
                files::set_attributes(&path, attributes)
            }
        }
    }
}
