//! Connects to every host, starts the hands, and asks.

use super::{Facts, Found, Machine, Needs, Obstacle, Reading, between};
use crate::{
    engine::{Lost, NoHands, Worker},
    inventory::{Host, Inventory},
    remote::preflight::Questions,
    ssh::{Executables, Options, SessionProblem},
};
use futures_util::{StreamExt as _, future::join_all, stream};
use serde_json::Value;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// The quickest of so many looks at a clock is believed.
const CLOCK_LOOKS: usize = 3;

/// How much is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    Everything,
    /// What it takes to know who listens where, so that the hosts can try each other.
    Links,
}

/// Asks the hosts, at most `forks` at the same time, and then has them try each other; the answers come in the
/// hosts' order.
pub async fn ask(
    inventory: &Inventory,
    hosts: &[&Host],
    options: &Options,
    executables: &Executables,
    forks: usize,
    scope: Scope,
) -> Vec<Machine> {
    let asked = hosts.iter().map(|host| async move {
        let (found, worker) = match ask_one(inventory, host, options, executables, scope).await {
            Ok((found, worker)) => (Ok(Box::new(found)), Some(worker)),
            Err(obstacle) => (Err(obstacle), None),
        };
        (Machine { name: host.name.clone(), found }, worker)
    });
    let asked: Vec<_> = stream::iter(asked).buffered(forks.max(1)).collect().await;
    let (mut machines, mut hands): (Vec<_>, Vec<_>) = asked.into_iter().unzip();
    between::meet(&mut machines, &mut hands, scope).await;
    join_all(hands.into_iter().flatten().map(Worker::close)).await;
    machines
}

async fn ask_one(
    inventory: &Inventory,
    host: &Host,
    options: &Options,
    executables: &Executables,
    scope: Scope,
) -> Result<(Found, Worker), Obstacle> {
    let mut worker = Worker::connect(host, options, executables).await.map_err(|error| obstacle(&error))?;
    let facts = worker.hello.facts.clone();
    let vars = inventory.complete(host, &facts).map_err(|wrong| Obstacle {
        check: "system",
        message: wrong.0.first().map(|wrong| wrong.message.clone()).unwrap_or_default(),
        next_step: wrong.0.first().and_then(|wrong| wrong.help.first().cloned()).unwrap_or_default(),
        unreachable: false,
    })?;
    let needs = Needs::of(inventory, host, &vars);
    let asked = async {
        let reading = match scope {
            Scope::Everything => clock(&mut worker).await?,
            Scope::Links => Reading::default(),
        };
        Ok::<_, Lost>((reading, worker.survey(needs.questions(scope)).await?))
    };
    let (reading, survey) = asked.await.map_err(|lost| gone(&lost))?;
    // What is not of its type is as if it were not told.
    let facts: Facts = serde_json::from_value(Value::Object(facts)).unwrap_or_default();
    Ok((Found { needs, facts, survey, reading, contacts: Vec::new() }, worker))
}

/// The host went away in the middle.
pub(super) fn gone(lost: &Lost) -> Obstacle {
    Obstacle {
        check: "ssh",
        message: lost.to_string(),
        next_step: "Is the host still up? Run the same command again once it is.".to_owned(),
        unreachable: true,
    }
}

/// Compares the host's clock with ours: its answer was given about in the middle of the round trip.
async fn clock(worker: &mut Worker) -> Result<Reading, Lost> {
    let mut best: Option<Reading> = None;
    for _ in 0..CLOCK_LOOKS {
        let (sent, begun) = (now_ms(), Instant::now());
        let theirs = worker.survey(Questions::default()).await?.clock_ms;
        let half = i64::try_from(begun.elapsed().as_millis() / 2).unwrap_or(i64::MAX);
        let reading = Reading { ahead_ms: theirs - sent - half, uncertainty_ms: half };
        if best.is_none_or(|best| reading.uncertainty_ms < best.uncertainty_ms) {
            best = Some(reading);
        }
    }
    Ok(best.unwrap_or_default())
}

fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

fn obstacle(error: &NoHands) -> Obstacle {
    let check = match error {
        NoHands::Connect(_) => "ssh",
        NoHands::Session(error) => check_of(&error.problem),
        NoHands::Silent(_) => "system",
    };
    Obstacle {
        check,
        message: error.problem(),
        next_step: error.next_step(),
        unreachable: error.is_unreachable(),
    }
}

/// What a host that let us in has said no to.
fn check_of(problem: &SessionProblem) -> &'static str {
    use SessionProblem as P;
    match problem {
        P::NoSudo { .. }
        | P::SudoNeedsPassword
        | P::SudoWrongPassword { .. }
        | P::NotInSudoers { .. }
        | P::SudoNeedsTerminal
        | P::Sudo { .. }
        | P::NotWritable { .. } => "sudo",
        P::DiskFull { .. } | P::ReadOnly { .. } => "disk",
        P::NoExecutableFor { .. } | P::DoesNotRun { .. } | P::NoExec { .. } => "system",
        _ => "ssh",
    }
}
