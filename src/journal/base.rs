//! Which version of an inventory this machine last had in common with the cluster: a small file below the user's
//! own state, so that an inventory that was changed here is told from one that others have overtaken.

use crate::model::Digest;
use std::{
    fs,
    path::{Path, PathBuf},
};

/// The file for an inventory; none for a user without a home.
fn file(inventory: &Path) -> Option<PathBuf> {
    let named = std::env::var_os("XDG_STATE_HOME").filter(|path| !path.is_empty()).map(PathBuf::from);
    let state = named.or_else(|| Some(std::env::home_dir()?.join(".local/state")))?;
    let path = fs::canonicalize(inventory).unwrap_or_else(|_| inventory.to_owned());
    let name = Digest::of(path.as_os_str().as_encoded_bytes()).short();
    Some(state.join("pgfleet/inventories").join(name))
}

pub fn recall(inventory: &Path) -> Option<Digest> {
    fs::read_to_string(file(inventory)?).ok()?.trim().parse().ok()
}

/// A state that cannot be written costs a warning too many at the next run, and is no reason to fail this one.
pub fn remember(inventory: &Path, digest: Digest) {
    let Some(file) = file(inventory) else { return };
    let write = |folder: &Path| {
        fs::create_dir_all(folder)?;
        let beside = tempfile::NamedTempFile::new_in(folder)?;
        fs::write(beside.path(), format!("{digest}\n"))?;
        beside.persist(&file).map(drop).map_err(|error| error.error)
    };
    let _ = file.parent().map_or(Ok(()), write);
}
