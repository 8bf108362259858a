//! `pgfleet adopt`: the inventory of a cluster, fetched from the cluster itself.

use super::{
    Exit,
    common::Format,
    error::{Error, Outcome},
    history::away,
};
use crate::{
    cluster::{Access, DcsHost, Kv},
    journal::desired::{self, Secrets, Stored},
    model::{HostName, Scope},
    sandbox::{self, Name},
    ssh::{self, Target},
    ui,
};
use serde_json::json;
use std::{path::PathBuf, sync::Arc};

/// Fetch a cluster's inventory from one of its etcd hosts, to work on it from this machine
#[derive(clap::Args)]
#[command(after_help = "\
What the last `bootstrap` or `apply` made of the cluster is kept in its own etcd: the inventory file with its
group_vars/ and host_vars/, and the passwords beside it where they are sealed. Nothing is overwritten.

Examples:
  pgfleet adopt 10.0.0.11 -o demo            then: cd demo && pgfleet status -i demo.yml
  pgfleet adopt admin@etcd-1:2222 --cluster demo")]
pub struct Args {
    /// A host of etcd: an address or an alias in ssh_config, as `[USER@]HOST[:PORT]`
    #[arg(value_name = "HOST")]
    pub host: String,

    /// The cluster, where etcd knows several
    #[arg(long, value_name = "NAME")]
    pub cluster: Option<Scope>,

    /// The folder to write to
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    pub output: PathBuf,

    /// The port of etcd there
    #[arg(long, value_name = "PORT", default_value_t = 2379)]
    pub etcd_port: u16,

    /// The host is in this sandbox
    #[arg(long, value_name = "NAME", env = "PGFLEET_SANDBOX")]
    pub sandbox: Option<Name>,

    /// How to print the result
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,

    /// Record the host's key if it is not in known_hosts yet; a changed key is still refused
    #[arg(long)]
    pub accept_new_host_keys: bool,
}

pub async fn run(args: Args) -> Outcome {
    let options = match &args.sandbox {
        Some(name) => ssh::Options::isolated(sandbox::identity_file(name), sandbox::known_hosts(name)),
        None => ssh::Options::default(),
    };
    let options = ssh::Options { accept_new_host_keys: args.accept_new_host_keys, ..options };
    let mut target = target(&args.host)?;
    if args.sandbox.is_some() && target.user.is_none() {
        target.user = Some("root".to_owned());
    }
    let member =
        DcsHost { name: target.name.clone(), address: "127.0.0.1".to_owned(), client_port: args.etcd_port };
    let access = ui::waiting("connecting", Access::open(vec![target], &options, 1)).await;
    if let Some(error) = access.failures().next() {
        let next = error.next_step();
        return Err(Error::Unreachable(anyhow::anyhow!("{error}"), vec![next]));
    }
    let tls = access.tls_of_etcd(&member.name).await.map_err(|error| {
        let next = "The command reads the host's certificate of etcd, for which it becomes root there.";
        Error::failed(error).next(next)
    })?;
    let kv = Kv::new(Arc::new(access.with_tls(tls)), vec![member]);
    let found = desired::fetch(&kv, args.cluster.as_ref()).await.map_err(away)?;
    let (cluster, stored) = one(found, &args)?;
    let path = stored.unpack(&args.output).map_err(|error| {
        let next = "Name another folder with `-o DIR`, one that may be written.";
        Error::failed(anyhow::anyhow!("the inventory cannot be written: {error}")).next(next)
    })?;
    desired::adopted(&stored, &path);
    match args.format {
        Format::Json => ui::json(&json!({
            "cluster": cluster, "inventory": path, "who": stored.who.to_string(), "when": stored.when,
            "complete": !matches!(stored.secrets, Secrets::Apart { .. }),
        })),
        Format::Text => {
            ui::line(&format!(
                "{}: the inventory of `{cluster}`, last applied {}",
                path.display(),
                stored.describe()
            ));
            ui::note(&format!("  {0}next{0:#}: pgfleet status -i {1}", ui::HEADING, path.display()));
        }
    }
    if let Secrets::Apart { file, .. } = &stored.secrets {
        ui::warning(&format!(
            "its passwords are not sealed, and so not in etcd: copy `{file}` from {} beside the inventory before \
             you change the cluster",
            stored.who
        ));
    }
    Ok(Exit::Done)
}

/// `[USER@]HOST[:PORT]`.
fn target(text: &str) -> Result<Target, Error> {
    let (user, rest) = match text.split_once('@') {
        Some((user, rest)) => (Some(user.to_owned()), rest),
        None => (None, text),
    };
    let (address, port) = match rest.rsplit_once(':') {
        Some((address, port)) if !address.contains(':') || address.ends_with(']') => (address, Some(port)),
        _ => (rest, None),
    };
    let next = "Write `[USER@]HOST[:PORT]`.";
    let port = port.map(str::parse).transpose();
    let port = port.map_err(|_| Error::usage(format!("`{text}` has no port that is a number"), next))?;
    let address = address.trim_matches(['[', ']']).to_owned();
    let name: HostName =
        address.replace(':', "-").parse().map_err(|_| Error::usage(format!("`{text}` is no host"), next))?;
    Ok(Target { user, port, ..Target::new(name, address) })
}

fn one(mut found: Vec<(Scope, Stored)>, args: &Args) -> Result<(Scope, Stored), Error> {
    match (found.len(), &args.cluster) {
        (1, _) => Ok(found.remove(0)),
        (0, Some(cluster)) => Err(Error::failed(anyhow::anyhow!(
            "etcd there keeps no inventory of `{cluster}`"
        ))
        .next("It is kept by the first `bootstrap` or `apply`; leave --cluster out to see what is there.")),
        (0, None) => Err(Error::failed(anyhow::anyhow!("etcd there keeps no inventory"))
            .next("It is kept by the first `bootstrap` or `apply` of pgfleet.")),
        _ => {
            let known: Vec<_> = found.iter().map(|(cluster, _)| cluster.to_string()).collect();
            let next = format!("Say which with `--cluster`: {}.", known.join(", "));
            Err(Error::usage("etcd there keeps the inventories of several clusters", next))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_as_people_write_them() {
        for (text, expected) in [
            ("etcd-1", Some((None, "etcd-1", None))),
            ("admin@10.0.0.1:2222", Some((Some("admin"), "10.0.0.1", Some(2222)))),
            ("fd00::1", Some((None, "fd00::1", None))),
            ("root@[fd00::1]:22", Some((Some("root"), "fd00::1", Some(22)))),
            ("etcd-1:ssh", None),
            ("", None),
        ] {
            let target = target(text).ok();
            let target =
                target.as_ref().map(|target| (target.user.as_deref(), target.address.as_str(), target.port));
            assert_eq!(target, expected, "{text}");
        }
    }
}
