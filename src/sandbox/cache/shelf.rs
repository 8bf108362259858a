//! Files kept by URL, each with a note of what the mirror said about it.

use crate::model::Digest;
use serde::{Deserialize, Serialize};
use std::{
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// An index is taken as current for this long.
const FRESH: Duration = Duration::from_secs(600);

/// The folder of all kept files.
#[derive(Clone, Debug)]
pub struct Shelf {
    folder: PathBuf,
}

/// What is known of a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Label {
    pub url: String,
    pub length: u64,
    pub content_type: Option<String>,
    pub last_modified: Option<String>,
    pub etag: Option<String>,
    /// When the mirror last confirmed it, in seconds since 1970.
    pub confirmed: u64,
}

impl Label {
    /// Whether it can be served without asking the mirror.
    pub fn is_fresh(&self) -> bool {
        let age = now().saturating_sub(self.confirmed);
        is_immutable(&self.url) || age < FRESH.as_secs()
    }

    pub fn confirmed_now(self) -> Label {
        Label { confirmed: now(), ..self }
    }
}

impl Shelf {
    pub fn open(folder: PathBuf) -> io::Result<Shelf> {
        fs::create_dir_all(&folder)?;
        Ok(Shelf { folder })
    }

    /// A file's content.
    pub fn content(&self, url: &str) -> PathBuf {
        let digest = Digest::of(url.as_bytes()).to_string();
        self.folder.join(digest.get(..2).unwrap_or_default()).join(digest)
    }

    /// What is known of a file that is here, with its full length.
    pub fn label(&self, url: &str) -> Option<Label> {
        let content = self.content(url);
        let label: Label = serde_json::from_slice(&fs::read(label_path(&content)).ok()?).ok()?;
        let whole = fs::metadata(content).is_ok_and(|file| file.len() == label.length);
        (whole && label.url == url).then_some(label)
    }

    /// A place for a file that is arriving.
    pub fn arriving(&self, url: &str) -> io::Result<PathBuf> {
        let content = self.content(url);
        if let Some(folder) = content.parent() {
            fs::create_dir_all(folder)?;
        }
        Ok(content.with_added_extension(format!("{}.new", std::process::id())))
    }

    /// Puts a file that has arrived in its place. Another sandbox's cache may do the same at once:
    /// the length in the label tells a file that does not belong to it.
    pub fn keep(&self, arrived: &Path, label: &Label) -> io::Result<()> {
        fs::rename(arrived, self.content(&label.url))?;
        self.relabel(label)
    }

    pub fn relabel(&self, label: &Label) -> io::Result<()> {
        let path = label_path(&self.content(&label.url));
        let beside = path.with_added_extension(format!("{}.new", std::process::id()));
        fs::write(&beside, serde_json::to_vec(label)?)?;
        fs::rename(beside, path)
    }
}

fn label_path(content: &Path) -> PathBuf {
    content.with_added_extension("json")
}

/// Whether what a URL names can never change: packages carry their version in their name, and what is
/// `by-hash` its content.
fn is_immutable(url: &str) -> bool {
    let path = url.split(['?', '#']).next().unwrap_or(url);
    path.contains("/by-hash/") || [".deb", ".udeb", ".dsc"].iter().any(|end| path.ends_with(end))
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn label(url: &str, length: u64, confirmed: u64) -> Label {
        Label { url: url.into(), length, content_type: None, last_modified: None, etag: None, confirmed }
    }

    #[test]
    fn indexes_age_and_packages_do_not() {
        assert!(label("http://m/debian/pool/main/e/etcd/etcd_3.5_amd64.deb", 1, 0).is_fresh());
        assert!(label("http://m/debian/dists/sid/main/binary-amd64/by-hash/SHA256/00", 1, 0).is_fresh());
        assert!(!label("http://m/debian/dists/sid/InRelease", 1, 0).is_fresh());
        assert!(label("http://m/debian/dists/sid/InRelease", 1, 0).confirmed_now().is_fresh());
    }

    #[test]
    fn a_file_of_another_length_is_not_served() {
        let folder = tempfile::tempdir().unwrap();
        let shelf = Shelf::open(folder.path().to_owned()).unwrap();
        let url = "http://m/a.deb";
        let arriving = shelf.arriving(url).unwrap();
        fs::write(&arriving, "abc").unwrap();
        shelf.keep(&arriving, &label(url, 3, 0)).unwrap();
        assert_eq!(shelf.label(url).map(|label| label.length), Some(3));
        fs::write(shelf.content(url), "ab").unwrap();
        assert_eq!(shelf.label(url), None);
    }
}
