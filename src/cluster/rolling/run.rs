//! Carries the steps out: each waits for the gate, acts, and is over when what it was for is seen.

use super::{
    Rolling,
    gate::{self, Unfinished},
    order::Step,
};
use crate::{
    cluster::{
        assess, observe,
        operator::{self, RESTART},
        probe::{self, Probe},
        switchover::{self, millis},
        topology::AgentHost,
        verify::leader_host,
    },
    contract::NodeStatus,
    model::Lsn,
};
use serde::Serialize;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// How long the first step waits for a cluster that is not well: it may just have been changed.
const FIRST: Duration = Duration::from_secs(30);

/// How long a later step waits for the member before it to catch up.
const LATER: Duration = RESTART;

/// How long a member that is back may go on saying that it needs a restart.
const SECOND_THOUGHTS: Duration = Duration::from_secs(5);

const POLL: Duration = Duration::from_millis(200);

/// What happens, as it happens.
#[derive(Clone, Copy, Debug)]
pub enum News<'a> {
    Begun(&'a Step),
    /// What the step waits for.
    Waiting(&'a str),
    Over(&'a Done),
}

/// A step that is over.
#[derive(Clone, Debug, Serialize)]
pub struct Done {
    #[serde(flatten)]
    pub step: Step,
    /// Nothing was to be done any more: the switchover had brought it.
    pub needless: bool,
    pub took_ms: u64,
    /// The longest time within the step without an acknowledged commit through the entry point; `null` where
    /// nobody could write before either.
    pub writes_interrupted_ms: Option<u64>,
}

/// Why the rest was not begun.
#[derive(Clone, Debug, Serialize)]
pub struct Stop {
    pub why: String,
    pub next_step: String,
}

/// What was done.
#[derive(Clone, Debug, Serialize)]
pub struct Rolled {
    pub cluster: String,
    pub steps: Vec<Done>,
    /// The longest time between two acknowledged commits through the entry point over the whole run.
    pub writes_interrupted_ms: Option<u64>,
    /// `null` when all is done.
    pub stopped: Option<Stop>,
    /// What is left.
    pub left: Vec<Step>,
}

pub const GO_ON: &str = "The cluster serves. Mend what is wrong (`pgfleet status`), then run the same command again: \
                     it goes on from here.";

fn stop(why: impl std::fmt::Display, next_step: &str) -> Stop {
    Stop { why: why.to_string(), next_step: next_step.to_owned() }
}

impl Rolling<'_> {
    /// Carries the steps out. After `cancel` the step under way is finished, and no other begun.
    pub async fn run(self, cancel: &CancellationToken, mut tell: impl FnMut(News<'_>)) -> Rolled {
        let cluster = self.topology.cluster.to_string();
        let mut rolled = Rolled {
            cluster,
            steps: Vec::new(),
            writes_interrupted_ms: None,
            stopped: None,
            left: self.steps.clone(),
        };
        if self.steps.is_empty() {
            return rolled;
        }
        probe::during(self.topology, self.access, async |probe| {
            // A gap can only be measured from a commit before it.
            probe.acknowledged().await;
            for step in &self.steps {
                if let Some(reason) = self.may_go_on(probe, cancel) {
                    rolled.stopped = Some(reason);
                    break;
                }
                tell(News::Begun(step));
                probe.begin_step();
                let begun = Instant::now();
                let patience = if rolled.steps.is_empty() { FIRST } else { LATER };
                let outcome = self.step(step, patience, cancel, &mut tell).await;
                if probe.longest().is_some() {
                    probe.acknowledged().await;
                }
                match outcome {
                    Ok(needless) => {
                        rolled.left.remove(0);
                        rolled.steps.push(Done {
                            step: step.clone(),
                            needless,
                            took_ms: millis(begun.elapsed()),
                            writes_interrupted_ms: probe.step().map(millis),
                        });
                        if let Some(done) = rolled.steps.last() {
                            tell(News::Over(done));
                        }
                    }
                    Err(reason) => {
                        rolled.stopped = Some(reason);
                        break;
                    }
                }
            }
            rolled.writes_interrupted_ms = probe.longest().map(millis);
        })
        .await;
        rolled
    }

    /// Why the next step is not begun.
    fn may_go_on(&self, probe: &Probe, cancel: &CancellationToken) -> Option<Stop> {
        if cancel.is_cancelled() {
            return Some(stop(
                "stopped by Ctrl-C, between two members",
                "The same command goes on from here.",
            ));
        }
        let (limit, gap) = (self.wish.max_write_gap?, probe.longest()?);
        (gap > limit).then(|| {
            let why = format!(
                "writes were interrupted for {} ms, longer than the {} ms of --max-write-gap",
                millis(gap),
                millis(limit)
            );
            stop(why, "Find out why, or allow more; the same command goes on from here.")
        })
    }

    /// One step; returns whether there was nothing to do.
    async fn step(
        &self,
        step: &Step,
        patience: Duration,
        cancel: &CancellationToken,
        tell: &mut impl FnMut(News<'_>),
    ) -> Result<bool, Stop> {
        if !self.wish.force {
            self.gate(step, patience, cancel, tell).await?;
        }
        self.act(step, tell).await
    }

    /// Carries a step out; returns whether there was nothing to do.
    pub async fn act(&self, step: &Step, tell: &mut impl FnMut(News<'_>)) -> Result<bool, Stop> {
        let Some(agent) = self.topology.agent(step.member()) else {
            return Err(stop(format!("{} is not in the inventory", step.member()), GO_ON));
        };
        match step {
            Step::Switchover { from, to } => {
                tell(News::Waiting(&format!("{to} to lead")));
                let leader = leader_host(self.topology, self.access).await;
                let leader = leader.ok_or_else(|| stop("nobody leads", GO_ON))?;
                switchover::hand_over(self.topology, self.access, leader, from, Some(to))
                    .await
                    .map_err(|error| stop(&error, &error.next_step()))?;
                Ok(false)
            }
            Step::FormerPrimary { member } if !self.wish.anew => {
                let started = self.started.get(member).cloned().flatten();
                match self.back(step, agent, started.as_deref(), tell).await? {
                    None => Ok(true),
                    Some(_) => self.restart(step, agent, tell).await,
                }
            }
            _ => self.restart(step, agent, tell).await,
        }
    }

    async fn restart(
        &self,
        step: &Step,
        agent: &AgentHost,
        tell: &mut impl FnMut(News<'_>),
    ) -> Result<bool, Stop> {
        tell(News::Waiting(&format!("{} to restart", step.member())));
        let before = observe::node(self.access, agent).await.ok();
        let started = before.and_then(|node| node.postmaster_start_time);
        operator::restart(self.access, agent).await.map_err(|error| {
            let what = format!("{} was not restarted: {error}", step.member());
            stop(what, &format!("{} {GO_ON}", error.next_step()))
        })?;
        let Some(reasons) = self.back(step, agent, started.as_deref(), tell).await? else { return Ok(false) };
        let name = step.member();
        let why = format!("{name} has restarted, and says that it needs a restart all the same: {reasons}");
        Err(stop(why, &format!("See `journalctl -u pgfleet-agent` on {name}. {GO_ON}")))
    }

    /// Waits until a member is back from a restart. Returns what it says that it needs another one for.
    async fn back(
        &self,
        step: &Step,
        agent: &AgentHost,
        started: Option<&str>,
        tell: &mut impl FnMut(News<'_>),
    ) -> Result<Option<String>, Stop> {
        let deadline = Instant::now() + RESTART;
        let mut thinking: Option<Instant> = None;
        let again = Step::StandbyAfterPrimary { member: step.member().to_owned() };
        let comes_again = *step != again && self.steps.contains(&again);
        loop {
            let node = observe::node(self.access, agent).await;
            match gate::after(step, started, node.as_ref().map_err(String::as_str)) {
                None => return Ok(None),
                // For what its primary is yet to lower.
                Some(Unfinished::StillPending(_)) if comes_again => return Ok(None),
                Some(Unfinished::StillPending(reasons)) => {
                    let since = *thinking.get_or_insert_with(Instant::now);
                    if since.elapsed() > SECOND_THOUGHTS {
                        return Ok(Some(reasons));
                    }
                }
                Some(Unfinished::Coming(what)) if Instant::now() > deadline => {
                    return Err(stop(format!("after {} s of waiting for {what}", RESTART.as_secs()), GO_ON));
                }
                Some(Unfinished::Coming(what)) => tell(News::Waiting(&what)),
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Waits until nothing stands in the way of a step.
    pub async fn gate(
        &self,
        step: &Step,
        patience: Duration,
        cancel: &CancellationToken,
        tell: &mut impl FnMut(News<'_>),
    ) -> Result<(), Stop> {
        let deadline = Instant::now() + patience;
        let mut written: Option<Lsn> = None;
        loop {
            let observed = observe::observe(self.topology, self.access).await;
            let status = assess::assess(self.topology, &observed);
            let mut missing = gate::before(&status, step);
            if let Step::StandbyAfterPrimary { member } = step {
                let node = |name: &str| -> Option<&NodeStatus> {
                    let agent = self.topology.agent(name)?;
                    observed.nodes.get(&agent.name)?.as_ref().ok()
                };
                // Where the primary was when the step began; what it wrote at its own start lies before.
                if written.is_none() {
                    let leader = status.leader().and_then(|leader| node(&leader.name));
                    written = leader.and_then(|node| node.xlog.as_ref()?.location);
                }
                missing.extend(gate::replayed(member, node(member), written));
            }
            if missing.is_empty() {
                return Ok(());
            }
            let missing = missing.join("; ");
            if Instant::now() > deadline {
                return Err(stop(format!("the cluster is not ready for the next step: {missing}"), GO_ON));
            }
            tell(News::Waiting(&missing));
            tokio::select! {
                () = tokio::time::sleep(POLL) => {}
                () = cancel.cancelled() => {
                    let why = format!("stopped by Ctrl-C, while waiting: {missing}");
                    return Err(stop(why, "The same command goes on from here."));
                }
            }
        }
    }
}
