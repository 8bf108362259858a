//! Waiting for things that are really there: a port, an answer, a member of a cluster.

use super::{failure, one, session, step, tree};
use crate::remote::protocol::{Mode, Verdict};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

/// Answers every request on a port of its own with the answers in turn, the last one for ever.
async fn server(answers: &[&str]) -> (u16, impl Future<Output = ()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let answers: Vec<String> = answers.iter().map(|answer| (*answer).to_owned()).collect();
    let serve = async move {
        let mut remaining = answers.into_iter().peekable();
        let mut answer = String::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            if let Some(next) = remaining.next() {
                answer = next;
            }
            let (status, body) = answer.split_once(' ').unwrap_or((&answer, ""));
            let mut request = [0; 4096];
            let _ = stream.read(&mut request).await;
            let head = format!(
                "HTTP/1.1 {status} X\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
                body.len()
            );
            let _ = stream.write_all(head.as_bytes()).await;
        }
    };
    (port, serve)
}

/// Carries out one step while a server answers; gives what was waited for and how it ended.
async fn against(
    answers: &[&str],
    module: &str,
    args: impl Fn(u16) -> Value,
) -> (Vec<String>, Result<(), String>) {
    let root = tree();
    let (port, serving) = server(answers).await;
    let steps = vec![step(1, module, args(port))];
    let test = session(root.path(), &[], async |control| {
        control.hello().await;
        let outcome = control.batch(Mode::Apply, steps).await.remove(0);
        let hide = |text: &str| text.replace(&port.to_string(), "PORT");
        let waits = control.waits.iter().map(|wait| hide(wait)).collect();
        match outcome.verdict {
            Verdict::Failed(_) => (waits, Err(hide(&failure(&outcome)))),
            _ => (waits, Ok(())),
        }
    });
    tokio::select! {
        () = serving => unreachable!("the server never ends"),
        done = test => done,
    }
}

#[tokio::test]
async fn a_url_is_waited_for_and_its_answers_are_told() {
    let answers = ["503 starting", "503 replaying", "200 ok"];
    let (waits, ended) =
        against(&answers, "wait_for", |port| json!({"url": format!("http://127.0.0.1:{port}/health")})).await;
    assert_eq!(ended, Ok(()));
    assert_eq!(
        waits,
        [
            "http://127.0.0.1:PORT/health: status 503 starting",
            "http://127.0.0.1:PORT/health: status 503 replaying"
        ]
    );
}

#[tokio::test]
async fn a_port_that_stays_closed_is_a_failure_that_says_so() {
    let root = tree();
    // Bound and closed again: nothing else on this machine is likely to take it meanwhile.
    let port =
        TcpListener::bind("127.0.0.1:0").await.expect("a port").local_addr().expect("an address").port();
    let outcome =
        one(root.path(), Mode::Apply, step(1, "wait_for", json!({"port": port, "timeout": 0}))).await;
    insta::assert_snapshot!(failure(&outcome).replace(&port.to_string(), "PORT"), @"
not within 0 s: port PORT of 127.0.0.1: connection refused
-> look at what is missing, then run the same command again; it continues here
");
    let gone =
        one(root.path(), Mode::Apply, step(1, "wait_for", json!({"port": port, "state": "stopped"}))).await;
    assert_eq!(gone.verdict, Verdict::Unchanged);
    let plan = one(root.path(), Mode::Check, step(1, "wait_for", json!({"port": port}))).await;
    assert_eq!(plan.verdict, Verdict::Unchanged);
    assert_eq!(plan.warnings.len(), 1, "a plan says that it is not so now");
}

#[tokio::test]
async fn a_cluster_is_waited_for_with_the_failing_members_state() {
    let leader = r#"{"name":"a","role":"leader","state":"running","timeline":1}"#;
    let broken = format!(
        r#"200 {{"members":[{leader},{{"name":"b","role":"replica","state":"start failed","timeline":1}}]}}"#
    );
    let whole = format!(
        r#"200 {{"members":[{leader},{{"name":"b","role":"replica","state":"streaming","timeline":1,"lag":0}}]}}"#
    );
    let args = |port| json!({"url": format!("http://127.0.0.1:{port}"), "members": ["a", "b"]});
    let (waits, ended) = against(&["503 ", &broken, &whole], "postgres_cluster", args).await;
    assert_eq!(ended, Ok(()));
    assert_eq!(waits, ["http://127.0.0.1:PORT/cluster: status 503", "b is start failed"]);
}

#[tokio::test]
async fn dynamic_configuration_is_patched_and_read_back() {
    let old = r#"200 {"ttl":30,"postgresql":{"parameters":{"work_mem":"4MB"}}}"#;
    let new = r#"200 {"ttl":30,"postgresql":{"parameters":{"work_mem":"8MB"}}}"#;
    let args = |port| json!({"url": format!("http://127.0.0.1:{port}"), "config": {"postgresql": {"parameters": {"work_mem": "8MB"}}}});
    // Looked at, looked at again before the change, changed, read back.
    assert_eq!(against(&[old, old, new, new], "dynamic_config", args).await.1, Ok(()));
    let (_, ended) = against(&[old, old, "400 work_mem: no such unit"], "dynamic_config", args).await;
    insta::assert_snapshot!(ended.expect_err("a refusal"), @"
http://127.0.0.1:PORT/config: status 400 work_mem: no such unit
-> correct the setting that the agent refuses
");
    // A member that is behind shows it a moment later.
    assert_eq!(against(&[old, old, new, old, new], "dynamic_config", args).await.1, Ok(()));
    let impatient = |port| {
        let mut args = args(port);
        args["timeout"] = 0.into();
        args
    };
    let (_, ended) = against(&[old, old, new, old], "dynamic_config", impatient).await;
    insta::assert_snapshot!(ended.expect_err("a change that does not hold"), @r#"
    not within 0 s: http://127.0.0.1:PORT/config does not show what was written: postgresql.parameters.work_mem: "4MB" -> "8MB"
    -> look at what is missing, then run the same command again; it continues here
    "#);
}

#[tokio::test]
async fn an_archive_is_fetched_and_must_be_the_expected_one() {
    let args = |port| {
        let wrong = "0".repeat(64);
        json!({"dest": "/opt/x", "url": format!("http://127.0.0.1:{port}/x.tar.gz"), "sha256": wrong})
    };
    let (_, ended) = against(&["200 forged"], "unarchive", args).await;
    insta::assert_snapshot!(ended.expect_err("a wrong digest"), @"
http://127.0.0.1:PORT/x.tar.gz has the SHA-256 ccdd35168ab474fa5764a526cfb83621351e23682c5075b2e18d56bddf96aa30, expected 0000000000000000000000000000000000000000000000000000000000000000
-> correct the digest in the inventory if the publisher says so; otherwise the download is damaged or forged
");
    let (_, ended) = against(&["404 "], "unarchive", args).await;
    insta::assert_snapshot!(ended.expect_err("no such file"), @"
http://127.0.0.1:PORT/x.tar.gz answered with status 404
-> correct the address
");
}
