//! Runs that look ahead, with real hands on directory trees.

use crate::plan::world::hands;
use pgfleet::{
    engine::{Engine, Event, Mask, Options, Report},
    inventory::{Host, Inventory},
    playbook::{Playbook, Sources},
    remote::protocol::Mode,
    ssh::{self, Executables},
    template::Templates,
};
use std::{collections::BTreeSet, fs, path::PathBuf, sync::Arc};
use tokio_util::sync::CancellationToken;

const INVENTORY: &str = "\
all:
  vars: {cluster_name: demo, tls: false}
  children:
    etcd: {hosts: {store: {ansible_host: 10.0.0.1}}}
    postgres: {hosts: {one: {ansible_host: 10.0.0.2}, two: {ansible_host: 10.0.0.3}}}
";

const PLAYBOOK: &str = "\
- name: All
  hosts: all
  tasks:
    - copy: {dest: /srv/first, content: first}
- name: The store
  hosts: etcd
  tasks:
    - command: echo heard
      register: said
      changed_when: false
    - copy: {dest: /srv/store, content: store}
- name: The servers
  hosts: postgres
  serial: 1
  tasks:
    - when: not ansible_check_mode
      copy: {dest: /srv/server, content: server}
- name: What was heard
  hosts: etcd
  tasks:
    - copy: {dest: /srv/heard, content: '{{ said.stdout }}'}
";

struct Trees(tempfile::TempDir);

impl Trees {
    fn new() -> Self {
        let trees = Trees(tempfile::tempdir().expect("a folder"));
        for host in ["store", "one", "two"] {
            fs::create_dir_all(trees.path(host, "srv")).expect("a folder");
        }
        fs::write(trees.0.path().join("demo.yml"), INVENTORY).expect("written");
        trees
    }

    fn path(&self, host: &str, path: &str) -> PathBuf {
        self.0.path().join(host).join(path)
    }

    /// The report, and the plays that were told of.
    async fn apply(&self, playbook: &str) -> (Report, Vec<String>) {
        let file = self.0.path().join("playbook.yml");
        fs::write(&file, playbook).expect("written");
        let playbook = Playbook::load(file.to_str().expect("UTF-8"), &Sources::default())
            .unwrap_or_else(|wrong| panic!("{wrong}"));
        let inventory = Inventory::inspect(&self.0.path().join("demo.yml"), &[])
            .unwrap_or_else(|wrong| panic!("{wrong}"));
        let mut templates = Templates::new(Vec::new()).expect("an environment");
        templates.share(&inventory.global_variables()).expect("shared variables");
        let options = Options {
            mode: Mode::Apply,
            diff: false,
            overwrite_drift: false,
            limit: None,
            vars: serde_json::Map::new(),
            tags: Vec::new(),
            skip_tags: Vec::new(),
            forks: 10,
            ssh: ssh::Options::default(),
            executables: Executables::own().expect("this program"),
            purpose: None,
        };
        let (sink, mut events) = tokio::sync::mpsc::unbounded_channel();
        let engine = Engine {
            inventory: &inventory,
            templates: &templates,
            options: Arc::new(options),
            sink,
            mask: Mask::new(inventory.secrets()),
            cancel: CancellationToken::new(),
        };
        let folder = self.0.path();
        let report = engine.run_through(&playbook, async |host: &Host| hands(folder, host).await).await;
        drop(engine);
        let mut told = Vec::new();
        while let Ok(event) = events.try_recv() {
            if let Event::PlayStarted { name, hosts } = event {
                let hosts: Vec<_> = hosts.iter().map(|host| host.as_str()).collect();
                told.push(format!("{name}: {}", hosts.join(" ")));
            }
        }
        (report.unwrap_or_else(|wrong| panic!("{wrong}")), told)
    }
}

fn changed(report: &Report) -> BTreeSet<String> {
    assert!(report.succeeded(), "{:?}", report.failures);
    let changes = |(host, tally): (&pgfleet::model::HostName, &pgfleet::engine::Tally)| {
        let host = host.clone();
        tally.changes.iter().map(move |change| format!("{host}: {}", change.play)).collect::<Vec<_>>()
    };
    report.hosts.iter().flat_map(changes).collect()
}

fn looked_at(report: &Report) -> Vec<usize> {
    report.hosts.values().map(|tally| tally.unchanged + tally.skipped + tally.changes.len()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn plays_in_which_nothing_differs_are_over_with_one_look() {
    let trees = Trees::new();
    let (first, _) = trees.apply(PLAYBOOK).await;
    let everything = [
        "one: All",
        "one: The servers",
        "store: All",
        "store: The store",
        "store: What was heard",
        "two: All",
        "two: The servers",
    ];
    assert_eq!(changed(&first), everything.map(str::to_owned).into());
    assert_eq!(fs::read_to_string(trees.path("store", "srv/heard")).expect("read"), "heard");

    let (second, told) = trees.apply(PLAYBOOK).await;
    assert_eq!(changed(&second), BTreeSet::new());
    assert_eq!(looked_at(&second), looked_at(&first));
    assert_eq!(
        told,
        ["All: store one two", "The store: store", "The servers: one two", "What was heard: store"]
    );

    // A task that only a run carries out is seen by a run that looks ahead; what was registered before it holds after.
    for gone in [("two", "srv/server"), ("store", "srv/heard")] {
        fs::remove_file(trees.path(gone.0, gone.1)).expect("it was there");
    }
    let (third, told) = trees.apply(PLAYBOOK).await;
    assert_eq!(changed(&third), ["store: What was heard", "two: The servers"].map(str::to_owned).into());
    assert_eq!(looked_at(&third), looked_at(&first));
    assert_eq!(fs::read_to_string(trees.path("store", "srv/heard")).expect("read"), "heard");
    assert_eq!(told.last().map(String::as_str), Some("What was heard: store"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_look_cannot_decide_is_carried_out() {
    let trees = Trees::new();
    let watch = "- hosts: etcd\n  tasks:\n    - {name: It holds, command: test -e /no/such/file, changed_when: false}\n";
    let (report, _) = trees.apply(watch).await;
    let failed: Vec<_> = report.failures.iter().map(|failure| failure.step.as_str()).collect();
    assert_eq!(failed, ["It holds"], "a command that only looks fails all the same");
}
