//! Credentials of a running cluster are changed, under a client that writes all the while, and a search for
//! them finds them nowhere that others can look.

use super::harness::{
    lab::Lab,
    postgres::{Login, query},
    program::{Ran, eventually, run},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

const LIMIT: Duration = Duration::from_secs(90);
const MEMBERS: [&str; 3] = ["pg-1", "pg-2", "pg-3"];

/// When each agent and postmaster was started.
fn starts(lab: &Lab) -> BTreeMap<&'static str, String> {
    let ask = "systemctl show -p MainPID pgfleet-agent; \
               for pid in $(pgrep -x postgres -o); do echo postmaster=$pid $(cut -d' ' -f22 /proc/$pid/stat); done";
    MEMBERS.iter().map(|host| (*host, lab.scratch.on(host, ask))).collect()
}

/// The generated secrets.
fn secrets(lab: &Lab) -> BTreeMap<String, String> {
    let told = lab.pgfleet(&["secrets", "view", "--format", "json"]).success();
    serde_json::from_str(&told).unwrap()
}

/// The roles that replicas stream as.
fn streaming_as(lab: &Lab) -> Vec<String> {
    let leader = lab.leader(None);
    let rows =
        lab.sql(lab.postgres(&leader), "SELECT usename FROM pg_stat_replication WHERE state = 'streaming'");
    rows.unwrap_or_default().into_iter().flatten().collect()
}

fn lets_in(lab: &Lab, host: &str, user: &str, password: &str) -> bool {
    let login = Login { user: user.to_owned(), password: Some(password.to_owned()), tls: lab.login().tls };
    query(lab.network(), lab.postgres(host), login, "SELECT 1").is_ok()
}

fn unchanged(lab: &Lab) {
    let planned = lab.pgfleet(&["apply", "--format", "json"]).success();
    let report: serde_json::Value = serde_json::from_str(&planned).unwrap();
    let hosts = report["hosts"].as_object().unwrap();
    let changed: Vec<_> =
        hosts.iter().filter(|(_, tally)| tally["changes"] != serde_json::json!([])).collect();
    assert!(changed.is_empty(), "{changed:#?}");
}

/// Collects the command lines of all processes of this machine, those of its sandboxes among them.
struct CommandLines {
    stop: Arc<AtomicBool>,
    thread: thread::JoinHandle<BTreeSet<String>>,
}

impl CommandLines {
    fn watch() -> CommandLines {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = thread::spawn(move || {
            let mut seen = BTreeSet::new();
            while !stopped.load(Ordering::Relaxed) {
                for process in fs::read_dir("/proc").unwrap().flatten() {
                    if let Ok(line) = fs::read(process.path().join("cmdline")) {
                        seen.insert(String::from_utf8_lossy(&line).replace('\0', " "));
                    }
                }
                thread::sleep(Duration::from_millis(5));
            }
            seen
        });
        CommandLines { stop, thread }
    }

    fn stop(self) -> BTreeSet<String> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

/// What must not be found of a secret: a password, or the lines of a private key. Certificates are for all to see.
fn tell_tale(secret: &str) -> Vec<String> {
    if !secret.contains("-----BEGIN ") {
        return vec![secret.to_owned()];
    }
    let keys = secret.split("PRIVATE KEY-----").skip(1).step_by(2);
    keys.flat_map(str::lines).filter(|line| line.len() == 64).map(str::to_owned).collect()
}

/// Whether a text holds one of these; says which.
#[track_caller]
fn assert_none_in(what: &str, text: &str, secrets: &[String]) {
    for secret in secrets {
        let found = text.lines().find(|line| line.contains(secret.as_str()));
        assert!(found.is_none(), "{what} holds a secret: {}", found.unwrap_or_default());
    }
}

/// Journals, logs of any kind, and files that everybody can read hold none of these.
#[track_caller]
fn assert_none_on(lab: &Lab, host: &str, secrets: &[String]) {
    // The patterns come by standard input: in an argument they would be found.
    let search = "umask 077; cat > /root/patterns; \
         { journalctl --all --output export --no-pager | grep -a -F -f /root/patterns; \
           find / -xdev -type f -perm -o=r -size -20M \
             ! -path '/proc/*' ! -path '/sys/*' ! -path '/usr/share/*' ! -path '/usr/lib/*' ! -path '/var/lib/apt/*' -print0 \
             | xargs -0 grep -a -l -F -f /root/patterns; \
           grep -a -r -l -F -f /root/patterns /var/log; } 2>/dev/null; rm /root/patterns";
    let patterns = lab.inventory().with_file_name("patterns");
    fs::write(&patterns, secrets.join("\n") + "\n").unwrap();
    let mut command = lab.scratch.command("ssh", &[host, search]);
    let found = run(command.stdin(Stdio::from(fs::File::open(&patterns).unwrap())));
    assert_eq!(found.stdout.trim(), "", "{host} holds a secret: {}", found.stderr);
    // The search itself works.
    let mut command = lab.scratch.command("ssh", &[host, search]);
    fs::write(&patterns, "root:x:0:0\n").unwrap();
    let found = run(command.stdin(Stdio::from(fs::File::open(&patterns).unwrap())));
    assert!(found.stdout.contains("/etc/passwd"), "{found}");
}

fn said(ran: &Ran) -> String {
    format!("{}\n{}", ran.stdout, ran.stderr)
}

#[test]
fn passwords_and_roles_change_under_a_writer_and_are_found_nowhere() {
    let mut lab = Lab::bootstrapped("demo", "trixie");
    lab.seal("a passphrase for this test");
    let old = secrets(&lab);
    let (write, before) = (lab.write_entry(), starts(&lab));
    let writer = lab.writer();

    // New passwords, on all members, by a reload.
    let lines = CommandLines::watch();
    let rotated = lab.pgfleet(&["secrets", "rotate", "-vv", "--diff"]);
    let mut heard = said(&rotated);
    rotated.success();
    let new = secrets(&lab);
    for name in ["superuser_password", "replication_password", "rewind_password"] {
        assert_ne!(old[name], new[name], "{name}");
    }
    for host in MEMBERS {
        for (user, password) in [("postgres", "superuser_password"), ("rewinder", "rewind_password")] {
            eventually(&format!("{host} takes the new password of {user}"), LIMIT, || {
                lets_in(&lab, host, user, &new[password]).then_some(())
            });
            assert!(!lets_in(&lab, host, user, &old[password]), "{host} takes {user}'s old password");
        }
        let config = lab.scratch.on(host, "cat /etc/pgfleet/agent.yml /run/pgfleet/pgpass");
        assert!(config.contains(&new["replication_password"]), "{host}");
        assert!(!config.contains(&old["replication_password"]), "{host}");
    }
    assert_eq!(streaming_as(&lab), ["replicator", "replicator"]);
    unchanged(&lab);

    // As the author of cluster E did: roles of other names, on the running cluster.
    lab.set(&["replication_user=replication_user", "rewind_user=rewind_user"]);
    let renamed = lab.pgfleet(&["apply", "-vv", "--diff"]);
    heard += &said(&renamed);
    renamed.success();
    assert_eq!(streaming_as(&lab), ["replication_user", "replication_user"]);
    let rights = "SELECT rolsuper OR rolcreaterole OR rolcreatedb OR rolbypassrls, rolreplication, rolcanlogin \
                  FROM pg_roles WHERE rolname IN ('replication_user', 'rewind_user') ORDER BY rolname";
    assert_eq!(lab.sql(write, rights).unwrap(), [["f", "t", "t"], ["f", "f", "t"]]);
    unchanged(&lab);

    // A rotation that is killed at any point is completed by the next one.
    for delay in [300, 1_500, 3_000] {
        let mut command = lab.command(&["secrets", "rotate", "replication_password"]);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        thread::sleep(Duration::from_millis(delay));
        child.kill().unwrap();
        child.wait().unwrap();
        let completed = lab.pgfleet(&["secrets", "rotate", "replication_password", "-vv"]);
        heard += &said(&completed);
        completed.success();
        assert_eq!(streaming_as(&lab).len(), 2);
        unchanged(&lab);
    }

    // The REST API gets a password, then another one; no agent is restarted for it.
    lab.set(&["agent_api_user=pgfleet"]);
    lab.pgfleet(&["apply"]).success();
    let first = secrets(&lab)["agent_api_password"].clone();
    lab.pgfleet(&["secrets", "rotate", "agent_api_password"]).success();
    assert_ne!(secrets(&lab)["agent_api_password"], first);
    // Who has no certificate of the cluster's is not even asked for it.
    let anybody = "printf 'POST /reload HTTP/1.0\\r\\nContent-Length: 0\\r\\n\\r\\n' | \
                   openssl s_client -quiet -connect 127.0.0.1:8008 2>/dev/null | head -n1";
    let refused = lab.scratch.on("pg-1", anybody);
    assert!(refused.contains("403"), "{refused}");
    unchanged(&lab);
    assert_eq!(starts(&lab), before, "something was restarted");
    let wrote = writer.stop();
    assert!(wrote.failed.is_empty(), "{:?}", wrote.failed);
    let present = lab.sql(write, super::harness::writer::ROWS).unwrap();
    assert_eq!(wrote.missing_from(&present), [0_i64; 0]);

    // The new roles and the API's password carry a switchover, and the former primary's return.
    lab.pgfleet(&["switchover"]).success();
    eventually("both replicas stream", LIMIT, || (streaming_as(&lab).len() == 2).then_some(()));

    for arguments in [
        &["plan", "-vv", "--diff"][..],
        &["plan", "--format", "json", "--diff", "-e", "superuser_password=another-secret-word"],
        &["apply", "-vv"],
        &["status", "--format", "json", "-vv"],
        &["verify", "-vv"],
        &["verify", "--format", "json"],
        &["check", "--hosts", "--format", "json"],
        &["secrets", "init", "--format", "json"],
        &["run", "credentials", "--check", "-vv", "--diff"],
    ] {
        heard += &said(&lab.pgfleet(arguments));
    }
    let lines: String = lines.stop().into_iter().map(|line| line + "\n").collect();
    let mut all: Vec<String> = [old, new, secrets(&lab)]
        .iter()
        .flat_map(BTreeMap::values)
        .flat_map(|text| tell_tale(text))
        .collect();
    assert!(all.len() > 10, "passwords and keys");
    all.push("a passphrase for this test".to_owned());
    assert_none_in("the output", &heard, &all);
    assert_none_in("a command line", &lines, &all);
    let inventory = lab.loaded();
    for host in inventory.hosts.keys() {
        assert_none_on(&lab, host.as_str(), &all);
    }
}

#[test]
fn the_virtual_address_stays_while_its_password_changes() {
    let lab = Lab::bootstrapped_with("two-nodes-and-a-vip", "bookworm", &["postgres_version=15"]);
    let old = secrets(&lab);
    let holder = || Some(lab.status()?["vip"]["holder"].as_str()?.to_owned());
    let held = holder().expect("the address is held");
    let writer = lab.writer();
    let began = Instant::now();
    lab.pgfleet(&["secrets", "rotate"]).success();
    let new = secrets(&lab);
    assert_ne!(old["vip_password"], new["vip_password"]);
    assert_eq!(new["vip_password"].len(), 8);
    for host in ["pgdb1", "pgdb2"] {
        let config = lab.scratch.on(host, "cat /etc/keepalived/keepalived.conf");
        assert!(config.contains(&new["vip_password"]) && !config.contains(&old["vip_password"]), "{host}");
    }
    assert_eq!(holder(), Some(held));
    writer.acknowledged_since(Instant::now(), LIMIT);
    let wrote = writer.stop();
    assert!(wrote.failed.iter().all(|(at, _)| *at < began), "{:?}", wrote.failed);
    lab.pgfleet(&["verify"]).success();
}
