//! A file with a content, an owner and a mode, as several resources put it in place.

use crate::{
    model::Digest,
    remote::{
        arguments::Permissions,
        command::Invocation,
        files::{self, Attributes, Beside, Found, Kind},
        host::{Context, Finding, Host, failure_with},
        memory::{Memory, Print, Thing, Trace},
        protocol::Failure,
    },
};
use std::path::Path;

/// Where a file is to be, and how.
#[derive(Clone, Copy, Debug)]
pub(super) struct Placement<'a> {
    pub path: &'a str,
    pub owner: Option<&'a str>,
    pub group: Option<&'a str>,
    pub mode: Option<Permissions>,
    /// A command that must accept the new file, `%s`.
    pub validate: Option<&'a str>,
}

impl<'a> Placement<'a> {
    /// A file of root's that all may read.
    pub fn public(path: &'a str) -> Self {
        Self { path, owner: None, group: None, mode: Some(Permissions(0o644)), validate: None }
    }

    /// What differs from a file that holds `digest`. `content` is for the diff.
    pub fn check(
        &self,
        context: &Context<'_>,
        digest: Digest,
        content: Option<&[u8]>,
    ) -> Result<Finding, Failure> {
        let host = context.host;
        files::require_parent(context, self.path)?;
        let (attributes, promised) = Attributes::resolve(context, self.owner, self.group, self.mode)?;
        let mut finding = Finding::unchanged();
        let found = self.look(host)?;
        let path = host.path(self.path);
        let held = match found {
            Some(Found { kind: Kind::File, .. }) => files::digest(&path)?,
            _ => None,
        };
        if held != Some(digest) {
            match content.filter(|_| context.diff) {
                Some(content) => {
                    let old = if held.is_some() { files::read(&path)? } else { None };
                    finding.differs(files::diff(self.path, old.as_deref(), Some(content)));
                }
                None => {
                    let held = held.map_or("absent".to_owned(), |held| held.short());
                    finding.differs(format!("{}: {held} -> {}", self.path, digest.short()));
                }
            }
        }
        if let Some(found) = found {
            files::note_attributes(&mut finding, self.path, &attributes.differences(&found, host));
        }
        if promised {
            finding.differs(format!("{}: owner or group that is yet to be created", self.path));
        }
        if finding.changed {
            context.promise(format!("path {}", self.path));
            finding.drift = Memory::of(host).drift(host, &Thing::file(self.path), digest)?;
        }
        finding.trace = Some(self.trace(digest, attributes));
        Ok(finding.with("dest", self.path))
    }

    /// What is to be remembered once the file holds `digest`.
    pub fn trace(&self, digest: Digest, attributes: Attributes) -> Trace {
        Trace::Put(Thing::file(self.path), Print { sha256: digest, attributes })
    }

    /// Puts `content` in place, or corrects owner and mode alone where that suffices.
    pub async fn apply(&self, context: &Context<'_>, content: &[u8]) -> Result<(), Failure> {
        let host = context.host;
        let path = host.path(self.path);
        let (attributes, _) = Attributes::resolve(context, self.owner, self.group, self.mode)?;
        let found = self.look(host)?;
        let old = match found {
            Some(Found { kind: Kind::File, .. }) => files::read(&path)?,
            _ => None,
        };
        if old.as_deref() == Some(content) {
            return files::set_attributes(&path, attributes);
        }
        let beside = Beside::write(&path, content, attributes.or(found.as_ref()))?;
        if let Some(validate) = self.validate {
            accept(host, validate, beside.waiting_at(), self.path).await?;
        }
        beside.commit()
    }

    /// What is at the path; a directory or a device is refused.
    fn look(&self, host: &Host) -> Result<Option<Found>, Failure> {
        let found = files::look(&host.path(self.path))?;
        match found {
            Some(Found { kind: kind @ (Kind::Directory | Kind::Other), .. }) => Err(failure_with(
                format!("{} is a {}, not a file", self.path, kind.name()),
                "name the file itself, or remove what is in its place",
            )),
            found => Ok(found),
        }
    }
}

/// Whether the file at `path` holds exactly the content of that digest.
pub(super) fn holds(host: &Host, path: &str, digest: Digest) -> bool {
    files::digest(&host.path(path)).ok().flatten() == Some(digest)
}

/// The failure for a content that should have been transferred and was not.
pub(super) fn not_transferred(path: &str) -> Failure {
    failure_with(format!("the content of {path} was not transferred"), "run again")
}

async fn accept(host: &Host, validate: &str, new: &Path, path: &str) -> Result<(), Failure> {
    let words = shlex::split(validate).unwrap_or_default();
    let Some((program, args)) = words.split_first() else {
        return Err(failure_with("`validate` is no command", "write it as `command -option %s`"));
    };
    let new = new.display().to_string();
    let args = args.iter().map(|arg| arg.replace("%s", &new));
    let command = Invocation::new(program).args(args);
    command.success(host, &format!("the new {path} is refused by its own checker")).await.map(drop).map_err(
        |failure| Failure {
            next_step: Some(
                "correct the template or its variables; the old file is still in place".to_owned(),
            ),
            ..failure
        },
    )
}
