//! `pgfleet verify`: the proof that the cluster works.

use super::{
    Exit,
    common::{Common, Format},
    context::Context,
    error::Outcome,
    reach::reach_any,
};
use crate::{
    cluster::{self, Check},
    ui,
};

/// Prove that the cluster works: write through the entry point, read the row from every replica
#[derive(clap::Args)]
#[command(after_help = "\
Writes one row into a schema of its own, reads it from every replica and through the replicas' port,
sees a write on each replica refused, and removes the schema again. Says so line by line.

Exit code: 0 when everything was seen, 1 when something was not.

Examples:
  pgfleet verify -i inventory.yml
  pgfleet verify --format json | jq .verified")]
pub struct Args {
    #[command(flatten)]
    pub common: Common,
}

pub async fn run(args: Args) -> Outcome {
    let context = Context::load(&args.common)?;
    let (topology, access) = reach_any(&context).await?;
    let text = args.common.format == Format::Text;
    let verification = cluster::verify(&topology, &access, |check| {
        if text {
            lines(check).into_iter().for_each(|line| ui::line(&line));
        }
    })
    .await;
    access.close().await;
    match (args.common.format, verification.verified) {
        (Format::Json, _) => ui::json(&verification),
        (Format::Text, true) => ui::line(&format!("The cluster {} works.", verification.cluster)),
        (Format::Text, false) => {
            let failed = verification.checks.iter().filter(|check| !check.ok).count();
            ui::line(&format!("{failed} of {} checks failed.", verification.checks.len()));
        }
    }
    Ok(if verification.verified { Exit::Done } else { Exit::Failed })
}

fn lines(check: &Check) -> Vec<String> {
    let (good, bad, dim) = (ui::GOOD, ui::BAD, ui::DIM);
    let mark = if check.ok { format!("{good}ok{good:#}    ") } else { format!("{bad}failed{bad:#}") };
    let mut lines = vec![format!("{mark} {}: {} {dim}({} ms){dim:#}", check.what, check.seen, check.took_ms)];
    lines.extend(check.next_step.iter().map(|step| format!("       next: {step}")));
    lines
}
