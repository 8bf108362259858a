//! `pgfleet restart`: PostgreSQL restarts, one member after another.

use super::{
    Exit,
    common::{Common, Format},
    context::Context,
    error::Outcome,
    reach::reach_any,
    rolling,
};
use crate::{
    cluster::rolling::{Rolling, Wish},
    ui,
};
use tokio_util::sync::CancellationToken;

/// Restart PostgreSQL, one member after another, in the order that keeps the cluster writable
#[derive(clap::Args)]
#[command(after_help = "\
Standbys first, each streaming and caught up before the next; then one of them takes over, and the old
primary restarts as its standby. Where a limit such as max_connections gets lower, the primary comes first
and restarts in place: a standby must not have less than its primary. Before each step the cluster must be
well, the store included. A client that writes through the entry point all the while measures the
interruption. Ctrl-C stops between two members; the same command with --pending goes on from there.

Examples:
  pgfleet restart --pending                    those whose settings wait for it
  pgfleet restart pg-2                         one member
  pgfleet restart -y --max-write-gap 500       stop before the next member if nobody could write for longer")]
pub struct Args {
    #[command(flatten)]
    pub common: Common,

    /// The members; all when absent
    #[arg(value_name = "MEMBER")]
    pub members: Vec<String>,

    /// Only members whose settings wait for a restart
    #[arg(long)]
    pub pending: bool,

    /// Stop before the next member once nobody could write for longer than this
    #[arg(long, value_name = "MS")]
    pub max_write_gap: Option<u64>,

    /// Restart although other members or the store are not well, or nobody could take over
    #[arg(long)]
    pub force: bool,
}

pub async fn run(args: Args) -> Outcome {
    let context = Context::load(&args.common)?;
    let wish = Wish {
        members: args.members,
        pending: args.pending,
        force: args.force,
        max_write_gap: rolling::max_gap(args.max_write_gap),
        anew: false,
    };
    let (topology, access) = reach_any(&context).await?;
    let outcome = match Rolling::plan(&topology, &access, &wish).await {
        Err(error) => Err(rolling::refused(error)),
        Ok(planned) => {
            let question = format!("Restart PostgreSQL of {} in this order?", context.inventory.cluster);
            if planned.steps().is_empty() {
                ui::note("Nothing waits for a restart.");
            } else if !args.common.yes && ui::interactive() {
                rolling::show(planned.steps());
                if !ui::confirm(&question) {
                    ui::note("Nothing was restarted.");
                    access.close().await;
                    return Ok(Exit::Done);
                }
            }
            let nothing = planned.steps().is_empty();
            let rolled = rolling::carry_out(planned, CancellationToken::new()).await;
            match args.common.format {
                Format::Json => ui::json(&rolled),
                Format::Text if nothing => {}
                Format::Text => rolling::summary(&rolled),
            }
            Ok(rolling::exit(&rolled))
        }
    };
    access.close().await;
    outcome
}
