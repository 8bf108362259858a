//! The conformance suite and the ways in which etcd fails, against real etcd processes on loopback.

use super::*;
use crate::agent::dcs::conformance::{self, Bench};
use crate::contract::MaintenanceMark;
use nix::sys::signal::{Signal, kill};
use std::{
    net::TcpListener,
    path::Path,
    process::{Child, Command, Stdio},
    time::Instant,
};

/// An etcd process of one test; it ends with it.
struct Server {
    process: Child,
    data: tempfile::TempDir,
    client: u16,
    peer: u16,
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port").port()
}

impl Server {
    async fn start() -> Self {
        Self::start_cluster(1).await.remove(0)
    }

    async fn start_cluster(size: usize) -> Vec<Self> {
        let peers: Vec<u16> = (0..size).map(|_| free_port()).collect();
        let start = |peer: &u16| {
            let data = tempfile::tempdir().expect("a temporary directory");
            let client = free_port();
            let process = Self::spawn(data.path(), client, *peer, &peers);
            Self { process, data, client, peer: *peer }
        };
        let servers: Vec<Self> = peers.iter().map(start).collect();
        for server in &servers {
            server.await_ready().await;
        }
        servers
    }

    fn spawn(data: &Path, client: u16, peer: u16, peers: &[u16]) -> Child {
        let url = |port| format!("http://127.0.0.1:{port}");
        let members: Vec<String> = peers.iter().map(|peer| format!("m{peer}={}", url(*peer))).collect();
        Command::new("etcd")
            .arg("--data-dir")
            .arg(data)
            .args(["--listen-client-urls", &url(client), "--advertise-client-urls", &url(client)])
            .args(["--listen-peer-urls", &url(peer), "--initial-advertise-peer-urls", &url(peer)])
            .args(["--name", &format!("m{peer}"), "--initial-cluster", &members.join(",")])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("`etcd` starts; install the package etcd-server")
    }

    async fn await_ready(&self) {
        let gateway = Gateway::new(vec![self.endpoint()], Duration::from_secs(1), None, None);
        let begun = Instant::now();
        while gateway.call("/v3/kv/range", &messages::range_prefix("/x")).await.is_err() {
            assert!(begun.elapsed() < Duration::from_secs(30), "etcd did not become ready");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    fn endpoint(&self) -> Endpoint {
        Endpoint { host: "127.0.0.1".to_owned(), port: self.client }
    }

    fn signal(&self, signal: Signal) {
        kill(nix::unistd::Pid::from_raw(self.process.id() as i32), signal).expect("the process is ours");
    }

    async fn restart(&mut self) {
        self.process.kill().and_then(|()| self.process.wait()).expect("the process is ours");
        self.process = Self::spawn(self.data.path(), self.client, self.peer, &[self.peer]);
        self.await_ready().await;
    }

    async fn etcdctl(&self, arguments: &[&str]) {
        let status = tokio::process::Command::new("etcdctl")
            .env("ETCDCTL_API", "3")
            .args(["--endpoints", &self.endpoint().to_string()])
            .args(arguments)
            .stdout(Stdio::null())
            .status()
            .await
            .expect("`etcdctl` starts; install the package etcd-client");
        assert!(status.success(), "etcdctl {arguments:?}");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.process.kill().and_then(|()| self.process.wait()));
    }
}

fn options(endpoints: Vec<Endpoint>, scope: &str, name: &str, ttl: Duration) -> EtcdOptions {
    EtcdOptions {
        endpoints,
        login: None,
        tls: None,
        request_timeout: EtcdOptions::REQUEST_TIMEOUT,
        namespace: "/service".to_owned(),
        scope: scope.parse().unwrap(),
        name: name.parse().unwrap(),
        ttl,
    }
}

/// One cluster of its own in a server that other benches use too.
struct InEtcd<'a> {
    server: &'a Server,
    scope: &'static str,
}

impl Bench for InEtcd<'_> {
    type Store = Etcd;

    async fn member(&self, name: &str, ttl: Duration) -> Etcd {
        Etcd::new(options(vec![self.server.endpoint()], self.scope, name, ttl))
    }

    async fn pass(&self, time: Duration) {
        tokio::time::sleep(time).await;
    }

    async fn mark(&self, mark: &MaintenanceMark, ttl: Duration) {
        let gateway = Gateway::new(vec![self.server.endpoint()], Duration::from_secs(1), None, None);
        let grant = serde_json::json!({"TTL": ttl.as_secs().to_string()});
        let lease = gateway.call("/v3/lease/grant", &grant).await.expect("a lease").body;
        let key = MaintenanceMark::key(
            "/service",
            &self.scope.parse().expect("a scope"),
            &"a".parse().expect("a name"),
        );
        let put = messages::put(&key, &to_json(mark), messages::number(&lease["ID"]));
        let done = gateway.call("/v3/kv/txn", &txn(vec![], vec![put], vec![])).await;
        done.expect("the mark is written");
    }

    fn now(&self) -> BootTime {
        BootTime::now()
    }
}

#[tokio::test]
async fn conforms() {
    let server = Server::start().await;
    let bench = |scope| InEtcd { server: &server, scope };
    // Side by side, for most of the time is spent waiting for leases to end.
    tokio::join!(
        async { conformance::one_leader_per_term(&bench("c1")).await },
        async { conformance::leases_end_and_renewals_keep_them(&bench("c2")).await },
        async { conformance::a_restarted_agent_adopts_its_lease(&bench("c3")).await },
        async { conformance::a_changed_ttl_keeps_the_term(&bench("c4")).await },
        async { conformance::shared_keys_are_swapped(&bench("c5")).await },
        async { conformance::an_unfinished_bootstrap_dies_with_its_member(&bench("c6")).await },
        async { conformance::only_the_leader_writes_what_is_the_leaders(&bench("c7")).await },
        async { conformance::watchers_see_every_kind_of_change(&bench("c8")).await },
        async { conformance::a_mark_lives_as_long_as_its_own_lease(&bench("c9")).await },
    );
}

const TTL: Duration = Duration::from_secs(5);

#[tokio::test]
async fn a_dead_and_a_mute_endpoint_cost_one_timeout_once() {
    let server = Server::start().await;
    let mute = TcpListener::bind("127.0.0.1:0").unwrap();
    let mute_port = mute.local_addr().unwrap().port();
    let at = |port| Endpoint { host: "127.0.0.1".to_owned(), port };
    let etcd = Etcd::new(options(vec![at(free_port()), at(mute_port), server.endpoint()], "d", "a", TTL));
    let held = etcd.acquire_leader(None).await.unwrap();
    let begun = Instant::now();
    for _ in 0..10 {
        etcd.renew(Some(held.term)).await.unwrap();
    }
    let spent = begun.elapsed();
    assert!(spent < EtcdOptions::REQUEST_TIMEOUT, "the endpoint that answers is asked first: {spent:?}");
}

#[tokio::test]
async fn a_hung_etcd_is_unreachable_and_never_a_loss() {
    let server = Server::start().await;
    let etcd = Etcd::new(options(vec![server.endpoint()], "h", "a", TTL));
    let held = etcd.acquire_leader(None).await.unwrap();
    server.signal(Signal::SIGSTOP);
    let begun = Instant::now();
    assert!(matches!(etcd.renew(Some(held.term)).await, Err(Failure::Unreachable(_))));
    assert!(matches!(etcd.release(held.term).await, Err(Failure::Unreachable(_))));
    assert!(etcd.snapshot().await.is_err());
    assert!(begun.elapsed() < EtcdOptions::REQUEST_TIMEOUT * 4);
    server.signal(Signal::SIGCONT);
    // The release was of unknown outcome: either answer is right, and the store says which.
    let snapshot = loop {
        if let Ok(snapshot) = etcd.snapshot().await {
            break snapshot;
        }
    };
    match etcd.renew(Some(held.term)).await {
        Ok(_) => assert_eq!(snapshot.leader.as_ref().map(|leader| leader.term), Some(held.term)),
        Err(failure) => assert!(failure.is_lost(), "{failure}"),
    }
}

#[tokio::test]
async fn watch_and_lease_survive_a_restart_of_etcd() {
    let mut server = Server::start().await;
    let etcd = Etcd::new(options(vec![server.endpoint()], "r", "a", TTL));
    let mut sight = etcd.watch();
    let held = etcd.acquire_leader(None).await.unwrap();
    let leads = |sight: &Sight| {
        sight.interrupted.is_none()
            && sight.snapshot.as_ref().is_some_and(|snapshot| snapshot.leader.is_some())
    };
    sight.wait_for(leads).await.unwrap();
    server.restart().await;
    let renewal = etcd.renew(Some(held.term)).await.unwrap();
    assert!(renewal.lease.ttl >= TTL);
    etcd.release(held.term).await.unwrap();
    let gone = |sight: &Sight| {
        sight.interrupted.is_none()
            && sight.snapshot.as_ref().is_some_and(|snapshot| snapshot.leader.is_none())
    };
    tokio::time::timeout(Duration::from_secs(10), sight.wait_for(gone)).await.expect("seen").unwrap();
    etcd.acquire_leader(None).await.unwrap();
    tokio::time::timeout(Duration::from_secs(1), sight.wait_for(leads)).await.expect("watching").unwrap();
}

/// Repeats a call while etcd does not answer it.
async fn patiently<T, F: Future<Output = Result<T, Failure>>>(call: impl Fn() -> F) -> T {
    let begun = Instant::now();
    loop {
        match call().await {
            Ok(result) => return result,
            Err(failure) => {
                assert!(!failure.is_lost() && begun.elapsed() < Duration::from_secs(30), "{failure}");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

/// Which of the servers leads etcd.
async fn etcd_leader(servers: &[Server]) -> usize {
    for (index, server) in servers.iter().enumerate() {
        let gateway = Gateway::new(vec![server.endpoint()], Duration::from_secs(1), None, None);
        let status = gateway.call("/v3/maintenance/status", &serde_json::json!({})).await.unwrap().body;
        if messages::number(&status["leader"]) == messages::number(&status["header"]["member_id"]) {
            return index;
        }
    }
    panic!("etcd has no leader");
}

#[tokio::test]
async fn a_lost_etcd_leader_costs_no_lease() {
    for signal in [Signal::SIGKILL, Signal::SIGSTOP] {
        let servers = Server::start_cluster(3).await;
        let endpoints = servers.iter().map(Server::endpoint).collect();
        let etcd = Etcd::new(options(endpoints, "e", "a", TTL));
        let mut sight = etcd.watch();
        let held = etcd.acquire_leader(None).await.unwrap();
        sight.wait_for(|sight| sight.snapshot.as_ref().is_some_and(|s| s.leader.is_some())).await.unwrap();
        let mut ends_at = etcd.renew(Some(held.term)).await.unwrap().lease.ends_at();
        let gone = etcd_leader(&servers).await;
        servers[gone].signal(signal);
        let begun = Instant::now();
        let mut renewals = 0;
        while renewals < 5 {
            match etcd.renew(Some(held.term)).await {
                Ok(renewal) => {
                    assert!(renewal.lease.ends_at() >= ends_at);
                    ends_at = renewal.lease.ends_at();
                    renewals += 1;
                }
                Err(failure) => {
                    assert!(!failure.is_lost(), "{signal}: {failure}");
                    assert!(BootTime::now() < ends_at, "{signal}: not renewed in time: {failure}");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
        assert!(begun.elapsed() < TTL, "{signal}: took {:?}", begun.elapsed());
        etcd.release(held.term).await.unwrap();
        let free = sight.wait_for(|sight| sight.snapshot.as_ref().is_some_and(|s| s.leader.is_none()));
        tokio::time::timeout(Duration::from_secs(10), free).await.expect("the watch goes on").unwrap();
        servers[gone].signal(Signal::SIGCONT);
    }
}

#[tokio::test]
async fn a_deleted_leader_key_is_a_loss_though_the_lease_lives() {
    let server = Server::start().await;
    let etcd = Etcd::new(options(vec![server.endpoint()], "x", "a", TTL));
    let held = etcd.acquire_leader(None).await.unwrap();
    server.etcdctl(&["del", "/service/x/leader"]).await;
    assert!(etcd.renew(Some(held.term)).await.unwrap_err().is_lost());
    server.etcdctl(&["put", "/service/x/leader", "other"]).await;
    let failure = etcd.renew(Some(held.term)).await.unwrap_err();
    assert!(failure.is_lost() && failure.to_string().contains("`other`"), "{failure}");
}

#[tokio::test]
async fn logs_in_and_again_when_the_token_is_gone() {
    let mut server = Server::start().await;
    server.etcdctl(&["user", "add", "root:secret"]).await;
    server.etcdctl(&["user", "grant-role", "root", "root"]).await;
    server.etcdctl(&["auth", "enable"]).await;
    let anonymous = Etcd::new(options(vec![server.endpoint()], "l", "a", TTL));
    let refused = anonymous.snapshot().await.unwrap_err();
    assert!(refused.to_string().contains("user name is empty"), "{refused}");
    let login = Login { username: "root".to_owned(), password: crate::model::Secret::new("secret") };
    let etcd =
        Etcd::new(EtcdOptions { login: Some(login), ..options(vec![server.endpoint()], "l", "a", TTL) });
    let held = patiently(|| etcd.acquire_leader(None)).await;
    server.process.kill().and_then(|()| server.process.wait()).unwrap();
    server.process = Server::spawn(server.data.path(), server.client, server.peer, &[server.peer]);
    // etcd's simple tokens live in its memory.
    patiently(|| etcd.renew(Some(held.term))).await;
}
