//! The authority: made once per cluster, signs certificates for its services.

use super::{Error, Facts};
use crate::model::{Scope, Secret};
use jiff::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose,
};
use time::OffsetDateTime;

const AUTHORITY_DAYS: i64 = 3_650;
const DAY_SECS: i64 = 86_400;
/// Certificates are valid from a while ago: the clocks of hosts differ.
const BACKDATED_SECS: i64 = 3_600;

/// The authority of one cluster.
#[derive(Clone, Debug)]
pub struct Authority {
    certificate: String,
    key: Secret,
    facts: Facts,
    /// In PEM: this one, and others while one is being replaced.
    trusted: String,
}

/// What a certificate is to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    pub subject: String,
    /// Names and addresses that the holder is reached by.
    pub names: Vec<String>,
    pub days: u32,
}

/// A certificate and its key, both in PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leaf {
    pub certificate: String,
    pub key: Secret,
}

impl Leaf {
    /// One text of both, as it is kept.
    pub fn joined(&self) -> Secret {
        Secret::new(format!("{}{}", self.certificate, self.key.expose()))
    }

    /// What [`Leaf::joined`] made; `None` for anything else.
    pub fn split(joined: &Secret) -> Option<Leaf> {
        let at = joined.expose().find("-----BEGIN PRIVATE KEY-----")?;
        let (certificate, key) = joined.expose().split_at(at);
        let is_certificate = certificate.starts_with("-----BEGIN CERTIFICATE-----");
        is_certificate.then(|| Leaf { certificate: certificate.to_owned(), key: Secret::new(key) })
    }
}

impl Authority {
    /// A new one.
    pub fn create(cluster: &Scope, now: Timestamp) -> Result<Authority, Error> {
        let subject = format!("{cluster} certificate authority");
        let failed = |why: rcgen::Error| Error::Making { subject: subject.clone(), why: why.to_string() };
        let key = KeyPair::generate().map_err(failed)?;
        let mut params = authority_params(&subject);
        (params.not_before, params.not_after) = span(now, AUTHORITY_DAYS, i64::MAX);
        let certificate = params.self_signed(&key).map_err(failed)?;
        Self::read(&certificate.pem(), &Secret::new(key.serialize_pem()))
    }

    /// One that was made before.
    pub fn read(certificate: &str, key: &Secret) -> Result<Authority, Error> {
        let facts = Facts::read(certificate)?;
        Ok(Authority {
            certificate: certificate.to_owned(),
            key: key.clone(),
            facts,
            trusted: certificate.to_owned(),
        })
    }

    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    pub fn key(&self) -> &Secret {
        &self.key
    }

    /// The authorities to trust, in PEM.
    pub fn trusted(&self) -> &str {
        &self.trusted
    }

    /// This one, among others that are trusted too.
    pub fn trusting(self, trusted: String) -> Self {
        Self { trusted, ..self }
    }

    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// A new certificate with a new key, for a server and a client alike: etcd's members, the agents and
    /// PostgreSQL are both. It ends with the authority at the latest.
    pub fn issue(&self, wanted: &Wanted, now: Timestamp) -> Result<Leaf, Error> {
        let failed =
            |why: rcgen::Error| Error::Making { subject: wanted.subject.clone(), why: why.to_string() };
        let unreadable = |why: rcgen::Error| Error::Reading { what: "authority's key", why: why.to_string() };
        let signing = KeyPair::from_pem(self.key.expose()).map_err(unreadable)?;
        let issuer = Issuer::new(authority_params(&self.facts.subject), signing);
        let key = KeyPair::generate().map_err(failed)?;
        let mut params = CertificateParams::new(wanted.names.clone()).map_err(failed)?;
        params.distinguished_name = named(&wanted.subject);
        (params.not_before, params.not_after) = span(now, i64::from(wanted.days), self.facts.not_after);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(&key, &issuer).map_err(failed)?;
        Ok(Leaf { certificate: certificate.pem(), key: Secret::new(key.serialize_pem()) })
    }
}

fn authority_params(subject: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = named(subject);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn named(subject: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, subject);
    name
}

/// From a little before `now` to `days` after it, but not beyond `latest`.
fn span(now: Timestamp, days: i64, latest: i64) -> (OffsetDateTime, OffsetDateTime) {
    let at =
        |seconds: i64| OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    let now = now.as_second();
    (at(now - BACKDATED_SECS), at((now + days * DAY_SECS).min(latest)))
}
