//! systemd-nspawn: how a host is started with it, and what it leaves when it is killed.

use super::{
    layout::HostHome,
    network::{self, Names},
};
use crate::model::HostName;
use std::{fs, os::unix::fs::MetadataExt, path::Path};

/// It keeps a lock per root folder and a folder per machine here, and removes them when it ends in order.
const RUNTIME: &str = "/run/systemd/nspawn";

/// The command that boots the host with this number; it returns when the host is down.
pub(super) fn command(names: &Names, number: usize, name: &HostName, home: &HostHome) -> Vec<String> {
    vec![
        "env".to_owned(),
        // A current systemd refuses to boot on the old hierarchy, which this machine may still have.
        "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1".to_owned(),
        "nsenter".to_owned(),
        format!("--net={}", names.path().display()),
        "systemd-nspawn".to_owned(),
        "--quiet".to_owned(),
        "--keep-unit".to_owned(),
        "--register=no".to_owned(),
        "--resolv-conf=off".to_owned(),
        "--timezone=off".to_owned(),
        format!("--directory={}", home.root().display()),
        format!("--machine={}", names.machine(number)),
        format!("--hostname={name}"),
        format!("--network-bridge={}", network::BRIDGE),
        "--boot".to_owned(),
    ]
}

/// Removes the lock of a root folder that is still mounted and whose systemd-nspawn has ended.
pub(super) fn forget_root(root: &Path) {
    if let Ok(folder) = fs::metadata(root) {
        let name = format!("inode-{}:{}", folder.dev(), folder.ino());
        let _ = fs::remove_file(Path::new(RUNTIME).join("locks").join(name));
    }
}

/// Removes the folders of a sandbox's machines, which have ended.
pub(super) fn forget_machines(names: &Names) {
    let prefix = names.machine_prefix();
    for entry in fs::read_dir(Path::new(RUNTIME).join("propagate")).into_iter().flatten().flatten() {
        if entry.file_name().to_str().is_some_and(|name| name.starts_with(&prefix)) {
            let _ = fs::remove_dir(entry.path());
        }
    }
}
