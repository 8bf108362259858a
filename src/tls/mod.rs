//! TLS as both halves of the program speak it: what PEM comes to in rustls, on one provider of cryptography.
//!
//! Knows no cluster: whom to trust and what to present is said by the caller, and files are read again when
//! the caller says so. Who signs certificates is `pki`'s.

mod client;
mod pem;
mod postgres;
mod server;

pub use client::{Check, Client, ClientOptions};
pub use pem::{Error, Identity, Pem};
pub use postgres::{Answered, ask as ask_postgres, request as request_postgres};
pub use server::{Clients, Server, ServerOptions};

use rustls::crypto::CryptoProvider;
use std::{
    io,
    sync::{Arc, LazyLock},
};
use tokio::io::{AsyncRead, AsyncWrite};

/// Bytes both ways, whatever carries them.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// A stream with or without TLS.
pub type Wire = Box<dyn Duplex>;

/// `stream` to what was connected to as `host`: with TLS where there is a client for it, else as it is.
pub async fn over<S: Duplex + 'static>(client: Option<&Client>, host: &str, stream: S) -> io::Result<Wire> {
    match client {
        Some(client) => client.connect(host, stream).await,
        None => Ok(Box::new(stream)),
    }
}

/// The one provider of cryptography.
fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> =
        LazyLock::new(|| Arc::new(rustls::crypto::ring::default_provider()));
    Arc::clone(&PROVIDER)
}
