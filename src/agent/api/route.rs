//! What each method and path means.

use super::{
    Now, Operation,
    document::status_document,
    health, metrics,
    operation::{self, json_body},
};
use crate::{
    agent::view::View,
    contract::{ClusterDocument, History},
};
use serde::Serialize;
use serde_json::Value;

/// A request as it came in.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    pub method: &'a str,
    /// Without the query.
    pub path: &'a str,
    /// Decoded.
    pub query: &'a [(String, String)],
    /// `None` when there is none at all.
    pub body: Option<&'a [u8]>,
}

/// What becomes of a request.
#[derive(Clone, Debug, PartialEq)]
pub enum Routed {
    Reply(Reply),
    /// The agent's loop has to do it.
    Ask(Operation),
}

/// An answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Reply {
    pub status: u16,
    pub content: Content,
}

/// An answer's body.
#[derive(Clone, Debug, PartialEq)]
pub enum Content {
    Nothing,
    Text(String),
    Json(Value),
    /// Prometheus' text format.
    Metrics(String),
}

impl Reply {
    pub fn new(status: u16, content: Content) -> Self {
        Self { status, content }
    }

    pub fn text(status: u16, text: impl Into<String>) -> Self {
        Self::new(status, Content::Text(text.into()))
    }

    /// A status line without a body.
    pub fn status(status: u16) -> Self {
        Self::new(status, Content::Nothing)
    }

    fn json(status: u16, document: &impl Serialize) -> Self {
        match serde_json::to_value(document) {
            Ok(value) => Self::new(status, Content::Json(value)),
            Err(error) => Self::text(500, error.to_string()),
        }
    }
}

impl From<Reply> for Routed {
    fn from(reply: Reply) -> Self {
        Routed::Reply(reply)
    }
}

/// Whether a method changes something, and so needs authentication where that is configured.
pub fn is_unsafe(method: &str) -> bool {
    matches!(method, "POST" | "PUT" | "PATCH" | "DELETE")
}

/// Answers a request from the view, or says what the loop has to do.
pub fn route(request: Request<'_>, view: &View, now: Now) -> Routed {
    let segment = request.path.trim_start_matches('/').split('/').next().unwrap_or_default();
    match request.method {
        "GET" => get(segment, request, view, now).into(),
        // Load balancers look at the status alone; this holds for the health checks and for nothing else.
        "HEAD" | "OPTIONS" => {
            let status = status_document(view);
            let healthy = health::is_healthy(request.path, request.query, view, &status, now);
            Reply::status(code(healthy)).into()
        }
        _ => unsafe_request(segment, request, view, now).unwrap_or_else(Routed::Reply),
    }
}

fn code(healthy: bool) -> u16 {
    if healthy { 200 } else { 503 }
}

fn get(segment: &str, request: Request<'_>, view: &View, now: Now) -> Reply {
    let snapshot = view.snapshot.as_deref();
    match segment {
        "liveness" => Reply::status(code(health::is_alive(view, now))),
        "readiness" => {
            let ready = health::is_ready(request.query, view, &status_document(view), now);
            Reply::status(code(ready))
        }
        "patroni" => Reply::json(200, &status_document(view)),
        "cluster" => match snapshot {
            Some(snapshot) => Reply::json(200, &ClusterDocument::of(&view.scope, snapshot, &view.config)),
            None => Reply::text(503, "the store cannot be read"),
        },
        "history" => {
            let history = snapshot.and_then(|snapshot| snapshot.history.as_ref());
            Reply::json(200, history.map_or(&History::default(), |history| &history.value))
        }
        "config" => match snapshot.and_then(|snapshot| snapshot.config.as_ref()) {
            Some(config) => Reply::json(200, &config.value.document),
            None => Reply::text(502, "there is no dynamic configuration in the store"),
        },
        "failsafe" => match snapshot.and_then(|snapshot| snapshot.failsafe.as_ref()) {
            Some(failsafe) if view.config.failsafe_mode => Reply::json(200, &failsafe.value),
            _ => Reply::text(502, "failsafe_mode is off"),
        },
        "metrics" => Reply::new(200, Content::Metrics(metrics::text(view, &status_document(view)))),
        _ => {
            let status = status_document(view);
            let healthy = health::is_healthy(request.path, request.query, view, &status, now);
            Reply::json(code(healthy), &status)
        }
    }
}

fn unsafe_request(segment: &str, request: Request<'_>, view: &View, now: Now) -> Result<Routed, Reply> {
    let body = |optional| json_body(request.body, optional);
    let operation = match (request.method, segment) {
        ("PATCH", "config") => {
            let patch = body(false)?;
            if view.snapshot.as_ref().is_none_or(|snapshot| snapshot.config.is_none()) {
                return Err(Reply::text(503, "there is no dynamic configuration in the store"));
            }
            Operation::PatchConfig(patch)
        }
        ("PUT", "config") => Operation::PutConfig(body(false)?),
        ("POST", "reload") => Operation::Reload,
        ("POST", "restart") => operation::restart(body(true)?, view, now)?,
        ("DELETE", "restart") => Operation::CancelRestart,
        ("POST", "switchover") => operation::switchover(body(false)?, true, view, now)?,
        ("POST", "failover") => operation::switchover(body(false)?, false, view, now)?,
        ("DELETE", "switchover") => Operation::CancelSwitchover,
        ("POST", "reinitialize") => {
            let body = body(true)?;
            let flag = |key: &str| body.get(key).is_some_and(|value| *value == Value::Bool(true));
            if view.is_leader(now.boot) {
                return Err(Reply::text(503, "I am the leader, can not reinitialize"));
            }
            Operation::Reinitialize { force: flag("force"), from_leader: flag("from_leader") }
        }
        ("POST", "failsafe") => return Err(Reply::text(502, "failsafe_mode is off")),
        (method, _) => return Err(Reply::text(404, format!("there is no {method} {}", request.path))),
    };
    Ok(Routed::Ask(operation))
}
