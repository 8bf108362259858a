//! A case for each rule: the least that makes it fire. Interleavings are the simulator's business.

mod paused;

use super::{state::Handover, *};
use crate::model::{Lsn, MemberName};
use std::collections::{BTreeMap, BTreeSet};

const NOW: Millis = 100_000;

fn name(text: &str) -> MemberName {
    text.parse().unwrap()
}

fn member(text: &str, primary: bool) -> Member {
    let (nofailover, nosync, clonefrom) = (false, false, false);
    Member { name: name(text), running: true, primary, timeline: Some(2), nofailover, nosync, clonefrom }
}

fn running(in_recovery: bool) -> Running {
    let upstream = in_recovery.then(|| name("a"));
    Running {
        in_recovery,
        timeline: 2,
        lsn: Lsn(500),
        upstream,
        streaming: in_recovery,
        ..Running::default()
    }
}

fn data(state: ControlState) -> Data {
    let control = Control { state, timeline: 2, checkpoint: Lsn(400) };
    Data::Initialised { system_identifier: "77".into(), control }
}

fn server(state: ControlState, process: Process) -> Server {
    Server { data: data(state), process }
}

fn answer(text: &str, lsn: u64) -> Answer {
    let (running, in_recovery, nofailover) = (true, true, false);
    Answer {
        name: name(text),
        running,
        in_recovery,
        timeline: 2,
        lsn: Lsn(lsn),
        nofailover,
        failover_priority: 1,
        unpaused: false,
    }
}

fn sync(leader: &str, voters: &[&str], quorum: usize) -> SyncKey {
    let voters = voters.iter().map(|voter| name(voter)).collect();
    SyncKey { leader: name(leader), voters, quorum, revision: 20 }
}

fn names(list: &[&str]) -> SyncNames {
    SyncNames { any: false, count: list.len(), names: list.iter().map(|name| (*name).to_owned()).collect() }
}

/// What a case changes.
#[derive(Clone)]
struct Case {
    seen: Observation,
    state: State,
}

impl Case {
    fn cluster(&mut self) -> &mut Cluster {
        self.seen.cluster.get_or_insert_default()
    }

    fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    fn primary(&mut self) -> &mut Running {
        match &mut self.seen.server.process {
            Process::Running(running) => running,
            _ => panic!("it doesn't run"),
        }
    }

    fn poll(&mut self, answers: Vec<Answer>) {
        self.seen.poll = Some(Poll { asked: NOW, done: true, answers });
    }

    fn failed(&mut self, kind: Kind, ago: Millis, count: u32) {
        for _ in 0..count {
            self.seen.failures.record(kind, NOW - ago);
        }
    }
}

/// This node is `b`, a standby that streams from the leader `a`; `c` is another standby.
fn standby() -> Case {
    let cluster = Cluster {
        revision: 50,
        initialize: Some("77".into()),
        has_config: true,
        leader: Some(Leader { name: name("a"), term: 10 }),
        members: vec![member("a", true), member("b", false), member("c", false)],
        optime: Some(Lsn(500)),
        history: vec![(1, Lsn(100))],
        ..Cluster::default()
    };
    let seen = Observation {
        now: NOW,
        me: Me { name: name("b"), nofailover: false, failover_priority: 1 },
        settings: Settings::default(),
        cluster: Some(cluster),
        lease: None,
        server: server(ControlState::Recovery, Process::Running(running(true))),
        poll: None,
        verdict: None,
        wal_end: None,
        busy: Busy::default(),
        failures: Failures::default(),
        request: None,
        stopping: false,
    };
    let state = State { started: Some(0), has_led: true, ..State::default() };
    Case { seen, state }.with(publish)
}

/// As if the member key said what is so.
fn publish(case: &mut Case) {
    let decision = decide(&case.seen, &case.state);
    case.state.published = decision.state.published;
}

/// `b` leads, and `a` and `c` stream from it.
fn leader() -> Case {
    standby()
        .with(|case| {
            case.cluster().leader = Some(Leader { name: name("b"), term: 40 });
            case.cluster().members = vec![member("a", false), member("b", true), member("c", false)];
            case.seen.lease = Some(Lease { term: 40, renewed_at: NOW - 100, ttl: 30_000, remembered: false });
            let standbys =
                ["a", "c"].map(|other| Standby { name: name(other), streaming: true, flushed: Lsn(500) });
            let server_now = Running { standbys: standbys.to_vec(), ..running(false) };
            case.seen.server = server(ControlState::InProduction, Process::Running(server_now));
        })
        .with(publish)
}

/// `b` leads and its server is down.
fn fallen() -> Case {
    leader().with(|case| {
        case.seen.server = server(ControlState::InProduction, Process::Stopped);
        case.state.down_since = Some(NOW);
        publish(case);
    })
}

/// `b` has taken the key and is not promoted yet.
fn elect() -> Case {
    leader().with(|case| {
        case.seen.server = server(ControlState::Recovery, Process::Running(running(true)));
        case.state.claim = Some(Claim { sync_revision: None });
        publish(case);
    })
}

/// Nobody leads.
fn unlocked() -> Case {
    standby().with(|case| {
        case.cluster().leader = None;
        case.state.unlocked_since = Some(NOW);
        publish(case);
    })
}

/// `b` is down, with data, and `a` leads.
fn down(outcome: Option<Outcome>) -> Case {
    standby().with(|case| {
        case.seen.server = server(ControlState::InProduction, Process::Stopped);
        let (leader, at) = (name("a"), NOW);
        case.seen.verdict = outcome.map(|outcome| Verdict { leader, term: 10, outcome, at });
        publish(case);
    })
}

/// No cluster, no data.
fn beginning() -> Case {
    standby().with(|case| {
        case.seen.cluster = Some(Cluster { revision: 3, ..Cluster::default() });
        case.seen.server = Server { data: Data::Empty, process: Process::Stopped };
        case.state.unlocked_since = Some(NOW);
        publish(case);
    })
}

fn wish(candidate: Option<&str>) -> Option<FailoverKey> {
    Some(FailoverKey { leader: None, candidate: candidate.map(name), due: true, revision: 60 })
}

fn synchronous(case: &mut Case) {
    case.seen.settings.sync = SyncMode::On;
    case.cluster().sync = Some(sync("b", &[], 0));
}

fn handing_over(case: &mut Case) {
    let (reason, candidate) = (Reason::Switchover, Some(name("c")));
    case.state.handover = Some(Handover { reason, candidate, since: NOW - 10 });
}

/// The cases, by the rule that each makes fire.
fn cases() -> Vec<(&'static str, Case)> {
    let overdue = |case: &mut Case| {
        case.seen.lease = Some(Lease { term: 40, renewed_at: NOW - 29_000, ttl: 30_000, remembered: false });
    };
    vec![
        // PostgreSQL, whatever the role.
        ("fence", leader().with(overdue)),
        ("server-busy", standby().with(|case| case.seen.busy.server = Some(Action::Reload))),
        ("exit", down(None).with(|case| case.seen.stopping = true)),
        ("shutdown", standby().with(|case| case.seen.stopping = true)),
        ("shutdown-wait", fallen().with(|case| case.seen.stopping = true)),
        ("no-view", standby().with(|case| case.seen.cluster = None)),
        ("unreadable", standby().with(|case| case.seen.server.data = Data::Unreadable)),
        ("foreign", standby().with(|case| case.cluster().initialize = Some("78".into()))),
        ("restart-asked", leader().with(|case| case.seen.request = Some(Request::Restart))),
        ("paused", down(None).with(|case| case.seen.settings.paused = true)),
        (
            "failover-at-start",
            leader().with(|case| {
                case.seen.server.process = Process::Starting { primary: true };
                case.seen.busy.server = Some(Action::Start(StartAs::Primary(SyncNames::default())));
                case.cluster().failover = wish(Some("c"));
                case.poll(vec![answer("c", 500)]);
            }),
        ),
        (
            "unresponsive",
            leader().with(|case| {
                case.seen.server.process = Process::Unresponsive { primary: true, since: NOW - 10_000 };
            }),
        ),
        (
            "start-overdue",
            leader().with(|case| {
                case.seen.server.process = Process::Starting { primary: true };
                case.failed(Kind::StartPrimary, 100, 1);
                case.poll(vec![answer("c", 500)]);
            }),
        ),
        ("starting", leader().with(|case| case.seen.server.process = Process::Starting { primary: true })),
        // The holder of the key.
        ("handing-over", leader().with(handing_over)),
        (
            "bootstrap",
            leader().with(|case| {
                case.seen.server = Server { data: Data::Empty, process: Process::Stopped };
                case.cluster().initialize = Some(String::new());
            }),
        ),
        (
            "no-data",
            leader().with(|case| case.seen.server = Server { data: Data::Empty, process: Process::Stopped }),
        ),
        ("claim-wait", elect().with(|case| case.cluster().revision = 39)),
        ("claim-void", elect().with(|case| case.cluster().sync = Some(sync("a", &["b"], 0)))),
        ("find-end", fallen()),
        ("down-ask", fallen().with(|case| case.cluster().sync = Some(sync("b", &["c"], 0)))),
        (
            "crash-handover",
            fallen().with(|case| {
                case.cluster().sync = Some(sync("b", &["c"], 0));
                case.poll(vec![answer("a", 500), answer("c", 500)]);
            }),
        ),
        ("recover-leader", fallen().with(|case| case.cluster().members = vec![member("b", true)])),
        (
            "start-backoff",
            fallen().with(|case| {
                case.cluster().members = vec![member("b", true)];
                case.poll(vec![]);
                case.failed(Kind::StartPrimary, 100, 1);
            }),
        ),
        ("promote", elect()),
        ("promote-wait", elect().with(|case| case.seen.settings.sync = SyncMode::On)),
        (
            "switchover",
            leader().with(|case| {
                case.cluster().failover = wish(None);
                case.poll(vec![answer("a", 499), answer("c", 500)]);
            }),
        ),
        ("lead", leader()),
        // Another has the key.
        (
            "reinitialize-stop",
            standby().with(|case| case.seen.request = Some(Request::Reinitialize { from_leader: false })),
        ),
        (
            "clone",
            standby().with(|case| case.seen.server = Server { data: Data::Empty, process: Process::Stopped }),
        ),
        ("leader-not-ready", standby().with(|case| case.cluster().members[0].primary = false)),
        ("compare", standby().with(|case| case.cluster().members[0].timeline = Some(3))),
        (
            "diverged-stop",
            down(Some(Outcome::Diverged)).with(|case| {
                case.seen.server.process = Process::Running(Running { streaming: false, ..running(true) })
            }),
        ),
        ("rewind", down(Some(Outcome::Diverged))),
        (
            "replace",
            down(Some(Outcome::Diverged)).with(|case| {
                case.seen.settings.use_pg_rewind = false;
                case.seen.settings.remove_data_on_divergence = true;
            }),
        ),
        (
            "diverged-hold",
            down(Some(Outcome::Diverged)).with(|case| case.seen.settings.use_pg_rewind = false),
        ),
        ("start-standby", down(Some(Outcome::Prefix))),
        ("recover", down(Some(Outcome::Recover))),
        (
            "follow",
            down(Some(Outcome::Prefix)).with(|case| {
                let stale = Running { streaming: false, upstream: Some(name("c")), ..running(true) };
                case.seen.server.process = Process::Running(stale);
            }),
        ),
        // Nobody has the key.
        ("await-successor", unlocked().with(handing_over)),
        ("start-alone", unlocked().with(|case| case.seen.server.process = Process::Stopped)),
        (
            "start-reading",
            fallen().with(|case| {
                case.seen.now += 40_000;
                case.state.down_since = None;
            }),
        ),
        ("steady", standby()),
        // The leader key.
        ("lease-busy", leader().with(|case| case.seen.busy.lease = Some(Action::Renew))),
        ("release-after-stop", fallen().with(handing_over)),
        ("release-paused", fallen().with(|case| case.seen.settings.paused = true)),
        ("release-unfit", elect().with(|case| case.failed(Kind::Promote, 100, 1))),
        (
            "renew",
            leader().with(|case| {
                case.seen.lease =
                    Some(Lease { term: 40, renewed_at: NOW - 7_500, ttl: 30_000, remembered: false });
            }),
        ),
        ("hold", leader()),
        ("adopt-key", leader().with(|case| case.seen.lease = None)),
        ("claim-bootstrap", beginning().with(|case| case.cluster().initialize = Some(String::new()))),
        (
            "claim-origin",
            beginning().with(|case| case.seen.server = server(ControlState::ShutDown, Process::Stopped)),
        ),
        (
            "claim-restart",
            unlocked().with(|case| {
                case.seen.settings.paused = true;
                case.seen.server = server(ControlState::ShutDown, Process::Stopped);
                case.seen.request = Some(Request::Restart);
            }),
        ),
        ("race", unlocked().with(|case| case.poll(vec![answer("c", 500)]))),
        ("no-key", standby()),
        // The other keys.
        ("keys-busy", leader().with(|case| case.seen.busy.keys = Some(Action::WriteHistory))),
        ("publish-change", standby().with(|case| case.state.published = None)),
        ("keys-backoff", leader().with(|case| case.failed(Kind::Keys, 100, 1))),
        ("create-initialize", beginning()),
        ("write-initialize", leader().with(|case| case.cluster().initialize = None)),
        ("write-config", leader().with(|case| case.cluster().has_config = false)),
        ("claim-sync", elect().with(|case| case.seen.settings.sync = SyncMode::On)),
        (
            "block-unconfirmed",
            leader().with(|case| {
                synchronous(case);
                case.seen.settings.sync_strict = true;
            }),
        ),
        ("sync-step", leader().with(synchronous)),
        ("drop-sync", leader().with(|case| case.cluster().sync = Some(sync("b", &[], 0)))),
        ("standby-names", standby().with(|case| case.primary().names = names(&["c"]))),
        (
            "name-candidate",
            leader().with(|case| {
                case.cluster().failover = wish(None);
                handing_over(case);
            }),
        ),
        ("clear-failover", leader().with(|case| case.cluster().failover = wish(Some("b")))),
        ("write-history", leader().with(|case| case.cluster().history.clear())),
        (
            "publish",
            standby().with(|case| {
                case.seen.now += 20_000;
                case.primary().lsn = Lsn(600);
            }),
        ),
        // The other members.
        (
            "polling",
            unlocked().with(|case| {
                case.seen.poll = Some(Poll { asked: NOW, done: false, answers: vec![] });
            }),
        ),
        ("poll-race", unlocked()),
        ("poll-switchover", leader().with(|case| case.cluster().failover = wish(Some("c")))),
        (
            "poll-handover",
            leader().with(|case| {
                handing_over(case);
                case.seen.server.process = Process::Closing { checkpoint: Lsn(500) };
            }),
        ),
        (
            "poll-paused",
            leader().with(|case| {
                case.seen.settings.paused = true;
                case.seen.lease = None;
            }),
        ),
        ("poll-down", fallen()),
    ]
}

#[test]
fn each_rule_fires() {
    let cases = cases();
    for (rule, case) in &cases {
        let decision = decide(&case.seen, &case.state);
        let fired: Vec<&str> = decision.fired.iter().map(|fired| fired.rule).collect();
        assert!(fired.contains(rule), "{rule} does not fire; {fired:?} do");
    }
    let covered: BTreeSet<&str> = cases.iter().map(|(rule, _)| *rule).collect();
    let all: BTreeSet<&str> = rules().map(|rule| rule.id).collect();
    assert_eq!(covered, all);
    assert_eq!(all.len(), rules().count(), "each has an id of its own");
}

#[test]
fn every_lane_begins_at_most_one_action() {
    for (rule, case) in cases() {
        let mut begun = BTreeMap::<Lane, Vec<Action>>::new();
        for action in decide(&case.seen, &case.state).actions {
            begun.entry(action.lane()).or_default().push(action);
        }
        assert!(begun.values().all(|actions| actions.len() == 1), "{rule}: {begun:?}");
    }
}

/// The first action of a lane.
fn action(case: &Case, lane: Lane) -> Option<Action> {
    decide(&case.seen, &case.state).actions.into_iter().find(|action| action.lane() == lane)
}

#[test]
fn elections() {
    let fit = |case: &Case| action(case, Lane::Lease) == Some(Action::Acquire);
    let asked = |answers: Vec<Answer>| unlocked().with(|case| case.poll(answers));
    let with_sync = |key: SyncKey, answers| asked(answers).with(|case| case.cluster().sync = Some(key));
    for (wins, what, case) in [
        (true, "alone", asked(vec![])),
        (false, "another is ahead", asked(vec![answer("c", 501)])),
        (true, "who is ahead must not lead", asked(vec![Answer { nofailover: true, ..answer("c", 501) }])),
        (false, "an equal is preferred", asked(vec![Answer { failover_priority: 2, ..answer("c", 500) }])),
        (false, "another is on a later timeline", asked(vec![Answer { timeline: 3, ..answer("c", 400) }])),
        (false, "a primary still runs", asked(vec![Answer { in_recovery: false, ..answer("a", 500) }])),
        (
            false,
            "too far behind",
            asked(vec![]).with(|case| case.cluster().optime = Some(Lsn(500 + (1 << 20) + 1))),
        ),
        (
            true,
            "just near enough",
            asked(vec![]).with(|case| case.cluster().optime = Some(Lsn(500 + (1 << 20)))),
        ),
        (
            false,
            "not all have answered",
            asked(vec![]).with(|case| case.seen.poll.as_mut().unwrap().done = false),
        ),
        (false, "a branch of history", asked(vec![]).with(|case| case.primary().timeline = 1)),
        (
            true,
            "behind the fork",
            asked(vec![]).with(|case| (case.primary().timeline, case.primary().lsn) = (1, Lsn(90))),
        ),
        (false, "tagged", asked(vec![]).with(|case| case.seen.me.nofailover = true)),
        (false, "paused", asked(vec![]).with(|case| case.seen.settings.paused = true)),
        (true, "the only synchronous standby", with_sync(sync("a", &["b"], 0), vec![answer("c", 900)])),
        (false, "no synchronous standby", with_sync(sync("a", &["c"], 0), vec![])),
        (true, "was the leader itself", with_sync(sync("b", &["c"], 0), vec![])),
        (false, "quorum not reached", with_sync(sync("a", &["b", "c"], 1), vec![])),
        (true, "quorum reached", with_sync(sync("a", &["b", "c"], 1), vec![answer("c", 400)])),
        (false, "a voter is ahead", with_sync(sync("a", &["b", "c"], 0), vec![answer("c", 501)])),
        (
            false,
            "another was named",
            asked(vec![answer("c", 400)]).with(|case| case.cluster().failover = wish(Some("c"))),
        ),
        (true, "who was named is gone", asked(vec![]).with(|case| case.cluster().failover = wish(Some("c")))),
        (
            true,
            "named, though behind",
            asked(vec![answer("c", 501)]).with(|case| case.cluster().failover = wish(Some("b"))),
        ),
    ] {
        assert_eq!(fit(&case), wins, "{what}: {:?}", decide(&case.seen, &case.state).fired);
    }
}

#[test]
fn data_are_replaced_only_where_allowed_and_a_leader_is_ready() {
    let failed = |count| down(Some(Outcome::Diverged)).with(|case| case.failed(Kind::Rewind, 60_000, count));
    let clones = |case: &Case| matches!(action(case, Lane::Server), Some(Action::Clone(_)));
    let allow = |case: &mut Case| case.seen.settings.remove_data_on_rewind_failure = true;
    assert!(!clones(&failed(9)));
    assert!(!clones(&failed(2).with(allow)));
    assert!(clones(&failed(3).with(allow)));
    assert!(!clones(&failed(3).with(allow).with(|case| case.cluster().members[0].primary = false)));
    assert!(!clones(&failed(3).with(allow).with(|case| case.cluster().leader = None)));
}

#[test]
fn what_is_not_understood_is_not_taken_for_lost() {
    // The store does not answer; the lease lasts.
    let silent = leader().with(|case| case.failed(Kind::Renew, 10, 50));
    assert_eq!(action(&silent, Lane::Server), None);
    // The deadline counts from the last renewal that is known to have been carried out.
    let lease = Lease { term: 40, renewed_at: NOW - 100, ttl: 30_000, remembered: false };
    let begins = fencing::stop_begins(&lease);
    let at = |now| silent.clone().with(|case| case.seen.now = now);
    assert_eq!(action(&at(begins - 1), Lane::Server), None);
    assert_eq!(action(&at(begins), Lane::Server), Some(Action::Stop(StopMode::Immediate)));
    assert!(decide(&at(begins - 1).seen, &silent.state).wake_at <= begins);
}

#[test]
fn a_long_action_delays_no_renewal_and_no_fence() {
    let due = |case: &mut Case, ago| {
        case.seen.lease = Some(Lease { term: 40, renewed_at: NOW - ago, ttl: 30_000, remembered: false });
    };
    for busy in
        [Action::Promote, Action::Stop(StopMode::Fast), Action::Start(StartAs::Primary(SyncNames::default()))]
    {
        let case = leader().with(|case| case.seen.busy.server = Some(busy.clone()));
        let renewing = case.clone().with(|case| due(case, 8_000));
        assert_eq!(action(&renewing, Lane::Lease), Some(Action::Renew), "{busy:?}");
        let late = case.with(|case| due(case, 25_000));
        assert_eq!(action(&late, Lane::Server), Some(Action::Stop(StopMode::Immediate)), "{busy:?}");
    }
}
