//! The REST API, in Patroni's words and codes. [`route`] is the whole of its behaviour: a pure function of
//! the request, the view and the time. Around it is a thin server. Never reads PostgreSQL or the store, and
//! never waits for them: a health check is answered from memory.

mod document;
mod health;
mod hold;
pub mod kept;
mod listen;
mod metrics;
mod operation;
mod route;
mod server;
#[cfg(test)]
mod tests;

pub use document::status_document;
pub use listen::bind;
pub use operation::{Operation, OperatorRequest, Outcome};
pub use route::{Content, Reply, Request, Routed, route};
pub use server::{Options, serve};

use super::clock::BootTime;

/// The time of a request, on both clocks that answers depend on.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    pub boot: BootTime,
    /// Seconds since the epoch.
    pub unix_secs: i64,
}

impl Now {
    pub fn read() -> Self {
        let unix = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        Self { boot: BootTime::now(), unix_secs: unix.as_secs().try_into().unwrap_or(i64::MAX) }
    }
}
