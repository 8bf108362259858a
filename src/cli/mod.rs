//! A file per command: its arguments, and what it prints. No decisions. Start reading at [`main`].

pub mod common;
mod completions;
pub mod error;
mod exit;
mod sandbox;

pub use exit::Exit;

use clap::Parser;
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
    Completions(completions::Args),
    Sandbox(sandbox::Args),
}

/// Parses the command line, runs the command, maps its outcome to an exit code.
pub fn main() -> ExitCode {
    let command = Cli::parse().command;
    let outcome = run(command);
    outcome.unwrap_or_else(|error| error.report()).into()
}

fn run(command: Command) -> Outcome {
    match command {
        Command::Completions(args) => completions::run(&args),
        Command::Sandbox(args) => sandbox::run(args),
    }
}

/// Runs a command that talks to many hosts at once.
#[expect(dead_code, reason = "its first user is the next command to land")]
fn concurrently(command: impl Future<Output = Outcome>) -> Outcome {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    runtime.map_err(Error::failed)?.block_on(command)
}

/// Runs a command that must stay small: the agent, the hands on a target.
fn sparingly(command: impl Future<Output = Outcome>) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(Error::failed)?.block_on(command)
}
