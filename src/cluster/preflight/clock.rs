//! Do the clocks agree? Nothing in the cluster's safety rests on them; certificates, package lists and
//! whoever reads two logs side by side do.

use super::{Finding, Findings, Found, Machine, Verdict, links::Contact};
use crate::model::HostName;
use std::collections::BTreeMap;

/// Package lists and certificates are refused by a clock that is so far off.
const FAIL_MS: i64 = 30_000;
/// Logs of two hosts can no longer be read side by side.
const WARN_MS: i64 = 500;

/// How far each clock is from where most are.
pub struct Clocks<'a> {
    /// Milliseconds ahead, and how far off that may be.
    ahead: BTreeMap<&'a HostName, (i64, i64)>,
    /// This machine's own, when there is somebody to compare with.
    own_ahead: Option<i64>,
}

impl<'a> Clocks<'a> {
    /// Compares each clock with the median of all, this machine's among them.
    pub fn of(machines: &'a [Machine]) -> Self {
        let readings: Vec<_> = machines
            .iter()
            .filter_map(|machine| Some((&machine.name, machine.found.as_ref().ok()?.reading)))
            .collect();
        let mut all: Vec<i64> = readings.iter().map(|(_, reading)| reading.ahead_ms).collect();
        all.push(0);
        all.sort_unstable();
        // Where two halves disagree, the one nearer to this machine is believed.
        let (low, high) = (all[(all.len() - 1) / 2], all[all.len() / 2]);
        let median = if low.abs() <= high.abs() { low } else { high };
        let ahead = readings
            .iter()
            .map(|(name, reading)| (*name, (reading.ahead_ms - median, reading.uncertainty_ms)));
        Self { ahead: ahead.collect(), own_ahead: (!readings.is_empty()).then_some(-median) }
    }

    pub fn judge(&self, host: &HostName, found: &Found, own: &mut Findings<'_>) {
        let Some((ahead, uncertainty)) = self.ahead.get(host).copied() else { return };
        let next = "Let it keep time: `timedatectl set-ntp true`; see `timedatectl timesync-status`.";
        let told = |ahead| told(ahead, "the others");
        match self.verdict(host) {
            Verdict::Fail => return own.fail("clock", told(ahead), next),
            Verdict::Warn => return own.warn("clock", told(ahead), next),
            Verdict::Ok => {}
        }
        // From far away little can be said; the hosts among themselves know better.
        let mut pairs = pairs(found);
        pairs.retain(|pair| self.verdict(pair.with) == Verdict::Ok);
        let wrong = pairs.iter().max_by(|a, b| a.apart_ms().total_cmp(&b.apart_ms()));
        if let Some(pair) = wrong.filter(|pair| severity(pair.apart_ms() as i64) != Verdict::Ok) {
            let next = format!("See which of the two is right, and let both keep time: {next}");
            return own.warn("clock", self::told(-pair.ahead_ms as i64, pair.with.as_str()), next);
        }
        own.ok(
            "clock",
            match pairs.iter().map(Pair::most_ms).max_by(f64::total_cmp) {
                Some(most) => format!("within {most:.1} ms of the others"),
                None => format!("within {} ms of the others", ahead.abs().max(uncertainty).max(1)),
            },
        );
    }

    /// How far off a host's clock is, by what this machine has seen.
    fn verdict(&self, host: &HostName) -> Verdict {
        let (ahead, uncertainty) = self.ahead.get(host).copied().unwrap_or_default();
        severity((ahead.abs() - uncertainty).max(0))
    }

    /// The finding about this machine, where its own clock is the one that is off.
    pub fn own(&self) -> Option<Finding> {
        let ahead = self.own_ahead.filter(|ahead| severity(ahead.abs()) != Verdict::Ok)?;
        Some(Finding {
            host: "this machine".to_owned(),
            check: "clock",
            // The cluster runs without this machine.
            verdict: Verdict::Warn,
            message: told(ahead, "the others"),
            next_step: Some("Set its clock: the hosts agree among themselves.".to_owned()),
        })
    }
}

fn severity(off_ms: i64) -> Verdict {
    match off_ms {
        FAIL_MS.. => Verdict::Fail,
        WARN_MS.. => Verdict::Warn,
        _ => Verdict::Ok,
    }
}

fn told(ahead_ms: i64, whom: &str) -> String {
    let direction = if ahead_ms > 0 { "ahead of" } else { "behind" };
    format!("{:.1} s {direction} {whom}", ahead_ms.abs() as f64 / 1000.0)
}

/// Two clocks as their hosts have compared them.
struct Pair<'a> {
    with: &'a HostName,
    /// How far the other one is ahead, and how far off that may be.
    ahead_ms: f64,
    uncertainty_ms: f64,
}

impl Pair<'_> {
    /// For certain.
    fn apart_ms(&self) -> f64 {
        (self.ahead_ms.abs() - self.uncertainty_ms).max(0.0)
    }

    /// At most.
    fn most_ms(&self) -> f64 {
        self.ahead_ms.abs() + self.uncertainty_ms
    }
}

fn pairs(found: &Found) -> Vec<Pair<'_>> {
    let measured = found.contacts.iter().filter_map(|contact: &Contact| {
        let measured = contact.measured()?;
        let uncertainty_ms = measured.round_trip_ms / 2.0;
        Some(Pair { with: &contact.with, ahead_ms: measured.ahead_ms, uncertainty_ms })
    });
    // Of several looks at one clock the quickest is believed.
    let mut best: BTreeMap<&HostName, Pair<'_>> = BTreeMap::new();
    for pair in measured {
        if best.get(pair.with).is_none_or(|known| pair.uncertainty_ms < known.uncertainty_ms) {
            best.insert(pair.with, pair);
        }
    }
    best.into_values().collect()
}
