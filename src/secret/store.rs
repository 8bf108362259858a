//! The secrets file: a YAML map of names to texts, readable by its owner alone.

use crate::{
    diagnostic::Diagnostic,
    model::Secret,
    yaml::{self, Document},
};
use indexmap::IndexMap;
use std::{
    ffi::OsString,
    fs, io,
    io::Write,
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

const HEADER: &str = "\
# Secrets that pgfleet generated for the inventory beside this file. Keep it, and keep it to yourself: a cluster
# that was made with these passwords can be managed with them alone. A variable in the inventory wins over the
# one of the same name here.
";

/// The generated secrets of one inventory.
pub struct Store {
    path: PathBuf,
    values: IndexMap<String, Secret>,
    /// Names that were given a value or lost it since the file was read, with what the file had.
    fresh: IndexMap<String, Option<Secret>>,
}

impl Store {
    /// Opens the store that belongs to an inventory. A file that doesn't exist yet holds nothing.
    pub fn beside(inventory: &Path) -> Result<Store, Diagnostic> {
        let mut name: OsString = inventory.file_stem().unwrap_or_default().to_owned();
        name.push(".secrets.yml");
        let path = inventory.with_file_name(name);
        let values = if path.exists() { read(&path)? } else { IndexMap::new() };
        Ok(Store { path, values, fresh: IndexMap::new() })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The secret of that name; made now where there is none.
    pub fn get_or_generate(&mut self, name: &str, most: usize) -> Secret {
        if let Some(secret) = self.values.get(name) {
            return secret.clone();
        }
        let secret = super::generate(most);
        self.put(name, secret.clone());
        secret
    }

    pub fn get(&self, name: &str) -> Option<&Secret> {
        self.values.get(name)
    }

    /// Keeps a secret in place of what had the name before.
    pub fn put(&mut self, name: &str, secret: Secret) {
        let before = self.values.insert(name.to_owned(), secret);
        self.fresh.entry(name.to_owned()).or_insert(before);
    }

    /// Keeps it no longer. What it was is given back.
    pub fn take(&mut self, name: &str) -> Option<Secret> {
        let before = self.values.shift_remove(name)?;
        self.fresh.entry(name.to_owned()).or_insert_with(|| Some(before.clone()));
        Some(before)
    }

    /// Whether something was generated that the file doesn't have.
    pub fn is_unsaved(&self) -> bool {
        !self.fresh.is_empty()
    }

    /// Writes the file: beside it, synced, renamed, mode 0600. Nothing is written when nothing is new. Where
    /// another run was faster, its secrets are taken over, and the error asks to start again.
    pub fn save(&mut self) -> Result<(), Diagnostic> {
        if self.fresh.is_empty() {
            return Ok(());
        }
        let failed = |error: io::Error| {
            Diagnostic::error(format!(
                "cannot keep generated passwords in `{}`: {error}",
                self.path.display()
            ))
            .help("make the inventory's folder writable, or set the passwords in the inventory")
        };
        let _lock = lock(&self.path).map_err(failed)?;
        if self.path.exists() {
            let current = read(&self.path)?;
            if self.fresh.iter().any(|(name, before)| current.get(name) != before.as_ref()) {
                let message = format!("`{}` was written by another run just now", self.path.display());
                return Err(Diagnostic::error(message).help("run the command again; it uses what is there"));
            }
        }
        write(&self.path, &self.values).map_err(failed)?;
        self.fresh.clear();
        Ok(())
    }
}

fn read(path: &Path) -> Result<IndexMap<String, Secret>, Diagnostic> {
    let document = Document::read(path)?;
    let mode = fs::metadata(path).map(|data| data.permissions().mode()).unwrap_or_default();
    if mode & 0o077 != 0 {
        let message = format!("`{}` can be read by others than its owner", path.display());
        return Err(Diagnostic::error(message).help(format!("run `chmod 600 {}`", path.display())));
    }
    if document.value().is_null() {
        return Ok(IndexMap::new());
    }
    document.deserialize()
}

/// Keeps other runs from writing at the same time, until it is dropped.
fn lock(path: &Path) -> io::Result<nix::fcntl::Flock<fs::File>> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let folder = fs::File::open(folder)?;
    nix::fcntl::Flock::lock(folder, nix::fcntl::FlockArg::LockExclusive).map_err(|(_, error)| error.into())
}

fn write(path: &Path, values: &IndexMap<String, Secret>) -> io::Result<()> {
    let exposed: IndexMap<&str, &str> =
        values.iter().map(|(name, secret)| (name.as_str(), secret.expose())).collect();
    let beside = path.with_extension(format!("new-{}", std::process::id()));
    let written =
        fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside).and_then(|mut file| {
            file.write_all(HEADER.as_bytes())?;
            file.write_all(yaml::to_string(&exposed).as_bytes())?;
            file.sync_all()
        });
    let renamed = written.and_then(|()| fs::rename(&beside, path));
    if renamed.is_err() {
        let _ = fs::remove_file(&beside);
    }
    renamed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_what_it_made() {
        let folder = tempfile::tempdir().unwrap();
        let inventory = folder.path().join("demo.yml");
        let mut store = Store::beside(&inventory).unwrap();
        let password = store.get_or_generate("superuser_password", usize::MAX);
        assert!(store.is_unsaved());
        store.save().unwrap();

        let path = folder.path().join("demo.secrets.yml");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let mut again = Store::beside(&inventory).unwrap();
        assert_eq!(again.get_or_generate("superuser_password", usize::MAX), password);
        assert!(!again.is_unsaved());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left beside the file");
    }

    #[test]
    fn two_runs_at_once_agree_on_one_password() {
        let folder = tempfile::tempdir().unwrap();
        let inventory = folder.path().join("demo.yml");
        let mut first = Store::beside(&inventory).unwrap();
        let mut second = Store::beside(&inventory).unwrap();
        first.get_or_generate("rewind_password", 32);
        second.get_or_generate("rewind_password", 32);
        first.save().unwrap();
        assert!(second.save().is_err());
    }

    #[test]
    fn what_is_replaced_must_be_what_was_read() {
        let folder = tempfile::tempdir().unwrap();
        let inventory = folder.path().join("demo.yml");
        let mut made = Store::beside(&inventory).unwrap();
        made.put("tls_authority_key", Secret::new("old"));
        made.save().unwrap();
        let (mut first, mut second) =
            (Store::beside(&inventory).unwrap(), Store::beside(&inventory).unwrap());
        first.put("tls_authority_key", Secret::new("new"));
        first.save().unwrap();
        second.put("tls_authority_key", Secret::new("newer"));
        assert!(second.save().is_err());
        assert_eq!(Store::beside(&inventory).unwrap().get("tls_authority_key"), Some(&Secret::new("new")));
    }

    #[test]
    fn refuses_a_file_that_others_can_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("demo.secrets.yml");
        fs::write(&path, "superuser_password: x\n").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        let refused = Store::beside(&folder.path().join("demo.yml")).err().unwrap();
        assert!(refused.help[0].starts_with("run `chmod 600 "), "{refused}");
    }
}
