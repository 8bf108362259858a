//! What the two halves and the outside world share: REST and DCS documents, in Patroni's words.
//! Imports `model` alone. Nothing here reads a clock, a file or a socket.

mod cluster;
mod dynamic;
mod maintenance;
mod member;
mod operator;
mod snapshot;
mod status;
mod words;

pub use cluster::{ClusterDocument, ClusterMember, ClusterRole, Lag, ScheduledSwitchover};
pub use dynamic::{
    DynamicConfig, DynamicPostgresql, StandbyCluster, SynchronousMode, merge_patch, parameter_text,
    parse_size_bytes, parse_time_secs,
};
pub use maintenance::{MaintenanceMark, cluster_prefix};
pub use member::{MemberDocument, Tags};
pub use operator::{InvalidBody, RestartFilter, RestartRequest, SwitchoverRequest, shown_restart};
pub use snapshot::{
    FailoverDocument, History, HistoryEntry, Leader, Revision, Snapshot, StatusDocument, SyncDocument, Term,
    Versioned,
};
pub use status::{NodeStatus, PendingChange, ReplicationRow, Software, Xlog};
pub use words::{PostgresState, Role};
