//! A file of the inventory is exchanged for another text, and put back when that makes no valid inventory.

use super::Inventory;
use crate::{
    diagnostic::{Diagnostic, Diagnostics},
    secret::Keyring,
};
use std::{fs, io, io::Write as _, path::Path};

impl Inventory {
    /// Gives `file`, which is the inventory at `path` or a file of variables beside it, another text. Where that
    /// text is wrong the file is as before, and the error says what is wrong with it.
    pub fn rewrite(
        path: &Path,
        extra_vars: &[String],
        keys: &Keyring,
        file: &Path,
        text: &str,
    ) -> Result<(), Diagnostics> {
        let unwritable = |error: io::Error| {
            let what = format!("`{}` cannot be replaced: {error}", file.display());
            Diagnostics::from(Diagnostic::error(what).help("is it yours, and is there room beside it?"))
        };
        let before = fs::read_to_string(file).map_err(unwritable)?;
        replace(file, text).map_err(unwritable)?;
        Self::inspect_with(path, extra_vars, keys).map(drop).inspect_err(|_| {
            // What is wrong with the text matters more; it is shown by its place in this file.
            let _ = replace(file, &before);
        })
    }
}

/// Beside the file, with its mode and owner, synced, renamed.
fn replace(file: &Path, text: &str) -> io::Result<()> {
    // A link goes on pointing to the file.
    let file = fs::canonicalize(file)?;
    let found = fs::metadata(&file)?;
    let folder = file.parent().unwrap_or(Path::new("/"));
    let mut beside = tempfile::Builder::new().prefix(".inventory").tempfile_in(folder)?;
    beside.write_all(text.as_bytes())?;
    beside.as_file().set_permissions(found.permissions())?;
    let (user, group) =
        (std::os::unix::fs::MetadataExt::uid(&found), std::os::unix::fs::MetadataExt::gid(&found));
    std::os::unix::fs::fchown(beside.as_file(), Some(user), Some(group))?;
    beside.as_file().sync_all()?;
    beside.persist(&file)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    const VALID: &str = "all:\n  vars: {cluster_name: demo}\n  children:\n    etcd: {hosts: {one: {ansible_host: 10.0.0.1}}}\n    \
                         postgres: {hosts: {one: }}\n";

    #[test]
    fn a_wrong_text_leaves_the_file_as_it_was() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("demo.yml");
        fs::write(&file, VALID).expect("written");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).expect("ours");
        let rewrite = |text: &str| Inventory::rewrite(&file, &[], &Keyring::of_environment(), &file, text);

        let wrong = rewrite(&VALID.replace("cluster_name", "cluster_nam")).expect_err("an unknown word");
        assert!(wrong.to_string().contains("cluster_name"), "{wrong}");
        assert_eq!(fs::read_to_string(&file).expect("read"), VALID);

        let other = VALID.replace("demo", "other");
        rewrite(&other).expect("valid");
        assert_eq!(fs::read_to_string(&file).expect("read"), other);
        assert_eq!(fs::metadata(&file).expect("there").permissions().mode() & 0o777, 0o640);
        assert_eq!(fs::read_dir(folder.path()).expect("a folder").count(), 1, "nothing is left beside it");
    }
}
