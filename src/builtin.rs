//! Files that are built in, playbooks and templates, and which of them a folder on disk replaces.

use include_dir::Dir;
use std::path::Path;

/// A built-in file: its path below its folder, and its text.
pub type File = (&'static str, &'static str);

/// The files of an embedded folder and of those in it, by path.
pub fn files(folder: &'static Dir<'static>) -> Vec<File> {
    let mut found: Vec<File> =
        folder.files().filter_map(|file| Some((file.path().to_str()?, file.contents_utf8()?))).collect();
    found.extend(folder.dirs().flat_map(files));
    found.sort_unstable();
    found
}

/// The built-in files that `folder` holds with another text.
pub fn replaced(files: &[File], folder: &Path) -> Vec<&'static str> {
    let differs =
        |(name, text): &&File| std::fs::read(folder.join(name)).is_ok_and(|found| found != text.as_bytes());
    files.iter().filter(differs).map(|(name, _)| *name).collect()
}
