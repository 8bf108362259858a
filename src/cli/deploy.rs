//! The commands that run a playbook: plan, bootstrap, apply, run.

use super::{
    Exit, check,
    common::{Common, Format},
    context::{Context, overrides},
    error::{Error, Outcome},
    locked::{self, Kept, Locking, Use, Waiting},
    rolling,
};
use crate::{
    engine::{self, Consequences, Engine, Inputs, Mask, Options, Report, Request, SavedPlan, Sink},
    journal::Holder,
    playbook::{Playbook, Sources},
    remote::protocol::Mode,
    ui::{
        self,
        progress::{Detail, Progress},
    },
};
use serde_json::Value;
use std::{
    path::{Path, PathBuf},
    sync::Arc,
};
use tokio_util::sync::CancellationToken;

/// What becomes of what somebody has changed on the hosts.
#[derive(Clone, Copy, clap::Args)]
pub struct DriftArgs {
    /// Overwrite files of ours that were changed on the hosts by hand; else they are kept, and the run stops there
    #[arg(long)]
    pub overwrite_drift: bool,
}

/// Show what `apply` would change on each host, and what each change costs. Changes nothing
#[derive(clap::Args)]
#[command(after_help = "\
What somebody has changed on a host by hand since our last run is shown as such; `apply` keeps it and stops
there, unless --overwrite-drift is given. A saved plan is applied as it is or not at all: `apply FILE`
refuses when the inventory, the playbook or anything that was found on a host has changed since.

Examples:
  pgfleet plan -i inventory.yml            what differs, what it costs, in which order it would be done
  pgfleet plan -i inventory.yml --diff     with the lines of each file
  pgfleet plan -o change.plan              saves it for `pgfleet apply change.plan`; it holds digests only
  pgfleet plan --detailed-exitcode         exit code 4 when anything differs")]
pub struct PlanArgs {
    #[command(flatten)]
    pub common: Common,

    /// Exit with 4 when there are changes, 0 when there are none
    #[arg(long)]
    pub detailed_exitcode: bool,

    /// Save the plan, for `apply FILE`
    #[arg(short, long, value_name = "FILE")]
    pub out: Option<PathBuf>,

    #[command(flatten)]
    pub drift: DriftArgs,
}

/// Create the cluster, or complete it: packages, etcd, PostgreSQL with its agent, HAProxy, keepalived
#[derive(clap::Args)]
#[command(after_help = "\
Running it again completes what is missing and changes nothing that is right. Before anything is changed, the
hosts try whether they get through to each other, on every port that they will need.

Examples:
  pgfleet bootstrap -i inventory.yml
  pgfleet sandbox up -i inventory.yml --name try && pgfleet bootstrap -i inventory.yml --sandbox try")]
pub struct BootstrapArgs {
    #[command(flatten)]
    pub common: Common,

    #[command(flatten)]
    pub locking: Locking,

    #[command(flatten)]
    pub drift: DriftArgs,

    /// Do not try beforehand whether the hosts get through to each other
    #[arg(long)]
    pub skip_preflight: bool,
}

/// Bring the running cluster to what the inventory says; what is right already stays untouched
#[derive(clap::Args)]
#[command(after_help = "\
On a terminal the plan is shown first and a question asked; -y goes ahead. With a plan that `plan -o` has
saved, nothing is asked: all hosts are looked at once more, and if anything differs from the plan, the run
refuses before it changes anything.

Where a changed setting of PostgreSQL needs a restart, members restart one after another, in an order that
keeps the cluster writable but for a moment; how long that was is measured and told.

Examples:
  pgfleet apply -i inventory.yml
  pgfleet plan -o change.plan && pgfleet apply change.plan
  pgfleet apply -y --max-write-gap 500    stop before the next member if nobody could write for longer
  pgfleet apply -y --no-restart           leave restarts for `pgfleet restart --pending`
  pgfleet apply --overwrite-drift         gives up what was changed on the hosts by hand")]
pub struct ApplyArgs {
    /// A plan that `plan -o FILE` has saved
    #[arg(value_name = "FILE")]
    pub plan: Option<PathBuf>,

    #[command(flatten)]
    pub common: Common,

    /// Leave PostgreSQL running where a changed setting needs a restart
    #[arg(long)]
    pub no_restart: bool,

    /// Stop before the next member restarts once nobody could write for longer than this
    #[arg(long, value_name = "MS", conflicts_with = "no_restart")]
    pub max_write_gap: Option<u64>,

    #[command(flatten)]
    pub locking: Locking,

    #[command(flatten)]
    pub drift: DriftArgs,
}

/// Run a playbook of your own on the inventory's hosts
#[derive(clap::Args)]
pub struct RunArgs {
    /// The playbook: a YAML file in Ansible's words
    #[arg(value_name = "PLAYBOOK")]
    pub playbook: String,

    #[command(flatten)]
    pub common: Common,

    #[command(flatten)]
    pub waiting: Waiting,

    /// Look and compare only; change nothing
    #[arg(long)]
    pub check: bool,

    #[command(flatten)]
    pub drift: DriftArgs,
}

pub async fn plan(args: PlanArgs) -> Outcome {
    let context = Context::load(&args.common)?;
    let playbook = load(&context, "apply")?;
    let report = carry_out(&context, &playbook, &Deploy::looking().overwriting(args.drift)).await?;
    let exit = show(&context, &report, args.drift);
    if exit == Exit::Done
        && let Some(path) = &args.out
    {
        let request = Request {
            limit: args.common.limit.clone(),
            tags: args.common.tags.clone(),
            skip_tags: args.common.skip_tags.clone(),
            overwrite_drift: args.drift.overwrite_drift,
        };
        let inputs = Inputs::of(&context.inventory, &playbook, &context.templates);
        SavedPlan::new(request, inputs, &report).write(path)?;
        ui::note(&format!("\nSaved: `pgfleet apply {}` does this and nothing else.", path.display()));
    }
    if exit == Exit::Done && args.detailed_exitcode && report.changed() > 0 {
        return Ok(Exit::Changes);
    }
    Ok(exit)
}

pub async fn bootstrap(args: BootstrapArgs) -> Outcome {
    let context = Context::load(&args.common)?;
    let playbook = load(&context, "bootstrap")?;
    if !args.skip_preflight && args.common.tags.is_empty() && args.common.skip_tags.is_empty() {
        check::links(&context).await?;
    }
    let holder = locked::holder("bootstrap", &args.common);
    let with = Deploy::under(args.locking.applying(&holder)).overwriting(args.drift);
    let report = carry_out(&context, &playbook, &with).await?;
    let exit = finish(&context, &report, Mode::Apply);
    let everything =
        args.common.tags.is_empty() && args.common.skip_tags.is_empty() && args.common.limit.is_none();
    if exit == Exit::Done && everything && args.common.format == Format::Text {
        ui::note(&hint(&context));
    }
    Ok(exit)
}

pub async fn apply(args: ApplyArgs) -> Outcome {
    if let Some(path) = &args.plan {
        return apply_saved(&args, path).await;
    }
    let context = Context::load(&args.common)?;
    let playbook = load(&context, "apply")?;
    if !args.common.yes && ui::interactive() {
        let report = carry_out(&context, &playbook, &Deploy::looking().overwriting(args.drift)).await?;
        let exit = show(&context, &report, args.drift);
        if exit != Exit::Done || report.changed() == 0 {
            return Ok(exit);
        }
        if !ui::confirm("Apply these changes?") {
            ui::note("Nothing was changed.");
            return Ok(Exit::Done);
        }
    }
    change(&context, &playbook, &args, args.drift).await
}

/// Makes the cluster what the inventory says, and restarts what waits for a restart.
async fn change(context: &Context, playbook: &Playbook, args: &ApplyArgs, drift: DriftArgs) -> Outcome {
    let holder = locked::holder("apply", &args.common);
    let with = Deploy::under(args.locking.applying(&holder)).overwriting(drift);
    let (report, lock) = begin(context, playbook, &with).await?;
    if !report.succeeded() {
        give_back(lock, &report, None).await;
        return Ok(finish(context, &report, Mode::Apply));
    }
    if context.common.format == Format::Text {
        ui::recap::recap(&report, false);
    }
    // Nobody else comes in between the change and the restarts that it takes.
    let stop = lock.as_ref().map(|lock| lock.stop.child_token()).unwrap_or_default();
    let outcome = rolling::after_apply(context, &report, args.no_restart, args.max_write_gap, stop).await;
    let wrong = match &outcome {
        Ok(Exit::Done) => None,
        Ok(_) => Some("not every member that needs it was restarted".to_owned()),
        Err(error) => Some(error.summary()),
    };
    give_back(lock, &report, wrong).await;
    outcome
}

/// Applies a plan as it was saved, or not at all.
async fn apply_saved(args: &ApplyArgs, path: &Path) -> Outcome {
    let saved = SavedPlan::read(path)?;
    let own = &args.common;
    if own.limit.is_some() || !own.tags.is_empty() || !own.skip_tags.is_empty() || args.drift.overwrite_drift
    {
        return Err(Error::usage(
            "a saved plan says by itself which hosts and tasks it is for",
            "leave out --limit, --tags, --skip-tags and --overwrite-drift, or make another plan with them",
        ));
    }
    let Request { limit, tags, skip_tags, overwrite_drift } = saved.request.clone();
    let context = Context::load(&Common { limit, tags, skip_tags, ..own.clone() })?;
    let drift = DriftArgs { overwrite_drift };
    let playbook = load(&context, "apply")?;
    saved.fits(&Inputs::of(&context.inventory, &playbook, &context.templates))?;
    let found = carry_out(&context, &playbook, &Deploy::looking().overwriting(drift)).await?;
    if !found.succeeded() {
        return Ok(finish(&context, &found, Mode::Check));
    }
    saved.compare(&found).map_err(|moved| {
        Error::failed(
            anyhow::Error::from(moved)
                .context("nothing was changed: the cluster has moved since the plan was made"),
        )
        .next("make the plan anew with `pgfleet plan -o FILE`, and look at what differs")
    })?;
    if !engine::lint(&found).is_empty() {
        return Ok(show(&context, &found, drift));
    }
    change(&context, &playbook, args, drift).await
}

pub async fn run(args: RunArgs) -> Outcome {
    let context = Context::load(&args.common)?;
    let playbook = load(&context, &args.playbook)?;
    let mode = if args.check { Mode::Check } else { Mode::Apply };
    let holder = locked::holder(&format!("run {}", args.playbook), &args.common);
    let lock = args.waiting.changing(&holder);
    let with = if args.check { Deploy::looking() } else { Deploy::under(lock) }.overwriting(args.drift);
    let report = carry_out(&context, &playbook, &with).await?;
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
pub fn load(context: &Context, name: &str) -> Result<Playbook, Error> {
    let playbook = Playbook::load(name, &Sources { directories: overrides("playbooks") })?;
    playbook.check_templates(&context.templates)?;
    Ok(playbook)
}

/// How a command has its playbook carried out.
#[derive(Default)]
pub struct Deploy<'a> {
    /// The lock to change the cluster under; without one it is only looked at.
    pub lock: Option<Use<'a>>,
    /// The lock that the command holds already, and changes the cluster under.
    pub held: Option<Held<'a>>,
    /// The hosts to work on; those that `--limit` names when it is none.
    pub limit: Option<String>,
    /// What was changed by hand on the hosts is overwritten, rather than kept.
    pub overwrite_drift: bool,
    /// Variables that the command gives to its playbook: a map.
    pub vars: Value,
}

/// A deploy lock that lasts longer than one playbook.
#[derive(Clone, Copy)]
pub struct Held<'a> {
    pub holder: &'a Holder,
    /// Cancelled when it is lost.
    pub stop: &'a CancellationToken,
}

impl<'a> Deploy<'a> {
    pub fn looking() -> Self {
        Self::default()
    }

    pub fn under(lock: Use<'a>) -> Self {
        Self { lock: Some(lock), ..Self::default() }
    }

    /// Who changes the cluster by this; nobody where it is only looked at.
    fn holder(&self) -> Option<&'a Holder> {
        self.lock.map(|lock| lock.holder).or(self.held.map(|held| held.holder))
    }

    fn overwriting(self, drift: DriftArgs) -> Self {
        Self { overwrite_drift: drift.overwrite_drift, ..self }
    }
}

/// Looks, or with the lock changes what differs.
pub async fn carry_out(context: &Context, playbook: &Playbook, with: &Deploy<'_>) -> Result<Report, Error> {
    let (report, lock) = begin(context, playbook, with).await?;
    give_back(lock, &report, None).await;
    Ok(report)
}

/// Gives the lock back after a run; `wrong` is what went wrong after its playbook.
async fn give_back(lock: Option<Kept>, report: &Report, wrong: Option<String>) {
    let Some(lock) = lock else { return };
    let ended = lock.ended(report);
    lock.give_back(match wrong {
        Some(wrong) => ended.but_failed(wrong),
        None => ended,
    })
    .await;
}

/// As [`carry_out`], and keeps the lock where it took one.
async fn begin(
    context: &Context,
    playbook: &Playbook,
    with: &Deploy<'_>,
) -> Result<(Report, Option<Kept>), Error> {
    let common = &context.common;
    let lock = with.lock;
    let mode = if with.holder().is_some() { Mode::Apply } else { Mode::Check };
    let options = options(context, with, mode)?;
    let (sink, events) = tokio::sync::mpsc::unbounded_channel();
    let detail = Detail { every_step: common.verbose > 0, diff: common.diff, would: mode == Mode::Check };
    let progress = tokio::spawn(Progress::new(detail).listen(events));
    let cancel = with.held.map_or_else(CancellationToken::new, |held| held.stop.child_token());
    let signals = tokio::spawn(cancel_on_interrupt(cancel.clone()));
    let engine = engine(context, options, sink, cancel);
    let report = match lock {
        Some(lock) => locked::run(context, &engine, playbook, lock).await,
        None => engine.run(playbook).await.map(|report| (report, None)).map_err(Error::from),
    };
    drop(engine);
    signals.abort();
    let _ = progress.await;
    report
}

/// How the engine goes about what a command wants.
pub(super) fn options(context: &Context, with: &Deploy<'_>, mode: Mode) -> Result<Options, Error> {
    let common = &context.common;
    Ok(Options {
        mode,
        diff: common.diff,
        overwrite_drift: with.overwrite_drift,
        limit: with.limit.clone().or_else(|| common.limit.clone()),
        vars: with.vars.as_object().cloned().unwrap_or_default(),
        tags: common.tags.clone(),
        skip_tags: common.skip_tags.clone(),
        forks: usize::from(common.forks),
        ssh: context.ssh(),
        executables: context.executables()?,
        purpose: with.holder().map(Holder::describe),
    })
}

pub(super) fn engine(
    context: &Context,
    options: Options,
    sink: Sink,
    cancel: CancellationToken,
) -> Engine<'_> {
    Engine {
        inventory: &context.inventory,
        templates: &context.templates,
        options: Arc::new(options),
        sink,
        mask: Mask::new(context.inventory.secrets()),
        cancel,
    }
}

/// The first Ctrl-C lets hosts finish the step that they are in; the second ends the program, and the
/// hands on the targets finish their step and stop by themselves.
pub(super) async fn cancel_on_interrupt(cancel: CancellationToken) {
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

/// Prints a plan with what it means, and maps it to an exit code. A plan that breaks a rule is refused.
fn show(context: &Context, report: &Report, drift: DriftArgs) -> Exit {
    let (consequences, offences) = (Consequences::of(report), engine::lint(report));
    let exit = match context.common.format {
        Format::Text => {
            let exit = finish(context, report, Mode::Check);
            ui::plan::plan(report, &consequences, &offences, drift.overwrite_drift);
            exit
        }
        Format::Json => {
            ui::plan::json(report, &consequences, &offences);
            exit(report)
        }
    };
    if exit == Exit::Done && !offences.is_empty() { Exit::Failed } else { exit }
}

/// Prints the result and maps it to an exit code.
pub fn finish(context: &Context, report: &Report, mode: Mode) -> Exit {
    let would = mode == Mode::Check;
    match context.common.format {
        Format::Text => ui::recap::recap(report, would),
        Format::Json => ui::json(report),
    }
    exit(report)
}

/// How a run ended, as an exit code.
pub fn exit(report: &Report) -> Exit {
    if report.failures.iter().any(|failure| failure.unreachable) {
        Exit::Unreachable
    } else if report.succeeded() {
        Exit::Done
    } else {
        Exit::Failed
    }
}
