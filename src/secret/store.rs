//! The secrets file: a YAML map of names to texts, sealed in Ansible Vault's format or readable by its owner
//! alone.

use super::{Keyring, vault};
use crate::{
    diagnostic::Diagnostic,
    model::{Digest, Secret},
    yaml::{self, Document, Node},
};
use indexmap::IndexMap;
use serde_json::{Map, Value};
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

/// The key that holds what secrets were before a rotation that has not ended.
const PREVIOUS: &str = "previous";

/// The generated secrets of one inventory.
pub struct Store<'k> {
    path: PathBuf,
    keys: &'k Keyring,
    values: IndexMap<String, Secret>,
    previous: IndexMap<String, Secret>,
    form: Form,
    /// What the file was when it was read; none where there was none.
    read: Option<Digest>,
    /// Names that were given a value or lost it since.
    fresh: Vec<String>,
}

/// How the file is written.
#[derive(Clone, Debug)]
enum Form {
    /// There is none yet: sealed, if there is a passphrase.
    Unwritten,
    Plain,
    Sealed {
        passphrase: Secret,
        id: Option<String>,
    },
}

impl<'k> Store<'k> {
    /// Opens the store that belongs to an inventory. A file that doesn't exist yet holds nothing.
    pub fn beside(inventory: &Path, keys: &'k Keyring) -> Result<Store<'k>, Diagnostic> {
        let mut store = Store {
            path: Self::path_beside(inventory),
            keys,
            values: IndexMap::new(),
            previous: IndexMap::new(),
            form: Form::Unwritten,
            read: None,
            fresh: Vec::new(),
        };
        if store.path.exists() {
            store.read()?;
        }
        Ok(store)
    }

    fn read(&mut self) -> Result<(), Diagnostic> {
        let path = &self.path;
        let unreadable =
            |why: String| Diagnostic::error(format!("`{}` cannot be read: {why}", path.display()));
        let text =
            fs::read_to_string(path).map(Secret::new).map_err(|error| unreadable(error.to_string()))?;
        self.read = Some(Digest::of(text.expose().as_bytes()));
        let text = if vault::is_sealed(text.expose()) {
            let opened = self.keys.open(text.expose(), path)?;
            self.form = Form::Sealed { passphrase: opened.passphrase, id: opened.id };
            opened.text
        } else {
            let mode = fs::metadata(path).map(|data| data.permissions().mode()).unwrap_or_default();
            if mode & 0o077 != 0 {
                let message = format!("`{}` can be read by others than its owner", path.display());
                let next =
                    format!("run `chmod 600 {}`, or seal it with `pgfleet secrets init`", path.display());
                return Err(Diagnostic::error(message).help(next));
            }
            self.form = Form::Plain;
            text
        };
        self.take(&text)
    }

    /// Where the secrets of an inventory are.
    pub fn path_beside(inventory: &Path) -> PathBuf {
        let mut name: OsString = inventory.file_stem().unwrap_or_default().to_owned();
        name.push(".secrets.yml");
        inventory.with_file_name(name)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether there is a file.
    pub fn is_written(&self) -> bool {
        !matches!(self.form, Form::Unwritten)
    }

    pub fn is_sealed(&self) -> bool {
        matches!(self.form, Form::Sealed { .. })
    }

    pub fn get(&self, name: &str) -> Option<&Secret> {
        self.values.get(name)
    }

    /// The secrets by name, in the file's order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Secret)> {
        self.values.iter().map(|(name, secret)| (name.as_str(), secret))
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

    /// Names that were given a value or lost it, which the file does not have yet.
    pub fn unsaved(&self) -> &[String] {
        &self.fresh
    }

    /// Keeps a secret in place of what had the name before.
    pub fn put(&mut self, name: &str, secret: Secret) {
        self.values.insert(name.to_owned(), secret);
        self.fresh.push(name.to_owned());
    }

    /// Keeps it no longer. What it was is given back.
    pub fn remove(&mut self, name: &str) -> Option<Secret> {
        let before = self.values.shift_remove(name)?;
        self.fresh.push(name.to_owned());
        Some(before)
    }

    /// What secrets were before a rotation that has not ended.
    pub fn previous(&self) -> &IndexMap<String, Secret> {
        &self.previous
    }

    /// Makes a new secret and keeps the old one until [`Store::end_rotation`]. One that a rotation which has
    /// not ended made stays as it is: parts of the cluster may have it already.
    pub fn rotate(&mut self, name: &str, most: usize) {
        if !self.previous.contains_key(name)
            && let Some(old) = self.values.insert(name.to_owned(), super::generate(most))
        {
            self.previous.insert(name.to_owned(), old);
        }
    }

    /// Names whose rotation has not ended.
    pub fn unfinished(&self) -> Vec<String> {
        self.previous.keys().cloned().collect()
    }

    /// The old secrets are of no use any more.
    pub fn end_rotation(&mut self) {
        self.previous.clear();
    }

    /// The secrets as YAML, for their owner to change.
    pub fn text(&self) -> Secret {
        let exposed = |map: &IndexMap<String, Secret>| -> Map<String, Value> {
            map.iter().map(|(name, secret)| (name.clone(), secret.expose().into())).collect()
        };
        let mut map = exposed(&self.values);
        if !self.previous.is_empty() {
            map.insert(PREVIOUS.to_owned(), exposed(&self.previous).into());
        }
        let lines = if map.is_empty() { String::new() } else { yaml::to_string(&map) };
        Secret::new(format!("{HEADER}{lines}"))
    }

    /// Takes over a text, as [`Store::text`] gives it.
    pub fn take(&mut self, text: &Secret) -> Result<(), Diagnostic> {
        let document = Document::parse_covered(&self.path, text)?;
        (self.values, self.previous) = secrets(&document.root())?;
        Ok(())
    }

    /// Seals the file from now on with this passphrase.
    pub fn seal_with(&mut self, passphrase: Secret) {
        let id = if let Form::Sealed { id, .. } = &self.form { id.clone() } else { None };
        self.form = Form::Sealed { passphrase, id };
    }

    /// Writes the file: beside it, synced, renamed, mode 0600. Where another run was faster the error asks to
    /// start again.
    pub fn save(&mut self) -> Result<(), Diagnostic> {
        let failed = |error: io::Error| {
            Diagnostic::error(format!("cannot keep secrets in `{}`: {error}", self.path.display()))
                .help("make the inventory's folder writable, or set the passwords in the inventory")
        };
        if let Form::Unwritten = self.form {
            self.form = match self.keys.to_seal(&self.path)? {
                Some(passphrase) => Form::Sealed { passphrase, id: None },
                None => Form::Plain,
            };
        }
        let text = match &self.form {
            Form::Sealed { passphrase, id } => {
                Secret::new(vault::seal(&self.text(), passphrase, id.as_deref()))
            }
            Form::Plain | Form::Unwritten => self.text(),
        };
        let _lock = lock(&self.path).map_err(failed)?;
        let current = match fs::read(&self.path) {
            Ok(bytes) => Some(Digest::of(&bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(failed(error)),
        };
        if current != self.read {
            let message = format!("`{}` was written by another run just now", self.path.display());
            return Err(Diagnostic::error(message).help("run the command again; it uses what is there"));
        }
        write(&self.path, &text).map_err(failed)?;
        self.read = Some(Digest::of(text.expose().as_bytes()));
        self.fresh.clear();
        Ok(())
    }
}

type Secrets = IndexMap<String, Secret>;

/// The secrets of a file, and those under [`PREVIOUS`].
fn secrets(root: &Node<'_>) -> Result<(Secrets, Secrets), Diagnostic> {
    let text = |node: &Node<'_>| match node.value() {
        Value::String(text) => Ok(Secret::new(text.as_str())),
        Value::Number(number) => Ok(Secret::new(number.to_string())),
        _ => Err(node.error("a secret must be text").label("expected text")),
    };
    if !root.is_map() && !root.is_null() {
        return Err(root.error("the file must hold a map of names to texts"));
    }
    let (mut values, mut previous) = (Secrets::new(), Secrets::new());
    for (name, node) in root.entries() {
        if name == PREVIOUS {
            for (name, node) in node.entries() {
                previous.insert(name.to_owned(), text(&node)?);
            }
        } else {
            values.insert(name.to_owned(), text(&node)?);
        }
    }
    Ok((values, previous))
}

/// Keeps other runs from writing at the same time, until it is dropped.
fn lock(path: &Path) -> io::Result<nix::fcntl::Flock<fs::File>> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let folder = fs::File::open(folder)?;
    nix::fcntl::Flock::lock(folder, nix::fcntl::FlockArg::LockExclusive).map_err(|(_, error)| error.into())
}

fn write(path: &Path, text: &Secret) -> io::Result<()> {
    let beside = path.with_extension(format!("new-{}", std::process::id()));
    let written =
        fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside).and_then(|mut file| {
            file.write_all(text.expose().as_bytes())?;
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

    fn keyring(passphrase: &str) -> Keyring {
        let passphrase = OsString::from(passphrase);
        Keyring::new(&[], move |name| (name == "PGFLEET_VAULT_PASSWORD").then(|| passphrase.clone()))
    }

    #[test]
    fn keeps_what_it_made() {
        let folder = tempfile::tempdir().unwrap();
        let inventory = folder.path().join("demo.yml");
        let keys = Keyring::default();
        let mut store = Store::beside(&inventory, &keys).unwrap();
        let password = store.get_or_generate("superuser_password", usize::MAX);
        assert_eq!(store.unsaved(), ["superuser_password"]);
        store.save().unwrap();

        let path = folder.path().join("demo.secrets.yml");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let mut again = Store::beside(&inventory, &keys).unwrap();
        assert_eq!(again.get_or_generate("superuser_password", usize::MAX), password);
        assert!(again.unsaved().is_empty() && !again.is_sealed());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left beside the file");
    }

    #[test]
    fn a_new_file_is_sealed_where_there_is_a_passphrase() {
        let folder = tempfile::tempdir().unwrap();
        let inventory = folder.path().join("demo.yml");
        let keys = keyring("one");
        let mut store = Store::beside(&inventory, &keys).unwrap();
        let password = store.get_or_generate("superuser_password", 32);
        store.save().unwrap();
        let text = fs::read_to_string(store.path()).unwrap();
        assert!(vault::is_sealed(&text) && !text.contains(password.expose()));
        assert_eq!(Store::beside(&inventory, &keys).unwrap().get("superuser_password"), Some(&password));
        let closed = Store::beside(&inventory, &Keyring::default()).err().unwrap();
        assert!(closed.message.contains("there is no passphrase"), "{closed}");

        // Sealed with another passphrase, it opens with that one alone.
        store.seal_with(Secret::new("two"));
        store.save().unwrap();
        assert!(Store::beside(&inventory, &keys).is_err());
        assert_eq!(
            Store::beside(&inventory, &keyring("two")).unwrap().get("superuser_password"),
            Some(&password)
        );
    }

    #[test]
    fn a_plain_file_stays_plain_until_it_is_sealed() {
        let folder = tempfile::tempdir().unwrap();
        let inventory = folder.path().join("demo.yml");
        let plain = Keyring::default();
        let mut store = Store::beside(&inventory, &plain).unwrap();
        store.get_or_generate("superuser_password", 32);
        store.save().unwrap();
        let keys = keyring("one");
        let mut store = Store::beside(&inventory, &keys).unwrap();
        store.get_or_generate("rewind_password", 32);
        store.save().unwrap();
        assert!(!store.is_sealed());
        store.seal_with(Secret::new("one"));
        store.save().unwrap();
        assert!(Store::beside(&inventory, &keys).unwrap().is_sealed());
    }

    #[test]
    fn a_rotation_keeps_the_old_secret_until_it_ends_and_begins_once() {
        let folder = tempfile::tempdir().unwrap();
        let inventory = folder.path().join("demo.yml");
        let keys = Keyring::default();
        let mut store = Store::beside(&inventory, &keys).unwrap();
        let old = store.get_or_generate("vip_password", 8);
        store.rotate("vip_password", 8);
        let new = store.get("vip_password").unwrap().clone();
        assert_ne!(old, new);
        assert_eq!(new.expose().len(), 8);
        store.save().unwrap();

        let mut again = Store::beside(&inventory, &keys).unwrap();
        again.rotate("vip_password", 8);
        assert_eq!(again.get("vip_password"), Some(&new));
        assert_eq!(again.previous().get("vip_password"), Some(&old));
        again.end_rotation();
        again.save().unwrap();
        assert!(Store::beside(&inventory, &keys).unwrap().previous().is_empty());
    }

    #[test]
    fn two_runs_at_once_agree_on_one_password() {
        let folder = tempfile::tempdir().unwrap();
        let inventory = folder.path().join("demo.yml");
        let keys = Keyring::default();
        let mut first = Store::beside(&inventory, &keys).unwrap();
        let mut second = Store::beside(&inventory, &keys).unwrap();
        first.get_or_generate("rewind_password", 32);
        second.get_or_generate("rewind_password", 32);
        first.save().unwrap();
        assert!(second.save().is_err());
    }

    #[test]
    fn what_is_replaced_must_be_what_was_read() {
        let folder = tempfile::tempdir().unwrap();
        let inventory = folder.path().join("demo.yml");
        let keys = Keyring::default();
        let store = || Store::beside(&inventory, &keys).unwrap();
        let mut made = store();
        made.put("tls_authority_key", Secret::new("old\nlines\n"));
        made.save().unwrap();
        let (mut first, mut second, mut third) = (store(), store(), store());
        first.put("tls_authority_key", Secret::new("new\nlines\n"));
        first.save().unwrap();
        second.put("tls_authority_key", Secret::new("newer"));
        assert!(second.save().is_err());
        assert_eq!(third.remove("tls_authority_key"), Some(Secret::new("old\nlines\n")));
        assert!(third.save().is_err());
        assert_eq!(store().get("tls_authority_key"), Some(&Secret::new("new\nlines\n")));
    }

    #[test]
    fn refuses_a_file_that_others_can_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("demo.secrets.yml");
        fs::write(&path, "superuser_password: x\n").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        let keys = Keyring::default();
        let refused = Store::beside(&folder.path().join("demo.yml"), &keys).err().unwrap();
        assert!(refused.help[0].starts_with("run `chmod 600 "), "{refused}");
    }

    #[test]
    fn a_wrong_file_is_explained_without_what_is_in_it() {
        let folder = tempfile::tempdir().unwrap();
        let keys = Keyring::default();
        let mut store = Store::beside(&folder.path().join("demo.yml"), &keys).unwrap();
        for text in ["other: [hunter2]\n", "- hunter2\n", "a: hunter2\na: hunter2\n", "hunter2"] {
            let wrong = store.take(&Secret::new(text)).unwrap_err().render(false);
            assert!(!wrong.contains("hunter2"), "{wrong}");
        }
    }
}
