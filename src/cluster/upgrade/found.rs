//! What a look at the hosts has found, by component and host.

use super::Component;
use crate::{engine::Report, model::HostName, remote::protocol::Version};
use serde::Serialize;

/// A component on a host.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Found {
    pub component: Component,
    pub host: HostName,
    /// What is installed, and what would be.
    pub versions: Vec<Version>,
    /// What is installed is newer than what runs.
    pub waits_for_restart: bool,
    /// Every step that would change something.
    pub changes: Vec<String>,
}

impl Found {
    /// Something is to be done there.
    pub fn is_due(&self) -> bool {
        self.waits_for_restart || !self.changes.is_empty()
    }

    /// What runs there is to be another.
    pub fn replaces(&self) -> bool {
        self.waits_for_restart || self.newer().next().is_some()
    }

    /// What would be replaced.
    pub fn newer(&self) -> impl Iterator<Item = &Version> {
        self.versions.iter().filter(|version| version.to.is_some())
    }
}

/// What a look with the playbook `upgrade` has found, in the order of components.
pub fn found(report: &Report) -> Vec<Found> {
    let of = |component: Component| {
        report.hosts.iter().filter_map(move |(host, tally)| {
            let play = component.play();
            let versions =
                tally.versions.iter().filter(|(of, _)| of == play).map(|(_, version)| version.clone());
            let changes = tally.changes.iter().filter(|change| change.play == play);
            let found = Found {
                component,
                host: host.clone(),
                versions: versions.collect(),
                waits_for_restart: component == Component::Postgres && tally.restart_pending,
                changes: changes.map(|change| change.step.clone()).collect(),
            };
            (!found.versions.is_empty() || found.is_due()).then_some(found)
        })
    };
    Component::ALL.into_iter().flat_map(of).collect()
}

/// Whether a host has been brought back by an earlier run that did not get further: what it has is what another one
/// is to be brought back to.
pub fn already_back(one: &Found, all: &[Found]) -> bool {
    let installed = |found: &Found| -> Vec<_> {
        found.versions.iter().map(|version| (version.name.clone(), version.installed.clone())).collect()
    };
    let to = |found: &Found| -> Vec<_> {
        found.versions.iter().map(|version| (version.name.clone(), version.to.clone())).collect()
    };
    let own = installed(one);
    all.iter().any(|other| {
        other.host != one.host
            && other.component == one.component
            && installed(other) != own
            && to(other) == own
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        engine::{Change, Tally},
        remote::protocol::Effect,
    };

    fn version(installed: &str, to: Option<&str>) -> Version {
        Version { name: "x".to_owned(), installed: Some(installed.to_owned()), to: to.map(str::to_owned) }
    }

    fn on(host: &str, installed: &str, to: Option<&str>) -> Found {
        Found {
            component: Component::Agent,
            host: host.parse().unwrap(),
            versions: vec![version(installed, to)],
            waits_for_restart: false,
            changes: Vec::new(),
        }
    }

    #[test]
    fn a_report_is_read_by_component_and_host() {
        let change = |play: Component, step: &str| Change {
            play: play.play().to_owned(),
            step: step.to_owned(),
            wave: 0,
            part: None,
            effect: Effect::None,
            settings: Vec::new(),
            drift: None,
            diff: String::new(),
        };
        let mut report = Report::default();
        let tally = Tally {
            changes: vec![change(Component::Postgres, "packages"), change(Component::System, "all others")],
            versions: vec![
                (Component::Agent.play().to_owned(), version("1", None)),
                (Component::Postgres.play().to_owned(), version("15.3", Some("15.14"))),
            ],
            restart_pending: true,
            ..Tally::default()
        };
        report.hosts.insert("pg-1".parse().unwrap(), tally);
        report.hosts.insert("etcd-1".parse().unwrap(), Tally::default());
        let told = found(&report).into_iter().map(|found| {
            format!("{} {} due {} replaces {}", found.component, found.host, found.is_due(), found.replaces())
        });
        assert_eq!(
            told.collect::<Vec<_>>(),
            [
                "the agent pg-1 due false replaces false",
                "PostgreSQL pg-1 due true replaces true",
                "the system pg-1 due true replaces false",
            ]
        );
    }

    #[test]
    fn a_host_that_was_brought_back_is_known_by_the_others() {
        let cases = [
            // Nobody has been brought back yet.
            ([on("a", "2", Some("1")), on("b", "2", Some("1"))], [false, false]),
            // `a` has been: it would go back once more.
            ([on("a", "1", Some("0")), on("b", "2", Some("1"))], [true, false]),
            // `a` has been, and has nothing before.
            ([on("a", "1", None), on("b", "2", Some("1"))], [true, false]),
            // They have never been the same.
            ([on("a", "7", Some("6")), on("b", "2", Some("1"))], [false, false]),
        ];
        for (all, expected) in cases {
            let told = [already_back(&all[0], &all), already_back(&all[1], &all)];
            assert_eq!(told, expected, "{all:?}");
        }
    }
}
