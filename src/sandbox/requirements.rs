//! What this machine must have for a sandbox; says all that is missing at once.

use super::{Error, Result};
use std::{env, path::Path};

/// `(program, Debian's package with it)`.
const PROGRAMS: &[(&str, &str)] = &[
    ("ip", "iproute2"),
    ("mmdebstrap", "mmdebstrap"),
    ("nft", "nftables"),
    ("nsenter", "util-linux"),
    ("setsid", "util-linux"),
    ("ssh", "openssh-client"),
    ("ssh-keygen", "openssh-client"),
    ("systemd-nspawn", "systemd-container"),
];
/// Without it, mmdebstrap cannot verify the archive.
const KEYRING: (&str, &str) = ("/usr/share/keyrings/debian-archive-keyring.gpg", "debian-archive-keyring");

/// Refuses a machine on which a sandbox cannot work.
pub(super) fn check() -> Result<()> {
    root()?;
    let path = env::var_os("PATH").unwrap_or_default();
    let present = |program: &str| env::split_paths(&path).any(|folder| folder.join(program).is_file());
    let missing = PROGRAMS
        .iter()
        .copied()
        .filter(|(program, _)| !present(program))
        .chain((!Path::new(KEYRING.0).exists()).then_some(KEYRING));
    let (what, mut packages): (Vec<String>, Vec<&str>) =
        missing.map(|(name, package)| (format!("`{name}`"), package)).unzip();
    packages.dedup();
    if what.is_empty() { Ok(()) } else { Err(Error::Missing { what, packages }) }
}

/// Refuses a user or a system that may not touch namespaces.
pub(super) fn root() -> Result<()> {
    if !cfg!(target_os = "linux") {
        return Err(Error::NotLinux);
    }
    let uid = nix::unistd::geteuid();
    if uid.is_root() { Ok(()) } else { Err(Error::NotRoot { uid: uid.as_raw() }) }
}
