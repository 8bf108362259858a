//! `pgfleet ssh`: OpenSSH's client on a host of the inventory.

use super::{
    common::Common,
    context::Context,
    error::{Error, Outcome},
};
use crate::{
    diagnostic,
    ssh::{Target, openssh_arguments},
};
use std::{ffi::OsString, os::unix::process::CommandExt as _};

/// Log in to a host of the inventory with OpenSSH's client, or run a command there
#[derive(clap::Args)]
#[command(after_help = "\
Uses the address, port, user, key and jump hosts that the inventory gives; your ssh_config counts too,
except in a sandbox.

Examples:
  pgfleet ssh pg-1
  pgfleet ssh pg-1 -- journalctl -u pgfleet-agent -f
  pgfleet ssh --sandbox demo pg-1")]
pub struct Args {
    #[command(flatten)]
    pub common: Common,

    /// The host, by its name in the inventory
    #[arg(value_name = "HOST")]
    pub host: String,

    /// What to run there instead of a login shell
    #[arg(last = true, value_name = "CMD")]
    pub command: Vec<OsString>,
}

pub async fn run(args: Args) -> Outcome {
    let context = Context::load(&args.common)?;
    let hosts = &context.inventory.hosts;
    let Some(host) = hosts.get(args.host.as_str()) else {
        let known: Vec<_> = hosts.keys().map(|name| name.as_str()).collect();
        let nearest = diagnostic::did_you_mean(&args.host, known.iter().copied());
        let help = nearest.unwrap_or_else(|| format!("it has {}", known.join(", ")));
        return Err(Error::usage(format!("the inventory has no host `{}`", args.host), help));
    };
    let options = context.ssh();
    let arguments = openssh_arguments(&Target::of(host, &options), &options);
    let error = std::process::Command::new("ssh").args(arguments).args(&args.command).exec();
    Err(Error::failed(anyhow::anyhow!("`ssh` cannot be started: {error}"))
        .next("Install OpenSSH's client: `apt-get install openssh-client`."))
}
