//! `pgfleet switchover`: another member leads.

use super::{
    Exit,
    common::{Common, Format},
    context::Context,
    error::{Error, Outcome},
    locked::{self, Waiting},
    reach::reach_any,
};
use crate::{
    cluster::{self, Switched},
    journal::Ended,
    ui,
};

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

    #[command(flatten)]
    pub waiting: Waiting,

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
    let to = args.to.as_deref().map(|to| format!(" --to {to}")).unwrap_or_default();
    let holder = locked::holder(&format!("switchover{to}"), &args.common);
    let lock = args.waiting.changing(&holder);
    let switched =
        locked::during(&context, lock, async |_| switch(&context, args.to.as_deref()).await).await?;
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

async fn switch(context: &Context, to: Option<&str>) -> (Result<Switched, Error>, Ended) {
    let (topology, access) = match reach_any(context).await {
        Ok(reached) => reached,
        Err(error) => return (Err(error), Ended::failed("no host could be reached")),
    };
    let result = cluster::switchover(&topology, &access, to).await;
    access.close().await;
    match result {
        Ok(switched) => {
            let ended = Ended::done(format!("{} -> {}", switched.from, switched.to));
            (Ok(switched), ended)
        }
        Err(error) => {
            let (ended, step) = (Ended::failed(error.to_string()), error.next_step());
            (Err(Error::failed(error).next(step)), ended)
        }
    }
}
