//! What must be true before a step, and after it. Pure.

use super::order::Step;
use crate::{
    cluster::status::{Member, Status, is_leader},
    contract::{NodeStatus, PendingChange, PostgresState, Role},
    model::Lsn,
};
use indexmap::IndexMap;

/// A standby that lacks more than this is not caught up.
pub const CAUGHT_UP_BYTES: u64 = 16 * 1024 * 1024;

/// Whether a member runs, and streams from the leader on its timeline.
pub fn is_well(member: &Member, leader: Option<&Member>) -> bool {
    ailment(member, leader).is_none()
}

/// What keeps a member from being in order.
fn ailment(member: &Member, leader: Option<&Member>) -> Option<String> {
    let name = &member.name;
    let state = member.state.as_str();
    if is_leader(&member.role) {
        let runs = matches!(state, "running" | "streaming" | "in archive recovery");
        return (!runs).then(|| format!("{name}, the leader, is {state}"));
    }
    // Standbys of a standby cluster may read an archive, as its leader does.
    let follows = state == "streaming"
        || state == "in archive recovery" && leader.is_some_and(|leader| leader.role == "standby_leader");
    if !follows {
        return Some(format!("{name} does not stream: it is {state}"));
    }
    if let (Some(own), Some(leaders)) = (member.timeline, leader.and_then(|leader| leader.timeline))
        && own != leaders
    {
        return Some(format!("{name} is on timeline {own}, the leader on {leaders}"));
    }
    match member.lag_bytes {
        Some(lag) if lag > CAUGHT_UP_BYTES => Some(format!("{name} lacks {} MiB", lag / (1024 * 1024))),
        _ => None,
    }
}

/// What stands in the way of a step: the cluster has one leader, the others stream and have caught up, the
/// store is whole. A standby that is to be restarted need not be well itself: that may be the cure.
pub fn before(status: &Status, step: &Step) -> Vec<String> {
    let itself = match step {
        Step::Standby { member } | Step::StandbyAfterPrimary { member } => Some(member.as_str()),
        // The switchover may still be under way for it: what it is then is seen to by the step.
        Step::FormerPrimary { member } => Some(member.as_str()),
        Step::Primary { .. } | Step::Switchover { .. } => None,
    };
    not_ready(status, itself)
}

/// What of a cluster is not in order; `itself` is a host that need not be.
pub fn not_ready(status: &Status, itself: Option<&str>) -> Vec<String> {
    let mut missing = Vec::new();
    let leader = status.leader();
    if leader.is_none() {
        missing.push("no single member leads".to_owned());
    }
    for member in status.members.iter().filter(|member| Some(member.name.as_str()) != itself) {
        missing.extend(ailment(member, leader));
    }
    let kind = status.dcs.kind;
    let away = status.dcs.members.iter().filter(|member| !member.healthy);
    missing.extend(away.map(|member| format!("{kind} on {} is not healthy", member.name)));
    missing
}

/// Whether a standby has replayed up to a position.
pub fn replayed(name: &str, node: Option<&NodeStatus>, up_to: Option<Lsn>) -> Option<String> {
    let reached = node.and_then(|node| node.xlog.as_ref()).and_then(|xlog| xlog.replayed_location);
    let up_to = up_to?;
    match reached {
        Some(reached) if reached >= up_to => None,
        Some(reached) => Some(format!("{name} to replay {} bytes", up_to.bytes_since(reached))),
        None => Some(format!("{name} to say how far it has replayed")),
    }
}

/// What a member that was restarted still lacks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unfinished {
    /// It is on its way.
    Coming(String),
    /// It is back, and says that it needs a restart all the same.
    StillPending(String),
}

/// Judges a member after its restart; `started` is when its server had been started before it.
pub fn after(step: &Step, started: Option<&str>, node: Result<&NodeStatus, &str>) -> Option<Unfinished> {
    let name = step.member();
    let coming = |text: String| Some(Unfinished::Coming(format!("{name} {text}")));
    let node = match node {
        Ok(node) => node,
        Err(why) => return coming(format!("to answer: {why}")),
    };
    if node.state != Some(PostgresState::Running) {
        return coming(format!("to run; it is {}", node.state.map_or("silent", PostgresState::as_str)));
    }
    match node.postmaster_start_time.as_deref() {
        None => return coming("to answer queries".to_owned()),
        now if now == started => return coming("to restart".to_owned()),
        Some(_) => {}
    }
    let leads = matches!(node.role, Role::Primary | Role::StandbyLeader);
    let follows = matches!(node.replication_state.as_deref(), Some("streaming" | "in archive recovery"));
    match step {
        Step::Primary { .. } if !leads => return coming(format!("to lead again; it is {}", node.role)),
        Step::Primary { .. } => {}
        _ if !leads && !follows => return coming("to stream".to_owned()),
        _ => {}
    }
    node.pending_restart.then(|| Unfinished::StillPending(reasons(&node.pending_restart_reason)))
}

/// `max_connections (100 -> 200)`, for each setting that waits.
pub fn reasons(pending: &IndexMap<String, PendingChange>) -> String {
    let value = |value: &Option<String>| value.clone().unwrap_or_else(|| "unset".to_owned());
    let one = |(name, change): (&String, &PendingChange)| {
        format!("{name} ({} -> {})", value(&change.old_value), value(&change.new_value))
    };
    pending.iter().map(one).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::{Dcs, DcsMember};
    use serde_json::{Value, json};

    fn status() -> Status {
        let member = |name: &str, role: &str, state: &str| Member {
            name: name.to_owned(),
            host: String::new(),
            port: 5432,
            role: role.to_owned(),
            state: state.to_owned(),
            timeline: Some(2),
            lag_bytes: (role != "leader").then_some(0),
            pending_restart: false,
            pending_restart_reason: IndexMap::new(),
        };
        Status {
            cluster: "demo".to_owned(),
            healthy: true,
            problems: Vec::new(),
            pause: false,
            scheduled_switchover: None,
            members: vec![
                member("a", "leader", "running"),
                member("b", "sync_standby", "streaming"),
                member("c", "replica", "streaming"),
            ],
            dcs: Dcs {
                kind: "etcd",
                members: vec![DcsMember { name: "e1".to_owned(), healthy: true, leader: true }],
            },
            haproxy: Vec::new(),
            vip: None,
        }
    }

    fn missing(step: &Step, change: impl FnOnce(&mut Status)) -> String {
        let mut status = status();
        change(&mut status);
        before(&status, step).join("; ")
    }

    #[test]
    fn a_step_waits_for_everybody_but_the_standby_that_it_is_about() {
        let b = Step::Standby { member: "b".to_owned() };
        let switch = Step::Switchover { from: "a".to_owned(), to: "b".to_owned() };
        let in_place = Step::Primary { member: "a".to_owned() };
        for step in [&b, &switch, &in_place] {
            assert_eq!(missing(step, |_| {}), "");
            assert_eq!(missing(step, |s| s.dcs.members[0].healthy = false), "etcd on e1 is not healthy");
            assert_eq!(
                missing(step, |s| s.members[0].state = "stopping".to_owned()),
                "a, the leader, is stopping"
            );
            assert_eq!(
                missing(step, |s| s.members[2].state = "running".to_owned()),
                "c does not stream: it is running"
            );
            assert_eq!(
                missing(step, |s| s.members[2].timeline = Some(1)),
                "c is on timeline 1, the leader on 2"
            );
            assert_eq!(missing(step, |s| s.members[2].lag_bytes = Some(17 << 20)), "c lacks 17 MiB");
            let nobody = missing(step, |s| s.members[0].role = "replica".to_owned());
            assert!(nobody.starts_with("no single member leads"), "{nobody}");
        }
        let broken = |s: &mut Status| s.members[1].state = "start failed".to_owned();
        assert_eq!(missing(&b, broken), "");
        assert_eq!(missing(&switch, broken), "b does not stream: it is start failed");
        assert_eq!(missing(&in_place, broken), "b does not stream: it is start failed");
    }

    #[test]
    fn standbys_of_a_standby_cluster_may_read_an_archive() {
        let b = Step::Standby { member: "b".to_owned() };
        let archive = |s: &mut Status| s.members[2].state = "in archive recovery".to_owned();
        assert_eq!(missing(&b, archive), "c does not stream: it is in archive recovery");
        let both = |s: &mut Status| {
            archive(s);
            s.members[0].role = "standby_leader".to_owned();
        };
        assert_eq!(missing(&b, both), "");
    }

    #[test]
    fn a_restart_is_over_when_the_member_is_back_with_what_it_waited_for() {
        let standby = Step::Standby { member: "b".to_owned() };
        let primary = Step::Primary { member: "b".to_owned() };
        let judge = |step: &Step, document: Value| {
            let node: NodeStatus = serde_json::from_value(document).unwrap();
            match after(step, Some("10:00"), Ok(&node)) {
                None => "over".to_owned(),
                Some(Unfinished::Coming(text)) => text,
                Some(Unfinished::StillPending(text)) => format!("pending: {text}"),
            }
        };
        let back = json!({"state": "running", "role": "replica", "postmaster_start_time": "10:01",
            "replication_state": "streaming"});
        let but = |key: &str, value: Value| {
            let mut back = back.clone();
            back[key] = value;
            back
        };
        assert_eq!(judge(&standby, back.clone()), "over");
        assert_eq!(judge(&standby, but("postmaster_start_time", json!("10:00"))), "b to restart");
        assert_eq!(judge(&standby, but("postmaster_start_time", Value::Null)), "b to answer queries");
        assert_eq!(judge(&standby, but("state", json!("starting"))), "b to run; it is starting");
        assert_eq!(judge(&standby, but("replication_state", Value::Null)), "b to stream");
        assert_eq!(judge(&primary, back.clone()), "b to lead again; it is replica");
        assert_eq!(judge(&primary, but("role", json!("primary"))), "over");
        let pending = json!({"max_connections": {"old_value": "100", "new_value": "200"}});
        let mut still = but("pending_restart", json!(true));
        still["pending_restart_reason"] = pending;
        assert_eq!(judge(&standby, still), "pending: max_connections (100 -> 200)");
        assert_eq!(
            after(&standby, None, Err("connection refused")),
            Some(Unfinished::Coming("b to answer: connection refused".to_owned()))
        );
    }

    #[test]
    fn replay_is_compared_by_position() {
        let node = |at: u64| {
            let xlog = json!({"replayed_location": at});
            serde_json::from_value::<NodeStatus>(json!({"xlog": xlog})).unwrap()
        };
        assert_eq!(replayed("b", Some(&node(10)), Some(Lsn(10))), None);
        assert_eq!(replayed("b", Some(&node(4)), Some(Lsn(10))).as_deref(), Some("b to replay 6 bytes"));
        assert_eq!(replayed("b", None, Some(Lsn(10))).as_deref(), Some("b to say how far it has replayed"));
        assert_eq!(replayed("b", Some(&node(4)), None), None);
    }
}
