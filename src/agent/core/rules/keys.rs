//! The other keys of the store, and `synchronous_standby_names`, which changes in step with `/sync`.

use super::{Rule, nothing, rule};
use crate::agent::core::{
    Action, ControlState, Kind, Lane, Millis, Plan, Published, Reason, Running, Shape, Standby, SyncKey,
    SyncMode, SyncNames,
    facts::Facts,
    state::missing_grace,
    sync::{self, Step},
};
use crate::model::{Lsn, MemberName};
use std::collections::BTreeSet;

const K: Lane = Lane::Keys;

/// Blocks commits of a strictly synchronous leader that has no standby.
const NOBODY: &str = "pgfleet_waits_for_a_synchronous_standby";

pub const RULES: &[Rule] = &[
    rule(K, "keys-busy", "A key is being written: wait for the answer.", busy, nothing),
    rule(K, "publish-change", "What this member is has changed: say so.", shape_changed, publish),
    rule(K, "keys-backoff", "The last write failed: wait a moment.", backing_off, nothing),
    rule(K, "create-initialize", "The cluster does not exist: claim its creation.", uncreated, |_, plan| {
        plan.act(Action::CreateInitialize);
    }),
    rule(
        K,
        "write-initialize",
        "The leader of a new cluster has its data: write down which cluster this is.",
        unwritten,
        |facts, plan| {
            if let Some(identifier) = facts.system_identifier() {
                plan.act(Action::WriteInitialize(identifier.to_owned()));
            }
        },
    ),
    rule(
        K,
        "write-config",
        "The store has no configuration: write the one that this leader has.",
        unconfigured,
        |_, plan| {
            plan.act(Action::WriteConfig);
        },
    ),
    rule(
        K,
        "claim-sync",
        "Before promotion: nobody else may win by what the last leader wrote.",
        sync_unclaimed,
        claim_sync,
    ),
    rule(
        K,
        "block-unconfirmed",
        "Strictly synchronous: commits wait from the first one on.",
        unblocked,
        |_, plan| {
            plan.act(Action::SetSyncNames(nobody()));
        },
    ),
    rule(
        K,
        "sync-step",
        "Synchronous standbys change: the next safe step.",
        |facts| next_sync(facts).is_some(),
        |facts, plan| {
            plan.actions.extend(next_sync(facts));
        },
    ),
    rule(
        K,
        "drop-sync",
        "Replication is asynchronous now: anybody may win again.",
        sync_left_over,
        drop_sync,
    ),
    rule(K, "standby-names", "A standby waits for nobody.", standby_names, |_, plan| {
        plan.act(Action::SetSyncNames(SyncNames::default()));
    }),
    rule(
        K,
        "name-candidate",
        "The leader goes down for nobody in particular: name the most advanced.",
        nameless,
        |facts, plan| {
            let candidate = facts.state.handover.as_ref().and_then(|handover| handover.candidate.clone());
            plan.actions.extend(candidate.map(Action::NameCandidate));
        },
    ),
    rule(
        K,
        "clear-failover",
        "The wish for another leader is fulfilled or cannot be: strike it off.",
        failover_over,
        clear_failover,
    ),
    rule(K, "write-history", "A timeline has ended: write down where.", history_due, |_, plan| {
        plan.act(Action::WriteHistory)
    }),
    rule(K, "publish", "Say how far this member is.", publish_due, publish),
];

fn busy(facts: &Facts) -> bool {
    facts.seen.busy.keys.is_some()
}

fn backing_off(facts: &Facts) -> bool {
    [Kind::Keys, Kind::Publish].into_iter().any(|kind| facts.seen.failures.within(kind, 200, facts.now))
}

fn leading<'a>(facts: &Facts<'a>) -> Option<&'a Running> {
    facts.running_primary().filter(|_| facts.holds)
}

fn uncreated(facts: &Facts) -> bool {
    facts.cluster().is_some_and(|cluster| cluster.initialize.is_none())
        && facts.unlocked()
        && facts.empty()
        && facts.settings().may_bootstrap
        && !facts.seen.me.nofailover
        && !facts.paused()
        && !facts.seen.stopping
}

fn unwritten(facts: &Facts) -> bool {
    let whole = facts.running_primary().is_some()
        || facts.stopped() && facts.control().is_some_and(|control| control.state != ControlState::Recovery);
    facts.holds && whole && facts.initialised().is_none() && facts.seen.busy.server.is_none()
}

fn unconfigured(facts: &Facts) -> bool {
    leading(facts).is_some() && facts.cluster().is_some_and(|cluster| !cluster.has_config)
}

/// Whether `/sync` plays a part: it is wanted, or it is there.
pub fn sync_matters(facts: &Facts) -> bool {
    facts.settings().sync != SyncMode::Off || facts.sync().is_some()
}

fn own_sync(facts: &Facts) -> Option<SyncKey> {
    facts.sync().filter(|sync| sync.leader == *facts.me()).cloned()
}

fn sync_unclaimed(facts: &Facts) -> bool {
    facts.holds
        && sync_matters(facts)
        && facts.running().is_some()
        // A standby's names are empty: who confirmed to this node as an earlier leader may not win either.
        && own_sync(facts).is_none_or(|sync| facts.running_standby().is_some() && !sync.voters.is_empty())
        && super::server::claim(facts) == super::server::Standing::Good
}

fn claim_sync(facts: &Facts, plan: &mut Plan) {
    plan.act(Action::WriteSync(SyncKey {
        leader: facts.me().clone(),
        voters: BTreeSet::new(),
        quorum: 0,
        revision: facts.sync().map_or(0, |sync| sync.revision),
    }));
}

fn strict(facts: &Facts) -> bool {
    facts.settings().sync != SyncMode::Off && facts.settings().sync_strict
}

/// Names under which every commit reaches those who may win by this node's `/sync`.
pub fn names_at_start(facts: &Facts) -> SyncNames {
    match own_sync(facts) {
        Some(key) if !key.voters.is_empty() => SyncNames {
            any: facts.settings().sync == SyncMode::Quorum,
            count: key.voters.len().saturating_sub(key.quorum),
            names: key.voters.iter().map(MemberName::to_string).collect(),
        },
        _ if strict(facts) => nobody(),
        _ => SyncNames::default(),
    }
}

fn nobody() -> SyncNames {
    SyncNames { any: false, count: 1, names: BTreeSet::from([NOBODY.to_owned()]) }
}

fn unblocked(facts: &Facts) -> bool {
    facts.holds && strict(facts) && facts.running().is_some_and(|server| server.names.names.is_empty())
}

/// The step that brings names and `/sync` nearer to what is wanted.
fn next_sync(facts: &Facts) -> Option<Action> {
    let server = leading(facts)?;
    if facts.state.handover.is_some() || facts.seen.busy.server.is_some() {
        return None;
    }
    let key = own_sync(facts)?;
    let (names, since) = facts.state.names.as_ref()?;
    let want = wanted(facts, server);
    match sync::step(&want, names, sync::settled(server, *since), &key) {
        Step::Names(names) => Some(Action::SetSyncNames(names)),
        Step::Key(next) => Some(Action::WriteSync(SyncKey { revision: key.revision, ..next })),
        Step::Settle | Step::Done => None,
    }
}

/// The names that the present standbys and the settings ask for.
fn wanted(facts: &Facts, server: &Running) -> SyncNames {
    let settings = facts.settings();
    if settings.sync == SyncMode::Off {
        return SyncNames::default();
    }
    let able = |name: &MemberName| {
        *name != *facts.me()
            && facts.cluster().and_then(|cluster| cluster.member(name)).is_some_and(|member| !member.nosync)
    };
    let streaming: Vec<&MemberName> =
        server.standbys.iter().filter(|row| row.streaming && able(&row.name)).map(|row| &row.name).collect();
    // A standby that has just lost its connection keeps its place for a moment.
    let excused = |name: &str| {
        facts.state.missing.iter().any(|(missing, since)| {
            missing.as_str() == name && facts.now < since + missing_grace(facts.ttl()) && able(missing)
        })
    };
    let placed: Vec<String> = server
        .names
        .names
        .iter()
        .filter(|name| streaming.iter().any(|other| other.as_str() == *name) || excused(name))
        .cloned()
        .collect();
    let mut names: Vec<String> = placed;
    let mut others: Vec<&Standby> = server
        .standbys
        .iter()
        .filter(|row| streaming.contains(&&row.name) && !names.iter().any(|name| name == row.name.as_str()))
        .collect();
    others.sort_by(|a, b| b.flushed.cmp(&a.flushed).then_with(|| a.name.cmp(&b.name)));
    names.extend(others.iter().map(|row| row.name.to_string()));
    // Who is worked on is about to go: commits had better wait for another.
    let (kept, drained): (Vec<String>, Vec<String>) =
        names.into_iter().partition(|name| !name.parse().is_ok_and(|name| facts.drained(&name)));
    names = if kept.is_empty() { drained } else { kept };
    let any = settings.sync == SyncMode::Quorum;
    if !any {
        names.truncate(settings.sync_node_count.max(1));
    }
    if names.is_empty() {
        return match (settings.sync_strict, server.names.names.is_empty()) {
            (false, _) => SyncNames::default(),
            (true, true) => nobody(),
            (true, false) => server.names.clone(),
        };
    }
    let count = if any { settings.sync_node_count.clamp(1, names.len()) } else { names.len() };
    SyncNames { any, count, names: names.into_iter().collect() }
}

fn sync_left_over(facts: &Facts) -> bool {
    facts.settings().sync == SyncMode::Off
        && leading(facts).is_some_and(|server| server.names.names.is_empty())
        && own_sync(facts).is_some_and(|sync| sync.voters.is_empty())
        && facts.seen.busy.server.is_none()
}

/// An empty key restricts nobody.
fn drop_sync(facts: &Facts, plan: &mut Plan) {
    plan.actions.extend(own_sync(facts).map(|sync| Action::DropSync(sync.revision)));
}

fn standby_names(facts: &Facts) -> bool {
    !facts.holds
        && facts.seen.busy.server.is_none()
        && facts.running_standby().is_some_and(|server| !server.names.names.is_empty())
}

fn nameless(facts: &Facts) -> bool {
    let wish = facts.cluster().and_then(|cluster| cluster.failover.as_ref());
    let handover = facts.state.handover.as_ref();
    facts.holds
        && wish.is_some_and(|key| key.candidate.is_none())
        && handover
            .is_some_and(|handover| handover.reason == Reason::Switchover && handover.candidate.is_some())
}

fn failover_over(facts: &Facts) -> bool {
    let Some(key) = facts.wish() else { return false };
    leading(facts).is_some()
        && facts.seen.busy.server.is_none()
        && facts.state.handover.is_none()
        && super::server::refusal(facts, key).is_some()
}

fn clear_failover(facts: &Facts, plan: &mut Plan) {
    if let Some(key) = facts.cluster().and_then(|cluster| cluster.failover.as_ref()) {
        plan.detail = super::server::refusal(facts, key).unwrap_or_default();
    }
    plan.act(Action::ClearFailover);
}

fn history_due(facts: &Facts) -> bool {
    let recorded = facts.cluster().and_then(|cluster| cluster.history.last()).map_or(0, |(ended, _)| *ended);
    leading(facts).is_some_and(|server| server.timeline > recorded + 1)
}

fn shape(facts: &Facts) -> Shape {
    let running = facts.running();
    Shape {
        running: running.is_some(),
        primary: facts.running_primary().is_some(),
        starting: facts.seen.busy.server.is_some(),
        streaming: running.is_some_and(|server| server.streaming),
        timeline: running.map_or(0, |server| server.timeline),
        pending_restart: running.is_some_and(|server| server.pending_restart),
        paused: facts.paused(),
        lsn: running.map_or(Lsn(0), |server| server.lsn),
    }
}

fn shape_changed(facts: &Facts) -> bool {
    let now = shape(facts);
    facts.cluster().is_some()
        && !backing_off(facts)
        && (facts.seen.failures.count(Kind::Publish) > 0
            || facts.cluster().is_some_and(|cluster| cluster.member(facts.me()).is_none())
                && facts.state.published.as_ref().is_none_or(|published| published.at + 1_000 <= facts.now)
            || facts
                .state
                .published
                .as_ref()
                .is_none_or(|published| Shape { lsn: now.lsn, ..published.shape.clone() } != now))
}

fn publish_due(facts: &Facts) -> bool {
    let now = shape(facts);
    let elapsed = |at: Millis, span: Millis| at + span <= facts.now;
    facts.cluster().is_some()
        && facts.state.published.as_ref().is_none_or(|published| {
            published.shape.lsn != now.lsn && elapsed(published.at, facts.settings().loop_wait)
        })
}

/// The member key, and the leader's `/status` along with it.
fn publish(facts: &Facts, plan: &mut Plan) {
    plan.state.published = Some(Published { at: facts.now, shape: shape(facts) });
    plan.act(if leading(facts).is_some() { Action::PublishLeader } else { Action::Publish });
}
