//! What observers and actuators tell the loop.

use crate::agent::{
    core::{Action, Answer, Kind, Millis, Outcome},
    dcs::{Failure, Leadership, Renewal},
    postgres::{ControlData, Facts},
};
use crate::model::Lsn;

/// A fact, as it arrives.
pub enum Report {
    /// PostgreSQL as it was seen by a look that began at `began`.
    Seen {
        began: Millis,
        facts: Box<Facts>,
    },
    /// `pg_control`, read while the server goes down.
    Control(ControlData),
    Lease {
        kind: Kind,
        result: Result<Option<Leadership>, Failure>,
        took: Millis,
    },
    Renewed {
        result: Result<Renewal, Failure>,
        took: Millis,
    },
    /// The lease of a member that doesn't lead.
    Kept(Result<(), Failure>),
    Keys {
        action: Action,
        result: Result<(), String>,
    },
    Server {
        operation: u64,
        result: Result<Effect, String>,
        began: Millis,
        facts: Box<Facts>,
    },
    Answer {
        asked: Millis,
        answer: Option<Answer>,
    },
    /// The checkpoint after a promotion is done.
    Checkpointed,
    /// The roles of a new cluster are made.
    Roles(Result<Vec<String>, String>),
    /// Housekeeping that nothing waits for.
    Housekept(Result<(), String>),
}

/// What an action on the server left behind.
pub enum Effect {
    None,
    Compared(Outcome),
    End(Lsn),
    Pending(indexmap::IndexMap<String, crate::contract::PendingChange>),
}
