//! `pgfleet destroy`: a cluster ends.

use super::{
    Exit,
    common::Common,
    context::Context,
    deploy::{self, Deploy},
    error::{Error, Outcome},
    locked::{self, Waiting},
};
use crate::{remote::protocol::Mode, ui};
use serde_json::json;

/// Shut the whole cluster down and take its services off the hosts; data stay unless told otherwise
#[derive(clap::Args)]
#[command(after_help = "\
Asks for the cluster's name. Packages stay installed. PostgreSQL's data directories stay where they are unless
--delete-data is given; what etcd knew of the cluster is deleted.

Examples:
  pgfleet destroy -i inventory.yml
  pgfleet destroy -i inventory.yml --confirm demo --delete-data")]
pub struct Args {
    #[command(flatten)]
    pub common: Common,

    #[command(flatten)]
    pub waiting: Waiting,

    /// The cluster's name, instead of being asked for it
    #[arg(long, value_name = "NAME")]
    pub confirm: Option<String>,

    /// Delete PostgreSQL's data too
    #[arg(long)]
    pub delete_data: bool,
}

pub async fn run(args: Args) -> Outcome {
    let context = Context::load(&args.common)?;
    let cluster = context.inventory.cluster.as_str();
    let data = if args.delete_data { "its data are deleted" } else { "its data stay" };
    let question = format!("This ends the cluster `{cluster}`; {data}. Its name, to confirm");
    let answer = match args.confirm {
        Some(name) => Some(name),
        None => ui::prompt::text(&question, "", |_| Ok(())),
    };
    match answer.as_deref() {
        Some(name) if name == cluster => {}
        Some(other) => {
            let next = format!("give the name of the cluster that is to end: `{cluster}`");
            return Err(Error::usage(format!("`{other}` is not this cluster's name"), next));
        }
        None => {
            let next = "name the cluster with `--confirm NAME`; `-y` does not confirm this";
            return Err(Error::usage("nobody is there to confirm", next));
        }
    }
    let playbook = deploy::load(&context, "leave")?;
    let holder = locked::holder("destroy", &args.common);
    let with = Deploy {
        vars: json!({"delete_data": args.delete_data}),
        limit: args.common.limit.clone(),
        ..Deploy::under(args.waiting.changing(&holder))
    };
    let report = deploy::carry_out(&context, &playbook, &with).await?;
    let exit = deploy::finish(&context, &report, Mode::Apply);
    if exit == Exit::Done {
        ui::note(&format!("The cluster `{cluster}` is no more; {data}."));
    }
    Ok(exit)
}
