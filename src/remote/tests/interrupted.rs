//! Every resource that lives in files, carried out twice, and cut off before each single change of the
//! file system: the next run completes it, and the tree is then the same as without the interruption.

use super::{one, session, step, tree};
use crate::{
    model::Digest,
    remote::{
        files::{interrupt_after, is_interrupted},
        protocol::{Mode, Outcome, Step, Verdict},
    },
};
use serde_json::json;
use std::{collections::BTreeMap, fs, io::Write, os::unix::fs::MetadataExt, path::Path};

/// A release archive as etcd's is: one folder on top, programs and documents in it.
fn archive() -> Vec<u8> {
    let mut builder =
        tar::Builder::new(flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast()));
    for (name, mode, content) in [
        ("etcd-v3/etcd", 0o755, "server"),
        ("etcd-v3/etcdctl", 0o755, "client"),
        ("etcd-v3/doc/README.md", 0o644, "read me"),
    ] {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(mode);
        header.set_cksum();
        builder.append_data(&mut header, name, content.as_bytes()).expect("an entry");
    }
    let mut encoder = builder.into_inner().expect("an archive");
    encoder.flush().expect("an archive");
    encoder.finish().expect("an archive")
}

fn stored(content: &[u8]) -> serde_json::Value {
    json!({"sha256": Digest::of(content), "size": content.len()})
}

fn steps(archive: &[u8]) -> Vec<Step> {
    let mut steps = vec![
        step(
            1,
            "file",
            json!({"path": "/etc/haproxy/conf.d", "state": "directory", "mode": "0750", "owner": "me", "group": "us"}),
        ),
        step(
            2,
            "copy",
            json!({"dest": "/etc/haproxy/haproxy.cfg", "content": stored(b"global\n"), "mode": "0640", "owner": "me"}),
        ),
        step(3, "file", json!({"path": "/etc/haproxy/current", "src": "haproxy.cfg", "state": "link"})),
        step(
            4,
            "blockinfile",
            json!({"path": "/etc/hosts", "block": "10.0.0.1 pg1\n10.0.0.2 pg2", "create": true}),
        ),
        step(5, "sysctl", json!({"values": {"vm.swappiness": 1, "vm.nr_hugepages": 0}})),
        step(
            6,
            "pam_limits",
            json!({"domain": "postgres", "limit_type": "soft", "limit_item": "nofile", "value": "65536"}),
        ),
        step(7, "modprobe", json!({"name": "softdog"})),
        step(
            8,
            "unarchive",
            json!({"dest": "/opt/etcd", "content": stored(archive), "strip_components": 1, "include": ["etcd*"], "owner": "me"}),
        ),
        step(9, "systemd_unit", json!({"name": "etcd", "content": "[Service]\nExecStart=/opt/etcd/etcd\n"})),
        step(
            10,
            "systemd_unit",
            json!({"name": "etcd", "dropin": "limits", "content": "[Service]\nLimitNOFILE=65536\n"}),
        ),
        step(
            11,
            "apt_repository",
            json!({"name": "pgdg", "repo": "deb http://x trixie main", "key": "-----BEGIN\n", "update_cache": false}),
        ),
        step(13, "file", json!({"path": "/etc/motd", "state": "absent"})),
        step(14, "file", json!({"path": "/etc/touched", "state": "touch", "mode": "0600"})),
    ];
    steps[1].notify = vec!["reload haproxy".to_owned()];
    steps
}

async fn run(root: &Path, archive: &[u8]) -> Vec<Outcome> {
    session(root, &[b"global\n", archive], async |control| {
        control.hello().await;
        control.batch(Mode::Apply, steps(archive)).await
    })
    .await
}

fn fresh() -> tempfile::TempDir {
    let root = tree();
    fs::write(root.path().join("etc/motd"), "hello\n").expect("written");
    fs::write(root.path().join("etc/hosts"), "127.0.0.1 localhost\n").expect("written");
    root
}

/// Every path with its mode and content, but for what is ours and for what holds times.
fn contents(root: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut open = vec![root.to_owned()];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(folder).expect("readable").flatten() {
            let path = entry.path();
            let metadata = path.symlink_metadata().expect("metadata");
            let name = path.strip_prefix(root).expect("below the root").display().to_string();
            if name == "var/lib/pgfleet/lock" || name.starts_with("var/lib/pgfleet/unpacked/") {
                continue;
            }
            let content = match metadata.file_type() {
                kind if kind.is_dir() => {
                    open.push(path);
                    "directory".to_owned()
                }
                kind if kind.is_symlink() => {
                    format!("-> {}", fs::read_link(&path).expect("a link").display())
                }
                _ => Digest::of(&fs::read(&path).expect("readable")).short(),
            };
            found.insert(name, format!("{:o} {content}", metadata.mode()));
        }
    }
    found
}

#[tokio::test]
async fn the_second_run_changes_nothing() {
    let (root, archive) = (fresh(), archive());
    let first = run(root.path(), &archive).await;
    assert_eq!(first.len(), steps(&archive).len());
    for (outcome, step) in first.iter().zip(steps(&archive)) {
        assert_eq!(outcome.verdict, Verdict::Changed, "{}: {outcome:?}", step.name);
        assert!(!outcome.diff.is_empty(), "{} tells nothing of its change", step.name);
    }
    let before = contents(root.path());
    assert_eq!(fs::read_to_string(root.path().join("proc/sys/vm/swappiness")).expect("readable"), "1");
    let names =
        ["opt/etcd/etcd", "opt/etcd/etcdctl", "opt/etcd/doc"].map(|name| root.path().join(name).exists());
    assert_eq!(names, [true, true, false], "`include` decides what is unpacked");
    for outcome in run(root.path(), &archive).await {
        assert_eq!(outcome.verdict, Verdict::Unchanged, "{}", outcome.diff);
        assert_eq!(outcome.diff, "");
    }
    assert_eq!(contents(root.path()), before);
}

/// On its own: the executable of the tests is large.
#[tokio::test]
async fn the_agents_binary_is_the_executable_that_runs() {
    let root = tree();
    let install = || step(1, "agent_binary", json!({"dest": "/etc/pgfleet"}));
    assert_eq!(one(root.path(), Mode::Apply, install()).await.verdict, Verdict::Changed);
    assert_eq!(one(root.path(), Mode::Apply, install()).await.verdict, Verdict::Unchanged);
    let installed = fs::metadata(root.path().join("etc/pgfleet")).expect("installed");
    let running = fs::metadata("/proc/self/exe").expect("running");
    assert_eq!((installed.len(), installed.mode() & 0o777), (running.len(), 0o755));
}

#[tokio::test]
async fn the_run_after_one_that_was_cut_off_completes_it() {
    let archive = archive();
    let whole = fresh();
    run(whole.path(), &archive).await;
    let expected = contents(whole.path());
    let mut cuts = 0;
    loop {
        let root = fresh();
        interrupt_after(Some(cuts));
        run(root.path(), &archive).await;
        let cut_off = is_interrupted();
        interrupt_after(None);
        let haproxy = fs::read_to_string(root.path().join("etc/haproxy/haproxy.cfg")).ok();
        assert!(haproxy.is_none_or(|text| text == "global\n"), "half a file after {cuts} changes");
        let etcd = root.path().join("opt/etcd/etcd");
        assert!(!etcd.exists() || fs::read_to_string(&etcd).is_ok_and(|text| text == "server"));
        for outcome in run(root.path(), &archive).await {
            assert!(!matches!(outcome.verdict, Verdict::Failed(_)), "after {cuts} changes: {outcome:?}");
        }
        assert_eq!(contents(root.path()), expected, "after {cuts} changes");
        for outcome in run(root.path(), &archive).await {
            assert_eq!(outcome.verdict, Verdict::Unchanged, "after {cuts} changes: {}", outcome.diff);
        }
        if !cut_off {
            break;
        }
        cuts += 1;
    }
    assert!(cuts > 40, "only {cuts} changes were met");
}
