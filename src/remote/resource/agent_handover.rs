//! One agent gives way to the next, and PostgreSQL does not notice.

use crate::remote::{
    host::{Context, Finding, Manage, failure, failure_with},
    protocol::{Effect, Failure},
    systemd::{self, Unit, systemctl},
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde::{Deserialize, Serialize};
use std::time::{Duration, Instant};

/// `agent_handover`: the agent that runs ends without touching PostgreSQL, and systemd starts the one that is
/// installed, which takes the server over. Always a change; meant for handlers. A restart of the unit would shut
/// PostgreSQL down.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgentHandover {
    #[serde(default = "unit", alias = "name")]
    pub unit: String,
    /// How long the next one may take until it is ready, in seconds.
    #[serde(default = "half_a_minute_secs")]
    pub timeout: u64,
}

fn unit() -> String {
    "pgfleet-agent.service".to_owned()
}

fn half_a_minute_secs() -> u64 {
    30
}

/// An agent that has not ended by then hangs, and is ended.
const PATIENCE: Duration = Duration::from_secs(10);

/// One that comes and goes so often does not come.
const STARTS: u32 = 5;

/// How long it has to stay the same one to be there.
const SETTLED: Duration = Duration::from_millis(1000);

const POLL: Duration = Duration::from_millis(100);

fn restarts(unit: &Unit) -> u32 {
    unit.get("NRestarts").parse().unwrap_or_default()
}

impl AgentHandover {
    fn unit(&self) -> String {
        systemd::full_name(&self.unit)
    }

    /// Asks the agent that runs to give way. SIGUSR1 says: leave PostgreSQL alone.
    async fn ask(&self, context: &Context<'_>, before: &Unit) -> Result<(), Failure> {
        let name = self.unit();
        match before.main_pid() {
            Some(pid) => {
                // One that ends at this moment needs no asking.
                let _ = kill(Pid::from_raw(pid), Signal::SIGUSR1);
                Ok(())
            }
            // It is about to be started, or hangs before that.
            None if before.get("ActiveState") == "activating" => {
                let words = ["kill", "--kill-who=control", "--signal=SIGKILL", &name];
                systemctl(context.host, &words, PATIENCE).await.ok();
                Ok(())
            }
            None => {
                systemctl(context.host, &["reset-failed", &name], PATIENCE).await.ok();
                systemctl(context.host, &["start", "--no-block", &name], PATIENCE).await.map(drop)
            }
        }
    }

    /// Waits until another agent than the one before is ready, and stays.
    async fn arrival(&self, context: &Context<'_>, before: &Unit) -> Result<(), Failure> {
        let (host, name, begun) = (context.host, self.unit(), Instant::now());
        let limit = Duration::from_secs(self.timeout);
        let mut seen: Option<(i32, Instant)> = None;
        let mut ended = false;
        loop {
            let now = Unit::show(host, &name).await?;
            let pid = now.main_pid().filter(|pid| Some(*pid) != before.main_pid());
            match (pid.filter(|_| now.is_active()), seen) {
                (Some(pid), Some((same, since))) if pid == same && since.elapsed() >= SETTLED => {
                    return Ok(());
                }
                (Some(pid), Some((same, _))) if pid == same => {}
                (Some(pid), _) => seen = Some((pid, Instant::now())),
                (None, _) => seen = None,
            }
            let failed = restarts(&now).saturating_sub(restarts(before));
            if failed > STARTS && seen.is_none() {
                return Err(failure(format!("{name} ends as soon as it is started, {failed} times so far")));
            }
            if begun.elapsed() > limit {
                let message = format!("{name} is {} {} s after it was restarted", now.state(), self.timeout);
                return Err(failure(message));
            }
            let hangs = before.main_pid().filter(|pid| now.main_pid() == Some(*pid));
            if let Some(pid) = hangs.filter(|_| !ended && begun.elapsed() > PATIENCE) {
                ended = true;
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
            tokio::time::sleep(POLL).await;
        }
    }
}

impl Manage for AgentHandover {
    async fn check(&self, context: &Context<'_>) -> Result<Finding, Failure> {
        let name = self.unit();
        let unit = Unit::show(context.host, &name).await?;
        if !unit.exists() && !context.anticipates_change() {
            return Err(failure_with(
                format!("there is no unit {name}"),
                "install the agent: `pgfleet bootstrap`",
            ));
        }
        let mut finding = Finding::changed(format!("{name}: restarted, PostgreSQL goes on"));
        finding.effect = Effect::Reload;
        Ok(finding)
    }

    async fn apply(&self, context: &Context<'_>, _finding: &mut Finding) -> Result<(), Failure> {
        let before = Unit::show(context.host, &self.unit()).await?;
        context.waiting("the next agent to be ready");
        let handed_over = async {
            self.ask(context, &before).await?;
            self.arrival(context, &before).await
        };
        match handed_over.await {
            Ok(()) => Ok(()),
            Err(failure) => Err(systemd::with_journal(context.host, &self.unit(), failure).await),
        }
    }

    /// Waited for when it was applied.
    async fn verify(&self, _context: &Context<'_>, _finding: &mut Finding) -> Result<(), Failure> {
        Ok(())
    }
}
