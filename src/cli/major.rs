//! `pgfleet upgrade-major`: the whole cluster brought to another major version of PostgreSQL, and back.

mod steps;
mod tell;

use super::{
    Exit,
    common::{Common, Format},
    context::Context,
    error::{Error, Outcome},
    locked::{self, Waiting},
    reach::reach_any,
};
use crate::{
    cluster::{
        Access, Kv, KvError, Topology,
        major::{self, Record, Refusal, Step, Touched, Wish, course},
        probe,
    },
    inventory::Dcs,
    journal::{self, Ended, Holder},
    model::PgMajor,
    remote::resource::Transfer,
    ui,
};
use std::sync::Arc;
use steps::Upgrade;
use tokio_util::sync::CancellationToken;

/// Bring PostgreSQL of the whole cluster to another major version with pg_upgrade, or back
#[derive(clap::Args)]
#[command(after_help = "\
First everything is looked at, and the new version is installed beside the old one. Then the cluster is shut
down in order, the primary's data are taken over, and the new primary lets clients in; until then nobody can
write. The other members copy its data one after the other, into new directories: the old data stay on all
members until --finish.

Until the new primary takes a write there is a way back, also after a failure or a crash of this machine, and
a step that fails before that goes back by itself. The same command goes on from wherever it was stopped.

How the data are taken over (--transfer): `clone` is fast and needs no space, on XFS and Btrfs; `copy` works
everywhere, takes as long as copying the data, and their space once more. `link` is fast everywhere, and its
price is the way back: once the new server was started, the old data are of no use.

Examples:
  pgfleet upgrade-major --to 17 --check    looks, installs the new version, runs pg_upgrade --check
  pgfleet upgrade-major --to 17            does it
  pgfleet upgrade-major --to 17 --hold     stops when the data are upgraded, before anybody gets to them
  pgfleet upgrade-major --back             serves from the old data again
  pgfleet upgrade-major --finish           deletes the old data and the old version's packages")]
pub struct Args {
    #[command(flatten)]
    pub common: Common,

    #[command(flatten)]
    pub waiting: Waiting,

    /// The major version to bring the cluster to
    #[arg(long, value_name = "MAJOR", value_parser = major, required_unless_present_any = ["back", "finish"])]
    pub to: Option<PgMajor>,

    /// Look whether anything stands in the way, and shut nothing down
    #[arg(long, conflicts_with_all = ["back", "finish", "hold"])]
    pub check: bool,

    /// Stop when the data are upgraded, before clients get to them
    #[arg(long, conflicts_with_all = ["back", "finish"])]
    pub hold: bool,

    /// How the data are taken over; `clone` where the primary's file system can, else `copy`
    #[arg(long, value_enum, conflicts_with_all = ["back", "finish"])]
    pub transfer: Option<Transfer>,

    /// Give the upgrade up, and serve from the old data again
    #[arg(long, conflicts_with_all = ["to", "finish"])]
    pub back: bool,

    /// Delete the old data and the old version's packages
    #[arg(long, conflicts_with = "to")]
    pub finish: bool,
}

fn major(text: &str) -> Result<PgMajor, String> {
    let number: u16 = text.parse().map_err(|_| "expected a major version such as 17".to_owned())?;
    PgMajor::try_from(number).map_err(|error| error.to_string())
}

impl Args {
    /// An upgrade to this version, as `pgfleet upgrade` asks for it.
    pub fn to(to: PgMajor, common: Common, waiting: Waiting, check: bool) -> Self {
        Self { common, waiting, to: Some(to), check, hold: false, transfer: None, back: false, finish: false }
    }

    fn wish(&self) -> Wish {
        match self.to {
            _ if self.back => Wish::Back,
            _ if self.finish => Wish::Finish,
            Some(to) => Wish::Upgrade(to),
            None => Wish::Back,
        }
    }

    fn command(&self) -> String {
        let to = self.to.map(|to| format!(" --to {to}")).unwrap_or_default();
        let flags = [(self.check, " --check"), (self.hold, " --hold"), (self.back, " --back")];
        let flags = flags.into_iter().chain([(self.finish, " --finish")]);
        let flags: String = flags.filter(|(is, _)| *is).map(|(_, flag)| flag).collect();
        format!("upgrade-major{to}{flags}")
    }
}

pub async fn run(args: Args) -> Outcome {
    let common = &args.common;
    if common.limit.is_some() || !common.tags.is_empty() || !common.skip_tags.is_empty() {
        return Err(Error::usage(
            "a cluster changes its major version as a whole",
            "leave out --limit, --tags and --skip-tags",
        ));
    }
    let asked = Context::load(common)?;
    if asked.inventory.dcs() != Dcs::Etcd {
        return Err(Error::usage(
            "an upgrade to another major version needs etcd, where it keeps how far it is",
            "with ZooKeeper, make a new cluster of the new version and copy the databases with pg_dump",
        ));
    }
    let holder = locked::holder(&args.command(), common);
    let lock = args.waiting.changing(&holder);
    let exit = locked::during(&asked, lock, async |stop| {
        let outcome = under_lock(&args, &asked, &holder, stop).await;
        let ended = match &outcome {
            Ok((remark, _)) => Ended::done(remark.clone()),
            Err(error) => Ended::failed(error.summary()),
        };
        (outcome.map(|(_, exit)| exit), ended)
    });
    exit.await
}

/// What a store that does not answer means.
fn store(error: KvError) -> Error {
    Error::failed(error).next("See whether etcd is well: `pgfleet status`.")
}

fn refused(refusal: Refusal) -> Error {
    let next = refusal.next_step();
    Error::failed(refusal).next(next)
}

/// Does it; returns what the history is told, and the exit code.
async fn under_lock(
    args: &Args,
    asked: &Context,
    holder: &Holder,
    stop: &CancellationToken,
) -> Result<(String, Exit), Error> {
    let kv = journal::store(&asked.inventory, &asked.ssh()).await.map_err(Error::from)?;
    let kv = Arc::new(kv.ok_or_else(|| Error::failed(anyhow::anyhow!("the cluster has no etcd")))?);
    let record = Record::load(&kv, &asked.inventory.cluster).await.map_err(store)?;
    let wish = args.wish();
    if record.is_none() && !matches!(wish, Wish::Upgrade(_)) {
        return Err(refused(Refusal::Nothing));
    }
    let (topology, access) = reach_any(asked).await?;
    let outcome = on_hosts(args, asked, (&topology, &access), (&kv, record), (holder, stop)).await;
    access.close().await;
    outcome
}

async fn on_hosts(
    args: &Args,
    asked: &Context,
    (topology, access): (&Topology, &Access),
    (kv, record): (&Arc<Kv>, Option<Record>),
    (holder, stop): (&Holder, &CancellationToken),
) -> Result<(String, Exit), Error> {
    let wish = args.wish();
    let from = match &record {
        Some(record) => record.from,
        None => major::version(topology, access).await.ok_or_else(|| {
            Error::failed(anyhow::anyhow!("the members do not say with one voice which version they run"))
                .next("All members have to be there: see `pgfleet status`.")
        })?,
    };
    let to = match (&record, wish) {
        (_, Wish::Upgrade(to)) => to,
        (Some(record), _) => record.to,
        (None, _) => return Err(refused(Refusal::Nothing)),
    };
    let mut upgrade = Upgrade {
        args,
        // Whatever version the inventory names: before the upgrade or after it.
        old: &asked.with(&[format!("postgres_version={from}")])?,
        new: &asked.with(&[format!("postgres_version={to}")])?,
        versions: (from, to),
        topology,
        access,
        kv,
        holder,
        stop,
        record,
        draft: None,
        done: Vec::new(),
        points: Vec::new(),
        held: false,
    };
    let touched = upgrade.touched(wish).await?;
    let steps = course(upgrade.record.as_ref(), wish, touched).map_err(refused)?;
    if steps.is_empty() {
        ui::note(&format!("All members run PostgreSQL {to} already; `--finish` deletes the old data."));
    }
    let result = probe::during(topology, access, async |probe| {
        let result = go(&mut upgrade, &steps, probe).await;
        result.map(|()| probe.longest())
    });
    let longest = match result.await {
        Ok(longest) => longest,
        Err(error) => {
            if args.common.format == Format::Json {
                ui::json(&tell::report(&upgrade, None));
            }
            return Err(error);
        }
    };
    match args.common.format {
        Format::Json => ui::json(&tell::report(&upgrade, longest)),
        Format::Text => tell::summary(&upgrade, asked, longest).await,
    }
    let remark = match wish {
        Wish::Upgrade(_) => match &upgrade.record {
            None => format!("PostgreSQL {from} -> {to}: checked"),
            Some(record) => format!("PostgreSQL {from} -> {to}: {}", record.phase.words()),
        },
        Wish::Back => format!("PostgreSQL {to} -> {from}: back on the old data"),
        Wish::Finish => format!("the data of PostgreSQL {from} are deleted"),
    };
    Ok((remark, Exit::Done))
}

/// Goes through the steps. One that fails before the new primary has taken a write is undone.
async fn go(upgrade: &mut Upgrade<'_>, steps: &[Step], probe: &probe::Probe) -> Result<(), Error> {
    for step in steps {
        if let Some(question) = upgrade.question(*step)
            && !agreed(&upgrade.args.common, &question)
        {
            upgrade.held = true;
            return Ok(());
        }
        let Err(error) = upgrade.carry_out(*step, probe).await else {
            if upgrade.ends_after(*step) {
                return Ok(());
            }
            continue;
        };
        let undoes = matches!(step, Step::Stop | Step::Upgrade | Step::Open);
        if !undoes || upgrade.record.is_none() || upgrade.stop.is_cancelled() {
            return Err(error);
        }
        let touched = upgrade.touched(Wish::Back).await.unwrap_or(Touched::Written);
        if course(upgrade.record.as_ref(), Wish::Back, touched).is_err() {
            return Err(error.next("The new primary has been written to: run the same command again."));
        }
        ui::warning("it did not work out: back to the old data");
        let (from, _) = upgrade.versions;
        return Err(match upgrade.carry_out(Step::GoBack, probe).await {
            Ok(()) => {
                error.next(format!("The cluster serves PostgreSQL {from} again. Mend it, then try anew."))
            }
            Err(second) => {
                second.report();
                error.next(
                    "The way back did not work out either: `pgfleet upgrade-major --back` tries it again.",
                )
            }
        });
    }
    Ok(())
}

fn agreed(common: &Common, question: &str) -> bool {
    common.yes || !ui::interactive() || ui::confirm(question)
}
