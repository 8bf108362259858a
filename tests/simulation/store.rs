//! The store, as one linearizable thing with leases on a clock of its own.

use pgfleet::{
    agent::core::{Cluster, FailoverKey, Leader, Member, Millis, SyncKey},
    model::{Lsn, MemberName, Timeline},
};
use std::collections::{BTreeMap, BTreeSet};

#[derive(Default)]
pub struct Store {
    revision: u64,
    initialize: Option<(String, Option<usize>)>,
    config: bool,
    leader: Option<(MemberName, u64, usize)>,
    members: BTreeMap<MemberName, (Member, usize)>,
    leases: BTreeMap<usize, Millis>,
    optime: Option<Lsn>,
    pub sync: Option<SyncKey>,
    pub failover: Option<FailoverKey>,
    history: Vec<(Timeline, Lsn)>,
    /// Of the dynamic configuration.
    pub paused: bool,
    pub drained: BTreeSet<MemberName>,
    pub suspended: bool,
}

/// An answer of the store that is no silence.
pub enum Reply {
    Done,
    Leads { term: u64, ttl: Millis },
    Lost,
}

impl Store {
    /// Ends what has run out; says whether anything has.
    pub fn expire(&mut self, now: Millis) -> bool {
        let ended: Vec<usize> =
            self.leases.iter().filter(|(_, end)| **end <= now).map(|(node, _)| *node).collect();
        for node in &ended {
            self.leases.remove(node);
            if self.leader.as_ref().is_some_and(|(_, _, owner)| owner == node) {
                self.leader = None;
            }
            self.members.retain(|_, (_, owner)| owner != node);
            if matches!(&self.initialize, Some((_, Some(owner))) if owner == node) {
                self.initialize = None;
            }
            self.revision += 1;
        }
        !ended.is_empty()
    }

    pub fn leader(&self) -> Option<(&MemberName, u64)> {
        self.leader.as_ref().map(|(name, term, _)| (name, *term))
    }

    pub fn view(&self) -> Cluster {
        Cluster {
            revision: self.revision,
            initialize: self.initialize.as_ref().map(|(identifier, _)| identifier.clone()),
            has_config: self.config,
            leader: self.leader.as_ref().map(|(name, term, _)| Leader { name: name.clone(), term: *term }),
            members: self.members.values().map(|(member, _)| member.clone()).collect(),
            optime: self.optime,
            sync: self.sync.clone(),
            failover: self.failover.clone(),
            history: self.history.clone(),
            drained: self.drained.clone(),
            suspended: self.suspended,
        }
    }

    fn prolong(&mut self, node: usize, now: Millis, ttl: Millis) {
        let end = self.leases.entry(node).or_insert(0);
        *end = (*end).max(now + ttl);
    }

    pub fn acquire(
        &mut self,
        node: usize,
        name: &MemberName,
        sync: Option<u64>,
        now: Millis,
        ttl: Millis,
    ) -> Reply {
        match &self.leader {
            Some((_, term, owner)) if *owner == node => {
                let term = *term;
                self.prolong(node, now, ttl);
                Reply::Leads { term, ttl }
            }
            None if self.sync.as_ref().map(|key| key.revision) == sync => {
                self.prolong(node, now, ttl);
                self.revision += 1;
                self.leader = Some((name.clone(), self.revision, node));
                Reply::Leads { term: self.revision, ttl }
            }
            _ => Reply::Lost,
        }
    }

    pub fn renew(&mut self, node: usize, term: u64, now: Millis, ttl: Millis) -> Reply {
        if self.leader.as_ref().is_some_and(|(_, current, owner)| *current == term && *owner == node) {
            self.prolong(node, now, ttl);
            Reply::Leads { term, ttl }
        } else {
            Reply::Lost
        }
    }

    pub fn release(&mut self, term: u64) -> Reply {
        if self.leader.as_ref().is_some_and(|(_, current, _)| *current == term) {
            self.leader = None;
            self.revision += 1;
            Reply::Done
        } else {
            Reply::Lost
        }
    }

    fn leads(&self, term: Option<u64>) -> bool {
        self.leader.as_ref().map(|(_, current, _)| *current) == term && term.is_some()
    }

    /// Somebody outside of the agents has changed something.
    pub fn touch(&mut self) {
        self.revision += 1;
    }

    fn changed(&mut self) -> Reply {
        self.revision += 1;
        Reply::Done
    }

    pub fn create_initialize(&mut self, node: usize, now: Millis, ttl: Millis) -> Reply {
        if self.initialize.is_some() {
            return Reply::Lost;
        }
        self.prolong(node, now, ttl);
        self.initialize = Some((String::new(), Some(node)));
        self.changed()
    }

    pub fn write_initialize(&mut self, identifier: &str) -> Reply {
        if self.initialize.as_ref().is_some_and(|(known, _)| !known.is_empty()) {
            return Reply::Lost;
        }
        self.initialize = Some((identifier.to_owned(), None));
        self.changed()
    }

    pub fn write_config(&mut self) -> Reply {
        self.config = true;
        self.changed()
    }

    pub fn write_sync(&mut self, term: Option<u64>, expected: u64, key: Option<SyncKey>) -> Reply {
        if !self.leads(term) || self.sync.as_ref().map_or(0, |key| key.revision) != expected {
            return Reply::Lost;
        }
        self.revision += 1;
        self.sync = key.map(|key| SyncKey { revision: self.revision, ..key });
        Reply::Done
    }

    pub fn write_failover(&mut self, key: Option<FailoverKey>) -> Reply {
        self.revision += 1;
        self.failover = key.map(|key| FailoverKey { revision: self.revision, ..key });
        Reply::Done
    }

    pub fn write_history(&mut self, term: Option<u64>, history: Vec<(Timeline, Lsn)>) -> Reply {
        if !self.leads(term) {
            return Reply::Lost;
        }
        self.history = history;
        self.changed()
    }

    pub fn write_member(&mut self, node: usize, member: Member, now: Millis, ttl: Millis) -> Reply {
        self.prolong(node, now, ttl);
        self.members.insert(member.name.clone(), (member, node));
        self.changed()
    }

    pub fn write_status(&mut self, term: Option<u64>, optime: Lsn) -> Reply {
        if !self.leads(term) {
            return Reply::Lost;
        }
        self.optime = Some(optime);
        self.changed()
    }
}
