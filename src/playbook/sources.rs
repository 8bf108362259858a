//! Where playbooks and files of tasks are found: on disk first, then among those that are built in.

use crate::{
    builtin,
    diagnostic::{Diagnostic, did_you_mean},
};
use include_dir::{Dir, include_dir};
use std::{
    io::ErrorKind,
    path::{Component, Path, PathBuf},
};

static EMBEDDED: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/playbooks");

/// Directories that override the built-in playbooks.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    pub directories: Vec<PathBuf>,
}

/// The identity of a file of plays or tasks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Source {
    Disk(PathBuf),
    /// By its name below `playbooks/`.
    BuiltIn(String),
}

impl Source {
    /// How complaints name the file.
    pub fn path(&self) -> PathBuf {
        match self {
            Source::Disk(path) => path.clone(),
            Source::BuiltIn(name) => PathBuf::from(format!("pgfleet:playbooks/{name}")),
        }
    }

    fn folder(&self) -> PathBuf {
        let path = match self {
            Source::Disk(path) => path.as_path(),
            Source::BuiltIn(name) => Path::new(name),
        };
        path.parent().unwrap_or(Path::new("")).to_owned()
    }
}

/// The playbooks that are built in, and the files of tasks that they import, with their texts.
pub fn shipped() -> Vec<builtin::File> {
    builtin::files(&EMBEDDED)
}

/// The names of the built-in playbooks, without the files of tasks.
pub fn names() -> Vec<&'static str> {
    shipped().into_iter().map(|(name, _)| name).filter(|name| !name.contains('/')).collect()
}

impl Sources {
    /// A playbook that somebody named on the command line: a path, or the name of a built-in one.
    pub(super) fn open(&self, name: &str) -> Result<(Source, String), Diagnostic> {
        let path = Path::new(name);
        if let Some(found) = read(path)? {
            return Ok((Source::Disk(path.to_owned()), found));
        }
        let with_ending = if name.ends_with(".yml") || name.ends_with(".yaml") {
            name.to_owned()
        } else {
            format!("{name}.yml")
        };
        match self.built_in(&with_ending)? {
            Some(found) => Ok(found),
            None => Err(Diagnostic::error(format!("there is no playbook `{name}`"))
                .helps(did_you_mean(&with_ending, names()))
                .help(format!("built in are: {}", names().join(", ")))),
        }
    }

    /// A file that another one names.
    pub(super) fn find(&self, name: &str, from: &Source) -> Result<Option<(Source, String)>, Diagnostic> {
        let folder = from.folder();
        if let Source::Disk(_) = from {
            for candidate in [folder.join(name), folder.join("tasks").join(name)] {
                let candidate = plain(&candidate);
                if let Some(text) = read(&candidate)? {
                    return Ok(Some((Source::Disk(candidate), text)));
                }
            }
            return self.built_in(name);
        }
        for candidate in [folder.join(name), PathBuf::from(name)] {
            let found = self.built_in(&plain(&candidate).to_string_lossy())?;
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }

    fn built_in(&self, name: &str) -> Result<Option<(Source, String)>, Diagnostic> {
        for folder in &self.directories {
            let path = folder.join(name);
            if let Some(text) = read(&path)? {
                return Ok(Some((Source::Disk(path), text)));
            }
        }
        let text = EMBEDDED.get_file(name).and_then(include_dir::File::contents_utf8);
        Ok(text.map(|text| (Source::BuiltIn(name.to_owned()), text.to_owned())))
    }

    /// Names of files near `from` that a missing name could have meant.
    pub(super) fn neighbours(&self, from: &Source) -> Vec<String> {
        let mut names: Vec<String> = names().into_iter().map(str::to_owned).collect();
        if let Source::Disk(path) = from {
            let entries = path.parent().and_then(|folder| std::fs::read_dir(folder).ok());
            names.extend(
                entries
                    .into_iter()
                    .flatten()
                    .flatten()
                    .map(|entry| entry.file_name().to_string_lossy().into_owned()),
            );
        }
        names
    }
}

/// The text of a file; none when there is no such file.
fn read(path: &Path) -> Result<Option<String>, Diagnostic> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error)
            if matches!(
                error.kind(),
                ErrorKind::NotFound | ErrorKind::NotADirectory | ErrorKind::IsADirectory
            ) =>
        {
            Ok(None)
        }
        Err(error) => Err(Diagnostic::error(format!("cannot read `{}`: {error}", path.display()))),
    }
}

/// A path without `.` and without `x/..`, so that one file has one identity.
fn plain(path: &Path) -> PathBuf {
    let mut result = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir if matches!(result.components().next_back(), Some(Component::Normal(_))) => {
                result.pop();
            }
            other => result.push(other),
        }
    }
    result
}
