//! From standby to primary.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use tokio::time::sleep;

use super::{Error, Server, configure::Orders, files};
use crate::model::Timeline;

const POLL: Duration = Duration::from_millis(10);

impl Server {
    /// Promotes and waits until the server takes writes. Gives its new timeline. Errors: it is not
    /// running, or it takes no writes after `limit`; it may still become a primary later.
    ///
    /// `pg_rewind` before 16 reads the new timeline from the control file: a `checkpoint` should follow,
    /// off the critical path.
    pub async fn promote(&self, limit: Duration) -> Result<Timeline, Error> {
        let begun = Instant::now();
        let settings = self.settings();
        let trigger = settings.data_dir.join("promote");
        // By file and signal rather than by `pg_promote`: it needs no free connection.
        files::write(&trigger, "", 0o600)?;
        if let Err(error) = self.signal(Signal::SIGUSR1) {
            let _ = files::remove(&trigger);
            return Err(error);
        }
        loop {
            let Some(postmaster) = self.adopt() else {
                return Err(Error::NotRunning(settings.data_dir.clone()));
            };
            if let Ok(session) = self.session_facts(postmaster.pid()).await
                && !session.in_recovery
            {
                let orders = self.orders()?;
                self.write_orders(orders.following(None, &settings))?;
                return Ok(session.timeline);
            }
            if begun.elapsed() >= limit {
                return Err(Error::Timeout { what: "promotion", limit });
            }
            sleep(POLL).await;
        }
    }
}

impl Orders {
    /// These orders, with the replication role and member name of `settings`, which may have changed.
    pub(super) fn with_role_of(self, settings: &super::Settings) -> Orders {
        let Some((host, port)) = super::follow::host_and_port(&self.primary_conninfo) else { return self };
        let slot = Some(self.primary_slot_name.clone()).filter(|slot| !slot.is_empty());
        self.following(Some(&super::Upstream { host, port, slot }), settings)
    }

    /// These orders, with another upstream.
    pub(super) fn following(
        mut self,
        upstream: Option<&super::Upstream>,
        settings: &super::Settings,
    ) -> Orders {
        self.primary_conninfo =
            upstream.map(|upstream| super::follow::conninfo(upstream, settings)).unwrap_or_default();
        self.primary_slot_name = upstream.and_then(|upstream| upstream.slot.clone()).unwrap_or_default();
        self
    }
}
