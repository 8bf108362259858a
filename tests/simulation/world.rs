//! The world that the agents act in: nodes, a network, a store, time. Everything that happens is an
//! event in one queue; the same seed gives the same order.

use super::{
    random::Random,
    store::{Reply, Store},
};
use pgfleet::{
    agent::core::{
        Action, Answer, Cluster, Control, ControlState, Data, FailoverKey, Kind, Lease, Me, Member, Millis,
        Observation, Outcome, Poll, Process, Rule, Running, Settings, StartAs, State, StopMode, SyncMode,
        SyncNames, Verdict, decide_by, fencing, rules,
    },
    model::{Lsn, MemberName, Timeline},
};
use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
};

/// A request that gets no answer is given up after this.
const TIMEOUT: Millis = 300;

pub type Index = usize;

/// One record of the write-ahead log. Equal records have equal predecessors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    pub timeline: Timeline,
    pub id: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    Stopped,
    Starting {
        primary: bool,
    },
    Standby,
    Primary,
    /// Shut down but for the walsenders.
    Closing,
}

pub struct Postgres {
    pub identifier: Option<String>,
    pub log: Vec<Record>,
    pub phase: Phase,
    pub control: Control,
    pub upstream: Option<Index>,
    pub streaming: bool,
    pub names: SyncNames,
    closing_at: Lsn,
    /// What `pg_control` says on the disk; the copy in `control` is as old as the last stop.
    closes_as: ControlState,
    pub timeline: Timeline,
    /// Grows with each end of the process: what was meant for an earlier one does not happen.
    pub life: u64,
}

pub struct Node {
    pub name: MemberName,
    pub ppm: i64,
    pub up: bool,
    pub agent: Option<Agent>,
    pub incarnation: u64,
    pub frozen_until: Millis,
    pub slow: u64,
    pub pg: Postgres,
    /// The file with the lease, which outlives the agent.
    pub remembered: Option<Lease>,
    pub next_step: Millis,
}

pub struct Agent {
    pub seen: Observation,
    pub state: State,
    pub operation: u64,
    pub polled: usize,
    pub last_ping: Millis,
}

enum Request {
    Acquire(Option<u64>),
    Renew(u64),
    Release(u64),
    CreateInitialize,
    WriteInitialize(String),
    WriteConfig,
    WriteSync(Option<u64>, u64, Option<pgfleet::agent::core::SyncKey>),
    WriteFailover(Option<FailoverKey>),
    WriteHistory(Option<u64>, Vec<(Timeline, Lsn)>),
    Publish(Box<Member>, Option<(u64, Lsn)>),
}

enum Event {
    Step,
    View,
    AtStore { request: Request, sent: Millis, kind: Kind },
    FromStore { reply: Option<Reply>, sent: Millis, kind: Kind },
    Sample { from: Index, poll: Millis },
    Answered { answer: Option<Answer>, poll: Millis },
    PollEnds { poll: Millis },
    Server { life: u64, what: Physical },
    Done { operation: u64, ok: bool },
    Compare { operation: u64, with: Index },
    Rewind { operation: u64, with: Index },
    Clone { operation: u64, with: Index },
    Initdb { operation: u64 },
    Names { names: SyncNames },
    Guard,
    AgentBack,
    HostBack,
    Replicate,
    Write,
    Mischief,
    Heal,
}

enum Physical {
    Started,
    Promoted,
    Closed,
    Stopped,
}

/// What goes wrong, and how.
#[derive(Clone)]
pub struct Plan {
    pub nodes: usize,
    pub settings: Settings,
    pub faults_from: Millis,
    pub faults_until: Millis,
    pub ends: Millis,
    /// Leave these rules out, and the guard and watchdog with the rule `fence`.
    pub without: Option<&'static str>,
    pub drift_ppm: i64,
}

pub struct World {
    pub plan: Plan,
    rules: Vec<Rule>,
    random: Random,
    pub now: Millis,
    sequence: u64,
    queue: BinaryHeap<Reverse<(Millis, u64, usize)>>,
    events: BTreeMap<u64, (Index, u64, Event)>,
    pub store: Store,
    pub nodes: Vec<Node>,
    store_cut: Vec<bool>,
    link_cut: Vec<Vec<bool>>,
    store_down: bool,
    view_due: Vec<bool>,
    next_record: u64,
    /// Acknowledged commits by their place and record.
    pub acknowledged: Vec<(usize, u64)>,
    unacknowledged: Vec<Vec<usize>>,
    pub fired: BTreeMap<&'static str, u64>,
    pub promotions: u64,
    pub trace: Vec<String>,
}

impl World {
    pub fn new(seed: u64, plan: Plan) -> Self {
        let mut random = Random::new(seed);
        let kept = |rule: &&Rule| plan.without != Some(rule.id);
        let rules = rules()
            .filter(kept)
            .map(|rule| Rule {
                id: rule.id,
                lane: rule.lane,
                when: rule.when,
                then: rule.then,
                why: rule.why,
            })
            .collect();
        let drift = plan.drift_ppm;
        let nodes = (0..plan.nodes)
            .map(|index| Node {
                name: format!("n{index}").parse().expect("a name"),
                ppm: random.within(0, 2 * drift as u64 + 1) as i64 - drift,
                up: true,
                agent: None,
                incarnation: 0,
                frozen_until: 0,
                slow: 1,
                pg: Postgres {
                    identifier: None,
                    log: Vec::new(),
                    phase: Phase::Stopped,
                    control: Control { state: ControlState::ShutDown, timeline: 1, checkpoint: Lsn(0) },
                    upstream: None,
                    streaming: false,
                    names: SyncNames::default(),
                    closing_at: Lsn(0),
                    closes_as: ControlState::ShutDown,
                    timeline: 1,
                    life: 0,
                },
                remembered: None,
                next_step: 0,
            })
            .collect();
        let count = plan.nodes;
        let mut world = Self {
            rules,
            random,
            now: 1_000,
            sequence: 0,
            queue: BinaryHeap::new(),
            events: BTreeMap::new(),
            store: Store::default(),
            nodes,
            store_cut: vec![false; count],
            link_cut: vec![vec![false; count]; count],
            store_down: false,
            view_due: vec![false; count],
            next_record: 0,
            acknowledged: Vec::new(),
            unacknowledged: vec![Vec::new(); count],
            fired: BTreeMap::new(),
            promotions: 0,
            trace: Vec::new(),
            plan,
        };
        for node in 0..count {
            world.boot_agent(node);
        }
        world.push(10, 0, Event::Replicate);
        world.push(15, 0, Event::Write);
        let first = world.plan.faults_from;
        world.push(first, 0, Event::Mischief);
        let heal = world.plan.faults_until;
        world.push(heal, 0, Event::Heal);
        world
    }

    /// Runs to the end, or to the first thing that must never be.
    pub fn run(&mut self) -> Result<(), String> {
        let end = self.now + self.plan.ends;
        while let Some(Reverse((at, sequence, _))) = self.queue.pop() {
            if at > end {
                break;
            }
            self.now = self.now.max(at);
            let Some((node, incarnation, event)) = self.events.remove(&sequence) else { continue };
            if self.store.expire(self.now) {
                self.show_all();
            }
            self.check()?;
            self.handle(node, incarnation, event)?;
            self.check()?;
        }
        Ok(())
    }

    fn push(&mut self, after: Millis, node: Index, event: Event) {
        self.sequence += 1;
        let incarnation = self.nodes[node].incarnation;
        self.events.insert(self.sequence, (node, incarnation, event));
        self.queue.push(Reverse((self.now + after, self.sequence, node)));
    }

    pub fn note(&mut self, text: String) {
        self.trace.push(format!("{:>7} {text}", self.now));
    }

    fn local(&self, node: Index) -> Millis {
        let ppm = self.nodes[node].ppm;
        (self.now as i64 + self.now as i64 * ppm / 1_000_000) as u64
    }

    fn latency(&mut self) -> Millis {
        if self.random.one_in(50) { self.random.within(20, 250) } else { self.random.within(1, 8) }
    }

    pub fn writable(&self, node: Index) -> bool {
        self.nodes[node].up && self.nodes[node].pg.phase == Phase::Primary
    }

    fn check(&self) -> Result<(), String> {
        let writable: Vec<Index> = (0..self.nodes.len()).filter(|node| self.writable(*node)).collect();
        if writable.len() > 1 {
            return Err(format!("two primaries: {writable:?}"));
        }
        if let Some(node) = writable.first()
            && self.plan.without.is_none()
            && self.store.leader().is_none_or(|(name, _)| *name != self.nodes[*node].name)
        {
            return Err(format!("n{node} is writable and {:?} leads", self.store.leader()));
        }
        Ok(())
    }

    fn boot_agent(&mut self, node: Index) {
        let local = self.local(node);
        let here = &mut self.nodes[node];
        here.incarnation += 1;
        here.frozen_until = 0;
        let me = Me { name: here.name.clone(), nofailover: false, failover_priority: 1 };
        let lease = here.remembered.map(|lease| Lease { remembered: true, ..lease });
        here.agent = Some(Agent {
            seen: Observation {
                now: local,
                me,
                settings: self.plan.settings.clone(),
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

    fn show_all(&mut self) {
        for node in 0..self.nodes.len() {
            self.show(node);
        }
    }

    fn show(&mut self, node: Index) {
        if !self.view_due[node] {
            self.view_due[node] = true;
            let latency = self.latency();
            self.push(latency, node, Event::View);
        }
    }

    fn step_after(&mut self, node: Index, after: Millis) {
        let at = self.now + after;
        let due = self.nodes[node].next_step;
        if due > self.now && due <= at {
            return;
        }
        self.nodes[node].next_step = at;
        self.push(after, node, Event::Step);
    }

    fn reaches_store(&self, node: Index) -> bool {
        !self.store_down && !self.store_cut[node] && self.nodes[node].up
    }

    fn linked(&self, a: Index, b: Index) -> bool {
        self.nodes[a].up && self.nodes[b].up && !self.link_cut[a][b]
    }

    fn handle(&mut self, node: Index, incarnation: u64, event: Event) -> Result<(), String> {
        let current = incarnation == self.nodes[node].incarnation && self.nodes[node].agent.is_some();
        let for_agent = !matches!(
            event,
            Event::Replicate
                | Event::Write
                | Event::Mischief
                | Event::Heal
                | Event::AgentBack
                | Event::HostBack
                | Event::Guard
                | Event::AtStore { .. }
                | Event::Server { .. }
                | Event::View
        );
        if for_agent && !current {
            return Ok(());
        }
        if (for_agent || matches!(event, Event::View)) && self.nodes[node].frozen_until > self.now {
            let wait = self.nodes[node].frozen_until - self.now;
            self.push(wait, node, event);
            return Ok(());
        }
        match event {
            Event::Step => {
                if self.nodes[node].next_step <= self.now {
                    return self.step(node);
                }
            }
            Event::View => {
                self.view_due[node] = false;
                if self.reaches_store(node) && self.nodes[node].agent.is_some() {
                    let view = self.store.view();
                    self.see(node, view);
                    self.step_after(node, 0);
                }
            }
            Event::AtStore { request, sent, kind } => self.at_store(node, incarnation, request, sent, kind),
            Event::FromStore { reply, sent, kind } => self.from_store(node, reply, sent, kind),
            Event::Sample { from, poll } => self.sample(node, from, poll),
            Event::Answered { answer, poll } => self.answered(node, answer, poll),
            Event::PollEnds { poll } => {
                if let Some(known) = &mut self.agent(node).seen.poll
                    && known.asked == poll
                    && !known.done
                {
                    known.done = true;
                    self.step_after(node, 0);
                }
            }
            Event::Server { life, what } => return self.physical(node, life, what),
            Event::Done { operation, ok } => self.finish(node, operation, ok),
            Event::Compare { operation, with } => self.compare(node, operation, with),
            Event::Rewind { operation, with } => {
                let ok = self.is_primary_at(with)
                    && self.linked(node, with)
                    && self.nodes[node].pg.phase == Phase::Stopped;
                if ok && self.agent(node).operation == operation {
                    let common = common(&self.nodes[node].pg.log, &self.nodes[with].pg.log);
                    let log = self.nodes[with].pg.log[..common].to_vec();
                    let pg = &mut self.nodes[node].pg;
                    pg.log = log;
                    pg.control.state = ControlState::Recovery;
                    pg.timeline = pg.log.last().map_or(1, |record| record.timeline);
                }
                self.finish(node, operation, ok);
            }
            Event::Clone { operation, with } => {
                let source = &self.nodes[with].pg;
                let ok = matches!(source.phase, Phase::Primary | Phase::Standby)
                    && self.linked(node, with)
                    && self.nodes[node].pg.phase == Phase::Stopped;
                let (log, identifier) = (source.log.clone(), source.identifier.clone());
                if ok && self.agent(node).operation == operation {
                    let pg = &mut self.nodes[node].pg;
                    pg.log = log;
                    pg.identifier = identifier;
                    pg.control.state = ControlState::Recovery;
                    pg.timeline = pg.log.last().map_or(1, |record| record.timeline);
                }
                self.finish(node, operation, ok);
            }
            Event::Initdb { operation } => {
                if self.agent(node).operation == operation {
                    let identifier = format!("id{}", self.random.next());
                    let record = self.record(1);
                    let pg = &mut self.nodes[node].pg;
                    pg.identifier = Some(identifier);
                    pg.log = vec![record];
                    pg.control = Control { state: ControlState::ShutDown, timeline: 1, checkpoint: Lsn(0) };
                    pg.timeline = 1;
                }
                self.finish(node, operation, true);
            }
            Event::Names { names } => {
                let running = matches!(self.nodes[node].pg.phase, Phase::Primary | Phase::Standby);
                if running {
                    self.nodes[node].pg.names = names;
                }
                self.keys_done(node, running, Kind::Keys);
            }
            Event::Guard => self.guard(node),
            Event::AgentBack => {
                if self.nodes[node].up && self.nodes[node].agent.is_none() {
                    self.note(format!("n{node} agent starts"));
                    self.boot_agent(node);
                }
            }
            Event::HostBack => {
                if !self.nodes[node].up {
                    self.note(format!("n{node} host is back"));
                    self.nodes[node].up = true;
                    // The lease file lies in memory and is gone.
                    self.nodes[node].remembered = None;
                    self.boot_agent(node);
                }
            }
            Event::Replicate => {
                self.replicate();
                self.push(10, 0, Event::Replicate);
            }
            Event::Write => {
                self.write();
                self.push(23, 0, Event::Write);
            }
            Event::Mischief => self.mischief(),
            Event::Heal => self.heal(),
        }
        Ok(())
    }

    fn agent(&mut self, node: Index) -> &mut Agent {
        self.nodes[node].agent.as_mut().expect("events for agents are dropped when there is none")
    }

    fn see(&mut self, node: Index, view: Cluster) {
        let agent = self.agent(node);
        if agent.seen.cluster.as_ref().is_none_or(|known| known.revision <= view.revision) {
            agent.seen.cluster = Some(view);
        }
    }

    fn index(&self, name: &MemberName) -> Option<Index> {
        self.nodes.iter().position(|node| node.name == *name)
    }

    fn is_primary_at(&self, node: Index) -> bool {
        self.writable(node)
    }

    fn record(&mut self, timeline: Timeline) -> Record {
        self.next_record += 1;
        Record { timeline, id: self.next_record }
    }

    fn observe_server(&self, node: Index) -> pgfleet::agent::core::Server {
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

    fn step(&mut self, node: Index) -> Result<(), String> {
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

    fn act(&mut self, node: Index, action: Action) -> Result<(), String> {
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

    fn ask(&mut self, node: Index, action: Action, kind: Kind, request: Request) {
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

    fn at_store(&mut self, node: Index, incarnation: u64, request: Request, sent: Millis, kind: Kind) {
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

    fn from_store(&mut self, node: Index, reply: Option<Reply>, sent: Millis, kind: Kind) {
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

    fn keys_done(&mut self, node: Index, ok: bool, kind: Kind) {
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

    fn poll(&mut self, node: Index) {
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

    fn sample(&mut self, node: Index, from: Index, poll: Millis) {
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
        };
        let latency = self.latency();
        self.push(latency, node, Event::Answered { answer: Some(answer), poll });
    }

    fn answered(&mut self, node: Index, answer: Option<Answer>, poll: Millis) {
        let agent = self.agent(node);
        let expected = agent.polled;
        if let Some(known) = agent.seen.poll.as_mut().filter(|known| known.asked == poll && !known.done) {
            known.answers.extend(answer);
            known.done = known.answers.len() == expected;
            self.step_after(node, 0);
        }
    }

    /// Begins an action on the server.
    fn serve(&mut self, node: Index, action: Action) -> Result<(), String> {
        let slow = self.nodes[node].slow;
        let budget = fencing::stop_budget(self.plan.settings.ttl);
        match &action {
            Action::Promote | Action::Start(StartAs::Primary(_)) => {
                if self.store.leader().is_none_or(|(name, _)| *name != self.nodes[node].name) {
                    return Err(format!("n{node} begins {action:?} and {:?} leads", self.store.leader()));
                }
            }
            Action::Follow(name) | Action::Start(StartAs::Standby(Some(name))) => {
                let leader = self.index(name).expect("a member of the world");
                let (mine, theirs) = (&self.nodes[node].pg.log, &self.nodes[leader].pg.log);
                if self.writable(leader) && common(mine, theirs) < mine.len() {
                    return Err(format!("n{node} follows n{leader} with a history of its own"));
                }
            }
            Action::Clone(_) => {
                let settings = &self.plan.settings;
                let allowed = settings.remove_data_on_rewind_failure || settings.remove_data_on_divergence;
                if self.nodes[node].pg.identifier.is_some() && !allowed {
                    return Err(format!("n{node} replaces its data unasked"));
                }
            }
            _ => {}
        }
        let agent = self.agent(node);
        agent.operation += 1;
        agent.seen.busy.server = Some(action.clone());
        let operation = agent.operation;
        let life = self.nodes[node].pg.life;
        match action {
            Action::Start(how) => {
                let primary = matches!(how, StartAs::Primary(_));
                let upstream = match &how {
                    StartAs::Standby(Some(name)) => self.index(name),
                    _ => None,
                };
                let pg = &mut self.nodes[node].pg;
                pg.phase = Phase::Starting { primary };
                pg.upstream = upstream;
                pg.names = match how {
                    StartAs::Primary(names) => names,
                    StartAs::Standby(_) => SyncNames::default(),
                };
                let after = self.random.within(50, 300) * slow;
                self.push(after, node, Event::Server { life, what: Physical::Started });
            }
            Action::Stop(StopMode::Fast) => {
                let after = self.random.within(30, 400) * slow;
                self.push(after, node, Event::Server { life, what: Physical::Closed });
            }
            Action::Stop(StopMode::Immediate) => {
                let after = self.random.within(5, budget);
                self.push(after, node, Event::Server { life, what: Physical::Stopped });
            }
            Action::Promote => {
                let after = self.random.within(20, 150) * slow;
                self.push(after, node, Event::Server { life, what: Physical::Promoted });
            }
            Action::Follow(name) => {
                let upstream = self.index(&name);
                if self.nodes[node].pg.phase == Phase::Standby {
                    self.nodes[node].pg.upstream = upstream;
                    self.nodes[node].pg.streaming = false;
                }
                let after = self.random.within(3, 20);
                self.push(after, node, Event::Done { operation, ok: true });
            }
            Action::CheckDivergence(name) => {
                let with = self.index(&name).expect("a member of the world");
                let after = self.random.within(3, 30);
                self.push(after, node, Event::Compare { operation, with });
            }
            Action::Rewind(name) => {
                let with = self.index(&name).expect("a member of the world");
                let after = self.random.within(100, 600) * slow;
                self.push(after, node, Event::Rewind { operation, with });
            }
            Action::Clone(name) => {
                let with = self.index(&name).expect("a member of the world");
                let after = self.random.within(200, 900) * slow;
                self.push(after, node, Event::Clone { operation, with });
            }
            Action::Initdb => {
                let after = self.random.within(200, 900) * slow;
                self.push(after, node, Event::Initdb { operation });
            }
            Action::FindEnd => {
                let end = Lsn(self.nodes[node].pg.log.len() as u64);
                let local = self.local(node);
                self.agent(node).seen.wal_end = Some((end, local));
                let after = self.random.within(10, 60) * slow;
                self.push(after, node, Event::Done { operation, ok: true });
            }
            _ => self.push(10, node, Event::Done { operation, ok: true }),
        }
        Ok(())
    }

    /// What happens to the server itself, whoever began it.
    fn physical(&mut self, node: Index, life: u64, what: Physical) -> Result<(), String> {
        if self.nodes[node].pg.life != life || !self.nodes[node].up {
            return Ok(());
        }
        match what {
            Physical::Started => {
                let Phase::Starting { primary } = self.nodes[node].pg.phase else { return Ok(()) };
                if primary {
                    self.survived(node)?;
                }
                let pg = &mut self.nodes[node].pg;
                pg.phase = if primary { Phase::Primary } else { Phase::Standby };
                pg.closes_as = if primary { ControlState::InProduction } else { ControlState::Recovery };
                self.complete(node, |action| matches!(action, Action::Start(_)), true);
            }
            Physical::Promoted => {
                if self.nodes[node].pg.phase != Phase::Standby {
                    return Ok(());
                }
                self.survived(node)?;
                self.promotions += 1;
                let timeline = self.nodes[node].pg.timeline + 1;
                let record = self.record(timeline);
                let pg = &mut self.nodes[node].pg;
                pg.timeline = timeline;
                pg.log.push(record);
                pg.phase = Phase::Primary;
                pg.upstream = None;
                pg.streaming = false;
                pg.closes_as = ControlState::InProduction;
                self.complete(node, |action| *action == Action::Promote, true);
            }
            Physical::Closed => match self.nodes[node].pg.phase {
                Phase::Primary => {
                    let record = self.record(self.nodes[node].pg.timeline);
                    let pg = &mut self.nodes[node].pg;
                    pg.closing_at = Lsn(pg.log.len() as u64);
                    pg.closes_as = ControlState::ShutDown;
                    pg.log.push(record);
                    pg.phase = Phase::Closing;
                    self.unacknowledged[node].clear();
                    let after = self.random.within(15, 80);
                    self.push(after, node, Event::Server { life, what: Physical::Stopped });
                }
                Phase::Standby | Phase::Starting { .. } => {
                    return self.physical(node, life, Physical::Stopped);
                }
                _ => {}
            },
            Physical::Stopped => {
                self.end_server(node);
                self.complete(node, |action| matches!(action, Action::Stop(_)), true);
            }
        }
        self.step_after(node, 0);
        Ok(())
    }

    /// In synchronous modes, who becomes writable has all that was acknowledged.
    fn survived(&self, node: Index) -> Result<(), String> {
        if self.plan.settings.sync == SyncMode::Off {
            return Ok(());
        }
        let log = &self.nodes[node].pg.log;
        match self
            .acknowledged
            .iter()
            .find(|(place, id)| log.get(*place).is_none_or(|record| record.id != *id))
        {
            Some(lost) => Err(format!("n{node} becomes primary without the acknowledged {lost:?}")),
            None => Ok(()),
        }
    }

    fn end_server(&mut self, node: Index) {
        let pg = &mut self.nodes[node].pg;
        pg.phase = Phase::Stopped;
        pg.control = Control { state: pg.closes_as, timeline: pg.timeline, checkpoint: pg.closing_at };
        pg.life += 1;
        pg.streaming = false;
        pg.names = SyncNames::default();
        self.unacknowledged[node].clear();
    }

    fn complete(&mut self, node: Index, which: fn(&Action) -> bool, ok: bool) {
        let Some(agent) = &self.nodes[node].agent else { return };
        if agent.seen.busy.server.as_ref().is_some_and(which) {
            let operation = agent.operation;
            self.push(1, node, Event::Done { operation, ok });
        }
    }

    fn finish(&mut self, node: Index, operation: u64, ok: bool) {
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

    fn compare(&mut self, node: Index, operation: u64, with: Index) {
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

    fn leader_index(&self) -> Option<Index> {
        self.store.leader().and_then(|(name, _)| self.index(name))
    }

    fn replicate(&mut self) {
        for node in 0..self.nodes.len() {
            let Some(upstream) = self.nodes[node].pg.upstream else { continue };
            let before = self.nodes[node].pg.streaming;
            let sends =
                matches!(self.nodes[upstream].pg.phase, Phase::Primary | Phase::Standby | Phase::Closing);
            let mine = &self.nodes[node].pg.log;
            let theirs = &self.nodes[upstream].pg.log;
            // PostgreSQL itself refuses a standby whose history is no prefix.
            let fits = common(mine, theirs) == mine.len();
            let streams =
                self.nodes[node].pg.phase == Phase::Standby && sends && fits && self.linked(node, upstream);
            if streams {
                let missing = theirs[mine.len()..].to_vec();
                let take = if self.random.one_in(4) {
                    self.random.within(0, missing.len() as u64 + 1) as usize
                } else {
                    missing.len()
                };
                let pg = &mut self.nodes[node].pg;
                pg.log.extend_from_slice(&missing[..take]);
                pg.timeline = pg.log.last().map_or(1, |record| record.timeline);
            }
            self.nodes[node].pg.streaming = streams;
            if before != streams {
                self.step_after(node, 1);
                self.step_after(upstream, 1);
            }
        }
        self.acknowledge();
    }

    fn write(&mut self) {
        for node in 0..self.nodes.len() {
            if self.writable(node) {
                let record = self.record(self.nodes[node].pg.timeline);
                let pg = &mut self.nodes[node].pg;
                pg.log.push(record);
                self.unacknowledged[node].push(pg.log.len() - 1);
            }
        }
        self.acknowledge();
    }

    /// Clients hear of the commits that enough standbys have.
    fn acknowledge(&mut self) {
        for node in 0..self.nodes.len() {
            if !self.writable(node) {
                continue;
            }
            let names = &self.nodes[node].pg.names;
            let mut reached: Vec<usize> = (0..self.nodes.len())
                .filter(|other| {
                    let pg = &self.nodes[*other].pg;
                    pg.upstream == Some(node)
                        && pg.streaming
                        && names.names.contains(self.nodes[*other].name.as_str())
                })
                .map(|other| self.nodes[other].pg.log.len())
                .collect();
            reached.sort_unstable_by(|a, b| b.cmp(a));
            let end = match names.count {
                0 => usize::MAX,
                count => reached.get(count - 1).copied().unwrap_or(0),
            };
            let log = &self.nodes[node].pg.log;
            let waiting = std::mem::take(&mut self.unacknowledged[node]);
            let (done, still): (Vec<usize>, Vec<usize>) = waiting.into_iter().partition(|place| *place < end);
            self.acknowledged.extend(done.into_iter().map(|place| (place, log[place].id)));
            self.unacknowledged[node] = still;
        }
    }

    fn kill_agent(&mut self, node: Index) {
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
    fn guard(&mut self, node: Index) {
        if !self.nodes[node].up || self.nodes[node].agent.is_some() {
            return;
        }
        let pg = &self.nodes[node].pg;
        if !matches!(pg.phase, Phase::Primary | Phase::Standby | Phase::Starting { .. }) {
            return;
        }
        let local = self.local(node);
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

    fn crash_host(&mut self, node: Index) {
        self.kill_agent(node);
        self.end_server_hard(node);
        self.nodes[node].up = false;
        let after = self.random.within(500, 8_000);
        self.push(after, node, Event::HostBack);
    }

    fn end_server_hard(&mut self, node: Index) {
        self.end_server(node);
        self.complete(node, |action| !matches!(action, Action::Stop(_)), false);
        self.complete(node, |action| matches!(action, Action::Stop(_)), true);
        self.step_after(node, 0);
    }

    fn mischief(&mut self) {
        if self.now >= 1_000 + self.plan.faults_until {
            return;
        }
        let node = self.random.within(0, self.nodes.len() as u64) as usize;
        // The leader is where it hurts.
        let node = if self.random.one_in(2) { self.leader_index().unwrap_or(node) } else { node };
        let other = self.random.within(0, self.nodes.len() as u64) as usize;
        let ttl = self.plan.settings.ttl;
        match self.random.within(0, 13) {
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
                self.note(format!("switchover to {candidate:?}"));
                self.store.write_failover(Some(FailoverKey {
                    leader: None,
                    candidate,
                    due: true,
                    revision: 0,
                }));
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

    fn freeze(&mut self, node: Index, span: Millis) {
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
    fn heal(&mut self) {
        self.note("all faults end".to_owned());
        for node in 0..self.nodes.len() {
            self.store_cut[node] = false;
            self.link_cut[node].fill(false);
            self.nodes[node].slow = 1;
        }
        self.store_down = false;
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
            if !stranded && !(node.pg.streaming && node.pg.upstream == Some(primary)) {
                return Err(format!("n{index} does not follow n{primary}: {:?}", node.pg.phase));
            }
        }
        Ok(())
    }
}

/// How many records two logs have in common from the beginning.
fn common(a: &[Record], b: &[Record]) -> usize {
    let (mut low, mut high) = (0, a.len().min(b.len()));
    while low < high {
        let middle = (low + high).div_ceil(2);
        if a[middle - 1] == b[middle - 1] { low = middle } else { high = middle - 1 }
    }
    low
}

/// Where the timelines of a log ended.
fn history(log: &[Record]) -> Vec<(Timeline, Lsn)> {
    log.windows(2)
        .enumerate()
        .filter(|(_, pair)| pair[0].timeline != pair[1].timeline)
        .map(|(place, pair)| (pair[0].timeline, Lsn(place as u64 + 1)))
        .collect()
}
