//! One host: prepared, booted, shut down, cut off.

use super::{
    Error, HostSpec, Name, Result, cgroup,
    command::run,
    image,
    layout::{self, Home, HostHome, Store},
    network::{self, Names},
    nspawn, overlay,
    process::{self, Tracked},
    record::Record,
};
use nix::{
    sched::{CloneFlags, setns},
    sys::signal::Signal,
};
use std::{
    fs::{self, File},
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    os::unix::fs::{DirBuilderExt, PermissionsExt, chown},
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

/// A host that has not answered by then will not.
const BOOT_LIMIT: Duration = Duration::from_secs(120);
/// What runs on a host has this long to stop in an orderly shutdown.
const STOP_LIMIT: Duration = Duration::from_secs(90);
const POWER_OFF_LIMIT: Duration = Duration::from_secs(30);
const CONSOLE_LINES: usize = 15;
/// The port of the package cache at this machine's end of the link.
pub(super) const CACHE_PORT: u16 = 3142;

/// A host of a recorded sandbox.
pub(super) struct Host<'a> {
    pub store: &'a Store,
    pub record: &'a Record,
    pub number: usize,
    pub spec: &'a HostSpec,
}

/// How a host came down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stopped {
    WasDown,
    Orderly,
    /// Its power was cut after the time for an orderly shutdown had passed.
    Forced,
}

impl<'a> Host<'a> {
    pub fn find(store: &'a Store, record: &'a Record, name: &str) -> Result<Host<'a>> {
        let (number, spec) = record.host(name)?;
        Ok(Host { store, record, number, spec })
    }

    pub fn all(store: &'a Store, record: &'a Record) -> Vec<Host<'a>> {
        record.hosts.iter().enumerate().map(|(number, spec)| Host { store, record, number, spec }).collect()
    }

    fn home(&self) -> HostHome {
        self.sandbox().host(&self.spec.name)
    }

    fn sandbox(&self) -> Home {
        self.store.sandbox(&self.record.name)
    }

    fn name(&self) -> &Name {
        &self.record.name
    }

    /// The systemd-nspawn process of the host, if it runs.
    fn supervisor(&self) -> Option<Tracked> {
        process::noted(&self.home().process())
    }

    pub fn runs(&self) -> bool {
        self.supervisor().is_some()
    }

    /// Whether the host runs with its network cut.
    pub fn is_cut(&self) -> bool {
        self.runs() && !network::port_is_up(self.name(), self.number)
    }

    /// The host's own network namespace, if it runs.
    pub fn network(&self) -> Option<PathBuf> {
        let init = *self.supervisor()?.children().first()?;
        Some(init.network())
    }

    /// Boots the host unless it runs, and returns when it answers on its SSH port.
    pub fn start(&self) -> Result<Duration> {
        let started = Instant::now();
        if !self.runs() {
            self.mount()?;
            self.settle_in()?;
            self.boot()?;
        }
        self.await_ssh(started)?;
        Ok(started.elapsed())
    }

    /// Mounts the host's file system: its changes, the snapshots it stands on, the image.
    pub fn mount(&self) -> Result<()> {
        let mut lower: Vec<PathBuf> = Vec::new();
        for snapshot in &self.record.layers {
            let layer = self.store.snapshot(snapshot).host(&self.spec.name).upper();
            // A host that was added after the snapshot has no layer in it.
            if layer.exists() {
                lower.push(layer);
            }
        }
        lower.push(image::path(self.store, &self.record.image_build));
        overlay::ensure(&self.home(), &lower)
    }

    pub fn unmount(&self) -> Result<()> {
        nspawn::forget_root(&self.home().root());
        overlay::remove_below(&self.home().root())
    }

    /// Writes what makes the host this host: its names, address, keys. Changes nothing that the host
    /// may have changed since it first booted.
    fn settle_in(&self) -> Result<()> {
        let root = self.home().root();
        let etc = root.join("etc");
        let HostSpec { name, address, port, user } = self.spec;
        let subnet = self.record.subnet;
        copy_resolvers(&etc)?;
        let proxy = format!("Acquire::http::Proxy \"http://{}:{CACHE_PORT}\";\n", self.record.link.machine)
            + "Acquire::https::Proxy \"DIRECT\";\nAcquire::Retries \"3\";\n"
            // The cache keeps them for all hosts.
            + "APT::Keep-Downloaded-Packages \"false\";\n";
        put(&etc.join("apt/apt.conf.d/90package-cache"), &proxy)?;
        let key = fs::read_to_string(self.sandbox().public_key())
            .map_err(Error::io("cannot read", self.sandbox().public_key()))?;
        if fs::metadata(etc.join("machine-id")).is_ok_and(|file| file.len() > 0) {
            return Ok(());
        }
        put(&etc.join("hostname"), &format!("{name}\n"))?;
        put(
            &etc.join("hosts"),
            &format!("127.0.0.1 localhost\n::1 localhost ip6-localhost\n{address} {name}\n"),
        )?;
        // A VM whose network is cut somewhere keeps its address; a cut here takes the carrier away.
        let network = format!(
            "[Match]\nName=host0\n\n[Network]\nAddress={address}/{}\nGateway={}\nLinkLocalAddressing=no\n\
             IPv6AcceptRA=no\nIgnoreCarrierLoss=yes\n",
            subnet.network.prefix_len(),
            subnet.gateway
        );
        put(&etc.join("systemd/network/10-host0.network"), &network)?;
        if *port != 22 {
            put(&etc.join("ssh/sshd_config.d/10-port.conf"), &format!("Port {port}\n"))?;
        }
        self.make_host_key(&etc)?;
        for user in ["root", "admin", user] {
            authorize(&root, user, &key)?;
        }
        // Last, because its content says that the rest is there.
        let identity: [u8; 16] = rand::random();
        let identity: String = identity.iter().map(|byte| format!("{byte:02x}")).collect();
        put(&etc.join("machine-id"), &format!("{identity}\n"))
    }

    fn make_host_key(&self, etc: &Path) -> Result<()> {
        let key = etc.join("ssh/ssh_host_ed25519_key");
        for file in [key.clone(), key.with_extension("pub")] {
            let _ = fs::remove_file(file);
        }
        let comment = format!("root@{}", self.spec.name);
        run(Command::new("ssh-keygen")
            .args(["-q", "-t", "ed25519", "-N", "", "-C", &comment, "-f"])
            .arg(&key))
        .map(drop)
    }

    /// The line of known_hosts for this host.
    pub fn known_host(&self) -> Result<String> {
        let path = self.home().root().join("etc/ssh/ssh_host_ed25519_key.pub");
        let key = fs::read_to_string(&path).map_err(Error::io("cannot read", &path))?;
        let key: Vec<&str> = key.split_ascii_whitespace().take(2).collect();
        let HostSpec { name, address, port, .. } = self.spec;
        let names = match port {
            22 => format!("{name},{address}"),
            port => format!("[{name}]:{port},[{address}]:{port}"),
        };
        Ok(format!("{names} {}\n", key.join(" ")))
    }

    fn boot(&self) -> Result<()> {
        let names = Names::of(self.name());
        let home = self.home();
        cgroup::remove_host(self.name(), &self.spec.name);
        let groups = cgroup::create(self.name(), &self.spec.name)?;
        let _ = fs::remove_file(home.console());
        let command = nspawn::command(&names, self.number, &self.spec.name, &home);
        process::launch(&home.process(), &home.console(), &groups, &command)
    }

    fn await_ssh(&self, since: Instant) -> Result<()> {
        let address = SocketAddr::from((self.spec.address, self.spec.port));
        let namespace = Names::of(self.name()).path();
        let supervisor = process::await_note(&self.home().process(), Duration::from_secs(10));
        // Entering a namespace changes the calling thread for good, so a thread of its own does it.
        let answered = thread::scope(|scope| {
            let probe = scope.spawn(|| {
                enter_namespace(&namespace)?;
                loop {
                    match ssh_banner(address) {
                        Ok(()) => return Ok(()),
                        Err(why) if since.elapsed() > BOOT_LIMIT => return Err(why),
                        Err(_) if !supervisor.is_some_and(Tracked::runs) => {
                            return Err("it shut down".to_owned());
                        }
                        Err(_) => thread::sleep(Duration::from_millis(30)),
                    }
                }
            });
            probe.join().unwrap_or_else(|_| Err("the probe failed".to_owned()))
        });
        answered.map_err(|why| Error::Boot {
            host: self.spec.name.clone(),
            waited_secs: since.elapsed().as_secs(),
            why,
            console: self.home().console(),
            tail: layout::tail(&self.home().console(), CONSOLE_LINES),
        })
    }

    /// Shuts the host down as `poweroff` would.
    pub fn stop(&self) -> Result<Stopped> {
        let Some(supervisor) = self.supervisor() else { return Ok(Stopped::WasDown) };
        supervisor.signal(Signal::SIGTERM)?;
        if supervisor.wait(STOP_LIMIT) {
            return Ok(Stopped::Orderly);
        }
        self.kill()?;
        Ok(Stopped::Forced)
    }

    /// Cuts the host's power: nothing on it runs another instruction, nobody hears that it is gone.
    pub fn kill(&self) -> Result<bool> {
        let Some(supervisor) = self.supervisor() else { return Ok(false) };
        // The kernel closes the sockets of what is killed, and tells the other end. A host without
        // power tells nobody, so its cable goes first.
        let _ = network::set_port(self.name(), self.number, false);
        for init in supervisor.children() {
            init.signal(Signal::SIGKILL)?;
        }
        if !supervisor.wait(POWER_OFF_LIMIT) {
            process::end(&[supervisor])?;
        }
        Ok(true)
    }

    /// Cuts or restores the host's network; what runs on it goes on.
    pub fn set_connected(&self, connected: bool) -> Result<()> {
        if !self.runs() {
            return Err(Error::NotRunning { host: self.spec.name.clone() });
        }
        network::set_port(self.name(), self.number, connected)
    }
}

/// Makes the calling thread a member of a network namespace.
pub(super) fn enter_namespace(namespace: &Path) -> Result<(), String> {
    let opened = File::open(namespace).map_err(|error| format!("{}: {error}", namespace.display()))?;
    setns(opened, CloneFlags::CLONE_NEWNET).map_err(|errno| format!("{}: {errno}", namespace.display()))
}

fn ssh_banner(address: SocketAddr) -> Result<(), String> {
    let limit = Duration::from_secs(2);
    let attempt = || {
        let mut stream = TcpStream::connect_timeout(&address, limit)?;
        stream.set_read_timeout(Some(limit))?;
        let mut start = [0; 4];
        stream.read_exact(&mut start)?;
        // sshd logs a connection without a banner as an attack; one that says who it is, it does not.
        let _ = stream.write_all(b"SSH-2.0-pgfleet_sandbox\r\n");
        Ok::<_, std::io::Error>(start == *b"SSH-")
    };
    match attempt() {
        Ok(true) => Ok(()),
        Ok(false) => Err("something else than sshd answers".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

fn put(path: &Path, text: &str) -> Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(Error::io("cannot create", folder))?;
    }
    fs::write(path, text).map_err(Error::io("cannot write", path))
}

/// Gives the host the name servers of this machine, without those that only this machine reaches.
fn copy_resolvers(etc: &Path) -> Result<()> {
    const SOURCES: [&str; 2] = ["/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"];
    let reachable = SOURCES.iter().filter_map(|path| fs::read_to_string(path).ok()).find_map(|text| {
        let kept: Vec<&str> = text.lines().filter(|line| !is_local_resolver(line)).collect();
        let any = kept.iter().any(|line| line.starts_with("nameserver"));
        any.then(|| kept.join("\n") + "\n")
    });
    let path = etc.join("resolv.conf");
    let _ = fs::remove_file(&path);
    put(&path, &reachable.unwrap_or_default())
}

fn is_local_resolver(line: &str) -> bool {
    line.strip_prefix("nameserver").is_some_and(|address| {
        let address = address.trim();
        address.starts_with("127.") || address == "::1"
    })
}

/// Lets the key log in as a user, who is made if missing and may then use sudo.
fn authorize(root: &Path, user: &str, key: &str) -> Result<()> {
    let account = match account(root, user)? {
        Some(account) => account,
        None => {
            let shell = ["--create-home", "--shell", "/bin/bash", "--", user];
            run(Command::new("chroot").arg(root).arg("useradd").args(shell))?;
            let rule = root.join("etc/sudoers.d").join(format!("90-{}", user.replace('.', "_")));
            put(&rule, &format!("{user} ALL=(ALL) NOPASSWD: ALL\n"))?;
            fs::set_permissions(&rule, fs::Permissions::from_mode(0o440))
                .map_err(Error::io("cannot write", &rule))?;
            account(root, user)?.ok_or_else(|| {
                Error::io("no user was made in", root.join("etc/passwd"))(std::io::ErrorKind::NotFound.into())
            })?
        }
    };
    let folder = root.join(account.home.trim_start_matches('/')).join(".ssh");
    let keys = folder.join("authorized_keys");
    let written = (|| {
        if !folder.exists() {
            fs::DirBuilder::new().mode(0o700).create(&folder)?;
        }
        fs::write(&keys, key)?;
        fs::set_permissions(&keys, fs::Permissions::from_mode(0o600))?;
        chown(&folder, Some(account.uid), Some(account.gid))?;
        chown(&keys, Some(account.uid), Some(account.gid))
    })();
    written.map_err(Error::io("cannot write", &keys))
}

struct Account {
    uid: u32,
    gid: u32,
    home: String,
}

fn account(root: &Path, user: &str) -> Result<Option<Account>> {
    let path = root.join("etc/passwd");
    let text = fs::read_to_string(&path).map_err(Error::io("cannot read", &path))?;
    Ok(text.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        match fields[..] {
            [name, _, uid, gid, _, home, ..] if name == user => {
                Some(Account { uid: uid.parse().ok()?, gid: gid.parse().ok()?, home: home.to_owned() })
            }
            _ => None,
        }
    }))
}
