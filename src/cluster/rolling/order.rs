//! In which order members restart. Pure: from what is known of them to a list of steps.
//!
//! **The rule.** Standbys first, one at a time; then one of them takes over; the old primary restarts as its
//! standby. Writes are interrupted once, by the switchover, and whoever takes over has shown before that it
//! starts with the new settings.
//!
//! **Limits that a standby must not lack** (`LIMITS`). A standby that serves reads keeps locks and
//! transactions of its primary in tables of fixed size: with less room than the primary it does not start,
//! and one that runs stops replaying.
//!
//! - *More*: the rule is right as it is. Standbys get the room before a primary can need it: the old primary
//!   takes the new value when it starts as a standby, when everybody else has it already.
//! - *Less*: the primary first, **in place**. Only a server that starts as a primary lowers what its standbys
//!   need: it writes the new value into the WAL. A standby that restarted before would have to start with
//!   the old value again (the agent sees to that), and would take that value along when it is promoted: no
//!   chain of switchovers ever lowers anything. So the primary's outage of a second is the only way, and no
//!   switchover comes on top of it. The standbys follow once they have replayed the primary's word.
//! - *Both at once* (one limit up, another down): standbys restart for what goes up, the primary in place,
//!   the standbys again for what went down. Twice for a standby interrupts nobody's writes.

use crate::contract::PendingChange;
use serde::Serialize;

/// Settings that a standby needs at least as large as its primary's.
pub const LIMITS: [&str; 5] = [
    "max_connections",
    "max_locks_per_transaction",
    "max_prepared_transactions",
    "max_wal_senders",
    "max_worker_processes",
];

/// A member as the order sees it.
#[derive(Clone, Debug, Default)]
pub struct Subject {
    pub name: String,
    pub leads: bool,
    /// Runs, and streams from the leader on its timeline.
    pub well: bool,
    /// Is never to become the primary.
    pub nofailover: bool,
    /// Commits wait for it: in a synchronous mode only such a member can take over.
    pub synchronous: bool,
    pub lag_bytes: u64,
    /// It is to be restarted.
    pub wanted: bool,
    /// Settings that wait for a restart.
    pub pending: Vec<(String, PendingChange)>,
}

/// What is done to one member. Nothing is done to two at once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Step {
    /// A standby restarts.
    Standby { member: String },
    /// A standby restarts once it has replayed that its primary's limits are lower.
    StandbyAfterPrimary { member: String },
    /// The primary restarts where it is.
    Primary { member: String },
    /// Another member takes over; the old primary starts again as its standby.
    Switchover { from: String, to: String },
    /// The old primary restarts, unless the switchover has brought it what it needs.
    FormerPrimary { member: String },
}

impl Step {
    /// The member that it is about; of a switchover, who takes over.
    pub fn member(&self) -> &str {
        match self {
            Self::Standby { member }
            | Self::StandbyAfterPrimary { member }
            | Self::Primary { member }
            | Self::FormerPrimary { member }
            | Self::Switchover { to: member, .. } => member,
        }
    }
}

impl std::fmt::Display for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Standby { member } => write!(f, "restart {member}, a standby"),
            Self::StandbyAfterPrimary { member } => {
                write!(f, "restart {member}, a standby, once it has what its primary wrote")
            }
            Self::Primary { member } => write!(f, "restart {member}, the primary, in place"),
            Self::Switchover { from, to } => write!(f, "switch over from {from} to {to}"),
            Self::FormerPrimary { member } => {
                write!(f, "restart {member}, a standby by then, unless that has happened")
            }
        }
    }
}

/// Why nothing is restarted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("nobody leads")]
    NoLeader,
    #[error("{} lead at the same time", .0.join(" and "))]
    TwoLeaders(Vec<String>),
    #[error("no other member is well, so nobody could take over from {leader} while it restarts")]
    NobodyToTakeOver { leader: String },
    #[error("{leader} is to lower {setting}, and {} must restart for another limit before it", .standbys.join(", "))]
    StandbysFirst { leader: String, setting: String, standbys: Vec<String> },
    #[error("{member} cannot take a lower {setting} before its primary {leader} has")]
    PrimaryFirst { member: String, leader: String, setting: String },
}

impl Refusal {
    pub fn next_step(&self) -> String {
        match self {
            Self::NoLeader | Self::TwoLeaders(_) => "See what is wrong with `pgfleet status`.".to_owned(),
            Self::NobodyToTakeOver { .. } => {
                "Mend the others first (`pgfleet status`), or accept the outage with `--force`.".to_owned()
            }
            Self::StandbysFirst { .. } => "Restart them too: `pgfleet restart --pending`.".to_owned(),
            Self::PrimaryFirst { leader, member, .. } => {
                format!("Restart both: `pgfleet restart {leader} {member}`; the order is found by itself.")
            }
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Up,
    Down,
}

impl Subject {
    /// Which way one of the limits is to go.
    fn limit(&self, name: &str) -> Option<Way> {
        let (_, change) = self.pending.iter().find(|(pending, _)| pending == name)?;
        let number = |value: &Option<String>| value.as_ref()?.trim().parse::<i64>().ok();
        // What cannot be compared is treated as what is more common, an increase.
        let (old, new) = (number(&change.old_value), number(&change.new_value));
        Some(if old.zip(new).is_some_and(|(old, new)| new < old) { Way::Down } else { Way::Up })
    }

    fn first(&self, way: Way) -> Option<&'static str> {
        LIMITS.into_iter().find(|name| self.limit(name) == Some(way))
    }

    fn can_take_over(&self) -> bool {
        self.well && !self.leads && !self.nofailover
    }
}

/// The steps that restart all wanted members. `force` accepts that nobody could take over.
pub fn order(members: &[Subject], force: bool) -> Result<Vec<Step>, Refusal> {
    if !members.iter().any(|member| member.wanted) {
        return Ok(Vec::new());
    }
    let leaders: Vec<&Subject> = members.iter().filter(|member| member.leads).collect();
    let leader = match leaders.as_slice() {
        [leader] => *leader,
        [] => return Err(Refusal::NoLeader),
        several => {
            return Err(Refusal::TwoLeaders(several.iter().map(|member| member.name.clone()).collect()));
        }
    };
    let standbys: Vec<&Subject> = members.iter().filter(|member| !member.leads && member.wanted).collect();
    let restart = |member: &&Subject| {
        let member_name = member.name.clone();
        // The primary has lowered it: an earlier run got that far.
        match member.first(Way::Down).is_some() && leader.first(Way::Down).is_none() {
            true => Step::StandbyAfterPrimary { member: member_name },
            false => Step::Standby { member: member_name },
        }
    };
    if !leader.wanted {
        let lowered = standbys.iter().find_map(|member| {
            let setting = LIMITS.into_iter().find(|name| both(member, leader, name, Way::Down))?.to_owned();
            Some(Refusal::PrimaryFirst { member: member.name.clone(), leader: leader.name.clone(), setting })
        });
        return match lowered {
            Some(refusal) if !force => Err(refusal),
            _ => Ok(standbys.iter().map(restart).collect()),
        };
    }
    let alone = members.len() == 1;
    if !alone && !force && !members.iter().any(|member| !member.leads && member.well) {
        return Err(Refusal::NobodyToTakeOver { leader: leader.name.clone() });
    }
    let primary = Step::Primary { member: leader.name.clone() };
    let Some(lowered) = leader.first(Way::Down) else {
        let mut steps: Vec<Step> = standbys.iter().map(restart).collect();
        match successor(members) {
            Some(to) => {
                steps.push(Step::Switchover { from: leader.name.clone(), to: to.name.clone() });
                steps.push(Step::FormerPrimary { member: leader.name.clone() });
            }
            None => steps.push(primary),
        }
        return Ok(steps);
    };
    // What goes up on the primary has to be up everywhere before it starts with it.
    let needs_more = |member: &Subject| LIMITS.into_iter().any(|name| both(member, leader, name, Way::Up));
    let left_out: Vec<String> = members
        .iter()
        .filter(|member| !member.leads && !member.wanted && needs_more(member))
        .map(|member| member.name.clone())
        .collect();
    if !left_out.is_empty() && !force {
        let (leader, setting) = (leader.name.clone(), lowered.to_owned());
        return Err(Refusal::StandbysFirst { leader, setting, standbys: left_out });
    }
    let mut steps: Vec<Step> = standbys.iter().filter(|member| needs_more(member)).map(restart).collect();
    steps.push(primary);
    steps.extend(standbys.iter().map(|member| Step::StandbyAfterPrimary { member: member.name.clone() }));
    Ok(steps)
}

fn both(member: &Subject, leader: &Subject, name: &str, way: Way) -> bool {
    member.limit(name) == Some(way) && leader.limit(name) == Some(way)
}

/// Who takes over: somebody who restarts before, if possible one for whom commits wait, then the most
/// advanced.
fn successor(members: &[Subject]) -> Option<&Subject> {
    let able = members.iter().filter(|member| member.can_take_over());
    // Who does not restart here must need no restart: it would lead without the new settings.
    able.min_by_key(|member| {
        let stale = !member.wanted && !member.pending.is_empty();
        (!member.synchronous, stale, member.lag_bytes, member.name.clone())
    })
}

#[cfg(test)]
#[path = "order_tests.rs"]
mod tests;
