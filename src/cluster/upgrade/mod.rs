//! Upgrades: of what, to which version, on which hosts, in which order.
//!
//! `goal` judges what is asked for, `found` reads what a look at the hosts has found, `order` says which host comes
//! when: all three are pure. `course` carries it out, one host after another.

mod course;
mod found;
mod goal;
mod order;

pub use course::{Done, Left, News, Stopped, Undertaking, Upgraded, Way};
pub use found::{Found, already_back, found};
pub use goal::{Fleet, Goal, Refusal, goal};
use order::order;

use serde::Serialize;

/// What can be upgraded by itself. The order is the one in which all of it is: the store before those who use it,
/// the agent before the server that it restarts, the way in after what it leads to, everything else last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Component {
    Etcd,
    Agent,
    Postgres,
    Haproxy,
    Keepalived,
    System,
}

impl Component {
    pub const ALL: [Component; 6] =
        [Self::Etcd, Self::Agent, Self::Postgres, Self::Haproxy, Self::Keepalived, Self::System];

    /// Its tag in the playbook `upgrade`.
    pub fn tag(self) -> &'static str {
        match self {
            Self::Etcd => "etcd",
            Self::Agent => "agent",
            Self::Postgres => "postgres",
            Self::Haproxy => "haproxy",
            Self::Keepalived => "keepalived",
            Self::System => "system",
        }
    }

    /// Its play in the playbook `upgrade`.
    pub fn play(self) -> &'static str {
        match self {
            Self::Etcd => "Upgrade of etcd",
            Self::Agent => "Upgrade of the agent",
            Self::Postgres => "Upgrade of PostgreSQL",
            Self::Haproxy => "Upgrade of HAProxy",
            Self::Keepalived => "Upgrade of keepalived",
            Self::System => "Upgrade of the system",
        }
    }

    /// The group of the inventory that has it.
    pub fn group(self) -> &'static str {
        match self {
            Self::Agent => "postgres",
            Self::System => "all",
            other => other.tag(),
        }
    }
}

impl std::fmt::Display for Component {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Etcd => "etcd",
            Self::Agent => "the agent",
            Self::Postgres => "PostgreSQL",
            Self::Haproxy => "HAProxy",
            Self::Keepalived => "keepalived",
            Self::System => "the system",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::playbook::{Playbook, Sources};

    #[test]
    fn every_component_has_its_play_in_the_playbook_and_in_this_order() {
        let playbook = Playbook::load("upgrade", &Sources::default()).expect("a playbook");
        let plays: Vec<_> =
            playbook.plays.iter().map(|play| (play.name.as_str(), play.hosts.as_str())).collect();
        assert_eq!(plays, Component::ALL.map(|component| (component.play(), component.group())));
        for (play, component) in playbook.plays.iter().zip(Component::ALL) {
            assert_eq!(play.tags, [component.tag()]);
        }
    }
}
