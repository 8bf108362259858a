//! What operators ask for through the REST API: written to the store, or remembered for the core.

use super::Runtime;
use crate::{
    agent::{
        api::{Operation, OperatorRequest, Outcome},
        clock::BootTime,
        core::{Process, Request},
        dcs::{Failure, Store},
    },
    contract::{FailoverDocument, RestartRequest, SwitchoverRequest, Versioned, merge_patch},
    model::MemberName,
};
use serde_json::{Map, Value};
use std::time::Duration;
use tokio::sync::oneshot;

/// A switchover that somebody waits for.
pub struct Switching {
    reply: oneshot::Sender<Outcome>,
    from: Option<MemberName>,
    candidate: Option<String>,
    /// The wish has been seen in the store.
    seen: bool,
    ends: BootTime,
}

impl<S: Store> Runtime<S> {
    pub(super) fn operate(&mut self, request: OperatorRequest) {
        let OperatorRequest { operation, reply } = request;
        let outcome = match operation {
            Operation::PatchConfig(patch) => return self.write_config(Some(patch), Map::new(), reply),
            Operation::PutConfig(document) => return self.write_config(None, document, reply),
            Operation::Reload => {
                self.reload();
                Outcome::Accepted("reload scheduled".to_owned())
            }
            Operation::Restart(request) => return self.restart(&request, reply),
            Operation::CancelRestart => Outcome::NotFound("no restarts are scheduled".to_owned()),
            Operation::Switchover(request) | Operation::Failover(request) => {
                return self.switch_over(request, reply);
            }
            Operation::CancelSwitchover => return self.cancel_switchover(reply),
            Operation::Reinitialize { .. } => {
                match self.seen.cluster.as_ref().and_then(|view| view.leader.as_ref()) {
                    Some(leader) if leader.name == self.config.name => {
                        Outcome::Failed("I am the leader, can not reinitialize".to_owned())
                    }
                    None => Outcome::Failed("Cluster has no leader, can not reinitialize".to_owned()),
                    Some(_) => {
                        self.seen.request = Some(Request::Reinitialize);
                        Outcome::Done("reinitialize started".to_owned())
                    }
                }
            }
        };
        let _ = reply.send(outcome);
    }

    fn write_config(
        &self,
        patch: Option<Map<String, Value>>,
        document: Map<String, Value>,
        reply: oneshot::Sender<Outcome>,
    ) {
        let (store, known) =
            (self.store.clone(), self.snapshot.as_ref().and_then(|snapshot| snapshot.config.clone()));
        tokio::spawn(async move {
            let expected = known.as_ref().map(|known| known.revision);
            let new = match (patch, &known) {
                (Some(patch), Some(Versioned { value, .. })) => {
                    let mut merged = value.document.clone();
                    merge_patch(&mut merged, &patch);
                    merged
                }
                (Some(_), None) => {
                    let _ = reply.send(Outcome::Failed("the cluster has no configuration yet".to_owned()));
                    return;
                }
                (None, _) => document,
            };
            let outcome = match store.write_config(expected, &new).await {
                Ok(_) => Outcome::Document(Value::Object(new)),
                Err(Failure::Lost(_)) => {
                    Outcome::Conflict("the configuration was changed by another".to_owned())
                }
                Err(Failure::Unreachable(why)) => Outcome::StoreFailed(why.to_string()),
            };
            let _ = reply.send(outcome);
        });
    }

    fn restart(&mut self, request: &RestartRequest, reply: oneshot::Sender<Outcome>) {
        let status = self.account().status();
        let refusal = if request.schedule.is_some() {
            Some("restarts cannot be scheduled; ask again without `schedule`")
        } else if !matches!(self.seen.server.process, Process::Running(_)) {
            Some("PostgreSQL is still starting or not running")
        } else if !request.filter.matches(
            status.role,
            status.server_version.unwrap_or(0),
            status.pending_restart,
        ) {
            Some("restart conditions are not satisfied")
        } else if self.restarting.is_some() {
            Some("a restart is under way")
        } else {
            None
        };
        if let Some(why) = refusal {
            let _ = reply.send(Outcome::Failed(why.to_owned()));
            return;
        }
        self.seen.request = Some(Request::Restart);
        self.restarting = Some(reply);
    }

    fn switch_over(&mut self, request: SwitchoverRequest, reply: oneshot::Sender<Outcome>) {
        let expected = self.snapshot.as_ref().and_then(|snapshot| Some(snapshot.failover.as_ref()?.revision));
        let from = self.seen.cluster.as_ref().and_then(|view| Some(view.leader.as_ref()?.name.clone()));
        let scheduled = request.scheduled_at.is_some();
        let document = FailoverDocument {
            leader: request.leader,
            member: request.candidate.clone(),
            scheduled_at: request.scheduled_at,
        };
        let store = self.store.clone();
        let (written, told) = oneshot::channel();
        tokio::spawn(async move {
            let _ = written.send(store.write_failover(expected, Some(&document)).await);
        });
        if scheduled {
            tokio::spawn(async move {
                let outcome = match told.await {
                    Ok(Ok(_)) => Outcome::Accepted("Switchover scheduled".to_owned()),
                    _ => Outcome::Failed("the store did not take the switchover".to_owned()),
                };
                let _ = reply.send(outcome);
            });
            return;
        }
        let wait = Duration::from_secs(2 * self.dynamic.loop_wait.max(10));
        self.switching.push(Switching {
            reply,
            from,
            candidate: request.candidate,
            seen: false,
            ends: BootTime::now().after(wait),
        });
    }

    fn cancel_switchover(&self, reply: oneshot::Sender<Outcome>) {
        let known = self.snapshot.as_ref().and_then(|snapshot| snapshot.failover.clone());
        let store = self.store.clone();
        tokio::spawn(async move {
            let outcome = match known {
                None => Outcome::NotFound("no switchover is scheduled".to_owned()),
                Some(known) => match store.write_failover(Some(known.revision), None).await {
                    Ok(_) => Outcome::Done("scheduled switchover deleted".to_owned()),
                    Err(Failure::Lost(_)) => Outcome::Conflict("it was changed by another".to_owned()),
                    Err(Failure::Unreachable(why)) => Outcome::StoreFailed(why.to_string()),
                },
            };
            let _ = reply.send(outcome);
        });
    }

    /// Answers those whose switchover has come to an end.
    pub(super) fn follow_switchovers(&mut self) {
        let Some(cluster) = &self.seen.cluster else { return };
        let now = BootTime::now();
        for mut switching in std::mem::take(&mut self.switching) {
            switching.seen |= cluster.failover.is_some();
            let leader = cluster.leader.as_ref().map(|leader| &leader.name);
            let leads = leader
                .filter(|name| cluster.member(name).is_some_and(|member| member.running && member.primary));
            let outcome = match leads {
                Some(name) if Some(name) != switching.from.as_ref() => {
                    let instead =
                        switching.candidate.as_ref().filter(|candidate| *candidate != name.as_str());
                    Some(Outcome::Done(match instead {
                        None => format!("Successfully switched over to \"{name}\""),
                        Some(wanted) => format!("Switched over to \"{name}\" instead of \"{wanted}\""),
                    }))
                }
                Some(_) if switching.seen && cluster.failover.is_none() => Some(Outcome::Failed(
                    "Switchover failed: the leader found no member that can take over".to_owned(),
                )),
                _ if now >= switching.ends => Some(Outcome::Failed("Switchover status unknown".to_owned())),
                _ => None,
            };
            match outcome {
                Some(outcome) => drop(switching.reply.send(outcome)),
                None => self.switching.push(switching),
            }
        }
    }
}
