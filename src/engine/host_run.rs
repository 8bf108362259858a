//! One host during a run: its hands, what it knows, what it owes, what happened on it.

use super::{
    event::{Event, Finding, Sink},
    mask::Mask,
    plan::Look,
    report::{Change, HostFailure, Part, Tally},
    worker::{Contents, Lost, Progress, Worker},
};
use crate::{
    diagnostic::Diagnostic,
    inventory::Host,
    remote::protocol::{AWAITED, Batch, Failure, Mode, Outcome, Step, Verdict, Version},
};
use serde_json::{Map, Value};
use std::collections::{BTreeSet, HashMap};
use tokio_util::sync::CancellationToken;

pub struct HostRun<'a> {
    pub host: &'a Host,
    pub worker: Worker,
    /// Facts and the inventory's variables; the same in every play.
    pub known: Map<String, Value>,
    /// What `register` and `set_fact` stored; lives for the whole run.
    pub registered: Map<String, Value>,
    /// Variables of the current play, templates resolved.
    pub variables: Map<String, Value>,
    /// Handlers that are owed to this host: by this run, or by one that died.
    pub owed: BTreeSet<String>,
    pub next_id: u32,
    pub contents: Contents,
    pub tally: Tally,
}

/// What a batch is run with, the same on every host.
#[derive(Clone)]
pub struct Carrying<'a> {
    pub mode: Mode,
    pub diff: bool,
    pub overwrite_drift: bool,
    /// The whole run only looks; what was asked and found is kept for a saved plan.
    pub planning: bool,
    /// Steps with the same number may be carried out at the same time.
    pub wave: u32,
    pub play: &'a str,
    pub sink: &'a Sink,
    pub stop: &'a CancellationToken,
    pub mask: &'a Mask,
}

/// Why a host's part of a play ended early.
pub type Stopped = Box<HostFailure>;

/// Whether outcomes are booked as they come, or handed back for the engine to judge first.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Booking {
    AsTheyCome,
    ByCaller,
}

impl HostRun<'_> {
    /// Sends steps as one batch and sees it through. The outcomes come back for `register`; a failed
    /// step, or a host that went away, is the error.
    pub async fn carry_out(
        &mut self,
        steps: Vec<Step>,
        booking: Booking,
        with: &Carrying<'_>,
    ) -> Result<HashMap<u32, Outcome>, Stopped> {
        if steps.is_empty() {
            return Ok(HashMap::new());
        }
        let HostRun { host, worker, contents, tally, owed, .. } = self;
        let by_id: HashMap<u32, Step> = steps.iter().map(|step| (step.id, step.clone())).collect();
        let mut under_way = String::from("connection");
        let mut failed = None;
        let batch = Batch { mode: with.mode, diff: with.diff, overwrite_drift: with.overwrite_drift, steps };
        let done = worker
            .carry_out(batch, contents, with.stop, |progress| match progress {
                Progress::Started(id) => {
                    if let Some(step) = by_id.get(&id) {
                        under_way = with.mask.text(&step.name);
                        let started = Event::StepStarted { host: host.name.clone(), step: under_way.clone() };
                        let _ = with.sink.send(started);
                    }
                }
                Progress::Waiting(message) => {
                    let waiting =
                        Event::Waiting { host: host.name.clone(), message: with.mask.text(message) };
                    let _ = with.sink.send(waiting);
                }
                Progress::Finished(id, outcome) => {
                    if let Some(step) = by_id.get(&id)
                        && booking == Booking::AsTheyCome
                        && let Err(stopped) = book(host, tally, owed, step, outcome, with)
                    {
                        with.stop.cancel();
                        failed = Some(stopped);
                    }
                }
            })
            .await;
        match (done, failed) {
            (_, Some(failed)) => Err(failed),
            (Ok(outcomes), None) => Ok(outcomes),
            (Err(lost), None) => {
                with.stop.cancel();
                Err(Box::new(self.lost(lost, under_way, with)))
            }
        }
    }

    /// Takes back what the hands noted as owed, unless this run owes it for another reason.
    pub async fn settle(&mut self, handlers: &[String], with: &Carrying<'_>) -> Result<(), Stopped> {
        let settled: Vec<String> =
            handlers.iter().filter(|name| !self.owed.contains(*name)).cloned().collect();
        let sent = self.worker.settle(&settled).await;
        sent.map_err(|lost| Box::new(self.lost(lost, "connection".to_owned(), with)))
    }

    /// Books the outcome of a step that the engine has judged.
    pub fn book(&mut self, step: &Step, outcome: &Outcome, with: &Carrying<'_>) -> Result<(), Stopped> {
        book(self.host, &mut self.tally, &mut self.owed, step, outcome, with)
    }

    pub fn skip(&mut self, name: &str, sink: &Sink) {
        self.tally.skipped += 1;
        let skipped = Event::StepFinished {
            host: self.host.name.clone(),
            step: name.to_owned(),
            finding: Finding::Skipped,
        };
        let _ = sink.send(skipped);
    }

    /// A mistake in a file that showed itself only with this host's variables.
    pub fn mistaken(&self, diagnostic: Diagnostic, step: &str, play: &str) -> Stopped {
        let mut message = diagnostic.message;
        if !diagnostic.label.is_empty() {
            message = format!("{message}: {}", diagnostic.label);
        }
        let next_step = diagnostic.help.first().cloned();
        let failure = Failure { message, next_step, ..Failure::default() };
        Box::new(HostFailure { at: diagnostic.at, ..failed(self.host, failure, step, play) })
    }

    pub fn failed(&self, failure: Failure, step: &str, play: &str) -> Stopped {
        Box::new(failed(self.host, failure, step, play))
    }

    fn lost(&self, lost: Lost, step: String, with: &Carrying<'_>) -> HostFailure {
        let failure = Failure {
            message: lost.message,
            last_lines: lost.last_lines.iter().map(|line| with.mask.text(line)).collect(),
            next_step: Some(format!(
                "bring {} back and run the same command again: it goes on from where it stopped",
                self.host.name
            )),
            ..Failure::default()
        };
        HostFailure { unreachable: true, ..failed(self.host, failure, &step, with.play) }
    }
}

/// Books one step's outcome: tally, debts, and the line that people read.
fn book(
    host: &Host,
    tally: &mut Tally,
    owed: &mut BTreeSet<String>,
    step: &Step,
    outcome: &Outcome,
    with: &Carrying<'_>,
) -> Result<(), Stopped> {
    if with.planning {
        tally.looks.push(Look::of(with.play, with.wave, step, outcome, with.mask));
    }
    let outcome = &with.mask.outcome(outcome);
    let name = with.mask.text(&step.name);
    let warnings = outcome.warnings.clone();
    let finding = match &outcome.verdict {
        Verdict::Unchanged => {
            tally.unchanged += 1;
            Finding::Unchanged { warnings }
        }
        Verdict::Changed => {
            owed.extend(step.notify.iter().cloned());
            tally.changes.push(Change {
                play: with.play.to_owned(),
                step: name.clone(),
                wave: with.wave,
                part: Part::of(&step.resource),
                effect: outcome.effect,
                settings: outcome.settings.clone(),
                drift: outcome.drift.clone(),
                diff: outcome.diff.clone(),
            });
            Finding::Changed {
                diff: outcome.diff.clone(),
                effect: outcome.effect,
                drift: outcome.drift.clone(),
                warnings,
            }
        }
        Verdict::Failed(failure) => Finding::Failed(failure.clone()),
    };
    tally.warnings.extend(outcome.warnings.iter().cloned());
    tally.restart_pending |= outcome.result.get("restart_pending") == Some(&Value::Bool(true));
    tally.awaiting |= outcome.result.contains_key(AWAITED);
    tally.versions.extend(versions(outcome).into_iter().map(|version| (with.play.to_owned(), version)));
    let finished = Event::StepFinished { host: host.name.clone(), step: name.clone(), finding };
    let _ = with.sink.send(finished);
    match &outcome.verdict {
        Verdict::Failed(failure) => Err(Box::new(failed(host, failure.clone(), &name, with.play))),
        _ => Ok(()),
    }
}

/// What the step says of versions.
fn versions(outcome: &Outcome) -> Vec<Version> {
    let told = outcome.result.get("versions").cloned();
    told.and_then(|told| serde_json::from_value(told).ok()).unwrap_or_default()
}

fn failed(host: &Host, failure: Failure, step: &str, play: &str) -> HostFailure {
    HostFailure {
        host: host.name.clone(),
        play: play.to_owned(),
        step: step.to_owned(),
        at: None,
        failure,
        unreachable: false,
    }
}

/// An outcome as `register` stores it.
pub fn registered(outcome: &Outcome) -> Value {
    let mut result = outcome.result.clone();
    result.insert("changed".to_owned(), Value::Bool(matches!(outcome.verdict, Verdict::Changed)));
    let failed = matches!(outcome.verdict, Verdict::Failed(_));
    result.insert("failed".to_owned(), Value::Bool(failed));
    if let Verdict::Failed(failure) = &outcome.verdict {
        result.entry("msg").or_insert_with(|| Value::String(failure.message.clone()));
    }
    Value::Object(result)
}

/// A step that nobody ran, as `register` stores it.
pub fn skipped() -> Value {
    serde_json::json!({"changed": false, "failed": false, "skipped": true})
}
