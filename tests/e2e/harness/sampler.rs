//! Looks at every node, many times a second, whether it accepts writes; so that two that do cannot
//! hide. It looks from inside each host, since a node whose network is cut still writes.

use super::postgres::{Login, block_on, connect, enter, query, rows};
use pgfleet::sandbox::{Sandbox, Store};
use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};
use tokio_postgres::Client;

const PAUSE: Duration = Duration::from_millis(50);
/// A write that is not acknowledged by then is none.
const WRITE_LIMIT: Duration = Duration::from_millis(500);

/// A node to look at.
#[derive(Clone, Debug)]
pub struct Node {
    pub sandbox: String,
    pub host: String,
    pub address: SocketAddr,
}

/// A write that a node acknowledged.
#[derive(Clone, Debug)]
pub struct Sample {
    pub node: String,
    pub timeline: u32,
    /// When it was asked, and when it had answered.
    pub from: Instant,
    pub to: Instant,
}

/// A running sampler; it stops when it is dropped.
pub struct Sampler {
    stop: Arc<AtomicBool>,
    samples: Arc<Mutex<Vec<Sample>>>,
    looks: Arc<AtomicU64>,
    threads: Vec<JoinHandle<()>>,
}

/// What a sampler has seen.
pub struct Sampled {
    pub samples: Vec<Sample>,
    /// How often a node was asked, whatever it said.
    pub looks: u64,
}

impl Sampler {
    /// Starts to look. `network` and `entry` are a way to a primary, for the table that is written to.
    #[track_caller]
    pub fn start(network: PathBuf, entry: SocketAddr, nodes: Vec<Node>, login: &Login) -> Sampler {
        let create =
            "CREATE TABLE IF NOT EXISTS sampled (node text, at timestamptz DEFAULT clock_timestamp())";
        query(network, entry, login.clone(), create).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let samples = Arc::new(Mutex::new(Vec::new()));
        let looks = Arc::new(AtomicU64::new(0));
        let threads = nodes.into_iter().map(|node| {
            let (stop, samples, looks) = (Arc::clone(&stop), Arc::clone(&samples), Arc::clone(&looks));
            let login = login.clone();
            thread::spawn(move || block_on(look(&node, &login, &stop, &samples, &looks)))
        });
        let threads = threads.collect();
        Sampler { stop, samples, looks, threads }
    }

    pub fn stop(mut self) -> Sampled {
        self.end();
        let samples = self.samples.lock().unwrap().clone();
        Sampled { samples, looks: self.looks.load(Ordering::Relaxed) }
    }

    fn end(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Drop for Sampler {
    fn drop(&mut self) {
        self.end();
    }
}

impl Sampled {
    /// Fails if two nodes accepted writes in one reign, or one after another had taken over.
    #[track_caller]
    pub fn assert_one_primary_at_a_time(&self) {
        assert!(!self.samples.is_empty(), "no node was writable in {} looks", self.looks);
        let found = conflicts(&self.samples);
        assert!(found.is_empty(), "two writable primaries:\n{}", found.join("\n"));
    }
}

/// Each promotion begins a timeline of its own. So no two nodes may ever write on one timeline, and
/// once a later timeline has been written to, no write on an earlier one may begin.
pub fn conflicts(samples: &[Sample]) -> Vec<String> {
    let Some(start) = samples.iter().map(|sample| sample.from).min() else { return Vec::new() };
    let ms = |at: Instant| (at - start).as_millis();
    let show = |sample: &Sample| {
        format!(
            "{} wrote on timeline {} at {}..{} ms",
            sample.node,
            sample.timeline,
            ms(sample.from),
            ms(sample.to)
        )
    };
    let mut reported = std::collections::HashSet::new();
    let mut found = Vec::new();
    for late in samples {
        for early in samples.iter().filter(|early| early.node != late.node) {
            let shared = early.timeline == late.timeline;
            let outlived = early.timeline > late.timeline && late.from > early.to;
            if (shared || outlived)
                && reported.insert((&early.node, early.timeline, &late.node, late.timeline))
            {
                found.push(format!("{}, {}", show(early), show(late)));
            }
        }
    }
    found
}

async fn look(
    node: &Node,
    login: &Login,
    stop: &AtomicBool,
    samples: &Mutex<Vec<Sample>>,
    looks: &AtomicU64,
) {
    let mut client = None;
    while !stop.load(Ordering::Relaxed) {
        let from = Instant::now();
        looks.fetch_add(1, Ordering::Relaxed);
        match sample(&mut client, node, login).await {
            Ok(timeline) => {
                let sample = Sample { node: node.host.clone(), timeline, from, to: Instant::now() };
                samples.lock().unwrap().push(sample);
            }
            Err(why) if why.contains("read-only") || why.contains("recovery") => {}
            Err(_) => client = None,
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Writes a row, and returns the timeline that it is on.
async fn sample(client: &mut Option<Client>, node: &Node, login: &Login) -> Result<u32, String> {
    let client = match client {
        Some(client) => client,
        None => {
            // A host that boots again has a new network.
            enter(&host_network(node)?)?;
            client.insert(connect(node.address, login).await?)
        }
    };
    let sql = format!(
        "INSERT INTO sampled (node) VALUES ('{}') RETURNING pg_walfile_name(pg_current_wal_lsn())",
        node.host
    );
    let answer = rows(client, &sql, WRITE_LIMIT).await?;
    let file = answer.first().and_then(|row| row.first()).ok_or("no row")?;
    u32::from_str_radix(file.get(..8).unwrap_or_default(), 16).map_err(|error| error.to_string())
}

fn host_network(node: &Node) -> Result<PathBuf, String> {
    let name = node.sandbox.parse().map_err(|error| format!("{error}"))?;
    let sandbox = Sandbox::open(&Store::from_environment(), &name).map_err(|error| error.to_string())?;
    let network = sandbox.host_network(&node.host).map_err(|error| error.to_string())?;
    network.ok_or_else(|| "the host is down".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(all: &[(&str, u32, u64)]) -> Vec<Sample> {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let sample = |(node, timeline, ms): &(&str, u32, u64)| Sample {
            node: (*node).into(),
            timeline: *timeline,
            from: at(*ms),
            to: at(ms + 5),
        };
        all.iter().map(sample).collect()
    }

    #[test]
    fn a_change_of_primary_is_no_conflict() {
        assert!(conflicts(&samples(&[("a", 1, 0), ("a", 1, 50), ("b", 2, 99), ("a", 3, 150)])).is_empty());
    }

    #[test]
    fn two_primaries_are_found() {
        let outlived = conflicts(&samples(&[("a", 1, 0), ("b", 2, 10), ("a", 1, 20), ("a", 1, 30)]));
        assert_eq!(outlived, ["b wrote on timeline 2 at 10..15 ms, a wrote on timeline 1 at 20..25 ms"]);
        assert_eq!(conflicts(&samples(&[("a", 1, 0), ("b", 1, 10)])).len(), 2);
    }
}
