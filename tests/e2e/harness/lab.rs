//! A cluster on sandbox hosts. A bootstrapped one is made once for each state of the program and kept as a
//! snapshot, from which every test boots its own in seconds.

use super::{
    postgres::{Login, query},
    program::{Ran, Scratch, eventually, pgfleet, run},
    sampler::{Node, Sampler},
    writer::Writer,
};
use nix::fcntl::{Flock, FlockArg};
use pgfleet::{
    inventory::Inventory,
    model::Digest,
    sandbox::{Sandbox, Store},
    secret::Keyring,
};
use serde_json::Value;
use std::{
    fs::{self, File},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::Duration,
};

const HEALTHY_LIMIT: Duration = Duration::from_secs(180);

/// Hosts of an inventory, and the inventory with its passwords.
pub struct Lab {
    pub scratch: Scratch,
    folder: tempfile::TempDir,
    extra_vars: Vec<String>,
    /// The file with the passphrase of the inventory's secrets, once they are sealed.
    passphrase: Vec<PathBuf>,
}

/// What a lab is made of; equal recipes give equal snapshots.
struct Recipe<'a> {
    inventory: &'a str,
    image: &'a str,
    extra_vars: Vec<String>,
}

impl Lab {
    /// Booted hosts with nothing on them, of `inventories/NAME.yml`.
    #[track_caller]
    pub fn fresh(inventory: &str, image: &str, extra_vars: &[&str]) -> Lab {
        let recipe = Recipe::new(inventory, image, extra_vars);
        let lab = Lab::around(&recipe, Scratch::new(inventory));
        fs::copy(recipe.source(), lab.inventory()).unwrap();
        lab.boot_fresh(image);
        lab
    }

    /// A healthy cluster of `inventories/NAME.yml`.
    #[track_caller]
    pub fn bootstrapped(inventory: &str, image: &str) -> Lab {
        Lab::bootstrapped_with(inventory, image, &[])
    }

    /// As [`Lab::bootstrapped`], with extra variables (`-e`).
    #[track_caller]
    pub fn bootstrapped_with(inventory: &str, image: &str, extra_vars: &[&str]) -> Lab {
        let recipe = Recipe::new(inventory, image, extra_vars);
        let lab = Lab::around(&recipe, Scratch::new(inventory));
        let kept = recipe.keep();
        for entry in fs::read_dir(&kept.folder).unwrap().flatten() {
            fs::copy(entry.path(), lab.folder.path().join(entry.file_name())).unwrap();
        }
        lab.scratch.run("up", &["--from", &kept.snapshot]).success();
        lab.until_healthy(HEALTHY_LIMIT);
        lab
    }

    fn around(recipe: &Recipe<'_>, scratch: Scratch) -> Lab {
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        Lab { scratch, folder, extra_vars: recipe.extra_vars.clone(), passphrase: Vec::new() }
    }

    #[track_caller]
    fn boot_fresh(&self, image: &str) {
        let inventory = self.inventory().display().to_string();
        let mut arguments = vec!["-i", &inventory, "--image", image];
        arguments.extend(self.extra_vars.iter().flat_map(|variable| ["-e", variable]));
        self.scratch.run("up", &arguments).success();
    }

    /// This lab's own copy of the inventory.
    pub fn inventory(&self) -> PathBuf {
        self.folder.path().join("inventory.yml")
    }

    /// The inventory as the program reads it.
    pub fn loaded(&self) -> Inventory {
        let keys = Keyring::new(&self.passphrase, |_| None);
        Inventory::load_with(&self.inventory(), &self.extra_vars, &keys)
            .unwrap_or_else(|wrong| panic!("{wrong}"))
    }

    /// Seals the secrets from now on with this passphrase.
    #[track_caller]
    pub fn seal(&mut self, passphrase: &str) {
        let file = self.folder.path().join("passphrase");
        fs::write(&file, passphrase).unwrap();
        self.passphrase = vec![file];
        self.pgfleet(&["secrets", "init"]).success();
    }

    /// From now on every command has these variables (`-e`) too.
    pub fn set(&mut self, variables: &[&str]) {
        self.extra_vars.extend(variables.iter().map(|text| (*text).to_owned()));
    }

    /// `pgfleet ARGUMENTS` on this lab's hosts, not yet started.
    pub fn command(&self, arguments: &[&str]) -> Command {
        // Before what `--` keeps for somebody else, and behind the subcommand.
        let words = if arguments.first() == Some(&"secrets") { 2 } else { 1 };
        let (name, rest) = arguments.split_at(words);
        let mut command = pgfleet(name);
        command.arg("-i").arg(self.inventory()).args(["--sandbox", &self.scratch.name, "--yes"]);
        command.args(self.extra_vars.iter().flat_map(|variable| ["-e", variable]));
        for file in &self.passphrase {
            command.arg("--vault-password-file").arg(file);
        }
        command.args(rest);
        command
    }

    /// `pgfleet ARGUMENTS` on this lab's hosts.
    pub fn pgfleet(&self, arguments: &[&str]) -> Ran {
        run(&mut self.command(arguments))
    }

    /// What `pgfleet status` says; none while it can't.
    pub fn status(&self) -> Option<Value> {
        let ran = self.pgfleet(&["status", "--format", "json"]);
        serde_json::from_str(&ran.stdout).ok()
    }

    /// Waits until the cluster says that it is healthy, and returns its status.
    #[track_caller]
    pub fn until_healthy(&self, limit: Duration) -> Value {
        let mut last = Value::Null;
        let healthy = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            eventually("the cluster is healthy", limit, || {
                last = self.status()?;
                (last["healthy"] == true).then(|| last.clone())
            })
        }));
        healthy.unwrap_or_else(|_| panic!("not healthy within {limit:?}: {last:#}"))
    }

    /// The members with this role, by name.
    pub fn members(&self, role: &str) -> Vec<String> {
        let status = self.status().unwrap_or_default();
        let members = status["members"].as_array().cloned().unwrap_or_default();
        let named = members.iter().filter(|member| member["role"] == role);
        named.filter_map(|member| Some(member["name"].as_str()?.to_owned())).collect()
    }

    /// Waits until there is exactly one leader, other than `not`, and returns its name.
    #[track_caller]
    pub fn leader(&self, not: Option<&str>) -> String {
        eventually("there is a leader", HEALTHY_LIMIT, || {
            let leaders = [self.members("leader"), self.members("primary")].concat();
            match &leaders[..] {
                [only] if Some(only.as_str()) != not => Some(only.clone()),
                _ => None,
            }
        })
    }

    /// The sandbox's network namespace.
    pub fn network(&self) -> PathBuf {
        let name = self.scratch.name.parse().unwrap();
        Sandbox::open(&Store::from_environment(), &name).unwrap().namespace()
    }

    /// The superuser.
    pub fn login(&self) -> Login {
        let inventory = self.loaded();
        let superuser = inventory.superuser().expect("a superuser");
        Login {
            user: superuser.user,
            password: Some(superuser.password.expose().to_owned()),
            tls: inventory.tls_client().expect("a client").map(Arc::new),
        }
    }

    /// Where clients that write connect.
    pub fn write_entry(&self) -> SocketAddr {
        self.loaded().write_endpoints().first().expect("an entry point").parse().unwrap()
    }

    /// Where clients that only read connect.
    pub fn read_entry(&self) -> SocketAddr {
        self.loaded().read_endpoints().first().expect("an entry point").parse().unwrap()
    }

    /// Where PostgreSQL itself listens on a host.
    pub fn postgres(&self, host: &str) -> SocketAddr {
        let inventory = self.loaded();
        let host = inventory.hosts.get(host).unwrap_or_else(|| panic!("no host {host}"));
        host.postgres_endpoint().expect("a host of postgres").parse().unwrap()
    }

    /// The rows of a query as text, or what the server says against it.
    pub fn sql(&self, at: SocketAddr, sql: &str) -> Result<Vec<Vec<String>>, String> {
        query(self.network(), at, self.login(), sql)
    }

    /// A client that writes through the entry point.
    #[track_caller]
    pub fn writer(&self) -> Writer {
        Writer::start(self.network(), self.write_entry(), self.login())
    }

    /// An eye on all nodes.
    #[track_caller]
    pub fn sampler(&self) -> Sampler {
        let inventory = self.loaded();
        let nodes = inventory.group("postgres").map(|host| Node {
            sandbox: self.scratch.name.clone(),
            host: host.name.to_string(),
            address: host.postgres_endpoint().expect("a host of postgres").parse().unwrap(),
        });
        Sampler::start(self.network(), self.write_entry(), nodes.collect(), &self.login())
    }
}

/// A bootstrapped cluster at rest.
struct Kept {
    snapshot: String,
    /// The inventory and its passwords.
    folder: PathBuf,
}

impl<'a> Recipe<'a> {
    fn new(inventory: &'a str, image: &'a str, extra_vars: &[&str]) -> Recipe<'a> {
        Recipe { inventory, image, extra_vars: extra_vars.iter().map(|text| (*text).to_owned()).collect() }
    }

    fn source(&self) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("inventories").join(format!("{}.yml", self.inventory))
    }

    /// The same cluster in this working copy, whatever the state of the program.
    fn family(&self) -> String {
        let parts = [env!("CARGO_MANIFEST_DIR"), &self.extra_vars.join("\0")].join("\0\0");
        let digest = Digest::of(parts.as_bytes()).to_string();
        format!("lab-{}-{}-{}-", &digest[..6], self.inventory, self.image)
    }

    /// The state of everything that the outcome of a bootstrap depends on.
    fn key(&self) -> String {
        let parts = [Path::new(env!("CARGO_BIN_EXE_pgfleet")), &self.source()];
        let digests = parts.map(|part| Digest::of(&fs::read(part).unwrap()).to_string());
        Digest::of(digests.concat().as_bytes()).to_string()[..10].to_owned()
    }

    /// The snapshot of this recipe, bootstrapped now if no test has done it yet.
    #[track_caller]
    fn keep(&self) -> Kept {
        let labs = Path::new(env!("CARGO_TARGET_TMPDIR")).join("labs");
        let snapshot = format!("{}{}", self.family(), self.key());
        let kept = Kept { folder: labs.join(&snapshot), snapshot };
        fs::create_dir_all(&labs).unwrap();
        let lock = File::create(labs.join(format!("{}.lock", kept.snapshot))).unwrap();
        let _lock = Flock::lock(lock, FlockArg::LockExclusive).unwrap();
        let known = snapshots();
        if known.contains(&kept.snapshot) && kept.folder.exists() {
            return kept;
        }
        // Of an older program, or without its passwords. One that a running test stands on stays.
        for old in known.iter().filter(|old| old.starts_with(&self.family())) {
            let _ = run(&mut pgfleet(&["sandbox", "forget", old]));
            let _ = fs::remove_dir_all(labs.join(old));
        }
        let lab = Lab::around(self, Scratch::new("lab"));
        fs::copy(self.source(), lab.inventory()).unwrap();
        lab.boot_fresh(self.image);
        lab.pgfleet(&["bootstrap"]).success();
        lab.until_healthy(HEALTHY_LIMIT);
        lab.scratch.run("save", &[&kept.snapshot]).success();
        // Last and whole, because its presence says that the snapshot is complete.
        fs::rename(lab.folder.keep(), &kept.folder).unwrap();
        kept
    }
}

fn snapshots() -> Vec<String> {
    let listed = run(&mut pgfleet(&["sandbox", "list", "--format", "json"])).success();
    let listed: Value = serde_json::from_str(&listed).unwrap();
    let names = listed["snapshots"].as_array().unwrap().iter();
    names.filter_map(|snapshot| Some(snapshot["name"].as_str()?.to_owned())).collect()
}
