//! A run's part in the journal: it takes the lock and says that it has begun, and at its end how it went.

use super::{
    base,
    desired::{NotKept, Relation, Snapshot, Stored},
    history::{self, Changes, Entry, Outcome},
    keys,
    lease::{self, Keeper},
    lock::{self, Holder, Taken},
};
use crate::{
    cluster::{Access, DcsKind, Do, If, Kv, KvError, Topology},
    diagnostic::Diagnostic,
    engine::Report,
    inventory::Inventory,
    model::{Digest, Scope},
    ssh::{Options, Target},
};
use indexmap::IndexMap;
use jiff::Timestamp;
use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio_util::sync::CancellationToken;

/// How often it is looked whether a lock that somebody else holds is free.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// The lock of a run that died ends with its lease, which etcd looks at now and then.
const DIED: Duration = lock::TTL.saturating_add(Duration::from_secs(5));

/// A host of etcd that is gone must not hold up a run for long: another one will answer.
const CONNECT_PATIENCE: Duration = Duration::from_secs(6);

/// What a run is about to do.
pub struct Intent<'a> {
    /// As others are told of it: `apply --limit pg-1`.
    pub holder: &'a Holder,
    /// How long to wait for another run to end.
    pub wait: Duration,
    /// The run makes the cluster what the inventory says, so that it matters which version that is.
    pub applies: bool,
    /// Go on although the passwords here are others than the cluster's.
    pub other_secrets: bool,
    /// Cancelled when the lock is lost.
    pub stop: CancellationToken,
    /// Is told once for whom the run waits.
    pub waits_for: &'a (dyn Fn(&Holder) + Sync),
}

/// Why a run may not begin.
#[derive(Debug, thiserror::Error)]
pub enum NoLock {
    #[error("{} on the cluster `{cluster}`", holder.describe())]
    Held { cluster: Scope, holder: Box<Holder> },
    #[error("the passwords in `{file}` are not those of the cluster: it was last changed {}", stored.describe())]
    ForeignSecrets { file: String, stored: Box<Stored> },
    #[error("stopped while it waited for another run")]
    Stopped,
}

impl NoLock {
    /// What the operator does next.
    pub fn next_steps(&self) -> Vec<String> {
        match self {
            Self::Held { holder, .. } => vec![
                "Wait until it has ended, or let this command wait with `--wait-lock 600`.".to_owned(),
                format!(
                    "If {} is gone, its lock ends by itself within {} s; `pgfleet unlock` breaks it now.",
                    holder.who.machine,
                    lock::TTL.as_secs()
                ),
            ],
            Self::ForeignSecrets { file, stored } => vec![
                format!("Copy `{file}` from {} beside the inventory, over the one that is here.", stored.who),
                "If that file is lost and the passwords are to be changed, say --other-secrets.".to_owned(),
            ],
            Self::Stopped => Vec::new(),
        }
    }
}

/// Why a run holds no lock in the store and goes on all the same: the locks on the hosts keep others away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unlocked {
    /// The lock needs etcd.
    ZooKeeper,
    /// etcd does not answer: it is not there yet, or not well.
    Away(String),
}

/// How a run ended.
#[derive(Debug)]
pub struct Ended {
    pub outcome: Outcome,
    pub hosts: IndexMap<String, Changes>,
    pub remarks: Vec<String>,
    /// The whole cluster is now what the inventory says.
    pub applied: bool,
}

impl Ended {
    /// By what a run of the engine reports.
    pub fn of(report: &Report, everything: bool) -> Self {
        let (hosts, remarks) = history::of_report(report);
        let outcome = match (report.succeeded(), report.cancelled) {
            (true, _) => Outcome::Done,
            (false, true) if report.failures.is_empty() => Outcome::Stopped,
            _ => Outcome::Failed,
        };
        Self { outcome, hosts, remarks, applied: everything && outcome == Outcome::Done }
    }

    /// By what several runs report, one after the other; the last says how it ended.
    pub fn of_all(reports: &[Report]) -> Self {
        let mut whole = Self::done("");
        whole.remarks.clear();
        for report in reports {
            let Self { outcome, hosts, remarks, .. } = Self::of(report, false);
            whole.outcome = outcome;
            whole.remarks.extend(remarks);
            for (host, changes) in hosts {
                let sum = whole.hosts.entry(host).or_default();
                sum.count += changes.count;
                sum.steps.extend(changes.steps);
            }
        }
        whole
    }

    /// Something went wrong besides.
    pub fn but_failed(mut self, why: impl Into<String>) -> Self {
        self.outcome = Outcome::Failed;
        self.remarks.push(why.into());
        self
    }

    /// Something was changed that is no step on a host.
    pub fn done(remark: impl Into<String>) -> Self {
        Self { outcome: Outcome::Done, hosts: IndexMap::new(), remarks: vec![remark.into()], applied: false }
    }

    pub fn failed(why: impl Into<String>) -> Self {
        Self { outcome: Outcome::Failed, ..Self::done(why) }
    }

    fn is_news(&self) -> bool {
        self.outcome != Outcome::Done || !self.hosts.is_empty() || !self.remarks.is_empty()
    }
}

/// A run that has begun.
pub struct Journal {
    cluster: Scope,
    inventory: PathBuf,
    entry: Entry,
    kv: Option<Arc<Kv>>,
    held: Option<(Taken, Keeper)>,
    snapshot: Option<Result<Snapshot, NotKept>>,
    stored: Option<Stored>,
    /// Why there is no lock in the store.
    pub unlocked: Option<Unlocked>,
    /// What the operator should know before the run goes on.
    pub warnings: Vec<String>,
}

impl Journal {
    /// Takes the deploy lock, and notes in the history that a run has begun.
    pub async fn begin(
        inventory: &Inventory,
        options: &Options,
        intent: &Intent<'_>,
    ) -> Result<Journal, NoLock> {
        let mut journal = Journal {
            cluster: inventory.cluster.clone(),
            inventory: inventory.path.clone(),
            entry: Entry::begin(intent.holder),
            kv: None,
            held: None,
            snapshot: intent.applies.then(|| Snapshot::of(inventory)),
            stored: None,
            unlocked: None,
            warnings: Vec::new(),
        };
        let kv = match store(inventory, options).await {
            Ok(Some(kv)) => kv,
            Ok(None) => {
                journal.unlocked = Some(Unlocked::ZooKeeper);
                return Ok(journal);
            }
            Err(wrong) => {
                journal.unlocked = Some(Unlocked::Away(wrong.to_string()));
                return Ok(journal);
            }
        };
        let kv = Arc::new(kv);
        journal.kv = Some(Arc::clone(&kv));
        let since = Instant::now();
        loop {
            let asked = lease::now();
            let entry = journal.entry.to_bytes();
            match lock::take(&kv, &journal.cluster, intent.holder, &entry).await {
                Err(error) => {
                    journal.unlocked = Some(Unlocked::Away(error.to_string()));
                    return Ok(journal);
                }
                Ok((Ok(taken), stored)) => {
                    let keeper = Keeper::start(Arc::clone(&kv), taken, asked, intent.stop.clone());
                    journal.held = Some((taken, keeper));
                    journal.stored = stored.as_deref().and_then(Stored::parse);
                    break;
                }
                Ok((Err(holder), _)) => journal.wait(&kv, holder, since, intent).await?,
            }
        }
        match journal.compare(intent.other_secrets) {
            Ok(warning) => {
                journal.warnings.extend(warning);
                Ok(journal)
            }
            Err(refused) => {
                journal.withdraw().await;
                Err(refused)
            }
        }
    }

    /// Waits until the lock is free, as far as can be seen. That of a run that died on this machine ends by
    /// itself, so that a command that was killed can just be given again.
    async fn wait(
        &self,
        kv: &Kv,
        mut holder: Holder,
        since: Instant,
        intent: &Intent<'_>,
    ) -> Result<(), NoLock> {
        let patience = if holder.has_died() { intent.wait.max(DIED) } else { intent.wait };
        if !patience.is_zero() {
            (intent.waits_for)(&holder);
        }
        while since.elapsed() < patience {
            tokio::select! {
                () = tokio::time::sleep(LOOK_AGAIN) => {}
                () = intent.stop.cancelled() => return Err(NoLock::Stopped),
            }
            match lock::holder(kv, &self.cluster).await {
                Ok(Some((now, _))) => holder = now,
                // Taking it tells what is wrong with the store.
                Ok(None) | Err(_) => return Ok(()),
            }
        }
        Err(NoLock::Held { cluster: self.cluster.clone(), holder: Box::new(holder) })
    }

    /// What is to be said of an inventory that is not the cluster's latest.
    fn compare(&self, other_secrets: bool) -> Result<Option<String>, NoLock> {
        let (Some(Ok(ours)), Some(stored)) = (&self.snapshot, &self.stored) else { return Ok(None) };
        let base = base::recall(&self.inventory);
        if let Some(file) = stored.foreign_secrets(ours, base).filter(|_| !other_secrets) {
            let stored = Box::new(stored.clone());
            return Err(NoLock::ForeignSecrets { file: file.to_owned(), stored });
        }
        let what = match stored.relation(ours, base) {
            Relation::Same => {
                base::remember(&self.inventory, ours.digest);
                return Ok(None);
            }
            Relation::Derived => return Ok(None),
            Relation::Older => "this inventory is older than the one that the cluster was last changed with",
            Relation::Unknown => {
                "the cluster was last changed with another inventory, which this one may not know"
            }
        };
        Ok(Some(format!(
            "{what}: {}. `pgfleet adopt HOST --cluster {} -o FOLDER` fetches that one, to compare.",
            stored.describe(),
            self.cluster
        )))
    }

    /// Nothing was done, and nothing is to be told.
    async fn withdraw(mut self) {
        let Some((taken, _keeper)) = self.held.take() else { return };
        let (lock, run) = (keys::lock(&self.cluster), keys::run(&self.cluster, &self.entry.id));
        if let Some(kv) = &self.kv {
            let gone = [Do::Delete(&lock), Do::Delete(&run)];
            // What stays behind ends with the lease.
            let _ = kv.txn(&[If::LeasedBy(&lock, taken.lease)], &gone, &[Do::Delete(&run)]).await;
        }
    }

    /// Why the lock is lost, which stopped the run.
    pub fn lost(&self) -> Option<&str> {
        self.held.as_ref().and_then(|(_, keeper)| keeper.lost())
    }

    /// Writes how the run went, and what the cluster now is; gives the lock back. Returns what could not be kept,
    /// as warnings.
    pub async fn finish(mut self, mut ended: Ended) -> Vec<String> {
        if let Some(why) = self.lost() {
            ended.outcome = Outcome::Locked;
            ended.remarks.push(why.to_owned());
            ended.applied = false;
        }
        let mut warnings = Vec::new();
        let Some(kv) = self.kv.clone() else { return warnings };
        if self.held.is_none() {
            // A bootstrap begins before there is a store.
            match kv.read(&[Do::Get(&keys::inventory(&self.cluster))]).await {
                Ok(found) => self.stored = found.first().and_then(|pair| Stored::parse(&pair.value)),
                Err(error) => {
                    warnings
                        .push(format!("the run is not in the history, since etcd does not answer: {error}"));
                    return warnings;
                }
            }
        }
        let is_news = ended.is_news();
        let keeping = self.keeping(&ended, &mut warnings);
        self.entry.ended = Some(Timestamp::now());
        self.entry.outcome = ended.outcome;
        self.entry.hosts = ended.hosts;
        self.entry.remarks = ended.remarks;
        match self.write(&kv, is_news, keeping.as_ref().map(|(value, _)| value.as_slice())).await {
            Ok(()) => {
                if let Some((_, digest)) = keeping {
                    base::remember(&self.inventory, digest);
                }
            }
            Err(error) => {
                warnings.push(format!(
                    "how the run went is not in the history, since etcd does not answer: {error}"
                ));
            }
        }
        warnings
    }

    /// The inventory to keep, if it is another one than the cluster has.
    fn keeping(&self, ended: &Ended, warnings: &mut Vec<String>) -> Option<(Vec<u8>, Digest)> {
        let snapshot = self.snapshot.as_ref().filter(|_| ended.applied)?;
        let stored = snapshot.as_ref().map_err(Clone::clone).and_then(|snapshot| {
            let same = self.stored.as_ref().is_some_and(|stored| stored.digest == snapshot.digest);
            let new = || Stored::new(snapshot, &self.entry.who, &self.entry.command, self.stored.as_ref());
            if same { Ok(None) } else { new().map(Some) }
        });
        match stored {
            Ok(stored) => {
                let stored = stored?;
                Some((serde_json::to_vec(&stored).ok()?, stored.digest))
            }
            Err(why) => {
                warnings.push(format!(
                    "the inventory is not kept in the cluster, so no other machine can adopt it: {why}"
                ));
                None
            }
        }
    }

    async fn write(&self, kv: &Kv, is_news: bool, inventory: Option<&[u8]>) -> Result<(), KvError> {
        let (lock, run) = (keys::lock(&self.cluster), keys::run(&self.cluster, &self.entry.id));
        let (kept, history) = (keys::inventory(&self.cluster), keys::history(&self.cluster));
        let entry = self.entry.to_bytes();
        let mut tell = vec![if is_news { Do::Put(&run, &entry) } else { Do::Delete(&run) }];
        tell.extend(inventory.map(|inventory| Do::Put(&kept, inventory)));
        tell.push(Do::Names(&history));
        let found = match &self.held {
            None => kv.read(&tell).await?,
            Some((taken, _)) => {
                let with_lock = [tell.as_slice(), &[Do::Delete(&lock)]].concat();
                let held = [If::LeasedBy(&lock, taken.lease)];
                // Without the lock nothing is said of the cluster, only of the run.
                let alone = [tell[0], Do::Names(&history)];
                kv.txn(&held, &with_lock, &alone).await?.found
            }
        };
        let names: Vec<String> = found.into_iter().map(|pair| pair.key).collect();
        history::trim(kv, &names).await
    }
}

/// The cluster's etcd, by way of its hosts; none where the cluster has ZooKeeper.
pub async fn store(inventory: &Inventory, options: &Options) -> Result<Option<Kv>, Diagnostic> {
    let topology = Topology::of(inventory);
    if topology.dcs != DcsKind::Etcd {
        return Ok(None);
    }
    let tls = inventory.tls_client()?;
    let options = Options { connect_timeout: CONNECT_PATIENCE, ..options.clone() };
    let hosts = topology.dcs_hosts.iter().filter_map(|host| inventory.hosts.get(&host.name));
    let targets: Vec<Target> = hosts.map(|host| Target::of(host, &options)).collect();
    let forks = targets.len();
    let access = Access::open(targets, &options, forks).await.with_tls(tls);
    Ok(Some(Kv::new(Arc::new(access), topology.dcs_hosts)))
}
