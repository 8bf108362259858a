//! The health checks: which node answers 200 to which path.

use super::Now;
use crate::{
    agent::view::View,
    contract::{NodeStatus, PostgresState, Role, parse_size_bytes},
    model::Lsn,
};
use serde_json::Value;
use std::time::Duration;

/// What all the checks are made of.
struct Facts<'a> {
    status: &'a NodeStatus,
    leader: bool,
    primary: bool,
    standby_leader: bool,
    replica: bool,
    /// The store was read recently enough to go by it.
    store_is_known: bool,
}

/// Whether a `GET`, `HEAD` or `OPTIONS` of this path is answered by 200; otherwise it is 503. The path is
/// searched for words, in this order, so that `/foo-primary` works as it does elsewhere.
pub fn is_healthy(
    path: &str,
    query: &[(String, String)],
    view: &View,
    status: &NodeStatus,
    now: Now,
) -> bool {
    let facts = facts(query, view, status, now);
    let path = if path == "/" { "/primary" } else { path };
    let has = |word: &str| path.contains(word);
    let leads = facts.primary || facts.standby_leader;

    // Who leads is told regardless of tags.
    if has("standby_leader") || has("standby-leader") {
        return facts.standby_leader;
    }
    if has("leader") {
        return facts.leader;
    }
    if has("master") || has("primary") || has("read-write") {
        return facts.primary;
    }
    let healthy = if has("replica") {
        facts.replica
    } else if has("read-only") && !has("sync") && !has("quorum") {
        leads || facts.replica
    } else if has("health") {
        facts.status.state == Some(PostgresState::Running)
    } else if facts.store_is_known {
        let (sync, quorum) = (facts.status.sync_standby, facts.status.quorum_standby);
        match path {
            "/sync" | "/synchronous" => sync && facts.replica,
            "/quorum" => quorum && facts.replica,
            "/async" | "/asynchronous" => !sync && !quorum && facts.replica,
            "/read-only-quorum" => leads || quorum && facts.replica,
            "/read-only-sync" | "/read-only-synchronous" => leads || sync && facts.replica,
            _ => false,
        }
    } else {
        false
    };
    healthy && tags_match(query, status)
}

fn facts<'a>(query: &[(String, String)], view: &View, status: &'a NodeStatus, now: Now) -> Facts<'a> {
    let running = status.state == Some(PostgresState::Running);
    let of_standby_cluster = view.config.standby_cluster.is_some();
    let follows = matches!(status.role, Role::Replica | Role::StandbyLeader);
    let (leader, primary, standby_leader) = if !view.knows_store() && view.config.pause {
        // Nobody changes roles while the cluster is paused: what the server says still holds.
        let primary = status.role == Role::Primary;
        let standby_leader = status.role == Role::StandbyLeader;
        (primary || standby_leader, primary, standby_leader)
    } else if view.is_leader(now.boot) {
        // The key alone is not enough for /primary: until the server has left recovery, and while it is
        // down, a write would only be refused.
        let writable = status.role == Role::Primary && running;
        (true, writable && !of_standby_cluster, of_standby_cluster && follows)
    } else {
        (false, false, false)
    };
    let replica = status.role == Role::Replica
        && running
        && !(leader && of_standby_cluster)
        && !status.tags.noloadbalance()
        && view.snapshot.as_ref().is_none_or(|snapshot| !snapshot.is_drained(&view.name))
        && !is_lagging(query, view, status)
        && parameter(query, "replication_state")
            .is_none_or(|wanted| status.replication_state.as_deref() == Some(wanted));
    Facts { status, leader, primary, standby_leader, replica, store_is_known: view.knows_store() }
}

/// Where the leader's WAL ends, as far as this node has heard.
fn end_of_wal(view: &View) -> Lsn {
    let status = view.snapshot.as_ref().and_then(|snapshot| snapshot.status.as_ref());
    status.map(|status| status.value.optime).max(view.latest_end_lsn).unwrap_or_default()
}

fn is_lagging(query: &[(String, String)], view: &View, status: &NodeStatus) -> bool {
    let Some(limit) = parameter(query, "lag").and_then(parse_size_bytes) else { return false };
    let replayed = status.xlog.as_ref().and_then(|xlog| xlog.replayed_location).unwrap_or_default();
    end_of_wal(view).bytes_since(replayed) > limit
}

/// Whether every `tag_NAME=value` of the query is a tag of this node. Booleans and numbers compare as text.
fn tags_match(query: &[(String, String)], status: &NodeStatus) -> bool {
    let mut wanted = query.iter().filter_map(|(key, value)| Some((key.strip_prefix("tag_")?, value)));
    wanted.all(|(name, value)| match status.tags.0.get(name) {
        Some(Value::String(tag)) => tag == value,
        Some(Value::Null) | None => false,
        Some(tag) => tag.to_string().to_lowercase() == *value,
    })
}

/// `GET /liveness`: the loop has gone round recently enough.
pub fn is_alive(view: &View, now: Now) -> bool {
    let ttl = Duration::from_secs(view.config.ttl);
    let patience = if view.status.role == Role::Primary { ttl } else { ttl * 2 };
    let expected = view.loop_at.after(Duration::from_secs(view.config.loop_wait));
    view.config.pause || expected.after(patience) > now.boot
}

/// `GET /readiness`: it leads, or it streams and is not far behind.
pub fn is_ready(query: &[(String, String)], view: &View, status: &NodeStatus, now: Now) -> bool {
    if view.is_leader(now.boot) {
        return true;
    }
    let streams = status.state == Some(PostgresState::Running)
        && status.replication_state.as_deref() == Some("streaming");
    if !streams || !view.knows_store() && view.latest_end_lsn.is_none() && !status.failsafe_mode_is_active {
        return false;
    }
    let xlog = status.xlog.clone().unwrap_or_default();
    let reached = match parameter(query, "mode") {
        Some("write") => xlog.received_location,
        _ => xlog.replayed_location,
    };
    let limit = parameter(query, "lag")
        .and_then(parse_size_bytes)
        .unwrap_or(view.config.maximum_lag_on_failover_bytes);
    end_of_wal(view).bytes_since(reached.unwrap_or_default()) <= limit
}

/// The first value of a query parameter.
pub fn parameter<'a>(query: &'a [(String, String)], name: &str) -> Option<&'a str> {
    query
        .iter()
        .find(|(key, _)| key == name)
        .map(|(_, value)| value.as_str())
        .filter(|value| !value.is_empty())
}
