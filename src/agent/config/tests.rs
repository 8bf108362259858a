//! Whole configurations: those of the clusters that people run, and those that are wrong.

use super::*;
use std::fs;

/// The second node of cluster B, with etcd in place of ZooKeeper.
const SEED_B: &str = r#"
scope: my_cluster
name: postgresql1
restapi:
  listen: 10.0.0.2:8008
  connect_address: 10.0.0.2:8008
etcd3:
  hosts: etcd1:2379,etcd2:2379
bootstrap:
  dcs:
    ttl: 30
    loop_wait: 10
    retry_timeout: 10
    maximum_lag_on_failover: 10485760
    synchronous_mode: true
    postgresql:
      use_pg_rewind: true
      use_slots: true
      parameters:
        max_connections: 200
        work_mem: 8MB
  initdb:
    - encoding: UTF8
    - data-checksums
  pg_hba:
    - host replication replicator 0.0.0.0/0 scram-sha-256
postgresql:
  listen: 0.0.0.0:5432
  connect_address: 10.0.0.2:5432
  data_dir: /var/lib/postgresql/data/postgresql1
  bin_dir: /usr/lib/postgresql/15/bin
  pgpass: /tmp/pgpass0
  authentication:
    replication: {username: replicator, password: rep-pass}
    superuser: {username: postgres, password: super-pass}
  parameters:
    unix_socket_directories: "."
    work_mem: 16MB
    max_connections: 50
watchdog:
  mode: "off"
tags:
  nofailover: false
  noloadbalance: false
  clonefrom: false
  nosync: false
"#;

fn load_with(text: &str, environment: &[(&str, &str)]) -> Result<(Config, Vec<Diagnostic>), Diagnostics> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("patroni.yml");
    fs::write(&file, text).unwrap();
    let environment = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    Config::load(&file, environment)
}

fn load(text: &str) -> Config {
    let (config, warnings) = load_with(text, &[]).unwrap();
    assert!(warnings.is_empty(), "{}", Diagnostics(warnings).render(false));
    config
}

fn complaint(text: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("patroni.yml");
    fs::write(&file, text).unwrap();
    let findings = Config::load(&file, []).unwrap_err().render(false);
    findings.replace(&folder.path().display().to_string(), "/etc")
}

#[test]
fn reads_a_configuration_as_people_have_it() {
    let config = load(SEED_B);
    assert_eq!((config.scope.as_str(), config.name.as_str()), ("my_cluster", "postgresql1"));
    assert_eq!(config.conn_url(), "postgres://10.0.0.2:5432/postgres");
    assert_eq!(config.api_url(), "http://10.0.0.2:8008/patroni");
    assert_eq!(config.watchdog.mode, WatchdogMode::Off);
    let Store::Etcd { endpoints, login, tls } = &config.store;
    assert_eq!(endpoints.iter().map(Endpoint::to_string).collect::<Vec<_>>(), ["etcd1:2379", "etcd2:2379"]);
    assert_eq!((login, tls), (&None, &None));
    let bootstrap = config.bootstrap.as_ref().unwrap();
    assert_eq!(
        bootstrap.initdb,
        [("encoding".to_owned(), Some("UTF8".to_owned())), ("data-checksums".to_owned(), None)]
    );
}

#[test]
fn local_settings_win_except_where_all_must_agree() {
    let config = load(SEED_B);
    let dcs = Value::Object(config.bootstrap.clone().unwrap().dcs);
    let effective = config.effective(&DynamicConfig::from_json(&dcs).0);
    let parameters = &effective.settings.parameters;
    assert_eq!(parameters["work_mem"], "16MB");
    assert_eq!(parameters["max_connections"], "200");
    assert_eq!(effective.ignored_parameters, ["max_connections"]);
    assert!(effective.use_pg_rewind && effective.use_slots);
    assert_eq!(effective.settings.hba, ["host replication replicator 0.0.0.0/0 scram-sha-256"]);
    assert_eq!(effective.settings.pgpass, PathBuf::from("/tmp/pgpass0"));
    assert_eq!(effective.settings.listen_addresses, "0.0.0.0");
}

#[test]
fn the_environment_wins() {
    let (config, warnings) = load_with(
        SEED_B,
        &[
            ("PATRONI_NAME", "pg9"),
            ("PATRONI_ETCD3_HOSTS", "'a:1', 'b:2'"),
            ("PATRONI_ETCD3_USERNAME", "root"),
            ("PATRONI_SUPERUSER_PASSWORD", "other"),
        ],
    )
    .unwrap();
    assert!(warnings.is_empty());
    assert_eq!(config.name.as_str(), "pg9");
    let Store::Etcd { endpoints, login, .. } = &config.store;
    assert_eq!(endpoints[1], Endpoint { host: "b".to_owned(), port: 2 });
    assert_eq!(login.as_ref().unwrap().0, "root");
    assert_eq!(config.postgresql.superuser.password.as_ref().unwrap().expose(), "other");
}

#[test]
fn a_directory_is_read_in_the_order_of_names() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("10-base.yml"), SEED_B).unwrap();
    fs::write(folder.path().join("20-local.yaml"), "name: pg2\ntags: {nofailover: true}\n").unwrap();
    fs::write(folder.path().join("README"), "not: [yaml").unwrap();
    let (config, _) = Config::load(folder.path(), []).unwrap();
    assert_eq!(config.name.as_str(), "pg2");
    assert!(config.tags.nofailover() && !config.tags.nosync());
}

#[test]
fn secrets_are_not_shown() {
    let config = load(SEED_B);
    assert!(!format!("{config:?}").contains("-pass"));
    let text = SEED_B.replace("username: postgres, password", "user: postgres, password");
    let complaint = complaint(&text);
    assert!(complaint.contains("unknown key `user`") && !complaint.contains("super-pass"), "{complaint}");
}

#[test]
fn what_is_missing_is_named_with_what_to_add() {
    insta::assert_snapshot!(complaint("name: pg1\npostgresql:\n  listen: 0.0.0.0:5432\n"), @r#"
error: `scope` is missing
 --> /etc/patroni.yml:1:1
  |
1 | name: pg1
  | ^^^^
  |
  = help: add `scope:` with the cluster's name

error: no store is configured
 --> /etc/patroni.yml:1:1
  |
1 | name: pg1
  | ^^^^
  |
  = help: add `etcd3:` with `hosts: [HOST:2379, ...]`

error: `postgresql.connect_address` is missing, and `postgresql.listen` names no single address
 --> /etc/patroni.yml:3:11
  |
3 |   listen: 0.0.0.0:5432
  |           ^^^^^^^^^^^^
  |
  = help: add `postgresql.connect_address: HOST:5432`, how the others reach this node

error: `postgresql.data_dir` is missing
 --> /etc/patroni.yml:1:1
  |
1 | name: pg1
  | ^^^^
  |
  = help: add the directory that holds, or shall hold, the data

error: `postgresql.authentication.replication.username` is missing
 --> /etc/patroni.yml:1:1
  |
1 | name: pg1
  | ^^^^
  |
  = help: replicas connect to the primary as this role

error: `restapi.connect_address` is missing
 --> /etc/patroni.yml:1:1
  |
1 | name: pg1
  | ^^^^
  |
  = help: add `restapi.connect_address: HOST:8008`, how the others reach this node
"#);
}

#[test]
fn what_makes_no_sense_is_shown_where_it_stands() {
    let text = SEED_B
        .replace("name: postgresql1", "name: a/b")
        .replace("connect_address: 10.0.0.2:5432", "connect_address: 0.0.0.0:5432")
        .replace("etcd1:2379,etcd2:2379", "https://etcd1:2379")
        .replace("mode: \"off\"", "mode: requird");
    insta::assert_snapshot!(complaint(&text), @r#"
error: `name`: `a/b` is not a valid member name: 1 to 63 printable ASCII characters without `/` and `,`
 --> /etc/patroni.yml:3:7
  |
3 | name: a/b
  |       ^^^ not a valid name

error: `etcd3` is spoken to over TLS, and `etcd3.cacert` is missing
 --> /etc/patroni.yml:8:3
  |
8 |   hosts: https://etcd1:2379
  |   ^^^^^ expected `cacert`, the authority that signed etcd's certificates

error: `postgresql.connect_address` does not name one address
  --> /etc/patroni.yml:29:20
   |
29 |   connect_address: 0.0.0.0:5432
   |                    ^^^^^^^^^^^^ expected the address at which the others reach this node

error: `watchdog.mode` is `requird`
  --> /etc/patroni.yml:41:9
   |
41 |   mode: requird
   |         ^^^^^^^ expected automatic, off, required, false
   |
   = help: did you mean `required`?
"#);
}

#[test]
fn tls_is_said_in_patronis_words() {
    use crate::{
        agent::postgres::SslMode,
        tls::{Check, Clients, Identity, Pem},
    };
    let text = SEED_B
        .replace(
            "restapi:\n",
            "restapi:\n  certfile: /own.pem\n  cafile: /ca.pem\n  verify_client: optional\n",
        )
        .replace("etcd3:\n", "etcd3:\n  protocol: https\n  cacert: /ca.pem\n  cert: /c.pem\n  key: /k.pem\n")
        .replace("password: rep-pass", "password: rep-pass, sslmode: verify-full, sslrootcert: /ca.pem");
    let config = load(&text);
    let file = |path: &str| Pem::File(path.into());
    assert_eq!(config.api_url(), "https://10.0.0.2:8008/patroni");
    let tls = config.restapi.tls.as_ref().expect("TLS");
    assert_eq!(tls.identity, Identity { certificate: file("/own.pem"), key: file("/own.pem") });
    assert_eq!(tls.clients, Clients::Optional(file("/ca.pem")));
    let Store::Etcd { tls, .. } = &config.store;
    let tls = tls.as_ref().expect("TLS");
    assert_eq!((tls.authority.clone(), tls.check), (Some(file("/ca.pem")), Check::Name));
    // What `ctl` does not say of how members ask each other, `restapi` does.
    let peers = config.peers.as_ref().expect("a way to ask");
    assert_eq!((&peers.authority, peers.check), (&Some(file("/ca.pem")), Check::Name));
    let modes = [&config.postgresql.replication, &config.postgresql.superuser].map(|role| role.ssl.mode);
    assert_eq!(modes, [SslMode::VerifyFull, SslMode::Prefer]);

    for (wrong, said) in [
        ("certfile: /own.pem\n  verify_client: required", "whose certificates count"),
        ("verify_client: optional", "`restapi.certfile` is missing"),
    ] {
        let text = SEED_B.replace("restapi:\n", &format!("restapi:\n  {wrong}\n"));
        assert!(complaint(&text).contains(said), "{}", complaint(&text));
    }
    let unchecked = SEED_B.replace("password: rep-pass", "password: rep-pass, sslmode: verify-ca");
    assert!(complaint(&unchecked).contains("needs to know whom to trust"), "{}", complaint(&unchecked));
    let unknown = SEED_B.replace("password: rep-pass", "password: rep-pass, sslmode: verify");
    assert!(complaint(&unknown).contains("expected disable, allow"), "{}", complaint(&unknown));
}

#[test]
fn a_file_that_is_not_there_is_one_error() {
    let findings = Config::load(Path::new("/nonexistent/patroni.yml"), []).unwrap_err();
    insta::assert_snapshot!(findings.render(false), @r#"error: cannot read `/nonexistent/patroni.yml`: there is no such file"#);
}

#[test]
fn a_reload_says_what_changed_and_what_waits() {
    let old = load(SEED_B);
    let text = SEED_B
        .replace("work_mem: 16MB", "work_mem: 32MB")
        .replace("listen: 10.0.0.2:8008", "listen: 0.0.0.0:8008")
        .replace("  nosync: false\n", "");
    let changes = old.changes(&load(&text));
    let told: Vec<_> =
        changes.iter().map(|change| (change.path.as_str(), change.needs_agent_restart)).collect();
    assert_eq!(
        told,
        [("postgresql.parameters.work_mem", false), ("restapi.listen", true), ("tags.nosync", false)]
    );
    assert_eq!(old.changes(&old), []);
}
