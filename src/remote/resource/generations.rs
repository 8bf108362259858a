//! Generations on disk: a folder each, whole as soon as it has its number. Programs are kept by hard link, since
//! they are only ever replaced by rename; everything else is copied.

use super::dpkg::Packages;
use crate::{
    model::Digest,
    remote::{
        files::{self, Attributes, Found, Kind},
        host::{Host, failure_with},
        memory::{Memory, Print, Thing, Trace},
        protocol::{Failure, Version},
    },
};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

const FOLDER: &str = "/var/lib/pgfleet/generations";
const MANIFEST: &str = "generation.json";
const PRIVATE: Attributes = Attributes { uid: None, gid: None, mode: Some(0o700) };

/// One generation of a component.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Generation {
    #[serde(skip)]
    pub number: u32,
    /// Where its files are kept; none of what is there now.
    #[serde(skip)]
    folder: Option<PathBuf>,
    /// In the order in which they are numbered in the folder.
    files: Vec<KeptFile>,
    pub packages: BTreeMap<String, String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct KeptFile {
    path: String,
    #[serde(flatten)]
    attributes: Attributes,
}

impl KeptFile {
    fn is_program(&self) -> bool {
        self.attributes.mode.is_some_and(|mode| mode & 0o111 != 0)
    }
}

/// All that is kept of one component.
pub(super) struct Generations {
    folder: PathBuf,
}

impl Generations {
    pub fn of(host: &Host, component: &str) -> Self {
        Self { folder: host.path(FOLDER).join(component) }
    }

    /// The oldest first.
    pub fn all(&self) -> Result<Vec<Generation>, Failure> {
        let Ok(entries) = std::fs::read_dir(&self.folder) else { return Ok(Vec::new()) };
        // What has no number is what an interrupted run left.
        let numbered = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        let mut numbers: Vec<u32> = numbered.collect();
        numbers.sort_unstable();
        numbers.into_iter().map(|number| self.read(number)).collect()
    }

    fn read(&self, number: u32) -> Result<Generation, Failure> {
        let folder = self.folder.join(number.to_string());
        let text = files::read(&folder.join(MANIFEST))?.unwrap_or_default();
        let kept: Generation = serde_json::from_slice(&text).map_err(|error| {
            failure_with(
                format!("{} cannot be read: {error}", folder.join(MANIFEST).display()),
                format!("remove {} and run again", folder.display()),
            )
        })?;
        Ok(Generation { number, folder: Some(folder), ..kept })
    }

    /// Keeps what is there as the newest one.
    pub fn keep(&self, host: &Host, present: Generation) -> Result<(), Failure> {
        let number = self.all()?.last().map_or(1, |newest| newest.number + 1);
        let begun = self.folder.join(format!("{number}.begun"));
        files::remove(&begun)?;
        files::make_directory(&begun, PRIVATE)?;
        files::set_attributes(&self.folder, PRIVATE)?;
        for (index, file) in present.files.iter().enumerate() {
            let (path, to) = (host.path(&file.path), begun.join(index.to_string()));
            // A link needs both on one file system.
            if !file.is_program() || std::fs::hard_link(&path, &to).is_err() {
                let content = files::read(&path)?.unwrap_or_default();
                files::replace(&to, &content, file.attributes)?;
            }
        }
        let manifest = serde_json::json!(present).to_string();
        files::replace(&begun.join(MANIFEST), manifest.as_bytes(), PRIVATE)?;
        files::rename(&begun, &self.folder.join(number.to_string()))
    }

    /// Keeps the newest `count`.
    pub fn trim(&self, count: usize) -> Result<(), Failure> {
        let all = self.all()?;
        let surplus = all.len().saturating_sub(count);
        all[..surplus].iter().try_for_each(|old| self.forget(old.number))
    }

    /// Forgets those that came after one.
    pub fn forget_after(&self, number: u32) -> Result<(), Failure> {
        let all = self.all()?;
        all.iter().rev().filter(|later| later.number > number).try_for_each(|later| self.forget(later.number))
    }

    fn forget(&self, number: u32) -> Result<(), Failure> {
        // Nameless at once, then removed bit by bit.
        let gone = self.folder.join(format!("{number}.gone"));
        files::remove(&gone)?;
        files::rename(&self.folder.join(number.to_string()), &gone)?;
        files::remove(&gone)
    }
}

impl Generation {
    /// What is there now.
    pub fn of_present(host: &Host, paths: &[String], packages: &[String]) -> Result<Self, Failure> {
        let mut kept = Vec::new();
        for path in paths {
            if let Some(Found { kind: Kind::File, uid, gid, mode, .. }) = files::look(&host.path(path))? {
                let attributes = Attributes { uid: Some(uid), gid: Some(gid), mode: Some(mode) };
                kept.push(KeptFile { path: path.clone(), attributes });
            }
        }
        let installed = Packages::read(host)?;
        let versions =
            packages.iter().filter_map(|name| Some((name.clone(), installed.version(name)?.to_owned())));
        Ok(Self { number: 0, folder: None, files: kept, packages: versions.collect() })
    }

    /// Whether what is there now is this one.
    pub fn is(&self, present: &Generation, host: &Host) -> Result<bool, Failure> {
        let same = self.files == present.files && self.packages == present.packages;
        Ok(same && self.changed_files(host)?.is_empty())
    }

    /// Its files that are not as they were kept, for people.
    pub fn changed_files(&self, host: &Host) -> Result<Vec<String>, Failure> {
        let mut lines = Vec::new();
        for (file, kept) in self.kept() {
            let path = host.path(&file.path);
            if is_same(&path, &kept)? {
                continue;
            }
            let short = |path: &Path| -> Result<String, Failure> {
                Ok(files::read(path)?
                    .map_or_else(|| "absent".to_owned(), |content| Digest::of(&content).short()))
            };
            lines.push(format!("{}: {} -> {}", file.path, short(&path)?, short(&kept)?));
        }
        Ok(lines)
    }

    /// What it is made of, for people: versions of packages, builds of programs.
    pub fn versions(&self, host: &Host) -> Result<Vec<Version>, Failure> {
        let mut versions: Vec<Version> = self
            .packages
            .iter()
            .map(|(name, version)| Version { name: name.clone(), installed: Some(version.clone()), to: None })
            .collect();
        for (index, file) in self.files.iter().enumerate().filter(|(_, file)| file.is_program()) {
            let path = match &self.folder {
                Some(folder) => folder.join(index.to_string()),
                None => host.path(&file.path),
            };
            let build = files::read(&path)?.map(|content| format!("build {}", Digest::of(&content).short()));
            let name = file.path.rsplit('/').next().unwrap_or_default().to_owned();
            versions.push(Version { name, installed: build, to: None });
        }
        Ok(versions)
    }

    /// Puts its files back where they differ. They are remembered as put by us. Returns whether a unit is among
    /// them.
    pub fn restore_files(&self, host: &Host) -> Result<bool, Failure> {
        let memory = Memory::of(host);
        let mut units = false;
        for (file, kept) in self.kept() {
            let path = host.path(&file.path);
            if is_same(&path, &kept)? {
                continue;
            }
            let Some(content) = files::read(&kept)? else {
                return Err(failure_with(
                    format!("{} is not in the generation {} any more", file.path, self.number),
                    "bring it back by `pgfleet apply`",
                ));
            };
            let print = Print { sha256: Digest::of(&content), attributes: file.attributes };
            let trace = Trace::Put(Thing::file(&file.path), print);
            memory.intend(Some(&trace))?;
            files::replace(&path, &content, file.attributes)?;
            memory.settle(Some(&trace))?;
            units |= file.path.starts_with("/etc/systemd/");
        }
        Ok(units)
    }

    fn kept(&self) -> impl Iterator<Item = (&KeptFile, PathBuf)> {
        let folder = self.folder.clone().unwrap_or_default();
        self.files.iter().enumerate().map(move |(index, file)| (file, folder.join(index.to_string())))
    }
}

/// Whether two files are one, or hold the same.
fn is_same(path: &Path, kept: &Path) -> Result<bool, Failure> {
    let (Ok(one), Ok(other)) = (path.symlink_metadata(), kept.symlink_metadata()) else { return Ok(false) };
    if (one.dev(), one.ino()) == (other.dev(), other.ino()) {
        return Ok(true);
    }
    Ok(one.len() == other.len() && files::read(path)? == files::read(kept)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Tree {
        _root: tempfile::TempDir,
        host: Host,
    }

    const FILES: [&str; 2] = ["/usr/local/bin/program", "/etc/program.yml"];

    impl Tree {
        fn new() -> Self {
            let root = tempfile::tempdir().expect("a directory");
            let host = Host::at(root.path());
            for folder in ["/usr/local/bin", "/etc", "/var/lib/dpkg"] {
                std::fs::create_dir_all(host.path(folder)).expect("a directory");
            }
            Self { _root: root, host }
        }

        /// A release of the component: the same text in all that belongs to it.
        fn install(&self, text: &str) {
            let program = Attributes { mode: Some(0o755), ..Attributes::default() };
            let secret = Attributes { mode: Some(0o600), ..Attributes::default() };
            files::replace(&self.host.path(FILES[0]), text.as_bytes(), program).expect("written");
            files::replace(&self.host.path(FILES[1]), text.as_bytes(), secret).expect("written");
            let status = format!("Package: x\nStatus: install ok installed\nVersion: {text}\n");
            std::fs::write(self.host.path("/var/lib/dpkg/status"), status).expect("written");
        }

        fn present(&self) -> Generation {
            let paths = FILES.map(str::to_owned);
            Generation::of_present(&self.host, &paths, &["x".to_owned()]).expect("readable")
        }

        fn keep(&self) {
            self.generations().keep(&self.host, self.present()).expect("kept");
        }

        fn generations(&self) -> Generations {
            Generations::of(&self.host, "component")
        }

        fn numbers(&self) -> Vec<u32> {
            self.generations().all().expect("readable").iter().map(|one| one.number).collect()
        }
    }

    #[test]
    fn what_was_kept_comes_back_as_it_was() {
        let tree = Tree::new();
        tree.install("1.0");
        tree.keep();
        let kept = tree.generations().all().expect("readable").remove(0);
        assert!(kept.is(&tree.present(), &tree.host).expect("readable"));
        assert_eq!(kept.packages["x"], "1.0");
        tree.install("2.0");
        assert!(!kept.is(&tree.present(), &tree.host).expect("readable"));
        assert_eq!(kept.changed_files(&tree.host).expect("readable").len(), 2);
        assert!(!kept.restore_files(&tree.host).expect("restored"), "no unit is among them");
        let read = |path: &str| std::fs::read_to_string(tree.host.path(path)).expect("readable");
        assert_eq!(FILES.map(read), ["1.0", "1.0"]);
        let mode = |path: &str| tree.host.path(path).metadata().expect("there").mode() & 0o777;
        assert_eq!(FILES.map(mode), [0o755, 0o600]);
        // Nobody takes it for a change by hand.
        assert_eq!(Memory::of(&tree.host).drifts(&tree.host), []);
    }

    #[test]
    fn the_newest_are_kept_and_later_ones_forgotten() {
        let tree = Tree::new();
        for release in ["1", "2", "3", "4"] {
            tree.install(release);
            tree.keep();
        }
        tree.generations().trim(3).expect("trimmed");
        assert_eq!(tree.numbers(), [2, 3, 4]);
        tree.generations().forget_after(3).expect("forgotten");
        assert_eq!(tree.numbers(), [2, 3]);
        tree.keep();
        assert_eq!(tree.numbers(), [2, 3, 4]);
    }

    #[test]
    fn a_generation_is_whole_or_none() {
        let tree = Tree::new();
        tree.install("1");
        let mut changes = 0;
        loop {
            files::interrupt_after(Some(changes));
            let kept = tree.generations().keep(&tree.host, tree.present());
            let interrupted = files::is_interrupted();
            files::interrupt_after(None);
            let all = tree.generations().all().expect("readable");
            match all.last() {
                Some(newest) => assert!(newest.is(&tree.present(), &tree.host).expect("readable")),
                None => assert!(kept.is_err()),
            }
            if !interrupted {
                break;
            }
            changes += 1;
        }
        assert!(changes > 4, "{changes}");
    }
}
