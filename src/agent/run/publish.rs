//! What this node says of itself: its member key, and the view that the REST API answers from. Pure.

use crate::{
    agent::{
        clock::BootTime,
        config::Config,
        core::{Action, Data, Observation, Process, StartAs, fencing, holds},
        postgres::{Facts, Session},
    },
    contract::{
        MemberDocument, NodeStatus, PendingChange, PostgresState, ReplicationRow, Role, StatusDocument, Xlog,
        shown_restart,
    },
    model::Lsn,
};
use indexmap::IndexMap;
use serde_json::Value;

/// What is told besides the observation.
pub struct Account<'a> {
    pub config: &'a Config,
    pub seen: &'a Observation,
    pub facts: Option<&'a Facts>,
    pub pending: &'a IndexMap<String, PendingChange>,
    /// `Some(false)` from a promotion until its checkpoint is done.
    pub checkpointed: Option<bool>,
    pub scheduled_restart: Option<Value>,
}

impl Account<'_> {
    fn session(&self) -> Option<&Session> {
        self.facts?.session.as_ref().filter(|_| matches!(self.seen.server.process, Process::Running(_)))
    }

    pub fn state(&self) -> PostgresState {
        match &self.seen.busy.server {
            Some(Action::Initdb) => return PostgresState::Initdb,
            Some(Action::Clone(_)) => return PostgresState::CreatingReplica,
            Some(Action::Stop(_)) => return PostgresState::Stopping,
            Some(Action::Restart(_)) => return PostgresState::Restarting,
            Some(Action::Start(_)) => return PostgresState::Starting,
            _ => {}
        }
        match &self.seen.server.process {
            Process::Running(_) => PostgresState::Running,
            Process::Starting { .. } => PostgresState::Starting,
            Process::Unresponsive { .. } | Process::Closing { .. } => PostgresState::Stopping,
            Process::Stopped => match self.facts.map(|facts| facts.process) {
                // In a paused cluster nobody starts it again, however it went down.
                Some(crate::agent::postgres::Process::Crashed) if !self.seen.settings.paused => {
                    PostgresState::Crashed
                }
                _ => PostgresState::Stopped,
            },
        }
    }

    pub fn role(&self) -> Role {
        match (&self.seen.server.process, &self.seen.busy.server) {
            (Process::Running(server), _) if !server.in_recovery => Role::Primary,
            (Process::Starting { primary: true }, _)
            | (_, Some(Action::Start(StartAs::Primary(_)) | Action::Restart(StartAs::Primary(_)))) => {
                Role::Primary
            }
            _ if matches!(self.seen.server.data, Data::Empty | Data::Unreadable) => Role::Uninitialized,
            _ => Role::Replica,
        }
    }

    fn replication_state(&self) -> Option<String> {
        let session = self.session().filter(|session| session.in_recovery)?;
        let streaming = session.receiver.as_ref().is_some_and(|receiver| receiver.status == "streaming");
        Some(if streaming { "streaming" } else { "in archive recovery" }.to_owned())
    }

    fn pending_restart(&self) -> bool {
        !self.pending.is_empty() || self.session().is_some_and(|session| !session.pending_restart.is_empty())
    }

    /// The member key.
    pub fn member(&self) -> MemberDocument {
        let session = self.session();
        let standby = session.filter(|session| session.in_recovery);
        MemberDocument {
            conn_url: self.config.conn_url(),
            api_url: self.config.api_url(),
            state: Some(self.state()),
            role: Some(self.role()),
            version: Some(env!("CARGO_PKG_VERSION").to_owned()),
            xlog_location: session.map(Session::position),
            receive_lsn: standby.and_then(|session| session.received),
            replay_lsn: standby.and_then(|session| session.replayed),
            replication_state: self.replication_state(),
            timeline: session.map(|session| session.timeline),
            tags: self.config.tags.clone(),
            pending_restart: self.pending_restart(),
            pending_restart_reason: self.pending.clone(),
            scheduled_restart: self.scheduled_restart.clone(),
            pause: self.seen.settings.paused,
            checkpoint_after_promote: self.checkpointed.filter(|done| !done),
            ..MemberDocument::default()
        }
    }

    /// The key `status`, as a leader writes it.
    pub fn status_key(&self) -> StatusDocument {
        StatusDocument {
            optime: self.session().map(Session::position).unwrap_or(Lsn(0)),
            ..Default::default()
        }
    }

    /// The body of `GET /patroni`.
    pub fn status(&self) -> NodeStatus {
        let session = self.session();
        let identifier = match &self.seen.server.data {
            Data::Initialised { system_identifier, .. } => Some(system_identifier.clone()),
            _ => None,
        };
        NodeStatus {
            state: Some(self.state()),
            postmaster_start_time: session.map(|session| session.postmaster_started_at.clone()),
            role: self.role(),
            server_version: session.map(|session| session.server_version),
            xlog: session.map(xlog),
            timeline: session.map(|session| session.timeline),
            replication: session.map(rows).unwrap_or_default(),
            replication_state: self.replication_state(),
            tags: self.config.tags.clone(),
            database_system_identifier: identifier,
            pending_restart: self.pending_restart(),
            pending_restart_reason: self.pending.clone(),
            scheduled_restart: self.scheduled_restart.as_ref().map(shown_restart),
            ..NodeStatus::default()
        }
    }

    /// Until when this node is the leader that clients may write to. A key alone does not make it one.
    pub fn leader_until(&self) -> Option<BootTime> {
        let primary = matches!(&self.seen.server.process, Process::Running(server) if !server.in_recovery);
        let lease = self.seen.lease.filter(|_| primary && holds(self.seen))?;
        Some(BootTime(fencing::stop_begins(&lease)))
    }
}

fn xlog(session: &Session) -> Xlog {
    if session.in_recovery {
        Xlog {
            received_location: session.received,
            replayed_location: session.replayed,
            replayed_timestamp: session.replayed_at.clone(),
            paused: Some(session.replay_paused),
            ..Xlog::default()
        }
    } else {
        Xlog { location: session.written, ..Xlog::default() }
    }
}

fn rows(session: &Session) -> Vec<ReplicationRow> {
    session
        .senders
        .iter()
        .map(|sender| ReplicationRow {
            usename: sender.usename.clone(),
            application_name: sender.application_name.clone(),
            client_addr: sender.client_addr.map(|address| address.to_string()),
            state: sender.state.clone(),
            sync_state: sender.sync_state.clone(),
            sync_priority: sender.sync_priority,
        })
        .collect()
}
