//! What can go wrong with a sandbox, and what to do next.

use super::{Name, name::InvalidName};
use crate::model::HostName;
use std::{io, net::Ipv4Addr, path::PathBuf};

/// Each text says what failed; [`Error::next_step`] what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("a sandbox needs Linux: it is made of namespaces and systemd-nspawn")]
    NotLinux,

    #[error("a sandbox needs root: it makes network namespaces and mounts (this is user id {uid})")]
    NotRoot { uid: u32 },

    #[error("this machine lacks {}", what.join(", "))]
    Missing { what: Vec<String>, packages: Vec<&'static str> },

    #[error("there is no sandbox `{name}`{}", known_names(known))]
    NoSuchSandbox { name: Name, known: Vec<Name> },

    #[error("sandbox `{name}` is only half made, or half removed")]
    Incomplete { name: Name },

    #[error("sandbox `{name}` has no network now (this machine was restarted, perhaps)")]
    Halted { name: Name },

    #[error("cannot enter the network of sandbox `{name}`: {why}")]
    Enter { name: Name, why: String },

    #[error("{path} cannot hold sandboxes: a path with `,` or `:` cannot be mounted from")]
    UnmountablePath { path: PathBuf },

    #[error("no sandbox exists")]
    NoSandbox,

    #[error("several sandboxes exist: {}", join(known))]
    WhichSandbox { known: Vec<Name> },

    #[error("sandbox `{sandbox}` has no host `{host}`; its hosts are {}", known.join(", "))]
    NoSuchHost { sandbox: Name, host: String, known: Vec<String> },

    #[error("there is no snapshot `{name}`{}", known_names(known))]
    NoSuchSnapshot { name: Name, known: Vec<Name> },

    #[error("snapshot `{name}` exists")]
    SnapshotExists { name: Name },

    #[error("snapshot `{name}` is what {} stand on", users.join(", "))]
    SnapshotInUse { name: Name, users: Vec<String> },

    #[error("sandbox `{name}` exists and differs: {difference}")]
    Differs { name: Name, difference: String },

    #[error(transparent)]
    Name(#[from] InvalidName),

    #[error("the inventory lists no hosts")]
    NoHosts,

    #[error("hosts `{first}` and `{second}` have the same address {address}")]
    SameAddress { first: HostName, second: HostName, address: Ipv4Addr },

    #[error(
        "the hosts' addresses {lowest} and {highest} are too far apart for one network (at most a /{limit})"
    )]
    Scattered { lowest: Ipv4Addr, highest: Ipv4Addr, limit: u8 },

    #[error("the network {network} has no address left for the gateway")]
    NetworkFull { network: ipnet::Ipv4Net },

    #[error("no free /30 in 100.64.0.0/16 is left to link the sandbox to this machine")]
    NoLink,

    #[error("{what}: {path}")]
    Io { what: &'static str, path: PathBuf, source: io::Error },

    #[error("cannot run `{program}`")]
    Spawn { program: String, source: io::Error },

    #[error("`{command}` failed ({status}){}", indented(output))]
    Command { command: String, status: String, output: String },

    #[error("{path} is not readable as this version's state of a sandbox: {reason}")]
    State { path: PathBuf, reason: String },

    #[error("building the image failed; the end of {log}:{}", indented(tail))]
    Image { log: PathBuf, tail: String },

    #[error(
        "host `{host}` did not answer on its SSH port within {waited_secs} s ({why}); the end of its console, {console}:{}",
        indented(tail)
    )]
    Boot { host: HostName, waited_secs: u64, why: String, console: PathBuf, tail: String },

    #[error("host `{host}` is not running")]
    NotRunning { host: HostName },

    #[error("the package cache did not start; the end of {log}:{}", indented(tail))]
    Cache { log: PathBuf, tail: String },

    #[error("{what} process {pid}")]
    Process { what: &'static str, pid: i32, source: io::Error },
}

impl Error {
    /// The command or deed that helps, where there is one.
    pub fn next_step(&self) -> Option<String> {
        Some(match self {
            Error::NotLinux => "use a Linux machine or a Linux VM".to_owned(),
            Error::NotRoot { .. } => "run the same command with sudo".to_owned(),
            Error::Missing { packages, .. } => format!("apt-get install -y {}", packages.join(" ")),
            Error::NoSandbox => "pgfleet sandbox up -i INVENTORY".to_owned(),
            Error::NoSuchSandbox { known, .. } if known.is_empty() => {
                "pgfleet sandbox up -i INVENTORY".to_owned()
            }
            Error::NoSuchSandbox { .. } => "pgfleet sandbox list".to_owned(),
            Error::WhichSandbox { .. } => "say which one with --name".to_owned(),
            Error::NoSuchSnapshot { .. } => {
                "pgfleet sandbox save SNAPSHOT makes one of a running sandbox".to_owned()
            }
            Error::SnapshotExists { name } => {
                format!("choose another name, or remove it: pgfleet sandbox forget {name}")
            }
            Error::SnapshotInUse { .. } => "remove those first".to_owned(),
            Error::Differs { name, .. } => {
                format!(
                    "remove it first (pgfleet sandbox down --name {name}) or choose another name with --name"
                )
            }
            Error::UnmountablePath { .. } => "set PGFLEET_SANDBOX_DIR to another folder".to_owned(),
            Error::State { .. } => "pgfleet sandbox down removes it".to_owned(),
            Error::Incomplete { name } => {
                format!("run `pgfleet sandbox up` again, or pgfleet sandbox down --name {name}")
            }
            Error::Halted { name } => format!("pgfleet sandbox start --name {name}"),
            Error::NotRunning { host } => format!("pgfleet sandbox start {host}"),
            _ => return None,
        })
    }

    /// Whether the caller asked for something that cannot be; nothing was touched.
    pub fn is_usage(&self) -> bool {
        use Error::*;
        matches!(
            self,
            NoSandbox
                | NoSuchSandbox { .. }
                | WhichSandbox { .. }
                | NoSuchHost { .. }
                | NoSuchSnapshot { .. }
                | SnapshotExists { .. }
                | Differs { .. }
                | Name(_)
                | NoHosts
                | SameAddress { .. }
                | Scattered { .. }
                | UnmountablePath { .. }
        )
    }

    pub(super) fn io(what: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Error {
        let path = path.into();
        move |source| Error::Io { what, path, source }
    }
}

fn join(names: &[Name]) -> String {
    names.iter().map(Name::as_str).collect::<Vec<_>>().join(", ")
}

fn known_names(known: &[Name]) -> String {
    if known.is_empty() { "; none exists".to_owned() } else { format!("; there are {}", join(known)) }
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("\n    {line}")).collect()
}
