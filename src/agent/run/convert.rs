//! From the documents and facts of the outside to the words of the core. Pure.

use crate::{
    agent::{
        config::Effective,
        core::{
            Answer, Cluster, Control, ControlState, Data, FailoverKey, Leader, Member, Millis, Outcome,
            Process, Running, Server, Settings, Standby, SyncKey, SyncMode, SyncNames,
        },
        postgres::{self, ClusterState, ControlData, DataDir, Divergence, Facts},
    },
    contract::{DynamicConfig, NodeStatus, PostgresState, Role, Snapshot, SynchronousMode},
    model::{Lsn, MemberName, Timeline},
};

/// The dynamic configuration, as far as decisions depend on it.
pub fn settings(dynamic: &DynamicConfig, effective: &Effective, may_bootstrap: bool) -> Settings {
    let millis = |seconds: u64| seconds.saturating_mul(1_000);
    Settings {
        ttl: millis(dynamic.ttl),
        loop_wait: millis(dynamic.loop_wait),
        retry_timeout: millis(dynamic.retry_timeout),
        maximum_lag_on_failover: dynamic.maximum_lag_on_failover_bytes,
        primary_start_timeout: millis(dynamic.primary_start_timeout),
        sync: match dynamic.synchronous_mode {
            SynchronousMode::Off => SyncMode::Off,
            SynchronousMode::On => SyncMode::On,
            SynchronousMode::Quorum => SyncMode::Quorum,
        },
        sync_strict: dynamic.synchronous_mode_strict,
        sync_node_count: dynamic.synchronous_node_count as usize,
        paused: dynamic.pause,
        use_pg_rewind: effective.use_pg_rewind,
        remove_data_on_rewind_failure: effective.remove_data_directory_on_rewind_failure,
        remove_data_on_divergence: effective.remove_data_directory_on_diverged_timelines,
        may_bootstrap,
    }
}

/// The store's contents. `now` is in seconds since the epoch, for what is scheduled.
pub fn cluster(snapshot: &Snapshot, now: i64) -> Cluster {
    let revision = |revision: crate::contract::Revision| u64::try_from(revision.0).unwrap_or_default();
    let sync = snapshot.sync.as_ref().and_then(|sync| {
        Some(SyncKey {
            leader: sync.value.leader.as_ref()?.parse().ok()?,
            voters: sync.value.standbys().filter_map(|name| name.parse().ok()).collect(),
            quorum: sync.value.quorum as usize,
            revision: revision(sync.revision),
        })
    });
    let failover = snapshot.failover.as_ref().map(|failover| FailoverKey {
        leader: failover.value.leader.as_ref().and_then(|name| name.parse().ok()),
        candidate: failover.value.member.as_ref().and_then(|name| name.parse().ok()),
        due: failover.value.scheduled_at.as_ref().is_none_or(|at| is_past(at, now)),
        revision: revision(failover.revision),
    });
    Cluster {
        revision: revision(snapshot.revision),
        initialize: snapshot.initialize.as_ref().map(|initialize| initialize.value.clone()),
        has_config: snapshot.config.is_some(),
        leader: snapshot.leader.as_ref().map(|leader| Leader {
            name: leader.name.clone(),
            term: u64::try_from(leader.term.0).unwrap_or_default(),
        }),
        members: snapshot
            .members
            .iter()
            .map(|(name, document)| Member {
                name: name.clone(),
                running: document.state == Some(PostgresState::Running),
                primary: document.role == Some(Role::Primary),
                timeline: document.timeline,
                nofailover: document.tags.nofailover(),
                nosync: document.tags.nosync(),
                clonefrom: document.tags.clonefrom(),
            })
            .collect(),
        optime: snapshot.status.as_ref().map(|status| status.value.optime),
        sync,
        failover,
        history: snapshot
            .history
            .iter()
            .flat_map(|history| history.value.0.iter().map(|entry| (entry.timeline, entry.lsn)))
            .collect(),
        drained: snapshot.maintenance.keys().filter(|name| snapshot.is_drained(name)).cloned().collect(),
        suspended: snapshot.maintenance.values().any(|mark| mark.nofailover),
    }
}

/// What cannot be read never comes.
fn is_past(at: &str, now: i64) -> bool {
    at.parse::<jiff::Timestamp>().is_ok_and(|at| at.as_second() <= now)
}

/// What is remembered to make sense of a server that doesn't answer.
#[derive(Clone, Debug, Default)]
pub struct ServerMemory {
    pub primary: bool,
    pub unresponsive_since: Option<Millis>,
    /// Where its shutdown checkpoint is, once it has written that and as long as its end is awaited.
    pub closing: Option<Lsn>,
    /// How far it was last seen to have written, as a primary on which timeline.
    pub wrote: Option<(Timeline, Lsn)>,
    /// Whom it was last told to stream from.
    pub following: Option<MemberName>,
}

/// The local PostgreSQL. `standby_signal`: the data directory says that it starts as a standby.
pub fn server(
    facts: &Facts,
    snapshot: Option<&Snapshot>,
    standby_signal: bool,
    manages_sync: bool,
    memory: &mut ServerMemory,
    now: Millis,
) -> Server {
    let data = match (&facts.data, &facts.control) {
        (DataDir::Missing | DataDir::Empty, _) => Data::Empty,
        (DataDir::Initialised { system_identifier, .. }, Some(found)) => {
            let mut control = control(found);
            // The copy of a running primary says that it is in production, and has not crashed.
            if control.state == ControlState::InProduction && facts.process == postgres::Process::Stopped {
                control.state = ControlState::Recovery;
            }
            Data::Initialised { system_identifier: system_identifier.clone(), control }
        }
        _ => Data::Unreadable,
    };
    let process = match (facts.process, &facts.session) {
        (postgres::Process::Stopped | postgres::Process::Crashed, _) => Process::Stopped,
        (postgres::Process::Starting, _) => Process::Starting { primary: !standby_signal },
        (postgres::Process::Running, Some(session)) => {
            Process::Running(running(session, snapshot, manages_sync, memory))
        }
        (_, None) if memory.closing.is_some() => {
            Process::Closing { checkpoint: memory.closing.unwrap_or_default() }
        }
        _ => {
            let since = *memory.unresponsive_since.get_or_insert(now);
            Process::Unresponsive { primary: memory.primary || !standby_signal, since }
        }
    };
    if !matches!(process, Process::Unresponsive { .. }) {
        memory.unresponsive_since = None;
    }
    match &process {
        Process::Running(running) => {
            memory.primary = !running.in_recovery;
            if memory.primary {
                memory.wrote = Some((running.timeline, running.lsn));
            }
        }
        Process::Stopped => memory.primary = false,
        _ => {}
    }
    Server { data, process }
}

pub fn control(found: &ControlData) -> Control {
    let state = match found.state {
        ClusterState::ShutDown => ControlState::ShutDown,
        state if state.was_in_recovery() => ControlState::Recovery,
        _ => ControlState::InProduction,
    };
    Control { state, timeline: found.timeline, checkpoint: found.checkpoint }
}

fn running(
    session: &postgres::Session,
    snapshot: Option<&Snapshot>,
    manages_sync: bool,
    memory: &ServerMemory,
) -> Running {
    let receiver = session.receiver.as_ref();
    let sender = receiver.and_then(|receiver| Some((receiver.sender_host.clone()?, receiver.sender_port?)));
    let seen = sender.and_then(|address| {
        let members = &snapshot?.members;
        members
            .iter()
            .find(|(_, member)| member.postgres_address() == Some(address.clone()))
            .map(|(name, _)| name)
    });
    let names = match manages_sync {
        true => parse_names(&session.synchronous_standby_names),
        false => SyncNames::default(),
    };
    Running {
        in_recovery: session.in_recovery,
        timeline: session.timeline,
        lsn: session.position(),
        upstream: seen.cloned().or_else(|| memory.following.clone()).filter(|_| session.in_recovery),
        streaming: receiver.is_some_and(|receiver| receiver.status == "streaming"),
        names,
        standbys: session
            .senders
            .iter()
            .filter_map(|sender| {
                Some(Standby {
                    name: sender.application_name.parse().ok()?,
                    streaming: sender.state == "streaming",
                    flushed: sender.flushed.unwrap_or_default(),
                })
            })
            .collect(),
        pending_restart: !session.pending_restart.is_empty(),
    }
}

/// What a member answered to `GET /patroni`. Who has read the store since `known_from`, in seconds since
/// the epoch, knows whether the cluster is paused.
pub fn answer(name: &MemberName, status: &NodeStatus, known_from: u64) -> Answer {
    let xlog = status.xlog.clone().unwrap_or_default();
    let standby = xlog.received_location.max(xlog.replayed_location);
    Answer {
        name: name.clone(),
        running: status.state == Some(PostgresState::Running),
        in_recovery: xlog.location.is_none(),
        timeline: status.timeline.unwrap_or_default(),
        lsn: xlog.location.or(standby).unwrap_or(Lsn(0)),
        nofailover: status.tags.nofailover(),
        failover_priority: status.tags.failover_priority(),
        unpaused: !status.pause && status.dcs_last_seen.is_some_and(|seen| seen >= known_from),
    }
}

/// How this node's history relates to the leader's; what is not understood is not known.
pub fn outcome(divergence: Divergence) -> Outcome {
    match divergence {
        Divergence::InSync | Divergence::Behind => Outcome::Prefix,
        Divergence::Diverged { .. } => Outcome::Diverged,
        Divergence::Unknown => Outcome::Recover,
        Divergence::Ahead { .. } | Divergence::OtherCluster => Outcome::Unknown,
    }
}

/// `synchronous_standby_names` as PostgreSQL reads it; `None` without names.
pub fn names_text(names: &SyncNames) -> Option<String> {
    if names.names.is_empty() {
        return None;
    }
    let quoted: Vec<String> =
        names.names.iter().map(|name| format!("\"{}\"", name.replace('"', "\"\""))).collect();
    let method = if names.any { "ANY" } else { "FIRST" };
    Some(format!("{method} {} ({})", names.count.max(1), quoted.join(",")))
}

/// Reads what [`names_text`] or another agent wrote. What is not understood waits for one of nobody that
/// is known, so that it is replaced and counts for nothing meanwhile.
pub fn parse_names(text: &str) -> SyncNames {
    let text = text.trim();
    if text.is_empty() {
        return SyncNames::default();
    }
    let (any, count, list) = match text.split_once('(') {
        Some((head, rest)) => {
            let words: Vec<&str> = head.split_whitespace().collect();
            let any = words.first().is_some_and(|word| word.eq_ignore_ascii_case("any"));
            let count = words.last().and_then(|word| word.parse().ok()).unwrap_or(1);
            (any, count, rest.trim_end_matches(')'))
        }
        None => (false, 1, text),
    };
    let names = list
        .split(',')
        .map(|name| name.trim().trim_matches('"').replace("\"\"", "\""))
        .filter(|name| !name.is_empty())
        .collect();
    SyncNames { any, count, names }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_back_the_names_that_it_writes() {
        for names in [
            SyncNames::default(),
            SyncNames { any: true, count: 2, names: ["pg-1".into(), "pg.2".into(), "PG3".into()].into() },
            SyncNames { any: false, count: 1, names: ["pg\"1".into()].into() },
        ] {
            assert_eq!(parse_names(&names_text(&names).unwrap_or_default()), names);
        }
        assert_eq!(parse_names("pg1").count, 1);
        assert_eq!(parse_names("2 (pg1,\"pg2\")").names.len(), 2);
    }

    #[test]
    fn a_schedule_is_due_when_its_time_has_come() {
        assert!(is_past("2026-11-20T18:00:00+01:00", 1_795_194_000));
        assert!(!is_past("2026-11-20T18:00:01+01:00", 1_795_194_000));
        assert!(!is_past("soon", i64::MAX));
    }
}
