//! The world that the agents act in: nodes, a network, a store, time. Everything that happens is an
//! event in one queue; the same seed gives the same order.

pub(super) use super::{
    random::Random,
    store::{Reply, Store},
};
pub(super) use pgfleet::{
    agent::core::{
        Action, Answer, Cluster, Control, ControlState, Data, FailoverKey, Kind, Lease, Me, Member, Millis,
        Observation, Outcome, Poll, Process, Rule, Running, Settings, StartAs, State, StopMode, SyncMode,
        SyncNames, Verdict, decide_by, fencing, rules,
    },
    model::{Lsn, MemberName, Timeline},
};
pub(super) use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
};

/// A request that gets no answer is given up after this.
pub(super) const TIMEOUT: Millis = 300;

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
    pub(super) closing_at: Lsn,
    /// What `pg_control` says on the disk; the copy in `control` is as old as the last stop.
    pub(super) closes_as: ControlState,
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
    /// The dynamic configuration as it was kept beside the data.
    pub paused: bool,
    /// Until when it may be on its way down after a pause.
    pub pardoned_until: Millis,
    pub next_step: Millis,
}

pub struct Agent {
    pub seen: Observation,
    pub state: State,
    pub operation: u64,
    pub polled: usize,
    pub last_ping: Millis,
}

pub(super) enum Request {
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

pub(super) enum Event {
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
    Resume,
    Heal,
}

pub(super) enum Physical {
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
    /// The operator pauses the cluster, and runs leave their marks on it.
    pub maintenance: bool,
    pub faults_from: Millis,
    pub faults_until: Millis,
    pub ends: Millis,
    /// Leave these rules out, and the guard and watchdog with the rule `fence`.
    pub without: Option<&'static str>,
    pub drift_ppm: i64,
}

pub struct World {
    pub plan: Plan,
    pub(super) rules: Vec<Rule>,
    pub(super) random: Random,
    pub now: Millis,
    pub(super) sequence: u64,
    pub(super) queue: BinaryHeap<Reverse<(Millis, u64, usize)>>,
    pub(super) events: BTreeMap<u64, (Index, u64, Event)>,
    pub store: Store,
    pub nodes: Vec<Node>,
    pub(super) store_cut: Vec<bool>,
    pub(super) link_cut: Vec<Vec<bool>>,
    pub(super) store_down: bool,
    pub(super) view_due: Vec<bool>,
    pub(super) next_record: u64,
    /// Acknowledged commits by their place and record.
    pub acknowledged: Vec<(usize, u64)>,
    pub(super) unacknowledged: Vec<Vec<usize>>,
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
                paused: false,
                pardoned_until: 0,
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

    pub(super) fn push(&mut self, after: Millis, node: Index, event: Event) {
        self.sequence += 1;
        let incarnation = self.nodes[node].incarnation;
        self.events.insert(self.sequence, (node, incarnation, event));
        self.queue.push(Reverse((self.now + after, self.sequence, node)));
    }

    pub fn note(&mut self, text: String) {
        self.trace.push(format!("{:>7} {text}", self.now));
    }

    pub(super) fn local(&self, node: Index) -> Millis {
        let ppm = self.nodes[node].ppm;
        (self.now as i64 + self.now as i64 * ppm / 1_000_000) as u64
    }

    pub(super) fn latency(&mut self) -> Millis {
        if self.random.one_in(50) { self.random.within(20, 250) } else { self.random.within(1, 8) }
    }

    pub fn writable(&self, node: Index) -> bool {
        self.nodes[node].up && self.nodes[node].pg.phase == Phase::Primary
    }

    pub(super) fn check(&self) -> Result<(), String> {
        let writable: Vec<Index> = (0..self.nodes.len()).filter(|node| self.writable(*node)).collect();
        if writable.len() > 1 {
            return Err(format!("two primaries: {writable:?}"));
        }
        if let Some(node) = writable.first()
            && self.plan.without.is_none()
            // Whose cluster is paused may write without the key.
            && !self.nodes[*node].paused
            && self.now > self.nodes[*node].pardoned_until
            && self.store.leader().is_none_or(|(name, _)| *name != self.nodes[*node].name)
        {
            return Err(format!("n{node} is writable and {:?} leads", self.store.leader()));
        }
        Ok(())
    }

    pub(super) fn reaches_store(&self, node: Index) -> bool {
        !self.store_down && !self.store_cut[node] && self.nodes[node].up
    }

    pub(super) fn linked(&self, a: Index, b: Index) -> bool {
        self.nodes[a].up && self.nodes[b].up && !self.link_cut[a][b]
    }

    pub(super) fn handle(&mut self, node: Index, incarnation: u64, event: Event) -> Result<(), String> {
        let current = incarnation == self.nodes[node].incarnation && self.nodes[node].agent.is_some();
        let for_agent = !matches!(
            event,
            Event::Replicate
                | Event::Write
                | Event::Mischief
                | Event::Resume
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
            Event::FromStore { reply, sent, kind } => self.answered_by_store(node, reply, sent, kind),
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
            Event::Resume => self.resume(),
            Event::Heal => self.heal(),
        }
        Ok(())
    }

    pub(super) fn index(&self, name: &MemberName) -> Option<Index> {
        self.nodes.iter().position(|node| node.name == *name)
    }

    pub(super) fn leader_index(&self) -> Option<Index> {
        self.store.leader().and_then(|(name, _)| self.index(name))
    }
}

/// How many records two logs have in common from the beginning.
pub(super) fn common(a: &[Record], b: &[Record]) -> usize {
    let (mut low, mut high) = (0, a.len().min(b.len()));
    while low < high {
        let middle = (low + high).div_ceil(2);
        if a[middle - 1] == b[middle - 1] { low = middle } else { high = middle - 1 }
    }
    low
}

/// Where the timelines of a log ended.
pub(super) fn history(log: &[Record]) -> Vec<(Timeline, Lsn)> {
    log.windows(2)
        .enumerate()
        .filter(|(_, pair)| pair[0].timeline != pair[1].timeline)
        .map(|(place, pair)| (pair[0].timeline, Lsn(place as u64 + 1)))
        .collect()
}
