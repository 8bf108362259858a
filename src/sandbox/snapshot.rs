//! Hosts kept for later: their changes are moved aside and become a layer that others stand on.

use super::{Error, Event, Name, Result, Sandbox, host::Host, layout::Store, record::Record};
use std::{fs, path::Path};

/// A kept state of all hosts of a sandbox.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Snapshot {
    pub name: Name,
    pub hosts: usize,
    /// The snapshot that it stands on.
    pub on: Option<Name>,
}

impl Sandbox {
    /// Shuts the hosts down and keeps their state under a name. Afterwards the sandbox stands on the
    /// snapshot, its hosts are down, and starting them goes on where they were.
    pub fn save(&mut self, name: &Name, tell: &(dyn Fn(Event) + Sync)) -> Result<()> {
        let store = self.store().clone();
        let _lock = store.lock_sandbox(self.name())?;
        let target = store.snapshot(name);
        if target.path().exists() {
            return Err(Error::SnapshotExists { name: name.clone() });
        }
        self.stop_locked(&[], tell)?;
        let hosts = Host::all(&store, self.record());
        for host in &hosts {
            host.unmount()?;
        }
        let _global = store.lock()?;
        let home = store.sandbox(self.name());
        let saved = Record {
            layers: [vec![name.clone()], self.record().layers.clone()].concat(),
            ..self.record().clone()
        };
        // Overlays are moved only after both records are on disk, the sandbox's first: whatever is
        // killed in between, each host's changes are in a layer that the sandbox's record names, or
        // still in the sandbox.
        fs::create_dir_all(target.path()).map_err(Error::io("cannot create", target.path()))?;
        for (from, to) in [
            (home.key(), target.key()),
            (home.public_key(), target.public_key()),
            (home.known_hosts(), target.known_hosts()),
        ] {
            fs::copy(&from, &to).map_err(Error::io("cannot copy", from))?;
        }
        saved.write(&home)?;
        for host in &hosts {
            let (from, to) = (home.host(&host.spec.name), target.host(&host.spec.name));
            let folder = target.hosts().join(host.spec.name.as_str());
            fs::create_dir_all(&folder).map_err(Error::io("cannot create", &folder))?;
            if from.upper().exists() {
                drop_what_apt_makes_again(&from.upper());
                fs::rename(from.upper(), to.upper()).map_err(Error::io("cannot move", from.upper()))?;
            }
            if from.work().exists() {
                fs::remove_dir_all(from.work()).map_err(Error::io("cannot remove", from.work()))?;
            }
        }
        // Its record makes a folder a snapshot.
        saved.write(&target)?;
        *self = Sandbox::open(&store, &saved.name)?;
        Ok(())
    }
}

impl Snapshot {
    /// Every snapshot in the store.
    pub fn all(store: &Store) -> Vec<Snapshot> {
        records(store)
            .into_iter()
            .map(|(name, record)| Snapshot {
                name,
                hosts: record.hosts.len(),
                on: record.layers.get(1).cloned(),
            })
            .collect()
    }

    /// Removes a snapshot that nothing stands on.
    pub fn forget(store: &Store, name: &Name) -> Result<()> {
        let store = store.resolved();
        let home = store.snapshot(name);
        if !home.path().exists() {
            return Err(Error::NoSuchSnapshot { name: name.clone(), known: store.snapshot_names() });
        }
        let _global = store.lock()?;
        let sandboxes = store.names().into_iter().filter_map(|user| {
            let record = Record::read(&store.sandbox(&user)).ok().flatten()?;
            record.layers.contains(name).then(|| format!("sandbox `{user}`"))
        });
        let snapshots = records(&store).into_iter().filter(|(other, _)| other != name);
        let snapshots = snapshots.filter(|(_, record)| record.layers.contains(name));
        let users: Vec<String> =
            sandboxes.chain(snapshots.map(|(other, _)| format!("snapshot `{other}`"))).collect();
        if !users.is_empty() {
            return Err(Error::SnapshotInUse { name: name.clone(), users });
        }
        fs::remove_dir_all(home.path()).map_err(Error::io("cannot remove", home.path()))
    }
}

/// apt's indexes of its own lists: tens of megabytes on each host, made again when they are missing.
fn drop_what_apt_makes_again(upper: &Path) {
    for file in ["pkgcache.bin", "srcpkgcache.bin"] {
        let _ = fs::remove_file(upper.join("var/cache/apt").join(file));
    }
}

fn records(store: &Store) -> Vec<(Name, Record)> {
    let named = store.snapshot_names().into_iter();
    named
        .filter_map(|name| Some((name.clone(), Record::read(&store.snapshot(&name)).ok().flatten()?)))
        .collect()
}
