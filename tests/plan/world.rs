//! A cluster of directory trees: made what an inventory says, changed by hand, and planned for another.

use crate::postgres::support::Node;
use axum::{Json, Router, extract::State, http::StatusCode, routing::get};
use pgfleet::{
    engine::{
        Consequences, Engine, Inputs, Mask, NoHands, Options, Report, Request, SavedPlan, Worker, lint,
    },
    inventory::{Host, Inventory},
    playbook::{Action, Play, Playbook, Sources, Task},
    remote::{protocol::Mode, serve},
    ssh::{self, Executables},
    template::Templates,
    ui,
};
use serde_json::{Map, Value, json};
use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};
use tokio_util::sync::CancellationToken;

/// What is carried out to make the trees what an inventory says: all that is a file.
const FILES: [&str; 9] = [
    "file",
    "copy",
    "template",
    "blockinfile",
    "systemd_unit",
    "sysctl",
    "pam_limits",
    "dynamic_config",
    "generation",
];

/// What asks running services, or makes answers of what they said.
const ASKS: [&str; 5] =
    ["agent_binary", "etcd_membership", "postgres_roles", "postgres_replication", "set_fact"];

pub struct World {
    folder: tempfile::TempDir,
    agents: Agents,
    agents_port: u16,
    postgres_port: u16,
    socket_dir: PathBuf,
    inventory: String,
    /// Hosts on which nothing runs yet.
    fresh: Vec<String>,
    pub options: Asked,
}

/// What `plan` is given besides the inventory.
#[derive(Clone, Default)]
pub struct Asked {
    pub limit: Option<&'static str>,
    pub tags: Vec<&'static str>,
    pub overwrite_drift: bool,
}

/// What the agents' REST API knows.
#[derive(Clone, Default)]
struct Agents {
    config: Arc<Mutex<Map<String, Value>>>,
    members: Arc<Mutex<Vec<String>>>,
}

impl Agents {
    /// Serves them all on one port of the loopback interface.
    async fn serve(&self) -> u16 {
        let router = Router::new()
            .route("/config", get(Self::config).patch(Self::patch))
            .route("/cluster", get(Self::cluster))
            .with_state(self.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        tokio::spawn(async move { axum::serve(listener, router).await });
        port
    }

    /// As an agent whose cluster is yet to be made, where there is none.
    async fn config(State(agents): State<Agents>) -> Result<Json<Value>, StatusCode> {
        if agents.are_none() {
            return Err(StatusCode::SERVICE_UNAVAILABLE);
        }
        Ok(Json(Value::Object(agents.config.lock().expect("a lock").clone())))
    }

    fn are_none(&self) -> bool {
        self.members.lock().expect("a lock").is_empty()
    }

    async fn patch(State(agents): State<Agents>, Json(patch): Json<Map<String, Value>>) -> Json<Value> {
        let mut config = agents.config.lock().expect("a lock");
        merge(&mut config, &patch);
        Json(Value::Object(config.clone()))
    }

    async fn cluster(State(agents): State<Agents>) -> Json<Value> {
        let members = agents.members.lock().expect("a lock");
        let member = |(index, name): (usize, &String)| {
            let (role, state) = if index == 0 { ("leader", "running") } else { ("replica", "streaming") };
            json!({"name": name, "role": role, "state": state, "timeline": 1, "lag": 0})
        };
        Json(json!({"members": members.iter().enumerate().map(member).collect::<Vec<_>>()}))
    }
}

fn merge(current: &mut Map<String, Value>, patch: &Map<String, Value>) {
    for (key, value) in patch {
        match (current.get_mut(key), value) {
            (_, Value::Null) => drop(current.shift_remove(key)),
            (Some(Value::Object(current)), Value::Object(patch)) => merge(current, patch),
            _ => drop(current.insert(key.clone(), value.clone())),
        }
    }
}

impl World {
    /// Trees with what packages bring, and nothing of ours. `inventory` is what is planned for.
    pub async fn new(inventory: &str, server: &Node) -> World {
        let agents = Agents::default();
        let agents_port = agents.serve().await;
        let shm = Path::new("/dev/shm");
        let folder = if shm.is_dir() { tempfile::tempdir_in(shm) } else { tempfile::tempdir() };
        let world = World {
            folder: folder.expect("a folder"),
            agents,
            agents_port,
            postgres_port: server.server.settings().port,
            socket_dir: server.folder.clone(),
            inventory: inventory.to_owned(),
            fresh: Vec::new(),
            options: Asked::default(),
        };
        world.inventory().hosts.keys().for_each(|host| world.install(host.as_str()));
        world
    }

    /// A host as its packages leave it.
    fn install(&self, host: &str) {
        for folder in [
            "etc/sysctl.d",
            "etc/security/limits.d",
            "etc/default",
            "etc/haproxy",
            "etc/postgresql-common",
            "etc/systemd/system/multi-user.target.wants",
            "usr/lib/systemd/system",
            "var/lib/dpkg",
            "sys/fs/cgroup/system.slice",
        ] {
            fs::create_dir_all(self.path(host, folder)).expect("a folder");
        }
        let me = (nix::unistd::geteuid(), nix::unistd::getegid());
        let users = ["root", "postgres", "etcd"];
        let passwd = users.map(|name| format!("{name}:x:{}:{}::/:/bin/sh\n", me.0, me.1)).concat();
        let group = users.map(|name| format!("{name}:x:{}:\n", me.1)).concat();
        self.write(host, "etc/passwd", &passwd);
        self.write(host, "etc/group", &group);
        self.write(host, "etc/hosts", "127.0.0.1 localhost\n");
        self.write(host, "etc/os-release", "ID=debian\nVERSION_ID=\"13\"\nVERSION_CODENAME=trixie\n");
        let packages =
            ["etcd-server", "etcd-client", "postgresql-17", "postgresql-client-17", "haproxy", "keepalived"];
        let packages =
            packages.map(|name| format!("Package: {name}\nStatus: hold ok installed\nVersion: 1.2-3\n\n"));
        self.write(host, "var/lib/dpkg/status", &packages.concat());
        for unit in ["haproxy", "keepalived"] {
            self.write(host, &format!("usr/lib/systemd/system/{unit}.service"), "[Service]\n");
        }
    }

    pub fn path(&self, host: &str, path: &str) -> PathBuf {
        self.folder.path().join(host).join(path)
    }

    pub fn write(&self, host: &str, path: &str, text: &str) {
        fs::write(self.path(host, path), text).expect(path);
    }

    /// Changes a file as an operator with an editor would.
    pub fn edit(&self, host: &str, path: &str, from: &str, to: &str) {
        let text = fs::read_to_string(self.path(host, path)).expect(path);
        assert!(text.contains(from), "{path} of {host} has no `{from}`:\n{text}");
        self.write(host, path, &text.replacen(from, to, 1));
    }

    pub fn remove(&self, host: &str, path: &str) {
        let path = self.path(host, path);
        let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        removed.expect("removed");
    }

    /// Has a unit run, and start with the host.
    fn start(&self, host: &str, unit: &str) {
        fs::create_dir_all(self.path(host, &format!("sys/fs/cgroup/system.slice/{unit}.service")))
            .expect("a group");
        let wants = format!("etc/systemd/system/multi-user.target.wants/{unit}.service");
        let _ = symlink(format!("/usr/lib/systemd/system/{unit}.service"), self.path(host, &wants));
    }

    pub fn stop(&self, host: &str, unit: &str) {
        self.remove(host, &format!("sys/fs/cgroup/system.slice/{unit}.service"));
    }

    /// There is no cluster yet.
    pub fn forget_cluster(&self) {
        self.agents.members.lock().expect("a lock").clear();
    }

    pub fn disable(&self, host: &str, unit: &str) {
        self.remove(host, &format!("etc/systemd/system/multi-user.target.wants/{unit}.service"));
    }

    /// What the inventory is from now on.
    pub fn change(&mut self, from: &str, to: &str) {
        assert!(self.inventory.contains(from), "the inventory has no `{from}`");
        self.inventory = self.inventory.replacen(from, to, 1);
        for host in self.inventory().hosts.keys().map(ToString::to_string) {
            if !self.path(&host, "etc").exists() {
                self.install(&host);
                self.fresh.push(host);
            }
        }
    }

    fn extra_vars(&self) -> Vec<String> {
        vec![
            format!("agent_api_port={}", self.agents_port),
            format!("postgres_port={}", self.postgres_port),
            format!("postgres_socket_dir={}", self.socket_dir.display()),
        ]
    }

    /// The playbook with what its questions to systemd are answered: a tree has none to ask.
    fn answered(&self, playbook: &Playbook) -> Playbook {
        let fresh = json!(self.fresh);
        let begins = format!("{{{{ 'forming' if inventory_hostname in {fresh} else 'never' }}}}");
        let runs = format!("{{{{ inventory_hostname not in {fresh} }}}}");
        let mut playbook = playbook.clone();
        for play in &mut playbook.plays {
            play.vars.insert("etcd_begins".to_owned(), json!(begins));
            play.vars.insert("etcd_runs".to_owned(), json!(runs));
            play.vars.insert("etcd_joined".to_owned(), json!({"initial_cluster": ""}));
            play.vars.insert("etcd_member".to_owned(), json!({"leader": false}));
            play.vars.insert("haproxy_address".to_owned(), json!({"stdout": "elsewhere"}));
            play.vars.insert("agent_runs".to_owned(), json!(runs));
        }
        playbook
    }

    fn inventory(&self) -> Inventory {
        let path = self.folder.path().join("inventory.yml");
        fs::write(&path, &self.inventory).expect("written");
        Inventory::inspect(&path, &self.extra_vars()).unwrap_or_else(|wrong| panic!("{wrong}"))
    }

    /// Makes the trees what the inventory says, by the hands, as a run would have left them.
    pub async fn applied(&mut self) {
        let mut playbook = playbook();
        for play in &mut playbook.plays {
            play.handlers.clear();
            play.tasks.retain(|task| FILES.contains(&task.action.word()));
            play.tasks.iter_mut().for_each(only_the_file);
        }
        let members = self.inventory().group("postgres").map(|host| host.name.to_string()).collect();
        *self.agents.members.lock().expect("a lock") = members;
        let asked = std::mem::take(&mut self.options);
        let report = self.run(&playbook, Mode::Apply).await.0;
        assert!(report.succeeded(), "{:#?}", report.failures);
        self.options = asked;
        let inventory = self.inventory();
        for host in inventory.hosts.values() {
            let units = [
                ("etcd", "etcd"),
                ("postgres", "pgfleet-agent"),
                ("postgres", "disable-transparent-huge-pages"),
                ("haproxy", "haproxy"),
                ("keepalived", "keepalived"),
            ];
            for (_, unit) in units.into_iter().filter(|(group, _)| host.is_in(group)) {
                self.start(host.name.as_str(), unit);
            }
        }
    }

    /// What `pgfleet plan` says.
    pub async fn plan(&self) -> String {
        let (report, _) = self.run(&planned(), Mode::Check).await;
        let text = told(&report, self.options.overwrite_drift);
        let ports = [(self.agents_port.to_string(), "API_PORT"), (self.postgres_port.to_string(), "PG_PORT")];
        let text = ports.iter().fold(text, |text, (port, name)| text.replace(port, name));
        let text = text.replace(&self.socket_dir.display().to_string(), "SOCKET_DIR");
        let time = regex::Regex::new(r"at \d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ").expect("a pattern");
        time.replace_all(&text, "at TIME").into_owned()
    }

    /// The plan as it is saved, and the report of the look that it came from.
    pub async fn saved(&self) -> (SavedPlan, Report) {
        let playbook = planned();
        let (report, templates) = self.run(&playbook, Mode::Check).await;
        let inputs = Inputs::of(&self.inventory(), &playbook, &templates);
        (SavedPlan::new(Request::default(), inputs, &report), report)
    }

    async fn run(&self, playbook: &Playbook, mode: Mode) -> (Report, Templates) {
        let inventory = self.inventory();
        let mut templates = Templates::new(Vec::new()).expect("an environment");
        templates.share(&inventory.global_variables()).expect("shared variables");
        let options = Options {
            mode,
            diff: true,
            overwrite_drift: self.options.overwrite_drift,
            limit: self.options.limit.map(str::to_owned),
            vars: Map::new(),
            tags: self.options.tags.iter().map(|&tag| tag.to_owned()).collect(),
            // What only waits says nothing in a plan.
            skip_tags: vec!["verify".to_owned()],
            forks: 10,
            ssh: ssh::Options::default(),
            executables: Executables::own().expect("this program"),
            purpose: None,
        };
        let (sink, _events) = tokio::sync::mpsc::unbounded_channel();
        let engine = Engine {
            inventory: &inventory,
            templates: &templates,
            options: Arc::new(options),
            sink,
            mask: Mask::new(inventory.secrets()),
            cancel: CancellationToken::new(),
        };
        let folder = self.folder.path();
        let report =
            engine.run_through(&self.answered(playbook), async |host: &Host| hands(folder, host).await).await;
        drop(engine);
        (report.unwrap_or_else(|wrong| panic!("{wrong}")), templates)
    }
}

/// The real hands on a tree, at the end of a pipe.
pub async fn hands(folder: &Path, host: &Host) -> Result<Worker, NoHands> {
    let root = folder.join(host.name.as_str());
    let (to_hands, input) = tokio::io::duplex(1 << 16);
    let (output, from_hands) = tokio::io::duplex(1 << 16);
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        // A session that the test ends in the middle is no failure of the hands.
        let _ = runtime.block_on(serve(input, output, root, CancellationToken::new()));
    });
    Worker::over(from_hands, to_hands).await
}

fn playbook() -> Playbook {
    Playbook::load("apply", &Sources::default()).unwrap_or_else(|wrong| panic!("{wrong}"))
}

/// The shipped playbook without what asks the running system.
fn planned() -> Playbook {
    let asks = |task: &Task| {
        task.register.as_deref().is_some_and(|name| name.ends_with("_found"))
            || ASKS.contains(&task.action.word())
    };
    let mut playbook = playbook();
    playbook.plays.iter_mut().for_each(|play: &mut Play| play.tasks.retain(|task| !asks(task)));
    playbook
}

fn only_the_file(task: &mut Task) {
    task.notify.clear();
    if let Action::Module { args: Value::Object(args), .. } = &mut task.action {
        args.remove("validate");
    }
}

/// A plan as text: each host's changes, then what they mean.
fn told(report: &Report, overwrite_drift: bool) -> String {
    let mut lines = Vec::new();
    for (host, tally) in report.hosts.iter().filter(|(_, tally)| !tally.changes.is_empty()) {
        lines.push(format!("{host}:"));
        for change in &tally.changes {
            let effect = serde_json::to_value(change.effect).expect("an effect");
            lines.push(format!("  {} [{}]", change.step, effect.as_str().unwrap_or_default()));
            lines.extend(change.diff.lines().map(|line| format!("    {line}").trim_end().to_owned()));
        }
    }
    for failure in &report.failures {
        lines.push(format!("failed: {}: {}: {}", failure.host, failure.step, failure.failure.message));
    }
    if lines.is_empty() {
        lines.push("nothing".to_owned());
    }
    let meaning = ui::plan::text(report, &Consequences::of(report), &lint(report), overwrite_drift);
    let meaning = anstream::adapter::strip_str(&meaning).to_string();
    format!("{}\n\n{meaning}", lines.join("\n")).trim_end().to_owned()
}
