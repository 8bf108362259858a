//! `pgfleet push` and `pgfleet pull`: files to and from hosts.

use super::{
    Exit,
    common::{Common, Format},
    context::Context,
    error::{Error, Outcome},
    hosts::{As, Hosts, exit, tell},
};
use crate::{
    fleet::{self, Place, Trouble},
    model::HostName,
    ui::{
        self,
        progress::{Detail, Progress},
    },
};
use serde_json::json;
use std::path::PathBuf;

/// Put a file of this machine on all hosts that match a pattern
#[derive(clap::Args)]
#[command(after_help = "\
The file is written beside its target, checked, synced and renamed: no reader ever sees half of it. Its mode
is kept; its owner is the user that writes it, root where the inventory does not say otherwise.

Examples:
  pgfleet push motd all:/etc/motd
  pgfleet push job.sql postgres:/var/lib/postgresql/ --become-user postgres")]
pub struct PushArgs {
    #[command(flatten)]
    pub common: Common,

    #[command(flatten)]
    pub r#as: As,

    /// The file on this machine
    #[arg(value_name = "LOCAL")]
    pub local: PathBuf,

    /// Which hosts, and the path there; a path that ends in `/` is a folder
    #[arg(value_name = "PATTERN:REMOTE")]
    pub remote: String,
}

/// Fetch a file from all hosts that match a pattern
#[derive(clap::Args)]
#[command(after_help = "\
From one host the file becomes LOCAL, or goes into LOCAL where that is a folder. From several, each host's
goes to LOCAL/HOST/. Its mode is kept; it is written beside its target, synced and renamed.

Examples:
  pgfleet pull pg-1:/etc/pgfleet/agent.yml agent.yml
  pgfleet pull postgres:/var/log/postgresql/demo-pg-1.log logs")]
pub struct PullArgs {
    #[command(flatten)]
    pub common: Common,

    #[command(flatten)]
    pub r#as: As,

    /// Which hosts, and the path there
    #[arg(value_name = "PATTERN:REMOTE")]
    pub remote: String,

    /// The file or folder on this machine
    #[arg(value_name = "LOCAL")]
    pub local: PathBuf,
}

pub async fn push(args: PushArgs) -> Outcome {
    let place = place(&args.remote)?;
    if !args.local.is_file() {
        let message = format!("`{}` is not a file", args.local.display());
        return Err(Error::usage(message, "Name a file; a folder travels as an archive."));
    }
    let context = Context::load(&args.common)?;
    let hosts = Hosts::connect(&context, &place.pattern, Some(&args.r#as)).await?;
    let (sink, shown) = progress();
    let forks = usize::from(args.common.forks);
    let what = (args.local.as_path(), &place);
    let results = fleet::push(&hosts.access, &hosts.names, forks, what, &sink).await;
    drop(sink);
    let _ = shown.await;
    hosts.access.close().await;
    Ok(told(&args.common, results, |path| path))
}

pub async fn pull(args: PullArgs) -> Outcome {
    let place = place(&args.remote)?;
    if place.file_name().is_none() {
        let message = format!("`{}` is a folder", args.remote);
        return Err(Error::usage(message, "Name a file; a folder travels as an archive."));
    }
    let context = Context::load(&args.common)?;
    let hosts = Hosts::connect(&context, &place.pattern, Some(&args.r#as)).await?;
    let (sink, shown) = progress();
    let forks = usize::from(args.common.forks);
    let what = (&place, args.local.as_path());
    let results = fleet::pull(&hosts.access, &hosts.names, forks, what, &sink).await;
    drop(sink);
    let _ = shown.await;
    hosts.access.close().await;
    Ok(told(&args.common, results, |path| path.display().to_string()))
}

fn place(text: &str) -> Result<Place, Error> {
    text.parse::<Place>().map_err(|error| {
        let next = error.next_step();
        Error::usage(error.to_string(), next)
    })
}

fn progress() -> (crate::engine::Sink, tokio::task::JoinHandle<()>) {
    let (sink, events) = tokio::sync::mpsc::unbounded_channel();
    let detail = Detail { every_step: true, diff: false, would: false };
    (sink, tokio::spawn(Progress::new(detail).listen(events)))
}

fn told<T>(
    common: &Common,
    results: Vec<(HostName, Result<T, Trouble>)>,
    path: impl Fn(T) -> String,
) -> Exit {
    let code = exit(results.iter().filter_map(|(_, done)| done.as_ref().err()));
    let mut documents = Vec::new();
    for (host, done) in results {
        match done {
            Ok(done) => documents.push(json!({"host": host, "path": path(done)})),
            Err(trouble) => {
                tell(&host, &trouble);
                documents.push(json!({"host": host, "error": trouble.message}));
            }
        }
    }
    if common.format == Format::Json {
        ui::json(&documents);
    }
    code
}
