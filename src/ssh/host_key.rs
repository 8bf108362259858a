//! The gate that every server passes: is its key one that we know?

use super::{
    config::Route,
    error::{ConnectProblem, OfferedKey},
    known_hosts::{self, KnownHosts, Verdict},
};
use russh::{
    client::{DisconnectReason, Handler},
    keys::{Algorithm, EcdsaCurve, HashAlg, PublicKey, PublicKeyOrCertificate},
};
use std::{
    borrow::Cow,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

/// Why a connection ended, told by the task that served it.
#[derive(Clone, Debug, Default)]
pub struct Lost(Arc<Mutex<Option<String>>>);

impl Lost {
    pub fn why(&self) -> String {
        let why = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        why.clone().unwrap_or_else(|| "it was closed".to_owned())
    }

    fn note(&self, why: String) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(why);
    }
}

/// Judges the server's key, and notes why the connection ends.
pub struct Gate {
    known: KnownHosts,
    host: String,
    port: u16,
    /// Where a new host is recorded, if new hosts are accepted.
    accept_into: Option<PathBuf>,
    /// Where the operator would record it.
    file: PathBuf,
    hashed: bool,
    pub lost: Lost,
}

/// What ends a connection from within.
#[derive(Debug)]
pub enum GateError {
    Ssh(russh::Error),
    HostKey(ConnectProblem),
}

impl From<russh::Error> for GateError {
    fn from(error: russh::Error) -> Self {
        Self::Ssh(error)
    }
}

impl Gate {
    pub fn new(route: &Route) -> Result<Self, ConnectProblem> {
        let known = KnownHosts::read(&route.known_hosts)
            .map_err(|(file, source)| ConnectProblem::KnownHosts { file, verb: "read", source })?;
        let file = route.known_hosts.first().cloned().unwrap_or_else(|| PathBuf::from("/dev/null"));
        let (host, port) = match &route.host_key_alias {
            // OpenSSH records an alias without a port.
            Some(alias) => (alias.clone(), 22),
            None => (route.hostname.clone(), route.port),
        };
        let accept_into = route.accept_new.then(|| file.clone());
        Ok(Self {
            known,
            host,
            port,
            accept_into,
            file,
            hashed: route.hash_known_hosts,
            lost: Lost::default(),
        })
    }

    /// The algorithms to negotiate: those that are on record first, so that a host with several keys
    /// shows one that can be compared; certificates where an authority vouches for the host.
    pub fn preferred(&self) -> russh::Preferred {
        let recorded = self.known.algorithms(&self.host, self.port);
        let is_recorded = |algorithm: &Algorithm| match algorithm {
            Algorithm::Rsa { .. } => recorded.iter().any(|known| matches!(known, Algorithm::Rsa { .. })),
            other => recorded.contains(other),
        };
        let mut key: Vec<_> = russh::Preferred::DEFAULT
            .key
            .iter()
            // RSA with SHA-1 is forgeable by now.
            .filter(|algorithm| !matches!(algorithm, Algorithm::Rsa { hash: None }))
            .cloned()
            .collect();
        key.sort_by_key(|algorithm| !is_recorded(algorithm));
        let certificates: &[Algorithm] = if self.known.has_authority(&self.host, self.port) {
            &[
                Algorithm::Ed25519,
                Algorithm::Ecdsa { curve: EcdsaCurve::NistP256 },
                Algorithm::Rsa { hash: Some(HashAlg::Sha512) },
            ]
        } else {
            &[]
        };
        russh::Preferred {
            key: Cow::Owned(key),
            host_key_certificates: Cow::Owned(certificates.to_vec()),
            ..russh::Preferred::DEFAULT
        }
    }

    fn offered(&self, key: &PublicKey) -> OfferedKey {
        OfferedKey {
            name: known_hosts::recorded_name(&self.host, self.port),
            algorithm: key.algorithm().to_string(),
            fingerprint: key.fingerprint(HashAlg::Sha256).to_string(),
        }
    }

    async fn judge(&self, server: &PublicKeyOrCertificate) -> Result<(), ConnectProblem> {
        let key = server.public_key();
        let offered = self.offered(&key);
        if let Some(certificate) = server.certificate() {
            return self
                .known
                .judge_certificate(&self.host, self.port, certificate)
                .map_err(|why| ConnectProblem::HostCertificate { offered, why });
        }
        let verdict = match (self.known.judge(&self.host, self.port, &key), &self.accept_into) {
            (Verdict::Unknown, Some(file)) => {
                let (into, host, port, hashed) = (file.clone(), self.host.clone(), self.port, self.hashed);
                tokio::task::spawn_blocking(move || known_hosts::remember(&into, &host, port, &key, hashed))
                    .await
                    .map_err(std::io::Error::other)
                    .flatten()
                    .map_err(|source| ConnectProblem::KnownHosts {
                        file: file.clone(),
                        verb: "extended",
                        source,
                    })?
            }
            (verdict, _) => verdict,
        };
        match verdict {
            Verdict::Known => Ok(()),
            Verdict::Unknown => Err(ConnectProblem::HostKeyUnknown { offered, file: self.file.clone() }),
            Verdict::Changed(known) => Err(ConnectProblem::HostKeyChanged { offered, known }),
            Verdict::Revoked(revoked) => {
                Err(ConnectProblem::HostKeyRevoked { offered, revoked: Box::new(revoked) })
            }
        }
    }
}

impl Handler for Gate {
    type Error = GateError;

    async fn check_server_key(&mut self, server: &PublicKeyOrCertificate) -> Result<bool, GateError> {
        self.judge(server).await.map(|()| true).map_err(GateError::HostKey)
    }

    async fn disconnected(&mut self, reason: DisconnectReason<GateError>) -> Result<(), GateError> {
        match reason {
            DisconnectReason::ReceivedDisconnect(said) => {
                self.lost.note(format!("the server says: {}", said.message));
                Ok(())
            }
            DisconnectReason::Error(error) => {
                if let GateError::Ssh(error) = &error {
                    self.lost.note(plain(error));
                }
                Err(error)
            }
        }
    }
}

/// Says what happened in an operator's words.
pub fn plain(error: &russh::Error) -> String {
    match error {
        russh::Error::KeepaliveTimeout => "the host stopped answering".to_owned(),
        russh::Error::HUP | russh::Error::Disconnect => "the host closed it".to_owned(),
        russh::Error::IO(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
            "the host closed it".to_owned()
        }
        other => other.to_string(),
    }
}
