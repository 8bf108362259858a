//! `GET /metrics` in Prometheus' text format: Patroni's names, and what it lacks under names of our own.

use crate::{
    agent::view::View,
    contract::{NodeStatus, PostgresState, Role},
    model::Lsn,
};
use std::fmt::Write as _;

struct Writer {
    labels: String,
    text: String,
}

impl Writer {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        // Writing into a String cannot fail.
        let _ = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn sample(&mut self, name: &str, extra: &str, value: impl std::fmt::Display) {
        let _ = writeln!(self.text, "{name}{{{}{extra}}} {value}", self.labels);
    }

    fn gauge(&mut self, name: &str, help: &str, value: impl std::fmt::Display) {
        self.head(name, "gauge", help);
        self.sample(name, "", value);
    }

    fn flag(&mut self, name: &str, help: &str, value: bool) {
        self.gauge(name, &format!("1 if {help}, else 0."), u8::from(value));
    }

    fn counter(&mut self, name: &str, help: &str, value: impl std::fmt::Display) {
        self.head(name, "counter", help);
        self.sample(name, "", value);
    }
}

/// All metrics of a node.
pub fn text(view: &View, status: &NodeStatus) -> String {
    // Names have neither quotes nor backslashes in them, by their types.
    let labels = format!("scope=\"{}\",name=\"{}\"", view.scope, view.name);
    let mut out = Writer { labels, text: String::with_capacity(8 << 10) };
    of_node(&mut out, view, status);
    of_agent(&mut out, view);
    out.text
}

fn of_node(out: &mut Writer, view: &View, status: &NodeStatus) {
    let running = status.state == Some(PostgresState::Running);
    let xlog = status.xlog.clone().unwrap_or_default();
    let lsn = |lsn: Option<Lsn>| lsn.unwrap_or_default().0;
    let replication = status.replication_state.as_deref();

    out.gauge("patroni_version", "Version of the agent without periods.", version_number());
    out.flag("patroni_postgres_running", "PostgreSQL is running", running);
    let started = seconds(status.postmaster_start_time.as_deref());
    out.gauge(
        "patroni_postmaster_start_time",
        "Seconds since the epoch at which PostgreSQL started.",
        started,
    );
    out.flag("patroni_primary", "this node is the primary", status.role == Role::Primary);
    out.counter("patroni_xlog_location", "WAL position of the primary, 0 on a replica.", lsn(xlog.location));
    out.flag(
        "patroni_standby_leader",
        "this node leads a standby cluster",
        status.role == Role::StandbyLeader,
    );
    out.flag("patroni_replica", "this node is a replica", status.role == Role::Replica);
    out.flag("patroni_sync_standby", "this node is a synchronous standby", status.sync_standby);
    out.flag("patroni_quorum_standby", "this node is a quorum standby", status.quorum_standby);
    let received = lsn(xlog.received_location);
    out.counter(
        "patroni_xlog_received_location",
        "WAL position received by a replica, 0 on the primary.",
        received,
    );
    let replayed = lsn(xlog.replayed_location);
    out.counter(
        "patroni_xlog_replayed_location",
        "WAL position replayed by a replica, 0 on the primary.",
        replayed,
    );
    let replayed_at = seconds(xlog.replayed_timestamp.as_deref());
    out.gauge(
        "patroni_xlog_replayed_timestamp",
        "Commit time of the last replayed transaction.",
        replayed_at,
    );
    out.flag("patroni_xlog_paused", "WAL replay is paused", xlog.paused == Some(true));
    out.flag("patroni_postgres_streaming", "PostgreSQL streams", replication == Some("streaming"));
    let archive = replication == Some("in archive recovery");
    out.flag("patroni_postgres_in_archive_recovery", "PostgreSQL replicates from an archive", archive);
    let version = status.server_version.unwrap_or(0);
    out.gauge("patroni_postgres_server_version", "server_version_num, 0 if it is not known.", version);
    out.flag("patroni_cluster_unlocked", "nobody holds the leader key", status.cluster_unlocked);
    out.flag("patroni_failsafe_mode_is_active", "failsafe mode is active", status.failsafe_mode_is_active);
    out.flag("patroni_failsafe_mode_enabled", "failsafe mode is enabled", view.config.failsafe_mode);
    let failsafe = view.snapshot.as_ref().and_then(|snapshot| snapshot.failsafe.as_ref());
    let member = failsafe.is_some_and(|failsafe| failsafe.value.contains_key(view.name.as_str()));
    out.flag("patroni_failsafe_member", "this node takes part in failsafe mode", member);
    out.counter("patroni_postgres_timeline", "Timeline, 0 if it is not known.", status.timeline.unwrap_or(0));
    let seen = status.dcs_last_seen.unwrap_or(0);
    out.gauge("patroni_dcs_last_seen", "Seconds since the epoch at which the store was last read.", seen);
    out.flag("patroni_pending_restart", "PostgreSQL needs a restart", status.pending_restart);
    out.flag("patroni_is_paused", "automatic failover is off", status.pause);
    let states: Vec<_> =
        PostgresState::ALL.iter().map(|state| format!("{}={state}", state.number())).collect();
    let state = status.state.unwrap_or(PostgresState::Unknown).number();
    out.gauge("patroni_postgres_state", &format!("What PostgreSQL is doing: {}.", states.join(", ")), state);
    let priority = status.tags.failover_priority();
    out.gauge("patroni_failover_priority", "Priority of this node among equal candidates.", priority);
}

fn of_agent(out: &mut Writer, view: &View) {
    let counters = &view.counters;
    let loop_seconds = counters.loop_duration.as_secs_f64();
    out.gauge(
        "pgfleet_loop_duration_seconds",
        "Duration of the last round of the agent's loop.",
        loop_seconds,
    );
    out.counter("pgfleet_loops_total", "Rounds of the agent's loop.", counters.loops);
    let latency = counters.renew_latency.as_secs_f64();
    out.gauge("pgfleet_renew_latency_seconds", "Duration of the last renewal of the lease.", latency);
    out.counter("pgfleet_renewals_total", "Renewals of the lease.", counters.renewals);
    out.counter(
        "pgfleet_renewals_failed_total",
        "Renewals of the lease that failed.",
        counters.renewals_failed,
    );
    out.counter("pgfleet_dcs_errors_total", "Requests that the store did not answer.", counters.dcs_errors);
    out.counter("pgfleet_promotions_total", "Times that this node became the primary.", counters.promotions);
    out.head("pgfleet_demotions_total", "counter", "Times that this node stepped down, by reason.");
    for (reason, times) in &counters.demotions {
        out.sample("pgfleet_demotions_total", &format!(",reason=\"{reason}\""), times);
    }
}

/// 1.2.3 as 010203, the way dashboards expect it.
fn version_number() -> String {
    let parts = env!("CARGO_PKG_VERSION").split(['.', '-', '+']).take(3);
    parts.map(|part| format!("{:02}", part.parse::<u32>().unwrap_or(0))).collect()
}

fn seconds(timestamp: Option<&str>) -> f64 {
    let parsed = timestamp.and_then(|text| text.parse::<jiff::Timestamp>().ok());
    parsed.map_or(0.0, |timestamp| timestamp.as_millisecond() as f64 / 1000.0)
}
