//! `pgfleet reload`: agents and PostgreSQL read their configuration again.

use super::{
    Exit,
    common::{Common, Format},
    context::Context,
    error::{Error, Outcome},
    reach::reach_any,
};
use crate::{
    cluster::operator::{self, RequestError},
    ui,
};
use serde_json::json;

/// Make agents read their configuration again, and give PostgreSQL what changed. Nothing restarts
#[derive(clap::Args)]
#[command(after_help = "\
What only a restart brings into force is then pending: see `pgfleet status` and `pgfleet restart --pending`.

Examples:
  pgfleet reload            all members
  pgfleet reload pg-2 pg-3")]
pub struct Args {
    #[command(flatten)]
    pub common: Common,

    /// The members; all when absent
    #[arg(value_name = "MEMBER")]
    pub members: Vec<String>,
}

pub async fn run(args: Args) -> Outcome {
    let context = Context::load(&args.common)?;
    let (topology, access) = reach_any(&context).await?;
    let result = async {
        let members = operator::named(&topology, &args.members)?;
        for member in &members {
            operator::reload(&access, member).await?;
        }
        Ok::<_, RequestError>(members.iter().map(|member| member.name.to_string()).collect::<Vec<_>>())
    };
    let result = result.await;
    access.close().await;
    let reloaded = result.map_err(requested)?;
    match args.common.format {
        Format::Json => ui::json(&json!({"cluster": context.inventory.cluster, "reloaded": reloaded})),
        Format::Text => ui::line(&format!("Reloaded {}", reloaded.join(", "))),
    }
    Ok(Exit::Done)
}

/// A request that came to nothing, with what to do next.
pub fn requested(error: RequestError) -> Error {
    let next = error.next_step();
    match error {
        RequestError::UnknownMember { .. } => Error::usage(error.to_string(), next),
        _ => Error::failed(error).next(next),
    }
}
