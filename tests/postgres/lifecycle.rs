//! Processes: starts, stops, adoption, and what is left when one is killed.

use std::time::{Duration, Instant};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use pgfleet::agent::postgres::{ClusterState, DataDir, Error, Process, Role, Server, StopMode};

use super::support::PATIENCE;

as_postgres!(what_is_seen_from_nothing_to_running_and_back, async |lab| {
    let node = lab.node("node");
    assert_eq!(node.server.observe().await.data, DataDir::Missing);
    assert!(node.server.start(&Role::Primary, PATIENCE).await.is_err());
    node.server.initdb().await.expect("initdb");
    assert!(matches!(node.server.initdb().await, Err(Error::NotEmpty { .. })));
    let facts = node.server.observe().await;
    assert_eq!((facts.process, facts.session), (Process::Stopped, None));
    assert!(facts.control.expect("control data").data_checksums);

    node.start(Role::Primary).await;
    assert!(matches!(node.server.start(&Role::Primary, PATIENCE).await, Err(Error::AlreadyRunning { .. })));
    let facts = node.server.observe().await;
    // Not what the file said before the start: whoever believes in a shutdown then promotes too early.
    assert_eq!(facts.control.map(|control| control.state), Some(ClusterState::InProduction));
    let session = facts.session.expect("a session");
    assert_eq!((facts.process, session.in_recovery, session.timeline), (Process::Running, false, 1));
    assert!(session.written.is_some() && session.pending_restart.is_empty());

    node.stop(StopMode::Fast).await;
    assert_eq!(node.server.observe().await.process, Process::Stopped);
    node.start(Role::Primary).await;
    node.stop(StopMode::Immediate).await;
    assert_eq!(node.server.observe().await.process, Process::Crashed);
    node.start(Role::Primary).await;
});

as_postgres!(another_agent_adopts_what_runs_and_notices_its_end, async |lab| {
    let primary = lab.primary("primary").await;
    let standby = lab.standby("standby", &primary).await;
    let adopting = Server::new((*standby.server.settings()).clone());
    assert_eq!(adopting.adopt().expect("a postmaster").pid(), standby.pid());
    // The upstream is known from the file: a reload changes nothing.
    let reconfigured = adopting.reconfigure((*adopting.settings()).clone()).await.expect("reconfigured");
    assert!(!reconfigured.reloaded);
    standby.streams().await;

    let postmaster = adopting.adopt().expect("a postmaster");
    let begun = Instant::now();
    kill(Pid::from_raw(postmaster.pid()), Signal::SIGKILL).expect("a kill");
    adopting.exited().await;
    assert!(!postmaster.is_alive());
    assert!(begun.elapsed() < Duration::from_secs(1), "noticed after {:?}", begun.elapsed());
    assert_eq!(adopting.observe().await.process, Process::Crashed);
});

as_postgres!(a_stopped_backend_does_not_hold_up_a_stop_or_a_start, async |lab| {
    let primary = lab.primary("primary").await;
    let client = primary.client().await;
    let suspend = async |client: &tokio_postgres::Client| {
        let backend: i32 = client.query_one("SELECT pg_backend_pid()", &[]).await.expect("a pid").get(0);
        kill(Pid::from_raw(backend), Signal::SIGSTOP).expect("a stop");
    };
    suspend(&client).await;
    let begun = Instant::now();
    let stopped =
        primary.server.stop(StopMode::Fast, false, Duration::from_millis(500)).await.expect("a stop");
    assert!(stopped.killed);
    assert!(begun.elapsed() < Duration::from_secs(4), "took {:?}", begun.elapsed());
    assert_eq!(primary.server.observe().await.process, Process::Crashed);

    primary.start(Role::Primary).await;
    let client = primary.client().await;
    suspend(&client).await;
    kill(Pid::from_raw(primary.pid()), Signal::SIGKILL).expect("a kill");
    primary.server.exited().await;
    // Its backend is still there and holds the shared memory.
    primary.start(Role::Primary).await;
});

as_postgres!(a_suspended_postmaster_is_unresponsive, async |lab| {
    let primary = lab.primary("primary").await;
    assert_eq!(primary.server.observe().await.process, Process::Running);
    let pid = Pid::from_raw(primary.pid());
    kill(pid, Signal::SIGSTOP).expect("a stop");
    primary.until("unresponsive", |facts| facts.process == Process::Unresponsive).await;
    kill(pid, Signal::SIGCONT).expect("a continuation");
    primary.until("running again", |facts| facts.process == Process::Running).await;
});

as_postgres!(a_pid_file_of_another_life_is_no_postmaster, async |lab| {
    let node = lab.primary("node").await;
    node.kill().await;
    // After a power loss the number may be anybody's: here it is this test's.
    let stale = format!("{}\n{}\n0\n5432\n\n\n\nready   \n", std::process::id(), node.data_dir().display());
    std::fs::write(node.data_dir().join("postmaster.pid"), stale).expect("a pid file");
    assert!(node.server.adopt().is_none());
    assert_eq!(node.server.observe().await.process, Process::Crashed);
    node.start(Role::Primary).await;
});

as_postgres!(a_start_that_fails_says_why, async |lab| {
    let node = lab.node("node");
    node.server.initdb().await.expect("initdb");
    let mut settings = (*node.server.settings()).clone();
    settings.parameters.insert("shared_buffers".to_owned(), "lots".to_owned());
    node.server.update(settings);
    let failure = node.server.start(&Role::Primary, PATIENCE).await.expect_err("a bad value");
    assert!(failure.to_string().contains("shared_buffers"), "{failure}");
});
