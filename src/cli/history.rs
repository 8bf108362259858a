//! `pgfleet history` and `pgfleet unlock`: who changed the cluster, and who is about to.

use super::{
    Exit,
    common::{Common, Format},
    context::Context,
    error::{Error, Outcome},
};
use crate::{
    cluster::{Kv, KvError},
    diagnostic::did_you_mean,
    journal::{
        self,
        history::{self, Entry, Outcome as Fate},
    },
    ui,
};
use comfy_table::{Table, presets::NOTHING};
use jiff::tz::TimeZone;

/// Show every run that changed the cluster or failed: who, when, from where, what, and how it went
#[derive(clap::Args)]
#[command(after_help = "\
The history is kept in the cluster's own etcd (the last 200 runs), so every machine sees the same.

Examples:
  pgfleet history
  pgfleet history 20260131-101500-3f9c      what that run changed, host by host
  pgfleet history --format json | jq '.[-1]'")]
pub struct Args {
    #[command(flatten)]
    pub common: Common,

    /// One run, by its id or the beginning of it
    #[arg(value_name = "ID")]
    pub id: Option<String>,
}

/// Break the deploy lock of another run
#[derive(clap::Args)]
#[command(after_help = "\
A lock ends by itself within 15 s when the machine that holds it is gone, so this is rarely needed. The run
that held it notices and stops before its next play; what it has done stays.

Examples:
  pgfleet unlock             shows whose lock it is, and asks
  pgfleet unlock -y")]
pub struct UnlockArgs {
    #[command(flatten)]
    pub common: Common,
}

pub async fn run(args: Args) -> Outcome {
    let context = Context::load(&args.common)?;
    let kv = store(&context).await?;
    let entries = history::list(&kv, &context.inventory.cluster).await.map_err(away)?;
    let Some(id) = &args.id else {
        match args.common.format {
            Format::Json => ui::json(&entries),
            Format::Text if entries.is_empty() => ui::note("No run is remembered."),
            Format::Text => table(&entries).iter().for_each(|line| ui::line(line)),
        }
        return Ok(Exit::Done);
    };
    let entry = match entries.iter().filter(|entry| entry.id.starts_with(id.as_str())).collect::<Vec<_>>()[..]
    {
        [entry] => entry,
        [] => {
            let next = did_you_mean(id, entries.iter().map(|entry| entry.id.as_str()));
            let next =
                next.unwrap_or_else(|| "See `pgfleet history` for the runs that are remembered.".to_owned());
            return Err(Error::usage(format!("no run `{id}` is remembered"), next));
        }
        _ => {
            return Err(Error::usage(format!("`{id}` is the beginning of several ids"), "Write more of it."));
        }
    };
    match args.common.format {
        Format::Json => ui::json(entry),
        Format::Text => detail(entry, &TimeZone::system()).iter().for_each(|line| ui::line(line)),
    }
    Ok(Exit::Done)
}

pub async fn unlock(args: UnlockArgs) -> Outcome {
    let context = Context::load(&args.common)?;
    let kv = store(&context).await?;
    let Some((holder, lease)) = journal::holder(&kv, &context.inventory.cluster).await.map_err(away)? else {
        ui::note("Nobody holds the deploy lock.");
        return Ok(Exit::Done);
    };
    ui::note(&format!("{}.", holder.describe()));
    if !args.common.yes && !ui::confirm("Break its lock?") {
        ui::note("The lock was left alone. Break it with -y.");
        return Ok(Exit::Failed);
    }
    journal::unlock(&kv, (&holder, lease)).await.map_err(away)?;
    ui::note("The lock is broken.");
    Ok(Exit::Done)
}

async fn store(context: &Context) -> Result<Kv, Error> {
    let next = "Deploy with etcd to have them; until then the locks on the hosts hold.";
    let store = ui::waiting("connecting", journal::store(&context.inventory, &context.ssh())).await?;
    store.ok_or_else(|| {
        Error::usage("the history and the deploy lock need etcd, and this cluster has ZooKeeper", next)
    })
}

pub fn away(error: KvError) -> Error {
    let next = match &error {
        KvError::Away(_) => "See `pgfleet status`; the history is in etcd, and needs most of its members.",
        _ => "See the log of etcd: `pgfleet logs --unit etcd`.",
    };
    Error::failed(anyhow::anyhow!("etcd does not answer: {error}")).next(next)
}

/// The lines that people read, the latest run first.
fn table(entries: &[Entry]) -> Vec<String> {
    let mut table = Table::new();
    table.load_preset(NOTHING).set_header(["ID", "WHO", "TOOK", "OUTCOME", "CHANGED", "COMMAND"]);
    for entry in entries.iter().rev() {
        table.add_row([
            entry.id.clone(),
            entry.who.to_string(),
            took(entry),
            // Colour would be counted as width by the table.
            entry.outcome.as_str().to_owned(),
            changed(entry),
            entry.command.clone(),
        ]);
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.lines().map(|line| line.trim_end().to_owned()).collect()
}

fn took(entry: &Entry) -> String {
    match entry.seconds() {
        None => "-".to_owned(),
        Some(seconds @ 0..60) => format!("{seconds} s"),
        Some(seconds) => format!("{} min {} s", seconds / 60, seconds % 60),
    }
}

fn outcome(fate: Fate) -> String {
    let style = match fate {
        Fate::Done => ui::GOOD,
        Fate::Running | Fate::Stopped => ui::CHANGED,
        Fate::Failed | Fate::Locked | Fate::Died => ui::BAD,
    };
    format!("{style}{}{style:#}", fate.as_str())
}

fn changed(entry: &Entry) -> String {
    match (entry.changed(), entry.hosts.len()) {
        (0, _) => "-".to_owned(),
        (1, _) => "1 step on 1 host".to_owned(),
        (steps, 1) => format!("{steps} steps on 1 host"),
        (steps, hosts) => format!("{steps} steps on {hosts} hosts"),
    }
}

fn detail(entry: &Entry, zone: &TimeZone) -> Vec<String> {
    let heading = ui::HEADING;
    let at = entry.began.to_zoned(zone.clone()).strftime("%Y-%m-%d %H:%M:%S %Z");
    let mut lines = vec![
        format!("{heading}pgfleet {}{heading:#}", entry.command),
        format!("by {}, {at}, took {}: {}", entry.who, took(entry), outcome(entry.outcome)),
    ];
    for (host, changes) in &entry.hosts {
        lines.push(format!("\n{heading}{host}{heading:#}: {} changed", changes.count));
        lines.extend(changes.steps.iter().map(|step| format!("  {step}")));
        let more = changes.count.saturating_sub(changes.steps.len());
        lines.extend((more > 0).then(|| format!("  and {more} more")));
    }
    if !entry.remarks.is_empty() {
        lines.push(String::new());
        lines.extend(entry.remarks.iter().cloned());
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::{Author, history::Changes};
    use indexmap::IndexMap;

    fn entry(id: &str, fate: Fate, hosts: &[(&str, &[&str])]) -> Entry {
        let changes = |steps: &[&str]| Changes {
            count: steps.len(),
            steps: steps.iter().map(|step| (*step).to_owned()).collect(),
        };
        Entry {
            id: id.to_owned(),
            who: Author { user: "alice".to_owned(), machine: "laptop".to_owned() },
            command: "apply --limit pg-1".to_owned(),
            began: "2026-01-31T10:15:00Z".parse().unwrap(),
            ended: (fate != Fate::Died).then(|| "2026-01-31T10:16:05Z".parse().unwrap()),
            outcome: fate,
            hosts: hosts
                .iter()
                .map(|(host, steps)| ((*host).to_owned(), changes(steps)))
                .collect::<IndexMap<_, _>>(),
            remarks: if fate == Fate::Failed {
                vec!["pg-1: Start it: it ended".to_owned()]
            } else {
                Vec::new()
            },
        }
    }

    #[test]
    fn people_read_a_table_and_a_page_per_run() {
        let failed = entry("20260131-101500-3f9c", Fate::Failed, &[("pg-1", &["Write it", "Start it"])]);
        let died = entry("20260131-120000-0001", Fate::Died, &[]);
        let page = detail(&failed, &TimeZone::UTC).join("\n");
        let text = format!("{}\n---\n{page}", table(&[failed, died]).join("\n"));
        insta::assert_snapshot!(anstream::adapter::strip_str(&text).to_string(), @r"
        ID                    WHO           TOOK       OUTCOME  CHANGED            COMMAND
        20260131-120000-0001  alice@laptop  -          died     -                  apply --limit pg-1
        20260131-101500-3f9c  alice@laptop  1 min 5 s  failed   2 steps on 1 host  apply --limit pg-1
        ---
        pgfleet apply --limit pg-1
        by alice@laptop, 2026-01-31 10:15:00 UTC, took 1 min 5 s: failed

        pg-1: 2 changed
          Write it
          Start it

        pg-1: Start it: it ended
        ");
    }
}
