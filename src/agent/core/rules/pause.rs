//! What a paused cluster still does: what an operator asks for, and what follows from it. Everything else
//! stays as it is, whoever brought it about.

use super::{follower::diverged, follower::reinitialize};
use crate::agent::core::{ControlState, Plan, Request, facts::Facts};

pub fn restart_wanted(facts: &Facts) -> bool {
    facts.seen.request == Some(Request::Restart)
}

/// Whether the server is to be left alone.
pub fn holds_still(facts: &Facts) -> bool {
    let asked = reinitialize(facts)
        || facts.stopped() && (restart_wanted(facts) || facts.state.owes_start)
        || facts.holds && facts.wish().is_some_and(|key| key.candidate.is_some())
        || facts.state.handover.is_some();
    let follows = facts.running_standby().is_some() && facts.other_leader().is_some() && !diverged(facts);
    facts.paused() && !asked && !follows
}

/// Has the key, is no primary, and nobody asked for it to become one.
pub fn idles_with_key(facts: &Facts) -> bool {
    facts.paused()
        && (facts.stopped() || facts.running_standby().is_some())
        && facts.state.handover.is_none()
        && !facts.wanted()
        && !restart_wanted(facts)
        && !facts.state.owes_start
}

/// A primary that is down in a paused cluster is to be started, and nobody has gone on without it.
pub fn resumes_lead(facts: &Facts) -> bool {
    let Some(cluster) = facts.cluster() else { return false };
    facts.paused()
        && facts.unlocked()
        && restart_wanted(facts)
        && facts.stopped()
        && !facts.foreign()
        && facts.initialised().is_some()
        && facts.control().is_some_and(|control| {
            control.state != ControlState::Recovery
                && cluster.history.last().is_none_or(|(ended, _)| control.timeline > *ended)
        })
        && cluster.sync.as_ref().is_none_or(|sync| sync.leader == *facts.me())
}

/// Whether anybody takes the key: of his own accord, because an operator wants it, or because it runs as a
/// primary already.
pub fn may_race(facts: &Facts) -> bool {
    let asked = facts.wanted() || facts.wish().is_some() && !facts.paused();
    facts.automatic() || asked || facts.running_primary().is_some()
}

/// Writable without the key, which a paused cluster allows: whether it still is paused is asked of the
/// others, for the store may be out of reach.
pub fn writes_without_key(facts: &Facts) -> bool {
    facts.paused() && facts.writable() && !facts.holds
}

pub fn explain_hold(facts: &Facts, plan: &mut Plan) {
    plan.detail = match () {
        () if facts.running_primary().is_some() && !facts.holds => "it writes without the leader key",
        () if facts.stopped() => "PostgreSQL is down",
        () => "",
    }
    .to_owned();
}
