//! Waiting until something is reachable.

use super::await_condition;
use crate::remote::{
    host::{Context, Finding, Manage},
    http::Call,
    protocol::Failure,
    wait::Look,
};
use serde::{Deserialize, Serialize};
use std::time::Duration;
use tokio::{net::TcpStream, time::timeout};

/// `wait_for`: a port accepts connections, a URL answers, or a path exists. Changes nothing.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WaitFor {
    #[serde(default = "loopback")]
    pub host: String,
    #[serde(default)]
    pub port: Option<u16>,
    #[serde(default)]
    pub url: Option<String>,
    /// Statuses of `url` that end the wait; 200 when none is named.
    #[serde(default)]
    pub status: Vec<u16>,
    #[serde(default)]
    pub path: Option<String>,
    #[serde(default)]
    pub state: WaitState,
    /// How long to wait, in seconds.
    #[serde(default = "super::five_minutes_secs")]
    pub timeout: u64,
    /// The unit whose last journal lines tell why it isn't up.
    #[serde(default)]
    pub unit: Option<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WaitState {
    #[default]
    #[serde(alias = "present")]
    Started,
    #[serde(alias = "absent")]
    Stopped,
}

fn loopback() -> String {
    "127.0.0.1".to_owned()
}

impl WaitFor {
    pub(super) fn validate(&self) -> Result<(), String> {
        let given = [self.port.is_some(), self.url.is_some(), self.path.is_some()];
        if given.iter().filter(|given| **given).count() != 1 {
            return Err("expected one of `port`, `url`, `path`".to_owned());
        }
        match &self.url {
            Some(url) if !url.starts_with("http://") => {
                Err(format!("`url`: expected http://..., found `{url}`"))
            }
            _ => Ok(()),
        }
    }
}

const ATTEMPT: Duration = Duration::from_secs(2);

impl WaitFor {
    /// Whether what is looked at is there, and what is wrong with it otherwise.
    async fn look(&self, context: &Context<'_>) -> Result<(), String> {
        if let Some(port) = self.port {
            let connect = TcpStream::connect((self.host.as_str(), port));
            let reason = match timeout(ATTEMPT, connect).await {
                Ok(Ok(_)) => return Ok(()),
                Ok(Err(error)) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
                    "connection refused".to_owned()
                }
                Ok(Err(error)) => error.to_string(),
                Err(_) => format!("no answer within {} s", ATTEMPT.as_secs()),
            };
            return Err(format!("port {port} of {}: {reason}", self.host));
        }
        if let Some(url) = &self.url {
            let response = Call::get(url).limit(ATTEMPT).run().await.map_err(|error| error.to_string())?;
            let wanted = if self.status.is_empty() { &[200][..] } else { &self.status };
            if wanted.contains(&response.status) {
                return Ok(());
            }
            let body = response.text();
            let said = body.lines().next().unwrap_or_default();
            let said: String = said.chars().take(200).collect();
            return Err(format!("{url}: status {} {said}", response.status).trim_end().to_owned());
        }
        let path = self.path.as_deref().unwrap_or_default();
        if context.host.path(path).exists() { Ok(()) } else { Err(format!("{path} does not exist")) }
    }

    async fn condition(&self, context: &Context<'_>) -> Look {
        match (self.look(context).await, self.state) {
            (Ok(()), WaitState::Started) | (Err(_), WaitState::Stopped) => Look::Satisfied,
            (Err(missing), WaitState::Started) => Look::Missing(missing),
            (Ok(()), WaitState::Stopped) => Look::Missing(match (&self.url, self.port, &self.path) {
                (Some(url), _, _) => format!("{url} still answers"),
                (_, Some(port), _) => format!("port {port} of {} still accepts connections", self.host),
                (_, _, path) => format!("{} still exists", path.as_deref().unwrap_or_default()),
            }),
        }
    }
}

impl Manage for WaitFor {
    async fn check(&self, context: &Context<'_>) -> Result<Finding, Failure> {
        let limit = Duration::from_secs(self.timeout);
        await_condition(context, limit, self.unit.as_deref(), async || self.condition(context).await).await
    }

    async fn apply(&self, _context: &Context<'_>, _finding: &mut Finding) -> Result<(), Failure> {
        Ok(())
    }
}
