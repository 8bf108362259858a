//! The decisions of the agent: [`decide`] turns what is seen and what is remembered into what to do.
//!
//! Pure and total: no clock, no I/O, no random number, no panic. Four lanes of rules run side by side;
//! within a lane the first rule whose condition holds is the one that fires. See `rules`.

mod action;
mod election;
mod facts;
pub mod fencing;
mod observation;
mod rules;
mod state;
mod sync;

pub use action::{Action, Kind, Lane, StartAs, StopMode};
pub use election::within_history;
pub use facts::{Facts, Position, holds};
pub use observation::*;
pub use rules::{Rule, rules};
pub use state::{Claim, Handover, Published, Reason, Shape, State};

/// How often everything is looked at again when nothing happens.
const TICK: Millis = 1_000;
/// The same while something is under way that sends no notice when it is done.
const TICK_BUSY: Millis = 50;

/// What to do now, and why.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    pub actions: Vec<Action>,
    pub state: State,
    /// The rules that fired, at most one per lane.
    pub fired: Vec<Fired>,
    /// When to decide again if nothing happens until then.
    pub wake_at: Millis,
}

/// A rule that fired.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fired {
    pub rule: &'static str,
    pub lane: Lane,
    pub why: &'static str,
    /// What in particular made it fire, where the rule has more to say.
    pub detail: String,
}

impl Decision {
    /// The rule that says what PostgreSQL is to do.
    pub fn main(&self) -> Option<&Fired> {
        self.fired.iter().find(|fired| fired.lane == Lane::Server)
    }
}

/// Whether PostgreSQL can take writes, or what is being done to it can make it so.
pub fn writable(seen: &Observation) -> bool {
    Facts::new(seen, &State::default()).writable()
}

/// What a rule adds to the decision.
#[derive(Debug)]
pub struct Plan {
    pub actions: Vec<Action>,
    pub state: State,
    pub detail: String,
}

impl Plan {
    fn act(&mut self, action: Action) {
        self.actions.push(action);
    }
}

/// Decides what to do about what is seen, remembering `before`.
pub fn decide(seen: &Observation, before: &State) -> Decision {
    decide_by(rules(), seen, before)
}

/// [`decide`] by other rules than the agent's; for tests that leave one out.
pub fn decide_by<'a>(rules: impl Iterator<Item = &'a Rule>, seen: &Observation, before: &State) -> Decision {
    let mut plan =
        Plan { actions: Vec::new(), state: before.observe(seen, facts::holds(seen)), detail: String::new() };
    let mut fired: Vec<Fired> = Vec::new();
    // What a lane has decided is known to the lanes after it.
    let mut state = plan.state.clone();
    for rule in rules {
        if fired.iter().any(|earlier| earlier.lane == rule.lane) {
            continue;
        }
        let facts = Facts::new(seen, &state);
        if !(rule.when)(&facts) {
            continue;
        }
        (rule.then)(&facts, &mut plan);
        fired.push(Fired {
            rule: rule.id,
            lane: rule.lane,
            why: rule.why,
            detail: std::mem::take(&mut plan.detail),
        });
        state.clone_from(&plan.state);
    }
    plan.state.owes_start |= plan.actions.iter().any(Action::takes_down);
    let wake_at = wake_at(seen, &plan.state);
    Decision { actions: plan.actions, state: plan.state, fired, wake_at }
}

fn wake_at(seen: &Observation, state: &State) -> Millis {
    let now = seen.now;
    let moving = seen.cluster.as_ref().is_none_or(|cluster| {
        cluster.leader.is_none() && (!seen.settings.paused || cluster.failover.is_some())
    }) || state.handover.is_some()
        || state.down_since.is_some()
        || seen.stopping
        || seen.poll.as_ref().is_some_and(|poll| !poll.done);
    let mut wake = now + if moving { TICK_BUSY } else { TICK.min(seen.settings.loop_wait) };
    if let Some(lease) = &seen.lease {
        let renewal = match seen.failures.of(Kind::Renew) {
            Some(failure) => failure.at + fencing::retry_interval(lease.ttl),
            None => lease.renewed_at + fencing::renew_interval(lease.ttl),
        };
        wake =
            [renewal, fencing::stop_begins(lease)].into_iter().filter(|at| *at > now).fold(wake, Millis::min);
    }
    wake
}

#[cfg(test)]
mod tests;
