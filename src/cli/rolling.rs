//! Restarts in the right order, as `restart` and `apply` show them.

use super::{
    Exit,
    common::Format,
    context::Context,
    deploy::cancel_on_interrupt,
    error::{Error, Outcome},
    reach::reach_any,
    reload::requested,
};
use crate::{
    cluster::{
        Access, Topology,
        rolling::{self, News, Rolled, Rolling, RollingError, Step, Wish},
    },
    engine::Report,
    ui::{self, steps::Steps},
};
use serde::Serialize;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// The document of `apply --format json`.
#[derive(Serialize)]
struct Applied<'a> {
    #[serde(flatten)]
    report: &'a Report,
    /// `null` where nothing waited for a restart.
    restarts: Option<&'a Rolled>,
    /// Members whose settings still wait for a restart.
    pending_restart: Vec<String>,
}

/// How long nobody may be able to write.
pub fn max_gap(milliseconds: Option<u64>) -> Option<Duration> {
    milliseconds.map(Duration::from_millis)
}

pub fn refused(error: RollingError) -> Error {
    match error {
        RollingError::Request(error) => requested(error),
        other => {
            let next = other.next_step();
            Error::failed(other).next(next)
        }
    }
}

/// The order, for people.
pub fn show(steps: &[Step]) {
    for (number, step) in steps.iter().enumerate() {
        ui::note(&format!("  {}. {step}", number + 1));
    }
}

/// Carries restarts out until `cancel` stops them, as Ctrl-C does, and shows how they go.
pub async fn carry_out(rolling: Rolling<'_>, cancel: CancellationToken) -> Rolled {
    let signals = tokio::spawn(cancel_on_interrupt(cancel.clone()));
    let mut steps = Steps::default();
    let rolled = rolling
        .run(&cancel, |news| match news {
            News::Begun(step) => steps.begin(&step.to_string()),
            News::Waiting(what) => steps.waiting(what),
            News::Over(done) => steps.over(&line(done)),
        })
        .await;
    steps.clear();
    signals.abort();
    rolled
}

fn line(done: &rolling::Done) -> String {
    let step = match (&done.step, done.needless) {
        (Step::FormerPrimary { member }, true) => format!("{member} has restarted with the switchover"),
        (step, _) => step.to_string(),
    };
    let gap = done.writes_interrupted_ms.map(|gap| format!(", longest pause between writes {gap} ms"));
    format!("{step} ({:.1} s{})", done.took_ms as f64 / 1000.0, gap.unwrap_or_default())
}

/// Tells people how it ended.
pub fn summary(rolled: &Rolled) {
    let gap = match rolled.writes_interrupted_ms {
        Some(gap) => format!("the longest pause between two writes was {gap} ms"),
        None => "nobody could write through the entry point, before or meanwhile".to_owned(),
    };
    match &rolled.stopped {
        None => ui::line(&format!("Restarted all that was asked for; {gap}.")),
        Some(stop) => {
            ui::line(&format!("Stopped; {gap}. Left:"));
            rolled.left.iter().for_each(|step| ui::line(&format!("  {step}")));
            ui::error(&stop.why, std::slice::from_ref(&stop.next_step));
        }
    }
}

pub fn exit(rolled: &Rolled) -> Exit {
    if rolled.stopped.is_some() { Exit::Failed } else { Exit::Done }
}

/// Restarts the members that need it for the settings that a run has changed, unless they are to be left,
/// and prints the end of `apply`.
pub async fn after_apply(
    context: &Context,
    report: &Report,
    leave: bool,
    max_write_gap: Option<u64>,
    cancel: CancellationToken,
) -> Outcome {
    let (mut rolled, mut pending) = (None, Vec::new());
    let mut failure = None;
    if report.restart_pending() {
        let (topology, access) = reach_any(context).await?;
        pending = rolling::settled(&topology, &access).await;
        if let Some(pattern) = &context.common.limit {
            let selected = context.inventory.select(pattern)?;
            pending.retain(|name| selected.iter().any(|host| host.name.as_str() == name));
        }
        if !pending.is_empty() && !leave {
            let wish = Wish {
                members: pending.clone(),
                pending: true,
                max_write_gap: max_gap(max_write_gap),
                ..Wish::default()
            };
            match restart(&topology, &access, &wish, cancel).await {
                Ok(done) => {
                    rolled = Some(done);
                    pending = rolling::settled(&topology, &access).await;
                }
                Err(error) => failure = Some(refused(error)),
            }
        }
        access.close().await;
    }
    match context.common.format {
        Format::Json => {
            ui::json(&Applied { report, restarts: rolled.as_ref(), pending_restart: pending.clone() });
        }
        Format::Text => {
            rolled.iter().for_each(summary);
            if rolled.is_none() && !pending.is_empty() {
                ui::warning(&format!(
                    "{} still run with old settings: `pgfleet restart --pending` restarts them in the right order",
                    pending.join(", ")
                ));
            }
        }
    }
    match failure {
        Some(error) => Err(error),
        None => Ok(rolled.as_ref().map_or(Exit::Done, exit)),
    }
}

async fn restart(
    topology: &Topology,
    access: &Access,
    wish: &Wish,
    cancel: CancellationToken,
) -> Result<Rolled, RollingError> {
    let rolling = Rolling::plan(topology, access, wish).await?;
    ui::note(&format!("\nChanged settings need a restart of {}:", wish.members.join(", ")));
    show(rolling.steps());
    Ok(carry_out(rolling, cancel).await)
}
