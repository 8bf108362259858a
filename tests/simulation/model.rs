//! All interleavings of two agents and a store, at a small size: every order of steps, renewals and cuts
//! within a horizon of a few lease lengths.

use pgfleet::{
    agent::core::{
        Action as Act, Answer, Busy, Cluster, Control, ControlState, Data, Failures, Kind, Leader, Lease, Me,
        Member, Millis, Observation, Poll, Process, Running, Server, Settings, StartAs, State as Memory,
        decide_by, rules,
    },
    model::{Lsn, MemberName},
};
use stateright::{Checker, Model, Property};

const TTL: Millis = 3_000;
/// Each agent makes at least one step in each of these: no longer than a stop may take.
const TICK: Millis = 300;
const HORIZON: Millis = 25 * TICK;
const CUTS: u8 = 2;

struct Cells {
    /// Leave this rule out.
    without: Option<&'static str>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct World {
    now: Millis,
    /// Who has the key, of which term, and when the lease ends.
    leader: Option<(usize, u64, Millis)>,
    revision: u64,
    cut: [bool; 2],
    cuts_left: u8,
    stepped: [bool; 2],
    nodes: [Node; 2],
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Node {
    up: bool,
    primary: bool,
    timeline: u32,
    lease: Option<(u64, Millis)>,
    /// Revision and leader as this node saw them last.
    view: (u64, Option<(usize, u64)>),
    /// When the other was asked, and whether it said that it is a primary.
    poll: Option<(Millis, bool, bool)>,
    memory: Memory,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Move {
    Step(usize),
    Cut(usize),
    Join(usize),
    Tick,
}

fn name(node: usize) -> MemberName {
    ["a", "b"][node].parse().expect("a name")
}

impl World {
    fn observe(&self, node: usize) -> Observation {
        let here = &self.nodes[node];
        let other = 1 - node;
        let (revision, leader) = here.view;
        let member = |index: usize| Member {
            name: name(index),
            running: self.nodes[index].up,
            primary: self.nodes[index].primary,
            timeline: Some(self.nodes[index].timeline),
            nofailover: false,
            nosync: false,
            clonefrom: false,
        };
        let cluster = Cluster {
            revision,
            initialize: Some("1".to_owned()),
            has_config: true,
            leader: leader.map(|(holder, term)| Leader { name: name(holder), term }),
            members: vec![member(0), member(1)],
            optime: Some(Lsn(100)),
            ..Cluster::default()
        };
        let state = if here.primary { ControlState::InProduction } else { ControlState::Recovery };
        let control = Control { state, timeline: here.timeline, checkpoint: Lsn(1) };
        let running = Running {
            in_recovery: !here.primary,
            timeline: here.timeline,
            lsn: Lsn(100),
            upstream: (!here.primary).then(|| name(other)),
            streaming: !here.primary,
            ..Running::default()
        };
        Observation {
            now: self.now,
            me: Me { name: name(node), nofailover: false, failover_priority: 1 },
            settings: Settings { ttl: TTL, loop_wait: 1_000, retry_timeout: TTL, ..Settings::default() },
            cluster: Some(cluster),
            lease: here.lease.map(|(term, renewed_at)| Lease {
                term,
                renewed_at,
                ttl: TTL,
                remembered: false,
            }),
            server: Server {
                data: Data::Initialised { system_identifier: "1".to_owned(), control },
                process: if here.up { Process::Running(running) } else { Process::Stopped },
            },
            poll: here.poll.map(|(asked, up, primary)| Poll {
                asked,
                done: true,
                answers: vec![Answer {
                    unpaused: false,
                    name: name(other),
                    running: up,
                    in_recovery: !primary,
                    timeline: 1,
                    lsn: Lsn(100),
                    nofailover: false,
                    failover_priority: 1,
                }],
            }),
            verdict: None,
            wal_end: None,
            busy: Busy::default(),
            failures: Failures::default(),
            request: None,
            stopping: false,
        }
    }

    fn step(&mut self, node: usize, model: &Cells) {
        self.stepped[node] = true;
        if !self.cut[node] {
            self.nodes[node].view = (self.revision, self.leader.map(|(holder, term, _)| (holder, term)));
        }
        let seen = self.observe(node);
        let rules = rules().filter(|rule| model.without != Some(rule.id));
        let decision = decide_by(rules, &seen, &self.nodes[node].memory);
        self.nodes[node].memory = decision.state;
        for action in decision.actions {
            self.carry_out(node, &action);
        }
        // What was said of positions doesn't matter here, and would only make more states.
        self.nodes[node].memory.published = None;
        self.nodes[node].memory.status_published = None;
        self.nodes[node].memory.names = None;
    }

    fn carry_out(&mut self, node: usize, action: &Act) {
        let reachable = !self.cut[node];
        let own = self.leader.filter(|(holder, ..)| *holder == node);
        match action.kind() {
            Kind::Acquire if reachable && (self.leader.is_none() || own.is_some()) => {
                let term = own.map_or(self.revision + 1, |(_, term, _)| term);
                self.revision = self.revision.max(term);
                self.leader = Some((node, term, self.now + TTL));
                self.nodes[node].lease = Some((term, self.now));
            }
            Kind::Renew if reachable => match own {
                Some((_, term, _)) => {
                    self.leader = Some((node, term, self.now + TTL));
                    self.nodes[node].lease = Some((term, self.now));
                }
                None => self.nodes[node].lease = None,
            },
            Kind::Release if reachable => {
                if own.is_some() {
                    self.leader = None;
                    self.revision += 1;
                }
                self.nodes[node].lease = None;
            }
            Kind::Promote => {
                self.nodes[node].primary = true;
                self.nodes[node].timeline += 1;
            }
            Kind::Stop => self.nodes[node].up = false,
            Kind::StartPrimary | Kind::StartStandby => {
                self.nodes[node].up = true;
                self.nodes[node].primary = matches!(action, Act::Start(StartAs::Primary(_)));
            }
            Kind::PollPeers => {
                let other = &self.nodes[1 - node];
                self.nodes[node].poll = Some((self.now, other.up, other.primary));
            }
            _ => {}
        }
    }

    fn writable(&self) -> usize {
        self.nodes.iter().filter(|node| node.up && node.primary).count()
    }
}

impl Model for Cells {
    type State = World;
    type Action = Move;

    fn init_states(&self) -> Vec<World> {
        let node = |primary: bool| Node {
            up: true,
            primary,
            timeline: 1,
            lease: primary.then_some((1, 0)),
            view: (1, Some((0, 1))),
            poll: None,
            memory: Memory { started: Some(0), has_led: true, ..Memory::default() },
        };
        let nodes = [node(true), node(false)];
        let (cut, stepped) = ([false; 2], [false; 2]);
        vec![World { now: 0, leader: Some((0, 1, TTL)), revision: 1, cut, cuts_left: CUTS, stepped, nodes }]
    }

    fn actions(&self, world: &World, moves: &mut Vec<Move>) {
        for node in 0..2 {
            if !world.stepped[node] {
                moves.push(Move::Step(node));
                if world.cuts_left > 0 && !world.cut[node] {
                    moves.push(Move::Cut(node));
                }
                if world.cut[node] {
                    moves.push(Move::Join(node));
                }
            }
        }
        if world.stepped == [true; 2] && world.now < HORIZON {
            moves.push(Move::Tick);
        }
    }

    fn next_state(&self, world: &World, taken: Move) -> Option<World> {
        let mut next = world.clone();
        match taken {
            Move::Step(node) => next.step(node, self),
            Move::Cut(node) => {
                next.cut[node] = true;
                next.cuts_left -= 1;
            }
            Move::Join(node) => next.cut[node] = false,
            Move::Tick => {
                next.now += TICK;
                next.stepped = [false; 2];
                if next.leader.is_some_and(|(_, _, end)| end <= next.now) {
                    next.leader = None;
                    next.revision += 1;
                }
            }
        }
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("one primary", |_, world: &World| world.writable() <= 1),
            Property::always("who writes leads", |_, world: &World| {
                let leader = world.leader.map(|(holder, ..)| holder);
                (0..2)
                    .all(|node| !(world.nodes[node].up && world.nodes[node].primary) || leader == Some(node))
            }),
            Property::sometimes("the other takes over", |_, world: &World| {
                world.nodes[1].up && world.nodes[1].primary
            }),
        ]
    }
}

#[test]
fn no_interleaving_has_two_primaries() {
    let checker = Cells { without: None }.checker().threads(2).spawn_bfs().join();
    assert!(checker.unique_state_count() > 1_000, "{} states are no check", checker.unique_state_count());
    checker.assert_properties();
}

#[test]
fn without_the_fence_an_interleaving_has_two_primaries() {
    let checker = Cells { without: Some("fence") }.checker().threads(2).spawn_bfs().join();
    assert!(checker.discovery("one primary").is_some(), "the check cannot see what the fence is for");
}
