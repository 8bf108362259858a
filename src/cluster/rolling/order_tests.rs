//! Cases of members, and the order in which they restart.

use super::*;

/// A member from a line: its name; `*` the leader, `!` not well, `n` nofailover, `s` synchronous, `w` wanted;
/// then what waits for a restart, as `name=old>new`.
fn member(line: &str) -> Subject {
    let mut words = line.split_whitespace();
    let name = words.next().expect("a name").to_owned();
    let flags = words.next().unwrap_or_default();
    let pending = words.map(|word| {
        let (name, values) = word.split_once('=').expect("a setting");
        let (old, new) = values.split_once('>').expect("two values");
        let change = PendingChange { old_value: Some(old.to_owned()), new_value: Some(new.to_owned()) };
        (name.to_owned(), change)
    });
    Subject {
        name,
        leads: flags.contains('*'),
        well: !flags.contains('!'),
        nofailover: flags.contains('n'),
        synchronous: flags.contains('s'),
        lag_bytes: 0,
        wanted: flags.contains('w'),
        pending: pending.collect(),
    }
}

fn told(members: &str, force: bool) -> String {
    let members: Vec<Subject> =
        members.split(',').map(str::trim).filter(|line| !line.is_empty()).map(member).collect();
    match order(&members, force) {
        Ok(steps) => steps.iter().map(Step::to_string).collect::<Vec<_>>().join("\n"),
        Err(refusal) => format!("refused: {refusal}\n  {}", refusal.next_step()),
    }
}

#[track_caller]
fn check(members: &str, expected: &str) {
    assert_eq!(told(members, false), expected, "{members}");
}

#[test]
fn standbys_then_a_switchover_then_the_old_primary() {
    check(
        "a w, b *w, c w",
        "restart a, a standby\nrestart c, a standby\nswitch over from b to a\n\
         restart b, a standby by then, unless that has happened",
    );
    check("a -, b *-, c -", "");
    check("a w, b *-, c -", "restart a, a standby");
    // The primary alone: somebody else leads while it restarts.
    check(
        "a -, b *w, c -",
        "switch over from b to a\nrestart b, a standby by then, unless that has happened",
    );
    check("a *w", "restart a, the primary, in place");
    // A setting that is no limit, and one that is and grows.
    for pending in ["shared_buffers=16384>32768", "max_connections=100>200", "wal_level=replica>logical"] {
        check(
            &format!("a *w {pending}, b w {pending}"),
            "restart b, a standby\nswitch over from a to b\n\
             restart a, a standby by then, unless that has happened",
        );
    }
}

#[test]
fn who_takes_over_can_and_has_restarted() {
    let takes_over = |members: &str| {
        let told = told(members, false);
        let line = told.lines().find(|line| line.starts_with("switch over") || line.contains("in place"));
        line.unwrap_or(&told).to_owned()
    };
    assert_eq!(takes_over("a *w, b nw, c w"), "switch over from a to c");
    assert_eq!(takes_over("a *w, b w, c sw"), "switch over from a to c");
    assert_eq!(takes_over("a *w, b !w, c w"), "switch over from a to c");
    // `b` would lead without the setting.
    assert_eq!(takes_over("a *w x=1>2, b - x=1>2, c w x=1>2"), "switch over from a to c");
    // Healthy ones that may not lead: an outage in place is the only way.
    assert_eq!(takes_over("a *w, b nw"), "restart a, the primary, in place");
}

#[test]
fn less_begins_with_the_primary_in_place() {
    let less = "max_connections=200>100";
    check(
        &format!("a w {less}, b *w {less}, c w {less}"),
        "restart b, the primary, in place\n\
         restart a, a standby, once it has what its primary wrote\n\
         restart c, a standby, once it has what its primary wrote",
    );
    // With a setting that is no limit beside it there is one restart of each all the same.
    check(
        &format!("a *w {less} shared_buffers=1>2, b w {less} shared_buffers=1>2"),
        "restart a, the primary, in place\nrestart b, a standby, once it has what its primary wrote",
    );
    // The primary has lowered it already: an interrupted run goes on.
    check(&format!("a *-, b w {less}"), "restart b, a standby, once it has what its primary wrote");
    for name in LIMITS {
        assert!(
            told(&format!("a *w {name}=20>10, b w {name}=20>10"), false)
                .starts_with("restart a, the primary")
        );
        assert!(
            told(&format!("a *w {name}=10>20, b w {name}=10>20"), false).starts_with("restart b, a standby")
        );
    }
}

#[test]
fn both_ways_at_once() {
    let both = "max_connections=100>200 max_worker_processes=16>8";
    check(
        &format!("a *w {both}, b w {both}"),
        "restart b, a standby\nrestart a, the primary, in place\n\
         restart b, a standby, once it has what its primary wrote",
    );
    // The standby has grown already: only the rest is left.
    check(
        &format!("a *w {both}, b w max_worker_processes=16>8"),
        "restart a, the primary, in place\nrestart b, a standby, once it has what its primary wrote",
    );
}

#[test]
fn refusals_say_what_to_do() {
    check("a w, b w", "refused: nobody leads\n  See what is wrong with `pgfleet status`.");
    check("a *w, b *w", "refused: a and b lead at the same time\n  See what is wrong with `pgfleet status`.");
    check(
        "a *w, b !w",
        "refused: no other member is well, so nobody could take over from a while it restarts\n  \
         Mend the others first (`pgfleet status`), or accept the outage with `--force`.",
    );
    check(
        "a *- max_connections=200>100, b w max_connections=200>100",
        "refused: b cannot take a lower max_connections before its primary a has\n  \
         Restart both: `pgfleet restart a b`; the order is found by itself.",
    );
    let both = "max_connections=100>200 max_worker_processes=16>8";
    check(
        &format!("a *w {both}, b - {both}"),
        "refused: a is to lower max_worker_processes, and b must restart for another limit before it\n  \
         Restart them too: `pgfleet restart --pending`.",
    );
    // A standby that is broken can be restarted: that may be the cure.
    check("a *-, b !w", "restart b, a standby");
    assert_eq!(told("a *w, b !w", true), "restart b, a standby\nrestart a, the primary, in place");
}

/// Whatever the members are: each wanted one is restarted, standbys that must grow do so before their primary
/// does, what shrinks does so on the primary first, and writes are interrupted once at most.
#[test]
fn every_order_keeps_the_rules() {
    let changes =
        ["", "max_connections=100>200", "max_connections=200>100", "max_wal_senders=10>20", "x=1>2"];
    let mut tried = 0;
    for one in changes {
        for two in changes {
            if one == two && !one.is_empty() || one.starts_with("max_c") && two.starts_with("max_c") {
                continue;
            }
            for flags in ["*w w w", "w *w w", "*w w -", "- *w w", "*- w w", "*w nw w", "*w !w w"] {
                let flags: Vec<&str> = flags.split(' ').collect();
                let members: Vec<Subject> = ["a", "b", "c"]
                    .iter()
                    .zip(&flags)
                    .map(|(name, flags)| member(&format!("{name} {flags} {one} {two}")))
                    .collect();
                let Ok(steps) = order(&members, false) else { continue };
                tried += 1;
                let place = |wanted: &dyn Fn(&Step) -> bool| steps.iter().position(wanted);
                let interruption =
                    place(&|step| matches!(step, Step::Primary { .. } | Step::Switchover { .. }));
                let interruptions = steps
                    .iter()
                    .filter(|step| matches!(step, Step::Primary { .. } | Step::Switchover { .. }));
                assert!(interruptions.count() <= 1, "{members:?}\n{steps:?}");
                for member in members.iter().filter(|member| member.wanted) {
                    let restarts = |step: &Step| {
                        step.member() == member.name && !matches!(step, Step::Switchover { .. })
                    };
                    assert!(steps.iter().any(restarts), "{} never restarts: {steps:?}", member.name);
                    if member.leads {
                        continue;
                    }
                    let first = place(&restarts);
                    let last = steps.iter().rposition(restarts);
                    if let Some(interruption) = interruption {
                        if member.first(Way::Up).is_some() {
                            assert!(first < Some(interruption), "{} grows late: {steps:?}", member.name);
                        }
                        if member.first(Way::Down).is_some() {
                            assert!(last > Some(interruption), "{} shrinks early: {steps:?}", member.name);
                        }
                    }
                }
            }
        }
    }
    assert!(tried > 60, "{tried} cases");
}
