//! A small HTTP/1.1 client for what runs on the target itself or answers without TLS: one request, one
//! connection, one deadline. Larger or encrypted downloads are `fetch`'s.

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Method, Request, Uri, header};
use hyper_util::rt::TokioIo;
use std::time::Duration;
use tokio::{net::TcpStream, time::timeout};

const BODY_MAX_BYTES: usize = 512 << 20;

pub(crate) struct Response {
    pub status: u16,
    pub body: Bytes,
}

impl Response {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// Why there is no answer, in words for people: `connection refused`, `no answer within 2 s`, ...
#[derive(Debug, thiserror::Error)]
#[error("{url}: {reason}")]
pub(crate) struct HttpError {
    url: String,
    reason: String,
}

pub(crate) struct Call {
    method: Method,
    url: String,
    body: Bytes,
    authorization: Option<String>,
    limit: Duration,
}

impl Call {
    pub fn get(url: &str) -> Self {
        Self {
            method: Method::GET,
            url: url.to_owned(),
            body: Bytes::new(),
            authorization: None,
            limit: Duration::from_secs(2),
        }
    }

    pub fn send(method: Method, url: &str, body: impl Into<Bytes>) -> Self {
        Self { method, body: body.into(), ..Self::get(url) }
    }

    /// Basic authentication, where both parts are given.
    pub fn authorize(mut self, name: Option<&str>, password: Option<&str>) -> Self {
        use base64::{Engine, engine::general_purpose::STANDARD};
        if let (Some(name), Some(password)) = (name, password) {
            self.authorization = Some(format!("Basic {}", STANDARD.encode(format!("{name}:{password}"))));
        }
        self
    }

    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// The answer, whatever its status.
    pub async fn run(self) -> Result<Response, HttpError> {
        let url = self.url.clone();
        let seconds = self.limit.as_secs_f32();
        let outcome = timeout(self.limit, self.talk()).await;
        outcome
            .unwrap_or_else(|_| Err(format!("no answer within {seconds} s")))
            .map_err(|reason| HttpError { url, reason })
    }

    async fn talk(self) -> Result<Response, String> {
        let uri: Uri = self.url.parse().map_err(|_| "not a URL".to_owned())?;
        if uri.scheme_str() != Some("http") {
            return Err("expected http://".to_owned());
        }
        let host = uri.host().ok_or("a URL without a host")?;
        let address = (host.trim_matches(['[', ']']), uri.port_u16().unwrap_or(80));
        let stream = TcpStream::connect(address).await.map_err(|error| plain(&error))?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| e.to_string())?;
        let target = uri.path_and_query().map_or("/", |path| path.as_str());
        let mut request = Request::builder()
            .method(self.method)
            .uri(target)
            .header(header::HOST, uri.authority().map_or("", |authority| authority.as_str()))
            .header(header::CONNECTION, "close");
        if let Some(authorization) = &self.authorization {
            request = request.header(header::AUTHORIZATION, authorization);
        }
        if !self.body.is_empty() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        let request = request.body(Full::new(self.body)).map_err(|error| error.to_string())?;
        let exchange = async {
            let response = sender.send_request(request).await.map_err(|error| error.to_string())?;
            let status = response.status().as_u16();
            let body = Limited::new(response.into_body(), BODY_MAX_BYTES).collect().await;
            Ok(Response { status, body: body.map_err(|error| error.to_string())?.to_bytes() })
        };
        let mut exchange = std::pin::pin!(exchange);
        let mut connection = std::pin::pin!(connection);
        tokio::select! {
            biased;
            done = &mut exchange => done,
            // The connection may end before the exchange has read what it left behind.
            ended = &mut connection => {
                if let Err(error) = ended {
                    return Err(error.to_string());
                }
                exchange.await
            }
        }
    }
}

fn plain(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        _ => error.to_string(),
    }
}
