//! The commands that run a playbook: plan, bootstrap, apply, run.

use super::{
    Exit,
    common::{Common, Format},
    context::{Context, overrides},
    error::{Error, Outcome},
};
use crate::{
    engine::{Engine, Mask, Options, Report},
    playbook::{Playbook, Sources},
    remote::protocol::Mode,
    ui::{
        self,
        progress::{Detail, Progress},
    },
};
use tokio_util::sync::CancellationToken;

/// Show what `apply` would change on each host, and what each change costs. Changes nothing
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  pgfleet plan -i inventory.yml            what differs, per host and step
  pgfleet plan -i inventory.yml --diff     with the lines of each file
  pgfleet plan --detailed-exitcode         exit code 4 when anything differs")]
pub struct PlanArgs {
    #[command(flatten)]
    pub common: Common,

    /// Exit with 4 when there are changes, 0 when there are none
    #[arg(long)]
    pub detailed_exitcode: bool,
}

/// Create the cluster, or complete it: packages, etcd, PostgreSQL with its agent, HAProxy, keepalived
#[derive(clap::Args)]
#[command(after_help = "\
Running it again completes what is missing and changes nothing that is right.

Examples:
  pgfleet bootstrap -i inventory.yml
  pgfleet sandbox up -i inventory.yml --name try && pgfleet bootstrap -i inventory.yml --sandbox try")]
pub struct BootstrapArgs {
    #[command(flatten)]
    pub common: Common,
}

/// Bring the running cluster to what the inventory says; what is right already stays untouched
#[derive(clap::Args)]
#[command(after_help = "\
On a terminal the plan is shown first and a question asked; -y goes ahead.")]
pub struct ApplyArgs {
    #[command(flatten)]
    pub common: Common,
}

/// Run a playbook of your own on the inventory's hosts
#[derive(clap::Args)]
pub struct RunArgs {
    /// The playbook: a YAML file in Ansible's words
    #[arg(value_name = "PLAYBOOK")]
    pub playbook: String,

    #[command(flatten)]
    pub common: Common,

    /// Look and compare only; change nothing
    #[arg(long)]
    pub check: bool,
}

pub async fn plan(args: PlanArgs) -> Outcome {
    let context = Context::load(&args.common)?;
    let playbook = load(&context, "apply")?;
    let report = carry_out(&context, &playbook, Mode::Check).await?;
    let exit = finish(&context, &report, Mode::Check);
    if exit == Exit::Done && args.detailed_exitcode && report.changed() > 0 {
        return Ok(Exit::Changes);
    }
    Ok(exit)
}

pub async fn bootstrap(args: BootstrapArgs) -> Outcome {
    let context = Context::load(&args.common)?;
    let playbook = load(&context, "bootstrap")?;
    let report = carry_out(&context, &playbook, Mode::Apply).await?;
    let exit = finish(&context, &report, Mode::Apply);
    let everything =
        args.common.tags.is_empty() && args.common.skip_tags.is_empty() && args.common.limit.is_none();
    if exit == Exit::Done && everything && args.common.format == Format::Text {
        ui::note(&hint(&context));
    }
    Ok(exit)
}

pub async fn apply(args: ApplyArgs) -> Outcome {
    let context = Context::load(&args.common)?;
    let playbook = load(&context, "apply")?;
    if !args.common.yes && ui::interactive() {
        let report = carry_out(&context, &playbook, Mode::Check).await?;
        let exit = finish(&context, &report, Mode::Check);
        if exit != Exit::Done || report.changed() == 0 {
            return Ok(exit);
        }
        if !ui::confirm("Apply these changes?") {
            ui::note("Nothing was changed.");
            return Ok(Exit::Done);
        }
    }
    let report = carry_out(&context, &playbook, Mode::Apply).await?;
    Ok(finish(&context, &report, Mode::Apply))
}

pub async fn run(args: RunArgs) -> Outcome {
    let context = Context::load(&args.common)?;
    let playbook = load(&context, &args.playbook)?;
    let mode = if args.check { Mode::Check } else { Mode::Apply };
    let report = carry_out(&context, &playbook, mode).await?;
    Ok(finish(&context, &report, mode))
}

/// Where clients connect to.
fn hint(context: &Context) -> String {
    let inventory = &context.inventory;
    let mut text = format!(
        "The cluster `{}` is up. Write to {}",
        inventory.cluster,
        inventory.write_endpoints().join(", ")
    );
    let readers = inventory.read_endpoints();
    if !readers.is_empty() {
        text.push_str(&format!(", read from {}", readers.join(", ")));
    }
    format!("{text}.")
}

/// A playbook by its path, or one that comes with pgfleet by its name; `./playbooks` wins over those.
pub(super) fn load(context: &Context, name: &str) -> Result<Playbook, Error> {
    let playbook = Playbook::load(name, &Sources { directories: overrides("playbooks") })?;
    playbook.check_templates(&context.templates)?;
    Ok(playbook)
}

pub(super) async fn carry_out(context: &Context, playbook: &Playbook, mode: Mode) -> Result<Report, Error> {
    let common = &context.common;
    let options = Options {
        mode,
        diff: common.diff,
        limit: common.limit.clone(),
        tags: common.tags.clone(),
        skip_tags: common.skip_tags.clone(),
        forks: usize::from(common.forks),
        ssh: context.ssh(),
        executables: context.executables()?,
    };
    let (sink, events) = tokio::sync::mpsc::unbounded_channel();
    let detail = Detail { every_step: common.verbose > 0, diff: common.diff, would: mode == Mode::Check };
    let progress = tokio::spawn(Progress::new(detail).listen(events));
    let cancel = CancellationToken::new();
    let signals = tokio::spawn(cancel_on_interrupt(cancel.clone()));
    let engine = Engine {
        inventory: &context.inventory,
        templates: &context.templates,
        options: &options,
        sink,
        mask: Mask::new(context.inventory.secrets()),
        cancel,
    };
    let report = engine.run(playbook).await;
    drop(engine);
    signals.abort();
    let _ = progress.await;
    Ok(report?)
}

/// The first Ctrl-C lets hosts finish the step that they are in; the second ends the program, and the
/// hands on the targets finish their step and stop by themselves.
async fn cancel_on_interrupt(cancel: CancellationToken) {
    let mut interrupted = 0;
    while tokio::signal::ctrl_c().await.is_ok() {
        interrupted += 1;
        if interrupted > 1 {
            std::process::exit(130);
        }
        ui::note("Stopping after the steps under way. Press Ctrl-C again to leave at once.");
        cancel.cancel();
    }
}

/// Prints the result and maps it to an exit code.
pub(super) fn finish(context: &Context, report: &Report, mode: Mode) -> Exit {
    let would = mode == Mode::Check;
    match context.common.format {
        Format::Text => ui::recap::recap(report, would),
        Format::Json => ui::json(report),
    }
    if report.failures.iter().any(|failure| failure.unreachable) {
        Exit::Unreachable
    } else if report.succeeded() {
        Exit::Done
    } else {
        Exit::Failed
    }
}
