//! `pgfleet status`: what is true of the cluster now.

use super::{
    Exit,
    common::{Common, Format},
    context::Context,
    error::Outcome,
    reach::reach,
};
use crate::{
    cluster::{self, HostDrift, Status},
    ui,
};
use comfy_table::{CellAlignment, Table, presets::NOTHING};

/// Show who leads, who follows, and what is wrong, as every part of the cluster tells it
#[derive(clap::Args)]
#[command(after_help = "\
Asks each agent, the DCS, HAProxy and the holders of the virtual address, all at once and through SSH:
no other port has to be open to this machine. Changes nothing.

With --drift every host tells which files of ours are no longer as we put them: it remembers their digests.

Exit code: 0 when all is well, 1 when something is wrong, 3 when a host cannot be reached.

Examples:
  pgfleet status -i inventory.yml
  pgfleet status --drift
  pgfleet status --format json | jq .problems")]
pub struct Args {
    #[command(flatten)]
    pub common: Common,

    /// Show which files and units were changed on the hosts by hand since our last run
    #[arg(long)]
    pub drift: bool,
}

pub async fn run(args: Args) -> Outcome {
    let context = Context::load(&args.common)?;
    if args.drift {
        return drift(&context).await;
    }
    let (topology, access) = reach(&context).await?;
    let status = cluster::status(&topology, &access).await;
    let unreachable = access.failures().next().is_some();
    access.close().await;
    match args.common.format {
        Format::Json => ui::json(&status),
        Format::Text => text(&status).into_iter().for_each(|line| ui::line(&line)),
    }
    Ok(match (status.healthy, unreachable) {
        (true, _) => Exit::Done,
        (false, false) => Exit::Failed,
        (false, true) => Exit::Unreachable,
    })
}

/// What was changed on the hosts by hand.
async fn drift(context: &Context) -> Outcome {
    let hosts = context.inventory.select(context.common.limit.as_deref().unwrap_or("all"))?;
    let (options, executables) = (context.ssh(), context.executables()?);
    let forks = usize::from(context.common.forks);
    let answers = cluster::drift(&hosts, &options, &executables, forks).await;
    match context.common.format {
        Format::Json => ui::json(&answers),
        Format::Text => drift_text(&answers).into_iter().for_each(|line| ui::line(&line)),
    }
    Ok(match answers.iter().any(|answer| answer.obstacle.is_some()) {
        true => Exit::Unreachable,
        false if answers.iter().any(|answer| !answer.drift.is_empty()) => Exit::Failed,
        false => Exit::Done,
    })
}

fn drift_text(answers: &[HostDrift]) -> Vec<String> {
    let (bad, changed) = (ui::BAD, ui::CHANGED);
    let mut lines = Vec::new();
    for answer in answers {
        lines
            .extend(answer.drift.iter().map(|drift| format!("{changed}{}{changed:#}: {drift}", answer.host)));
        if let Some(obstacle) = &answer.obstacle {
            lines.push(format!("{bad}{}{bad:#}: {}", answer.host, obstacle.problem));
            lines.push(format!("  next: {}", obstacle.next_step));
        }
    }
    if lines.is_empty() {
        return vec!["Everything is as we left it.".to_owned()];
    }
    if answers.iter().any(|answer| !answer.drift.is_empty()) {
        lines.push(String::new());
        lines
            .push("`pgfleet plan --diff` shows what differs, and what `apply` would do about it.".to_owned());
    }
    lines
}

/// The lines that people read.
pub fn text(status: &Status) -> Vec<String> {
    let (good, bad, heading) = (ui::GOOD, ui::BAD, ui::HEADING);
    let word =
        if status.healthy { format!("{good}healthy{good:#}") } else { format!("{bad}not healthy{bad:#}") };
    let mut lines = vec![format!("Cluster {heading}{}{heading:#} is {word}", status.cluster)];

    let members = status.members.iter().map(|member| {
        vec![
            member.name.clone(),
            format!("{}:{}", member.host, member.port),
            member.role.replace('_', " "),
            if member.pending_restart {
                format!("{}, restart pending", member.state)
            } else {
                member.state.clone()
            },
            member.timeline.map_or_else(|| "-".to_owned(), |timeline| timeline.to_string()),
            member.lag_bytes.map_or_else(|| "-".to_owned(), bytes),
        ]
    });
    table(&mut lines, &["member", "address", "role", "state", "timeline", "lag"], members);

    let dcs = status.dcs.members.iter().map(|member| {
        let health = if member.healthy { "healthy" } else { "not healthy" };
        vec![member.name.clone(), if member.leader { "leader" } else { "" }.to_owned(), health.to_owned()]
    });
    table(&mut lines, &[status.dcs.kind, "role", "state"], dcs);

    let proxies = status.haproxy.iter().flat_map(|proxy| {
        proxy.frontends.iter().map(|frontend| {
            let up = format!("{} up", frontend.backends_up);
            vec![
                proxy.name.clone(),
                format!("{}:{}", proxy.host, frontend.port),
                frontend.serves.to_owned(),
                up,
            ]
        })
    });
    table(&mut lines, &["haproxy", "address", "serves", "servers"], proxies);

    if let Some(vip) = &status.vip {
        let holder = vip.holder.as_deref().unwrap_or("nobody");
        lines.extend([String::new(), format!("Virtual address {} is held by {holder}", vip.address)]);
    }
    let notes = notes(status);
    if !notes.is_empty() {
        lines.push(String::new());
        lines.extend(notes);
    }
    if !status.problems.is_empty() {
        lines.push(String::new());
        lines.extend(status.problems.iter().map(|problem| format!("{bad}!{bad:#} {problem}")));
    }
    lines
}

/// What is worth knowing and no problem.
fn notes(status: &Status) -> Vec<String> {
    let mut lines = Vec::new();
    for member in status.members.iter().filter(|member| member.pending_restart) {
        let reasons = cluster::rolling::reasons(&member.pending_restart_reason);
        let reasons = if reasons.is_empty() { "a changed setting".to_owned() } else { reasons };
        lines.push(format!("{} waits for a restart: {reasons}", member.name));
    }
    if !lines.is_empty() {
        lines.push("`pgfleet restart --pending` restarts in the right order.".to_owned());
    }
    if let Some(switchover) = &status.scheduled_switchover {
        let from = switchover.from.as_deref().map(|from| format!(" from {from}")).unwrap_or_default();
        let to = switchover.to.as_deref().unwrap_or("the best standby");
        lines.push(format!("A switchover{from} to {to} is scheduled for {}", switchover.at));
    }
    lines
}

pub(super) fn table(lines: &mut Vec<String>, head: &[&str], rows: impl Iterator<Item = Vec<String>>) {
    let mut table = Table::new();
    table.load_preset(NOTHING).set_header(head.iter().map(|word| word.to_uppercase())).add_rows(rows);
    if table.is_empty() {
        return;
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2)).set_cell_alignment(CellAlignment::Left);
    }
    lines.push(String::new());
    lines.extend(table.lines().map(|line| line.trim_end().to_owned()));
}

/// A number of bytes with a unit that people read.
fn bytes(count: u64) -> String {
    match count {
        0..1024 => format!("{count} B"),
        1024..1_048_576 => format!("{} KiB", count / 1024),
        1_048_576..1_073_741_824 => format!("{} MiB", count / 1_048_576),
        _ => format!("{} GiB", count / 1_073_741_824),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        cluster::{Dcs, DcsMember, Frontend, Haproxy, Member, Vip},
        contract::{PendingChange, ScheduledSwitchover},
    };

    #[test]
    fn drift_is_told_by_host() {
        use crate::remote::protocol::{Drift, DriftKind};
        let drift = |path: &str, kind| Drift {
            path: path.to_owned(),
            kind,
            changed_at: (kind != DriftKind::Removed).then_some(jiff::Timestamp::UNIX_EPOCH),
        };
        let answer =
            |host: &str, drift| HostDrift { host: host.parse().expect("a name"), drift, obstacle: None };
        let answers = [
            answer("pg-1", Vec::new()),
            answer("pg-2", vec![drift("/etc/hosts", DriftKind::Edited), drift("/etc/x", DriftKind::Removed)]),
            answer("pg-3", vec![drift("/etc/pgfleet/agent.yml", DriftKind::Attributes)]),
        ];
        let plain = |answers| anstream::adapter::strip_str(&drift_text(answers).join("\n")).to_string();
        insta::assert_snapshot!(plain(&answers), @"
        pg-2: /etc/hosts changed by hand since our last run, at 1970-01-01T00:00:00Z
        pg-2: /etc/x removed by hand since our last run
        pg-3: /etc/pgfleet/agent.yml owner or mode changed by hand since our last run, at 1970-01-01T00:00:00Z

        `pgfleet plan --diff` shows what differs, and what `apply` would do about it.
        ");
        assert_eq!(plain(&answers[..1]), "Everything is as we left it.");
    }

    #[test]
    fn people_read_tables() {
        let pending = |waits: bool| {
            let change =
                PendingChange { old_value: Some("100".to_owned()), new_value: Some("200".to_owned()) };
            waits.then(|| ("max_connections".to_owned(), change)).into_iter().collect()
        };
        let member = |name: &str, role: &str, lag_bytes| Member {
            name: name.to_owned(),
            host: "10.0.0.1".to_owned(),
            port: 5432,
            role: role.to_owned(),
            state: "running".to_owned(),
            timeline: Some(3),
            lag_bytes,
            pending_restart: role == "leader",
            pending_restart_reason: pending(role == "leader"),
        };
        let frontend = |port, serves| Frontend { port, serves, backends_up: 1 };
        let status = Status {
            cluster: "demo".to_owned(),
            healthy: false,
            problems: vec!["pg2 is slow. Wait.".to_owned()],
            pause: false,
            scheduled_switchover: Some(ScheduledSwitchover {
                at: "2026-12-01T03:00:00+00:00".to_owned(),
                from: Some("pg1".to_owned()),
                to: None,
            }),
            members: vec![member("pg1", "leader", None), member("pg2", "sync_standby", Some(5_000_000))],
            dcs: Dcs {
                kind: "etcd",
                members: vec![DcsMember { name: "e1".to_owned(), healthy: true, leader: true }],
            },
            haproxy: vec![Haproxy {
                name: "lb".to_owned(),
                host: "10.0.0.9".to_owned(),
                frontends: vec![frontend(5000, "primary"), frontend(5001, "replica")],
            }],
            vip: Some(Vip { address: "10.0.0.100".to_owned(), holder: None }),
        };
        let plain = anstream::adapter::strip_str(&text(&status).join("\n")).to_string();
        insta::assert_snapshot!(plain, @r"
        Cluster demo is not healthy

        MEMBER  ADDRESS        ROLE          STATE                     TIMELINE  LAG
        pg1     10.0.0.1:5432  leader        running, restart pending  3         -
        pg2     10.0.0.1:5432  sync standby  running                   3         4 MiB

        ETCD  ROLE    STATE
        e1    leader  healthy

        HAPROXY  ADDRESS        SERVES   SERVERS
        lb       10.0.0.9:5000  primary  1 up
        lb       10.0.0.9:5001  replica  1 up

        Virtual address 10.0.0.100 is held by nobody

        pg1 waits for a restart: max_connections (100 -> 200)
        `pgfleet restart --pending` restarts in the right order.
        A switchover from pg1 to the best standby is scheduled for 2026-12-01T03:00:00+00:00

        ! pg2 is slow. Wait.
        ");
    }
}
