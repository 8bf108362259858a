//! The one persistent connection to the local server, with a limit on everything.
//!
//! A stopped postmaster, a full connection table or a hung disk must show as a late answer, never hang
//! the agent. Whatever goes wrong, the connection is dropped and the next call makes a new one.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{net::TcpStream, sync::Mutex, time::timeout};
use tokio_postgres::{Client, Config, NoTls};

use super::{Error, Server, Settings, Ssl, error::reason};

/// The monitoring connection; empty until the first call, and after a failure.
#[derive(Default)]
pub(super) struct Monitor {
    client: Mutex<Option<Arc<Session>>>,
    /// Whether TCP is what let us in last. A `pg_hba.conf` may have no line for the socket, and each
    /// attempt that is refused is a line in the server's log.
    by_tcp: AtomicBool,
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
const LIFETIME: Duration = Duration::from_secs(30);

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
        let client = self.open(settings).await?;
        let session =
            Arc::new(Session { client, look: tokio::sync::OnceCell::new(), pid, opened: Instant::now() });
        *slot = Some(session.clone());
        Ok(session)
    }

    /// A connection of its own for work that may take long. `limit` holds for connecting alone.
    pub(super) async fn connect(&self, limit: Duration) -> Result<Client, Error> {
        timeout(limit, self.open(&self.settings()))
            .await
            .unwrap_or(Err(Error::Timeout { what: "connecting to PostgreSQL", limit }))
    }

    /// Connects as the superuser: through the Unix socket or over TCP, first as it worked last.
    async fn open(&self, settings: &Settings) -> Result<Client, Error> {
        let socket = settings.socket().map(|socket| (false, socket.to_string_lossy().into_owned()));
        let tcp = (true, settings.local_address().to_owned());
        let mut ways: Vec<(bool, String)> = socket.into_iter().chain([tcp]).collect();
        if self.monitor.by_tcp.load(Ordering::Relaxed) {
            ways.reverse();
        }
        let mut failures = Vec::new();
        for (by_tcp, at) in &ways {
            match connect(settings, at, *by_tcp).await {
                Ok(client) => {
                    self.monitor.by_tcp.store(*by_tcp, Ordering::Relaxed);
                    return Ok(client);
                }
                Err(why) => failures.push(why),
            }
        }
        let at = ways.iter().map(|(_, at)| format!("{at}:{}", settings.port)).collect::<Vec<_>>().join(", ");
        Err(Error::Connect { at, why: failures.join("; ") })
    }
}

async fn connect(settings: &Settings, at: &str, by_tcp: bool) -> Result<Client, String> {
    // Nothing that the agent does is worth a line in a log of statements, least of all its roles; and
    // messages that are compared have to be in one language.
    let options = format!(
        "-c log_statement=none -c log_min_duration_statement=-1 -c log_min_error_statement=panic \
         -c lc_messages=C -c search_path=pg_catalog -c statement_timeout={}",
        settings.query_timeout.as_millis()
    );
    let mut config = Config::new();
    config
        .host(at)
        .port(settings.port)
        .user(&settings.superuser.username)
        .dbname("postgres")
        .application_name("pgfleet")
        .options(&options)
        .connect_timeout(settings.query_timeout);
    if let Some(password) = &settings.superuser.password {
        config.password(password.expose());
    }
    if by_tcp {
        return connect_tcp(&config, (at, settings.port), &settings.superuser.ssl).await;
    }
    let (client, connection) = config.connect(NoTls).await.map_err(|error| reason(&error))?;
    tokio::spawn(connection);
    Ok(client)
}

/// Connects to a server at an address, encrypted as `ssl` says. The error is in the server's own words.
pub(super) async fn connect_tcp(
    config: &Config,
    (host, port): (&str, u16),
    ssl: &Ssl,
) -> Result<Client, String> {
    let failed = |error: std::io::Error| error.to_string();
    let connecting = TcpStream::connect((host, port));
    let stream = match config.get_connect_timeout() {
        Some(limit) => {
            timeout(*limit, connecting).await.map_err(|_| format!("no answer within {limit:?}"))?
        }
        None => connecting.await,
    };
    let stream = stream.map_err(failed)?;
    stream.set_nodelay(true).map_err(failed)?;
    let wire = ssl.over(host, stream).await.map_err(failed)?;
    let (client, connection) = config.connect_raw(wire, NoTls).await.map_err(|error| reason(&error))?;
    tokio::spawn(connection);
    Ok(client)
}
