//! `pgfleet failover`: a member leads although the present leader does not give way.

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
use serde_json::json;
use std::time::Instant;

/// Make a member the leader where nobody leads, or where the leader cannot give way in order
#[derive(clap::Args)]
#[command(after_help = "\
For a cluster that does not help itself. The member may lack what the last leader acknowledged: that is
lost then. While somebody leads, `pgfleet switchover` loses nothing; --force fails over all the same, for
example to a member that no commit waits for in a synchronous mode.

Examples:
  pgfleet failover --to pg-2
  pgfleet failover --to pg-2 --force -y")]
pub struct Args {
    #[command(flatten)]
    pub common: Common,

    /// The member that is to lead
    #[arg(long, value_name = "MEMBER")]
    pub to: String,

    /// Fail over although somebody leads
    #[arg(long)]
    pub force: bool,
}

pub async fn run(args: Args) -> Outcome {
    let context = Context::load(&args.common)?;
    let (topology, access) = reach_any(&context).await?;
    let leader = match operator::check_failover(&topology, &access, &args.to, args.force).await {
        Ok(leader) => leader,
        Err(error) => {
            access.close().await;
            return Err(requested(error));
        }
    };
    let question = format!(
        "Make {} the leader of {}? What it lacks of the last leader's commits is lost.",
        args.to, context.inventory.cluster
    );
    if !args.common.yes && ui::interactive() && !ui::confirm(&question) {
        ui::note("Nothing was changed.");
        access.close().await;
        return Ok(Exit::Done);
    }
    let start = Instant::now();
    let mut steps = Steps::default();
    steps.begin(&format!("fail over to {}", args.to));
    let led = operator::failover(&topology, &access, &args.to, |what| steps.waiting(what)).await;
    steps.clear();
    access.close().await;
    led.map_err(requested)?;
    let took_ms = u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
    match args.common.format {
        Format::Json => ui::json(&json!({"from": leader, "to": args.to, "took_ms": took_ms})),
        Format::Text => ui::line(&format!("{} leads, after {took_ms} ms", args.to)),
    }
    Ok(Exit::Done)
}
