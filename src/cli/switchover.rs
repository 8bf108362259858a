//! `pgfleet switchover`: another member leads.

use super::{
    Exit,
    common::{Common, Format},
    context::Context,
    error::{Error, Outcome},
    reach::reach_any,
};
use crate::{cluster, ui};

/// Make another member the leader, and say for how long nobody could write
#[derive(clap::Args)]
#[command(after_help = "\
The leader's agent does it: it stops writes, lets the candidate receive everything, and steps down. A
client that writes through the entry point all the while measures the interruption.

Examples:
  pgfleet switchover -i inventory.yml              to the best standby
  pgfleet switchover -i inventory.yml --to pg-2 -y")]
pub struct Args {
    #[command(flatten)]
    pub common: Common,

    /// The member that is to lead; the best standby when absent
    #[arg(long, value_name = "MEMBER")]
    pub to: Option<String>,
}

pub async fn run(args: Args) -> Outcome {
    let context = Context::load(&args.common)?;
    let candidate = args.to.as_deref().unwrap_or("the best standby");
    let question = format!(
        "Make {candidate} the leader of {}? Writes are interrupted for a moment.",
        context.inventory.cluster
    );
    if !args.common.yes && ui::interactive() && !ui::confirm(&question) {
        ui::note("Nothing was changed.");
        return Ok(Exit::Done);
    }
    let (topology, access) = reach_any(&context).await?;
    let result = cluster::switchover(&topology, &access, args.to.as_deref()).await;
    access.close().await;
    let switched = result.map_err(|error| {
        let step = error.next_step();
        Error::failed(error).next(step)
    })?;
    match args.common.format {
        Format::Json => ui::json(&switched),
        Format::Text => {
            ui::line(&format!("{} -> {}, after {} ms", switched.from, switched.to, switched.took_ms));
            if let Some(gap) = switched.writes_interrupted_ms {
                ui::line(&format!("Writes were interrupted for {gap} ms"));
            }
            for name in &switched.not_following {
                ui::warning(&format!("{name} does not follow the new leader yet: see `pgfleet status`"));
            }
        }
    }
    Ok(Exit::Done)
}
