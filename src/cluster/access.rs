//! The SSH connections to a cluster's hosts, and the streams through them to its services: TCP, and TLS within
//! it where the cluster has that.

use crate::{
    model::{HostName, Secret},
    ssh::{ConnectError, Options, Session, SessionError, SessionProblem, Target, Tunnel},
    tls::{self, Check, Client, ClientOptions, Identity, Pem, Wire},
};
use futures_util::{StreamExt as _, stream};
use std::collections::HashMap;

/// One connection to each host, or the reason why there is none.
pub struct Access {
    sessions: HashMap<HostName, Result<Session, ConnectError>>,
    tls: Option<Client>,
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
    #[error("no TLS with {0}")]
    Insecure(String),
}

impl NoWay<'_> {
    /// What the operator does next, as sentences.
    pub fn next_step(&self) -> String {
        match self {
            Self::Unreachable(error) => error.next_step(),
            Self::Refused(error) => error.next_step(),
            Self::Insecure(_) => {
                "See the certificates with `pgfleet certs`; `pgfleet apply` installs those of the secrets file."
                    .to_owned()
            }
            Self::Unknown(_) => "Name a host that the inventory has.".to_owned(),
        }
    }
}

/// Why the files for TLS that a host has are of no use.
#[derive(Debug, thiserror::Error)]
pub enum NoFiles {
    #[error("the certificate of etcd cannot be read: {0}")]
    Unread(String),
    #[error("the certificate of etcd is of no use: {0}")]
    Unusable(#[from] tls::Error),
}

/// Where hosts have what they speak TLS with.
const TLS_FILES: &str = "/etc/pgfleet/tls";

impl Access {
    /// Connects to all targets, at most `forks` at the same time.
    pub async fn open(targets: Vec<Target>, options: &Options, forks: usize) -> Self {
        let connects = targets.into_iter().map(|target| async move {
            let session = Session::connect(&target, options).await;
            (target.name, session)
        });
        Self { sessions: stream::iter(connects).buffer_unordered(forks.max(1)).collect().await, tls: None }
    }

    /// Has services spoken to over TLS, where there is a client for it.
    pub fn with_tls(self, tls: Option<Client>) -> Self {
        Self { tls, ..self }
    }

    pub(super) fn tls(&self) -> Option<&Client> {
        self.tls.as_ref()
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

    /// How etcd on `host` speaks TLS with the others, read from the files that it has there; `None` where it
    /// has none. For those who have no inventory yet, and so no authority.
    pub async fn tls_of_etcd(&self, host: &HostName) -> Result<Option<Client>, NoFiles> {
        let session = self.session(host).map_err(|error| NoFiles::Unread(error.to_string()))?;
        let read = async |file: &str, r#become| {
            let output = session.run_as(&format!("cat {TLS_FILES}/{file}"), b"", r#become).await;
            let output = output.map_err(|error| NoFiles::Unread(error.to_string()))?;
            let said = || String::from_utf8_lossy(&output.stderr).trim().to_owned();
            match output.status {
                0 => Ok(Secret::new(String::from_utf8_lossy(&output.stdout))),
                _ => Err(NoFiles::Unread(said())),
            }
        };
        let text = |what, pem| Pem::Text { what, pem };
        let Ok(authority) = read("ca.crt", false).await else { return Ok(None) };
        let options = ClientOptions {
            authority: Some(text("the authority's certificate", authority)),
            identity: Some(Identity {
                certificate: text("etcd's certificate", read("etcd.crt", false).await?),
                key: text("etcd's key", read("etcd.key", true).await?),
            }),
            check: Check::Name,
        };
        Ok(Some(Client::new(options)?))
    }

    /// A stream to an HTTP service of `host` (etcd, the agent, HAProxy's statistics), with TLS where the
    /// cluster has it.
    pub async fn service(&self, host: &HostName, address: &str, port: u16) -> Result<Wire, NoWay<'_>> {
        let tunnel = self.tunnel(host, address, port).await?;
        let wire = tls::over(self.tls.as_ref(), address, tunnel).await;
        wire.map_err(|error| NoWay::Insecure(format!("{address}:{port}: {error}")))
    }

    /// A TCP stream to a service of `host`, opened by the host itself: at its `address`, or, where the
    /// service listens there only, on the loopback interface.
    pub async fn tunnel(&self, host: &HostName, address: &str, port: u16) -> Result<Tunnel, NoWay<'_>> {
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
