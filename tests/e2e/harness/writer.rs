//! A client that writes row after row through an entry point and remembers what was acknowledged.

use super::postgres::{Login, block_on, connect, enter};
use std::{
    collections::HashSet,
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};
use tokio_postgres::Client;

/// Between one write and the next.
const PAUSE: Duration = Duration::from_millis(20);
/// A client gives up on a write after this.
const WRITE_LIMIT: Duration = Duration::from_secs(1);
const CREATE: &str =
    "CREATE TABLE IF NOT EXISTS written (id bigint PRIMARY KEY, at timestamptz DEFAULT clock_timestamp())";

/// What a writer has seen.
#[derive(Clone, Debug, Default)]
pub struct Written {
    /// Each acknowledged row's number and when the acknowledgement came.
    pub acknowledged: Vec<(i64, Instant)>,
    /// Each failed attempt, and what was said.
    pub failed: Vec<(Instant, String)>,
}

impl Written {
    /// The longest time between two acknowledgements that follow each other.
    pub fn longest_gap(&self) -> Duration {
        let times = self.acknowledged.iter().map(|(_, at)| *at);
        times.clone().zip(times.skip(1)).map(|(one, next)| next - one).max().unwrap_or_default()
    }

    /// The acknowledged rows that are not among these.
    pub fn missing_from(&self, present: &[Vec<String>]) -> Vec<i64> {
        let present: HashSet<i64> = present.iter().filter_map(|row| row.first()?.parse().ok()).collect();
        self.acknowledged.iter().map(|(id, _)| *id).filter(|id| !present.contains(id)).collect()
    }
}

/// A running writer; it stops when it is dropped.
pub struct Writer {
    stop: Arc<AtomicBool>,
    seen: Arc<Mutex<Written>>,
    thread: Option<JoinHandle<()>>,
}

/// The query that lists what is there of the writers' rows.
pub const ROWS: &str = "SELECT id FROM written";

impl Writer {
    /// Starts to write from inside a network, and returns when the first row is acknowledged.
    #[track_caller]
    pub fn start(network: PathBuf, entry: SocketAddr, login: Login) -> Writer {
        let stop = Arc::new(AtomicBool::new(false));
        let seen = Arc::new(Mutex::new(Written::default()));
        let thread = thread::spawn({
            let (stop, seen) = (Arc::clone(&stop), Arc::clone(&seen));
            move || {
                enter(&network).unwrap();
                block_on(write(&stop, &seen, entry, &login));
            }
        });
        let writer = Writer { stop, seen, thread: Some(thread) };
        writer.acknowledged_since(Instant::now(), Duration::from_secs(180));
        writer
    }

    /// Waits for a row that is acknowledged after a moment, and returns when that was.
    #[track_caller]
    pub fn acknowledged_since(&self, moment: Instant, limit: Duration) -> Instant {
        super::program::eventually("a write is acknowledged", limit, || {
            assert!(self.thread.as_ref().is_some_and(|thread| !thread.is_finished()), "the writer ended");
            let seen = self.seen.lock().unwrap();
            let (_, at) = *seen.acknowledged.last()?;
            (at > moment).then_some(at)
        })
    }

    /// Waits for a write that fails after a moment.
    #[track_caller]
    pub fn failed_since(&self, moment: Instant, limit: Duration) {
        super::program::eventually("a write fails", limit, || {
            let seen = self.seen.lock().unwrap();
            (seen.failed.last()?.0 > moment).then_some(())
        });
    }

    pub fn stop(mut self) -> Written {
        self.end();
        self.seen.lock().unwrap().clone()
    }

    fn end(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.end();
    }
}

async fn write(stop: &AtomicBool, seen: &Mutex<Written>, entry: SocketAddr, login: &Login) {
    let mut client = None;
    // Rows of an earlier writer stay; this one's numbers begin where the clock is.
    let mut id = i64::try_from(std::time::UNIX_EPOCH.elapsed().unwrap().as_micros()).unwrap();
    while !stop.load(Ordering::Relaxed) {
        id += 1;
        let outcome = tokio::time::timeout(WRITE_LIMIT, attempt(&mut client, entry, login, id)).await;
        let now = Instant::now();
        match outcome.unwrap_or_else(|_| Err("no acknowledgement".to_owned())) {
            Ok(()) => seen.lock().unwrap().acknowledged.push((id, now)),
            Err(why) => {
                client = None;
                seen.lock().unwrap().failed.push((now, why));
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn attempt(
    client: &mut Option<Client>,
    entry: SocketAddr,
    login: &Login,
    id: i64,
) -> Result<(), String> {
    let client = match client {
        Some(client) => client,
        None => {
            let fresh = connect(entry, login).await?;
            // Fails on a standby, and is no news on the node that has the table.
            fresh.batch_execute(CREATE).await.map_err(|error| error.to_string())?;
            client.insert(fresh)
        }
    };
    let sql = format!("INSERT INTO written (id) VALUES ({id})");
    client.batch_execute(&sql).await.map_err(|error| match error.as_db_error() {
        Some(error) => error.message().to_owned(),
        None => error.to_string(),
    })
}
