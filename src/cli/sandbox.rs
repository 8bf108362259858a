//! `pgfleet sandbox`: throw-away systemd hosts on this machine.

use super::{
    Exit,
    common::Format,
    context::keyring,
    error::{Error, Outcome},
};
use crate::{
    diagnostic::Diagnostic,
    inventory::{Inventory, Vip},
    model::InvalidName,
    sandbox::{self, Event, HostSpec, HostState, Image, Name, Sandbox, Snapshot, Spec, Status, Store},
    ui,
};
use std::{
    ffi::OsString,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
};

/// Make throw-away systemd hosts on this machine, at the inventory's own addresses
#[derive(clap::Args)]
#[command(after_help = "\
Every sandbox is a network of its own: nothing outside sees its addresses, and two may use the same.
Every other command works in it with `--sandbox NAME`.

Examples:
  pgfleet sandbox up -i inventories/demo.yml
  pgfleet bootstrap -i inventories/demo.yml --sandbox demo
  pgfleet sandbox kill pg-1
  pgfleet sandbox exec -- psql -h 10.128.0.40 -p 5431
  pgfleet sandbox down")]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Boot a host for each that the inventory lists; completes and boots what is not up
    Up(Up),
    /// Run a program of this machine inside the sandbox's network
    Exec {
        #[command(flatten)]
        which: Which,
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "CMD")]
        command: Vec<OsString>,
    },
    /// Log in to a host, or run a command there
    Ssh {
        #[command(flatten)]
        which: Which,
        /// The user to log in as
        #[arg(short = 'l', long, default_value = "root")]
        user: String,
        host: String,
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "CMD")]
        command: Vec<OsString>,
    },
    /// Cut the power of hosts
    Kill(Hosts),
    /// Shut hosts down in order (all of them if none is named)
    Stop(AnyHosts),
    /// Boot hosts (all of them if none is named)
    Start(AnyHosts),
    /// Cut the network of hosts; what runs on them goes on
    Cut(Hosts),
    /// Restore the network of hosts
    Join(Hosts),
    /// Show the sandboxes, their hosts, and the snapshots
    List {
        /// How to print the result
        #[arg(long, value_enum, default_value_t = Format::Text)]
        format: Format,
    },
    /// Remove a sandbox with everything that belongs to it
    Down {
        #[command(flatten)]
        which: Which,
        /// Remove every sandbox
        #[arg(long, conflicts_with = "name")]
        all: bool,
    },
    /// Shut the hosts down and keep their state as a snapshot, for `up --from`
    Save {
        #[command(flatten)]
        which: Which,
        snapshot: Name,
    },
    /// Remove a snapshot
    Forget { snapshot: Name },
    /// Serve the package cache of a sandbox
    #[command(hide = true)]
    Cache {
        #[arg(long)]
        listen: SocketAddr,
        #[arg(long)]
        directory: PathBuf,
    },
}

#[derive(clap::Args)]
struct Up {
    /// The inventory: a YAML file in Ansible's shape
    #[arg(short, long, value_name = "FILE", env = "PGFLEET_INVENTORY", default_value = "inventory.yml")]
    inventory: PathBuf,

    /// A host, instead of an inventory's; may be repeated
    #[arg(long = "host", value_name = "NAME=ADDRESS", value_parser = host_from_argument, conflicts_with = "inventory", requires = "name")]
    hosts: Vec<HostSpec>,

    /// What to call the sandbox [default: the cluster's name]
    #[arg(long, value_name = "NAME")]
    name: Option<Name>,

    /// The Debian release that the hosts boot
    #[arg(long, value_name = "trixie|bookworm|sid", default_value_t = Image::Trixie)]
    image: Image,

    /// Boot the hosts of this snapshot instead of new ones
    #[arg(long, value_name = "SNAPSHOT", conflicts_with_all = ["inventory", "image"])]
    from: Option<Name>,

    /// A variable that wins over the inventory's: `name=value`, `{"name": value}`, or `@file.yml`
    #[arg(short = 'e', long = "extra-vars", value_name = "VARS")]
    extra_vars: Vec<String>,

    /// A file with the passphrase of what Ansible Vault has sealed in the inventory
    #[arg(long, value_name = "FILE")]
    vault_password_file: Vec<PathBuf>,
}

#[derive(clap::Args)]
struct Which {
    /// The sandbox [default: the only one there is]
    #[arg(long, value_name = "NAME")]
    name: Option<Name>,
}

#[derive(clap::Args)]
struct Hosts {
    #[command(flatten)]
    which: Which,
    #[arg(required = true, value_name = "HOST")]
    hosts: Vec<String>,
}

#[derive(clap::Args)]
struct AnyHosts {
    #[command(flatten)]
    which: Which,
    #[arg(value_name = "HOST")]
    hosts: Vec<String>,
}

/// What `list --format json` prints.
#[derive(serde::Serialize)]
struct Listing {
    sandboxes: Vec<Status>,
    /// Half made or half removed.
    incomplete: Vec<Incomplete>,
    snapshots: Vec<Snapshot>,
}

#[derive(serde::Serialize)]
struct Incomplete {
    name: Name,
    problem: String,
}

impl From<sandbox::Error> for Error {
    fn from(error: sandbox::Error) -> Error {
        let next = error.next_step();
        if error.is_usage() {
            let wrong = Diagnostic::error(error.to_string());
            return Error::from(match next {
                Some(step) => wrong.help(step),
                None => wrong,
            });
        }
        let failed = Error::failed(error);
        match next {
            Some(step) => failed.next(step),
            None => failed,
        }
    }
}

pub fn run(args: Args) -> Outcome {
    let store = Store::from_environment();
    let open = |which: &Which| Sandbox::open_or_only(&store, which.name.as_ref());
    match args.command {
        Command::Up(args) => return up(&store, args),
        Command::Exec { which, command } => return exec(&open(&which)?, &command),
        Command::Ssh { which, user, host, command } => {
            let sandbox = open(&which)?;
            let mut words = vec![OsString::from("ssh")];
            words.extend(sandbox::ssh_command(&sandbox, &host, Some(&user), &command)?);
            return exec(&sandbox, &words);
        }
        Command::Kill(Hosts { which, hosts }) => open(&which)?.kill(&hosts)?,
        Command::Stop(AnyHosts { which, hosts }) => open(&which)?.stop(&hosts, &tell)?,
        Command::Start(AnyHosts { which, hosts }) => open(&which)?.start(&hosts, &executable()?, &tell)?,
        Command::Cut(Hosts { which, hosts }) => open(&which)?.cut(&hosts)?,
        Command::Join(Hosts { which, hosts }) => open(&which)?.join(&hosts)?,
        Command::List { format } => list(&store, format)?,
        Command::Down { which, all } => down(&store, &which, all)?,
        Command::Save { which, snapshot } => {
            open(&which)?.save(&snapshot, &tell)?;
            ui::note(&format!("saved as snapshot `{snapshot}`; the hosts are down"));
        }
        Command::Forget { snapshot } => Snapshot::forget(&store, &snapshot)?,
        Command::Cache { listen, directory } => {
            return super::sparingly(async move {
                sandbox::serve_cache(listen, directory).await.map_err(Error::failed)?;
                Ok(Exit::Done)
            });
        }
    }
    Ok(Exit::Done)
}

fn up(store: &Store, args: Up) -> Outcome {
    let executable = executable()?;
    let sandbox = match &args.from {
        Some(snapshot) => {
            let name = args.name.as_ref().unwrap_or(snapshot);
            Sandbox::up_from(store, name, snapshot, &executable, &tell)?
        }
        None if !args.hosts.is_empty() => {
            let name =
                args.name.ok_or_else(|| Error::usage("`--host` needs a name for the sandbox", "--name N"))?;
            let spec = Spec { hosts: args.hosts, reserved: Vec::new(), image: args.image };
            Sandbox::up(store, &name, &spec, &executable, &tell)?
        }
        None => {
            let keys = keyring(&args.vault_password_file, true);
            let inventory = Inventory::inspect_with(&args.inventory, &args.extra_vars, &keys)?;
            let name = match args.name {
                Some(name) => name,
                None => inventory.cluster.as_str().parse().map_err(sandbox::Error::from)?,
            };
            let spec = specification(&inventory, args.image)?;
            Sandbox::up(store, &name, &spec, &executable, &tell)?
        }
    };
    let status = sandbox.status();
    ui::note(&format!("sandbox `{}` is up: {} hosts in {}", status.name, status.hosts.len(), status.network));
    Ok(Exit::Done)
}

fn host_from_argument(text: &str) -> Result<HostSpec, String> {
    let (name, address) = text.split_once('=').ok_or("expected NAME=ADDRESS")?;
    let name = name.parse().map_err(|error: InvalidName| error.to_string())?;
    let address = address.parse().map_err(|_| format!("`{address}` is not an IPv4 address"))?;
    Ok(HostSpec { name, address, port: 22, user: "root".to_owned() })
}

/// One host for each of the inventory's, at its address; the VIP stays free.
fn specification(inventory: &Inventory, image: Image) -> Result<Spec, Error> {
    let hosts = inventory.hosts.values().map(|host| {
        let connection = &host.connection;
        let address: Ipv4Addr = connection.host.parse().map_err(|_| {
            let text = format!("host `{}` has no IPv4 address: `{}`", host.name, connection.host);
            Diagnostic::error(text)
                .help("a sandbox boots hosts at their own addresses; set `ansible_host` to an IPv4 address")
        })?;
        let user = connection.user.clone().unwrap_or_else(|| "root".to_owned());
        Ok(HostSpec { name: host.name.clone(), address, port: connection.port.unwrap_or(22), user })
    });
    let hosts = hosts.collect::<Result<Vec<_>, Error>>()?;
    let vip = inventory.vip().map(|Vip(network)| network.addr());
    let reserved = vip.into_iter().filter_map(|address| match address {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    });
    let reserved = reserved.collect();
    Ok(Spec { hosts, reserved, image })
}

fn exec(sandbox: &Sandbox, command: &[OsString]) -> Outcome {
    match command {
        [program, arguments @ ..] => Err(sandbox::exec(sandbox, program, arguments).into()),
        [] => Err(Error::usage("no command is given", "pgfleet sandbox exec -- CMD")),
    }
}

fn list(store: &Store, format: Format) -> Result<(), Error> {
    let (mut sandboxes, mut incomplete) = (Vec::new(), Vec::new());
    for name in store.names() {
        match Sandbox::open(store, &name) {
            Ok(sandbox) => sandboxes.push(sandbox.status()),
            Err(error) => incomplete.push(Incomplete { name, problem: error.to_string() }),
        }
    }
    let listing = Listing { sandboxes, incomplete, snapshots: Snapshot::all(store) };
    if format == Format::Json {
        ui::json(&listing);
        return Ok(());
    }
    listing.sandboxes.iter().for_each(show);
    for Incomplete { name, problem } in &listing.incomplete {
        ui::line(&format!("{name}: {problem}"));
    }
    for snapshot in &listing.snapshots {
        ui::line(&format!("snapshot {} ({} hosts)", snapshot.name, snapshot.hosts));
    }
    Ok(())
}

fn show(status: &Status) {
    ui::line(&format!("{} ({}, {})", status.name, status.image, status.network));
    let width = status.hosts.iter().map(|host| host.name.as_str().len()).max().unwrap_or(0);
    for host in &status.hosts {
        let state = match host.state {
            HostState::Running => "running",
            HostState::Cut => "running, network cut",
            HostState::Down => "down",
        };
        ui::line(&format!("  {:width$}  {:15}  {state}", host.name, host.address));
    }
}

fn down(store: &Store, which: &Which, all: bool) -> Result<(), Error> {
    let names = match &which.name {
        Some(name) => vec![name.clone()],
        None if all => store.names(),
        None => match &store.names()[..] {
            // Also what a run that was killed before it made a sandbox may have left is removed.
            [] => vec![],
            [only] => vec![only.clone()],
            several => return Err(sandbox::Error::WhichSandbox { known: several.to_vec() }.into()),
        },
    };
    for name in &names {
        if Sandbox::down(store, name)? {
            ui::note(&format!("sandbox `{name}` is removed"));
        }
    }
    if names.is_empty() {
        Sandbox::sweep(store)?;
        ui::note("there is no sandbox");
    }
    Ok(())
}

/// This program, as the sandbox's package cache is to be started.
fn executable() -> Result<PathBuf, Error> {
    let path = std::env::current_exe().map_err(Error::failed)?;
    Ok(Path::new(&path).to_owned())
}

fn tell(event: Event) {
    let secs = |duration: std::time::Duration| format!("{:.1} s", duration.as_secs_f64());
    ui::note(&match event {
        Event::BuildingImage(image) => format!("building the image `{image}`, once; this takes a minute"),
        Event::ImageBuilt(image, took) => format!("image `{image}` is built ({})", secs(took)),
        Event::WaitingForImage(image) => format!("waiting for another run that builds the image `{image}`"),
        Event::HostUp(host, took) => format!("{host}: up ({})", secs(took)),
        Event::HostDown(host) => format!("{host}: down"),
        Event::HostForcedDown(host, after) => {
            format!("{host}: power cut, it had not shut down within {}", secs(after))
        }
    });
}
