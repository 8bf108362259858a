//! How connections to PostgreSQL are encrypted, in libpq's words, for libpq and for our own connections.

use std::{io, path::PathBuf};

use crate::tls::{self, Answered, Check, Client, ClientOptions, Duplex, Identity, Pem, Wire};

/// `sslmode`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SslMode {
    Disable,
    Allow,
    #[default]
    Prefer,
    Require,
    VerifyCa,
    VerifyFull,
}

impl SslMode {
    /// In the order of their strength.
    pub const ALL: [SslMode; 6] =
        [Self::Disable, Self::Allow, Self::Prefer, Self::Require, Self::VerifyCa, Self::VerifyFull];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Disable => "disable",
            Self::Allow => "allow",
            Self::Prefer => "prefer",
            Self::Require => "require",
            Self::VerifyCa => "verify-ca",
            Self::VerifyFull => "verify-full",
        }
    }
}

/// `sslmode` and the files that go with it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ssl {
    pub mode: SslMode,
    pub root: Option<PathBuf>,
    /// A certificate to present, and its key.
    pub identity: Option<(PathBuf, PathBuf)>,
}

impl Ssl {
    /// Words of a connection string.
    pub(super) fn words(&self) -> Vec<(&'static str, String)> {
        let file = |path: &PathBuf| path.to_string_lossy().into_owned();
        let mut words = vec![("sslmode", self.mode.as_str().to_owned())];
        words.extend(self.root.iter().map(|root| ("sslrootcert", file(root))));
        if let Some((certificate, key)) = &self.identity {
            words.extend([("sslcert", file(certificate)), ("sslkey", file(key))]);
        }
        words
    }

    /// `stream`, which was connected to as `host`, as far as PostgreSQL's own protocol begins.
    pub(super) async fn over<S: Duplex + 'static>(&self, host: &str, stream: S) -> io::Result<Wire> {
        let check = match self.mode {
            SslMode::Disable | SslMode::Allow => return Ok(Box::new(stream)),
            SslMode::VerifyFull => Check::Name,
            SslMode::VerifyCa => Check::Authority,
            // As libpq has it: who names an authority wants it checked.
            SslMode::Require if self.root.is_some() => Check::Authority,
            SslMode::Require | SslMode::Prefer => Check::Nothing,
        };
        let client = Client::new(ClientOptions {
            authority: self.root.clone().map(Pem::File),
            identity: self.identity.clone().map(|(certificate, key)| Identity {
                certificate: Pem::File(certificate),
                key: Pem::File(key),
            }),
            check,
        });
        match tls::request_postgres(&client.map_err(io::Error::other)?, host, stream).await? {
            Answered::Encrypted(wire) => Ok(wire),
            Answered::Plain(stream) if self.mode == SslMode::Prefer => Ok(Box::new(stream)),
            Answered::Plain(_) => {
                let mode = self.mode.as_str();
                Err(io::Error::other(format!("it has no TLS, and `sslmode` is `{mode}`")))
            }
        }
    }
}
