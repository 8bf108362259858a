//! The side that is connected to: what it presents, whose certificates it accepts.

use super::{
    Duplex,
    pem::{Error, Identity, Pem},
    provider,
};
use rustls::{
    ServerConfig,
    server::{NoServerSessionStorage, WebPkiClientVerifier},
};
use std::{
    io,
    sync::{Arc, PoisonError, RwLock},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

/// Whether clients have to present a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Clients {
    /// They are not asked for one.
    Unasked,
    /// They may; one that is not of this authority ends the connection.
    Optional(Pem),
    /// Without one there is no connection.
    Required(Pem),
}

/// What a server is configured with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerOptions {
    pub identity: Identity,
    pub clients: Clients,
}

/// Takes TLS connections.
#[derive(Debug)]
pub struct Server {
    options: ServerOptions,
    config: RwLock<Arc<ServerConfig>>,
}

impl Server {
    pub fn new(options: ServerOptions) -> Result<Server, Error> {
        let config = RwLock::new(Arc::new(build(&options)?));
        Ok(Server { options, config })
    }

    /// Reads the files again, for connections from now on. What was there before stays on an error.
    pub fn reload(&self) -> Result<(), Error> {
        let config = Arc::new(build(&self.options)?);
        *self.config.write().unwrap_or_else(PoisonError::into_inner) = config;
        Ok(())
    }

    /// Whether clients are asked for a certificate.
    pub fn asks_clients(&self) -> bool {
        self.options.clients != Clients::Unasked
    }

    /// Speaks TLS over a connection that was taken.
    pub async fn accept<S: Duplex + 'static>(&self, stream: S) -> io::Result<TlsStream<S>> {
        let config = Arc::clone(&self.config.read().unwrap_or_else(PoisonError::into_inner));
        TlsAcceptor::from(config).accept(stream).await
    }
}

fn build(options: &ServerOptions) -> Result<ServerConfig, Error> {
    let Identity { certificate, key } = &options.identity;
    let builder = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|why| certificate.unusable(&why))?;
    let verifier = |authority: &Pem| {
        let roots = Arc::new(authority.roots()?);
        Ok(WebPkiClientVerifier::builder_with_provider(roots, provider()))
    };
    let builder = match &options.clients {
        Clients::Unasked => builder.with_no_client_auth(),
        Clients::Optional(authority) => {
            let verifier = verifier(authority)?.allow_unauthenticated().build();
            builder.with_client_cert_verifier(verifier.map_err(|why| authority.unusable(&why))?)
        }
        Clients::Required(authority) => {
            let verifier = verifier(authority)?.build();
            builder.with_client_cert_verifier(verifier.map_err(|why| authority.unusable(&why))?)
        }
    };
    let mut config = builder
        .with_single_cert(certificate.certificates()?, key.key()?)
        .map_err(|why| certificate.unusable(&why))?;
    // Those who look often (HAProxy) never resume; tickets would only cost.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}
