//! `pgfleet status`: what is true of the cluster now.

use super::{
    Exit,
    common::{Common, Format},
    context::Context,
    error::Outcome,
    reach::reach,
};
use crate::{
    cluster::{self, Status},
    ui,
};
use comfy_table::{CellAlignment, Table, presets::NOTHING};

/// Show who leads, who follows, and what is wrong, as every part of the cluster tells it
#[derive(clap::Args)]
#[command(after_help = "\
Asks each agent, the DCS, HAProxy and the holders of the virtual address, all at once and through SSH:
no other port has to be open to this machine. Changes nothing.

Exit code: 0 when all is well, 1 when something is wrong, 3 when a host cannot be reached.

Examples:
  pgfleet status -i inventory.yml
  pgfleet status --format json | jq .problems")]
pub struct Args {
    #[command(flatten)]
    pub common: Common,
}

pub async fn run(args: Args) -> Outcome {
    let context = Context::load(&args.common)?;
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
    if !status.problems.is_empty() {
        lines.push(String::new());
        lines.extend(status.problems.iter().map(|problem| format!("{bad}!{bad:#} {problem}")));
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
    use crate::cluster::{Dcs, DcsMember, Frontend, Haproxy, Member, Vip};

    #[test]
    fn people_read_tables() {
        let member = |name: &str, role: &str, lag_bytes| Member {
            name: name.to_owned(),
            host: "10.0.0.1".to_owned(),
            port: 5432,
            role: role.to_owned(),
            state: "running".to_owned(),
            timeline: Some(3),
            lag_bytes,
            pending_restart: role == "leader",
        };
        let frontend = |port, serves| Frontend { port, serves, backends_up: 1 };
        let status = Status {
            cluster: "demo".to_owned(),
            healthy: false,
            problems: vec!["pg2 is slow. Wait.".to_owned()],
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

        ! pg2 is slow. Wait.
        ");
    }
}
