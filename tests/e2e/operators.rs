//! Several people on several machines work on one cluster: they keep out of each other's way, see what the others
//! did, and none of their machines is needed.

use super::harness::{
    lab::Lab,
    program::{eventually, pgfleet, run},
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;
use std::{fs, process::Stdio, time::Duration};

const LIMIT: Duration = Duration::from_secs(90);

fn history(lab: &Lab) -> Vec<Value> {
    let text = lab.pgfleet(&["history", "--format", "json"]).success();
    serde_json::from_str(&text).unwrap()
}

#[test]
fn two_control_machines_and_a_third() {
    let lab = Lab::bootstrapped("demo", "trixie");
    let first = history(&lab);
    assert_eq!(first[0]["command"], "bootstrap", "{first:#?}");
    assert_eq!(first[0]["outcome"], "done");
    assert!(first[0]["hosts"]["pg-1"]["count"].as_u64() > Some(5), "{first:#?}");

    // Alice is at work; Bob is told so, and changes nothing.
    let slow = lab.inventory().with_file_name("slow.yml");
    fs::write(&slow, "- hosts: pg-1\n  tasks:\n    - name: Take long\n      command: sleep 300\n").unwrap();
    let slow = slow.display().to_string();
    let mut alice = lab.command(&["run", &slow]);
    alice.env("PGFLEET_OPERATOR", "alice@laptop").stdout(Stdio::null()).stderr(Stdio::null());
    let mut alice = alice.spawn().unwrap();
    let bob = |arguments: &[&str]| run(lab.command(arguments).env("PGFLEET_OPERATOR", "bob@ci"));
    eventually("alice's run is in the history", LIMIT, || {
        let last = history(&lab).pop()?;
        (last["who"]["user"] == "alice" && last["outcome"] == "running").then_some(())
    });
    for command in ["apply", "bootstrap", "switchover"] {
        let refused = bob(&[command]).failure(1);
        assert!(refused.contains("alice@laptop runs `pgfleet run "), "{refused}");
        assert!(refused.contains("--wait-lock"), "{refused}");
    }

    // Her machine loses power: the lock ends by itself, and so does her process on the host.
    kill(Pid::from_raw(alice.id().cast_signed()), Signal::SIGKILL).unwrap();
    alice.wait().unwrap();
    lab.scratch.on("pg-1", "pkill -x sleep || true");
    let went_on = bob(&["apply", "--wait-lock", "60"]);
    assert!(went_on.stderr.contains("Waiting: alice@laptop runs"), "{went_on}");
    went_on.success();
    let entries = history(&lab);
    let fate =
        |user: &str| entries.iter().find(|entry| entry["who"]["user"] == user).map(|entry| &entry["outcome"]);
    assert_eq!(fate("alice"), Some(&Value::from("died")), "{entries:#?}");
    assert_eq!(fate("bob"), None, "it changed nothing");

    // A third machine has SSH and nothing else.
    let third = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let folder = third.path().join("demo").display().to_string();
    let sandbox = lab.scratch.name.clone();
    let adopt = ["adopt", "10.128.0.26", "--cluster", "demo", "-o", &folder, "--sandbox", &sandbox];
    let adopted = run(&mut pgfleet(&adopt));
    assert!(adopted.stderr.contains("copy `inventory.secrets.yml` from"), "{adopted}");
    adopted.success();
    let inventory = format!("{folder}/inventory.yml");
    assert_eq!(fs::read_to_string(&inventory).unwrap(), fs::read_to_string(lab.inventory()).unwrap());
    // Without the secrets it knows neither the cluster's passwords nor its authority, and changes nothing.
    let apply = ["apply", "-y", "-i", &inventory, "--sandbox", &sandbox];
    let refused = run(&mut pgfleet(&apply)).failure(1);
    assert!(refused.contains("trusts another authority"), "{refused}");
    let secrets = lab.inventory().with_file_name("inventory.secrets.yml");
    fs::copy(secrets, format!("{folder}/inventory.secrets.yml")).unwrap();
    let status = run(&mut pgfleet(&["status", "-i", &inventory, "--sandbox", &sandbox, "--format", "json"]));
    let status: Value = serde_json::from_str(&status.success()).unwrap();
    assert_eq!(status["healthy"], true, "{status:#}");
    run(&mut pgfleet(&apply)).success();
    let again = run(&mut pgfleet(&adopt)).failure(1);
    assert!(again.contains("nothing is overwritten"), "{again}");
}

#[test]
fn hosts_by_hand() {
    let lab = Lab::bootstrapped("demo", "trixie");
    // Commands.
    let told = lab.pgfleet(&["exec", "postgres", "--become-user", "postgres", "--", "whoami"]).success();
    let mut lines: Vec<_> = told.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["pg-1 | postgres", "pg-2 | postgres", "pg-3 | postgres"]);
    let failed =
        lab.pgfleet(&["exec", "etcd", "--format", "json", "--", "hostname; [ $(hostname) != etcd-2 ]"]);
    assert_eq!(failed.code, Some(1), "{failed}");
    let told: Vec<Value> = serde_json::from_str(&failed.stdout).unwrap();
    let told: Vec<_> =
        told.iter().map(|host| (host["stdout"].as_str(), host["exit_code"].as_i64())).collect();
    let expected = [("etcd-1\n", 0), ("etcd-2\n", 1), ("etcd-3\n", 0)];
    assert_eq!(told, expected.map(|(text, code)| (Some(text), Some(code))));

    // Files.
    let file = lab.inventory().with_file_name("greeting");
    fs::write(&file, "hello\n").unwrap();
    lab.pgfleet(&["push", &file.display().to_string(), "all:/etc/greeting"]).success();
    let back = lab.inventory().with_file_name("back");
    lab.pgfleet(&["pull", "haproxy:etcd:/etc/greeting", &back.display().to_string()]).success();
    assert_eq!(fs::read_to_string(back.join("haproxy-1/greeting")).unwrap(), "hello\n");
    assert_eq!(fs::read_dir(&back).unwrap().count(), 4);

    // psql, on whoever leads and on a replica.
    let who_leads = "SELECT pg_is_in_recovery()";
    let primary = lab.pgfleet(&["psql", "--", "-Atc", who_leads]).success();
    assert_eq!(primary.trim(), "f");
    let replica = lab.pgfleet(&["psql", "--replica", "--", "-Atc", who_leads]).success();
    assert_eq!(replica.trim(), "t");
    let unknown = lab.pgfleet(&["psql", "pg-9"]).failure(2);
    assert!(unknown.contains("there are pg-1, pg-2, pg-3"), "{unknown}");

    // The logs of all, in the order of time.
    lab.pgfleet(&["psql", "--", "-c", "SELECT no_such_column"]).failure(1);
    let told = lab.pgfleet(&["logs", "--since", "1h", "--format", "json"]).success();
    let entries: Vec<Value> = told.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for source in ["etcd", "pgfleet-agent", "haproxy", "postgres"] {
        assert!(entries.iter().any(|entry| entry["source"] == source), "nothing of {source}");
    }
    let mistake = |entry: &&Value| {
        entry["message"].as_str().is_some_and(|text| text.contains("ERROR:  column \"no_such_column\""))
    };
    assert_eq!(entries.iter().filter(mistake).count(), 1);
    let times: Vec<jiff::Timestamp> =
        entries.iter().map(|entry| entry["time"].as_str().unwrap().parse().unwrap()).collect();
    let behind = times.windows(2).filter(|pair| pair[0] > pair[1]).count();
    assert!(behind * 100 <= times.len(), "{behind} of {} are out of order", times.len());

    // Followed: what happens now is seen now.
    let mut follow = lab.command(&["logs", "postgres", "-f", "-n", "0", "--unit", "postgres"]);
    let mut follow = follow.stdout(Stdio::piped()).spawn().unwrap();
    let output = follow.stdout.take().unwrap();
    let (sender, seen) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for line in std::io::BufRead::lines(std::io::BufReader::new(output)).map_while(Result::ok) {
            let _ = sender.send(line);
        }
    });
    eventually("the mistake is seen as it happens", LIMIT, || {
        lab.pgfleet(&["psql", "--", "-c", "SELECT a_later_column"]).failure(1);
        seen.try_iter().find(|line| line.contains("a_later_column"))
    });
    kill(Pid::from_raw(follow.id().cast_signed()), Signal::SIGINT).unwrap();
    assert_eq!(follow.wait().unwrap().code(), Some(0));
}
