//! A file per command: its arguments, and what it prints. No decisions. Start reading at [`main`].

mod adopt;
mod agent;
mod certs;
mod check;
pub mod common;
mod completions;
mod context;
mod copy;
mod deploy;
mod destroy;
mod edit;
pub mod error;
mod exec;
mod exit;
mod failover;
mod history;
mod hosts;
mod import;
mod init;
mod locked;
mod logs;
mod major;
mod pause;
mod psql;
mod reach;
mod reinit;
mod reload;
mod remote;
mod restart;
mod rolling;
mod sandbox;
mod scale;
mod secrets;
mod ssh;
mod status;
mod switchover;
mod upgrade;
mod verify;

pub use exit::Exit;

use clap::Parser;
use common::Common;
use error::{Error, Outcome};
use std::{future::Future, process::ExitCode};

/// Turns a list of machines into a highly available PostgreSQL cluster over SSH, and keeps it so.
#[derive(Parser)]
#[command(name = "pgfleet", version, arg_required_else_help = true, max_term_width = 100)]
#[command(after_help = "\
Start with `pgfleet init` to write an inventory, `pgfleet check --hosts` to see whether its machines are
ready, and `pgfleet bootstrap` to create the cluster. `pgfleet sandbox up` makes machines to try it on.")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    Init(init::Args),
    Check(check::Args),
    Plan(deploy::PlanArgs),
    Bootstrap(deploy::BootstrapArgs),
    Apply(deploy::ApplyArgs),
    Edit(edit::Args),
    Import(import::Args),
    Run(deploy::RunArgs),
    Status(status::Args),
    Verify(verify::Args),
    Switchover(switchover::Args),
    Upgrade(upgrade::UpgradeArgs),
    Rollback(upgrade::RollbackArgs),
    Certs(certs::Args),
    Failover(failover::Args),
    Restart(restart::Args),
    Reload(reload::Args),
    Reinit(reinit::Args),
    Pause(pause::PauseArgs),
    Resume(pause::ResumeArgs),
    Add(scale::AddArgs),
    Remove(scale::RemoveArgs),
    Replace(scale::ReplaceArgs),
    UpgradeMajor(major::Args),
    Destroy(destroy::Args),
    Secrets(secrets::Args),
    Ssh(ssh::Args),
    Exec(exec::Args),
    Push(copy::PushArgs),
    Pull(copy::PullArgs),
    Logs(logs::Args),
    Psql(psql::Args),
    History(history::Args),
    Unlock(history::UnlockArgs),
    Adopt(adopt::Args),
    Completions(completions::Args),
    #[command(hide = true)]
    Remote(remote::Args),
    Sandbox(sandbox::Args),
    Agent(agent::Args),
}

/// Parses the command line, runs the command, maps its outcome to an exit code.
pub fn main() -> ExitCode {
    let command = Cli::parse().command;
    let outcome = run(command);
    outcome.unwrap_or_else(|error| error.report()).into()
}

fn run(command: Command) -> Outcome {
    match command {
        Command::Init(args) => init::run(&args),
        Command::Check(args) if args.hosts => on_cluster(&args.common.clone(), check::hosts(args)),
        Command::Check(args) => check::run(&args),
        Command::Plan(args) => on_cluster(&args.common.clone(), deploy::plan(args)),
        Command::Bootstrap(args) => on_cluster(&args.common.clone(), deploy::bootstrap(args)),
        Command::Apply(args) => on_cluster(&args.common.clone(), deploy::apply(args)),
        Command::Edit(args) => on_cluster(&args.common().clone(), edit::run(args)),
        Command::Import(args) => on_cluster(&args.common.clone(), import::run(args)),
        Command::Run(args) => on_cluster(&args.common.clone(), deploy::run(args)),
        Command::Status(args) => on_cluster(&args.common.clone(), status::run(args)),
        Command::Verify(args) => on_cluster(&args.common.clone(), verify::run(args)),
        Command::Switchover(args) => on_cluster(&args.common.clone(), switchover::run(args)),
        Command::Upgrade(args) => on_cluster(&args.common.clone(), upgrade::upgrade(args)),
        Command::Rollback(args) => on_cluster(&args.common.clone(), upgrade::rollback(args)),
        Command::Certs(args) => on_cluster(&args.common.clone(), certs::run(args)),
        Command::Failover(args) => on_cluster(&args.common.clone(), failover::run(args)),
        Command::Restart(args) => on_cluster(&args.common.clone(), restart::run(args)),
        Command::Reload(args) => on_cluster(&args.common.clone(), reload::run(args)),
        Command::Reinit(args) => on_cluster(&args.common.clone(), reinit::run(args)),
        Command::Pause(args) => on_cluster(&args.common.clone(), pause::pause(args)),
        Command::Resume(args) => on_cluster(&args.common.clone(), pause::resume(args)),
        Command::Add(args) => on_cluster(&args.common.clone(), scale::add(args)),
        Command::Remove(args) => on_cluster(&args.common.clone(), scale::remove(args)),
        Command::Replace(args) => on_cluster(&args.common.clone(), scale::replace(args)),
        Command::UpgradeMajor(args) => on_cluster(&args.common.clone(), major::run(args)),
        Command::Destroy(args) => on_cluster(&args.common.clone(), destroy::run(args)),
        Command::Secrets(args) => secrets::run(args),
        Command::Ssh(args) => on_cluster(&args.common.clone(), ssh::run(args)),
        Command::Exec(args) => on_cluster(&args.common.clone(), exec::run(args)),
        Command::Push(args) => on_cluster(&args.common.clone(), copy::push(args)),
        Command::Pull(args) => on_cluster(&args.common.clone(), copy::pull(args)),
        Command::Logs(args) => on_cluster(&args.common.clone(), logs::run(args)),
        Command::Psql(args) => on_cluster(&args.common.clone(), psql::run(args)),
        Command::History(args) => on_cluster(&args.common.clone(), history::run(args)),
        Command::Unlock(args) => on_cluster(&args.common.clone(), history::unlock(args)),
        Command::Adopt(args) => in_network(args.sandbox.clone().as_ref(), adopt::run(args)),
        Command::Completions(args) => completions::run(&args),
        Command::Remote(args) => remote::run(&args),
        Command::Sandbox(args) => sandbox::run(args),
        Command::Agent(args) => agent::run(args),
    }
}

/// Runs a command that talks to many hosts at once, in the sandbox's network where one is named. The
/// network is entered while the process has one thread: it holds for threads, not for processes.
fn on_cluster(common: &Common, command: impl Future<Output = Outcome>) -> Outcome {
    in_network(common.sandbox.as_ref(), command)
}

fn in_network(sandbox: Option<&crate::sandbox::Name>, command: impl Future<Output = Outcome>) -> Outcome {
    if let Some(name) = sandbox {
        crate::sandbox::enter(name)?;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    runtime.map_err(Error::failed)?.block_on(command)
}

/// Runs a command that must stay small: the agent, the hands on a target.
fn sparingly(command: impl Future<Output = Outcome>) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(Error::failed)?.block_on(command)
}
