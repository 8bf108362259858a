//! What we put on this host, remembered on its disk, so that what somebody has changed by hand is told from
//! what we left. Holds digests, never contents.
//!
//! What is about to be put is noted before the file is renamed into place, and what was put afterwards: a
//! run that dies at any point in between leaves a file that is one of the two, hence never looks like
//! somebody else's change.

use crate::{
    model::Digest,
    remote::{
        files::{self, Attributes, Found, Kind},
        host::Host,
        protocol::{Drift, DriftKind, Failure},
        resource,
    },
};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

const FOLDER: &str = "/var/lib/pgfleet/put";

/// What we answer for: a whole file, or a block between markers in a file of somebody else's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Thing {
    pub path: String,
    /// The markers' text with `{mark}` in it; none for a whole file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub block: Option<String>,
}

/// What a thing was made to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Print {
    pub sha256: Digest,
    /// What was asked for; what is none was left as it was.
    #[serde(flatten)]
    pub attributes: Attributes,
}

/// What a step leaves behind once it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Trace {
    Put(Thing, Print),
    Gone(Thing),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    #[serde(flatten)]
    thing: Thing,
    /// What was there when a run of ours had put it.
    last: Option<Print>,
    /// What a run was about to put, and has perhaps.
    next: Option<Print>,
}

/// The memory of one host: a file for each thing, named by the digest of its path and marker.
pub(crate) struct Memory {
    folder: PathBuf,
}

impl Thing {
    pub fn file(path: &str) -> Self {
        Self { path: path.to_owned(), block: None }
    }

    /// The digest of what is there; none when nothing is.
    fn digest(&self, host: &Host) -> Result<Option<Digest>, Failure> {
        let path = host.path(&self.path);
        match (&self.block, files::look(&path)?) {
            (_, None) => Ok(None),
            (None, Some(Found { kind: Kind::File, .. })) => files::digest(&path),
            (Some(marker), Some(Found { kind: Kind::File | Kind::Link, .. })) => {
                let text = files::read_text(&path)?;
                Ok(resource::block_in(&text, marker).map(|block| Digest::of(block.as_bytes())))
            }
            // Something else has taken the file's place: it holds nothing of ours.
            (_, Some(_)) => Ok(Some(Digest::of(b""))),
        }
    }
}

impl Memory {
    pub fn of(host: &Host) -> Self {
        Self { folder: host.path(FOLDER) }
    }

    /// What is to be said of a thing that is not as it is wanted; none when it is as we left it.
    pub fn drift(&self, host: &Host, thing: &Thing, wanted: Digest) -> Result<Option<Drift>, Failure> {
        let content = thing.digest(host)?;
        let kind = match self.recall(thing)? {
            // The content is right, so that owner or mode are not.
            Some(record) if content == Some(wanted) => record.strange_attributes(host)?,
            None if content == Some(wanted) => None,
            Some(record) => record.judge(content),
            None => content.map(|_| DriftKind::Foreign),
        };
        Ok(kind.map(|kind| drift(host, thing, kind)))
    }

    /// Everything that is no longer as we put it, by path. What can't be looked at counts as changed.
    pub fn drifts(&self, host: &Host) -> Vec<Drift> {
        let mut drifts = Vec::new();
        for record in self.all() {
            let kind = record.thing.digest(host).and_then(|content| match record.judge(content) {
                None => record.strange_attributes(host),
                kind => Ok(kind),
            });
            // What was never put in place by us is not ours to miss.
            if let Some(kind) =
                kind.unwrap_or(Some(DriftKind::Edited)).filter(|kind| *kind != DriftKind::Foreign)
            {
                drifts.push(drift(host, &record.thing, kind));
            }
        }
        drifts.sort_by(|one, other| one.path.cmp(&other.path));
        drifts
    }

    /// Notes what a step is about to put. Called before the file system is changed.
    pub fn intend(&self, trace: Option<&Trace>) -> Result<(), Failure> {
        match trace {
            None => Ok(()),
            Some(Trace::Put(thing, print)) => {
                let last = self.recall(thing)?.and_then(|record| record.last);
                self.write(&Record { thing: thing.clone(), last, next: Some(*print) })
            }
            // Forgotten first: what is removed afterwards is nobody's loss.
            Some(Trace::Gone(thing)) => files::remove_file(&self.path(thing)),
        }
    }

    /// Notes what a step has put, or found to be right. Writes only what it does not know yet.
    pub fn settle(&self, trace: Option<&Trace>) -> Result<(), Failure> {
        match trace {
            None => Ok(()),
            Some(Trace::Put(thing, print)) => {
                let record = Record { thing: thing.clone(), last: Some(*print), next: None };
                if self.recall(thing)?.as_ref() == Some(&record) { Ok(()) } else { self.write(&record) }
            }
            Some(Trace::Gone(thing)) => match self.path(thing) {
                path if path.exists() => files::remove_file(&path),
                _ => Ok(()),
            },
        }
    }

    fn recall(&self, thing: &Thing) -> Result<Option<Record>, Failure> {
        // A record that can't be understood is as good as none: the thing is taken over anew.
        Ok(files::read(&self.path(thing))?.and_then(|text| serde_json::from_slice(&text).ok()))
    }

    fn all(&self) -> Vec<Record> {
        let Ok(entries) = std::fs::read_dir(&self.folder) else { return Vec::new() };
        entries
            .flatten()
            // What an interrupted run left half-written begins with a dot.
            .filter(|entry| !entry.file_name().to_string_lossy().starts_with('.'))
            .filter_map(|entry| serde_json::from_slice(&std::fs::read(entry.path()).ok()?).ok())
            .collect()
    }

    fn write(&self, record: &Record) -> Result<(), Failure> {
        files::make_directory(&self.folder, Attributes { mode: Some(0o700), ..Attributes::default() })?;
        let text = serde_json::json!(record).to_string();
        let private = Attributes { mode: Some(0o600), ..Attributes::default() };
        files::replace(&self.path(&record.thing), text.as_bytes(), private)
    }

    fn path(&self, thing: &Thing) -> PathBuf {
        let name = format!("{}\n{}", thing.path, thing.block.as_deref().unwrap_or_default());
        self.folder.join(Digest::of(name.as_bytes()).short())
    }
}

impl Record {
    /// What is to be said of that content; none when it is ours.
    fn judge(&self, content: Option<Digest>) -> Option<DriftKind> {
        let is_ours = |content: Digest| {
            [self.last, self.next].into_iter().flatten().any(|print| print.sha256 == content)
        };
        match (content, self.last) {
            (None, None) => None,
            (None, Some(_)) => Some(DriftKind::Removed),
            (Some(content), _) if is_ours(content) => None,
            (Some(_), Some(_)) => Some(DriftKind::Edited),
            // A run died before it had put anything: what is there is older than us.
            (Some(_), None) => Some(DriftKind::Foreign),
        }
    }
}

impl Record {
    /// Whether owner or mode are neither what they were made to be nor what they were about to be.
    fn strange_attributes(&self, host: &Host) -> Result<Option<DriftKind>, Failure> {
        let Some(found) = files::look(&host.path(&self.thing.path))? else { return Ok(None) };
        let mut prints = self.last.iter().chain(&self.next).peekable();
        let is_known = prints.peek().is_some();
        let strange = prints.all(|print| !print.attributes.differences(&found, host).is_empty());
        Ok((is_known && strange).then_some(DriftKind::Attributes))
    }
}

fn drift(host: &Host, thing: &Thing, kind: DriftKind) -> Drift {
    let modified = std::fs::symlink_metadata(host.path(&thing.path)).and_then(|metadata| metadata.modified());
    let changed_at = modified.ok().and_then(|time| Timestamp::try_from(time).ok());
    Drift { path: thing.path.clone(), kind, changed_at: changed_at.filter(|_| kind != DriftKind::Removed) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn print(text: &str) -> Print {
        Print { sha256: Digest::of(text.as_bytes()), attributes: Attributes::default() }
    }

    #[test]
    fn either_of_what_was_and_what_was_to_be_is_ours() {
        let judge = |last: Option<&str>, next: Option<&str>, content: Option<&str>| {
            let record = Record { thing: Thing::file("/a"), last: last.map(print), next: next.map(print) };
            record.judge(content.map(|text| Digest::of(text.as_bytes())))
        };
        let (edited, removed) = (Some(DriftKind::Edited), Some(DriftKind::Removed));
        for (last, next, content, expected) in [
            (Some("a"), None, Some("a"), None),
            (Some("a"), Some("b"), Some("a"), None),
            (Some("a"), Some("b"), Some("b"), None),
            (Some("a"), Some("b"), Some("c"), edited),
            (Some("a"), None, Some("b"), edited),
            (Some("a"), None, None, removed),
            (None, Some("b"), Some("b"), None),
            (None, Some("b"), Some("c"), Some(DriftKind::Foreign)),
            (None, Some("b"), None, None),
        ] {
            assert_eq!(judge(last, next, content), expected, "{last:?} {next:?} {content:?}");
        }
    }

    #[test]
    fn a_record_holds_digests_and_is_nobody_elses() {
        use std::os::unix::fs::PermissionsExt;
        let root = tempfile::tempdir().expect("a directory");
        let memory = Memory::of(&Host::at(root.path()));
        let trace = Trace::Put(Thing::file("/etc/a"), print("hunter2"));
        memory.intend(Some(&trace)).expect("noted");
        memory.settle(Some(&trace)).expect("noted");
        let path = memory.path(&Thing::file("/etc/a"));
        let mode =
            |path: &std::path::Path| std::fs::metadata(path).expect("there").permissions().mode() & 0o777;
        assert_eq!((mode(&memory.folder), mode(&path)), (0o700, 0o600));
        assert!(!std::fs::read_to_string(&path).expect("readable").contains("hunter2"));
        memory.settle(Some(&Trace::Gone(Thing::file("/etc/a")))).expect("forgotten");
        assert!(!path.exists());
    }
}
