//! Files on disk: written beside, synced, renamed.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use super::Error;

/// Makes `path` hold `content` with `mode`. Tells whether it had to change.
pub(super) fn write(path: &Path, content: &str, mode: u32) -> Result<bool, Error> {
    if read(path)?.as_deref() == Some(content) {
        return Ok(false);
    }
    let beside = beside(path, ".new");
    replace(path, &beside, content, mode).map_err(Error::file("cannot write", path))?;
    Ok(true)
}

fn replace(path: &Path, beside: &Path, content: &str, mode: u32) -> io::Result<()> {
    remove(beside)?;
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(beside)?;
    file.write_all(content.as_bytes())?;
    file.sync_all()?;
    fs::rename(beside, path)?;
    sync_parent(path)
}

/// The text of `path`; `None` where there is no such file.
pub(super) fn read(path: &Path) -> Result<Option<String>, Error> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::file("cannot read", path)(error)),
    }
}

/// Removes a file that may be absent.
pub(super) fn remove(path: &Path) -> io::Result<bool> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Makes a rename or a removal in `path`'s folder last.
pub(super) fn sync_parent(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

/// `path` with `suffix` after its last component.
pub(super) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// The last `lines` lines that a log gained after `offset` bytes, of its last 16 kB.
pub(super) fn tail(path: &Path, offset: u64, lines: usize) -> String {
    let read = || -> io::Result<String> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        // A log that was rotated meanwhile is shorter than it was.
        let from = if offset <= length { offset } else { 0 };
        file.seek(SeekFrom::Start(from.max(length.saturating_sub(16 * 1024))))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    last_lines(&read().unwrap_or_default(), lines)
}

/// The last `count` lines of `text` that are not blank.
pub(super) fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}
