//! Carries out one action each. Every function runs beside the loop, holds nothing of it, and ends.

use super::{convert, report::Effect, wal};
use crate::{
    agent::{
        clock::BootTime,
        core::{Action, Kind, Millis, StartAs, StopMode, SyncNames, fencing},
        dcs::{Failure, Key, Leadership, Store, Swap},
        postgres::{self, Existing, Role, Server, Upstream},
    },
    contract::{
        FailoverDocument, History, HistoryEntry, MemberDocument, PendingChange, Revision, Snapshot,
        StatusDocument, SyncDocument, Term,
    },
    model::{Lsn, MemberName, Timeline},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

/// A comparison with the leader that takes longer has failed.
const COMPARE: Duration = Duration::from_secs(5);
/// Copies and rewinds take as long as they take; this ends those that hang.
const COPY: Duration = Duration::from_secs(24 * 3_600);

/// What the work on the server needs to know besides its action.
#[derive(Clone)]
pub struct Bench {
    pub server: Arc<Server>,
    pub snapshot: Option<Arc<Snapshot>>,
    pub name: MemberName,
    pub use_slots: bool,
    pub ttl: Millis,
    /// How long an orderly start or stop may take.
    pub patience: Duration,
    pub settings: Option<postgres::Settings>,
    /// The data are new: the roles have yet to be made.
    pub roles: bool,
    pub replace: bool,
    /// How far the server was last seen to have written, on which timeline.
    pub wrote: Option<(Timeline, Lsn)>,
}

impl Bench {
    fn upstream(&self, member: &MemberName) -> Result<Upstream, String> {
        let snapshot = self.snapshot.as_ref().ok_or("the store has not been read")?;
        let document = snapshot.members.get(member).ok_or_else(|| format!("{member} is not a member"))?;
        let (host, port) =
            document.postgres_address().ok_or_else(|| format!("{member} publishes no address"))?;
        let slot = self.use_slots.then(|| postgres::slot_name(self.name.as_str()));
        Ok(Upstream { host, port, slot })
    }

    /// Slots of all other members.
    fn slots(&self) -> BTreeSet<String> {
        let members = self.snapshot.iter().flat_map(|snapshot| snapshot.members.keys());
        members.filter(|name| **name != self.name).map(|name| postgres::slot_name(name.as_str())).collect()
    }

    async fn role(&self, role: &StartAs) -> Result<Role, String> {
        Ok(match role {
            StartAs::Primary(names) => {
                self.set_names(names).await?;
                Role::Primary
            }
            StartAs::Standby(None) => Role::Standby { upstream: None },
            StartAs::Standby(Some(member)) => Role::Standby { upstream: Some(self.upstream(member)?) },
        })
    }

    pub async fn set_names(&self, names: &SyncNames) -> Result<(), String> {
        let text = convert::names_text(names);
        let set = self.server.set_synchronous_standby_names(text.as_deref()).await;
        set.map(drop).map_err(|error| error.to_string())
    }

    /// Carries the action out; the error is for people.
    pub async fn perform(
        &self,
        action: &Action,
        control: impl Fn(postgres::ControlData),
    ) -> Result<Effect, String> {
        let text = |error: postgres::Error| error.to_string();
        let server = &self.server;
        match action {
            Action::Initdb => server.initdb().await.map_err(text)?,
            Action::Start(role) => {
                let started = server.start(&self.role(role).await?, self.patience).await.map_err(text)?;
                if !started.accepting {
                    return Err("PostgreSQL is still recovering".to_owned());
                }
                if self.roles && matches!(role, StartAs::Primary(_)) {
                    let made = server.bootstrap_roles().await.map_err(text)?;
                    tracing::info!(?made, "made the roles of the cluster");
                }
                return Ok(self.waiting_for_restart(role).await);
            }
            Action::Restart(role) => {
                let started = server.restart(&self.role(role).await?, self.patience).await.map_err(text)?;
                if !started.accepting {
                    return Err("PostgreSQL is still recovering".to_owned());
                }
                return Ok(self.waiting_for_restart(role).await);
            }
            Action::Stop(StopMode::Immediate) => {
                // Killing what has not gone in time is part of the budget.
                let limit = fencing::stop_budget(self.ttl).saturating_sub(650).max(50);
                let stop = server.stop(postgres::StopMode::Immediate, false, Duration::from_millis(limit));
                stop.await.map_err(text)?;
            }
            Action::Stop(StopMode::Fast) => {
                let stop = server.stop(postgres::StopMode::Fast, true, self.patience);
                let watch = async {
                    loop {
                        tokio::time::sleep(Duration::from_millis(150)).await;
                        if let Ok(found) = server.control_data().await {
                            control(found);
                        }
                    }
                };
                tokio::select! {
                    stopped = stop => drop(stopped.map_err(text)?),
                    () = watch => {}
                }
            }
            Action::Promote => {
                server.promote(self.patience).await.map_err(text)?;
            }
            Action::Follow(member) => drop(server.follow(Some(&self.upstream(member)?)).await.map_err(text)?),
            Action::CheckDivergence(member) => {
                let upstream = Upstream { slot: None, ..self.upstream(member)? };
                let compared = tokio::time::timeout(COMPARE, server.divergence(&upstream)).await;
                let divergence = compared.map_err(|_| format!("{member} does not answer"))?.map_err(text)?;
                tracing::info!(%member, ?divergence, "compared histories");
                return Ok(Effect::Compared(convert::outcome(divergence)));
            }
            Action::FindEnd => {
                server.clear_remains().await.map_err(text)?;
                let (timeline, from) = self.wrote.ok_or("it was never seen to write")?;
                let end = wal::end(&server.settings(), timeline, from).await?;
                tracing::info!(%from, %end, "found the end of the WAL");
                return Ok(Effect::End(end));
            }
            Action::Rewind(member) => server.rewind(&self.upstream(member)?, COPY).await.map_err(text)?,
            Action::Clone(member) => {
                let existing = if self.replace { Existing::Replace } else { Existing::Refuse };
                // The copy streams through a slot of its own that goes with it.
                let upstream = Upstream { slot: None, ..self.upstream(member)? };
                Server::clone_from(server, &upstream, existing, |_| {}).await.map_err(text)?;
            }
            Action::Reload => {
                let Some(settings) = self.settings.clone() else { return Ok(Effect::None) };
                let changed = server.reconfigure(settings).await.map_err(text)?;
                for name in &changed.unknown_parameters {
                    tracing::warn!(%name, "this PostgreSQL does not know the parameter; it is left out");
                }
                return Ok(pending(changed.pending_restart));
            }
            _ => {}
        }
        Ok(Effect::None)
    }

    /// A standby that was started may still run with more than the configuration says: what its primary has.
    async fn waiting_for_restart(&self, role: &StartAs) -> Effect {
        match role {
            StartAs::Primary(_) => pending(BTreeMap::new()),
            StartAs::Standby(_) => match self.server.waiting_for_restart().await {
                Ok(changes) => pending(changes),
                Err(error) => {
                    tracing::warn!(%error, "what waits for a restart is not known");
                    Effect::None
                }
            },
        }
    }

    /// Makes the slots of the members exist and drops those of members that are gone for good.
    pub async fn keep_slots(&self, gone: &[String]) -> Result<(), String> {
        if !self.use_slots {
            return Ok(());
        }
        let changes =
            self.server.sync_slots(&self.slots(), |slot| gone.iter().any(|name| name == slot)).await;
        let changes = changes.map_err(|error| error.to_string())?;
        if !changes.created.is_empty() || !changes.dropped.is_empty() {
            tracing::info!(created = ?changes.created, dropped = ?changes.dropped, "replication slots");
        }
        Ok(())
    }
}

fn pending(changes: BTreeMap<String, postgres::Change>) -> Effect {
    let told =
        |change: postgres::Change| PendingChange { old_value: Some(change.old), new_value: Some(change.new) };
    Effect::Pending(changes.into_iter().map(|(name, change)| (name, told(change))).collect())
}

/// What a write to the store needs to know besides its action.
pub struct Desk<S> {
    pub store: S,
    pub server: Arc<Server>,
    pub snapshot: Option<Arc<Snapshot>>,
    pub name: MemberName,
    pub term: Option<Term>,
    pub first_config: serde_json::Map<String, serde_json::Value>,
    pub member: MemberDocument,
    pub status: StatusDocument,
    pub timeline: u32,
}

impl<S: Store> Desk<S> {
    /// Writes what the action says; the error is for people.
    pub async fn write(&self, action: &Action) -> Result<(), Failure> {
        let store = &self.store;
        let snapshot = self.snapshot.as_deref();
        let term = self.term.ok_or_else(|| Failure::Lost("this node does not lead".to_owned()));
        match action {
            Action::CreateInitialize => drop(store.create_initialize().await?),
            Action::WriteInitialize(identifier) => {
                let expected = snapshot.and_then(|snapshot| Some(snapshot.initialize.as_ref()?.revision));
                store.finish_initialize(expected, identifier).await?;
            }
            Action::WriteConfig => drop(store.write_config(None, &self.first_config).await?),
            Action::WriteSync(key) => {
                let expected = expected(key.revision);
                let quorum = u32::try_from(key.quorum).unwrap_or(u32::MAX);
                let document = SyncDocument::new(key.leader.as_str(), &key.voters, quorum);
                store.write_sync(term?, expected, &document).await?;
            }
            Action::DropSync(revision) => {
                let expected = expected(*revision);
                store.swap(Swap::new(Key::Sync, expected, None).while_leader(term?)).await?;
            }
            Action::NameCandidate(candidate) => {
                let Some(known) = snapshot.and_then(|snapshot| snapshot.failover.as_ref()) else {
                    return Ok(());
                };
                let named = FailoverDocument { member: Some(candidate.to_string()), ..known.value.clone() };
                store.write_failover(Some(known.revision), Some(&named)).await?;
            }
            Action::ClearFailover => {
                let expected = snapshot.and_then(|snapshot| Some(snapshot.failover.as_ref()?.revision));
                store.write_failover(expected, None).await?;
            }
            Action::WriteHistory => {
                let expected = snapshot.and_then(|snapshot| Some(snapshot.history.as_ref()?.revision));
                let known = snapshot.and_then(|snapshot| Some(snapshot.history.as_ref()?.value.clone()));
                let history = self.history(known.unwrap_or_default());
                store.write_history(term?, expected, &history).await?;
            }
            Action::Publish => store.write_member(&self.member).await?,
            Action::PublishLeader => {
                store.write_member(&self.member).await?;
                store.write_status(term?, &self.status).await?;
            }
            _ => {}
        }
        // What was written is seen before the next decision.
        if action.kind() == Kind::Keys {
            store.snapshot().await.map_err(Failure::from)?;
        }
        Ok(())
    }

    /// The history that PostgreSQL itself recorded, with what is known of when and who.
    fn history(&self, known: History) -> History {
        let file = format!("{:08X}.history", self.timeline);
        let path = self.server.settings().data_dir.join("pg_wal").join(file);
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let recorded = postgres::History::parse(self.timeline, &text);
        let newest = recorded.switches.iter().map(|switch| switch.timeline).max();
        let entries = recorded.switches.into_iter().map(|switch| {
            let old =
                known.0.iter().find(|entry| entry.timeline == switch.timeline && entry.lsn == switch.at);
            old.cloned().unwrap_or_else(|| HistoryEntry {
                timeline: switch.timeline,
                lsn: switch.at,
                reason: switch.reason,
                timestamp: (newest == Some(switch.timeline)).then(|| jiff::Timestamp::now().to_string()),
                new_leader: (newest == Some(switch.timeline)).then(|| self.name.to_string()),
            })
        });
        History(entries.collect())
    }
}

/// The revision that a decision was based on.
fn expected(revision: u64) -> Option<Revision> {
    i64::try_from(revision).ok().filter(|revision| *revision > 0).map(Revision)
}

/// Takes the key, or takes it up again.
pub async fn acquire<S: Store>(
    store: &S,
    own_name: bool,
    sync: Option<Revision>,
) -> Result<Option<Leadership>, Failure> {
    let taken = match own_name {
        true => store.adopt().await.map_err(Failure::from)?,
        false => Some(store.acquire_leader(sync).await?),
    };
    if taken.is_some() {
        // The view as of the key's creation is what the claim is judged by.
        let _ = store.snapshot().await;
    }
    taken.map(Some).ok_or_else(|| Failure::Lost("the key is not this node's any more".to_owned()))
}

/// Runs `call` and tells how long it took.
pub async fn timed<T>(call: impl Future<Output = T>) -> (T, Millis) {
    let began = BootTime::now();
    let result = call.await;
    (result, BootTime::now().since(began).as_millis() as Millis)
}
