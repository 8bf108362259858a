//! Where everything of the sandboxes is on disk, and the locks over it. Knows paths, not meanings.

use super::{Error, Image, Name, Result};
use crate::model::HostName;
use nix::fcntl::{Flock, FlockArg};
use std::{
    fs::{self, File},
    path::{Path, PathBuf},
};

const DEFAULT_ROOT: &str = "/var/lib/pgfleet/sandbox";
const ROOT_VARIABLE: &str = "PGFLEET_SANDBOX_DIR";

/// The folder that holds images, sandboxes, snapshots and the package cache.
#[derive(Clone, Debug)]
pub struct Store {
    root: PathBuf,
}

/// A lock that is held until this is dropped, also by the death of the process.
pub(super) type Lock = Flock<File>;

impl Store {
    /// `/var/lib/pgfleet/sandbox`, or what `PGFLEET_SANDBOX_DIR` says.
    pub fn from_environment() -> Store {
        Store::at(std::env::var_os(ROOT_VARIABLE).map_or_else(|| DEFAULT_ROOT.into(), PathBuf::from))
    }

    pub fn at(root: PathBuf) -> Store {
        Store { root }
    }

    /// The store with its folder made and its path as the kernel knows it, without symbolic links.
    pub(super) fn created(&self) -> Result<Store> {
        fs::create_dir_all(&self.root).map_err(Error::io("cannot create", &self.root))?;
        let store = self.resolved();
        match store.root.to_string_lossy().contains([',', ':']) {
            true => Err(Error::UnmountablePath { path: store.root }),
            false => Ok(store),
        }
    }

    /// The store with its path as the kernel knows it; unchanged where nothing exists yet.
    pub(super) fn resolved(&self) -> Store {
        Store { root: fs::canonicalize(&self.root).unwrap_or_else(|_| self.root.clone()) }
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// The packages that hosts of all sandboxes have downloaded.
    pub fn cache(&self) -> PathBuf {
        self.root.join("cache")
    }

    pub(super) fn images(&self) -> PathBuf {
        self.root.join("images")
    }

    pub(super) fn sandboxes(&self) -> PathBuf {
        self.root.join("sandboxes")
    }

    pub(super) fn snapshots(&self) -> PathBuf {
        self.root.join("snapshots")
    }

    pub(super) fn sandbox(&self, name: &Name) -> Home {
        Home { path: self.sandboxes().join(name.as_str()) }
    }

    /// The folder of a sandbox, made if it is missing; none but its owner may look into it.
    pub(super) fn created_home(&self, name: &Name) -> Result<Home> {
        use std::os::unix::fs::DirBuilderExt;
        let home = self.sandbox(name);
        let made = fs::DirBuilder::new().recursive(true).mode(0o711).create(home.hosts());
        made.map_err(Error::io("cannot create", home.hosts()))?;
        Ok(home)
    }

    pub(super) fn snapshot(&self, name: &Name) -> Home {
        Home { path: self.snapshots().join(name.as_str()) }
    }

    /// The sandboxes that exist, by name; also those that a killed run left half made.
    pub fn names(&self) -> Vec<Name> {
        names_in(&self.sandboxes())
    }

    pub(super) fn snapshot_names(&self) -> Vec<Name> {
        names_in(&self.snapshots())
    }

    /// Serialises what concerns all sandboxes: the choice of link addresses, the snapshots.
    pub(super) fn lock(&self) -> Result<Lock> {
        lock(&self.root.join("lock"))
    }

    /// Serialises the builds of one image.
    pub(super) fn lock_image(&self, image: Image) -> Result<Lock> {
        lock(&self.images().join(format!(".{image}.lock")))
    }

    /// The lock of [`Store::lock_image`] if nobody holds it.
    pub(super) fn try_lock_image(&self, image: Image) -> Result<Option<Lock>> {
        let path = self.images().join(format!(".{image}.lock"));
        let file = open_lock(&path)?;
        Ok(Flock::lock(file, FlockArg::LockExclusiveNonblock).ok())
    }

    /// Serialises what changes one sandbox.
    pub(super) fn lock_sandbox(&self, name: &Name) -> Result<Lock> {
        // Beside the sandbox, not in it: `down` removes the folder while it holds the lock.
        lock(&self.sandboxes().join(format!(".{name}.lock")))
    }
}

fn names_in(folder: &Path) -> Vec<Name> {
    let mut names: Vec<Name> = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.path().is_dir())
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect();
    names.sort();
    names
}

fn open_lock(path: &Path) -> Result<File> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(Error::io("cannot create", folder))?;
    }
    File::create(path).map_err(Error::io("cannot open the lock", path))
}

fn lock(path: &Path) -> Result<Lock> {
    let file = open_lock(path)?;
    Flock::lock(file, FlockArg::LockExclusive)
        .map_err(|(_, errno)| Error::io("cannot take the lock", path)(errno.into()))
}

/// The folder of one sandbox, or of one snapshot, which has the same shape.
#[derive(Clone, Debug)]
pub(super) struct Home {
    path: PathBuf,
}

impl Home {
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn record(&self) -> PathBuf {
        self.path.join("state.json")
    }

    /// The private key that logs in to every host.
    pub fn key(&self) -> PathBuf {
        self.path.join("key")
    }

    pub fn public_key(&self) -> PathBuf {
        self.path.join("key.pub")
    }

    pub fn known_hosts(&self) -> PathBuf {
        self.path.join("known_hosts")
    }

    pub fn cache_process(&self) -> PathBuf {
        self.path.join("cache.process")
    }

    pub fn cache_log(&self) -> PathBuf {
        self.path.join("cache.log")
    }

    pub fn hosts(&self) -> PathBuf {
        self.path.join("hosts")
    }

    pub fn host(&self, name: &HostName) -> HostHome {
        HostHome { path: self.hosts().join(name.as_str()) }
    }
}

/// The folder of one host.
#[derive(Clone, Debug)]
pub(super) struct HostHome {
    path: PathBuf,
}

impl HostHome {
    /// What the host has changed of its image.
    pub fn upper(&self) -> PathBuf {
        self.path.join("upper")
    }

    /// The overlay's scratch folder.
    pub fn work(&self) -> PathBuf {
        self.path.join("work")
    }

    /// The host's root file system, where it is mounted.
    pub fn root(&self) -> PathBuf {
        self.path.join("root")
    }

    pub fn console(&self) -> PathBuf {
        self.path.join("console.log")
    }

    pub fn process(&self) -> PathBuf {
        self.path.join("process")
    }
}

/// Writes a file beside its place, syncs it and renames it there.
pub(super) fn write(path: &Path, contents: &[u8], mode: u32) -> Result<()> {
    use std::{io::Write, os::unix::fs::OpenOptionsExt};
    let beside = path.with_added_extension("new");
    let written = (|| {
        let _ = fs::remove_file(&beside);
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&beside)?;
        file.write_all(contents)?;
        file.sync_all()?;
        fs::rename(&beside, path)
    })();
    written.map_err(Error::io("cannot write", path))
}

/// The last `lines` lines of a log, without escape sequences; empty if it can't be read.
pub(super) fn tail(path: &Path, lines: usize) -> String {
    let text = fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let plain = anstream::adapter::strip_str(&text).to_string();
    let all: Vec<&str> = plain.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}
