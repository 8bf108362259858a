//! `pgfleet upgrade`, `rollback`: newer versions of what runs, host by host, and the way back.

use super::{
    Exit,
    common::{Common, Format},
    context::Context,
    deploy::{self, Deploy, cancel_on_interrupt},
    error::{Error, Outcome},
    locked::{self, Waiting},
    major,
    reach::reach_any,
    rolling,
    status::table,
};
use crate::{
    cluster::{
        probe,
        upgrade::{self, Component, Done, Fleet, Found, Goal, News, Refusal, Undertaking, Upgraded, Way},
    },
    engine::Report,
    journal::Ended,
    model::PgMajor,
    playbook::Playbook,
    remote::protocol::Mode,
    ui::{self, steps::Steps},
};
use serde_json::Value;
use std::collections::BTreeSet;
use tokio_util::sync::CancellationToken;

/// Bring what runs to newer versions, host by host, while the cluster goes on taking writes
#[derive(clap::Args)]
#[command(after_help = "\
Without --component everything: etcd, the agent, PostgreSQL within its major version, HAProxy, keepalived, the
rest of the system, in this order. Looks first, and says what is installed where and what the hosts' archives
offer; package lists that are older than ten minutes are refreshed for that. Of each component, the host that
would be missed most comes last. Before each host the cluster must be well, and a client that writes through
the entry point all the while measures the interruption.

The agent is this very program, and is replaced without a restart of PostgreSQL. PostgreSQL restarts with its new
packages as `restart` does: standbys, a switchover, the old primary. Where a host fails, what was there before is
brought back on it, and the run stops. Nothing reboots; where a reboot is wanted, that is said. Stopped at any
point, the same command goes on from there.

Examples:
  pgfleet upgrade --check                                what is newer, and nothing else
  pgfleet upgrade                                        everything
  pgfleet upgrade --component agent                      the agent alone: no session ends
  pgfleet upgrade --component postgres --to 17.6 -y      that minor version
  pgfleet upgrade --component postgres --to 18           another major version, as `upgrade-major` does it
  pgfleet upgrade --component etcd --to 3.5              one minor version at a time
  pgfleet upgrade -y --max-write-gap 500                 stop if nobody could write for longer")]
pub struct UpgradeArgs {
    #[command(flatten)]
    pub common: Common,

    #[command(flatten)]
    pub waiting: Waiting,

    /// What to upgrade; everything when absent
    #[arg(long, value_enum)]
    pub component: Option<Word>,

    /// The version to go to, whole (`17.6-1.pgdg12+1`) or without the distribution's own part; the newest when absent
    #[arg(long, value_name = "VERSION")]
    pub to: Option<String>,

    /// Look only
    #[arg(long)]
    pub check: bool,

    /// Stop before the next host once nobody could write for longer than this
    #[arg(long, value_name = "MS")]
    pub max_write_gap: Option<u64>,
}

/// Bring back what a component was before its last upgrade, host by host
#[derive(clap::Args)]
#[command(after_help = "\
Of each component the last three states that were seen to work are kept on its hosts: of the agent its program,
unit and configuration, of everything else the versions of its packages, which must still be in an archive or in
apt's cache. The order is that of `upgrade`. `apply` and `upgrade` of the newer pgfleet bring its agent again.

Examples:
  pgfleet rollback                           the agent as it was before
  pgfleet rollback --component postgres      the packages of before, with a rolling restart
  pgfleet rollback --limit pg-2              on one host")]
pub struct RollbackArgs {
    #[command(flatten)]
    pub common: Common,

    #[command(flatten)]
    pub waiting: Waiting,

    /// What to bring back
    #[arg(long, value_enum, default_value_t = Word::Agent)]
    pub component: Word,

    /// Stop before the next host once nobody could write for longer than this
    #[arg(long, value_name = "MS")]
    pub max_write_gap: Option<u64>,
}

/// A component as the command line names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Word {
    Agent,
    Etcd,
    Zookeeper,
    Haproxy,
    Keepalived,
    Postgres,
    System,
}

impl Word {
    fn component(self) -> Result<Component, Error> {
        Ok(match self {
            Word::Agent => Component::Agent,
            Word::Etcd => Component::Etcd,
            Word::Haproxy => Component::Haproxy,
            Word::Keepalived => Component::Keepalived,
            Word::Postgres => Component::Postgres,
            Word::System => Component::System,
            Word::Zookeeper => {
                return Err(Error::usage(
                    "ZooKeeper is used by the cluster and installed by somebody else",
                    "upgrade it by the means that installed it: one member at a time, its leader last",
                ));
            }
        })
    }
}

pub async fn upgrade(args: UpgradeArgs) -> Outcome {
    let context = load(&args.common)?;
    let component = args.component.map(Word::component).transpose()?;
    let goal = upgrade::goal(component, args.to.as_deref(), &fleet(&context)).map_err(refused)?;
    let (components, to) = match goal {
        Goal::Newer { components, to } => (components, to),
        Goal::Major { to } => {
            let UpgradeArgs { common, waiting, check, .. } = args;
            let next = "name one of PostgreSQL's versions that this program knows";
            let to = PgMajor::try_from(to).map_err(|error| Error::usage(error.to_string(), next))?;
            return major::run(major::Args::to(to, common, waiting, check)).await;
        }
    };
    let mut command = vec!["upgrade".to_owned()];
    command.extend(component.map(|component| format!("--component {}", component.tag())));
    command.extend(args.to.as_ref().map(|to| format!("--to {to}")));
    let wanted = Wanted {
        way: Way::Newer { to },
        components,
        command: command.join(" "),
        check: args.check,
        max_write_gap: args.max_write_gap,
        waiting: &args.waiting,
    };
    carry_out(&context, wanted).await
}

pub async fn rollback(args: RollbackArgs) -> Outcome {
    let context = load(&args.common)?;
    let component = args.component.component()?;
    if component == Component::System {
        return Err(Error::usage(
            "the rest of the system has no generations",
            "bring single packages back by `apt-get install PACKAGE=VERSION` on the host",
        ));
    }
    upgrade::goal(Some(component), None, &fleet(&context)).map_err(refused)?;
    let wanted = Wanted {
        way: Way::Back,
        components: vec![component],
        command: format!("rollback --component {}", component.tag()),
        check: false,
        max_write_gap: args.max_write_gap,
        waiting: &args.waiting,
    };
    carry_out(&context, wanted).await
}

fn load(common: &Common) -> Result<Context, Error> {
    if !common.tags.is_empty() || !common.skip_tags.is_empty() {
        let next = "name what to upgrade with `--component`, and where with `--limit`";
        return Err(Error::usage("an upgrade has no tags", next));
    }
    Context::load(common)
}

fn fleet(context: &Context) -> Fleet {
    let inventory = &context.inventory;
    let mut members = inventory.group("postgres");
    let postgres = members.find_map(|host| match host.vars.get("postgres_version")? {
        Value::Number(number) => PgMajor::try_from(u16::try_from(number.as_u64()?).ok()?).ok(),
        text => PgMajor::try_from(text.as_str()?.parse::<u16>().ok()?).ok(),
    });
    let is_there = |component: &Component| {
        *component == Component::System || inventory.group(component.group()).next().is_some()
    };
    Fleet {
        has: Component::ALL.into_iter().filter(is_there).collect(),
        postgres,
        own: env!("CARGO_PKG_VERSION"),
    }
}

fn refused(refusal: Refusal) -> Error {
    let next = refusal.next_step();
    Error::usage(refusal.to_string(), next)
}

/// What one of the two commands is to do.
struct Wanted<'a> {
    way: Way,
    components: Vec<Component>,
    /// As the history is told of it.
    command: String,
    check: bool,
    max_write_gap: Option<u64>,
    waiting: &'a Waiting,
}

async fn carry_out(context: &Context, wanted: Wanted<'_>) -> Outcome {
    let common = &context.common;
    let playbook = deploy::load(context, "upgrade")?;
    let report = look(context, &playbook, &wanted).await?;
    if !report.succeeded() {
        return Ok(deploy::finish(context, &report, Mode::Check));
    }
    let mut found = upgrade::found(&report);
    if wanted.way == Way::Back {
        let all = found.clone();
        found.retain(|one| !upgrade::already_back(one, &all));
    }
    let due: Vec<Found> = found.iter().filter(|found| found.is_due()).cloned().collect();
    if common.format == Format::Text {
        tell(context, &report, &found, &due, &wanted.way);
    }
    if due.is_empty() || wanted.check {
        if common.format == Format::Json {
            ui::json(&Upgraded::nothing(context.inventory.cluster.clone(), found));
        }
        return Ok(Exit::Done);
    }
    let verb = if wanted.way == Way::Back { "Roll back" } else { "Upgrade" };
    let question = format!("{verb} {} in {}?", summary(&due), context.inventory.cluster);
    if !common.yes && ui::interactive() && !ui::confirm(&question) {
        ui::note("Nothing was changed.");
        return Ok(Exit::Done);
    }
    let holder = locked::holder(&wanted.command, common);
    let lock = wanted.waiting.changing(&holder);
    let upgraded = locked::during(context, lock, async |stop| {
        let with = Deploy { limit: None, ..Deploy::under(lock) };
        match go_through(context, playbook, &with, &wanted, (found, due), stop).await {
            Ok((upgraded, whole)) => (Ok(upgraded), Ended::of(&whole, false)),
            Err(error) => (Err(error), Ended::failed("nothing was begun")),
        }
    })
    .await?;
    match common.format {
        Format::Json => ui::json(&upgraded),
        Format::Text => tell_end(&upgraded, wanted.way == Way::Back),
    }
    Ok(if upgraded.stopped.is_some() { Exit::Failed } else { Exit::Done })
}

/// Looks at all hosts at once, and changes nothing.
async fn look(context: &Context, playbook: &Playbook, wanted: &Wanted<'_>) -> Result<Report, Error> {
    let mut options = deploy::options(context, &Deploy::looking(), Mode::Check)?;
    options.tags = wanted.components.iter().map(|component| component.tag().to_owned()).collect();
    options.vars = wanted.way.vars();
    let (sink, _) = tokio::sync::mpsc::unbounded_channel();
    let cancel = CancellationToken::new();
    let signals = tokio::spawn(cancel_on_interrupt(cancel.clone()));
    let engine = deploy::engine(context, options, sink, cancel);
    let report = ui::waiting("looking at the hosts and their archives", engine.run(playbook)).await;
    signals.abort();
    Ok(report?)
}

async fn go_through(
    context: &Context,
    playbook: Playbook,
    with: &Deploy<'_>,
    wanted: &Wanted<'_>,
    (found, due): (Vec<Found>, Vec<Found>),
    stop: &CancellationToken,
) -> Result<(Upgraded, Report), Error> {
    let options = deploy::options(context, with, Mode::Apply)?;
    let (topology, access) = reach_any(context).await?;
    let cancel = stop.child_token();
    let signals = tokio::spawn(cancel_on_interrupt(cancel.clone()));
    let mut display = Steps::default();
    let gone_through = probe::during(&topology, &access, async |probe| {
        let undertaking = Undertaking {
            inventory: &context.inventory,
            templates: &context.templates,
            playbook: &playbook,
            options,
            way: wanted.way.clone(),
            topology: &topology,
            access: &access,
            probe,
            cancel,
            max_write_gap: rolling::max_gap(wanted.max_write_gap),
        };
        let mut tell = |news: News<'_>| match news {
            News::Begun(what) => display.begin(what),
            News::Waiting(what) => display.waiting(what),
            News::Over(done) => display.over(&line(done)),
        };
        undertaking.carry_out(found, due, &mut tell).await
    })
    .await;
    display.clear();
    signals.abort();
    access.close().await;
    Ok(gone_through)
}

fn line(done: &Done) -> String {
    let gap = done.writes_interrupted_ms.map(|gap| format!(", longest pause between writes {gap} ms"));
    format!("{} ({:.1} s{})", done.what, done.took_ms as f64 / 1000.0, gap.unwrap_or_default())
}

/// Tells people how it ended.
fn tell_end(upgraded: &Upgraded, back: bool) {
    let gap = match upgraded.writes_interrupted_ms {
        Some(gap) => format!("the longest pause between two writes was {gap} ms"),
        None => "nobody could write through the entry point, before or meanwhile".to_owned(),
    };
    upgraded.warnings.iter().for_each(|warning| ui::warning(warning));
    let Some(stopped) = &upgraded.stopped else {
        let done = if back { "Rolled back" } else { "Upgraded" };
        return ui::line(&format!("{done} all that was asked for; {gap}."));
    };
    ui::line(&format!("Stopped; {gap}. Left:"));
    upgraded.left.iter().for_each(|left| ui::line(&format!("  {} on {}", left.component, left.host)));
    ui::error(&stopped.why, &[]);
    stopped.last_lines.iter().for_each(|line| ui::note(&format!("  | {line}")));
    match stopped.rolled_back {
        Some(true) => ui::note("  What was there before is back on this host."),
        Some(false) => ui::note("  What was there before could not be brought back on this host."),
        None => {}
    }
    ui::note(&format!("  next: {}", stopped.next_step));
}

/// What is installed where, and what comes; and what the hosts have to say.
fn tell(context: &Context, report: &Report, found: &[Found], due: &[Found], way: &Way) {
    lines(found, due, way).iter().for_each(|line| ui::note(line));
    let archives = context.inventory.group("etcd").any(|host| host.text("etcd_install") == Some("archive"));
    if archives && *way != Way::Back {
        ui::note("etcd comes from an archive: name another one in the inventory, then `pgfleet apply`.");
    }
    for (host, tally) in &report.hosts {
        tally.warnings.iter().for_each(|warning| ui::warning(&format!("{host}: {warning}")));
    }
}

fn lines(found: &[Found], due: &[Found], way: &Way) -> Vec<String> {
    let mut lines = Vec::new();
    let text = |version: Option<&str>| version.unwrap_or("-").to_owned();
    let rows = found.iter().flat_map(|found| {
        found.versions.iter().map(|version| {
            let (installed, to) = (text(version.installed.as_deref()), text(version.to.as_deref()));
            vec![found.host.to_string(), version.name.clone(), installed, to]
        })
    });
    let coming = if *way == Way::Back { "before" } else { "newer" };
    table(&mut lines, &["host", "what", "installed", coming], rows);
    for found in due.iter().filter(|found| found.newer().next().is_none()) {
        let why = match found.waits_for_restart {
            true => "runs what was replaced".to_owned(),
            false => found.changes.join(", "),
        };
        lines.push(format!("{} on {}: {why}", found.component, found.host));
    }
    if due.is_empty() {
        lines.push(match way {
            Way::Back => "Nothing is to be brought back.".to_owned(),
            Way::Newer { .. } => "Nothing is newer than what runs.".to_owned(),
        });
    }
    lines
}

/// `etcd (3 hosts), the agent (3 hosts)`.
fn summary(due: &[Found]) -> String {
    let components: BTreeSet<Component> = due.iter().map(|found| found.component).collect();
    let of = |component: &Component| {
        let hosts = due.iter().filter(|found| found.component == *component).count();
        format!("{component} ({hosts} {})", if hosts == 1 { "host" } else { "hosts" })
    };
    components.iter().map(of).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::remote::protocol::Version;

    fn found(component: Component, host: &str, versions: &[(&str, &str, Option<&str>)]) -> Found {
        let version = |(name, installed, to): &(&str, &str, Option<&str>)| Version {
            name: (*name).to_owned(),
            installed: Some((*installed).to_owned()),
            to: to.map(str::to_owned),
        };
        let changes = versions.iter().any(|(_, _, to)| to.is_some()).then(|| "packages".to_owned());
        Found {
            component,
            host: host.parse().unwrap(),
            versions: versions.iter().map(version).collect(),
            waits_for_restart: false,
            changes: changes.into_iter().collect(),
        }
    }

    #[test]
    fn people_read_what_is_installed_and_what_comes() {
        let stale = Found {
            waits_for_restart: true,
            ..found(Component::Postgres, "pg-2", &[("postgresql-15", "15.20-0+deb12u1", None)])
        };
        let all = [
            found(Component::Etcd, "etcd-1", &[("etcd-server", "3.4.23-4", None)]),
            found(Component::Etcd, "etcd-2", &[("etcd-server", "3.4.23-4", Some("3.5.16-4"))]),
            found(
                Component::Postgres,
                "pg-1",
                &[("postgresql-15", "15.18-0+deb12u1", Some("15.20-0+deb12u1"))],
            ),
            stale,
        ];
        let way = Way::Newer { to: None };
        let due: Vec<Found> = all.iter().filter(|found| found.is_due()).cloned().collect();
        insta::assert_snapshot!(lines(&all, &due, &way).join("\n"), @r"
        HOST    WHAT           INSTALLED        NEWER
        etcd-1  etcd-server    3.4.23-4         -
        etcd-2  etcd-server    3.4.23-4         3.5.16-4
        pg-1    postgresql-15  15.18-0+deb12u1  15.20-0+deb12u1
        pg-2    postgresql-15  15.20-0+deb12u1  -
        PostgreSQL on pg-2: runs what was replaced
        ");
        assert_eq!(summary(&due), "etcd (1 host), PostgreSQL (2 hosts)");
        let told = lines(&all[..1], &[], &way).join("\n");
        assert!(told.ends_with("Nothing is newer than what runs."), "{told}");
    }
}
