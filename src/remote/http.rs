//! A small HTTP/1.1 client for the cluster's own services: one request, one connection, one deadline. Larger
//! downloads, and those from elsewhere over TLS, are `fetch`'s.

use crate::tls::{self, Check, Client, ClientOptions, Identity, Pem};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Method, Request, Uri, header};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use std::{path::PathBuf, time::Duration};
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
    tls: Tls,
}

/// Files on the target with which `https://` is spoken, by the names that Ansible's `uri` has for them: the
/// argument `tls` of resources that ask a service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// The authority to trust.
    #[serde(default)]
    pub ca_path: Option<PathBuf>,
    #[serde(default)]
    pub client_cert: Option<PathBuf>,
    #[serde(default)]
    pub client_key: Option<PathBuf>,
}

impl Tls {
    /// Where the files of a role are on a host that pgfleet has given certificates.
    pub fn of_role(role: &str) -> Tls {
        let file = |name: String| Some(PathBuf::from("/etc/pgfleet/tls").join(name));
        Tls {
            ca_path: file("ca.crt".to_owned()),
            client_cert: file(format!("{role}.crt")),
            client_key: file(format!("{role}.key")),
        }
    }

    pub(crate) fn client(&self) -> Result<Client, tls::Error> {
        let file = |path: &Option<PathBuf>| path.clone().map(Pem::File);
        let identity = file(&self.client_cert).zip(file(&self.client_key));
        Client::new(ClientOptions {
            authority: file(&self.ca_path),
            identity: identity.map(|(certificate, key)| Identity { certificate, key }),
            check: Check::Name,
        })
    }
}

impl Call {
    pub fn get(url: &str) -> Self {
        Self {
            method: Method::GET,
            url: url.to_owned(),
            body: Bytes::new(),
            authorization: None,
            limit: Duration::from_secs(2),
            tls: Tls::default(),
        }
    }

    pub fn tls(mut self, tls: &Tls) -> Self {
        self.tls = tls.clone();
        self
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
        let client = match uri.scheme_str() {
            Some("http") => None,
            Some("https") => Some(self.tls.client().map_err(|error| error.to_string())?),
            _ => return Err("expected http:// or https://".to_owned()),
        };
        let host = uri.host().ok_or("a URL without a host")?;
        let port = uri.port_u16().unwrap_or(if client.is_some() { 443 } else { 80 });
        let stream = TcpStream::connect((host.trim_matches(['[', ']']), port)).await;
        let stream = stream.map_err(|error| plain(&error))?;
        let stream = tls::over(client.as_ref(), host, stream).await.map_err(|error| plain(&error))?;
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
