//! What PostgreSQL is to do: the table, and what concerns every role.

use super::{
    Rule,
    follower::*,
    keys::names_at_start,
    leader::{self, *},
    nothing,
    pause::{explain_hold, holds_still, restart_wanted},
    rule,
};
use crate::agent::core::{
    Action, Data, Handover, Kind, Lane, Millis, Plan, Process, Reason, StartAs, StopMode, facts::Facts,
};

pub use leader::{Standing, claim, refusal};

const S: Lane = Lane::Server;

pub const RULES: &[Rule] = &[
    rule(
        S,
        "fence",
        "Writable, and the lease is lost or could end before a later stop is done: stop at once.",
        must_fence,
        stop_at_once,
    ),
    rule(
        S,
        "failover-at-start",
        "The leader's server is not up yet, and an operator wants another leader, which is able: give it up.",
        failover_at_start,
        stop_at_once,
    ),
    rule(
        S,
        "server-busy",
        "An action on the server is under way: wait for its end.",
        |facts| facts.seen.busy.server.is_some(),
        nothing,
    ),
    // The agent ends.
    rule(S, "exit", "The agent was told to end and all is in order: end.", may_exit, |_, plan| {
        plan.act(Action::Exit)
    }),
    rule(
        S,
        "shutdown",
        "The agent was told to end: shut PostgreSQL down, after a checkpoint.",
        |facts| facts.seen.stopping && !facts.stopped(),
        shut_down,
    ),
    rule(
        S,
        "shutdown-wait",
        "The agent ends once its key is given up.",
        |facts| facts.seen.stopping,
        nothing,
    ),
    // Hands off.
    rule(S, "no-view", "The store has not been read yet: wait.", |facts| facts.cluster().is_none(), nothing),
    rule(
        S,
        "unreadable",
        "The data directory cannot be read: hold still.",
        |facts| facts.seen.server.data == Data::Unreadable && !reinitialize(facts),
        nothing,
    ),
    rule(
        S,
        "foreign",
        "The data belong to another cluster than the store's: hold still.",
        |facts| facts.foreign() && !reinitialize(facts),
        nothing,
    ),
    rule(S, "restart-asked", "An operator asked for a restart.", restart_asked, restart),
    rule(S, "paused", "The cluster is paused: hold still.", holds_still, explain_hold),
    rule(
        S,
        "unresponsive",
        "PostgreSQL lives but has not answered for too long: stop it.",
        unresponsive,
        stop_at_once,
    ),
    rule(
        S,
        "start-overdue",
        "The leader's server takes longer to start than allowed and a standby can take over: give it up.",
        start_overdue,
        stop_at_once,
    ),
    rule(S, "starting", "PostgreSQL is starting: wait.", starting, nothing),
    // This node has the key.
    rule(
        S,
        "handing-over",
        "This node gives the key up.",
        |facts| facts.holds && facts.state.handover.is_some(),
        nothing,
    ),
    rule(S, "bootstrap", "This node creates the cluster: make its data.", may_bootstrap, |_, plan| {
        plan.act(Action::Initdb)
    }),
    rule(
        S,
        "no-data",
        "This node has the key and no data: wait until it is given up.",
        |facts| facts.holds && facts.empty(),
        nothing,
    ),
    rule(
        S,
        "claim-wait",
        "The key was taken a moment ago: wait for the view of the store to show it.",
        |facts| facts.holds && claim(facts) == Standing::Unknown,
        nothing,
    ),
    rule(
        S,
        "claim-void",
        "Another leader has been there since this node was judged fit: back down.",
        |facts| facts.holds && claim(facts) == Standing::Void && facts.running_standby().is_some(),
        stop_at_once,
    ),
    rule(
        S,
        "find-end",
        "The leader's server crashed: find where its WAL ends, to see whether a standby has all of it.",
        must_find_end,
        |_, plan| plan.act(Action::FindEnd),
    ),
    rule(S, "down-ask", "The leader's server is down: hear first who could take over.", hearing, nothing),
    rule(
        S,
        "crash-handover",
        "The leader's server is down and a standby has all that was acknowledged: hand over.",
        may_hand_over,
        hand_over,
    ),
    rule(
        S,
        "recover-leader",
        "The leader's server is down: start it again as primary.",
        may_restart,
        start_as_leader,
    ),
    rule(
        S,
        "start-backoff",
        "The server did not start: wait before the next attempt.",
        |facts| facts.holds && facts.stopped(),
        nothing,
    ),
    rule(
        S,
        "promote",
        "This node has the key of a term that it took itself, and is a standby: promote.",
        may_promote,
        |_, plan| plan.act(Action::Promote),
    ),
    rule(
        S,
        "promote-wait",
        "Promotion waits until /sync says that nobody else may win.",
        |facts| facts.holds && facts.running_standby().is_some(),
        nothing,
    ),
    rule(
        S,
        "switchover",
        "An operator wants another leader, and one is able: shut down for it.",
        may_switch,
        leader::switch_over,
    ),
    rule(S, "lead", "This node leads.", |facts| facts.holds, nothing),
    // Another node has the key.
    rule(
        S,
        "reinitialize-stop",
        "An operator asked for a new copy: stop.",
        |facts| reinitialize(facts) && !facts.stopped(),
        stop_in_order,
    ),
    rule(S, "clone", "No data, and the leader accepts connections: copy it.", may_clone, clone),
    rule(
        S,
        "leader-not-ready",
        "The leader does not accept writes yet: wait.",
        |facts| facts.other_leader().is_some() && facts.ready_leader().is_none(),
        nothing,
    ),
    rule(
        S,
        "compare",
        "A new leader: find out whether all that this node has is in its history.",
        must_compare,
        compare,
    ),
    rule(
        S,
        "diverged-stop",
        "This node's history departs from the leader's: stop, then repair.",
        |facts| diverged(facts) && !facts.stopped(),
        stop_in_order,
    ),
    rule(S, "rewind", "This node's history departs from the leader's: rewind it.", may_rewind, rewind),
    rule(
        S,
        "replace",
        "The data cannot be rewound, the leader is alive and the configuration allows it: copy anew.",
        may_replace,
        clone,
    ),
    rule(
        S,
        "diverged-hold",
        "The data could not be rewound, and may not be replaced: wait, for an operator or the next attempt.",
        diverged,
        nothing,
    ),
    rule(
        S,
        "start-standby",
        "All that this node has is in the leader's history: start and follow.",
        may_start_standby,
        start_standby,
    ),
    rule(
        S,
        "recover",
        "This node crashed as a primary: recover, streaming from nobody, to see where its history ends.",
        must_recover,
        start_alone,
    ),
    rule(S, "follow", "All that this node has is in the leader's history: follow it.", must_follow, follow),
    // Nobody has the key.
    rule(
        S,
        "await-successor",
        "The key was given up: wait for who takes it.",
        |facts| facts.state.handover.is_some(),
        nothing,
    ),
    rule(
        S,
        "start-alone",
        "Nobody leads and the server is down: start it as a standby, to see how far it is.",
        may_start_alone,
        start_alone,
    ),
    rule(
        S,
        "start-reading",
        "The lease ran out unanswered and the server is down: let it serve reads until the store is back.",
        may_read,
        start_alone,
    ),
    rule(S, "steady", "Nothing to do for PostgreSQL.", |_| true, nothing),
];

fn must_fence(facts: &Facts) -> bool {
    facts.writable()
        && !facts.safe()
        && !facts.may_write_without_lease()
        && !facts.adopting()
        && !facts.stopping_at_once()
}

fn starting(facts: &Facts) -> bool {
    matches!(facts.seen.server.process, Process::Starting { .. } | Process::Unresponsive { .. })
        && !reinitialize(facts)
}

fn stop_at_once(facts: &Facts, plan: &mut Plan) {
    if let (true, Some(lease)) = (facts.writable(), &facts.seen.lease) {
        let deadline = crate::agent::core::fencing::deadline(lease);
        plan.detail = format!("{} ms before the deadline", deadline.saturating_sub(facts.now));
    }
    plan.act(Action::Stop(StopMode::Immediate));
}

pub(super) fn stop_in_order(_: &Facts, plan: &mut Plan) {
    plan.act(Action::Stop(StopMode::Fast));
}

fn may_exit(facts: &Facts) -> bool {
    let released = !facts.holds || facts.seen.failures.count(Kind::Release) >= 3;
    facts.seen.stopping && (facts.paused() || facts.stopped() && released && facts.seen.busy.lease.is_none())
}

fn shut_down(facts: &Facts, plan: &mut Plan) {
    plan.state.handover = Some(Handover { reason: Reason::Shutdown, candidate: None, since: facts.now });
    let hung = matches!(facts.seen.server.process, Process::Unresponsive { .. });
    plan.act(Action::Stop(if hung { StopMode::Immediate } else { StopMode::Fast }));
}

fn restart_asked(facts: &Facts) -> bool {
    restart_wanted(facts) && facts.running().is_some() && (facts.holds || facts.running_standby().is_some())
}

fn restart(facts: &Facts, plan: &mut Plan) {
    let role = match facts.running_standby() {
        Some(server) => StartAs::Standby(server.upstream.clone()),
        None => StartAs::Primary(names_at_start(facts)),
    };
    plan.act(Action::Restart(role));
}

fn unresponsive(facts: &Facts) -> bool {
    let Process::Unresponsive { since, .. } = facts.seen.server.process else { return false };
    facts.now >= since + facts.settings().retry_timeout
}

/// Whether the last attempts at something were too recent for another: a pause that grows.
pub(super) fn backing_off(facts: &Facts, kind: Kind, pause: Millis) -> bool {
    let pause = pause * u64::from(facts.seen.failures.count(kind).clamp(1, 10));
    facts.seen.failures.within(kind, pause, facts.now)
}
