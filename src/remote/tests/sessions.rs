//! The order of things in a session: contents, debts, plans, cancelling, secrets, failures.

use super::{failure, one, session, step, tree};
use crate::{
    model::Digest,
    remote::{
        preflight::links::{At, Dial, Door, Unreached},
        protocol::{Effect, Event, Mode, Outcome, Request, Verdict},
    },
};
use serde_json::{Value, json};
use std::fs;

fn verdicts(outcomes: &[Outcome]) -> Vec<&str> {
    let name = |outcome: &Outcome| match outcome.verdict {
        Verdict::Unchanged => "unchanged",
        Verdict::Changed => "changed",
        Verdict::Failed(_) => "failed",
    };
    outcomes.iter().map(name).collect()
}

#[tokio::test]
async fn contents_travel_only_where_they_are_missing() {
    let root = tree();
    let (one, two) = (b"one\n".as_slice(), b"two\n".as_slice());
    let copy = |id, dest: &str, content: &[u8]| {
        step(
            id,
            "copy",
            json!({"dest": dest, "content": {"sha256": Digest::of(content), "size": content.len()}}),
        )
    };
    session(root.path(), &[one, two], async |control| {
        control.hello().await;
        let outcomes = control.batch(Mode::Apply, vec![copy(1, "/etc/a", one), copy(2, "/etc/b", one)]).await;
        assert_eq!(verdicts(&outcomes), ["changed", "changed"]);
        assert_eq!(control.sent, [Digest::of(one)], "once for both");
        let outcomes = control.batch(Mode::Apply, vec![copy(3, "/etc/a", one), copy(4, "/etc/b", two)]).await;
        assert_eq!(verdicts(&outcomes), ["unchanged", "changed"]);
        assert_eq!(control.sent, [Digest::of(one), Digest::of(two)]);
        // The first step spoils what the second found in place before the batch.
        let outcomes = control.batch(Mode::Apply, vec![copy(5, "/etc/b", one), copy(6, "/etc/b", two)]).await;
        assert_eq!(verdicts(&outcomes), ["changed", "changed"]);
    })
    .await;
    assert_eq!(fs::read(root.path().join("etc/b")).expect("readable"), two);
}

#[tokio::test]
async fn a_handler_is_owed_from_before_the_change_until_it_has_run() {
    let root = tree();
    let mut change = step(1, "copy", json!({"dest": "/etc/a", "content": "x"}));
    change.notify = vec!["restart a".to_owned(), "reload b".to_owned()];
    let mut broken = step(2, "copy", json!({"dest": "/none/a", "content": "x"}));
    broken.notify = vec!["never".to_owned()];
    let outcomes = session(root.path(), &[], async |control| {
        assert!(control.hello().await.debts.is_empty());
        control.batch(Mode::Apply, vec![change, broken]).await
    });
    assert_eq!(verdicts(&outcomes.await), ["changed", "failed"]);
    let mut handler = step(3, "command", json!("true"));
    handler.settles = Some("restart a".to_owned());
    session(root.path(), &[], async |control| {
        assert_eq!(control.hello().await.debts, ["reload b", "restart a"], "an earlier run owes them");
        control.batch(Mode::Apply, vec![handler]).await;
        control
            .send(&Request::Debts { owe: vec!["c".to_owned()], settle: vec!["reload b".to_owned()] })
            .await;
        control.batch(Mode::Apply, vec![]).await;
    })
    .await;
    session(root.path(), &[], async |control| assert_eq!(control.hello().await.debts, ["c"])).await;
}

#[tokio::test]
async fn a_plan_changes_nothing_and_expects_what_its_own_steps_would_bring() {
    let root = tree();
    let steps = || {
        vec![
            step(1, "user", json!({"name": "postgres", "home": "/var/lib/postgresql"})),
            step(2, "file", json!({"path": "/etc/patroni", "state": "directory", "owner": "postgres"})),
            step(3, "copy", json!({"dest": "/etc/patroni/x.yml", "content": "a\n", "owner": "postgres"})),
            step(4, "command", json!({"cmd": "false", "creates": "/etc/x"})),
        ]
    };
    let outcomes = session(root.path(), &[], async |control| {
        control.hello().await;
        control.batch(Mode::Check, steps()).await
    });
    assert_eq!(verdicts(&outcomes.await), ["changed"; 4]);
    assert!(!root.path().join("etc/patroni").exists());
    assert!(!root.path().join("var").exists(), "a plan leaves no trace of its own either");
    let alone = one(root.path(), Mode::Check, steps().remove(2)).await;
    insta::assert_snapshot!(failure(&alone), @"
the directory /etc/patroni does not exist
-> make it by a `file` task with `state: directory` before this task
");
}

#[tokio::test]
async fn what_a_plan_looks_at_is_known_to_later_conditions() {
    let root = tree();
    let mut look = step(1, "shell", json!("echo found; exit 3"));
    look.changed = Some(false);
    let outcome = one(root.path(), Mode::Check, look).await;
    assert_eq!(outcome.verdict, Verdict::Unchanged);
    assert_eq!((&outcome.result["rc"], &outcome.result["stdout"]), (&json!(3), &json!("found")));
}

#[tokio::test]
async fn a_cancelled_session_finishes_its_step_and_tells() {
    let root = tree();
    session(root.path(), &[], async |control| {
        control.hello().await;
        let steps = vec![
            step(1, "wait_for", json!({"path": "/never", "timeout": 600})),
            step(2, "copy", json!({"dest": "/etc/a", "content": "x"})),
        ];
        control
            .send(&Request::Batch(crate::remote::protocol::Batch {
                mode: Mode::Apply,
                diff: false,
                overwrite_drift: false,
                steps,
            }))
            .await;
        while !matches!(control.event().await, Some(Event::Waiting { .. })) {}
        control.send(&Request::Cancel).await;
        let Some(Event::Finished { outcome, .. }) = control.event().await else { panic!("the step is told") };
        insta::assert_snapshot!(failure(&outcome), @"
cancelled while waiting: /never does not exist
-> run the same command again to go on from here
");
        assert!(matches!(control.event().await, Some(Event::BatchDone)));
        assert!(control.event().await.is_none(), "the session has ended");
    })
    .await;
    assert!(!root.path().join("etc/a").exists());
}

#[tokio::test]
async fn no_log_hides_everything_that_may_be_secret() {
    let root = tree();
    let mut secret = step(1, "shell", json!("echo hunter2; exit 1"));
    secret.no_log = true;
    let outcome = one(root.path(), Mode::Apply, secret).await;
    let told = serde_json::to_string(&outcome).expect("serialisable");
    assert!(!told.contains("hunter2"), "{told}");
    let mut file = step(2, "copy", json!({"dest": "/etc/a", "content": "hunter2", "mode": "0600"}));
    file.no_log = true;
    let told = serde_json::to_string(&one(root.path(), Mode::Apply, file).await).expect("serialisable");
    assert!(!told.contains("hunter2"), "{told}");
}

#[tokio::test]
async fn commands_tell_how_they_ended() {
    let root = tree();
    let apply = async |args: Value| one(root.path(), Mode::Apply, step(1, "shell", args)).await;
    let failed = apply(json!("echo out; echo err >&2; exit 4")).await;
    let Verdict::Failed(failure) = &failed.verdict else { panic!("exit code 4 is a failure") };
    assert_eq!(
        (failure.exit_code, failure.last_lines.as_slice()),
        (Some(4), &["out".to_owned(), "err".to_owned()][..])
    );
    assert_eq!(failed.result["rc"], 4);
    assert_eq!(apply(json!({"cmd": "exit 1", "unless": "true"})).await.verdict, Verdict::Unchanged);
    assert_eq!(apply(json!({"cmd": "exit 1", "creates": "/etc/pass*"})).await.verdict, Verdict::Unchanged);
    let broken = apply(json!({"cmd": "true", "creates": "/etc/none"})).await;
    insta::assert_snapshot!(super::failure(&broken), @"
the command succeeded, but /etc/none does not exist
-> correct `creates`, or the command
");
    let fed =
        apply(json!({"cmd": "cat; echo $GREETING", "stdin": "in\n", "environment": {"GREETING": "hi"}}))
            .await;
    assert_eq!(fed.result["stdout_lines"], json!(["in", "hi"]));
}

#[tokio::test]
async fn a_refused_file_leaves_the_old_one() {
    let root = tree();
    let path = root.path().join("etc/haproxy.cfg");
    fs::write(&path, "old\n").expect("written");
    let args = json!({"dest": "/etc/haproxy.cfg", "content": "new\n", "validate": "sh -c 'echo line 3: bad; exit 1' %s"});
    let outcome = one(root.path(), Mode::Apply, step(1, "copy", args)).await;
    insta::assert_snapshot!(failure(&outcome), @"
the new /etc/haproxy.cfg is refused by its own checker
-> correct the template or its variables; the old file is still in place
");
    assert_eq!(fs::read_to_string(&path).expect("readable"), "old\n");
    assert_eq!(
        fs::read_dir(root.path().join("etc"))
            .expect("readable")
            .flatten()
            .filter(|entry| entry.file_name().to_string_lossy().starts_with('.'))
            .count(),
        0,
        "nothing is left beside it"
    );
}

#[tokio::test]
async fn failures_say_what_to_do() {
    let root = tree();
    let apply = async |module: &str, args: Value| {
        failure(&one(root.path(), Mode::Apply, step(1, module, args)).await)
    };
    insta::assert_snapshot!(apply("copy", json!({"dest": "/etc/a", "content": "", "owner": "nobody-here"})).await, @"
there is no user `nobody-here` on the host
-> create it by a `user` task, or install the package that does, before this task
");
    insta::assert_snapshot!(apply("copy", json!({"dest": "/etc/apt", "content": ""})).await, @"
/etc/apt is a directory, not a file
-> name the file itself, or remove what is in its place
");
    insta::assert_snapshot!(apply("file", json!({"path": "/etc/passwd", "state": "directory"})).await, @"
/etc/passwd is a file, not a directory
-> remove it first, by a `file` task with `state: absent`, if nothing needs it
");
    insta::assert_snapshot!(apply("file", json!({"path": "/etc/none"})).await, @"
/etc/none does not exist
-> make it by `copy` or `template` before, or say `state: directory` or `touch`
");
    insta::assert_snapshot!(apply("blockinfile", json!({"path": "/etc/none", "block": "x"})).await, @"
/etc/none does not exist
-> say `create: true`, or make the file before this task
");
    let tar = json!({"dest": "/opt/x", "content": "no archive, but longer than a tar header would need to be".repeat(20)});
    insta::assert_snapshot!(apply("unarchive", tar).await, @"
the archive can't be read: numeric field was not a number
-> expected a .tar.gz or .tar; see whether it is complete
");
}

#[tokio::test]
async fn diffs_are_unified_and_only_attributes_are_corrected_where_that_suffices() {
    let root = tree();
    let copy = |content: &str, mode: &str| {
        step(1, "copy", json!({"dest": "/etc/a", "content": content, "mode": mode}))
    };
    one(root.path(), Mode::Apply, copy("a\nb\nc\n", "0644")).await;
    let outcome = one(root.path(), Mode::Check, copy("a\nB\nc\n", "0600")).await;
    assert_eq!(outcome.effect, Effect::None);
    insta::assert_snapshot!(outcome.diff, @"
--- /etc/a
+++ /etc/a
@@ -1,3 +1,3 @@
 a
-b
+B
 c
/etc/a: mode: 0644 -> 0600
");
    let outcome = one(root.path(), Mode::Apply, copy("a\nb\nc\n", "0600")).await;
    insta::assert_snapshot!(outcome.diff, @"/etc/a: mode: 0644 -> 0600");
}

#[tokio::test]
async fn a_host_listens_for_others_as_long_as_its_session_lasts() {
    let root = tree();
    let any = Door { port: 0, address: "127.0.0.1".parse().ok() };
    let dial = |port| {
        let (address, at) = ("127.0.0.1".to_owned(), At::Door("a".to_owned()));
        Request::Dial(vec![Dial { address, port, at }])
    };
    let port = session(root.path(), &[], async |control| {
        control.hello().await;
        control.send(&Request::Open { name: "a".to_owned(), doors: vec![any] }).await;
        let port = match control.event().await {
            Some(Event::Opened(opened)) => opened[0].clone().expect("a port"),
            other => panic!("expected ports, found {other:?}"),
        };
        control.send(&dial(port)).await;
        match control.event().await {
            Some(Event::Dialled(results)) => assert!(results[0].is_ok(), "{results:?}"),
            other => panic!("expected an answer, found {other:?}"),
        }
        port
    });
    let port = port.await;
    session(root.path(), &[], async |control| {
        control.hello().await;
        control.send(&dial(port)).await;
        match control.event().await {
            Some(Event::Dialled(results)) => assert_eq!(results, [Err(Unreached::Refused)]),
            other => panic!("expected an answer, found {other:?}"),
        }
    })
    .await;
}
