//! `pgfleet pause` and `pgfleet resume`: automatic failover suspended, and taken up again.

use super::{
    Exit,
    common::{Common, Format},
    context::Context,
    error::Outcome,
    reach::reach_any,
    reload::requested,
};
use crate::{
    cluster::operator,
    ui::{self, steps::Steps},
};
use std::time::Duration;

/// How long `--wait` waits.
const PATIENCE: Duration = Duration::from_secs(60);

/// Suspend automatic failover: agents leave PostgreSQL alone, whatever happens to it
#[derive(clap::Args)]
#[command(after_help = "\
Until `pgfleet resume`, nobody takes over when the leader fails, and a stopped PostgreSQL stays stopped.
A switchover that an operator asks for still works.

Examples:
  pgfleet pause --wait     return when all members know
  pgfleet resume")]
pub struct PauseArgs {
    #[command(flatten)]
    pub common: Common,

    /// Wait until all members act by it
    #[arg(long)]
    pub wait: bool,
}

/// Take automatic failover up again after `pause`
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  pgfleet resume
  pgfleet resume --wait     return when all members know")]
pub struct ResumeArgs {
    #[command(flatten)]
    pub common: Common,

    /// Wait until all members act by it
    #[arg(long)]
    pub wait: bool,
}

pub async fn pause(args: PauseArgs) -> Outcome {
    set(&args.common, true, args.wait).await
}

pub async fn resume(args: ResumeArgs) -> Outcome {
    set(&args.common, false, args.wait).await
}

async fn set(common: &Common, pause: bool, wait: bool) -> Outcome {
    let context = Context::load(common)?;
    let cluster = &context.inventory.cluster;
    let question =
        format!("Suspend automatic failover of {cluster}? Nobody takes over until `pgfleet resume`.");
    if pause && !common.yes && ui::interactive() && !ui::confirm(&question) {
        ui::note("Nothing was changed.");
        return Ok(Exit::Done);
    }
    let (topology, access) = reach_any(&context).await?;
    let mut steps = Steps::default();
    steps.begin(if pause { "pause" } else { "resume" });
    let wait = wait.then_some(PATIENCE);
    let paused = operator::pause(&topology, &access, pause, wait, |what| steps.waiting(what)).await;
    steps.clear();
    access.close().await;
    let paused = paused.map_err(requested)?;
    let word = if pause { "paused" } else { "resumed" };
    match common.format {
        Format::Json => ui::json(&paused),
        Format::Text if paused.waiting.is_empty() => ui::line(&format!("{cluster} is {word}")),
        Format::Text => {
            ui::line(&format!("{cluster} is {word}; {} do not act by it yet", paused.waiting.join(", ")));
        }
    }
    let missed = wait.is_some() && !paused.waiting.is_empty();
    Ok(if missed { Exit::Failed } else { Exit::Done })
}
