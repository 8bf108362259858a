//! Restarts that an operator asks for: now or at a time, under conditions.

use super::{Runtime, unix_now};
use crate::{
    agent::{
        api::Outcome,
        core::{Process, Request, holds},
        dcs::Store,
    },
    contract::{RestartFilter, RestartRequest},
};
use serde_json::Value;
use std::time::Duration;
use tokio::sync::oneshot;

/// A restart that somebody waits for.
pub struct Restarting {
    /// Nobody waits for one that was scheduled.
    reply: Option<oneshot::Sender<Outcome>>,
    pub timeout: Option<Duration>,
}

/// A restart that waits for its time. Forgotten with the agent.
pub struct Scheduled {
    at: i64,
    request: RestartRequest,
    /// When the server was started that is meant: one that was restarted since is left alone.
    postmaster_start_time: Option<String>,
}

impl Scheduled {
    /// As the member key has it.
    pub fn document(&self) -> Value {
        let mut document = serde_json::to_value(&self.request).unwrap_or_default();
        if let (Some(map), Some(started)) = (document.as_object_mut(), &self.postmaster_start_time) {
            map.insert("postmaster_start_time".to_owned(), started.clone().into());
        }
        document
    }
}

impl<S: Store> Runtime<S> {
    pub(super) fn restart(&mut self, request: RestartRequest, reply: oneshot::Sender<Outcome>) {
        let outcome = match &request.schedule {
            Some(_) if self.scheduled_restart.is_some() => {
                Outcome::Conflict("Another restart is already scheduled".to_owned())
            }
            Some(at) => match at.parse::<jiff::Timestamp>() {
                Ok(at) => {
                    self.schedule_restart(at.as_second(), request);
                    Outcome::Accepted("Restart scheduled".to_owned())
                }
                Err(error) => Outcome::Invalid(error.to_string()),
            },
            None => match self.restart_refused(&request.filter) {
                Some(why) => Outcome::Failed(why),
                None => return self.begin_restart(Some(reply), &request),
            },
        };
        let _ = reply.send(outcome);
    }

    fn schedule_restart(&mut self, at: i64, request: RestartRequest) {
        let postmaster_start_time = self.account().status().postmaster_start_time;
        self.scheduled_restart = Some(Scheduled { at, request, postmaster_start_time });
        self.state.published = None;
    }

    pub(super) fn cancel_restart(&mut self) -> Outcome {
        self.state.published = None;
        match self.scheduled_restart.take() {
            Some(_) => Outcome::Done("scheduled restart deleted".to_owned()),
            None => Outcome::NotFound("no restarts are scheduled".to_owned()),
        }
    }

    fn begin_restart(&mut self, reply: Option<oneshot::Sender<Outcome>>, request: &RestartRequest) {
        self.seen.request = Some(Request::Restart);
        self.restarting = Some(Restarting { reply, timeout: request.timeout.map(Duration::from_secs) });
    }

    fn restart_refused(&self, filter: &RestartFilter) -> Option<String> {
        let status = self.account().status();
        let meant = filter.matches(status.role, status.server_version.unwrap_or(0), status.pending_restart);
        let why = match &self.seen.server.process {
            _ if self.seen.request.is_some() => "another restart or reinitialize is in progress",
            // In a paused cluster a server that is down stays down until somebody asks.
            Process::Stopped if self.seen.settings.paused => return None,
            Process::Stopped => "PostgreSQL is not running",
            Process::Running(_) if !meant => "restart conditions are not satisfied",
            Process::Running(server) if !server.in_recovery && !holds(&self.seen) => {
                "this node writes without the leader key; it cannot be restarted"
            }
            Process::Running(_) => return None,
            _ => "PostgreSQL is still starting",
        };
        Some(why.to_owned())
    }

    /// A restart has ended, one way or the other.
    pub(super) fn restarted(&mut self, done: bool) {
        self.seen.request = None;
        let Some(Restarting { reply: Some(reply), .. }) = self.restarting.take() else { return };
        let _ = reply.send(match done {
            true => Outcome::Done("restarted successfully".to_owned()),
            false => Outcome::Failed("restart failed".to_owned()),
        });
    }

    /// Begins a restart whose time has come, unless that has passed by too far.
    pub(super) fn follow_schedule(&mut self) {
        let (now, window) = (unix_now(), (self.seen.settings.loop_wait / 1_000).max(5) as i64);
        let Some(scheduled) = self.scheduled_restart.take_if(|scheduled| scheduled.at <= now) else { return };
        self.state.published = None;
        let started = self.account().status().postmaster_start_time;
        let refusal = if now > scheduled.at + window {
            Some("its time has passed unnoticed".to_owned())
        } else if started.is_some() && started != scheduled.postmaster_start_time {
            Some("PostgreSQL was restarted since it was scheduled".to_owned())
        } else {
            self.restart_refused(&scheduled.request.filter)
        };
        match refusal {
            Some(why) => tracing::warn!(why, "the scheduled restart is left out"),
            None => self.begin_restart(None, &scheduled.request),
        }
    }
}
