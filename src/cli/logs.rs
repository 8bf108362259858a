//! `pgfleet logs`: the logs of all hosts as one.

use super::{
    common::{Common, Format},
    context::Context,
    error::{Error, Outcome},
    hosts::{Hosts, exit, tell},
};
use crate::{
    fleet::logs::{self, Entry, Selection, Wanted},
    inventory, ui,
    ui::hosts::Names,
};
use jiff::{SignedDuration, Timestamp, Zoned, civil::DateTime, tz::TimeZone};

/// Show the logs of all hosts as one, in the order of time
#[derive(clap::Args)]
#[command(after_help = "\
Without --unit: what matters on each host by its groups (etcd, the agent, haproxy, keepalived), and
PostgreSQL's own log. Entries of hosts whose clocks differ are in the order of their clocks.

Examples:
  pgfleet logs -f                          everything, as it happens
  pgfleet logs postgres --since 10m        the last ten minutes of the database hosts
  pgfleet logs pg-1 --unit postgres -n 200 PostgreSQL's own log alone
  pgfleet logs --since '2026-01-31 10:00' --format json > logs.json   one JSON document per line")]
pub struct Args {
    #[command(flatten)]
    pub common: Common,

    /// Hosts: names, groups, globs
    #[arg(value_name = "PATTERN", default_value = "all")]
    pub pattern: String,

    /// Only this unit; `postgres` is PostgreSQL's own log. May be given several times
    #[arg(short, long, value_name = "UNIT")]
    pub unit: Vec<String>,

    /// From this moment on: `10m`, `2h`, `today`, `2026-01-31 10:00`, or with a time zone as in RFC 3339
    #[arg(long, value_name = "TIME")]
    pub since: Option<String>,

    /// Go on as entries come
    #[arg(short, long)]
    pub follow: bool,

    /// How many of the last entries of each log on each host; 50 unless --since is given
    #[arg(short = 'n', long, value_name = "N")]
    pub lines: Option<u32>,
}

pub async fn run(args: Args) -> Outcome {
    let since = args.since.as_deref().map(|text| moment(text, &Zoned::now())).transpose()?;
    let lines = args.lines.or_else(|| since.is_none().then_some(50));
    let context = Context::load(&args.common)?;
    let hosts = Hosts::connect(&context, &args.pattern, None).await?;
    let cluster = context.inventory.cluster.as_str();
    let wanted: Vec<Wanted> = hosts.chosen.iter().map(|host| wanted(host, cluster, &args.unit)).collect();
    let selection = Selection { since, lines, follow: args.follow };

    let names = Names::of(&hosts.names);
    let (sender, mut entries) = tokio::sync::mpsc::channel(256);
    let read = logs::read(&hosts.access, &wanted, &selection, sender);
    let show = async {
        while let Some(entry) = entries.recv().await {
            match args.common.format {
                Format::Text => ui::line(&text(&names, &entry, &TimeZone::system())),
                Format::Json => ui::json_line(&entry),
            }
        }
    };
    let troubles = tokio::select! {
        (troubles, ()) = async { tokio::join!(read, show) } => troubles,
        // Following ends that way; nothing went wrong.
        _ = tokio::signal::ctrl_c() => Vec::new(),
    };
    hosts.access.close().await;
    troubles.iter().for_each(|(host, trouble)| tell(host, trouble));
    Ok(exit(troubles.iter().map(|(_, trouble)| trouble)))
}

fn wanted(host: &inventory::Host, cluster: &str, only: &[String]) -> Wanted {
    let (units, has_postgres) = logs::units(&host.groups);
    let units = match only {
        [] => units.iter().map(|unit| (*unit).to_owned()).collect(),
        only => only.iter().filter(|unit| *unit != "postgres").cloned().collect(),
    };
    let postgres = has_postgres && (only.is_empty() || only.iter().any(|unit| unit == "postgres"));
    let file = format!("/var/log/postgresql/{cluster}-{}.log", host.name);
    Wanted { host: host.name.clone(), units, postgres_log: postgres.then_some(file) }
}

fn text(names: &Names, entry: &Entry, zone: &TimeZone) -> String {
    let (bad, changed, dim) = (ui::BAD, ui::CHANGED, ui::DIM);
    let time = entry.time.to_zoned(zone.clone()).strftime("%Y-%m-%d %H:%M:%S%.3f");
    let message = entry.message.trim_end();
    let message = match entry.priority {
        0..=3 => format!("{bad}{message}{bad:#}"),
        4 => format!("{changed}{message}{changed:#}"),
        _ => message.to_owned(),
    };
    format!("{dim}{time}{dim:#} {} {dim}{}{dim:#}: {message}", names.show(&entry.host), entry.source)
}

/// The moment that a person means.
fn moment(text: &str, now: &Zoned) -> Result<Timestamp, Error> {
    let text = text.trim();
    let zone = now.time_zone().clone();
    let local = |at: DateTime| at.to_zoned(zone.clone()).map(|at| at.timestamp()).ok();
    let midnight = |days: i64| {
        let day = now.date().checked_sub(SignedDuration::from_hours(24 * days)).ok()?;
        local(day.to_datetime(jiff::civil::Time::midnight()))
    };
    let ago = || {
        let ago: SignedDuration = text.trim_start_matches('-').trim_end_matches(" ago").parse().ok()?;
        now.timestamp().checked_sub(ago).ok()
    };
    let found = match text {
        "now" => Some(now.timestamp()),
        "today" => midnight(0),
        "yesterday" => midnight(1),
        _ => text
            .parse::<Timestamp>()
            .ok()
            .or_else(|| text.parse::<DateTime>().ok().and_then(local))
            .or_else(|| text.strip_suffix('d').and_then(|days| midnight_free(days, now)))
            .or_else(ago),
    };
    found.ok_or_else(|| {
        let next = "Write `10m`, `2h`, `3d`, `today`, `yesterday`, `2026-01-31 10:00`, or RFC 3339.";
        Error::usage(format!("`{text}` is no moment"), next)
    })
}

/// So many days ago, to the second.
fn midnight_free(days: &str, now: &Zoned) -> Option<Timestamp> {
    let days: i64 = days.trim_start_matches('-').trim().parse().ok()?;
    now.timestamp().checked_sub(SignedDuration::from_hours(24 * days)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_as_people_write_them() {
        let now: Zoned = "2026-03-10T12:00:00+01:00[+01:00]".parse().unwrap();
        for (text, expected) in [
            ("10m", "2026-03-10T10:50:00Z"),
            ("-2h", "2026-03-10T09:00:00Z"),
            ("1h 30m ago", "2026-03-10T09:30:00Z"),
            ("3d", "2026-03-07T11:00:00Z"),
            ("today", "2026-03-09T23:00:00Z"),
            ("yesterday", "2026-03-08T23:00:00Z"),
            ("2026-01-31 10:00", "2026-01-31T09:00:00Z"),
            ("2026-01-31", "2026-01-30T23:00:00Z"),
            ("2026-01-31T10:00:00Z", "2026-01-31T10:00:00Z"),
        ] {
            assert_eq!(moment(text, &now).unwrap().to_string(), expected, "{text}");
        }
        for text in ["", "soon", "10", "2026-13-01"] {
            assert!(moment(text, &now).is_err(), "{text}");
        }
    }

    #[test]
    fn people_read_a_line_per_entry() {
        let names = Names::of(&["pg-1".parse().unwrap(), "haproxy-1".parse().unwrap()]);
        let entry = |priority, message: &str| Entry {
            time: "2026-01-31T10:00:00.12Z".parse().unwrap(),
            host: "pg-1".parse().unwrap(),
            source: "pgfleet-agent".to_owned(),
            priority,
            message: message.to_owned(),
        };
        let lines =
            [entry(6, "leads\n"), entry(3, "fails")].map(|entry| text(&names, &entry, &TimeZone::UTC));
        insta::assert_snapshot!(anstream::adapter::strip_str(&lines.join("\n")).to_string(), @r"
        2026-01-31 10:00:00.120 pg-1      pgfleet-agent: leads
        2026-01-31 10:00:00.120 pg-1      pgfleet-agent: fails
        ");
    }
}
