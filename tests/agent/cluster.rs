//! A cluster on this machine: etcd, agents and their PostgreSQL, each on free loopback ports, the agents
//! as user `postgres`, each behind a wire to etcd that can be cut.

use super::security::Security;
use serde_json::Value;
use std::{
    fs,
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

/// Long enough for a machine that builds something else meanwhile.
const PATIENCE: Duration = Duration::from_secs(90);

/// Waits until `condition` gives something.
pub fn eventually<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = condition() {
            return found;
        }
        assert!(Instant::now() < deadline, "never came: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Ports that nobody listens on; held until all are chosen, so that they differ.
fn free_ports<const N: usize>() -> [u16; N] {
    let listeners: [TcpListener; N] =
        std::array::from_fn(|_| TcpListener::bind("127.0.0.1:0").expect("a free port"));
    listeners.map(|listener| listener.local_addr().expect("its address").port())
}

/// A wire that can be cut: what is underway is closed, and nothing new goes through.
struct Wire {
    port: u16,
    cut: Arc<AtomicBool>,
    open: Arc<Mutex<Vec<TcpStream>>>,
}

impl Wire {
    fn to(target: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("its address").port();
        let (cut, open) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
        let (is_cut, streams) = (Arc::clone(&cut), Arc::clone(&open));
        std::thread::spawn(move || {
            for near in listener.incoming().flatten() {
                if is_cut.load(Ordering::SeqCst) {
                    continue;
                }
                let Ok(far) = TcpStream::connect(("127.0.0.1", target)) else { continue };
                let mut known = streams.lock().expect("no thread panics while it holds this");
                for (from, to) in [(&near, &far), (&far, &near)] {
                    let (Ok(mut from), Ok(mut to)) = (from.try_clone(), to.try_clone()) else { continue };
                    known.extend(from.try_clone());
                    std::thread::spawn(move || {
                        let _ = std::io::copy(&mut from, &mut to);
                        let _ = to.shutdown(Shutdown::Both);
                    });
                }
            }
        });
        Self { port, cut, open }
    }

    fn set_cut(&self, cut: bool) {
        self.cut.store(cut, Ordering::SeqCst);
        for stream in self.open.lock().expect("no thread panics while it holds this").drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

pub struct Node {
    pub name: String,
    pub folder: PathBuf,
    pub port: u16,
    pub api: u16,
    wire: Wire,
    security: Option<Arc<Security>>,
    pub agent: Option<Child>,
}

pub struct Cluster {
    pub nodes: Vec<Node>,
    /// What everybody speaks TLS with, in a cluster that does.
    pub security: Option<Arc<Security>>,
    pub etcd_port: u16,
    folder: tempfile::TempDir,
    etcd: Child,
    executable: PathBuf,
    bin_dir: PathBuf,
}

fn user() -> nix::unistd::User {
    let user = nix::unistd::User::from_name("postgres").expect("readable users");
    user.expect("there is no user `postgres`: install a PostgreSQL package, such as postgresql-15")
}

fn bin_dir() -> PathBuf {
    let mut found: Vec<PathBuf> = fs::read_dir("/usr/lib/postgresql")
        .expect("no PostgreSQL in /usr/lib/postgresql: install a package, such as postgresql-15")
        .flatten()
        .map(|entry| entry.path().join("bin"))
        .filter(|path| path.join("postgres").exists())
        .collect();
    found.sort();
    found.pop().expect("no PostgreSQL in /usr/lib/postgresql: install a package, such as postgresql-15")
}

impl Cluster {
    /// Starts etcd and an agent for each of `count` nodes. `dcs` is added to the dynamic configuration.
    pub fn start(count: usize, dcs: &str) -> Self {
        let mut cluster = Self::prepare(count, dcs);
        for index in 0..count {
            cluster.start_agent(index);
        }
        cluster
    }

    /// A cluster in which everybody speaks TLS alone.
    pub fn encrypted(count: usize) -> Self {
        let mut cluster = Self::made(count, "", Some(Arc::new(Security::new())));
        for index in 0..count {
            cluster.start_agent(index);
        }
        cluster
    }

    /// A cluster without its agents.
    pub fn prepare(count: usize, dcs: &str) -> Self {
        Self::made(count, dcs, None)
    }

    /// Gives a node a certificate that was made just now.
    pub fn write_certificate(&self, index: usize) {
        if let Some(security) = &self.security {
            security.write(&self.nodes[index].folder, &self.nodes[index].name, &user());
        }
    }

    fn made(count: usize, dcs: &str, security: Option<Arc<Security>>) -> Self {
        assert!(nix::unistd::Uid::effective().is_root(), "needs root, to run the agents as user postgres");
        let folder = tempfile::Builder::new().prefix("pgfleet-agent").tempdir().expect("a folder");
        let user = user();
        nix::unistd::chown(folder.path(), Some(user.uid), Some(user.gid)).expect("root may");
        let [client, peer] = free_ports::<2>();
        let scheme = if security.is_some() { "https" } else { "http" };
        let url = |port: u16| format!("{scheme}://127.0.0.1:{port}");
        let mut etcd = Command::new("etcd");
        if let Some(security) = &security {
            let root = nix::unistd::User::from_uid(nix::unistd::Uid::effective()).expect("readable users");
            security.write(folder.path(), "etcd", &root.expect("the own user"));
            for (flag, file) in
                [("cert-file", "own.crt"), ("key-file", "own.key"), ("trusted-ca-file", "ca.crt")]
            {
                let file = folder.path().join(file).display().to_string();
                etcd.args([format!("--{flag}={file}"), format!("--peer-{flag}={file}")]);
            }
            etcd.args(["--client-cert-auth", "--peer-client-cert-auth"]);
        }
        let etcd = etcd
            .arg("--data-dir")
            .arg(folder.path().join("etcd"))
            .args(["--listen-client-urls", &url(client), "--advertise-client-urls", &url(client)])
            .args(["--listen-peer-urls", &url(peer), "--initial-advertise-peer-urls", &url(peer)])
            .args(["--initial-cluster", &format!("default={}", url(peer)), "--log-level", "error"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("etcd cannot be run: install the package etcd-server");
        // The agents' user can read this one, wherever the build lies.
        let executable = folder.path().join("pgfleet");
        fs::copy(env!("CARGO_BIN_EXE_pgfleet"), &executable).expect("a copy of the executable");
        let mut cluster = Self {
            nodes: Vec::new(),
            security,
            etcd_port: client,
            etcd,
            executable,
            bin_dir: bin_dir(),
            folder,
        };
        for index in 1..=count {
            cluster.add_node(index, client, dcs);
        }
        cluster
    }

    fn add_node(&mut self, index: usize, etcd: u16, dcs: &str) {
        let name = format!("n{index}");
        let folder = self.folder.path().join(&name);
        fs::create_dir(&folder).expect("a folder");
        let user = user();
        nix::unistd::chown(&folder, Some(user.uid), Some(user.gid)).expect("root may");
        let [port, api] = free_ports::<2>();
        let wire = Wire::to(etcd);
        let security = self.security.clone();
        let [mut to_etcd, mut api_files, mut ssl, mut parameters] = [const { String::new() }; 4];
        let (mut kind, mut proof) = ("host", "");
        if let Some(security) = &security {
            security.write(&folder, &name, &user);
            let [ca, certificate, key] =
                ["ca.crt", "own.crt", "own.key"].map(|file| folder.join(file).display().to_string());
            to_etcd = format!(", protocol: https, cacert: {ca}, cert: {certificate}, key: {key}");
            api_files =
                format!(", certfile: {certificate}, keyfile: {key}, cafile: {ca}, verify_client: optional");
            ssl = format!(", sslmode: verify-full, sslrootcert: {ca}, sslcert: {certificate}, sslkey: {key}");
            parameters =
                format!(", ssl: 'on', ssl_ca_file: {ca}, ssl_cert_file: {certificate}, ssl_key_file: {key}");
            (kind, proof) = ("hostssl", " clientcert=verify-ca");
        }
        let config = format!(
            r#"
scope: agents
name: {name}
etcd3: {{hosts: "127.0.0.1:{etcd}"{to_etcd}}}
restapi: {{listen: "127.0.0.1:{api}", connect_address: "127.0.0.1:{api}"{api_files}}}
bootstrap:
  dcs:
    ttl: 5
    loop_wait: 1
    retry_timeout: 2
    postgresql:
      use_pg_rewind: true
      parameters: {{max_connections: 40, wal_keep_size: 128MB}}
{dcs}
  initdb: [{{encoding: UTF8}}, data-checksums]
  pg_hba:
    - local all all trust
    - {kind} replication replicator 127.0.0.1/32 scram-sha-256{proof}
    - {kind} all rewinder 127.0.0.1/32 scram-sha-256{proof}
    - {kind} all all 127.0.0.1/32 scram-sha-256
postgresql:
  listen: "127.0.0.1:{port}"
  connect_address: "127.0.0.1:{port}"
  data_dir: {folder}/data
  bin_dir: {bin}
  pgpass: {folder}/pgpass
  parameters: {{unix_socket_directories: {folder}, shared_buffers: 16MB{parameters}}}
  authentication:
    superuser: {{username: postgres, password: super{ssl}}}
    replication: {{username: replicator, password: replicator{ssl}}}
    rewind: {{username: rewinder, password: rewinder{ssl}}}
"#,
            etcd = wire.port,
            folder = folder.display(),
            bin = self.bin_dir.display(),
        );
        fs::write(folder.join("config.yml"), config).expect("a file");
        self.nodes.push(Node { name, folder, port, api, wire, security, agent: None });
    }

    /// A command of this executable, as user `postgres`.
    pub fn command(&self, arguments: &[&str], config: &Path) -> Command {
        let user = user();
        let mut command = Command::new(&self.executable);
        command.args(arguments).arg(config).uid(user.uid.as_raw()).gid(user.gid.as_raw()).process_group(0);
        command.stdin(Stdio::null()).stdout(Stdio::null()).current_dir("/");
        command
    }

    pub fn start_agent(&mut self, index: usize) {
        let folder = self.nodes[index].folder.clone();
        let log = fs::OpenOptions::new().create(true).append(true).open(folder.join("log")).expect("a log");
        let mut command = self.command(&["agent", "run"], &folder.join("config.yml"));
        let agent = command.env("PGFLEET_LOG", "info").stderr(log).spawn().expect("the agent");
        self.nodes[index].agent = Some(agent);
    }

    /// The index of the one node that says that it is the primary.
    pub fn leader(&self) -> Option<usize> {
        let leaders: Vec<usize> =
            (0..self.nodes.len()).filter(|index| self.nodes[*index].check("/primary")).collect();
        (leaders.len() == 1).then(|| leaders[0])
    }

    /// Waits for a leader, and for all other live agents to stream from it. Gives the leader.
    pub fn healthy(&self, replicas: usize) -> usize {
        eventually("a leader and its replicas", || {
            let leader = self.leader()?;
            let streaming =
                self.nodes.iter().filter(|node| node.check("/replica?replication_state=streaming")).count();
            (streaming == replicas).then_some(leader)
        })
    }

    fn etcdctl(&self, arguments: &[&str]) -> String {
        let output = Command::new("etcdctl")
            .env("ETCDCTL_API", "3")
            .args(["--endpoints", &format!("127.0.0.1:{}", self.etcd_port)])
            .args(arguments)
            .output()
            .expect("etcdctl cannot be run: install the package etcd-client");
        assert!(
            output.status.success(),
            "etcdctl {arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Leaves a mark of a run, under a lease of its own. Gives the lease.
    pub fn mark(&self, member: &str, mark: &Value, ttl: u32) -> String {
        let granted = self.etcdctl(&["lease", "grant", &ttl.to_string()]);
        let lease = granted.split(' ').nth(1).expect("`lease ID granted with ...`").to_owned();
        let key = format!("/service/agents/maintenance/{member}");
        self.etcdctl(&["put", "--lease", &lease, &key, &mark.to_string()]);
        lease
    }

    pub fn revoke(&self, lease: &str) {
        self.etcdctl(&["lease", "revoke", lease]);
    }

    /// A leader other than `before`.
    pub fn new_leader(&self, before: usize) -> usize {
        eventually("another leader", || self.leader().filter(|leader| *leader != before))
    }
}

impl Node {
    pub fn check(&self, path: &str) -> bool {
        self.request("GET", path, "").is_some_and(|(status, _)| status == 200)
    }

    pub fn status(&self) -> Value {
        self.request("GET", "/patroni", "").map(|(_, body)| body).unwrap_or_default()
    }

    pub fn request(&self, method: &str, path: &str, body: &str) -> Option<(u16, Value)> {
        let length = body.len();
        let head = format!("{method} {path} HTTP/1.0\r\nHost: x\r\nContent-Length: {length}\r\n\r\n{body}");
        let answer = match &self.security {
            Some(security) => security.request(self.api, head.as_bytes(), true)?,
            None => plainly(self.api, head.as_bytes())?,
        };
        let (head, body) = answer.split_once("\r\n\r\n")?;
        let status = head.split(' ').nth(1)?.parse().ok()?;
        Some((status, serde_json::from_str(body).unwrap_or_else(|_| body.into())))
    }

    /// Runs SQL; `None` when the server refuses.
    pub fn sql(&self, text: &str) -> Option<String> {
        sql(&self.folder, self.port, text)
    }

    pub fn postmaster(&self) -> Option<nix::unistd::Pid> {
        let text = fs::read_to_string(self.folder.join("data/postmaster.pid")).ok()?;
        let pid = text.lines().next()?.trim().parse().ok()?;
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), None).ok()?;
        Some(nix::unistd::Pid::from_raw(pid))
    }

    pub fn cut_store(&self, cut: bool) {
        self.wire.set_cut(cut);
    }

    pub fn signal_agent(&mut self, signal: nix::sys::signal::Signal) {
        if let Some(agent) = &self.agent {
            let pid = nix::unistd::Pid::from_raw(agent.id() as i32);
            nix::sys::signal::kill(pid, signal).expect("the agent is there");
        }
    }

    /// Ends the agent without giving it a chance to do anything.
    pub fn kill_agent(&mut self) {
        if let Some(mut agent) = self.agent.take() {
            let _ = agent.kill();
            let _ = agent.wait();
        }
    }

    pub fn await_agent(&mut self) -> std::process::ExitStatus {
        self.agent.take().expect("an agent").wait().expect("its status")
    }

    pub fn kill_postmaster(&self) {
        if let Some(pid) = self.postmaster() {
            let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
        }
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }
}

fn plainly(port: u16, request: &[u8]) -> Option<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(40))).ok()?;
    stream.write_all(request).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer)
}

/// Runs SQL through the Unix socket in `folder`; `None` when the server refuses.
pub fn sql(folder: &Path, port: u16, text: &str) -> Option<String> {
    let output = Command::new("psql")
        .args(["-XAtqw", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-d", "postgres", "-c", text, "-h"])
        .arg(folder)
        .args(["-p", &port.to_string()])
        .env("PGCONNECT_TIMEOUT", "2")
        .output()
        .expect("psql cannot be run: install postgresql-client");
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for node in &mut self.nodes {
            node.kill_agent();
            if let Some(pid) = node.postmaster() {
                let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGQUIT);
                let deadline = Instant::now() + Duration::from_secs(5);
                while node.postmaster().is_some() && Instant::now() < deadline {
                    std::thread::sleep(Duration::from_millis(20));
                }
                node.kill_postmaster();
            }
            if std::thread::panicking() {
                let log = node.log();
                let from = log.len().saturating_sub(6_000);
                eprintln!("== {}\n{}", node.name, log.get(from..).unwrap_or(&log));
            }
        }
        let _ = self.etcd.kill();
        let _ = self.etcd.wait();
    }
}
