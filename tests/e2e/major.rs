//! PostgreSQL 15 becomes 17 on a living cluster: looked at, gone back from before anybody wrote, then done under
//! a client that writes, with all data as they were.

use super::harness::{lab::Lab, program::eventually, writer::ROWS};
use serde_json::Value;
use std::{process::Stdio, time::Duration};

const HEALTHY: Duration = Duration::from_secs(120);

const MEMBERS: [&str; 2] = ["pgdb1", "pgdb2"];

/// PostgreSQL 15 from the release before, beside all that the host's own release has.
const OLDER_RELEASE: &str = "sed -n 's/ trixie main/ bookworm main/p' /etc/apt/sources.list > \
     /etc/apt/sources.list.d/bookworm.list && printf 'Package: *\\nPin: release n=bookworm\\nPin-Priority: 100\\n' > \
     /etc/apt/preferences.d/bookworm && apt-get -q update";

/// Something of everything that has to come along.
const DATA: [&str; 9] = [
    "CREATE ROLE reader LOGIN PASSWORD 'only for the test'",
    "CREATE DATABASE shop OWNER reader",
    "CREATE EXTENSION pg_trgm",
    "CREATE TABLE goods (id serial PRIMARY KEY, name text NOT NULL, price numeric)",
    "INSERT INTO goods (name, price) SELECT 'good ' || n, n * 1.5 FROM generate_series(1, 20000) n",
    "CREATE INDEX ON goods USING gin (name gin_trgm_ops)",
    "GRANT SELECT ON goods TO reader",
    "SELECT lo_from_bytea(4711, 'a large object')",
    "CREATE MATERIALIZED VIEW dear AS SELECT * FROM goods WHERE price > 29000",
];

/// What the data are known by.
const FINGERPRINT: [&str; 7] = [
    "SELECT count(*), md5(string_agg(id || name || price, ',' ORDER BY id)) FROM goods",
    "SELECT last_value FROM goods_id_seq",
    "SELECT md5(lo_get(4711))",
    "SELECT rolname, rolpassword FROM pg_authid WHERE rolname = 'reader'",
    "SELECT datname, pg_get_userbyid(datdba) FROM pg_database ORDER BY 1",
    "SELECT has_table_privilege('reader', 'goods', 'SELECT'), has_table_privilege('reader', 'goods', 'INSERT')",
    "SELECT count(*) FROM dear",
];

fn fingerprint(lab: &Lab) -> Vec<Vec<Vec<String>>> {
    let ask = |query: &&str| lab.sql(lab.write_entry(), query).unwrap_or_else(|why| panic!("{query}: {why}"));
    FINGERPRINT.iter().map(ask).collect()
}

/// The major version on every member.
fn versions(lab: &Lab) -> Vec<String> {
    let version = |host: &&str| {
        let rows = lab.sql(lab.postgres(host), "SELECT current_setting('server_version_num')::int / 10000");
        rows.unwrap_or_else(|why| panic!("{host}: {why}"))[0][0].clone()
    };
    MEMBERS.iter().map(version).collect()
}

fn started(lab: &Lab) -> Vec<String> {
    let start =
        |host: &&str| lab.sql(lab.postgres(host), "SELECT pg_postmaster_start_time()").unwrap()[0][0].clone();
    MEMBERS.iter().map(start).collect()
}

fn report(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[test]
#[ignore = "make test-long"]
fn a_cluster_changes_its_major_version_and_can_go_back_until_somebody_writes() {
    let mut lab = Lab::fresh("two-nodes-and-a-vip", "trixie", &["postgres_version=15"]);
    for host in MEMBERS {
        lab.scratch.on(host, OLDER_RELEASE);
    }
    lab.pgfleet(&["bootstrap"]).success();
    lab.until_healthy(HEALTHY);
    for statement in DATA {
        lab.sql(lab.write_entry(), statement).unwrap_or_else(|why| panic!("{statement}: {why}"));
    }
    let before = fingerprint(&lab);

    // Looked at, with the new version installed, and nothing restarted.
    let running = started(&lab);
    let ran = lab.pgfleet(&["upgrade-major", "--to", "17", "--check", "--format", "json"]).success();
    let told = report(&ran);
    println!("{told:#}");
    assert!(told["points"].as_array().unwrap().iter().all(|point| point["verdict"] == "fine"), "{told:#}");
    assert_eq!(started(&lab), running);
    let nothing = lab.pgfleet(&["upgrade-major", "--back"]).failure(1);
    assert!(nothing.contains("no upgrade is under way"), "{nothing}");

    // The data are upgraded and nobody has got to them: back to the old ones, which go on.
    let held = lab.pgfleet(&["upgrade-major", "--to", "17", "--hold"]).success();
    assert!(held.contains("--back"), "{held}");
    assert!(lab.sql(lab.write_entry(), "SELECT 1").is_err(), "nobody serves meanwhile");
    let other = lab.pgfleet(&["upgrade-major", "--to", "18"]).failure(1);
    assert!(other.contains("an upgrade from PostgreSQL 15 to 17 is under way"), "{other}");
    lab.pgfleet(&["upgrade-major", "--back"]).success();
    lab.until_healthy(HEALTHY);
    assert_eq!(versions(&lab), ["15", "15"]);
    assert_eq!(fingerprint(&lab), before);
    for host in MEMBERS {
        assert_eq!(lab.scratch.on(host, "ls /var/lib/postgresql/17"), "", "{host}");
    }

    // This machine dies while the cluster is down: back from wherever that was.
    let mut dying = lab.command(&["upgrade-major", "--to", "17"]);
    let mut dying = dying.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    eventually("the cluster is being shut down", HEALTHY, || {
        assert_eq!(dying.try_wait().unwrap(), None, "it has ended by itself");
        let ask = "systemctl is-active pgfleet-agent || true";
        MEMBERS.iter().any(|host| lab.scratch.on(host, ask) == "inactive").then_some(())
    });
    dying.kill().unwrap();
    dying.wait().unwrap();
    lab.pgfleet(&["upgrade-major", "--back", "--wait-lock", "60"]).success();
    lab.until_healthy(HEALTHY);
    assert_eq!(versions(&lab), ["15", "15"]);
    assert_eq!(fingerprint(&lab), before);

    // For good, under a client that writes.
    let writer = lab.writer();
    let ran = lab.pgfleet(&["upgrade-major", "--to", "17", "--format", "json"]).success();
    let told = report(&ran);
    println!("{told:#}");
    let written = writer.stop();
    println!("the client could not write for {} ms", written.longest_gap().as_millis());
    lab.until_healthy(HEALTHY);
    assert_eq!(told["phase"], "done", "{told:#}");
    assert_eq!(versions(&lab), ["17", "17"]);
    assert_eq!(fingerprint(&lab), before);
    let rows = lab.sql(lab.write_entry(), ROWS).unwrap();
    assert_eq!(written.missing_from(&rows), Vec::<i64>::new(), "acknowledged rows are lost");
    let gap = u128::from(told["writes_interrupted_ms"].as_u64().expect("a measured interruption"));
    assert!(gap.abs_diff(written.longest_gap().as_millis()) < 1000, "told {gap} ms");
    let analyzed = "SELECT count(*) > 0 FROM pg_stats WHERE tablename = 'goods'";
    assert_eq!(lab.sql(lab.write_entry(), analyzed).unwrap()[0][0], "t");

    // No way back over what was written, and none by an inventory that still has the old version.
    let back = lab.pgfleet(&["upgrade-major", "--back"]).failure(1);
    assert!(back.contains("PostgreSQL 17 has taken writes since"), "{back}");
    let old = lab.pgfleet(&["apply"]).failure(1);
    assert!(old.contains("the cluster runs PostgreSQL 17, the inventory says 15"), "{old}");
    assert_eq!(versions(&lab), ["17", "17"]);
    lab.set(&["postgres_version=17"]);
    let told = report(&lab.pgfleet(&["apply", "--format", "json"]).success());
    let hosts = told["hosts"].as_object().unwrap();
    let changes: usize = hosts.values().map(|host| host["changes"].as_array().unwrap().len()).sum();
    assert_eq!(changes, 0, "{told:#}");

    for host in MEMBERS {
        assert_eq!(lab.scratch.on(host, "ls /var/lib/postgresql/15"), "files", "{host}");
    }
    lab.pgfleet(&["upgrade-major", "--finish"]).success();
    for host in MEMBERS {
        assert_eq!(lab.scratch.on(host, "ls /var/lib/postgresql/15 2>/dev/null || true"), "", "{host}");
        assert_eq!(lab.scratch.on(host, "dpkg -l | grep -c '^ii  postgresql-15 ' || true"), "0", "{host}");
    }
    lab.until_healthy(HEALTHY);
    assert_eq!(fingerprint(&lab), before);
}
