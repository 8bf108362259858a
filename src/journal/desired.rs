//! The inventory as it was applied, kept in the cluster: its files, compressed, without any secret in plain text.

use super::{author::Author, base, keys};
use crate::{
    cluster::{Do, Kv, KvError},
    diagnostic::Diagnostic,
    inventory::{Inventory, lasting_secrets},
    model::{Digest, Scope, Secret},
    secret,
};
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use flate2::{Compression, read::GzDecoder, write::GzEncoder};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    fs,
    io::{self, Read as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Component, Path, PathBuf},
};

/// etcd takes requests of up to 1.5 MiB.
const LARGEST_BYTES: usize = 1024 * 1024;

/// No inventory that was kept unpacks to more.
const LARGEST_UNPACKED_BYTES: u64 = 64 * 1024 * 1024;

/// How many earlier versions are known by their digests.
const VERSIONS: usize = 50;

/// Contents by paths relative to the inventory's folder.
type Files = BTreeMap<String, String>;

/// The files of an inventory on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    pub digest: Digest,
    name: String,
    files: Files,
    secrets: Secrets,
}

/// The file of generated passwords.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Secrets {
    /// There is none.
    None,
    /// It is sealed, and among the files.
    Sealed,
    /// It is not sealed, and so not among the files.
    Apart { file: String, digest: Digest },
}

/// Why an inventory is not kept.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotKept {
    #[error("`{0}` holds a password in plain text")]
    Plain(String),
    #[error("{file} cannot be read: {why}")]
    Unreadable { file: String, why: String },
    #[error("it is larger than {} KiB", LARGEST_BYTES / 1024)]
    TooLarge,
}

impl Snapshot {
    /// Reads the inventory file, group_vars/ and host_vars/ beside it, and the secrets file.
    pub fn of(inventory: &Inventory) -> Result<Self, NotKept> {
        let folder = inventory.path.parent().unwrap_or(Path::new(""));
        let name = inventory.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let mut files = Files::from([(name.clone(), read(folder, &name)?)]);
        for variables in ["group_vars", "host_vars"] {
            gather(folder, variables, &mut files)?;
        }
        let secrets = inventory.secrets();
        if let Some((file, _)) = files.iter().find(|(_, text)| holds_any(text, &secrets)) {
            return Err(NotKept::Plain(file.clone()));
        }
        let path = secret::Store::path_beside(&inventory.path);
        let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let secrets = match path.exists() {
            false => Secrets::None,
            true => {
                let text = read(folder, &file)?;
                match secret::is_sealed(&text) {
                    false => Secrets::Apart { digest: lasting(&path, text, &file)?, file },
                    true => {
                        files.insert(file, text);
                        Secrets::Sealed
                    }
                }
            }
        };
        let digest = Digest::of(&serde_json::to_vec(&(&files, &secrets)).unwrap_or_default());
        Ok(Self { digest, name, files, secrets })
    }
}

/// The digest of what makes secrets those of one cluster.
fn lasting(path: &Path, text: String, file: &str) -> Result<Digest, NotKept> {
    let lasting = lasting_secrets(path, &Secret::new(text));
    let unreadable = |wrong: Diagnostic| NotKept::Unreadable { file: file.to_owned(), why: wrong.message };
    Ok(Digest::of(&serde_json::to_vec(&lasting.map_err(unreadable)?).unwrap_or_default()))
}

fn holds_any(text: &str, secrets: &[Secret]) -> bool {
    secrets.iter().any(|secret| text.contains(secret.expose()))
}

fn read(folder: &Path, file: &str) -> Result<String, NotKept> {
    let unreadable = |error: io::Error| NotKept::Unreadable { file: file.to_owned(), why: error.to_string() };
    fs::read_to_string(folder.join(file)).map_err(unreadable)
}

/// Files below a folder; not hidden ones and those that editors leave.
fn gather(folder: &Path, below: &str, files: &mut Files) -> Result<(), NotKept> {
    for entry in fs::read_dir(folder.join(below)).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with('.') || name.ends_with('~') {
            continue;
        }
        let path = format!("{below}/{name}");
        match entry.path().is_dir() {
            true => gather(folder, &path, files)?,
            false => {
                let text = read(folder, &path)?;
                files.insert(path, text);
            }
        }
    }
    Ok(())
}

/// The inventory as the cluster has it: the value of its key.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Stored {
    pub digest: Digest,
    pub who: Author,
    pub when: Timestamp,
    /// The command that applied it.
    pub command: String,
    /// The inventory file's name.
    pub name: String,
    pub secrets: Secrets,
    /// Digests of earlier versions, the latest first.
    #[serde(default)]
    before: Vec<Digest>,
    /// Its files: JSON, gzip, base64.
    packed: String,
}

/// How an inventory here is related to the one that the cluster has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relation {
    Same,
    /// It was changed here since.
    Derived,
    /// An earlier version.
    Older,
    /// It may lack what the other has.
    Unknown,
}

impl Stored {
    pub(super) fn new(
        snapshot: &Snapshot,
        who: &Author,
        command: &str,
        before: Option<&Stored>,
    ) -> Result<Self, NotKept> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        let json = serde_json::to_vec(&snapshot.files).unwrap_or_default();
        let packed = encoder.write_all(&json).and_then(|()| encoder.finish()).unwrap_or_default();
        let packed = BASE64.encode(packed);
        if packed.len() > LARGEST_BYTES {
            return Err(NotKept::TooLarge);
        }
        let before =
            before.into_iter().flat_map(|stored| [stored.digest].into_iter().chain(stored.before.clone()));
        Ok(Self {
            digest: snapshot.digest,
            who: who.clone(),
            when: Timestamp::now(),
            command: command.to_owned(),
            name: snapshot.name.clone(),
            secrets: snapshot.secrets.clone(),
            before: before.filter(|digest| *digest != snapshot.digest).take(VERSIONS).collect(),
            packed,
        })
    }

    pub(super) fn parse(value: &[u8]) -> Option<Self> {
        serde_json::from_slice(value).ok()
    }

    /// How `ours` is related to this, where it was `base` when this machine last agreed with the cluster.
    pub fn relation(&self, ours: &Snapshot, base: Option<Digest>) -> Relation {
        if ours.digest == self.digest {
            Relation::Same
        } else if base == Some(self.digest) {
            Relation::Derived
        } else if self.before.contains(&ours.digest) {
            Relation::Older
        } else {
            Relation::Unknown
        }
    }

    /// The name of the file of passwords that `ours` lacks or has others in; none where they are the same or
    /// were changed here.
    pub fn foreign_secrets(&self, ours: &Snapshot, base: Option<Digest>) -> Option<&str> {
        match &self.secrets {
            Secrets::Apart { file, digest } => {
                // The inventory may have another name here, and so its file of passwords.
                let same = matches!(&ours.secrets, Secrets::Apart { digest: own, .. } if own == digest);
                (!same && base != Some(self.digest)).then_some(file.as_str())
            }
            _ => None,
        }
    }

    /// What people are told of it.
    pub fn describe(&self) -> String {
        format!("by {} with `pgfleet {}` on {:.0}", self.who, self.command, self.when)
    }

    /// Writes its files below `folder`; the path of the inventory. Nothing is written where one of them exists.
    pub fn unpack(&self, folder: &Path) -> io::Result<PathBuf> {
        let broken =
            |error: &dyn std::fmt::Display| io::Error::other(format!("what is kept is damaged: {error}"));
        let packed = BASE64.decode(&self.packed).map_err(|error| broken(&error))?;
        let mut json = Vec::new();
        GzDecoder::new(&packed[..]).take(LARGEST_UNPACKED_BYTES).read_to_end(&mut json)?;
        let files: Files = serde_json::from_slice(&json).map_err(|error| broken(&error))?;
        for file in files.keys() {
            // Whoever may write to etcd must not write elsewhere here.
            if !Path::new(file).components().all(|part| matches!(part, Component::Normal(_))) {
                return Err(broken(&format!("`{file}` is no path below a folder")));
            }
            if folder.join(file).symlink_metadata().is_ok() {
                let message = format!("{} exists, and nothing is overwritten", folder.join(file).display());
                return Err(io::Error::new(io::ErrorKind::AlreadyExists, message));
            }
        }
        for (file, text) in &files {
            let path = folder.join(file);
            path.parent().map_or(Ok(()), fs::create_dir_all)?;
            let mode = if file.ends_with(".secrets.yml") { 0o600 } else { 0o644 };
            let mut written = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&path)?;
            written.write_all(text.as_bytes())?;
            written.sync_all()?;
        }
        Ok(folder.join(&self.name))
    }
}

/// Notes that the inventory at `path` is this version, unless it lacks its passwords.
pub fn adopted(stored: &Stored, path: &Path) {
    if !matches!(stored.secrets, Secrets::Apart { .. }) {
        base::remember(path, stored.digest);
    }
}

/// The inventories that an etcd keeps: of `cluster`, or of all clusters.
pub async fn fetch(kv: &Kv, cluster: Option<&Scope>) -> Result<Vec<(Scope, Stored)>, KvError> {
    let pairs = match cluster {
        Some(cluster) => kv.read(&[Do::Get(&keys::inventory(cluster))]).await?,
        None => kv.read(&[Do::All(keys::ROOT)]).await?,
    };
    let stored = |pair: &crate::cluster::Pair| {
        Some((keys::cluster_of_inventory(&pair.key)?, Stored::parse(&pair.value)?))
    };
    Ok(pairs.iter().filter_map(stored).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const INVENTORY: &str = "\
all:
  vars: {cluster_name: demo, ansible_user: root}
  children:
    etcd: {hosts: {e1: {ansible_host: 10.0.0.1}}}
    postgres: {hosts: {p1: {ansible_host: 10.0.0.2}}}
";

    fn folder(extra: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (file, text) in [("demo.yml", INVENTORY)].iter().chain(extra) {
            let path = folder.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        folder
    }

    fn snapshot(folder: &Path) -> Result<Snapshot, NotKept> {
        Snapshot::of(&Inventory::load(&folder.join("demo.yml"), &[]).unwrap())
    }

    fn stored(snapshot: &Snapshot, before: Option<&Stored>) -> Stored {
        let who = Author { user: "alice".to_owned(), machine: "laptop".to_owned() };
        Stored::new(snapshot, &who, "apply", before).unwrap()
    }

    #[test]
    fn files_come_back_as_they_were_and_secrets_do_not_go() {
        let here =
            folder(&[("group_vars/postgres.yml", "postgres_port: 6000\n"), ("group_vars/.hidden.swp", "x")]);
        let kept = stored(&snapshot(here.path()).unwrap(), None);
        assert!(matches!(&kept.secrets, Secrets::Apart { file, .. } if file == "demo.secrets.yml"));
        let text = fs::read_to_string(here.path().join("demo.secrets.yml")).unwrap();
        let password = text.lines().find_map(|line| line.strip_prefix("superuser_password: ")).unwrap();

        let parsed = Stored::parse(&serde_json::to_vec(&kept).unwrap()).unwrap();
        assert_eq!(parsed, kept);
        let there = tempfile::tempdir().unwrap();
        let path = parsed.unpack(there.path()).unwrap();
        assert_eq!(path, there.path().join("demo.yml"));
        let mut names: Vec<_> = walk(there.path());
        names.sort();
        assert_eq!(names, ["demo.yml", "group_vars/postgres.yml"]);
        for name in names {
            let text = fs::read_to_string(there.path().join(&name)).unwrap();
            assert_eq!(text, fs::read_to_string(here.path().join(&name)).unwrap());
            assert!(!text.contains(password));
        }
        let again = parsed.unpack(there.path()).unwrap_err();
        assert_eq!(again.kind(), io::ErrorKind::AlreadyExists, "{again}");
    }

    fn walk(folder: &Path) -> Vec<String> {
        let mut files = Files::new();
        for entry in fs::read_dir(folder).unwrap().flatten() {
            let name = entry.file_name().into_string().unwrap();
            match entry.path().is_dir() {
                true => gather(folder, &name, &mut files).unwrap(),
                false => drop(files.insert(name, String::new())),
            }
        }
        files.into_keys().collect()
    }

    #[test]
    fn an_inventory_with_a_plain_password_is_not_kept() {
        let here = folder(&[("group_vars/all.yml", "superuser_password: hunter2\n")]);
        assert_eq!(snapshot(here.path()), Err(NotKept::Plain("group_vars/all.yml".to_owned())));
    }

    #[test]
    fn paths_that_lead_elsewhere_are_refused() {
        let here = folder(&[]);
        let snapshot = snapshot(here.path()).unwrap();
        for evil in ["../x", "/tmp/x", "a/../../x"] {
            let files = Files::from([(evil.to_owned(), String::new())]);
            let kept = stored(&Snapshot { files, ..snapshot.clone() }, None);
            let there = tempfile::tempdir().unwrap();
            assert!(kept.unpack(there.path()).unwrap_err().to_string().contains("no path below"), "{evil}");
        }
    }

    #[test]
    fn versions_are_related_by_what_this_machine_knows() {
        let here = folder(&[]);
        let first = snapshot(here.path()).unwrap();
        let changed = |snapshot: &Snapshot, text: &str| Snapshot {
            digest: Digest::of(text.as_bytes()),
            ..snapshot.clone()
        };
        let (second, other) = (changed(&first, "second"), changed(&first, "other"));
        let kept_first = stored(&first, None);
        let kept = stored(&second, Some(&kept_first));
        for (ours, base, expected) in [
            (&second, None, Relation::Same),
            (&other, Some(second.digest), Relation::Derived),
            (&first, None, Relation::Older),
            (&first, Some(first.digest), Relation::Older),
            (&other, Some(first.digest), Relation::Unknown),
            (&other, None, Relation::Unknown),
        ] {
            assert_eq!(kept.relation(ours, base), expected, "{base:?}");
        }
        // Generated anew on a machine that never had them.
        let secrets = Secrets::Apart { file: "demo.secrets.yml".to_owned(), digest: Digest::of(b"new") };
        let generated = Snapshot { secrets, ..other };
        assert_eq!(kept.foreign_secrets(&generated, None), Some("demo.secrets.yml"));
        assert_eq!(kept.foreign_secrets(&generated, Some(kept.digest)), None, "changed here, and meant so");
        assert_eq!(kept.foreign_secrets(&first, None), None);
        let Secrets::Apart { digest, .. } = first.secrets else { panic!("they are apart") };
        let secrets = Secrets::Apart { file: "another-name.secrets.yml".to_owned(), digest };
        assert_eq!(kept.foreign_secrets(&Snapshot { secrets, ..generated }, None), None);
    }
}
