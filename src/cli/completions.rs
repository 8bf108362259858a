//! `pgfleet completions`: scripts that complete commands and options in a shell.

use super::{Cli, Exit, error::Outcome};
use crate::ui;
use clap::CommandFactory;

/// Print a completion script for a shell
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  pgfleet completions bash > /etc/bash_completion.d/pgfleet
  pgfleet completions zsh > ~/.zfunc/_pgfleet")]
pub struct Args {
    #[arg(value_enum)]
    shell: clap_complete::Shell,
}

pub fn run(args: &Args) -> Outcome {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "pgfleet", &mut script);
    ui::line(String::from_utf8_lossy(&script).trim_end());
    Ok(Exit::Done)
}
