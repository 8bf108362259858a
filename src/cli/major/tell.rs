//! What an upgrade tells: what was found, how long it took, what is left to do.

use super::steps::Upgrade;
use crate::{
    cli::context::Context,
    cluster::major::{self, Phase, Point, Step, Verdict},
    ui,
};
use serde::Serialize;
use std::time::Duration;

/// The document of `--format json`.
#[derive(Serialize)]
pub struct Report<'a> {
    cluster: String,
    from: u16,
    to: u16,
    points: &'a [Point],
    steps: Vec<Done>,
    /// How far the upgrade is; `null` where none is under way.
    phase: Option<Phase>,
    primary: Option<String>,
    /// For how long clients could not write; `null` while they cannot, or where none could before.
    writes_interrupted_ms: Option<u64>,
}

#[derive(Serialize)]
struct Done {
    step: &'static str,
    took_ms: u64,
}

fn word(step: Step) -> &'static str {
    match step {
        Step::Check => "check",
        Step::Stop => "stop",
        Step::Upgrade => "upgrade",
        Step::Open => "open",
        Step::Analyze => "analyze",
        Step::Replicas => "replicas",
        Step::GoBack => "back",
        Step::Finish => "finish",
    }
}

fn words(step: Step) -> &'static str {
    match step {
        Step::Check => "looked at everything",
        Step::Stop => "shut the old cluster down",
        Step::Upgrade => "took the data over",
        Step::Open => "started the new primary",
        Step::Analyze => "gathered statistics",
        Step::Replicas => "copied the data to the other members",
        Step::GoBack => "went back to the old data",
        Step::Finish => "deleted what was old",
    }
}

/// A thing that was looked at.
pub fn point(point: &Point) {
    let what = &point.what;
    let (mark, style, next) = match &point.verdict {
        Verdict::Fine => ("ok", ui::GOOD, None),
        Verdict::Warning { next_step } => ("note", ui::CHANGED, Some(next_step)),
        Verdict::Problem { next_step } => ("problem", ui::BAD, Some(next_step)),
    };
    ui::note(&format!("{style}{mark}{style:#} {what}"));
    if let Some(next) = next {
        ui::note(&format!("  {}next{:#}: {next}", ui::HEADING, ui::HEADING));
    }
}

/// For how long clients could not write: as the probe has it, or from one run to another.
fn interrupted(upgrade: &Upgrade<'_>, longest: Option<Duration>) -> Option<u64> {
    let opened = upgrade.done.iter().any(|(step, _)| matches!(step, Step::Open | Step::GoBack));
    let stopped = upgrade.done.iter().any(|(step, _)| *step == Step::Stop);
    let measured = longest.filter(|_| opened && stopped);
    let measured = measured.map(|longest| u64::try_from(longest.as_millis()).unwrap_or(u64::MAX));
    measured.or_else(|| upgrade.record.as_ref().filter(|_| opened)?.interrupted_ms())
}

pub fn report<'a>(upgrade: &'a Upgrade<'_>, longest: Option<Duration>) -> Report<'a> {
    let (from, to) = upgrade.versions;
    let done = |&(step, took_ms): &(Step, u64)| Done { step: word(step), took_ms };
    Report {
        cluster: upgrade.old.inventory.cluster.to_string(),
        from: from.number(),
        to: to.number(),
        points: &upgrade.points,
        steps: upgrade.done.iter().map(done).collect(),
        phase: upgrade.record.as_ref().map(|record| record.phase),
        primary: upgrade.primary().ok().map(ToString::to_string),
        writes_interrupted_ms: interrupted(upgrade, longest),
    }
}

/// Tells people how it ended.
pub async fn summary(upgrade: &Upgrade<'_>, asked: &Context, longest: Option<Duration>) {
    let (from, to) = upgrade.versions;
    let cluster = &upgrade.old.inventory.cluster;
    ui::note("");
    for (step, took_ms) in &upgrade.done {
        ui::note(&format!("  {:>8.1} s  {}", *took_ms as f64 / 1000.0, words(*step)));
    }
    if let Some(gap) = interrupted(upgrade, longest) {
        ui::line(&format!("Clients could not write for {:.1} s.", gap as f64 / 1000.0));
    }
    let last = upgrade.done.last().map(|(step, _)| *step);
    match last {
        Some(Step::Check) if upgrade.args.check => {
            ui::line(&format!(
                "Nothing stands in the way of PostgreSQL {to}: `pgfleet upgrade-major --to {to}`."
            ));
        }
        Some(Step::Check) => ui::line("Nothing was shut down."),
        Some(Step::Upgrade) => ui::line(&format!(
            "PostgreSQL {to} has the data of {cluster}, and nothing runs. The same command without --hold goes on; \
             `pgfleet upgrade-major --back` serves from the old data again."
        )),
        Some(Step::Replicas) => done(upgrade, asked).await,
        Some(Step::GoBack) => ui::line(&format!("{cluster} serves PostgreSQL {from} again.")),
        Some(Step::Finish) => ui::line(&format!("Nothing is left of PostgreSQL {from}.")),
        _ => {}
    }
}

async fn done(upgrade: &Upgrade<'_>, asked: &Context) {
    let (from, to) = upgrade.versions;
    ui::line(&format!("{} runs PostgreSQL {to} on all members.", upgrade.old.inventory.cluster));
    let set =
        asked.inventory.group("postgres").next().and_then(|host| host.vars.get("postgres_version")?.as_u64());
    if set != Some(u64::from(to.number())) {
        let place = asked.inventory.place("postgres_version", None).map(|at| format!(" at {at}"));
        ui::warning(&format!(
            "write `postgres_version: {to}` into the inventory{} before the next `pgfleet apply`",
            place.unwrap_or_default()
        ));
    }
    if let Some((host, place)) = upgrade.new_place()
        && let Ok(updates) = major::extension_updates(upgrade.access, &host, &place).await
        && !updates.trim().is_empty()
    {
        ui::note("These bring extensions to the versions that come with it (`pgfleet psql`):");
        updates.lines().for_each(|line| ui::note(&format!("  {line}")));
    }
    ui::note(&format!(
        "The data of PostgreSQL {from} are still there; `pgfleet upgrade-major --finish` deletes them."
    ));
}
