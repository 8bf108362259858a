//! The one persistent connection to the local server, with a limit on everything.
//!
//! A stopped postmaster, a full connection table or a hung disk must show as a late answer, never hang
//! the agent. Whatever goes wrong, the connection is dropped and the next call makes a new one.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{sync::Mutex, time::timeout};
use tokio_postgres::{Client, Config, NoTls};

use super::{Error, Server, Settings, error::reason};

/// The monitoring connection; empty until the first call, and after a failure.
#[derive(Default)]
pub(super) struct Monitor {
    client: Mutex<Option<Arc<Session>>>,
}

/// An open connection and what it belongs to.
pub(super) struct Session {
    pub client: Client,
    /// Prepared once per connection; see `observe`.
    pub look: tokio::sync::OnceCell<tokio_postgres::Statement>,
    pid: i32,
    opened: Instant,
}

/// A connection that was made long ago says nothing of whether the postmaster still takes new ones.
const LIFETIME: Duration = Duration::from_secs(10);

impl Server {
    /// Runs `work` on the monitoring connection, within `query_timeout`.
    pub(super) async fn with_monitor<T>(
        &self,
        doing: &'static str,
        work: impl AsyncFnOnce(&Session) -> Result<T, tokio_postgres::Error>,
    ) -> Result<T, Error> {
        let settings = self.settings();
        let attempt = async {
            let session = self.session(&settings).await?;
            work(&session).await.map_err(Error::sql(doing))
        };
        let result = timeout(settings.query_timeout, attempt)
            .await
            .unwrap_or(Err(Error::Timeout { what: doing, limit: settings.query_timeout }));
        if result.is_err() {
            self.disconnect().await;
        }
        result
    }

    /// Drops the monitoring connection.
    pub(super) async fn disconnect(&self) {
        *self.monitor.client.lock().await = None;
    }

    async fn session(&self, settings: &Settings) -> Result<Arc<Session>, Error> {
        let mut slot = self.monitor.client.lock().await;
        let pid = self.adopt().map(|postmaster| postmaster.pid()).unwrap_or_default();
        if let Some(session) = slot.as_ref()
            && session.pid == pid
            && !session.client.is_closed()
            && session.opened.elapsed() < LIFETIME
        {
            return Ok(session.clone());
        }
        let client = connect(settings, "postgres").await?;
        let session =
            Arc::new(Session { client, look: tokio::sync::OnceCell::new(), pid, opened: Instant::now() });
        *slot = Some(session.clone());
        Ok(session)
    }

    /// A connection of its own for work that may take long. `limit` holds for connecting alone.
    pub(super) async fn connect(&self, limit: Duration) -> Result<Client, Error> {
        timeout(limit, connect(&self.settings(), "postgres"))
            .await
            .unwrap_or(Err(Error::Timeout { what: "connecting to PostgreSQL", limit }))
    }
}

/// Connects as the superuser: through the Unix socket, else over TCP.
async fn connect(settings: &Settings, database: &str) -> Result<Client, Error> {
    // Nothing that the agent does is worth a line in a log of statements, least of all its roles; and
    // messages that are compared have to be in one language.
    let options = format!(
        "-c log_statement=none -c log_min_duration_statement=-1 -c log_min_error_statement=panic \
         -c lc_messages=C -c search_path=pg_catalog -c statement_timeout={}",
        settings.query_timeout.as_millis()
    );
    let mut failures = Vec::new();
    for at in settings
        .socket()
        .map(|socket| socket.to_string_lossy().into_owned())
        .into_iter()
        .chain([settings.local_address().to_owned()])
    {
        let mut config = Config::new();
        config
            .host(&at)
            .port(settings.port)
            .user(&settings.superuser.username)
            .dbname(database)
            .application_name("pgfleet")
            .options(&options)
            .connect_timeout(settings.query_timeout);
        if let Some(password) = &settings.superuser.password {
            config.password(password.expose());
        }
        match config.connect(NoTls).await {
            Ok((client, connection)) => {
                tokio::spawn(connection);
                return Ok(client);
            }
            Err(error) => failures.push((at, reason(&error))),
        }
    }
    let at = failures.iter().map(|(at, _)| format!("{at}:{}", settings.port)).collect::<Vec<_>>().join(", ");
    let why = failures.into_iter().map(|(_, why)| why).collect::<Vec<_>>().join("; ");
    Err(Error::Connect { at, why })
}
