//! An observation with its plain consequences worked out once, in the words that the rules use.

use super::{
    action::{Action, StopMode},
    fencing,
    observation::*,
    state::State,
};
use crate::model::{Lsn, MemberName, Timeline};

/// How old an answer of the other members may be when a decision rests on it.
const POLL_FRESH: Millis = 1_000;

/// How long a new agent looks for a way to keep a running primary that has no lease.
const ADOPTION: Millis = 3_000;

pub struct Facts<'a> {
    pub seen: &'a Observation,
    pub state: &'a State,
    pub now: Millis,
    /// This node has the leader key, for some time yet.
    pub holds: bool,
}

/// A point in the history of writes; a later timeline is further.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    pub timeline: Timeline,
    pub lsn: Lsn,
}

/// Whether the lease stands: in time, and not contradicted by a newer view of the store.
pub fn holds(seen: &Observation) -> bool {
    let Some(lease) = &seen.lease else { return false };
    let contradicted = seen.cluster.as_ref().is_some_and(|cluster| {
        cluster.revision >= lease.term
            && cluster.leader.as_ref().is_none_or(|leader| leader.term != lease.term)
    });
    !lease.remembered && !contradicted && seen.now < fencing::deadline(lease)
}

impl<'a> Facts<'a> {
    pub fn new(seen: &'a Observation, state: &'a State) -> Self {
        Self { seen, state, now: seen.now, holds: holds(seen) }
    }

    pub fn settings(&self) -> &'a Settings {
        &self.seen.settings
    }

    pub fn ttl(&self) -> Millis {
        self.seen.settings.ttl
    }

    pub fn me(&self) -> &'a MemberName {
        &self.seen.me.name
    }

    pub fn cluster(&self) -> Option<&'a Cluster> {
        self.seen.cluster.as_ref()
    }

    pub fn paused(&self) -> bool {
        self.seen.settings.paused
    }

    /// The store shows no leader.
    pub fn unlocked(&self) -> bool {
        self.cluster().is_some_and(|cluster| cluster.leader.is_none())
    }

    /// For how long nobody has led a cluster that was not paused.
    pub fn unlocked_for(&self) -> Millis {
        let since = self.state.unlocked_since.max(self.state.paused_until);
        self.state.unlocked_since.and(since).map_or(0, |since| self.now.saturating_sub(since))
    }

    /// What an operator wants of the leader key, once it is due.
    pub fn wish(&self) -> Option<&'a FailoverKey> {
        self.cluster()?.failover.as_ref().filter(|key| key.due)
    }

    /// An operator wants this node to lead.
    pub fn wanted(&self) -> bool {
        self.wish().is_some_and(|key| key.candidate.as_ref() == Some(self.me()))
    }

    /// A run that works on the cluster has suspended automatic failover.
    pub fn suspended(&self) -> bool {
        self.cluster().is_some_and(|cluster| cluster.suspended)
    }

    /// What nobody asked for may be done all the same.
    pub fn automatic(&self) -> bool {
        !self.paused() && !self.suspended()
    }

    pub fn drained(&self, name: &MemberName) -> bool {
        self.cluster().is_some_and(|cluster| cluster.drained.contains(name))
    }

    /// What is writable may stay so without a lease: the cluster is paused, for so long that everybody who
    /// could take the key has heard of it; and nobody who reads the store says that the pause is over.
    pub fn may_write_without_lease(&self) -> bool {
        let heard = self.state.paused_since.is_some_and(|since| self.now >= since + self.ttl());
        let over = self.poll_since(0).is_some_and(|poll| poll.answers.iter().any(|answer| answer.unpaused));
        self.paused() && heard && !over
    }

    /// The leader, when it is another node.
    pub fn other_leader(&self) -> Option<&'a Leader> {
        self.cluster()?.leader.as_ref().filter(|leader| leader.name != *self.me())
    }

    /// The store shows this node's name on the key, and this node does not count on it: its answer was
    /// lost, its own deadline has passed, or an earlier agent held it.
    pub fn own_name_on_key(&self) -> Option<&'a Leader> {
        self.cluster()?.leader.as_ref().filter(|leader| leader.name == *self.me() && !self.holds)
    }

    /// The other leader, once it has published that it accepts writes.
    pub fn ready_leader(&self) -> Option<&'a Member> {
        let leader = self.other_leader()?;
        self.cluster()?.member(&leader.name).filter(|member| member.running && member.primary)
    }

    /// `/sync`, when it restricts who may win.
    pub fn sync(&self) -> Option<&'a SyncKey> {
        self.cluster()?.sync.as_ref()
    }

    pub fn running(&self) -> Option<&'a Running> {
        match &self.seen.server.process {
            Process::Running(running) => Some(running),
            _ => None,
        }
    }

    pub fn running_primary(&self) -> Option<&'a Running> {
        self.running().filter(|running| !running.in_recovery)
    }

    pub fn running_standby(&self) -> Option<&'a Running> {
        self.running().filter(|running| running.in_recovery)
    }

    pub fn stopped(&self) -> bool {
        self.seen.server.process == Process::Stopped
    }

    /// What `pg_control` says, while no server runs.
    pub fn control(&self) -> Option<&'a Control> {
        match &self.seen.server.data {
            Data::Initialised { control, .. } => Some(control),
            _ => None,
        }
    }

    pub fn empty(&self) -> bool {
        self.seen.server.data == Data::Empty
    }

    pub fn system_identifier(&self) -> Option<&'a str> {
        match &self.seen.server.data {
            Data::Initialised { system_identifier, .. } => Some(system_identifier),
            _ => None,
        }
    }

    /// The cluster has been created: its identifier is known.
    pub fn initialised(&self) -> Option<&'a str> {
        self.cluster()?.initialize.as_deref().filter(|identifier| !identifier.is_empty())
    }

    /// The data belong to another cluster.
    pub fn foreign(&self) -> bool {
        matches!((self.system_identifier(), self.initialised()), (Some(mine), Some(cluster)) if mine != cluster)
    }

    /// The server is writable, or what is being done to it can make it so.
    pub fn writable(&self) -> bool {
        let process = match &self.seen.server.process {
            Process::Stopped | Process::Closing { .. } => false,
            Process::Starting { primary } | Process::Unresponsive { primary, .. } => *primary,
            Process::Running(running) => !running.in_recovery,
        };
        process || self.seen.busy.server.as_ref().is_some_and(Action::makes_primary)
    }

    /// There is time to stop before the lease can end.
    pub fn safe(&self) -> bool {
        self.holds && self.seen.lease.is_some_and(|lease| self.now < fencing::stop_begins(&lease))
    }

    /// A primary was found running by an agent that has just been started, and nobody else leads.
    pub fn adopting(&self) -> bool {
        let other_work = self.seen.busy.server.as_ref().is_some_and(|action| *action != Action::Reload);
        if self.state.has_led || self.running_primary().is_none() || other_work {
            return false;
        }
        if self.other_leader().is_some() || self.foreign() {
            return false;
        }
        match &self.seen.lease {
            Some(lease) => lease.remembered && self.now < fencing::stop_begins(lease),
            None => self.state.started.is_some_and(|started| self.now < started + ADOPTION),
        }
    }

    pub fn stopping_at_once(&self) -> bool {
        self.seen.busy.server == Some(Action::Stop(StopMode::Immediate))
    }

    /// Where this node's writes end, as far as that is known.
    pub fn position(&self) -> Option<Position> {
        self.running().map(|running| Position { timeline: running.timeline, lsn: running.lsn })
    }

    /// The members' answers, if they were asked at `since` or later and not too long ago.
    pub fn poll_since(&self, since: Millis) -> Option<&'a Poll> {
        self.seen.poll.as_ref().filter(|poll| poll.asked >= since && poll.asked + POLL_FRESH >= self.now)
    }

    pub fn polling(&self) -> bool {
        self.seen.poll.as_ref().is_some_and(|poll| !poll.done)
    }

    /// What is known of this node's history against the current leader's.
    pub fn outcome(&self) -> Option<&'a Verdict> {
        let leader = self.other_leader()?;
        self.seen
            .verdict
            .as_ref()
            .filter(|verdict| verdict.leader == leader.name && verdict.term == leader.term)
    }
}

impl Answer {
    pub fn position(&self) -> Position {
        Position { timeline: self.timeline, lsn: self.lsn }
    }

    pub fn is_standby(&self) -> bool {
        self.running && self.in_recovery
    }
}
