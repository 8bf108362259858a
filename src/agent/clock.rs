//! The clock that leases are counted on.

use std::{fmt, time::Duration};

/// Milliseconds since the machine booted, including the time that it slept (`CLOCK_BOOTTIME`): a lease
/// goes on running out while a machine is suspended, so its holder's clock must too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BootTime(pub u64);

impl BootTime {
    pub fn now() -> Self {
        // The call fails on kernels older than 2.6.39 alone. Zero lies before every deadline, and the lease
        // that begins at zero has ended: a failure demotes, it never prolongs.
        let time = nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME)
            .map(Duration::from)
            .unwrap_or_default();
        Self(time.as_millis().try_into().unwrap_or(u64::MAX))
    }

    pub fn after(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(duration.as_millis().try_into().unwrap_or(u64::MAX)))
    }

    /// Time passed from `earlier` until `self`; zero when it is the later one.
    pub fn since(self, earlier: BootTime) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

impl fmt::Display for BootTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:03}", self.0 / 1000, self.0 % 1000)
    }
}
