//! `pgfleet init`: a commented inventory from a few answers.

use super::{
    Exit,
    error::{Error, Outcome},
};
use crate::{
    diagnostic::{Diagnostic, Diagnostics},
    inventory::{Inventory, Machine, Sketch},
    model::Scope,
    ui::{self, prompt},
};
use std::{
    io::Write,
    path::{Path, PathBuf},
};

/// Write a commented inventory: from flags, or by asking a few questions
#[derive(clap::Args)]
#[command(after_help = "\
Hosts are NAME=ADDRESS or just ADDRESS, separated by commas. A host that has several roles is named again by
its name or address.

Examples:
  pgfleet init                                     asks
  pgfleet init --postgres 10.0.0.1,10.0.0.2,10.0.0.3
  pgfleet init --postgres a=10.0.0.1,b=10.0.0.2 --etcd a,b,quorum=10.0.0.3 --haproxy a,b --vip 10.0.0.100/24")]
pub struct Args {
    /// The file to write
    #[arg(default_value = "inventory.yml", value_name = "FILE")]
    file: PathBuf,

    /// The cluster's name [default: main]
    #[arg(long, value_name = "NAME")]
    name: Option<Scope>,

    /// The hosts of PostgreSQL; without them questions are asked
    #[arg(long, value_name = "HOSTS")]
    postgres: Option<String>,

    /// The members of etcd, an odd number [default: the first three hosts of PostgreSQL, or the only one]
    #[arg(long, value_name = "HOSTS")]
    etcd: Option<String>,

    /// The hosts of HAProxy [default: those of PostgreSQL where there is a virtual address, else none]
    #[arg(long, value_name = "HOSTS")]
    haproxy: Option<String>,

    /// A virtual address for clients, with the length of its network's prefix
    #[arg(long, value_name = "ADDRESS/PREFIX")]
    vip: Option<String>,

    /// The user that SSH logs in as [default: root]
    #[arg(long, value_name = "USER")]
    user: Option<String>,

    /// The major version of PostgreSQL [default: the distribution's own]
    #[arg(long, value_name = "VERSION", value_parser = clap::value_parser!(u16).range(13..=18))]
    postgres_version: Option<u16>,

    /// Whether a commit waits for replicas
    #[arg(long, value_name = "MODE", value_parser = ["off", "on", "quorum"], default_value = "off")]
    synchronous_mode: String,

    /// Write over a file that exists
    #[arg(short, long)]
    force: bool,
}

pub fn run(args: &Args) -> Outcome {
    if args.file.exists() && !args.force {
        let message = format!("`{}` exists already", args.file.display());
        return Err(Error::usage(message, "name another file, or give --force to write over it"));
    }
    let sketch = match &args.postgres {
        Some(postgres) => from_flags(args, postgres)?,
        None if prompt::possible() => from_answers(args)?,
        None => {
            let next = "for example `pgfleet init --postgres 10.0.0.1,10.0.0.2,10.0.0.3`";
            return Err(Error::usage("no hosts are named, and there is no terminal to ask on", next));
        }
    };
    let text = sketch.text();
    refuse_what_does_not_load(&text)?;
    write(&args.file, &text).map_err(|error| {
        let message = format!("`{}` cannot be written", args.file.display());
        Error::failed(anyhow::Error::new(error).context(message))
    })?;
    let file = args.file.display();
    ui::note(&format!(
        "Wrote {file}: cluster `{}`, {} of PostgreSQL.",
        sketch.cluster,
        hosts(sketch.postgres.len())
    ));
    ui::note("Next:");
    ui::note(&format!("  pgfleet check -i {file}                        is it right?"));
    ui::note(&format!("  pgfleet sandbox up -i {file} --name try        machines to try it on, or"));
    ui::note(&format!("  pgfleet check -i {file} --hosts                are its own machines ready?"));
    ui::note(&format!("  pgfleet bootstrap -i {file} [--sandbox try]"));
    Ok(Exit::Done)
}

fn hosts(count: usize) -> String {
    if count == 1 { "1 host".to_owned() } else { format!("{count} hosts") }
}

fn from_flags(args: &Args, postgres: &str) -> Result<Sketch, Error> {
    let machines = |flag: &str, prefix: &str, list: &str, known: &[Machine]| {
        Sketch::machines(prefix, list, known).map_err(|problem| {
            Error::usage(
                format!("{flag}: {problem}"),
                "write hosts as NAME=ADDRESS or ADDRESS, separated by commas",
            )
        })
    };
    let postgres = machines("--postgres", "pg", postgres, &[])?;
    if postgres.is_empty() {
        return Err(Error::usage(
            "--postgres names no host",
            "name at least one, as NAME=ADDRESS or ADDRESS",
        ));
    }
    let etcd = match &args.etcd {
        Some(list) => machines("--etcd", "etcd", list, &postgres)?,
        None => Sketch::etcd_beside(&postgres).ok_or_else(|| {
            let next = format!(
                "add a third machine: --etcd {},{},etcd-3=ADDRESS",
                postgres[0].name, postgres[1].name
            );
            Error::usage("two hosts have no majority when one of them fails", next)
        })?,
    };
    let mut known = postgres.clone();
    known.extend(etcd.iter().filter(|machine| !postgres.contains(machine)).cloned());
    let haproxy = match &args.haproxy {
        Some(list) => machines("--haproxy", "haproxy", list, &known)?,
        None if args.vip.is_some() => postgres.clone(),
        None => Vec::new(),
    };
    Ok(Sketch {
        cluster: cluster(args)?,
        user: args.user.clone().unwrap_or_else(|| "root".to_owned()),
        postgres_version: args.postgres_version,
        vip: args.vip.clone(),
        synchronous_mode: args.synchronous_mode.clone(),
        postgres,
        etcd,
        haproxy,
    })
}

fn cluster(args: &Args) -> Result<Scope, Error> {
    match &args.name {
        Some(name) => Ok(name.clone()),
        None => "main".parse::<Scope>().map_err(Error::failed),
    }
}

fn from_answers(args: &Args) -> Result<Sketch, Error> {
    let gone = || {
        Error::usage(
            "the questions were not answered",
            "give the answers as flags; see `pgfleet init --help`",
        )
    };
    let ask = |question: &str, default: &str, accept: &dyn Fn(&str) -> Result<(), String>| {
        prompt::text(question, default, accept).ok_or_else(gone)
    };
    let list = |prefix: &'static str, known: Vec<Machine>, least: usize| {
        move |text: &str| match Sketch::machines(prefix, text, &known)? {
            machines if machines.len() < least => Err("name at least one host".to_owned()),
            _ => Ok(()),
        }
    };
    let read = |prefix: &str, text: &str, known: &[Machine]| {
        Sketch::machines(prefix, text, known)
            .map_err(|problem| Error::usage(problem, "run the command again"))
    };
    let name = args.name.as_ref().map_or("main", Scope::as_str);
    let is_name = |text: &str| text.parse::<Scope>().map(|_| ()).map_err(|error| error.to_string());
    let answer = ask("Name of the cluster", name, &is_name)?;
    let cluster = answer.parse::<Scope>().map_err(Error::failed)?;
    let answer = ask(
        "Hosts of PostgreSQL, as NAME=ADDRESS or ADDRESS, with commas between",
        "",
        &list("pg", Vec::new(), 1),
    )?;
    let postgres = read("pg", &answer, &[])?;
    let proposed = Sketch::etcd_beside(&postgres);
    let proposed =
        proposed.iter().flatten().map(|machine| machine.name.to_string()).collect::<Vec<_>>().join(",");
    let odd = list("etcd", postgres.clone(), 1);
    let known = postgres.clone();
    let odd = move |text: &str| {
        odd(text)?;
        match Sketch::machines("etcd", text, &known)?.len() {
            count if count % 2 == 0 => {
                Err(format!("{count} is even; an odd number keeps its majority longer"))
            }
            _ => Ok(()),
        }
    };
    let etcd = read("etcd", &ask("Members of etcd, one, three or five", &proposed, &odd)?, &postgres)?;
    let mut known = postgres.clone();
    known.extend(etcd.iter().filter(|machine| !postgres.contains(machine)).cloned());
    let answer = ask("Hosts of HAProxy, empty for none", "", &list("haproxy", known.clone(), 0))?;
    let haproxy = read("haproxy", &answer, &known)?;
    let vip = match haproxy.len() {
        0 | 1 => None,
        _ => {
            Some(ask("Virtual address that they share, as ADDRESS/PREFIX, empty for none", "", &|_| Ok(()))?)
                .filter(|vip| !vip.is_empty())
        }
    };
    let user = ask("User that SSH logs in as", args.user.as_deref().unwrap_or("root"), &|_| Ok(()))?;
    let modes = [
        "off: fastest; a failover may lose the last moment",
        "on: waits for a replica",
        "quorum: waits for any of the replicas",
    ];
    let mode = match postgres.len() {
        1 => 0,
        _ => prompt::choice("Does a commit wait for replicas?", &modes).ok_or_else(gone)?,
    };
    Ok(Sketch {
        cluster,
        user,
        postgres_version: args.postgres_version,
        synchronous_mode: ["off", "on", "quorum"][mode].to_owned(),
        postgres,
        etcd,
        haproxy,
        vip,
    })
}

/// The checks of every inventory, before anything is written. What they say is about the answers; there is no
/// file yet whose lines could be shown.
fn refuse_what_does_not_load(text: &str) -> Result<(), Error> {
    let folder = tempfile::tempdir().map_err(Error::failed)?;
    let path = folder.path().join("inventory.yml");
    std::fs::write(&path, text).map_err(Error::failed)?;
    match Inventory::inspect(&path, &[]) {
        Ok(_) => Ok(()),
        Err(wrong) => {
            let without_place = |diagnostic: Diagnostic| Diagnostic { at: None, source: None, ..diagnostic };
            Err(Error::Invalid(Diagnostics(wrong.0.into_iter().map(without_place).collect())))
        }
    }
}

/// Beside the file, synced, renamed.
fn write(path: &Path, text: &str) -> std::io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file = tempfile::Builder::new().prefix(".inventory").tempfile_in(folder)?;
    file.write_all(text.as_bytes())?;
    let readable = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    file.as_file().set_permissions(readable)?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    Ok(())
}
