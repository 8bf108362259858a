//! `pgfleet psql`: a session with the primary, or with a member by its name.

use super::{
    common::Common,
    context::Context,
    error::{Error, Outcome},
    reach::reach_one,
};
use crate::{
    cluster::{self, NoMember, Topology, Wanted},
    inventory,
    ssh::{Target, openssh_arguments, quote},
    ui,
};
use std::{io::IsTerminal as _, os::unix::process::CommandExt as _};

/// Open psql on the primary, wherever it is now, or on another member
#[derive(clap::Args)]
#[command(after_help = "\
psql runs on the member's own host, as the operating system's user `postgres`, over the Unix socket: no
password is needed, and none is anywhere. What stands after `--` is given to it.

Examples:
  pgfleet psql
  pgfleet psql -- -d app -c 'SELECT count(*) FROM orders'
  pgfleet psql --replica -- -c 'SELECT pg_last_wal_replay_lsn()'
  pgfleet psql pg-2 < report.sql")]
pub struct Args {
    #[command(flatten)]
    pub common: Common,

    /// The member; the primary when absent
    #[arg(value_name = "MEMBER")]
    pub member: Option<String>,

    /// The replica that lacks least
    #[arg(long, conflicts_with = "member")]
    pub replica: bool,

    /// What psql is given
    #[arg(last = true, value_name = "ARGS")]
    pub arguments: Vec<String>,
}

pub async fn run(args: Args) -> Outcome {
    let context = Context::load(&args.common)?;
    let topology = Topology::of(&context.inventory);
    let wanted = match &args.member {
        Some(name) => Wanted::Named(name),
        None if args.replica => Wanted::Replica,
        None => Wanted::Primary,
    };
    let picked = cluster::pick(&topology, wanted, |member| reach_one(&context, &member.name));
    let name =
        ui::waiting("asking who leads", picked).await.map(|member| &member.name).map_err(
            |error| match error {
                NoMember::Unknown { .. } => Error::usage(error.to_string(), "Name one of them."),
                _ => Error::failed(error)
                    .next("See `pgfleet status`; a member can be named: `pgfleet psql MEMBER`."),
            },
        )?;
    let Some(host) = context.inventory.hosts.get(name.as_str()) else {
        return Err(Error::usage(format!("the inventory has no host `{name}`"), "Name a member."));
    };
    let options = context.ssh();
    let mut ssh = std::process::Command::new("ssh");
    // Only a person needs a terminal there; with one, output would be garbled by it.
    if std::io::stdin().is_terminal() && std::io::stdout().is_terminal() {
        ssh.arg("-t");
    }
    // OpenSSH's own words at the end of a session are not psql's.
    ssh.args(["-o", "LogLevel=ERROR"]).args(openssh_arguments(&Target::of(host, &options), &options));
    let error = ssh.arg(script(host, &args.arguments)).exec();
    Err(Error::failed(anyhow::anyhow!("`ssh` cannot be started: {error}"))
        .next("Install OpenSSH's client: `apt-get install openssh-client`."))
}

/// Becomes `postgres` by whatever the host has, and runs psql on the socket.
fn script(host: &inventory::Host, arguments: &[String]) -> String {
    let port = host.port("postgres_port").unwrap_or(5432);
    let socket = host.text("postgres_socket_dir").unwrap_or("/var/run/postgresql");
    let user = host.text("superuser_name").unwrap_or("postgres");
    let arguments: String = arguments.iter().map(|word| format!(" {}", quote(word))).collect();
    let psql = format!(
        "env PGHOST={} PGPORT={port} PGUSER={} PGDATABASE=postgres psql{arguments}",
        quote(socket),
        quote(user)
    );
    let script = format!(
        "cd /; if test \"$(id -un)\" = postgres; then exec {psql}; \
         elif test \"$(id -u)\" = 0; then exec runuser -u postgres -- {psql}; \
         else exec sudo -u postgres -- {psql}; fi"
    );
    format!("exec sh -c {}", quote(&script))
}
