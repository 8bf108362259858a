//! The SSH connections to a cluster's hosts, and the TCP streams through them.

use crate::{
    model::HostName,
    ssh::{ConnectError, Options, Session, SessionError, SessionProblem, Target, Tunnel},
};
use futures_util::{StreamExt as _, stream};
use std::collections::HashMap;

/// One connection to each host, or the reason why there is none.
pub struct Access {
    sessions: HashMap<HostName, Result<Session, ConnectError>>,
}

/// Why a service on a host could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum NoWay<'a> {
    #[error("{}", .0.problem)]
    Unreachable(&'a ConnectError),
    #[error("{}", .0.problem)]
    Refused(#[from] SessionError),
    #[error("{0} is not in the inventory")]
    Unknown(String),
}

impl NoWay<'_> {
    /// What the operator does next, as sentences.
    pub fn next_step(&self) -> String {
        match self {
            Self::Unreachable(error) => error.next_step(),
            Self::Refused(error) => error.next_step(),
            Self::Unknown(_) => "Name a host that the inventory has.".to_owned(),
        }
    }
}

impl Access {
    /// Connects to all targets, at most `forks` at the same time.
    pub async fn open(targets: Vec<Target>, options: &Options, forks: usize) -> Self {
        let connects = targets.into_iter().map(|target| async move {
            let session = Session::connect(&target, options).await;
            (target.name, session)
        });
        Self { sessions: stream::iter(connects).buffer_unordered(forks.max(1)).collect().await }
    }

    /// Hosts that could not be reached.
    pub fn failures(&self) -> impl Iterator<Item = &ConnectError> {
        self.sessions.values().filter_map(|session| session.as_ref().err())
    }

    pub fn session(&self, host: &HostName) -> Result<&Session, NoWay<'_>> {
        match self.sessions.get(host) {
            Some(Ok(session)) => Ok(session),
            Some(Err(error)) => Err(NoWay::Unreachable(error)),
            None => Err(NoWay::Unknown(host.to_string())),
        }
    }

    /// A TCP stream to a service of `host`, opened by the host itself: at its `address`, or, where the
    /// service listens there only, on the loopback interface.
    pub async fn service(&self, host: &HostName, address: &str, port: u16) -> Result<Tunnel, NoWay<'_>> {
        let session = self.session(host)?;
        match session.tunnel(address, port).await {
            Ok(tunnel) => Ok(tunnel),
            Err(error) if matches!(*error.problem, SessionProblem::TunnelRefused { .. }) => {
                session.tunnel("127.0.0.1", port).await.map_err(|_| NoWay::Refused(error))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Ends all connections.
    pub async fn close(self) {
        for session in self.sessions.into_values().flatten() {
            session.close().await;
        }
    }
}
