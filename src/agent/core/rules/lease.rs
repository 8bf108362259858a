//! The leader key: who takes it, keeps it, gives it up.

use super::{
    Rule, nothing,
    pause::{idles_with_key, may_race, restart_wanted, resumes_lead},
    rule,
};
use crate::agent::core::{
    Action, Claim, ControlState, Kind, Lane, Millis, Plan, Process, Reason,
    election::{self, Fitness},
    facts::Facts,
    fencing,
};

const L: Lane = Lane::Lease;

pub const RULES: &[Rule] = &[
    rule(L, "lease-busy", "A request about the leader key is under way: wait for its answer.", busy, nothing),
    rule(
        L,
        "release-after-stop",
        "The leader hands over and its server is down: give the key up.",
        handed_over,
        release,
    ),
    rule(
        L,
        "release-unfit",
        "This node has the key and cannot lead: give it up.",
        unfit_holder,
        release_unfit,
    ),
    rule(
        L,
        "release-paused",
        "The cluster is paused, and who has the key is no primary: give it up.",
        idle_holder,
        release,
    ),
    rule(L, "renew", "The lease is due: renew it.", renewal_due, |_, plan| plan.act(Action::Renew)),
    rule(L, "hold", "The lease stands.", |facts| facts.holds, nothing),
    rule(L, "adopt-key", "The key bears this node's name: take it up again.", own_key, |_, plan| {
        plan.act(Action::Acquire)
    }),
    rule(
        L,
        "claim-bootstrap",
        "The cluster is being created and nobody leads: lead.",
        bootstrapping,
        acquire,
    ),
    rule(
        L,
        "claim-origin",
        "There is no cluster and this node has a primary's data: lead with them.",
        origin,
        acquire,
    ),
    rule(
        L,
        "claim-restart",
        "The cluster is paused and an operator wants the primary started: take the key first.",
        |facts| resumes_lead(facts) && may_compete(facts),
        acquire,
    ),
    rule(L, "race", "Nobody leads and this node is fit to: take the key.", fit, acquire),
    rule(L, "no-key", "Somebody else leads, or this node is not fit to.", |_| true, explain),
];

fn busy(facts: &Facts) -> bool {
    facts.seen.busy.lease.is_some()
}

/// After a failed request, the pause before the next.
fn backing_off(facts: &Facts, kind: Kind) -> bool {
    facts.seen.failures.within(kind, fencing::retry_interval(facts.ttl()), facts.now)
}

fn handed_over(facts: &Facts) -> bool {
    let Some(handover) = &facts.state.handover else { return false };
    if !facts.holds || backing_off(facts, Kind::Release) {
        return false;
    }
    let down = facts.stopped() && facts.seen.busy.server.is_none();
    down || handover.reason == Reason::Switchover && everything_is_over_there(facts)
}

/// The server is shut down but for its last walsenders, and a candidate has its last record.
fn everything_is_over_there(facts: &Facts) -> bool {
    let (Some(handover), Process::Closing { checkpoint }, Some(poll)) =
        (&facts.state.handover, &facts.seen.server.process, &facts.seen.poll)
    else {
        return false;
    };
    poll.asked >= handover.since
        && poll.answers.iter().any(|answer| {
            answer.is_standby()
                && answer.lsn > *checkpoint
                && handover.candidate.as_ref().is_none_or(|candidate| *candidate == answer.name)
        })
}

fn release(_: &Facts, plan: &mut Plan) {
    plan.act(Action::Release);
}

/// Holds the key, is not and will not become a primary, and nothing is under way.
fn unfit_holder(facts: &Facts) -> bool {
    let settled = facts.holds && facts.seen.busy.server.is_none() && !backing_off(facts, Kind::Release);
    settled && !facts.writable() && unfit_reason(facts).is_some()
}

fn idle_holder(facts: &Facts) -> bool {
    facts.holds
        && facts.seen.busy.server.is_none()
        && idles_with_key(facts)
        && !backing_off(facts, Kind::Release)
}

fn unfit_reason(facts: &Facts) -> Option<&'static str> {
    let failed_starts = facts.seen.failures.count(Kind::StartPrimary);
    match () {
        () if facts.foreign() => Some("its data belong to another cluster"),
        () if facts.empty() && facts.initialised().is_some() => Some("its data directory is empty"),
        () if facts.empty() && facts.seen.failures.count(Kind::Initdb) >= 3 => {
            Some("the cluster could not be created")
        }
        () if facts.stopped() && failed_starts >= 3 => Some("its server does not start"),
        () if facts.running_standby().is_some()
            && facts.seen.failures.within(Kind::Promote, facts.ttl(), facts.now) =>
        {
            Some("its promotion failed")
        }
        () if facts.stopped() && super::server::claim(facts) == super::server::Standing::Void => {
            Some("another leader has been there since it was judged fit")
        }
        () => None,
    }
}

fn release_unfit(facts: &Facts, plan: &mut Plan) {
    plan.detail = unfit_reason(facts).unwrap_or_default().to_owned();
    plan.state.handover =
        Some(super::super::Handover { reason: Reason::Unfit, candidate: None, since: facts.now });
    plan.act(Action::Release);
}

fn renewal_due(facts: &Facts) -> bool {
    let Some(lease) = facts.seen.lease.filter(|_| facts.holds) else { return false };
    let due: Millis = lease.renewed_at + fencing::renew_interval(lease.ttl);
    facts.now >= due && !backing_off(facts, Kind::Renew)
}

fn own_key(facts: &Facts) -> bool {
    facts.state.handover.is_none()
        && !facts.seen.stopping
        && !backing_off(facts, Kind::Acquire)
        && !facts.foreign()
        && (!facts.paused() || may_race(facts) || restart_wanted(facts))
        && facts.own_name_on_key().is_some_and(|leader| {
            facts.seen.lease.is_some_and(|lease| lease.term == leader.term) || grounds(facts)
        })
}

/// Why a key with this node's name is its own, when no lease is remembered.
fn grounds(facts: &Facts) -> bool {
    facts.running_primary().is_some()
        || facts.state.claim.is_some()
        || facts.initialised().is_none() && facts.empty()
}

fn bootstrapping(facts: &Facts) -> bool {
    facts.unlocked()
        && facts.cluster().is_some_and(|cluster| cluster.initialize.as_deref() == Some(""))
        && facts.empty()
        && !facts.paused()
        && may_compete(facts)
        && facts.settings().may_bootstrap
        && !facts.seen.me.nofailover
        && facts.seen.failures.count(Kind::Initdb) < 3
}

/// Data of a primary, its server stopped, and a store that knows of no cluster.
fn origin(facts: &Facts) -> bool {
    facts.unlocked()
        && facts.cluster().is_some_and(|cluster| cluster.initialize.is_none())
        && facts.stopped()
        && facts.control().is_some_and(|control| control.state != ControlState::Recovery)
        && !facts.paused()
        && may_compete(facts)
        && facts.seen.busy.server.is_none()
        && !facts.seen.me.nofailover
}

fn may_compete(facts: &Facts) -> bool {
    !facts.seen.stopping && facts.state.handover.is_none() && !backing_off(facts, Kind::Acquire)
}

fn fit(facts: &Facts) -> bool {
    facts.unlocked()
        && may_compete(facts)
        && may_race(facts)
        && (facts.seen.busy.server.is_none()
            || matches!(facts.seen.busy.server, Some(Action::CheckDivergence(_))))
        && election::fitness(facts) == Fitness::Fit
}

fn acquire(facts: &Facts, plan: &mut Plan) {
    plan.state.claim = Some(Claim { sync_revision: facts.sync().map(|sync| sync.revision) });
    plan.act(Action::Acquire);
}

fn explain(facts: &Facts, plan: &mut Plan) {
    if facts.unlocked() && facts.running().is_some() {
        if !may_race(facts) {
            let who = if facts.paused() { "the cluster is paused" } else { "a run has suspended it" };
            plan.detail = format!("no automatic failover: {who}");
            return;
        }
        plan.detail = match election::fitness(facts) {
            Fitness::Fit => String::new(),
            Fitness::Unknown(why) => why.to_owned(),
            Fitness::Unfit(why) => why,
        };
    }
}
