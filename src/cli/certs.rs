//! `pgfleet certs`: what the services present, and until when; a new authority.

use super::{
    Exit,
    common::{Common, Format},
    context::{Context, keyring},
    deploy::{self, Deploy},
    error::{Error, Outcome},
    locked::{self, Locking},
    reach::reach,
    status::table,
};
use crate::{
    cluster::{CertificateState, Served, certificates},
    inventory::{Rotation, rotate},
    remote::protocol::Mode,
    ui,
};
use jiff::Timestamp;
use serde::Serialize;

/// Show the certificate that each service presents, and when it ends; or replace the authority
#[derive(clap::Args)]
#[command(after_help = "\
Asks etcd, the agents, PostgreSQL and HAProxy by a handshake, through SSH. A certificate is `current` when it is
the one that the secrets file keeps for the service, and `due` when a newer one is kept: `pgfleet apply`
installs it, and services take it up without a restart. `apply` itself makes a new one as soon as less than a
third of `certificate_days` is left.

`rotate` replaces the authority itself in three steps, of which each reaches every host before the next begins:
the new one is trusted beside the old one, it signs all certificates, the old one is trusted no longer. Members
of etcd restart one at a time; everything else is reloaded. Broken off, it is taken up again by the same command.

Exit code: 0 when all are current, 1 when one is due or a service gives no answer.

Examples:
  pgfleet certs -i inventory.yml
  pgfleet certs --format json | jq '.certificates[] | select(.days_left < 30)'
  pgfleet apply --tags certificates        only certificates
  pgfleet certs rotate")]
pub struct Args {
    /// What to do
    #[arg(value_enum, default_value_t = Action::List)]
    pub action: Action,

    #[command(flatten)]
    pub common: Common,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Action {
    /// Ask each service
    List,
    /// Replace the authority, and all that it signed
    Rotate,
}

/// What is printed for programs.
#[derive(Serialize)]
struct Document {
    cluster: String,
    /// When the authority itself ends.
    authority_ends: Option<Timestamp>,
    certificates: Vec<Served>,
}

pub async fn run(args: Args) -> Outcome {
    let context = Context::load(&args.common)?;
    let Some(authority) = context.inventory.authority() else {
        let error = Error::failed(anyhow::anyhow!("the cluster has no TLS: `tls` is false in the inventory"));
        return Err(error.next("TLS is decided when a cluster is made: `tls: true` in a new one's inventory"));
    };
    if args.action == Action::Rotate {
        return replace(&args.common).await;
    }
    let authority_ends = Timestamp::from_second(authority.not_after).ok();
    let (topology, access) = reach(&context).await?;
    let certificates = certificates(&topology, &access, &context.inventory.certificates()).await;
    access.close().await;
    let cluster = topology.cluster.to_string();
    let document = Document { cluster, authority_ends, certificates };
    match args.common.format {
        Format::Json => ui::json(&document),
        Format::Text => text(&document).into_iter().for_each(|line| ui::line(&line)),
    }
    let current = |served: &Served| served.state == CertificateState::Current;
    Ok(if document.certificates.iter().all(current) { Exit::Done } else { Exit::Failed })
}

/// Brings all hosts to one step after the other.
async fn replace(common: &Common) -> Outcome {
    if common.limit.is_some() || !common.tags.is_empty() || !common.skip_tags.is_empty() {
        let next = "leave out --limit, --tags and --skip-tags";
        return Err(Error::usage("every host of the cluster has to know the new authority", next));
    }
    let keys = keyring(&common.vault_password_file, !common.yes);
    let mut context = Context::load_with(common, &keys)?;
    let question = format!(
        "Replace the certificate authority of `{}`? Members of etcd restart one at a time, twice.",
        context.inventory.cluster
    );
    if !context.common.yes && ui::interactive() && !ui::confirm(&question) {
        ui::note("Nothing was changed.");
        return Ok(Exit::Done);
    }
    // What an earlier run left halfway reaches every host before anything goes on.
    ui::note("What is trusted and signed now is brought to every host.");
    let holder = locked::holder("certs rotate", common);
    // The cluster is told of the new ones.
    let lock = Locking { other_secrets: true, ..Locking::default() };
    let mut step = None;
    loop {
        let playbook = deploy::load(&context, "rotate")?;
        let report = deploy::carry_out(&context, &playbook, &Deploy::under(lock.applying(&holder))).await?;
        if !report.succeeded() || step == Some(Rotation::Finished) {
            return Ok(deploy::finish(&context, &report, Mode::Apply));
        }
        step = Some(rotate(&context.inventory, &keys)?);
        ui::note(match step {
            Some(Rotation::Introduced) => "A new authority is trusted beside the old one.",
            Some(Rotation::Switched) => "The new authority signs every certificate.",
            _ => "The old authority is trusted no longer.",
        });
        context = Context::load_with(common, &keys)?;
    }
}

fn text(document: &Document) -> Vec<String> {
    let day = |at: &Timestamp| at.strftime("%Y-%m-%d").to_string();
    let ends = document.authority_ends.as_ref().map(day).unwrap_or_default();
    let mut lines = vec![format!("The authority of {} ends on {ends}", document.cluster)];
    let rows = document.certificates.iter().map(|served| {
        let state = match (served.state, &served.why) {
            (CertificateState::Current, _) => "current".to_owned(),
            (CertificateState::Due, _) => "due: `pgfleet apply` installs a newer one".to_owned(),
            (CertificateState::Unknown, why) => why.clone().unwrap_or_default(),
        };
        let ends = served.ends.as_ref().map_or_else(|| "-".to_owned(), day);
        let left = served.days_left.map_or_else(|| "-".to_owned(), |days| days.to_string());
        vec![served.host.to_string(), served.service.to_owned(), ends, left, state]
    });
    table(&mut lines, &["host", "service", "ends", "days left", "state"], rows);
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_read_a_table() {
        let served = |service, state, days_left: Option<i64>| Served {
            host: "pg-1".parse().unwrap(),
            service,
            state,
            ends: days_left.map(|days| Timestamp::from_second(1_800_000_000 + days * 86_400).unwrap()),
            days_left,
            serial: days_left.map(|_| "0a".to_owned()),
            names: Vec::new(),
            why: days_left.is_none().then(|| "connection refused".to_owned()),
        };
        let document = Document {
            cluster: "demo".to_owned(),
            authority_ends: Timestamp::from_second(2_100_000_000).ok(),
            certificates: vec![
                served("agent", CertificateState::Current, Some(300)),
                served("postgres", CertificateState::Due, Some(12)),
                served("haproxy", CertificateState::Unknown, None),
            ],
        };
        insta::assert_snapshot!(text(&document).join("\n"), @r"
        The authority of demo ends on 2036-07-18

        HOST  SERVICE   ENDS        DAYS LEFT  STATE
        pg-1  agent     2027-11-11  300        current
        pg-1  postgres  2027-01-27  12         due: `pgfleet apply` installs a newer one
        pg-1  haproxy   -           -          connection refused
        ");
    }
}
