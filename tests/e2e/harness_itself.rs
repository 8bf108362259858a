//! The harness must see what it is there to see. Hand-made servers, and faults with known effects.

use super::harness::{
    postgres::{Login, query},
    program::{Scratch, eventually},
    sampler::{Node, Sampler},
    writer::{ROWS, Writer},
};
use pgfleet::sandbox::{Sandbox, Store};
use std::{
    net::SocketAddr,
    path::PathBuf,
    time::{Duration, Instant},
};

const HOSTS: [&str; 2] = ["pg-1", "pg-2"];
const LIMIT: Duration = Duration::from_secs(90);

fn address(host: &str) -> SocketAddr {
    let last = if host == "pg-1" { 11 } else { 12 };
    format!("10.128.0.{last}:5432").parse().unwrap()
}

fn login() -> Login {
    Login { user: "postgres".into(), password: None, tls: None }
}

/// A primary and a standby that nobody looks after.
fn pair() -> (Scratch, PathBuf) {
    let sandbox = Scratch::new("harness");
    sandbox.run("up", &["--host=pg-1=10.128.0.11", "--host=pg-2=10.128.0.12"]).success();
    let install = "apt-get -q update && DEBIAN_FRONTEND=noninteractive apt-get -q install -y --no-install-recommends postgresql-17";
    std::thread::scope(|scope| {
        HOSTS.map(|host| scope.spawn(|| sandbox.on(host, install))).map(|thread| thread.join().unwrap())
    });
    let configure = "cd /etc/postgresql/17/main; echo \"listen_addresses='*'\" >> postgresql.conf; \
         echo 'host all,replication all 10.128.0.0/24 trust' >> pg_hba.conf; systemctl restart postgresql@17-main";
    for host in HOSTS {
        sandbox.on(host, configure);
    }
    sandbox.on(
        "pg-2",
        "systemctl stop postgresql@17-main; rm -rf /var/lib/postgresql/17/main; \
         sudo -u postgres pg_basebackup -h 10.128.0.11 -U postgres -R -c fast -D /var/lib/postgresql/17/main; \
         systemctl start postgresql@17-main",
    );
    let name = sandbox.name.parse().unwrap();
    let network = Sandbox::open(&Store::from_environment(), &name).unwrap().namespace();
    (sandbox, network)
}

#[test]
fn sees_gaps_lost_rows_and_two_primaries() {
    let (sandbox, network) = pair();
    let nodes = || {
        HOSTS.map(|host| Node { sandbox: sandbox.name.clone(), host: host.into(), address: address(host) })
    };
    let ask = |host: &str, sql: &str| query(network.clone(), address(host), login(), sql);
    let caught_up = |id: i64| {
        let sql = format!("SELECT 1 FROM written WHERE id = {id}");
        eventually("the standby has the row", LIMIT, || ask("pg-2", &sql).ok()?.first().cloned());
    };

    // A primary that pauses: a gap as long as the pause, nothing lost, nobody else writes.
    let sampler = Sampler::start(network.clone(), address("pg-1"), nodes().into(), &login());
    let writer = Writer::start(network.clone(), address("pg-1"), login());
    sandbox.on("pg-1", "systemctl stop postgresql@17-main");
    let stopped = Instant::now();
    writer.failed_since(stopped, LIMIT);
    let pause = stopped.elapsed();
    sandbox.on("pg-1", "systemctl start postgresql@17-main");
    writer.acknowledged_since(Instant::now(), LIMIT);
    let written = writer.stop();
    assert!(written.longest_gap() >= pause, "{:?} for a pause of {pause:?}", written.longest_gap());
    assert!(!written.failed.is_empty());
    caught_up(written.acknowledged.last().unwrap().0);
    assert_eq!(written.missing_from(&ask("pg-2", ROWS).unwrap()), Vec::<i64>::new());
    let sampled = sampler.stop();
    assert!(sampled.samples.iter().all(|sample| sample.node == "pg-1"));
    sampled.assert_one_primary_at_a_time();

    // A primary that is cut off while another is made: it goes on writing, and what it writes is lost.
    let sampler = Sampler::start(network.clone(), address("pg-1"), nodes().into(), &login());
    let writer = Writer::start(network.clone(), address("pg-1"), login());
    sandbox.on("pg-2", "systemctl stop postgresql@17-main");
    writer.acknowledged_since(Instant::now(), LIMIT);
    sandbox.run("cut", &["pg-1"]).success();
    let written = writer.stop();
    sandbox.on(
        "pg-2",
        "systemctl start postgresql@17-main && sudo -u postgres psql -qAtc 'SELECT pg_promote()'",
    );
    let wrote = |ask: &dyn Fn() -> Option<()>| eventually("both have been seen", LIMIT, ask);
    wrote(&|| ask("pg-2", "SELECT 1 FROM sampled WHERE node = 'pg-2' OFFSET 5").ok()?.first().map(drop));
    sandbox.run("join", &["pg-1"]).success();
    assert_ne!(
        written.missing_from(&ask("pg-2", ROWS).unwrap()),
        Vec::<i64>::new(),
        "a lost row was not noticed"
    );
    let sampled = sampler.stop();
    let seen = super::harness::sampler::conflicts(&sampled.samples);
    assert!(!seen.is_empty(), "two primaries were not noticed in {} looks", sampled.looks);
}
