//! What every store must do, run against each of them.

use super::*;
use crate::contract::{FailoverDocument, MaintenanceMark, MemberDocument};
use crate::model::{Lsn, MemberName};
use serde_json::json;
use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Instant,
};

/// A store to test: two members of one cluster, a way to be those same members after a restart of the
/// agent, and a way to let time pass.
pub(super) trait Bench {
    type Store: Store;
    /// A fresh handle for a member, as after the start of its agent.
    async fn member(&self, name: &str, ttl: Duration) -> Self::Store;
    async fn pass(&self, time: Duration);
    /// Writes a mark about member `a` under a lease of its own, as a run of the deploy side does.
    async fn mark(&self, mark: &MaintenanceMark, ttl: Duration);
    fn now(&self) -> BootTime;
}

/// The shortest ttl that etcd grants.
const TTL: Duration = Duration::from_secs(2);

fn document(state: &str) -> MemberDocument {
    serde_json::from_value(json!({"conn_url": "postgres://10.0.0.1:5432/postgres", "state": state})).unwrap()
}

async fn await_sight(watch: &mut watch::Receiver<Sight>, wanted: impl Fn(&Snapshot) -> bool, what: &str) {
    let seen = watch.wait_for(|sight| sight.snapshot.as_ref().is_some_and(|snapshot| wanted(snapshot)));
    let seen = tokio::time::timeout(Duration::from_secs(10), seen).await;
    assert!(matches!(seen, Ok(Ok(_))), "not seen within 10 s: {what}");
}

pub(super) async fn one_leader_per_term(bench: &impl Bench) {
    let (a, b) = (bench.member("a", TTL).await, bench.member("b", TTL).await);
    assert_eq!(a.snapshot().await.unwrap().leader, None);
    let before = bench.now();
    let first = a.acquire_leader(None).await.unwrap();
    assert!(first.lease.sent_at >= before && first.lease.sent_at <= bench.now());
    assert!(first.lease.ttl >= TTL);
    assert_eq!(a.acquire_leader(None).await.unwrap().term, first.term, "asking again finds out");
    assert!(b.acquire_leader(None).await.unwrap_err().is_lost());

    let seen = b.snapshot().await.unwrap().leader.clone().unwrap();
    assert_eq!((seen.name.as_str(), seen.term), ("a", first.term));

    let before = bench.now();
    let renewal = a.renew(Some(first.term)).await.unwrap();
    assert!(renewal.lease.sent_at >= before && renewal.lease.sent_at <= bench.now());
    assert_eq!(renewal.snapshot.leader.as_ref().unwrap().term, first.term);
    assert!(b.renew(Some(first.term)).await.unwrap_err().is_lost(), "not b's term");
    assert!(b.release(first.term).await.unwrap_err().is_lost());
    b.renew(None).await.unwrap();

    a.release(first.term).await.unwrap();
    assert!(a.renew(Some(first.term)).await.unwrap_err().is_lost(), "released");
    let second = b.acquire_leader(None).await.unwrap();
    assert!(second.term > first.term);
    assert!(a.renew(Some(first.term)).await.unwrap_err().is_lost());
    assert!(a.release(first.term).await.unwrap_err().is_lost());
    assert_eq!(b.snapshot().await.unwrap().leader.clone().unwrap().term, second.term);
    b.release(second.term).await.unwrap();
}

pub(super) async fn leases_end_and_renewals_keep_them(bench: &impl Bench) {
    let (a, b) = (bench.member("a", TTL).await, bench.member("b", TTL).await);
    let held = a.acquire_leader(None).await.unwrap();
    a.write_member(&document("running")).await.unwrap();
    b.write_member(&document("running")).await.unwrap();
    for _ in 0..4 {
        bench.pass(TTL / 2).await;
        a.renew(Some(held.term)).await.unwrap();
        b.renew(None).await.unwrap();
    }
    assert_eq!(a.snapshot().await.unwrap().members.len(), 2);

    let mut sight = b.watch();
    for _ in 0..8 {
        bench.pass(TTL / 2).await;
        b.renew(None).await.unwrap();
    }
    await_sight(&mut sight, |snapshot| snapshot.leader.is_none(), "the leader key is gone").await;
    let snapshot = b.snapshot().await.unwrap();
    assert!(!snapshot.members.contains_key("a") && snapshot.members.contains_key("b"));
    assert!(a.renew(Some(held.term)).await.unwrap_err().is_lost());
    let renewal = a.renew(None).await.unwrap();
    assert!(!renewal.snapshot.members.contains_key("a"), "a new lease brings no keys back");
    a.write_member(&document("running")).await.unwrap();
    assert!(b.snapshot().await.unwrap().members.contains_key("a"));
}

pub(super) async fn a_restarted_agent_adopts_its_lease(bench: &impl Bench) {
    let a = bench.member("a", TTL).await;
    assert_eq!(a.adopt().await.unwrap(), None);
    let held = a.acquire_leader(None).await.unwrap();
    drop(a);
    let a = bench.member("a", TTL).await;
    let b = bench.member("b", TTL).await;
    assert_eq!(b.adopt().await.unwrap(), None);
    let before = bench.now();
    let adopted = a.adopt().await.unwrap().expect("its own key");
    assert_eq!(adopted.term, held.term);
    assert!(adopted.lease.sent_at >= before);
    for _ in 0..4 {
        bench.pass(TTL / 2).await;
        a.renew(Some(held.term)).await.unwrap();
    }
    assert_eq!(a.acquire_leader(None).await.unwrap().term, held.term);
    a.release(held.term).await.unwrap();
    assert_eq!(a.adopt().await.unwrap(), None);
}

pub(super) async fn a_changed_ttl_keeps_the_term(bench: &impl Bench) {
    let a = bench.member("a", TTL).await;
    let held = a.acquire_leader(None).await.unwrap();
    a.write_member(&document("running")).await.unwrap();
    a.set_ttl(TTL * 4);
    let renewal = a.renew(Some(held.term)).await.unwrap();
    assert!(renewal.lease.ttl >= TTL * 4);
    assert_eq!(renewal.snapshot.leader.as_ref().unwrap().term, held.term);
    bench.pass(TTL * 2).await;
    let snapshot = a.renew(Some(held.term)).await.unwrap().snapshot;
    assert!(snapshot.members.contains_key("a"), "the member key moved to the new lease");
}

pub(super) async fn shared_keys_are_swapped(bench: &impl Bench) {
    let (a, b) = (bench.member("a", TTL).await, bench.member("b", TTL).await);
    let empty = a.create_initialize().await.unwrap();
    assert!(b.create_initialize().await.unwrap_err().is_lost());
    let snapshot = b.snapshot().await.unwrap();
    assert_eq!(snapshot.initialize, Some(Versioned { value: String::new(), revision: empty }));
    let finished = a.finish_initialize(Some(empty), "7575028021385175078").await.unwrap();
    assert_ne!(finished, empty);
    assert!(b.finish_initialize(Some(empty), "1").await.unwrap_err().is_lost());

    let config = json!({"ttl": 5, "loop_wait": 1, "retry_timeout": 2, "mine": {"kept": true}});
    let config = config.as_object().unwrap();
    let written = a.write_config(None, config).await.unwrap();
    assert!(b.write_config(None, config).await.unwrap_err().is_lost());
    let snapshot = b.snapshot().await.unwrap();
    assert_eq!(snapshot.config.as_ref().map(|config| config.revision), written);
    assert_eq!(snapshot.config.as_ref().unwrap().value.document, *config);

    let asked = FailoverDocument { leader: Some("a".to_owned()), ..FailoverDocument::default() };
    let asked = b.write_failover(None, Some(&asked)).await.unwrap();
    assert!(a.write_failover(None, None).await.unwrap_err().is_lost(), "absent was expected");
    assert_eq!(a.write_failover(asked, None).await.unwrap(), None);
    assert_eq!(a.snapshot().await.unwrap().failover, None);
}

pub(super) async fn an_unfinished_bootstrap_dies_with_its_member(bench: &impl Bench) {
    let (a, b) = (bench.member("a", TTL).await, bench.member("b", TTL).await);
    a.create_initialize().await.unwrap();
    let mut sight = b.watch();
    bench.pass(TTL * 3).await;
    await_sight(&mut sight, |snapshot| snapshot.initialize.is_none(), "the empty key is gone").await;
    let empty = b.create_initialize().await.unwrap();
    b.finish_initialize(Some(empty), "42").await.unwrap();
    bench.pass(TTL * 3).await;
    assert_eq!(
        a.snapshot().await.unwrap().initialize.as_ref().unwrap().value,
        "42",
        "the finished one stays"
    );
}

pub(super) async fn only_the_leader_writes_what_is_the_leaders(bench: &impl Bench) {
    let (a, b) = (bench.member("a", TTL).await, bench.member("b", TTL).await);
    let held = a.acquire_leader(None).await.unwrap();
    let status = StatusDocument { optime: Lsn(7), ..StatusDocument::default() };
    a.write_status(held.term, &status).await.unwrap();
    assert!(b.write_status(held.term, &status).await.unwrap_err().is_lost());
    let sync = SyncDocument::new("a", ["b"], 0);
    let revision = a.write_sync(held.term, None, &sync).await.unwrap();
    assert!(b.write_sync(held.term, revision, &sync).await.unwrap_err().is_lost());
    let snapshot = b.snapshot().await.unwrap();
    assert_eq!(snapshot.status.as_ref().unwrap().value, status);
    assert!(snapshot.is_synchronous(&"b".parse().unwrap()));
    assert_eq!(snapshot.sync_revision(), revision);

    a.release(held.term).await.unwrap();
    assert!(a.write_status(held.term, &status).await.unwrap_err().is_lost());
    assert!(a.write_sync(held.term, revision, &sync).await.unwrap_err().is_lost());
    assert!(b.acquire_leader(None).await.unwrap_err().is_lost(), "has not seen `sync`");
    b.acquire_leader(revision).await.unwrap();
}

pub(super) async fn watchers_see_every_kind_of_change(bench: &impl Bench) {
    let (a, b) = (bench.member("a", TTL).await, bench.member("b", TTL).await);
    let mut sight = b.watch();
    await_sight(&mut sight, |_| true, "the first contents").await;
    let held = a.acquire_leader(None).await.unwrap();
    await_sight(&mut sight, |snapshot| snapshot.leader.is_some(), "a leader").await;
    a.write_member(&document("starting")).await.unwrap();
    let member: MemberName = "a".parse().unwrap();
    await_sight(&mut sight, |snapshot| snapshot.members.contains_key(&member), "a member").await;
    a.write_member(&document("running")).await.unwrap();
    let running = |snapshot: &Snapshot| snapshot.members.get(&member) == Some(&document("running"));
    await_sight(&mut sight, running, "its new state").await;
    let begun = Instant::now();
    a.release(held.term).await.unwrap();
    await_sight(&mut sight, |snapshot| snapshot.leader.is_none(), "no leader").await;
    assert!(begun.elapsed() < Duration::from_secs(1), "seen as an event, not by a timer");
    a.delete_member().await.unwrap();
    await_sight(&mut sight, |snapshot| snapshot.members.is_empty(), "no member").await;
}

pub(super) async fn a_mark_lives_as_long_as_its_own_lease(bench: &impl Bench) {
    let a = bench.member("a", TTL).await;
    let held = a.acquire_leader(None).await.unwrap();
    let mut sight = a.watch();
    let mark = MaintenanceMark { by: "a run".to_owned(), drain: true, ..MaintenanceMark::default() };
    bench.mark(&mark, TTL).await;
    let name: MemberName = "a".parse().unwrap();
    await_sight(&mut sight, |snapshot| snapshot.is_drained(&name), "the mark").await;
    a.renew(Some(held.term)).await.unwrap();
    assert_eq!(a.snapshot().await.unwrap().maintenance[&name], mark);
    for _ in 0..6 {
        bench.pass(TTL / 2).await;
        a.renew(Some(held.term)).await.unwrap();
    }
    await_sight(&mut sight, |snapshot| snapshot.maintenance.is_empty(), "the end of the mark").await;
    a.renew(Some(held.term)).await.unwrap();
}

struct InMemory {
    server: MemoryServer,
    time: Arc<AtomicU64>,
}

impl InMemory {
    fn new() -> Self {
        let time = Arc::new(AtomicU64::new(1_000));
        let clock = Arc::clone(&time);
        Self { server: MemoryServer::new(Arc::new(move || BootTime(clock.load(Ordering::SeqCst)))), time }
    }
}

impl Bench for InMemory {
    type Store = Memory;

    async fn member(&self, name: &str, ttl: Duration) -> Memory {
        Memory::new(&self.server, name.parse().unwrap(), ttl)
    }

    async fn pass(&self, time: Duration) {
        self.time.fetch_add(time.as_millis() as u64, Ordering::SeqCst);
        self.server.expire();
    }

    async fn mark(&self, mark: &MaintenanceMark, ttl: Duration) {
        self.server.edit_leased("maintenance/a", &to_json(mark), ttl);
    }

    fn now(&self) -> BootTime {
        BootTime(self.time.load(Ordering::SeqCst))
    }
}

macro_rules! in_memory {
    ($($test:ident),* $(,)?) => { mod memory { $(
        #[tokio::test]
        async fn $test() {
            super::$test(&super::InMemory::new()).await;
        }
    )* } };
}

in_memory! {
    one_leader_per_term,
    leases_end_and_renewals_keep_them,
    a_restarted_agent_adopts_its_lease,
    a_changed_ttl_keeps_the_term,
    shared_keys_are_swapped,
    an_unfinished_bootstrap_dies_with_its_member,
    only_the_leader_writes_what_is_the_leaders,
    watchers_see_every_kind_of_change,
    a_mark_lives_as_long_as_its_own_lease,
}

#[tokio::test]
async fn a_lost_answer_is_not_a_loss() {
    let bench = InMemory::new();
    let a = bench.member("a", TTL).await;
    let name: MemberName = "a".parse().unwrap();
    bench.server.set_fault(&name, Some(Fault::RepliesLost));
    assert!(matches!(a.acquire_leader(None).await, Err(Failure::Unreachable(_))));
    bench.server.set_fault(&name, None);
    let held = a.acquire_leader(None).await.unwrap();
    bench.server.set_fault(&name, Some(Fault::Cut));
    assert!(matches!(a.renew(Some(held.term)).await, Err(Failure::Unreachable(_))));
}
