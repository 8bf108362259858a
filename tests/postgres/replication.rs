//! Streaming, promotion, divergence and rewinds.

use pgfleet::{
    agent::postgres::{Credentials, DataDir, Divergence, Existing, Followed, Process, Role, Ssl, StopMode},
    model::Secret,
};

use super::support::PATIENCE;

as_postgres!(a_diverged_primary_comes_back_by_a_rewind, async |lab| {
    let old = lab.primary("old").await;
    let new = lab.standby("new", &old).await;
    old.execute("CREATE TABLE events (what text); INSERT INTO events VALUES ('both')").await;
    new.catches_up_with(&old).await;
    let senders = old.session().await.senders;
    assert_eq!((senders[0].application_name.as_str(), senders[0].state.as_str()), ("new", "streaming"));
    let at_new = new.upstream(None);
    // An idle primary writes too, now and then.
    let divergence = new.server.divergence(&old.upstream(None)).await.expect("an answer");
    assert!(matches!(divergence, Divergence::InSync | Divergence::Behind), "{divergence:?}");
    new.server.stop_receiving(PATIENCE).await.expect("no walreceiver");
    old.execute("INSERT INTO events VALUES ('lost')").await;
    old.kill().await;
    assert_eq!(old.server.observe().await.process, Process::Crashed);
    assert_eq!(new.server.promote(PATIENCE).await.expect("a promotion"), 2);
    new.execute("INSERT INTO events VALUES ('kept')").await;

    let divergence = old.server.divergence(&at_new).await.expect("an answer");
    assert!(matches!(divergence, Divergence::Unknown | Divergence::Diverged { .. }), "{divergence:?}");
    let (rewound, checkpoint) = tokio::join!(old.server.rewind(&at_new, PATIENCE), new.server.checkpoint());
    checkpoint.expect("a checkpoint");
    rewound.expect("a rewind");
    let slots = ["old".to_owned()].into();
    new.server.sync_slots(&slots, |_| false).await.expect("a slot");
    old.start(Role::Standby { upstream: Some(new.upstream(Some("old"))) }).await;
    old.streams().await;
    old.catches_up_with(&new).await;
    assert_eq!(old.text("SELECT string_agg(what, ',' ORDER BY what) FROM events").await, "both,kept");
    assert_eq!(old.session().await.timeline, 2);
    assert_eq!(old.server.settings().port.to_string(), old.text("SHOW port").await);
});

as_postgres!(after_an_orderly_switch_the_old_primary_just_follows, async |lab| {
    let old = lab.primary("old").await;
    let new = lab.standby("new", &old).await;
    let stopped = old.server.stop(StopMode::Fast, true, PATIENCE).await.expect("a stop");
    let checkpoint = stopped.control.expect("control data").checkpoint;
    let has_all = |facts: &pgfleet::agent::postgres::Facts| {
        facts.session.as_ref().is_some_and(|session| session.position() > checkpoint)
    };
    new.until("the shutdown checkpoint", has_all).await;
    new.server.promote(PATIENCE).await.expect("a promotion");
    assert_eq!(old.server.divergence(&new.upstream(None)).await.expect("an answer"), Divergence::Behind);
    old.start(Role::Standby { upstream: Some(new.upstream(None)) }).await;
    // It streams the rest of its own timeline first, if only for a moment.
    old.until("timeline 2", |facts| facts.session.as_ref().is_some_and(|session| session.timeline == 2))
        .await;
    old.catches_up_with(&new).await;
});

as_postgres!(a_standby_changes_its_upstream_without_a_restart, async |lab| {
    let first = lab.primary("first").await;
    let second = lab.standby("second", &first).await;
    let third = lab.standby("third", &first).await;
    let pid = third.pid();
    first.kill().await;
    second.server.promote(PATIENCE).await.expect("a promotion");
    second.execute("CREATE TABLE after_promotion ()").await;
    let upstream = second.upstream(None);
    assert_eq!(third.server.follow(Some(&upstream)).await.expect("followed"), Followed::Reloaded);
    assert_eq!(third.server.follow(Some(&upstream)).await.expect("followed"), Followed::Unchanged);
    third
        .until("timeline 2", |facts| {
            let receiver = facts.session.as_ref().and_then(|session| session.receiver.as_ref());
            receiver.is_some_and(|receiver| {
                receiver.timeline == Some(2) && receiver.sender_port == Some(upstream.port)
            })
        })
        .await;
    third.catches_up_with(&second).await;
    assert_eq!(third.pid(), pid);
});

as_postgres!(a_standby_that_replayed_too_much_has_diverged, async |lab| {
    let first = lab.primary("first").await;
    let second = lab.standby("second", &first).await;
    let third = lab.standby("third", &first).await;
    second.server.stop_receiving(PATIENCE).await.expect("no walreceiver");
    first.execute("CREATE TABLE only_on_third ()").await;
    third.catches_up_with(&first).await;
    first.kill().await;
    second.server.promote(PATIENCE).await.expect("a promotion");
    let divergence = third.server.divergence(&second.upstream(None)).await.expect("an answer");
    assert!(matches!(divergence, Divergence::Diverged { switchpoint: Some(_) }), "{divergence:?}");
});

as_postgres!(a_copy_that_fails_leaves_what_was_there, async |lab| {
    let primary = lab.primary("primary").await;
    let other = lab.node("other");
    other.server.initdb().await.expect("initdb");
    let before = other.server.control_data().await.expect("control data").system_identifier;
    let upstream = primary.upstream(None);
    let refused = other.server.clone_from(&upstream, Existing::Refuse, |_| {}).await;
    assert!(refused.expect_err("data in the way").to_string().contains("not empty"));

    let missing = primary.upstream(Some("no_such_slot"));
    let failure = other.server.clone_from(&missing, Existing::Replace, |_| {}).await.expect_err("no slot");
    assert!(failure.to_string().contains("no_such_slot"), "{failure}");
    assert_eq!(other.server.control_data().await.expect("control data").system_identifier, before);
    assert_eq!(other.server.divergence(&upstream).await.expect("an answer"), Divergence::OtherCluster);

    let mut reports = Vec::new();
    let progress = |progress| reports.push(progress);
    other.server.clone_from(&upstream, Existing::Replace, progress).await.expect("a copy");
    assert!(reports.last().is_some_and(|last| last.done_kb > 1000 && last.total_kb > 1000), "{reports:?}");
    let system_identifier = primary.server.control_data().await.expect("control data").system_identifier;
    let DataDir::Initialised { system_identifier: copied, .. } = other.server.observe().await.data else {
        panic!("no cluster")
    };
    assert_eq!(copied, system_identifier);
    other.until("nothing left beside the data", |_| !other.folder.join("data.new").exists()).await;
    assert!(!other.folder.join("data.old").exists());
});

as_postgres!(slots_are_made_and_dropped_as_wanted, async |lab| {
    let primary = lab.primary("primary").await;
    let standby = lab.standby("standby", &primary).await;
    primary.execute("SELECT pg_create_physical_replication_slot('of_somebody_else')").await;
    let wanted = ["standby".to_owned(), "another".to_owned()].into();
    let changes = primary.server.sync_slots(&wanted, |name| name != "of_somebody_else").await.expect("slots");
    assert_eq!((changes.created, changes.dropped), (vec!["another".to_owned()], vec![]));
    let changes =
        primary.server.sync_slots(&[].into(), |name| name != "of_somebody_else").await.expect("slots");
    assert_eq!((changes.dropped, changes.busy), (vec!["another".to_owned()], vec!["standby".to_owned()]));
    let names: Vec<String> = primary.session().await.slots.into_iter().map(|slot| slot.name).collect();
    assert_eq!(names, ["standby", "of_somebody_else"]);
    let _ = standby;
});

as_postgres!(a_change_of_the_replication_role_reaches_the_walreceiver, async |lab| {
    let primary = lab.primary("primary").await;
    let standby = lab.standby("standby", &primary).await;
    let role = Credentials {
        username: "streamer".to_owned(),
        password: Some(Secret::new("new password")),
        ssl: Ssl::default(),
    };
    for node in [&primary, &standby] {
        let mut settings = (*node.server.settings()).clone();
        settings.replication = role.clone();
        settings.hba.push("host replication streamer 127.0.0.1/32 scram-sha-256".to_owned());
        node.server.update(settings);
    }
    primary.server.bootstrap_roles().await.expect("roles");
    for node in [&primary, &standby] {
        let reconfigured = node.server.reconfigure((*node.server.settings()).clone()).await;
        assert!(reconfigured.expect("reconfigured").reloaded);
    }
    standby.streams().await;
    let user = "SELECT string_agg(usename, ',') FROM pg_stat_replication WHERE state = 'streaming'";
    let begun = std::time::Instant::now();
    while primary
        .client()
        .await
        .query_one(user, &[])
        .await
        .expect("senders")
        .get::<_, Option<String>>(0)
        .as_deref()
        != Some("streamer")
    {
        assert!(begun.elapsed() < PATIENCE, "{}", standby.log());
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
});
