//! Do the clocks agree? Nothing in the cluster's safety rests on them; certificates, package lists and
//! whoever reads two logs side by side do.

use super::{Finding, Findings, Machine, Verdict};
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

    pub fn judge(&self, host: &HostName, own: &mut Findings<'_>) {
        let Some((ahead, uncertainty)) = self.ahead.get(host).copied() else { return };
        let next = "Let it keep time: `timedatectl set-ntp true`; see `timedatectl timesync-status`.";
        match severity((ahead.abs() - uncertainty).max(0)) {
            Verdict::Fail => own.fail("clock", told(ahead), next),
            Verdict::Warn => own.warn("clock", told(ahead), next),
            Verdict::Ok => {
                own.ok("clock", format!("within {} ms of the others", ahead.abs().max(uncertainty).max(1)));
            }
        }
    }

    /// The finding about this machine, where its own clock is the one that is off.
    pub fn own(&self) -> Option<Finding> {
        let ahead = self.own_ahead.filter(|ahead| severity(ahead.abs()) != Verdict::Ok)?;
        Some(Finding {
            host: "this machine".to_owned(),
            check: "clock",
            // The cluster runs without this machine.
            verdict: Verdict::Warn,
            message: told(ahead),
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

fn told(ahead_ms: i64) -> String {
    let direction = if ahead_ms > 0 { "ahead of" } else { "behind" };
    format!("{:.1} s {direction} the others", ahead_ms.abs() as f64 / 1000.0)
}
