//! `pgfleet import`: what somebody changed by hand on the hosts, taken into the inventory.

use super::{
    Exit,
    common::{Common, Format},
    context::{Context, keyring},
    deploy::{self, Deploy},
    error::{Error, Outcome},
};
use crate::{
    diagnostic::Location,
    engine::Report,
    inventory::{Guess, differing, guesses},
    model::HostName,
    playbook::Playbook,
    remote::protocol::{DriftKind, Mode},
    ui::{self, steps::Steps},
};
use serde::Serialize;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

/// Take what was changed by hand in files on the hosts into the inventory, where a variable is behind it
#[derive(clap::Args)]
#[command(after_help = "\
Each file that is no longer as we put it is compared with what the inventory makes of it. Where another value of
a variable explains a changed line, and the file rendered with that value is indeed what the host has, the value
is written where the variable is set now, or else for the whole cluster. Nothing on the hosts is changed: what
the new value means for other hosts, `pgfleet plan` shows.

What no variable explains is left, and listed: put it into a template of your own, or give it up with
`pgfleet apply --overwrite-drift`.

Exit code: 0 when everything has a place in the inventory now, 1 when something is left.

Examples:
  pgfleet import -i inventory.yml
  pgfleet import --limit haproxy-1 -y && pgfleet apply")]
pub struct Args {
    #[command(flatten)]
    pub common: Common,
}

/// A file that was changed by hand.
#[derive(Clone, Debug, PartialEq)]
struct Edited {
    host: HostName,
    path: String,
    diff: String,
}

impl Edited {
    /// The same file as another look found it; none where it is as it should be.
    fn among(&self, others: Vec<Edited>) -> Option<Edited> {
        others.into_iter().find(|other| (&other.host, &other.path) == (&self.host, &self.path))
    }
}

/// A value that explains a changed line.
#[derive(Debug)]
struct Found {
    host: HostName,
    path: String,
    guess: Guess,
}

#[derive(Serialize)]
struct Imported {
    host: HostName,
    path: String,
    variable: String,
    was: Value,
    value: Value,
    /// Where it is written now.
    file: String,
    line: usize,
}

/// What no variable explains.
#[derive(Serialize)]
struct Left {
    host: HostName,
    path: String,
    diff: String,
}

pub async fn run(args: Args) -> Outcome {
    let common = Common { diff: true, ..args.common };
    let context = Context::load(&common)?;
    let playbook = deploy::load(&context, "apply")?;
    let mut display = Steps::default();
    display.begin("What was changed by hand");
    let files = edited(&look(&context, &playbook).await?);
    let searched = search(&context, &playbook, &files, &mut display).await;
    display.clear();
    let (found, left) = searched?;
    let imported = match agreed(&common, &found, &left) {
        true => write(&context, found)?,
        false => return Ok(Exit::Done),
    };
    match common.format {
        Format::Json => ui::json(&json!({"imported": imported, "left": left})),
        Format::Text if files.is_empty() => ui::line("Nothing was changed by hand."),
        Format::Text => imported.iter().for_each(|done| {
            ui::line(&format!("{} is {} in {}:{}.", done.variable, done.value, done.file, done.line));
        }),
    }
    Ok(if left.is_empty() { Exit::Done } else { Exit::Failed })
}

/// Finds the values that explain the files, each tried by rendering with it.
async fn search(
    context: &Context,
    playbook: &Playbook,
    files: &[Edited],
    display: &mut Steps,
) -> Result<(Vec<Found>, Vec<Left>), Error> {
    let (mut found, mut left): (Vec<Found>, Vec<Left>) = (Vec::new(), Vec::new());
    let mut overrides: Vec<String> = Vec::new();
    for file in files {
        let mut rest = Some(file.clone());
        let host = context.inventory.hosts.get(&file.host);
        let mut known = host.map(|host| host.vars.clone()).unwrap_or_default();
        for guess in guesses(&file.diff, &known) {
            let Some(before) = &rest else { break };
            display.waiting(&format!("{}: {}: {guess} = {}", file.host, file.path, guess.value));
            let over = json!({guess.variable: guess.whole(&known)}).to_string();
            overrides.push(over);
            // A value that the inventory does not take is none.
            let now = match context.with(&overrides) {
                Ok(tried) => file.among(edited(&look(&tried, playbook).await?)),
                Err(_) => rest.clone(),
            };
            if now.as_ref().is_some_and(|now| differing(&now.diff) >= differing(&before.diff)) {
                overrides.pop();
                continue;
            }
            rest = now;
            known.insert(guess.variable.to_owned(), guess.whole(&known));
            if found.iter().all(|found| found.guess != guess) {
                found.push(Found { host: file.host.clone(), path: file.path.clone(), guess });
            }
        }
        left.extend(rest.map(|Edited { host, path, diff }| Left { host, path, diff }));
    }
    Ok((found, left))
}

/// Shows what was found, and asks.
fn agreed(common: &Common, found: &[Found], left: &[Left]) -> bool {
    if common.format == Format::Text {
        for Found { host, path, guess } in found {
            ui::line(&format!("{host}: {path}: {guess}: {} -> {}", guess.was, guess.value));
        }
        for Left { host, path, diff } in left {
            ui::warning(&format!("{host}: {path}: no variable explains this"));
            ui::note(&ui::diff::coloured(diff));
        }
    }
    let agreed =
        found.is_empty() || common.yes || !ui::interactive() || ui::confirm("Write this into the inventory?");
    if !agreed {
        ui::note("Nothing was changed.");
    }
    agreed
}

fn write(context: &Context, found: Vec<Found>) -> Result<Vec<Imported>, Error> {
    let common = &context.common;
    let keys = keyring(&common.vault_password_file, !common.yes);
    let mut imported = Vec::new();
    for Found { host, path, guess } in found {
        // Anew for each: the one before may have moved the lines.
        let inventory = Context::load_with(common, &keys)?.inventory;
        let Location { file, line, .. } = inventory.assign(&guess, &host, &common.extra_vars, &keys)?;
        let (variable, file) = (guess.to_string(), file.display().to_string());
        imported.push(Imported { host, path, variable, was: guess.was, value: guess.value, file, line });
    }
    Ok(imported)
}

/// Looks at all hosts, and says nothing of it.
async fn look(context: &Context, playbook: &Playbook) -> Result<Report, Error> {
    let options = deploy::options(context, &Deploy::looking(), Mode::Check)?;
    let (sink, _) = tokio::sync::mpsc::unbounded_channel();
    let engine = deploy::engine(context, options, sink, CancellationToken::new());
    let report = engine.run(playbook).await?;
    match report.failures.first() {
        None => Ok(report),
        Some(failure) => {
            let what = format!("{}: {}: {}", failure.host, failure.step, failure.failure.message);
            let next = failure.failure.next_step.clone();
            Err(Error::failed(anyhow::anyhow!(what))
                .next(next.unwrap_or_else(|| "look with `pgfleet plan`".to_owned())))
        }
    }
}

fn edited(report: &Report) -> Vec<Edited> {
    let changes =
        report.hosts.iter().flat_map(|(host, tally)| tally.changes.iter().map(move |change| (host, change)));
    let edited = changes.filter_map(|(host, change)| {
        let drift = change.drift.as_ref().filter(|drift| drift.kind == DriftKind::Edited)?;
        Some(Edited { host: host.clone(), path: drift.path.clone(), diff: change.diff.clone() })
    });
    edited.collect()
}
