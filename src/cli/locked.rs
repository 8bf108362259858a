//! The deploy lock around a command that changes a cluster, and its entry in the history.

use super::{common::Common, context::Context, error::Error};
use crate::{
    engine::{Engine, Event, Report},
    journal::{Ended, Holder, Intent, Journal, NoLock, Unlocked},
    playbook::Playbook,
    ui,
};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// What to do when somebody else is at work.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Waiting {
    /// Wait this long for another run on the cluster to end, instead of refusing at once
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    pub wait_lock: u64,
}

/// The same for a command that makes the cluster what the inventory says.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Locking {
    #[command(flatten)]
    pub waiting: Waiting,

    /// Go on although the generated passwords here are not those that the cluster was last changed with
    #[arg(long)]
    pub other_secrets: bool,
}

/// How a command uses the lock.
#[derive(Clone, Copy)]
pub struct Use<'a> {
    pub holder: &'a Holder,
    wait: Duration,
    other_secrets: bool,
    /// It makes the cluster what the inventory says.
    applies: bool,
}

impl Waiting {
    /// For a command that changes something else than what the inventory says.
    pub fn changing<'a>(&self, holder: &'a Holder) -> Use<'a> {
        let wait = Duration::from_secs(self.wait_lock);
        Use { holder, wait, other_secrets: false, applies: false }
    }
}

impl Locking {
    /// For a command that makes the cluster what the inventory says.
    pub fn applying<'a>(&self, holder: &'a Holder) -> Use<'a> {
        Use { other_secrets: self.other_secrets, applies: true, ..self.waiting.changing(holder) }
    }
}

/// The command as the history and other operators are told of it: no value of a variable, which may be secret.
pub fn holder(command: &str, common: &Common) -> Holder {
    let mut words = vec![command.to_owned()];
    words.extend(common.limit.iter().map(|limit| format!("--limit {limit}")));
    words.extend((!common.tags.is_empty()).then(|| format!("--tags {}", common.tags.join(","))));
    words.extend(
        (!common.skip_tags.is_empty()).then(|| format!("--skip-tags {}", common.skip_tags.join(","))),
    );
    words.extend(common.extra_vars.iter().map(|vars| match vars.split_once('=') {
        Some((name, _)) if !vars.starts_with(['{', '@']) => format!("-e {name}=..."),
        _ => "-e ...".to_owned(),
    }));
    Holder::new(&words.join(" "))
}

/// The lock, after the playbook that it was taken for.
pub struct Kept {
    journal: Journal,
    /// The run makes the whole cluster what the inventory says.
    whole: bool,
    /// Cancelled when the lock is lost.
    pub stop: CancellationToken,
}

impl Kept {
    /// How a run ended that was over with its playbook.
    pub fn ended(&self, report: &Report) -> Ended {
        Ended::of(report, self.whole)
    }

    /// Writes how the run went, and gives the lock back.
    pub async fn give_back(self, ended: Ended) {
        finish(self.journal, ended).await;
    }
}

/// Runs a playbook under the lock, which is taken while the engine connects. There is no report without it, and no
/// lock where nobody could be asked for it.
pub async fn run(
    context: &Context,
    engine: &Engine<'_>,
    playbook: &Playbook,
    r#use: Use<'_>,
) -> Result<(Report, Option<Kept>), Error> {
    // The display of the run is live: it alone may print.
    let tell = |text: &str| drop(engine.sink.send(Event::Noted { text: text.to_owned() }));
    let mut begun = None;
    let begin = async {
        let journal = begin(context, r#use, &engine.cancel, &tell).await;
        begun.insert(journal).is_ok()
    };
    let report = engine.run_if(playbook, begin).await;
    let journal = match begun {
        Some(journal) => journal?,
        None => return Ok((report?, None)),
    };
    let whole = r#use.applies && is_whole(&context.common);
    Ok((report?, Some(Kept { journal, whole, stop: engine.cancel.clone() })))
}

/// Does something else to the cluster under the lock. `work` returns what it has, and how it ended.
pub async fn during<T>(
    context: &Context,
    r#use: Use<'_>,
    work: impl AsyncFnOnce(&CancellationToken) -> (Result<T, Error>, Ended),
) -> Result<T, Error> {
    let stop = CancellationToken::new();
    let journal = ui::waiting("taking the deploy lock", begin(context, r#use, &stop, &ui::note)).await?;
    let (result, ended) = work(&stop).await;
    finish(journal, ended).await;
    result
}

/// Whether a run goes over all hosts and all tasks.
fn is_whole(common: &Common) -> bool {
    common.limit.is_none() && common.tags.is_empty() && common.skip_tags.is_empty()
}

/// Prints a line of talk.
type Tell<'t> = &'t (dyn Fn(&str) + Sync);

async fn begin(
    context: &Context,
    r#use: Use<'_>,
    stop: &CancellationToken,
    tell: Tell<'_>,
) -> Result<Journal, Error> {
    let waits_for = |holder: &Holder| {
        let died = if holder.has_died() { " (killed; its lock ends within seconds)" } else { "" };
        tell(&format!("Waiting: {}{died}.", holder.describe()));
    };
    let intent = Intent {
        holder: r#use.holder,
        wait: r#use.wait,
        applies: r#use.applies,
        other_secrets: r#use.other_secrets,
        stop: stop.clone(),
        waits_for: &waits_for,
    };
    let journal = Journal::begin(&context.inventory, &context.ssh(), &intent).await.map_err(refused)?;
    journal.warnings.iter().for_each(|warning| tell(&ui::as_warning(warning)));
    match &journal.unlocked {
        None => {}
        Some(Unlocked::ZooKeeper) => tell(
            "The deploy lock and the history need etcd; with ZooKeeper only the locks on the hosts hold.",
        ),
        // At the first bootstrap there is none to ask.
        Some(Unlocked::Away(_)) if r#use.holder.command.starts_with("bootstrap") => {}
        Some(Unlocked::Away(why)) => tell(&ui::as_warning(&format!(
            "etcd does not answer, so only the locks on the hosts keep other runs away: {why}"
        ))),
    }
    Ok(journal)
}

fn refused(error: NoLock) -> Error {
    let next = error.next_steps();
    Error::Failed(error.into(), next)
}

async fn finish(journal: Journal, ended: Ended) {
    if let Some(why) = journal.lost() {
        ui::warning(&format!("the run was stopped: {why}"));
    }
    for warning in journal.finish(ended).await {
        ui::warning(&warning);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        common: Common,
    }

    #[test]
    fn others_are_told_the_command_without_values_of_variables() {
        let line = "x --limit pg-1 --tags a,b -e superuser_password=hunter2 -e {\"x\":1} -e @vars.yml";
        let common = Line::parse_from(line.split(' ')).common;
        let told = holder("apply", &common).command;
        assert_eq!(told, "apply --limit pg-1 --tags a,b -e superuser_password=... -e ... -e ...");
    }
}
