//! What can go wrong with a sandbox, and what to do next.

use super::{Name, name::InvalidName};
use crate::model::HostName;
use std::{io, net::Ipv4Addr, path::PathBuf};

/// Each text says what failed and, after a line break, the next step where there is one.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "a sandbox needs Linux: it is made of namespaces and systemd-nspawn\nuse a Linux machine or a Linux VM"
    )]
    NotLinux,

    #[error(
        "a sandbox needs root: it makes network namespaces and mounts (running as user id {uid})\nrun the same command with sudo"
    )]
    NotRoot { uid: u32 },

    #[error("this machine lacks {}\ninstall: apt-get install -y {}", what.join(", "), packages.join(" "))]
    Missing { what: Vec<String>, packages: Vec<&'static str> },

    #[error("there is no sandbox `{name}`{}", known_sandboxes(known))]
    NoSuchSandbox { name: Name, known: Vec<Name> },

    #[error(
        "sandbox `{name}` has no network now (this machine was restarted, perhaps)\nboot it again: pgfleet sandbox start --name {name}"
    )]
    Halted { name: Name },

    #[error("cannot enter the network of sandbox `{name}`: {why}")]
    Enter { name: Name, why: String },

    #[error(
        "{path} cannot hold sandboxes: a path with `,` or `:` cannot be mounted from\nset PGFLEET_SANDBOX_DIR to another folder"
    )]
    UnmountablePath { path: PathBuf },

    #[error("no sandbox is running\nmake one: pgfleet sandbox up -i INVENTORY")]
    NoSandbox,

    #[error("several sandboxes exist: {}\nsay which: --name N", join(known))]
    WhichSandbox { known: Vec<Name> },

    #[error("sandbox `{sandbox}` has no host `{host}`; its hosts are {}", known.join(", "))]
    NoSuchHost { sandbox: Name, host: String, known: Vec<String> },

    #[error("there is no snapshot `{name}`{}", known_snapshots(known))]
    NoSuchSnapshot { name: Name, known: Vec<Name> },

    #[error("snapshot `{name}` exists\nchoose another name, or remove it: pgfleet sandbox forget {name}")]
    SnapshotExists { name: Name },

    #[error("snapshot `{name}` is what {} stand on\nremove them first", users.join(", "))]
    SnapshotInUse { name: Name, users: Vec<String> },

    #[error(
        "sandbox `{name}` exists and differs: {difference}\nremove it first (pgfleet sandbox down --name {name}) or choose another name (--name)"
    )]
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

    #[error("{what}: {path}: {source}")]
    Io { what: &'static str, path: PathBuf, source: io::Error },

    #[error("cannot run `{program}`: {source}")]
    Spawn { program: String, source: io::Error },

    #[error("`{command}` failed ({status}){}", indented(output))]
    Command { command: String, status: String, output: String },

    #[error(
        "{path} is not readable as this version's state of a sandbox: {reason}\nremove it: pgfleet sandbox down"
    )]
    State { path: PathBuf, reason: String },

    #[error("building the image failed; the end of {log}:{}", indented(tail))]
    Image { log: PathBuf, tail: String },

    #[error(
        "host `{host}` did not answer on its SSH port within {waited_secs} s ({why}); the end of its console, {console}:{}",
        indented(tail)
    )]
    Boot { host: HostName, waited_secs: u64, why: String, console: PathBuf, tail: String },

    #[error("host `{host}` is not running\nstart it: pgfleet sandbox start {host}")]
    NotRunning { host: HostName },

    #[error("the package cache did not start; the end of {log}:{}", indented(tail))]
    Cache { log: PathBuf, tail: String },

    #[error("{what} of process {pid}: {source}")]
    Process { what: &'static str, pid: i32, source: io::Error },
}

impl Error {
    pub(super) fn io(what: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Error {
        let path = path.into();
        move |source| Error::Io { what, path, source }
    }
}

fn join(names: &[Name]) -> String {
    names.iter().map(Name::as_str).collect::<Vec<_>>().join(", ")
}

fn known_sandboxes(known: &[Name]) -> String {
    if known.is_empty() {
        "; none exists\nmake one: pgfleet sandbox up -i INVENTORY".to_owned()
    } else {
        format!("; there are {}", join(known))
    }
}

fn known_snapshots(known: &[Name]) -> String {
    if known.is_empty() {
        "; none exists\nmake one: pgfleet sandbox save SNAPSHOT".to_owned()
    } else {
        format!("; there are {}", join(known))
    }
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("\n    {line}")).collect()
}
