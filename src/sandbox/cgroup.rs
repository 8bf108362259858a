//! A control group per host, so that the systemd of one host never sees the services of another.

use super::{Error, Name, Result};
use crate::model::HostName;
use nix::errno::Errno;
use std::{
    fs,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

const PARENT: &str = "pgfleet";
/// How long processes that were killed may take to be gone; a group is busy until then.
const DYING: Duration = Duration::from_secs(5);
/// Where systemd keeps its tree: the unified hierarchy alone, or the two of the hybrid layout.
const HIERARCHIES: [&str; 3] = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified", "/sys/fs/cgroup/systemd"];

fn hierarchies() -> impl Iterator<Item = &'static Path> {
    HIERARCHIES.into_iter().map(Path::new).filter(|path| path.join("cgroup.procs").exists())
}

/// Makes the host's groups, one in each hierarchy, and returns them.
pub(super) fn create(sandbox: &Name, host: &HostName) -> Result<Vec<PathBuf>> {
    hierarchies()
        .map(|hierarchy| {
            let group = hierarchy.join(PARENT).join(sandbox.as_str()).join(host.as_str());
            fs::create_dir_all(&group).map_err(Error::io("cannot create the control group", &group))?;
            Ok(group)
        })
        .collect()
}

/// Removes the groups of a sandbox whose processes have ended.
pub(super) fn remove(sandbox: &Name) {
    for hierarchy in hierarchies() {
        let parent = hierarchy.join(PARENT);
        remove_tree(&parent.join(sandbox.as_str()));
        // Fails while another sandbox has groups in it.
        let _ = fs::remove_dir(parent);
    }
}

/// Removes what one power cycle of a host left, or the next one would boot into it.
pub(super) fn remove_host(sandbox: &Name, host: &HostName) {
    for hierarchy in hierarchies() {
        remove_tree(&hierarchy.join(PARENT).join(sandbox.as_str()).join(host.as_str()));
    }
}

fn remove_tree(group: &Path) {
    // The unified hierarchy ends what a killed run left in it; the other one has no such file.
    let _ = fs::write(group.join("cgroup.kill"), "1");
    remove_empty(group, Instant::now() + DYING);
}

fn remove_empty(group: &Path, deadline: Instant) {
    for entry in fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_empty(&entry.path(), deadline);
        }
    }
    while let Err(error) = fs::remove_dir(group)
        && error.raw_os_error() == Some(Errno::EBUSY as i32)
        && Instant::now() < deadline
    {
        thread::sleep(Duration::from_millis(10));
    }
}
