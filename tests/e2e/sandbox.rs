//! `pgfleet sandbox`: hosts that boot, break and vanish without a trace.

use super::harness::program::{Ran, Scratch, eventually, pgfleet, run};
use pgfleet::model::Digest;
use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

const A: &str = "--host=a-1=10.128.0.11";
const B: &str = "--host=b-1=10.128.0.26";

/// Everything on this machine that belongs to a sandbox, as far as names can tell.
fn traces(sandbox: &Scratch, cache: Option<u32>) -> Vec<String> {
    let name = &sandbox.name;
    let home = sandbox.home().display().to_string();
    let mut traces = Vec::new();
    let mut look = |what: &str, found: Vec<String>| {
        traces.extend(found.into_iter().map(|line| format!("{what}: {line}")));
    };
    let lines_with = |text: String, needle: &str| {
        text.lines().filter(|line| line.contains(needle)).map(String::from).collect::<Vec<_>>()
    };
    look("mount", lines_with(fs::read_to_string("/proc/self/mountinfo").unwrap(), &home));
    look("namespace", lines_with(run(Command::new("ip").arg("netns")).success(), name));
    let digest = Digest::of(name.as_bytes()).to_string();
    let interface = format!("pgf-{}", &digest[..6]);
    look("interface", lines_with(run(Command::new("ip").args(["-o", "link"])).success(), &interface));
    let machines = fs::read_dir("/run/systemd/nspawn/propagate").into_iter().flatten().flatten();
    let machines = machines.filter_map(|entry| entry.file_name().into_string().ok());
    look("machine", machines.filter(|machine| machine.starts_with(&digest[..6])).collect());
    look("rules", lines_with(run(Command::new("nft").args(["list", "tables"])).success(), name));
    let processes = fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| {
        let line = fs::read_to_string(entry.path().join("cmdline")).ok()?.replace('\0', " ");
        let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
        let cached = cache == Some(pid) && line.contains("sandbox cache");
        (line.contains(&home) || cached).then(|| format!("{pid} {line}"))
    });
    look("process", processes.collect());
    for hierarchy in ["/sys/fs/cgroup", "/sys/fs/cgroup/unified", "/sys/fs/cgroup/systemd"] {
        let group = Path::new(hierarchy).join("pgfleet").join(name);
        look("control group", group.exists().then(|| group.display().to_string()).into_iter().collect());
    }
    look("folder", sandbox.home().exists().then_some(home.clone()).into_iter().collect());
    traces
}

/// The process of the package cache, if it was started.
fn cache_of(sandbox: &Scratch) -> Option<u32> {
    let note = fs::read_to_string(sandbox.home().join("cache.process")).ok()?;
    note.split(' ').nth(1)?.parse().ok()
}

#[test]
fn hosts_are_machines_of_their_own_and_networks_keep_apart() {
    let (one, two) = (Scratch::new("apart"), Scratch::new("apart"));
    one.run("up", &[A, B]).success();
    two.run("up", &[A]).success();
    assert_eq!(
        one.on("a-1", "hostname; hostname -I; systemctl is-system-running --wait").replace(" \n", "\n"),
        "a-1\n10.128.0.11\nrunning"
    );
    assert_eq!(
        one.on("a-1", "cat /proc/1/comm; systemctl is-active ssh systemd-journald"),
        "systemd\nactive\nactive"
    );
    one.on("a-1", "echo one > /root/mark");
    // Both sandboxes have a host at this address; each is reached in its own network.
    assert_ne!(two.run("ssh", &["a-1", "cat /root/mark"]).code, Some(0));
    one.on("b-1", "ping -q -c 1 -W 5 10.128.0.11");
    // The machine itself has no way to either.
    assert_eq!(run(Command::new("ip").args(["-o", "route", "show", "10.128.0.0/24"])).success(), "");
    assert_eq!(one.run("ssh", &["-l", "admin", "a-1", "sudo", "-n", "id", "-u"]).success().trim(), "0");
    let names = one.run("exec", &["--", "ip", "-br", "-4", "addr", "show", "dev", "br0"]).success();
    assert!(names.contains("10.128.0.1/24"), "{names}");
}

#[test]
fn a_host_without_power_comes_back_with_its_disk() {
    let sandbox = Scratch::new("power");
    sandbox.run("up", &[A, B]).success();
    let boot = "cat /root/mark; systemctl show -P UserspaceTimestampMonotonic; systemctl is-active ssh";
    sandbox.on("a-1", "echo kept > /root/mark; echo lost > /run/mark; sync");
    let before = sandbox.on("a-1", boot);
    sandbox.run("kill", &["a-1"]).success();
    assert_eq!(state_of(&sandbox, "a-1"), "down");
    assert_eq!(state_of(&sandbox, "b-1"), "running");
    sandbox.run("start", &["a-1"]).success();
    let after = sandbox.on("a-1", boot);
    assert!(after.starts_with("kept\n"), "{after}");
    assert_ne!(before, after, "it did not boot again");
    assert_ne!(sandbox.run("ssh", &["a-1", "cat /run/mark"]).code, Some(0), "memory survived");

    sandbox.run("cut", &["a-1"]).success();
    assert_eq!(state_of(&sandbox, "a-1"), "cut");
    assert_ne!(sandbox.run("ssh", &["b-1", "ping -q -c 1 -W 1 10.128.0.11"]).code, Some(0));
    sandbox.run("join", &["a-1"]).success();
    sandbox.on("b-1", "ping -q -c 1 -W 5 10.128.0.11");

    sandbox.run("stop", &["a-1"]).success();
    assert_eq!(state_of(&sandbox, "a-1"), "down");
    sandbox.run("start", &[]).success();
    assert_eq!(sandbox.on("a-1", "cat /root/mark"), "kept");
}

#[test]
fn hosts_boot_from_a_snapshot_again_and_again() {
    let (origin, first, second) = (Scratch::new("snap"), Scratch::new("snap"), Scratch::new("snap"));
    let snapshot = format!("{}-kept", origin.name);
    origin.run("up", &[A]).success();
    origin.on("a-1", "mkdir /srv/data && echo kept > /srv/data/mark");
    origin.run("save", &[&snapshot]).success();
    first.run("up", &["--from", &snapshot]).success();
    second.run("up", &["--from", &snapshot]).success();
    // A folder of the snapshot can be renamed and written, and no other sandbox sees it.
    first.on("a-1", "mv /srv/data /srv/moved && echo first > /srv/moved/mark");
    assert_eq!(second.on("a-1", "cat /srv/data/mark"), "kept");
    let refused = run(&mut pgfleet(&["sandbox", "forget", &snapshot])).failure(1);
    assert!(refused.contains(&second.name), "{refused}");
    origin.run("start", &[]).success();
    assert_eq!(origin.on("a-1", "cat /srv/data/mark"), "kept");
    for sandbox in [origin, first, second] {
        sandbox.run("down", &[]).success();
    }
    run(&mut pgfleet(&["sandbox", "forget", &snapshot])).success();
}

#[test]
fn packages_are_fetched_once() {
    let sandbox = Scratch::new("cache");
    sandbox.run("up", &[A, B]).success();
    let install = "apt-get -q update && apt-get -q install -y --no-install-recommends tree";
    sandbox.on("a-1", install);
    // The other host has no way to any mirror, only to the cache.
    sandbox.on("b-1", "echo > /etc/resolv.conf");
    sandbox.on("b-1", &format!("{install} && tree --version"));
}

/// A moment in the making of a sandbox.
type Moment = (&'static str, fn(&Scratch) -> bool);

const MOMENTS: &[Moment] = &[
    ("recorded", |sandbox| sandbox.home().join("state.json").exists()),
    ("namespace", |sandbox| Path::new("/run/netns").join(format!("pgfleet-{}", sandbox.name)).exists()),
    ("cache", |sandbox| cache_of(sandbox).is_some()),
    ("mounted", |sandbox| sandbox.home().join("hosts/a-1/root/etc").exists()),
    ("booting", |sandbox| sandbox.home().join("hosts/a-1/process").exists()),
    ("console", |sandbox| {
        fs::read_to_string(sandbox.home().join("hosts/b-1/console.log"))
            .is_ok_and(|text| text.contains("Welcome"))
    }),
];

fn killed_at(sandbox: &Scratch, (what, reached): &Moment) {
    let mut up = sandbox.command("up", &[A, B]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    eventually(what, Duration::from_secs(120), || reached(sandbox).then_some(()));
    up.kill().unwrap();
    up.wait().unwrap();
}

#[test]
fn nothing_is_left_of_a_run_that_was_killed() {
    for moment in MOMENTS {
        let sandbox = Scratch::new("killed");
        killed_at(&sandbox, moment);
        let cache = cache_of(&sandbox);
        sandbox.run("down", &[]).success();
        assert_eq!(traces(&sandbox, cache), Vec::<String>::new(), "killed at {}", moment.0);
        sandbox.run("down", &[]).success();
    }
}

#[test]
fn nothing_is_left_of_a_build_that_was_killed() {
    let store = tempfile::tempdir_in("/var/tmp").unwrap();
    let sandbox = Scratch::new("building");
    let within = |mut command: Command| {
        command.env("PGFLEET_SANDBOX_DIR", store.path());
        command
    };
    let mut up = within(sandbox.command("up", &[A])).stderr(Stdio::null()).spawn().unwrap();
    let arrived = store.path().join("images/.trixie.new/usr/bin/dpkg");
    eventually("the first packages", Duration::from_secs(300), || arrived.exists().then_some(()));
    up.kill().unwrap();
    up.wait().unwrap();
    run(&mut within(sandbox.command("down", &[]))).success();
    let path = store.path().display().to_string();
    assert!(!fs::read_to_string("/proc/self/mountinfo").unwrap().contains(&path));
    assert!(!store.path().join("images/.trixie.new").exists());
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let lines = processes.filter_map(|entry| fs::read_to_string(entry.path().join("cmdline")).ok());
    assert_eq!(lines.filter(|line| line.contains(&path)).collect::<Vec<_>>(), Vec::<String>::new());
}

#[test]
fn a_run_that_was_killed_is_completed_by_the_next() {
    let sandbox = Scratch::new("continued");
    for moment in MOMENTS {
        killed_at(&sandbox, moment);
        sandbox.run("up", &[A, B]).success();
        assert_eq!(sandbox.on("b-1", "hostname"), "b-1", "killed at {}", moment.0);
        sandbox.run("down", &[]).success();
    }
}

#[test]
fn says_what_is_wrong_before_it_touches_anything() {
    let sandbox = Scratch::new("wrong");
    let refused = |ran: Ran, code| ran.failure(code).replace(&sandbox.name, "NAME");
    insta::assert_snapshot!(refused(sandbox.run("up", &[A, "--host=b=10.128.0.11"]), 2), @"error: hosts `a-1` and `b` have the same address 10.128.0.11");
    insta::assert_snapshot!(refused(sandbox.run("up", &[A, "--host=b=192.168.0.1"]), 2), @"error: the hosts' addresses 10.128.0.11 and 192.168.0.1 are too far apart for one network (at most a /8)");
    insta::assert_snapshot!(refused(run(&mut pgfleet(&["sandbox", "kill", "--name", "no-such", "a"])), 2).lines().next().unwrap_or_default().split(';').next().unwrap_or_default(), @"error: there is no sandbox `no-such`");
    sandbox.run("up", &[A]).success();
    insta::assert_snapshot!(refused(sandbox.run("kill", &["a-2"]), 2), @"error: sandbox `NAME` has no host `a-2`; its hosts are a-1");
    insta::assert_snapshot!(refused(sandbox.run("up", &["--host=a-1=10.128.0.12"]), 2), @r"
    error: sandbox `NAME` exists and differs: `a-1` has address 10.128.0.11, not 10.128.0.12
     |
     = help: remove it first (pgfleet sandbox down --name NAME) or choose another name with --name
    ");
    insta::assert_snapshot!(refused(sandbox.run("up", &["--host=c=10.1.0.12"]), 2), @r"
    error: sandbox `NAME` exists and differs: 10.1.0.12 of `c` is outside its network 10.128.0.0/24
     |
     = help: remove it first (pgfleet sandbox down --name NAME) or choose another name with --name
    ");
    insta::assert_snapshot!(refused(sandbox.run("up", &["--image=woody", A]), 2), @r"
    error: invalid value 'woody' for '--image <trixie|bookworm|sid>': `woody` is not an image; there are trixie, bookworm and sid

    For more information, try '--help'.
    ");
    insta::assert_snapshot!(refused(run(Command::new("setpriv").args(["--reuid=65534", "--clear-groups", env!("CARGO_BIN_EXE_pgfleet"), "sandbox", "down", "--name", &sandbox.name])), 1), @r"
    error: a sandbox needs root: it makes network namespaces and mounts (this is user id 65534)
      next: run the same command with sudo
    ");
}

fn state_of(sandbox: &Scratch, host: &str) -> String {
    let listed = run(&mut pgfleet(&["sandbox", "list", "--format", "json"])).success();
    let listed: serde_json::Value = serde_json::from_str(&listed).unwrap();
    let named = |list: &serde_json::Value, name: &str| {
        list.as_array().unwrap().iter().find(|item| item["name"] == name).unwrap().clone()
    };
    let status = named(&listed["sandboxes"], &sandbox.name);
    named(&status["hosts"], host)["state"].as_str().unwrap().to_owned()
}
