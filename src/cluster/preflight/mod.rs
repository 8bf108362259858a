//! Are the hosts ready for the cluster that the inventory describes? Asks each of them through the hands, has
//! them try each other, changes nothing, and judges all answers together. Start reading at `judge`: the rules are
//! pure.

mod ask;
mod between;
mod clock;
mod judge;
mod leftovers;
mod links;
mod machine;
mod needs;
mod ports;
mod routes;
#[cfg(test)]
mod tests;
mod vip;

pub use ask::{Scope, ask};
pub use judge::{judge, obstructed, worst};
pub use links::Contact;
pub use needs::Needs;

use crate::{model::HostName, remote::preflight::Survey};
use serde::{Deserialize, Serialize};

/// One row of the result.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The host's name, or `this machine`.
    pub host: String,
    /// What was looked at: `ssh`, `sudo`, `system`, `memory`, `disk`, `fsync`, `clock`, `network`, `links`, `mtu`,
    /// `ports`, `vip`, `leftovers`.
    pub check: &'static str,
    pub verdict: Verdict,
    pub message: String,
    /// What to do about it; none where all is well.
    pub next_step: Option<String>,
}

/// How a check ended, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    Ok,
    /// It will work, and somebody should look at it.
    Warn,
    /// A bootstrap would fail here, or destroy something.
    Fail,
}

/// A host that was asked.
#[derive(Clone, Debug)]
pub struct Machine {
    pub name: HostName,
    pub found: Result<Box<Found>, Obstacle>,
}

/// What a host answered, and what the cluster needs of it.
#[derive(Clone, Debug)]
pub struct Found {
    pub needs: Needs,
    pub facts: Facts,
    pub survey: Survey,
    pub reading: Reading,
    /// What the host found out with others; empty where there is no other.
    pub contacts: Vec<Contact>,
}

/// Why a host could not be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Obstacle {
    pub check: &'static str,
    pub message: String,
    pub next_step: String,
    /// The host is not there, rather than having said no.
    pub unreachable: bool,
}

/// A host's clock against the one of this machine, in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Reading {
    /// How far the host is ahead.
    pub ahead_ms: i64,
    /// How far off that may be: half of the round trip.
    pub uncertainty_ms: i64,
}

/// The facts that are judged; what a host did not tell is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Facts {
    pub distribution: String,
    pub distribution_release: String,
    pub distribution_version: String,
    pub os_family: String,
    pub service_mgr: String,
    pub architecture: String,
    pub memtotal_mb: u64,
    pub machine_id: String,
    pub hostname: String,
    pub all_ipv4_addresses: Vec<String>,
    pub user_uid: u32,
    pub user_id: String,
}

/// The findings about one host, as they are made.
struct Findings<'a> {
    host: &'a str,
    list: Vec<Finding>,
}

impl<'a> Findings<'a> {
    fn of(host: &'a str) -> Self {
        Self { host, list: Vec::new() }
    }

    fn ok(&mut self, check: &'static str, message: impl Into<String>) {
        self.add(check, Verdict::Ok, message.into(), None);
    }

    fn warn(&mut self, check: &'static str, message: impl Into<String>, next: impl Into<String>) {
        self.add(check, Verdict::Warn, message.into(), Some(next.into()));
    }

    fn fail(&mut self, check: &'static str, message: impl Into<String>, next: impl Into<String>) {
        self.add(check, Verdict::Fail, message.into(), Some(next.into()));
    }

    fn add(&mut self, check: &'static str, verdict: Verdict, message: String, next_step: Option<String>) {
        self.list.push(Finding { host: self.host.to_owned(), check, verdict, message, next_step });
    }

    /// Says that all is well where nothing else was found.
    fn otherwise(&mut self, check: &'static str, message: impl FnOnce() -> String) {
        if !self.list.iter().any(|finding| finding.check == check) {
            self.ok(check, message());
        }
    }
}

/// A number of bytes with a unit that people read.
fn bytes(count: u64) -> String {
    const MIB: u64 = 1 << 20;
    const GIB: u64 = 1 << 30;
    match count {
        0..MIB => format!("{} KiB", count >> 10),
        MIB..GIB => format!("{} MiB", count >> 20),
        _ => format!("{:.1} GiB", count as f64 / GIB as f64),
    }
}
