//! When the other members are asked for their state.

use super::{
    Rule, nothing,
    pause::{may_race, writes_without_key},
    rule,
};
use crate::agent::core::{Action, Lane, Millis, Process, Reason, facts::Facts};

const P: Lane = Lane::Peers;

/// The pause between two rounds of questions.
const AGAIN: Millis = 250;
/// The same while the last record of a leader that shuts down travels.
const AGAIN_SOON: Millis = 40;

/// The same while nothing but the end of a pause is waited for.
const AGAIN_PAUSED: Millis = 1_000;

pub const RULES: &[Rule] = &[
    rule(P, "polling", "The members are being asked.", |facts| facts.polling(), nothing),
    rule(P, "poll-race", "Nobody leads: ask the members how far they are.", racing, poll),
    rule(P, "poll-switchover", "A switchover is wanted: ask who can take over.", switching, poll),
    rule(
        P,
        "poll-handover",
        "The leader is shut down: ask whether its last record has arrived.",
        closing,
        poll,
    ),
    rule(
        P,
        "poll-paused",
        "Writable without the key, in a paused cluster: ask whether it still is paused.",
        |facts| writes_without_key(facts) && older_than(facts, AGAIN_PAUSED),
        poll,
    ),
    rule(P, "poll-down", "The leader's server is down: ask who can take over.", down, poll),
];

fn poll(_: &Facts, plan: &mut crate::agent::core::Plan) {
    plan.act(Action::PollPeers);
}

fn older_than(facts: &Facts, span: Millis) -> bool {
    facts.seen.poll.as_ref().is_none_or(|poll| poll.asked + span <= facts.now)
}

fn racing(facts: &Facts) -> bool {
    let first = facts
        .state
        .unlocked_since
        .is_some_and(|since| facts.seen.poll.as_ref().is_none_or(|poll| poll.asked < since));
    facts.unlocked()
        && facts.running_standby().is_some()
        && !facts.seen.me.nofailover
        && may_race(facts)
        && (first || older_than(facts, AGAIN))
}

fn switching(facts: &Facts) -> bool {
    facts.holds && facts.state.handover.is_none() && facts.wish().is_some() && older_than(facts, AGAIN)
}

fn closing(facts: &Facts) -> bool {
    facts.holds
        && facts.state.handover.as_ref().is_some_and(|handover| handover.reason == Reason::Switchover)
        && matches!(facts.seen.server.process, Process::Closing { .. })
        && older_than(facts, AGAIN_SOON)
}

fn down(facts: &Facts) -> bool {
    if super::leader::is_overdue(facts) {
        return older_than(facts, 2 * AGAIN);
    }
    facts.state.down_since.is_some_and(|since| {
        facts.state.handover.is_none() && facts.seen.poll.as_ref().is_none_or(|poll| poll.asked < since)
    })
}
