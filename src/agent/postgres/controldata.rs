//! What `pg_controldata` prints, as types.

use std::{collections::BTreeMap, str::FromStr};

use crate::model::{Lsn, Timeline};

/// State of a cluster as `pg_control` records it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClusterState {
    StartingUp,
    ShutDown,
    ShutDownInRecovery,
    ShuttingDown,
    InCrashRecovery,
    InArchiveRecovery,
    InProduction,
}

impl ClusterState {
    /// The last postmaster ended in an orderly way.
    pub fn is_clean(self) -> bool {
        matches!(self, Self::ShutDown | Self::ShutDownInRecovery)
    }

    /// It was a standby, or recovered from a backup.
    pub fn was_in_recovery(self) -> bool {
        matches!(self, Self::ShutDownInRecovery | Self::InArchiveRecovery)
    }
}

/// The contents of `pg_control` that matter to replication.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControlData {
    pub system_identifier: String,
    pub state: ClusterState,
    /// Where the last checkpoint record begins.
    pub checkpoint: Lsn,
    /// Timeline of the last checkpoint.
    pub timeline: Timeline,
    /// Where recovery has to get to at least; `None` when no recovery is under way.
    pub min_recovery: Option<(Lsn, Timeline)>,
    pub wal_log_hints: bool,
    pub data_checksums: bool,
    /// The five limits of the primary that a standby must not fall below, by their GUC names.
    pub limits: BTreeMap<&'static str, i64>,
}

/// GUCs that a hot standby must have at least as large as the primary, and their names in `pg_control`.
const LIMITS: [(&str, &str); 5] = [
    ("max_connections", "max_connections setting"),
    ("max_worker_processes", "max_worker_processes setting"),
    ("max_wal_senders", "max_wal_senders setting"),
    ("max_prepared_transactions", "max_prepared_xacts setting"),
    ("max_locks_per_transaction", "max_locks_per_xact setting"),
];

impl FromStr for ControlData {
    /// What is missing or unreadable.
    type Err = String;

    fn from_str(output: &str) -> Result<Self, String> {
        let fields: BTreeMap<&str, &str> = output
            .lines()
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.trim(), value.trim()))
            .collect();
        let field =
            |name: &str| fields.get(name).copied().ok_or_else(|| format!("pg_controldata gives no `{name}`"));
        let timeline = |name: &str| -> Result<Timeline, String> { number(name, field(name)?) };
        let lsn = |name: &str| -> Result<Lsn, String> {
            let text = field(name)?;
            text.parse().map_err(|error| format!("{name}: {error}"))
        };
        let min_recovery = lsn("Minimum recovery ending location")?;
        let min_timeline = timeline("Min recovery ending loc's timeline")?;
        Ok(Self {
            system_identifier: field("Database system identifier")?.to_owned(),
            state: state(field("Database cluster state")?)?,
            checkpoint: lsn("Latest checkpoint location")?,
            timeline: timeline("Latest checkpoint's TimeLineID")?,
            min_recovery: (min_recovery != Lsn(0)).then_some((min_recovery, min_timeline)),
            wal_log_hints: field("wal_log_hints setting")? == "on",
            data_checksums: field("Data page checksum version")? != "0",
            limits: LIMITS
                .into_iter()
                .map(|(guc, name)| Ok((guc, number(name, field(name)?)?)))
                .collect::<Result<_, String>>()?,
        })
    }
}

fn number<N: FromStr>(name: &str, text: &str) -> Result<N, String> {
    text.parse().map_err(|_| format!("{name}: `{text}` is not a number"))
}

fn state(words: &str) -> Result<ClusterState, String> {
    Ok(match words {
        "starting up" => ClusterState::StartingUp,
        "shut down" => ClusterState::ShutDown,
        "shut down in recovery" => ClusterState::ShutDownInRecovery,
        "shutting down" => ClusterState::ShuttingDown,
        "in crash recovery" => ClusterState::InCrashRecovery,
        "in archive recovery" => ClusterState::InArchiveRecovery,
        "in production" => ClusterState::InProduction,
        _ => return Err(format!("`{words}` is not a state of a cluster")),
    })
}
