//! One request to etcd's JSON gateway: a deadline for every attempt, another endpoint for the next one.
//! Owns connections and the token; knows nothing of keys and leases.

use crate::{
    agent::clock::BootTime,
    model::Secret,
    tls::{self, Client},
};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{
    Request, Response, StatusCode,
    body::Incoming,
    client::conn::http1::{self, SendRequest},
    header,
};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{net::TcpStream, sync::watch};

/// An etcd server's client address.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Endpoint {
    pub host: String,
    pub port: u16,
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

/// Name and password of an etcd user.
#[derive(Clone, Debug)]
pub struct Login {
    pub username: String,
    pub password: Secret,
}

/// An answer that etcd gave.
pub struct Answer {
    pub body: Value,
    /// When the attempt that was answered was sent.
    pub sent_at: BootTime,
    /// Which endpoint answered.
    pub endpoint: usize,
    /// An earlier attempt may have been carried out although its answer never came.
    pub repeated: bool,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GatewayError {
    /// etcd knows no such lease.
    #[error("etcd knows no such lease")]
    LeaseNotFound,
    /// No endpoint gave an answer that is understood. Says what each of them did.
    #[error("{0}")]
    NoAnswer(String),
}

/// How one attempt ended, when not with an answer.
enum Attempt {
    /// It never left this machine.
    NotSent(String),
    /// It may have been carried out.
    Unknown(String),
    LeaseNotFound,
    /// The token is missing or no longer valid.
    Unauthenticated(String),
}

type Connection = SendRequest<Full<Bytes>>;

/// Answers are a few kilobytes; more than this isn't etcd.
const LONGEST_ANSWER: usize = 8 << 20;
/// etcd hashes the password on purpose slowly. Logins are rare: once, and when the token was lost.
const LOGIN_TIMEOUT: Duration = Duration::from_secs(2);
/// Connections kept open to each endpoint.
const IDLE_CONNECTIONS: usize = 4;

pub struct Gateway {
    endpoints: Vec<Endpoint>,
    request_timeout: Duration,
    login: Option<Login>,
    tls: Option<Arc<Client>>,
    token: Mutex<Option<String>>,
    /// The endpoint that answered last: the first to be asked.
    preferred: AtomicUsize,
    idle: Mutex<HashMap<usize, Vec<Connection>>>,
    /// The endpoint that last left a request without an answer.
    suspect: watch::Sender<Option<usize>>,
}

impl Gateway {
    pub fn new(
        endpoints: Vec<Endpoint>,
        request_timeout: Duration,
        login: Option<Login>,
        tls: Option<Arc<Client>>,
    ) -> Self {
        Self {
            endpoints,
            request_timeout,
            login,
            tls,
            token: Mutex::default(),
            preferred: AtomicUsize::new(0),
            idle: Mutex::default(),
            suspect: watch::channel(None).0,
        }
    }

    /// Asks one endpoint after another, each once, beginning with the one that answered last.
    pub async fn call(&self, path: &str, body: &Value) -> Result<Answer, GatewayError> {
        self.call_from(self.preferred.load(Ordering::Relaxed), path, body).await
    }

    /// Asks one endpoint alone. For reads that must be answered by whom an earlier request was.
    pub async fn call_one(&self, endpoint: usize, path: &str, body: &Value) -> Result<Answer, GatewayError> {
        let sent_at = BootTime::now();
        match self.attempt_with_token(endpoint, path, body).await {
            Ok(body) => Ok(Answer { body, sent_at, endpoint, repeated: false }),
            Err(Attempt::LeaseNotFound) => Err(GatewayError::LeaseNotFound),
            Err(Attempt::NotSent(why) | Attempt::Unknown(why) | Attempt::Unauthenticated(why)) => {
                self.avoid(endpoint);
                Err(GatewayError::NoAnswer(format!("{}: {why}", self.endpoints[endpoint])))
            }
        }
    }

    async fn call_from(&self, first: usize, path: &str, body: &Value) -> Result<Answer, GatewayError> {
        let mut repeated = false;
        let mut said = Vec::new();
        for turn in 0..self.endpoints.len() {
            let endpoint = (first + turn) % self.endpoints.len();
            let sent_at = BootTime::now();
            match self.attempt_with_token(endpoint, path, body).await {
                Ok(body) => {
                    self.preferred.store(endpoint, Ordering::Relaxed);
                    return Ok(Answer { body, sent_at, endpoint, repeated });
                }
                Err(Attempt::LeaseNotFound) => return Err(GatewayError::LeaseNotFound),
                Err(Attempt::NotSent(why) | Attempt::Unauthenticated(why)) => {
                    said.push(format!("{}: {why}", self.endpoints[endpoint]));
                }
                Err(Attempt::Unknown(why)) => {
                    repeated = true;
                    said.push(format!("{}: {why}", self.endpoints[endpoint]));
                }
            }
        }
        self.avoid(first % self.endpoints.len().max(1));
        Err(GatewayError::NoAnswer(match said.is_empty() {
            true => "no etcd endpoint is configured".to_owned(),
            false => said.join("; "),
        }))
    }

    /// How long [`Gateway::call`] may take: one attempt at each endpoint.
    pub fn longest_call(&self) -> Duration {
        let login = if self.login.is_some() { LOGIN_TIMEOUT } else { Duration::ZERO };
        self.request_timeout * u32::try_from(self.endpoints.len()).unwrap_or(u32::MAX) + login
    }

    /// Resolves when a request to this endpoint is left without an answer.
    pub async fn suspected(&self, endpoint: usize) {
        let mut suspect = self.suspect.subscribe();
        suspect.mark_unchanged();
        while suspect.changed().await.is_ok() {
            if *suspect.borrow_and_update() == Some(endpoint) {
                return;
            }
        }
    }

    /// Begins the next call at another endpoint than this one.
    pub fn avoid(&self, endpoint: usize) {
        let next = (endpoint + 1) % self.endpoints.len().max(1);
        let _ = self.preferred.compare_exchange(endpoint, next, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// One attempt; a second one with a fresh token when etcd refuses the token.
    async fn attempt_with_token(&self, endpoint: usize, path: &str, body: &Value) -> Result<Value, Attempt> {
        let used = self.token(endpoint).await?;
        match self.attempt(endpoint, path, body, used.as_deref(), self.request_timeout).await {
            Err(Attempt::Unauthenticated(_)) if self.login.is_some() => {
                self.forget_token(used.as_deref());
                let fresh = self.token(endpoint).await?;
                self.attempt(endpoint, path, body, fresh.as_deref(), self.request_timeout).await
            }
            other => other,
        }
    }

    async fn token(&self, endpoint: usize) -> Result<Option<String>, Attempt> {
        let Some(login) = &self.login else { return Ok(None) };
        if let Some(token) = self.token.lock().unwrap_or_else(PoisonError::into_inner).clone() {
            return Ok(Some(token));
        }
        let body = json!({"name": login.username, "password": login.password.expose()});
        let answer = self.attempt(endpoint, "/v3/auth/authenticate", &body, None, LOGIN_TIMEOUT).await;
        let answer = answer.map_err(|attempt| match attempt {
            // Nothing of the caller's has been sent yet.
            Attempt::Unknown(why) => Attempt::NotSent(why),
            other => other,
        })?;
        let token = answer["token"].as_str().map(str::to_owned);
        if token.is_none() {
            return Err(Attempt::NotSent("no token in the answer to the login".to_owned()));
        }
        self.token.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&token);
        Ok(token)
    }

    fn forget_token(&self, used: Option<&str>) {
        let mut token = self.token.lock().unwrap_or_else(PoisonError::into_inner);
        if token.as_deref() == used {
            *token = None;
        }
    }

    async fn attempt(
        &self,
        endpoint: usize,
        path: &str,
        body: &Value,
        token: Option<&str>,
        limit: Duration,
    ) -> Result<Value, Attempt> {
        let exchange = async {
            let (mut connection, answer) = self.send(endpoint, path, body, token).await?;
            let status = answer.status();
            let text = http_body_util::Limited::new(answer.into_body(), LONGEST_ANSWER).collect().await;
            let text = text.map_err(|why| Attempt::Unknown(why.to_string()))?.to_bytes();
            if connection.ready().await.is_ok() {
                self.put_idle(endpoint, connection);
            }
            judge(status, &text)
        };
        match tokio::time::timeout(limit, exchange).await {
            Ok(result) => result,
            Err(_) => {
                self.suspect.send_replace(Some(endpoint));
                Err(Attempt::Unknown(format!("no answer within {} ms", limit.as_millis())))
            }
        }
    }

    /// Sends on a connection that is open already; on a fresh one where that turns out to be closed.
    async fn send(
        &self,
        endpoint: usize,
        path: &str,
        body: &Value,
        token: Option<&str>,
    ) -> Result<(Connection, Response<Incoming>), Attempt> {
        if let Some(mut connection) = self.take_idle(endpoint) {
            match connection.send_request(self.request(endpoint, path, body, token)?).await {
                Ok(answer) => return Ok((connection, answer)),
                // Cancelled: not a byte of it was written.
                Err(why) if why.is_canceled() => {}
                Err(why) => return Err(Attempt::Unknown(describe(&why))),
            }
        }
        let mut connection = self.connect(endpoint).await.map_err(|why| Attempt::NotSent(why.to_string()))?;
        let answer = connection.send_request(self.request(endpoint, path, body, token)?).await;
        answer.map(|answer| (connection, answer)).map_err(|why| Attempt::Unknown(describe(&why)))
    }

    fn request(
        &self,
        endpoint: usize,
        path: &str,
        body: &Value,
        token: Option<&str>,
    ) -> Result<Request<Full<Bytes>>, Attempt> {
        let mut request = Request::post(path)
            .header(header::HOST, self.endpoints[endpoint].to_string())
            .header(header::CONTENT_TYPE, "application/json");
        if let Some(token) = token {
            request = request.header(header::AUTHORIZATION, token);
        }
        request
            .body(Full::new(Bytes::from(body.to_string())))
            .map_err(|why| Attempt::NotSent(format!("not a valid request: {why}")))
    }

    /// Opens a stream of answers (a watch) at one endpoint. Only its beginning has a deadline.
    pub async fn stream(&self, endpoint: usize, path: &str, body: &Value) -> Result<Stream, GatewayError> {
        let no_answer = |why: String| GatewayError::NoAnswer(format!("{}: {why}", self.endpoints[endpoint]));
        let begin = async {
            let token = self.token(endpoint).await?;
            let mut connection =
                self.connect(endpoint).await.map_err(|why| Attempt::NotSent(why.to_string()))?;
            let request = self.request(endpoint, path, body, token.as_deref())?;
            let answer =
                connection.send_request(request).await.map_err(|why| Attempt::Unknown(describe(&why)))?;
            Ok((connection, answer))
        };
        let (connection, answer) =
            match tokio::time::timeout(self.request_timeout + LOGIN_TIMEOUT, begin).await {
                Ok(Ok(begun)) => begun,
                Ok(Err(Attempt::LeaseNotFound)) => return Err(GatewayError::LeaseNotFound),
                Ok(Err(Attempt::NotSent(why) | Attempt::Unknown(why) | Attempt::Unauthenticated(why))) => {
                    return Err(no_answer(why));
                }
                Err(_) => return Err(no_answer("no answer in time".to_owned())),
            };
        if answer.status() != StatusCode::OK {
            self.token.lock().unwrap_or_else(PoisonError::into_inner).take();
            return Err(no_answer(format!("HTTP {}", answer.status())));
        }
        Ok(Stream { _connection: connection, body: answer.into_body(), buffer: Vec::new() })
    }

    async fn connect(&self, endpoint: usize) -> std::io::Result<Connection> {
        let Endpoint { host, port } = &self.endpoints[endpoint];
        let stream = TcpStream::connect((host.as_str(), *port)).await?;
        stream.set_nodelay(true)?;
        // A watch is silent for as long as nothing happens: only probes show that the other end is gone.
        let probes = socket2::TcpKeepalive::new()
            .with_time(Duration::from_secs(2))
            .with_interval(Duration::from_secs(1))
            .with_retries(2);
        socket2::SockRef::from(&stream).set_tcp_keepalive(&probes)?;
        let stream = tls::over(self.tls.as_deref(), host, stream).await?;
        let (sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(std::io::Error::other)?;
        // Ends when the sender is dropped or the other end closes; the sender then reports the error.
        tokio::spawn(async move { drop(connection.await) });
        Ok(sender)
    }

    fn take_idle(&self, endpoint: usize) -> Option<Connection> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let connections = idle.get_mut(&endpoint)?;
        while let Some(connection) = connections.pop() {
            if connection.is_ready() {
                return Some(connection);
            }
        }
        None
    }

    fn put_idle(&self, endpoint: usize, connection: Connection) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let connections = idle.entry(endpoint).or_default();
        if connections.len() < IDLE_CONNECTIONS {
            connections.push(connection);
        }
    }
}

fn describe(error: &hyper::Error) -> String {
    use std::error::Error as _;
    error.source().map_or_else(|| error.to_string(), |cause| format!("{error}: {cause}"))
}

/// What an answer means. Whatever is not a plain success or a known refusal is of unknown outcome.
fn judge(status: StatusCode, text: &[u8]) -> Result<Value, Attempt> {
    let body: Value = serde_json::from_slice(text)
        .map_err(|_| Attempt::Unknown(format!("HTTP {status} without a JSON body")))?;
    // A streaming call (lease/keepalive) reports its errors with status 200.
    let error = body.get("error").or_else(|| body.pointer("/result/error"));
    if status == StatusCode::OK && error.is_none() && body.is_object() {
        return Ok(body);
    }
    let message = error
        .and_then(|error| error.as_str().or_else(|| error.get("message")?.as_str()))
        .or_else(|| body["message"].as_str())
        .unwrap_or("no reason given")
        .to_owned();
    let code = body["code"].as_i64().or_else(|| error?.get("grpc_code")?.as_i64());
    if message.contains("requested lease not found") {
        return Err(Attempt::LeaseNotFound);
    }
    let no_token = ["invalid auth token", "user name is empty", "auth: revision in header is old"];
    if code == Some(16) || no_token.iter().any(|sign| message.contains(sign)) {
        return Err(Attempt::Unauthenticated(message));
    }
    Err(Attempt::Unknown(message))
}

/// A stream of JSON answers, one per line.
pub struct Stream {
    _connection: Connection,
    body: Incoming,
    buffer: Vec<u8>,
}

impl Stream {
    /// The next answer; an error when the stream has ended or makes no sense.
    pub async fn next(&mut self) -> Result<Value, GatewayError> {
        let no_answer = |why: &str| GatewayError::NoAnswer(why.to_owned());
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                if line.trim_ascii().is_empty() {
                    continue;
                }
                return serde_json::from_slice(&line)
                    .map_err(|_| no_answer("the stream holds something else than JSON"));
            }
            if self.buffer.len() > LONGEST_ANSWER {
                return Err(no_answer("the stream holds a line without end"));
            }
            match self.body.frame().await {
                Some(Ok(frame)) => {
                    if let Some(data) = frame.data_ref() {
                        self.buffer.extend_from_slice(data);
                    }
                }
                Some(Err(why)) => return Err(no_answer(&describe(&why))),
                None => return Err(no_answer("the stream ended")),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(status: u16, text: &str) -> &'static str {
        match judge(StatusCode::from_u16(status).unwrap(), text.as_bytes()) {
            Ok(_) => "answer",
            Err(Attempt::LeaseNotFound) => "no lease",
            Err(Attempt::Unauthenticated(_)) => "no token",
            Err(Attempt::Unknown(_)) => "unknown",
            Err(Attempt::NotSent(_)) => "not sent",
        }
    }

    #[test]
    fn what_is_not_understood_is_of_unknown_outcome() {
        assert_eq!(verdict(200, r#"{"header":{"revision":"5"}}"#), "answer");
        assert_eq!(verdict(200, r#"{"result":{"header":{},"ID":"7","TTL":"5"}}"#), "answer");
        let gone = r#"{"error":"etcdserver: requested lease not found","code":5,"message":"etcdserver: requested lease not found"}"#;
        assert_eq!(verdict(404, gone), "no lease");
        assert_eq!(verdict(401, r#"{"error":"etcdserver: invalid auth token","code":16}"#), "no token");
        assert_eq!(verdict(400, r#"{"error":"etcdserver: user name is empty","code":3}"#), "no token");
        for (status, text) in [
            (503, r#"{"error":"etcdserver: request timed out","code":14}"#),
            (503, r#"{"error":"etcdserver: no leader","code":14}"#),
            (500, r#"{"error":"lease: not a primary lessor","code":2}"#),
            (200, r#"{"error":{"grpc_code":14,"http_code":503,"message":"etcdserver: no leader"}}"#),
            (200, r#"[]"#),
            (200, "<html>"),
            (404, ""),
        ] {
            assert_eq!(verdict(status, text), "unknown", "{text}");
        }
    }
}
