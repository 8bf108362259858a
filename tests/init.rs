//! `pgfleet init` as a person meets it: from flags, and by questions at a terminal.

use expectrl::{Expect, session::Session};
use pgfleet::inventory::Inventory;
use std::{path::Path, process::Command, time::Duration};

fn command(file: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pgfleet"));
    command.arg("init").arg(file).env("NO_COLOR", "1").env("TERM", "dumb");
    command
}

fn load(file: &Path) -> Inventory {
    Inventory::inspect(file, &[]).unwrap_or_else(|wrong| panic!("{wrong}"))
}

#[test]
fn flags_become_an_inventory() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("inventory.yml");
    let words = "--name files --user admin --postgres a=10.0.0.1,b=10.0.0.2 --etcd a,b,quorum=10.0.0.3 --vip 10.0.0.100/24";
    let status = command(&file).args(words.split(' ')).status().expect("it starts");
    assert!(status.success());
    let inventory = load(&file);
    assert_eq!(inventory.cluster.as_str(), "files");
    assert_eq!(inventory.write_endpoints(), ["10.0.0.100:5000"]);
    assert_eq!(inventory.dcs_endpoints().len(), 3);
    let again = command(&file).args(["--postgres", "10.0.0.9"]).status().expect("it starts");
    assert_eq!(again.code(), Some(2), "an existing file is not written over");
    assert_eq!(load(&file).hosts.len(), 3);
}

#[test]
fn questions_become_an_inventory() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("inventory.yml");
    let mut terminal = Session::spawn(command(&file)).expect("a terminal");
    terminal.set_expect_timeout(Some(Duration::from_secs(20)));
    let answers = [
        ("Name of the cluster", "orders"),
        ("Hosts of PostgreSQL", "10.0.0.1, two=10.0.0.2"),
        ("Members of etcd", "10.0.0.1,two"),
        ("even", "10.0.0.1,two,10.0.0.3"),
        ("Hosts of HAProxy", "10.0.0.4"),
        ("User that SSH logs in as", ""),
    ];
    for (question, answer) in answers {
        terminal.expect(question).unwrap_or_else(|error| panic!("{question}: {error}"));
        // A refused answer stays in the line.
        let line = if question == "even" { format!("\x15{answer}\r") } else { format!("{answer}\r") };
        terminal.send(line.as_bytes()).expect("somebody reads");
    }
    terminal.expect("Does a commit wait").expect("the last question");
    terminal.send("\r").expect("somebody reads");
    terminal.expect("Wrote").expect("the end");
    let inventory = load(&file);
    assert_eq!(inventory.cluster.as_str(), "orders");
    assert_eq!(
        inventory.hosts.keys().map(|name| name.as_str()).collect::<Vec<_>>(),
        ["pg-1", "two", "etcd-3", "haproxy-1"]
    );
}
