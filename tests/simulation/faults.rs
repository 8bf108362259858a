//! Everything that goes wrong, what watches over it, and how it ends.

use super::world::*;

impl World {
    pub(super) fn kill_agent(&mut self, node: Index) {
        let here = &mut self.nodes[node];
        here.agent = None;
        here.incarnation += 1;
        here.frozen_until = 0;
        if self.plan.without.is_none() {
            let after = self.random.within(5, 60);
            self.push(after, node, Event::Guard);
        }
    }

    /// What runs after an agent died: it waits for the last moment, unless an agent is back.
    pub(super) fn guard(&mut self, node: Index) {
        if !self.nodes[node].up || self.nodes[node].agent.is_some() {
            return;
        }
        let pg = &self.nodes[node].pg;
        if !matches!(pg.phase, Phase::Primary | Phase::Standby | Phase::Starting { .. }) {
            return;
        }
        let local = self.local(node);
        if self.nodes[node].paused {
            return;
        }
        let begins = self.nodes[node].remembered.map_or(0, |lease| fencing::stop_begins(&lease));
        if local >= begins {
            let life = self.nodes[node].pg.life;
            let budget = fencing::fence_budget(self.plan.settings.ttl);
            let after = self.random.within(5, budget - 60);
            self.note(format!("n{node} guard stops the server"));
            self.push(after, node, Event::Server { life, what: Physical::Stopped });
        } else {
            self.push((begins - local).min(50), node, Event::Guard);
        }
    }

    pub(super) fn crash_host(&mut self, node: Index) {
        self.kill_agent(node);
        self.end_server_hard(node);
        self.nodes[node].up = false;
        let after = self.random.within(500, 8_000);
        self.push(after, node, Event::HostBack);
    }

    pub(super) fn mischief(&mut self) {
        if self.now >= 1_000 + self.plan.faults_until {
            return;
        }
        let node = self.random.within(0, self.nodes.len() as u64) as usize;
        // The leader is where it hurts.
        let node = if self.random.one_in(2) { self.leader_index().unwrap_or(node) } else { node };
        let other = self.random.within(0, self.nodes.len() as u64) as usize;
        let ttl = self.plan.settings.ttl;
        let kinds = if self.plan.maintenance { 19 } else { 13 };
        match self.random.within(0, kinds) {
            0 if self.nodes[node].up => {
                self.note(format!("n{node} loses power"));
                self.crash_host(node);
            }
            1 | 2 => {
                self.note(format!("n{node} postmaster killed"));
                if self.nodes[node].up && self.nodes[node].pg.phase != Phase::Stopped {
                    self.end_server_hard(node);
                }
            }
            3 if self.nodes[node].agent.is_some() => {
                self.note(format!("n{node} agent killed"));
                self.kill_agent(node);
                let after = self.random.within(50, 2 * ttl);
                self.push(after, node, Event::AgentBack);
            }
            4 if self.nodes[node].agent.is_some() => {
                let span = self.random.within(10, 2 * ttl);
                self.freeze(node, span);
            }
            5 | 6 => {
                self.store_cut[node] = !self.store_cut[node];
                self.note(format!("n{node} store cut: {}", self.store_cut[node]));
                self.show(node);
            }
            7 => {
                let cut = !self.link_cut[node][other];
                self.link_cut[node][other] = cut;
                self.link_cut[other][node] = cut;
                self.note(format!("n{node} and n{other} cut: {cut}"));
            }
            8 => {
                self.store_down = !self.store_down;
                self.note(format!("store down: {}", self.store_down));
                self.show_all();
            }
            9 => self.nodes[node].slow = self.random.within(1, 6),
            10 | 11 => {
                let candidate = self.random.one_in(2).then(|| self.nodes[other].name.clone());
                self.ask_for_leader(candidate);
            }
            13 | 14 => self.pause(),
            15 => self.resume(),
            16 => {
                self.store.suspended = !self.store.suspended;
                self.note(format!("failover suspended: {}", self.store.suspended));
                self.store.touch();
                self.show_all();
            }
            17 => {
                let name = self.nodes[other].name.clone();
                self.note(format!("n{other} drained or not"));
                if !self.store.drained.remove(&name) {
                    self.store.drained.insert(name);
                }
                self.store.touch();
                self.show_all();
            }
            _ => {
                for cut in &mut self.store_cut {
                    *cut = false;
                }
                self.store_down = false;
                self.show_all();
            }
        }
        let next = self.random.within(100, 2_500);
        self.push(next, 0, Event::Mischief);
    }

    /// A switchover where somebody leads, or a failover. One that may lose commits, by an operator's word, is
    /// no promise to keep; nor is it one that a primary nobody sees is not written to twice.
    fn ask_for_leader(&mut self, candidate: Option<MemberName>) {
        let leader = self.store.leader().map(|(name, _)| name.clone());
        let unseen = (0..self.nodes.len()).any(|node| self.may_write(node));
        let lossless = self.plan.settings.sync == SyncMode::Off;
        if leader.is_none() && (unseen || !lossless) || self.store.paused && candidate.is_none() {
            return;
        }
        let leader = leader.filter(|_| !lossless || self.store.paused || self.random.one_in(2));
        self.note(format!("{candidate:?} is to lead instead of {leader:?}"));
        self.store.write_failover(Some(FailoverKey { leader, candidate, due: true, revision: 0 }));
        self.show_all();
    }

    fn may_write(&self, node: Index) -> bool {
        let here = &self.nodes[node];
        here.up && matches!(here.pg.phase, Phase::Primary | Phase::Starting { primary: true })
    }

    fn pause(&mut self) {
        // An operator does not pause what he has just told to fail over.
        if self.store.failover.is_none() {
            self.note("paused".to_owned());
            self.store.paused = true;
            self.store.touch();
            self.show_all();
        }
    }

    /// The operator ends a pause when the primary is shown as the leader: one that is out of reach, or has no
    /// agent, may be writing without a lease, and nobody else need know.
    pub(super) fn resume(&mut self) {
        if !self.store.paused {
            return;
        }
        let hears = |node: &Index| {
            let here = &self.nodes[*node];
            let leads = self.leader_index() == Some(*node);
            leads && here.agent.is_some() && here.frozen_until <= self.now && self.reaches_store(*node)
        };
        let writers: Vec<Index> = (0..self.nodes.len()).filter(|node| self.may_write(*node)).collect();
        if !writers.iter().all(hears) {
            return self.push(200, 0, Event::Resume);
        }
        self.note("resumed".to_owned());
        self.store.paused = false;
        self.store.touch();
        for node in writers {
            self.nodes[node].pardoned_until = self.now + fencing::stop_budget(self.plan.settings.ttl);
            self.hear(node, false);
            self.step_after(node, 0);
        }
        self.show_all();
    }

    pub(super) fn freeze(&mut self, node: Index, span: Millis) {
        self.note(format!("n{node} agent hangs for {span}"));
        let watchdog = fencing::watchdog(self.plan.settings.ttl);
        let last = self.nodes[node].agent.as_ref().map_or(self.now, |agent| agent.last_ping);
        let fires = last + watchdog;
        if self.plan.without.is_none() && self.now + span > fires {
            // The watchdog ends the agent, then the guard comes.
            self.nodes[node].frozen_until = fires.max(self.now);
            let wait = fires.saturating_sub(self.now);
            let incarnation = self.nodes[node].incarnation;
            self.sequence += 1;
            self.events.insert(self.sequence, (node, incarnation, Event::AgentBack));
            self.queue.push(Reverse((self.now + wait + self.random.within(200, 1_500), self.sequence, node)));
            self.nodes[node].agent = None;
            self.nodes[node].incarnation += 1;
            self.push(wait + 20, node, Event::Guard);
        } else {
            self.nodes[node].frozen_until = self.now + span;
        }
    }

    /// The end of all faults: what is left has to come back by itself.
    pub(super) fn heal(&mut self) {
        self.note("all faults end".to_owned());
        for node in 0..self.nodes.len() {
            self.store_cut[node] = false;
            self.link_cut[node].fill(false);
            self.nodes[node].slow = 1;
        }
        self.store_down = false;
        self.store.suspended = false;
        self.store.drained.clear();
        self.store.touch();
        self.resume();
        self.show_all();
        self.plan.faults_until = 0;
    }

    /// One primary, and every other node streams from it or has been shut out for a reason.
    pub fn healthy(&self) -> Result<(), String> {
        let Some(primary) = (0..self.nodes.len()).find(|node| self.writable(*node)) else {
            return Err("no primary at the end".to_owned());
        };
        let identifier = &self.nodes[primary].pg.identifier;
        for (index, node) in self.nodes.iter().enumerate().filter(|(index, _)| *index != primary) {
            // Made by a creation of the cluster that died before it was announced.
            let stranded = node.pg.identifier.is_some() && node.pg.identifier != *identifier;
            let follows = node.pg.streaming && node.pg.upstream == Some(primary);
            if !stranded && !follows {
                return Err(format!("n{index} does not follow n{primary}: {:?}", node.pg.phase));
            }
        }
        Ok(())
    }
}
