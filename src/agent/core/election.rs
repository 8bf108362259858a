//! Who may take the leader key. Pure comparison of positions, votes and wishes.

use super::{
    facts::{Facts, Position},
    fencing,
    observation::*,
};
use crate::model::{Lsn, MemberName, Timeline};

/// Whether this node may take the key now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fitness {
    Fit,
    /// Not known yet; more facts will tell.
    Unknown(&'static str),
    Unfit(String),
}

fn unfit(why: impl Into<String>) -> Fitness {
    Fitness::Unfit(why.into())
}

/// Judges this node against everybody who answered, when nobody leads.
pub fn fitness(facts: &Facts) -> Fitness {
    let (Some(cluster), Some(server), Some(mine)) = (facts.cluster(), facts.running(), facts.position())
    else {
        return unfit("PostgreSQL is not running");
    };
    if facts.foreign() {
        return unfit("the data belong to another cluster");
    }
    if !server.in_recovery {
        return primary_fitness(facts, cluster, mine);
    }
    if cluster.initialize.is_none() {
        return unfit("the cluster is not initialised, and a standby cannot be its origin");
    }
    if facts.seen.me.nofailover {
        return unfit("tagged nofailover");
    }
    if facts.drained(facts.me()) {
        return unfit("it is being worked on");
    }
    if facts.seen.failures.within(super::Kind::Promote, facts.ttl(), facts.now) {
        return unfit("its last promotion failed");
    }
    if !within_history(&cluster.history, mine) {
        return unfit(format!(
            "its position {} on timeline {} is no part of the cluster's history",
            mine.lsn, mine.timeline
        ));
    }
    let Some(since) = facts.state.unlocked_since else {
        return Fitness::Unknown("a leader was there just now");
    };
    let Some(poll) = facts.poll_since(since) else {
        return Fitness::Unknown("the other members have not been asked");
    };
    let wish = facts.wish();
    let named = wish.and_then(|key| key.candidate.as_ref());
    let for_me = facts.wanted();
    if let Some(name) = named
        && !for_me
        && facts.unlocked_for() < facts.ttl()
        && poll.answers.iter().any(|answer| answer.name == *name && answer.is_standby())
    {
        return unfit(format!("{name} was named by the operator"));
    }
    if !poll.done && (!for_me || facts.paused()) {
        return Fitness::Unknown("members have not answered yet");
    }
    if let Some(other) = poll.answers.iter().find(|answer| answer.running && !answer.in_recovery)
        && facts.unlocked_for() < facts.ttl()
    {
        return unfit(format!("{} still runs as primary", other.name));
    }
    if let Some(unfit) = left_by_pause(facts, server, poll) {
        return unfit;
    }
    // A failover to this node is the operator's word, above lag and above /sync.
    if for_me && wish.is_some_and(|key| key.leader.is_none()) {
        return Fitness::Fit;
    }
    let heirs = match &cluster.sync {
        Some(sync) => match sync_fitness(facts.me(), mine, sync, poll) {
            Fitness::Fit => Some(&sync.voters),
            other => return other,
        },
        None => {
            let lag = cluster.optime.map_or(0, |optime| optime.bytes_since(mine.lsn));
            if lag > facts.settings().maximum_lag_on_failover {
                return unfit(format!("it lags {lag} bytes behind the last leader"));
            }
            None
        }
    };
    if for_me {
        return Fitness::Fit;
    }
    let rivals = poll.answers.iter().filter(|answer| {
        answer.is_standby()
            && !answer.nofailover
            && !facts.drained(&answer.name)
            && heirs.is_none_or(|voters| voters.contains(&answer.name))
    });
    for rival in rivals {
        if rival.position() > mine && within_history(&cluster.history, rival.position()) {
            return unfit(format!("{} is further ahead", rival.name));
        }
        if rival.position() == mine && rival.failover_priority > facts.seen.me.failover_priority {
            return unfit(format!("{} is preferred", rival.name));
        }
    }
    Fitness::Fit
}

/// In a paused cluster, and for a moment after, no lease proves that the last primary has stopped.
fn left_by_pause(facts: &Facts, server: &Running, poll: &Poll) -> Option<Fitness> {
    let until = facts.state.paused_until?;
    let former = facts.wish().filter(|_| facts.paused()).and_then(|key| key.leader.as_ref());
    let stepped_down =
        |answer: &&Answer| Some(&answer.name) == former && (!answer.running || answer.in_recovery);
    if let Some(former) = former
        && !poll.answers.iter().any(|answer| stepped_down(&answer))
    {
        return Some(unfit(format!("{former} was to step down and does not say that it has")));
    }
    if let (true, Some(upstream)) = (server.streaming, &server.upstream)
        && facts.now < until + facts.ttl()
        && !poll.answers.iter().any(|answer| answer.name == *upstream && answer.is_standby())
    {
        return Some(unfit(format!("{upstream} still streams to it, and its agent does not answer")));
    }
    let stopping = fencing::stop_budget(facts.ttl()) + fencing::renew_interval(facts.ttl());
    let ended = !facts.paused() && facts.now < until + stopping;
    ended.then_some(Fitness::Unknown("a pause has just ended: who wrote without the key needs time to stop"))
}

/// A primary that was found running without a leader may keep its place, if nobody went on without it.
fn primary_fitness(facts: &Facts, cluster: &Cluster, mine: Position) -> Fitness {
    if !facts.adopting() && !facts.paused() {
        return unfit("it runs as primary without having been elected");
    }
    if cluster.history.last().is_some_and(|(ended, _)| mine.timeline <= *ended) {
        return unfit("the cluster went on to a later timeline");
    }
    match &cluster.sync {
        Some(sync) if sync.leader != *facts.me() => unfit(format!("{} was leader since", sync.leader)),
        _ => Fitness::Fit,
    }
}

/// Whether a position lies on the line of history that the leaders have recorded.
pub fn within_history(history: &[(Timeline, Lsn)], position: Position) -> bool {
    let current = history.last().map_or(0, |(ended, _)| ended + 1);
    position.timeline >= current
        || history.iter().any(|(timeline, end)| *timeline == position.timeline && position.lsn <= *end)
}

/// Whether this node holds every commit that was acknowledged under `/sync`.
///
/// Each acknowledged commit is on the leader, and on at least one of any `quorum + 1` voters. So who
/// is not behind `quorum + 1` voters, itself counted if it is one, has them all.
fn sync_fitness(me: &MemberName, mine: Position, sync: &SyncKey, poll: &Poll) -> Fitness {
    if sync.leader == *me {
        return Fitness::Fit;
    }
    if !sync.voters.contains(me) {
        return unfit("it was no synchronous standby");
    }
    let votes = 1 + poll
        .answers
        .iter()
        .filter(|answer| {
            answer.name != *me
                && answer.is_standby()
                && sync.voters.contains(&answer.name)
                && answer.position() <= mine
        })
        .count();
    if votes > sync.quorum {
        Fitness::Fit
    } else {
        unfit(format!("{votes} of the {} synchronous standbys needed are not ahead of it", sync.quorum + 1))
    }
}

/// Who would win if this leader's key were released now, with nothing acknowledged lost; the most
/// advanced first, then the preferred, then by name.
pub fn successor<'a>(facts: &Facts, poll: &'a Poll, at_most_lag: Option<(Lsn, u64)>) -> Option<&'a Answer> {
    let sync = facts.sync().filter(|sync| sync.leader == *facts.me());
    let able = |answer: &&Answer| {
        answer.name != *facts.me()
            && answer.is_standby()
            && !answer.nofailover
            && !facts.drained(&answer.name)
            && sync.is_none_or(|sync| sync.voters.contains(&answer.name))
            && at_most_lag.is_none_or(|(end, lag)| end.bytes_since(answer.lsn) <= lag)
    };
    if let Some(sync) = sync
        && poll
            .answers
            .iter()
            .filter(|answer| answer.is_standby() && sync.voters.contains(&answer.name))
            .count()
            <= sync.quorum
    {
        return None;
    }
    poll.answers.iter().filter(able).max_by(|a, b| {
        (a.position(), a.failover_priority, &b.name).cmp(&(b.position(), b.failover_priority, &a.name))
    })
}
