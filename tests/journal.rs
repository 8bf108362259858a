//! The deploy lock, the history and the kept inventory in a real etcd, reached through a real sshd.

use crate::ssh::sshd::{Setup, Sshd, free_port};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use pgfleet::{
    cluster::{Do, Kv},
    inventory::Inventory,
    journal::{
        self, Author, Ended, Holder, Intent, Journal, NoLock, Process, Unlocked,
        desired::{self, Secrets},
        history::{self, Changes, Entry, Outcome},
    },
    model::Scope,
    ssh::Options,
};
use std::{
    fs,
    net::TcpStream,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};
use tokio_util::sync::CancellationToken;

/// Long enough for a machine that builds something else meanwhile.
const PATIENCE: Duration = Duration::from_secs(60);

/// One etcd, the host that it runs on, and an inventory of them.
struct World {
    etcd: Child,
    sshd: Sshd,
    folder: tempfile::TempDir,
}

impl World {
    fn start() -> Self {
        let sshd = Sshd::start(&Setup::default());
        let folder = tempfile::tempdir().expect("a folder");
        let (client, peer) = (free_port(), free_port());
        let url = |port: u16| format!("http://127.0.0.1:{port}");
        let etcd = Command::new("etcd")
            .arg("--data-dir")
            .arg(folder.path().join("etcd"))
            .args(["--listen-client-urls", &url(client), "--advertise-client-urls", &url(client)])
            .args(["--listen-peer-urls", &url(peer), "--initial-advertise-peer-urls", &url(peer)])
            .args(["--initial-cluster", &format!("default={}", url(peer)), "--log-level", "error"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("etcd cannot be run: install the package etcd-server");
        let inventory = format!(
            "all:\n  vars: {{cluster_name: demo, tls: false, ansible_user: root, ansible_port: {}, etcd_client_port: {client}}}\n  \
             children:\n    etcd: {{hosts: {{one: {{ansible_host: 127.0.0.1}}}}}}\n    postgres: {{hosts: {{one: }}}}\n",
            sshd.port
        );
        fs::write(folder.path().join("demo.yml"), inventory).expect("written");
        let deadline = Instant::now() + PATIENCE;
        while TcpStream::connect(("127.0.0.1", client)).is_err() {
            assert!(Instant::now() < deadline, "etcd does not listen");
            std::thread::sleep(Duration::from_millis(20));
        }
        Self { etcd, sshd, folder }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("demo.yml")
    }

    fn inventory(&self) -> Inventory {
        Inventory::load(&self.path(), &[]).unwrap_or_else(|wrong| panic!("{wrong}"))
    }

    fn options(&self) -> Options {
        self.sshd.options()
    }

    async fn kv(&self) -> Kv {
        journal::store(&self.inventory(), &self.options())
            .await
            .expect("no TLS")
            .expect("the inventory has etcd")
    }

    async fn history(&self) -> Vec<Entry> {
        history::list(&self.kv().await, &demo()).await.expect("an answer")
    }

    async fn begin(&self, holder: &Holder, with: Begin) -> Result<(Journal, CancellationToken), NoLock> {
        let stop = CancellationToken::new();
        let intent = Intent {
            holder,
            wait: with.wait,
            applies: with.applies,
            other_secrets: false,
            stop: stop.clone(),
            waits_for: &|_| {},
        };
        let journal = Journal::begin(&self.inventory(), &self.options(), &intent).await?;
        assert_eq!(journal.unlocked, None);
        Ok((journal, stop))
    }

    fn signal_etcd(&self, signal: Signal) {
        kill(Pid::from_raw(self.etcd.id().cast_signed()), signal).expect("it is ours");
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = self.etcd.kill();
        let _ = self.etcd.wait();
    }
}

#[derive(Clone, Copy, Default)]
struct Begin {
    wait: Duration,
    applies: bool,
}

fn demo() -> Scope {
    "demo".parse().expect("a name")
}

fn by(user: &str, machine: &str, command: &str) -> Holder {
    let who = Author { user: user.to_owned(), machine: machine.to_owned() };
    Holder { who, process: None, ..Holder::new(command) }
}

fn changed(host: &str, step: &str) -> Ended {
    let changes = Changes { count: 1, steps: vec![step.to_owned()] };
    let hosts = [(host.to_owned(), changes)].into_iter().collect();
    Ended { outcome: Outcome::Done, hosts, remarks: Vec::new(), applied: false }
}

fn nothing() -> Ended {
    Ended { hosts: Default::default(), ..changed("", "") }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_run_at_a_time_and_the_others_are_told_who() {
    let world = World::start();
    let (alice, bob) = (by("alice", "laptop", "apply"), by("bob", "ci", "bootstrap"));
    let (first, stop) = world.begin(&alice, Begin::default()).await.expect("nobody else");
    assert_eq!(world.history().await[0].outcome, Outcome::Running);

    let refused = world.begin(&bob, Begin::default()).await.err().expect("it is taken");
    let said = refused.to_string();
    let expected =
        format!("alice@laptop runs `pgfleet apply` since {:.0} on the cluster `demo`", alice.since);
    assert_eq!(said, expected);
    assert!(refused.next_steps().concat().contains("--wait-lock"), "{refused:?}");

    let waiting = Begin { wait: PATIENCE, ..Begin::default() };
    let end = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        first.finish(changed("pg-1", "Write the file")).await
    };
    let (second, warnings) = tokio::join!(world.begin(&bob, waiting), end);
    assert_eq!(warnings, [""; 0]);
    assert!(!stop.is_cancelled());
    // It changes nothing, and leaves nothing behind.
    assert_eq!(second.expect("its turn").0.finish(nothing()).await, [""; 0]);
    let history = world.history().await;
    assert_eq!(history.len(), 1, "{history:#?}");
    assert_eq!((&history[0].who, history[0].outcome, history[0].changed()), (&alice.who, Outcome::Done, 1));
    assert!(history[0].ended.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_died_loses_its_lock_by_itself() {
    let world = World::start();
    let (dead, next) = (by("alice", "laptop", "apply"), by("bob", "ci", "apply"));
    // Dropped as if the machine were gone: nobody keeps the lease alive, nobody gives it back.
    drop(world.begin(&dead, Begin::default()).await.expect("nobody else"));
    assert!(world.begin(&next, Begin::default()).await.is_err(), "the lease still lasts");
    let waiting = Begin { wait: PATIENCE, ..Begin::default() };
    let (journal, _) = world.begin(&next, waiting).await.expect("the lease ends");
    // Both began in the same second, whose order is by chance.
    let fates = |history: Vec<Entry>| {
        ["alice", "bob"]
            .map(|user| history.iter().find(|entry| entry.who.user == user).map(|entry| entry.outcome))
    };
    assert_eq!(fates(world.history().await), [Some(Outcome::Died), Some(Outcome::Running)]);
    journal.finish(changed("pg-1", "Write the file")).await;
    assert_eq!(fates(world.history().await), [Some(Outcome::Died), Some(Outcome::Done)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_was_killed_here_is_given_again_without_more_ado() {
    let world = World::start();
    let mut killed = Command::new("sleep").arg("600").spawn().expect("started");
    let process = Process::of(killed.id());
    assert!(process.is_some(), "Linux tells");
    let (dead, next) = (Holder { process, ..by("alice", "laptop", "apply") }, by("alice", "laptop", "apply"));
    drop(world.begin(&dead, Begin::default()).await.expect("nobody else"));
    assert!(world.begin(&next, Begin::default()).await.is_err(), "it still runs");
    killed.kill().expect("it is ours");
    killed.wait().expect("it has ended");
    world.begin(&next, Begin::default()).await.expect("its turn");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_whose_lock_is_broken_stops() {
    let world = World::start();
    let (journal, stop) = world.begin(&by("alice", "laptop", "apply"), Begin::default()).await.expect("free");
    let kv = world.kv().await;
    let (holder, lease) = journal::holder(&kv, &demo()).await.expect("an answer").expect("somebody");
    journal::unlock(&kv, (&holder, lease)).await.expect("an answer");
    tokio::time::timeout(PATIENCE, stop.cancelled()).await.expect("it notices");
    assert!(journal.lost().is_some_and(|why| why.contains("broke")), "{:?}", journal.lost());

    // Another takes over before the first has written its end; the lock stays the other's.
    let other = by("bob", "ci", "apply");
    let (second, _) = world.begin(&other, Begin::default()).await.expect("it is free");
    journal.finish(changed("pg-1", "Write the file")).await;
    let (holder, _) = journal::holder(&kv, &demo()).await.expect("an answer").expect("somebody");
    assert_eq!(holder, other);
    assert_eq!(world.history().await[0].outcome, Outcome::Locked);
    second.finish(nothing()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_cannot_reach_the_store_stops_before_another_may_begin() {
    let world = World::start();
    let (journal, stop) = world.begin(&by("alice", "laptop", "apply"), Begin::default()).await.expect("free");
    world.signal_etcd(Signal::SIGSTOP);
    let since = Instant::now();
    tokio::time::timeout(PATIENCE, stop.cancelled()).await.expect("it notices");
    assert!(since.elapsed() < Duration::from_secs(15), "after {:?}", since.elapsed());
    assert!(journal.lost().is_some_and(|why| why.contains("not confirmed")), "{:?}", journal.lost());
    let warnings = journal.finish(nothing()).await;
    assert!(warnings.concat().contains("etcd does not answer"), "{warnings:?}");
    // A run that begins now is not kept by it.
    let stop = CancellationToken::new();
    let holder = by("bob", "ci", "apply");
    let intent = Intent {
        holder: &holder,
        wait: Duration::ZERO,
        applies: false,
        other_secrets: false,
        stop,
        waits_for: &|_| {},
    };
    let journal = Journal::begin(&world.inventory(), &world.options(), &intent).await.expect("it goes on");
    assert!(matches!(journal.unlocked, Some(Unlocked::Away(_))), "{:?}", journal.unlocked);
    world.signal_etcd(Signal::SIGCONT);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_inventory_is_kept_and_adopted_elsewhere() {
    let world = World::start();
    // This machine's memory of versions is the test's own.
    // SAFETY: no other thread of this process reads the environment now.
    unsafe { std::env::set_var("XDG_STATE_HOME", world.folder.path().join("state")) };
    let applies = Begin { applies: true, ..Begin::default() };
    let applied = || Ended { applied: true, ..changed("one", "Write the file") };
    let alice = by("alice", "laptop", "apply");
    let (journal, _) = world.begin(&alice, applies).await.expect("free");
    assert_eq!(journal.finish(applied()).await, [""; 0]);

    let kv = world.kv().await;
    let kept = desired::fetch(&kv, None).await.expect("an answer");
    let [(cluster, stored)] = &kept[..] else { panic!("{kept:?}") };
    assert_eq!((cluster, &stored.who, &stored.secrets), (&demo(), &alice.who, &stored.secrets));
    assert!(matches!(stored.secrets, Secrets::Apart { .. }), "it is not sealed");
    let everything = kv.read(&[Do::All("/pgfleet/")]).await.expect("an answer");
    for secret in world.inventory().secrets() {
        let holds = |bytes: &[u8]| {
            bytes.windows(secret.expose().len()).any(|part| part == secret.expose().as_bytes())
        };
        assert!(!everything.iter().any(|pair| holds(&pair.value)), "a password is in etcd");
    }

    // Elsewhere: without the passwords nothing can be changed, with them everything.
    let there = tempfile::tempdir().expect("a folder");
    let path = stored.unpack(there.path()).expect("written");
    desired::adopted(stored, &path);
    assert_eq!(fs::read_to_string(&path).unwrap(), fs::read_to_string(world.path()).unwrap());
    let adopted = Inventory::load(&path, &[]).unwrap_or_else(|wrong| panic!("{wrong}"));
    let bob = by("bob", "ci", "apply");
    let stop = CancellationToken::new();
    let intent = Intent {
        holder: &bob,
        wait: Duration::ZERO,
        applies: true,
        other_secrets: false,
        stop,
        waits_for: &|_| {},
    };
    let refused = Journal::begin(&adopted, &world.options(), &intent).await.err().expect("other passwords");
    assert!(
        matches!(&refused, NoLock::ForeignSecrets { file, .. } if file == "demo.secrets.yml"),
        "{refused}"
    );
    assert_eq!(journal::holder(&kv, &demo()).await.expect("an answer"), None, "it gave the lock back");
    fs::copy(world.folder.path().join("demo.secrets.yml"), there.path().join("demo.secrets.yml")).unwrap();
    let adopted = Inventory::load(&path, &[]).unwrap_or_else(|wrong| panic!("{wrong}"));
    let journal = Journal::begin(&adopted, &world.options(), &intent).await.expect("the same passwords");
    assert_eq!(journal.warnings, [""; 0]);
    journal.finish(nothing()).await;

    // Bob changes it and applies; what Alice has is now older, and she is told.
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replace("vars: {", "vars: {postgres_port: 6000, ")).unwrap();
    let changed = Inventory::load(&path, &[]).unwrap_or_else(|wrong| panic!("{wrong}"));
    let journal =
        Journal::begin(&changed, &world.options(), &intent).await.expect("derived from the kept one");
    assert_eq!(journal.warnings, [""; 0]);
    journal.finish(applied()).await;
    let (journal, _) = world.begin(&alice, applies).await.expect("free");
    let [warning] = &journal.warnings[..] else { panic!("{:?}", journal.warnings) };
    assert!(warning.contains("is older than") && warning.contains("by bob@ci"), "{warning}");
    journal.finish(nothing()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_runs_are_remembered() {
    let world = World::start();
    let kv = world.kv().await;
    let surplus = 230;
    for number in 0..surplus {
        let key = format!("/pgfleet/demo/history/20000101-000000-{number:04}");
        kv.read(&[Do::Put(&key, b"{}")]).await.expect("an answer");
    }
    let (journal, _) = world.begin(&by("alice", "laptop", "apply"), Begin::default()).await.expect("free");
    journal.finish(changed("pg-1", "Write the file")).await;
    let left = kv.read(&[Do::Names("/pgfleet/demo/history/")]).await.expect("an answer");
    assert_eq!(left.len(), history::KEPT);
    assert!(left.last().is_some_and(|pair| !pair.key.contains("/20000101-")), "the latest is there");
    assert!(left[0].key.ends_with("0031"), "{}", left[0].key);
}
