//! Rules of the node that has the leader key.

use super::{
    keys::{names_at_start, sync_matters},
    pause::restart_wanted,
    server::backing_off,
};
use crate::agent::core::{
    Action, ControlState, FailoverKey, Handover, Kind, Millis, Plan, Poll, Process, Reason, StartAs,
    StopMode, election, facts::Facts,
};
use crate::model::{Lsn, MemberName};

/// How long the leader of a server that is down waits for the members' answers.
const HEARING: Millis = 500;

/// What the key is worth that this node holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    Good,
    /// The view of the store is older than the key.
    Unknown,
    /// `/sync` is not what this node was judged by.
    Void,
}

/// Whether `/sync` still is what this node was judged by when it took the key.
///
/// Between the view that made it fit and the moment the key was created somebody else may have led,
/// acknowledged, and gone. The view as of the key's creation tells.
pub fn claim(facts: &Facts) -> Standing {
    let (Some(cluster), Some(lease)) = (facts.cluster(), facts.seen.lease) else { return Standing::Unknown };
    if cluster.revision < lease.term {
        return Standing::Unknown;
    }
    match (&cluster.sync, &facts.state.claim) {
        (None, _) => Standing::Good,
        (Some(sync), _) if sync.leader == *facts.me() => Standing::Good,
        (Some(sync), Some(claim)) if claim.sync_revision == Some(sync.revision) => Standing::Good,
        (Some(_), _) => Standing::Void,
    }
}

pub fn may_bootstrap(facts: &Facts) -> bool {
    facts.holds
        && facts.safe()
        && facts.empty()
        && facts.initialised().is_none()
        && facts.settings().may_bootstrap
        && facts.seen.failures.count(Kind::Initdb) < 3
}

fn own_sync_active(facts: &Facts) -> bool {
    facts.sync().is_some_and(|sync| sync.leader == *facts.me() && !sync.voters.is_empty())
}

/// Handing over is better than starting again when nothing acknowledged can be lost by it, or when
/// the operator prefers it, or when starting has failed.
fn prefers_handover(facts: &Facts) -> bool {
    let better = own_sync_active(facts) || may_lose_some(facts) || wal_end(facts).is_some();
    failover_wanted(facts).is_some() || facts.automatic() && better
}

/// Whom an operator wants to lead, whatever becomes of the leader that is there.
fn failover_wanted<'a>(facts: &Facts<'a>) -> Option<&'a MemberName> {
    let key = facts.wish().filter(|key| key.leader.is_none())?;
    let outdated = facts.seen.lease.is_some_and(|lease| key.revision < lease.term);
    key.candidate.as_ref().filter(|candidate| *candidate != facts.me() && !outdated)
}

/// The same, when it answers as a standby that may lead.
fn failover_successor(facts: &Facts, poll: &Poll) -> Option<MemberName> {
    let wanted = failover_wanted(facts)?;
    let answer = poll.answers.iter().find(|answer| answer.name == *wanted)?;
    (answer.is_standby() && !answer.nofailover && !facts.drained(wanted)).then(|| wanted.clone())
}

/// The operator would rather lose what `maximum_lag_on_failover` allows than wait, or waiting is in vain.
fn may_lose_some(facts: &Facts) -> bool {
    facts.settings().primary_start_timeout == 0 || facts.seen.failures.count(Kind::StartPrimary) > 0
}

/// Where the WAL ends that this crash left.
fn wal_end(facts: &Facts) -> Option<Lsn> {
    let (end, at) = facts.seen.wal_end?;
    facts.state.down_since.filter(|since| at >= *since).map(|_| end)
}

/// Asynchronous, and others were there a moment ago: one of them may have everything.
pub fn must_find_end(facts: &Facts) -> bool {
    let others = facts.cluster().is_some_and(|cluster| {
        cluster
            .members
            .iter()
            .any(|member| member.name != *facts.me() && member.running && !member.nofailover)
    });
    let Some(since) = facts.state.down_since else { return false };
    leader_is_down(facts)
        && facts.state.handover.is_none()
        && facts.automatic()
        && failover_wanted(facts).is_none()
        && facts.sync().is_none()
        && facts.control().is_some_and(|control| control.state == ControlState::InProduction)
        && others
        && wal_end(facts).is_none()
        && facts.seen.failures.of(Kind::FindEnd).is_none_or(|failure| failure.at < since)
}

fn leader_is_down(facts: &Facts) -> bool {
    facts.holds
        && facts.stopped()
        && facts.control().is_some_and(|control| control.state != ControlState::Recovery)
}

pub fn hearing(facts: &Facts) -> bool {
    let Some(since) = facts.state.down_since.filter(|_| leader_is_down(facts) && prefers_handover(facts))
    else {
        return false;
    };
    facts.now < since + HEARING
        && facts.seen.poll.as_ref().is_none_or(|poll| poll.asked < since || !poll.done)
}

fn crash_successor(facts: &Facts) -> Option<MemberName> {
    let poll = facts.poll_since(facts.state.down_since?)?;
    let wanted = failover_successor(facts, poll);
    if wanted.is_some() || !facts.automatic() {
        return wanted;
    }
    let successor = |limit| election::successor(facts, poll, limit).map(|answer| answer.name.clone());
    if own_sync_active(facts) {
        return successor(None);
    }
    // A leader that has synchronous mode on and no voter is the only one that may win.
    if facts.sync().is_some() {
        return None;
    }
    let exact = wal_end(facts).and_then(|end| successor(Some((end, 0))));
    let lossy = || {
        let optime = facts.cluster()?.optime.unwrap_or_default();
        successor(Some((optime, facts.settings().maximum_lag_on_failover))).filter(|_| may_lose_some(facts))
    };
    exact.or_else(lossy)
}

pub fn may_hand_over(facts: &Facts) -> bool {
    leader_is_down(facts) && prefers_handover(facts) && crash_successor(facts).is_some()
}

pub fn hand_over(facts: &Facts, plan: &mut Plan) {
    let candidate = crash_successor(facts);
    plan.detail = candidate.as_ref().map(|name| format!("to {name}")).unwrap_or_default();
    plan.state.handover = Some(Handover { reason: Reason::Crash, candidate, since: facts.now });
}

/// An operator's failover need not wait until a start has succeeded or failed.
pub fn failover_at_start(facts: &Facts) -> bool {
    facts.holds
        && matches!(facts.seen.server.process, Process::Starting { primary: true })
        && !facts.stopping_at_once()
        && facts.poll_since(0).is_some_and(|poll| failover_successor(facts, poll).is_some())
}

/// The start has been waited for in vain, and goes on.
pub fn is_overdue(facts: &Facts) -> bool {
    facts.holds
        && matches!(facts.seen.server.process, Process::Starting { primary: true })
        && facts.seen.failures.count(Kind::StartPrimary) > 0
}

pub fn start_overdue(facts: &Facts) -> bool {
    let Some(poll) = facts.poll_since(0).filter(|poll| poll.done) else { return false };
    if !is_overdue(facts) || !facts.automatic() {
        return false;
    }
    let optime = facts.cluster().and_then(|cluster| cluster.optime).unwrap_or_default();
    let limit = match facts.sync() {
        Some(_) if !own_sync_active(facts) => return false,
        Some(_) => None,
        None => Some((optime, facts.settings().maximum_lag_on_failover)),
    };
    election::successor(facts, poll, limit).is_some()
}

pub fn may_restart(facts: &Facts) -> bool {
    facts.holds
        && facts.safe()
        && facts.stopped()
        // The store knows the data before anybody can write to them.
        && facts.initialised().is_some()
        && claim(facts) == Standing::Good
        && (!facts.paused() || restart_wanted(facts) || facts.state.owes_start)
        && facts.seen.failures.count(Kind::StartPrimary) < 3
        && !backing_off(facts, Kind::StartPrimary, 500)
}

/// As what it was: a node that took the key and fell before it was promoted starts as a standby.
pub fn start_as_leader(facts: &Facts, plan: &mut Plan) {
    let standby = facts.control().is_some_and(|control| control.state == ControlState::Recovery);
    plan.act(Action::Start(if standby {
        StartAs::Standby(None)
    } else {
        StartAs::Primary(names_at_start(facts))
    }));
}

pub fn may_promote(facts: &Facts) -> bool {
    let Some(server) = facts.running_standby() else { return false };
    let alone = !sync_matters(facts)
        || facts.sync().is_some_and(|sync| sync.leader == *facts.me() && sync.voters.is_empty());
    let settings = facts.settings();
    let blocked =
        !settings.sync_strict || settings.sync == Default::default() || !server.names.names.is_empty();
    facts.holds
        && facts.safe()
        && claim(facts) == Standing::Good
        && (!facts.paused() || facts.wanted())
        && alone
        && blocked
        && !facts.seen.failures.within(Kind::Promote, facts.ttl(), facts.now)
}

/// Why an operator's wish for another leader cannot be met; `None` while it can or may yet be.
pub fn refusal(facts: &Facts, key: &FailoverKey) -> Option<String> {
    if let Some(leader) = key.leader.as_ref().filter(|leader| *leader != facts.me()) {
        return Some(format!("{leader} is not the leader any more"));
    }
    if facts.seen.lease.is_some_and(|lease| key.revision < lease.term) {
        return Some("the leader has changed since it was asked for".to_owned());
    }
    if key.candidate.as_ref() == Some(facts.me()) {
        return Some("the candidate leads already".to_owned());
    }
    if facts.paused() && key.candidate.is_none() {
        return Some("the cluster is paused and no candidate is named".to_owned());
    }
    if let Some(drained) = key.candidate.as_ref().filter(|candidate| facts.drained(candidate)) {
        return Some(format!("{drained} is being worked on"));
    }
    let poll = facts.poll_since(0).filter(|poll| poll.done)?;
    if switch_candidate(facts, key).is_some() {
        return None;
    }
    let answered = |name: &MemberName| poll.answers.iter().find(|answer| answer.name == *name);
    let excluded = key.candidate.as_ref().and_then(answered).is_some_and(|answer| answer.nofailover);
    // Who is slow to answer, or has just lost its connection, gets time.
    let (_, since) = facts.state.wish?;
    if !excluded && facts.now < since + facts.settings().retry_timeout {
        return None;
    }
    Some(match &key.candidate {
        Some(candidate) if answered(candidate).is_none() => format!("{candidate} does not answer"),
        Some(candidate) => format!("{candidate} cannot take over"),
        None => "no member can take over".to_owned(),
    })
}

/// Who would take over: the named one if it is able, else the most advanced.
fn switch_candidate(facts: &Facts, key: &FailoverKey) -> Option<MemberName> {
    let poll = facts.poll_since(0).filter(|poll| poll.done)?;
    let server = facts.running_primary()?;
    let end = server.lsn;
    let mut poll = poll.clone();
    // Who doesn't stream from here would have to be repaired first.
    poll.answers.retain(|answer| {
        answer.timeline == server.timeline
            && server.standbys.iter().any(|row| row.streaming && row.name == answer.name)
    });
    let poll = &poll;
    let limit = match facts.sync() {
        Some(_) => None,
        None => Some((end, facts.settings().maximum_lag_on_failover)),
    };
    let Some(candidate) = &key.candidate else {
        return election::successor(facts, poll, limit).map(|answer| answer.name.clone());
    };
    // A failover is the operator's word: it may go to a standby that confirms no commits. This leader goes
    // down in order, so it has everything all the same.
    let sync = facts.sync().filter(|_| key.leader.is_some());
    if sync.is_some() {
        // The others' votes still count for the quorum; only the choice is narrowed.
        election::successor(facts, poll, limit)?;
    }
    let able = poll.answers.iter().filter(|answer| answer.name == *candidate).any(|answer| {
        answer.is_standby()
            && !answer.nofailover
            && sync.is_none_or(|sync| sync.voters.contains(&answer.name))
            && limit.is_none_or(|(end, lag)| end.bytes_since(answer.lsn) <= lag)
    });
    able.then(|| candidate.clone())
}

pub fn may_switch(facts: &Facts) -> bool {
    let wish = facts.wish();
    facts.holds
        && facts.running_primary().is_some()
        && wish.is_some_and(|key| refusal(facts, key).is_none() && switch_candidate(facts, key).is_some())
}

pub fn switch_over(facts: &Facts, plan: &mut Plan) {
    let candidate = facts.wish().and_then(|key| switch_candidate(facts, key));
    plan.detail = candidate.as_ref().map(|name| format!("for {name}")).unwrap_or_default();
    plan.state.handover = Some(Handover { reason: Reason::Switchover, candidate, since: facts.now });
    plan.act(Action::Stop(StopMode::Fast));
}
