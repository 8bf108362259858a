//! What no plan may do, whoever wrote its playbook: rules as rows, run over every plan before it is shown.

use super::{Change, Look, Part, Report};
use crate::{model::HostName, remote::protocol::Effect};
use serde::Serialize;
use std::collections::BTreeMap;

/// A rule, and what it finds.
pub struct Rule {
    pub id: &'static str,
    pub law: &'static str,
    pub why: &'static str,
    /// Every place where the plan breaks it.
    broken: fn(&Subject<'_>) -> Vec<String>,
}

/// A place where a plan breaks a rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Offence {
    pub rule: &'static str,
    pub law: &'static str,
    pub why: &'static str,
    pub place: String,
}

pub const RULES: &[Rule] = &[
    Rule {
        id: "databases-one-by-one",
        law: "two database nodes are never restarted at the same time",
        why: "with both down nobody can take over from the third",
        broken: |plan| plan.together(Part::Database),
    },
    Rule {
        id: "store-one-by-one",
        law: "two members of the store are never restarted at the same time",
        why: "of three members two must be there, or no leader can renew its lease",
        broken: |plan| plan.together(Part::Store),
    },
    Rule {
        id: "proxies-one-by-one",
        law: "two entry points are never restarted at the same time",
        why: "clients need one that answers",
        broken: |plan| plan.together(Part::Proxy),
    },
    Rule {
        id: "addresses-one-by-one",
        law: "two holders of the virtual address are never restarted at the same time",
        why: "the address moves to one that runs",
        broken: |plan| plan.together(Part::Address),
    },
    Rule {
        id: "store-and-databases-apart",
        law: "a database node is never touched while a member of the store is restarted",
        why: "a member short of its store cannot take over, nor keep its lease for long",
        broken: |plan| plan.store_with_database(),
    },
    Rule {
        id: "no-secret-in-a-name",
        law: "no secret is in a step's name",
        why: "names are printed, logged and kept",
        broken: |plan| plan.telling.iter().map(|(host, task)| format!("{host}: {task}")).collect(),
    },
    Rule {
        id: "looks-first",
        law: "every step can be looked at before it is carried out",
        why: "a plan that cannot tell what a step changes is none",
        broken: |plan| plan.blind(),
    },
];

/// Every rule that the plan breaks, and where.
pub fn lint(report: &Report) -> Vec<Offence> {
    let subject = Subject::of(report);
    let found = RULES.iter().flat_map(|rule| {
        let places = (rule.broken)(&subject).into_iter();
        places.map(|place| Offence { rule: rule.id, law: rule.law, why: rule.why, place })
    });
    found.collect()
}

impl std::fmt::Display for Offence {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {} ({})", self.place, self.law, self.rule)
    }
}

/// A plan as the rules look at it.
struct Subject<'a> {
    waves: BTreeMap<u32, Vec<(&'a HostName, &'a Change)>>,
    looks: Vec<(&'a HostName, &'a Look)>,
    telling: Vec<(&'a HostName, &'a str)>,
}

impl<'a> Subject<'a> {
    fn of(report: &'a Report) -> Self {
        let mut subject = Self { waves: BTreeMap::new(), looks: Vec::new(), telling: Vec::new() };
        for (host, tally) in &report.hosts {
            for change in &tally.changes {
                subject.waves.entry(change.wave).or_default().push((host, change));
            }
            subject.looks.extend(tally.looks.iter().map(|look| (host, look)));
            subject.telling.extend(tally.telling.iter().map(|task| (host, task.as_str())));
        }
        subject
    }

    /// The steps of a wave that interrupt a part, or worse.
    fn interrupting(wave: &[(&'a HostName, &'a Change)], part: Part) -> Vec<(&'a HostName, &'a Change)> {
        let mut hits: Vec<(&HostName, &Change)> = Vec::new();
        for &(host, change) in wave {
            let interrupts = change.part == Some(part) && change.effect >= Effect::Restart;
            if interrupts && !hits.iter().any(|(other, _)| *other == host) {
                hits.push((host, change));
            }
        }
        hits
    }

    /// Waves that interrupt a part on several hosts.
    fn together(&self, part: Part) -> Vec<String> {
        let hits = self.waves.values().map(|wave| Self::interrupting(wave, part));
        hits.filter(|hits| hits.len() > 1).map(|hits| place(&hits)).collect()
    }

    fn store_with_database(&self) -> Vec<String> {
        let mut places = Vec::new();
        for wave in self.waves.values() {
            let mut hits = Self::interrupting(wave, Part::Store);
            let touched = wave
                .iter()
                .find(|(_, change)| change.part == Some(Part::Database) && change.effect >= Effect::Reload);
            if let Some(touched) = touched.filter(|_| !hits.is_empty()) {
                hits.push(*touched);
                places.push(place(&hits));
            }
        }
        places
    }

    fn blind(&self) -> Vec<String> {
        let blind = self.looks.iter().filter(|(_, look)| look.blind);
        blind.map(|(host, look)| format!("{host}: {}", look.step)).collect()
    }
}

fn place(hits: &[(&HostName, &Change)]) -> String {
    let parts: Vec<String> = hits.iter().map(|(host, change)| format!("{host}: {}", change.step)).collect();
    parts.join(", with ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{engine::Tally, model::Digest};

    fn change(wave: u32, step: &str, part: Part, effect: Effect) -> Change {
        Change {
            play: "a play".to_owned(),
            step: step.to_owned(),
            wave,
            part: Some(part),
            effect,
            settings: Vec::new(),
            drift: None,
            diff: String::new(),
        }
    }

    fn look(step: &str, blind: bool) -> Look {
        let nothing = Digest::of(b"");
        Look { play: String::new(), step: step.to_owned(), wave: 0, asked: nothing, found: nothing, blind }
    }

    /// Which rules a plan breaks.
    fn broken(hosts: Vec<(&str, Tally)>) -> Vec<&'static str> {
        let hosts = hosts.into_iter().map(|(name, tally)| (name.parse().expect("a name"), tally)).collect();
        lint(&Report { hosts, ..Report::default() }).into_iter().map(|offence| offence.rule).collect()
    }

    fn tally(changes: Vec<Change>) -> Tally {
        Tally { changes, ..Tally::default() }
    }

    /// A plan that breaks it, for every rule.
    #[test]
    fn each_rule_has_a_plan_that_breaks_it() {
        let mut seen = Vec::new();
        for (part, rule) in [
            (Part::Database, "databases-one-by-one"),
            (Part::Store, "store-one-by-one"),
            (Part::Proxy, "proxies-one-by-one"),
            (Part::Address, "addresses-one-by-one"),
        ] {
            let at = |wave, effect| tally(vec![change(wave, "restart", part, effect)]);
            assert_eq!(broken(vec![("a", at(3, Effect::Restart)), ("b", at(3, Effect::Outage))]), [rule]);
            assert!(broken(vec![("a", at(3, Effect::Restart)), ("b", at(4, Effect::Restart))]).is_empty());
            assert!(broken(vec![("a", at(3, Effect::Reload)), ("b", at(3, Effect::Reload))]).is_empty());
            seen.push(rule);
        }
        let store = || tally(vec![change(1, "restart etcd", Part::Store, Effect::Restart)]);
        let agent = |wave| tally(vec![change(wave, "reload agent", Part::Database, Effect::Reload)]);
        assert_eq!(broken(vec![("a", store()), ("b", agent(1))]), ["store-and-databases-apart"]);
        assert!(broken(vec![("a", store()), ("b", agent(2))]).is_empty());
        let telling = Tally { telling: vec!["Password {{ x }}".to_owned()], ..Tally::default() };
        assert_eq!(broken(vec![("a", telling)]), ["no-secret-in-a-name"]);
        let blind = Tally { looks: vec![look("run it", true), look("look", false)], ..Tally::default() };
        assert_eq!(broken(vec![("a", blind)]), ["looks-first"]);
        seen.extend(["store-and-databases-apart", "no-secret-in-a-name", "looks-first"]);
        assert_eq!(seen, RULES.iter().map(|rule| rule.id).collect::<Vec<_>>(), "a rule without its plan");
    }
}
