//! What a decision can ask for. Actions of one lane are carried out one at a time; the lanes run side
//! by side, so that a long action on the server never delays the renewal of the lease.

use super::observation::{SyncKey, SyncNames};
use crate::model::MemberName;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lane {
    /// The leader key.
    Lease,
    /// PostgreSQL.
    Server,
    /// The other keys of the store, and settings that go with them.
    Keys,
    /// Questions to the other members.
    Peers,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Create the leader key if nobody has it; if this node's lease has it already, keep that.
    Acquire,
    Renew,
    Release,

    /// Make a new data directory. It is started once the store knows its identifier.
    Initdb,
    Start(StartAs),
    /// Takes the place of whatever the lane is doing when it is [`StopMode::Immediate`].
    Stop(StopMode),
    Promote,
    /// Stream from this member, by a reload.
    Follow(MemberName),
    CheckDivergence(MemberName),
    /// Find where the WAL ends that a crashed primary left.
    FindEnd,
    Rewind(MemberName),
    /// Replace the data directory by a copy of this member's.
    Clone(MemberName),
    /// Shut down and start again in this role.
    Restart(StartAs),
    /// Take up changed settings. Begun by the runtime, when the lane is free.
    Reload,

    /// Claim the creation of the cluster: `initialize` empty, if it does not exist.
    CreateInitialize,
    WriteInitialize(String),
    WriteConfig,
    SetSyncNames(SyncNames),
    /// Only while this node's term is the current one and `/sync` is as observed.
    WriteSync(SyncKey),
    /// Empty `/sync`, if it was last written at this revision.
    DropSync(u64),
    NameCandidate(MemberName),
    ClearFailover,
    WriteHistory,
    /// Write this member's key.
    Publish,
    /// Write this member's key and `/status`.
    PublishLeader,

    PollPeers,

    /// End the agent.
    Exit,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StartAs {
    /// With these names from the first commit on.
    Primary(SyncNames),
    Standby(Option<MemberName>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopMode {
    /// CHECKPOINT first, then end all sessions and shut down in order.
    Fast,
    /// SIGQUIT, then SIGKILL: nothing may be acknowledged after the stop budget.
    Immediate,
}

/// An action without its arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Acquire,
    Renew,
    Release,
    Initdb,
    StartPrimary,
    StartStandby,
    Stop,
    Promote,
    Follow,
    CheckDivergence,
    FindEnd,
    Rewind,
    Clone,
    Restart,
    Reload,
    Keys,
    Publish,
    PollPeers,
    Exit,
}

impl Action {
    pub fn lane(&self) -> Lane {
        match self.kind() {
            Kind::Acquire | Kind::Renew | Kind::Release => Lane::Lease,
            Kind::Keys | Kind::Publish => Lane::Keys,
            Kind::PollPeers => Lane::Peers,
            _ => Lane::Server,
        }
    }

    pub fn kind(&self) -> Kind {
        match self {
            Action::Acquire => Kind::Acquire,
            Action::Renew => Kind::Renew,
            Action::Release => Kind::Release,
            Action::Initdb => Kind::Initdb,
            Action::Start(StartAs::Primary(_)) => Kind::StartPrimary,
            Action::Start(StartAs::Standby(_)) => Kind::StartStandby,
            Action::Stop(_) => Kind::Stop,
            Action::Promote => Kind::Promote,
            Action::Follow(_) => Kind::Follow,
            Action::CheckDivergence(_) => Kind::CheckDivergence,
            Action::FindEnd => Kind::FindEnd,
            Action::Rewind(_) => Kind::Rewind,
            Action::Clone(_) => Kind::Clone,
            Action::Restart(_) => Kind::Restart,
            Action::Reload => Kind::Reload,
            Action::CreateInitialize
            | Action::WriteInitialize(_)
            | Action::WriteConfig
            | Action::SetSyncNames(_)
            | Action::WriteSync(_)
            | Action::DropSync(_)
            | Action::NameCandidate(_)
            | Action::ClearFailover
            | Action::WriteHistory => Kind::Keys,
            Action::Publish | Action::PublishLeader => Kind::Publish,
            Action::PollPeers => Kind::PollPeers,
            Action::Exit => Kind::Exit,
        }
    }

    /// Whether the server is down in the course of it.
    pub fn takes_down(&self) -> bool {
        use Action::{Clone, Restart, Rewind, Stop};
        matches!(self, Stop(_) | Restart(_) | Rewind(_) | Clone(_))
    }

    /// Whether it can leave a writable server behind, from the moment it begins.
    pub fn makes_primary(&self) -> bool {
        use Action::{Promote, Restart, Start};
        matches!(self, Promote | Start(StartAs::Primary(_)) | Restart(StartAs::Primary(_)))
    }
}
