//! What a certificate says.

use super::Error;
use std::{collections::BTreeSet, net::IpAddr};
use x509_parser::{
    extensions::{GeneralName, ParsedExtension},
    pem::parse_x509_pem,
    prelude::{FromDer, X509Certificate},
};

/// What is read from a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// The common name.
    pub subject: String,
    /// Names and addresses that it holds for.
    pub names: BTreeSet<String>,
    /// Seconds since 1970.
    pub not_before: i64,
    pub not_after: i64,
    /// In hexadecimal digits.
    pub serial: String,
    /// Which key it certifies, and which key signed it, where it says so.
    pub key: Option<Vec<u8>>,
    pub signed_by: Option<Vec<u8>>,
}

impl Facts {
    /// Reads the first certificate of a PEM text.
    pub fn read(pem: &str) -> Result<Facts, Error> {
        let unreadable = |why: String| Error::Reading { what: "certificate", why };
        let (_, block) = parse_x509_pem(pem.as_bytes()).map_err(|why| unreadable(why.to_string()))?;
        let certificate = block.parse_x509().map_err(|why| unreadable(why.to_string()))?;
        Ok(Self::of(&certificate))
    }

    /// Reads a certificate as TLS carries it.
    pub fn of_der(der: &[u8]) -> Result<Facts, Error> {
        let (_, certificate) = X509Certificate::from_der(der)
            .map_err(|why| Error::Reading { what: "certificate", why: why.to_string() })?;
        Ok(Self::of(&certificate))
    }

    fn of(certificate: &X509Certificate<'_>) -> Facts {
        let mut facts = Facts {
            subject: String::new(),
            names: BTreeSet::new(),
            not_before: certificate.validity().not_before.timestamp(),
            not_after: certificate.validity().not_after.timestamp(),
            serial: certificate.raw_serial().iter().map(|byte| format!("{byte:02x}")).collect(),
            key: None,
            signed_by: None,
        };
        if let Some(name) = certificate.subject().iter_common_name().next() {
            facts.subject = name.as_str().unwrap_or_default().to_owned();
        }
        for extension in certificate.extensions() {
            match extension.parsed_extension() {
                ParsedExtension::SubjectAlternativeName(names) => {
                    facts.names.extend(names.general_names.iter().filter_map(text));
                }
                ParsedExtension::SubjectKeyIdentifier(key) => facts.key = Some(key.0.to_vec()),
                ParsedExtension::AuthorityKeyIdentifier(authority) => {
                    facts.signed_by = authority.key_identifier.as_ref().map(|key| key.0.to_vec());
                }
                _ => {}
            }
        }
        facts
    }
}

fn text(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => {
            let address = match bytes.len() {
                4 => <[u8; 4]>::try_from(*bytes).map(IpAddr::from).ok(),
                _ => <[u8; 16]>::try_from(*bytes).map(IpAddr::from).ok(),
            };
            address.map(|address| address.to_string())
        }
        _ => None,
    }
}
