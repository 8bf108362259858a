//! Everything that a decision may depend on: facts, with the times at which they were true. Filled by
//! the runtime (or the simulator); holds no judgement of its own.

use crate::model::{Lsn, MemberName, Timeline};
use std::collections::BTreeSet;

use super::action::{Action, Kind};

/// Milliseconds of a clock that never jumps and runs during suspend (`CLOCK_BOOTTIME`).
pub type Millis = u64;

/// What the node knows at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Observation {
    pub now: Millis,
    pub me: Me,
    pub settings: Settings,
    /// The cluster as the store last showed it; `None` until it has been read once.
    pub cluster: Option<Cluster>,
    pub lease: Option<Lease>,
    pub server: Server,
    pub poll: Option<Poll>,
    /// What [`Action::CheckDivergence`] last found.
    pub verdict: Option<Verdict>,
    /// What [`Action::FindEnd`] last found, and when.
    pub wal_end: Option<(Lsn, Millis)>,
    pub busy: Busy,
    pub failures: Failures,
    pub request: Option<Request>,
    /// The agent was told to end (SIGTERM).
    pub stopping: bool,
}

/// Who this node is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Me {
    pub name: MemberName,
    pub nofailover: bool,
    pub failover_priority: i64,
}

/// How synchronous replication is managed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SyncMode {
    #[default]
    Off,
    /// Each of `synchronous_node_count` named standbys confirms each commit.
    On,
    /// Any `synchronous_node_count` of all standbys confirm each commit.
    Quorum,
}

/// What the operator chose; the dynamic configuration, with lengths of time in milliseconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    pub ttl: Millis,
    pub loop_wait: Millis,
    pub retry_timeout: Millis,
    /// Bytes by which a winner may lag behind the last known position of the leader.
    pub maximum_lag_on_failover: u64,
    /// How long a leader may take to come back by itself; 0 hands over at once.
    pub primary_start_timeout: Millis,
    pub sync: SyncMode,
    pub sync_strict: bool,
    pub sync_node_count: usize,
    pub paused: bool,
    pub use_pg_rewind: bool,
    pub remove_data_on_rewind_failure: bool,
    pub remove_data_on_divergence: bool,
    /// Whether this node may create the cluster (it has a `bootstrap` section).
    pub may_bootstrap: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            ttl: 30_000,
            loop_wait: 10_000,
            retry_timeout: 10_000,
            maximum_lag_on_failover: 1 << 20,
            primary_start_timeout: 300_000,
            sync: SyncMode::Off,
            sync_strict: false,
            sync_node_count: 1,
            paused: false,
            use_pg_rewind: true,
            remove_data_on_rewind_failure: false,
            remove_data_on_divergence: false,
            may_bootstrap: true,
        }
    }
}

/// The cluster's folder in the store at one revision.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Cluster {
    pub revision: u64,
    /// The system identifier; empty while somebody creates the cluster.
    pub initialize: Option<String>,
    pub has_config: bool,
    pub leader: Option<Leader>,
    pub members: Vec<Member>,
    /// The leader's last published write position.
    pub optime: Option<Lsn>,
    pub sync: Option<SyncKey>,
    pub failover: Option<FailoverKey>,
    /// Ended timelines and where each ended, oldest first.
    pub history: Vec<(Timeline, Lsn)>,
    /// Members that a run has taken out of service: nobody's candidates.
    pub drained: BTreeSet<MemberName>,
    /// A run has suspended automatic failover.
    pub suspended: bool,
}

impl Cluster {
    pub fn member(&self, name: &MemberName) -> Option<&Member> {
        self.members.iter().find(|member| member.name == *name)
    }
}

/// Who holds the leader key. A term is one life of the key: the revision at which it was created.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leader {
    pub name: MemberName,
    pub term: u64,
}

/// What a member says of itself under `members/`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    pub name: MemberName,
    pub running: bool,
    pub primary: bool,
    pub timeline: Option<Timeline>,
    pub nofailover: bool,
    pub nosync: bool,
    pub clonefrom: bool,
}

/// `/sync`: of any `quorum + 1` of the `voters`, one has every acknowledged commit. So has `leader`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyncKey {
    pub leader: MemberName,
    pub voters: BTreeSet<MemberName>,
    pub quorum: usize,
    /// The revision at which the key was last written.
    pub revision: u64,
}

/// `/failover`: an operator asks for another leader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailoverKey {
    pub leader: Option<MemberName>,
    pub candidate: Option<MemberName>,
    /// Not scheduled, or its time has come.
    pub due: bool,
    /// The revision at which the key was last written.
    pub revision: u64,
}

/// The leader key as this node holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    pub term: u64,
    /// When the last request that prolonged it was SENT.
    pub renewed_at: Millis,
    pub ttl: Millis,
    /// Remembered from before the agent was restarted, not yet confirmed by the store.
    pub remembered: bool,
}

/// The local PostgreSQL.
#[derive(Clone, Debug, PartialEq)]
pub struct Server {
    pub data: Data,
    pub process: Process,
}

/// The data directory.
#[derive(Clone, Debug, PartialEq)]
pub enum Data {
    /// It could not be looked at.
    Unreadable,
    Empty,
    Initialised {
        system_identifier: String,
        /// As read while no server ran; beside a running one it is out of date.
        control: Control,
    },
}

/// What `pg_controldata` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Control {
    pub state: ControlState,
    pub timeline: Timeline,
    pub checkpoint: Lsn,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ControlState {
    /// A primary that was shut down in order.
    ShutDown,
    /// A primary that runs, or ended without shutting down.
    InProduction,
    /// A standby, shut down or not.
    Recovery,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Process {
    Stopped,
    /// Launched and not yet accepting connections.
    Starting {
        primary: bool,
    },
    /// The process lives and does not answer.
    Unresponsive {
        primary: bool,
        since: Millis,
    },
    Running(Running),
    /// A primary that goes down and has written its shutdown checkpoint, at this position: it takes no
    /// more writes and waits until its standbys have fetched the rest.
    Closing {
        checkpoint: Lsn,
    },
}

/// A server that answers.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Running {
    pub in_recovery: bool,
    pub timeline: Timeline,
    /// A primary: where it writes. A standby: the further of what it received and what it replayed.
    pub lsn: Lsn,
    /// The member that a standby is configured to stream from.
    pub upstream: Option<MemberName>,
    /// Its WAL receiver streams.
    pub streaming: bool,
    pub names: SyncNames,
    pub standbys: Vec<Standby>,
    pub pending_restart: bool,
}

/// `synchronous_standby_names`. No names: commits wait for nobody.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct SyncNames {
    /// `ANY n (…)` rather than `FIRST n (…)`.
    pub any: bool,
    pub count: usize,
    pub names: BTreeSet<String>,
}

/// A row of `pg_stat_replication` that belongs to a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standby {
    pub name: MemberName,
    pub streaming: bool,
    pub flushed: Lsn,
}

/// One round of asking all other members for their state.
#[derive(Clone, Debug, PartialEq)]
pub struct Poll {
    pub asked: Millis,
    /// Every member has answered or has been given up on.
    pub done: bool,
    pub answers: Vec<Answer>,
}

/// What a member answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub name: MemberName,
    pub running: bool,
    pub in_recovery: bool,
    pub timeline: Timeline,
    pub lsn: Lsn,
    pub nofailover: bool,
    pub failover_priority: i64,
    /// It reads the store, and there the cluster is not paused.
    pub unpaused: bool,
}

/// How this node's history relates to the leader's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    pub leader: MemberName,
    pub term: u64,
    pub outcome: Outcome,
    pub at: Millis,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All that this node has is in the leader's history.
    Prefix,
    Diverged,
    /// A primary that crashed: only once it has recovered can it be told.
    Recover,
    Unknown,
}

/// What is being carried out, one action per lane.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Busy {
    pub lease: Option<Action>,
    pub server: Option<Action>,
    pub keys: Option<Action>,
}

/// The kinds of action whose last attempt failed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Failures(pub Vec<(Kind, Failure)>);

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub at: Millis,
    /// Failures in a row.
    pub count: u32,
}

impl Failures {
    pub fn of(&self, kind: Kind) -> Option<&Failure> {
        self.0.iter().find(|(failed, _)| *failed == kind).map(|(_, failure)| failure)
    }

    pub fn count(&self, kind: Kind) -> u32 {
        self.of(kind).map_or(0, |failure| failure.count)
    }

    /// Whether the last attempt failed less than `span` ago.
    pub fn within(&self, kind: Kind, span: Millis, now: Millis) -> bool {
        self.of(kind).is_some_and(|failure| now.saturating_sub(failure.at) < span)
    }

    pub fn record(&mut self, kind: Kind, at: Millis) {
        let count = self.count(kind) + 1;
        self.clear(kind);
        self.0.push((kind, Failure { at, count }));
    }

    pub fn clear(&mut self, kind: Kind) {
        self.0.retain(|(failed, _)| *failed != kind);
    }
}

/// What an operator asked of this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// Restart the server; in a paused cluster also: start it.
    Restart,
    /// Throw the data away and copy the leader's, or those of a standby that offers itself.
    Reinitialize { from_leader: bool },
}
