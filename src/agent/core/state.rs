//! What the core remembers from one decision to the next. Never persisted: an agent that starts with
//! nothing remembered is slower to act, not less safe.

use super::observation::{Millis, Observation, Process, SyncNames};
use crate::model::{Lsn, MemberName};
use std::collections::BTreeMap;

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct State {
    /// When the first decision was made.
    pub started: Option<Millis>,
    /// This agent has held the key since it was started.
    pub has_led: bool,
    /// Since when the store shows no leader.
    pub unlocked_since: Option<Millis>,
    /// Since when the cluster is paused.
    pub paused_since: Option<Millis>,
    /// The cluster was paused until then: whoever was left without the key has to hear of the end first.
    pub paused_until: Option<Millis>,
    /// The server is down because this agent took it down: it is started again, paused or not.
    pub owes_start: bool,
    /// Since when the server of this leader is down.
    pub down_since: Option<Millis>,
    pub handover: Option<Handover>,
    /// The revision of the wish for another leader that is there, and since when.
    pub wish: Option<(u64, Millis)>,
    /// The `/sync` on whose strength the key was taken: its revision, if there was one.
    pub claim: Option<Claim>,
    /// The names that are in force and the position after which they have been.
    pub names: Option<(SyncNames, Lsn)>,
    /// Standbys that should confirm commits and don't stream, since when.
    pub missing: BTreeMap<MemberName, Millis>,
    pub published: Option<Published>,
    pub status_published: Option<(Millis, Lsn)>,
}

/// The key is given up on purpose; until a successor is there, this node doesn't compete.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Handover {
    pub reason: Reason,
    pub candidate: Option<MemberName>,
    pub since: Millis,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    Switchover,
    Crash,
    Unfit,
    Shutdown,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Claim {
    pub sync_revision: Option<u64>,
}

/// What the member key last said, as far as others decide by it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Published {
    pub at: Millis,
    pub shape: Shape,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Shape {
    pub running: bool,
    pub primary: bool,
    pub starting: bool,
    pub streaming: bool,
    pub timeline: u32,
    pub pending_restart: bool,
    pub paused: bool,
    pub lsn: Lsn,
}

/// How long a standby that should confirm commits may be gone before it is replaced.
pub fn missing_grace(ttl: Millis) -> Millis {
    ttl / 4
}

impl State {
    /// Brings the memory up to date with what is seen now.
    pub fn observe(&self, seen: &Observation, holds: bool) -> State {
        let mut state = self.clone();
        let now = seen.now;
        if seen.settings.paused {
            // An agent that starts in a pause goes by what the one before it left behind.
            state.paused_since.get_or_insert(state.started.map_or(0, |_| now));
            state.paused_until = Some(now);
        } else {
            state.paused_since = None;
        }
        state.started.get_or_insert(now);
        state.has_led |= holds;
        if seen.busy.server.is_none() && matches!(seen.server.process, Process::Running(_)) {
            state.owes_start = false;
        }

        let leader = seen.cluster.as_ref().map(|cluster| cluster.leader.as_ref());
        match leader {
            Some(None) => drop(state.unlocked_since.get_or_insert(now)),
            Some(Some(_)) => state.unlocked_since = None,
            None => {}
        }
        // The answer to a request for the key may be late, or lost while the request was carried out.
        let claiming =
            seen.busy.lease.is_some() || leader.flatten().is_some_and(|leader| leader.name == seen.me.name);
        let wish = seen.cluster.as_ref().and_then(|cluster| cluster.failover.as_ref()).filter(|key| key.due);
        state.wish = wish.map(|key| match state.wish {
            Some((revision, since)) if revision == key.revision => (revision, since),
            _ => (key.revision, now),
        });
        if !holds && !claiming {
            state.claim = None;
        }
        let down = holds && seen.server.process == Process::Stopped && seen.busy.server.is_none();
        if !down {
            state.down_since = None;
        } else {
            state.down_since.get_or_insert(now);
        }
        if let Some(handover) = &state.handover {
            let successor = leader.flatten().is_some_and(|leader| leader.name != seen.me.name);
            let stopping = holds || seen.busy.server.is_some();
            // Shutdown has no end but the agent's.
            if handover.reason != Reason::Shutdown
                && (successor || !stopping && now > handover.since + seen.settings.ttl)
            {
                state.handover = None;
            }
        }
        state.observe_names(seen);
        state
    }

    fn observe_names(&mut self, seen: &Observation) {
        let Process::Running(server) = &seen.server.process else {
            self.names = None;
            self.missing.clear();
            return;
        };
        if server.in_recovery {
            self.names = None;
            self.missing.clear();
            return;
        }
        if self.names.as_ref().is_none_or(|(names, _)| *names != server.names) {
            self.names = Some((server.names.clone(), server.lsn));
        }
        let streaming =
            |name: &MemberName| server.standbys.iter().any(|row| row.name == *name && row.streaming);
        self.missing.retain(|name, _| server.names.names.contains(name.as_str()) && !streaming(name));
        for name in &server.names.names {
            if let Ok(name) = name.parse::<MemberName>()
                && !streaming(&name)
            {
                self.missing.entry(name).or_insert(seen.now);
            }
        }
    }
}
