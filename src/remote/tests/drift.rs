//! What somebody has changed by hand is told from what we left, and kept until somebody decides.

use super::{failure, session, step, tree};
use crate::remote::{
    files::{interrupt_after, is_interrupted},
    protocol::{Drift, DriftKind, Event, Mode, Outcome, Request, Step, Verdict},
};
use serde_json::{Value, json};
use std::{fs, os::unix::fs::PermissionsExt, path::Path};

fn copy(content: &str) -> Step {
    let mut step = step(1, "copy", json!({"dest": "/etc/a", "content": content, "mode": "0640"}));
    step.notify = vec!["reload a".to_owned()];
    step
}

async fn run(root: &Path, mode: Mode, overwrite_drift: bool, step: Step) -> Outcome {
    session(root, &[], async |control| {
        control.hello().await;
        control.overwrite_drift = overwrite_drift;
        control.batch(mode, vec![step]).await.remove(0)
    })
    .await
}

async fn apply(root: &Path, step: Step) -> Outcome {
    run(root, Mode::Apply, false, step).await
}

fn kind(outcome: &Outcome) -> Option<DriftKind> {
    outcome.drift.as_ref().map(|drift| drift.kind)
}

/// What a host tells when it is asked in one round trip.
async fn told(root: &Path) -> Vec<Drift> {
    session(root, &[], async |control| {
        control.hello().await;
        control.send(&Request::Drift).await;
        match control.event().await {
            Some(Event::Drifted(drifts)) => drifts,
            other => panic!("expected an answer, found {other:?}"),
        }
    })
    .await
}

async fn told_kinds(root: &Path) -> Vec<(String, DriftKind)> {
    told(root).await.into_iter().map(|drift| (drift.path, drift.kind)).collect()
}

#[tokio::test]
async fn a_change_by_hand_is_kept_until_somebody_decides() {
    let root = tree();
    let path = root.path().join("etc/a");
    apply(root.path(), copy("a\n")).await;
    assert_eq!(told(root.path()).await, []);
    fs::write(&path, "mine\n").expect("written");
    for wanted in ["a\n", "b\n"] {
        let planned = run(root.path(), Mode::Check, false, copy(wanted)).await;
        assert_eq!((&planned.verdict, kind(&planned)), (&Verdict::Changed, Some(DriftKind::Edited)));
        assert!(planned.drift.expect("a drift").changed_at.is_some());
        let stopped = failure(&apply(root.path(), copy(wanted)).await);
        let (message, next) = stopped.split_once(", at ").expect("a time");
        let next = next.split_once(';').expect("what becomes of it").1;
        insta::allow_duplicates!(insta::assert_snapshot!(format!("{message}, at TIME;{next}"), @"
        /etc/a changed by hand since our last run, at TIME; it is kept
        -> see what differs with `pgfleet plan --diff`; take the change into the inventory (`pgfleet import`), or give it up with `--overwrite-drift`
        "));
        assert_eq!(fs::read_to_string(&path).expect("readable"), "mine\n");
    }
    assert_eq!(told_kinds(root.path()).await, [("/etc/a".to_owned(), DriftKind::Edited)]);
    let overwritten = run(root.path(), Mode::Apply, true, copy("b\n")).await;
    assert_eq!((&overwritten.verdict, kind(&overwritten)), (&Verdict::Changed, Some(DriftKind::Edited)));
    assert_eq!(fs::read_to_string(&path).expect("readable"), "b\n");
    let again = apply(root.path(), copy("b\n")).await;
    assert_eq!((&again.verdict, kind(&again)), (&Verdict::Unchanged, None));
    assert_eq!(told(root.path()).await, []);
}

#[tokio::test]
async fn a_kept_change_owes_no_handler() {
    let root = tree();
    apply(root.path(), step(1, "copy", json!({"dest": "/etc/a", "content": "a\n"}))).await;
    fs::write(root.path().join("etc/a"), "mine\n").expect("written");
    apply(root.path(), copy("b\n")).await;
    session(root.path(), &[], async |control| assert!(control.hello().await.debts.is_empty())).await;
}

#[tokio::test]
async fn what_loses_nobodys_work_is_told_and_put_right() {
    let root = tree();
    let path = root.path().join("etc/a");
    fs::write(&path, "before us\n").expect("written");
    let adopted = apply(root.path(), copy("a\n")).await;
    assert_eq!((&adopted.verdict, kind(&adopted)), (&Verdict::Changed, Some(DriftKind::Foreign)));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).expect("changed");
    assert_eq!(told_kinds(root.path()).await, [("/etc/a".to_owned(), DriftKind::Attributes)]);
    let righted = apply(root.path(), copy("a\n")).await;
    assert_eq!((&righted.verdict, kind(&righted)), (&Verdict::Changed, Some(DriftKind::Attributes)));
    fs::remove_file(&path).expect("removed");
    assert_eq!(told_kinds(root.path()).await, [("/etc/a".to_owned(), DriftKind::Removed)]);
    let restored = apply(root.path(), copy("a\n")).await;
    assert_eq!((&restored.verdict, kind(&restored)), (&Verdict::Changed, Some(DriftKind::Removed)));
    assert_eq!(told(root.path()).await, []);
    let changed = apply(root.path(), copy("b\n")).await;
    assert_eq!((&changed.verdict, kind(&changed)), (&Verdict::Changed, None), "our own change is none");
}

#[tokio::test]
async fn a_file_drifted_into_what_is_wanted_is_right_and_remembered() {
    let root = tree();
    apply(root.path(), copy("a\n")).await;
    fs::write(root.path().join("etc/a"), "b\n").expect("written");
    let planned = run(root.path(), Mode::Check, false, copy("b\n")).await;
    assert_eq!((&planned.verdict, kind(&planned)), (&Verdict::Unchanged, None));
    assert_eq!(told(root.path()).await.len(), 1, "a plan writes nothing, its memory neither");
    assert_eq!(apply(root.path(), copy("b\n")).await.verdict, Verdict::Unchanged);
    assert_eq!(told(root.path()).await, []);
}

#[tokio::test]
async fn of_a_file_with_others_lines_the_block_alone_is_ours() {
    let root = tree();
    let path = root.path().join("etc/hosts");
    fs::write(&path, "127.0.0.1 localhost\n").expect("written");
    let block = |text: &str| step(1, "blockinfile", json!({"path": "/etc/hosts", "block": text}));
    assert_eq!(kind(&apply(root.path(), block("10.0.0.1 pg-1")).await), None);
    let edit = |from: &str, to: &str| {
        let text = fs::read_to_string(&path).expect("readable").replace(from, to);
        fs::write(&path, text).expect("written");
    };
    edit("localhost", "localhost me");
    assert_eq!(told(root.path()).await, [], "somebody else's line");
    assert_eq!(apply(root.path(), block("10.0.0.1 pg-1")).await.verdict, Verdict::Unchanged);
    edit("10.0.0.1", "10.0.0.9");
    assert_eq!(told_kinds(root.path()).await, [("/etc/hosts".to_owned(), DriftKind::Edited)]);
    let stopped = apply(root.path(), block("10.0.0.1 pg-1")).await;
    assert!(matches!(stopped.verdict, Verdict::Failed(_)), "{stopped:?}");
    assert!(fs::read_to_string(&path).expect("readable").contains("10.0.0.9"));
}

#[tokio::test]
async fn what_is_removed_on_purpose_is_forgotten() {
    let root = tree();
    let unit = |args: Value| {
        let mut all = json!({"name": "x", "dropin": "limits"});
        all.as_object_mut().expect("a map").extend(args.as_object().expect("a map").clone());
        step(1, "systemd_unit", all)
    };
    apply(root.path(), unit(json!({"content": "[Service]\nLimitNOFILE=1\n"}))).await;
    apply(root.path(), copy("a\n")).await;
    assert_eq!(told(root.path()).await, []);
    apply(root.path(), unit(json!({"state": "absent"}))).await;
    apply(root.path(), step(2, "file", json!({"path": "/etc/a", "state": "absent"}))).await;
    assert_eq!(told(root.path()).await, []);
}

/// At whatever change of the file system a run dies: what it leaves is ours, and what somebody changes
/// afterwards is theirs.
#[tokio::test]
async fn a_run_that_was_cut_off_never_leaves_drift() {
    let mut cuts = 0;
    loop {
        let root = tree();
        let path = root.path().join("etc/a");
        apply(root.path(), copy("a\n")).await;
        interrupt_after(Some(cuts));
        apply(root.path(), copy("b\n")).await;
        let cut_off = is_interrupted();
        interrupt_after(None);
        assert_eq!(told(root.path()).await, [], "after {cuts} changes");
        for wanted in ["b\n", "c\n"] {
            let planned = run(root.path(), Mode::Check, false, copy(wanted)).await;
            assert_eq!(kind(&planned), None, "after {cuts} changes, {wanted:?} is wanted");
        }
        let left = fs::read_to_string(&path).expect("readable");
        fs::write(&path, "mine\n").expect("written");
        let planned = run(root.path(), Mode::Check, false, copy("b\n")).await;
        assert_eq!(kind(&planned), Some(DriftKind::Edited), "after {cuts} changes");
        fs::write(&path, left).expect("written");
        let completed = apply(root.path(), copy("b\n")).await;
        assert!(!matches!(completed.verdict, Verdict::Failed(_)), "after {cuts} changes: {completed:?}");
        // What the next run found right it knows for good: the old content is somebody else's now.
        fs::write(&path, "a\n").expect("written");
        assert_eq!(told_kinds(root.path()).await, [("/etc/a".to_owned(), DriftKind::Edited)]);
        if !cut_off {
            break;
        }
        cuts += 1;
    }
    assert!(cuts >= 9, "only {cuts} changes were met");
}
