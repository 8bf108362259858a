//! How TLS begins on a connection to PostgreSQL: the client asks in plain text, the server answers by one byte.

use super::{Client, Duplex, Wire};
use std::io;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// `SSLRequest`: its length and its number (protocol documentation, "Message Formats").
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];

/// What the server made of the request.
pub enum Answered<S> {
    Encrypted(Wire),
    /// It has no TLS; the connection can be gone on with as it is.
    Plain(S),
}

/// Asks the server behind `stream`, which was connected to as `host`, for TLS.
pub async fn request<S: Duplex + 'static>(
    client: &Client,
    host: &str,
    mut stream: S,
) -> io::Result<Answered<S>> {
    match ask(&mut stream).await? {
        true => client.connect(host, stream).await.map(Answered::Encrypted),
        false => Ok(Answered::Plain(stream)),
    }
}

/// Whether the server goes on in TLS.
pub async fn ask<S: Duplex>(stream: &mut S) -> io::Result<bool> {
    stream.write_all(&SSL_REQUEST).await?;
    let mut answer = [0];
    stream.read_exact(&mut answer).await?;
    match answer[0] {
        b'S' => Ok(true),
        b'N' => Ok(false),
        _ => Err(io::Error::other("answers a request for TLS with something else than PostgreSQL would")),
    }
}
