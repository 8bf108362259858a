//! The history: an entry per run that changed something or failed, the last ones kept.

use super::{author::Author, keys, lock::Holder};
use crate::{
    cluster::{Do, Kv, KvError},
    engine::Report,
    model::Scope,
};
use indexmap::IndexMap;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// How many runs are remembered.
pub const KEPT: usize = 200;

/// More names of steps than this on one host are counted only.
const MOST_STEPS: usize = 100;

/// One run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    pub id: String,
    pub who: Author,
    pub command: String,
    pub began: Timestamp,
    #[serde(default)]
    pub ended: Option<Timestamp>,
    pub outcome: Outcome,
    /// What changed on each host that was changed.
    #[serde(default)]
    pub hosts: IndexMap<String, Changes>,
    /// What went wrong, or is worth a word.
    #[serde(default)]
    pub remarks: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    Running,
    Done,
    Failed,
    /// By Ctrl-C, between two steps.
    Stopped,
    /// It stopped because its lock had ended.
    Locked,
    /// Its lock has ended, and it never said how it went.
    Died,
}

impl Outcome {
    pub fn as_str(self) -> &'static str {
        match self {
            Outcome::Running => "running",
            Outcome::Done => "done",
            Outcome::Failed => "failed",
            Outcome::Stopped => "stopped",
            Outcome::Locked => "lost its lock",
            Outcome::Died => "died",
        }
    }
}

/// How many steps changed something, and which: names alone, since diffs may hold what is nobody's business.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changes {
    pub count: usize,
    pub steps: Vec<String>,
}

impl Entry {
    pub(super) fn begin(holder: &Holder) -> Self {
        Self {
            id: holder.run.clone(),
            who: holder.who.clone(),
            command: holder.command.clone(),
            began: holder.since,
            ended: None,
            outcome: Outcome::Running,
            hosts: IndexMap::new(),
            remarks: Vec::new(),
        }
    }

    pub fn changed(&self) -> usize {
        self.hosts.values().map(|changes| changes.count).sum()
    }

    /// How long it took, in seconds.
    pub fn seconds(&self) -> Option<i64> {
        Some((self.ended?.as_second() - self.began.as_second()).max(0))
    }

    pub(super) fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }
}

/// What a report holds for the history. Its texts are masked already.
pub fn of_report(report: &Report) -> (IndexMap<String, Changes>, Vec<String>) {
    let changed = report.hosts.iter().filter(|(_, tally)| !tally.changes.is_empty());
    let hosts = changed.map(|(host, tally)| {
        let steps = tally.changes.iter().take(MOST_STEPS).map(|change| change.step.clone()).collect();
        (host.to_string(), Changes { count: tally.changes.len(), steps })
    });
    let failures = report
        .failures
        .iter()
        .map(|failure| format!("{}: {}: {}", failure.host, failure.step, failure.failure.message));
    (hosts.collect(), failures.collect())
}

/// All runs that are remembered, the latest last. One that never ended and holds no lock has died.
pub async fn list(kv: &Kv, cluster: &Scope) -> Result<Vec<Entry>, KvError> {
    let (lock, history) = (keys::lock(cluster), keys::history(cluster));
    // At one moment: else a run that begins or ends in between would look dead.
    let found = kv.read(&[Do::Get(&lock), Do::All(&history)]).await?;
    let holder = found.iter().find(|pair| pair.key == lock).map(|pair| Holder::parse(&pair.value).run);
    let runs = found.iter().filter(|pair| pair.key != lock);
    let entries = runs.filter_map(|pair| serde_json::from_slice::<Entry>(&pair.value).ok());
    Ok(entries.map(|entry| with_fate(entry, holder.as_deref())).collect())
}

fn with_fate(mut entry: Entry, holder: Option<&str>) -> Entry {
    if entry.outcome == Outcome::Running && holder != Some(entry.id.as_str()) {
        entry.outcome = Outcome::Died;
    }
    entry
}

/// Forgets the oldest of `names`, the keys of all runs.
pub(super) async fn trim(kv: &Kv, names: &[String]) -> Result<(), KvError> {
    let surplus = names.len().saturating_sub(KEPT);
    let deletes: Vec<Do<'_>> = names[..surplus].iter().map(|name| Do::Delete(name)).collect();
    // etcd takes 128 operations at once.
    for some in deletes.chunks(100) {
        kv.txn(&[], some, &[]).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        engine::{Change, HostFailure, Tally},
        remote::protocol::{Effect, Failure},
    };

    fn entry(id: &str, outcome: Outcome) -> Entry {
        let who = Author { user: "alice".to_owned(), machine: "laptop".to_owned() };
        let holder = Holder {
            run: id.to_owned(),
            who,
            since: Timestamp::UNIX_EPOCH,
            command: "apply".to_owned(),
            process: None,
        };
        Entry { outcome, ..Entry::begin(&holder) }
    }

    #[test]
    fn a_run_without_end_and_lock_has_died() {
        for (entry, holder, fate) in [
            (entry("1", Outcome::Running), Some("1"), Outcome::Running),
            (entry("1", Outcome::Running), Some("2"), Outcome::Died),
            (entry("1", Outcome::Running), None, Outcome::Died),
            (entry("1", Outcome::Done), None, Outcome::Done),
        ] {
            assert_eq!(with_fate(entry, holder).outcome, fate, "{holder:?}");
        }
    }

    #[test]
    fn names_are_remembered_and_diffs_are_not() {
        let mut report = Report::default();
        let change = |step: &str| Change {
            play: "p".to_owned(),
            step: step.to_owned(),
            wave: 0,
            part: None,
            effect: Effect::None,
            settings: Vec::new(),
            drift: None,
            diff: "+password: hunter2".to_owned(),
        };
        let tally = Tally { changes: vec![change("Write the file"), change("Start it")], ..Tally::default() };
        report.hosts.insert("pg-1".parse().unwrap(), tally);
        report.hosts.insert("pg-2".parse().unwrap(), Tally::default());
        report.failures.push(HostFailure {
            host: "pg-1".parse().unwrap(),
            play: "p".to_owned(),
            step: "Start it".to_owned(),
            at: None,
            failure: Failure { message: "it ended".to_owned(), ..Failure::default() },
            unreachable: false,
        });
        let (hosts, remarks) = of_report(&report);
        insta::assert_snapshot!(serde_json::to_string(&(hosts, remarks)).unwrap(), @r#"[{"pg-1":{"count":2,"steps":["Write the file","Start it"]}},["pg-1: Start it: it ended"]]"#);
    }
}
