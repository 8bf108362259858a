//! The package cache: an HTTP proxy for the hosts' apt, at this machine's end of a sandbox's link.
//!
//! What an archive names by its content never changes and is kept for good; indexes are asked for
//! again after some minutes, and served old when the mirror can't be reached. Each file is fetched
//! once however many hosts want it at the same time, and passed on while it arrives.

mod download;
mod proxy;
mod shelf;

pub use proxy::serve;

use super::{
    Error, Result,
    host::CACHE_PORT,
    layout::{self, Home, Store},
    process,
};
use std::{
    net::{Ipv4Addr, SocketAddr, TcpStream},
    path::Path,
    thread,
    time::{Duration, Instant},
};

const START_LIMIT: Duration = Duration::from_secs(10);

/// Starts the cache of one sandbox unless it runs, and returns when it answers.
pub(super) fn ensure(store: &Store, home: &Home, machine: Ipv4Addr, executable: &Path) -> Result<()> {
    let note = home.cache_process();
    let listen = SocketAddr::from((machine, CACHE_PORT));
    if process::noted(&note).is_none() {
        let command = [
            executable.display().to_string(),
            "sandbox".to_owned(),
            "cache".to_owned(),
            "--listen".to_owned(),
            listen.to_string(),
            "--directory".to_owned(),
            store.cache().display().to_string(),
        ];
        process::launch(&note, &home.cache_log(), &[], &command)?;
    }
    let process = process::await_note(&note, START_LIMIT);
    let deadline = Instant::now() + START_LIMIT;
    while TcpStream::connect_timeout(&listen, Duration::from_secs(1)).is_err() {
        if !process.is_some_and(process::Tracked::runs) || Instant::now() > deadline {
            return Err(Error::Cache { log: home.cache_log(), tail: layout::tail(&home.cache_log(), 5) });
        }
        thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}
