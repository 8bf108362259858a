//! The agent at work. One task owns the state: it takes in facts from the observers, asks the core what
//! to do, and hands actions to workers that run beside it and report back. Nothing that takes long is
//! ever awaited here, so the lease is renewed whatever else goes on.

mod act;
mod convert;
mod operator;
mod peers;
mod publish;
mod report;
mod restart;
mod secured;
mod switching;
mod wal;
mod work;

use super::{
    api,
    clock::BootTime,
    config::{Cache, Config, Effective},
    core::{self, Lane, Me, Millis, Observation, Process, State, decide, fencing, writable},
    dcs::{Etcd, Failure, Sight, Store},
    fence::LeaseFile,
    postgres::{self, Facts},
    view::{Counters, View},
};
use crate::contract::{DynamicConfig, PendingChange, Revision, Snapshot};
use indexmap::IndexMap;
use report::Report;
use sd_notify::NotifyState;
use secured::Secured;
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{Notify, mpsc, watch},
    task::JoinHandle,
};

/// Why the agent ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// PostgreSQL is shut down, or left alone in a paused cluster.
    InOrder,
    /// PostgreSQL goes on; the next agent adopts it.
    LeavingPostgres,
}

/// Why the agent could not begin, or go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{0}")]
    Listen(#[source] std::io::Error),
    #[error("{0}")]
    Tls(#[source] crate::tls::Error),
    #[error("cannot receive signals: {0}")]
    Signals(#[source] std::io::Error),
    #[error("the REST API ended: {0}")]
    Api(String),
    #[error("the agent runs as root; PostgreSQL refuses to, so run it as the user that owns the data")]
    Root,
}

/// Runs the agent until it is told to end. `path` is read again on a reload.
pub async fn run(config: Config, path: PathBuf) -> Result<Ended, Error> {
    if nix::unistd::Uid::effective().is_root() {
        return Err(Error::Root);
    }
    let dynamic =
        Cache::in_data_dir(&config.postgresql.data_dir).load().unwrap_or_else(|| first_dynamic(&config));
    let secured = Secured::of(&config)?;
    let store = Etcd::new(config.etcd_options(&dynamic, secured.etcd.clone()));
    let listeners = api::bind(&config.restapi.listen, api::kept::take()).await.map_err(Error::Listen)?;
    if let Err(error) = api::kept::keep(&listeners) {
        tracing::warn!(%error, "the service manager does not keep the API's sockets");
    }
    let view = View {
        login: config.restapi.authentication.clone(),
        ..View::unknown(config.scope.clone(), config.name.clone(), BootTime::now())
    };
    let (views, view) = watch::channel(Arc::new(view));
    let (requests, operator) = mpsc::channel(16);
    let options =
        api::Options { extra_headers: config.restapi.extra_headers.clone(), tls: secured.api.clone() };
    let mut api = tokio::spawn(api::serve(listeners, view, requests, options));
    let mut runtime = Runtime::new(config, path, Arc::new(dynamic), store, secured, views);
    let ended = tokio::select! {
        ended = runtime.work(operator) => ended,
        served = &mut api => Err(Error::Api(match served {
            Ok(Err(error)) => error.to_string(),
            _ => "without a reason".to_owned(),
        })),
    };
    api.abort();
    ended
}

/// The dynamic configuration until the store's is known.
fn first_dynamic(config: &Config) -> DynamicConfig {
    let document = config.bootstrap.as_ref().map(|bootstrap| bootstrap.dcs.clone()).unwrap_or_default();
    DynamicConfig::from_json(&Value::Object(document)).0
}

/// The state of the agent, and what it works with.
struct Runtime<S> {
    config: Config,
    path: PathBuf,
    dynamic: Arc<DynamicConfig>,
    effective: Effective,
    store: S,
    secured: Secured,
    server: Arc<postgres::Server>,
    lease_file: LeaseFile,
    seen: Observation,
    state: State,
    snapshot: Option<Arc<Snapshot>>,
    facts: Option<Facts>,
    /// Facts of looks that began before this are out of date.
    facts_from: Millis,
    memory: convert::ServerMemory,
    reports: mpsc::UnboundedSender<Report>,
    inbox: Option<mpsc::UnboundedReceiver<Report>>,
    observer: Arc<Observer>,
    server_work: Option<JoinHandle<()>>,
    operation: u64,
    open_questions: usize,
    comparing: Option<core::Leader>,
    reconfigure: bool,
    roles: bool,
    checkpointed: Option<bool>,
    pending: IndexMap<String, PendingChange>,
    /// When the postmaster was started that `pending` is about.
    known_start: Option<String>,
    config_kept: Option<Revision>,
    kept_at: Millis,
    housekeeping: bool,
    housekept_at: Millis,
    /// Slots of members that have been seen, and of those that went away since when.
    members_before: BTreeSet<String>,
    gone: BTreeMap<String, Millis>,
    restarting: Option<restart::Restarting>,
    scheduled_restart: Option<restart::Scheduled>,
    switching: Vec<switching::Switching>,
    views: watch::Sender<Arc<View>>,
    counters: Counters,
    dcs_last_seen: Option<u64>,
    /// When the store last answered, whatever it said.
    store_answered_at: Millis,
    pinged_at: Millis,
    said: BTreeMap<Lane, (String, String)>,
    exit: Option<Ended>,
}

/// Looks at PostgreSQL at a pace, and at once when asked to.
struct Observer {
    look: Notify,
    pace: AtomicU64,
}

impl<S: Store> Runtime<S> {
    fn new(
        config: Config,
        path: PathBuf,
        dynamic: Arc<DynamicConfig>,
        store: S,
        secured: Secured,
        views: watch::Sender<Arc<View>>,
    ) -> Self {
        let effective = config.effective(&dynamic);
        let server = Arc::new(postgres::Server::new(effective.settings.clone()));
        let lease_file = LeaseFile::new(&config.postgresql.data_dir, config.name.clone());
        let (reports, inbox) = mpsc::unbounded_channel();
        let me = Me {
            name: config.name.clone(),
            nofailover: config.tags.nofailover(),
            failover_priority: config.tags.failover_priority(),
        };
        let seen = Observation {
            now: BootTime::now().0,
            me,
            settings: convert::settings(&dynamic, &effective, config.bootstrap.is_some()),
            cluster: None,
            lease: lease_file.read().map(|remembered| remembered.lease()),
            server: core::Server { data: core::Data::Unreadable, process: Process::Stopped },
            poll: None,
            verdict: None,
            wal_end: None,
            busy: core::Busy::default(),
            failures: core::Failures::default(),
            request: None,
            stopping: false,
        };
        Self {
            config,
            path,
            dynamic,
            effective,
            store,
            secured,
            server,
            lease_file,
            seen,
            state: State::default(),
            snapshot: None,
            facts: None,
            facts_from: 0,
            memory: convert::ServerMemory::default(),
            reports,
            inbox: Some(inbox),
            observer: Arc::new(Observer { look: Notify::new(), pace: AtomicU64::new(1_000) }),
            server_work: None,
            operation: 0,
            open_questions: 0,
            comparing: None,
            reconfigure: true,
            roles: false,
            checkpointed: None,
            pending: IndexMap::new(),
            known_start: None,
            config_kept: None,
            kept_at: 0,
            housekeeping: false,
            housekept_at: 0,
            members_before: BTreeSet::new(),
            gone: BTreeMap::new(),
            restarting: None,
            scheduled_restart: None,
            switching: Vec::new(),
            views,
            counters: Counters::default(),
            dcs_last_seen: None,
            store_answered_at: 0,
            pinged_at: 0,
            said: BTreeMap::new(),
            exit: None,
        }
    }

    /// The loop.
    async fn work(&mut self, mut operator: mpsc::Receiver<api::OperatorRequest>) -> Result<Ended, Error> {
        let listen = |kind| signal(kind).map_err(Error::Signals);
        let (mut terminate, mut interrupt) =
            (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?);
        let (mut hang_up, mut leave) = (listen(SignalKind::hangup())?, listen(SignalKind::user_defined1())?);
        let Some(mut inbox) = self.inbox.take() else { return Ok(Ended::InOrder) };
        let observer = self.observe();
        let exits = self.watch_exits();
        let mut sight = self.store.watch();
        self.look_at(&sight.borrow_and_update().clone());
        let mut ready = false;
        let ended = loop {
            if sight.has_changed().unwrap_or(false) {
                let now = sight.borrow_and_update().clone();
                self.look_at(&now);
            }
            let wake = Duration::from_millis(self.round());
            if !ready {
                let watchdog = fencing::watchdog(self.seen.settings.ttl) * 1_000;
                notify(&[
                    NotifyState::Ready,
                    NotifyState::WatchdogUsec(watchdog.try_into().unwrap_or(u32::MAX)),
                ]);
                ready = true;
            }
            if let Some(ended) = self.exit {
                break ended;
            }
            tokio::select! {
                Some(report) = inbox.recv() => {
                    self.take_in(report);
                    while let Ok(report) = inbox.try_recv() {
                        self.take_in(report);
                    }
                }
                changed = sight.changed() => {
                    if changed.is_err() {
                        tokio::time::sleep(wake).await;
                    }
                    let now = sight.borrow_and_update().clone();
                    self.look_at(&now);
                }
                Some(request) = operator.recv() => self.operate(request),
                _ = terminate.recv() => self.terminate(),
                _ = interrupt.recv() => self.terminate(),
                _ = hang_up.recv() => self.reload(),
                _ = leave.recv() => break Ended::LeavingPostgres,
                () = tokio::time::sleep(wake) => {}
            }
        };
        observer.abort();
        exits.abort();
        notify(&[NotifyState::Stopping]);
        if ended == Ended::InOrder && !self.seen.settings.paused {
            // A member key that is being written would outlive its deletion.
            let last_write = async {
                while self.seen.busy.keys.is_some()
                    && let Some(report) = inbox.recv().await
                {
                    self.take_in(report);
                }
            };
            let _ = tokio::time::timeout(Duration::from_secs(1), last_write).await;
            let _ = tokio::time::timeout(Duration::from_secs(2), self.store.delete_member()).await;
            self.lease_file.remove();
        }
        Ok(ended)
    }

    fn terminate(&mut self) {
        tracing::info!("told to end");
        self.seen.stopping = true;
    }

    /// One round: what is seen is judged, and what follows is begun. Gives the milliseconds to the next.
    fn round(&mut self) -> Millis {
        let began = std::time::Instant::now();
        self.seen.now = BootTime::now().0;
        self.refresh();
        let decision = decide(&self.seen, &self.state);
        self.state = decision.state;
        self.say(&decision.fired);
        for action in decision.actions {
            // Nothing is begun beside the end.
            if self.exit.is_none() {
                self.act(action);
            }
        }
        self.begin_reload();
        self.keep_member();
        self.make_roles();
        self.keep_house();
        self.keep_config();
        self.follow_switchovers();
        self.follow_schedule();
        self.set_pace();
        self.counters.loops += 1;
        self.counters.loop_duration = began.elapsed();
        self.show();
        self.ping();
        let watchdog = fencing::watchdog(self.seen.settings.ttl);
        decision.wake_at.saturating_sub(self.seen.now).clamp(5, (watchdog / 3).max(100))
    }

    /// What changes with time alone: a schedule that falls due.
    fn refresh(&mut self) {
        if let Some(snapshot) = self.snapshot.clone()
            && snapshot.failover.as_ref().is_some_and(|failover| failover.value.scheduled_at.is_some())
        {
            self.seen.cluster = Some(convert::cluster(&snapshot, unix_now()));
        }
    }

    /// Logs which rules fired, when they are others than before.
    fn say(&mut self, fired: &[core::Fired]) {
        for rule in fired {
            let now = (rule.rule.to_owned(), rule.detail.clone());
            if self.said.insert(rule.lane, now.clone()).as_ref() == Some(&now) {
                continue;
            }
            match rule.lane {
                Lane::Server => tracing::info!(rule = rule.rule, detail = rule.detail, "{}", rule.why),
                _ => tracing::debug!(rule = rule.rule, detail = rule.detail, "{}", rule.why),
            }
        }
    }

    /// Takes in the store's contents.
    fn look_at(&mut self, sight: &Sight) {
        let Some(snapshot) = &sight.snapshot else { return };
        if self.snapshot.as_ref().is_some_and(|known| known.revision > snapshot.revision) {
            return;
        }
        if sight.interrupted.is_none() {
            self.store_answered();
        }
        let dynamic = snapshot.config.as_ref().map(|config| Arc::clone(&config.value));
        self.seen.cluster = Some(convert::cluster(snapshot, unix_now()));
        self.snapshot = Some(Arc::clone(snapshot));
        if let Some(dynamic) = dynamic.filter(|dynamic| **dynamic != *self.dynamic) {
            tracing::info!("the cluster's configuration has changed");
            self.dynamic = dynamic;
            self.configure();
        }
    }

    /// Keeps the cluster's configuration beside the data, for a store that is away or wiped. Never in a
    /// directory that initdb or a copy has yet to fill.
    fn keep_config(&mut self) {
        let Some(known) = self.snapshot.as_ref().and_then(|snapshot| snapshot.config.as_ref()) else {
            return;
        };
        let filled = matches!(self.seen.server.data, core::Data::Initialised { .. });
        if self.config_kept == Some(known.revision) || !filled || self.seen.busy.server.is_some() {
            return;
        }
        self.config_kept = Some(known.revision);
        let cache = Cache::in_data_dir(&self.config.postgresql.data_dir);
        let document = known.value.document.clone();
        // A slow disk holds nothing up.
        tokio::task::spawn_blocking(move || {
            if let Err(error) = cache.save(&document) {
                tracing::warn!(%error, "the configuration cannot be kept beside the data");
            }
        });
    }

    /// Works out the settings anew, after either configuration has changed.
    fn configure(&mut self) {
        let effective = self.config.effective(&self.dynamic);
        for name in &effective.ignored_parameters {
            tracing::warn!(%name, "only the cluster's configuration may set the parameter");
        }
        let settings = convert::settings(&self.dynamic, &effective, self.config.bootstrap.is_some());
        if self.seen.settings.paused && !settings.paused {
            // Whatever was done by hand meanwhile: histories are compared anew.
            self.seen.verdict = None;
        }
        self.seen.settings = settings;
        self.seen.me.nofailover = self.config.tags.nofailover();
        self.seen.me.failover_priority = self.config.tags.failover_priority();
        self.store.set_ttl(Duration::from_secs(self.dynamic.ttl));
        self.reconfigure |= effective.settings != self.effective.settings;
        let watchdog = fencing::watchdog(self.seen.settings.ttl) * 1_000;
        notify(&[NotifyState::WatchdogUsec(watchdog.try_into().unwrap_or(u32::MAX))]);
        self.effective = effective;
    }

    /// Reads the local configuration again.
    fn reload(&mut self) {
        match Config::load(&self.path, std::env::vars()) {
            Ok((config, warnings)) => {
                for warning in warnings {
                    tracing::warn!("{}", warning.message);
                }
                for change in self.config.changes(&config) {
                    match change.needs_agent_restart {
                        true => tracing::warn!(
                            path = change.path,
                            "changed; takes effect when the agent is started again"
                        ),
                        false => tracing::info!(path = change.path, "changed"),
                    }
                }
                let old = std::mem::replace(&mut self.config, config);
                // Who this is cannot change while it runs.
                self.config.name = old.name;
                self.config.scope = old.scope;
                self.config.postgresql.data_dir = old.postgresql.data_dir;
                self.secured.reload();
                // Its certificates may be new where the names of their files are not. One that is down reads
                // them when it starts.
                let _ = self.server.reload();
                self.configure();
                self.reconfigure = true;
            }
            Err(findings) => tracing::error!("the configuration was not taken up: {findings}"),
        }
    }

    /// Looks at PostgreSQL beside the loop.
    fn observe(&self) -> JoinHandle<()> {
        let (server, reports, observer) =
            (Arc::clone(&self.server), self.reports.clone(), Arc::clone(&self.observer));
        tokio::spawn(async move {
            loop {
                let began = BootTime::now().0;
                let facts = Box::new(server.observe().await);
                if reports.send(Report::Seen { began, facts }).is_err() {
                    return;
                }
                let pace = Duration::from_millis(observer.pace.load(Ordering::Relaxed));
                let _ = tokio::time::timeout(pace, observer.look.notified()).await;
            }
        })
    }

    /// Has the observer look the moment a postmaster has ended.
    fn watch_exits(&self) -> JoinHandle<()> {
        let (server, observer) = (Arc::clone(&self.server), Arc::clone(&self.observer));
        tokio::spawn(async move {
            loop {
                match server.adopt() {
                    Some(postmaster) => {
                        postmaster.exited().await;
                        observer.look.notify_one();
                    }
                    None => tokio::time::sleep(Duration::from_millis(100)).await,
                }
            }
        })
    }

    /// Looks often while something moves.
    fn set_pace(&self) {
        let paused = self.seen.settings.paused;
        let unlocked = self.seen.cluster.as_ref().is_none_or(|cluster| cluster.leader.is_none() && !paused);
        let moving = unlocked || self.state.handover.is_some() || self.state.down_since.is_some();
        let settling = !paused
            && matches!(&self.seen.server.process, Process::Running(server) if server.in_recovery && !server.streaming);
        let pace = match (moving, settling) {
            (true, _) => 100,
            (_, true) => 250,
            _ => self.seen.settings.loop_wait.min(1_000),
        };
        if self.observer.pace.swap(pace, Ordering::Relaxed) > pace {
            self.observer.look.notify_one();
        }
    }

    /// Replaces the view that the REST API answers from.
    fn show(&self) {
        let account = self.account();
        let view = View {
            scope: self.config.scope.clone(),
            name: self.config.name.clone(),
            status: account.status(),
            leader_until: account.leader_until(),
            snapshot: self.snapshot.clone(),
            stale: self.seen.now > self.store_answered_at + self.seen.settings.ttl,
            dcs_last_seen: self.dcs_last_seen,
            config: Arc::clone(&self.dynamic),
            latest_end_lsn: self
                .facts
                .as_ref()
                .and_then(|facts| facts.session.as_ref()?.receiver.as_ref()?.latest_end),
            loop_at: BootTime::now(),
            counters: self.counters.clone(),
            login: self.config.restapi.authentication.clone(),
        };
        self.views.send_replace(Arc::new(view));
    }

    fn account(&self) -> publish::Account<'_> {
        publish::Account {
            config: &self.config,
            seen: &self.seen,
            facts: self.facts.as_ref(),
            pending: &self.pending,
            checkpointed: self.checkpointed,
            scheduled_restart: self.scheduled_restart.as_ref().map(restart::Scheduled::document),
        }
    }

    /// Tells the service manager that the loop goes round; not when a hang from now on would leave
    /// PostgreSQL writable for longer than the lease lasts.
    fn ping(&mut self) {
        let ttl = self.seen.settings.ttl;
        if self.seen.now < self.pinged_at + fencing::watchdog(ttl) / 4 {
            return;
        }
        if fencing::may_ping(
            self.seen.lease.as_ref(),
            writable(&self.seen),
            &self.seen.settings,
            self.seen.now,
        ) {
            self.pinged_at = self.seen.now;
            notify(&[NotifyState::Watchdog]);
        }
    }

    fn store_answered(&mut self) {
        self.store_answered_at = self.seen.now;
        self.dcs_last_seen = u64::try_from(unix_now()).ok();
    }

    fn count_failure(&mut self, failure: &Failure) {
        if !failure.is_lost() {
            self.counters.dcs_errors += 1;
        }
    }
}

/// Without a service manager there is nobody to tell.
fn notify(state: &[NotifyState<'_>]) {
    let _ = sd_notify::notify(state);
}

fn unix_now() -> i64 {
    jiff::Timestamp::now().as_second()
}
