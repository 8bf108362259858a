//! When a primary has to stop. The one place with this arithmetic.
//!
//! The store starts to count `ttl` when it *receives* a renewal, which is after the renewal was sent,
//! so as the store sees it the lease cannot end before `sent + ttl`. The node's clock may run slower
//! than the store's by at most one part in [`DRIFT`], therefore it counts only
//!
//! ```text
//! deadline      = sent + ttl - ttl / DRIFT
//! stop_begins   = deadline - stop_budget            (Immediate: SIGQUIT, then SIGKILL, takes < budget)
//! stop_finished < stop_begins + stop_budget <= sent + ttl - ttl / DRIFT <= end of the lease
//! ```
//!
//! A hung agent cannot begin the stop. Its watchdog fires `watchdog` after the last ping and its fence
//! takes `fence_budget`. Pings are given only while
//! `now + watchdog + fence_budget < deadline`, hence `ping + watchdog + fence_budget < deadline`.
//! `fence_budget < stop_budget`, so a live agent's own stop always comes before its watchdog.

use super::observation::{Lease, Millis, Settings};

/// Clocks are taken to agree on the length of a `ttl` to one part in this many.
pub const DRIFT: u64 = 50;

/// The moment at which nothing may be writable any more, on this node's clock.
pub fn deadline(lease: &Lease) -> Millis {
    lease.renewed_at + lease.ttl - lease.ttl / DRIFT
}

/// How long an immediate stop may take before the last process is killed.
pub fn stop_budget(ttl: Millis) -> Millis {
    (ttl / 6).clamp(400, 5_000)
}

/// The moment at which a stop that has not begun would come too late.
pub fn stop_begins(lease: &Lease) -> Millis {
    deadline(lease).saturating_sub(stop_budget(lease.ttl))
}

/// How often the lease is renewed: three more attempts fit before the stop begins.
pub fn renew_interval(ttl: Millis) -> Millis {
    ttl / 4
}

/// How long to wait after a failed renewal.
pub fn retry_interval(ttl: Millis) -> Millis {
    (ttl / 40).clamp(50, 1_000)
}

/// How long the watchdog waits for a ping.
pub fn watchdog(ttl: Millis) -> Millis {
    (ttl / 4).max(500)
}

/// How long the fence that a watchdog starts may take.
pub fn fence_budget(ttl: Millis) -> Millis {
    stop_budget(ttl) / 2
}

/// Whether an agent whose server is writable may ping its watchdog.
pub fn may_ping(lease: Option<&Lease>, writable: bool, settings: &Settings, now: Millis) -> bool {
    if !writable || settings.paused {
        return true;
    }
    lease.is_some_and(|lease| now + watchdog(lease.ttl) + fence_budget(lease.ttl) < deadline(lease))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// For every ttl, every clock that is off by no more than allowed, the ladder ends in time.
        #[test]
        fn the_ladder_ends_before_the_lease(ttl in 3_000u64..300_000, sent in 0u64..1_000_000, delay in 0u64..60_000) {
            let lease = Lease { term: 1, renewed_at: sent, ttl, remembered: false };
            let ends_at_store = sent + delay + ttl; // on a clock that agrees with the node's
            // The node's clock is slow: ttl of the store pass while it counts ttl - ttl / 100.
            let counted = ttl - ttl / 100;
            let stopped = stop_begins(&lease) + stop_budget(ttl) - sent;
            prop_assert!(stopped <= counted);
            prop_assert!(sent + stopped <= ends_at_store);
            prop_assert!(fence_budget(ttl) < stop_budget(ttl));
            // Three renewals fit after a failed one, before the stop begins.
            prop_assert!(sent + 3 * renew_interval(ttl) < stop_begins(&lease));
            // A renewed lease allows pings until the next renewal is due at least.
            let settings = Settings { ttl, ..Settings::default() };
            prop_assert!(may_ping(Some(&lease), true, &settings, sent + renew_interval(ttl)));
        }
    }

    #[test]
    fn pings_end_when_a_hang_would_outlive_the_lease() {
        let settings = Settings::default();
        let lease = Lease { term: 1, renewed_at: 0, ttl: 30_000, remembered: false };
        let last = deadline(&lease) - watchdog(30_000) - fence_budget(30_000);
        assert!(may_ping(Some(&lease), true, &settings, last - 1));
        assert!(!may_ping(Some(&lease), true, &settings, last));
        assert!(may_ping(Some(&lease), false, &settings, last));
        assert!(!may_ping(None, true, &settings, 0));
    }
}
