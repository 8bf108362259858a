//! The logs of many hosts as one, in the order of time.
//!
//! Each host sends what its journal and PostgreSQL's own log hold; `entry` reads the lines, `merge` puts them
//! in order. Start reading at [`read`].

mod entry;
mod merge;
mod sources;

pub use entry::Entry;
pub use sources::{Selection, units};

use super::Trouble;
use crate::{
    cluster::Access,
    model::HostName,
    ssh::{Exit, Session},
};
use entry::Reader;
use merge::{Arrived, Merge};
use sources::Source;
use std::time::{Duration, Instant};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    sync::mpsc,
};

/// How long an entry waits for older ones of hosts that are farther away, when logs are followed.
const REORDER_WINDOW: Duration = Duration::from_millis(400);

/// How many entries of one source wait to be merged.
const AHEAD: usize = 1024;

/// A host whose logs are wanted, and the units that matter there.
#[derive(Clone, Debug)]
pub struct Wanted {
    pub host: HostName,
    pub units: Vec<String>,
    /// The file that PostgreSQL writes to before its own collector takes over; none where it does not run.
    pub postgres_log: Option<String>,
}

/// Sends entries in the order of time until every host has told all, or for ever where logs are followed.
/// The result says what went wrong where.
pub async fn read(
    access: &Access,
    wanted: &[Wanted],
    selection: &Selection,
    entries: mpsc::Sender<Entry>,
) -> Vec<(HostName, Trouble)> {
    let mut troubles = Vec::new();
    let mut streams = Vec::new();
    let mut readers = tokio::task::JoinSet::new();
    for wanted in wanted {
        let session = match access.session(&wanted.host) {
            Ok(session) => session,
            Err(error) => {
                let next_step = error.next_step();
                let trouble = Trouble { message: error.to_string(), next_step, unreachable: true };
                troubles.push((wanted.host.clone(), trouble));
                continue;
            }
        };
        for source in sources::of(wanted) {
            let (sender, receiver) = mpsc::channel(AHEAD);
            streams.push(receiver);
            let script = source.script(selection);
            let (session, host) = (session.clone(), wanted.host.clone());
            readers.spawn(async move {
                let done = listen(&session, &host, source, &script, sender).await;
                done.err().map(|trouble| (host, trouble))
            });
        }
    }
    let window = selection.follow.then_some(REORDER_WINDOW);
    let mut merge = Merge::new(streams, window);
    while let Some(entry) = merge.next().await {
        if entries.send(entry).await.is_err() {
            return troubles;
        }
    }
    troubles.extend(readers.join_all().await.into_iter().flatten());
    troubles
}

/// Reads one source to its end.
async fn listen(
    session: &Session,
    host: &HostName,
    source: Source,
    script: &str,
    entries: mpsc::Sender<Arrived>,
) -> Result<(), Trouble> {
    let mut process = session.open(script, session.becomes()).await?;
    let mut reader = Reader::new(host.clone(), source.is_journal());
    {
        let mut lines = BufReader::new(&mut process.stdout);
        let mut line = Vec::new();
        while matches!(lines.read_until(b'\n', &mut line).await, Ok(1..)) {
            if let Some(entry) = reader.line(&String::from_utf8_lossy(&line))
                && entries.send(Arrived { entry, at: Instant::now() }).await.is_err()
            {
                return Ok(());
            }
            line.clear();
        }
    }
    match process.wait().await {
        Exit::Status(0) => Ok(()),
        Exit::Lost => Err(Trouble {
            message: "the connection was lost".to_owned(),
            next_step: "Is the host still up?".to_owned(),
            unreachable: true,
        }),
        _ => {
            let said = process.stderr.last_lines(3).join("; ");
            Err(Trouble::here(said, "Try `journalctl` there, with `pgfleet ssh HOST`."))
        }
    }
}
