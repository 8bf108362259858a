//! The words for a member's role and for what its PostgreSQL is doing.

use serde::{Deserialize, Serialize};
use std::fmt;

/// What a member is to its cluster, as its member key and `GET /patroni` say it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Accepts writes. Agents before Patroni 4 wrote `master`.
    #[serde(alias = "master")]
    Primary,
    /// Was told to promote and has not left recovery yet.
    Promoted,
    /// Was the primary and has given that up; not yet a replica.
    Demoted,
    /// The leader of a cluster that replicates from another cluster.
    StandbyLeader,
    Replica,
    /// Has no data directory, or none that can be read.
    #[default]
    #[serde(other)]
    Uninitialized,
}

impl Role {
    pub fn as_str(self) -> &'static str {
        match self {
            Role::Primary => "primary",
            Role::Promoted => "promoted",
            Role::Demoted => "demoted",
            Role::StandbyLeader => "standby_leader",
            Role::Replica => "replica",
            Role::Uninitialized => "uninitialized",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

macro_rules! postgres_states {
    ($($(#[$doc:meta])* $variant:ident = $number:literal $word:literal),* $(,)?) => {
        /// What PostgreSQL on a member is doing, in the words of the member key; the numbers are those of
        /// the metric `patroni_postgres_state`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub enum PostgresState {
            $($(#[$doc])* #[serde(rename = $word)] $variant = $number,)*
            /// A word that this version does not know.
            #[serde(other, rename = "unknown")]
            Unknown = -1,
        }

        impl PostgresState {
            pub const ALL: &[PostgresState] = &[$(PostgresState::$variant),*];

            pub fn as_str(self) -> &'static str {
                match self {
                    $(PostgresState::$variant => $word,)*
                    PostgresState::Unknown => "unknown",
                }
            }
        }
    };
}

postgres_states! {
    Initdb = 0 "initializing new cluster",
    InitdbFailed = 1 "initdb failed",
    CustomBootstrap = 2 "running custom bootstrap script",
    CustomBootstrapFailed = 3 "custom bootstrap failed",
    CreatingReplica = 4 "creating replica",
    Running = 5 "running",
    Starting = 6 "starting",
    BootstrapStarting = 7 "starting after custom bootstrap",
    StartFailed = 8 "start failed",
    Restarting = 9 "restarting",
    RestartFailed = 10 "restart failed",
    Stopping = 11 "stopping",
    Stopped = 12 "stopped",
    StopFailed = 13 "stop failed",
    Crashed = 14 "crashed",
}

impl PostgresState {
    /// The value of the metric `patroni_postgres_state`.
    pub fn number(self) -> i32 {
        self as i32
    }
}

impl fmt::Display for PostgresState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_what_serde_writes() {
        for state in PostgresState::ALL {
            assert_eq!(serde_json::to_value(state).unwrap(), state.as_str());
            assert_eq!(serde_json::from_value::<PostgresState>(state.as_str().into()).unwrap(), *state);
        }
        for role in [Role::Primary, Role::Promoted, Role::Demoted, Role::StandbyLeader, Role::Replica] {
            assert_eq!(serde_json::to_value(role).unwrap(), role.as_str());
        }
    }

    #[test]
    fn reads_the_words_of_other_versions() {
        assert_eq!(serde_json::from_str::<Role>("\"master\"").unwrap(), Role::Primary);
        assert_eq!(serde_json::from_str::<Role>("\"cleaner\"").unwrap(), Role::Uninitialized);
        assert_eq!(serde_json::from_str::<PostgresState>("\"dreaming\"").unwrap(), PostgresState::Unknown);
    }
}
