//! What operators ask for through the REST API: written to the store, or remembered for the core.

use super::{Runtime, switching::Change};
use crate::{
    agent::{
        api::{Operation, OperatorRequest, Outcome},
        core::{Action, Request, StartAs},
        dcs::{Failure, Store},
    },
    contract::{Versioned, merge_patch},
};
use serde_json::{Map, Value};
use tokio::sync::oneshot;

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
            Operation::Restart(request) => return self.restart(request, reply),
            Operation::CancelRestart => self.cancel_restart(),
            Operation::Switchover(request) => return self.switch_over(Change::Switchover, request, reply),
            Operation::Failover(request) => return self.switch_over(Change::Failover, request, reply),
            Operation::CancelSwitchover => return self.cancel_switchover(reply),
            Operation::Reinitialize { force, from_leader } => match self.reinitialize_refused(force) {
                Some(why) => Outcome::Failed(why),
                None => {
                    self.seen.request = Some(Request::Reinitialize { from_leader });
                    Outcome::Done("reinitialize started".to_owned())
                }
            },
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

    /// Why a new copy cannot be made now. With `force` what is being done to the server is broken off, where
    /// that leaves nothing behind that a copy would not replace.
    fn reinitialize_refused(&mut self, force: bool) -> Option<String> {
        let leader = self.seen.cluster.as_ref().and_then(|view| view.leader.as_ref());
        match leader {
            Some(leader) if leader.name == self.config.name => {
                return Some("I am the leader, can not reinitialize".to_owned());
            }
            None => return Some("Cluster has no leader, can not reinitialize".to_owned()),
            Some(_) => {}
        }
        let asked = self.seen.request.map(|request| match request {
            Request::Restart => "restart",
            Request::Reinitialize { .. } => "reinitialize",
        });
        let doing = self.seen.busy.server.as_ref().and_then(|action| match action {
            Action::Clone(_) => Some("copying the leader"),
            Action::Rewind(_) => Some("pg_rewind"),
            Action::Restart(_) => Some("restart"),
            Action::Start(_) => Some("starting PostgreSQL"),
            Action::Stop(_) => Some("stopping PostgreSQL"),
            _ => None,
        });
        let replaceable = matches!(
            self.seen.busy.server,
            Some(Action::Clone(_) | Action::Rewind(_) | Action::Start(StartAs::Standby(_)))
        );
        match asked.or(doing) {
            Some(what) if !force => Some(format!("{what} already in progress")),
            Some(_) if asked == Some("restart") => Some("restart already in progress".to_owned()),
            _ => {
                if replaceable {
                    self.break_off();
                }
                None
            }
        }
    }
}
