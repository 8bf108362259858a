//! Watches over a PostgreSQL whose agent has ended: it may stay as long as the lease lasts, so that the
//! next agent can adopt it, and not longer.

use super::LeaseFile;
use crate::agent::{
    clock::BootTime,
    core::fencing,
    postgres::{Server, StopMode},
};
use std::time::Duration;

/// How often the guard looks whether a new agent has taken over.
const LOOK: Duration = Duration::from_millis(50);

/// How it went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guarded {
    /// No PostgreSQL runs, or what runs is a standby.
    Harmless,
    /// The cluster is paused: PostgreSQL is left alone.
    Paused,
    /// A new agent has renewed the lease.
    TakenOver,
    /// The lease could have ended: PostgreSQL was stopped.
    Stopped,
}

/// Waits until a new agent has taken over, or stops PostgreSQL before the lease can end. Without a lease
/// a primary is stopped at once. `paused` says what is known of the cluster. Errors: PostgreSQL could not be
/// stopped.
pub async fn guard(
    server: &Server,
    file: &LeaseFile,
    paused: impl Fn() -> bool,
) -> Result<Guarded, crate::agent::postgres::Error> {
    let left = file.read();
    loop {
        if server.adopt().is_none() {
            return Ok(Guarded::Harmless);
        }
        if paused() {
            return Ok(Guarded::Paused);
        }
        // A standby that an agent was about to promote has a lease: it is watched too.
        let standby = server.settings().data_dir.join("standby.signal").exists();
        let now = file.read();
        match (&left, &now) {
            (None, None) if standby => return Ok(Guarded::Harmless),
            (_, Some(current)) if left.as_ref().is_none_or(|left| left.agent != current.agent) => {
                return Ok(Guarded::TakenOver);
            }
            _ => {}
        }
        let begins = now.as_ref().or(left.as_ref()).map_or(0, |found| fencing::stop_begins(&found.lease()));
        if BootTime::now().0 >= begins {
            let budget = now.or(left).map_or(1_000, |found| fencing::fence_budget(found.ttl_ms));
            // What has not gone by then is killed, which takes some time too.
            let limit = Duration::from_millis(budget.saturating_sub(400).max(50));
            server.stop(StopMode::Immediate, false, limit).await?;
            return Ok(Guarded::Stopped);
        }
        tokio::time::sleep(LOOK).await;
    }
}
