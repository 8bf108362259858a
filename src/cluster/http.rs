//! One HTTP request over a stream that somebody else opened.

use crate::model::Secret;
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{Method, Request, client::conn::http1::SendRequest, header};
use hyper_util::rt::TokioIo;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};

/// No answer that is read here is larger.
const LARGEST_ANSWER_BYTES: usize = 8 * 1024 * 1024;

/// A request without an answer.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    #[error("no answer within {} s", .0.as_secs_f32())]
    TimedOut(Duration),
    #[error("{0}")]
    Failed(String),
}

/// An answer, whatever its code.
#[derive(Clone, Debug)]
pub struct Answer {
    pub code: u16,
    pub body: Bytes,
}

impl Answer {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).trim().to_owned()
    }

    pub fn json<T: serde::de::DeserializeOwned>(&self) -> Result<T, HttpError> {
        serde_json::from_slice(&self.body)
            .map_err(|error| HttpError::Failed(format!("code {}: {error}: {:.200}", self.code, self.text())))
    }
}

/// What is sent.
pub struct Question<'a> {
    pub method: Method,
    pub path: &'a str,
    /// As JSON.
    pub body: Option<serde_json::Value>,
    pub login: Option<&'a (String, Secret)>,
    pub within: Duration,
}

impl<'a> Question<'a> {
    pub fn get(path: &'a str, within: Duration) -> Self {
        Self { method: Method::GET, path, body: None, login: None, within }
    }

    pub fn post(path: &'a str, body: serde_json::Value, within: Duration) -> Self {
        Self { method: Method::POST, path, body: Some(body), login: None, within }
    }

    pub fn patch(path: &'a str, body: serde_json::Value, within: Duration) -> Self {
        Self { method: Method::PATCH, ..Self::post(path, body, within) }
    }
}

/// Sends `question` over `stream` to what calls itself `host`, and reads the answer.
pub async fn ask<S>(stream: S, host: &str, question: Question<'_>) -> Result<Answer, HttpError>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let within = question.within;
    let ask = async { Connection::over(stream).await?.exchange(host, question).await };
    tokio::time::timeout(within, ask).await.map_err(|_| HttpError::TimedOut(within))?
}

fn failed(error: impl std::fmt::Display) -> HttpError {
    HttpError::Failed(error.to_string())
}

/// A stream that answers one question after another.
pub struct Connection(SendRequest<Full<Bytes>>);

impl Connection {
    pub async fn over<S>(stream: S) -> Result<Self, HttpError>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let (sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(failed)?;
        // The task ends with the connection, which `sender` ends when it is dropped.
        tokio::spawn(connection);
        Ok(Self(sender))
    }

    /// Asks, and reads the answer. After an error the connection is of no more use.
    pub async fn ask(&mut self, host: &str, question: Question<'_>) -> Result<Answer, HttpError> {
        let within = question.within;
        tokio::time::timeout(within, self.exchange(host, question))
            .await
            .map_err(|_| HttpError::TimedOut(within))?
    }

    async fn exchange(&mut self, host: &str, question: Question<'_>) -> Result<Answer, HttpError> {
        let request = request(host, question)?;
        self.0.ready().await.map_err(failed)?;
        let answer = self.0.send_request(request).await.map_err(failed)?;
        let code = answer.status().as_u16();
        let body = Limited::new(answer.into_body(), LARGEST_ANSWER_BYTES).collect().await;
        Ok(Answer { code, body: body.map_err(failed)?.to_bytes() })
    }
}

fn request(host: &str, question: Question<'_>) -> Result<Request<Full<Bytes>>, HttpError> {
    let mut request =
        Request::builder().method(question.method).uri(question.path).header(header::HOST, host);
    if let Some((user, password)) = question.login {
        let pair = zeroize::Zeroizing::new(format!("{user}:{}", password.expose()));
        request = request.header(header::AUTHORIZATION, format!("Basic {}", BASE64.encode(pair.as_bytes())));
    }
    let body = question.body.map(|body| body.to_string()).unwrap_or_default();
    request
        .header(header::CONTENT_TYPE, "application/json")
        .body(Full::new(Bytes::from(body)))
        .map_err(failed)
}
