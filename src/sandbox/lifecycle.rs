//! From a specification to running hosts, and back to nothing.
//!
//! Making a sandbox is one idempotent pass: what is there stays, what is missing is made. So the same
//! call makes a sandbox, completes one that a killed run left half made, and boots what is down.

use super::{
    Error, Event, HostSpec, Image, Name, Result, Spec, cache, cgroup,
    command::run,
    host::{Host, Stopped},
    image,
    layout::{self, Home, Store},
    network::{self, Names},
    nspawn, overlay, process,
    record::Record,
    requirements,
};
use crate::model::HostName;
use std::{
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::Command,
    thread,
};

/// Marks that forwarding was off before the first sandbox turned it on.
const FORWARDING_WAS_OFF: &str = "forwarding-was-off";
/// systemd's inotify instances of a few dozen hosts; the usual limit of 128 is used up by two sandboxes.
const INOTIFY_INSTANCES: u32 = 8192;
const INOTIFY_LIMIT: &str = "/proc/sys/fs/inotify/max_user_instances";

/// A sandbox that exists.
pub struct Sandbox {
    store: Store,
    record: Record,
}

/// What a sandbox is and how its hosts are.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Status {
    pub name: Name,
    pub image: Image,
    /// The snapshot that the hosts stand on.
    pub snapshot: Option<Name>,
    pub network: ipnet::Ipv4Net,
    /// The address of the bridge, by which hosts reach the outside.
    pub gateway: Ipv4Addr,
    pub hosts: Vec<HostStatus>,
}

/// How one host is.
#[derive(Clone, Debug, serde::Serialize)]
pub struct HostStatus {
    pub name: HostName,
    pub address: Ipv4Addr,
    pub state: HostState,
}

/// Whether a host runs and can be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum HostState {
    Running,
    /// It runs; its network is cut.
    Cut,
    Down,
}

impl Sandbox {
    /// Boots one host for each that `spec` lists and returns when all answer. Hosts that the sandbox
    /// has already are kept, and booted if they are down. `executable` is pgfleet's own, which serves
    /// the package cache.
    pub fn up(
        store: &Store,
        name: &Name,
        spec: &Spec,
        executable: &Path,
        tell: &(dyn Fn(Event) + Sync),
    ) -> Result<Sandbox> {
        requirements::check()?;
        let store = store.created()?;
        let _lock = store.lock_sandbox(name)?;
        let record = match Record::read(&store.sandbox(name))? {
            Some(record) => record.extended(spec)?,
            None => {
                let subnet = spec.subnet()?;
                image::sweep(&store)?;
                let image_build = image::ensure(&store, spec.image, tell)?;
                let global = store.lock()?;
                let link = network::choose_link(&links(&store)?, subnet.network)?;
                let record = Record {
                    name: name.clone(),
                    image: spec.image,
                    image_build,
                    layers: Vec::new(),
                    hosts: spec.hosts.clone(),
                    subnet,
                    link,
                };
                // The link is taken from when the record holds it.
                record.write(&store.created_home(name)?)?;
                drop(global);
                record
            }
        };
        record.write(&store.sandbox(name))?;
        let sandbox = Sandbox { store, record };
        sandbox.bring_up(executable, tell)?;
        Ok(sandbox)
    }

    /// Boots the hosts of a snapshot, each on a new overlay over the snapshot's.
    pub fn up_from(
        store: &Store,
        name: &Name,
        snapshot: &Name,
        executable: &Path,
        tell: &(dyn Fn(Event) + Sync),
    ) -> Result<Sandbox> {
        requirements::check()?;
        let store = store.created()?;
        let _lock = store.lock_sandbox(name)?;
        let home = store.sandbox(name);
        let record = match Record::read(&home)? {
            Some(record) if record.layers.first() == Some(snapshot) => record,
            Some(_) => {
                let difference = format!("it does not stand on snapshot `{snapshot}`");
                return Err(Error::Differs { name: name.clone(), difference });
            }
            None => {
                let _global = store.lock()?;
                let source = store.snapshot(snapshot);
                let saved = Record::read(&source)?.ok_or_else(|| Error::NoSuchSnapshot {
                    name: snapshot.clone(),
                    known: store.snapshot_names(),
                })?;
                let home = store.created_home(name)?;
                for (from, to) in [
                    (source.key(), home.key()),
                    (source.public_key(), home.public_key()),
                    (source.known_hosts(), home.known_hosts()),
                ] {
                    fs::copy(&from, &to).map_err(Error::io("cannot copy", from))?;
                }
                let link = network::choose_link(&links(&store)?, saved.subnet.network)?;
                let record = Record { name: name.clone(), link, ..saved };
                record.write(&home)?;
                record
            }
        };
        let sandbox = Sandbox { store, record };
        sandbox.bring_up(executable, tell)?;
        Ok(sandbox)
    }

    /// The sandbox of this name.
    pub fn open(store: &Store, name: &Name) -> Result<Sandbox> {
        requirements::root()?;
        let store = store.resolved();
        let home = store.sandbox(name);
        let record = Record::read(&home)?.ok_or_else(|| match home.path().exists() {
            true => Error::Incomplete { name: name.clone() },
            false => Error::NoSuchSandbox { name: name.clone(), known: store.names() },
        })?;
        Ok(Sandbox { store, record })
    }

    /// The sandbox of this name; without a name, the only one there is.
    pub fn open_or_only(store: &Store, name: Option<&Name>) -> Result<Sandbox> {
        match name {
            Some(name) => Sandbox::open(store, name),
            None => match &store.names()[..] {
                [] => Err(Error::NoSandbox),
                [only] => Sandbox::open(store, only),
                several => Err(Error::WhichSandbox { known: several.to_vec() }),
            },
        }
    }

    pub fn name(&self) -> &Name {
        &self.record.name
    }

    pub fn hosts(&self) -> &[HostSpec] {
        &self.record.hosts
    }

    /// The host of this name.
    pub fn host(&self, name: &str) -> Result<&HostSpec> {
        self.record.host(name).map(|(_, host)| host)
    }

    /// The sandbox's network namespace, as a file.
    pub fn namespace(&self) -> PathBuf {
        Names::of(self.name()).path()
    }

    /// A host's own network namespace, as a file, while the host runs: the way to what listens on it
    /// that does not depend on its cable.
    pub fn host_network(&self, host: &str) -> Result<Option<PathBuf>> {
        Ok(Host::find(&self.store, &self.record, host)?.network())
    }

    /// The private key that logs in to every host.
    pub fn identity_file(&self) -> PathBuf {
        self.home().key()
    }

    /// The hosts' keys, in the format of OpenSSH.
    pub fn known_hosts(&self) -> PathBuf {
        self.home().known_hosts()
    }

    pub fn status(&self) -> Status {
        let hosts = Host::all(&self.store, &self.record).into_iter().map(|host| HostStatus {
            name: host.spec.name.clone(),
            address: host.spec.address,
            state: match (host.runs(), host.is_cut()) {
                (false, _) => HostState::Down,
                (true, true) => HostState::Cut,
                (true, false) => HostState::Running,
            },
        });
        Status {
            name: self.name().clone(),
            image: self.record.image,
            snapshot: self.record.layers.first().cloned(),
            network: self.record.subnet.network,
            gateway: self.record.subnet.gateway,
            hosts: hosts.collect(),
        }
    }

    /// Boots the named hosts, all of them if none is named, side by side.
    pub fn start(&self, hosts: &[String], executable: &Path, tell: &(dyn Fn(Event) + Sync)) -> Result<()> {
        let _lock = self.store.lock_sandbox(self.name())?;
        self.ensure_surroundings(executable)?;
        self.each(hosts, |host| {
            let took = host.start()?;
            tell(Event::HostUp(host.spec.name.clone(), took));
            Ok(())
        })
    }

    /// Shuts the named hosts down in order, all of them if none is named, side by side.
    pub fn stop(&self, hosts: &[String], tell: &(dyn Fn(Event) + Sync)) -> Result<()> {
        let _lock = self.store.lock_sandbox(self.name())?;
        self.stop_locked(hosts, tell)
    }

    /// Cuts the power of the named hosts.
    pub fn kill(&self, hosts: &[String]) -> Result<()> {
        let _lock = self.store.lock_sandbox(self.name())?;
        self.each(hosts, |host| host.kill().map(drop))
    }

    /// Cuts the network of the named hosts.
    pub fn cut(&self, hosts: &[String]) -> Result<()> {
        self.each(hosts, |host| host.set_connected(false))
    }

    /// Restores the network of the named hosts.
    pub fn join(&self, hosts: &[String]) -> Result<()> {
        self.each(hosts, |host| host.set_connected(true))
    }

    /// Removes a sandbox with everything that belongs to it, also what a killed run left of it. The
    /// hosts are not shut down, their power is cut. True if there was something.
    pub fn down(store: &Store, name: &Name) -> Result<bool> {
        requirements::root()?;
        let store = store.resolved();
        let existed = store.sandbox(name).path().exists() || Names::of(name).path().exists();
        if store.root().exists() {
            let _lock = store.lock_sandbox(name)?;
            remove(&store, name)?;
            image::sweep(&store)?;
        }
        Ok(existed)
    }

    /// Removes what belongs to no sandbox: the remains of image builds that were killed.
    pub fn sweep(store: &Store) -> Result<()> {
        requirements::root()?;
        image::sweep(&store.resolved())
    }

    pub(super) fn store(&self) -> &Store {
        &self.store
    }

    pub(super) fn record(&self) -> &Record {
        &self.record
    }

    pub(super) fn stop_locked(&self, hosts: &[String], tell: &(dyn Fn(Event) + Sync)) -> Result<()> {
        self.each(hosts, |host| {
            let started = std::time::Instant::now();
            let name = host.spec.name.clone();
            match host.stop()? {
                Stopped::WasDown => {}
                Stopped::Orderly => tell(Event::HostDown(name)),
                Stopped::Forced => tell(Event::HostForcedDown(name, started.elapsed())),
            }
            Ok(())
        })
    }

    fn home(&self) -> Home {
        self.store.sandbox(self.name())
    }

    fn bring_up(&self, executable: &Path, tell: &(dyn Fn(Event) + Sync)) -> Result<()> {
        self.ensure_key()?;
        self.ensure_surroundings(executable)?;
        self.each(&[], |host| {
            let took = host.start()?;
            tell(Event::HostUp(host.spec.name.clone(), took));
            Ok(())
        })?;
        let lines: Result<Vec<String>> =
            Host::all(&self.store, &self.record).iter().map(Host::known_host).collect();
        layout::write(&self.home().known_hosts(), lines?.concat().as_bytes(), 0o644)
    }

    fn ensure_key(&self) -> Result<()> {
        let (key, public) = (self.home().key(), self.home().public_key());
        if key.exists() && public.exists() {
            return Ok(());
        }
        for half in [&key, &public] {
            let _ = fs::remove_file(half);
        }
        let comment = format!("pgfleet-sandbox-{}", self.name());
        run(Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-C", &comment, "-f"]).arg(key))
            .map(drop)
    }

    /// The network and the package cache; and that no launch of a killed run is under way.
    fn ensure_surroundings(&self, executable: &Path) -> Result<()> {
        process::settle(self.home().path());
        {
            let _global = self.store.lock()?;
            if network::enable_forwarding()? {
                let mark = self.store.root().join(FORWARDING_WAS_OFF);
                fs::write(&mark, "").map_err(Error::io("cannot write", mark))?;
            }
            raise_inotify_limit();
        }
        network::ensure(&self.record)?;
        cache::ensure(&self.store, &self.home(), self.record.link.machine, executable)
    }

    /// Does the same on several hosts at once; the first error, after all have ended.
    fn each(&self, names: &[String], action: impl Fn(&Host<'_>) -> Result<()> + Sync) -> Result<()> {
        let hosts = if names.is_empty() {
            Host::all(&self.store, &self.record)
        } else {
            let found = names.iter().map(|name| Host::find(&self.store, &self.record, name));
            found.collect::<Result<Vec<_>>>()?
        };
        thread::scope(|scope| {
            let running: Vec<_> = hosts.iter().map(|host| scope.spawn(|| action(host))).collect();
            let results = running.into_iter().map(|thread| match thread.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            });
            results.collect::<Vec<_>>().into_iter().collect()
        })
    }
}

impl Record {
    /// The record with the hosts of `spec` that it lacks. What it has must not differ.
    fn extended(mut self, spec: &Spec) -> Result<Record> {
        let differs = |difference: String| Err(Error::Differs { name: self.name.clone(), difference });
        if spec.image != self.image {
            return differs(format!("its hosts boot {}, not {}", self.image, spec.image));
        }
        for host in &spec.hosts {
            match self.hosts.iter().find(|known| known.name == host.name) {
                Some(known) if known == host => {}
                Some(known) if known.address != host.address => {
                    return differs(format!(
                        "`{}` has address {}, not {}",
                        host.name, known.address, host.address
                    ));
                }
                Some(_) => return differs(format!("`{}` has another user or SSH port", host.name)),
                None if !self.subnet.network.contains(&host.address) => {
                    let network = self.subnet.network;
                    return differs(format!(
                        "{} of `{}` is outside its network {network}",
                        host.address, host.name
                    ));
                }
                None if host.address == self.subnet.gateway => {
                    return differs(format!("{} of `{}` is its gateway's", host.address, host.name));
                }
                None => self.hosts.push(host.clone()),
            }
        }
        Ok(self)
    }
}

/// The links that the recorded sandboxes use.
fn links(store: &Store) -> Result<Vec<super::record::Link>> {
    let homes = store.names().into_iter().map(|name| store.sandbox(&name));
    // A record that can't be read belongs to a sandbox that can only be removed; its interface counts.
    Ok(homes.filter_map(|home| Record::read(&home).ok().flatten()).map(|record| record.link).collect())
}

/// Removes by name alone, since a killed run may have left any subset of a sandbox.
fn remove(store: &Store, name: &Name) -> Result<()> {
    let home = store.sandbox(name);
    let names = Names::of(name);
    process::settle(home.path());
    let hosts = || fs::read_dir(home.hosts()).into_iter().flatten().flatten().map(|host| host.path());
    let mut processes = process::in_network(&names.path());
    processes.extend(hosts().filter_map(|host| process::noted(&host.join("process"))));
    processes.extend(process::noted(&home.cache_process()));
    let children: Vec<_> = processes.iter().flat_map(|process| process.children()).collect();
    process::end(&children)?;
    process::end(&processes)?;
    for host in hosts() {
        nspawn::forget_root(&host.join("root"));
    }
    nspawn::forget_machines(&names);
    overlay::remove_below(home.path())?;
    network::remove(name)?;
    cgroup::remove(name);
    if home.path().exists() {
        fs::remove_dir_all(home.path()).map_err(Error::io("cannot remove", home.path()))?;
    }
    let _global = store.lock()?;
    let mark = store.root().join(FORWARDING_WAS_OFF);
    if store.names().is_empty() && mark.exists() {
        network::disable_forwarding()?;
        fs::remove_file(&mark).map_err(Error::io("cannot remove", mark))?;
    }
    Ok(())
}

fn raise_inotify_limit() {
    let current = fs::read_to_string(INOTIFY_LIMIT).ok().and_then(|text| text.trim().parse::<u32>().ok());
    if current.is_some_and(|current| current < INOTIFY_INSTANCES) {
        // Where it is refused, hosts may fail to boot, and say why on their console.
        let _ = fs::write(INOTIFY_LIMIT, INOTIFY_INSTANCES.to_string());
    }
}
