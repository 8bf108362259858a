//! What operators ask for, and how the agent's loop answers.

use super::{Content, Now, Reply};
use crate::{
    agent::view::View,
    contract::{RestartRequest, SwitchoverRequest},
};
use serde_json::{Map, Value};
use tokio::sync::oneshot;

/// A request that only the agent's loop can carry out.
#[derive(Debug)]
pub struct OperatorRequest {
    pub operation: Operation,
    /// Answer here. Dropping it tells the client that the agent could not say.
    pub reply: oneshot::Sender<Outcome>,
}

/// What is asked for. The form has been checked, and all that the view can tell.
#[derive(Clone, Debug, PartialEq)]
pub enum Operation {
    /// Merge into the dynamic configuration; `null` deletes.
    PatchConfig(Map<String, Value>),
    /// Replace the dynamic configuration.
    PutConfig(Map<String, Value>),
    /// As SIGHUP.
    Reload,
    Restart(RestartRequest),
    CancelRestart,
    /// From the leader that is named, to the candidate or to the best one.
    Switchover(SwitchoverRequest),
    /// To the candidate that is named, whatever the leader does.
    Failover(SwitchoverRequest),
    CancelSwitchover,
    Reinitialize {
        force: bool,
        from_leader: bool,
    },
}

/// How it ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// 200.
    Done(String),
    /// 200, with the new configuration.
    Document(Value),
    /// 202: it will be done.
    Accepted(String),
    /// 400.
    Invalid(String),
    /// 404: there is nothing to cancel.
    NotFound(String),
    /// 409: it was changed by another meanwhile, or another is scheduled.
    Conflict(String),
    /// 412: the cluster is not in a state for it.
    NotPossible(String),
    /// 502: the store did not take it.
    StoreFailed(String),
    /// 503: it was tried and failed, or conditions are not met.
    Failed(String),
}

impl Outcome {
    pub fn into_reply(self) -> Reply {
        let (status, text) = match self {
            Outcome::Document(document) => return Reply::new(200, Content::Json(document)),
            Outcome::Done(text) => (200, text),
            Outcome::Accepted(text) => (202, text),
            Outcome::Invalid(text) => (400, text),
            Outcome::NotFound(text) => (404, text),
            Outcome::Conflict(text) => (409, text),
            Outcome::NotPossible(text) => (412, text),
            Outcome::StoreFailed(text) => (502, text),
            Outcome::Failed(text) => (503, text),
        };
        Reply::text(status, text)
    }
}

/// A body that has to be a JSON map.
pub fn json_body(body: Option<&[u8]>, optional: bool) -> Result<Map<String, Value>, Reply> {
    let body = match body {
        None if optional => return Ok(Map::new()),
        None => return Err(Reply::text(411, "a body with a Content-Length is needed")),
        Some(body) if body.trim_ascii().is_empty() && optional => return Ok(Map::new()),
        Some(body) => body,
    };
    match serde_json::from_slice::<Value>(body) {
        Ok(Value::Object(map)) if optional || !map.is_empty() => Ok(map),
        Ok(_) => Err(Reply::text(400, "the body has to be a JSON map with at least one key")),
        Err(error) => Err(Reply::text(400, format!("the body is not JSON: {error}"))),
    }
}

/// Checks the body of `POST /restart`.
pub fn restart(body: Map<String, Value>, view: &View, now: Now) -> Result<Operation, Reply> {
    if view.config.pause && body.contains_key("schedule") {
        return Err(Reply::text(500, "Can't schedule restart in the paused state"));
    }
    let request = RestartRequest::parse(&body).map_err(|error| Reply::text(400, error.0))?;
    if body.contains_key("schedule") {
        check_schedule(request.schedule.as_deref().unwrap_or_default(), "restart", now)?;
    }
    Ok(Operation::Restart(request))
}

/// Checks the body of `POST /switchover` (`needs_leader`) or `POST /failover`.
pub fn switchover(
    body: Map<String, Value>,
    needs_leader: bool,
    view: &View,
    now: Now,
) -> Result<Operation, Reply> {
    let text =
        |key: &str| body.get(key).and_then(Value::as_str).filter(|text| !text.is_empty()).map(str::to_owned);
    let request = SwitchoverRequest {
        leader: text("leader"),
        candidate: text("candidate").or_else(|| text("member")),
        scheduled_at: text("scheduled_at"),
    };
    let invalid = |text: &str| Err(Reply::text(400, text));
    match (&request.leader, &request.candidate) {
        (None, _) if needs_leader => {
            return invalid("Switchover could be performed only from a specific leader");
        }
        (_, None) if !needs_leader => {
            return invalid("Failover could be performed only to a specific candidate");
        }
        (leader, candidate) if leader == candidate => {
            return invalid("Switchover target and source are the same");
        }
        _ => {}
    }
    if let Some(schedule) = &request.scheduled_at {
        if !needs_leader {
            return invalid("Failover can't be scheduled");
        }
        if view.config.pause {
            return invalid("Can't schedule switchover in the paused state");
        }
        check_schedule(schedule, "switchover", now)?;
    }
    if view.config.pause && request.candidate.is_none() {
        return invalid("Switchover is possible only to a specific candidate in a paused state");
    }
    if request.scheduled_at.is_none() {
        check_members(&request, view).map_err(|why| Reply::text(412, why))?;
    }
    // Who names the leader in a failover means a switchover.
    Ok(match request.leader {
        Some(_) => Operation::Switchover(request),
        None => Operation::Failover(request),
    })
}

/// What is known at once to stand in the way. Whether a candidate is good is for the loop to find out.
fn check_members(request: &SwitchoverRequest, view: &View) -> Result<(), String> {
    let action = if request.leader.is_some() { "switchover" } else { "failover" };
    let Some(snapshot) = &view.snapshot else {
        return Err(format!("{action} is not possible: the store cannot be read"));
    };
    let leader = snapshot.leader.as_ref().map(|leader| leader.name.as_str());
    if let Some(named) = request.leader.as_deref().filter(|named| leader != Some(*named)) {
        let holder = leader.map_or("nobody".to_owned(), |leader| format!("`{leader}`"));
        return Err(format!("leader name does not match: {holder} leads, not `{named}`"));
    }
    let mode = view.config.synchronous_mode;
    let named_sync = mode.is_on() && !mode.is_quorum();
    match &request.candidate {
        Some(candidate) if !snapshot.members.contains_key(candidate.as_str()) => {
            Err(format!("candidate does not exist: `{candidate}` is not a member"))
        }
        Some(candidate) if candidate.parse().is_ok_and(|name| snapshot.is_drained(&name)) => {
            Err(format!("{action} is not possible: `{candidate}` is being worked on"))
        }
        Some(candidate) if named_sync && request.leader.is_some() => {
            let sync = snapshot.sync.as_ref();
            match sync.is_some_and(|sync| sync.value.standbys().any(|standby| standby == candidate)) {
                true => Ok(()),
                false => Err("candidate name does not match with sync_standby".to_owned()),
            }
        }
        None if named_sync && !snapshot.members.keys().any(|name| snapshot.is_synchronous(name)) => {
            Err(format!("{action} is not possible: there is no synchronous standby"))
        }
        None if !snapshot.members.keys().any(|name| Some(name.as_str()) != leader) => {
            Err(format!("{action} is not possible: there is no member beside the leader"))
        }
        _ => Ok(()),
    }
}

fn check_schedule(schedule: &str, action: &str, now: Now) -> Result<(), Reply> {
    match schedule.parse::<jiff::Timestamp>() {
        Ok(at) if at.as_second() < now.unix_secs => {
            Err(Reply::text(422, format!("Cannot schedule {action} in the past")))
        }
        Ok(_) => Ok(()),
        Err(_) if schedule.parse::<jiff::civil::DateTime>().is_ok() => {
            Err(Reply::text(400, format!("Timezone information is mandatory for the scheduled {action}")))
        }
        Err(_) => Err(Reply::text(
            422,
            "Unable to parse scheduled timestamp. It should be like 2026-11-20T18:30:00+00:00 (ISO 8601)",
        )),
    }
}
