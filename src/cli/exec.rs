//! `pgfleet exec`: one command on many hosts.

use super::{
    Exit,
    common::{Common, Format},
    context::Context,
    error::Outcome,
    hosts::{As, Hosts, exit, tell},
};
use crate::{
    fleet::{self, Command, Ended, Piece, Said, Trouble},
    model::HostName,
    ui::{self, hosts::Lines},
};
use serde::Serialize;
use std::collections::HashMap;

/// Run a command on all hosts that match a pattern, at the same time
#[derive(clap::Args)]
#[command(after_help = "\
A single word is a line for the host's shell; several words are run as they stand. Commands run as the
user that the inventory says (root by sudo, unless `ansible_become` is false). There is no input.

Exit code: 0 when the command succeeded everywhere, 1 when it failed somewhere, 3 when a host could not
be reached.

Examples:
  pgfleet exec all -- uptime
  pgfleet exec postgres -- 'df -h /var/lib/postgresql | tail -1'
  pgfleet exec postgres --become-user postgres -- psql -Atc 'SELECT pg_is_in_recovery()'
  pgfleet exec 'all:!haproxy' --format json -- systemctl is-active etcd")]
pub struct Args {
    #[command(flatten)]
    pub common: Common,

    #[command(flatten)]
    pub r#as: As,

    /// Hosts: names, groups, globs; `a:b` both, `a:&b` those in both, `a:!b` those not in b
    #[arg(value_name = "PATTERN")]
    pub pattern: String,

    /// The command
    #[arg(last = true, required = true, value_name = "CMD")]
    pub command: Vec<String>,
}

/// What one host had to say, for programs.
#[derive(Serialize)]
struct Told {
    host: HostName,
    /// `null` where the command did not run to its end.
    exit_code: Option<i32>,
    stdout: String,
    stderr: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

pub async fn run(args: Args) -> Outcome {
    let context = Context::load(&args.common)?;
    let hosts = Hosts::connect(&context, &args.pattern, Some(&args.r#as)).await?;
    let command = Command::of(&args.command);
    let (sender, mut pieces) = tokio::sync::mpsc::channel(64);
    let forks = usize::from(args.common.forks);
    let work = fleet::exec(&hosts.access, &hosts.names, forks, &command, sender);

    let text = args.common.format == Format::Text;
    let mut lines = Lines::of(&hosts.names);
    let mut kept: HashMap<(HostName, Said), Vec<u8>> = HashMap::new();
    let hear = async {
        while let Some(Piece { host, said, bytes }) = pieces.recv().await {
            match text {
                true => lines.write(&host, said == Said::Error, &bytes),
                false => kept.entry((host, said)).or_default().extend_from_slice(&bytes),
            }
        }
    };
    let results = tokio::select! {
        (results, ()) = async { tokio::join!(work, hear) } => Some(results),
        _ = tokio::signal::ctrl_c() => None,
    };
    lines.finish();
    hosts.access.close().await;
    let Some(results) = results else {
        ui::note("Stopped. The hosts were told to end what was running.");
        std::process::exit(130);
    };

    let mut code = exit(results.iter().filter_map(|(_, done)| done.as_ref().err()));
    if code == Exit::Done && results.iter().any(|(_, done)| *done != Ok(Ended::Code(0))) {
        code = Exit::Failed;
    }
    match text {
        true => results.iter().for_each(|(host, done)| summary(host, done)),
        false => {
            let mut take = |host: &HostName, said| {
                let bytes = kept.remove(&(host.clone(), said)).unwrap_or_default();
                String::from_utf8_lossy(&bytes).into_owned()
            };
            let told: Vec<_> = results
                .iter()
                .map(|(host, done)| Told {
                    host: host.clone(),
                    exit_code: match done {
                        Ok(Ended::Code(code)) => Some(*code),
                        _ => None,
                    },
                    stdout: take(host, Said::Output),
                    stderr: take(host, Said::Error),
                    error: match done {
                        Ok(Ended::Code(_)) => None,
                        Ok(Ended::Signal(signal)) => Some(format!("ended by SIG{signal}")),
                        Err(trouble) => Some(trouble.message.clone()),
                    },
                })
                .collect();
            ui::json(&told);
        }
    }
    Ok(code)
}

/// Tells how it ended where that is worth a word.
fn summary(host: &HostName, done: &Result<Ended, Trouble>) {
    match done {
        Ok(Ended::Code(0)) => {}
        Ok(Ended::Code(code)) => ui::error(&format!("{host}: exit code {code}"), &[]),
        Ok(Ended::Signal(signal)) => ui::error(&format!("{host}: ended by SIG{signal}"), &[]),
        Err(trouble) => tell(host, trouble),
    }
}
