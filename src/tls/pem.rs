//! Certificates and keys in PEM, from a file or from memory.

use crate::model::Secret;
use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use std::{fs, path::PathBuf};

/// Where PEM comes from. A file is read anew each time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pem {
    File(PathBuf),
    /// `what` names it in messages.
    Text {
        what: &'static str,
        pem: Secret,
    },
}

/// A certificate, with those that lead from it to an authority, and its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    pub certificate: Pem,
    pub key: Pem,
}

/// Why there is no TLS with what was given.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot read {at}: {source}")]
    Unreadable { at: String, source: std::io::Error },
    #[error("{at} holds no {what}")]
    Missing { at: String, what: &'static str },
    #[error("{at}: {why}")]
    Unusable { at: String, why: String },
}

impl Pem {
    /// As messages name it.
    pub fn at(&self) -> String {
        match self {
            Pem::File(path) => path.display().to_string(),
            Pem::Text { what, .. } => (*what).to_owned(),
        }
    }

    fn read(&self) -> Result<Secret, Error> {
        match self {
            Pem::File(path) => match fs::read_to_string(path) {
                Ok(text) => Ok(Secret::new(text)),
                Err(source) => Err(Error::Unreadable { at: self.at(), source }),
            },
            Pem::Text { pem, .. } => Ok(pem.clone()),
        }
    }

    pub fn certificates(&self) -> Result<Vec<CertificateDer<'static>>, Error> {
        let text = self.read()?;
        let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text.expose().as_bytes()).collect();
        match found {
            Ok(found) if found.is_empty() => Err(Error::Missing { at: self.at(), what: "certificate" }),
            Ok(found) => Ok(found),
            Err(why) => Err(Error::Unusable { at: self.at(), why: why.to_string() }),
        }
    }

    pub(super) fn key(&self) -> Result<PrivateKeyDer<'static>, Error> {
        let text = self.read()?;
        PrivateKeyDer::from_pem_slice(text.expose().as_bytes()).map_err(|why| match why {
            rustls::pki_types::pem::Error::NoItemsFound => {
                Error::Missing { at: self.at(), what: "private key" }
            }
            why => Error::Unusable { at: self.at(), why: why.to_string() },
        })
    }

    /// The authorities that it lists, as those to trust.
    pub(super) fn roots(&self) -> Result<RootCertStore, Error> {
        let mut roots = RootCertStore::empty();
        for certificate in self.certificates()? {
            roots.add(certificate).map_err(|why| self.unusable(&why))?;
        }
        Ok(roots)
    }

    pub(super) fn unusable(&self, why: &dyn std::fmt::Display) -> Error {
        Error::Unusable { at: self.at(), why: why.to_string() }
    }
}
