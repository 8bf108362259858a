//! PostgreSQL connections over streams that hosts open for us.

use super::access::{Access, NoWay};
use crate::{
    model::{HostName, Secret},
    tls::{self, Answered, Wire},
};
use std::time::Duration;
use tokio_postgres::{Client, Config, NoTls, error::SqlState};

/// A statement or connection that failed.
#[derive(Debug, thiserror::Error)]
pub enum SqlError {
    #[error("{0}")]
    NoWay(String),
    #[error("no answer within {} s", .0.as_secs_f32())]
    TimedOut(Duration),
    #[error("{}", database_text(.0))]
    Database(#[from] tokio_postgres::Error),
}

impl SqlError {
    /// Whether the server refuses to write because it is a standby.
    pub fn is_read_only(&self) -> bool {
        matches!(self, Self::Database(error) if error.code() == Some(&SqlState::READ_ONLY_SQL_TRANSACTION))
    }

    /// Whether the statement was understood and refused, in contrast to a connection that broke.
    pub fn is_refusal(&self) -> bool {
        matches!(self, Self::Database(error) if error.as_db_error().is_some_and(|error| !error.severity().eq("FATAL")))
    }
}

impl From<NoWay<'_>> for SqlError {
    fn from(error: NoWay<'_>) -> Self {
        Self::NoWay(error.to_string())
    }
}

/// The server's own words; the library's are about its own layers.
fn database_text(error: &tokio_postgres::Error) -> String {
    match (error.as_db_error(), std::error::Error::source(error)) {
        (Some(said), _) => format!("{} ({})", said.message(), said.code().code()),
        (None, Some(source)) => format!("{error}: {source}"),
        (None, None) => error.to_string(),
    }
}

/// Logs in to `address:port` as `superuser`, over a stream that `through` opens.
pub async fn connect(
    access: &Access,
    through: &HostName,
    endpoint: (&str, u16),
    superuser: &(String, Secret),
    within: Duration,
) -> Result<Client, SqlError> {
    connect_to(access, through, (endpoint, "postgres"), superuser, within).await
}

/// As [`connect`], to a database.
pub async fn connect_to(
    access: &Access,
    through: &HostName,
    ((address, port), database): ((&str, u16), &str),
    (user, password): &(String, Secret),
    within: Duration,
) -> Result<Client, SqlError> {
    let connect = async {
        let stream = access.tunnel(through, address, port).await?;
        let stream: Wire = match access.tls() {
            None => Box::new(stream),
            Some(tls) => match tls::request_postgres(tls, address, stream).await {
                Ok(Answered::Encrypted(wire)) => wire,
                Ok(Answered::Plain(_)) => return Err(SqlError::NoWay("PostgreSQL has no TLS".to_owned())),
                Err(error) => return Err(SqlError::NoWay(error.to_string())),
            },
        };
        let mut config = Config::new();
        config.user(user).password(password.expose()).dbname(database).application_name("pgfleet");
        let (client, connection) = config.connect_raw(stream, NoTls).await?;
        // Ends when the client is dropped; its error shows in the client's next statement.
        tokio::spawn(connection);
        Ok(client)
    };
    tokio::time::timeout(within, connect).await.unwrap_or(Err(SqlError::TimedOut(within)))
}

/// Runs statements that return nothing.
pub async fn execute(client: &Client, statements: &str, within: Duration) -> Result<(), SqlError> {
    match tokio::time::timeout(within, client.batch_execute(statements)).await {
        Ok(done) => Ok(done?),
        Err(_) => Err(SqlError::TimedOut(within)),
    }
}

/// The one text that `query` returns; `None` when there is no row or it is null.
pub async fn text(client: &Client, query: &str, within: Duration) -> Result<Option<String>, SqlError> {
    use tokio_postgres::SimpleQueryMessage::Row;
    match tokio::time::timeout(within, client.simple_query(query)).await {
        Ok(messages) => Ok(messages?.iter().find_map(|message| match message {
            Row(row) => row.get(0).map(str::to_owned),
            _ => None,
        })),
        Err(_) => Err(SqlError::TimedOut(within)),
    }
}
