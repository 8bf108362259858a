//! What a pause, a run's marks and an operator's failover change in who leads and what is done.

use super::*;

fn paused(case: &mut Case) {
    case.seen.settings.paused = true;
    case.state.paused_since = Some(0);
}

fn suspended(case: &mut Case) {
    case.cluster().suspended = true;
}

fn failover_to(candidate: &str) -> impl FnOnce(&mut Case) {
    let key = wish(Some(candidate));
    move |case| case.cluster().failover = key
}

/// Past the deadline of its lease.
fn expired(case: &mut Case) {
    case.seen.lease = Some(Lease { term: 40, renewed_at: NOW - 40_000, ttl: 30_000, remembered: false });
}

#[test]
fn a_paused_server_is_left_as_it_is() {
    let crashed = || fallen().with(paused);
    let nothing: [(&str, Case); 7] = [
        ("the leader's crash", crashed()),
        ("a standby that is down", down(Some(Outcome::Prefix)).with(paused)),
        ("a diverged standby that is down", down(Some(Outcome::Diverged)).with(paused)),
        (
            "a standby that was promoted by hand",
            standby().with(paused).with(|case| {
                case.seen.server = server(
                    ControlState::InProduction,
                    Process::Running(Running { timeline: 3, ..running(false) }),
                );
            }),
        ),
        ("a lease that ended while the store was away", leader().with(paused).with(expired)),
        ("no leader", unlocked().with(paused).with(|case| case.poll(vec![answer("c", 500)]))),
        (
            "no data",
            standby().with(paused).with(|case| {
                case.seen.server = Server { data: Data::Empty, process: Process::Stopped };
            }),
        ),
    ];
    for (what, case) in nothing {
        assert_eq!(action(&case, Lane::Server), None, "{what}");
    }
    // And each of them is set right when the pause is over.
    let resumed = |case: Case| action(&case.with(|case| case.seen.settings.paused = false), Lane::Server);
    assert_eq!(resumed(crashed()), Some(Action::FindEnd));
    assert_eq!(
        resumed(down(Some(Outcome::Prefix)).with(paused)),
        Some(Action::Start(StartAs::Standby(Some(name("a")))))
    );
    let stop = Some(Action::Stop(StopMode::Immediate));
    assert_eq!(resumed(leader().with(paused).with(expired)), stop);
}

#[test]
fn a_paused_cluster_still_does_what_is_asked() {
    let request = |request| move |case: &mut Case| case.seen.request = Some(request);
    let copy = Request::Reinitialize { from_leader: true };
    for (what, case, expected) in [
        (
            "a switchover",
            leader().with(paused).with(failover_to("c")).with(|case| case.poll(vec![answer("c", 500)])),
            Action::Stop(StopMode::Fast),
        ),
        ("its promotion", elect().with(paused).with(failover_to("b")), Action::Promote),
        (
            "the old leader follows",
            down(Some(Outcome::Prefix)).with(paused).with(|case| case.state.owes_start = true),
            Action::Start(StartAs::Standby(Some(name("a")))),
        ),
        (
            "a standby that runs follows",
            standby().with(paused).with(|case| {
                let (leader, at) = (name("a"), NOW);
                case.seen.verdict = Some(Verdict { leader, term: 10, outcome: Outcome::Prefix, at });
                let stale = Running { streaming: false, upstream: Some(name("c")), ..running(true) };
                case.seen.server.process = Process::Running(stale);
            }),
            Action::Follow(name("a")),
        ),
        ("a new copy", standby().with(paused).with(request(copy)), Action::Stop(StopMode::Fast)),
        ("the copy itself", down(None).with(paused).with(request(copy)), Action::Clone(name("a"))),
        (
            "the start of a standby that is down",
            down(Some(Outcome::Prefix)).with(paused).with(request(Request::Restart)),
            Action::Start(StartAs::Standby(Some(name("a")))),
        ),
        (
            "the start of a primary that is down, once it has the key",
            fallen().with(paused).with(request(Request::Restart)),
            Action::Start(StartAs::Primary(SyncNames::default())),
        ),
    ] {
        assert_eq!(action(&case, Lane::Server), Some(expected), "{what}");
    }
}

#[test]
fn a_primary_that_is_started_in_a_pause_takes_the_key_first() {
    let asked = unlocked().with(paused).with(|case| {
        case.seen.server = server(ControlState::ShutDown, Process::Stopped);
        case.seen.request = Some(Request::Restart);
    });
    assert_eq!(action(&asked, Lane::Lease), Some(Action::Acquire));
    assert_eq!(action(&asked, Lane::Server), None);
    let outdated = asked.with(|case| case.cluster().history.push((2, Lsn(450))));
    assert_eq!(action(&outdated, Lane::Lease), None, "somebody went on without it");
}

#[test]
fn in_a_pause_only_a_primary_or_who_is_named_takes_the_key() {
    let takes = |case: &Case| action(case, Lane::Lease) == Some(Action::Acquire);
    let polled = |answers| unlocked().with(paused).with(|case| case.poll(answers));
    let primary = |case: &mut Case| {
        case.seen.server = server(ControlState::InProduction, Process::Running(running(false)));
    };
    let beside = |answer: Answer| {
        polled(vec![answer]).with(failover_to("b")).with(|case| case.primary().streaming = false)
    };
    for (expected, what, case) in [
        (false, "the most advanced", polled(vec![answer("c", 400)])),
        (true, "a primary that runs", polled(vec![]).with(primary)),
        (
            false,
            "a primary that others have left behind",
            polled(vec![]).with(primary).with(|case| case.cluster().history.push((2, Lsn(450)))),
        ),
        (true, "who is named", beside(answer("c", 501))),
        (
            false,
            "who is named, while another writes",
            beside(Answer { in_recovery: false, ..answer("a", 600) }).with(|case| {
                // However long the key has been gone.
                case.state.unlocked_since = Some(0);
                case.seen.now = NOW;
            }),
        ),
        (
            false,
            "who is named and still hears from a leader that does not answer",
            polled(vec![]).with(failover_to("b")),
        ),
        (false, "another is named", polled(vec![answer("c", 400)]).with(failover_to("c"))),
    ] {
        assert_eq!(takes(&case), expected, "{what}");
    }
}

#[test]
fn whoever_writes_without_the_key_stops_once_others_know_that_the_pause_is_over() {
    let case = leader().with(paused).with(expired);
    let told = |unpaused| case.clone().with(|case| case.poll(vec![Answer { unpaused, ..answer("a", 500) }]));
    assert_eq!(action(&told(false), Lane::Server), None);
    assert_eq!(action(&told(true), Lane::Server), Some(Action::Stop(StopMode::Immediate)));
}

#[test]
fn a_suspended_failover_leaves_the_leader_time_and_the_operator_his_word() {
    let synchronous = |case: &mut Case| {
        case.cluster().sync = Some(sync("b", &["c"], 0));
        case.poll(vec![answer("a", 500), answer("c", 500)]);
    };
    let starts =
        Some(Action::Start(StartAs::Primary(SyncNames { any: false, count: 1, names: ["c".into()].into() })));
    assert_eq!(action(&fallen().with(synchronous), Lane::Server), None, "it hands over");
    assert_eq!(action(&fallen().with(synchronous).with(suspended), Lane::Server), starts);
    let race = || unlocked().with(suspended).with(|case| case.poll(vec![answer("c", 400)]));
    assert_eq!(action(&race(), Lane::Lease), None);
    assert_eq!(action(&race().with(failover_to("b")), Lane::Lease), Some(Action::Acquire));
    let switchover =
        leader().with(suspended).with(failover_to("c")).with(|case| case.poll(vec![answer("c", 500)]));
    assert_eq!(action(&switchover, Lane::Server), Some(Action::Stop(StopMode::Fast)));
}

#[test]
fn a_drained_member_is_nobodys_candidate() {
    let drained = |member: &'static str| {
        move |case: &mut Case| {
            case.cluster().drained.insert(name(member));
        }
    };
    let race = || unlocked().with(|case| case.poll(vec![answer("c", 501)]));
    assert_eq!(action(&race(), Lane::Lease), None, "c is ahead");
    assert_eq!(action(&race().with(drained("c")), Lane::Lease), Some(Action::Acquire));
    let best = unlocked().with(|case| case.poll(vec![]));
    assert_eq!(action(&best, Lane::Lease), Some(Action::Acquire));
    assert_eq!(action(&best.with(drained("b")), Lane::Lease), None);
    let switch = || leader().with(|case| case.poll(vec![answer("a", 500), answer("c", 500)]));
    let candidate =
        |case: Case| decide(&case.seen, &case.state).state.handover.and_then(|handover| handover.candidate);
    let anybody = |case: &mut Case| case.cluster().failover = wish(None);
    assert_eq!(candidate(switch().with(anybody).with(drained("a"))), Some(name("c")));
    assert_eq!(candidate(switch().with(failover_to("a")).with(drained("a"))), None);
}

#[test]
fn an_operators_failover_is_above_lag_and_sync() {
    let behind = |case: &mut Case| {
        case.cluster().optime = Some(Lsn(1 << 30));
        case.cluster().sync = Some(sync("a", &["c"], 0));
        case.poll(vec![]);
    };
    let takes = |case: &Case| action(case, Lane::Lease) == Some(Action::Acquire);
    assert!(!takes(&unlocked().with(behind)));
    assert!(takes(&unlocked().with(behind).with(failover_to("b"))));
    let switchover = unlocked().with(behind).with(failover_to("b")).with(|case| {
        if let Some(key) = &mut case.cluster().failover {
            key.leader = Some(name("a"));
        }
    });
    assert!(!takes(&switchover), "a switchover loses nothing acknowledged");

    // A leader whose server is down, or does not come up, makes way.
    let handed = fallen().with(failover_to("c")).with(|case| case.poll(vec![answer("c", 10)]));
    let decision = decide(&handed.seen, &handed.state);
    assert_eq!(decision.state.handover.and_then(|handover| handover.candidate), Some(name("c")));
}
