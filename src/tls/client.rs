//! The side that connects: whom it trusts, what it presents.

use super::{
    Duplex, Wire,
    pem::{Error, Identity, Pem},
    provider,
};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use std::{
    io,
    sync::{Arc, PoisonError, RwLock},
};
use tokio_rustls::{TlsConnector, client::TlsStream};

/// What a server's certificate has to show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Check {
    /// Nothing: what is sent is hidden from listeners, not from impostors.
    Nothing,
    /// A signature of an authority that is trusted.
    Authority,
    /// That, and the name or address that was connected to.
    Name,
}

/// What a client is configured with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientOptions {
    /// The authorities to trust. Needed for every check but [`Check::Nothing`].
    pub authority: Option<Pem>,
    /// What to present where the server asks for a certificate.
    pub identity: Option<Identity>,
    pub check: Check,
}

/// Makes TLS connections.
#[derive(Debug)]
pub struct Client {
    options: ClientOptions,
    config: RwLock<Arc<ClientConfig>>,
}

impl Client {
    pub fn new(options: ClientOptions) -> Result<Client, Error> {
        let config = RwLock::new(Arc::new(build(&options)?));
        Ok(Client { options, config })
    }

    /// Reads the files again, for connections from now on. What was there before stays on an error.
    pub fn reload(&self) -> Result<(), Error> {
        let config = Arc::new(build(&self.options)?);
        *self.config.write().unwrap_or_else(PoisonError::into_inner) = config;
        Ok(())
    }

    /// Speaks TLS over `stream` with a server that was connected to as `host`.
    pub async fn connect<S: Duplex + 'static>(&self, host: &str, stream: S) -> io::Result<Wire> {
        Ok(Box::new(self.shake_hands(host, stream).await?))
    }

    /// The certificate, in DER, that the server behind `stream` presents. It has to pass the checks.
    pub async fn presented<S: Duplex + 'static>(&self, host: &str, stream: S) -> io::Result<Vec<u8>> {
        let stream = self.shake_hands(host, stream).await?;
        let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default();
        let own = certificates.first().ok_or_else(|| io::Error::other("it presents no certificate"))?;
        Ok(own.to_vec())
    }

    async fn shake_hands<S: Duplex + 'static>(&self, host: &str, stream: S) -> io::Result<TlsStream<S>> {
        let name = ServerName::try_from(host.trim_matches(['[', ']']).to_owned())
            .map_err(|_| io::Error::other(format!("`{host}` is no name that a certificate could have")))?;
        let config = Arc::clone(&self.config.read().unwrap_or_else(PoisonError::into_inner));
        TlsConnector::from(config).connect(name, stream).await
    }
}

fn build(options: &ClientOptions) -> Result<ClientConfig, Error> {
    let roots = match (&options.authority, options.check) {
        (_, Check::Nothing) => None,
        (Some(authority), _) => Some(authority.roots()?),
        (None, _) => {
            return Err(Error::Missing { at: "the configuration".to_owned(), what: "authority to trust" });
        }
    };
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|why| Error::Unusable { at: "TLS".to_owned(), why: why.to_string() })?;
    let builder = match roots {
        Some(roots) if options.check == Check::Name => builder.with_root_certificates(roots),
        roots => {
            let verifier = Lenient::new(roots)
                .map_err(|why| Error::Unusable { at: "the authority to trust".to_owned(), why })?;
            builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier))
        }
    };
    match &options.identity {
        None => Ok(builder.with_no_client_auth()),
        Some(Identity { certificate, key }) => builder
            .with_client_auth_cert(certificate.certificates()?, key.key()?)
            .map_err(|why| certificate.unusable(&why)),
    }
}

/// Checks less than the name: the chain of signatures, or nothing at all. The server has to have the key of
/// its certificate in any case.
#[derive(Debug)]
struct Lenient {
    chain: Option<Arc<WebPkiServerVerifier>>,
}

impl Lenient {
    fn new(roots: Option<RootCertStore>) -> Result<Self, String> {
        let chain = roots
            .map(|roots| WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider()).build());
        Ok(Self { chain: chain.transpose().map_err(|why| why.to_string())? })
    }
}

impl ServerCertVerifier for Lenient {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Some(chain) = &self.chain else { return Ok(ServerCertVerified::assertion()) };
        // The name is looked at last, when everything else is right.
        match chain.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &provider().signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &provider().signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}
