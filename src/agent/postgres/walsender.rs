//! A replication connection to another server, for the two commands that tell its history.
//!
//! tokio-postgres has no replication mode, so the start of the protocol is spoken here, with the
//! messages and the SCRAM exchange of postgres-protocol.

use std::time::Duration;

use bytes::BytesMut;
use postgres_protocol::{
    authentication::{
        md5_hash,
        sasl::{ChannelBinding, SCRAM_SHA_256, ScramSha256},
    },
    message::{
        backend::{DataRowBody, ErrorResponseBody, Message},
        frontend,
    },
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_postgres::fallible_iterator::FallibleIterator;

use super::{Credentials, Error, History, Upstream};
use crate::{
    model::{Lsn, Timeline},
    tls::Wire,
};

/// Longest wait for one step of the conversation.
const STEP_LIMIT: Duration = Duration::from_secs(3);

/// Who a server is and where it is (`IDENTIFY_SYSTEM`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct System {
    pub system_identifier: String,
    pub timeline: Timeline,
    /// The end of what it has flushed, or on a standby received.
    pub end: Lsn,
}

/// An open replication connection.
pub(super) struct Walsender {
    stream: Wire,
    buffer: BytesMut,
    at: String,
}

type Row = Vec<Option<String>>;

impl Walsender {
    /// Connects and logs in. Errors name the server and its own words.
    pub async fn connect(upstream: &Upstream, role: &Credentials) -> Result<Walsender, Error> {
        let at = format!("{}:{}", upstream.host, upstream.port);
        let failed = |why: String| Error::Connect { at: at.clone(), why };
        let stream = timeout(STEP_LIMIT, TcpStream::connect((upstream.host.as_str(), upstream.port)))
            .await
            .map_err(|_| failed(format!("no answer within {STEP_LIMIT:?}")))?
            .map_err(|error| failed(error.to_string()))?;
        let stream = timeout(STEP_LIMIT, role.ssl.over(&upstream.host, stream))
            .await
            .map_err(|_| failed(format!("no answer within {STEP_LIMIT:?}")))?
            .map_err(|error| failed(error.to_string()))?;
        let mut walsender = Walsender { stream, buffer: BytesMut::new(), at: at.clone() };
        timeout(STEP_LIMIT, walsender.log_in(role))
            .await
            .map_err(|_| failed(format!("no answer within {STEP_LIMIT:?}")))??;
        Ok(walsender)
    }

    /// The server's identity and position.
    pub async fn identify_system(&mut self) -> Result<System, Error> {
        let rows = self.query("IDENTIFY_SYSTEM").await?;
        let system = rows.first().and_then(|row| {
            let column = |index: usize| row.get(index).cloned().flatten();
            Some(System {
                system_identifier: column(0)?,
                timeline: column(1)?.parse().ok()?,
                end: column(2)?.parse().ok()?,
            })
        });
        system.ok_or_else(|| self.error("answers IDENTIFY_SYSTEM with something unknown"))
    }

    /// The ancestors of its `timeline`.
    pub async fn timeline_history(&mut self, timeline: Timeline) -> Result<History, Error> {
        if timeline == 1 {
            return Ok(History { timeline, switches: Vec::new() });
        }
        let rows = self.query(&format!("TIMELINE_HISTORY {timeline}")).await?;
        let content = rows.first().and_then(|row| row.get(1).cloned().flatten());
        let content = content.ok_or_else(|| self.error("answers TIMELINE_HISTORY with something unknown"))?;
        Ok(History::parse(timeline, &content))
    }

    /// Says good-bye, so that the server's log has no complaint.
    pub async fn close(mut self) {
        let goodbye = self.send(|buffer| {
            frontend::terminate(buffer);
            Ok(())
        });
        let _ = timeout(STEP_LIMIT, goodbye).await;
    }

    fn error(&self, why: impl Into<String>) -> Error {
        Error::Upstream { at: self.at.clone(), why: why.into() }
    }

    async fn log_in(&mut self, role: &Credentials) -> Result<(), Error> {
        let password = role.password.as_ref().map(|password| password.expose().as_bytes());
        let parameters =
            [("user", role.username.as_str()), ("replication", "true"), ("application_name", "pgfleet")];
        self.send(|buffer| frontend::startup_message(parameters, buffer)).await?;
        let mut scram: Option<ScramSha256> = None;
        loop {
            let wanted = |walsender: &Self| {
                password.ok_or_else(|| {
                    walsender
                        .error(format!("wants a password for `{}`, and none is configured", role.username))
                })
            };
            match self.receive().await? {
                Message::AuthenticationOk => {}
                Message::AuthenticationCleartextPassword => {
                    let password = wanted(self)?;
                    self.send(|buffer| frontend::password_message(password, buffer)).await?;
                }
                Message::AuthenticationMd5Password(body) => {
                    let hash = md5_hash(role.username.as_bytes(), wanted(self)?, body.salt());
                    self.send(|buffer| frontend::password_message(hash.as_bytes(), buffer)).await?;
                }
                Message::AuthenticationSasl(_) => {
                    let exchange = ScramSha256::new(wanted(self)?, ChannelBinding::unsupported());
                    self.send(|buffer| {
                        frontend::sasl_initial_response(SCRAM_SHA_256, exchange.message(), buffer)
                    })
                    .await?;
                    scram = Some(exchange);
                }
                Message::AuthenticationSaslContinue(body) => {
                    let Some(exchange) = scram.as_mut() else {
                        return Err(self.error("breaks the protocol"));
                    };
                    exchange.update(body.data()).map_err(|error| self.error(error.to_string()))?;
                    self.send(|buffer| frontend::sasl_response(exchange.message(), buffer)).await?;
                }
                Message::AuthenticationSaslFinal(body) => {
                    let Some(exchange) = scram.as_mut() else {
                        return Err(self.error("breaks the protocol"));
                    };
                    // It does not know the password either: an impostor, or a proxy.
                    exchange.finish(body.data()).map_err(|error| self.error(error.to_string()))?;
                }
                Message::ReadyForQuery(_) => return Ok(()),
                Message::BackendKeyData(_) | Message::ParameterStatus(_) | Message::NoticeResponse(_) => {}
                Message::ErrorResponse(body) => return Err(self.refused(&body)),
                _ => return Err(self.error("asks for a way to log in that is not supported")),
            }
        }
    }

    async fn query(&mut self, command: &str) -> Result<Vec<Row>, Error> {
        let conversation = async {
            self.send(|buffer| frontend::query(command, buffer)).await?;
            let (mut rows, mut refused) = (Vec::new(), None);
            loop {
                match self.receive().await? {
                    Message::DataRow(body) => {
                        rows.push(columns(&body).map_err(|error| self.error(error.to_string()))?);
                    }
                    Message::ErrorResponse(body) => refused = Some(self.refused(&body)),
                    Message::ReadyForQuery(_) => return refused.map_or(Ok(rows), Err),
                    _ => {}
                }
            }
        };
        timeout(STEP_LIMIT, conversation)
            .await
            .unwrap_or(Err(Error::Timeout { what: "a replication command", limit: STEP_LIMIT }))
    }

    async fn send(&mut self, write: impl FnOnce(&mut BytesMut) -> std::io::Result<()>) -> Result<(), Error> {
        let mut message = BytesMut::new();
        write(&mut message).map_err(|error| self.error(error.to_string()))?;
        let sent = async {
            self.stream.write_all(&message).await?;
            self.stream.flush().await
        };
        sent.await.map_err(|error: std::io::Error| self.error(format!("hung up: {error}")))
    }

    async fn receive(&mut self) -> Result<Message, Error> {
        loop {
            let parsed = Message::parse(&mut self.buffer);
            if let Some(message) = parsed.map_err(|error| self.error(error.to_string()))? {
                return Ok(message);
            }
            let read = self.stream.read_buf(&mut self.buffer).await;
            if read.map_err(|error| self.error(format!("hung up: {error}")))? == 0 {
                return Err(self.error("hung up"));
            }
        }
    }

    fn refused(&self, body: &ErrorResponseBody) -> Error {
        let mut fields = body.fields();
        let mut message = String::new();
        while let Ok(Some(field)) = fields.next() {
            // `M` is the primary message (protocol documentation, "Error and Notice Message Fields").
            if field.type_() == b'M' {
                message = String::from_utf8_lossy(field.value_bytes()).into_owned();
            }
        }
        self.error(format!("refuses us: {message}"))
    }
}

fn columns(body: &DataRowBody) -> std::io::Result<Row> {
    let text = |range: Option<std::ops::Range<usize>>| {
        range.map(|range| String::from_utf8_lossy(&body.buffer()[range]).into_owned())
    };
    body.ranges().map(|range| Ok(text(range))).collect()
}
