//! What dpkg has installed, read from its own status file: no process, and the same for any root.

use crate::remote::{files, host::Host, protocol::Failure};
use std::collections::BTreeMap;

/// The packages that dpkg knows.
#[derive(Debug, Default)]
pub(super) struct Packages {
    by_name: BTreeMap<String, Package>,
    /// A dpkg run was cut off: its journal is waiting to be taken in.
    is_interrupted: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Package {
    pub version: String,
    /// `installed`, `config-files`, `half-configured`, ...
    pub state: String,
    /// It is to stay as it is.
    pub is_held: bool,
    provides: Vec<String>,
}

impl Packages {
    pub fn read(host: &Host) -> Result<Self, Failure> {
        let text = files::read_text(&host.path("/var/lib/dpkg/status"))?;
        let mut packages = Self::parse(&text);
        let updates = std::fs::read_dir(host.path("/var/lib/dpkg/updates"));
        packages.is_interrupted = updates.is_ok_and(|mut updates| updates.next().is_some());
        Ok(packages)
    }

    fn parse(text: &str) -> Self {
        let mut by_name = BTreeMap::new();
        for paragraph in text.split("\n\n") {
            let mut package = Package::default();
            let mut name = "";
            for line in paragraph.lines() {
                match line.split_once(": ") {
                    Some(("Package", value)) => name = value,
                    Some(("Version", value)) => package.version = value.to_owned(),
                    // Three words: what is wanted, whether it is all right, what it is.
                    Some(("Status", value)) => {
                        package.is_held = value.starts_with("hold ");
                        package.state = value.split(' ').nth(2).unwrap_or_default().to_owned();
                    }
                    Some(("Provides", value)) => {
                        let names = value.split(',').filter_map(|entry| entry.split_whitespace().next());
                        package.provides = names.map(str::to_owned).collect();
                    }
                    _ => {}
                }
            }
            if !name.is_empty() {
                // Of several architectures the one that is installed counts.
                let known: &mut Package = by_name.entry(name.to_owned()).or_default();
                if known.state != "installed" {
                    *known = package;
                }
            }
        }
        Self { by_name, is_interrupted: false }
    }

    pub fn get(&self, name: &str) -> Option<&Package> {
        self.by_name.get(name.split(':').next().unwrap_or(name))
    }

    /// The version of an installed package.
    pub fn version(&self, name: &str) -> Option<&str> {
        self.get(name).filter(|package| package.state == "installed").map(|package| package.version.as_str())
    }

    pub fn is_installed(&self, name: &str) -> bool {
        self.get(name).is_some_and(|package| package.state == "installed")
    }

    /// Whether an installed package stands in for `name`.
    pub fn is_provided(&self, name: &str) -> bool {
        self.by_name.values().any(|package| {
            package.state == "installed" && package.provides.iter().any(|provided| provided == name)
        })
    }

    /// Whether an earlier installation was cut off and must be completed first.
    pub fn need_repair(&self) -> bool {
        const WHOLE: &[&str] = &["installed", "config-files", "not-installed"];
        self.is_interrupted || self.by_name.values().any(|package| !WHOLE.contains(&package.state.as_str()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_file_is_read() {
        let packages = Packages::parse(
            "Package: etcd-server\nStatus: install ok installed\nVersion: 3.5.16-4\nProvides: etcd (= 3.5), kv\n\n\
             Package: gone\nStatus: deinstall ok config-files\nVersion: 1\n\n\
             Package: held\nStatus: hold ok installed\nVersion: 2\n\n\
             Package: libc6\nStatus: install ok installed\nArchitecture: amd64\nVersion: 2.41\n\n\
             Package: libc6\nStatus: install ok half-configured\nArchitecture: i386\nVersion: 2.41\n",
        );
        assert!(
            packages.is_installed("etcd-server")
                && packages.is_provided("etcd")
                && packages.is_provided("kv")
        );
        assert!(!packages.is_installed("gone") && !packages.is_provided("etcd-server"));
        assert_eq!((packages.version("held"), packages.version("gone")), (Some("2"), None));
        let held = |name: &str| packages.get(name).is_some_and(|package| package.is_held);
        assert!(held("held") && !held("etcd-server"));
        assert_eq!(packages.get("libc6:amd64").map(|package| package.version.as_str()), Some("2.41"));
        assert!(!packages.need_repair());
        assert!(Packages::parse("Package: x\nStatus: install ok unpacked\nVersion: 1\n").need_repair());
    }
}
