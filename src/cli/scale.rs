//! `pgfleet add`, `remove`, `replace`: hosts come and go, the cluster stays writable.

use super::{
    Exit,
    common::{Common, Format},
    context::Context,
    deploy::{self, Deploy, Held},
    error::{Error, Outcome},
    locked::{self, Waiting},
    reach::reach_any,
};
use crate::{
    cluster::{self, Status, Switched},
    diagnostic,
    engine::Report,
    journal::{Ended, Holder},
    model::HostName,
    remote::protocol::Mode,
    ui,
};
use serde::Serialize;
use serde_json::json;
use std::collections::BTreeSet;

/// Bring new hosts of the inventory into the running cluster, in whatever roles it gives them
#[derive(clap::Args)]
#[command(after_help = "\
Write the hosts into the inventory first. Members of etcd join one at a time, a new PostgreSQL copies the
leader's data, every HAProxy learns of it; nothing that runs is restarted.

Examples:
  pgfleet add pg-4                    one more replica
  pgfleet add etcd-4 etcd-5           from three members of etcd to five")]
pub struct AddArgs {
    #[command(flatten)]
    pub common: Common,

    #[command(flatten)]
    pub waiting: Waiting,

    /// The new hosts, by their names in the inventory
    #[arg(value_name = "HOST", required = true)]
    pub hosts: Vec<HostName>,
}

/// Take hosts out of the running cluster
#[derive(clap::Args)]
#[command(after_help = "\
The hosts must still be in the inventory; delete them from it afterwards. A leader hands over first, etcd
forgets its member, the entry points forget the server, then its services are shut down in order. It is
refused where etcd would lose its quorum or no PostgreSQL would be left. Data stay on the hosts unless
--delete-data is given.

Examples:
  pgfleet remove pg-4
  pgfleet remove etcd-4 etcd-5 -y")]
pub struct RemoveArgs {
    #[command(flatten)]
    pub common: Common,

    #[command(flatten)]
    pub waiting: Waiting,

    /// The hosts that leave, by their names in the inventory
    #[arg(value_name = "HOST", required = true)]
    pub hosts: Vec<HostName>,

    /// Delete PostgreSQL's data on them too
    #[arg(long)]
    pub delete_data: bool,
}

/// Put a new host in the place of one that is dead
#[derive(clap::Args)]
#[command(after_help = "\
Write the new host into the inventory in the place of the old one. The cluster forgets the old host, then the
new one joins in its roles. An old host that is still alive is better left in the inventory beside the new one
until this has shut it down in order.

Example:
  pgfleet replace pg-2 pg-4")]
pub struct ReplaceArgs {
    #[command(flatten)]
    pub common: Common,

    #[command(flatten)]
    pub waiting: Waiting,

    /// The host that leaves
    #[arg(value_name = "OLD")]
    pub old: HostName,

    /// The host that comes
    #[arg(value_name = "NEW")]
    pub new: HostName,
}

/// What became of a request that hosts leave.
#[derive(Serialize)]
struct Left<'a> {
    left: &'a [HostName],
    /// Hosts that were not there to be cleaned.
    unreachable: Vec<&'a HostName>,
    switchover: Option<Switched>,
    runs: Vec<Report>,
}

impl Left<'_> {
    fn exit(&self) -> Exit {
        self.runs.last().map_or(Exit::Done, deploy::exit)
    }
}

pub async fn add(args: AddArgs) -> Outcome {
    let context = Context::load(&args.common)?;
    known(&context, &args.hosts)?;
    let status = status(&context).await?;
    let newcomers: BTreeSet<&str> = args.hosts.iter().map(HostName::as_str).collect();
    let members = status.members.iter().filter(|member| member.is_there());
    let dcs = status.dcs.members.iter().filter(|member| member.healthy).map(|member| &member.name);
    if let Some(name) =
        members.map(|member| &member.name).chain(dcs).find(|name| newcomers.contains(name.as_str()))
    {
        return Err(Error::usage(
            format!("`{name}` is in the cluster already"),
            "name the hosts that are new; `pgfleet apply` changes those that are there",
        ));
    }
    if status.leader().is_none() {
        return Err(Error::failed(anyhow::anyhow!("nobody leads the cluster, so nobody can join it"))
            .next("See what is wrong with `pgfleet status`; a cluster that is not there yet is made by `pgfleet bootstrap`."));
    }
    let question = format!("Bring {} into {}?", list(&args.hosts), context.inventory.cluster);
    if !agreed(&args.common, &question) {
        return Ok(Exit::Done);
    }
    let playbook = deploy::load(&context, "apply")?;
    let holder = locked::holder(&format!("add {}", list(&args.hosts)), &args.common);
    let with = Deploy::under(args.waiting.changing(&holder));
    let report = deploy::carry_out(&context, &playbook, &with).await?;
    Ok(deploy::finish(&context, &report, Mode::Apply))
}

pub async fn remove(args: RemoveArgs) -> Outcome {
    let context = Context::load(&args.common)?;
    known(&context, &args.hosts)?;
    let what = if args.delete_data { ", and delete PostgreSQL's data there" } else { "" };
    let question = format!("Take {} out of {}{what}?", list(&args.hosts), context.inventory.cluster);
    if !agreed(&args.common, &question) {
        return Ok(Exit::Done);
    }
    let holder = locked::holder(&format!("remove {}", list(&args.hosts)), &args.common);
    leave(&context, &args.hosts, args.delete_data, &holder, &args.waiting).await
}

pub async fn replace(args: ReplaceArgs) -> Outcome {
    let context = Context::load(&args.common)?;
    known(&context, std::slice::from_ref(&args.new))?;
    let groups = |name: &HostName| {
        context.inventory.hosts.get(name).map(|host| host.groups.clone()).unwrap_or_default()
    };
    let (old, new) = (groups(&args.old), groups(&args.new));
    if let Some(missing) = old.iter().find(|group| !new.contains(group)) {
        return Err(Error::usage(
            format!("`{}` is in the group `{missing}`, `{}` is not", args.old, args.new),
            format!("name `{}` in the group `{missing}` of the inventory too", args.new),
        ));
    }
    let question = format!("Put {} in the place of {} in {}?", args.new, args.old, context.inventory.cluster);
    if !agreed(&args.common, &question) {
        return Ok(Exit::Done);
    }
    let holder = locked::holder(&format!("replace {} {}", args.old, args.new), &args.common);
    leave(&context, &[args.old], false, &holder, &args.waiting).await
}

/// Lets hosts leave, under one lock from the first look to the last step; whoever is new in the inventory joins on the
/// way.
async fn leave(
    context: &Context,
    hosts: &[HostName],
    delete_data: bool,
    holder: &Holder,
    waiting: &Waiting,
) -> Outcome {
    // Judged without what would be left: an inventory that makes no cluster is refused before anything else.
    let rest = context.without(hosts)?;
    // The lock is kept by those who stay.
    let left = locked::during(&rest, waiting.changing(holder), async |stop| {
        let mut left = Left { left: hosts, unreachable: Vec::new(), switchover: None, runs: Vec::new() };
        let held = Held { holder, stop };
        let result = take_out(context, &rest, delete_data, held, &mut left).await;
        let mut ended = Ended::of_all(&left.runs);
        if let Err(error) = &result {
            ended = ended.but_failed(error.summary());
        }
        (result.map(|()| left), ended)
    })
    .await?;
    match context.common.format {
        Format::Json => ui::json(&left),
        Format::Text if left.exit() == Exit::Done => tell(context, &left),
        Format::Text => {}
    }
    Ok(left.exit())
}

/// Hands the leader's part over, and runs the playbooks. What was done is in `left`, whatever comes of it.
async fn take_out<'h>(
    context: &Context,
    rest: &Context,
    delete_data: bool,
    held: Held<'_>,
    left: &mut Left<'h>,
) -> Result<(), Error> {
    let hosts = left.left;
    let names: Vec<&str> = hosts.iter().map(HostName::as_str).collect();
    let (topology, access) = reach_any(context).await?;
    let status = cluster::status(&topology, &access).await;
    left.unreachable = hosts.iter().filter(|host| access.session(host).is_err()).collect();
    let leaving = cluster::leaving(&status, &names).map_err(|why| {
        let next = why.next_step();
        Error::failed(why).next(next)
    });
    let switched = match &leaving {
        Ok(cluster::Leaving { successor: Some(successor), .. }) => {
            ui::note(&format!("{successor} takes over from {}", names.join(", ")));
            Some(cluster::switchover(&topology, &access, Some(successor)).await)
        }
        _ => None,
    };
    access.close().await;
    let leaving = leaving?;
    left.switchover = switched.transpose().map_err(|error| {
        let next = error.next_step();
        Error::failed(error).next(next)
    })?;

    // Of a host that is not in the inventory any more, nobody knows its roles.
    let strangers = names.iter().filter(|name| !context.inventory.hosts.contains_key(**name));
    let forgotten: Vec<&str> =
        leaving.from_dcs.iter().map(String::as_str).chain(strangers.copied()).collect();
    let under = || Deploy { held: Some(held), ..Deploy::looking() };
    let forget = Deploy { vars: json!({"leaving": forgotten}), ..under() };
    let present: Vec<&str> =
        hosts.iter().filter(|host| !left.unreachable.contains(host)).map(HostName::as_str).collect();
    let retire =
        Deploy { vars: json!({"delete_data": delete_data}), limit: Some(present.join(":")), ..under() };
    let mut steps = vec![(rest, "forget", forget), (rest, "apply", under())];
    if !present.is_empty() {
        steps.push((context, "leave", retire));
    }
    for (context, name, with) in steps {
        let playbook = deploy::load(context, name)?;
        let report = deploy::carry_out(context, &playbook, &with).await?;
        if context.common.format == Format::Text {
            ui::recap::recap(&report, false);
        }
        left.runs.push(report);
        if left.exit() != Exit::Done {
            break;
        }
    }
    Ok(())
}

fn tell(context: &Context, left: &Left<'_>) {
    ui::note(&format!("\n{} left the cluster `{}`.", list(left.left), context.inventory.cluster));
    for host in &left.unreachable {
        ui::warning(&format!(
            "{host} could not be reached, so its services are as they were: keep it off, or run `pgfleet run leave --limit {host}` once it is back"
        ));
    }
    let written = |host: &&HostName| context.inventory.hosts.contains_key(*host);
    let written: Vec<HostName> = left.left.iter().filter(written).cloned().collect();
    if !written.is_empty() {
        ui::note(&format!("Now delete {} from {}.", list(&written), context.inventory.path.display()));
    }
}

async fn status(context: &Context) -> Result<Status, Error> {
    let (topology, access) = reach_any(context).await?;
    let status = cluster::status(&topology, &access).await;
    access.close().await;
    Ok(status)
}

/// Every name is one of the inventory's.
fn known(context: &Context, hosts: &[HostName]) -> Result<(), Error> {
    let all = &context.inventory.hosts;
    let Some(stranger) = hosts.iter().find(|name| !all.contains_key(*name)) else { return Ok(()) };
    let names: Vec<_> = all.keys().map(|name| name.as_str()).collect();
    let nearest = diagnostic::did_you_mean(stranger.as_str(), names.iter().copied());
    let help = nearest.unwrap_or_else(|| format!("it has {}", names.join(", ")));
    Err(Error::usage(format!("the inventory has no host `{stranger}`"), help))
}

fn agreed(common: &Common, question: &str) -> bool {
    let agreed = common.yes || !ui::interactive() || ui::confirm(question);
    if !agreed {
        ui::note("Nothing was changed.");
    }
    agreed
}

fn list(hosts: &[HostName]) -> String {
    hosts.iter().map(HostName::as_str).collect::<Vec<_>>().join(", ")
}
