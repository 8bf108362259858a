//! A file per command: its arguments, and what it prints. No decisions.

pub mod common;
mod exit;

pub use exit::Exit;

use clap::Parser;
use std::process::ExitCode;

/// Turns a list of machines into a highly available PostgreSQL cluster over SSH, and keeps it so.
#[derive(Parser)]
#[command(name = "pgfleet", version, arg_required_else_help = true)]
struct Cli {}

/// Parses the command line, runs the command, maps its outcome to an exit code.
pub fn main() -> ExitCode {
    let _cli = Cli::parse();
    Exit::Done.into()
}
