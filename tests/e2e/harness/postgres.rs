//! Connections to PostgreSQL from inside network namespaces.

use nix::sched::{CloneFlags, setns};
use pgfleet::tls::{self, Answered};
use std::{
    fs::File,
    future::Future,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::Duration,
};
use tokio::net::TcpStream;
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

const CONNECT_LIMIT: Duration = Duration::from_secs(1);
const QUERY_LIMIT: Duration = Duration::from_secs(10);

/// Who connects.
#[derive(Clone, Debug)]
pub struct Login {
    pub user: String,
    pub password: Option<String>,
    /// With which TLS is spoken, in a cluster that does.
    pub tls: Option<Arc<tls::Client>>,
}

/// Makes the calling thread a member of a namespace, for good.
pub fn enter(network: &Path) -> Result<(), String> {
    let file = File::open(network).map_err(|error| format!("{}: {error}", network.display()))?;
    setns(file, CloneFlags::CLONE_NEWNET).map_err(|errno| format!("{}: {errno}", network.display()))
}

/// Runs a future on the calling thread alone, so that it stays in the thread's network.
pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

/// A connection, driven on the runtime of the caller.
pub async fn connect(address: SocketAddr, login: &Login) -> Result<Client, String> {
    let mut config = tokio_postgres::Config::new();
    config.user(&login.user).dbname("postgres").application_name("pgfleet-test");
    if let Some(password) = &login.password {
        config.password(password);
    }
    let connecting = async {
        let failed = |error: std::io::Error| error.to_string();
        let stream = TcpStream::connect(address).await.map_err(failed)?;
        stream.set_nodelay(true).map_err(failed)?;
        let host = address.ip().to_string();
        let stream: tls::Wire = match &login.tls {
            None => Box::new(stream),
            Some(client) => match tls::request_postgres(client, &host, stream).await.map_err(failed)? {
                Answered::Encrypted(wire) => wire,
                Answered::Plain(_) => return Err("the server has no TLS".to_owned()),
            },
        };
        config.connect_raw(stream, NoTls).await.map_err(|error| said(&error))
    };
    let connected = tokio::time::timeout(CONNECT_LIMIT, connecting).await;
    let (client, connection) = connected.map_err(|_| "no answer".to_owned())??;
    tokio::spawn(connection);
    Ok(client)
}

/// The rows of a query as text, or what the server says against it.
pub async fn rows(client: &Client, sql: &str, limit: Duration) -> Result<Vec<Vec<String>>, String> {
    let answer = tokio::time::timeout(limit, client.simple_query(sql)).await;
    let messages = answer.map_err(|_| "no answer".to_owned())?.map_err(|error| said(&error))?;
    let rows = messages.into_iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => {
            Some((0..row.len()).map(|column| row.get(column).unwrap_or("").to_owned()).collect())
        }
        _ => None,
    });
    Ok(rows.collect())
}

/// As [`rows`], over a connection of its own from inside a namespace.
pub fn query(
    network: PathBuf,
    address: SocketAddr,
    login: Login,
    sql: &str,
) -> Result<Vec<Vec<String>>, String> {
    thread::scope(|scope| {
        let asking = scope.spawn(|| {
            enter(&network)?;
            block_on(async {
                let client = connect(address, &login).await?;
                rows(&client, sql, QUERY_LIMIT).await
            })
        });
        asking.join().unwrap()
    })
}

fn said(error: &tokio_postgres::Error) -> String {
    match error.as_db_error() {
        Some(error) => error.message().to_owned(),
        None => error.to_string(),
    }
}
