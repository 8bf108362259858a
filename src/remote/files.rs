//! Files as they are changed here: written beside, synced, renamed. Every change of the file system that
//! resources make goes through this file, so that tests can interrupt a run at each of them.

use crate::{
    model::Digest,
    remote::{
        arguments::Permissions,
        host::{Context, Finding, Host, failure_with},
        protocol::Failure,
    },
};
use serde::{Deserialize, Serialize};
use sha2::Digest as _;
use std::{
    fs::{self, File, OpenOptions},
    io::{self, ErrorKind, Read, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

/// What is at a path, symbolic links not followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub kind: Kind,
    pub uid: u32,
    pub gid: u32,
    pub mode: u32,
    pub size: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    Directory,
    Link,
    Other,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Kind::File => "file",
            Kind::Directory => "directory",
            Kind::Link => "link",
            Kind::Other => "special file",
        }
    }
}

/// Who shall own something and what mode it shall have; what is none is left as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Attributes {
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub mode: Option<u32>,
}

impl Attributes {
    /// Resolves names. An unknown name is a failure, unless an earlier step of the plan would create it:
    /// then the second value is true, and the attribute differs for sure.
    pub fn resolve(
        context: &Context<'_>,
        owner: Option<&str>,
        group: Option<&str>,
        mode: Option<Permissions>,
    ) -> Result<(Self, bool), Failure> {
        let accounts = context.host.accounts();
        let mut promised = false;
        let mut resolve = |kind: &str, name: Option<&str>, id: Option<u32>| match name {
            None => Ok(None),
            Some(name) => match name.parse().ok().or(id) {
                Some(id) => Ok(Some(id)),
                None if context.is_promised(&format!("{kind} {name}")) => {
                    promised = true;
                    Ok(None)
                }
                None => Err(failure_with(
                    format!("there is no {kind} `{name}` on the host"),
                    format!(
                        "create it by a `{kind}` task, or install the package that does, before this task"
                    ),
                )),
            },
        };
        let uid = resolve("user", owner, owner.and_then(|name| accounts.user(name)).map(|user| user.uid))?;
        let gid =
            resolve("group", group, group.and_then(|name| accounts.group(name)).map(|group| group.gid))?;
        Ok((Self { uid, gid, mode: mode.map(|mode| mode.0) }, promised))
    }

    /// Where `found` differs, for people.
    pub fn differences(&self, found: &Found, host: &Host) -> Vec<String> {
        let accounts = host.accounts();
        let mut lines = Vec::new();
        if let Some(uid) = self.uid.filter(|uid| *uid != found.uid) {
            lines.push(format!("owner: {} -> {}", accounts.user_name(found.uid), accounts.user_name(uid)));
        }
        if let Some(gid) = self.gid.filter(|gid| *gid != found.gid) {
            lines.push(format!("group: {} -> {}", accounts.group_name(found.gid), accounts.group_name(gid)));
        }
        if let Some(mode) = self.mode.filter(|mode| *mode != found.mode && found.kind != Kind::Link) {
            lines.push(format!("mode: {} -> {}", Permissions(found.mode), Permissions(mode)));
        }
        lines
    }

    /// These, and for what is none here, those of `found`.
    pub fn or(self, found: Option<&Found>) -> Self {
        Self {
            uid: self.uid.or(found.map(|found| found.uid)),
            gid: self.gid.or(found.map(|found| found.gid)),
            mode: self.mode.or(found.map(|found| found.mode)),
        }
    }
}

/// What is at `path`; none when nothing is.
pub(crate) fn look(path: &Path) -> Result<Option<Found>, Failure> {
    match fs::symlink_metadata(path) {
        Ok(metadata) => Ok(Some(Found {
            kind: match metadata.file_type() {
                kind if kind.is_file() => Kind::File,
                kind if kind.is_dir() => Kind::Directory,
                kind if kind.is_symlink() => Kind::Link,
                _ => Kind::Other,
            },
            uid: metadata.uid(),
            gid: metadata.gid(),
            mode: metadata.mode() & 0o7777,
            size: metadata.size(),
        })),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(None),
        Err(error) => Err(explain("look at", path, &error)),
    }
}

/// The whole content of a file; none when there is no file.
pub(crate) fn read(path: &Path) -> Result<Option<Vec<u8>>, Failure> {
    match fs::read(path) {
        Ok(content) => Ok(Some(content)),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(None),
        Err(error) => Err(explain("read", path, &error)),
    }
}

/// The digest of a file's content, which is not held in memory; none when there is no file.
pub(crate) fn digest(path: &Path) -> Result<Option<Digest>, Failure> {
    let mut hasher = sha2::Sha256::new();
    let hashed = File::open(path).and_then(|mut file| {
        let mut piece = vec![0; 1 << 18];
        loop {
            match file.read(&mut piece)? {
                0 => return Ok(()),
                length => hasher.update(&piece[..length]),
            }
        }
    });
    match hashed {
        Ok(()) => Ok(Some(Digest::of_hasher(hasher))),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(None),
        Err(error) => Err(explain("read", path, &error)),
    }
}

/// The whole content of a text file, empty when there is no file.
pub(crate) fn read_text(path: &Path) -> Result<String, Failure> {
    let content = read(path)?.unwrap_or_default();
    String::from_utf8(content).map_err(|_| {
        failure_with(format!("{} is not text in UTF-8", path.display()), "look at the file, and repair it")
    })
}

/// A new content that waits beside the path that it is for. Dropped without commit, it is gone and the
/// old file stays.
pub(crate) struct Beside {
    temporary: PathBuf,
    path: PathBuf,
    done: bool,
}

impl Beside {
    /// Writes and syncs `content` beside `path`. Owner and mode are set before the content is written,
    /// so that a secret is at no moment readable by others.
    pub fn write(path: &Path, content: &[u8], attributes: Attributes) -> Result<Self, Failure> {
        let temporary = beside(path)?;
        remove_file(&temporary)?;
        let beside = Self { temporary, path: path.to_owned(), done: false };
        let outcome = (|| {
            interruption()?;
            let mut file =
                OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside.temporary)?;
            std::os::unix::fs::fchown(&file, attributes.uid, attributes.gid)?;
            file.set_permissions(fs::Permissions::from_mode(attributes.mode.unwrap_or(0o644)))?;
            interruption()?;
            file.write_all(content)?;
            file.sync_all()
        })();
        match outcome {
            Ok(()) => Ok(beside),
            Err(error) => Err(explain("write", path, &error)),
        }
    }

    /// Where the new content waits.
    pub fn waiting_at(&self) -> &Path {
        &self.temporary
    }

    /// Puts the new content in the old one's place.
    pub fn commit(mut self) -> Result<(), Failure> {
        let outcome = interruption().and_then(|()| fs::rename(&self.temporary, &self.path));
        outcome.map_err(|error| explain("replace", &self.path, &error))?;
        self.done = true;
        sync_directory_of(&self.path)
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        if !self.done && !is_interrupted() {
            // It was never put in place; the next run removes what can't be removed now.
            let _ = fs::remove_file(&self.temporary);
        }
    }
}

/// Writes a whole file: beside, synced, renamed.
pub(crate) fn replace(path: &Path, content: &[u8], attributes: Attributes) -> Result<(), Failure> {
    Beside::write(path, content, attributes)?.commit()
}

/// The name that a file's new content waits under: always the same, so that what an interrupted run
/// left is overwritten by the next one.
fn beside(path: &Path) -> Result<PathBuf, Failure> {
    match path.file_name() {
        Some(name) => Ok(path.with_file_name(format!(".{}.pgfleet", name.to_string_lossy()))),
        None => Err(failure_with(format!("{} names no file", path.display()), "name a file")),
    }
}

/// Sets owner and mode of what exists.
pub(crate) fn set_attributes(path: &Path, attributes: Attributes) -> Result<(), Failure> {
    let outcome = (|| {
        interruption()?;
        std::os::unix::fs::lchown(path, attributes.uid, attributes.gid)?;
        match attributes.mode {
            // Changing the owner clears set-user-id bits, hence the mode comes second.
            Some(mode) if !fs::symlink_metadata(path)?.is_symlink() => {
                interruption()?;
                fs::set_permissions(path, fs::Permissions::from_mode(mode))
            }
            _ => Ok(()),
        }
    })();
    outcome.map_err(|error| explain("change owner or mode of", path, &error))
}

/// Makes a directory and those above it.
pub(crate) fn make_directory(path: &Path, attributes: Attributes) -> Result<(), Failure> {
    let missing: Vec<_> = path.ancestors().take_while(|ancestor| !ancestor.exists()).collect();
    for directory in missing.into_iter().rev() {
        let outcome = interruption().and_then(|()| fs::create_dir(directory));
        outcome.map_err(|error| explain("make directory", directory, &error))?;
    }
    set_attributes(path, attributes)
}

/// Makes a symbolic link, replacing a link or file that is in its place in one step.
pub(crate) fn make_link(target: &str, path: &Path) -> Result<(), Failure> {
    let temporary = beside(path)?;
    remove_file(&temporary)?;
    let outcome = (|| {
        interruption()?;
        std::os::unix::fs::symlink(target, &temporary)?;
        interruption()?;
        fs::rename(&temporary, path)
    })();
    outcome.map_err(|error| explain("make link", path, &error))?;
    sync_directory_of(path)
}

/// Removes a file or link; it need not exist.
pub(crate) fn remove_file(path: &Path) -> Result<(), Failure> {
    match interruption().and_then(|()| fs::remove_file(path)) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(explain("remove", path, &error)),
        _ => Ok(()),
    }
}

/// Removes whatever is at a path, a directory with all that is in it.
pub(crate) fn remove(path: &Path) -> Result<(), Failure> {
    match look(path)? {
        None => Ok(()),
        Some(found) if found.kind == Kind::Directory => {
            let outcome = interruption().and_then(|()| fs::remove_dir_all(path));
            outcome.map_err(|error| explain("remove", path, &error))
        }
        Some(_) => remove_file(path),
    }
}

/// Renames one path to another that is free, and syncs.
pub(crate) fn rename(from: &Path, to: &Path) -> Result<(), Failure> {
    let outcome = interruption().and_then(|()| fs::rename(from, to));
    outcome.map_err(|error| explain("rename", from, &error))?;
    sync_directory_of(to)
}

/// Makes what happened to a name durable.
pub(crate) fn sync_directory_of(path: &Path) -> Result<(), Failure> {
    let directory = path.parent().unwrap_or(Path::new("/"));
    fs::File::open(directory)
        .and_then(|directory| directory.sync_all())
        .map_err(|error| explain("sync", directory, &error))
}

/// Fails unless the directory that `path` is to be in exists, or an earlier step of the plan makes it.
pub(crate) fn require_parent(context: &Context<'_>, path: &str) -> Result<(), Failure> {
    let parent = Path::new(path).parent().unwrap_or(Path::new("/"));
    if context.host.path(parent).is_dir() || context.is_path_promised(&parent.display().to_string()) {
        return Ok(());
    }
    Err(failure_with(
        format!("the directory {} does not exist", parent.display()),
        "make it by a `file` task with `state: directory` before this task",
    ))
}

/// What differs between two contents, for people. The control machine doesn't know what a password on the
/// target was before, so passwords are covered here.
pub(crate) fn diff(path: &str, old: Option<&[u8]>, new: Option<&[u8]>) -> String {
    let describe = |content: Option<&[u8]>| match content {
        None => "absent".to_owned(),
        Some(bytes) => format!("{} bytes, sha256 {}", bytes.len(), crate::model::Digest::of(bytes).short()),
    };
    let text = |content: Option<&[u8]>| match content {
        None => Some(String::new()),
        Some(bytes) if bytes.len() > 1 << 20 => None,
        Some(bytes) => std::str::from_utf8(bytes).ok().map(str::to_owned),
    };
    match (text(old), text(new)) {
        (Some(before), Some(after)) => crate::yaml::cover(
            &similar::TextDiff::from_lines(&before, &after)
                .unified_diff()
                .context_radius(3)
                .header(
                    if old.is_some() { path } else { "/dev/null" },
                    if new.is_some() { path } else { "/dev/null" },
                )
                .to_string(),
        ),
        _ => format!("{path}: {} -> {}", describe(old), describe(new)),
    }
}

/// Adds what differs in owner and mode to a finding.
pub(crate) fn note_attributes(finding: &mut Finding, path: &str, lines: &[String]) {
    if !lines.is_empty() {
        finding.differs(format!("{path}: {}", lines.join(", ")));
    }
}

/// An I/O error as a failure that says what to do next.
pub(crate) fn explain(doing: &str, path: &Path, error: &io::Error) -> Failure {
    let next_step = match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => format!(
            "free space where {} is (see `df -h` and `df -i`), then run again; what was there is untouched",
            path.parent().unwrap_or(path).display()
        ),
        ErrorKind::PermissionDenied => "become root: `ansible_become: true` in the inventory".to_owned(),
        ErrorKind::ReadOnlyFilesystem => {
            "the file system is read-only; see `dmesg` for why, then remount it".to_owned()
        }
        ErrorKind::NotFound => {
            "a directory on the way is missing; make it by a `file` task before".to_owned()
        }
        _ => "see the error, repair it on the host, then run again".to_owned(),
    };
    let reason = match error.kind() {
        ErrorKind::StorageFull => "no space left on the device".to_owned(),
        _ => error.to_string(),
    };
    failure_with(format!("cannot {doing} {}: {reason}", path.display()), next_step)
}

#[cfg(not(test))]
fn interruption() -> io::Result<()> {
    Ok(())
}

#[cfg(not(test))]
fn is_interrupted() -> bool {
    false
}

#[cfg(test)]
pub(crate) use interrupt::*;

/// Stands for SIGKILL between two changes of the file system.
#[cfg(test)]
mod interrupt {
    use std::{cell::Cell, io};

    thread_local! {
        static CHANGES_LEFT: Cell<Option<u32>> = const { Cell::new(None) };
    }

    /// After `changes` more changes of the file system, none happens any more; none means no end.
    pub(crate) fn interrupt_after(changes: Option<u32>) {
        CHANGES_LEFT.set(changes);
    }

    pub(crate) fn is_interrupted() -> bool {
        CHANGES_LEFT.get() == Some(0)
    }

    pub(super) fn interruption() -> io::Result<()> {
        match CHANGES_LEFT.get() {
            Some(0) => Err(io::Error::other("interrupted")),
            Some(left) => {
                CHANGES_LEFT.set(Some(left - 1));
                Ok(())
            }
            None => Ok(()),
        }
    }
}
