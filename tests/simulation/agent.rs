//! What surrounds the core of an agent: views that arrive, requests that travel, answers that get lost.

use super::world::*;

impl World {
    pub(super) fn boot_agent(&mut self, node: Index) {
        let local = self.local(node);
        let here = &mut self.nodes[node];
        here.incarnation += 1;
        here.frozen_until = 0;
        let settings = Settings { paused: here.paused, ..self.plan.settings.clone() };
        let me = Me { name: here.name.clone(), nofailover: false, failover_priority: 1 };
        let lease = here.remembered.map(|lease| Lease { remembered: true, ..lease });
        here.agent = Some(Agent {
            seen: Observation {
                now: local,
                me,
                settings,
                cluster: None,
                lease,
                server: pgfleet::agent::core::Server { data: Data::Unreadable, process: Process::Stopped },
                poll: None,
                verdict: None,
                wal_end: None,
                busy: Default::default(),
                failures: Default::default(),
                request: None,
                stopping: false,
            },
            state: State::default(),
            operation: 0,
            polled: 0,
            last_ping: self.now,
        });
        self.show(node);
        self.step_after(node, 1);
    }

    pub(super) fn observe_server(&self, node: Index) -> pgfleet::agent::core::Server {
        let pg = &self.nodes[node].pg;
        let data = match &pg.identifier {
            Some(identifier) => {
                Data::Initialised { system_identifier: identifier.clone(), control: pg.control }
            }
            None => Data::Empty,
        };
        let running = |in_recovery: bool| {
            let standbys = (0..self.nodes.len())
                .filter(|other| {
                    self.nodes[*other].pg.upstream == Some(node) && self.nodes[*other].pg.streaming
                })
                .map(|other| pgfleet::agent::core::Standby {
                    name: self.nodes[other].name.clone(),
                    streaming: true,
                    flushed: Lsn(self.nodes[other].pg.log.len() as u64),
                })
                .collect();
            Process::Running(Running {
                in_recovery,
                timeline: pg.timeline,
                lsn: Lsn(pg.log.len() as u64),
                upstream: pg.upstream.map(|upstream| self.nodes[upstream].name.clone()),
                streaming: pg.streaming,
                names: pg.names.clone(),
                standbys,
                pending_restart: false,
            })
        };
        let process = match pg.phase {
            Phase::Stopped => Process::Stopped,
            Phase::Starting { primary } => Process::Starting { primary },
            Phase::Standby => running(true),
            Phase::Primary => running(false),
            Phase::Closing => Process::Closing { checkpoint: pg.closing_at },
        };
        pgfleet::agent::core::Server { data, process }
    }

    pub(super) fn step(&mut self, node: Index) -> Result<(), String> {
        let local = self.local(node);
        let server = self.observe_server(node);
        let writable = self.writable(node);
        let now = self.now;
        let agent = self.nodes[node].agent.as_mut().expect("a step belongs to an agent");
        agent.seen.now = local;
        agent.seen.server = server;
        let decision = decide_by(self.rules.iter(), &agent.seen, &agent.state);
        agent.state = decision.state;
        if fencing::may_ping(agent.seen.lease.as_ref(), writable, &agent.seen.settings, local) {
            agent.last_ping = now;
        }
        for fired in &decision.fired {
            *self.fired.entry(fired.rule).or_default() += 1;
        }
        if !decision.actions.is_empty() {
            let quiet = decision.actions.iter().all(|action| {
                matches!(action, Action::Renew | Action::PollPeers | Action::Publish | Action::PublishLeader)
            });
            if !quiet {
                let fired: Vec<&str> = decision.fired.iter().map(|fired| fired.rule).collect();
                self.note(format!("n{node} {:?} by {fired:?}", decision.actions));
            }
        }
        for action in decision.actions {
            self.act(node, action)?;
        }
        let delta = decision.wake_at.saturating_sub(local).max(1);
        self.step_after(node, delta);
        Ok(())
    }

    pub(super) fn act(&mut self, node: Index, action: Action) -> Result<(), String> {
        let kind = action.kind();
        let term = self.agent(node).seen.lease.map(|lease| lease.term);
        let seen_sync = self.agent(node).seen.cluster.as_ref().and_then(|view| view.sync.clone());
        match &action {
            Action::Acquire => {
                self.ask(node, action, kind, Request::Acquire(seen_sync.map(|sync| sync.revision)))
            }
            Action::Renew => self.ask(node, action, kind, Request::Renew(term.unwrap_or(0))),
            Action::Release => self.ask(node, action, kind, Request::Release(term.unwrap_or(0))),
            Action::CreateInitialize => self.ask(node, action, kind, Request::CreateInitialize),
            Action::WriteInitialize(identifier) => {
                let request = Request::WriteInitialize(identifier.clone());
                self.ask(node, action, kind, request);
            }
            Action::WriteConfig => self.ask(node, action, kind, Request::WriteConfig),
            Action::WriteSync(key) => {
                let request = Request::WriteSync(term, key.revision, Some(key.clone()));
                self.ask(node, action, kind, request);
            }
            Action::DropSync(revision) => {
                let request = Request::WriteSync(term, *revision, None);
                self.ask(node, action, kind, request);
            }
            Action::NameCandidate(name) => {
                let known = self.agent(node).seen.cluster.as_ref().and_then(|view| view.failover.clone());
                let key = known.map(|key| FailoverKey { candidate: Some(name.clone()), ..key });
                self.ask(node, action, kind, Request::WriteFailover(key));
            }
            Action::ClearFailover => self.ask(node, action, kind, Request::WriteFailover(None)),
            Action::WriteHistory => {
                let request = Request::WriteHistory(term, history(&self.nodes[node].pg.log));
                self.ask(node, action, kind, request);
            }
            Action::Publish | Action::PublishLeader => {
                let pg = &self.nodes[node].pg;
                let member = Member {
                    name: self.nodes[node].name.clone(),
                    running: matches!(pg.phase, Phase::Primary | Phase::Standby),
                    primary: pg.phase == Phase::Primary,
                    timeline: Some(pg.timeline),
                    nofailover: false,
                    nosync: false,
                    clonefrom: false,
                };
                let status = (action == Action::PublishLeader)
                    .then_some(term)
                    .flatten()
                    .map(|term| (term, Lsn(pg.log.len() as u64)));
                self.ask(node, action, kind, Request::Publish(Box::new(member), status));
            }
            Action::SetSyncNames(names) => {
                let names = names.clone();
                self.agent(node).seen.busy.keys = Some(action);
                let after = self.random.within(2, 15);
                self.push(after, node, Event::Names { names });
            }
            Action::PollPeers => self.poll(node),
            Action::Exit => {}
            _ => return self.serve(node, action),
        }
        Ok(())
    }

    pub(super) fn ask(&mut self, node: Index, action: Action, kind: Kind, request: Request) {
        let busy = &mut self.agent(node).seen.busy;
        match action.lane() {
            pgfleet::agent::core::Lane::Lease => busy.lease = Some(action),
            _ => busy.keys = Some(action),
        }
        let sent = self.local(node);
        let latency = self.latency();
        if self.reaches_store(node) && latency < TIMEOUT {
            self.push(latency, node, Event::AtStore { request, sent, kind });
        } else {
            self.push(TIMEOUT, node, Event::FromStore { reply: None, sent, kind });
        }
    }

    pub(super) fn at_store(
        &mut self,
        node: Index,
        incarnation: u64,
        request: Request,
        sent: Millis,
        kind: Kind,
    ) {
        let ttl = self.plan.settings.ttl;
        let name = self.nodes[node].name.clone();
        let now = self.now;
        let reply = if !self.reaches_store(node) {
            None
        } else {
            let store = &mut self.store;
            let reply = match request {
                Request::Acquire(sync) => store.acquire(node, &name, sync, now, ttl),
                Request::Renew(term) => store.renew(node, term, now, ttl),
                Request::Release(term) => store.release(term),
                Request::CreateInitialize => store.create_initialize(node, now, ttl),
                Request::WriteInitialize(identifier) => store.write_initialize(&identifier),
                Request::WriteConfig => store.write_config(),
                Request::WriteSync(term, expected, key) => store.write_sync(term, expected, key),
                Request::WriteFailover(key) => store.write_failover(key),
                Request::WriteHistory(term, history) => store.write_history(term, history),
                Request::Publish(member, status) => {
                    if let Some((term, optime)) = status {
                        store.write_status(Some(term), optime);
                    }
                    store.write_member(node, *member, now, ttl)
                }
            };
            self.show_all();
            Some(reply)
        };
        if incarnation != self.nodes[node].incarnation {
            return;
        }
        let spent = self.local(node).saturating_sub(sent);
        let latency = self.latency();
        let lost = self.random.one_in(60);
        if reply.is_none() || lost || spent + latency >= TIMEOUT || !self.reaches_store(node) {
            let rest = TIMEOUT.saturating_sub(spent).max(1);
            self.push(rest, node, Event::FromStore { reply: None, sent, kind });
        } else {
            self.push(latency, node, Event::FromStore { reply, sent, kind });
        }
    }

    pub(super) fn answered_by_store(&mut self, node: Index, reply: Option<Reply>, sent: Millis, kind: Kind) {
        let local = self.local(node);
        let view = matches!(kind, Kind::Renew | Kind::Acquire).then(|| self.store.view());
        let agent = self.agent(node);
        let lease_lane = matches!(kind, Kind::Acquire | Kind::Renew | Kind::Release);
        if lease_lane {
            agent.seen.busy.lease = None;
        } else {
            agent.seen.busy.keys = None;
        }
        let failed = match reply {
            Some(Reply::Leads { term, ttl }) => {
                let known = agent.seen.lease.filter(|lease| lease.term == term && !lease.remembered);
                let renewed_at = known.map_or(sent, |lease| lease.renewed_at.max(sent));
                agent.seen.lease = Some(Lease { term, renewed_at, ttl, remembered: false });
                false
            }
            Some(Reply::Done) if kind == Kind::Release => {
                agent.seen.lease = None;
                false
            }
            Some(Reply::Lost) if lease_lane => {
                agent.seen.lease = None;
                kind == Kind::Acquire
            }
            Some(Reply::Done) => false,
            Some(Reply::Lost) | None => true,
        };
        if failed {
            agent.seen.failures.record(kind, local);
        } else {
            agent.seen.failures.clear(kind);
        }
        self.nodes[node].remembered = self.nodes[node].agent.as_ref().and_then(|agent| agent.seen.lease);
        if let Some(view) = view.filter(|_| !failed) {
            self.see(node, view);
        }
        self.step_after(node, 0);
    }

    pub(super) fn keys_done(&mut self, node: Index, ok: bool, kind: Kind) {
        let local = self.local(node);
        let agent = self.agent(node);
        agent.seen.busy.keys = None;
        if ok {
            agent.seen.failures.clear(kind);
        } else {
            agent.seen.failures.record(kind, local);
        }
        self.step_after(node, 0);
    }

    pub(super) fn poll(&mut self, node: Index) {
        let asked = self.local(node);
        let name = self.nodes[node].name.clone();
        let view = self.agent(node).seen.cluster.clone().unwrap_or_default();
        let others: Vec<Index> = view
            .members
            .iter()
            .filter(|member| member.name != name)
            .filter_map(|member| self.index(&member.name))
            .collect();
        let agent = self.agent(node);
        agent.seen.poll = Some(Poll { asked, done: others.is_empty(), answers: Vec::new() });
        agent.polled = others.len();
        for other in others {
            let latency = self.latency();
            self.push(latency, node, Event::Sample { from: other, poll: asked });
        }
        self.push(TIMEOUT, node, Event::PollEnds { poll: asked });
    }

    pub(super) fn sample(&mut self, node: Index, from: Index, poll: Millis) {
        let there = &self.nodes[from];
        if !self.linked(node, from) || there.agent.is_none() || there.frozen_until > self.now {
            return;
        }
        let answer = Answer {
            name: there.name.clone(),
            running: matches!(there.pg.phase, Phase::Primary | Phase::Standby),
            in_recovery: there.pg.phase == Phase::Standby,
            timeline: there.pg.timeline,
            lsn: Lsn(there.pg.log.len() as u64),
            nofailover: false,
            failover_priority: 1,
            unpaused: self.reaches_store(from) && !there.paused,
        };
        let latency = self.latency();
        self.push(latency, node, Event::Answered { answer: Some(answer), poll });
    }

    pub(super) fn answered(&mut self, node: Index, answer: Option<Answer>, poll: Millis) {
        let agent = self.agent(node);
        let expected = agent.polled;
        if let Some(known) = agent.seen.poll.as_mut().filter(|known| known.asked == poll && !known.done) {
            known.answers.extend(answer);
            known.done = known.answers.len() == expected;
            self.step_after(node, 0);
        }
    }

    pub(super) fn see(&mut self, node: Index, view: Cluster) {
        let paused = self.store.paused;
        let agent = self.agent(node);
        if agent.seen.cluster.as_ref().is_none_or(|known| known.revision <= view.revision) {
            agent.seen.cluster = Some(view);
            self.hear(node, paused);
        }
    }

    /// The dynamic configuration as this agent knows it, and leaves it for the next.
    pub(super) fn hear(&mut self, node: Index, paused: bool) {
        self.nodes[node].paused = paused;
        let agent = self.agent(node);
        if agent.seen.settings.paused && !paused {
            agent.seen.verdict = None;
        }
        agent.seen.settings.paused = paused;
    }

    pub(super) fn show(&mut self, node: Index) {
        if !self.view_due[node] {
            self.view_due[node] = true;
            let latency = self.latency();
            self.push(latency, node, Event::View);
        }
    }

    pub(super) fn show_all(&mut self) {
        for node in 0..self.nodes.len() {
            self.show(node);
        }
    }

    pub(super) fn step_after(&mut self, node: Index, after: Millis) {
        let at = self.now + after;
        let due = self.nodes[node].next_step;
        if due > self.now && due <= at {
            return;
        }
        self.nodes[node].next_step = at;
        self.push(after, node, Event::Step);
    }

    pub(super) fn agent(&mut self, node: Index) -> &mut Agent {
        self.nodes[node].agent.as_mut().expect("events for agents are dropped when there is none")
    }

    pub(super) fn finish(&mut self, node: Index, operation: u64, ok: bool) {
        let local = self.local(node);
        let agent = self.agent(node);
        if agent.operation != operation {
            return;
        }
        let Some(action) = agent.seen.busy.server.take() else { return };
        let kind = action.kind();
        if ok {
            agent.seen.failures.clear(kind);
        } else {
            agent.seen.failures.record(kind, local);
        }
        if matches!(action, Action::Rewind(_) | Action::Clone(_)) && ok {
            agent.seen.verdict = None;
        }
        self.step_after(node, 0);
    }

    pub(super) fn compare(&mut self, node: Index, operation: u64, with: Index) {
        let local = self.local(node);
        let outcome = if self.is_primary_at(with) && self.linked(node, with) {
            let pg = &self.nodes[node].pg;
            let (mine, theirs) = (&pg.log, &self.nodes[with].pg.log);
            if pg.phase == Phase::Stopped && pg.control.state == ControlState::InProduction {
                Outcome::Recover
            } else if common(mine, theirs) == mine.len() {
                Outcome::Prefix
            } else {
                Outcome::Diverged
            }
        } else {
            Outcome::Unknown
        };
        let leader = self.nodes[with].name.clone();
        let agent = self.agent(node);
        if agent.operation == operation {
            let term = agent
                .seen
                .cluster
                .as_ref()
                .and_then(|view| view.leader.as_ref())
                .map_or(0, |leader| leader.term);
            agent.seen.verdict = Some(Verdict { leader, term, outcome, at: local });
        }
        self.finish(node, operation, true);
    }

    pub(super) fn complete(&mut self, node: Index, which: fn(&Action) -> bool, ok: bool) {
        let Some(agent) = &self.nodes[node].agent else { return };
        if agent.seen.busy.server.as_ref().is_some_and(which) {
            let operation = agent.operation;
            self.push(1, node, Event::Done { operation, ok });
        }
    }
}
