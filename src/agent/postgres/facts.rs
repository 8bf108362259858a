//! What was seen of the server at one moment. Plain data.

use std::net::IpAddr;

use super::{ControlData, DataDir};
use crate::model::{Lsn, Timeline};

/// Everything that one look at the server shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    pub data: DataDir,
    /// `pg_control`: read just now when nothing runs; while PostgreSQL runs, as last read before.
    pub control: Option<ControlData>,
    pub process: Process,
    /// There while the server answers.
    pub session: Option<Session>,
}

/// Whether a postmaster is alive, and how well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Process {
    /// None, and the last one ended in an orderly way (or there never was one).
    Stopped,
    /// None, and the last one left without a shutdown checkpoint.
    Crashed,
    /// Alive, not yet accepting connections (crash recovery, or a standby that is not consistent yet).
    Starting,
    /// Alive and answering.
    Running,
    /// Alive, and on its way down.
    Stopping,
    /// Alive and supposed to accept connections, but it did not answer in time or refused us.
    Unresponsive,
}

/// What the server said of itself, in one query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    pub in_recovery: bool,
    /// The timeline that it writes, or on a standby the newest that it is known to replay or receive.
    pub timeline: Timeline,
    /// Primary: the end of what it has written.
    pub written: Option<Lsn>,
    /// Standby: the end of what it has received and flushed.
    pub received: Option<Lsn>,
    /// Standby: the end of what it has replayed.
    pub replayed: Option<Lsn>,
    /// Commit time of the last transaction replayed, as `YYYY-MM-DD HH:MM:SS.uuuuuu+00:00`.
    pub replayed_at: Option<String>,
    pub replay_paused: bool,
    pub receiver: Option<Receiver>,
    pub senders: Vec<Sender>,
    pub slots: Vec<Slot>,
    pub synchronous_standby_names: String,
    /// `YYYY-MM-DD HH:MM:SS.uuuuuu+00:00`
    pub postmaster_started_at: String,
    /// Such as 150018.
    pub server_version: u32,
    /// Names of parameters whose new value waits for a restart.
    pub pending_restart: Vec<String>,
}

impl Session {
    /// The end of the history that this server holds: written, or received, or replayed.
    pub fn position(&self) -> Lsn {
        if self.in_recovery {
            self.received.max(self.replayed).unwrap_or_default()
        } else {
            self.written.unwrap_or_default()
        }
    }
}

/// The walreceiver of a standby (`pg_stat_wal_receiver`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receiver {
    /// `streaming`, `starting`, `waiting`, ...
    pub status: String,
    pub timeline: Option<Timeline>,
    pub slot: Option<String>,
    pub sender_host: Option<String>,
    pub sender_port: Option<u16>,
    /// The end of WAL at the sender, as it said last.
    pub latest_end: Option<Lsn>,
}

/// A walsender (`pg_stat_replication`).
#[derive(Clone, Debug, PartialEq, Eq, serde::Deserialize)]
pub struct Sender {
    pub usename: String,
    pub application_name: String,
    pub client_addr: Option<IpAddr>,
    /// `streaming`, `catchup`, `startup`, `backup`, ...
    pub state: String,
    /// `async`, `sync`, `quorum`, `potential`.
    pub sync_state: String,
    pub sync_priority: i32,
    #[serde(deserialize_with = "lsn")]
    pub sent: Option<Lsn>,
    #[serde(deserialize_with = "lsn")]
    pub flushed: Option<Lsn>,
    #[serde(deserialize_with = "lsn")]
    pub replayed: Option<Lsn>,
}

/// A replication slot (`pg_replication_slots`).
#[derive(Clone, Debug, PartialEq, Eq, serde::Deserialize)]
pub struct Slot {
    pub name: String,
    /// `physical` or `logical`.
    pub kind: String,
    pub active: bool,
    #[serde(deserialize_with = "lsn")]
    pub restart: Option<Lsn>,
    /// `reserved`, `extended`, `unreserved`, `lost`.
    pub wal_status: Option<String>,
}

fn lsn<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Lsn>, D::Error> {
    let text: Option<String> = serde::Deserialize::deserialize(deserializer)?;
    text.map(|text| text.parse().map_err(serde::de::Error::custom)).transpose()
}
