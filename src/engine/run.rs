//! A run: connect to every host, go through the plays, stop at the first thing that is wrong.

use super::{
    event::{Event, Sink},
    host_run::{Carrying, HostRun, Stopped},
    mask::Mask,
    play::PlayRun,
    report::{HostFailure, PlayTime, Report},
    worker::{Contents, NoHands, Worker},
};
use crate::{
    diagnostic::{Diagnostic, Diagnostics},
    inventory::{Host, Inventory},
    model::HostName,
    playbook::{Order, Play, Playbook, Serial},
    remote::protocol::{Failure, Mode},
    ssh::{self, Executables},
    template::Templates,
};
use futures_util::future::join_all;
use indexmap::IndexMap;
use serde_json::{Map, Value};
use std::{
    collections::BTreeSet,
    sync::{Arc, atomic::AtomicU32},
    time::Instant,
};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

/// How a run is to go.
#[derive(Clone)]
pub struct Options {
    pub mode: Mode,
    pub diff: bool,
    /// What was changed by hand on the hosts is overwritten, rather than kept.
    pub overwrite_drift: bool,
    pub limit: Option<String>,
    /// Variables that the command gives to its playbook.
    pub vars: Map<String, Value>,
    pub tags: Vec<String>,
    pub skip_tags: Vec<String>,
    pub forks: usize,
    pub ssh: ssh::Options,
    pub executables: Executables,
    /// Who runs what, for those who find a host taken.
    pub purpose: Option<String>,
}

/// A play with its hosts in batches.
pub(super) type Scheduled<'p, 'h> = (&'p Play, Vec<Vec<&'h Host>>);

/// Everything that stays the same during a run.
pub struct Engine<'a> {
    pub inventory: &'a Inventory,
    pub templates: &'a Templates,
    pub options: Arc<Options>,
    pub sink: Sink,
    pub mask: Mask,
    /// Cancelled by Ctrl-C: hosts finish the step that they are in.
    pub cancel: CancellationToken,
}

impl<'a> Engine<'a> {
    /// Runs the playbook on the hosts that its plays name.
    ///
    /// An error means that the request itself is wrong and nothing was touched; what goes wrong on
    /// hosts is in the report.
    pub async fn run(&self, playbook: &Playbook) -> Result<Report, Diagnostics> {
        self.run_if(playbook, std::future::ready(true)).await
    }

    /// As [`Engine::run`]; connects while `allowed` is awaited, and does nothing where it says no.
    pub async fn run_if(
        &self,
        playbook: &Playbook,
        allowed: impl Future<Output = bool>,
    ) -> Result<Report, Diagnostics> {
        self.through(playbook, async |host: &Host| self.hands(host).await, allowed).await
    }

    /// As [`Engine::run`], with hands that `reach` brings, however it does.
    pub async fn run_through(
        &self,
        playbook: &Playbook,
        reach: impl AsyncFn(&Host) -> Result<Worker, NoHands>,
    ) -> Result<Report, Diagnostics> {
        self.through(playbook, reach, std::future::ready(true)).await
    }

    async fn through(
        &self,
        playbook: &Playbook,
        reach: impl AsyncFn(&Host) -> Result<Worker, NoHands>,
        allowed: impl Future<Output = bool>,
    ) -> Result<Report, Diagnostics> {
        let plays = self.plays(playbook)?;
        let wanted: BTreeSet<&HostName> =
            plays.iter().flat_map(|(_, batches)| batches.iter().flatten().map(|host| &host.name)).collect();
        let hosts: Vec<&Host> =
            self.inventory.hosts.values().filter(|host| wanted.contains(&host.name)).collect();
        let mut report = Report::default();
        let (mut runs, allowed) = tokio::join!(self.connect(&hosts, reach, &mut report), allowed);
        if report.failures.is_empty() && allowed {
            self.go_through(playbook, &plays, &mut runs, &mut report).await;
        }
        report.cancelled = self.cancel.is_cancelled();
        for (name, run) in runs {
            report.hosts.insert(name, run.tally);
            run.worker.close().await;
        }
        Ok(report)
    }

    async fn go_through(
        &self,
        playbook: &Playbook,
        plays: &[Scheduled<'_, 'a>],
        runs: &mut IndexMap<HostName, HostRun<'a>>,
        report: &mut Report,
    ) {
        let waves = AtomicU32::new(0);
        let in_earnest = self.options.mode == Mode::Apply;
        let over = if in_earnest { self.settled(playbook, plays, runs, report).await } else { 0 };
        for (index, (play, batches)) in plays.iter().enumerate().skip(over) {
            let started = Instant::now();
            let mut ended = Ok(());
            let mut batches = batches.as_slice();
            // The first play after those that are over has been looked at: something differs.
            if batches.len() > 1 && (index > over || !in_earnest) {
                let hosts = batches.iter().flatten().map(|host| host.name.clone()).collect();
                if let Some(looked) = self.look(playbook, play, hosts, runs).await {
                    self.take_in(looked, runs);
                    batches = &[];
                }
            }
            for batch in batches {
                let names: Vec<HostName> = batch.iter().map(|host| host.name.clone()).collect();
                let _ = self.sink.send(Event::PlayStarted { name: play.name.clone(), hosts: names.clone() });
                ended = PlayRun { engine: self, playbook, play, hosts: names, waves: &waves, in_earnest }
                    .run(runs)
                    .await;
                if ended.is_err() || self.cancel.is_cancelled() {
                    break;
                }
            }
            let elapsed = started.elapsed();
            report.plays.push(PlayTime { name: play.name.clone(), seconds: elapsed.as_secs_f64() });
            let _ = self.sink.send(Event::PlayFinished { name: play.name.clone(), elapsed });
            if let Err(failures) = ended {
                self.note(failures, report);
            }
            if !report.failures.is_empty() || self.cancel.is_cancelled() {
                report.not_reached = plays[index + 1..].iter().map(|(play, _)| play.tasks.len()).sum();
                return;
            }
        }
    }

    /// Puts failures into the report. A wait that was given up because another host failed, or because the
    /// operator wants to stop, is none.
    fn note(&self, failures: Vec<Stopped>, report: &mut Report) {
        let (given_up, failed): (Vec<_>, Vec<_>) =
            failures.into_iter().map(|failure| *failure).partition(|failure| failure.failure.cancelled);
        report.failures.extend(failed);
        if report.failures.is_empty() && !self.cancel.is_cancelled() {
            report.failures.extend(given_up);
        }
    }

    /// The plays that have hosts, each with its hosts in batches of `serial`.
    fn plays<'p>(&self, playbook: &'p Playbook) -> Result<Vec<Scheduled<'p, 'a>>, Diagnostics> {
        let limit: Option<BTreeSet<&HostName>> = match &self.options.limit {
            Some(pattern) => Some(
                self.inventory.select(pattern).map_err(one)?.into_iter().map(|host| &host.name).collect(),
            ),
            None => None,
        };
        let mut plays = Vec::new();
        for play in &playbook.plays {
            let pattern = self
                .templates
                .render(&play.hosts, &self.inventory.global_variables(), &play.at)
                .map_err(one)?;
            let mut hosts =
                self.inventory.select(&pattern).map_err(|error| one(error.at(play.at.clone())))?;
            hosts.retain(|host| limit.as_ref().is_none_or(|limit| limit.contains(&host.name)));
            if !hosts.is_empty() {
                plays.push((play, batches(&play.serial, ordered(play.order, hosts))));
            }
        }
        Ok(plays)
    }

    /// Connects to all hosts at once. Nothing is touched before every one of them has answered.
    async fn connect(
        &self,
        hosts: &[&'a Host],
        reach: impl AsyncFn(&Host) -> Result<Worker, NoHands>,
        report: &mut Report,
    ) -> IndexMap<HostName, HostRun<'a>> {
        let permits = Semaphore::new(self.options.forks.max(1));
        let connections = join_all(hosts.iter().map(|host| async {
            let _permit = permits.acquire().await;
            let _ = self.sink.send(Event::Connecting { host: host.name.clone() });
            let worker = tokio::select! {
                worker = reach(host) => worker.map_err(Some),
                () = self.cancel.cancelled() => Err(None),
            };
            let _ = self.sink.send(Event::Connected { host: host.name.clone() });
            (*host, worker)
        }))
        .await;
        let mut runs = IndexMap::new();
        for (host, worker) in connections {
            match worker {
                Ok(worker) => match self.inventory.complete(host, &worker.hello.facts) {
                    Ok(known) => {
                        runs.insert(host.name.clone(), host_run(host, worker, known));
                    }
                    Err(mistakes) => report.failures.push(unusable(host, &mistakes)),
                },
                Err(Some(error)) => report.failures.push(unreachable(host, &error)),
                Err(None) => {}
            }
        }
        runs
    }
}

impl Engine<'_> {
    /// Starts the hands of a host, and introduces the run to them.
    async fn hands(&self, host: &Host) -> Result<Worker, NoHands> {
        let mut worker = Worker::connect(host, &self.options.ssh, &self.options.executables).await?;
        if let Some(purpose) = &self.options.purpose {
            let introduced = worker.introduce(purpose).await;
            introduced.map_err(|lost| NoHands::Silent(lost.message))?;
        }
        Ok(worker)
    }
}

fn host_run(host: &Host, worker: Worker, known: Map<String, Value>) -> HostRun<'_> {
    HostRun {
        host,
        owed: worker.hello.debts.iter().cloned().collect(),
        worker,
        known,
        registered: Map::new(),
        variables: Map::new(),
        next_id: 0,
        contents: Contents::new(),
        tally: Default::default(),
    }
}

fn unreachable(host: &Host, error: &NoHands) -> HostFailure {
    HostFailure {
        host: host.name.clone(),
        play: String::new(),
        step: "connect".to_owned(),
        at: None,
        failure: Failure {
            message: error.problem(),
            next_step: Some(error.next_step()),
            ..Failure::default()
        },
        unreachable: error.is_unreachable(),
    }
}

/// The inventory's variables do not fit what the host turned out to be.
fn unusable(host: &Host, mistakes: &Diagnostics) -> HostFailure {
    let first = mistakes.0.first();
    let failure = Failure {
        message: first.map(|mistake| mistake.message.clone()).unwrap_or_default(),
        next_step: first.and_then(|mistake| mistake.help.first().cloned()),
        ..Failure::default()
    };
    HostFailure {
        host: host.name.clone(),
        play: String::new(),
        step: "variables".to_owned(),
        at: first.and_then(|mistake| mistake.at.clone()),
        failure,
        unreachable: false,
    }
}

fn one(diagnostic: Diagnostic) -> Diagnostics {
    Diagnostics(vec![diagnostic])
}

/// How the hosts of a play ended; the first failure of each that failed.
pub type Ended = Result<(), Vec<Stopped>>;

/// What every batch of a play is sent with.
pub fn carrying<'c>(
    engine: &'c Engine<'_>,
    play: &'c str,
    mode: Mode,
    wave: u32,
    stop: &'c CancellationToken,
) -> Carrying<'c> {
    Carrying {
        mode,
        diff: engine.options.diff || mode == Mode::Check,
        overwrite_drift: engine.options.overwrite_drift,
        planning: engine.options.mode == Mode::Check,
        wave,
        play,
        sink: &engine.sink,
        stop,
        mask: &engine.mask,
    }
}

fn ordered(order: Order, mut hosts: Vec<&Host>) -> Vec<&Host> {
    match order {
        Order::Inventory => {}
        Order::ReverseInventory => hosts.reverse(),
        Order::Sorted => hosts.sort_by(|one, other| one.name.cmp(&other.name)),
        Order::ReverseSorted => hosts.sort_by(|one, other| other.name.cmp(&one.name)),
    }
    hosts
}

/// Cuts hosts into batches of the sizes that `serial` names; the last size repeats.
fn batches<'h>(serial: &[Serial], hosts: Vec<&'h Host>) -> Vec<Vec<&'h Host>> {
    let total = hosts.len();
    let mut sizes = serial.iter().map(|size| size.of(total));
    let mut size = sizes.next().unwrap_or(total);
    let mut rest = hosts.as_slice();
    let mut batches = Vec::new();
    while !rest.is_empty() {
        let (batch, left) = rest.split_at(size.min(rest.len()));
        batches.push(batch.to_vec());
        rest = left;
        size = sizes.next().unwrap_or(size);
    }
    batches
}
