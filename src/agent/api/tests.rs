//! The contract as tables: which node answers what to whom.

mod served;

use super::*;
use crate::{
    agent::view::View,
    contract::{
        DynamicConfig, FailoverDocument, Leader, MaintenanceMark, PostgresState, Role, Snapshot,
        StatusDocument, SyncDocument, Versioned, Xlog,
    },
    model::{Lsn, Secret},
};
use serde_json::{Value, json};
use std::{sync::Arc, time::Duration};

const NOW: Now = Now { boot: BootTime(100_000), unix_secs: 1_795_194_062 };

fn snapshot(leader: Option<&str>) -> Snapshot {
    let mut snapshot = Snapshot {
        leader: leader.map(|name| Leader::of(name.parse().unwrap(), 7)),
        status: Some(Versioned::new(StatusDocument { optime: Lsn(5_000_000), ..Default::default() }, 8)),
        config: Some(Versioned::new(Arc::default(), 3)),
        ..Snapshot::default()
    };
    for name in ["pg1", "pg2"] {
        snapshot.members.insert(name.parse().unwrap(), Default::default());
    }
    snapshot
}

fn configured(document: Value) -> Arc<DynamicConfig> {
    Arc::new(DynamicConfig::from_json(&document).0)
}

/// pg1, running, in a cluster that is led by pg1.
fn primary() -> View {
    let mut view = View::unknown("demo".parse().unwrap(), "pg1".parse().unwrap(), NOW.boot);
    view.status.state = Some(PostgresState::Running);
    view.status.role = Role::Primary;
    view.status.xlog = Some(Xlog { location: Some(Lsn(5_000_000)), ..Xlog::default() });
    view.leader_until = Some(BootTime(NOW.boot.0 + 1));
    view.snapshot = Some(Arc::new(snapshot(Some("pg1"))));
    view
}

/// pg2, streaming from pg1, 1 MB behind what the store knows.
fn replica() -> View {
    let mut view = primary();
    view.name = "pg2".parse().unwrap();
    view.leader_until = None;
    view.status.role = Role::Replica;
    view.status.replication_state = Some("streaming".to_owned());
    view.status.xlog = Some(Xlog {
        received_location: Some(Lsn(5_000_000)),
        replayed_location: Some(Lsn(4_000_000)),
        ..Xlog::default()
    });
    view
}

fn changed(view: View, change: impl FnOnce(&mut View)) -> View {
    let mut view = view;
    change(&mut view);
    view
}

fn synchronous(view: View, mode: &str) -> View {
    changed(view, |view| {
        let mut snapshot = Snapshot::clone(view.snapshot.as_ref().unwrap());
        snapshot.sync = Some(Versioned::new(SyncDocument::new("pg1", ["pg2"], 0), 9));
        view.snapshot = Some(Arc::new(snapshot));
        view.config = configured(json!({"synchronous_mode": mode}));
    })
}

fn query(text: &str) -> Vec<(String, String)> {
    let pairs = text.split('&').filter_map(|pair| pair.split_once('='));
    pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

fn ask(method: &str, target: &str, body: Option<Value>, view: &View) -> Routed {
    let (path, text) = target.split_once('?').unwrap_or((target, ""));
    let body = body.map(|body| body.to_string());
    let request =
        Request { method, path, query: &query(text), body: body.as_ref().map(|body| body.as_bytes()) };
    route(request, view, NOW)
}

fn status(method: &str, target: &str, view: &View) -> u16 {
    match ask(method, target, None, view) {
        Routed::Reply(reply) => reply.status,
        Routed::Ask(operation) => panic!("{target} asks for {operation:?}"),
    }
}

fn get(target: &str, view: &View) -> u16 {
    status("GET", target, view)
}

/// Which of the paths answer 200.
fn healthy(view: &View) -> String {
    let paths = [
        "/",
        "/primary",
        "/master",
        "/read-write",
        "/leader",
        "/standby-leader",
        "/standby_leader",
        "/replica",
        "/read-only",
        "/health",
        "/sync",
        "/synchronous",
        "/quorum",
        "/async",
        "/asynchronous",
        "/read-only-quorum",
        "/read-only-sync",
        "/read-only-synchronous",
        "/nonsense",
    ];
    let healthy: Vec<&str> = paths.into_iter().filter(|path| get(path, view) == 200).collect();
    healthy.join(" ")
}

#[test]
fn each_kind_of_node_answers_its_own_paths() {
    let leads = "/ /primary /master /read-write /leader /read-only /health /read-only-quorum /read-only-sync /read-only-synchronous";
    assert_eq!(healthy(&primary()), leads);
    assert_eq!(healthy(&replica()), "/replica /read-only /health /async /asynchronous");
    assert_eq!(
        healthy(&synchronous(replica(), "on")),
        "/replica /read-only /health /sync /synchronous /read-only-sync /read-only-synchronous"
    );
    assert_eq!(
        healthy(&synchronous(replica(), "quorum")),
        "/replica /read-only /health /quorum /read-only-quorum"
    );
    assert_eq!(healthy(&synchronous(replica(), "off")), "/replica /read-only /health /async /asynchronous");
    assert_eq!(healthy(&synchronous(primary(), "on")), leads);
}

#[test]
fn a_standby_cluster_has_a_standby_leader_and_no_primary() {
    let of_standby_cluster = |view| {
        changed(view, |view: &mut View| {
            view.config = configured(json!({"standby_cluster": {"host": "10.9.9.9"}}));
        })
    };
    let leader = of_standby_cluster(changed(primary(), |view| view.status.role = Role::StandbyLeader));
    assert_eq!(
        healthy(&leader),
        "/leader /standby-leader /standby_leader /read-only /health /read-only-quorum /read-only-sync /read-only-synchronous"
    );
    assert_eq!(healthy(&of_standby_cluster(replica())), healthy(&replica()));
}

#[test]
fn a_hung_loop_stops_being_the_leader_by_itself() {
    let expired = changed(primary(), |view| view.leader_until = Some(NOW.boot));
    assert_eq!(healthy(&expired), "/health");
    assert_eq!(status("OPTIONS", "/primary", &expired), 503);
}

#[test]
fn primary_means_that_a_write_would_work() {
    for (role, state) in [
        (Role::Replica, PostgresState::Running),
        (Role::Promoted, PostgresState::Running),
        (Role::Primary, PostgresState::Crashed),
        (Role::Primary, PostgresState::Starting),
    ] {
        let view = changed(primary(), |view| {
            view.status.role = role;
            view.status.state = Some(state);
        });
        assert_eq!((get("/primary", &view), get("/leader", &view)), (503, 200), "{role} {state}");
    }
}

#[test]
fn words_are_found_anywhere_in_the_path() {
    assert_eq!(get("/foo-primary", &primary()), 200);
    assert_eq!(get("/service/demo/replica", &replica()), 200);
    assert_eq!(
        get("/not-leader-primary", &changed(primary(), |view| view.status.role = Role::Promoted)),
        200
    );
}

#[test]
fn without_the_store_a_paused_node_goes_by_its_role() {
    let blind = |view| changed(view, |view: &mut View| view.snapshot = None);
    assert_eq!(get("/primary", &blind(primary())), 200, "until the lease ends");
    let expired = blind(changed(primary(), |view| view.leader_until = None));
    assert_eq!(get("/primary", &expired), 503);
    let paused = changed(expired, |view| view.config = configured(json!({"pause": true})));
    assert_eq!(
        (get("/primary", &paused), get("/leader", &paused), get("/replica", &paused)),
        (200, 200, 503)
    );
    assert_eq!(healthy(&blind(replica())), "/replica /read-only /health");
}

#[test]
fn a_replica_can_be_asked_for_lag_state_and_tags() {
    let view = replica();
    for (target, expected) in [
        ("/replica?lag=1000000", 200),
        ("/replica?lag=999999", 503),
        ("/replica?lag=976kB", 503),
        ("/replica?lag=1MB", 200),
        ("/replica?lag=nonsense", 200),
        ("/replica?replication_state=streaming", 200),
        ("/replica?replication_state=in archive recovery", 503),
        ("/async?lag=1", 503),
        ("/read-only?lag=1", 503),
    ] {
        assert_eq!(get(target, &view), expected, "{target}");
    }
    let ahead = changed(view, |view| view.latest_end_lsn = Some(Lsn(9_000_000)));
    assert_eq!(get("/replica?lag=1MB", &ahead), 503, "its walreceiver has heard of more");

    let tagged = changed(replica(), |view| {
        view.status.tags = serde_json::from_value(json!({"zone": "a", "fast": true, "size": 3})).unwrap();
    });
    for (target, expected) in [
        ("/replica?tag_zone=a", 200),
        ("/replica?tag_zone=b", 503),
        ("/replica?tag_fast=true", 200),
        ("/replica?tag_size=3", 200),
        ("/replica?tag_zone=a&tag_missing=x", 503),
        ("/health?tag_zone=b", 503),
    ] {
        assert_eq!(get(target, &tagged), expected, "{target}");
    }
    assert_eq!(get("/primary?tag_zone=b", &primary()), 200, "who leads is told regardless of tags");
    let hidden = changed(replica(), |view| {
        view.status.tags = serde_json::from_value(json!({"noloadbalance": true})).unwrap();
    });
    assert_eq!(
        (get("/replica", &hidden), get("/read-only", &hidden), get("/health", &hidden)),
        (503, 503, 200)
    );
}

#[test]
fn liveness_and_readiness() {
    assert_eq!((get("/liveness", &primary()), get("/readiness", &primary())), (200, 200));
    let late =
        |view, secs: u64| changed(view, |view: &mut View| view.loop_at = BootTime(NOW.boot.0 - secs * 1000));
    assert_eq!(get("/liveness", &late(primary(), 39)), 200);
    assert_eq!(get("/liveness", &late(primary(), 41)), 503);
    assert_eq!(get("/liveness", &late(replica(), 41)), 200);
    let paused = changed(late(primary(), 99), |view| view.config = configured(json!({"pause": true})));
    assert_eq!(get("/liveness", &paused), 200);
    for (target, expected) in [
        ("/readiness", 200),
        ("/readiness?lag=1", 503),
        ("/readiness?lag=1&mode=write", 200),
        ("/readiness?lag=1&mode=apply", 503),
    ] {
        assert_eq!(get(target, &replica()), expected, "{target}");
    }
    let stopped = changed(replica(), |view| view.status.state = Some(PostgresState::Stopped));
    assert_eq!(get("/readiness", &stopped), 503);
    let archive =
        changed(replica(), |view| view.status.replication_state = Some("in archive recovery".to_owned()));
    assert_eq!(get("/readiness", &archive), 503);
}

#[test]
fn head_and_options_tell_the_health_alone() {
    for method in ["HEAD", "OPTIONS"] {
        assert_eq!(ask(method, "/primary", None, &primary()), Reply::status(200).into());
        assert_eq!(ask(method, "/primary", None, &replica()), Reply::status(503).into());
        assert_eq!(status(method, "/liveness", &primary()), 503, "as elsewhere");
        assert_eq!(status(method, "/cluster", &primary()), 503);
    }
}

fn json_of(routed: Routed) -> (u16, Value) {
    match routed {
        Routed::Reply(Reply { status, content: Content::Json(value) }) => (status, value),
        other => panic!("no JSON: {other:?}"),
    }
}

#[test]
fn documents_are_those_of_the_view() {
    let mut view = synchronous(replica(), "on");
    view.dcs_last_seen = Some(1_795_194_000);
    let (code, status) = json_of(ask("GET", "/patroni", None, &view));
    assert_eq!(code, 200);
    assert_eq!(status["role"], "replica");
    assert_eq!(status["sync_standby"], true);
    assert_eq!(status["dcs_last_seen"], 1_795_194_000);
    assert_eq!(
        status["patroni"],
        json!({"version": env!("CARGO_PKG_VERSION"), "scope": "demo", "name": "pg2"})
    );
    assert_eq!(status.get("cluster_unlocked"), None);
    let (code, same) = json_of(ask("GET", "/primary", None, &view));
    assert_eq!((code, same), (503, status));

    let (_, cluster) = json_of(ask("GET", "/cluster", None, &view));
    assert_eq!(cluster["members"][0]["role"], "leader");
    assert_eq!(cluster["members"][1]["role"], "sync_standby");
    assert_eq!(cluster["scope"], "demo");
    assert_eq!(json_of(ask("GET", "/history", None, &view)), (200, json!([])));
    assert_eq!(json_of(ask("GET", "/config", None, &view)), (200, json!({})));

    let blind = changed(view, |view| view.snapshot = None);
    assert_eq!((get("/config", &blind), get("/cluster", &blind), get("/history", &blind)), (502, 503, 200));
    assert_eq!(json_of(ask("GET", "/patroni", None, &blind)).1["cluster_unlocked"], true);
    assert_eq!((get("/failsafe", &blind), get("/nonsense", &primary())), (502, 503));
}

/// The operation that is asked for, or the code and text of the refusal.
fn operation(method: &str, path: &str, body: Value, view: &View) -> Result<Operation, (u16, String)> {
    match ask(method, path, Some(body), view) {
        Routed::Ask(operation) => Ok(operation),
        Routed::Reply(Reply { status, content: Content::Text(text) }) => Err((status, text)),
        Routed::Reply(other) => panic!("{other:?}"),
    }
}

#[test]
fn a_switchover_is_checked_before_anybody_is_troubled() {
    let view = primary();
    let good = json!({"leader": "pg1", "candidate": "pg2"});
    let Ok(Operation::Switchover(request)) = operation("POST", "/switchover", good.clone(), &view) else {
        panic!("refused");
    };
    assert_eq!((request.leader.as_deref(), request.candidate.as_deref()), (Some("pg1"), Some("pg2")));
    assert!(operation("POST", "/switchover", json!({"leader": "pg1"}), &view).is_ok());
    let member = json!({"member": "pg2"});
    assert!(matches!(operation("POST", "/failover", member, &view), Ok(Operation::Failover(_))));
    assert!(matches!(operation("POST", "/failover", good.clone(), &view), Ok(Operation::Switchover(_))));
    let later = json!({"leader": "pg1", "scheduled_at": "2099-01-01T00:00:00+01:00"});
    assert!(operation("POST", "/switchover", later.clone(), &view).is_ok());

    let paused = changed(primary(), |view| view.config = configured(json!({"pause": true})));
    let alone = changed(primary(), |view| {
        let mut snapshot = snapshot(Some("pg1"));
        snapshot.members.remove("pg2");
        view.snapshot = Some(Arc::new(snapshot));
    });
    let sync = changed(synchronous(primary(), "on"), |view| {
        let mut snapshot = Snapshot::clone(view.snapshot.as_ref().unwrap());
        snapshot.sync = Some(Versioned::new(SyncDocument::new("pg1", ["pg3"], 0), 9));
        view.snapshot = Some(Arc::new(snapshot));
    });
    for (path, body, view, code, text) in [
        ("/switchover", json!({"candidate": "pg2"}), &view, 400, "only from a specific leader"),
        ("/switchover", json!({"leader": "pg1", "candidate": "pg1"}), &view, 400, "are the same"),
        ("/switchover", json!({"leader": "pg2"}), &view, 412, "`pg1` leads, not `pg2`"),
        ("/switchover", json!({"leader": "pg1", "candidate": "pg9"}), &view, 412, "`pg9` is not a member"),
        ("/switchover", json!({"leader": "pg1"}), &alone, 412, "no member beside the leader"),
        ("/switchover", good.clone(), &sync, 412, "sync_standby"),
        ("/switchover", json!({"leader": "pg1"}), &sync, 412, "no synchronous standby"),
        ("/switchover", json!({"leader": "pg1"}), &paused, 400, "specific candidate in a paused state"),
        ("/switchover", later.clone(), &paused, 400, "in the paused state"),
        (
            "/switchover",
            json!({"leader": "pg1", "scheduled_at": "2020-01-01T00:00:00Z"}),
            &view,
            422,
            "in the past",
        ),
        (
            "/switchover",
            json!({"leader": "pg1", "scheduled_at": "2099-01-01T00:00:00"}),
            &view,
            400,
            "Timezone",
        ),
        ("/switchover", json!({"leader": "pg1", "scheduled_at": "soon"}), &view, 422, "ISO 8601"),
        ("/switchover", json!([]), &view, 400, "JSON map"),
        ("/switchover", json!({}), &view, 400, "JSON map"),
        ("/failover", json!({"leader": "pg1"}), &view, 400, "only to a specific candidate"),
        (
            "/failover",
            json!({"candidate": "pg2", "scheduled_at": "2099-01-01T00:00:00Z"}),
            &view,
            400,
            "scheduled",
        ),
    ] {
        let (status, said) = operation("POST", path, body.clone(), view).unwrap_err();
        assert_eq!(status, code, "{path} {body}: {said}");
        assert!(said.contains(text), "{path} {body}: {said}");
    }
}

#[test]
fn the_other_operations() {
    let view = primary();
    let patch = json!({"ttl": 5});
    assert!(matches!(operation("PATCH", "/config", patch.clone(), &view), Ok(Operation::PatchConfig(_))));
    assert!(matches!(operation("PUT", "/config", patch.clone(), &view), Ok(Operation::PutConfig(_))));
    let wiped = changed(primary(), |view| {
        let mut snapshot = snapshot(Some("pg1"));
        snapshot.config = None;
        view.snapshot = Some(Arc::new(snapshot));
    });
    assert_eq!(operation("PATCH", "/config", patch, &wiped).unwrap_err().0, 503);
    assert_eq!(ask("POST", "/reload", None, &view), Routed::Ask(Operation::Reload));
    assert!(matches!(ask("POST", "/restart", None, &view), Routed::Ask(Operation::Restart(_))));
    assert_eq!(ask("DELETE", "/restart", None, &view), Routed::Ask(Operation::CancelRestart));
    assert_eq!(ask("DELETE", "/switchover", None, &view), Routed::Ask(Operation::CancelSwitchover));
    assert_eq!(operation("POST", "/restart", json!({"rolle": 1}), &view).unwrap_err().0, 400);
    assert_eq!(
        operation("POST", "/restart", json!({"schedule": "2020-01-01T00:00:00Z"}), &view).unwrap_err().0,
        422
    );
    assert_eq!(status("POST", "/reinitialize", &view), 503);
    let reinitialize = Operation::Reinitialize { force: true, from_leader: false };
    assert_eq!(operation("POST", "/reinitialize", json!({"force": true}), &replica()), Ok(reinitialize));
    assert_eq!((status("PATCH", "/config", &view), status("POST", "/nonsense", &view)), (411, 404));
}

#[test]
fn metrics_have_the_names_that_dashboards_know() {
    let mut view = synchronous(replica(), "on");
    view.status.postmaster_start_time = Some("2026-11-20 17:01:02.5+00:00".to_owned());
    view.status.timeline = Some(3);
    view.counters.demotions.insert("lease", 2);
    let Routed::Reply(Reply { status: 200, content: Content::Metrics(text) }) =
        ask("GET", "/metrics", None, &view)
    else {
        panic!("no metrics");
    };
    let told = |line: &&str| !line.starts_with('#') && !line.starts_with("patroni_version");
    let samples: Vec<&str> = text.lines().filter(told).collect();
    insta::assert_snapshot!(samples.join("\n"), @r#"
patroni_postgres_running{scope="demo",name="pg2"} 1
patroni_postmaster_start_time{scope="demo",name="pg2"} 1795194062.5
patroni_primary{scope="demo",name="pg2"} 0
patroni_xlog_location{scope="demo",name="pg2"} 0
patroni_standby_leader{scope="demo",name="pg2"} 0
patroni_replica{scope="demo",name="pg2"} 1
patroni_sync_standby{scope="demo",name="pg2"} 1
patroni_quorum_standby{scope="demo",name="pg2"} 0
patroni_xlog_received_location{scope="demo",name="pg2"} 5000000
patroni_xlog_replayed_location{scope="demo",name="pg2"} 4000000
patroni_xlog_replayed_timestamp{scope="demo",name="pg2"} 0
patroni_xlog_paused{scope="demo",name="pg2"} 0
patroni_postgres_streaming{scope="demo",name="pg2"} 1
patroni_postgres_in_archive_recovery{scope="demo",name="pg2"} 0
patroni_postgres_server_version{scope="demo",name="pg2"} 0
patroni_cluster_unlocked{scope="demo",name="pg2"} 0
patroni_failsafe_mode_is_active{scope="demo",name="pg2"} 0
patroni_failsafe_mode_enabled{scope="demo",name="pg2"} 0
patroni_failsafe_member{scope="demo",name="pg2"} 0
patroni_postgres_timeline{scope="demo",name="pg2"} 3
patroni_dcs_last_seen{scope="demo",name="pg2"} 0
patroni_pending_restart{scope="demo",name="pg2"} 0
patroni_is_paused{scope="demo",name="pg2"} 0
patroni_postgres_state{scope="demo",name="pg2"} 5
patroni_failover_priority{scope="demo",name="pg2"} 1
pgfleet_loop_duration_seconds{scope="demo",name="pg2"} 0
pgfleet_loops_total{scope="demo",name="pg2"} 0
pgfleet_renew_latency_seconds{scope="demo",name="pg2"} 0
pgfleet_renewals_total{scope="demo",name="pg2"} 0
pgfleet_renewals_failed_total{scope="demo",name="pg2"} 0
pgfleet_dcs_errors_total{scope="demo",name="pg2"} 0
pgfleet_promotions_total{scope="demo",name="pg2"} 0
pgfleet_demotions_total{scope="demo",name="pg2",reason="lease"} 2
"#);
    for line in &samples {
        let name = line.split('{').next().unwrap();
        assert!(text.contains(&format!("# TYPE {name} ")), "{name} has a type");
    }
}

#[test]
fn a_scheduled_switchover_is_listed() {
    let view = changed(primary(), |view| {
        let mut snapshot = snapshot(Some("pg1"));
        let asked = FailoverDocument {
            leader: Some("pg1".to_owned()),
            scheduled_at: Some("2099-01-01T00:00:00+00:00".to_owned()),
            ..FailoverDocument::default()
        };
        snapshot.failover = Some(Versioned::new(asked, 9));
        view.snapshot = Some(Arc::new(snapshot));
    });
    let (_, cluster) = json_of(ask("GET", "/cluster", None, &view));
    assert_eq!(cluster["scheduled_switchover"], json!({"at": "2099-01-01T00:00:00+00:00", "from": "pg1"}));
}

#[test]
fn a_drained_member_gets_neither_readers_nor_the_key() {
    let drained = changed(replica(), |view| {
        let mut snapshot = snapshot(Some("pg1"));
        let mark = MaintenanceMark { drain: true, ..MaintenanceMark::default() };
        snapshot.maintenance.insert("pg2".parse().unwrap(), mark);
        view.snapshot = Some(Arc::new(snapshot));
    });
    assert_eq!(healthy(&drained), "/health");
    let body = json!({"leader": "pg1", "candidate": "pg2"});
    let (code, said) = operation("POST", "/switchover", body, &drained).unwrap_err();
    assert!(code == 412 && said.contains("`pg2` is being worked on"), "{code} {said}");
}
