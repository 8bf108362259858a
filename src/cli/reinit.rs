//! `pgfleet reinit`: a replica's data are copied anew.

use super::{
    Exit,
    common::{Common, Format},
    context::Context,
    deploy::cancel_on_interrupt,
    error::Outcome,
    reach::reach_any,
    reload::requested,
};
use crate::{
    cluster::operator,
    ui::{self, steps::Steps},
};
use serde_json::json;
use std::time::Instant;
use tokio_util::sync::CancellationToken;

/// Throw a replica's data away and copy them anew, until it streams again
#[derive(clap::Args)]
#[command(after_help = "\
For a replica that cannot be repaired otherwise: its data directory is damaged, or the WAL that it needs is
gone. The leader is never copied over. Ctrl-C ends the wait, not the copy.

Examples:
  pgfleet reinit pg-3
  pgfleet reinit pg-3 --from-leader -y     from the leader, whatever member copies are taken from otherwise")]
pub struct Args {
    #[command(flatten)]
    pub common: Common,

    /// The member
    #[arg(value_name = "MEMBER")]
    pub member: String,

    /// Copy from the leader rather than from a replica
    #[arg(long)]
    pub from_leader: bool,

    /// Break off what the member's agent is doing, such as a copy that hangs
    #[arg(long)]
    pub force: bool,
}

pub async fn run(args: Args) -> Outcome {
    let context = Context::load(&args.common)?;
    let question = format!("Delete the data of {} and copy them anew?", args.member);
    let (topology, access) = reach_any(&context).await?;
    if let Err(error) = operator::member(&topology, &args.member) {
        access.close().await;
        return Err(requested(error));
    }
    if !args.common.yes && ui::interactive() && !ui::confirm(&question) {
        ui::note("Nothing was changed.");
        access.close().await;
        return Ok(Exit::Done);
    }
    let cancel = CancellationToken::new();
    let signals = tokio::spawn(cancel_on_interrupt(cancel.clone()));
    let start = Instant::now();
    let mut steps = Steps::default();
    steps.begin(&format!("copy {} anew", args.member));
    let options = (args.force, args.from_leader);
    let copied = operator::reinitialize(&topology, &access, &args.member, options, &cancel, |what| {
        steps.waiting(what);
    });
    let copied = copied.await;
    steps.clear();
    signals.abort();
    access.close().await;
    copied.map_err(requested)?;
    let seconds = start.elapsed().as_secs_f64();
    match args.common.format {
        Format::Json => ui::json(&json!({"member": args.member, "took_ms": (seconds * 1000.0) as u64})),
        Format::Text => {
            ui::line(&format!("{} has been copied anew and streams, after {seconds:.1} s", args.member));
        }
    }
    Ok(Exit::Done)
}
