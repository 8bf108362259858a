//! An upgrade, or a rollback, as it is carried out: one host after another, under a client that writes.

use super::{Component, Found, order};
use crate::{
    cluster::{
        self, Access, Topology, operator,
        probe::Probe,
        rolling::{self, GO_ON, News as Restart, Rolling, Step, Stop, Wish},
        switchover::millis,
    },
    engine::{Engine, Event, Finding, HostFailure, Mask, Options, Report},
    inventory::Inventory,
    model::{HostName, Scope},
    playbook::Playbook,
    remote::protocol::Failure,
    template::Templates,
};
use serde::Serialize;
use serde_json::{Map, Value, json};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tokio_util::sync::CancellationToken;

/// How long the cluster may take to be well before the next host.
const PATIENCE: Duration = Duration::from_secs(180);

const POLL: Duration = Duration::from_millis(300);

/// Which way it goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Way {
    /// To the newest version, or the one that is named.
    Newer { to: Option<String> },
    /// To the generation before.
    Back,
}

impl Way {
    /// What the playbook is told.
    pub fn vars(&self) -> Map<String, Value> {
        let vars = match self {
            Way::Newer { to } => json!({"upgrade_to": to.as_deref().unwrap_or_default()}),
            Way::Back => json!({"upgrade_back": "previous"}),
        };
        vars.as_object().cloned().unwrap_or_default()
    }
}

/// How an upgrade went; the document of `upgrade --format json`.
#[derive(Debug, Serialize)]
pub struct Upgraded {
    pub cluster: Scope,
    /// What the look at the hosts has found.
    pub found: Vec<Found>,
    pub steps: Vec<Done>,
    /// The longest time between two acknowledged commits through the entry point over the whole run.
    pub writes_interrupted_ms: Option<u64>,
    /// `null` when all is done.
    pub stopped: Option<Stopped>,
    /// What is left.
    pub left: Vec<Left>,
    pub warnings: Vec<String>,
}

/// A host that is through, or a switchover.
#[derive(Debug, Serialize)]
pub struct Done {
    pub component: Component,
    pub what: String,
    pub took_ms: u64,
    /// The longest time within the step without an acknowledged commit; `null` where nobody could write before.
    pub writes_interrupted_ms: Option<u64>,
}

#[derive(Debug, PartialEq, Serialize)]
pub struct Left {
    pub component: Component,
    pub host: HostName,
}

/// Why the rest was not begun.
#[derive(Debug, Serialize)]
pub struct Stopped {
    pub why: String,
    pub last_lines: Vec<String>,
    pub next_step: String,
    /// Whether what was there before is back on the host; `null` where nothing had to be brought back.
    pub rolled_back: Option<bool>,
}

/// What is going on, for those who look on.
pub enum News<'a> {
    Begun(&'a str),
    Waiting(&'a str),
    Over(&'a Done),
}

impl Stopped {
    fn new(why: impl Into<String>, next_step: impl Into<String>) -> Self {
        Self { why: why.into(), last_lines: Vec::new(), next_step: next_step.into(), rolled_back: None }
    }
}

impl From<Stop> for Stopped {
    fn from(stop: Stop) -> Self {
        Self::new(stop.why, stop.next_step)
    }
}

/// What is carried out, and with what.
pub struct Undertaking<'a> {
    pub inventory: &'a Inventory,
    pub templates: &'a Templates,
    pub playbook: &'a Playbook,
    /// Of a run on one host.
    pub options: Options,
    pub way: Way,
    pub topology: &'a Topology,
    pub access: &'a Access,
    pub probe: &'a Probe,
    /// After it the host under way is finished, and no other begun.
    pub cancel: CancellationToken,
    pub max_write_gap: Option<Duration>,
}

/// What has happened so far.
struct Course<'t> {
    tell: &'t mut dyn FnMut(News<'_>),
    steps: Vec<Done>,
    left: Vec<Left>,
    /// All runs of the engine as one, for the history.
    whole: Report,
}

impl Course<'_> {
    fn waiting(&mut self, what: &str) {
        (self.tell)(News::Waiting(what));
    }

    fn is_through(&mut self, component: Component, host: &HostName) {
        self.left.retain(|left| left.component != component || left.host != *host);
    }

    fn add(&mut self, report: Report) {
        for (host, tally) in report.hosts {
            let sum = self.whole.tally(&host);
            sum.changes.extend(tally.changes);
            sum.warnings.extend(tally.warnings);
        }
        self.whole.failures.extend(report.failures);
        self.whole.cancelled |= report.cancelled;
    }
}

impl Upgraded {
    /// Where nothing was to be done, or nothing should be.
    pub fn nothing(cluster: Scope, found: Vec<Found>) -> Self {
        Self {
            cluster,
            found,
            steps: Vec::new(),
            writes_interrupted_ms: None,
            stopped: None,
            left: Vec::new(),
            warnings: Vec::new(),
        }
    }
}

impl Undertaking<'_> {
    /// Goes through all that is due. What happened comes back, and as one report for the history.
    pub async fn carry_out(
        self,
        found: Vec<Found>,
        due: Vec<Found>,
        tell: &mut dyn FnMut(News<'_>),
    ) -> (Upgraded, Report) {
        let left = due.iter().map(|found| Left { component: found.component, host: found.host.clone() });
        let mut course = Course { tell, steps: Vec::new(), left: left.collect(), whole: Report::default() };
        // A gap can only be measured from a commit before it.
        self.probe.acknowledged().await;
        let stopped = self.all(&due, &mut course).await.err().map(|stopped| *stopped);
        if let Some(stopped) = stopped.as_ref().filter(|_| course.whole.succeeded()) {
            course.whole.cancelled = self.cancel.is_cancelled();
            if !course.whole.cancelled {
                course.whole.failures.extend(course.left.first().map(|left| as_failure(left, stopped)));
            }
        }
        let warnings =
            course.whole.hosts.iter().flat_map(|(host, tally)| {
                tally.warnings.iter().map(move |warning| format!("{host}: {warning}"))
            });
        let mut warnings: Vec<String> = warnings.collect();
        warnings.dedup();
        let upgraded = Upgraded {
            found,
            steps: course.steps,
            writes_interrupted_ms: self.probe.longest().map(millis),
            stopped,
            left: course.left,
            warnings,
            ..Upgraded::nothing(self.inventory.cluster.clone(), Vec::new())
        };
        (upgraded, course.whole)
    }

    async fn all(&self, due: &[Found], course: &mut Course<'_>) -> Result<(), Box<Stopped>> {
        for component in Component::ALL {
            let due: Vec<&Found> = due.iter().filter(|found| found.component == component).collect();
            if due.is_empty() {
                continue;
            }
            let restarts = |found: &&&Found| component == Component::Postgres && found.replaces();
            let members: Vec<&Found> = due.iter().filter(restarts).copied().collect();
            let hosts: Vec<HostName> =
                due.iter().filter(|found| !restarts(found)).map(|found| found.host.clone()).collect();
            let status = cluster::status(self.topology, self.access).await;
            for host in order(component, &hosts, &status) {
                self.host(component, &host, course).await?;
            }
            if !members.is_empty() {
                self.members(&members, course).await?;
            }
        }
        Ok(())
    }

    /// One component on one host.
    async fn host(
        &self,
        component: Component,
        host: &HostName,
        course: &mut Course<'_>,
    ) -> Result<(), Box<Stopped>> {
        let begun = self.begin(&format!("{component} on {host}"), course)?;
        self.ready(component, Some(host), course).await?;
        self.replace(component, host, course).await?;
        self.over(component, format!("{component} on {host}"), begun, course).await;
        course.is_through(component, host);
        Ok(())
    }

    /// PostgreSQL on members, with a restart of each: standbys, a switchover, the old primary.
    async fn members(&self, due: &[&Found], course: &mut Course<'_>) -> Result<(), Box<Stopped>> {
        let members = due.iter().map(|found| found.host.to_string()).collect();
        let wish = Wish { members, anew: true, ..Wish::default() };
        self.ready(Component::Postgres, None, course).await?;
        let planned = Rolling::plan(self.topology, self.access, &wish).await;
        let planned = planned.map_err(|error| {
            let next = error.next_step();
            Box::new(Stopped::new(error.to_string(), next))
        })?;
        for step in planned.steps() {
            let what = match step {
                Step::Switchover { .. } => step.to_string(),
                _ => format!("{} on {}", Component::Postgres, step.member()),
            };
            let begun = self.begin(&what, course)?;
            self.member(&planned, step, course).await?;
            self.over(Component::Postgres, what, begun, course).await;
        }
        Ok(())
    }

    async fn member(
        &self,
        planned: &Rolling<'_>,
        step: &Step,
        course: &mut Course<'_>,
    ) -> Result<(), Box<Stopped>> {
        let stopped = |stop: Stop| Box::new(Stopped::from(stop));
        let mut tell = |news: Restart<'_>| match news {
            Restart::Waiting(what) => course.waiting(what),
            Restart::Begun(_) | Restart::Over(_) => {}
        };
        planned.gate(step, PATIENCE, &self.cancel, &mut tell).await.map_err(stopped)?;
        let host = match step {
            Step::Switchover { .. } => {
                return planned.act(step, &mut tell).await.map(drop).map_err(stopped);
            }
            _ => HostName::try_from(step.member().to_owned())
                .map_err(|error| Box::new(Stopped::new(error.to_string(), GO_ON)))?,
        };
        if matches!(step, Step::FormerPrimary { .. }) {
            // It has to be back as a standby before its files are replaced.
            self.ready(Component::Postgres, None, course).await?;
        }
        self.replace(Component::Postgres, &host, course).await?;
        let mut tell = |news: Restart<'_>| match news {
            Restart::Waiting(what) => course.waiting(what),
            Restart::Begun(_) | Restart::Over(_) => {}
        };
        if let Err(stop) = planned.act(step, &mut tell).await {
            return Err(self.give_up(Component::Postgres, &host, stop.into(), course).await);
        }
        if self.way != Way::Back {
            // It runs: what is there now is kept.
            self.replace(Component::Postgres, &host, course).await?;
        }
        course.is_through(Component::Postgres, &host);
        Ok(())
    }

    /// Has the playbook replace a component on a host; where that fails, what was there before is brought back.
    async fn replace(
        &self,
        component: Component,
        host: &HostName,
        course: &mut Course<'_>,
    ) -> Result<(), Box<Stopped>> {
        let report = self.play(component, host, self.way.vars(), &self.cancel, course).await?;
        let failure = report.failures.first().map(|failure| (stopped_by(failure), failure.unreachable));
        let cancelled = report.cancelled;
        course.add(report);
        match failure {
            None if cancelled => Err(Box::new(by_hand())),
            None => Ok(()),
            Some((stopped, true)) => Err(Box::new(stopped)),
            Some((stopped, false)) => Err(self.give_up(component, host, stopped, course).await),
        }
    }

    /// Brings back what was there before a failed step.
    async fn give_up(
        &self,
        component: Component,
        host: &HostName,
        stopped: Stopped,
        course: &mut Course<'_>,
    ) -> Box<Stopped> {
        if self.way == Way::Back || component == Component::System {
            return Box::new(stopped);
        }
        course.waiting(&format!("what was there before to be back on {host}"));
        let vars = Map::from_iter([("upgrade_back".to_owned(), json!("restored"))]);
        // What is begun here is not left halfway, whoever wants to stop.
        let report = self.play(component, host, vars, &CancellationToken::new(), course).await;
        let mut back = report.as_ref().is_ok_and(Report::succeeded);
        let next_step = match report {
            Ok(report) => {
                let failure = report.failures.first().map(|failure| {
                    let next = failure.failure.next_step.clone().unwrap_or_default();
                    format!("{}: {}. {next}", failure.step, failure.failure.message)
                });
                course.add(report);
                failure
            }
            Err(error) => Some(error.why.clone()),
        };
        if back && component == Component::Postgres {
            back = self.restarted(host, course).await;
        }
        let next_step = next_step.unwrap_or_else(|| {
            format!("The cluster serves. Find out why (`pgfleet logs --limit {host}`); the same command tries again.")
        });
        Box::new(Stopped { rolled_back: Some(back), next_step, ..stopped })
    }

    /// Restarts a member with the packages of before, unless its agent has done so by itself.
    async fn restarted(&self, host: &HostName, course: &mut Course<'_>) -> bool {
        if let Some(agent) = self.topology.agent(host.as_str()) {
            // One that is not up is started by its agent anyway; whether it is well is seen below.
            let _ = operator::restart(self.access, agent).await;
        }
        self.ready(Component::Postgres, None, course).await.is_ok()
    }

    /// Runs the playbook for a component on one host.
    async fn play(
        &self,
        component: Component,
        host: &HostName,
        vars: Map<String, Value>,
        cancel: &CancellationToken,
        course: &mut Course<'_>,
    ) -> Result<Report, Box<Stopped>> {
        let options = Options {
            limit: Some(host.to_string()),
            tags: vec![component.tag().to_owned()],
            vars,
            ..self.options.clone()
        };
        let (sink, mut events) = tokio::sync::mpsc::unbounded_channel();
        let engine = Engine {
            inventory: self.inventory,
            templates: self.templates,
            options: Arc::new(options),
            sink,
            mask: Mask::new(self.inventory.secrets()),
            cancel: cancel.clone(),
        };
        let run = async move { engine.run(self.playbook).await };
        let show = async {
            while let Some(event) = events.recv().await {
                match event {
                    Event::StepStarted { step, .. } => course.waiting(&step),
                    Event::Waiting { message, .. } => course.waiting(&message),
                    Event::StepFinished { step, finding: Finding::Failed(failure), .. } => {
                        course.waiting(&format!("{step}: {}", failure.message));
                    }
                    _ => {}
                }
            }
        };
        let (report, ()) = tokio::join!(run, show);
        report.map_err(|wrong| {
            Box::new(Stopped::new(wrong.to_string(), "Correct it; the same command goes on."))
        })
    }

    /// Waits until the cluster is well. The host that is about to be mended need not be.
    async fn ready(
        &self,
        component: Component,
        host: Option<&HostName>,
        course: &mut Course<'_>,
    ) -> Result<(), Box<Stopped>> {
        let deadline = Instant::now() + PATIENCE;
        let host = host.map(HostName::as_str);
        let itself = host.filter(|_| component == Component::Agent);
        loop {
            let mut status = cluster::status(self.topology, self.access).await;
            if component == Component::Etcd {
                status.dcs.members.retain(|member| Some(member.name.as_str()) != host);
            }
            let missing = rolling::not_ready(&status, itself).join("; ");
            if missing.is_empty() {
                return Ok(());
            }
            if Instant::now() > deadline {
                let why = format!("the cluster is not ready for the next step: {missing}");
                return Err(Box::new(Stopped::new(why, GO_ON)));
            }
            course.waiting(&missing);
            tokio::select! {
                () = tokio::time::sleep(POLL) => {}
                () = self.cancel.cancelled() => return Err(Box::new(by_hand())),
            }
        }
    }

    /// Begins a step, unless there is a reason to stop before it.
    fn begin(&self, what: &str, course: &mut Course<'_>) -> Result<Instant, Box<Stopped>> {
        if self.cancel.is_cancelled() {
            return Err(Box::new(by_hand()));
        }
        if let (Some(limit), Some(gap)) = (self.max_write_gap, self.probe.longest())
            && gap > limit
        {
            let why = format!(
                "writes were interrupted for {} ms, longer than the {} ms of --max-write-gap",
                millis(gap),
                millis(limit)
            );
            let next = "Find out why, or allow more; the same command goes on from here.";
            return Err(Box::new(Stopped::new(why, next)));
        }
        (course.tell)(News::Begun(what));
        self.probe.begin_step();
        Ok(Instant::now())
    }

    async fn over(&self, component: Component, what: String, begun: Instant, course: &mut Course<'_>) {
        if self.probe.longest().is_some() {
            self.probe.acknowledged().await;
        }
        let (took_ms, writes_interrupted_ms) = (millis(begun.elapsed()), self.probe.step().map(millis));
        let done = Done { component, what, took_ms, writes_interrupted_ms };
        (course.tell)(News::Over(&done));
        course.steps.push(done);
    }
}

fn by_hand() -> Stopped {
    Stopped::new("stopped by Ctrl-C", "The same command goes on from here.")
}

fn stopped_by(failure: &HostFailure) -> Stopped {
    let next = failure.failure.next_step.clone().unwrap_or_else(|| GO_ON.to_owned());
    Stopped {
        last_lines: failure.failure.last_lines.clone(),
        ..Stopped::new(format!("{}: {}: {}", failure.host, failure.step, failure.failure.message), next)
    }
}

/// What stopped the run between two hosts, for the history.
fn as_failure(left: &Left, stopped: &Stopped) -> HostFailure {
    HostFailure {
        host: left.host.clone(),
        play: left.component.play().to_owned(),
        step: format!("before {}", left.component),
        at: None,
        failure: Failure {
            message: stopped.why.clone(),
            next_step: Some(stopped.next_step.clone()),
            ..Failure::default()
        },
        unreachable: false,
    }
}
