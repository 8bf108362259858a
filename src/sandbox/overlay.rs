//! Mounts hosts' root file systems, and finds and removes what is mounted below a folder.

use super::{Error, Result, layout::HostHome};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// Mounts the host's changes over `lower` (the uppermost first) unless that is done already.
pub(super) fn ensure(host: &HostHome, lower: &[PathBuf]) -> Result<()> {
    let root = host.root();
    if mounts_below(&root).contains(&root) {
        return Ok(());
    }
    for folder in [host.upper(), host.work(), root.clone()] {
        fs::create_dir_all(&folder).map_err(Error::io("cannot create", &folder))?;
    }
    let lower: Vec<String> = lower.iter().map(|path| path.display().to_string()).collect();
    // With redirect_dir a folder of a lower layer can be renamed, as on any file system; without it
    // PostgreSQL's data folder could not be moved aside on a host that boots from a snapshot.
    let options = format!(
        "lowerdir={},upperdir={},workdir={},redirect_dir=on,index=off,metacopy=off",
        lower.join(":"),
        host.upper().display(),
        host.work().display()
    );
    mount(Some("overlay"), &root, Some("overlay"), MsFlags::empty(), Some(options.as_str()))
        .map_err(|errno| Error::io("cannot mount an overlay on", &root)(errno.into()))
}

/// Unmounts everything at and below a folder, the deepest first.
pub(super) fn remove_below(folder: &Path) -> Result<()> {
    let mut mounts = mounts_below(folder);
    mounts.reverse();
    for path in mounts {
        match umount2(&path, MntFlags::UMOUNT_NOFOLLOW) {
            Ok(()) | Err(nix::errno::Errno::EINVAL) => {}
            // Somebody stands in it, a shell perhaps: it vanishes from the tree now and for good later.
            Err(nix::errno::Errno::EBUSY) => umount2(&path, MntFlags::MNT_DETACH)
                .map_err(|errno| Error::io("cannot unmount", &path)(errno.into()))?,
            Err(errno) => return Err(Error::io("cannot unmount", &path)(errno.into())),
        }
    }
    Ok(())
}

/// What is mounted at and below a folder, in the order of mounting.
fn mounts_below(folder: &Path) -> Vec<PathBuf> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let targets = table.lines().filter_map(|line| line.split(' ').nth(4)).map(unescape);
    targets.filter(|target| target.starts_with(folder)).collect()
}

/// The kernel writes blanks in paths as octal escapes.
fn unescape(text: &str) -> PathBuf {
    text.replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\").into()
}
