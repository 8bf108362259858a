//! The hosts that a pattern names, connected to; for the commands that work on hosts by hand.

use super::{Exit, context::Context, error::Error, reach::PATIENCE};
use crate::{
    cluster::Access,
    fleet::Trouble,
    inventory,
    model::HostName,
    ssh::{Become, Options, Target},
    ui,
};

/// As whom.
#[derive(Clone, Debug, clap::Args)]
pub struct As {
    /// Become root by sudo although the inventory does not say so
    #[arg(long)]
    pub r#become: bool,

    /// Become this user by sudo
    #[arg(long, value_name = "USER")]
    pub become_user: Option<String>,
}

/// Hosts with a connection each, or the reason why there is none.
pub struct Hosts<'c> {
    pub chosen: Vec<&'c inventory::Host>,
    pub names: Vec<HostName>,
    pub access: Access,
}

impl<'c> Hosts<'c> {
    /// The hosts of `pattern` that `--limit` leaves, in the inventory's order.
    pub async fn connect(context: &'c Context, pattern: &str, r#as: Option<&As>) -> Result<Self, Error> {
        let mut chosen = context.inventory.select(pattern)?;
        if let Some(limit) = &context.common.limit {
            let limit = context.inventory.select(limit)?;
            chosen.retain(|host| limit.iter().any(|other| other.name == host.name));
        }
        if chosen.is_empty() {
            let next = "Name a host or group that has hosts; see `pgfleet status`.";
            return Err(Error::usage(format!("`{pattern}` matches no host"), next));
        }
        let options = Options { connect_timeout: PATIENCE, ..context.ssh() };
        let target = |host: &&inventory::Host| {
            let mut target = Target::of(host, &options);
            if let Some(r#as) = r#as.filter(|r#as| r#as.r#become || r#as.become_user.is_some()) {
                let known = target.r#become.take();
                let user = r#as.become_user.clone();
                target.r#become = Some(Become {
                    user: user.unwrap_or_else(|| "root".to_owned()),
                    password: known.and_then(|known| known.password),
                });
            }
            target
        };
        let targets: Vec<Target> = chosen.iter().map(target).collect();
        let open = Access::open(targets, &options, usize::from(context.common.forks));
        let access = ui::waiting("connecting", open).await;
        let names = chosen.iter().map(|host| host.name.clone()).collect();
        Ok(Self { chosen, names, access })
    }
}

/// Tells what went wrong on a host.
pub fn tell(host: &HostName, trouble: &Trouble) {
    ui::error(&format!("{host}: {}", trouble.message), std::slice::from_ref(&trouble.next_step));
}

/// The exit code of a command that met these.
pub fn exit<'t>(troubles: impl Iterator<Item = &'t Trouble>) -> Exit {
    troubles.fold(Exit::Done, |exit, trouble| match (exit, trouble.unreachable) {
        (Exit::Unreachable, _) | (_, true) => Exit::Unreachable,
        _ => Exit::Failed,
    })
}
