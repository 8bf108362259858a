//! What a plan means for those who use the cluster: the order in which it is carried out, what each stage
//! costs, and for how long nobody can write. Pure.

use super::{Change, Part, Report};
use crate::{model::HostName, remote::protocol::Effect};
use serde::Serialize;
use std::collections::BTreeMap;

/// How long writes wait while another member takes over; the benchmark `gaps` measures it.
const SWITCHOVER_SECS: f64 = 0.5;
/// The same for a restart of the primary where it is: it comes back as itself.
const RESTART_SECS: f64 = 1.0;

#[derive(Debug, PartialEq, Serialize)]
pub struct Consequences {
    pub order: Vec<Stage>,
    pub writing_gap: WritingGap,
}

/// What happens at the same time.
#[derive(Debug, PartialEq, Serialize)]
pub struct Stage {
    pub play: String,
    pub hosts: Vec<HostName>,
    pub steps: Vec<String>,
    /// The worst of its steps.
    pub effect: Effect,
}

/// For how long nobody can write.
#[derive(Debug, Default, PartialEq, Serialize)]
pub struct WritingGap {
    /// None where it cannot be told.
    pub seconds: Option<f64>,
    pub because: Vec<String>,
}

impl Consequences {
    pub fn of(report: &Report) -> Self {
        let mut waves: BTreeMap<u32, Vec<(&HostName, &Change)>> = BTreeMap::new();
        for (host, tally) in &report.hosts {
            for change in &tally.changes {
                waves.entry(change.wave).or_default().push((host, change));
            }
        }
        let proxies: Vec<&HostName> = users_of(report, Part::Proxy);
        let mut order: Vec<Stage> = Vec::new();
        let mut gap = Gap::default();
        for changes in waves.values() {
            let stage = stage(changes);
            gap.add(changes, proxies.len());
            match order.last_mut() {
                // What follows on the same hosts is the same stage for people.
                Some(last) if last.play == stage.play && last.hosts == stage.hosts => {
                    last.effect = last.effect.max(stage.effect);
                    last.steps.extend(stage.steps);
                }
                _ => order.push(stage),
            }
        }
        Self { order, writing_gap: gap.told() }
    }
}

fn stage(changes: &[(&HostName, &Change)]) -> Stage {
    let mut stage = Stage { play: String::new(), hosts: Vec::new(), steps: Vec::new(), effect: Effect::None };
    for (host, change) in changes {
        stage.play.clone_from(&change.play);
        stage.effect = stage.effect.max(change.effect);
        if !stage.hosts.contains(host) {
            stage.hosts.push((*host).clone());
        }
        if !stage.steps.contains(&change.step) {
            stage.steps.push(change.step.clone());
        }
    }
    stage
}

/// The hosts on which a part of the cluster is touched.
fn users_of(report: &Report, part: Part) -> Vec<&HostName> {
    let touches = |change: &Change| change.part == Some(part);
    report.hosts.iter().filter(|(_, tally)| tally.changes.iter().any(touches)).map(|(host, _)| host).collect()
}

/// The gap as it adds up.
#[derive(Default)]
struct Gap {
    seconds: f64,
    endless: bool,
    because: Vec<String>,
}

impl Gap {
    fn add(&mut self, changes: &[(&HostName, &Change)], proxies: usize) {
        for (host, change) in changes {
            match (change.part, change.effect) {
                (Some(Part::Database), Effect::Switchover) => {
                    self.seconds += SWITCHOVER_SECS;
                    self.because.push(format!("a switchover, for {}", reasons(change, Effect::Switchover)));
                }
                (Some(Part::Database), Effect::Outage) if !change.settings.is_empty() => {
                    self.seconds += RESTART_SECS;
                    self.because
                        .push(format!("a restart of the primary, for {}", reasons(change, Effect::Outage)));
                }
                (Some(Part::Database), Effect::Restart) => {
                    self.seconds += RESTART_SECS;
                    self.because.push(format!("a restart on {host}, if it is the primary"));
                }
                (Some(Part::Proxy), Effect::Restart) if proxies < 2 => {
                    self.seconds += RESTART_SECS;
                    self.because.push(format!("a restart of the entry point on {host}"));
                }
                (Some(part @ (Part::Database | Part::Proxy)), Effect::Outage) => {
                    self.endless = true;
                    self.because.push(match part {
                        Part::Database => format!("PostgreSQL is stopped on {host}"),
                        _ => format!("the entry point on {host} is stopped"),
                    });
                }
                _ => {}
            }
        }
    }

    fn told(self) -> WritingGap {
        let seconds = (!self.endless).then_some(self.seconds);
        WritingGap { seconds, because: self.because }
    }
}

/// The settings that cost that much, or the step itself.
fn reasons(change: &Change, effect: Effect) -> String {
    let names: Vec<&str> = change
        .settings
        .iter()
        .filter(|setting| setting.effect == effect)
        .map(|setting| setting.name.as_str())
        .collect();
    if names.is_empty() { change.step.clone() } else { names.join(", ") }
}

impl std::fmt::Display for WritingGap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.seconds {
            Some(0.0) => f.write_str("none"),
            Some(seconds) => write!(f, "about {seconds:.1} s"),
            None => f.write_str("until what is stopped runs again"),
        }
    }
}
