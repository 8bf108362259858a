//! The status document: what the runtime put into the view, and what follows from it.

use crate::{
    agent::view::View,
    contract::{NodeStatus, Role, Software},
};

/// The body of `GET /patroni` and of the health checks.
pub fn status_document(view: &View) -> NodeStatus {
    let mut status = view.status.clone();
    let snapshot = view.snapshot.as_deref();
    let mode = view.config.synchronous_mode;
    let counts = status.role == Role::Replica
        && mode.is_on()
        && snapshot.is_some_and(|snapshot| snapshot.is_synchronous(&view.name));
    status.sync_standby = counts && !mode.is_quorum();
    status.quorum_standby = counts && mode.is_quorum();
    status.pause = view.config.pause;
    status.cluster_unlocked =
        !view.knows_store() || snapshot.is_none_or(|snapshot| snapshot.leader.is_none());
    status.dcs_last_seen = view.dcs_last_seen;
    status.pending_restart |= !status.pending_restart_reason.is_empty();
    status.patroni = Software {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        scope: view.scope.to_string(),
        name: view.name.to_string(),
    };
    status
}
