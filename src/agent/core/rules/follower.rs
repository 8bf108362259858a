//! Rules of a node that has no leader key: follow who has it, or get ready to compete.

use super::{pause::resumes_lead, server::backing_off};
use crate::agent::core::{Action, Kind, Millis, Outcome, Plan, Request, StartAs, facts::Facts};
use crate::model::MemberName;

/// How soon an inconclusive comparison is repeated.
const COMPARE_AGAIN: Millis = 300;
const RETRY: Millis = 2_000;

pub fn reinitialize(facts: &Facts) -> bool {
    matches!(facts.seen.request, Some(Request::Reinitialize { .. })) && facts.ready_leader().is_some()
}

pub fn may_clone(facts: &Facts) -> bool {
    facts.ready_leader().is_some()
        && facts.stopped()
        && (facts.empty() && facts.initialised().is_some() || reinitialize(facts))
        && !backing_off(facts, Kind::Clone, RETRY)
}

/// Copies a standby that offers itself, to spare the leader; else, or where that is asked for, the leader.
pub fn clone(facts: &Facts, plan: &mut Plan) {
    let offered = facts.cluster().and_then(|cluster| {
        cluster.members.iter().find(|member| member.clonefrom && member.running && member.name != *facts.me())
    });
    let repeated = facts.seen.failures.count(Kind::Clone) % 2 == 1;
    let from_leader = facts.seen.request == Some(Request::Reinitialize { from_leader: true });
    let source = offered.filter(|_| !repeated && !from_leader).or(facts.ready_leader());
    plan.actions.extend(source.map(|member| Action::Clone(member.name.clone())));
}

fn leader_name(facts: &Facts) -> Option<MemberName> {
    facts.other_leader().map(|leader| leader.name.clone())
}

/// Streams from the leader, on its timeline: then it has been compared, by whoever let it stream.
fn streams_from_leader(facts: &Facts) -> bool {
    match (facts.running_standby(), facts.ready_leader()) {
        (Some(server), Some(leader)) => {
            server.streaming
                && server.upstream.as_ref() == Some(&leader.name)
                && leader.timeline == Some(server.timeline)
        }
        _ => false,
    }
}

pub fn must_compare(facts: &Facts) -> bool {
    let compared = facts.outcome().is_some_and(|verdict| match verdict.outcome {
        Outcome::Prefix | Outcome::Diverged => true,
        Outcome::Recover => facts.stopped(),
        Outcome::Unknown => facts.now < verdict.at + COMPARE_AGAIN,
    });
    facts.ready_leader().is_some()
        && facts.control().is_some()
        && (facts.stopped() || facts.running_standby().is_some())
        && !streams_from_leader(facts)
        && !compared
        && !facts.seen.failures.within(Kind::CheckDivergence, COMPARE_AGAIN, facts.now)
}

pub fn compare(facts: &Facts, plan: &mut Plan) {
    plan.actions.extend(leader_name(facts).map(Action::CheckDivergence));
}

fn outcome(facts: &Facts) -> Option<Outcome> {
    facts.ready_leader()?;
    facts.outcome().map(|verdict| verdict.outcome)
}

pub fn diverged(facts: &Facts) -> bool {
    outcome(facts) == Some(Outcome::Diverged) && !facts.empty()
}

pub fn may_rewind(facts: &Facts) -> bool {
    diverged(facts)
        && facts.stopped()
        && facts.settings().use_pg_rewind
        && !replaceable(facts)
        && !backing_off(facts, Kind::Rewind, RETRY)
}

pub fn rewind(facts: &Facts, plan: &mut Plan) {
    plan.actions.extend(leader_name(facts).map(Action::Rewind));
}

/// Rewinding has failed for good, or is not wanted, and the configuration allows a new copy.
fn replaceable(facts: &Facts) -> bool {
    let settings = facts.settings();
    if settings.use_pg_rewind {
        settings.remove_data_on_rewind_failure && facts.seen.failures.count(Kind::Rewind) >= 3
    } else {
        settings.remove_data_on_divergence
    }
}

/// The only rule by which data that are there are given up without an operator's word.
pub fn may_replace(facts: &Facts) -> bool {
    diverged(facts)
        && facts.stopped()
        && facts.ready_leader().is_some()
        && replaceable(facts)
        && !backing_off(facts, Kind::Clone, RETRY)
}

pub fn may_start_standby(facts: &Facts) -> bool {
    outcome(facts) == Some(Outcome::Prefix)
        && facts.stopped()
        && facts.control().is_some()
        && !backing_off(facts, Kind::StartStandby, RETRY)
}

pub fn start_standby(facts: &Facts, plan: &mut Plan) {
    plan.act(Action::Start(StartAs::Standby(leader_name(facts))));
}

/// A crashed primary recovers as a standby that streams from nobody; then it can be compared.
pub fn must_recover(facts: &Facts) -> bool {
    outcome(facts) == Some(Outcome::Recover)
        && facts.stopped()
        && !backing_off(facts, Kind::StartStandby, RETRY)
}

pub fn must_follow(facts: &Facts) -> bool {
    outcome(facts) == Some(Outcome::Prefix)
        && facts.running_standby().is_some_and(|server| server.upstream != leader_name(facts))
        && !backing_off(facts, Kind::Follow, COMPARE_AGAIN)
}

pub fn follow(facts: &Facts, plan: &mut Plan) {
    plan.actions.extend(leader_name(facts).map(Action::Follow));
}

pub fn may_start_alone(facts: &Facts) -> bool {
    facts.unlocked()
        && facts.stopped()
        && facts.control().is_some()
        && facts.initialised().is_some()
        && !resumes_lead(facts)
        && !backing_off(facts, Kind::StartStandby, RETRY)
}

/// Its own name is on the key as far as it knows, and nothing came of that in time.
pub fn may_read(facts: &Facts) -> bool {
    facts.own_name_on_key().is_some()
        && facts.seen.lease.is_some_and(|lease| !lease.remembered)
        && facts.stopped()
        && facts.control().is_some()
        && facts.initialised().is_some()
        && !backing_off(facts, Kind::StartStandby, RETRY)
}

pub fn start_alone(_: &Facts, plan: &mut Plan) {
    plan.act(Action::Start(StartAs::Standby(None)));
}
