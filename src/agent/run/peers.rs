//! Asks another member for its state: `GET /patroni`, within a bounded time.

use crate::{
    contract::NodeStatus,
    tls::{self, Client},
};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::{Request, body::Bytes, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use std::time::Duration;
use tokio::{net::TcpStream, time::timeout};

/// A status document is a few kilobytes.
const LONGEST: usize = 1 << 20;

/// Asks once. `None`: no answer that is understood came in time.
pub async fn ask(host: &str, port: u16, client: Option<&Client>, limit: Duration) -> Option<NodeStatus> {
    timeout(limit, exchange(host, port, client)).await.ok().flatten()
}

async fn exchange(host: &str, port: u16, client: Option<&Client>) -> Option<NodeStatus> {
    let stream = TcpStream::connect((host, port)).await.ok()?;
    stream.set_nodelay(true).ok()?;
    let stream = tls::over(client, host, stream).await.ok()?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.ok()?;
    let connection = tokio::spawn(connection);
    let request = Request::get("/patroni")
        .header(header::HOST, format!("{host}:{port}"))
        .header(header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .ok()?;
    let answer = sender.send_request(request).await.ok();
    let body = match answer {
        Some(answer) => Limited::new(answer.into_body(), LONGEST).collect().await.ok(),
        None => None,
    };
    connection.abort();
    serde_json::from_slice(&body?.to_bytes()).ok()
}
