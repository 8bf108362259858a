//! A laboratory of PostgreSQL servers.

use std::{
    collections::BTreeMap,
    net::TcpListener,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::{Pid, User, geteuid},
};
use pgfleet::{
    agent::postgres::{
        Credentials, Existing, Facts, Role, Server, Session, Settings, Ssl, Started, StopMode, Upstream,
    },
    model::Secret,
};
use tokio_postgres::{Client, NoTls};

/// Long enough for a busy machine; nothing waits this long when all is well.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A test as user `postgres`, on a runtime like the agent's.
macro_rules! as_postgres {
    ($name:ident, $body:expr) => {
        #[test]
        fn $name() {
            $crate::postgres::support::run(concat!(module_path!(), "::", stringify!($name)), $body);
        }
    };
}

/// PostgreSQL refuses to run as root: started by root, the test runs itself again as `postgres`.
pub fn run(path: &str, body: impl AsyncFnOnce(&mut Lab)) {
    if geteuid().is_root() {
        let user = User::from_name("postgres").expect("a user database");
        let user = user.expect("the user `postgres`: install the package postgresql");
        let name = path.split_once("::").expect("a path within the test binary").1;
        let status = Command::new("/proc/self/exe")
            .args([name, "--exact", "--nocapture"])
            .uid(user.uid.as_raw())
            .gid(user.gid.as_raw())
            .env("INSTA_WORKSPACE_ROOT", env!("CARGO_MANIFEST_DIR"))
            .current_dir("/")
            .status()
            .expect("this test binary");
        assert!(status.success(), "failed as user postgres: {status}");
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let mut lab = Lab { folder: tempfile::tempdir().expect("a temporary directory"), nodes: Vec::new() };
        body(&mut lab).await;
        lab.down().await;
    });
}

/// Newest PostgreSQL of the machine.
pub fn bin_dir() -> PathBuf {
    let mut found: Vec<PathBuf> = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path().join("bin"))
        .filter(|path| path.join("initdb").exists())
        .collect();
    found.sort();
    found.pop().expect("a PostgreSQL server: install the package postgresql")
}

pub struct Lab {
    folder: tempfile::TempDir,
    nodes: Vec<PathBuf>,
}

pub struct Node {
    pub server: Server,
    pub folder: PathBuf,
}

impl Lab {
    /// A server that does not exist yet.
    pub fn node(&mut self, name: &str) -> Node {
        let folder = self.folder.path().join(name);
        std::fs::create_dir(&folder).expect("a folder");
        let role = |username: &str| Credentials {
            username: username.to_owned(),
            password: Some(Secret::new(format!("{username}:'s \\password"))),
            ssl: Ssl::default(),
        };
        let parameters = [
            // Nobody pulls the plug here.
            ("fsync", "off"),
            ("shared_buffers", "16MB"),
            ("max_connections", "30"),
            ("autovacuum", "off"),
            ("wal_keep_size", "64MB"),
        ];
        let settings = Settings {
            bin_dir: bin_dir(),
            data_dir: folder.join("data"),
            config_dir: None,
            listen_addresses: "127.0.0.1".to_owned(),
            port: free_port(),
            socket_dir: Some(folder.clone()),
            name: name.parse().expect("a name"),
            scope: "lab".parse().expect("a name"),
            superuser: role("postgres"),
            replication: role("replicator"),
            rewind: Some(role("rewinder")),
            pgpass: folder.join("pgpass"),
            log_file: folder.join("log"),
            initdb: vec![("no-sync".to_owned(), None), ("locale".to_owned(), Some("C.UTF-8".to_owned()))],
            hba: [
                "local all postgres peer",
                "host replication replicator 127.0.0.1/32 scram-sha-256",
                "host all all 127.0.0.1/32 scram-sha-256",
            ]
            .map(str::to_owned)
            .into(),
            ident: Vec::new(),
            parameters: parameters.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
            recovery: BTreeMap::new(),
            basebackup: vec![("no-sync".to_owned(), None)],
            custom_conf: None,
            query_timeout: Duration::from_secs(3),
        };
        self.nodes.push(settings.data_dir.clone());
        Node { server: Server::new(settings), folder }
    }

    /// A running primary with its roles.
    pub async fn primary(&mut self, name: &str) -> Node {
        let node = self.node(name);
        node.server.initdb().await.expect("initdb");
        node.start(Role::Primary).await;
        node.server.bootstrap_roles().await.expect("roles");
        node
    }

    /// A running standby of `primary`, through a slot, that streams.
    pub async fn standby(&mut self, name: &str, primary: &Node) -> Node {
        let node = self.node(name);
        let wanted = std::collections::BTreeSet::from([name.to_owned()]);
        primary.server.sync_slots(&wanted, |_| false).await.expect("a slot");
        let upstream = primary.upstream(Some(name));
        node.server.clone_from(&upstream, Existing::Refuse, |_| {}).await.expect("a copy");
        node.start(Role::Standby { upstream: Some(upstream) }).await;
        node.streams().await;
        node
    }

    async fn down(&mut self) {
        for data_dir in self.nodes.drain(..) {
            kill_postmaster(&data_dir, Signal::SIGQUIT);
        }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for data_dir in &self.nodes {
            kill_postmaster(data_dir, Signal::SIGQUIT);
        }
    }
}

fn kill_postmaster(data_dir: &Path, signal: Signal) {
    let pid = std::fs::read_to_string(data_dir.join("postmaster.pid")).ok();
    if let Some(pid) = pid.and_then(|text| text.lines().next()?.trim().parse().ok()) {
        let _ = kill(Pid::from_raw(pid), signal);
    }
}

impl Node {
    pub fn data_dir(&self) -> PathBuf {
        self.server.settings().data_dir.clone()
    }

    pub fn pid(&self) -> i32 {
        self.server.adopt().expect("a postmaster").pid()
    }

    pub fn upstream(&self, slot: Option<&str>) -> Upstream {
        Upstream {
            host: "127.0.0.1".to_owned(),
            port: self.server.settings().port,
            slot: slot.map(str::to_owned),
        }
    }

    pub async fn start(&self, role: Role) -> Started {
        let started = self.server.start(&role, PATIENCE).await.expect("a start");
        assert!(started.accepting, "not accepting connections");
        started
    }

    pub async fn stop(&self, mode: StopMode) {
        let stopped = self.server.stop(mode, false, PATIENCE).await.expect("a stop");
        assert!(!stopped.killed);
    }

    /// Power loss, as far as PostgreSQL can tell: nothing of it says good-bye.
    pub async fn kill(&self) {
        kill_postmaster(&self.data_dir(), Signal::SIGKILL);
        self.server.exited().await;
        self.server.clear_remains().await.expect("no remains");
    }

    /// A session of a client, as superuser.
    pub async fn client(&self) -> Client {
        let settings = self.server.settings();
        let mut config = tokio_postgres::Config::new();
        config.host_path(&self.folder).port(settings.port).user("postgres").dbname("postgres");
        let (client, connection) = config.connect(NoTls).await.expect("a connection");
        tokio::spawn(connection);
        client
    }

    pub async fn execute(&self, sql: &str) {
        self.client().await.batch_execute(sql).await.expect(sql);
    }

    pub async fn text(&self, sql: &str) -> String {
        self.client().await.query_one(sql, &[]).await.expect(sql).get(0)
    }

    pub async fn session(&self) -> Session {
        self.server.observe().await.session.expect("a server that answers")
    }

    /// Waits until it looks as wanted.
    pub async fn until(&self, what: &str, wanted: impl Fn(&Facts) -> bool) -> Facts {
        let begun = Instant::now();
        loop {
            let facts = self.server.observe().await;
            if wanted(&facts) {
                return facts;
            }
            assert!(begun.elapsed() < PATIENCE, "{what}: {facts:#?}\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub async fn streams(&self) -> Facts {
        let streaming = |facts: &Facts| {
            let receiver = facts.session.as_ref().and_then(|session| session.receiver.as_ref());
            receiver.is_some_and(|receiver| receiver.status == "streaming")
        };
        self.until("streaming", streaming).await
    }

    /// Waits until it has replayed all that `primary` has written.
    pub async fn catches_up_with(&self, primary: &Node) {
        let written = primary.session().await.written;
        let caught_up =
            |facts: &Facts| facts.session.as_ref().is_some_and(|session| session.replayed >= written);
        self.until("catching up", caught_up).await;
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("an address").port()
}
