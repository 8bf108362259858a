//! Options that every command on a cluster has.

use crate::{sandbox::Name, ssh::Architecture};
use std::path::PathBuf;

/// Which cluster, which of its hosts, and how to talk about them.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Common options")]
pub struct Common {
    /// The inventory: a YAML file in Ansible's shape
    #[arg(short, long, value_name = "FILE", env = "PGFLEET_INVENTORY", default_value = "inventory.yml")]
    pub inventory: PathBuf,

    /// Work on the hosts of this sandbox: enter its network and use its key
    #[arg(long, value_name = "NAME", env = "PGFLEET_SANDBOX")]
    pub sandbox: Option<Name>,

    /// Only hosts that match this pattern (names, groups, globs; `a:b` both, `a:&b` those in both, `a:!b` not in b)
    #[arg(long, value_name = "PATTERN")]
    pub limit: Option<String>,

    /// Only tasks with one of these tags
    #[arg(long, value_name = "TAG", value_delimiter = ',')]
    pub tags: Vec<String>,

    /// Leave out tasks with one of these tags
    #[arg(long, value_name = "TAG", value_delimiter = ',')]
    pub skip_tags: Vec<String>,

    /// How many hosts to work on at the same time
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..))]
    pub forks: u16,

    /// A variable that wins over every other: `name=value`, `{"name": value}`, or `@file.yml`
    #[arg(short = 'e', long = "extra-vars", value_name = "VARS")]
    pub extra_vars: Vec<String>,

    /// A file with the passphrase of what Ansible Vault has sealed; an executable one is run and prints it. May be repeated
    #[arg(long, value_name = "FILE")]
    pub vault_password_file: Vec<PathBuf>,

    /// Say more: -v every step with its result, -vv what is said between the machines
    #[arg(short, long, action = clap::ArgAction::Count)]
    pub verbose: u8,

    /// How to print the result
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,

    /// Answer yes to every question
    #[arg(short, long)]
    pub yes: bool,

    /// Show what differs in each file
    #[arg(long)]
    pub diff: bool,

    /// Record the keys of hosts that are not in known_hosts yet; a changed key is still refused
    #[arg(long)]
    pub accept_new_host_keys: bool,

    /// How many seconds reaching a host may take: connection, key exchange and authentication together
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    pub connect_timeout: Option<u64>,

    /// A build of pgfleet for hosts of another architecture (`uname -m`), which becomes their agent
    #[arg(long, value_name = "ARCH=PATH", value_parser = agent_binary)]
    pub agent_binary: Vec<AgentBinary>,
}

/// A build of this program for hosts of one architecture.
#[derive(Clone, Debug)]
pub struct AgentBinary {
    pub architecture: Architecture,
    pub path: PathBuf,
}

fn agent_binary(text: &str) -> Result<AgentBinary, String> {
    match text.split_once('=') {
        Some((architecture, path)) if !architecture.is_empty() && !path.is_empty() => {
            Ok(AgentBinary { architecture: Architecture::named(architecture), path: path.into() })
        }
        _ => Err("expected an architecture and a path, for example aarch64=./pgfleet-aarch64".to_owned()),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For people
    Text,
    /// For programs: one JSON document on standard output
    Json,
}
