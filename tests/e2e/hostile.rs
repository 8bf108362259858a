//! Hosts that refuse, are full, are taken, or go away: what the operator is told, and that nothing is left
//! half-written.

use super::harness::{
    lab::Lab,
    program::{Ran, eventually},
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;
use std::{
    fs,
    path::PathBuf,
    process::{Child, Stdio},
    time::Duration,
};

/// Texts that differ from run to run.
const FILTERS: [(&str, &str); 9] = [
    (r"SHA256:[A-Za-z0-9+/]{43}", "SHA256:…"),
    (r"/[^ `]*/known_hosts", "KNOWN_HOSTS"),
    (r"/[^ `]*/key\b", "KEY"),
    (r"/[^ `]*/(\w+\.yml)", "DIR/$1"),
    (r"pgfleet-[0-9a-f]{12}", "pgfleet-…"),
    (r"process \d+", "process N"),
    (r"yml:\d+:\d+", "yml:LINE"),
    (r"\d+ tasks", "N tasks"),
    // How fast this machine's disk is changes from moment to moment.
    (r", \d+ to look at", ""),
];

/// Hosts and a folder for playbooks.
struct Stage {
    lab: Lab,
    folder: tempfile::TempDir,
}

impl Stage {
    #[track_caller]
    fn fresh(inventory: &str) -> Stage {
        Stage { lab: Lab::fresh(inventory, "trixie", &[]), folder: tempfile::tempdir().unwrap() }
    }

    fn on(&self, host: &str, command: &str) -> String {
        self.lab.scratch.on(host, command)
    }

    /// Runs a playbook of these tasks on all hosts.
    fn tasks(&self, tasks: &str, arguments: &[&str]) -> Ran {
        let playbook = self.folder.path().join("play.yml");
        fs::write(&playbook, format!("- hosts: all\n  become: true\n  tasks:\n{tasks}")).unwrap();
        let playbook = playbook.display().to_string();
        self.lab.pgfleet(&[&["run", &playbook], arguments].concat())
    }

    /// Runs a playbook that writes `/etc/mark`.
    fn touch(&self, arguments: &[&str]) -> Ran {
        self.tasks("    - copy: {dest: /etc/mark, content: new}\n", arguments)
    }

    fn known_hosts(&self) -> PathBuf {
        self.lab.scratch.home().join("known_hosts")
    }
}

/// The error with its next step, without what comes before it.
#[track_caller]
fn told(ran: Ran, code: i32) -> String {
    let text = ran.failure(code);
    let at = text.find("error:").unwrap_or_else(|| panic!("no error is told:\n{text}"));
    text[at..].to_owned()
}

/// Something that listens on a port and is no part of any cluster.
fn squat(lab: &Lab, host: &str, port: u16) {
    let listen = format!(
        "systemd-run --quiet --collect --unit squatter perl -MIO::Socket::INET -e \
         '@socket = IO::Socket::INET->new(LocalPort => {port}, Listen => 5, ReuseAddr => 1); sleep'"
    );
    lab.scratch.on(host, &listen);
    eventually("somebody has the port", Duration::from_secs(20), || {
        let hex = format!("00000000:{port:04X} 00000000:0000 0A");
        lab.scratch.on(host, "cat /proc/net/tcp").contains(&hex).then_some(())
    });
}

fn leave(lab: &Lab, host: &str) {
    lab.scratch.on(host, "systemctl stop squatter");
}

#[test]
fn a_host_that_does_not_let_us_in_says_why_and_is_left_alone() {
    let stage = Stage::fresh("single");
    let mut told_all = Vec::new();

    stage.on("pg-1", "mv /root/.ssh/authorized_keys /root/.ssh/kept");
    told_all.push(told(stage.touch(&[]), 3));
    let restore = ["-l", "admin", "pg-1", "sudo mv /root/.ssh/kept /root/.ssh/authorized_keys"];
    stage.lab.scratch.run("ssh", &restore).success();

    let known = fs::read_to_string(stage.known_hosts()).unwrap();
    fs::write(stage.known_hosts(), "").unwrap();
    told_all.push(told(stage.touch(&[]), 3));

    // As if the host had had another key when it was first seen.
    let other = stage.folder.path().join("other");
    let mut keygen = std::process::Command::new("ssh-keygen");
    assert!(keygen.args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&other).status().unwrap().success());
    let other = fs::read_to_string(other.with_extension("pub")).unwrap();
    let names = known.split(' ').next().unwrap();
    let entry = other.split(' ').take(2).collect::<Vec<_>>().join(" ");
    fs::write(stage.known_hosts(), format!("{names} {entry}\n")).unwrap();
    told_all.push(told(stage.touch(&[]), 3));
    let changed = told(stage.touch(&["--accept-new-host-keys"]), 3);
    assert!(changed.contains("HAS CHANGED"), "a changed key was accepted: {changed}");
    fs::write(stage.known_hosts(), &known).unwrap();

    stage.on("pg-1", "mv /usr/bin/sudo /usr/bin/kept");
    told_all.push(told(stage.touch(&["-e", "ansible_user=admin"]), 1));
    stage.on("pg-1", "mv /usr/bin/kept /usr/bin/sudo; rm /etc/sudoers.d/admin");
    told_all.push(told(stage.touch(&["-e", "ansible_user=admin"]), 1));
    told_all.push(told(stage.touch(&["-e", "ansible_user=admin", "-e", "ansible_become=false"]), 1));

    told_all.push(told(stage.touch(&["-e", "ansible_port=23"]), 3));
    told_all.push(told(stage.touch(&["-e", "ansible_host=10.90.0.99"]), 3));

    // Not even our own program has come there by all this.
    assert_eq!(stage.on("pg-1", "ls -d /etc/mark /var/lib/pgfleet 2>/dev/null || true"), "");
    insta::with_settings!({filters => FILTERS}, {
        insta::assert_snapshot!(told_all.join("\n"), @r"
        error: pg-1: connect: user `root` is refused at 10.90.0.11:22: it tried KEY (ssh-ed25519 SHA256:…); the server accepts publickey, password
          next: Name a key that is in ~root/.ssh/authorized_keys there with `ansible_ssh_private_key_file`, or put yours there with `ssh-copy-id`; check `ansible_user`.

        error: pg-1: connect: the key of `10.90.0.11` is not known: it offers ssh-ed25519 SHA256:…
          next: Compare the fingerprint with the one that the host's console shows (`ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub`), then record it with `ssh-keyscan 10.90.0.11 >> KNOWN_HOSTS`; or trust the first contact with --accept-new-host-keys.

        error: pg-1: connect: THE HOST KEY OF `10.90.0.11` HAS CHANGED: known is KNOWN_HOSTS:1: ssh-ed25519 SHA256:…, it offers ssh-ed25519 SHA256:…
          next: If the host was reinstalled, remove the old key with `ssh-keygen -f KNOWN_HOSTS -R '10.90.0.11'` and try again. If it was not, somebody may be listening in between: do not go on.

        error: pg-1: connect: sudo is not installed, and user `admin` is not root
          next: Install sudo there, or log in as root (`ansible_user: root`, `ansible_become: false`).

        error: pg-1: connect: sudo asks for a password, and none is given
          next: Set `ansible_become_password`, or give the user `NOPASSWD: ALL` in /etc/sudoers.d.

        error: pg-1: connect: /var/lib/pgfleet/bin/pgfleet-… may not be written: mkdir: cannot create directory ‘/var/lib/pgfleet’: Permission denied
          next: Set `ansible_become: true`, or log in as root.

        error: pg-1: connect: 10.90.0.11:23 refuses connections
          next: Is sshd running there, and is 10.90.0.11:23 its address and port (`ansible_port`)?

        error: pg-1: connect: no route to 10.90.0.99:22
          next: Is the host up? Check the address, the route and the firewalls on the way.
        ");
    });

    fs::write(stage.known_hosts(), "").unwrap();
    stage.touch(&["--accept-new-host-keys"]).success();
    assert_eq!(fs::read_to_string(stage.known_hosts()).unwrap().lines().count(), 1, "the key is recorded");

    stage.lab.scratch.run("kill", &["pg-1"]).success();
    let down = stage.touch(&["--format", "json"]);
    assert_eq!(down.code, Some(3), "{down}");
    let report: Value = serde_json::from_str(&down.stdout).unwrap();
    assert_eq!(report["failures"][0]["host"], "pg-1");
    assert_eq!(report["failures"][0]["unreachable"], true);
}

#[test]
fn a_full_disk_leaves_what_was_there() {
    let stage = Stage::fresh("single");
    let full = |folder: &str, size: &str| {
        stage.on("pg-1", &format!("mkdir -p {folder} && mount -t tmpfs -o size={size} none {folder}"));
    };
    let mut told_all = Vec::new();

    full("/var/lib/pgfleet", "1m");
    told_all.push(told(stage.touch(&[]), 1));
    assert_eq!(stage.on("pg-1", "find /var/lib/pgfleet -type f"), "");
    stage.on("pg-1", "umount /var/lib/pgfleet");

    full("/etc/pgfleet", "64k");
    stage.on("pg-1", "echo old > /etc/pgfleet/f; cat /dev/zero > /etc/pgfleet/rest 2>/dev/null || true");
    let content = "new ".repeat(4000);
    let task = format!("    - name: A file\n      copy: {{dest: /etc/pgfleet/f, content: {content}}}\n");
    told_all.push(told(stage.tasks(&task, &[]), 1));
    assert_eq!(stage.on("pg-1", "cat /etc/pgfleet/f; ls -A /etc/pgfleet"), "old\nf\nrest");
    stage.on("pg-1", "rm /etc/pgfleet/rest");
    stage.tasks(&task, &[]).success();

    // Packages are not half-installed, and the policy that keeps services down is taken away.
    full("/var/cache/apt/archives", "64k");
    let install = |name: &str| {
        let task = format!("    - name: A package\n      apt: {{name: {name}, hold_services: true}}\n");
        stage.tasks(&task, &[])
    };
    let no_room = told(install("haproxy"), 1);
    assert!(no_room.contains("enough free space") || no_room.contains("No space left"), "{no_room}");
    assert!(no_room.contains("next: free space on the host"), "{no_room}");
    let state =
        "dpkg --audit; dpkg -l haproxy 2>/dev/null | grep ^i; ls /usr/sbin/policy-rc.d 2>/dev/null || true";
    assert_eq!(stage.on("pg-1", state), "");
    stage.on("pg-1", "umount /var/cache/apt/archives");

    let unknown = told(install("haproxyy"), 1);
    assert!(unknown.contains("E: Unable to locate package haproxyy"), "{unknown}");
    assert!(unknown.contains("(exit code 100)"), "{unknown}");
    assert!(unknown.contains("did you mean `haproxy`?"), "{unknown}");
    assert_eq!(stage.on("pg-1", state), "");

    insta::with_settings!({filters => FILTERS}, {
        insta::assert_snapshot!(told_all.join("\n"), @r"
        error: pg-1: connect: no room on the device for /var/lib/pgfleet/bin/pgfleet-…
          next: Free some space there: see `df -h /var/lib/pgfleet/bin`.

        error: pg-1: A file: cannot write /etc/pgfleet/f: no space left on the device
          task: DIR/play.yml:LINE
          next: free space where /etc/pgfleet is (see `df -h` and `df -i`), then run again; what was there is untouched
        ");
    });
}

#[test]
fn a_host_that_fails_is_the_only_one_that_is_blamed() {
    let stage = Stage::fresh("two-nodes-and-a-vip");
    let hosts = stage.lab.loaded().hosts.keys().map(ToString::to_string).collect::<Vec<_>>();
    let (bad, waiting) = (&hosts[0], &hosts[1]);
    let tasks = format!(
        "    - name: Something that never comes\n      wait_for: {{path: /never}}\n      \
         when: inventory_hostname == '{waiting}'\n    \
         - name: Something that fails\n      shell: sleep 1; echo broken >&2; exit 7\n      \
         when: inventory_hostname == '{bad}'\n"
    );
    let ran = stage.tasks(&tasks, &[]);
    assert!(ran.stderr.contains(&format!("stopped  {waiting}: Something that never comes")), "{ran}");
    let text = told(ran, 1).replace(bad, "BAD");
    insta::with_settings!({filters => FILTERS}, {
        insta::assert_snapshot!(text, @r"
        error: BAD: Something that fails: the command ended with exit code 7
          task: DIR/play.yml:LINE
          command: /bin/sh -c 'sleep 1; echo broken >&2; exit 7' (exit code 7)
          | broken
          next: see its last lines; repair the cause on the host, then run again
        ");
    });
}

/// A service of the cluster is down, and somebody else has its port: said by an apply and by a check. Once the
/// port is free again, the same apply completes.
fn taken(lab: &Lab, host: &str, unit: &str, port: u16) -> String {
    lab.scratch.on(host, &format!("systemctl stop {unit}"));
    squat(lab, host, port);
    let checked = lab.pgfleet(&["check", "--hosts", "--limit", host, "--format", "json"]);
    assert_eq!(checked.code, Some(1), "{checked}");
    let document: Value = serde_json::from_str(&checked.stdout).unwrap();
    let findings = document["hosts"].as_array().unwrap().iter();
    let failed: Vec<_> = findings.filter(|finding| finding["verdict"] == "fail").collect();
    assert_eq!(failed.len(), 1, "{checked}");
    assert_eq!(failed[0]["check"], "ports", "{checked}");

    let text = told(lab.pgfleet(&["apply", "--limit", host]), 1);
    leave(lab, host);
    lab.pgfleet(&["apply", "--limit", host]).success();
    assert_eq!(lab.scratch.on(host, &format!("systemctl is-active {unit}")), "active");
    // The journal's lines are the services' own business.
    let lines = text.lines().filter(|line| !line.starts_with("  | ") && !line.contains("not reached"));
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn a_port_that_somebody_else_has_is_told_with_who_it_is() {
    let lab = Lab::bootstrapped("demo", "trixie");
    let ready = lab.pgfleet(&["check", "--hosts"]);
    assert_eq!(ready.code, Some(0), "{ready}");
    assert!(ready.stderr.contains("Every host is ready"), "{ready}");

    let leader = lab.leader(None);
    let replica = lab.members("replica").into_iter().find(|name| *name != leader).expect("a replica");
    let told = [
        taken(&lab, "etcd-1", "etcd", 2379),
        taken(&lab, "haproxy-1", "haproxy", 5431),
        taken(&lab, &replica, "pgfleet-agent", 5432).replace(&replica, "REPLICA"),
    ];
    insta::with_settings!({filters => FILTERS}, {
        insta::assert_snapshot!(told.join("\n"), @r"
        error: etcd-1: etcd runs: etcd.service does not start: port 2379 is taken by perl (process N of squatter.service)
          task: playbooks/etcd.yml:LINE
          command: systemctl start etcd.service (exit code 1)
          next: if nobody needs that one: `systemctl disable --now squatter.service` on the host; otherwise choose another port in the inventory. Then run the same command again
        error: haproxy-1: HAProxy runs: haproxy.service does not start: port 5431 is taken by perl (process N of squatter.service)
          task: playbooksDIR/haproxy.yml:LINE
          command: systemctl start haproxy.service (exit code 1)
          next: if nobody needs that one: `systemctl disable --now squatter.service` on the host; otherwise choose another port in the inventory. Then run the same command again
        error: REPLICA: Nobody else has PostgreSQL's ports: port 5432 is taken by perl (process N of squatter.service)
          task: playbooks/postgres.yml:LINE
          next: if nobody needs that one: `systemctl disable --now squatter.service` on the host; otherwise choose another port in the inventory. Then run the same command again
        ");
    });
    lab.until_healthy(Duration::from_secs(60));
}

#[test]
fn a_check_of_hosts_tells_what_is_in_the_way_and_changes_nothing() {
    let stage = Stage::fresh("single");
    let lab = &stage.lab;
    stage.on("pg-1", "touch /root/before");
    let ready = lab.pgfleet(&["check", "--hosts"]);
    assert_eq!(ready.code, Some(0), "{ready}");
    let changed = "find / -xdev -newer /root/before -type f -not -path '/var/log/*' -not -path '/var/lib/systemd/*' \
                   -not -path '/tmp/*' -not -path '/root/before' -not -path '/var/lib/pgfleet/bin/*'";
    assert_eq!(stage.on("pg-1", changed), "");
    let beside = fs::read_dir(lab.inventory().parent().unwrap()).unwrap().count();
    assert_eq!(beside, 1, "passwords were written beside the inventory");

    stage.on(
        "pg-1",
        "mkdir -p /var/lib/etcd/single/member /var/lib/postgresql/17/single /etc/pgfleet; \
         echo 15 > /var/lib/postgresql/17/single/PG_VERSION; \
         printf 'ETCD_DATA_DIR=/var/lib/etcd/single\nETCD_INITIAL_CLUSTER_TOKEN=old\n' > /etc/default/etcd; \
         printf 'scope: old\nname: pg-9\npostgresql: {data_dir: /srv/old}\n' > /etc/pgfleet/agent.yml; \
         mount -t tmpfs -o size=64k none /var/cache/apt/archives",
    );
    squat(lab, "pg-1", 8008);
    let refused = lab.pgfleet(&["check", "--hosts"]);
    assert_eq!(refused.code, Some(1), "{refused}");
    let rows = refused.stdout.split_once("\n\n").expect("a table").1;
    let of_disk = |row: &&str| row.contains(" fsync ") || row.contains("-> Put etcd on");
    let rows: Vec<&str> = rows.lines().filter(|row| !row.contains(" ok ") && !of_disk(row)).collect();
    insta::with_settings!({filters => FILTERS}, {
        insta::assert_snapshot!(rows.join("\n") + "\n" + &refused.stderr, @r"
        HOST  CHECK      RESULT  MESSAGE
              disk       fail    64 KiB free on /var/cache/apt/archives for downloaded packages in /var/cache/apt/archives
                                 -> Make room for 500 MiB or more.
              ports      fail    8008 is taken by perl (process N of squatter.service)
                                 -> If nobody needs it: `systemctl disable --now squatter.service`. Otherwise choose another port by `agent_api_port`.
              leftovers  fail    the host is member `pg-9` of another cluster, `old`
                                 -> If nobody needs that one: `systemctl disable --now pgfleet-agent; rm -rf /etc/pgfleet /srv/old`.
              leftovers  fail    /var/lib/postgresql/17/single holds data of PostgreSQL 15, and 17 is wanted
                                 -> Set `postgres_version: 15`, or another `postgres_data_dir`. If nobody needs the data: `rm -rf /var/lib/postgresql/17/single`.
              leftovers  fail    /var/lib/etcd/single holds data of another etcd cluster (token `old`)
                                 -> Choose another `etcd_data_dir`. If nobody needs it: `systemctl disable --now etcd; rm -rf /var/lib/etcd/single`.

        Not ready: 5 to repair.
        ");
    });

    lab.scratch.run("kill", &["pg-1"]).success();
    let gone = lab.pgfleet(&["check", "--hosts"]);
    assert_eq!(gone.code, Some(3), "{gone}");
    assert!(gone.stdout.contains("Is the host up?"), "{gone}");
}

/// Starts a bootstrap and returns when packages are being installed.
fn bootstrap_begun(lab: &Lab) -> Child {
    let mut command = lab.command(&["bootstrap"]);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    eventually("packages are installed", Duration::from_secs(120), || {
        assert!(child.try_wait().unwrap().is_none(), "the bootstrap ended");
        lab.scratch.on("pg-1", "pgrep -x dpkg || true").contains(char::is_numeric).then_some(())
    });
    child
}

/// How a run that was started ended.
fn ended(child: Child) -> Ran {
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    Ran { line: "pgfleet bootstrap".to_owned(), code: output.status.code(), stdout: String::new(), stderr }
}

#[test]
fn a_bootstrap_that_loses_its_host_and_is_interrupted_completes_in_the_end() {
    let stage = Stage::fresh("single");
    let lab = &stage.lab;

    // Power off while packages are installed.
    let first = bootstrap_begun(lab);
    lab.scratch.run("kill", &["pg-1"]).success();
    let lost = told(ended(first), 3);
    insta::with_settings!({filters => FILTERS}, {
        insta::assert_snapshot!(lost, @r"
        error: pg-1: Packages of the host's roles: the connection was closed in the middle of a step
          task: playbooks/packages.yml:LINE
          next: bring pg-1 back and run the same command again: it goes on from where it stopped
        N tasks were not reached.
        ");
    });
    lab.scratch.run("start", &["pg-1"]).success();

    // Ctrl-C while packages are installed: that step is finished, no other begins.
    let second = bootstrap_begun(lab);
    kill(Pid::from_raw(second.id().try_into().unwrap()), Signal::SIGINT).unwrap();
    let stopped = ended(second);
    let text = stopped.to_string();
    assert_eq!(stopped.code, Some(1), "{text}");
    assert!(text.contains("Stopping after the steps under way."), "{text}");
    let end = &text[text.find("Stopped between").unwrap_or_else(|| panic!("no word of the stop: {text}"))..];
    insta::assert_snapshot!(end, @r"
    Stopped between two steps: nothing is half-done.
      next: the same command goes on from here
    ");
    assert_eq!(
        stage.on("pg-1", "dpkg --audit; dpkg-query -W -f '${Status}' postgresql-17"),
        "install ok installed"
    );
    assert_eq!(
        stage.on(
            "pg-1",
            "ls /usr/sbin/policy-rc.d 2>/dev/null; ls -d /var/lib/etcd/single 2>/dev/null || true"
        ),
        ""
    );

    lab.pgfleet(&["bootstrap"]).success();
    lab.until_healthy(Duration::from_secs(60));
}
