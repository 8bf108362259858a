//! Begins actions, and takes in what they come to.

use super::{
    Ended, Runtime, convert, peers,
    report::{Effect, Report},
    unix_now,
    work::{self, Bench, Desk},
};
use crate::{
    agent::{
        clock::BootTime,
        core::{
            self, Action, Data, Kind, Lane, Lease, Millis, Poll, Process, Request, StartAs, Verdict, fencing,
            holds,
        },
        dcs::{Failure, Leadership, Store},
        postgres::{Facts, slot_name},
    },
    contract::{Snapshot, Term},
};
use std::{sync::Arc, time::Duration};

impl<S: Store> Runtime<S> {
    /// Begins an action. Nothing is awaited.
    pub(super) fn act(&mut self, action: Action) {
        match action.kind() {
            Kind::Renew | Kind::PollPeers | Kind::Publish => tracing::debug!(?action, "begins"),
            _ => tracing::info!(?action, "begins"),
        }
        match action.lane() {
            Lane::Lease => self.act_on_lease(action),
            Lane::Keys => self.act_on_keys(action),
            Lane::Peers => self.ask_peers(),
            Lane::Server if action == Action::Exit => self.exit = Some(Ended::InOrder),
            Lane::Server => self.act_on_server(action),
        }
    }

    fn term(&self) -> Option<Term> {
        self.seen.lease.and_then(|lease| i64::try_from(lease.term).ok()).map(Term)
    }

    fn act_on_lease(&mut self, action: Action) {
        let (store, reports, term) = (self.store.clone(), self.reports.clone(), self.term());
        let kind = action.kind();
        let own_name = self
            .snapshot
            .as_ref()
            .and_then(|snapshot| snapshot.leader.as_ref())
            .is_some_and(|leader| leader.name == self.config.name);
        let sync = self.snapshot.as_deref().and_then(Snapshot::sync_revision);
        self.seen.busy.lease = Some(action);
        tokio::spawn(async move {
            let report = match (kind, term) {
                (Kind::Renew, Some(term)) => {
                    let (result, took) = work::timed(store.renew(Some(term))).await;
                    Report::Renewed { result, took }
                }
                (Kind::Release, Some(term)) => {
                    let (result, took) = work::timed(store.release(term)).await;
                    Report::Lease { kind, result: result.map(|()| None), took }
                }
                (Kind::Acquire, _) => {
                    let (result, took) = work::timed(work::acquire(&store, own_name, sync)).await;
                    Report::Lease { kind, result, took }
                }
                _ => Report::Lease {
                    kind,
                    result: Err(Failure::Lost("there is no lease".to_owned())),
                    took: 0,
                },
            };
            let _ = reports.send(report);
        });
    }

    fn act_on_keys(&mut self, action: Action) {
        self.seen.busy.keys = Some(action.clone());
        let reports = self.reports.clone();
        if let Action::SetSyncNames(names) = &action {
            let (bench, names) = (self.bench(), names.clone());
            tokio::spawn(async move {
                let result = bench.set_names(&names).await;
                let _ = reports.send(Report::Keys { action, result });
            });
            return;
        }
        let account = self.account();
        let desk = Desk {
            store: self.store.clone(),
            server: Arc::clone(&self.server),
            snapshot: self.snapshot.clone(),
            name: self.config.name.clone(),
            term: self.term(),
            // That of a store that was lost, or that of a new cluster.
            first_config: self.dynamic.document.clone(),
            member: account.member(),
            status: account.status_key(),
            timeline: match &self.seen.server.process {
                Process::Running(server) => server.timeline,
                _ => 0,
            },
        };
        tokio::spawn(async move {
            let result = desk.write(&action).await.map_err(|failure| failure.to_string());
            let _ = reports.send(Report::Keys { action, result });
        });
    }

    fn bench(&self) -> Bench {
        Bench {
            server: Arc::clone(&self.server),
            snapshot: self.snapshot.clone(),
            name: self.config.name.clone(),
            use_slots: self.effective.use_slots,
            ttl: self.seen.settings.ttl,
            patience: self.effective.pg_ctl_timeout,
            settings: None,
            roles: self.roles,
            replace: !matches!(self.seen.server.data, Data::Empty),
            wrote: self.memory.wrote,
        }
    }

    fn act_on_server(&mut self, action: Action) {
        if let Some(work) = self.server_work.take() {
            work.abort();
        }
        self.operation += 1;
        self.seen.busy.server = Some(action.clone());
        let mut bench = self.bench();
        match &action {
            Action::Start(StartAs::Primary(_)) if self.seen.settings.primary_start_timeout > 0 => {
                bench.patience = Duration::from_millis(self.seen.settings.primary_start_timeout);
            }
            Action::Restart(_) => {
                let timeout = self.restarting.as_ref().and_then(|restarting| restarting.timeout);
                bench.patience = timeout.unwrap_or(bench.patience);
            }
            Action::Reload => bench.settings = Some(self.effective.settings.clone()),
            Action::Stop(_) => self.count_demotion(),
            // Of this term the verdict will be, whoever leads when it comes.
            Action::CheckDivergence(_) | Action::Clone(_) => {
                self.comparing = self.seen.cluster.as_ref().and_then(|view| view.leader.clone());
            }
            _ => {}
        }
        let (reports, operation) = (self.reports.clone(), self.operation);
        self.server_work = Some(tokio::spawn(async move {
            let tell = reports.clone();
            let result = bench.perform(&action, move |found| drop(tell.send(Report::Control(found)))).await;
            let began = BootTime::now().0;
            let facts = Box::new(bench.server.observe().await);
            let _ = reports.send(Report::Server { operation, result, began, facts });
        }));
    }

    /// Breaks off what is being done to the server.
    pub(super) fn break_off(&mut self) {
        if let Some(work) = self.server_work.take() {
            work.abort();
        }
        self.operation += 1;
        self.seen.busy.server = None;
        self.observer.look.notify_one();
    }

    fn count_demotion(&mut self) {
        if matches!(&self.seen.server.process, Process::Running(server) if !server.in_recovery) {
            let reason = match (&self.state.handover, holds(&self.seen)) {
                (Some(_), _) => "handover",
                (None, true) => "deadline",
                (None, false) => "lost",
            };
            *self.counters.demotions.entry(reason).or_default() += 1;
        }
    }

    fn ask_peers(&mut self) {
        let asked = self.seen.now;
        let limit = Duration::from_millis((self.seen.settings.ttl / 6).clamp(200, 1_000));
        let Some(snapshot) = &self.snapshot else { return };
        let others = snapshot.members.iter().filter(|(name, _)| **name != self.config.name);
        let known_from = u64::try_from(unix_now()).unwrap_or_default().saturating_sub(self.dynamic.ttl);
        let mut asked_of = 0;
        for (name, member) in others {
            asked_of += 1;
            let (name, address, reports) = (name.clone(), member.api_address(), self.reports.clone());
            let client = self.secured.peers.clone().filter(|_| member.api_speaks_tls());
            tokio::spawn(async move {
                let status = match address {
                    Some((host, port)) => peers::ask(&host, port, client.as_deref(), limit).await,
                    None => None,
                };
                let answer = status.map(|status| convert::answer(&name, &status, known_from));
                let _ = reports.send(Report::Answer { asked, answer });
            });
        }
        self.open_questions = asked_of;
        self.seen.poll = Some(Poll { asked, done: asked_of == 0, answers: Vec::new() });
    }

    /// Takes in a fact.
    pub(super) fn take_in(&mut self, report: Report) {
        self.seen.now = BootTime::now().0;
        match report {
            Report::Seen { began, facts } => self.see(began, *facts),
            // Read while the server goes down: on disk it says so once the last checkpoint is written.
            Report::Control(found) => {
                let stopping = matches!(self.seen.busy.server, Some(Action::Stop(_)));
                if stopping && convert::control(&found).state == core::ControlState::ShutDown {
                    self.memory.closing = Some(found.checkpoint);
                    self.seen.server.process = Process::Closing { checkpoint: found.checkpoint };
                }
            }
            Report::Lease { kind, result, took } => self.lease_answered(kind, result, took),
            Report::Renewed { result, took } => {
                if result.is_ok() {
                    self.store_answered();
                }
                self.counters.renew_latency = Duration::from_millis(took);
                let renewed = result.map(|renewal| {
                    let term = self.term().unwrap_or(Term(0));
                    Some(Leadership { term, lease: renewal.lease })
                });
                self.lease_answered(Kind::Renew, renewed, took);
            }
            Report::Kept(result) => match result {
                Ok(()) => self.store_answered(),
                Err(failure) => self.count_failure(&failure),
            },
            Report::Keys { action, result } => self.keys_written(&action, result),
            Report::Server { operation, result, began, facts } => {
                self.served(operation, result, began, *facts)
            }
            Report::Answer { asked, answer } => {
                // Every question ends, with an answer or without.
                let open = self.open_questions.saturating_sub(1);
                if let Some(poll) = self.seen.poll.as_mut().filter(|poll| poll.asked == asked) {
                    poll.answers.extend(answer);
                    poll.done = open == 0;
                    self.open_questions = open;
                }
            }
            Report::Checkpointed => {
                self.checkpointed = Some(true);
                self.state.published = None;
            }
            Report::Roles(made) => {
                self.housekeeping = false;
                match made {
                    Ok(made) => tracing::info!(?made, "made the roles of the cluster"),
                    Err(why) => {
                        tracing::error!("the roles of the cluster could not be made: {why}");
                        self.roles = true;
                    }
                }
            }
            Report::Housekept(result) => {
                self.housekeeping = false;
                if let Err(why) = result {
                    tracing::debug!(why, "slots were not brought up to date");
                }
            }
        }
    }

    fn see(&mut self, began: Millis, facts: Facts) {
        if began < self.facts_from {
            return;
        }
        self.facts_from = began;
        let data_dir = &self.config.postgresql.data_dir;
        let standby = data_dir.join("standby.signal").exists();
        let manages = self.dynamic.synchronous_mode.is_on()
            || self.snapshot.as_ref().is_some_and(|snapshot| snapshot.sync.is_some());
        let was = matches!(&self.seen.server.process, Process::Running(server) if !server.in_recovery);
        self.seen.server = convert::server(
            &facts,
            self.snapshot.as_deref(),
            standby,
            manages,
            &mut self.memory,
            self.seen.now,
        );
        if let Process::Running(server) = &mut self.seen.server.process {
            server.pending_restart |= !self.pending.is_empty();
        }
        // Started by hand: what it runs with is to be looked at anew.
        let started = started_at(&facts);
        if started.is_some() && started != self.known_start {
            self.reconfigure |= self.known_start.is_some();
            self.known_start = started;
        }
        self.facts = Some(facts);
        let is = matches!(&self.seen.server.process, Process::Running(server) if !server.in_recovery);
        if was && !is {
            self.checkpointed = None;
        }
    }

    fn lease_answered(&mut self, kind: Kind, result: Result<Option<Leadership>, Failure>, took: Millis) {
        self.seen.busy.lease = None;
        match result {
            Ok(Some(Leadership { term, lease })) => {
                let term = u64::try_from(term.0).unwrap_or_default();
                let ttl = lease.ttl.as_millis() as Millis;
                let lease = Lease { term, renewed_at: lease.sent_at.0, ttl, remembered: false };
                if kind == Kind::Acquire {
                    tracing::info!(term, took, "this node has the leader key");
                } else {
                    self.counters.renewals += 1;
                }
                self.seen.lease = Some(lease);
                if let Err(error) = self.lease_file.write(&lease) {
                    tracing::warn!(%error, "the lease cannot be left for the next agent");
                }
                self.seen.failures.clear(kind);
            }
            Ok(None) => {
                tracing::info!("the leader key is given up");
                self.forget_lease();
                self.seen.failures.clear(kind);
            }
            Err(failure) => {
                self.count_failure(&failure);
                match (&failure, kind) {
                    (Failure::Lost(why), Kind::Acquire) => {
                        tracing::info!(why, "the leader key was not taken")
                    }
                    (Failure::Lost(why), _) => tracing::warn!(why, "the leader key is lost"),
                    (Failure::Unreachable(why), _) => {
                        tracing::warn!(%why, ?kind, "no answer about the leader key")
                    }
                }
                if kind == Kind::Renew {
                    self.counters.renewals_failed += 1;
                }
                if failure.is_lost() {
                    self.forget_lease();
                }
                if failure.is_lost() && kind != Kind::Acquire {
                    self.seen.failures.clear(kind);
                } else {
                    self.seen.failures.record(kind, self.seen.now);
                }
            }
        }
    }

    fn forget_lease(&mut self) {
        self.seen.lease = None;
        self.lease_file.remove();
    }

    fn keys_written(&mut self, action: &Action, result: Result<(), String>) {
        self.seen.busy.keys = None;
        match result {
            Ok(()) => {
                self.seen.failures.clear(action.kind());
                // Of data that were there before the cluster. Those of new data are made at the start.
                self.roles |= matches!(action, Action::WriteInitialize(_))
                    && matches!(self.seen.server.process, Process::Running(_));
            }
            Err(why) => {
                tracing::warn!(?action, why, "was not written");
                self.seen.failures.record(action.kind(), self.seen.now);
            }
        }
        if let Action::SetSyncNames(names) = action {
            // In effect already: a standby that clears them would do so in every round until the next look.
            if let Process::Running(server) = &mut self.seen.server.process
                && server.in_recovery
                && self.seen.failures.count(action.kind()) == 0
            {
                server.names = names.clone();
            }
            self.observer.look.notify_one();
        }
    }

    /// Makes the roles of a cluster that is new in the store and whose server runs already.
    pub(super) fn make_roles(&mut self) {
        let running = matches!(&self.seen.server.process, Process::Running(server) if !server.in_recovery);
        let free = self.seen.busy.server.is_none() && !self.housekeeping;
        if !self.roles || !running || !free || !holds(&self.seen) || self.seen.now < self.housekept_at + 500 {
            return;
        }
        self.roles = false;
        self.housekeeping = true;
        self.housekept_at = self.seen.now;
        let (server, reports) = (Arc::clone(&self.server), self.reports.clone());
        tokio::spawn(async move {
            let made = server.bootstrap_roles().await;
            let _ = reports.send(Report::Roles(made.map_err(|error| error.to_string())));
        });
    }

    fn served(&mut self, operation: u64, result: Result<Effect, String>, began: Millis, facts: Facts) {
        if operation != self.operation {
            return;
        }
        let Some(action) = self.seen.busy.server.take() else { return };
        self.server_work = None;
        self.memory.closing = None;
        let kind = action.kind();
        let done = result.is_ok();
        match result {
            Ok(effect) => {
                tracing::info!(?action, "done");
                self.seen.failures.clear(kind);
                self.completed(&action, effect);
            }
            Err(why) => {
                tracing::error!(?action, "failed: {why}");
                self.seen.failures.record(kind, self.seen.now);
            }
        }
        let starts = matches!(kind, Kind::Restart | Kind::StartPrimary | Kind::StartStandby);
        if starts && self.seen.request == Some(Request::Restart) {
            self.restarted(done);
        }
        if starts && done {
            self.known_start = started_at(&facts);
        }
        // Looks that began before the end show what was.
        self.facts_from = began;
        self.see(began, facts);
    }

    fn completed(&mut self, action: &Action, effect: Effect) {
        match action {
            Action::Initdb => self.roles = true,
            Action::Start(StartAs::Primary(_)) => {
                self.roles = false;
                self.memory.following = None;
            }
            Action::Promote => {
                self.counters.promotions += 1;
                self.memory.following = None;
                self.checkpoint();
            }
            Action::Start(StartAs::Standby(upstream)) => self.memory.following = upstream.clone(),
            Action::Follow(member) => self.memory.following = Some(member.clone()),
            Action::Rewind(_) => self.seen.verdict = None,
            Action::Clone(source) => {
                // A copy of the leader is a prefix of the leader; a copy of another is compared.
                let copied = self.comparing.take().filter(|leader| leader.name == *source);
                let outcome = core::Outcome::Prefix;
                self.seen.verdict = copied.map(|core::Leader { name: leader, term }| Verdict {
                    leader,
                    term,
                    outcome,
                    at: self.seen.now,
                });
                self.seen.failures.clear(Kind::Rewind);
                if matches!(self.seen.request, Some(Request::Reinitialize { .. })) {
                    self.seen.request = None;
                }
            }
            _ => {}
        }
        match effect {
            Effect::Compared(outcome) => {
                if let Some(core::Leader { name: leader, term }) = self.comparing.take() {
                    self.seen.verdict = Some(Verdict { leader, term, outcome, at: self.seen.now });
                }
            }
            Effect::End(end) => self.seen.wal_end = Some((end, self.seen.now)),
            Effect::Pending(pending) if pending != self.pending => {
                self.pending = pending;
                self.state.published = None;
            }
            Effect::Pending(_) => {}
            Effect::None => {}
        }
    }

    /// The checkpoint after a promotion, off the critical path: rewinds of others wait for it.
    fn checkpoint(&mut self) {
        self.checkpointed = Some(false);
        let (server, reports) = (Arc::clone(&self.server), self.reports.clone());
        tokio::spawn(async move {
            if server.checkpoint().await.is_ok() {
                let _ = reports.send(Report::Checkpointed);
            }
        });
    }

    /// Gives PostgreSQL changed settings, once nothing else is being done to it.
    pub(super) fn begin_reload(&mut self) {
        if !self.reconfigure || self.seen.busy.server.is_some() {
            return;
        }
        match &self.seen.server.process {
            Process::Stopped => {
                self.server.update(self.effective.settings.clone());
                self.reconfigure = matches!(self.seen.server.data, Data::Unreadable) && self.facts.is_none();
            }
            // Not before it is clear whose the server is.
            Process::Running(server) if server.in_recovery || holds(&self.seen) => {
                self.reconfigure = false;
                self.act(Action::Reload);
            }
            _ => {}
        }
    }

    /// Keeps the lease of a member that doesn't lead. Never while the leader key bears this node's name:
    /// what nobody answers for must be able to end.
    pub(super) fn keep_member(&mut self) {
        let ttl = self.seen.settings.ttl;
        let other =
            self.seen.cluster.as_ref().is_some_and(|view| {
                view.leader.as_ref().is_none_or(|leader| leader.name != self.config.name)
            });
        if !other || self.seen.lease.is_some() || self.seen.busy.lease.is_some() {
            return;
        }
        if self.seen.now < self.kept_at + fencing::renew_interval(ttl) {
            return;
        }
        self.kept_at = self.seen.now;
        let (store, reports) = (self.store.clone(), self.reports.clone());
        tokio::spawn(async move {
            let _ = reports.send(Report::Kept(store.renew(None).await.map(drop)));
        });
    }

    /// A leader keeps the slots of its members.
    pub(super) fn keep_house(&mut self) {
        let leads = holds(&self.seen) && core::writable(&self.seen);
        let Some(snapshot) = self.snapshot.clone().filter(|_| leads && self.seen.busy.server.is_none())
        else {
            return;
        };
        let known = |slot: &str| snapshot.members.keys().any(|name| slot_name(name.as_str()) == slot);
        let slots =
            self.facts.iter().flat_map(|facts| facts.session.iter().flat_map(|session| &session.slots));
        let present: Vec<&str> =
            slots.filter(|slot| slot.kind == "physical").map(|slot| slot.name.as_str()).collect();
        let missing = snapshot
            .members
            .keys()
            .any(|name| *name != self.config.name && !present.contains(&slot_name(name.as_str()).as_str()));
        // Only slots that once were a member's are dropped, and not before their time.
        let now = self.seen.now;
        let seen_gone: Vec<String> = self.gone.keys().filter(|slot| known(slot)).cloned().collect();
        for slot in seen_gone {
            self.gone.remove(&slot);
        }
        for slot in self.members_before.iter().filter(|slot| !known(slot)) {
            self.gone.entry(slot.clone()).or_insert(now);
        }
        for name in snapshot.members.keys() {
            self.members_before.insert(slot_name(name.as_str()));
        }
        let ttl = self.dynamic.member_slots_ttl.saturating_mul(1_000);
        let expired: Vec<String> = self
            .gone
            .iter()
            .filter(|(slot, since)| now >= **since + ttl && present.contains(&slot.as_str()))
            .map(|(slot, _)| slot.clone())
            .collect();
        let due = missing || !expired.is_empty();
        if self.housekeeping || !due || now < self.housekept_at + 500 {
            return;
        }
        self.housekeeping = true;
        self.housekept_at = now;
        let (bench, reports) = (self.bench(), self.reports.clone());
        tokio::spawn(async move {
            let _ = reports.send(Report::Housekept(bench.keep_slots(&expired).await));
        });
    }
}

fn started_at(facts: &Facts) -> Option<String> {
    facts.session.as_ref().map(|session| session.postmaster_started_at.clone())
}
